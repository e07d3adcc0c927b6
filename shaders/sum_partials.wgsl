// acc[c] += Σ partials[p, c] over p in ascending order. An invocation to a column.

@group(0) @binding(0) var<storage, read_write> acc: array<f32>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;

struct Params { columns: u32, partials: u32 }
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if column >= params.columns {
        return;
    }
    var sum = acc[column];
    for (var p = 0u; p < params.partials; p++) {
        sum += partials[p * params.columns + column];
    }
    acc[column] = sum;
}
