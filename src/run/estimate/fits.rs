//! Refusals before anything is made: a run that fits neither the machine, nor the budget, nor the device.

use crate::config::RunConfig;
use crate::device::Device;
use crate::device::gpu::Tiling;
use crate::device::memory::machine_bytes;
use crate::error::{Error, Result};
use crate::model::ModelConfig;

use super::{micro_batch_tokens, peak_bytes};

/// Refuses a run that cannot fit this machine's memory, before the allocator or the system would end it.
///
/// Errors: `Error::Device` with both sizes; never where the machine does not say how much it has.
pub fn check_fits(config: &RunConfig, shape: &ModelConfig) -> Result<()> {
    let needed = peak_bytes(config, shape, false)?.total();
    match machine_bytes() {
        Some(has) if needed > has => {
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            Err(Error::Device {
                what: format!(
                    "this run needs about {:.1} GiB of memory, the machine has {:.1} GiB with swap",
                    gib(needed),
                    gib(has)
                ),
                remedy:
                    "use a smaller model, --batch-size or --max-seq-length, or --grad-checkpoint"
                        .into(),
            })
        }
        _ => Ok(()),
    }
}

/// Refuses a run that does not fit the budget that was set, or needs a tensor larger than the device binds.
///
/// Errors: `Error::Device` with both sizes.
pub fn check_fits_device(config: &RunConfig, shape: &ModelConfig, device: &Device) -> Result<()> {
    const MIB: f64 = (1 << 20) as f64;
    let needed = peak_bytes(config, shape, device.gpu().is_some())?.total() as f64 / MIB;
    if let Some(budget) = config.train.memory_budget.map(|gib| gib * 1024.0)
        && needed > budget
    {
        return Err(Error::Device {
            what: format!(
                "this run needs {needed:.0} MiB of memory, the budget is {budget:.0} MiB"
            ),
            remedy: "use a smaller model, --batch-size, --max-seq-length or --rank, or \
                     --grad-checkpoint; or raise --memory-budget"
                .into(),
        });
    }
    let Some(gpu) = device.gpu() else { return Ok(()) };
    let (name, numbers) = largest_tensor(config, shape);
    let (bytes, most) = (4.0 * numbers as f64, gpu.max_binding as f64);
    if bytes <= most {
        return check_fits_loops(config, device, gpu.tiling);
    }
    Err(Error::Device {
        what: format!(
            "{name} needs {:.0} MiB in one buffer, {} binds at most {:.0} MiB",
            bytes / MIB,
            device.name(),
            most / MIB
        ),
        remedy:
            "use a GPU that binds more (`fullrank devices` shows it), --device cpu, or a smaller \
                 model, --batch-size or --max-seq-length"
                .into(),
    })
}

/// llvmpipe ends all loops of an invocation after 65,535 turns, silently: sums over the tokens, and over the
/// positions of one id, would stop there.
const MOST_TOKENS_IN_SOFTWARE: u128 = 65_000;

fn check_fits_loops(config: &RunConfig, device: &Device, tiling: Tiling) -> Result<()> {
    let tokens = micro_batch_tokens(config);
    if tiling != Tiling::Direct || tokens <= MOST_TOKENS_IN_SOFTWARE {
        return Ok(());
    }
    Err(Error::Device {
        what: format!(
            "a micro-batch has {tokens} tokens, {} computes {MOST_TOKENS_IN_SOFTWARE} at most",
            device.name()
        ),
        remedy: "use a smaller --batch-size with more --grad-accumulation-steps, or --device cpu"
            .into(),
    })
}

/// The largest tensor that a run holds in one piece, with its size in numbers. Logits are cut into chunks, embedding and
/// head into parts.
fn largest_tensor(config: &RunConfig, shape: &ModelConfig) -> (&'static str, u128) {
    let tokens = micro_batch_tokens(config);
    let hidden = shape.hidden_size as u128;
    let inner = shape.intermediate_size as u128;
    let queries = (shape.num_attention_heads * shape.head_dim) as u128;
    let sizes = [
        ("a weight of the MLP", inner * hidden),
        ("an activation of the MLP", tokens * inner),
        ("an activation of the attention", tokens * queries.max(hidden)),
    ];
    sizes.into_iter().max_by_key(|(_, numbers)| *numbers).unwrap_or(("a tensor", 0))
}
