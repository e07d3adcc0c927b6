//! Switches of candidate vectors, zeroed rows and columns.

use fullrank::device::memory::Category::Activations;
use fullrank::kernels::lowrank::{Exchange, switch_columns, switch_rows, zero_columns, zero_rows};
use fullrank::kernels::matmul::Layout;
use fullrank::kernels::reference;
use fullrank::kernels::{Indices, Matrix};

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

#[test]
fn entries_of_a_list_are_set_and_no_others() {
    in_every_form(|device| {
        for n in [1, 6, 3000] {
            let entries: Vec<usize> = (0..n).filter(|i| i % 4 != 1).collect();
            let mut list = Indices::from_host(&vec![7; n], device, Activations);
            list.set_entries(&entries, -3, device);
            list.set_entries(&[], 5, device);
            let right: Vec<i32> = (0..n).map(|i| if i % 4 == 1 { 7 } else { -3 }).collect();
            assert_eq!(list.to_host(), right);
        }
    });
}

#[test]
fn long_lists_of_rows_and_columns_are_zeroed() {
    in_every_form(|device| {
        for [m, n] in [[300, 7], [5, 1200], [2600, 3]] {
            let x = || Matrix::from_host(vec![1.0; m * n], [m, n], device, Activations);
            let rows: Vec<usize> = (0..m).filter(|i| i % 3 != 1).collect();
            let columns: Vec<usize> = (0..n).rev().filter(|j| j % 5 != 2).collect();
            for (i, x) in zero_rows(x(), &rows).to_host().into_iter().enumerate() {
                assert_eq!(x == 1.0, i / n % 3 == 1, "row {}", i / n);
            }
            for (i, x) in zero_columns(x(), &columns).to_host().into_iter().enumerate() {
                assert_eq!(x == 1.0, i % n % 5 == 2, "column {}", i % n);
            }
        }
    });
}

#[test]
fn switches_of_many_vectors_and_of_any_shape_match_the_reference_with_the_same_bits_twice() {
    in_every_form(|device| {
        for (m, n, r, c, k) in
            [(1, 1, 2, 3, 1), (40, 24, 8, 20, 8), (9, 132, 80, 200, 70), (3, 515, 4, 9, 2)]
        {
            let mut values = Values(24);
            // Vectors from the end; the rows they leave to overlap with those that come in.
            let vectors: Vec<usize> = (0..k).map(|j| r - 1 - j).collect();
            let from: Vec<usize> = (0..k).collect();
            let to: Vec<usize> = (0..k).map(|j| (j + k / 2 + 1) % c).collect();
            let exchange = Exchange { vectors: &vectors, from: &from, to: &to, scale: 0.25 };
            let (w, a, b) = (
                values.matrix(device, [m, n]),
                values.matrix(device, [r, n]),
                values.matrix(device, [m, r]),
            );
            let (pool_a, pool_b) = (values.matrix(device, [c, n]), values.matrix(device, [c, m]));
            let copy = |x: &Matrix| x.duplicate(device, Activations);

            let (mut rw, mut ra, mut rp) = (wide(&w), wide(&a), wide(&pool_a));
            let norm = reference::switch_rows(&mut rw, &mut ra, &wide(&b), &mut rp, n, &exchange);
            let rows = || switch_rows(copy(&w), copy(&a), &b, copy(&pool_a), &exchange);
            let (got, again) = (rows(), rows());
            assert_close("w", &got.0, &rw);
            assert_eq!((wide(&got.1), wide(&got.2)), (ra, rp), "rows go and come exactly");
            assert_near("norm", &wide(&got.3), &[norm], 1e-5);
            assert_eq!(got.0.to_host(), again.0.to_host());
            assert_eq!(got.3.to_host(), again.3.to_host());

            let mut tw = reference::transpose(&wide(&w), n);
            let mut tb = reference::transpose(&wide(&b), r);
            let mut tp = wide(&pool_b);
            let ta = reference::transpose(&wide(&a), n);
            let norm = reference::switch_rows(&mut tw, &mut tb, &ta, &mut tp, m, &exchange);
            let columns = || switch_columns(copy(&w), &a, copy(&b), copy(&pool_b), &exchange);
            let (got, again) = (columns(), columns());
            assert_close("w", &got.0, &reference::transpose(&tw, m));
            assert_eq!(wide(&got.1), reference::transpose(&tb, m), "columns come in exactly");
            assert_eq!(wide(&got.2), tp, "columns go back exactly");
            assert_near("norm", &wide(&got.3), &[norm], 1e-5);
            assert_eq!(got.0.to_host(), again.0.to_host());
            assert_eq!(got.3.to_host(), again.3.to_host());
        }
    });
}
