//! Causal grouped-query attention and the copy into its cache.

use burn::backend::wgpu::CubeTensor;

use crate::device::gpu::Tiling;

use super::super::attention::AttentionShape;
use super::super::launch::{Launch, Shader, assert_unique, elements, empty, gpu, sizes};
use super::rows::{over_items, vector};

static FORWARD: Shader = Shader::new(
    "attention",
    concat!(
        include_str!("../../../shaders/exponential.wgsl"),
        include_str!("../../../shaders/attention_tiles.wgsl"),
        include_str!("../../../shaders/attention.wgsl")
    ),
);
static FORWARD_DIRECT: Shader = Shader::new(
    "attention_direct",
    concat!(
        include_str!("../../../shaders/exponential.wgsl"),
        include_str!("../../../shaders/attention_direct.wgsl")
    ),
);
static STATISTICS: Shader =
    Shader::new("attention_statistics", include_str!("../../../shaders/attention_statistics.wgsl"));
static DQ: Shader = Shader::new(
    "attention_dq",
    concat!(
        include_str!("../../../shaders/exponential.wgsl"),
        include_str!("../../../shaders/attention_tiles.wgsl"),
        include_str!("../../../shaders/attention_dq.wgsl")
    ),
);
static DQ_DIRECT: Shader = Shader::new(
    "attention_dq_direct",
    concat!(
        include_str!("../../../shaders/exponential.wgsl"),
        include_str!("../../../shaders/attention_dq_direct.wgsl")
    ),
);
static DKV: Shader = Shader::new(
    "attention_dkv",
    concat!(
        include_str!("../../../shaders/exponential.wgsl"),
        include_str!("../../../shaders/attention_tiles.wgsl"),
        include_str!("../../../shaders/attention_dkv.wgsl")
    ),
);
static DKV_DIRECT: Shader = Shader::new(
    "attention_dkv_direct",
    concat!(
        include_str!("../../../shaders/exponential.wgsl"),
        include_str!("../../../shaders/attention_dkv_direct.wgsl")
    ),
);
static COPY_ROWS: Shader =
    Shader::new("copy_rows", include_str!("../../../shaders/copy_rows.wgsl"));

/// Queries, or keys, of a workgroup.
const TILE: usize = 32;
/// Invocations of a workgroup on software adapters: the lanes of a vector.
const LANES: usize = 8;

/// What an invocation holds on software adapters.
#[derive(Clone, Copy)]
struct Block {
    /// Its own queries, or keys.
    rows: usize,
    /// Keys, or queries, that it goes over at once.
    keys: usize,
    /// Lanes that share the loads of one of them.
    shares: usize,
    /// Whether the lanes of a vector load for each other.
    is_broadcast: bool,
}

impl Block {
    /// Longer heads leave room for fewer rows, and unrolled programs grow with all three.
    fn new(like: &CubeTensor, head_dim: usize, rows: usize, keys: usize) -> Self {
        let share = head_dim.div_ceil(64).next_power_of_two();
        let rows = (rows / share).max(1);
        if gpu(like).subgroup == Some(LANES as u32) {
            let parts = head_dim / vector(head_dim);
            let shares = if parts.is_multiple_of(2) { 2 } else { 1 };
            return Self { rows, keys: LANES / shares, shares, is_broadcast: true };
        }
        Self { rows, keys: (keys / share).max(1), shares: 1, is_broadcast: false }
    }

    /// Items of work for `rows` rows of a head: invocations, or workgroups.
    fn items(self, rows: usize) -> usize {
        rows.div_ceil(if self.is_broadcast { LANES * self.rows } else { self.rows })
    }

    fn groups(self, items: usize) -> usize {
        if self.is_broadcast { items } else { items.div_ceil(LANES) }
    }
}

/// The constants that all of them take.
fn with_sizes(launch: Launch<'_>, s: AttentionShape, has_documents: bool) -> Launch<'_> {
    let launch = launch.constant("D", s.head_dim).constant("HEADS", s.heads);
    launch.constant("GROUP", s.group()).constant("DOCUMENTS", u32::from(has_documents))
}

/// Multiplications and additions of `products` products over the visible pairs.
fn work(s: AttentionShape, products: usize) -> usize {
    let pairs = s.queries * (s.keys - s.queries) + s.queries * (s.queries + 1) / 2;
    s.batch * s.heads * pairs * s.head_dim * 2 * products
}

pub(super) fn attention(
    q: &CubeTensor,
    k: &CubeTensor,
    v: &CubeTensor,
    documents: Option<&CubeTensor>,
    s: AttentionShape,
) -> (CubeTensor, CubeTensor) {
    let o = empty::<2>(q, sizes(q));
    let lse = empty(q, [s.batch * s.heads * s.queries]);
    match gpu(q).tiling {
        Tiling::Workgroup => {
            let tiles = s.queries.div_ceil(TILE);
            let groups = s.batch * s.heads * tiles;
            let launch = with_sizes(FORWARD.launch(), s, documents.is_some())
                .constant("CHUNKS", s.head_dim.div_ceil(TILE))
                .tensor(q)
                .tensor(k)
                .tensor(v)
                .tensor(&o)
                .tensor(&lse);
            let launch = with_documents(launch, documents);
            let launch = launch.first_group().uint(groups).uint(tiles);
            let launch = launch.uint(s.queries).uint(s.keys).float(s.score_scale());
            launch.work(work(s, 2)).over(groups);
        }
        Tiling::Direct => {
            let block = Block::new(q, s.head_dim, 4, 4);
            let items = s.batch * s.heads * block.items(s.queries);
            let launch = with_sizes(FORWARD_DIRECT.launch(), s, documents.is_some());
            let launch = with_block(launch, s, block).tensor(q).tensor(k).tensor(v).tensor(&o);
            let launch = with_documents(launch.tensor(&lse), documents);
            let launch = launch.uint(items).uint(s.batch);
            let launch = launch.uint(s.queries).uint(s.keys).float(s.score_scale());
            launch.work(work(s, 2)).over(block.groups(items));
        }
    }
    (o, lse)
}

fn with_block(launch: Launch<'_>, s: AttentionShape, block: Block) -> Launch<'_> {
    launch
        .constant("VEC", vector(s.head_dim))
        .constant("ROWS", block.rows)
        .constant("KEYS", block.keys)
        .constant("SHARES", block.shares)
        .constant("BROADCAST", u32::from(block.is_broadcast))
}

fn with_documents<'a>(launch: Launch<'a>, documents: Option<&'a CubeTensor>) -> Launch<'a> {
    match documents {
        Some(documents) => launch.tensor(documents),
        None => launch,
    }
}

/// `(lse, Σ d_out·out)` of each query and head, with documents also where the query's begins and ends.
fn statistics(
    d_out: &CubeTensor,
    out: &CubeTensor,
    lse: &CubeTensor,
    documents: Option<&CubeTensor>,
    s: AttentionShape,
) -> CubeTensor {
    let items = s.batch * s.queries * s.heads;
    let pairs = empty(lse, [items, if documents.is_some() { 4 } else { 2 }]);
    let launch = STATISTICS
        .launch()
        .constant("D", s.head_dim)
        .constant("HEADS", s.heads)
        .constant("VEC", vector(s.head_dim))
        .constant("DOCUMENTS", u32::from(documents.is_some()));
    let launch = launch.tensor(d_out).tensor(out).tensor(lse).tensor(&pairs);
    let launch = with_documents(launch, documents);
    over_items(launch.uint(items).uint(s.queries).work(elements(out) * 8), out, items);
    pairs
}

pub(super) fn attention_backward(
    d_out: &CubeTensor,
    q: &CubeTensor,
    k: &CubeTensor,
    v: &CubeTensor,
    out: &CubeTensor,
    lse: &CubeTensor,
    documents: Option<&CubeTensor>,
    s: AttentionShape,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let is_packed = documents.is_some();
    let statistics = statistics(d_out, out, lse, documents, s);
    let dq = empty::<2>(q, sizes(q));
    let (dk, dv) = (empty::<2>(k, sizes(k)), empty::<2>(v, sizes(v)));
    let inputs = [d_out, q, k, v, &statistics];
    match gpu(q).tiling {
        Tiling::Workgroup => {
            let tiles = s.queries.div_ceil(TILE);
            let launch =
                |shader: &'static Shader, outputs: &[&CubeTensor], heads: usize, products| {
                    let groups = s.batch * heads * tiles;
                    let launch = with_sizes(shader.launch(), s, is_packed)
                        .constant("CHUNKS", s.head_dim.div_ceil(TILE));
                    let launch = bind(launch, &inputs, outputs);
                    let launch = launch.first_group().uint(groups).uint(tiles).uint(s.queries);
                    launch.float(s.score_scale()).work(work(s, products)).over(groups);
                };
            launch(&DQ, &[&dq], s.heads, 3);
            launch(&DKV, &[&dk, &dv], s.kv_heads, 4);
        }
        Tiling::Direct => {
            let launch = |shader: &'static Shader,
                          outputs: &[&CubeTensor],
                          heads: usize,
                          block: Block,
                          products| {
                let items = s.batch * heads * block.items(s.queries);
                let launch = with_block(with_sizes(shader.launch(), s, is_packed), s, block);
                let launch = bind(launch, &inputs, outputs);
                let launch = launch.uint(items).uint(s.batch).uint(s.queries);
                let launch = launch.float(s.score_scale()).work(work(s, products));
                launch.over(block.groups(items));
            };
            launch(&DQ_DIRECT, &[&dq], s.heads, Block::new(q, s.head_dim, 4, 2), 3);
            launch(&DKV_DIRECT, &[&dk, &dv], s.kv_heads, Block::new(q, s.head_dim, 2, 2), 4);
        }
    }
    (dq, dk, dv)
}

fn bind<'a>(
    launch: Launch<'static>,
    inputs: &[&'a CubeTensor],
    outputs: &[&'a CubeTensor],
) -> Launch<'a> {
    inputs.iter().chain(outputs).fold(launch, |launch: Launch<'a>, tensor| launch.tensor(tensor))
}

pub(super) fn copy_rows(cache: CubeTensor, rows: &CubeTensor, at: usize) -> CubeTensor {
    assert_unique(&cache, "copy_rows");
    let [count, width] = sizes(rows);
    let vec = vector(width);
    let vectors = count * width / vec;
    let launch = COPY_ROWS.launch().constant("VEC", vec).tensor(rows).tensor(&cache);
    over_items(launch.uint(vectors).uint(at * width / vec).work(count * width * 8), rows, vectors);
    cache
}
