// acc[0] += Σ losses. Blocks of losses are summed first and then added up, which keeps the rounding errors
// apart from the number of tokens (drivers optimise compensated sums away). One workgroup; TREE 1: an
// invocation takes every WORKGROUP-th block and their sums are added as a tree; TREE 0: one takes all.
// After row_sum.wgsl.
{% set BLOCK = 64 %}
@group(0) @binding(0) var<storage, read_write> acc: array<f32>;
@group(0) @binding(1) var<storage, read_write> losses: array<f32>;

struct Params { tokens: u32 }
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(@builtin(local_invocation_index) lane: u32) {
{% if TREE == 1 %}
    let start = lane;
{% else %}
    let start = 0u;
{% endif %}
    var sum = 0.0;
    for (var first = start * {{ BLOCK }}u; first < params.tokens; first += {{ BLOCK * STEP }}u) {
        var block = 0.0;
        for (var t = first; t < min(first + {{ BLOCK }}u, params.tokens); t++) {
            block += losses[t];
        }
        sum += block;
    }
    sum = row_sum(sum, lane);
    if lane == 0u {
        acc[0] += sum;
    }
}
