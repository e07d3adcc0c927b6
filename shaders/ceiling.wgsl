// How fast the device multiplies and adds: every invocation turns eight independent chains
// a = a * x + y, so that no chain waits for its own last result; 64 of these a turn. Where the device has
// a fused operation its compiler uses it, as it does in the other programs.
// The chains tend to 1; their sum is written so that no compiler can leave the work out.

@group(0) @binding(0) var<storage, read_write> sums: array<f32>;

struct Params { invocations: u32, turns: u32, x: f32, y: f32 }
@group(0) @binding(1) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if at >= params.invocations {
        return;
    }
    let x = params.x;
    let y = params.y;
    {% for chain in range(8) %}
    var a{{ chain }} = f32(lane + {{ chain }}u);
    {% endfor %}
    for (var turn = 0u; turn < params.turns; turn++) {
        {% for step in range(8) %}
        {% for chain in range(8) %}
        a{{ chain }} = a{{ chain }} * x + y;
        {% endfor %}
        {% endfor %}
    }
    sums[at] = ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7));
}
