// What the attention programs for GPUs share: 64 invocations, 8 by 8, work on tiles of 32 queries by 32 keys, each
// on a block of 4 by 4. Columns of D go through workgroup memory in chunks of 32. 14.5 KiB of it at most.
//
// `across` and `down` are an invocation's place: rows 4·down and columns 4·across of a tile are its own.

/// Columns first: 32 columns of 8 vectors of four rows (and one to keep the banks apart).
var<workgroup> left: array<vec4<f32>, 288>;
/// The same of the other matrix, or rows first: 32 rows of 8 vectors of four columns.
var<workgroup> right: array<vec4<f32>, 288>;
/// Weights of 32 × 32 pairs, the rows of a product with rows of `right`; laid out as `left`.
var<workgroup> weights: array<vec4<f32>, 288>;

{% macro values(tensor, at, stride, rows, row, column) -%}
vec4({% for i in range(4) %}{{ "" if loop.first else ", " }}select(0.0, {{ tensor }}[{{ at }} + min({{ row }} + {{ i }}u, {{ rows }} - 1u) * {{ stride }} + min({{ column }}, {{ D - 1 }}u)], {{ row }} + {{ i }}u < {{ rows }} && {{ column }} < {{ D }}u){% endfor %})
{%- endmacro %}

{# Loads columns 32·c.. of 32 rows from `first` on, columns first. #}
{% macro load_columns(to, tensor, at, stride, rows, first, c) %}
    for (var slot = lane; slot < 256u; slot += 64u) {
        let row = {{ first }} + slot / 32u * 4u;
        let column = {{ 32 * c }}u + slot % 32u;
        {{ to }}[slot % 32u * 9u + slot / 32u] = {{ values(tensor, at, stride, rows, "row", "column") }};
    }
{% endmacro %}

{# Loads columns 32·c.. of 32 rows from `first` on into `right`, rows first. #}
{% macro load_rows(tensor, at, stride, rows, first, c) %}
    for (var slot = lane; slot < 256u; slot += 64u) {
        let row = {{ first }} + slot / 8u;
        let column = {{ 32 * c }}u + slot % 8u * 4u;
        let from_at = {{ at }} + min(row, {{ rows }} - 1u) * {{ stride }};
        right[slot] = vec4({% for i in range(4) %}{{ "" if loop.first else ", " }}select(0.0, {{ tensor }}[from_at + min(column + {{ i }}u, {{ D - 1 }}u)], row < {{ rows }} && column + {{ i }}u < {{ D }}u){% endfor %});
    }
{% endmacro %}

{# Adds to sum_0..sum_3 the products of four rows of one matrix with four rows of another. #}
{% macro products(sum, x, x_at, x_stride, x_rows, x_first, y, y_at, y_stride, y_rows, y_first) %}
{% for c in range(CHUNKS) %}
    workgroupBarrier();
{{ load_columns("left", x, x_at, x_stride, x_rows, x_first, c) }}
{{ load_columns("right", y, y_at, y_stride, y_rows, y_first, c) }}
    workgroupBarrier();
    for (var i = 0u; i < {{ [32, D - 32 * c]|min }}u; i++) {
        let a = left[i * 9u + down];
        let b = right[i * 9u + across];
{% for i in range(4) %}
        {{ sum }}_{{ i }} = fma(vec4(a[{{ i }}]), b, {{ sum }}_{{ i }});
{% endfor %}
    }
{% endfor %}
{% endmacro %}

{# Adds to sum_c_0..sum_c_3 the weights times 32 rows of a matrix. #}
{% macro weighted(sum, y, y_at, y_stride, y_rows, y_first) %}
{% for c in range(CHUNKS) %}
    workgroupBarrier();
{{ load_rows(y, y_at, y_stride, y_rows, y_first, c) }}
    workgroupBarrier();
    for (var i = 0u; i < 32u; i++) {
        let a = weights[i * 9u + down];
        let b = right[i * 8u + across];
{% for i in range(4) %}
        {{ sum }}_{{ c }}_{{ i }} = fma(vec4(a[{{ i }}]), b, {{ sum }}_{{ c }}_{{ i }});
{% endfor %}
    }
{% endfor %}
{% endmacro %}

{# Puts four by four values of this invocation into `weights`, after all have read it. #}
{% macro store_weights(name) %}
    workgroupBarrier();
{% for j in range(4) %}
    weights[(across * 4u + {{ j }}u) * 9u + down] = vec4({{ name }}_0[{{ j }}], {{ name }}_1[{{ j }}], {{ name }}_2[{{ j }}], {{ name }}_3[{{ j }}]);
{% endfor %}
{% endmacro %}

{# Writes rows of sums, times `factor_i`, to their places. #}
{% macro store_rows(tensor, sum, at, stride, rows, first, factor) %}
{% for i in range(4) %}
    if {{ first }} + down * 4u + {{ i }}u < {{ rows }} {
        let row_at = {{ at }} + ({{ first }} + down * 4u + {{ i }}u) * {{ stride }};
{% for c in range(CHUNKS) %}
{% for j in range(4) %}
        if {{ 32 * c + j }}u + across * 4u < {{ D }}u {
            {{ tensor }}[row_at + {{ 32 * c + j }}u + across * 4u] = {{ sum }}_{{ c }}_{{ i }}[{{ j }}] * {{ factor }}_{{ i }};
        }
{% endfor %}
{% endfor %}
    }
{% endfor %}
{% endmacro %}
