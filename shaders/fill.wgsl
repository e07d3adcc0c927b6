// x[i] = value. One invocation to four elements.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;

struct Params { elements: u32, value: f32 }
@group(0) @binding(1) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = ((group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane) * 4u;
    for (var i = first; i < min(first + 4u, params.elements); i++) {
        x[i] = params.value;
    }
}
