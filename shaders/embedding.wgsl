// out[t] = table[ids[t]], rows of WIDTH elements. VEC elements to an invocation. An id outside the table
// gives a row of `stranger`, which is NaN. PART 1: the table holds the ids from `first` on, its rows are added to out, and
// other ids leave out alone.
{% set value = "vec4<f32>" if VEC == 4 else "f32" %}
{% set width = WIDTH // VEC %}
@group(0) @binding(0) var<storage, read_write> ids: array<i32>;
@group(0) @binding(1) var<storage, read_write> table: array<{{ value }}>;
@group(0) @binding(2) var<storage, read_write> out: array<{{ value }}>;

struct Params { vectors: u32, rows: i32, first: i32, stranger: f32 }
@group(0) @binding(3) var<storage, read> params: Params;

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
    let id = ids[i / {{ width }}u] - params.first;
    if id < 0 || id >= params.rows {
{% if PART == 0 %}
        out[i] = {{ value }}(params.stranger);
{% endif %}
        return;
    }
    out[i] {{ "+=" if PART == 1 else "=" }} table[u32(id) * {{ width }}u + i % {{ width }}u];
}
