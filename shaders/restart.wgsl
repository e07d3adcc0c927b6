// Zeroes the moments of vectors in place, element e of vector v is at v * line + e * stride, and starts their counters:
// counters [2, vectors] are "since" and "frozen until". One invocation to an element; the elements of a row, or the listed
// columns in a row, are neighbours.

@group(0) @binding(0) var<storage, read_write> exp_avg: array<f32>;
@group(0) @binding(1) var<storage, read_write> exp_avg_sq: array<f32>;
@group(0) @binding(2) var<storage, read_write> counters: array<i32>;

struct Params {
    count: u32,
    length: u32,
    line: u32,
    stride: u32,
    // Of the whole parameter.
    vectors: u32,
    since: u32,
    until: u32,
    zero1: u32,
    list: array<vec4<u32>, {{ CAPACITY }}>,
}
@group(0) @binding(3) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if (unit >= params.count * params.length) {
        return;
    }
    {% if BY_COLUMN == 1 -%}
    let j = unit % params.count;
    let e = unit / params.count;
    {% else -%}
    let j = unit / params.length;
    let e = unit % params.length;
    {% endif -%}
    let vector = params.list[j / 4u][j % 4u];
    let at = vector * params.line + e * params.stride;
    exp_avg[at] = 0.0;
    exp_avg_sq[at] = 0.0;
    if (e == 0u) {
        counters[vector] = bitcast<i32>(params.since);
        counters[params.vectors + vector] = bitcast<i32>(params.until);
    }
}
