// Sums (or sums of squares) of vectors of neighbouring elements, in parts: out[part, v] = sum of x[v * length ..] over the
// part's `chunk` elements; with WIDE these are vec4, and length and chunk count those.
//
// A workgroup to a part: its invocations take every 256th element, then add up in a tree. ADD: onto what is there.

{% set T = "vec4<f32>" if WIDE == 1 else "f32" -%}
@group(0) @binding(0) var<storage, read_write> x: array<{{ T }}>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

struct Params { vectors: u32, parts: u32, length: u32, chunk: u32 }
@group(0) @binding(2) var<storage, read> params: Params;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = group.x + group.y * groups.x;
    if (unit >= params.vectors * params.parts) {
        return;
    }
    let part = unit / params.vectors;
    let vector = unit - part * params.vectors;
    let start = part * params.chunk;
    let end = min(start + params.chunk, params.length);
    var total = {{ T }}(0.0);
    for (var i = start + lane; i < end; i += 256u) {
        let value = x[vector * params.length + i];
        total += {{ "value * value" if SQUARE == 1 else "value" }};
    }
    sums[lane] = {{ "(total.x + total.y) + (total.z + total.w)" if WIDE == 1 else "total" }};
    workgroupBarrier();
    {% for half in [128, 64, 32, 16, 8, 4, 2, 1] -%}
    if (lane < {{ half }}u) {
        sums[lane] += sums[lane + {{ half }}u];
    }
    workgroupBarrier();
    {% endfor -%}
    if (lane == 0u) {
        out[unit] {{ "+=" if ADD == 1 else "=" }} sums[0];
    }
}
