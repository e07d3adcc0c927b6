// C = scale·(A·B + low_scale·P·Q), or C += that: a product with, for LoRA layers, a thin product in the same pass.
// For adapters that compute on the CPU: no workgroup memory, no barriers, everything in registers.
//
// A is M × K and B is K × N, either stored as it is or transposed; P is M × R and Q is R × N, stored like A and B.
// A workgroup of 8 invocations computes {{ ROWS }} rows and {{ 8 * COLUMNS }} columns of C; an invocation has {{ COLUMNS }} of the columns,
// in pairs 16 apart, and all of the rows. Sums are f32, in the order of K.
//
// What costs there is the number of loads, not of bytes or of operations: such a driver walks through the
// invocations for each. So the block is as large as its compiler bears, and the template has two helps:
// BROADCAST: an invocation loads some of the rows of A and hands them to the others (needs subgroups of 8);
// WIDE: two neighbours in memory are one load (needs 64-bit integers and matrices with an even number of columns).
//
// B may be packed (the text of packed.wgsl comes first): `b_at` is then its first step of K, a multiple of 64.
{#- Macros: `x` is the name of an operand, `along_k` whether its stored rows run along K, `depth` how many steps of K. #}
{%- macro array() %}array<{{ "u64" if WIDE else "f32" }}>{% endmacro %}

@group(0) @binding(0) var<storage, read_write> c: {{ array() }};
@group(0) @binding(1) var<storage, read_write> a: {{ array() }};
@group(0) @binding(2) var<storage, read_write> b: {{ "array<u32>" if PACKED else array() }};
{%- if LOW %}
@group(0) @binding(3) var<storage, read_write> p: {{ array() }};
@group(0) @binding(4) var<storage, read_write> q: {{ array() }};
{%- endif %}
{%- if PACKED > 1 %}
@group(0) @binding({{ 5 if LOW else 3 }}) var<storage, read_write> scales: array<f32>;
{%- endif %}

struct Params {
    m: u32, n: u32, k: u32, r: u32,
    c_at: u32, a_at: u32, b_at: u32,
    // Elements from one stored row to the next.
    a_pitch: u32, b_pitch: u32, p_pitch: u32, q_pitch: u32,
    scale: f32, low_scale: f32,
}
@group(0) @binding({{ (5 if LOW else 3) + (1 if PACKED > 1 else 0) }}) var<storage, read> params: Params;
{%- if WIDE %}

fn first(pair: u64) -> f32 {
    return bitcast<f32>(u32(pair));
}

fn second(pair: u64) -> f32 {
    return bitcast<f32>(u32(pair >> 32u));
}

fn pair(first: f32, second: f32) -> u64 {
    return u64(bitcast<u32>(first)) | (u64(bitcast<u32>(second)) << 32u);
}
{%- endif %}

{%- if PACKED %}
{{- level("f32", "u32") }}

// Element `at` of a row, out of its word, before its scale.
fn element(word: u32, at: u32) -> f32 {
    {%- if PACKED == 1 %}
    let both = unpack2x16float(word);
    return select(both.x, both.y, at % 2u == 1u);
    {%- elif PACKED == 2 %}
    return f32(i32(word << (24u - at % 4u * 8u)) >> 24u) * 0x1.020408p-7;
    {%- else %}
    return level((word >> (at % 8u * 4u)) & 15u);
    {%- endif %}
}
{%- endif %}

{#- The same from words; two neighbours in a row stand in one. Beyond the last column is what nobody writes. #}
{%- macro packed_loads(along_k, lines, depth) %}
{%- if along_k %}
    {%- for i in range(lines) %}
        let b{{ i }}_word = b[b_row{{ i }} + (b_first + k) / {{ PER_WORD }}u];
        {%- if PACKED > 1 %}
        let b{{ i }}_scale = scales[b_block{{ i }} + (b_first + k) / 64u];
        {%- endif %}
        {%- for s in range(depth) %}
        let b{{ i }}_{{ s }} = element(b{{ i }}_word, k + {{ s }}u){{ " * b" ~ i ~ "_scale" if PACKED > 1 }};
        {%- endfor %}
    {%- endfor %}
{%- else %}
    {%- for i in range(lines) if i % 2 == 0 %}{% for s in range(depth) %}
        let b{{ i }}_{{ s }}_word = b[(b_first + k + {{ s }}u) * b_words + column_read{{ i }} / {{ PER_WORD }}u];
        {%- if PACKED > 1 %}
        let b{{ i }}_{{ s }}_scale = scales[(b_first + k + {{ s }}u) * b_blocks + column_read{{ i }} / 64u];
        {%- endif %}
        let b{{ i }}_{{ s }} = element(b{{ i }}_{{ s }}_word, column_read{{ i }}){{ " * b" ~ i ~ "_" ~ s ~ "_scale" if PACKED > 1 }};
        let b{{ i + 1 }}_{{ s }} = element(b{{ i }}_{{ s }}_word, column_read{{ i }} + 1u){{ " * b" ~ i ~ "_" ~ s ~ "_scale" if PACKED > 1 }};
    {%- endfor %}{% endfor %}
{%- endif %}
{%- endmacro %}

{#- Values of the lines (rows of A, columns of B) of this invocation: x{line}_{step}. #}
{%- macro loads(x, along_k, lines, depth) %}
{%- if WIDE and along_k %}
    {%- for i in range(lines) %}{% for s in range(depth) if s % 2 == 0 %}
        let {{ x }}{{ i }}_{{ s }}_pair = {{ x }}[({{ x }}_start{{ i }} + k + {{ s }}u) / 2u];
        let {{ x }}{{ i }}_{{ s }} = first({{ x }}{{ i }}_{{ s }}_pair);
        let {{ x }}{{ i }}_{{ s + 1 }} = second({{ x }}{{ i }}_{{ s }}_pair);
    {%- endfor %}{% endfor %}
{%- elif WIDE %}
    {%- for i in range(lines) if i % 2 == 0 %}{% for s in range(depth) %}
        let {{ x }}{{ i }}_{{ s }}_pair = {{ x }}[({{ x }}_start{{ i }} + (k + {{ s }}u) * {{ x }}_pitch) / 2u];
        let {{ x }}{{ i }}_{{ s }} = first({{ x }}{{ i }}_{{ s }}_pair);
        let {{ x }}{{ i + 1 }}_{{ s }} = second({{ x }}{{ i }}_{{ s }}_pair);
    {%- endfor %}{% endfor %}
{%- else %}
    {%- for i in range(lines) %}{% for s in range(depth) %}
        let {{ x }}{{ i }}_{{ s }} = {{ x }}[{{ x }}_start{{ i }} + (k + {{ s }}u){{ " * " ~ x ~ "_pitch" if not along_k }}];
    {%- endfor %}{% endfor %}
{%- endif %}
{%- endmacro %}

{#- All loads, then the sums: each is taken up once for all steps. #}
{%- macro block(x, y, depth) %}
    {{- loads(x, A_ALONG_K, OWNED, depth) }}
    {%- if PACKED and y == "b" %}
    {{- packed_loads(B_ALONG_K, COLUMNS, depth) }}
    {%- else %}
    {{- loads(y, B_ALONG_K, COLUMNS, depth) }}
    {%- endif %}
{%- for i in range(ROWS) %}
    {%- for s in range(depth) %}
        {%- if BROADCAST %}
        let {{ x }}_row{{ i }}_{{ s }} = subgroupBroadcast({{ x }}{{ i // 16 * 2 + i % 2 }}_{{ s }}, {{ i % 16 // 2 }}u);
        {%- else %}
        let {{ x }}_row{{ i }}_{{ s }} = {{ x }}{{ i }}_{{ s }};
        {%- endif %}
    {%- endfor %}
    {%- for j in range(COLUMNS) %}
        {%- for s in range(depth) %}
        sum{{ i }}_{{ j }} += {{ x }}_row{{ i }}_{{ s }} * {{ y }}{{ j }}_{{ s }};
        {%- endfor %}
    {%- endfor %}
{%- endfor %}
{%- endmacro %}

{%- macro starts(x, along_k, line, lines) %}
    {%- for i in range(lines) %}
    let {{ x }}_start{{ i }} = {{ "params." ~ x ~ "_at + " if x in ["a", "b"] }}{{ line }}{{ i }}{{ " * params." ~ x ~ "_pitch" if along_k }};
    {%- endfor %}
    {%- if not along_k %}
    let {{ x }}_pitch = params.{{ x }}_pitch;
    {%- endif %}
{%- endmacro %}

{%- macro least_line(along_k) %}{{ "2u" if WIDE and not along_k else "1u" }}{% endmacro %}
{%- macro product(x, y, size) %}
    {{- starts(x, A_ALONG_K, "row", OWNED) }}
    {%- if PACKED and y == "b" %}
    let b_first = params.b_at;
    let b_words = {{ words_of_row("params.b_pitch") }};
    {%- if PACKED > 1 %}
    let b_blocks = {{ blocks_of_row("params.b_pitch") }};
    {%- endif %}
    {%- if B_ALONG_K %}
    {%- for i in range(COLUMNS) %}
    let b_row{{ i }} = column_read{{ i }} * b_words;
    {%- if PACKED > 1 %}
    let b_block{{ i }} = column_read{{ i }} * b_blocks;
    {%- endif %}
    {%- endfor %}
    {%- endif %}
    {%- else %}
    {{- starts(y, B_ALONG_K, "column_read", COLUMNS) }}
    {%- endif %}
    let {{ x }}_depth = params.{{ size }};
    for (k = 0u; k + {{ DEPTH }}u <= {{ x }}_depth; k += {{ DEPTH }}u) {
        {{- block(x, y, DEPTH) }}
    }
    {%- set least = 2 if WIDE and (A_ALONG_K or B_ALONG_K) else 1 %}
    {%- if least < DEPTH %}
    for (; k < {{ x }}_depth; k += {{ least }}u) {
        {{- block(x, y, least) }}
    }
    {%- endif %}
{%- endmacro %}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    {%- if BROADCAST %}
    @builtin(subgroup_invocation_id) lane: u32,
    {%- else %}
    @builtin(local_invocation_index) lane: u32,
    {%- endif %}
) {
    let m = params.m;
    let n = params.n;
    let tile = group.x + group.y * groups.x;
    let across = (n + {{ COLUMNS * 8 - 1 }}u) / {{ COLUMNS * 8 }}u;
    let first_row = tile / across * {{ ROWS }}u;
    let first_column = tile % across * {{ COLUMNS * 8 }}u + lane * 2u;
    if (first_row >= m) {
        return;
    }
    // Lines beyond the matrix repeat its last ones and are not written.
    {%- for i in range(OWNED) %}
    {%- set line = i // 2 * 16 + i % 2 if BROADCAST else i %}
    let row{{ i }} = min(first_row + {{ "lane * 2u + " if BROADCAST }}{{ line }}u, m - {{ least_line(A_ALONG_K) }});
    {%- endfor %}
    {%- for j in range(COLUMNS) %}
    let column{{ j }} = first_column + {{ j // 2 * 16 + j % 2 }}u;
    let column_read{{ j }} = min(column{{ j }}, n - {{ least_line(B_ALONG_K) }});
    {%- endfor %}

    {%- for i in range(ROWS) %}{% for j in range(COLUMNS) %}
    var sum{{ i }}_{{ j }} = 0.0;
    {%- endfor %}{% endfor %}
    var k = 0u;
    {%- if LOW %}
    {{- product("p", "q", "r") }}
    let low_scale = params.low_scale;
    {%- for i in range(ROWS) %}{% for j in range(COLUMNS) %}
    sum{{ i }}_{{ j }} *= low_scale;
    {%- endfor %}{% endfor %}
    {%- endif %}
    {{- product("a", "b", "k") }}

    let scale = params.scale;
    let c_at = params.c_at;
    {%- for i in range(ROWS) %}
    if (first_row + {{ i }}u < m) {
        let c_start = c_at + (first_row + {{ i }}u) * n;
        {%- if WIDE %}
        {%- for j in range(COLUMNS) if j % 2 == 0 %}
        if (column{{ j }} < n) {
            let at = (c_start + column{{ j }}) / 2u;
            {%- if ADD %}
            let old = c[at];
            c[at] = pair(first(old) + scale * sum{{ i }}_{{ j }}, second(old) + scale * sum{{ i }}_{{ j + 1 }});
            {%- else %}
            c[at] = pair(scale * sum{{ i }}_{{ j }}, scale * sum{{ i }}_{{ j + 1 }});
            {%- endif %}
        }
        {%- endfor %}
        {%- else %}
        {%- for j in range(COLUMNS) %}
        if (column{{ j }} < n) {
            c[c_start + column{{ j }}] {{ "+=" if ADD else "=" }} scale * sum{{ i }}_{{ j }};
        }
        {%- endfor %}
        {%- endif %}
    }
    {%- endfor %}
}
