//! Products with a frozen weight as it is stored, in f32 and in few bits, of a batch of tokens and of the one token of
//! generation. Bytes are those of the stored form.

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

impl Table<'_> {
    pub(super) fn packed(&mut self) {
        let Shape { dim: cols, ffn: rows, .. } = self.shape;
        let batch = self.shape.tokens();
        let dense = self.matrix([rows, cols]);
        for (format, forward, backward) in FORMS {
            let packed = format.map(|format| {
                let codes =
                    Codes::encode(&Self::host([rows, cols]), Packing { format, rows, cols });
                // The values are sines, which have a code in every form.
                let codes = codes.unwrap_or_else(|error| unreachable!("{error:?}"));
                Packed::from_host(&codes, self.device)
            });
            let stored = format.map_or(rows * cols, |format| format.numbers(rows, cols) as usize);
            let calls = [
                (forward, Layout::Nt, batch, [cols, rows]),
                (backward, Layout::Nn, batch, [rows, cols]),
                (forward, Layout::Nt, 1, [cols, rows]),
            ];
            for (name, layout, tokens, [from, to]) in calls {
                let x = self.matrix([tokens, from]);
                let run = || {
                    drop(match &packed {
                        Some(w) => packed_matmul(None, layout, &x, w),
                        None => matmul(layout, &x, &dense),
                    });
                };
                let cost = Cost::new(2 * tokens * rows * cols, tokens * (rows + cols) + stored);
                self.row((name, format!("{tokens} x {from} -> {to}")), cost, run, None);
            }
        }
    }
}
