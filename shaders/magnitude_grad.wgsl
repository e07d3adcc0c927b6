// partials[c] = Σ dy·z / lengths over the rows of chunk c, column by column: the first half of the magnitudes'
// gradient, which sum_partials finishes. VEC columns of a chunk of ROWS rows of z [rows, WIDTH] to an invocation.
{% set value = "vec4<f32>" if VEC == 4 else "f32" %}
{% set width = WIDTH // VEC %}
@group(0) @binding(0) var<storage, read_write> dy: array<{{ value }}>;
@group(0) @binding(1) var<storage, read_write> z: array<{{ value }}>;
@group(0) @binding(2) var<storage, read_write> lengths: array<{{ value }}>;
@group(0) @binding(3) var<storage, read_write> partials: array<{{ value }}>;

struct Params { rows: u32, vectors: u32 }
@group(0) @binding(4) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if i >= params.vectors {
        return;
    }
    let first = i / {{ width }}u * {{ ROWS }}u;
    let column = i % {{ width }}u;
    var sum = {{ value }}(0.0);
    for (var row = first; row < min(first + {{ ROWS }}u, params.rows); row++) {
        let at = row * {{ width }}u + column;
        sum += dy[at] * z[at];
    }
    partials[i] = sum / lengths[column];
}
