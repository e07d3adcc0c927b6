// dv = Σ_query p·d_out and dk = scale·Σ_query p·(d_out·v - delta)·q, over the queries that see a key and all heads
// that share it, with p = exp(scale·q·k - lse); for GPUs.
//
// Shapes and statistics as in attention_dq. A workgroup takes 32 consecutive keys of a key head and goes over
// tiles of 32 queries, head by head. Sums in f32. After exponential.wgsl and attention_tiles.wgsl.
// DOCUMENTS 1: statistics are (lse, delta, begin, end), and a query sees no key before the begin of its document.

@group(0) @binding(0) var<storage, read_write> d_out: array<f32>;
@group(0) @binding(1) var<storage, read_write> q: array<f32>;
@group(0) @binding(2) var<storage, read_write> k: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> statistics: array<{{ "vec4<f32>" if DOCUMENTS else "vec2<f32>" }}>;
@group(0) @binding(5) var<storage, read_write> dk: array<f32>;
@group(0) @binding(6) var<storage, read_write> dv: array<f32>;

struct Params { first_group: u32, groups: u32, tiles: u32, tokens: u32, scale: f32 }
@group(0) @binding(7) var<storage, read> params: Params;
{% if DOCUMENTS %}
/// Where the queries end that see a key of this workgroup.
var<workgroup> last_query: u32;
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
    let key_head = place / params.tiles % {{ HEADS // GROUP }}u;
    let sequence = place / params.tiles / {{ HEADS // GROUP }}u;
    let first = place % params.tiles * 32u;
    let kv_at = (sequence * params.tokens * {{ HEADS // GROUP }}u + key_head) * {{ D }}u;
{% for i in range(4) %}
    let row_{{ i }} = first + down * 4u + {{ i }}u;
    let scale_{{ i }} = params.scale;
    let one_{{ i }} = 1.0;
{% for c in range(CHUNKS) %}
    var dk_{{ c }}_{{ i }} = vec4(0.0);
    var dv_{{ c }}_{{ i }} = vec4(0.0);
{% endfor %}
{% endfor %}
{% if DOCUMENTS %}
    if lane == 0u {
        let last = min(first + 31u, params.tokens - 1u);
        last_query = u32(statistics[sequence * {{ HEADS }}u * params.tokens + last].w);
    }
    let end = min(workgroupUniformLoad(&last_query), params.tokens);
{% endif %}
    for (var head = key_head * {{ GROUP }}u; head < (key_head + 1u) * {{ GROUP }}u; head++) {
        let q_at = (sequence * params.tokens * {{ HEADS }}u + head) * {{ D }}u;
        for (var tile = first; tile < {{ "end" if DOCUMENTS else "params.tokens" }}; tile += 32u) {
{% for i in range(4) %}
            var s_{{ i }} = vec4(0.0);
            var d_{{ i }} = vec4(0.0);
{% endfor %}
{{ products("s", "k", "kv_at", HEADS // GROUP * D ~ "u", "params.tokens", "first", "q", "q_at", HEADS * D ~ "u", "params.tokens", "tile") }}
{{ products("d", "v", "kv_at", HEADS // GROUP * D ~ "u", "params.tokens", "first", "d_out", "q_at", HEADS * D ~ "u", "params.tokens", "tile") }}
            let query = vec4(tile + across * 4u) + vec4(0u, 1u, 2u, 3u);
            let at = (sequence * {{ HEADS }}u + head) * params.tokens;
{% for j in range(4) %}
            let statistics_{{ j }} = statistics[at + min(query[{{ j }}], params.tokens - 1u)];
{% endfor %}
            let lse = vec4(statistics_0.x, statistics_1.x, statistics_2.x, statistics_3.x);
{% if DOCUMENTS %}
            let begin = vec4<u32>(vec4(statistics_0.z, statistics_1.z, statistics_2.z, statistics_3.z));
{% endif %}
            let delta = vec4(statistics_0.y, statistics_1.y, statistics_2.y, statistics_3.y);
{% for i in range(4) %}
            s_{{ i }} = s_{{ i }} * params.scale - lse;
            let sees_{{ i }} = (query >= vec4(row_{{ i }})) & (query < vec4(params.tokens)){% if DOCUMENTS %} & (begin <= vec4(row_{{ i }})){% endif %};
            let p_{{ i }} = select(vec4(0.0), vec4(exponential(s_{{ i }}.x), exponential(s_{{ i }}.y), exponential(s_{{ i }}.z), exponential(s_{{ i }}.w)), sees_{{ i }});
            let e_{{ i }} = p_{{ i }} * (d_{{ i }} - delta);
{% endfor %}
{{ store_weights("p") }}
{{ weighted("dv", "d_out", "q_at", HEADS * D ~ "u", "params.tokens", "tile") }}
{{ store_weights("e") }}
{{ weighted("dk", "q", "q_at", HEADS * D ~ "u", "params.tokens", "tile") }}
        }
    }
{{ store_rows("dk", "dk", "kv_at", HEADS // GROUP * D ~ "u", "params.tokens", "first", "scale") }}
{{ store_rows("dv", "dv", "kv_at", HEADS // GROUP * D ~ "u", "params.tokens", "first", "one") }}
}
