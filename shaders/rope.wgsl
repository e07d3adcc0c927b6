// Rotates x [rows, HEADS·2·HALF] in place: in each head element i turns with element i + HALF by the angle
// whose cosine and sine [positions, HALF] stand at the row's position; `sign` -1 turns back.
// VEC pairs to an invocation. A position outside the tables leaves its row as it is.
{% set value = "vec4<f32>" if VEC == 4 else "f32" %}
{% set half = HALF // VEC %}
@group(0) @binding(0) var<storage, read_write> x: array<{{ value }}>;
@group(0) @binding(1) var<storage, read_write> positions: array<i32>;
@group(0) @binding(2) var<storage, read_write> cosines: array<{{ value }}>;
@group(0) @binding(3) var<storage, read_write> sines: array<{{ value }}>;

struct Params { items: u32, positions: i32, sign: f32 }
@group(0) @binding(4) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if item >= params.items {
        return;
    }
    let pair = item % {{ half }}u;
    let head = item / {{ half }}u;
    let position = positions[head / {{ HEADS }}u];
    if position < 0 || position >= params.positions {
        return;
    }
    let angle = u32(position) * {{ half }}u + pair;
    let c = cosines[angle];
    let s = params.sign * sines[angle];
    let at = head * {{ 2 * half }}u + pair;
    let low = x[at];
    let high = x[at + {{ half }}u];
    x[at] = low * c - high * s;
    x[at + {{ half }}u] = high * c + low * s;
}
