// dq = scale·Σ_key p·(d_out·v - delta)·k with p = exp(scale·q·k - lse), for software adapters.
//
// Shapes as in attention_direct; statistics are pairs (lse, delta), delta = Σ d_out·out; queries and
// keys are equally many.
// An invocation takes ROWS consecutive queries of a head and goes over the keys in blocks of KEYS.
// Sums in f32.
// BROADCAST 1 needs subgroups of 8: neighbours take rows of the same head, and each loads a part of one of the keys
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
@group(0) @binding(5) var<storage, read_write> dq: array<{{ value }}>;

struct Params { items: u32, batch: u32, tokens: u32, scale: f32 }
@group(0) @binding(6) var<storage, read> params: Params;
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
    let head = item % {{ HEADS }}u;
    let sequence = item / {{ HEADS }}u % params.batch;
    let first = item / {{ HEADS }}u / params.batch * {{ 8 * ROWS if BROADCAST else ROWS }}u;
    let begin = first{% if BROADCAST %} + lane * {{ ROWS }}u{% endif %};
    let statistics_at = (sequence * {{ HEADS }}u + head) * params.tokens;
{% for r in rows %}
    let row_{{ r }} = min(begin + {{ r }}u, params.tokens - 1u);
    let q_{{ r }} = ((sequence * params.tokens + row_{{ r }}) * {{ HEADS }}u + head) * {{ parts }}u;
    let statistics_{{ r }} = statistics[statistics_at + row_{{ r }}];
{% for c in range(parts) %}
    let q_{{ r }}_{{ c }} = q[q_{{ r }} + {{ c }}u] * params.scale;
    let g_{{ r }}_{{ c }} = d_out[q_{{ r }} + {{ c }}u];
    var dq_{{ r }}_{{ c }} = {{ value }}(0.0);
{% endfor %}
{% endfor %}
    let kv = (sequence * params.tokens * {{ HEADS // GROUP }}u + head / {{ GROUP }}u) * {{ parts }}u;
    let seen = min(first + {{ 8 * ROWS if BROADCAST else ROWS }}u, params.tokens);
    for (var key = {{ "u32(statistics[statistics_at + first].z)" if DOCUMENTS else "0u" }}; key < seen; key += {{ KEYS }}u) {
{% if BROADCAST %}
        let at = kv + min(key + lane % {{ KEYS }}u, params.tokens - 1u) * {{ HEADS // GROUP * parts }}u
            + lane / {{ KEYS }}u * {{ share }}u;
{% for c in range(share) %}
        let k_{{ c }} = k[at + {{ c }}u];
        let v_{{ c }} = v[at + {{ c }}u];
{% endfor %}
{% endif %}
{% for j in block %}
{% if not BROADCAST %}
        let at_{{ j }} = kv + min(key + {{ j }}u, params.tokens - 1u) * {{ HEADS // GROUP * parts }}u;
{% endif %}
{% for r in rows %}
        var s_{{ r }}_{{ j }} = 0.0;
        var d_{{ r }}_{{ j }} = 0.0;
{% endfor %}
{% endfor %}
{% for c in range(parts) %}
{% for j in block %}
        let k_{{ j }}_{{ c }} = {{ "subgroupBroadcast(k_" ~ c % share ~ ", " ~ (j + c // share * KEYS) ~ "u)" if BROADCAST else "k[at_" ~ j ~ " + " ~ c ~ "u]" }};
        let v_{{ j }}_{{ c }} = {{ "subgroupBroadcast(v_" ~ c % share ~ ", " ~ (j + c // share * KEYS) ~ "u)" if BROADCAST else "v[at_" ~ j ~ " + " ~ c ~ "u]" }};
{% for r in rows %}
        s_{{ r }}_{{ j }} = {{ dot("q_" ~ r ~ "_" ~ c, "k_" ~ j ~ "_" ~ c, "s_" ~ r ~ "_" ~ j) }};
        d_{{ r }}_{{ j }} = {{ dot("g_" ~ r ~ "_" ~ c, "v_" ~ j ~ "_" ~ c, "d_" ~ r ~ "_" ~ j) }};
{% endfor %}
{% endfor %}
{% endfor %}
{% for r in rows %}
{% for j in block %}
        let p_{{ r }}_{{ j }} =
            select(0.0, exponential(s_{{ r }}_{{ j }} - statistics_{{ r }}.x), key + {{ j }}u <= row_{{ r }}{% if DOCUMENTS %} && key + {{ j }}u >= u32(statistics_{{ r }}.z){% endif %});
        let e_{{ r }}_{{ j }} = p_{{ r }}_{{ j }} * (d_{{ r }}_{{ j }} - statistics_{{ r }}.y);
{% endfor %}
{% endfor %}
{% for c in range(parts) %}
{% for r in rows %}
{% for j in block %}
        dq_{{ r }}_{{ c }} = fma({{ value }}(e_{{ r }}_{{ j }}), k_{{ j }}_{{ c }}, dq_{{ r }}_{{ c }});
{% endfor %}
{% endfor %}
{% endfor %}
    }
{% for r in rows %}
    if begin + {{ r }}u < params.tokens {
{% for c in range(parts) %}
        dq[q_{{ r }} + {{ c }}u] = dq_{{ r }}_{{ c }} * params.scale;
{% endfor %}
    }
{% endfor %}
}
