// out = (a[0], b[0], counter[0] - counted + serial): the last is `serial`, which no read-back before it had, if nothing
// that was queued is missing. One invocation.

@group(0) @binding(0) var<storage, read_write> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> counter: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

struct Params { counted: f32, serial: f32 }
@group(0) @binding(4) var<storage, read> params: Params;

@compute @workgroup_size(1)
fn main() {
    out[0] = a[0];
    out[1] = b[0];
    out[2] = (counter[0] - params.counted) + params.serial;
}
