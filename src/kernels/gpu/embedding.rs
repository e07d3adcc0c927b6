//! Token embedding and its gradient.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{Shader, assert_unique, elements, empty, sizes};
use super::rows::{over_items, vector};

static EMBEDDING: Shader =
    Shader::new("embedding", include_str!("../../../shaders/embedding.wgsl"));
static EMBEDDING_GRAD: Shader =
    Shader::new("embedding_grad", include_str!("../../../shaders/embedding_grad.wgsl"));

pub(super) fn embedding(ids: &CubeTensor, table: &CubeTensor) -> CubeTensor {
    let ([rows, width], tokens) = (sizes(table), elements(ids));
    let out = empty(table, [tokens, width]);
    let vec = vector(width);
    let vectors = tokens * width / vec;
    let launch = EMBEDDING.launch().constant("WIDTH", width).constant("VEC", vec);
    let launch = launch.tensor(ids).tensor(table).tensor(&out);
    let launch = launch.uint(vectors).uint(rows).float(f32::NAN);
    over_items(launch.work(tokens * width * 8), table, vectors);
    out
}

pub(super) fn embedding_grad(
    acc: CubeTensor,
    dx: &CubeTensor,
    ids: &CubeTensor,
    order: &CubeTensor,
) -> CubeTensor {
    assert_unique(&acc, "embedding_grad");
    let ([rows, width], tokens) = (sizes(&acc), elements(ids));
    let vec = vector(width);
    let vectors = tokens * width / vec;
    let launch = EMBEDDING_GRAD.launch().constant("WIDTH", width).constant("VEC", vec);
    let launch = launch.tensor(&acc).tensor(dx).tensor(ids).tensor(order);
    let launch = launch.uint(vectors).uint(tokens).uint(rows);
    over_items(launch.work(tokens * width * 12), &acc, vectors);
    acc
}
