// What AdamW needs of each row or column with a counter of its own: the scale of its gradient (0 while it is frozen), the
// learning rate and the divisor of the root with their bias corrections, and whether it stays as it is.
//
// One invocation to a vector. BY_COLUMN 0: out [vectors, 4]; 1: out [4, vectors].

@group(0) @binding(0) var<storage, read_write> grad_scale: array<f32>;
// [2, vectors], "since" and "frozen until": the vector's step in this update is t + 1 - since.
@group(0) @binding(1) var<storage, read_write> counters: array<i32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

struct Params {
    vectors: u32,
    t: u32,
    learning_rate: f32,
    // 1 - beta1 and 1 - beta2.
    new1: f32,
    new2: f32,
    // Torch's form: epsilon is added to the corrected root.
    is_torch: u32,
    decay_frozen: u32,
}
@group(0) @binding(3) var<storage, read> params: Params;

// 1 - beta^n of rest = 1 - beta. As 1 - x*y = (1 - x) + x*(1 - y), no step cancels, so the relative error stays
// that of rest and a few roundings; 1 - pow(beta, n) would lose four digits.
fn one_minus_power(rest: f32, n: u32) -> f32 {
    var result = 0.0;
    var base = rest;
    for (var bits = n; bits != 0u; bits >>= 1u) {
        if ((bits & 1u) != 0u) {
            result += (1.0 - result) * base;
        }
        base += (1.0 - base) * base;
    }
    return result;
}

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if (i >= params.vectors) {
        return;
    }
    let now = i32(params.t);
    let is_frozen = now < counters[params.vectors + i];
    let step = u32(max(now + 1 - counters[i], 1));
    let correction1 = one_minus_power(params.new1, step);
    let correction2 = sqrt(one_minus_power(params.new2, step));
    var rate = params.learning_rate / correction1;
    var root_divisor = correction2;
    if (params.is_torch == 0u) {
        rate = params.learning_rate * correction2 / correction1;
        root_divisor = 1.0;
    }
    let stays = params.learning_rate == 0.0 || (is_frozen && params.decay_frozen == 0u);
    {% if BY_COLUMN == 1 -%}
    let at = i;
    let step_between = params.vectors;
    {% else -%}
    let at = 4u * i;
    let step_between = 1u;
    {% endif -%}
    out[at] = select(grad_scale[0], 0.0, is_frozen);
    out[at + step_between] = rate;
    out[at + 2u * step_between] = root_divisor;
    out[at + 3u * step_between] = select(0.0, 1.0, stays);
}
