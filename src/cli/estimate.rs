//! `fullrank estimate`: what methods need before anything runs, as a list, a table or JSON.

// A page is put together from formatted lines; `write!` to a string would add an error to ignore.
#![allow(clippy::format_push_string)]

use std::io::Write;

use serde::Serialize;

use super::args::EstimateArgs;
use super::text::{self, Table, or_absent};
use crate::config::RunConfig;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::gguf::GgufModel;
use crate::formats::hf_config::HfConfig;
use crate::model::ModelConfig;
use crate::run::estimate::{Description, Measured, check_fits, describe, measure};
use crate::run::plan::{ModelSource, resolve};
use crate::run::session::{open_device, with_threads};

/// One method's part of the answer.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    description: Description,
    /// Only where it was asked for; there is no guess in its place.
    measured: Option<Measured>,
}

/// The whole answer.
#[derive(Debug, Serialize)]
struct Page {
    model: String,
    blocks: usize,
    hidden_size: usize,
    vocab_size: usize,
    base_storage: String,
    batch_size: usize,
    seq_len: usize,
    grad_accumulation_steps: usize,
    grad_checkpoint: bool,
    /// Whose way of cutting logits is predicted: `cpu` or `gpu`.
    backend: &'static str,
    methods: Vec<Answer>,
}

/// Predicts and prints.
///
/// Errors: a configuration that cannot work, a device that cannot be opened, a measurement that fails.
pub fn estimate(args: &EstimateArgs, stdout: &mut dyn Write) -> Result<()> {
    let threads = args.config.train.threads;
    let page = with_threads(threads, || predict(args))?;
    if args.json {
        return text::print_json(stdout, &page);
    }
    text::print(stdout, &render(&page))
}

fn predict(args: &EstimateArgs) -> Result<Page> {
    let device = device(args)?;
    // A named GPU need not be in this machine, unless it is to be measured.
    let on_gpu = match &device {
        Some(device) => device.gpu().is_some(),
        None => args.config.train.device != "cpu",
    };
    let source = ModelSource::find(&args.config.model.model)?;
    let shape = shape(args, &source)?;
    let mut methods = Vec::new();
    let mut common = args.config.clone();
    for method in &args.methods {
        let mut config = args.config.clone();
        config.train.method.clone_from(method);
        config.check()?;
        resolve(&mut config, &source, &shape)?;
        let measured = match &device {
            Some(device) if args.measure => {
                check_fits(&config, &shape)?;
                device.ledger().reset_peak();
                Some(measure(&config, &shape, device)?)
            }
            _ => None,
        };
        methods.push(Answer { description: describe(&config, &shape, on_gpu)?, measured });
        common = config;
    }
    let RunConfig { model, data, train, .. } = common;
    Ok(Page {
        model: model.model,
        base_storage: model.base_storage,
        blocks: shape.num_hidden_layers,
        hidden_size: shape.hidden_size,
        vocab_size: shape.vocab_size,
        batch_size: train.batch_size.unwrap_or(1),
        seq_len: data.max_seq_length.unwrap_or(1),
        grad_accumulation_steps: train.grad_accumulation_steps,
        grad_checkpoint: train.grad_checkpoint,
        backend: if on_gpu { "gpu" } else { "cpu" },
        methods,
    })
}

/// What a resolved configuration needs, as a list.
pub(super) fn of_run(config: &RunConfig, shape: &ModelConfig, on_gpu: bool) -> Result<String> {
    let answer = Answer { description: describe(config, shape, on_gpu)?, measured: None };
    Ok(list(&answer))
}

/// The device, where it has to be looked at: to measure, or to know what `auto` is.
fn device(args: &EstimateArgs) -> Result<Option<Device>> {
    if args.measure || args.config.train.device == "auto" {
        return open_device(&args.config).map(Some);
    }
    Ok(None)
}

/// The network's shape; `--vocab-size` takes the place of the tokenizer's.
fn shape(args: &EstimateArgs, source: &ModelSource) -> Result<ModelConfig> {
    if let ModelSource::Directory(folder) = source {
        if args.vocab_size.is_some() {
            return Err(Error::config(
                "--vocab-size does not go with a model folder or file",
                "leave it out: the model's own files fix the vocabulary",
            ));
        }
        if GgufModel::is_named(folder) && !folder.is_dir() {
            return Ok(GgufModel::open(folder)?.config().clone());
        }
        return HfConfig::read(folder.join("config.json"));
    }
    let mut shape = source.model_config(&args.config, &source.tokenizer(&args.config)?)?;
    shape.vocab_size = args.vocab_size.unwrap_or(shape.vocab_size);
    Ok(shape)
}

fn render(page: &Page) -> String {
    let sequences = text::count(page.batch_size as u64);
    let mut out = format!(
        "model  {}: {} blocks of width {}, vocabulary {}, {}\n\
         batch  {sequences} x {} tokens{}, {} backend{}\n\n",
        page.model,
        page.blocks,
        text::count(page.hidden_size as u64),
        text::count(page.vocab_size as u64),
        match page.base_storage.as_str() {
            "f32" => "f32".to_owned(),
            form => format!("f32, frozen layers in {form}"),
        },
        text::count(page.seq_len as u64),
        match page.grad_accumulation_steps {
            1 => String::new(),
            steps => format!(", {steps} micro-batches an update"),
        },
        page.backend,
        if page.grad_checkpoint { ", activations recomputed" } else { "" },
    );
    out += &match page.methods.as_slice() {
        [one] => list(one),
        all => table(all),
    };
    out
}

fn millions(count: u64) -> String {
    format!("{:.2} M", count as f64 / 1e6)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn list(answer: &Answer) -> String {
    let of = &answer.description;
    let mut rows = vec![
        (
            "trained",
            format!(
                "{} of {} ({})",
                millions(of.trained_parameters),
                millions(of.parameters),
                percent(of.trained_parameters as f64 / of.parameters.max(1) as f64)
            ),
            "numbers that get a gradient",
        ),
        ("weights", text::bytes(of.weight_bytes), "dense ones, frozen or not, and rotation tables"),
        ("factors", text::bytes(of.factor_bytes), "low-rank factors"),
        ("optimizer", text::bytes(of.optimizer_bytes), "moments, counters, projectors"),
        ("gradients", text::bytes(of.gradient_bytes), ""),
        ("pools", text::bytes(of.device_pool_bytes), "candidates that wait on the device"),
        (
            "host",
            text::bytes(of.host_bytes),
            "candidates, and weights to merge into, in host memory",
        ),
        ("activations", text::bytes(of.activation_bytes), "what the peak holds beside all these"),
        ("peak", text::bytes(of.peak_bytes), "on the device, over the whole run"),
        if of.is_recomputed {
            ("kept", text::bytes(of.kept_peak_bytes), "the peak without --grad-checkpoint")
        } else {
            ("recomputed", text::bytes(of.recomputed_peak_bytes), "the peak with --grad-checkpoint")
        },
        (
            "would send",
            text::bytes(of.sent_bytes_per_update),
            "per update and worker, data parallel, f32",
        ),
        ("saved", percent(of.sent_saved_share), "of what full rank would send"),
    ];
    if let Some(fits) = of.fits {
        let none = || "none fits".to_owned();
        if of.rank.is_some() {
            let rank = fits.largest_rank.map_or_else(none, |rank| rank.to_string());
            rows.push(("largest rank", rank, "within the budget, with this batch"));
        }
        let batch = fits.largest_batch_size.map_or_else(none, |rows| text::count(rows as u64));
        rows.push(("largest batch", batch, "within the budget, at this rank"));
    }
    match &answer.measured {
        Some(measured) => rows.push((
            "update",
            format!("{:.1} ms", 1e3 * measured.seconds_per_update),
            "measured: the median of 5 on random tokens",
        )),
        None => {
            rows.push((
                "update",
                "not measured".into(),
                "`fullrank estimate --measure` runs a few",
            ));
        }
    }
    let mut out = format!(
        "method {}{}{}\n",
        of.method,
        or_none(of.rank, |rank| format!(", rank {rank}")),
        match of.warm_start_updates {
            0 => String::new(),
            updates => format!(", after {} full-rank updates", text::count(updates)),
        },
    );
    let mut table = Table::new(&["", ">", ""]);
    for (name, value, note) in rows {
        table.row(&[name.into(), value, note.into()]);
    }
    // The table's empty headings.
    out += table.render(2).split_once('\n').map_or("", |(_, rows)| rows);
    if let Some(measured) = &answer.measured {
        out += &format!(
            "\n{} tokens/s and a peak of {} on {}\n",
            text::rate(measured.tokens_per_s),
            text::bytes(measured.peak_bytes),
            measured.device
        );
    }
    out
}

fn or_none<T>(value: Option<T>, look: impl FnOnce(T) -> String) -> String {
    value.map_or_else(String::new, look)
}

fn table(answers: &[Answer]) -> String {
    let has_budget = answers.iter().any(|answer| answer.description.fits.is_some());
    let is_measured = answers.iter().any(|answer| answer.measured.is_some());
    // One setting of all methods.
    let is_recomputed = answers.iter().any(|answer| answer.description.is_recomputed);
    let mut headings = vec![
        "method",
        ">rank",
        ">trained",
        ">weights",
        ">factors",
        ">optimizer",
        ">gradients",
        ">pools",
        ">host",
        ">activations",
        ">peak",
        if is_recomputed { ">kept" } else { ">recomputed" },
        ">would send",
        ">saved",
    ];
    if has_budget {
        headings.extend([">largest rank", ">largest batch"]);
    }
    if is_measured {
        headings.extend([">ms/update", ">tokens/s"]);
    }
    let mut table = Table::new(&headings);
    for Answer { description: of, measured } in answers {
        let mut row = vec![
            of.method.clone(),
            or_absent(of.rank, |rank| rank.to_string()),
            millions(of.trained_parameters),
        ];
        let sizes = [
            of.weight_bytes,
            of.factor_bytes,
            of.optimizer_bytes,
            of.gradient_bytes,
            of.device_pool_bytes,
            of.host_bytes,
            of.activation_bytes,
            of.peak_bytes,
            if is_recomputed { of.kept_peak_bytes } else { of.recomputed_peak_bytes },
            of.sent_bytes_per_update,
        ];
        row.extend(sizes.map(text::bytes));
        row.push(percent(of.sent_saved_share));
        if has_budget {
            row.push(or_absent(of.fits.and_then(|fits| fits.largest_rank), |n| n.to_string()));
            let batch = of.fits.and_then(|fits| fits.largest_batch_size);
            row.push(or_absent(batch, |n| text::count(n as u64)));
        }
        if is_measured {
            let ms = measured.as_ref().map(|measured| 1e3 * measured.seconds_per_update);
            row.push(or_absent(ms, |ms| format!("{ms:.1}")));
            row.push(or_absent(measured.as_ref(), |measured| text::rate(measured.tokens_per_s)));
        }
        table.row(&row);
    }
    format!(
        "{}\nActivations are what the peak holds beside the rest; {}.\nWould send: per update and worker, data parallel, f32; saved of what full \
         rank would send.\n{}",
        table.render(0),
        if is_recomputed {
            "they are recomputed; kept is the peak without --grad-checkpoint"
        } else {
            "recomputed is the peak with --grad-checkpoint"
        },
        if is_measured {
            "Times are the median of 5 updates on random tokens.\n"
        } else {
            "Times are not guessed; --measure runs a few updates.\n"
        }
    )
}
