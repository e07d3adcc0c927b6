// What the backward passes need of each query and head: statistics = (lse, Σ d_out·out), pairs in the order of
// lse [batch·HEADS·queries], from d_out and out [batch·queries, HEADS·D]. Pairs, because those passes have no
// binding left. An invocation to a query and head. Sums in f32. DOCUMENTS 1: with them the begin and the end of the
// query's document, exact as floats below 2^24.
{% set value = "vec4<f32>" if VEC == 4 else "f32" %}
{% set parts = D // VEC %}
@group(0) @binding(0) var<storage, read_write> d_out: array<{{ value }}>;
@group(0) @binding(1) var<storage, read_write> out: array<{{ value }}>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> statistics: array<{{ "vec4<f32>" if DOCUMENTS else "vec2<f32>" }}>;
{% if DOCUMENTS %}
@group(0) @binding(4) var<storage, read_write> documents: array<vec2<i32>>;
{% endif %}

struct Params { items: u32, queries: u32 }
@group(0) @binding({{ 5 if DOCUMENTS else 4 }}) var<storage, read> params: Params;

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
    let first = item * {{ parts }}u;
    var sum = {{ value }}(0.0);
    for (var i = first; i < first + {{ parts }}u; i++) {
        sum = fma(d_out[i], out[i], sum);
    }
    let head = item % {{ HEADS }}u;
    let row = item / {{ HEADS }}u % params.queries;
    let sequence = item / {{ HEADS }}u / params.queries;
    let at = (sequence * {{ HEADS }}u + head) * params.queries + row;
    let delta = {{ "(sum.x + sum.y) + (sum.z + sum.w)" if VEC == 4 else "sum" }};
{% if DOCUMENTS %}
    let document = vec2<f32>(documents[sequence * params.queries + row]);
    statistics[at] = vec4(lse[at], delta, document.x, document.y);
{% else %}
    statistics[at] = vec2(lse[at], delta);
{% endif %}
}
