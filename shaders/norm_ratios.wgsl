// out[v] = |x_v| / (|y_v| + eps) from the sums of squares of their parts, x and y [parts, vectors].
// One invocation to a vector.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

struct Params { vectors: u32, parts: u32, eps: f32 }
@group(0) @binding(3) var<storage, read> params: Params;

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let vector = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if (vector >= params.vectors) {
        return;
    }
    var x_sum = 0.0;
    var y_sum = 0.0;
    for (var part = 0u; part < params.parts; part++) {
        x_sum += x[part * params.vectors + vector];
        y_sum += y[part * params.vectors + vector];
    }
    out[vector] = sqrt(x_sum) / (sqrt(y_sum) + params.eps);
}
