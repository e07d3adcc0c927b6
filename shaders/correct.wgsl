// w [rows, width] += scale * L * D in place, of a few vectors: L's column j is left[place[j].x + row * left_stride], D's row
// j begins at right[place[j].y]. squares [units] are the sums of the squares of what was added.
//
// One invocation to {{ ROWS }} rows of one column; with WIDE a column is vec4, and width and place[j].y count those.

{% set T = "vec4<f32>" if WIDE == 1 else "f32" -%}
@group(0) @binding(0) var<storage, read_write> w: array<{{ T }}>;
@group(0) @binding(1) var<storage, read_write> left: array<f32>;
@group(0) @binding(2) var<storage, read_write> right: array<{{ T }}>;
@group(0) @binding(3) var<storage, read_write> squares: array<f32>;

struct Params {
    rows: u32,
    width: u32,
    left_stride: u32,
    count: u32,
    scale: f32,
    zero1: u32,
    zero2: u32,
    zero3: u32,
    place: array<vec4<u32>, {{ CAPACITY }}>,
}
@group(0) @binding(4) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    let block = unit / params.width;
    let column = unit - block * params.width;
    let row = block * {{ ROWS }}u;
    if (row >= params.rows) {
        return;
    }
    // Rows beyond the last are computed as the last and not stored.
    {% for i in range(ROWS) -%}
    let row{{ i }} = min(row + {{ i }}u, params.rows - 1u);
    var sum{{ i }} = {{ T }}(0.0);
    {% endfor -%}
    for (var j = 0u; j < params.count; j++) {
        let place = params.place[j];
        let d = right[place.y + column];
        {% for i in range(ROWS) -%}
        sum{{ i }} += left[place.x + row{{ i }} * params.left_stride] * d;
        {% endfor -%}
    }
    var square = {{ T }}(0.0);
    {% for i in range(ROWS) -%}
    sum{{ i }} *= params.scale;
    {% if i > 0 -%}
    if (row + {{ i }}u < params.rows) {
        w[row{{ i }} * params.width + column] += sum{{ i }};
        square += sum{{ i }} * sum{{ i }};
    }
    {% else -%}
    w[row{{ i }} * params.width + column] += sum{{ i }};
    square += sum{{ i }} * sum{{ i }};
    {% endif -%}
    {% endfor -%}
    squares[unit] = {{ "(square.x + square.y) + (square.z + square.w)" if WIDE == 1 else "square" }};
}
