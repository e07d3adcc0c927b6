// Before Adam sees a gradient, in place, with x = grad * scale[0]:
//
//   where x^2 > threshold * v and v > 0:  grad = sign(x) * sqrt(threshold * v) / scale[0]
//   where the place is masked:            grad = 0
//
// v is the second moment before the update. tally holds two floats: how many were clipped, and the largest x^2 / v of them,
// which is never negative, so that its bits are ordered as the number is. Both are exact (the count up to 2^24), so the order
// does not matter. A workgroup adds to them once.
// One invocation to STEPS neighbours.

@group(0) @binding(0) var<storage, read_write> grad: array<f32>;
@group(0) @binding(1) var<storage, read_write> exp_avg_sq: array<f32>;
@group(0) @binding(2) var<storage, read_write> scale: array<f32>;
@group(0) @binding(3) var<storage, read_write> tally: array<atomic<u32>>;

// clips and masks: 1 where that is wanted. A place stays where its hash is below `below`.
struct Params { elements: u32, clips: u32, threshold: f32, masks: u32, key: u32, below: u32 }
@group(0) @binding(4) var<storage, read> params: Params;

var<workgroup> clipped: atomic<u32>;
var<workgroup> most: atomic<u32>;

fn mixed(place: u32) -> u32 {
    var x = place;
    x ^= x >> 16u;
    x *= 0x7feb352du;
    x ^= x >> 15u;
    x *= 0x846ca68bu;
    x ^= x >> 16u;
    return x;
}

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = ((group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane) * {{ STEPS }}u;
    let scaling = scale[0];
    if (lane == 0u) {
        atomicStore(&clipped, 0u);
        atomicStore(&most, 0u);
    }
    workgroupBarrier();
    var count = 0u;
    var largest = 0.0;
    for (var i = first; i < min(first + {{ STEPS }}u, params.elements); i++) {
        if (params.masks == 1u && mixed(mixed(i) ^ params.key) >= params.below) {
            grad[i] = 0.0;
            continue;
        }
        let x = grad[i] * scaling;
        let v = exp_avg_sq[i];
        let limit = params.threshold * v;
        if (params.clips == 1u && v > 0.0 && x * x > limit) {
            grad[i] = sign(x) * sqrt(limit) / scaling;
            count++;
            largest = max(largest, x * x / v);
        }
    }
    if (count > 0u) {
        atomicAdd(&clipped, count);
        atomicMax(&most, bitcast<u32>(largest));
    }
    workgroupBarrier();
    if (lane == 0u && atomicLoad(&clipped) > 0u) {
        atomicMax(&tally[1], atomicLoad(&most));
        var old = atomicLoad(&tally[0]);
        loop {
            let sum = bitcast<u32>(bitcast<f32>(old) + f32(atomicLoad(&clipped)));
            let result = atomicCompareExchangeWeak(&tally[0], old, sum);
            if (result.exchanged) {
                break;
            }
            old = result.old_value;
        }
    }
}
