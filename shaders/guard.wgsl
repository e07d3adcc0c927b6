// out[0] = yes where x[0] is finite and not negative, else no. By its bits: a program may assume that no number is NaN.
// One invocation.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

struct Params { yes: f32, no: f32 }
@group(0) @binding(2) var<storage, read> params: Params;

@compute @workgroup_size(1)
fn main() {
    out[0] = select(params.no, params.yes, bitcast<u32>(x[0]) < 0x7f800000u);
}
