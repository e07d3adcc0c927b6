//! The GPUs of this machine: what wgpu finds, which one a run takes, and how it is opened.
//!
//! Instance, adapter and device are ours and handed to burn, so that limits and features are chosen here
//! and errors come to our [`Faults`] instead of a panic.

use std::sync::Arc;

use burn::backend::wgpu::{MemoryConfiguration, RuntimeOptions, WgpuSetup, try_init_device};

use crate::error::{Error, Result};

use super::Device;
use super::fault::{Fault, Faults, cause};
use super::gpu::{Gpu, Tiling};
use super::memory::Ledger;

const BACKENDS: wgpu::Backends =
    wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12);

/// Share of the memory that the driver reports, in percent, above which it refuses new buffers
/// instead of swapping.
const MEMORY_THRESHOLD: u8 = 90;

/// What a machine without a usable GPU needs.
pub const HOW_TO_GET_A_DRIVER: &str = "install a Vulkan driver (Debian, Ubuntu: apt install mesa-vulkan-drivers; NVIDIA: its own \
     driver), or train on the CPU with --device cpu";

/// What kind of adapter it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the machine's memory.
    Integrated,
    /// A GPU given to a virtual machine.
    Virtual,
    /// Something else that can compute.
    Other,
    /// A driver that computes on the CPU.
    Software,
}

impl Kind {
    /// One word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Other => "other",
            Self::Software => "software",
        }
    }
}

/// An adapter that could be opened.
#[derive(Debug, Clone)]
pub struct Adapter {
    instance: wgpu::Instance,
    handle: wgpu::Adapter,
    /// The product's name.
    pub name: String,
    /// The kind.
    pub kind: Kind,
    /// The programming interface: `vulkan`, `metal` or `dx12`.
    pub api: String,
    /// The driver with its version.
    pub driver: String,
}

impl Adapter {
    /// Every adapter of the machine: GPUs first, discrete before integrated, software last.
    pub fn all() -> Vec<Self> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = BACKENDS;
        descriptor.flags = wgpu::InstanceFlags::empty();
        descriptor.memory_budget_thresholds.for_resource_creation = Some(MEMORY_THRESHOLD);
        let instance = wgpu::Instance::new(descriptor);
        let found = pollster::block_on(instance.enumerate_adapters(BACKENDS));
        let mut all: Vec<Self> =
            found.into_iter().map(|adapter| Self::new(&instance, adapter)).collect();
        all.sort_by_key(|adapter| adapter.kind);
        all
    }

    fn new(instance: &wgpu::Instance, adapter: wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => Kind::Discrete,
            wgpu::DeviceType::IntegratedGpu => Kind::Integrated,
            wgpu::DeviceType::VirtualGpu => Kind::Virtual,
            wgpu::DeviceType::Cpu => Kind::Software,
            wgpu::DeviceType::Other => Kind::Other,
        };
        let driver = format!("{} {}", info.driver, info.driver_info).trim().to_owned();
        let api = info.backend.to_string();
        Self { instance: instance.clone(), handle: adapter, name: info.name, kind, api, driver }
    }

    /// What the adapter can do at most; a device is opened with exactly this.
    pub fn limits(&self) -> wgpu::Limits {
        self.handle.limits()
    }

    /// The features a device is opened with.
    pub fn features(&self) -> wgpu::Features {
        let left_out =
            wgpu::Features::MAPPABLE_PRIMARY_BUFFERS | wgpu::Features::all_experimental_mask();
        self.handle.features().difference(left_out)
    }

    /// Bytes of one storage binding at most.
    pub fn max_binding(&self) -> u64 {
        let limits = self.limits();
        limits.max_storage_buffer_binding_size.min(limits.max_buffer_size)
    }

    /// Bytes of memory that a workgroup shares.
    pub fn workgroup_memory(&self) -> u32 {
        self.limits().max_compute_workgroup_storage_size
    }

    /// Whether shaders can compute with 16-bit floats.
    pub fn has_f16(&self) -> bool {
        self.handle.features().contains(wgpu::Features::SHADER_F16)
    }

    /// Whether shaders have subgroup operations.
    pub fn has_subgroups(&self) -> bool {
        self.handle.features().contains(wgpu::Features::SUBGROUP)
    }

    /// Whether the device can say when a kernel began and ended.
    pub fn has_timestamps(&self) -> bool {
        self.handle.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// The adapter that `auto` takes of these: the first GPU that can be used. None: the CPU.
    pub fn auto(all: &[Self]) -> Option<usize> {
        all.iter().position(|adapter| {
            adapter.kind != Kind::Software && adapter.unusable_because().is_none()
        })
    }

    /// Sizes of a subgroup, smallest and largest.
    pub fn subgroup_sizes(&self) -> [u32; 2] {
        let info = self.handle.get_info();
        [info.subgroup_min_size, info.subgroup_max_size]
    }

    /// Whether it has the least that the kernels need; the reason if not.
    pub fn unusable_because(&self) -> Option<String> {
        let limits = self.limits();
        let needed = [
            ("storage buffers in a kernel", limits.max_storage_buffers_per_shader_stage, 8),
            ("invocations in a workgroup", limits.max_compute_invocations_per_workgroup, 256),
            ("invocations across a workgroup", limits.max_compute_workgroup_size_x, 256),
            ("bytes of workgroup memory", limits.max_compute_workgroup_storage_size, 16_384),
        ];
        needed
            .into_iter()
            .find(|(_, has, needs)| has < needs)
            .map(|(what, has, needs)| format!("{has} {what}, needs {needs}"))
    }

    /// A device of wgpu alone, for tests that look at kernels without burn.
    #[doc(hidden)]
    pub fn open_plain(
        &self,
        limits: wgpu::Limits,
        features: wgpu::Features,
    ) -> Result<(wgpu::Device, wgpu::Queue)> {
        self.request(limits, features)
    }

    fn request(
        &self,
        limits: wgpu::Limits,
        features: wgpu::Features,
    ) -> Result<(wgpu::Device, wgpu::Queue)> {
        let request = self.handle.request_device(&wgpu::DeviceDescriptor {
            label: Some("fullrank"),
            required_features: features,
            required_limits: limits,
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            // The allocations are pooled above wgpu already.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        });
        pollster::block_on(request).map_err(|error| self.cannot_open(&error.to_string()))
    }

    fn cannot_open(&self, why: &str) -> Error {
        Error::Device {
            what: format!("cannot open {} ({}): {why}", self.name, self.api),
            remedy: "choose another device (`fullrank devices` lists them), or --device cpu".into(),
        }
    }

    /// Opens it. `tiling`: None for the one that suits its kind.
    ///
    /// Errors: `Error::Device` with the driver's words.
    pub fn open(&self, tiling: Option<Tiling>) -> Result<Device> {
        if let Some(why) = self.unusable_because() {
            return Err(self.cannot_open(&why));
        }
        let (device, queue) = self.request(self.limits(), self.features())?;
        let setup = WgpuSetup {
            instance: self.instance.clone(),
            adapter: self.handle.clone(),
            device: device.clone(),
            queue,
            backend: self.handle.get_info().backend,
        };
        let options =
            RuntimeOptions { tasks_max: 32, memory_config: MemoryConfiguration::default() };
        let id = try_init_device(setup, options)
            .map_err(|error| self.cannot_open(&error.to_string()))?;
        let faults = Arc::new(Faults::default());
        record_errors(&device, &faults);
        let tiling = tiling.unwrap_or(match self.kind {
            Kind::Software => Tiling::Direct,
            _ => Tiling::Workgroup,
        });
        let gpu = Gpu::register(id.clone(), device, self, tiling, Arc::clone(&faults));
        let name = match self.kind {
            Kind::Software => format!("{} ({}, software)", self.name, self.api),
            _ => format!("{} ({})", self.name, self.api),
        };
        let ledger = Ledger::with_faults(faults);
        Ok(Device { tensor: id.into(), ledger, name, gpu: Some(gpu), binding_limit: None })
    }
}

/// Replaces the handler that cubecl installs, which panics. The callback for a lost device stays cubecl's:
/// with it a read-back after the loss is an error instead of old bytes.
fn record_errors(device: &wgpu::Device, faults: &Arc<Faults>) {
    let faults = Arc::clone(faults);
    device.on_uncaptured_error(Arc::new(move |error| {
        let why = cause(&error.to_string());
        tracing::error!("{error}");
        faults.record(match error {
            wgpu::Error::OutOfMemory { .. } => Fault::OutOfMemory(why),
            wgpu::Error::Validation { .. } | wgpu::Error::Internal { .. } => Fault::Refused(why),
        });
    }));
}
