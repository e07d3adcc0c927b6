//! Matrix products, also of some rows of a stored matrix, and with a thin product in the same pass.

use std::ops::Range;

use burn::backend::wgpu::CubeTensor;

use crate::device::gpu::{Gpu, Tiling};

use super::super::launch::{Launch, Shader, empty, gpu, sizes};
use super::super::matmul::Layout;

static DIRECT: Shader =
    Shader::new("matmul_direct", include_str!("../../../shaders/matmul_direct.wgsl"));
static TILE: Shader = Shader::new("matmul_tile", include_str!("../../../shaders/matmul_tile.wgsl"));
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
    Product { c: c.into(), write, scale, layout, a: a.into(), b: b.into(), low: None }.run();
}

/// A product and the thin one that goes into the same pass: `C (+)= scale · (A·B + low_scale · P·Q)`.
pub(super) struct Product<'a> {
    pub(super) c: Rows<'a>,
    pub(super) write: Write,
    pub(super) scale: f32,
    pub(super) layout: Layout,
    pub(super) a: Rows<'a>,
    pub(super) b: Rows<'a>,
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

    /// With few tiles K is cut into parts, for more workgroups.
    fn run_tiles(&self) {
        let (m, n, k) = self.size();
        let tiles = |side| m.div_ceil(side) * n.div_ceil(side);
        let side = if tiles(128) >= ENOUGH_TILES { 128 } else { 64 };
        let wanted = if self.low.is_some() { 1 } else { ENOUGH_TILES.div_ceil(tiles(side)) };
        let parts = wanted.min(k / LEAST_CHUNK).max(1);
        let chunk = k.div_ceil(parts).next_multiple_of(32);
        let parts = k.div_ceil(chunk).max(1);
        if parts == 1 {
            self.launch_tiles(side, chunk, 1);
            return;
        }
        let sums = empty(self.a.tensor, [parts * m, n]);
        Product { c: Rows::from(&sums), write: Write::Replace, ..*self }
            .launch_tiles(side, chunk, parts);
        SUM.launch()
            .constant("ADD", u32::from(self.write == Write::Add))
            .tensor(self.c.tensor)
            .tensor(&sums)
            .uint(m * n)
            .uint(self.c.at())
            .uint(parts)
            .over((m * n).div_ceil(256));
    }

    fn launch_tiles(&self, side: usize, chunk: usize, parts: usize) {
        let (m, n, k) = self.size();
        let is_vector = |x: Rows<'_>| x.columns().is_multiple_of(4);
        let (p, q) = (self.low.map(|low| Rows::from(low.p)), self.low.map(|low| Rows::from(low.q)));
        let launch = self
            .launch(&TILE)
            .constant("SIDE", side)
            .constant("DEPTH", 2048 / side)
            .constant("A_VECTOR", u32::from(is_vector(self.a) && p.is_none_or(is_vector)))
            .constant("B_VECTOR", u32::from(is_vector(self.b) && q.is_none_or(is_vector)))
            .constant("C_VECTOR", u32::from(is_vector(self.c)));
        self.sizes_and_pitches(launch, 0..k)
            .uint(chunk)
            .uint(parts)
            .float(self.scale)
            .float(self.low.map_or(0.0, |low| low.scale))
            .work(self.work())
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
            .tensor(self.c.tensor)
            .tensor(self.a.tensor)
            .tensor(self.b.tensor);
        match &self.low {
            Some(low) => launch.tensor(low.p).tensor(low.q),
            None => launch,
        }
    }

    /// Of a part of K.
    fn sizes_and_pitches<'b>(&self, launch: Launch<'b>, part: Range<usize>) -> Launch<'b> {
        let (m, n, _) = self.size();
        let pitch = |x: &CubeTensor| Rows::from(x).columns();
        let a_step = if self.layout == Layout::Tn { self.a.columns() } else { 1 };
        let b_step = if self.layout == Layout::Nt { 1 } else { self.b.columns() };
        launch
            .uint(m)
            .uint(n)
            .uint(part.len())
            .uint(self.rank())
            .uint(self.c.at())
            .uint(self.a.at() + part.start * a_step)
            .uint(self.b.at() + part.start * b_step)
            .uint(self.a.columns())
            .uint(self.b.columns())
            .uint(self.low.map_or(0, |low| pitch(low.p)))
            .uint(self.low.map_or(0, |low| pitch(low.q)))
    }

    /// The best form of the direct program that the device and the sizes allow.
    fn form(&self, gpu: &Gpu) -> Form {
        let is_even = |x: Rows<'_>| x.columns().is_multiple_of(2);
        let are_even = [self.a, self.b, self.c].into_iter().all(is_even)
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

/// llvmpipe leaves every loop of an invocation for good after 65,535 turns of all its loops together; a turn is
/// two steps of K here.
const LONGEST_K: usize = 120_000;

/// Workgroups that keep a GPU busy.
const ENOUGH_TILES: usize = 256;

/// Least part of K for which a part of its own is worth its sums.
const LEAST_CHUNK: usize = 256;
