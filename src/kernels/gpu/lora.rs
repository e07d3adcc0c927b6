//! The LoRA linear layer: the thin product first, then one pass over the output that sums both.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{assert_unique, empty, sizes};
use super::super::matmul::Layout;
use super::matmul::{Low, Product, Second, Write, matmul, matmul_into};

/// `(y = x·Wᵀ + s·h·Bᵀ, h = x·Aᵀ)`.
pub(super) fn lora_linear(
    x: &CubeTensor,
    w: Option<&CubeTensor>,
    a: &CubeTensor,
    b: &CubeTensor,
    scale: f32,
) -> (CubeTensor, CubeTensor) {
    let h = matmul(1.0, Layout::Nt, x, a);
    let y = match w {
        Some(w) => {
            let ([tokens, _], [outputs, _]) = (sizes(x), sizes(w));
            let y = empty(x, [tokens, outputs]);
            let low = Low { p: &h, q: b, scale };
            both(&y, Write::Replace, Layout::Nt, x, w, low);
            y
        }
        None => matmul(scale, Layout::Nt, &h, b),
    };
    (y, h)
}

/// `(dx (+)= dy·W + g·A, g = s·dy·B)`.
pub(super) fn lora_input_grad(
    acc: Option<CubeTensor>,
    dy: &CubeTensor,
    w: Option<&CubeTensor>,
    a: &CubeTensor,
    b: &CubeTensor,
    scale: f32,
) -> (CubeTensor, CubeTensor) {
    let g = matmul(scale, Layout::Nn, dy, b);
    let (dx, write) = if let Some(acc) = acc {
        assert_unique(&acc, "lora_input_grad");
        (acc, Write::Add)
    } else {
        let ([tokens, _], [_, inputs]) = (sizes(dy), sizes(a));
        (empty(dy, [tokens, inputs]), Write::Replace)
    };
    match w {
        Some(w) => both(&dx, write, Layout::Nn, dy, w, Low { p: &g, q: a, scale: 1.0 }),
        None => matmul_into(&dx, write, 1.0, Layout::Nn, &g, a),
    }
    (dx, g)
}

/// `C (+)= A·B` and the thin product.
fn both(
    c: &CubeTensor,
    write: Write,
    layout: Layout,
    a: &CubeTensor,
    b: &CubeTensor,
    low: Low<'_>,
) {
    let (c, a, b) = (c.into(), a.into(), Second::Dense(b.into()));
    Product { c, write, scale: 1.0, layout, a, b, low: Some(low) }.run();
}
