//! Biases of layers.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{Shader, assert_unique, sizes};
use super::super::scaling::Along;
use super::norm::add_partials;
use super::rows::{over_items, vector};
use super::sums::{self, Terms};

static ADD_BIAS: Shader = Shader::new("add_bias", include_str!("../../../shaders/add_bias.wgsl"));

/// `y += bias` on every row, in place.
pub(super) fn add_bias(y: CubeTensor, bias: &CubeTensor) -> CubeTensor {
    assert_unique(&y, "add_bias");
    let [rows, width] = sizes(&y);
    let vec = vector(width);
    let vectors = rows * width / vec;
    let launch = ADD_BIAS.launch().constant("WIDTH", width).constant("VEC", vec);
    let launch = launch.tensor(&y).tensor(bias).uint(vectors);
    over_items(launch.work(rows * width * 8), &y, vectors);
    y
}

/// `acc += Σ dy` by column, in place: sums over parts of the rows, then their sum in order.
pub(super) fn bias_grad(acc: CubeTensor, dy: &CubeTensor) -> CubeTensor {
    assert_unique(&acc, "bias_grad");
    let [rows, width] = sizes(dy);
    if width == 1 {
        sums::add_total(&acc, dy, Terms::Plain);
    } else if rows > 0 {
        add_partials(&acc, &sums::parts(dy, Along::Columns, Terms::Plain));
    }
    acc
}
