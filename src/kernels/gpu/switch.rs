//! Switches of vectors between factors and pools, restarts of their partners.
//!
//! The lists of vectors travel in the parameters, so that a switch uploads no tensor; a list that is too long for it
//! takes the default bodies.

use burn::backend::wgpu::{CubeBackend, CubeTensor};

use crate::device::gpu::Tiling;

use super::super::launch::{self, Launch, Shader, assert_unique, elements, sizes};
use super::super::switch::{Switch, default_restart, default_switch};
use super::super::update::Axis;
use super::elementwise_groups;
use super::fill::fill;
use super::sums::{Terms, total};

static EXCHANGE: Shader = Shader::new("exchange", include_str!("../../../shaders/exchange.wgsl"));
static CORRECT: Shader = Shader::new("correct", include_str!("../../../shaders/correct.wgsl"));
static RESTART: Shader = Shader::new("restart", include_str!("../../../shaders/restart.wgsl"));

/// Invocations of a subgroup of drivers that compute on the CPU.
const LANES: usize = 8;

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

/// `(vector, from, to, 0)` of the rows of A, then of the columns of B.
fn ways<'a>(switch: &Switch<'a>) -> impl Iterator<Item = [usize; 4]> + use<'a> {
    [switch.a, switch.b].into_iter().flat_map(|side| {
        let ways = side.vectors.iter().zip(side.from).zip(side.to);
        ways.map(|((&vector, &from), &to)| [vector, from, to, 0])
    })
}

/// Exchanges vectors of both factors with their pools and gives back what left minus what came: `[k, n]` of A,
/// `[k, m]` of B.
fn exchange(
    [a, b]: [&CubeTensor; 2],
    [pool_a, pool_b]: [&CubeTensor; 2],
    switch: &Switch<'_>,
) -> [CubeTensor; 2] {
    let ([rank, inputs], [outputs, _]) = (sizes(a), sizes(b));
    let (rows, columns) = (switch.a.vectors.len(), switch.b.vectors.len());
    // A side without vectors still has a tensor to bind.
    let left_a = launch::empty(a, [rows.max(1), inputs]);
    let left_b = launch::empty(a, [columns.max(1), outputs]);
    let (workgroup, groups) = elementwise_groups(a, inputs + outputs);
    let size = capacity(rows + columns);
    let launch = EXCHANGE
        .launch()
        .constant("WORKGROUP", workgroup)
        .constant("CAPACITY", size)
        .tensor(a)
        .tensor(pool_a)
        .tensor(&left_a)
        .tensor(b)
        .tensor(pool_b)
        .tensor(&left_b)
        .uint(rows)
        .uint(columns)
        .uint(inputs)
        .uint(outputs)
        .uint(rank)
        .uint(0)
        .uint(0)
        .uint(0);
    listed(launch, ways(switch), size).over(groups);
    [left_a, left_b]
}

/// `w += s·B[:,I]·left_a + s·left_bᵀ·A[J,:]`. Gives the squared norm of what was added, `[1]`.
fn correct(
    w: &CubeTensor,
    [a, b]: [&CubeTensor; 2],
    [left_a, left_b]: [&CubeTensor; 2],
    switch: &Switch<'_>,
) -> CubeTensor {
    let ([rows, width], [_, rank]) = (sizes(w), sizes(b));
    let gpu = launch::gpu(w);
    let block = match gpu.tiling {
        Tiling::Workgroup => 4,
        Tiling::Direct => LANES,
    };
    let neighbours = match gpu.tiling {
        Tiling::Direct if gpu.has_int64 && width.is_multiple_of(2) => 2,
        _ if width.is_multiple_of(4) => 4,
        _ => 1,
    };
    let columns = width / neighbours;
    let is_broadcast = gpu.tiling == Tiling::Direct
        && gpu.subgroup == Some(LANES as u32)
        && columns.is_multiple_of(LANES);
    let units = rows.div_ceil(block) * columns;
    let squares = launch::empty(w, [1, units]);
    let (workgroup, groups) = elementwise_groups(w, units);
    let (count_a, count_b) = (switch.a.vectors.len(), switch.b.vectors.len());
    let size = capacity(count_a + count_b);
    let launch = CORRECT
        .launch()
        .constant("WIDTH", neighbours)
        .constant("BROADCAST", u32::from(is_broadcast))
        .constant("ROWS", block)
        .constant("WORKGROUP", workgroup)
        .constant("CAPACITY", size)
        .tensor(w)
        .tensor(a)
        .tensor(b)
        .tensor(left_a)
        .tensor(left_b)
        .tensor(&squares)
        .uint(rows)
        .uint(columns)
        .uint(rank)
        .uint(count_a)
        .uint(count_b)
        .float(switch.scale)
        .uint(0)
        .uint(0);
    let work = elements(w) * (8 + 2 * (count_a + count_b));
    listed(launch, ways(switch), size).work(work).over(groups);
    total(&squares, Terms::Plain)
}

/// `(w, a, b, pool_a, pool_b, norm)`.
pub(super) fn switch(
    w: CubeTensor,
    a: CubeTensor,
    b: CubeTensor,
    pool_a: CubeTensor,
    pool_b: CubeTensor,
    switch: &Switch<'_>,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let count = switch.a.vectors.len() + switch.b.vectors.len();
    if count > MAX_LISTED {
        return default_switch::<CubeBackend>(w, a, b, pool_a, pool_b, switch);
    }
    for tensor in [&w, &a, &b, &pool_a, &pool_b] {
        assert_unique(tensor, "switch");
    }
    let norm = if count == 0 {
        let norm = launch::empty(&w, [1]);
        fill(&norm, 0.0);
        norm
    } else {
        let left = exchange([&a, &b], [&pool_a, &pool_b], switch);
        correct(&w, [&a, &b], [&left[0], &left[1]], switch)
    };
    (w, a, b, pool_a, pool_b, norm)
}

/// `(exp_avg, exp_avg_sq, counters)`.
pub(super) fn restart(
    exp_avg: CubeTensor,
    exp_avg_sq: CubeTensor,
    counters: CubeTensor,
    axis: Axis,
    vectors: &[usize],
    since: i32,
    until: i32,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let count = vectors.len();
    if count > MAX_LISTED {
        return default_restart::<CubeBackend>(
            exp_avg, exp_avg_sq, counters, axis, vectors, since, until,
        );
    }
    for tensor in [&exp_avg, &exp_avg_sq, &counters] {
        assert_unique(tensor, "restart");
    }
    let [height, width] = sizes(&exp_avg);
    let (length, line, stride) = match axis {
        Axis::Rows => (width, width, 1),
        Axis::Columns => (height, 1, width),
    };
    let (workgroup, groups) = elementwise_groups(&exp_avg, count * length);
    let size = capacity(count.div_ceil(4));
    let launch = RESTART
        .launch()
        .constant("BY_COLUMN", usize::from(axis == Axis::Columns))
        .constant("WORKGROUP", workgroup)
        .constant("CAPACITY", size)
        .tensor(&exp_avg)
        .tensor(&exp_avg_sq)
        .tensor(&counters)
        .uint(count)
        .uint(length)
        .uint(line)
        .uint(stride)
        .uint(elements(&counters) / 2)
        .uint(since.cast_unsigned())
        .uint(until.cast_unsigned())
        .uint(0);
    let quads =
        vectors.chunks(4).map(|four| std::array::from_fn(|i| four.get(i).copied().unwrap_or(0)));
    listed(launch, quads, size).over(groups);
    (exp_avg, exp_avg_sq, counters)
}
