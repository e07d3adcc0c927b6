// The limit on the growth of norm = unit * sqrt(squares[0]) over previous[0] (0: unset): out_factor brings it to gamma times
// previous, out_norm is what to compare with next time, out_ratio the growth. One invocation.

@group(0) @binding(0) var<storage, read_write> squares: array<f32>;
@group(0) @binding(1) var<storage, read_write> previous: array<f32>;
@group(0) @binding(2) var<storage, read_write> out_factor: array<f32>;
@group(0) @binding(3) var<storage, read_write> out_norm: array<f32>;
@group(0) @binding(4) var<storage, read_write> out_ratio: array<f32>;

struct Params { gamma: f32, unit: f32, eps: f32, least_norm: f32 }
@group(0) @binding(5) var<storage, read> params: Params;

@compute @workgroup_size(1)
fn main() {
    let norm = params.unit * sqrt(squares[0]);
    let before = previous[0];
    var ratio = 0.0;
    if (before > 0.0) {
        ratio = norm / (before + params.eps);
    }
    var factor = 1.0;
    if (ratio > params.gamma) {
        factor = params.gamma / ratio;
    }
    let limited = norm * factor;
    out_factor[0] = factor;
    out_norm[0] = select(limited, before, limited < params.least_norm);
    out_ratio[0] = ratio;
}
