// Exchanges vectors of a factor with rows of a pool [_, length]: all leave to their rows before any comes in.
// difference [count, length] is what left minus what came. A way is (vector, from, to): the vector leaves to pool row
// `from`, pool row `to` takes its place.
//
// Element e of vector i is factor[i * line + e * stride]. One invocation to an element of all vectors, so no order
// between invocations matters.

@group(0) @binding(0) var<storage, read_write> factor: array<f32>;
@group(0) @binding(1) var<storage, read_write> pool: array<f32>;
@group(0) @binding(2) var<storage, read_write> difference: array<f32>;

struct Params {
    count: u32,
    length: u32,
    line: u32,
    stride: u32,
    ways: array<vec4<u32>, {{ CAPACITY }}>,
}
@group(0) @binding(3) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let e = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if (e >= params.length) {
        return;
    }
    for (var j = 0u; j < params.count; j++) {
        let way = params.ways[j];
        let leaving = factor[way.x * params.line + e * params.stride];
        difference[j * params.length + e] = leaving;
        pool[way.y * params.length + e] = leaving;
    }
    for (var j = 0u; j < params.count; j++) {
        let way = params.ways[j];
        let coming = pool[way.z * params.length + e];
        difference[j * params.length + e] -= coming;
        factor[way.x * params.line + e * params.stride] = coming;
    }
}
