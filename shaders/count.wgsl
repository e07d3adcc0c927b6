// counter[0] += 1, from 2^20 back to 0. One invocation.

@group(0) @binding(0) var<storage, read_write> counter: array<f32>;

@compute @workgroup_size(1)
fn main() {
    let next = counter[0] + 1.0;
    counter[0] = select(next, 0.0, next >= 1048576.0);
}
