// Text before the programs of a product: what a packed second operand needs, where PACKED is not 0.
//
// PACKED: 1 f16, 2 codes of 8 bits, 3 levels of NF4. Then `b` holds words, each row beginning with a word of its own, and
// `scales` the factor of each 64 elements of a row (not with f16).
{%- set PER_WORD = [1, 2, 4, 8][PACKED] %}
{%- macro words_of_row(columns) %}{{ "(" ~ columns ~ " + 3u) / 4u * 2u" if PACKED == 1 else "(" ~ columns ~ " + " ~ (PER_WORD - 1) ~ "u) / " ~ PER_WORD ~ "u" }}{% endmacro %}
{%- macro blocks_of_row(columns) %}({{ columns }} + 63u) / 64u{% endmacro %}
{%- macro level(float, uint) %}
{%- if PACKED == 3 %}
// The level of a code: four choices, one for each of its bits, as a look-up would cost a load.
fn level(code: {{ uint }}) -> {{ float }} {
    let none = {{ uint }}(0u);
    let is_1 = (code & {{ uint }}(1u)) != none;
    let is_2 = (code & {{ uint }}(2u)) != none;
    let is_4 = (code & {{ uint }}(4u)) != none;
    let is_8 = (code & {{ uint }}(8u)) != none;
    {%- set levels = ["-1.0", "-0.6961928", "-0.52507305", "-0.3949175", "-0.28444138", "-0.18477343", "-0.091050036", "0.0", "0.0795803", "0.1609302", "0.2461123", "0.33791524", "0.44070983", "0.562617", "0.72295684", "1.0"] %}
    {%- for i in range(8) %}
    let pair_{{ i }} = select({{ float }}({{ levels[2 * i] }}), {{ float }}({{ levels[2 * i + 1] }}), is_1);
    {%- endfor %}
    {%- for i in range(4) %}
    let four_{{ i }} = select(pair_{{ 2 * i }}, pair_{{ 2 * i + 1 }}, is_2);
    {%- endfor %}
    return select(select(four_0, four_1, is_4), select(four_2, four_3, is_4), is_8);
}
{%- endif %}
{%- endmacro %}
