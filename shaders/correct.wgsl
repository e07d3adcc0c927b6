// w [rows, width] += scale * (B[:, I] * left_a + left_b^T * A[J, :]) in place: the vectors I of A left and left_a
// [count_a, width] is what left minus what came, so are J of B and left_b [count_b, rows]. place[j].x is a vector, those of
// A first. squares [units] are the sums of the squares of what was added.
//
// One invocation to {{ ROWS }} rows of one column. A column is WIDTH neighbours (1, 2 or 4), and `width` counts those;
// two of them are one 64-bit load, which on drivers that compute on the CPU costs what a load of one does.
// BROADCAST: the 8 invocations of a subgroup have the same rows, and each loads the factors of one for all.

{% set T = {1: "f32", 2: "vec2<f32>", 4: "vec4<f32>"}[WIDTH] -%}
{% set stored = "u64" if WIDTH == 2 else T -%}
@group(0) @binding(0) var<storage, read_write> w: array<{{ stored }}>;
@group(0) @binding(1) var<storage, read_write> a: array<{{ stored }}>;
@group(0) @binding(2) var<storage, read_write> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> left_a: array<{{ stored }}>;
@group(0) @binding(4) var<storage, read_write> left_b: array<f32>;
@group(0) @binding(5) var<storage, read_write> squares: array<f32>;

struct Params {
    rows: u32,
    width: u32,
    rank: u32,
    count_a: u32,
    count_b: u32,
    scale: f32,
    zero1: u32,
    zero2: u32,
    place: array<vec4<u32>, {{ CAPACITY }}>,
}
@group(0) @binding(6) var<storage, read> params: Params;

{% if WIDTH == 2 -%}
fn loaded(pair: u64) -> vec2<f32> {
    return vec2(bitcast<f32>(u32(pair)), bitcast<f32>(u32(pair >> 32u)));
}

fn stored(pair: vec2<f32>) -> u64 {
    return u64(bitcast<u32>(pair.x)) | (u64(bitcast<u32>(pair.y)) << 32u);
}
{%- else -%}
fn loaded(value: {{ T }}) -> {{ T }} {
    return value;
}

fn stored(value: {{ T }}) -> {{ T }} {
    return value;
}
{%- endif %}

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // Read once: a driver that cannot know that a store leaves them alone reads them anew after each.
    let rows = params.rows;
    let width = params.width;
    let rank = params.rank;
    let count_a = params.count_a;
    let count_b = params.count_b;
    let scale = params.scale;
    let unit = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    let block = unit / width;
    let column = unit - block * width;
    let row = block * {{ ROWS }}u;
    if (row >= rows) {
        return;
    }
    // Rows beyond the last are computed as the last and not stored.
    {% for i in range(ROWS) -%}
    let row{{ i }} = min(row + {{ i }}u, rows - 1u);
    var sum{{ i }} = {{ T }}(0.0);
    {% endfor -%}
    {% if BROADCAST -%}
    let own_row = min(row + lane % 8u, rows - 1u);
    {% endif -%}
    for (var j = 0u; j < count_a; j++) {
        let vector = params.place[j].x;
        let right = loaded(left_a[j * width + column]);
        {% if BROADCAST -%}
        let own = b[own_row * rank + vector];
        {% endif -%}
        {% for i in range(ROWS) -%}
        sum{{ i }} += {{ "subgroupBroadcast(own, " ~ i ~ "u)" if BROADCAST else "b[row" ~ i ~ " * rank + vector]" }} * right;
        {% endfor -%}
    }
    for (var j = 0u; j < count_b; j++) {
        let right = loaded(a[params.place[count_a + j].x * width + column]);
        {% if BROADCAST -%}
        let own = left_b[j * rows + own_row];
        {% endif -%}
        {% for i in range(ROWS) -%}
        sum{{ i }} += {{ "subgroupBroadcast(own, " ~ i ~ "u)" if BROADCAST else "left_b[j * rows + row" ~ i ~ "]" }} * right;
        {% endfor -%}
    }
    var square = {{ T }}(0.0);
    {% for i in range(ROWS) -%}
    sum{{ i }} *= scale;
    {% if i > 0 -%}
    if (row + {{ i }}u < rows) {
        let at{{ i }} = row{{ i }} * width + column;
        w[at{{ i }}] = stored(loaded(w[at{{ i }}]) + sum{{ i }});
        square += sum{{ i }} * sum{{ i }};
    }
    {% else -%}
    let at{{ i }} = row{{ i }} * width + column;
    w[at{{ i }}] = stored(loaded(w[at{{ i }}]) + sum{{ i }});
    square += sum{{ i }} * sum{{ i }};
    {% endif -%}
    {% endfor -%}
    squares[unit] = {{ {1: "square", 2: "square.x + square.y", 4: "(square.x + square.y) + (square.z + square.w)"}[WIDTH] }};
}
