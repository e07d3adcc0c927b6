// dq = scale·Σ_key p·(d_out·v - delta)·k with p = exp(scale·q·k - lse), for GPUs.
//
// Shapes as in attention; statistics are pairs (lse, delta), delta = Σ d_out·out; queries and keys are equally
// many. A workgroup takes 32 consecutive queries of a head and goes over tiles of 32 keys. Sums in f32.
// DOCUMENTS 1: statistics are (lse, delta, begin, end), and a query sees no key before the begin of its document.
// After exponential.wgsl and attention_tiles.wgsl.

@group(0) @binding(0) var<storage, read_write> d_out: array<f32>;
@group(0) @binding(1) var<storage, read_write> q: array<f32>;
@group(0) @binding(2) var<storage, read_write> k: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> statistics: array<{{ "vec4<f32>" if DOCUMENTS else "vec2<f32>" }}>;
@group(0) @binding(5) var<storage, read_write> dq: array<f32>;

struct Params { first_group: u32, groups: u32, tiles: u32, tokens: u32, scale: f32 }
@group(0) @binding(6) var<storage, read> params: Params;
{% if DOCUMENTS %}
/// The first key that a query of this workgroup sees.
var<workgroup> first_key: u32;
{% endif %}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let place = params.first_group + group.x + group.y * groups.x;
    if place >= params.groups {
        return;
    }
    let across = lane % 8u;
    let down = lane / 8u;
    let head = place / params.tiles % {{ HEADS }}u;
    let sequence = place / params.tiles / {{ HEADS }}u;
    // The last queries see most keys and start first.
    let first = (params.tiles - 1u - place % params.tiles) * 32u;
    let q_at = (sequence * params.tokens * {{ HEADS }}u + head) * {{ D }}u;
    let kv_at = (sequence * params.tokens * {{ HEADS // GROUP }}u + head / {{ GROUP }}u) * {{ D }}u;
{% for i in range(4) %}
    let row_{{ i }} = min(first + down * 4u + {{ i }}u, params.tokens - 1u);
    let statistics_{{ i }} = statistics[(sequence * {{ HEADS }}u + head) * params.tokens + row_{{ i }}];
    let scale_{{ i }} = params.scale;
{% for c in range(CHUNKS) %}
    var dq_{{ c }}_{{ i }} = vec4(0.0);
{% endfor %}
{% endfor %}
{% if DOCUMENTS %}
    if lane == 0u {
        first_key = u32(statistics[(sequence * {{ HEADS }}u + head) * params.tokens + first].z);
    }
    let from_key = workgroupUniformLoad(&first_key);
{% endif %}
    for (var tile = {{ "from_key" if DOCUMENTS else "0u" }}; tile < min(first + 32u, params.tokens); tile += 32u) {
{% for i in range(4) %}
        var s_{{ i }} = vec4(0.0);
        var d_{{ i }} = vec4(0.0);
{% endfor %}
{{ products("s", "q", "q_at", HEADS * D ~ "u", "params.tokens", "first", "k", "kv_at", HEADS // GROUP * D ~ "u", "params.tokens", "tile") }}
{{ products("d", "d_out", "q_at", HEADS * D ~ "u", "params.tokens", "first", "v", "kv_at", HEADS // GROUP * D ~ "u", "params.tokens", "tile") }}
        let key = vec4(tile + across * 4u) + vec4(0u, 1u, 2u, 3u);
{% for i in range(4) %}
        s_{{ i }} = s_{{ i }} * params.scale - statistics_{{ i }}.x;
        let p_{{ i }} = vec4(exponential(s_{{ i }}.x), exponential(s_{{ i }}.y), exponential(s_{{ i }}.z), exponential(s_{{ i }}.w));
        let e_{{ i }} = select(vec4(0.0), p_{{ i }} * (d_{{ i }} - statistics_{{ i }}.y), {{ "(key >= vec4(u32(statistics_" ~ i ~ ".z))) & (key <= vec4(row_" ~ i ~ "))" if DOCUMENTS else "key <= vec4(row_" ~ i ~ ")" }});
{% endfor %}
{{ store_weights("e") }}
{{ weighted("dq", "k", "kv_at", HEADS // GROUP * D ~ "u", "params.tokens", "tile") }}
    }
{{ store_rows("dq", "dq", "q_at", HEADS * D ~ "u", "params.tokens", "first", "scale") }}
}
