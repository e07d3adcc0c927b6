// h = gate·σ(gate)·up, element by element. VEC elements to an invocation. After exponential.wgsl.
{% set value = "vec4<f32>" if VEC == 4 else "f32" %}
@group(0) @binding(0) var<storage, read_write> gate: array<{{ value }}>;
@group(0) @binding(1) var<storage, read_write> up: array<{{ value }}>;
@group(0) @binding(2) var<storage, read_write> h: array<{{ value }}>;

struct Params { vectors: u32 }
@group(0) @binding(3) var<storage, read> params: Params;

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exponential(-x));
}

@compute @workgroup_size({{ WORKGROUP }})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * {{ WORKGROUP }}u + lane;
    if i < params.vectors {
        let g = gate[i];
{% if VEC == 4 %}
        let s = vec4(sigmoid(g.x), sigmoid(g.y), sigmoid(g.z), sigmoid(g.w));
{% else %}
        let s = sigmoid(g);
{% endif %}
        h[i] = g * s * up[i];
    }
}
