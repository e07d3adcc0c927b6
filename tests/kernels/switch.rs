//! Switches of vectors with their pools, restarts of their partners.

use fullrank::device::Device;
use fullrank::device::memory::Category::Activations;
use fullrank::kernels::Matrix;
use fullrank::kernels::matmul::Layout;
use fullrank::kernels::reference;
use fullrank::kernels::switch::{Exchange, Switch, Switched, restart, switch};
use fullrank::kernels::update::{Axis, VectorCounters};

use crate::forms::{Values, assert_close, assert_near, in_every_form, wide};

/// A layer with its pools.
struct Layer<'a> {
    device: &'a Device,
    w: Matrix,
    a: Matrix,
    b: Matrix,
    pools: [Matrix; 2],
}

impl<'a> Layer<'a> {
    fn new(device: &'a Device, [m, n, r, c]: [usize; 4], seed: u64) -> Self {
        let mut values = Values(seed);
        Self {
            device,
            w: values.matrix(device, [m, n]),
            a: values.matrix(device, [r, n]),
            b: values.matrix(device, [m, r]),
            pools: [values.matrix(device, [c, n]), values.matrix(device, [c, m])],
        }
    }

    fn switched(&self, plan: &Switch<'_>) -> Switched {
        let copy = |x: &Matrix| x.duplicate(self.device, Activations);
        let pools = [copy(&self.pools[0]), copy(&self.pools[1])];
        switch(copy(&self.w), copy(&self.a), copy(&self.b), pools, plan)
    }

    /// Switches, compares everything with the reference, and checks that a second time gives the same bits.
    fn check(&self, plan: &Switch<'_>) {
        let [m, n] = self.w.shape();
        let (mut w, mut a, mut b) = (wide(&self.w), wide(&self.a), wide(&self.b));
        let (mut pool_a, mut pool_b) = (wide(&self.pools[0]), wide(&self.pools[1]));
        let pools = [&mut pool_a[..], &mut pool_b[..]];
        let norm = reference::switch(&mut w, &mut a, &mut b, pools, (m, n), plan);
        let (got, again) = (self.switched(plan), self.switched(plan));
        assert_close("w", &got.w, &w);
        assert_eq!(wide(&got.a), a, "rows come in exactly");
        assert_eq!(wide(&got.b), b, "columns come in exactly");
        assert_eq!(wide(&got.pools[0]), pool_a, "rows go back exactly");
        assert_eq!(wide(&got.pools[1]), pool_b, "columns go back exactly");
        assert_near("norm", &wide(&got.squared_norm), &[norm], 1e-4);
        assert_eq!(got.w.to_host(), again.w.to_host());
        assert_eq!(got.squared_norm.to_host(), again.squared_norm.to_host());

        let rank = self.a.shape()[0];
        let effective = |w: &Matrix, a: &Matrix, b: &Matrix| -> Vec<f64> {
            let ba = reference::matmul(Layout::Nn, &wide(b), &wide(a), (m, n, rank));
            let scale = f64::from(plan.scale);
            ba.iter().zip(wide(w)).map(|(ba, w)| w + scale * ba).collect()
        };
        let before = effective(&self.w, &self.a, &self.b);
        assert_near("output", &effective(&got.w, &got.a, &got.b), &before, 1e-5);
    }
}

#[test]
fn a_switch_matches_the_reference_and_keeps_the_output() {
    in_every_form(|device| {
        let layer = Layer::new(device, [33, 21, 6, 10], 13);
        let a = Exchange { vectors: &[5, 0, 2], from: &[9, 0, 3], to: &[1, 3, 7] };
        let b = Exchange { vectors: &[4, 1], from: &[2, 8], to: &[8, 0] };
        layer.check(&Switch { a, b, scale: 0.5 });
        layer.check(&Switch { a, b: Exchange::NONE, scale: 0.5 });
        layer.check(&Switch { a: Exchange::NONE, b, scale: 0.5 });

        let nothing = Switch { a: Exchange::NONE, b: Exchange::NONE, scale: 0.5 };
        let got = layer.switched(&nothing);
        assert_eq!(got.w.to_host(), layer.w.to_host(), "nothing to switch");
        assert_eq!(got.squared_norm.to_host(), [0.0]);
    });
}

#[test]
fn switches_of_many_vectors_and_of_any_shape_match_the_reference_with_the_same_bits_twice() {
    in_every_form(|device| {
        for (m, n, r, c, k) in
            [(1, 1, 2, 3, 1), (40, 24, 16, 20, 8), (9, 132, 150, 200, 70), (3, 515, 4, 9, 2)]
        {
            let layer = Layer::new(device, [m, n, r, c], 24);
            // Vectors of A from the end, of B from the start; the rows they leave to overlap with those that come in.
            let of_a: Vec<usize> = (0..k).map(|j| r - 1 - j).collect();
            let of_b: Vec<usize> = (0..k).collect();
            let from: Vec<usize> = (0..k).collect();
            let to: Vec<usize> = (0..k).map(|j| (j + k / 2 + 1) % c).collect();
            let exchange = |vectors| Exchange { vectors, from: &from, to: &to };
            layer.check(&Switch { a: exchange(&of_a), b: exchange(&of_b), scale: 0.25 });
        }
    });
}

#[test]
fn a_list_that_is_too_long_for_one_launch_is_switched_too() {
    in_every_form(|device| {
        let (r, k) = (2600, 1100);
        let layer = Layer::new(device, [3, 5, r, r + k], 29);
        let of_a: Vec<usize> = (0..k).collect();
        let of_b: Vec<usize> = (k..2 * k).collect();
        let from: Vec<usize> = (0..k).collect();
        let to: Vec<usize> = (r..r + k).collect();
        let exchange = |vectors| Exchange { vectors, from: &from, to: &to };
        layer.check(&Switch { a: exchange(&of_a), b: exchange(&of_b), scale: 0.01 });
    });
}

#[test]
#[should_panic(expected = "no vector is switched on both sides")]
fn a_vector_on_both_sides_is_refused() {
    let device = Device::cpu();
    let layer = Layer::new(&device, [4, 4, 2, 4], 1);
    let exchange = Exchange { vectors: &[1], from: &[0], to: &[2] };
    layer.switched(&Switch { a: exchange, b: exchange, scale: 1.0 });
}

#[test]
fn a_restart_zeroes_the_listed_vectors_starts_their_counters_and_touches_no_others() {
    in_every_form(|device| {
        for [m, n] in [[2, 3], [300, 7], [5, 1200], [2600, 3]] {
            for axis in [Axis::Rows, Axis::Columns] {
                let count = if axis == Axis::Rows { m } else { n };
                let listed = |i: usize| i % 3 != 1;
                let vectors: Vec<usize> = (0..count).rev().filter(|&i| listed(i)).collect();
                let ones = || Matrix::from_host(vec![1.0; m * n], [m, n], device, Activations);
                let mut counters =
                    VectorCounters::new(axis, &vec![7; count], &vec![8; count], device);
                let (exp_avg, exp_avg_sq) =
                    restart(ones(), ones(), &mut counters, &vectors, -3, 40);
                for moments in [exp_avg, exp_avg_sq] {
                    for (i, x) in moments.to_host().into_iter().enumerate() {
                        let vector = if axis == Axis::Rows { i / n } else { i % n };
                        assert_eq!(x == 0.0, listed(vector), "{axis:?} {vector}");
                    }
                }
                let right = |set, kept| -> Vec<i32> {
                    (0..count).map(|i| if listed(i) { set } else { kept }).collect()
                };
                assert_eq!(counters.to_host(), (right(-3, 7), right(40, 8)));

                let (kept, _) = restart(ones(), ones(), &mut counters, &[], 0, 0);
                assert_eq!(kept.to_host(), vec![1.0; m * n], "nothing to restart");
            }
        }
    });
}
