//! Token embedding and its reproducible gradient.
use super::{Indices, Matrix};

/// Rows of `table [V, C]` by `ids [T]` → `[T, C]`.
pub fn embedding(ids: &Indices, table: &Matrix) -> Matrix {
    unimplemented!()
}

/// Adds the table's gradient to `acc [V, C]` in place: row `id` gets the sum of `dx` over its positions, in
/// ascending order of position. `order` are the positions sorted by (id, position), made on the host.
pub fn embedding_grad(acc: Matrix, dx: &Matrix, ids: &Indices, order: &Indices) -> Matrix {
    unimplemented!()
}
