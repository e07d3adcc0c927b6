// out = x, bit by bit. One invocation to STEPS neighbours; with WIDE they are vec4, and elements counts those.

{% set T = "vec4<u32>" if WIDE == 1 else "u32" -%}
@group(0) @binding(0) var<storage, read_write> x: array<{{ T }}>;
@group(0) @binding(1) var<storage, read_write> out: array<{{ T }}>;

struct Params { elements: u32 }
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = ((group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane) * {{ STEPS }}u;
    for (var i = first; i < min(first + {{ STEPS }}u, params.elements); i++) {
        out[i] = x[i];
    }
}
