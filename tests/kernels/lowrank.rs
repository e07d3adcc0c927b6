//! Switches of candidate vectors, zeroed rows and columns.

use fullrank::device::memory::Category::Activations;
use fullrank::kernels::Matrix;
use fullrank::kernels::lowrank::{Exchange, switch_columns, switch_rows, zero_columns, zero_rows};
use fullrank::kernels::matmul::Layout;
use fullrank::kernels::reference;

use crate::forms::{Values, assert_close, assert_near, in_every_form, wide};

#[test]
fn switching_rows_and_columns_matches_the_reference_and_keeps_the_output() {
    in_every_form(|device| {
        let mut values = Values(13);
        let (m, n, r, c) = (33, 21, 6, 10);
        let exchange =
            Exchange { vectors: &[5, 0, 2], from: &[9, 0, 3], to: &[1, 3, 7], scale: 0.5 };
        let nothing = Exchange { vectors: &[], from: &[], to: &[], scale: 0.5 };
        let w = values.matrix(device, [m, n]);
        let a = values.matrix(device, [r, n]);
        let b = values.matrix(device, [m, r]);
        let effective = |w: &Matrix, a: &Matrix, b: &Matrix| -> Vec<f64> {
            let ba = reference::matmul(Layout::Nn, &wide(b), &wide(a), (m, n, r));
            ba.iter().zip(wide(w)).map(|(ba, w)| w + 0.5 * ba).collect()
        };
        let before = effective(&w, &a, &b);

        let pool = values.matrix(device, [c, n]);
        let (mut rw, mut ra, mut rp) = (wide(&w), wide(&a), wide(&pool));
        let norm = reference::switch_rows(&mut rw, &mut ra, &wide(&b), &mut rp, n, &exchange);
        let (w, a, pool, got) = switch_rows(w, a, &b, pool, &exchange);
        assert_close("w", &w, &rw);
        assert_eq!(wide(&a), ra, "rows come in exactly");
        assert_eq!(wide(&pool), rp, "rows go back exactly");
        assert_near("norm", &wide(&got), &[norm], 1e-4);
        assert_near("output", &effective(&w, &a, &b), &before, 1e-5);

        // Columns: the same exchange on the transposed problem.
        let pool_b = values.matrix(device, [c, m]);
        let mut tw = reference::transpose(&wide(&w), n);
        let mut tb = reference::transpose(&wide(&b), r);
        let mut tp = wide(&pool_b);
        let ta = reference::transpose(&wide(&a), n);
        let norm = reference::switch_rows(&mut tw, &mut tb, &ta, &mut tp, m, &exchange);
        let (w, b, pool_b, got) = switch_columns(w, &a, b, pool_b, &exchange);
        assert_close("w", &w, &reference::transpose(&tw, m));
        assert_eq!(wide(&b), reference::transpose(&tb, m), "columns come in exactly");
        assert_eq!(wide(&pool_b), tp, "columns go back exactly");
        assert_near("norm", &wide(&got), &[norm], 1e-4);
        assert_near("output", &effective(&w, &a, &b), &before, 1e-5);

        let values = w.to_host();
        let (w, _, _, norm) = switch_rows(w, a, &b, pool, &nothing);
        assert_eq!((w.to_host(), norm.to_host()), (values, vec![0.0]), "nothing to switch");
    });
}

#[test]
fn rows_and_columns_are_zeroed_and_no_others() {
    in_every_form(|device| {
        let ones = || Matrix::from_host(vec![1.0; 6], [2, 3], device, Activations);
        assert_eq!(zero_rows(ones(), &[1]).to_host(), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(zero_columns(ones(), &[2, 0]).to_host(), [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(zero_rows(ones(), &[]).to_host(), [1.0; 6]);
        assert_eq!(zero_columns(ones(), &[]).to_host(), [1.0; 6]);
    });
}
