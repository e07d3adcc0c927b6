//! AdamW in place.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{self, Launch, Shader, assert_unique, elements, sizes};
use super::super::update::{AdamForm, AdamW, Axis, Constants, step_factors};
use super::elementwise_groups;
use super::grid::{rowwise, wide};

static ADAMW: Shader = Shader::new("adamw", include_str!("../../../shaders/adamw.wgsl"));
static VECTOR_FACTORS: Shader =
    Shader::new("vector_factors", include_str!("../../../shaders/vector_factors.wgsl"));

/// Parameter and moments.
type State = (CubeTensor, CubeTensor, CubeTensor);

fn assert_in_place(state: &State, name: &str) {
    for tensor in [&state.0, &state.1, &state.2] {
        assert_unique(tensor, name);
    }
}

/// Launches the update; `axis` 0 is one set of factors for all elements, 1 and 2 are rows and columns.
fn update<'a>(
    state: &'a State,
    grad: &'a CubeTensor,
    factors: &'a CubeTensor,
    axis: u32,
    [rows, width]: [usize; 2],
    c: Constants,
    last: [f32; 3],
) {
    let keep = if c.decay_first { [c.keep, 1.0] } else { [1.0, c.keep] };
    let (wide, width) = wide(width);
    let cut = rowwise(grad, rows, width);
    let launch: Launch<'a> = ADAMW
        .launch()
        .constant("WIDE", wide)
        .constant("AXIS", axis)
        .constant("STEPS", cut.steps)
        .constant("WORKGROUP", cut.workgroup)
        .tensor(&state.0)
        .tensor(grad)
        .tensor(&state.1)
        .tensor(&state.2)
        .tensor(factors)
        .uint(rows)
        .uint(width);
    let numbers = [c.new1, c.beta2, c.new2, c.eps, keep[0], keep[1]].into_iter().chain(last);
    numbers.fold(launch, Launch::float).work(28 * elements(grad)).over(cut.groups);
}

fn flag(value: bool) -> f32 {
    if value { 1.0 } else { 0.0 }
}

/// One counter for the whole tensor.
pub(super) fn adamw(
    state: State,
    grad: &CubeTensor,
    grad_scale: &CubeTensor,
    hyper: AdamW,
    step: u32,
) -> State {
    assert_in_place(&state, "adamw");
    let (rate, root_divisor) = step_factors(hyper, step);
    let last = [rate, root_divisor, flag(hyper.learning_rate == 0.0)];
    update(&state, grad, grad_scale, 0, [1, elements(grad)], Constants::new(hyper), last);
    state
}

/// A counter for each row or column.
pub(super) fn adamw_vectors(
    state: State,
    grad: &CubeTensor,
    grad_scale: &CubeTensor,
    counters: &CubeTensor,
    hyper: AdamW,
    t: u32,
    axis: Axis,
    decay_frozen: bool,
) -> State {
    assert_in_place(&state, "adamw_vectors");
    let vectors = elements(counters) / 2;
    let by_column = axis == Axis::Columns;
    let factors = launch::empty(grad, if by_column { [4, vectors] } else { [vectors, 4] });
    let c = Constants::new(hyper);
    let (workgroup, groups) = elementwise_groups(grad, vectors);
    VECTOR_FACTORS
        .launch()
        .constant("WORKGROUP", workgroup)
        .constant("BY_COLUMN", u32::from(by_column))
        .tensor(grad_scale)
        .tensor(counters)
        .tensor(&factors)
        .uint(vectors)
        .uint(t)
        .float(hyper.learning_rate as f32)
        .float(c.new1)
        .float(c.new2)
        .uint(u32::from(hyper.form == AdamForm::Torch))
        .uint(u32::from(decay_frozen))
        .over(groups);
    let axis = if by_column { 2 } else { 1 };
    update(&state, grad, &factors, axis, sizes(grad), c, [0.0; 3]);
    state
}
