//! RMSNorm, with and without the residual.

use fullrank::kernels::norm::{add_rms_norm, rms_norm, rms_norm_apply, rms_norm_backward};
use fullrank::kernels::reference;

use crate::forms::{Values, assert_close, in_every_form, wide};

pub const ROW_SIZES: [[usize; 2]; 6] =
    [[1, 1], [3, 5], [65, 31], [64, 256], [200, 33], [2, 20_000]];

#[test]
fn norms_match_the_reference_forward_and_backward() {
    in_every_form(|device| {
        let mut values = Values(3);
        for shape in ROW_SIZES {
            let [tokens, width] = shape;
            let what = format!("{shape:?}");
            let x = values.matrix(device, shape);
            let delta = values.matrix(device, shape);
            let gain = values.matrix(device, [1, width]);
            let dy = values.matrix(device, shape);
            let (y, rstd) = rms_norm(&x, &gain, 1e-5);
            let (right, right_rstd) = reference::rms_norm(&wide(&x), &wide(&gain), 1e-5);
            assert_close(&what, &y, &right);
            assert_close(&what, &rstd, &right_rstd);
            assert_eq!(rms_norm_apply(&x, &gain, &rstd).to_host(), y.to_host());

            let sum: Vec<f64> = wide(&x).iter().zip(wide(&delta)).map(|(x, d)| x + d).collect();
            let (right_y, _) = reference::rms_norm(&sum, &wide(&gain), 1e-5);
            let (got_sum, y, got_rstd) = add_rms_norm(&x, delta, &gain, 1e-5);
            assert_close(&what, &got_sum, &sum);
            assert_close(&what, &y, &right_y);
            assert_eq!(got_rstd.len(), tokens);

            let residual = values.matrix(device, shape);
            let acc = values.matrix(device, [1, width]);
            let (start, start_gain) = (wide(&residual), wide(&acc));
            let (dx, d_gain) =
                reference::rms_norm_backward(&wide(&dy), &wide(&x), &wide(&gain), &right_rstd);
            let (got, got_gain) = rms_norm_backward(residual, &dy, &x, &gain, &rstd, Some(acc));
            let sum = |a: &[f64], b: &[f64]| -> Vec<f64> {
                a.iter().zip(b).map(|(a, b)| a + b).collect()
            };
            assert_close(&what, &got, &sum(&start, &dx));
            assert_close(&what, &got_gain.unwrap(), &sum(&start_gain, &d_gain));
        }
    });
}
