//! What the kernels need to know of an open GPU, found by the id that its tensors carry.

use std::sync::{Arc, PoisonError, RwLock};

use burn::backend::wgpu::WgpuDevice;

use super::adapter::{Adapter, Kind};
use super::fault::Faults;

/// How the kernels cut their work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tiling {
    /// For GPUs: tiles in workgroup memory, a workgroup to a row.
    Workgroup,
    /// For drivers that compute on the CPU: register blocks read straight from storage, an
    /// invocation to a row, no barriers (a barrier there costs more than the tile saves).
    Direct,
}

/// An open GPU.
#[derive(Debug)]
pub struct Gpu {
    id: WgpuDevice,
    wgpu: wgpu::Device,
    /// How kernels cut their work here.
    pub tiling: Tiling,
    /// The kind of adapter.
    pub kind: Kind,
    /// Bytes of one storage binding at most.
    pub max_binding: u64,
    /// Lanes of a subgroup where the driver has only one size and subgroup operations.
    pub subgroup: Option<u32>,
    /// Whether programs may use 64-bit integers.
    pub has_int64: bool,
    /// What went wrong here.
    pub faults: Arc<Faults>,
}

static OPEN: RwLock<Vec<Arc<Gpu>>> = RwLock::new(Vec::new());

impl Gpu {
    pub(super) fn register(
        id: WgpuDevice,
        wgpu: wgpu::Device,
        adapter: &Adapter,
        tiling: Tiling,
        faults: Arc<Faults>,
    ) -> Arc<Self> {
        let limits = wgpu.limits();
        let [smallest, largest] = adapter.subgroup_sizes();
        let has_subgroups = wgpu.features().contains(wgpu::Features::SUBGROUP);
        let gpu = Arc::new(Self {
            id,
            tiling,
            kind: adapter.kind,
            max_binding: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
            subgroup: (has_subgroups && smallest == largest).then_some(smallest),
            has_int64: wgpu.features().contains(wgpu::Features::SHADER_INT64),
            faults,
            wgpu,
        });
        OPEN.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&gpu));
        gpu
    }

    /// The GPU that a tensor with this device id lives on.
    pub(crate) fn of(id: &WgpuDevice) -> Arc<Self> {
        let open = OPEN.read().unwrap_or_else(PoisonError::into_inner);
        let found = open.iter().find(|gpu| gpu.id == *id);
        assert!(found.is_some(), "tensors live on devices that were opened here");
        found.map_or_else(|| unreachable!(), Arc::clone)
    }

    /// The id by which burn knows it.
    pub(crate) fn id(&self) -> &WgpuDevice {
        &self.id
    }

    /// Ends the device as a driver reset would. For tests.
    #[doc(hidden)]
    pub fn destroy(&self) {
        self.wgpu.destroy();
    }
}
