//! Products with a frozen weight as it is stored, in f32 and in few bits, of a batch of tokens and of the one token of
//! generation. Bytes are those of the stored form.

use crate::kernels::Matrix;
use crate::kernels::matmul::{Layout, matmul};
use crate::kernels::packed::{Codes, Format, Packed, Packing, packed_matmul};

use super::super::Shape;
use super::{Cost, Table};

/// A form with the names of its rows, forward and backward; f32 is the one that the others are compared with.
const FORMS: [(Option<Format>, &str, &str); 4] = [
    (None, "frozen y, f32", "frozen dx, f32"),
    (Some(Format::F16), "frozen y, f16", "frozen dx, f16"),
    (Some(Format::Q8), "frozen y, q8", "frozen dx, q8"),
    (Some(Format::Nf4), "frozen y, nf4", "frozen dx, nf4"),
];

enum Weight {
    Dense(Matrix),
    Packed(Packed),
}

impl Weight {
    fn product(&self, layout: Layout, x: &Matrix) -> Matrix {
        match self {
            Self::Dense(w) => matmul(layout, x, w),
            Self::Packed(w) => packed_matmul(None, layout, x, w),
        }
    }
}

impl Table<'_> {
    pub(super) fn packed(&mut self) {
        let Shape { dim: cols, ffn: rows, .. } = self.shape;
        let batch = self.shape.tokens();
        let values = Self::host([rows, cols]);
        for (format, forward, backward) in FORMS {
            let weight = format.map_or_else(
                || Some(Weight::Dense(self.matrix([rows, cols]))),
                |format| {
                    let codes = Codes::encode(&values, Packing { format, rows, cols });
                    Some(Weight::Packed(Packed::from_host(&codes.ok()?, self.device)))
                },
            );
            // The values are sines, which have a code in every form.
            let Some(weight) = weight else { unreachable!("{format:?} of a sine") };
            let stored = format.map_or(rows * cols, |format| format.numbers(rows, cols) as usize);
            let calls = [
                (forward, Layout::Nt, batch, [cols, rows]),
                (backward, Layout::Nn, batch, [rows, cols]),
                (forward, Layout::Nt, 1, [cols, rows]),
            ];
            for (name, layout, tokens, [from, to]) in calls {
                let x = self.matrix([tokens, from]);
                let cost = Cost::new(2 * tokens * rows * cols, tokens * (rows + cols) + stored);
                let label = (name, format!("{tokens} x {from} -> {to}"));
                self.row(label, cost, || drop(weight.product(layout, &x)), None);
            }
        }
    }
}
