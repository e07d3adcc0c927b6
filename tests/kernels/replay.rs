//! Repeats launches through plain wgpu: on a device with the default limits of WebGPU, with bounds checks on, and
//! with canaries around every buffer. A launch that needs more than the limits, or that reads or writes
//! beyond a buffer, gives other values there or fails.

use std::cell::RefCell;
use std::collections::HashMap;

use fullrank::device::adapter::Adapter;
use fullrank::kernels::launch::Recorded;

/// Bytes before and after each buffer, and what is in them: NaNs that nothing computes.
const MARGIN: usize = 256;
const CANARY: u32 = 0x7fc0_dead;

/// A plain device.
pub struct Replay {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipelines: RefCell<HashMap<String, wgpu::ComputePipeline>>,
}

impl Replay {
    pub fn new(adapter: &Adapter) -> Self {
        // Programs that use subgroup operations or 64-bit integers run only where an adapter has them.
        let features =
            (wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64) & adapter.features();
        let (device, queue) = adapter.open_plain(wgpu::Limits::default(), features).unwrap();
        Self { device, queue, pipelines: RefCell::default() }
    }

    fn pipeline(&self, launch: &Recorded) -> wgpu::ComputePipeline {
        let mut pipelines = self.pipelines.borrow_mut();
        let pipeline = pipelines.entry(launch.source.clone()).or_insert_with(|| {
            let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(launch.name),
                source: wgpu::ShaderSource::Wgsl(launch.source.as_str().into()),
            });
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(launch.name),
                layout: None,
                module: &module,
                entry_point: None,
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            })
        });
        pipeline.clone()
    }

    fn buffer(&self, bytes: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes.len() as u64,
            usage: usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&buffer, 0, bytes);
        buffer
    }

    fn read(&self, buffer: &wgpu::Buffer) -> Vec<u8> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: buffer.size(),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder =
            self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        self.queue.submit([encoder.finish()]);
        staging.slice(..).map_async(wgpu::MapMode::Read, Result::unwrap);
        self.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        staging.slice(..).get_mapped_range().unwrap().to_vec()
    }

    /// Runs the launch here and compares every byte it left behind.
    #[track_caller]
    pub fn assert_agrees(&self, launch: &Recorded) {
        let pipeline = self.pipeline(launch);
        let canary: Vec<u8> = CANARY.to_le_bytes().iter().copied().cycle().take(MARGIN).collect();
        let guarded = |bytes: &[u8]| [&canary[..], bytes, &canary[..]].concat();
        let buffers: Vec<wgpu::Buffer> = launch
            .before
            .iter()
            .map(|bytes| self.buffer(&guarded(bytes), wgpu::BufferUsages::STORAGE))
            .collect();
        let words: Vec<u8> = launch.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let parameters =
            (!words.is_empty()).then(|| self.buffer(&words, wgpu::BufferUsages::STORAGE));
        let mut entries: Vec<wgpu::BindGroupEntry> = buffers
            .iter()
            .zip(&launch.before)
            .enumerate()
            .map(|(binding, (buffer, bytes))| wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset: MARGIN as u64,
                    size: std::num::NonZeroU64::new(bytes.len() as u64),
                }),
            })
            .collect();
        if let Some(parameters) = &parameters {
            let binding = entries.len() as u32;
            entries
                .push(wgpu::BindGroupEntry { binding, resource: parameters.as_entire_binding() });
        }
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut encoder =
            self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            let [x, y, z] = launch.groups;
            pass.dispatch_workgroups(x, y, z);
        }
        self.queue.submit([encoder.finish()]);
        for (index, (buffer, after)) in buffers.iter().zip(&launch.after).enumerate() {
            let got = self.read(buffer);
            let (front, rest) = got.split_at(MARGIN);
            let (values, back) = rest.split_at(after.len());
            assert!(
                front == canary && back == canary,
                "{}: writes beyond tensor {index}",
                launch.name
            );
            assert_same_values(launch, index, values, after);
        }
    }
}

/// The checks may change how the driver joins multiplications and additions, so a few last bits may differ.
#[track_caller]
fn assert_same_values(launch: &Recorded, index: usize, got: &[u8], right: &[u8]) {
    if got == right {
        return;
    }
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let (got, right) = (floats(got), floats(right));
    let largest = right.iter().filter(|x| x.is_finite()).fold(1e-30f32, |m, x| m.max(x.abs()));
    for (at, (x, y)) in got.iter().zip(&right).enumerate() {
        let is_same = x.to_bits() == y.to_bits()
            || (x - y).abs() <= 2e-6 * largest
            || (x.is_nan() && y.is_nan());
        assert!(
            is_same,
            "{} {:?} {:?}: tensor {index} element {at} of {} is {y}, with checks {x}",
            launch.name,
            launch.groups,
            launch.words,
            right.len()
        );
    }
}
