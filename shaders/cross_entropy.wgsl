// The loss max - x[target] + ln Σ exp(x - max) of each row x of logits [rows, VOCABULARY] against its target, and
// with GRAD 1 the loss's gradient `scale`·(softmax - onehot) in the place of the logits. An ignored target
// gives 0. One outside the row gives a loss of `stranger`, which is NaN.
// After exponential.wgsl and row_sum.wgsl.
{% set value = "vec4<f32>" if VEC == 4 else "f32" %}
{% set UNROLL = 16 // VEC %}
@group(0) @binding(0) var<storage, read_write> logits: array<{{ value }}>;
@group(0) @binding(1) var<storage, read_write> targets: array<i32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;

struct Params { rows: u32, first: u32, ignored: i32, scale: f32, stranger: f32 }
@group(0) @binding(3) var<storage, read> params: Params;
{% set width = VOCABULARY // VEC %}

{% if VEC == 4 %}
fn most(x: vec4<f32>) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}

fn total(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

fn exponentials(x: vec4<f32>) -> vec4<f32> {
    return vec4(exponential(x.x), exponential(x.y), exponential(x.z), exponential(x.w));
}
{% else %}
fn most(x: f32) -> f32 {
    return x;
}

fn total(x: f32) -> f32 {
    return x;
}

fn exponentials(x: f32) -> f32 {
    return exponential(x);
}
{% endif %}
{% if GRAD == 1 %}
/// What the target takes off the gradient at `i`.
fn share(i: u32, hit: i32) -> {{ value }} {
{% if VEC == 4 %}
    let column = i32(i) * 4;
    let is_hit = vec4(column, column + 1, column + 2, column + 3) == vec4(hit);
    return select(vec4(0.0), vec4(params.scale), is_hit);
{% else %}
    return select(0.0, params.scale, i32(i) == hit);
{% endif %}
}
{% endif %}

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
    let answer = targets[params.first + row];
    let counts = answer != params.ignored;
    let is_inside = answer >= 0 && answer < {{ VOCABULARY }};

    // {{ UNROLL }} loads at a time: llvmpipe ends the loops of an invocation for good after 65,535 rounds. Their sums
    // are added by themselves, so that rounding errors do not grow with the vocabulary.
    var largest = -3.4e38;
    var i = start;
    for (; i + {{ (UNROLL - 1) * STEP }}u < {{ width }}u; i += {{ UNROLL * STEP }}u) {
{% for n in range(UNROLL) %}
        largest = max(largest, most(logits[first + i + {{ n * STEP }}u]));
{% endfor %}
    }
    for (; i < {{ width }}u; i += {{ STEP }}u) {
        largest = max(largest, most(logits[first + i]));
    }
    largest = row_max(largest, lane);
    var part = 0.0;
    for (i = start; i + {{ (UNROLL - 1) * STEP }}u < {{ width }}u; i += {{ UNROLL * STEP }}u) {
        var block = 0.0;
{% for n in range(UNROLL) %}
        block += total(exponentials(logits[first + i + {{ n * STEP }}u] - largest));
{% endfor %}
        part += block;
    }
    for (; i < {{ width }}u; i += {{ STEP }}u) {
        part += total(exponentials(logits[first + i] - largest));
    }
    let sum = row_sum(part, lane);
    if start == 0u {
        var loss = select(0.0, params.stranger, counts);
        if is_inside {
            let at = u32(answer);
{% if VEC == 4 %}
            loss = largest - logits[first + at / 4u][at % 4u] + logarithm(sum);
{% else %}
            loss = largest - logits[first + at] + logarithm(sum);
{% endif %}
        }
        losses[params.first + row] = loss;
    }
{% if GRAD == 1 %}
{% if TREE == 1 %}
    // The logit of the target is read before its place is written.
    storageBarrier();
{% endif %}
    let factor = select(0.0, params.scale / sum, counts);
    let hit = select(-1, answer, is_inside);
    for (i = start; i + {{ (UNROLL - 1) * STEP }}u < {{ width }}u; i += {{ UNROLL * STEP }}u) {
{% for n in range(UNROLL) %}
        let at_{{ n }} = i + {{ n * STEP }}u;
        logits[first + at_{{ n }}] =
            exponentials(logits[first + at_{{ n }}] - largest) * factor - share(at_{{ n }}, hit);
{% endfor %}
    }
    for (; i < {{ width }}u; i += {{ STEP }}u) {
        logits[first + i] = exponentials(logits[first + i] - largest) * factor - share(i, hit);
    }
{% endif %}
}
