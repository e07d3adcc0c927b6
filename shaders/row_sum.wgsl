// A sum over one row of a matrix. Put in front of the programs that work by rows, whose invocations start at
// column `start` and go on in steps of `STEP`.
//
// TREE 1, for GPUs: a workgroup to a row; what its invocations have is added as a tree. TREE 0, for software
// adapters: an invocation to a row, no barriers.
{% if TREE == 1 %}
{% set STEP = WORKGROUP %}
var<workgroup> parts: array<f32, {{ WORKGROUP }}>;

/// The sum of `part` over the workgroup.
fn row_sum(part: f32, lane: u32) -> f32 {
    parts[lane] = part;
    workgroupBarrier();
    for (var reach = {{ WORKGROUP // 2 }}u; reach > 0u; reach = reach / 2u) {
        if lane < reach {
            parts[lane] += parts[lane + reach];
        }
        workgroupBarrier();
    }
    let sum = parts[0];
    workgroupBarrier();
    return sum;
}

/// The largest `part` of the workgroup.
fn row_max(part: f32, lane: u32) -> f32 {
    parts[lane] = part;
    workgroupBarrier();
    for (var reach = {{ WORKGROUP // 2 }}u; reach > 0u; reach = reach / 2u) {
        if lane < reach {
            parts[lane] = max(parts[lane], parts[lane + reach]);
        }
        workgroupBarrier();
    }
    let largest = parts[0];
    workgroupBarrier();
    return largest;
}
{% else %}
{% set STEP = 1 %}
fn row_sum(part: f32, lane: u32) -> f32 {
    return part;
}

fn row_max(part: f32, lane: u32) -> f32 {
    return part;
}
{% endif %}
