//! Matrix products, also of some rows of a stored matrix, and with a thin product in the same pass.

use std::ops::Range;

use burn::backend::wgpu::CubeTensor;

use crate::device::gpu::{Gpu, Tiling};

use super::super::launch::{Launch, Shader, assert_unique, empty, gpu, sizes};
use super::super::matmul::Layout;
use super::super::packed::{Format, Packing};

static DIRECT: Shader = Shader::new(
    "matmul_direct",
    concat!(
        include_str!("../../../shaders/packed.wgsl"),
        include_str!("../../../shaders/matmul_direct.wgsl")
    ),
);
static TILE: Shader = Shader::new(
    "matmul_tile",
    concat!(
        include_str!("../../../shaders/packed.wgsl"),
        include_str!("../../../shaders/matmul_tile.wgsl")
    ),
);
static SUM: Shader = Shader::new("matmul_sum", include_str!("../../../shaders/matmul_sum.wgsl"));

/// Some rows of a stored matrix: as if they were a matrix of their own.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    tensor: &'a CubeTensor,
    first: usize,
    count: usize,
}

impl<'a> Rows<'a> {
    /// `count` rows from `first` on.
    pub(super) fn new(tensor: &'a CubeTensor, first: usize, count: usize) -> Self {
        let [rows, _] = sizes(tensor);
        assert!(first + count <= rows, "rows {first}..{} of {rows}", first + count);
        Self { tensor, first, count }
    }

    fn sizes(self) -> [usize; 2] {
        [self.count, self.columns()]
    }

    fn columns(self) -> usize {
        let [_, columns] = sizes(self.tensor);
        columns
    }

    /// Its first element.
    fn at(self) -> usize {
        self.first * self.columns()
    }
}

impl<'a> From<&'a CubeTensor> for Rows<'a> {
    fn from(tensor: &'a CubeTensor) -> Self {
        let [count, _] = sizes(tensor);
        Self { tensor, first: 0, count }
    }
}

/// A whole matrix in few bits.
#[derive(Clone, Copy)]
pub(super) struct PackedRows<'a> {
    pub(super) words: &'a CubeTensor,
    pub(super) scales: &'a CubeTensor,
    pub(super) packing: Packing,
}

/// The second operand of a product.
#[derive(Clone, Copy)]
pub(super) enum Second<'a> {
    Dense(Rows<'a>),
    Packed(PackedRows<'a>),
}

impl<'a> Second<'a> {
    fn sizes(self) -> [usize; 2] {
        match self {
            Self::Dense(rows) => rows.sizes(),
            Self::Packed(PackedRows { packing, .. }) => [packing.rows, packing.cols],
        }
    }

    /// The tensor that is bound in its place.
    fn tensor(self) -> &'a CubeTensor {
        match self {
            Self::Dense(rows) => rows.tensor,
            Self::Packed(packed) => packed.words,
        }
    }

    /// The scales, where it has some.
    fn scales(self) -> Option<&'a CubeTensor> {
        match self {
            Self::Packed(packed) if packed.packing.format != Format::F16 => Some(packed.scales),
            _ => None,
        }
    }

    /// The number of its form in the programs.
    fn form(self) -> u32 {
        match self {
            Self::Dense(_) => 0,
            Self::Packed(packed) => match packed.packing.format {
                Format::F16 => 1,
                Format::Q8 => 2,
                Format::Nf4 => 3,
            },
        }
    }

    /// Whether a test holds for its stored rows; words have no rows of their own.
    fn is_none_or(self, test: impl Fn(Rows<'a>) -> bool) -> bool {
        match self {
            Self::Dense(rows) => test(rows),
            Self::Packed(_) => true,
        }
    }

    /// Where a part of K begins: the element, or of a packed matrix the step of K.
    fn at(self, layout: Layout, k: usize) -> usize {
        match self {
            Self::Dense(rows) if layout == Layout::Nt => rows.at() + k,
            Self::Dense(rows) => rows.at() + k * rows.columns(),
            Self::Packed(_) => k,
        }
    }
}

/// What a product does with the values in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// `C = …`; what was there is not read.
    Replace,
    /// `C += …`.
    Add,
}

/// `scale · A · B`, `[M, N]`.
pub(super) fn matmul<'a>(
    scale: f32,
    layout: Layout,
    a: impl Into<Rows<'a>>,
    b: impl Into<Rows<'a>>,
) -> CubeTensor {
    let (a, b) = (a.into(), b.into());
    let (m, n, _) = layout.sizes(a.sizes(), b.sizes());
    let c = empty(a.tensor, [m, n]);
    matmul_into(&c, Write::Replace, scale, layout, a, b);
    c
}

/// `C = scale · A · B` or `C += scale · A · B`, in place. The caller holds the only handle to what it gives
/// as C, or means to write what others see.
pub(super) fn matmul_into<'a>(
    c: impl Into<Rows<'a>>,
    write: Write,
    scale: f32,
    layout: Layout,
    a: impl Into<Rows<'a>>,
    b: impl Into<Rows<'a>>,
) {
    let b = Second::Dense(b.into());
    Product { c: c.into(), write, scale, layout, a: a.into(), b, low: None }.run();
}

/// `x·Wᵀ` or `x·W` with the thin product, added to `acc` in place if given.
pub(super) fn packed_product(
    acc: Option<CubeTensor>,
    layout: Layout,
    x: &CubeTensor,
    w: PackedRows<'_>,
    low: Option<Low<'_>>,
) -> CubeTensor {
    let b = Second::Packed(w);
    let (m, n, _) = layout.sizes(sizes(x), b.sizes());
    let (c, write) = if let Some(acc) = acc {
        assert_unique(&acc, "packed_product");
        (acc, Write::Add)
    } else {
        (empty(x, [m, n]), Write::Replace)
    };
    Product { c: Rows::from(&c), write, scale: 1.0, layout, a: x.into(), b, low }.run();
    c
}

/// A product and the thin one that goes into the same pass: `C (+)= scale · (A·B + low_scale · P·Q)`.
pub(super) struct Product<'a> {
    pub(super) c: Rows<'a>,
    pub(super) write: Write,
    pub(super) scale: f32,
    pub(super) layout: Layout,
    pub(super) a: Rows<'a>,
    pub(super) b: Second<'a>,
    pub(super) low: Option<Low<'a>>,
}

/// `low_scale · P · Q`; P is stored as A is, Q as B is, and both from their first row on.
#[derive(Clone, Copy)]
pub(super) struct Low<'a> {
    pub(super) p: &'a CubeTensor,
    pub(super) q: &'a CubeTensor,
    pub(super) scale: f32,
}

impl Product<'_> {
    pub(super) fn run(self) {
        let (m, n, _) = self.layout.sizes(self.a.sizes(), self.b.sizes());
        assert_eq!(self.c.sizes(), [m, n], "target of a product");
        if let Some(low) = self.low {
            let (low_m, low_n, _) = self.layout.sizes(sizes(low.p), sizes(low.q));
            assert_eq!([low_m, low_n], [m, n], "the thin product beside a product");
        }
        let gpu = gpu(self.a.tensor);
        match gpu.tiling {
            Tiling::Direct => self.run_direct(self.form(&gpu)),
            Tiling::Workgroup => self.run_tiles(),
        }
    }

    /// `(M, N, K)`.
    fn size(&self) -> (usize, usize, usize) {
        self.layout.sizes(self.a.sizes(), self.b.sizes())
    }

    /// Inner size of the thin product.
    fn rank(&self) -> usize {
        self.low.map_or(0, |low| self.layout.sizes(sizes(low.p), sizes(low.q)).2)
    }

    fn work(&self) -> usize {
        let (m, n, k) = self.size();
        2 * m * n * (k + self.rank())
    }

    /// In parts of K if it is longer than such a driver's loops.
    fn run_direct(&self, form: Form) {
        let (_, _, k) = self.size();
        self.launch_direct(form, 0..k.min(LONGEST_K));
        for first in (LONGEST_K..k).step_by(LONGEST_K) {
            let rest = Product { write: Write::Add, low: None, ..*self };
            rest.launch_direct(form, first..k.min(first + LONGEST_K));
        }
    }

    fn launch_direct(&self, form: Form, part: Range<usize>) {
        let (m, n, _) = self.size();
        let (rows, columns) = match form {
            Form::Pairs if m <= 16 => (16, 8),
            Form::Pairs => (32, 8),
            Form::Shared => (16, 4),
            Form::Plain => (8, 8),
        };
        let is_broadcast = form != Form::Plain;
        let launch = self
            .launch(&DIRECT)
            .constant("ROWS", rows)
            .constant("COLUMNS", columns)
            .constant("DEPTH", 2)
            .constant("OWNED", if is_broadcast { rows / 8 } else { rows })
            .constant("BROADCAST", u32::from(is_broadcast))
            .constant("WIDE", u32::from(form == Form::Pairs));
        self.sizes_and_pitches(launch, part)
            .float(self.scale)
            .float(self.low.map_or(0.0, |low| low.scale))
            .work(self.work())
            .over(m.div_ceil(rows) * n.div_ceil(8 * columns));
    }

    /// In parts of K if it is long, for accuracy.
    fn run_tiles(&self) {
        let (_, _, k) = self.size();
        self.run_tiles_of(0..k.min(LONGEST_K));
        for first in (LONGEST_K..k).step_by(LONGEST_K) {
            let rest = Product { write: Write::Add, low: None, ..*self };
            rest.run_tiles_of(first..k.min(first + LONGEST_K));
        }
    }

    /// With few tiles this part of K is cut further, for more workgroups.
    fn run_tiles_of(&self, part: Range<usize>) {
        let (m, n, _) = self.size();
        let k = part.len();
        let tiles = |side| m.div_ceil(side) * n.div_ceil(side);
        let side = if tiles(128) >= ENOUGH_TILES { 128 } else { 64 };
        let wanted = if self.low.is_some() { 1 } else { ENOUGH_TILES.div_ceil(tiles(side)) };
        let parts = wanted.min(k / LEAST_CHUNK).max(1);
        let chunk = k.div_ceil(parts).next_multiple_of(32).max(32);
        let parts = k.div_ceil(chunk).max(1);
        if parts == 1 {
            self.launch_tiles(side, part, chunk, 1);
            return;
        }
        let sums = empty(self.a.tensor, [parts * m, n]);
        Product { c: Rows::from(&sums), write: Write::Replace, ..*self }
            .launch_tiles(side, part, chunk, parts);
        SUM.launch()
            .constant("ADD", u32::from(self.write == Write::Add))
            .tensor(self.c.tensor)
            .tensor(&sums)
            .uint(m * n)
            .uint(self.c.at())
            .uint(parts)
            .over((m * n).div_ceil(256));
    }

    fn launch_tiles(&self, side: usize, part: Range<usize>, chunk: usize, parts: usize) {
        let (m, n, k) = self.size();
        let work = self.work() * part.len() / k.max(1);
        let is_vector = |x: Rows<'_>| x.columns().is_multiple_of(4);
        let (p, q) = (self.low.map(|low| Rows::from(low.p)), self.low.map(|low| Rows::from(low.q)));
        let launch = self
            .launch(&TILE)
            .constant("SIDE", side)
            .constant("DEPTH", 2048 / side)
            .constant("A_VECTOR", u32::from(is_vector(self.a) && p.is_none_or(is_vector)))
            .constant(
                "B_VECTOR",
                u32::from(self.b.is_none_or(is_vector) && q.is_none_or(is_vector)),
            )
            .constant("C_VECTOR", u32::from(is_vector(self.c)));
        self.sizes_and_pitches(launch, part)
            .uint(chunk)
            .uint(parts)
            .first_group()
            .float(self.scale)
            .float(self.low.map_or(0.0, |low| low.scale))
            .work(work)
            .over(m.div_ceil(side) * n.div_ceil(side) * parts);
    }

    /// A launch with what all programs need.
    fn launch(&self, shader: &'static Shader) -> Launch<'_> {
        let launch = shader
            .launch()
            .constant("A_ALONG_K", u32::from(self.layout != Layout::Tn))
            .constant("B_ALONG_K", u32::from(self.layout == Layout::Nt))
            .constant("LOW", u32::from(self.low.is_some()))
            .constant("ADD", u32::from(self.write == Write::Add))
            .constant("PACKED", self.b.form())
            .tensor(self.c.tensor)
            .tensor(self.a.tensor)
            .tensor(self.b.tensor());
        let launch = match &self.low {
            Some(low) => launch.tensor(low.p).tensor(low.q),
            None => launch,
        };
        match self.b.scales() {
            Some(scales) => launch.tensor(scales),
            None => launch,
        }
    }

    /// Of a part of K.
    fn sizes_and_pitches<'b>(&self, launch: Launch<'b>, part: Range<usize>) -> Launch<'b> {
        let (m, n, _) = self.size();
        let pitch = |x: &CubeTensor| Rows::from(x).columns();
        let [_, b_columns] = self.b.sizes();
        let a_step = if self.layout == Layout::Tn { self.a.columns() } else { 1 };
        launch
            .uint(m)
            .uint(n)
            .uint(part.len())
            .uint(self.rank())
            .uint(self.c.at())
            .uint(self.a.at() + part.start * a_step)
            .uint(self.b.at(self.layout, part.start))
            .uint(self.a.columns())
            .uint(b_columns)
            .uint(self.low.map_or(0, |low| pitch(low.p)))
            .uint(self.low.map_or(0, |low| pitch(low.q)))
    }

    /// The best form of the direct program that the device and the sizes allow.
    fn form(&self, gpu: &Gpu) -> Form {
        let is_even = |x: Rows<'_>| x.columns().is_multiple_of(2);
        let are_even = [self.a, self.c].into_iter().all(is_even)
            && self.b.is_none_or(is_even)
            && self.low.is_none_or(|low| is_even(low.p.into()) && is_even(low.q.into()));
        match (gpu.subgroup, gpu.has_int64 && are_even) {
            (Some(8), true) => Form::Pairs,
            (Some(8), false) => Form::Shared,
            _ => Form::Plain,
        }
    }
}

/// Forms of the direct program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Every invocation loads what it needs.
    Plain,
    /// The invocations of a subgroup share the rows of A.
    Shared,
    /// They also load two neighbours at a time, in a larger block.
    Pairs,
}

/// Longer sums go in parts, for accuracy (70,000 terms of one sign in one f32 are off by 3e-5, in parts by 2e-6); in the
/// direct program also because llvmpipe ends the loops of an invocation for good after 65,535 turns of all of them together; a
/// turn is two steps of K.
const LONGEST_K: usize = 4096;

/// Workgroups that keep a GPU busy.
const ENOUGH_TILES: usize = 256;

/// Least part of K for which a part of its own is worth its sums.
const LEAST_CHUNK: usize = 256;

#[cfg(test)]
mod tests {
    use burn::backend::wgpu::CubeBackend;

    use super::*;
    use crate::device::Device;
    use crate::device::adapter::{Adapter, Kind};
    use crate::device::memory::Category::Activations;
    use crate::kernels::{Matrix, reference};

    /// A software adapter in the given tiling, where there is one.
    fn software(tiling: Tiling) -> Option<Device> {
        let adapter = Adapter::all().into_iter().find(|adapter| adapter.kind == Kind::Software)?;
        Some(adapter.open(Some(tiling)).unwrap())
    }

    fn values([rows, columns]: [usize; 2], seed: usize) -> Vec<f32> {
        (0..rows * columns)
            .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 500.0 - 1.0)
            .collect()
    }

    fn tensor(device: &Device, shape: [usize; 2], seed: usize) -> CubeTensor {
        let matrix = Matrix::from_host(values(shape, seed), shape, device, Activations);
        matrix.tensor().try_into_primitive::<CubeBackend>().unwrap()
    }

    fn wide(x: &CubeTensor) -> Vec<f64> {
        let bytes = x.client.read_one(x.handle.clone()).unwrap();
        let float = |b: &[u8]| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        bytes.chunks_exact(4).map(float).collect()
    }

    #[track_caller]
    fn assert_near(what: &str, got: &[f64], right: &[f64]) {
        assert_eq!(got.len(), right.len());
        for (i, (got, right)) in got.iter().zip(right).enumerate() {
            assert!((got - right).abs() < 1e-4, "{what}: value {i} is {got}, not {right}");
        }
    }

    const LAYOUTS: [Layout; 3] = [Layout::Nn, Layout::Nt, Layout::Tn];

    fn stored(layout: Layout, m: usize, n: usize, k: usize) -> [[usize; 2]; 2] {
        let a = if layout == Layout::Tn { [k, m] } else { [m, k] };
        let b = if layout == Layout::Nt { [n, k] } else { [k, n] };
        [a, b]
    }

    #[test]
    fn products_of_some_rows_leave_the_others_alone() {
        for tiling in [Tiling::Direct, Tiling::Workgroup] {
            let Some(device) = software(tiling) else { return };
            for (m, n, k) in [(20, 34, 18), (33, 5, 9), (4, 8, 600)] {
                for layout in LAYOUTS {
                    let [a_shape, b_shape] = stored(layout, m, n, k);
                    let more = |[rows, columns]: [usize; 2]| [rows + 7, columns];
                    let (a, b) =
                        (tensor(&device, more(a_shape), 1), tensor(&device, more(b_shape), 2));
                    let c = tensor(&device, [m + 5, n], 3);
                    let part = |x: &CubeTensor, first: usize, [rows, columns]: [usize; 2]| {
                        wide(x)[first * columns..(first + rows) * columns].to_vec()
                    };
                    let sums = reference::matmul(
                        layout,
                        &part(&a, 3, a_shape),
                        &part(&b, 6, b_shape),
                        (m, n, k),
                    );
                    let mut right = wide(&c);
                    for (c, sum) in right[2 * n..(2 + m) * n].iter_mut().zip(&sums) {
                        *c += 0.5 * sum;
                    }
                    matmul_into(
                        Rows::new(&c, 2, m),
                        Write::Add,
                        0.5,
                        layout,
                        Rows::new(&a, 3, a_shape[0]),
                        Rows::new(&b, 6, b_shape[0]),
                    );
                    assert_near(&format!("{tiling:?} {layout:?} {m}x{n}x{k}"), &wide(&c), &right);
                }
            }
            device.check().unwrap();
        }
    }

    #[test]
    fn every_form_of_the_direct_program_gives_the_same() {
        let Some(device) = software(Tiling::Direct) else { return };
        for layout in LAYOUTS {
            let (m, n, k, r) = (36, 70, 10, 4);
            let [a_shape, b_shape] = stored(layout, m, n, k);
            let [p_shape, q_shape] = stored(layout, m, n, r);
            let (a, b) = (tensor(&device, a_shape, 1), tensor(&device, b_shape, 2));
            let (p, q) = (tensor(&device, p_shape, 3), tensor(&device, q_shape, 4));
            let dense = reference::matmul(layout, &wide(&a), &wide(&b), (m, n, k));
            let thin = reference::matmul(layout, &wide(&p), &wide(&q), (m, n, r));
            let right: Vec<f64> =
                dense.iter().zip(&thin).map(|(dense, thin)| 2.0 * (dense + 0.5 * thin)).collect();
            for form in [Form::Plain, Form::Shared, Form::Pairs] {
                let gpu = gpu(&a);
                let is_possible = match form {
                    Form::Plain => true,
                    Form::Shared => gpu.subgroup == Some(8),
                    Form::Pairs => gpu.subgroup == Some(8) && gpu.has_int64,
                };
                if !is_possible {
                    continue;
                }
                let c = empty(&a, [m, n]);
                Product {
                    c: Rows::from(&c),
                    write: Write::Replace,
                    scale: 2.0,
                    layout,
                    a: Rows::from(&a),
                    b: Second::Dense(Rows::from(&b)),
                    low: Some(Low { p: &p, q: &q, scale: 0.5 }),
                }
                .run_direct(form);
                assert_near(&format!("{form:?} {layout:?}"), &wide(&c), &right);
            }
        }
        device.check().unwrap();
    }
}
