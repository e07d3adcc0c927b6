// w [rows, width] += scale * (B[:, I] * left_a + left_b^T * A[J, :]) in place: the vectors I of A left and left_a
// [count_a, width] is what left minus what came, so are J of B and left_b [count_b, rows]. place[j].x is a vector, those of
// A first. squares [units] are the sums of the squares of what was added.
//
// One invocation to {{ ROWS }} rows of one column; with WIDE a column is vec4, and width counts those.

{% set T = "vec4<f32>" if WIDE == 1 else "f32" -%}
@group(0) @binding(0) var<storage, read_write> w: array<{{ T }}>;
@group(0) @binding(1) var<storage, read_write> a: array<{{ T }}>;
@group(0) @binding(2) var<storage, read_write> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> left_a: array<{{ T }}>;
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
    for (var j = 0u; j < params.count_a; j++) {
        let vector = params.place[j].x;
        let right = left_a[j * params.width + column];
        {% for i in range(ROWS) -%}
        sum{{ i }} += b[row{{ i }} * params.rank + vector] * right;
        {% endfor -%}
    }
    for (var j = 0u; j < params.count_b; j++) {
        let right = a[params.place[params.count_a + j].x * params.width + column];
        {% for i in range(ROWS) -%}
        sum{{ i }} += left_b[j * params.rows + row{{ i }}] * right;
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
