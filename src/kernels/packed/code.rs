//! How a matrix is written in few bits and read back, on the host. Leaves out where it stands and what uses it.
//!
//! A row begins with a word of its own and ends with a short block; words are little-endian in their elements. Values
//! that were decoded encode to what they were decoded from: a checkpoint may hold them as f32.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::kernels::math::vectorised;

/// Elements along a row that share a scale, their largest magnitude.
pub const BLOCK: usize = 64;

/// The levels of NF4, ascending: quantiles of a normal distribution in -1..1, with a zero.
///
/// Source: `QLoRA`, arXiv:2305.14314, appendix E, in the digits that bitsandbytes has.
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The code of 0.
const ZERO_LEVEL: u32 = 7;

/// One step of Q8 as a share of the scale. 127 of them are 1 to the bit, so the largest value of a block comes back as
/// it was.
const STEP: f32 = 1.0 / 127.0;

/// A form of storage in fewer than 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Half precision, two to a word, no scales.
    F16,
    /// `code · scale / 127`, four to a word.
    Q8,
    /// `level[code] · scale`, eight to a word.
    Nf4,
}

impl Format {
    /// The form of a configuration's name; none for `f32`, which is no other form.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "f16" => Some(Self::F16),
            "q8" => Some(Self::Q8),
            "nf4" => Some(Self::Nf4),
            _ => None,
        }
    }

    /// Its name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Nf4 => "nf4",
        }
    }

    /// Elements in a word.
    pub const fn per_word(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::Q8 => 4,
            Self::Nf4 => 8,
        }
    }

    /// Words of a row of `cols` elements. A group of four elements is never cut.
    pub const fn words_of_row(self, cols: usize) -> usize {
        match self {
            Self::F16 => 2 * cols.div_ceil(4),
            Self::Q8 | Self::Nf4 => cols.div_ceil(self.per_word()),
        }
    }

    /// Scales of a row of `cols` elements.
    pub const fn scales_of_row(self, cols: usize) -> usize {
        match self {
            Self::F16 => 0,
            Self::Q8 | Self::Nf4 => cols.div_ceil(BLOCK),
        }
    }

    /// What a matrix takes, words and scales, in numbers of four bytes.
    pub const fn numbers(self, rows: usize, cols: usize) -> u128 {
        let scales = rows as u128 * self.scales_of_row(cols) as u128;
        // Where there are no scales a tensor of one number stands in their place.
        let scales = if scales == 0 { 1 } else { scales };
        rows as u128 * self.words_of_row(cols) as u128 + scales
    }
}

/// The sizes and the form of a packed matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// The form.
    pub format: Format,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

/// A value that has no code: not finite, or too large for f16.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoCode {
    /// Its row.
    pub row: usize,
    /// Its column.
    pub column: usize,
    /// The value.
    pub value: f32,
}

/// A packed matrix on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Codes {
    /// Its sizes and form.
    pub packing: Packing,
    /// `[rows · words_of_row]`, row by row.
    pub words: Vec<i32>,
    /// `[rows · scales_of_row]`, row by row; `[0]` where the form has none.
    pub scales: Vec<f32>,
}

impl Codes {
    /// Encodes a row-major matrix; each value by itself, within its block.
    ///
    /// Errors: a value without a code. Panics if `values` does not fill the sizes.
    pub fn encode(values: &[f32], packing: Packing) -> Result<Self, NoCode> {
        let Packing { format, rows, cols } = packing;
        assert_eq!(values.len(), rows * cols, "values fill {rows} x {cols}");
        let (row_words, row_scales) = (format.words_of_row(cols), format.scales_of_row(cols));
        let encoded: Result<Vec<(Vec<i32>, Vec<f32>)>, NoCode> = values
            .par_chunks(cols.max(1))
            .enumerate()
            .map(|(row, values)| {
                let unfit = values.iter().position(|&value| !has_code(format, value));
                match unfit {
                    Some(column) => Err(NoCode { row, column, value: values[column] }),
                    None => Ok(encode_row(format, values, row_words)),
                }
            })
            .collect();
        let mut words = Vec::with_capacity(rows * row_words);
        let mut scales = Vec::with_capacity((rows * row_scales).max(1));
        for (row, row_scales) in encoded? {
            words.extend(row);
            scales.extend(row_scales);
        }
        if scales.is_empty() {
            scales.push(0.0);
        }
        Ok(Self { packing, words, scales })
    }

    /// The values, row-major.
    pub fn decode(&self) -> Vec<f32> {
        let Packing { rows, cols, .. } = self.packing;
        let mut values = vec![0.0; rows * cols];
        values.par_chunks_mut(cols.max(1)).enumerate().for_each(|(row, out)| {
            vectorised(
                #[inline(always)]
                || decode_part(self.packing, &self.words, &self.scales, row, 0, out),
            );
        });
        values
    }
}

fn has_code(format: Format, value: f32) -> bool {
    match format {
        Format::F16 => f16::from_f32(value).is_finite(),
        Format::Q8 | Format::Nf4 => value.is_finite(),
    }
}

fn encode_row(format: Format, values: &[f32], row_words: usize) -> (Vec<i32>, Vec<f32>) {
    let (per_word, bits) = (format.per_word(), 32 / format.per_word());
    let mut words = Vec::with_capacity(row_words);
    let mut scales = Vec::new();
    for block in values.chunks(BLOCK) {
        let scale = block.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
        if format != Format::F16 {
            scales.push(scale);
        }
        for values in block.chunks(per_word) {
            let codes = values.iter().enumerate();
            let word = codes.fold(0, |word, (place, &value)| {
                word | code(format, value, scale) << (bits * place)
            });
            words.push(word.cast_signed());
        }
    }
    words.resize(row_words, 0);
    (words, scales)
}

fn code(format: Format, value: f32, scale: f32) -> u32 {
    // A block of zeros has scale 0 and nothing to divide.
    let share = if scale > 0.0 { value / scale } else { 0.0 };
    match format {
        Format::F16 => u32::from(f16::from_f32(value).to_bits()),
        Format::Q8 => ((127.0 * share).round() as i32).cast_unsigned() & 0xff,
        Format::Nf4 if scale > 0.0 => nearest_level(share),
        Format::Nf4 => ZERO_LEVEL,
    }
}

/// The nearest level; the lower one where two are as near.
fn nearest_level(share: f32) -> u32 {
    let is_below = |pair: &[f32]| f32::midpoint(pair[0], pair[1]) < share;
    LEVELS.windows(2).take_while(|pair| is_below(pair)).count() as u32
}

/// What each byte of NF4 means before its scale: two levels, the lower half first. One look-up for two elements.
static PAIRS: [[f32; 2]; 256] = {
    let mut pairs = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [LEVELS[byte & 15], LEVELS[byte >> 4]];
        byte += 1;
    }
    pairs
};

/// Decodes elements of one row from `column` on, a multiple of the block, as many as `out` takes. Call it in
/// [`vectorised`](crate::kernels::math::vectorised).
#[inline(always)]
pub(super) fn decode_part(
    packing: Packing,
    words: &[i32],
    scales: &[f32],
    row: usize,
    column: usize,
    out: &mut [f32],
) {
    let Packing { format, cols, .. } = packing;
    let first_word = row * format.words_of_row(cols) + column / format.per_word();
    let first_scale = row * format.scales_of_row(cols) + column / BLOCK;
    let words = words[first_word..].chunks(BLOCK / format.per_word());
    let blocks = out.chunks_mut(BLOCK).zip(words);
    match format {
        Format::F16 => blocks.for_each(|(out, words)| decode_f16(words, out)),
        Format::Q8 => {
            blocks
                .zip(&scales[first_scale..])
                .for_each(|((out, words), scale)| decode_q8(words, *scale, out));
        }
        Format::Nf4 => {
            blocks
                .zip(&scales[first_scale..])
                .for_each(|((out, words), scale)| decode_nf4(words, *scale, out));
        }
    }
}

#[inline(always)]
fn decode_f16(words: &[i32], out: &mut [f32]) {
    let mut halves = [f16::ZERO; BLOCK];
    for (halves, word) in halves.as_chunks_mut::<2>().0.iter_mut().zip(words) {
        let word = word.cast_unsigned();
        *halves = [f16::from_bits(word as u16), f16::from_bits((word >> 16) as u16)];
    }
    halves[..out.len()].convert_to_f32_slice(out);
}

#[inline(always)]
fn decode_q8(words: &[i32], scale: f32, out: &mut [f32]) {
    let value = |code: u8| f32::from(code.cast_signed()) * STEP * scale;
    let (whole, rest) = out.as_chunks_mut::<4>();
    for (out, word) in whole.iter_mut().zip(words) {
        *out = word.to_le_bytes().map(value);
    }
    if let Some(word) = words.get(whole.len()) {
        rest.iter_mut().zip(word.to_le_bytes()).for_each(|(out, code)| *out = value(code));
    }
}

/// Not compiled for wide registers, where look-ups become gathers and take twice the time.
#[inline(never)]
fn decode_nf4(words: &[i32], scale: f32, out: &mut [f32]) {
    let (whole, rest) = out.as_chunks_mut::<8>();
    for (out, word) in whole.iter_mut().zip(words) {
        for (out, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(word.to_le_bytes()) {
            *out = PAIRS[usize::from(byte)];
        }
    }
    if let Some(word) = words.get(whole.len()) {
        let levels = word.to_le_bytes().map(|byte| PAIRS[usize::from(byte)]);
        rest.iter_mut().zip(levels.as_flattened()).for_each(|(out, level)| *out = *level);
    }
    for value in out {
        *value *= scale;
    }
}

/// What each code means before its scale, by code: for bodies that look values up.
pub(super) fn table(format: Format) -> Vec<f32> {
    match format {
        Format::F16 => (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32()).collect(),
        Format::Q8 => (0..=u8::MAX).map(|code| f32::from(code.cast_signed()) * STEP).collect(),
        Format::Nf4 => LEVELS.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [Format; 3] = [Format::F16, Format::Q8, Format::Nf4];

    /// Values of many magnitudes, reproducible.
    fn values(count: usize, seed: u64) -> Vec<f32> {
        let mut draws = crate::random::stream(seed, "codes", "test", 0);
        let mut normal = draws.normal_vec(count, 1.0);
        // Blocks of very different sizes, some of them tiny.
        for (number, block) in normal.chunks_mut(37).enumerate() {
            let size = 10f32.powi(number as i32 % 9 - 6);
            for value in block {
                *value *= size;
            }
        }
        normal
    }

    fn encoded(format: Format, rows: usize, cols: usize, values: &[f32]) -> Codes {
        Codes::encode(values, Packing { format, rows, cols }).unwrap()
    }

    #[test]
    fn the_round_trip_is_off_by_half_the_largest_gap_of_a_block_at_most() {
        let widest = LEVELS.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f32::max);
        assert!((widest - 0.303_807_2).abs() < 1e-6, "the gap at the lower end");
        for (format, half_gap) in [(Format::Q8, 0.5 / 127.0), (Format::Nf4, widest / 2.0)] {
            for (rows, cols) in [(1, 1), (3, 63), (5, 64), (2, 65), (7, 200), (4, 1000)] {
                let values = values(rows * cols, 3);
                let back = encoded(format, rows, cols, &values).decode();
                for (row, back) in values.chunks(cols).zip(back.chunks(cols)) {
                    for (block, back) in row.chunks(BLOCK).zip(back.chunks(BLOCK)) {
                        let most = block.iter().fold(0f32, |most, v| most.max(v.abs()));
                        for (value, back) in block.iter().zip(back) {
                            let error = (value - back).abs();
                            assert!(
                                error <= half_gap * most * 1.000_001,
                                "{format:?} {cols}: {value} comes back as {back}, scale {most}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn decoded_values_encode_to_the_codes_and_scales_they_came_from() {
        for format in FORMATS {
            for (rows, cols) in [(1, 1), (3, 61), (50, 333), (20, 576)] {
                for seed in 0..8 {
                    let codes = encoded(format, rows, cols, &values(rows * cols, seed));
                    assert_eq!(
                        encoded(format, rows, cols, &codes.decode()),
                        codes,
                        "{format:?} {rows} x {cols}, seed {seed}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_block_of_zeros_has_scale_zero_and_comes_back_as_zeros() {
        for format in FORMATS {
            let mut values = vec![0.0; 2 * 130];
            values[200] = 1.5;
            let codes = encoded(format, 2, 130, &values);
            let zeros = if format == Format::F16 { 1 } else { 5 };
            assert_eq!(codes.scales.iter().filter(|&&scale| scale == 0.0).count(), zeros);
            assert_eq!(codes.decode(), values);
        }
    }

    #[test]
    fn each_level_of_nf4_has_the_code_of_its_place_and_a_midpoint_that_of_the_lower_one() {
        // By hand: the levels in order, and values a little to either side of some midpoints.
        for (code, level) in LEVELS.iter().enumerate() {
            assert_eq!(nearest_level(*level), code as u32);
        }
        for (share, code) in [
            (-0.85, 0),
            (-0.84, 1),
            (-0.62, 1),
            (-0.6, 2),
            (-0.05, 6),
            (-0.04, 7),
            (0.039, 7),
            (0.04, 8),
            (0.2, 9),
            (0.21, 10),
            (0.86, 14),
            (0.87, 15),
        ] {
            assert_eq!(nearest_level(share), code, "{share}");
        }
        assert_eq!(nearest_level(f32::midpoint(LEVELS[14], LEVELS[15])), 14);
    }

    #[test]
    fn words_and_scales_are_laid_out_as_written_down() {
        // Two rows of 9: eight codes in the first word of a row, one in the second.
        let mut values = [0.0; 18];
        (values[0], values[1], values[8]) = (-2.0, 1.0, 2.0);
        values[9] = 1.0;
        let codes = encoded(Format::Nf4, 2, 9, &values);
        // -1 is 0, 0.5 is nearest to 0.44 (12), 0 is 7, 1 is 15.
        let expected = [0x7777_77c0, 0x0000_000f, 0x7777_777f, 0x0000_0007].map(u32::cast_signed);
        assert_eq!(codes.words, expected);
        assert_eq!(codes.scales, [2.0, 1.0]);
        let codes = encoded(Format::Q8, 1, 5, &[-2.0, 1.0, 0.0, 2.0, 0.5]);
        assert_eq!(codes.words, [0x7f00_4081, 0x0000_0020]);
        let codes = encoded(Format::F16, 1, 3, &[1.0, -2.0, 0.5]);
        assert_eq!(codes.words, [0xc000_3c00_u32.cast_signed(), 0x3800]);
    }

    #[test]
    fn sizes_are_those_that_are_said_beforehand() {
        for format in FORMATS {
            for (rows, cols) in [(1, 1), (3, 7), (2, 64), (5, 65), (4, 129)] {
                let codes = encoded(format, rows, cols, &values(rows * cols, 1));
                let numbers = codes.words.len() + codes.scales.len();
                assert_eq!(numbers as u128, format.numbers(rows, cols), "{format:?} {rows} {cols}");
            }
        }
        // 4.5, 8.5 and 16 bits a weight.
        assert_eq!(Format::Nf4.numbers(64, 64) * 32, 64 * 64 * 9 / 2);
        assert_eq!(Format::Q8.numbers(64, 64) * 32, 64 * 64 * 17 / 2);
        assert_eq!((Format::F16.numbers(64, 64) - 1) * 32, 64 * 64 * 16);
    }

    #[test]
    fn what_has_no_code_is_named_by_its_place() {
        for (format, value) in [
            (Format::Nf4, f32::NAN),
            (Format::Q8, f32::INFINITY),
            (Format::F16, f32::NEG_INFINITY),
            (Format::F16, 65_520.0),
        ] {
            let mut values = vec![0.5; 3 * 70];
            values[2 * 70 + 69] = value;
            let result = Codes::encode(&values, Packing { format, rows: 3, cols: 70 });
            let error = result.unwrap_err();
            assert_eq!((error.row, error.column), (2, 69), "{format:?}");
            assert_eq!(error.value.to_bits(), value.to_bits());
        }
        assert!(
            Codes::encode(&[65_504.0], Packing { format: Format::F16, rows: 1, cols: 1 }).is_ok()
        );
    }
}
