//! Tables in several parts give what the whole table gives.

use fullrank::device::memory::Category::Activations;
use fullrank::kernels::embedding::embedding_part_grad;
use fullrank::kernels::loss::IGNORED;
use fullrank::kernels::parts::{cross_entropy_of, embedding_of, logits_of, token_losses_of};
use fullrank::kernels::{Indices, Matrix, reference};

use crate::forms::{Values, assert_close, in_every_form, vector, wide};

/// Tokens, width, rows of each part. The last has more logits than a chunk, so that the tokens are cut too.
const CASES: [(usize, usize, &[usize]); 6] = [
    (1, 1, &[1, 1]),
    (5, 3, &[4, 3]),
    (33, 17, &[50, 1, 79]),
    (70, 8, &[64, 64, 64]),
    (9, 4, &[4000, 3999]),
    (50, 2, &[100_000, 99_999, 3]),
];

#[test]
fn rows_and_losses_and_gradients_are_those_of_the_whole_table() {
    in_every_form(|device| {
        let mut values = Values(31);
        for (tokens, width, sizes) in CASES {
            let what = format!("{tokens} tokens, width {width}, parts {sizes:?}");
            let vocabulary: usize = sizes.iter().sum();
            let table = values.vec(vocabulary * width);
            let mut parts = Vec::new();
            let mut rest = &table[..];
            for rows in sizes {
                let (own, after) = rest.split_at(rows * width);
                parts.push(Matrix::from_host(own.to_vec(), [*rows, width], device, Activations));
                rest = after;
            }
            let lent: Vec<&Matrix> = parts.iter().collect();
            let wide_table: Vec<f64> = table.iter().map(|&v| f64::from(v)).collect();

            // The first and the last row, and both sides of the first cut, are among them.
            let ids: Vec<i32> = (0..tokens)
                .map(|t| match t {
                    0 => vocabulary - 1,
                    1 => 0,
                    2 => sizes[0] - 1,
                    3 => sizes[0],
                    _ => values.below(vocabulary),
                })
                .map(|id| id as i32)
                .collect();
            let on_device = Indices::from_host(&ids, device, Activations);
            let rows = embedding_of(&on_device, &lent, device);
            assert_close(&what, &rows, &reference::embedding(&ids, &wide_table, width));

            let mut order: Vec<i32> = (0..tokens as i32).collect();
            order.sort_by_key(|&position| (ids[position as usize], position));
            let order = Indices::from_host(&order, device, Activations);
            let dx = values.matrix(device, [tokens, width]);
            let right = reference::embedding_grad(&ids, &wide(&dx), vocabulary, width);
            let (mut first, mut got) = (0, Vec::new());
            for rows in sizes {
                let acc = Matrix::zeros([*rows, width], device, Activations);
                let grad = embedding_part_grad(acc, first, &dx, &on_device, &order);
                got.extend(grad.to_host());
                first += rows;
            }
            let got = Matrix::from_host(got, [vocabulary, width], device, Activations);
            assert_close(&what, &got, &right);

            let hidden = values.matrix(device, [tokens, width]);
            let targets: Vec<i32> = ids
                .iter()
                .enumerate()
                .map(|(t, &id)| if t % 4 == 3 { IGNORED } else { id })
                .collect();
            let on_device = Indices::from_host(&targets, device, Activations);
            let (losses, d_hidden, d_head) =
                reference::cross_entropy(&wide(&hidden), &wide_table, &targets, width);
            assert_close(&what, &token_losses_of(&hidden, &lent, &on_device, device), &losses);
            let scaled = |x: &[f64]| x.iter().map(|x| 0.5 * x).collect::<Vec<_>>();
            let acc = sizes.iter().map(|rows| Matrix::zeros([*rows, width], device, Activations));
            let start = vector(vec![2.5], device);
            let all = Some(acc.collect());
            let got = cross_entropy_of(start, &hidden, &lent, &on_device, 0.5, all, device);
            assert_close(&what, &got.loss_sum, &[2.5 + losses.iter().sum::<f64>()]);
            assert_close(&what, &got.d_hidden, &scaled(&d_hidden));
            let d_parts: Vec<f32> = got.d_head.unwrap().iter().flat_map(Matrix::to_host).collect();
            let d_parts = Matrix::from_host(d_parts, [vocabulary, width], device, Activations);
            assert_close(&what, &d_parts, &scaled(&d_head));
            let start = vector(vec![0.0], device);
            let got = cross_entropy_of(start, &hidden, &lent, &on_device, 0.5, None, device);
            assert!(got.d_head.is_none());
            assert_close(&what, &got.d_hidden, &scaled(&d_hidden));

            if vocabulary < 10_000 {
                let logits = logits_of(&hidden, &lent, device);
                let right = reference::matmul(
                    fullrank::kernels::matmul::Layout::Nt,
                    &wide(&hidden),
                    &wide_table,
                    (tokens, vocabulary, width),
                );
                assert_close(&what, &logits, &right);
            }
        }
    });
}
