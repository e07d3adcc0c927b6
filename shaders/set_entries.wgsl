// x[entry] = value for the listed entries. One invocation to an entry.

@group(0) @binding(0) var<storage, read_write> x: array<i32>;

struct Params {
    count: u32,
    // The bits of an i32.
    value: u32,
    zero1: u32,
    zero2: u32,
    entries: array<vec4<u32>, {{ CAPACITY }}>,
}
@group(0) @binding(1) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let j = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if (j >= params.count) {
        return;
    }
    x[params.entries[j / 4u][j % 4u]] = bitcast<i32>(params.value);
}
