// acc[id - first] += Σ dx[t] over the positions t of each id, in ascending order. `order` are the positions sorted by
// id, so equal ids make a run. VEC columns at a place of `order` to an invocation: the one at the first
// place of a run adds the whole run, the others have nothing to do.
{% set value = "vec4<f32>" if VEC == 4 else "f32" %}
{% set width = WIDTH // VEC %}
@group(0) @binding(0) var<storage, read_write> acc: array<{{ value }}>;
@group(0) @binding(1) var<storage, read_write> dx: array<{{ value }}>;
@group(0) @binding(2) var<storage, read_write> ids: array<i32>;
@group(0) @binding(3) var<storage, read_write> order: array<i32>;

struct Params { vectors: u32, tokens: u32, rows: i32, first: i32 }
@group(0) @binding(4) var<storage, read> params: Params;

/// The position at a place of the order, kept inside `dx`.
fn position(place: u32) -> u32 {
    return min(u32(order[place]), params.tokens - 1u);
}

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
    let first = i / {{ width }}u;
    let column = i % {{ width }}u;
    let id = ids[position(first)];
    let row = id - params.first;
    if row < 0 || row >= params.rows {
        return;
    }
    if first > 0u {
        if ids[position(first - 1u)] == id {
            return;
        }
    }
    let target_at = u32(row) * {{ width }}u + column;
    var sum = acc[target_at];
    for (var place = first; place < params.tokens; place++) {
        let t = position(place);
        if ids[t] != id {
            break;
        }
        sum += dx[t * {{ width }}u + column];
    }
    acc[target_at] = sum;
}
