//! Sums of the elements, or of their squares, of rows, columns or whole tensors.
//!
//! In two stages, parts and their sum, cut by size alone: the same bits every time.

use burn::backend::wgpu::CubeTensor;

use crate::device::gpu::Tiling;

use super::super::launch::{self, Shader, elements, sizes};
use super::super::scaling::Along;
use super::grid::wide;

static SUMS: Shader = Shader::new("sums", include_str!("../../../shaders/sums.wgsl"));
static SUMS_DIRECT: Shader =
    Shader::new("sums_direct", include_str!("../../../shaders/sums_direct.wgsl"));

/// Parts of a vector at most: as many as one workgroup adds up at once.
const MAX_PARTS: usize = 256;

/// What is summed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Terms {
    /// The elements.
    Plain,
    /// Their squares.
    Squares,
}

/// Where the elements of `vectors` vectors of `length` stand: `v·line + i·stride`.
#[derive(Clone, Copy)]
struct Place {
    vectors: usize,
    length: usize,
    line: usize,
    stride: usize,
}

impl Place {
    fn of(x: &CubeTensor, along: Along) -> Self {
        let all = elements(x);
        let size = || sizes::<2>(x);
        match along {
            Along::All => Self { vectors: 1, length: all, line: all, stride: 1 },
            Along::Rows => {
                let [rows, width] = size();
                Self { vectors: rows, length: width, line: width, stride: 1 }
            }
            Along::Columns => {
                let [rows, width] = size();
                Self { vectors: width, length: rows, line: 1, stride: width }
            }
        }
    }

    /// How many parts each vector is cut into: enough to keep the device busy.
    fn parts(&self, tiling: Tiling) -> usize {
        let (wanted, least) = match tiling {
            Tiling::Workgroup if self.stride == 1 => (1024_usize.div_ceil(self.vectors), 4096),
            // Columns: short pieces, so that the rows between two pieces stay in a cache.
            _ if self.stride != 1 => (self.length, 32),
            _ => (256_usize.div_ceil(self.vectors), 256),
        };
        wanted.min(self.length.div_ceil(least)).clamp(1, MAX_PARTS)
    }
}

/// Sums over `parts` parts of every vector into `out [parts, vectors]`.
fn launch_sums(
    x: &CubeTensor,
    out: &CubeTensor,
    place: Place,
    parts: usize,
    terms: Terms,
    adds: bool,
) {
    let tiling = launch::gpu(x).tiling;
    let square = u32::from(terms == Terms::Squares);
    let Place { mut vectors, mut length, mut line, mut stride } = place;
    let work = elements(x) * 5;
    if tiling == Tiling::Workgroup && stride == 1 {
        let (is_wide, length) = wide(length);
        SUMS.launch()
            .constant("WIDE", is_wide)
            .constant("SQUARE", square)
            .constant("ADD", u32::from(adds))
            .tensor(x)
            .tensor(out)
            .uint(vectors)
            .uint(parts)
            .uint(length)
            .uint(length.div_ceil(parts))
            .work(work)
            .over(vectors * parts);
        return;
    }
    let kind = if stride == 1 && length.is_multiple_of(4) {
        (length, line) = (length / 4, line / 4);
        1
    } else if line == 1 && vectors.is_multiple_of(4) {
        (vectors, stride) = (vectors / 4, stride / 4);
        2
    } else {
        0
    };
    // Few invocations in a workgroup, because there are few invocations.
    let workgroup = if tiling == Tiling::Direct { 8 } else { 64 };
    SUMS_DIRECT
        .launch()
        .constant("WIDE", kind)
        .constant("SQUARE", square)
        .constant("ADD", u32::from(adds))
        .constant("WORKGROUP", workgroup)
        .tensor(x)
        .tensor(out)
        .uint(vectors)
        .uint(parts)
        .uint(length)
        .uint(length.div_ceil(parts))
        .uint(line)
        .uint(stride)
        .work(work)
        .over((vectors * parts).div_ceil(workgroup));
}

/// Sums of each vector in parts, `[parts, vectors]`; a single vector has one part.
pub(super) fn parts(x: &CubeTensor, along: Along, terms: Terms) -> CubeTensor {
    let place = Place::of(x, along);
    if place.vectors == 1 {
        let out = launch::empty(x, [1, 1]);
        sum_into(&out, x, terms, false);
        return out;
    }
    let parts = place.parts(launch::gpu(x).tiling);
    let out = launch::empty(x, [parts, place.vectors]);
    launch_sums(x, &out, place, parts, terms, false);
    out
}

/// The sum of all elements, `[1]`.
pub(super) fn total(x: &CubeTensor, terms: Terms) -> CubeTensor {
    let out = launch::empty(x, [1]);
    sum_into(&out, x, terms, false);
    out
}

/// `acc [1] += Σ` over all elements, in place.
pub(super) fn add_total(acc: &CubeTensor, x: &CubeTensor, terms: Terms) {
    sum_into(acc, x, terms, true);
}

fn sum_into(out: &CubeTensor, x: &CubeTensor, terms: Terms, adds: bool) {
    let place = Place::of(x, Along::All);
    let parts = place.parts(launch::gpu(x).tiling);
    if parts == 1 {
        launch_sums(x, out, place, 1, terms, adds);
        return;
    }
    let sums = launch::empty(x, [parts, 1]);
    launch_sums(x, &sums, place, parts, terms, false);
    launch_sums(&sums, out, Place::of(&sums, Along::All), 1, Terms::Plain, adds);
}
