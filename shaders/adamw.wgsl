// AdamW in place on a matrix [rows, width].
//
//   g = grad * scale              (0 where the scale is 0, whatever the gradient is; below 0 nothing changes at AXIS 0)
//   m = m + (1 - beta1) * (g - m)
//   v = v * beta2 + (1 - beta2) * g * g
//   p = (p * keep_before - rate * m / (sqrt(v) / root_divisor + eps)) * keep_after
//
// AXIS 0: one scale, rate and divisor for all (rows = 1). AXIS 1 and 2: of each row or column, made by vector_factors.
// One invocation to STEPS neighbours in a row; with WIDE they are vec4, and width counts those.

{% set T = "vec4<f32>" if WIDE == 1 else "f32" -%}
{% set U = "vec4<u32>" if WIDE == 1 else "u32" -%}
@group(0) @binding(0) var<storage, read_write> param: array<{{ T }}>;
@group(0) @binding(1) var<storage, read_write> grad: array<{{ T }}>;
@group(0) @binding(2) var<storage, read_write> exp_avg: array<{{ T }}>;
@group(0) @binding(3) var<storage, read_write> exp_avg_sq: array<{{ T }}>;
{% if AXIS == 0 -%}
// The scale.
@group(0) @binding(4) var<storage, read_write> factors: array<f32>;
{% elif AXIS == 1 -%}
// Scale, rate, root_divisor and "stays" of each row.
@group(0) @binding(4) var<storage, read_write> factors: array<vec4<f32>>;
{% else -%}
// Four rows: scales, rates, root_divisors and "stays" of the columns.
@group(0) @binding(4) var<storage, read_write> factors: array<{{ T }}>;
{% endif %}
struct Params {
    rows: u32,
    width: u32,
    new1: f32,
    beta2: f32,
    new2: f32,
    eps: f32,
    keep_before: f32,
    keep_after: f32,
    rate: f32,
    root_divisor: f32,
    stays: f32,
}
@group(0) @binding(5) var<storage, read> params: Params;

fn update(i: u32, scale: {{ T }}, rate: {{ T }}, root_divisor: {{ T }}, stays: {{ T }}) {
    let zero = {{ T }}(0.0);
    let p = param[i];
    // By the bits of 0 or -0: a program may assume that x * 0 is 0, and a gradient may be NaN where it does not count.
    let is_off = (bitcast<{{ U }}>(scale) << {{ U }}(1u)) == {{ U }}(0u);
    let g = select(grad[i] * scale, zero, is_off);
    var m = exp_avg[i];
    m += params.new1 * (g - m);
    exp_avg[i] = m;
    let v = exp_avg_sq[i] * params.beta2 + params.new2 * g * g;
    exp_avg_sq[i] = v;
    let denominator = sqrt(v) / root_divisor + params.eps;
    let moved = (p * params.keep_before - rate * (m / denominator)) * params.keep_after;
    // What stays keeps its bits: at rate 0 even a subtracted zero could turn -0 into 0.
    param[i] = select(moved, p, stays != zero);
}

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    let segments = (params.width + {{ STEPS - 1 }}u) / {{ STEPS }}u;
    let row = unit / segments;
    if (row >= params.rows) {
        return;
    }
    let first = (unit - row * segments) * {{ STEPS }}u;
    {% if AXIS == 0 -%}
    if factors[0] < 0.0 {
        return;
    }
    let scale = {{ T }}(factors[0]);
    let rate = {{ T }}(params.rate);
    let root_divisor = {{ T }}(params.root_divisor);
    let stays = {{ T }}(params.stays);
    {% elif AXIS == 1 -%}
    let f = factors[row];
    let scale = {{ T }}(f.x);
    let rate = {{ T }}(f.y);
    let root_divisor = {{ T }}(f.z);
    let stays = {{ T }}(f.w);
    {% endif -%}
    for (var c = first; c < min(first + {{ STEPS }}u, params.width); c++) {
        {% if AXIS == 2 -%}
        let scale = factors[c];
        let rate = factors[params.width + c];
        let root_divisor = factors[2u * params.width + c];
        let stays = factors[3u * params.width + c];
        {% endif -%}
        update(row * params.width + c, scale, rate, root_divisor, stays);
    }
}
