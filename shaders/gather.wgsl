// out[k] = dense[places[k]], or added to it with ADD. A place outside `dense` gives `stranger`, which is NaN. An
// invocation to each value.
@group(0) @binding(0) var<storage, read_write> dense: array<f32>;
@group(0) @binding(1) var<storage, read_write> places: array<i32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

struct Params { count: u32, entries: u32, stranger: f32 }
@group(0) @binding(3) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let k = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if k >= params.count {
        return;
    }
    // A negative place is above every size.
    let place = u32(places[k]);
    if place >= params.entries {
        out[k] = params.stranger;
        return;
    }
    {% if ADD == 1 -%}
    out[k] += dense[place];
    {%- else -%}
    out[k] = dense[place];
    {%- endif %}
}
