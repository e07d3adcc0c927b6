//! The formats of tensors in GGUF files: plain numbers, and blocks of small integers with a scale.
//!
//! Source: the block layouts of the ggml project. Reading widens to f32 with the arithmetic of its
//! reference (scale times integer in f32); writing rounds as it does.

use half::{bf16, f16};

/// Elements of a Q8_0, Q4_0 or Q4_1 block.
const SMALL: usize = 32;
/// Elements of a Q6_K block.
const LARGE: usize = 256;

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 4 bytes each.
    F32,
    /// 2 bytes each, IEEE half precision.
    F16,
    /// 2 bytes each, the upper half of an f32.
    Bf16,
    /// Blocks of 32: a scale and a signed byte each.
    Q8_0,
    /// Blocks of 32: a scale and 4 bits each, centred.
    Q4_0,
    /// Blocks of 32: a scale, a smallest value and 4 bits each.
    Q4_1,
    /// Blocks of 256: a scale, 16 smaller scales and 6 bits each. Tools that make Q4_0 files store the output layer so.
    Q6K,
}

/// Formats by their number in a file; those that are read have a [`Format`].
const NAMES: [(u32, &str, Option<Format>); 31] = [
    (0, "F32", Some(Format::F32)),
    (1, "F16", Some(Format::F16)),
    (2, "Q4_0", Some(Format::Q4_0)),
    (3, "Q4_1", Some(Format::Q4_1)),
    (6, "Q5_0", None),
    (7, "Q5_1", None),
    (8, "Q8_0", Some(Format::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", None),
    (11, "Q3_K", None),
    (12, "Q4_K", None),
    (13, "Q5_K", None),
    (14, "Q6_K", Some(Format::Q6K)),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(Format::Bf16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
];

impl Format {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        NAMES.iter().find(|(n, ..)| *n == number).and_then(|(.., format)| *format)
    }

    /// The number in a file.
    pub(super) fn number(self) -> u32 {
        NAMES.iter().find(|(.., format)| *format == Some(self)).map_or(0, |(n, ..)| *n)
    }

    /// The name of the format with this number, read or not.
    pub(super) fn name_of(number: u32) -> String {
        let known = NAMES.iter().find(|(n, ..)| *n == number);
        known.map_or_else(|| format!("number {number}"), |(_, name, _)| (*name).to_owned())
    }

    /// The name that users know.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(.., format)| *format == Some(self)).map_or("", |(_, name, _)| name)
    }

    /// The names of all formats that are read.
    pub(super) fn supported() -> String {
        let names: Vec<&str> =
            NAMES.iter().filter(|(.., f)| f.is_some()).map(|(_, name, _)| *name).collect();
        names.join(", ")
    }

    /// Elements and bytes of a block.
    pub(super) fn block(self) -> (u64, u64) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (SMALL as u64, 2 + 32),
            Self::Q4_0 => (SMALL as u64, 2 + 16),
            Self::Q4_1 => (SMALL as u64, 2 + 2 + 16),
            Self::Q6K => (LARGE as u64, 128 + 64 + 16 + 2),
        }
    }

    /// Appends the elements of whole blocks.
    pub(super) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F32 => out.extend(chunks(bytes).map(|b| f32::from_le_bytes(*b))),
            Self::F16 => out.extend(chunks(bytes).map(|b| f16::from_le_bytes(*b).to_f32())),
            Self::Bf16 => out.extend(chunks(bytes).map(|b| bf16::from_le_bytes(*b).to_f32())),
            Self::Q8_0 => {
                for [d0, d1, quants @ ..] in chunks::<34>(bytes) {
                    let d = half([*d0, *d1]);
                    out.extend(quants.iter().map(|&q| f32::from(q as i8) * d));
                }
            }
            Self::Q4_0 => {
                for [d0, d1, quants @ ..] in chunks::<18>(bytes) {
                    let d = half([*d0, *d1]);
                    let value = |q: u8| (f32::from(q) - 8.0) * d;
                    out.extend(nibbles(quants).map(value));
                }
            }
            Self::Q4_1 => {
                for [d0, d1, m0, m1, quants @ ..] in chunks::<20>(bytes) {
                    let (d, least) = (half([*d0, *d1]), half([*m0, *m1]));
                    out.extend(nibbles(quants).map(|q| f32::from(q) * d + least));
                }
            }
            Self::Q6K => chunks::<210>(bytes).for_each(|block| decode_q6k(block, out)),
        }
    }

    /// The bytes of values that fill whole blocks, for the formats that are written.
    ///
    /// Errors: a value that F16 or the scale of a block cannot hold, which is returned; also a NaN.
    pub(super) fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
        let to_half = |x: f32| {
            let half = f16::from_f32(x);
            if half.is_finite() { Ok(half.to_le_bytes()) } else { Err(x) }
        };
        match self {
            Self::F16 => {
                for &x in values {
                    out.extend(to_half(x)?);
                }
            }
            Self::Q8_0 => {
                for block in values.chunks_exact(SMALL) {
                    if let Some(&x) = block.iter().find(|x| !x.is_finite()) {
                        return Err(x);
                    }
                    let largest = block.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    let d = largest / 127.0;
                    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
                    out.extend(to_half(d).map_err(|_| largest)?);
                    // A scale below the normal numbers has an inverse that is not finite; its quants saturate.
                    out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
                }
            }
            _ => {
                for &x in values {
                    out.extend(x.to_le_bytes());
                }
            }
        }
        Ok(())
    }
}

fn chunks<const N: usize>(bytes: &[u8]) -> std::slice::Iter<'_, [u8; N]> {
    bytes.as_chunks::<N>().0.iter()
}

fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// The low halves of all bytes, then the high ones.
fn nibbles(quants: &[u8]) -> impl Iterator<Item = u8> + '_ {
    quants.iter().map(|q| q & 15).chain(quants.iter().map(|q| q >> 4))
}

/// 128 bytes of low four bits, 64 of high two, 16 scales, one scale of all. Each half of the block has its
/// elements in four groups of 32.
fn decode_q6k(block: &[u8; 210], out: &mut Vec<f32>) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = half([d[0], d[1]]);
    for part in 0..2 {
        let low = &low[part * 64..][..64];
        let high = &high[part * 32..][..32];
        let scales = &scales[part * 8..][..8];
        for group in 0..4 {
            for i in 0..32 {
                let four = low[(group % 2) * 32 + i] >> (4 * (group / 2)) & 15;
                let two = high[i] >> (2 * group) & 3;
                let q = f32::from(four | two << 4) - 32.0;
                out.push(d * f32::from(scales[group * 2 + i / 16] as i8) * q);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(format: Format, bytes: &[u8]) -> Vec<f32> {
        let mut out = Vec::new();
        format.decode(bytes, &mut out);
        out
    }

    fn encoded(format: Format, values: &[f32]) -> Result<Vec<u8>, f32> {
        let mut out = Vec::new();
        format.encode(values, &mut out).map(|()| out)
    }

    #[test]
    fn blocks_have_low_nibbles_first() {
        let mut bytes = f16::from_f32(0.5).to_le_bytes().to_vec();
        bytes.extend([0x91; 16]);
        let values = decoded(Format::Q4_0, &bytes);
        assert_eq!((values[0], values[15], values[16], values[31]), (-3.5, -3.5, 0.5, 0.5));
        let mut bytes = f16::from_f32(0.5).to_le_bytes().to_vec();
        bytes.extend(f16::from_f32(-1.0).to_le_bytes());
        bytes.extend([0x92; 16]);
        let values = decoded(Format::Q4_1, &bytes);
        assert_eq!((values[0], values[16], values.len()), (0.0, 3.5, 32));
    }

    #[test]
    fn six_bit_blocks_join_their_two_parts() {
        let mut bytes = [0; 210];
        bytes[0] = 0x5F; // element 0: low 15; element 64: low 5
        bytes[128] = 0b0001_0010; // element 0: high 2; element 64: high 1
        bytes[192] = 2;
        bytes[196] = 0xFF;
        bytes[208..].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        let values = decoded(Format::Q6K, &bytes);
        assert_eq!(values.len(), 256);
        assert_eq!(values[0], 0.5 * 2.0 * (15.0 + 32.0 - 32.0));
        assert_eq!(values[64], -0.5 * (5.0 + 16.0 - 32.0));
    }

    #[test]
    fn eight_bit_blocks_keep_values_within_half_a_step() {
        let values: Vec<f32> = (0..96).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let again = decoded(Format::Q8_0, &encoded(Format::Q8_0, &values).unwrap());
        for (a, b) in values.iter().zip(&again) {
            assert!((a - b).abs() <= 3.0 / 127.0 * 0.52, "{a} {b}");
        }
        let zeros = [0.0; 32];
        assert_eq!(decoded(Format::Q8_0, &encoded(Format::Q8_0, &zeros).unwrap()), zeros);
        let tiny = [1e-40; 32];
        assert!(decoded(Format::Q8_0, &encoded(Format::Q8_0, &tiny).unwrap())[0].abs() < 1e-30);
    }

    #[test]
    fn values_that_a_format_cannot_hold_are_refused() {
        assert_eq!(encoded(Format::F16, &[1.0, 70_000.0]), Err(70_000.0));
        assert!(encoded(Format::F16, &[f32::NAN]).is_err());
        let mut block = [1.0; 32];
        block[5] = f32::INFINITY;
        assert!(encoded(Format::Q8_0, &block).is_err());
        block[5] = 1e9;
        assert_eq!(encoded(Format::Q8_0, &block), Err(1e9));
    }

    #[test]
    fn every_format_has_a_name_and_a_number_of_its_own() {
        for (number, name, format) in NAMES {
            if let Some(format) = format {
                assert_eq!((format.number(), format.name()), (number, name));
                assert_eq!(Format::from_number(number), Some(format));
            }
        }
        assert_eq!(Format::name_of(12), "Q4_K");
        assert_eq!(Format::name_of(99), "number 99");
    }
}
