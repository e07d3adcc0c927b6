// Some columns of a wide matrix: wide[r, at + c] = narrow[r, c], or with TAKE 1 the other way round.
// wide [rows, wide_width], narrow [rows, width]. An element to an invocation.

@group(0) @binding(0) var<storage, read_write> wide: array<f32>;
@group(0) @binding(1) var<storage, read_write> narrow: array<f32>;

struct Params { elements: u32, width: u32, wide_width: u32, at: u32 }
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if i >= params.elements {
        return;
    }
    let place = i / params.width * params.wide_width + params.at + i % params.width;
{% if TAKE == 1 %}
    narrow[i] = wide[place];
{% else %}
    wide[place] = narrow[i];
{% endif %}
}
