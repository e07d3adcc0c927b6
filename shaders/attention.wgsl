// o = softmax(q·kᵀ·scale, causal)·v and the log of each softmax's sum, for GPUs.
//
// q, o [batch·queries, HEADS·D]; k, v [≥ batch·keys, HEADS/GROUP·D]; lse [batch·HEADS·queries]. Query `i` sees the
// keys up to `keys - queries + i`. A workgroup takes 32 consecutive queries of a head and goes over tiles of 32
// keys with an online softmax. Sums in f32. After exponential.wgsl and attention_tiles.wgsl.
// DOCUMENTS 1: a query sees no key before the begin of its document; documents are (begin, end) of each position.

@group(0) @binding(0) var<storage, read_write> q: array<f32>;
@group(0) @binding(1) var<storage, read_write> k: array<f32>;
@group(0) @binding(2) var<storage, read_write> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> o: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
{% if DOCUMENTS %}
@group(0) @binding(5) var<storage, read_write> documents: array<vec2<i32>>;
{% endif %}

struct Params { first_group: u32, groups: u32, tiles: u32, queries: u32, keys: u32, scale: f32 }
@group(0) @binding({{ 6 if DOCUMENTS else 5 }}) var<storage, read> params: Params;

const HIDDEN = -3e38;
/// A number of each row from each of the 8 invocations that share it.
var<workgroup> shares: array<f32, 256>;
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
    let offset = params.keys - params.queries;
    let q_at = (sequence * params.queries * {{ HEADS }}u + head) * {{ D }}u;
    let kv_at = (sequence * params.keys * {{ HEADS // GROUP }}u + head / {{ GROUP }}u) * {{ D }}u;
{% for i in range(4) %}
    let seen_{{ i }} = offset + min(first + down * 4u + {{ i }}u, params.queries - 1u) + 1u;
{% if DOCUMENTS %}
    let begin_{{ i }} = u32(documents[sequence * params.queries + min(first + down * 4u + {{ i }}u, params.queries - 1u)].x);
{% endif %}
    var top_{{ i }} = HIDDEN;
    var sum_{{ i }} = 0.0;
{% for c in range(CHUNKS) %}
    var o_{{ c }}_{{ i }} = vec4(0.0);
{% endfor %}
{% endfor %}
    let seen = offset + min(first + 32u, params.queries);
{% if DOCUMENTS %}
    if lane == 0u {
        first_key = u32(documents[sequence * params.queries + first].x);
    }
    let from_key = workgroupUniformLoad(&first_key);
{% endif %}
    for (var tile = {{ "from_key" if DOCUMENTS else "0u" }}; tile < seen; tile += 32u) {
{% for i in range(4) %}
        var s_{{ i }} = vec4(0.0);
{% endfor %}
{{ products("s", "q", "q_at", HEADS * D ~ "u", "params.queries", "first", "k", "kv_at", HEADS // GROUP * D ~ "u", "params.keys", "tile") }}
        let key = vec4(tile + across * 4u) + vec4(0u, 1u, 2u, 3u);
{% for i in range(4) %}
        s_{{ i }} = select(vec4(HIDDEN), s_{{ i }} * params.scale, {{ "(key >= vec4(begin_" ~ i ~ ")) & (key < vec4(seen_" ~ i ~ "))" if DOCUMENTS else "key < vec4(seen_" ~ i ~ ")" }});
        shares[across * 32u + down * 4u + {{ i }}u] = max(max(s_{{ i }}.x, s_{{ i }}.y), max(s_{{ i }}.z, s_{{ i }}.w));
{% endfor %}
        workgroupBarrier();
{% for i in range(4) %}
        let before_{{ i }} = top_{{ i }};
        for (var other = 0u; other < 8u; other++) {
            top_{{ i }} = max(top_{{ i }}, shares[other * 32u + down * 4u + {{ i }}u]);
        }
        let keep_{{ i }} = exponential(before_{{ i }} - top_{{ i }});
        s_{{ i }} -= top_{{ i }};
        let p_{{ i }} = vec4(exponential(s_{{ i }}.x), exponential(s_{{ i }}.y), exponential(s_{{ i }}.z), exponential(s_{{ i }}.w));
        sum_{{ i }} = sum_{{ i }} * keep_{{ i }} + ((p_{{ i }}.x + p_{{ i }}.y) + (p_{{ i }}.z + p_{{ i }}.w));
{% for c in range(CHUNKS) %}
        o_{{ c }}_{{ i }} *= keep_{{ i }};
{% endfor %}
{% endfor %}
{{ store_weights("p") }}
{{ weighted("o", "v", "kv_at", HEADS // GROUP * D ~ "u", "params.keys", "tile") }}
    }
    workgroupBarrier();
{% for i in range(4) %}
    shares[across * 32u + down * 4u + {{ i }}u] = sum_{{ i }};
{% endfor %}
    workgroupBarrier();
{% for i in range(4) %}
    var total_{{ i }} = 0.0;
    for (var other = 0u; other < 8u; other++) {
        total_{{ i }} += shares[other * 32u + down * 4u + {{ i }}u];
    }
    let share_{{ i }} = 1.0 / total_{{ i }};
    if across == 0u && first + down * 4u + {{ i }}u < params.queries {
        lse[(sequence * {{ HEADS }}u + head) * params.queries + first + down * 4u + {{ i }}u] =
            top_{{ i }} + logarithm(total_{{ i }});
    }
{% endfor %}
{{ store_rows("o", "o", "q_at", HEADS * D ~ "u", "params.queries", "first", "share") }}
}
