// Sums (or sums of squares) of vectors, in parts: out[part, v] = sum of x[v * line + i * stride] over the part's `chunk`
// elements i. An invocation to a part, no barriers; 64 elements at a time, so that roundings do not pile up.
//
// WIDE 1: x is vec4, and length, chunk, line and stride count those. WIDE 2: four neighbouring vectors at once, so vectors,
// line and stride count vec4s, and so is out. ADD: onto what is there.

{% set T = "f32" if WIDE == 0 else "vec4<f32>" -%}
@group(0) @binding(0) var<storage, read_write> x: array<{{ T }}>;
@group(0) @binding(1) var<storage, read_write> out: array<{{ "vec4<f32>" if WIDE == 2 else "f32" }}>;

struct Params { vectors: u32, parts: u32, length: u32, chunk: u32, line: u32, stride: u32 }
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if (unit >= params.vectors * params.parts) {
        return;
    }
    let part = unit / params.vectors;
    let vector = unit - part * params.vectors;
    let start = part * params.chunk;
    let end = min(start + params.chunk, params.length);
    var total = {{ T }}(0.0);
    for (var block = start; block < end; block += 64u) {
        var sum = {{ T }}(0.0);
        for (var i = block; i < min(block + 64u, end); i++) {
            let value = x[vector * params.line + i * params.stride];
            sum += {{ "value * value" if SQUARE == 1 else "value" }};
        }
        total += sum;
    }
    out[unit] {{ "+=" if ADD == 1 else "=" }} {{
        "(total.x + total.y) + (total.z + total.w)" if WIDE == 1 else "total"
    }};
}
