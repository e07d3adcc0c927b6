// y = x·rstd·gain with rstd = 1/√(mean x² + eps) of each row of x [rows, WIDTH]. With RESIDUAL 1 first
// delta += x, and the norm is that of the new delta. Sums in f32. After row_sum.wgsl.
{% set value = "vec4<f32>" if VEC == 4 else "f32" %}
{% set width = WIDTH // VEC %}
@group(0) @binding(0) var<storage, read_write> x: array<{{ value }}>;
@group(0) @binding(1) var<storage, read_write> gain: array<{{ value }}>;
@group(0) @binding(2) var<storage, read_write> y: array<{{ value }}>;
@group(0) @binding(3) var<storage, read_write> rstd: array<f32>;
{% if RESIDUAL == 1 %}
@group(0) @binding(4) var<storage, read_write> delta: array<{{ value }}>;
{% endif %}

struct Params { rows: u32, eps: f32 }
@group(0) @binding({{ 4 + RESIDUAL }}) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let place = group.x + group.y * groups.x;
{% if TREE == 1 %}
    let row = place;
    let start = lane;
{% else %}
    let row = place * {{ WORKGROUP }}u + lane;
    let start = 0u;
{% endif %}
    if row >= params.rows {
        return;
    }
    let first = row * {{ width }}u;
    var squares = {{ value }}(0.0);
    for (var i = start; i < {{ width }}u; i += {{ STEP }}u) {
{% if RESIDUAL == 1 %}
        let value = delta[first + i] + x[first + i];
        delta[first + i] = value;
{% else %}
        let value = x[first + i];
{% endif %}
        squares = fma(value, value, squares);
    }
{% if VEC == 4 %}
    let part = (squares.x + squares.y) + (squares.z + squares.w);
{% else %}
    let part = squares;
{% endif %}
    let scale = 1.0 / sqrt(row_sum(part, lane) / {{ WIDTH }}.0 + params.eps);
    if start == 0u {
        rstd[row] = scale;
    }
    for (var i = start; i < {{ width }}u; i += {{ STEP }}u) {
        y[first + i] = {{ "delta" if RESIDUAL == 1 else "x" }}[first + i] * scale * gain[i];
    }
}
