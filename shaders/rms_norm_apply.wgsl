// y = x·rstd·gain of x [rows, WIDTH] with the rstd [rows] of the forward pass, in its order of operations (a
// compiler that reorders them may round otherwise). VEC elements to an invocation.
{% set value = "vec4<f32>" if VEC == 4 else "f32" %}
{% set width = WIDTH // VEC %}
@group(0) @binding(0) var<storage, read_write> x: array<{{ value }}>;
@group(0) @binding(1) var<storage, read_write> gain: array<{{ value }}>;
@group(0) @binding(2) var<storage, read_write> y: array<{{ value }}>;
@group(0) @binding(3) var<storage, read_write> rstd: array<f32>;

struct Params { vectors: u32 }
@group(0) @binding(4) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if i < params.vectors {
        y[i] = x[i] * rstd[i / {{ width }}u] * gain[i % {{ width }}u];
    }
}
