//! Cross-entropy.

use fullrank::device::memory::Category::Activations;
use fullrank::kernels::loss::{HeadGrad, IGNORED, cross_entropy, token_losses};
use fullrank::kernels::reference;
use fullrank::kernels::{Indices, Matrix};

use crate::forms::{Values, assert_close, in_every_form, vector, wide};

#[test]
fn cross_entropy_matches_the_reference_and_skips_ignored_targets() {
    in_every_form(|device| {
        let mut values = Values(9);
        let sizes = [
            (1, 1, 1),
            (5, 7, 3),
            (33, 130, 17),
            (2100, 65, 9),
            (64, 5, 8),
            (65, 4096, 12),
            (7, 70_000, 4),
            (3, 50_257, 2),
        ];
        for (tokens, vocabulary, width) in sizes {
            let hidden = values.matrix(device, [tokens, width]);
            let head = values.matrix(device, [vocabulary, width]);
            let targets: Vec<i32> = (0..tokens)
                .map(|t| if t % 5 == 3 { IGNORED } else { values.below(vocabulary) as i32 })
                .collect();
            let on_device = Indices::from_host(&targets, device, Activations);
            let (losses, d_hidden, d_head) =
                reference::cross_entropy(&wide(&hidden), &wide(&head), &targets, width);
            let what = format!("{tokens} {vocabulary} {width}");
            let got = token_losses(&hidden, &head, &on_device);
            assert_close(&what, &got, &losses);

            let scale = 0.25;
            let scaled = |x: &[f64]| x.iter().map(|x| scale * x).collect::<Vec<_>>();
            let acc = Matrix::zeros([vocabulary, width], device, Activations);
            let got = cross_entropy(
                vector(vec![1.5], device),
                &hidden,
                &head,
                &on_device,
                scale as f32,
                HeadGrad::Into(acc),
            );
            let sum = 1.5 + losses.iter().sum::<f64>();
            assert_close(&what, &got.loss_sum, &[sum]);
            assert_close(&what, &got.d_hidden, &scaled(&d_hidden));
            assert_close(&what, &got.d_head.unwrap(), &scaled(&d_head));

            let zero = vector(vec![0.0], device);
            let got = cross_entropy(zero, &hidden, &head, &on_device, 1.0, HeadGrad::Skip);
            assert!(got.d_head.is_none());
            assert_close(&what, &got.d_hidden, &d_hidden);
        }
    });
}

#[test]
fn cross_entropy_stays_finite_at_large_logits() {
    in_every_form(|device| {
        let hidden = Matrix::from_host(vec![1e4, -1e4], [2, 1], device, Activations);
        let head = Matrix::from_host(vec![1.0, 0.0, -1.0], [3, 1], device, Activations);
        let targets = Indices::from_host(&[0, 0], device, Activations);
        assert_close("losses", &token_losses(&hidden, &head, &targets), &[0.0, 2e4]);
    });
}
