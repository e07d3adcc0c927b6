//! Switches of vectors between factors and pools, zeroed rows and columns.
//!
//! The lists of vectors travel in the parameters, so that a switch uploads no tensor; a list that is too long for it
//! takes the default bodies.

use burn::backend::wgpu::{CubeBackend, CubeTensor};

use crate::device::gpu::Tiling;

use super::super::launch::{self, Launch, Shader, assert_unique, elements, sizes};
use super::super::lowrank::{Exchange, default_switch_columns, default_switch_rows};
use super::elementwise_groups;
use super::fill::fill;
use super::grid::wide;
use super::sums::{Terms, total};

static EXCHANGE: Shader = Shader::new("exchange", include_str!("../../../shaders/exchange.wgsl"));
static CORRECT: Shader = Shader::new("correct", include_str!("../../../shaders/correct.wgsl"));
static ZERO_VECTORS: Shader =
    Shader::new("zero_vectors", include_str!("../../../shaders/zero_vectors.wgsl"));

static SET_ENTRIES: Shader =
    Shader::new("set_entries", include_str!("../../../shaders/set_entries.wgsl"));

/// Vectors that one launch takes: 16 bytes each.
const MAX_LISTED: usize = 2048;

/// The array of parameters that holds `count` entries: few sizes, so few pipelines.
fn capacity(count: usize) -> usize {
    [8, 64, 512].into_iter().find(|&size| count <= size).unwrap_or(MAX_LISTED)
}

/// The list as parameters, padded to the array's size.
fn listed(
    launch: Launch<'_>,
    entries: impl Iterator<Item = [usize; 4]>,
    size: usize,
) -> Launch<'_> {
    let padding = std::iter::repeat([0; 4]);
    entries.chain(padding).take(size).flatten().fold(launch, Launch::uint)
}

/// A list by fours, as the vec4s of the parameters.
fn quads(list: &[usize]) -> impl Iterator<Item = [usize; 4]> {
    list.chunks(4).map(|four| std::array::from_fn(|i| four.get(i).copied().unwrap_or(0)))
}

/// How vectors of a matrix stand in its storage: `i·line + e·stride`, `length` elements.
#[derive(Clone, Copy)]
struct Vectors {
    length: usize,
    line: usize,
    stride: usize,
}

impl Vectors {
    fn rows(x: &CubeTensor) -> Self {
        let [_, width] = sizes(x);
        Self { length: width, line: width, stride: 1 }
    }

    fn columns(x: &CubeTensor) -> Self {
        let [rows, width] = sizes(x);
        Self { length: rows, line: 1, stride: width }
    }
}

/// Exchanges vectors of `factor` with the pool and gives back what left minus what came, `[k, length]`.
fn exchange_vectors(
    factor: &CubeTensor,
    pool: &CubeTensor,
    vectors: Vectors,
    exchange: &Exchange<'_>,
) -> CubeTensor {
    let count = exchange.vectors.len();
    let difference = launch::empty(factor, [count, vectors.length]);
    let (workgroup, groups) = elementwise_groups(factor, vectors.length);
    let size = capacity(count);
    let launch = EXCHANGE
        .launch()
        .constant("WORKGROUP", workgroup)
        .constant("CAPACITY", size)
        .tensor(factor)
        .tensor(pool)
        .tensor(&difference)
        .uint(count)
        .uint(vectors.length)
        .uint(vectors.line)
        .uint(vectors.stride);
    let ways = exchange.from.iter().zip(exchange.to);
    let steps = exchange.vectors.iter().zip(ways).map(|(&i, (&from, &to))| [i, from, to, 0]);
    listed(launch, steps, size).over(groups);
    difference
}

/// `w += scale·L·D`, where `places` says where each column of L and each row of D begins, and the elements of a
/// column of L are `left_stride` apart. Gives the squared norm of what was added, `[1]`.
fn correct(
    w: &CubeTensor,
    [left, right]: [&CubeTensor; 2],
    places: impl ExactSizeIterator<Item = [usize; 2]>,
    left_stride: usize,
    scale: f32,
) -> CubeTensor {
    let [rows, width] = sizes(w);
    let count = places.len();
    let block = match launch::gpu(w).tiling {
        Tiling::Workgroup => 4,
        Tiling::Direct => 8,
    };
    let (is_wide, columns) = wide(width);
    let units = rows.div_ceil(block) * columns;
    let squares = launch::empty(w, [1, units]);
    let (workgroup, groups) = elementwise_groups(w, units);
    let size = capacity(count);
    let launch = CORRECT
        .launch()
        .constant("WIDE", is_wide)
        .constant("ROWS", block)
        .constant("WORKGROUP", workgroup)
        .constant("CAPACITY", size)
        .tensor(w)
        .tensor(left)
        .tensor(right)
        .tensor(&squares)
        .uint(rows)
        .uint(columns)
        .uint(left_stride)
        .uint(count)
        .float(scale)
        .uint(0)
        .uint(0)
        .uint(0);
    let per_column = width / columns.max(1);
    let places = places.map(|[left, right]| [left, right / per_column, 0, 0]);
    listed(launch, places, size).work(elements(w) * (8 + 2 * count)).over(groups);
    total(&squares, Terms::Plain)
}

fn no_norm(like: &CubeTensor) -> CubeTensor {
    let norm = launch::empty(like, [1]);
    fill(&norm, 0.0);
    norm
}

/// `(w, a, pool, norm)`.
pub(super) fn switch_rows(
    w: CubeTensor,
    a: CubeTensor,
    b: CubeTensor,
    pool: CubeTensor,
    exchange: &Exchange<'_>,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    if exchange.vectors.len() > MAX_LISTED {
        return default_switch_rows::<CubeBackend>(w, a, b, pool, exchange);
    }
    for tensor in [&w, &a, &pool] {
        assert_unique(tensor, "switch_rows");
    }
    let norm = if exchange.vectors.is_empty() {
        no_norm(&w)
    } else {
        let vectors = Vectors::rows(&a);
        let difference = exchange_vectors(&a, &pool, vectors, exchange);
        let places = exchange.vectors.iter().enumerate().map(|(j, &i)| [i, j * vectors.length]);
        let [_, rank] = sizes(&b);
        correct(&w, [&b, &difference], places, rank, exchange.scale)
    };
    (w, a, pool, norm)
}

/// `(w, b, pool, norm)`.
pub(super) fn switch_columns(
    w: CubeTensor,
    a: CubeTensor,
    b: CubeTensor,
    pool: CubeTensor,
    exchange: &Exchange<'_>,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    if exchange.vectors.len() > MAX_LISTED {
        return default_switch_columns::<CubeBackend>(w, a, b, pool, exchange);
    }
    for tensor in [&w, &b, &pool] {
        assert_unique(tensor, "switch_columns");
    }
    let norm = if exchange.vectors.is_empty() {
        no_norm(&w)
    } else {
        let vectors = Vectors::columns(&b);
        let difference = exchange_vectors(&b, &pool, vectors, exchange);
        let [_, inputs] = sizes(&w);
        let places =
            exchange.vectors.iter().enumerate().map(|(j, &i)| [j * vectors.length, i * inputs]);
        correct(&w, [&difference, &a], places, 1, exchange.scale)
    };
    (w, b, pool, norm)
}

/// Zeroes vectors of `x`, as many at a time as a launch takes.
fn zero_vectors(x: CubeTensor, list: &[usize], vectors: Vectors, name: &str) -> CubeTensor {
    assert_unique(&x, name);
    for list in list.chunks(MAX_LISTED) {
        let size = capacity(list.len().div_ceil(4));
        let (workgroup, groups) = elementwise_groups(&x, list.len() * vectors.length);
        let launch = ZERO_VECTORS
            .launch()
            .constant("BY_COLUMN", usize::from(vectors.stride != 1))
            .constant("WORKGROUP", workgroup)
            .constant("CAPACITY", size)
            .tensor(&x)
            .uint(list.len())
            .uint(vectors.length)
            .uint(vectors.line)
            .uint(vectors.stride);
        listed(launch, quads(list), size).over(groups);
    }
    x
}

/// Sets the listed entries of a list of i32 to one value, in place.
pub(super) fn set_entries(x: CubeTensor, entries: &[usize], value: i32) -> CubeTensor {
    assert_unique(&x, "set_entries");
    for entries in entries.chunks(MAX_LISTED) {
        let size = capacity(entries.len().div_ceil(4));
        let (workgroup, groups) = elementwise_groups(&x, entries.len());
        let launch = SET_ENTRIES
            .launch()
            .constant("WORKGROUP", workgroup)
            .constant("CAPACITY", size)
            .tensor(&x)
            .uint(entries.len())
            .uint(value.cast_unsigned())
            .uint(0)
            .uint(0);
        listed(launch, quads(entries), size).over(groups);
    }
    x
}

/// Zeroes rows in place.
pub(super) fn zero_rows(x: CubeTensor, rows: &[usize]) -> CubeTensor {
    let vectors = Vectors::rows(&x);
    zero_vectors(x, rows, vectors, "zero_rows")
}

/// Zeroes columns in place.
pub(super) fn zero_columns(x: CubeTensor, columns: &[usize]) -> CubeTensor {
    let vectors = Vectors::columns(&x);
    zero_vectors(x, columns, vectors, "zero_columns")
}
