//! Matrix products, also of some rows of a stored matrix, and with a thin product in the same pass.

use burn::backend::wgpu::CubeTensor;

use crate::device::gpu::Tiling;

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
        match gpu(self.a.tensor).tiling {
            Tiling::Direct => self.run_direct(),
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

    /// Steps from a row of A to the next and from a column of A to the next, and from a column of B to
    /// the next and from a row of B to the next.
    fn steps(&self, a: [usize; 2], b: [usize; 2]) -> [usize; 4] {
        let [a_row, a_step] = if self.layout == Layout::Tn { [1, a[1]] } else { [a[1], 1] };
        let [b_column, b_step] = if self.layout == Layout::Nt { [b[1], 1] } else { [1, b[1]] };
        [a_row, a_step, b_column, b_step]
    }

    fn tensors<'b>(&'b self, launch: Launch<'b>) -> Launch<'b> {
        let launch = launch.tensor(self.c.tensor).tensor(self.a.tensor).tensor(self.b.tensor);
        match &self.low {
            Some(low) => launch.tensor(low.p).tensor(low.q),
            None => launch,
        }
    }

    fn run_direct(&self) {
        let (m, n, k) = self.size();
        let is_broadcast = gpu(self.a.tensor).subgroup == Some(8);
        let (rows, columns) = if is_broadcast { (16, 4) } else { (8, 8) };
        let launch = DIRECT
            .launch()
            .constant("ROWS", rows)
            .constant("COLUMNS", columns)
            .constant("DEPTH", 4)
            .constant("BROADCAST", u32::from(is_broadcast))
            .constant("OWNED", if is_broadcast { rows / 8 } else { rows })
            .constant("LOW", u32::from(self.low.is_some()))
            .constant("ADD", u32::from(self.write == Write::Add));
        let mut launch = self.tensors(launch).uint(m).uint(n).uint(k).uint(self.rank());
        launch = launch.uint(self.c.at()).uint(self.a.at()).uint(self.b.at());
        for step in self.steps(self.a.sizes(), self.b.sizes()) {
            launch = launch.uint(step);
        }
        let low = self.low.map_or([0; 4], |low| self.steps(sizes(low.p), sizes(low.q)));
        for step in low {
            launch = launch.uint(step);
        }
        launch
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
        Product { c: Rows::from(&sums), write: Write::Replace, ..*self }.launch_tiles(side, chunk, parts);
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
        let low = |of: fn(Low<'_>) -> Rows<'_>| self.low.map(of);
        let (p, q) = (low(|low| low.p.into()), low(|low| low.q.into()));
        let launch = TILE
            .launch()
            .constant("SIDE", side)
            .constant("DEPTH", 2048 / side)
            .constant("A_ALONG_K", u32::from(self.layout != Layout::Tn))
            .constant("B_ALONG_K", u32::from(self.layout == Layout::Nt))
            .constant("A_VECTOR", u32::from(is_vector(self.a) && p.is_none_or(is_vector)))
            .constant("B_VECTOR", u32::from(is_vector(self.b) && q.is_none_or(is_vector)))
            .constant("C_VECTOR", u32::from(is_vector(self.c)))
            .constant("LOW", u32::from(self.low.is_some()))
            .constant("ADD", u32::from(self.write == Write::Add));
        self.tensors(launch)
            .uint(m)
            .uint(n)
            .uint(k)
            .uint(self.rank())
            .uint(self.c.at())
            .uint(self.a.at())
            .uint(self.b.at())
            .uint(self.a.columns())
            .uint(self.b.columns())
            .uint(p.map_or(0, Rows::columns))
            .uint(q.map_or(0, Rows::columns))
            .uint(chunk)
            .uint(parts)
            .float(self.scale)
            .float(self.low.map_or(0.0, |low| low.scale))
            .work(self.work())
            .over(m.div_ceil(side) * n.div_ceil(side) * parts);
    }
}

/// Workgroups that keep a GPU busy.
const ENOUGH_TILES: usize = 256;

/// Least part of K for which a part of its own is worth its sums.
const LEAST_CHUNK: usize = 256;
