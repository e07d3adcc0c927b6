// to = from, four elements to an invocation: what the device's memory gives when nothing is computed.
// The number of elements is a multiple of four.

@group(0) @binding(0) var<storage, read_write> from_: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> to: array<vec4<f32>>;

struct Params { quads: u32 }
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if at < params.quads {
        to[at] = from_[at];
    }
}
