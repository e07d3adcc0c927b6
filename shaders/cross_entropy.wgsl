// The loss max - x[target] + ln Σ exp(x - max) of each row x of logits [rows, VOCABULARY] against its target, and
// with GRAD 1 the loss's gradient `scale`·(softmax - onehot) in the place of the logits. An ignored target
// gives 0. One outside the row gives a loss of `stranger`, which is NaN.
// After exponential.wgsl and row_sum.wgsl.

@group(0) @binding(0) var<storage, read_write> logits: array<{{ "vec4<f32>" if VEC == 4 else "f32" }}>;
@group(0) @binding(1) var<storage, read_write> targets: array<i32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;

struct Params { rows: u32, first: u32, ignored: i32, scale: f32, stranger: f32 }
@group(0) @binding(3) var<uniform> params: Params;
{% set width = VOCABULARY // VEC %}

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

    var largest = -3.4e38;
    for (var i = start; i < {{ width }}u; i += {{ STEP }}u) {
        let x = logits[first + i];
{% if VEC == 4 %}
        largest = max(largest, max(max(x.x, x.y), max(x.z, x.w)));
{% else %}
        largest = max(largest, x);
{% endif %}
    }
    largest = row_max(largest, lane);
    var part = 0.0;
    for (var i = start; i < {{ width }}u; i += {{ STEP }}u) {
        let x = logits[first + i] - largest;
{% if VEC == 4 %}
        part += (exponential(x.x) + exponential(x.y)) + (exponential(x.z) + exponential(x.w));
{% else %}
        part += exponential(x);
{% endif %}
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
    for (var i = start; i < {{ width }}u; i += {{ STEP }}u) {
        let x = logits[first + i] - largest;
{% if VEC == 4 %}
        let p = vec4(exponential(x.x), exponential(x.y), exponential(x.z), exponential(x.w)) * factor;
        let column = i32(i) * 4;
        let is_hit = vec4(column, column + 1, column + 2, column + 3) == vec4(hit);
        logits[first + i] = p - select(vec4(0.0), vec4(params.scale), is_hit);
{% else %}
        logits[first + i] = exponential(x) * factor - select(0.0, params.scale, i32(i) == hit);
{% endif %}
    }
{% endif %}
}
