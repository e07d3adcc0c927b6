// out[0] = max_norm / (norm + eps) with norm = sqrt(squares[0]), or 1 where the norm is not above it. One invocation.
// By their bits, which are ordered as numbers that are not negative are, and NaN above them: a program may assume that no
// number is NaN.

@group(0) @binding(0) var<storage, read_write> squares: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

struct Params { max_norm: f32, eps: f32 }
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size(1)
fn main() {
    let norm = sqrt(squares[0]);
    out[0] = select(params.max_norm / (norm + params.eps), 1.0, bitcast<u32>(norm) <= bitcast<u32>(params.max_norm));
}
