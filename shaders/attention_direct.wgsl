// o = softmax(q·kᵀ·scale, causal)·v and the log of each softmax's sum, for software adapters: no workgroup memory.
//
// q, o [batch·queries, HEADS·D]; k, v [≥ batch·keys, HEADS/GROUP·D]; lse [batch·HEADS·queries]. Query `i` sees the
// keys up to `keys - queries + i`. An invocation takes ROWS consecutive queries of a head, holds them and their
// outputs in registers, and goes over the keys in blocks of KEYS: what it loads of a key serves every row, and
// loads are what costs. The running maximum of the softmax moves once per block. Sums in f32.
// BROADCAST 1 needs subgroups of 8: neighbours take rows of the same head, and each loads a part of one of the keys
// of a block, a SHARES-th, for all. KEYS·SHARES is 8.
// DOCUMENTS 1: a query sees no key before the begin of its document; documents are (begin, end) of each position.
// After exponential.wgsl.
{% set value = "vec4<f32>" if VEC == 4 else "f32" %}
{% set parts = D // VEC %}
{% set share = parts // SHARES %}
{% set rows = range(ROWS) %}
{% set block = range(KEYS) %}
@group(0) @binding(0) var<storage, read_write> q: array<{{ value }}>;
@group(0) @binding(1) var<storage, read_write> k: array<{{ value }}>;
@group(0) @binding(2) var<storage, read_write> v: array<{{ value }}>;
@group(0) @binding(3) var<storage, read_write> o: array<{{ value }}>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
{% if DOCUMENTS %}
@group(0) @binding(5) var<storage, read_write> documents: array<vec2<i32>>;
{% endif %}

struct Params { items: u32, batch: u32, queries: u32, keys: u32, scale: f32 }
@group(0) @binding({{ 6 if DOCUMENTS else 5 }}) var<storage, read> params: Params;
{% macro dot(a, b, sum) %}{% if VEC == 4 -%}
fma({{ a }}.x, {{ b }}.x, fma({{ a }}.y, {{ b }}.y, fma({{ a }}.z, {{ b }}.z, fma({{ a }}.w, {{ b }}.w, {{ sum }}))))
{%- else %}fma({{ a }}, {{ b }}, {{ sum }}){% endif %}{% endmacro %}
const HIDDEN = -3e38;

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
{% if BROADCAST %}
    @builtin(subgroup_invocation_id) lane: u32,
{% else %}
    @builtin(local_invocation_index) lane: u32,
{% endif %}
) {
    // Without subgroups neighbours take the same rows of different heads, so they run equally long.
    let item = {{ "group.x + group.y * groups.x" if BROADCAST else "(group.x + group.y * groups.x) * 8u + lane" }};
    if item >= params.items {
        return;
    }
    let head = item % {{ HEADS }}u;
    let sequence = item / {{ HEADS }}u % params.batch;
    let first = item / {{ HEADS }}u / params.batch * {{ 8 * ROWS if BROADCAST else ROWS }}u;
    let begin = first{% if BROADCAST %} + lane * {{ ROWS }}u{% endif %};
    let offset = params.keys - params.queries;
{% for r in rows %}
    let row_{{ r }} = min(begin + {{ r }}u, params.queries - 1u);
    let q_{{ r }} = ((sequence * params.queries + row_{{ r }}) * {{ HEADS }}u + head) * {{ parts }}u;
    let seen_{{ r }} = offset + row_{{ r }} + 1u;
{% if DOCUMENTS %}
    let begin_{{ r }} = u32(documents[sequence * params.queries + row_{{ r }}].x);
{% endif %}
    var top_{{ r }} = HIDDEN;
    var sum_{{ r }} = 0.0;
{% for c in range(parts) %}
    let q_{{ r }}_{{ c }} = q[q_{{ r }} + {{ c }}u] * params.scale;
    var o_{{ r }}_{{ c }} = {{ value }}(0.0);
{% endfor %}
{% endfor %}
    let kv = (sequence * params.keys * {{ HEADS // GROUP }}u + head / {{ GROUP }}u) * {{ parts }}u;
    let seen = offset + min(first + {{ 8 * ROWS if BROADCAST else ROWS }}u, params.queries);
    for (var key = {{ "u32(documents[sequence * params.queries + first].x)" if DOCUMENTS else "0u" }}; key < seen; key += {{ KEYS }}u) {
{% if BROADCAST %}
        let at = kv + min(key + lane % {{ KEYS }}u, params.keys - 1u) * {{ HEADS // GROUP * parts }}u
            + lane / {{ KEYS }}u * {{ share }}u;
{% for c in range(share) %}
        let k_{{ c }} = k[at + {{ c }}u];
{% endfor %}
{% endif %}
{% for j in block %}
{% if not BROADCAST %}
        let at_{{ j }} = kv + min(key + {{ j }}u, params.keys - 1u) * {{ HEADS // GROUP * parts }}u;
{% endif %}
{% for r in rows %}
        var s_{{ r }}_{{ j }} = 0.0;
{% endfor %}
{% endfor %}
{% for c in range(parts) %}
{% for j in block %}
        let k_{{ j }}_{{ c }} = {{ "subgroupBroadcast(k_" ~ c % share ~ ", " ~ (j + c // share * KEYS) ~ "u)" if BROADCAST else "k[at_" ~ j ~ " + " ~ c ~ "u]" }};
{% for r in rows %}
        s_{{ r }}_{{ j }} = {{ dot("q_" ~ r ~ "_" ~ c, "k_" ~ j ~ "_" ~ c, "s_" ~ r ~ "_" ~ j) }};
{% endfor %}
{% endfor %}
{% endfor %}
{% for r in rows %}
        let before_{{ r }} = top_{{ r }};
{% for j in block %}
        s_{{ r }}_{{ j }} = select(HIDDEN, s_{{ r }}_{{ j }}, key + {{ j }}u < seen_{{ r }}{% if DOCUMENTS %} && key + {{ j }}u >= begin_{{ r }}{% endif %});
        top_{{ r }} = max(top_{{ r }}, s_{{ r }}_{{ j }});
{% endfor %}
        let keep_{{ r }} = exponential(before_{{ r }} - top_{{ r }});
        sum_{{ r }} *= keep_{{ r }};
{% for j in block %}
        let p_{{ r }}_{{ j }} = exponential(s_{{ r }}_{{ j }} - top_{{ r }});
        sum_{{ r }} += p_{{ r }}_{{ j }};
{% endfor %}
{% endfor %}
{% if BROADCAST %}
{% for c in range(share) %}
        let v_{{ c }} = v[at + {{ c }}u];
{% endfor %}
{% endif %}
{% for c in range(parts) %}
{% for j in block %}
        let v_{{ j }}_{{ c }} = {{ "subgroupBroadcast(v_" ~ c % share ~ ", " ~ (j + c // share * KEYS) ~ "u)" if BROADCAST else "v[at_" ~ j ~ " + " ~ c ~ "u]" }};
{% endfor %}
{% for r in rows %}
        o_{{ r }}_{{ c }} *= keep_{{ r }};
{% for j in block %}
        o_{{ r }}_{{ c }} = fma({{ value }}(p_{{ r }}_{{ j }}), v_{{ j }}_{{ c }}, o_{{ r }}_{{ c }});
{% endfor %}
{% endfor %}
{% endfor %}
    }
{% for r in rows %}
    if begin + {{ r }}u < params.queries {
        let share = 1.0 / sum_{{ r }};
{% for c in range(parts) %}
        o[q_{{ r }} + {{ c }}u] = o_{{ r }}_{{ c }} * share;
{% endfor %}
        lse[(sequence * {{ HEADS }}u + head) * params.queries + begin + {{ r }}u] =
            top_{{ r }} + logarithm(sum_{{ r }});
    }
{% endfor %}
}
