// acc += rate * factor[0] * x, in place. One invocation to STEPS neighbours; with WIDE they are vec4, and elements counts
// those.

{% set T = "vec4<f32>" if WIDE == 1 else "f32" -%}
@group(0) @binding(0) var<storage, read_write> acc: array<{{ T }}>;
@group(0) @binding(1) var<storage, read_write> factor: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<{{ T }}>;

struct Params { elements: u32, rate: f32 }
@group(0) @binding(3) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = ((group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane) * {{ STEPS }}u;
    let rate = params.rate * factor[0];
    for (var i = first; i < min(first + {{ STEPS }}u, params.elements); i++) {
        acc[i] += rate * x[i];
    }
}
