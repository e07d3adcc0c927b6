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
    let launch = EMBEDDING.launch().constant("PART", 0);
    let launch = launch.constant("WIDTH", width).constant("VEC", vec);
    let launch = launch.tensor(ids).tensor(table).tensor(&out);
    let launch = launch.uint(vectors).uint(rows).uint(0).float(f32::NAN);
    over_items(launch.work(tokens * width * 8), table, vectors);
    out
}

/// Adds the rows of the ids from `first` on that this part of a table has; the others are left alone.
pub(super) fn embedding_rows(
    out: CubeTensor,
    ids: &CubeTensor,
    table: &CubeTensor,
    first: usize,
) -> CubeTensor {
    assert_unique(&out, "embedding_rows");
    let ([rows, width], tokens) = (sizes(table), elements(ids));
    let vec = vector(width);
    let vectors = tokens * width / vec;
    let launch = EMBEDDING.launch().constant("PART", 1);
    let launch = launch.constant("WIDTH", width).constant("VEC", vec);
    let launch = launch.tensor(ids).tensor(table).tensor(&out);
    let launch = launch.uint(vectors).uint(rows).uint(first).float(f32::NAN);
    over_items(launch.work(tokens * width * 8), table, vectors);
    out
}

pub(super) fn embedding_grad(
    acc: CubeTensor,
    dx: &CubeTensor,
    ids: &CubeTensor,
    order: &CubeTensor,
    first: usize,
) -> CubeTensor {
    assert_unique(&acc, "embedding_grad");
    let ([rows, width], tokens) = (sizes(&acc), elements(ids));
    let vec = vector(width);
    let vectors = tokens * width / vec;
    let launch = EMBEDDING_GRAD.launch().constant("WIDTH", width).constant("VEC", vec);
    let launch = launch.tensor(&acc).tensor(dx).tensor(ids).tensor(order);
    let launch = launch.uint(vectors).uint(tokens).uint(rows).uint(first);
    over_items(launch.work(tokens * width * 12), &acc, vectors);
    acc
}
