// Exchanges rows of A [_, inputs] with rows of pool_a, and columns of B [outputs, rank] with rows of pool_b: all leave to
// their rows before any comes in. left_a [rows, inputs] and left_b [columns, outputs] are what left minus what came. A way is
// (vector, from, to): the vector leaves to pool row `from`, pool row `to` takes its place; those of A come first.
//
// One invocation to an element of all vectors of a side, so no order between invocations matters.

@group(0) @binding(0) var<storage, read_write> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> pool_a: array<f32>;
@group(0) @binding(2) var<storage, read_write> left_a: array<f32>;
@group(0) @binding(3) var<storage, read_write> b: array<f32>;
@group(0) @binding(4) var<storage, read_write> pool_b: array<f32>;
@group(0) @binding(5) var<storage, read_write> left_b: array<f32>;

struct Params {
    rows: u32,
    columns: u32,
    inputs: u32,
    outputs: u32,
    rank: u32,
    zero1: u32,
    zero2: u32,
    zero3: u32,
    ways: array<vec4<u32>, {{ CAPACITY }}>,
}
@group(0) @binding(6) var<storage, read> params: Params;

fn exchange_row_element(e: u32) {
    let length = params.inputs;
    for (var j = 0u; j < params.rows; j++) {
        let way = params.ways[j];
        let leaving = a[way.x * length + e];
        left_a[j * length + e] = leaving;
        pool_a[way.y * length + e] = leaving;
    }
    for (var j = 0u; j < params.rows; j++) {
        let way = params.ways[j];
        let coming = pool_a[way.z * length + e];
        left_a[j * length + e] -= coming;
        a[way.x * length + e] = coming;
    }
}

fn exchange_column_element(e: u32) {
    let length = params.outputs;
    for (var j = 0u; j < params.columns; j++) {
        let way = params.ways[params.rows + j];
        let leaving = b[e * params.rank + way.x];
        left_b[j * length + e] = leaving;
        pool_b[way.y * length + e] = leaving;
    }
    for (var j = 0u; j < params.columns; j++) {
        let way = params.ways[params.rows + j];
        let coming = pool_b[way.z * length + e];
        left_b[j * length + e] -= coming;
        b[e * params.rank + way.x] = coming;
    }
}

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let e = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if (e < params.inputs) {
        exchange_row_element(e);
    } else if (e - params.inputs < params.outputs) {
        exchange_column_element(e - params.inputs);
    }
}
