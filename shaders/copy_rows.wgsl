// cache[at + i] = rows[i], element by element. VEC elements to an invocation; `at` counts vectors.

@group(0) @binding(0) var<storage, read_write> rows: array<{{ "vec4<f32>" if VEC == 4 else "f32" }}>;
@group(0) @binding(1) var<storage, read_write> cache: array<{{ "vec4<f32>" if VEC == 4 else "f32" }}>;

struct Params { vectors: u32, at: u32 }
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if i < params.vectors {
        cache[params.at + i] = rows[i];
    }
}
