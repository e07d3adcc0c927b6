// Zeroes vectors of x in place: element e of vector v is x[v * line + e * stride]. One invocation to an element; the elements
// of a row, or the listed columns in a row, are neighbours.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;

struct Params {
    count: u32,
    length: u32,
    line: u32,
    stride: u32,
    vectors: array<vec4<u32>, {{ CAPACITY }}>,
}
@group(0) @binding(1) var<storage, read> params: Params;

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
    x[params.vectors[j / 4u][j % 4u] * params.line + e * params.stride] = 0.0;
}
