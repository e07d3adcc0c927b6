//! How a WGSL program runs on burn's device: template to pipeline, tensors to bindings, parameters, grid.
//!
//! The only user of cubecl. What it does to a program: no bounds checks, workgroup memory not zeroed, every
//! binding `read_write` in group 0, a layout made from the bindings that the program uses. So a
//! program guards every index, uses every binding, and declares the tensors in the order of
//! `Launch::tensor` and after them its parameters, a struct of u32 and f32 in read-only storage. Not a uniform:
//! Mesa's software driver compiles a program anew, and keeps it, for every value of a uniform that decides a branch.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::backend::TensorMetadata;
use burn::backend::wgpu::CubeTensor;
use burn::tensor::{DType, Shape};
use cubecl::MemoryScope;
use cubecl::client::Client;
use cubecl::ir::metadata::Info;
use cubecl::prelude::{
    AddressType, CubeCount, ExecutionMode, KernelDefinition, KernelId, KernelMetadata,
    KernelSettings,
};
use cubecl::server::{KernelArguments, MetadataBindingInfo};
use cubecl::{CubeKernel, PrecompiledSource};

use crate::device::gpu::Gpu;

/// Workgroups in one dimension of a grid at most, on every device.
const MAX_GROUPS: usize = 65_535;

/// A program of `shaders/`: a template whose constants are filled in per pipeline.
#[derive(Debug)]
pub(super) struct Shader {
    /// Its file's name without the extension.
    pub(super) name: &'static str,
    /// The template.
    pub(super) source: &'static str,
}

impl Shader {
    pub(super) const fn new(name: &'static str, source: &'static str) -> Self {
        Self { name, source }
    }

    /// A launch of this program.
    pub(super) fn launch(&'static self) -> Launch<'static> {
        Launch {
            shader: self,
            constants: Vec::new(),
            tensors: Vec::new(),
            words: Vec::new(),
            first_group: None,
            work: 0,
        }
    }
}

/// A launch being put together; [`Launch::over`] runs it.
#[derive(Clone)]
pub(super) struct Launch<'a> {
    shader: &'static Shader,
    constants: Vec<(&'static str, u32)>,
    tensors: Vec<&'a CubeTensor>,
    words: Vec<u32>,
    /// Which of the words it is.
    first_group: Option<usize>,
    work: u64,
}

impl<'a> Launch<'a> {
    /// A constant of the template. Every set of constants is a pipeline of its own.
    pub(super) fn constant(mut self, name: &'static str, value: impl TryInto<u32>) -> Self {
        self.constants.push((name, word(value)));
        self
    }

    /// The next binding.
    pub(super) fn tensor<'b>(self, tensor: &'b CubeTensor) -> Launch<'b>
    where
        'a: 'b,
    {
        assert_plain(tensor);
        let Launch { shader, constants, tensors, words, first_group, work } = self;
        let mut tensors: Vec<&'b CubeTensor> = tensors;
        tensors.push(tensor);
        Launch { shader, constants, tensors, words, first_group, work }
    }

    /// The next parameter, an unsigned number.
    pub(super) fn uint(mut self, value: impl TryInto<u32>) -> Self {
        self.words.push(word(value));
        self
    }

    /// The next parameter, a float.
    pub(super) fn float(mut self, value: f32) -> Self {
        self.words.push(value.to_bits());
        self
    }

    /// The next parameter, the number of the first workgroup, which the program adds to its own. A launch of more work
    /// than may wait at once is then handed over in parts.
    pub(super) fn first_group(mut self) -> Self {
        self.first_group = Some(self.words.len());
        self.uint(0)
    }

    /// Operations and bytes of this launch together, to bound what is queued at once. Small launches
    /// need not say it.
    pub(super) fn work(mut self, work: usize) -> Self {
        self.work = work as u64;
        self
    }

    /// Runs it in `groups` workgroups. The grid is folded into two dimensions, so the program finds its
    /// workgroup as `id.x + id.y * num_workgroups.x` and returns if that is not below `groups`.
    pub(super) fn over(self, groups: usize) {
        if groups == 0 {
            return;
        }
        let most = LARGEST_LAUNCH.load(Ordering::Relaxed);
        if let Some(place) = self.first_group
            && self.work > most
        {
            // A folded grid would reach into the next part.
            let part = groups.div_ceil(self.work.div_ceil(most) as usize).min(MAX_GROUPS);
            for first in (0..groups).step_by(part) {
                let mut launch = self.clone();
                launch.words[place] = word(first);
                launch.work = self.work * part as u64 / groups as u64;
                launch.over_grid(part.min(groups - first), 1);
            }
            return;
        }
        let down = groups.div_ceil(MAX_GROUPS);
        let across = groups.div_ceil(down);
        self.over_grid(across, down);
    }

    fn over_grid(self, across: usize, down: usize) {
        let Self { shader, constants, tensors, mut words, work, .. } = self;
        assert!(tensors.len() <= 7, "{}: {} tensors, 7 are portable", shader.name, tensors.len());
        let Some(first) = tensors.first() else { unreachable!("a program has tensors") };
        // cubecl takes 64-bit words.
        if !words.len().is_multiple_of(2) {
            words.push(0);
        }
        let harm = take_sabotage(shader.name);
        let program = Program { shader, constants, is_broken: harm == Some(Sabotage::Broken) };
        let before = recording().then(|| tensors.iter().map(|x| read_bytes(x)).collect());
        let source = before.is_some().then(|| program.render());
        let info: Vec<u64> =
            words.chunks(2).map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32).collect();
        let buffers = tensors.iter().map(|x| x.handle.clone().binding()).collect();
        let arguments = KernelArguments::new()
            .with_buffers(buffers)
            .with_info(MetadataBindingInfo::custom(info));
        let grid = [across as u32, down as u32, 1];
        let count = CubeCount::Static(grid[0], grid[1], grid[2]);
        let run = || first.client.launch(Box::new(program), count, arguments);
        if PROFILE.with_borrow(Option::is_some) {
            let ((), seconds) = seconds_of(&gpu(first), run);
            add_to_profile(shader.name, seconds.unwrap_or(f64::NAN));
        } else {
            run();
        }
        if let Some(Sabotage::Nan(number)) = harm
            && let Some(tensor) = tensors.get(number)
        {
            super::gpu::fill::fill(tensor, f32::NAN);
        }
        if let (Some(before), Some(source)) = (before, source) {
            let after = tensors.iter().map(|x| read_bytes(x)).collect();
            let name = shader.name;
            record(&Recorded { name, source, before, after, words, groups: grid });
        }
        count_work(first, work);
    }
}

fn word(value: impl TryInto<u32>) -> u32 {
    let word = value.try_into().ok();
    assert!(word.is_some(), "numbers of a launch fit 32 bits");
    word.unwrap_or_default()
}

fn assert_plain(tensor: &CubeTensor) {
    assert!(tensor.is_contiguous(), "kernels take contiguous tensors");
    assert!(matches!(tensor.dtype, DType::F32 | DType::I32), "kernels take f32 and i32");
}

/// The GPU of a tensor.
pub(super) fn gpu(tensor: &CubeTensor) -> Arc<Gpu> {
    match &tensor.device {
        cubecl::Device::Wgpu(id) => Gpu::of(id),
        #[allow(unreachable_patterns)] // with more runtimes in cubecl's build
        _ => unreachable!("only wgpu devices are opened"),
    }
}

/// An f32 tensor of these sizes on the device of `like`, with any values in it.
pub(super) fn empty<const D: usize>(like: &CubeTensor, sizes: [usize; D]) -> CubeTensor {
    empty_shaped(like, Shape::from(sizes))
}

/// The same for a shape of any number of dimensions.
pub(super) fn empty_shaped(like: &CubeTensor, shape: Shape) -> CubeTensor {
    let handle = like.client.empty(shape.num_elements() * 4);
    let (client, device) = (like.client.clone(), like.device.clone());
    let new = CubeTensor::new_contiguous(client, device, shape, handle, DType::F32);
    if recording() {
        super::gpu::fill::fill(&new, f32::NAN);
    }
    new
}

/// An f32 tensor of these sizes on a GPU, with any values in it.
pub(super) fn fresh<const D: usize>(gpu: &Gpu, sizes: [usize; D]) -> CubeTensor {
    let elements: usize = sizes.iter().product();
    let client = client(gpu);
    let handle = client.empty(elements * 4);
    let device = cubecl::Device::Wgpu(gpu.id().clone());
    CubeTensor::new_contiguous(client, device, Shape::from(sizes), handle, DType::F32)
}

fn client(gpu: &Gpu) -> Client {
    cubecl::Device::Wgpu(gpu.id().clone()).client()
}

/// Runs `run` and says how many seconds the GPU took for what this thread asked of it meanwhile: by its timestamps
/// where it has them. None if it cannot say.
pub(super) fn seconds_of<R>(gpu: &Gpu, run: impl FnOnce() -> R) -> (R, Option<f64>) {
    let client = client(gpu);
    let window = client.profile_start().ok();
    let result = run();
    let seconds = window
        .and_then(|window| client.profile_end(window).ok())
        .and_then(|profile| cubecl::future::block_on(profile.resolve()))
        .map(|ticks| ticks.duration().as_secs_f64());
    (result, seconds.filter(|seconds| *seconds > 0.0))
}

/// How often a program ran and how long that took altogether.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgramTime {
    /// Its file in `shaders/`.
    pub name: &'static str,
    /// Launches.
    pub launches: usize,
    /// By the device's timestamps; NaN where it has none.
    pub seconds: f64,
}

thread_local! {
    static PROFILE: RefCell<Option<BTreeMap<&'static str, ProgramTime>>> = const { RefCell::new(None) };
}

fn add_to_profile(name: &'static str, seconds: f64) {
    PROFILE.with_borrow_mut(|profile| {
        let Some(profile) = profile else { return };
        let entry = profile.entry(name).or_insert(ProgramTime { name, launches: 0, seconds: 0.0 });
        entry.launches += 1;
        entry.seconds += seconds;
    });
}

/// Runs `run`, waiting for each launch it makes on this thread, and gives the time of each program, the longest first.
pub(super) fn profiled<R>(run: impl FnOnce() -> R) -> (R, Vec<ProgramTime>) {
    PROFILE.set(Some(BTreeMap::new()));
    let result = run();
    let mut times: Vec<ProgramTime> = PROFILE.take().unwrap_or_default().into_values().collect();
    times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    (result, times)
}

/// Bytes that the pools of a GPU hold, in use or waiting for the next use.
pub(super) fn pool_bytes(gpu: &Gpu) -> u64 {
    client(gpu).memory_report(MemoryScope::Device).usage().bytes_reserved
}

/// Takes a tensor for an operation in place. Panics if its storage is shared: the caller's mistake, which a
/// silent copy would hide.
pub(super) fn assert_unique(tensor: &CubeTensor, operation: &str) {
    if tensor.can_mut() {
        return;
    }
    // The device's own thread holds a new tensor until it has made it; that is no sharing.
    flush(tensor);
    assert!(tensor.can_mut(), "{operation} works in place and needs the only handle to its target");
}

/// Hands what is queued to the driver.
fn flush(tensor: &CubeTensor) {
    // An error here is met again, with its cause, by the next read.
    if let Err(error) = tensor.client.flush() {
        tracing::error!("flush: {error}");
    }
}

/// Sizes of a tensor.
pub(super) fn sizes<const D: usize>(tensor: &CubeTensor) -> [usize; D] {
    tensor.shape().dims()
}

/// Number of elements of a tensor.
pub(super) fn elements(tensor: &CubeTensor) -> usize {
    tensor.shape().num_elements()
}

/// A shader with its constants: what one pipeline is made of.
struct Program {
    shader: &'static Shader,
    constants: Vec<(&'static str, u32)>,
    /// For tests; part of the key, so that the sound program is compiled anew.
    is_broken: bool,
}

impl Program {
    fn render(&self) -> String {
        render(self.shader, &self.constants)
    }
}

/// Harm done to a program on purpose, for tests of what follows.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The tensor with this number holds NaN after the next launch.
    Nan(usize),
    /// Its text does not compile.
    Broken,
}

thread_local! {
    static SABOTAGE: RefCell<Option<(&'static str, Sabotage)>> = const { RefCell::new(None) };
}

/// Harms the program of this name at its next launch on this thread, once.
#[doc(hidden)]
pub fn sabotage(shader: &'static str, harm: Sabotage) {
    SABOTAGE.set(Some((shader, harm)));
}

fn take_sabotage(shader: &str) -> Option<Sabotage> {
    SABOTAGE.with_borrow_mut(|harm| harm.take_if(|(name, _)| *name == shader)).map(|(_, harm)| harm)
}

/// Name of a program's entry point: no other name in a program begins so.
fn entry_point(shader: &Shader) -> String {
    format!("kernel_{}", shader.name)
}

/// Fills the constants into a template. Panics on a template that does not fit its constants.
fn render(shader: &Shader, constants: &[(&'static str, u32)]) -> String {
    let mut environment = minijinja::Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    let context: BTreeMap<_, _> = constants.iter().copied().collect();
    match environment.render_str(shader.source, context) {
        // The driver's messages and tools name a kernel by its entry point.
        Ok(source) => source.replacen("fn main(", &format!("fn {}(", entry_point(shader)), 1),
        Err(error) => unreachable!("shader {}: {error:#}", shader.name),
    }
}

impl KernelMetadata for Program {
    fn name(&self) -> &'static str {
        self.shader.name
    }

    fn id(&self) -> KernelId {
        KernelId::new::<Self>()
            .info((self.shader.name, self.constants.clone(), self.is_broken))
            .mode(ExecutionMode::Unchecked)
    }

    fn address_type(&self) -> cubecl::ir::ElemType {
        cubecl::ir::UIntKind::U32.into()
    }
}

impl CubeKernel for Program {
    fn define(&self) -> KernelDefinition {
        let settings = KernelSettings::new(
            cubecl::CubeDim::new_single().into(),
            ExecutionMode::Unchecked,
            AddressType::U32,
        );
        let body = cubecl::ir::Scope::root(settings.clone());
        KernelDefinition { body, settings, info: Info::default() }
    }

    fn source(&self) -> Option<PrecompiledSource> {
        tracing::debug!("shader {} {:?}", self.shader.name, self.constants);
        let source = if self.is_broken { "broken".into() } else { self.render() };
        Some(PrecompiledSource { source, entrypoint_name: entry_point(self.shader), lang: "wgsl" })
    }
}

/// Work that is queued before it is handed to the driver: a share of a second on a slow GPU. Drivers reset
/// devices whose submissions take seconds (Windows after 2 s).
const MAX_QUEUED_WORK: u64 = 20_000_000_000;

/// Hand-overs between two waits for the device: seconds on a slow GPU. Drivers drop what waits too long (Intel's on Linux
/// after 20 s).
const MAX_HANDED_OVER: u64 = 32;

static QUEUED: AtomicU64 = AtomicU64::new(0);
static HANDED_OVER: AtomicU64 = AtomicU64::new(0);
/// A launch of more work is handed over in parts, where its program can.
static LARGEST_LAUNCH: AtomicU64 = AtomicU64::new(MAX_QUEUED_WORK);

fn count_work(tensor: &CubeTensor, work: u64) {
    if QUEUED.fetch_add(work, Ordering::Relaxed) + work >= MAX_QUEUED_WORK {
        QUEUED.store(0, Ordering::Relaxed);
        super::gpu::canary::count(tensor);
        flush(tensor);
        if HANDED_OVER.fetch_add(1, Ordering::Relaxed) % MAX_HANDED_OVER == MAX_HANDED_OVER - 1 {
            wait(tensor);
        }
    }
}

/// Waits until all that this thread handed over is done.
fn wait(tensor: &CubeTensor) {
    // An error here is met again, with its cause, by the next read.
    if let Err(error) = cubecl::future::block_on(tensor.client.sync()) {
        tracing::error!("waiting: {error}");
    }
}

/// One launch as it happened, for a test to repeat elsewhere.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The shader's name.
    pub name: &'static str,
    /// WGSL with the constants filled in.
    pub source: String,
    /// The tensors' bytes before, in binding order.
    pub before: Vec<Vec<u8>>,
    /// The tensors' bytes after.
    pub after: Vec<Vec<u8>>,
    /// The words of the parameters, which follow the tensors.
    pub words: Vec<u32>,
    /// The grid.
    pub groups: [u32; 3],
}

/// Makes the next launch that counts as work be handed over. For tests.
#[doc(hidden)]
pub fn fill_queue() {
    QUEUED.store(MAX_QUEUED_WORK - 1, Ordering::Relaxed);
}

/// Hands launches of more work than this over in parts, from now on; None: of more than is queued at once. For tests.
#[doc(hidden)]
pub fn split_above(work: Option<u64>) {
    LARGEST_LAUNCH.store(work.unwrap_or(MAX_QUEUED_WORK), Ordering::Relaxed);
}

/// Lets the host count one hand-over more than the devices of this thread saw. For tests.
#[doc(hidden)]
pub fn miscount() {
    super::gpu::canary::miscount();
}

thread_local! {
    static RECORD: RefCell<Option<Vec<Recorded>>> = const { RefCell::new(None) };
}

fn recording() -> bool {
    RECORD.with_borrow(Option::is_some)
}

fn record(launch: &Recorded) {
    RECORD.with_borrow_mut(|launches| launches.iter_mut().for_each(|all| all.push(launch.clone())));
}

/// Runs `f` and returns every launch it made on this thread, with the bytes before and after. New tensors start
/// full of NaN meanwhile.
#[doc(hidden)]
pub fn recorded(f: impl FnOnce()) -> Vec<Recorded> {
    RECORD.set(Some(Vec::new()));
    f();
    RECORD.take().unwrap_or_default()
}

fn read_bytes(tensor: &CubeTensor) -> Vec<u8> {
    match tensor.client.read_one(tensor.handle.clone()) {
        Ok(bytes) => bytes.to_vec(),
        Err(error) => unreachable!("reading back for a test: {error}"),
    }
}
