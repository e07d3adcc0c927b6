// C = scale·(A·B + low_scale·P·Q), or C += that: a product with, for LoRA layers, a thin product in the same pass.
// For GPUs: tiles in workgroup memory.
//
// A is M × K and B is K × N, either stored as it is or transposed; P is M × R and Q is R × N, stored like A and B.
// A workgroup of 256 invocations computes a tile of C with {{ SIDE }} rows and columns. It walks K in steps of {{ DEPTH }}:
// half of the invocations load a 4 × 4 block of A each, the other half of B, turned so that the tile holds
// vectors along M and N; meanwhile each invocation sums {{ SIDE // 16 }} × {{ SIDE // 16 }} outputs in registers. The next blocks are
// on their way while it does. The places of vectors are exchanged (`slot`) so that neither writing
// nor reading meets one bank twice. P·Q comes as further steps of K.
//
// Where K is cut into parts of `chunk` for more workgroups, part i writes its sums behind the
// i-1 before it, and matmul_sum adds them. Sums are f32, in the order of K. 16 KiB of workgroup memory.
//
// B may be packed (the text of packed.wgsl comes first): its blocks are decoded when they are loaded.

{%- macro array(vector) %}array<{{ "vec4<f32>" if vector else "f32" }}>{% endmacro %}
@group(0) @binding(0) var<storage, read_write> c: {{ array(C_VECTOR) }};
@group(0) @binding(1) var<storage, read_write> a: {{ array(A_VECTOR) }};
@group(0) @binding(2) var<storage, read_write> b: {{ "array<u32>" if PACKED else array(B_VECTOR) }};
{%- if LOW %}
@group(0) @binding(3) var<storage, read_write> p: {{ array(A_VECTOR) }};
@group(0) @binding(4) var<storage, read_write> q: {{ array(B_VECTOR) }};
{%- endif %}
{%- if PACKED > 1 %}
@group(0) @binding({{ 5 if LOW else 3 }}) var<storage, read_write> scales: array<f32>;
{%- endif %}

struct Params {
    m: u32, n: u32, k: u32, r: u32,
    c_at: u32, a_at: u32, b_at: u32,
    // Elements from one stored row to the next.
    a_pitch: u32, b_pitch: u32, p_pitch: u32, q_pitch: u32,
    chunk: u32, parts: u32, first_group: u32,
    scale: f32, low_scale: f32,
}
@group(0) @binding({{ (5 if LOW else 3) + (1 if PACKED > 1 else 0) }}) var<storage, read> params: Params;

const QUADS = {{ SIDE // 4 }}u; // vectors along a side
const QUADS_DEEP = {{ DEPTH // 4 }}u; // and in the depth
const B_TILE = 512u;
var<workgroup> tile: array<vec4<f32>, 1024>;

fn slot(k: u32, quad: u32) -> u32 {
    return k * QUADS + (quad ^ (k / 4u * {{ 32 // DEPTH }}u));
}

{%- macro blocks(x) %}
fn block_{{ x }}(row: u32, at: u32, rows: u32, end: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        quad_{{ x }}(row, at, rows, end),
        quad_{{ x }}(row + 1u, at, rows, end),
        quad_{{ x }}(row + 2u, at, rows, end),
        quad_{{ x }}(row + 3u, at, rows, end),
    );
}
{% endmacro %}
{%- macro loads(x, at, vector) %}
// Elements at .. at + 4 of a stored row of {{ x }}; 0 beyond its ends.
fn quad_{{ x }}(row: u32, at: u32, rows: u32, end: u32) -> vec4<f32> {
    var quad = vec4<f32>();
    if (row < rows) {
        let start = {{ at }}row * params.{{ x }}_pitch + at;
        {%- if vector %}
        if (at < end) {
            quad = {{ x }}[start / 4u];
        }
        {%- else %}
        {%- for i in range(4) %}
        if (at + {{ i }}u < end) {
            quad[{{ i }}] = {{ x }}[start + {{ i }}u];
        }
        {%- endfor %}
        {%- endif %}
    }
    return quad;
}
{{- blocks(x) }}
{%- endmacro %}

{%- macro packed_loads() %}
{{- level("vec4<f32>", "vec4<u32>") }}

// Elements at .. at + 4 of a row of the packed b, which stand in one word or in two; 0 beyond its ends. K is counted from
// b_at.
fn quad_b(line: u32, place: u32, lines: u32, end: u32) -> vec4<f32> {
    if (line >= lines || place >= end) {
        return vec4<f32>();
    }
    let row = line{{ "" if B_ALONG_K else " + params.b_at" }};
    let at = place{{ " + params.b_at" if B_ALONG_K else "" }};
    {%- if PACKED == 1 %}
    let word = row * ({{ words_of_row("params.b_pitch") }}) + at / 2u;
    return vec4<f32>(unpack2x16float(b[word]), unpack2x16float(b[word + 1u]));
    {%- else %}
    let word = b[row * ({{ words_of_row("params.b_pitch") }}) + at / {{ PER_WORD }}u];
    let scale = scales[row * ({{ blocks_of_row("params.b_pitch") }}) + at / 64u];
    {%- if PACKED == 2 %}
    let codes = vec4<i32>(vec4<u32>(word) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
    return vec4<f32>(codes) * 0x1.020408p-7 * scale;
    {%- else %}
    let codes = (vec4<u32>(word) >> (vec4<u32>(0u, 4u, 8u, 12u) + at % 8u * 4u)) & vec4<u32>(15u);
    return level(codes) * scale;
    {%- endif %}
    {%- endif %}
}
{{- blocks("b") }}
{%- endmacro %}
{{ loads("a", "params.a_at + ", A_VECTOR) }}
{{- packed_loads() if PACKED else loads("b", "params.b_at + ", B_VECTOR) }}
{%- if LOW %}
{{- loads("p", "", A_VECTOR) }}
{{- loads("q", "", B_VECTOR) }}
{%- endif %}

{%- macro operand(x, along_k, lines) %}
    {%- if along_k %}transpose(block_{{ x }}(line, k, {{ lines }}, end))
    {%- else %}block_{{ x }}(k, line, end, {{ lines }})
    {%- endif %}
{%- endmacro %}
// Four vectors along M of A, or along N of B, for the depths k .. k + 4.
fn fetch(is_a: bool, is_low: bool, line: u32, k: u32, end: u32) -> mat4x4<f32> {
    {%- if LOW %}
    if (is_low) {
        if (is_a) {
            return {{ operand("p", A_ALONG_K, "params.m") }} * params.low_scale;
        }
        return {{ operand("q", B_ALONG_K, "params.n") }};
    }
    {%- endif %}
    if (is_a) {
        return {{ operand("a", A_ALONG_K, "params.m") }};
    }
    return {{ operand("b", B_ALONG_K, "params.n") }};
}

{%- macro next() %}
        {%- if LOW %}
        if (step < dense_steps) {
            block = fetch(is_a, false, line, start + step * {{ DEPTH }}u + deep * 4u, end);
        } else {
            block = fetch(is_a, true, line, (step - dense_steps) * {{ DEPTH }}u + deep * 4u, params.r);
        }
        {%- else %}
        block = fetch(is_a, false, line, start + step * {{ DEPTH }}u + deep * 4u, end);
        {%- endif %}
{%- endmacro %}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let across = (params.n + {{ SIDE - 1 }}u) / {{ SIDE }}u;
    let tiles = across * ((params.m + {{ SIDE - 1 }}u) / {{ SIDE }}u);
    let id = params.first_group + group.x + group.y * groups.x;
    if (id >= tiles * params.parts) {
        return;
    }
    let part = id / tiles;
    let first_row = id % tiles / across * {{ SIDE }}u;
    let first_column = id % tiles % across * {{ SIDE }}u;
    let start = part * params.chunk;
    let end = min(start + params.chunk, params.k);

    // The block that this invocation loads: neighbours read neighbouring vectors.
    let is_a = lane < 128u;
    var quad = lane % 128u;
    var deep = 0u;
    if ({{ "is_a" if A_ALONG_K else "false" }} || {{ "!is_a" if B_ALONG_K else "false" }}) {
        deep = quad % QUADS_DEEP;
        quad = quad / QUADS_DEEP;
    } else {
        deep = quad / QUADS;
        quad = quad % QUADS;
    }
    let line = select(first_column, first_row, is_a) + quad * 4u;
    let write_at = select(B_TILE, 0u, is_a);

    let across_quad = lane % 16u;
    let down_quad = lane / 16u;
    {%- for i in range(SIDE // 16) %}{% for j in range(SIDE // 64) %}
    var sum{{ i }}_{{ j }} = vec4<f32>();
    {%- endfor %}{% endfor %}

    let dense_steps = (end - start + {{ DEPTH - 1 }}u) / {{ DEPTH }}u;
    {%- if LOW %}
    let steps = dense_steps + (params.r + {{ DEPTH - 1 }}u) / {{ DEPTH }}u;
    {%- else %}
    let steps = dense_steps;
    {%- endif %}
    var block = mat4x4<f32>();
    var step = 0u;
    if (steps > 0u) {
        {{- next() }}
    }
    while (step < steps) {
        workgroupBarrier();
        {%- for i in range(4) %}
        tile[write_at + slot(deep * 4u + {{ i }}u, quad)] = block[{{ i }}];
        {%- endfor %}
        workgroupBarrier();
        step++;
        if (step < steps) {
            {{- next() }}
        }
        for (var k = 0u; k < {{ DEPTH }}u; k += 4u) {
            {%- for s in range(4) %}
            {%- for h in range(SIDE // 64) %}
            let a{{ s }}_{{ h }} = tile[slot(k + {{ s }}u, down_quad + {{ 16 * h }}u)];
            let b{{ s }}_{{ h }} = tile[B_TILE + slot(k + {{ s }}u, across_quad + {{ 16 * h }}u)];
            {%- endfor %}
            {%- for i in range(SIDE // 16) %}{% for j in range(SIDE // 64) %}
            sum{{ i }}_{{ j }} += a{{ s }}_{{ i // 4 }}[{{ i % 4 }}] * b{{ s }}_{{ j }};
            {%- endfor %}{% endfor %}
            {%- endfor %}
        }
    }

    let part_at = params.c_at + part * params.m * params.n;
    {%- for i in range(SIDE // 16) %}
    {
        let row = first_row + down_quad * 4u + {{ i // 4 * 64 + i % 4 }}u;
        {%- for j in range(SIDE // 64) %}
        let column{{ j }} = first_column + across_quad * 4u + {{ 64 * j }}u;
        let at{{ j }} = part_at + row * params.n + column{{ j }};
        let value{{ j }} = params.scale * sum{{ i }}_{{ j }};
        {%- if C_VECTOR %}
        if (row < params.m && column{{ j }} < params.n) {
            c[at{{ j }} / 4u] {{ "+=" if ADD else "=" }} value{{ j }};
        }
        {%- else %}
        {%- for x in range(4) %}
        if (row < params.m && column{{ j }} + {{ x }}u < params.n) {
            c[at{{ j }} + {{ x }}u] {{ "+=" if ADD else "=" }} value{{ j }}[{{ x }}];
        }
        {%- endfor %}
        {%- endif %}
        {%- endfor %}
    }
    {%- endfor %}
}
