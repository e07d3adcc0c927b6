// dx += rstd·(gain·dy - x·rstd²/WIDTH·Σ gain·dy·x) of each row of x [rows, WIDTH]. Sums in f32.
// After row_sum.wgsl.
{% set value = "vec4<f32>" if VEC == 4 else "f32" %}
{% set width = WIDTH // VEC %}
@group(0) @binding(0) var<storage, read_write> dx: array<{{ value }}>;
@group(0) @binding(1) var<storage, read_write> dy: array<{{ value }}>;
@group(0) @binding(2) var<storage, read_write> x: array<{{ value }}>;
@group(0) @binding(3) var<storage, read_write> gain: array<{{ value }}>;
@group(0) @binding(4) var<storage, read_write> rstd: array<f32>;

struct Params { rows: u32 }
@group(0) @binding(5) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let place = group.x + group.y * groups.x;
{% if TREE == 1 %}
    let row = place;
    let start = lane;
{% else %}
    let row = place * {{ WORKGROUP }}u + lane;
    let start = 0u;
{% endif %}
    if row >= params.rows {
        return;
    }
    let first = row * {{ width }}u;
    var products = {{ value }}(0.0);
    for (var i = start; i < {{ width }}u; i += {{ STEP }}u) {
        products = fma(gain[i] * dy[first + i], x[first + i], products);
    }
{% if VEC == 4 %}
    let part = (products.x + products.y) + (products.z + products.w);
{% else %}
    let part = products;
{% endif %}
    let scale = rstd[row];
    let along = row_sum(part, lane) * scale * scale / {{ WIDTH }}.0;
    for (var i = start; i < {{ width }}u; i += {{ STEP }}u) {
        dx[first + i] += scale * (gain[i] * dy[first + i] - x[first + i] * along);
    }
}
