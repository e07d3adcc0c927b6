// lengths[i] = sqrt(squares[i] + Σ b[i, j]·crossed[i, j]), at least `least`, and factor[i] = magnitude[i] / lengths[i].
// b and crossed [outputs, rank]. An invocation to a row.

@group(0) @binding(0) var<storage, read_write> magnitude: array<f32>;
@group(0) @binding(1) var<storage, read_write> squares: array<f32>;
@group(0) @binding(2) var<storage, read_write> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> crossed: array<f32>;
@group(0) @binding(4) var<storage, read_write> lengths: array<f32>;
@group(0) @binding(5) var<storage, read_write> factor: array<f32>;

struct Params { outputs: u32, rank: u32, least: f32 }
@group(0) @binding(6) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if row >= params.outputs {
        return;
    }
    var added = 0.0;
    for (var j = 0u; j < params.rank; j++) {
        added += b[row * params.rank + j] * crossed[row * params.rank + j];
    }
    let size = max(sqrt(max(squares[row] + added, 0.0)), params.least);
    lengths[row] = size;
    factor[row] = magnitude[row] / size;
}
