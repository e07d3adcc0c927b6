//! Biases: added to every row, and their gradient.

use fullrank::device::memory::Category::Activations;
use fullrank::kernels::bias::{add_bias, bias_grad};

use crate::forms::{Values, assert_close, in_every_form, wide};

/// Tokens and outputs: 1, odd, around the parts of the sum, wide, long.
const SHAPES: [[usize; 2]; 9] =
    [[1, 1], [70, 1], [3, 5], [31, 4], [32, 8], [65, 31], [200, 256], [2, 20_000], [3000, 12]];

#[test]
fn a_bias_is_added_to_every_row_and_its_gradient_is_the_sum_over_tokens() {
    in_every_form(|device| {
        let mut values = Values(29);
        for [tokens, width] in SHAPES {
            let what = format!("{tokens} x {width}");
            let y = values.matrix(device, [tokens, width]);
            let bias = values.matrix(device, [1, width]);
            let added: Vec<f64> =
                wide(&y).iter().zip(wide(&bias).iter().cycle()).map(|(y, b)| y + b).collect();
            assert_close(&what, &add_bias(y, &bias), &added);

            let dy = values.matrix(device, [tokens, width]);
            let acc = values.matrix(device, [1, width]);
            let wide_dy = wide(&dy);
            let right: Vec<f64> = wide(&acc)
                .iter()
                .enumerate()
                .map(|(j, acc)| acc + (0..tokens).map(|t| wide_dy[t * width + j]).sum::<f64>())
                .collect();
            let start = acc.duplicate(device, Activations);
            let got = bias_grad(acc, &dy);
            assert_close(&what, &got, &right);
            assert_eq!(got.to_host(), bias_grad(start, &dy).to_host(), "the same bits twice");
        }
    });
}
