// C = scale·(A·B + low_scale·P·Q), or C += that: a product with, for LoRA layers, a thin product in the same pass.
// For adapters that compute on the CPU: no workgroup memory, no barriers, everything in registers.
//
// A is M × K and B is K × N, each with its own step from one row or column to the next, so one program
// serves stored and transposed operands; P is M × R and Q is R × N with steps of their own. C is stored row by row.
// A workgroup of 8 invocations computes {{ ROWS }} rows and 8·{{ COLUMNS }} columns of C; invocation i has the
// columns i, i + 8, ... Sums are f32, in the order of K.
{%- if BROADCAST %}
// Needs subgroups of 8: an invocation loads every eighth row of A and hands its values to the other seven.
{%- endif %}

@group(0) @binding(0) var<storage, read_write> c: array<f32>;
@group(0) @binding(1) var<storage, read_write> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> b: array<f32>;
{%- if LOW %}
@group(0) @binding(3) var<storage, read_write> p: array<f32>;
@group(0) @binding(4) var<storage, read_write> q: array<f32>;
{%- endif %}

struct Params {
    m: u32, n: u32, k: u32, r: u32,
    c_at: u32, a_at: u32, b_at: u32,
    a_row: u32, a_step: u32, b_column: u32, b_step: u32,
    p_row: u32, p_step: u32, q_column: u32, q_step: u32,
    scale: f32, low_scale: f32,
}
@group(0) @binding({{ 5 if LOW else 3 }}) var<uniform> params: Params;

{#- `depth` steps of the inner size from `k` on: the operands are loaded first, then each sum is loaded and stored once. #}
{%- macro block(x, y, depth) %}
{%- for s in range(depth) %}
    {%- for i in range(OWNED) %}
        let {{ x }}{{ i }}_{{ s }} = {{ x }}[{{ x }}_start{{ i }} + (k + {{ s }}u) * params.{{ x }}_step];
    {%- endfor %}
    {%- for j in range(COLUMNS) %}
        let {{ y }}{{ j }}_{{ s }} = {{ y }}[{{ y }}_start{{ j }} + (k + {{ s }}u) * params.{{ y }}_step];
    {%- endfor %}
{%- endfor %}
{%- for i in range(ROWS) %}
    {%- for s in range(depth) %}
        {%- if BROADCAST %}
        let {{ x }}_row{{ i }}_{{ s }} = subgroupBroadcast({{ x }}{{ i // 8 }}_{{ s }}, {{ i % 8 }}u);
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
{%- macro product(x, y, size) %}
    {%- for i in range(OWNED) %}
    let {{ x }}_start{{ i }} = {% if x == "a" %}params.a_at + {% endif %}row{{ i }} * params.{{ x }}_row;
    {%- endfor %}
    {%- for j in range(COLUMNS) %}
    let {{ y }}_start{{ j }} = {% if y == "b" %}params.b_at + {% endif %}column{{ j }} * params.{{ y }}_column;
    {%- endfor %}
    for (k = 0u; k + {{ DEPTH }}u <= params.{{ size }}; k += {{ DEPTH }}u) {
        {{- block(x, y, DEPTH) }}
    }
    for (; k < params.{{ size }}; k++) {
        {{- block(x, y, 1) }}
    }
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
    let tile = group.x + group.y * groups.x;
    let across = (params.n + {{ COLUMNS * 8 - 1 }}u) / {{ COLUMNS * 8 }}u;
    let first_row = tile / across * {{ ROWS }}u;
    let first_column = tile % across * {{ COLUMNS * 8 }}u + lane;
    if (first_row >= params.m) {
        return;
    }
    // Rows and columns beyond the matrix repeat its last ones and are not written.
    {%- for i in range(OWNED) %}
    let row{{ i }} = min(first_row + {{ i * 8 if BROADCAST else i }}u{{ " + lane" if BROADCAST }}, params.m - 1u);
    {%- endfor %}
    {%- for j in range(COLUMNS) %}
    let column{{ j }} = min(first_column + {{ 8 * j }}u, params.n - 1u);
    {%- endfor %}
    {%- for i in range(ROWS) %}{% for j in range(COLUMNS) %}
    var sum{{ i }}_{{ j }} = 0.0;
    {%- endfor %}{% endfor %}
    var k = 0u;
    {%- if LOW %}
    {{- product("p", "q", "r") }}
    {%- for i in range(ROWS) %}{% for j in range(COLUMNS) %}
    sum{{ i }}_{{ j }} *= params.low_scale;
    {%- endfor %}{% endfor %}
    {%- endif %}
    {{- product("a", "b", "k") }}

    {%- for i in range(ROWS) %}
    if (first_row + {{ i }}u < params.m) {
        let c_start = params.c_at + (first_row + {{ i }}u) * params.n + first_column;
        {%- for j in range(COLUMNS) %}
        if (first_column + {{ 8 * j }}u < params.n) {
            c[c_start + {{ 8 * j }}u] {{ "+=" if ADD else "=" }} params.scale * sum{{ i }}_{{ j }};
        }
        {%- endfor %}
    }
    {%- endfor %}
}
