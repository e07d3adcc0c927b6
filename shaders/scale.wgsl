// x [rows, width] times factors, in place: one for all (ALONG 0, rows = 1), one for each row (1) or column (2).
// One invocation to STEPS neighbours in a row; with WIDE they are vec4, and width counts those.

{% set T = "vec4<f32>" if WIDE == 1 else "f32" -%}
@group(0) @binding(0) var<storage, read_write> x: array<{{ T }}>;
@group(0) @binding(1) var<storage, read_write> factors: array<{{ T if ALONG == 2 else "f32" }}>;

struct Params { rows: u32, width: u32 }
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    let segments = (params.width + {{ STEPS - 1 }}u) / {{ STEPS }}u;
    let row = unit / segments;
    if (row >= params.rows) {
        return;
    }
    let first = (unit - row * segments) * {{ STEPS }}u;
    {% if ALONG < 2 -%}
    let factor = factors[{{ "row" if ALONG == 1 else "0" }}];
    {% endif -%}
    for (var c = first; c < min(first + {{ STEPS }}u, params.width); c++) {
        x[row * params.width + c] *= {{ "factors[c]" if ALONG == 2 else "factor" }};
    }
}
