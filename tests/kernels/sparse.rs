//! Values at fixed places of a matrix.

use fullrank::device::memory::Category::Activations;
use fullrank::kernels::sparse::{gather, scatter_add};
use fullrank::kernels::{Indices, Matrix};

use crate::forms::{Values, in_every_form};

/// Every place with an even draw below the share, ascending; never empty.
fn places(values: &mut Values, entries: usize, share: f32) -> Vec<i32> {
    let drawn = (0..entries).filter(|_| values.next() / 3.4 + 0.5 < share);
    let mut drawn: Vec<i32> = drawn.map(|place| place as i32).collect();
    if drawn.is_empty() {
        drawn.push(entries as i32 - 1);
    }
    drawn
}

#[test]
fn values_are_added_at_their_places_and_read_from_them() {
    in_every_form(|device| {
        let mut values = Values(41);
        for [m, n] in [[1, 1], [3, 5], [63, 65], [1, 40_000], [130, 257], [700, 512]] {
            for share in [0.03, 0.5, 1.1] {
                let places = places(&mut values, m * n, share);
                let on_device = Indices::from_host(&places, device, Activations);
                let dense = values.matrix(device, [m, n]);
                let sparse = values.matrix(device, [1, places.len()]);
                let mut expected = dense.to_host();
                for (&place, value) in places.iter().zip(sparse.to_host()) {
                    expected[place as usize] += value;
                }
                let sum = scatter_add(dense.duplicate(device, Activations), &on_device, &sparse);
                assert!(sum.to_host() == expected, "{m} x {n}, {share}: the sum, to the bit");

                let read: Vec<f32> = places.iter().map(|&place| expected[place as usize]).collect();
                assert!(gather(None, &sum, &on_device).to_host() == read, "{m} x {n}: read");
                let twice: Vec<f32> =
                    read.iter().zip(sparse.to_host()).map(|(read, acc)| acc + read).collect();
                assert!(
                    gather(Some(sparse), &sum, &on_device).to_host() == twice,
                    "{m} x {n}: added"
                );
            }
        }
    });
}

#[test]
fn a_full_set_of_places_is_the_whole_matrix() {
    in_every_form(|device| {
        let mut values = Values(42);
        let (m, n) = (37, 91);
        let all: Vec<i32> = (0..m * n).collect();
        let on_device = Indices::from_host(&all, device, Activations);
        let shape = [m as usize, n as usize];
        let flat = values.matrix(device, [1, shape[0] * shape[1]]);
        let dense = scatter_add(Matrix::zeros(shape, device, Activations), &on_device, &flat);
        assert_eq!(dense.to_host(), flat.to_host());
        assert_eq!(gather(None, &dense, &on_device).to_host(), flat.to_host());
    });
}
