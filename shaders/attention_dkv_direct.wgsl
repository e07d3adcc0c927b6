// dv = Σ_query p·d_out and dk = scale·Σ_query p·(d_out·v - delta)·q, over the queries that see a key and all heads
// that share it, with p = exp(scale·q·k - lse); for software adapters.
//
// Shapes and statistics as in attention_dq_direct. An invocation takes ROWS consecutive keys of a key head and
// goes over the queries in blocks of KEYS, head by head. Sums in f32.
// BROADCAST 1 needs subgroups of 8: neighbours take rows of the same head, and each loads a part of one of the queries
// of a block, a SHARES-th, for all. KEYS·SHARES is 8.
// DOCUMENTS 1: statistics are (lse, delta, begin, end), and a query sees no key before the begin of its document.
// After exponential.wgsl.
{% set value = "vec4<f32>" if VEC == 4 else "f32" %}
{% set parts = D // VEC %}
{% set share = parts // SHARES %}
{% set rows = range(ROWS) %}
{% set block = range(KEYS) %}
@group(0) @binding(0) var<storage, read_write> d_out: array<{{ value }}>;
@group(0) @binding(1) var<storage, read_write> q: array<{{ value }}>;
@group(0) @binding(2) var<storage, read_write> k: array<{{ value }}>;
@group(0) @binding(3) var<storage, read_write> v: array<{{ value }}>;
@group(0) @binding(4) var<storage, read_write> statistics: array<{{ "vec4<f32>" if DOCUMENTS else "vec2<f32>" }}>;
@group(0) @binding(5) var<storage, read_write> dk: array<{{ value }}>;
@group(0) @binding(6) var<storage, read_write> dv: array<{{ value }}>;

struct Params { items: u32, batch: u32, tokens: u32, scale: f32 }
@group(0) @binding(7) var<storage, read> params: Params;
{% macro dot(a, b, sum) %}{% if VEC == 4 -%}
fma({{ a }}.x, {{ b }}.x, fma({{ a }}.y, {{ b }}.y, fma({{ a }}.z, {{ b }}.z, fma({{ a }}.w, {{ b }}.w, {{ sum }}))))
{%- else %}fma({{ a }}, {{ b }}, {{ sum }}){% endif %}{% endmacro %}

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
    let item = {{ "group.x + group.y * groups.x" if BROADCAST else "(group.x + group.y * groups.x) * 8u + lane" }};
    if item >= params.items {
        return;
    }
    let key_head = item % {{ HEADS // GROUP }}u;
    let sequence = item / {{ HEADS // GROUP }}u % params.batch;
    let first = item / {{ HEADS // GROUP }}u / params.batch * {{ 8 * ROWS if BROADCAST else ROWS }}u;
    let begin = first{% if BROADCAST %} + lane * {{ ROWS }}u{% endif %};
{% for r in rows %}
    let row_{{ r }} = min(begin + {{ r }}u, params.tokens - 1u);
    let kv_{{ r }} =
        ((sequence * params.tokens + row_{{ r }}) * {{ HEADS // GROUP }}u + key_head) * {{ parts }}u;
{% for c in range(parts) %}
    let k_{{ r }}_{{ c }} = k[kv_{{ r }} + {{ c }}u] * params.scale;
    let v_{{ r }}_{{ c }} = v[kv_{{ r }} + {{ c }}u];
    var dk_{{ r }}_{{ c }} = {{ value }}(0.0);
    var dv_{{ r }}_{{ c }} = {{ value }}(0.0);
{% endfor %}
{% endfor %}
{% if DOCUMENTS %}
    let last = min(first + {{ (8 * ROWS if BROADCAST else ROWS) - 1 }}u, params.tokens - 1u);
    let end = min(u32(statistics[sequence * {{ HEADS }}u * params.tokens + last].w), params.tokens);
{% endif %}
    for (var head = key_head * {{ GROUP }}u; head < (key_head + 1u) * {{ GROUP }}u; head++) {
        let statistics_at = (sequence * {{ HEADS }}u + head) * params.tokens;
        let queries = (sequence * params.tokens * {{ HEADS }}u + head) * {{ parts }}u;
        for (var query = first; query < {{ "end" if DOCUMENTS else "params.tokens" }}; query += {{ KEYS }}u) {
{% if BROADCAST %}
            let row_q = min(query + lane % {{ KEYS }}u, params.tokens - 1u);
            let at = queries + row_q * {{ HEADS * parts }}u + lane / {{ KEYS }}u * {{ share }}u;
{% for c in range(share) %}
            let q_{{ c }} = q[at + {{ c }}u];
            let g_{{ c }} = d_out[at + {{ c }}u];
{% endfor %}
            let own_statistics = statistics[statistics_at + row_q];
{% endif %}
{% for j in block %}
{% if BROADCAST %}
            let statistics_{{ j }} = subgroupBroadcast(own_statistics, {{ j }}u);
{% else %}
            let row_q_{{ j }} = min(query + {{ j }}u, params.tokens - 1u);
            let at_{{ j }} = queries + row_q_{{ j }} * {{ HEADS * parts }}u;
            let statistics_{{ j }} = statistics[statistics_at + row_q_{{ j }}];
{% endif %}
{% for r in rows %}
            var s_{{ r }}_{{ j }} = 0.0;
            var d_{{ r }}_{{ j }} = 0.0;
{% endfor %}
{% endfor %}
{% for c in range(parts) %}
{% for j in block %}
            let q_{{ j }}_{{ c }} = {{ "subgroupBroadcast(q_" ~ c % share ~ ", " ~ (j + c // share * KEYS) ~ "u)" if BROADCAST else "q[at_" ~ j ~ " + " ~ c ~ "u]" }};
            let g_{{ j }}_{{ c }} = {{ "subgroupBroadcast(g_" ~ c % share ~ ", " ~ (j + c // share * KEYS) ~ "u)" if BROADCAST else "d_out[at_" ~ j ~ " + " ~ c ~ "u]" }};
{% for r in rows %}
            s_{{ r }}_{{ j }} = {{ dot("k_" ~ r ~ "_" ~ c, "q_" ~ j ~ "_" ~ c, "s_" ~ r ~ "_" ~ j) }};
            d_{{ r }}_{{ j }} = {{ dot("v_" ~ r ~ "_" ~ c, "g_" ~ j ~ "_" ~ c, "d_" ~ r ~ "_" ~ j) }};
{% endfor %}
{% endfor %}
{% endfor %}
{% for j in block %}
{% for r in rows %}
            let sees_{{ r }}_{{ j }} = query + {{ j }}u >= row_{{ r }} && query + {{ j }}u < params.tokens{% if DOCUMENTS %} && u32(statistics_{{ j }}.z) <= row_{{ r }}{% endif %};
            let p_{{ r }}_{{ j }} =
                select(0.0, exponential(s_{{ r }}_{{ j }} - statistics_{{ j }}.x), sees_{{ r }}_{{ j }});
            let e_{{ r }}_{{ j }} = p_{{ r }}_{{ j }} * (d_{{ r }}_{{ j }} - statistics_{{ j }}.y);
{% endfor %}
{% endfor %}
{% for c in range(parts) %}
{% for r in rows %}
{% for j in block %}
            dk_{{ r }}_{{ c }} = fma({{ value }}(e_{{ r }}_{{ j }}), q_{{ j }}_{{ c }}, dk_{{ r }}_{{ c }});
            dv_{{ r }}_{{ c }} = fma({{ value }}(p_{{ r }}_{{ j }}), g_{{ j }}_{{ c }}, dv_{{ r }}_{{ c }});
{% endfor %}
{% endfor %}
{% endfor %}
        }
    }
{% for r in rows %}
    if begin + {{ r }}u < params.tokens {
{% for c in range(parts) %}
        dk[kv_{{ r }} + {{ c }}u] = dk_{{ r }}_{{ c }} * params.scale;
        dv[kv_{{ r }} + {{ c }}u] = dv_{{ r }}_{{ c }};
{% endfor %}
    }
{% endfor %}
}
