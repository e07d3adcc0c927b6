//! The devices that tests run on: the CPU backend and, where there is a driver, a wgpu adapter in both tilings.
#![allow(clippy::unwrap_used, clippy::print_stderr, dead_code)] // helpers of tests may stop; each binary uses a part

use std::sync::OnceLock;

use fullrank::device::Device;
use fullrank::device::adapter::{Adapter, Kind};
use fullrank::device::gpu::Tiling;

/// The adapter that tests use: the software one, so that every machine tests the same, else the first.
/// `FULLRANK_TEST_ADAPTER=N` takes another. None is said loudly, and an error when
/// `FULLRANK_REQUIRE_GPU=1`.
pub fn adapter() -> Option<Adapter> {
    let all = Adapter::all();
    let wanted = std::env::var("FULLRANK_TEST_ADAPTER").ok().map(|n| n.parse::<usize>().unwrap());
    let software = all.iter().position(|adapter| adapter.kind == Kind::Software);
    let found = all.get(wanted.or(software).unwrap_or(0)).cloned();
    if found.is_none() {
        let is_required = std::env::var("FULLRANK_REQUIRE_GPU").is_ok_and(|value| value == "1");
        assert!(!is_required, "FULLRANK_REQUIRE_GPU=1, and there is no adapter");
        eprintln!("SKIPPED: there is no wgpu adapter, nothing was checked on a GPU");
    }
    found
}

/// The GPU in both tilings; empty without an adapter. Opened once in a process.
pub fn gpus() -> &'static [Device] {
    static GPUS: OnceLock<Vec<Device>> = OnceLock::new();
    GPUS.get_or_init(|| {
        let Some(adapter) = adapter() else { return Vec::new() };
        [Tiling::Direct, Tiling::Workgroup].map(|tiling| adapter.open(Some(tiling)).unwrap()).into()
    })
}

/// The CPU backend and the GPUs.
pub fn all() -> Vec<Device> {
    let mut all = vec![Device::cpu()];
    all.extend(gpus().iter().cloned());
    all
}
