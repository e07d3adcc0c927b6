// C = the sum of the parts of a product whose inner size was cut, or C += that. One invocation to an
// element; the parts lie one behind the other and are added in their order.

@group(0) @binding(0) var<storage, read_write> c: array<f32>;
@group(0) @binding(1) var<storage, read_write> parts: array<f32>;

struct Params { elements: u32, c_at: u32, count: u32 }
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + lane;
    if (i >= params.elements) {
        return;
    }
    var sum = parts[i];
    for (var part = 1u; part < params.count; part++) {
        sum += parts[part * params.elements + i];
    }
    c[params.c_at + i] {{ "+=" if ADD else "=" }} sum;
}
