//! The self-test of a device: every operation of training at real width and length, a deep model, and the
//! largest buffer, each held against f64 loops or the CPU.
//!
//! It knows nothing of the terminal: `cli` prints what it is told. Results are compared where they are
//! sampled, 64 rows or columns of each, so that the whole takes less than a minute on a machine that does nothing else.

mod attention;
mod bias;
mod ends;
mod magnitude;
mod packed;
mod parts;
mod probe;
mod products;
mod rows;
mod scaling;
mod sparse;
mod switches;
mod updates;
mod whole;

use serde::Serialize;

use crate::device::Device;
use crate::error::{Error, Result};

use probe::Probe;

/// What a check found.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The operation's name, or what was done with several.
    pub name: &'static str,
    /// The sizes it ran at.
    pub shape: String,
    /// Largest difference, relative to the largest value.
    pub worst: f64,
    /// What the operation took, in milliseconds.
    pub ms: f64,
    /// What is wrong, if anything.
    pub trouble: Option<String>,
}

impl Finding {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.trouble.is_none()
    }
}

/// What was found on one device.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The device's name.
    pub device: String,
    /// One for each check that ran.
    pub findings: Vec<Finding>,
    /// Checks that were not begun, because the time was over.
    pub left_out: Vec<&'static str>,
}

type Check = (&'static str, fn(&mut Probe<'_>));

/// Every check, short ones and those that others rest on first. The name of one that checks a single
/// operation is the operation's.
const CHECKS: [Check; 50] = [
    ("zero", updates::zero),
    ("fill", updates::fill),
    ("copy", updates::copy),
    ("matmul", products::matmul),
    ("matmul_add", products::matmul_add),
    ("lora_linear", products::lora_linear),
    ("lora_input_grad", products::lora_input_grad),
    ("packed_product", packed::packed_product),
    ("rms_norm", rows::rms_norm),
    ("rms_norm_apply", rows::rms_norm_apply),
    ("add_residual", rows::add_residual),
    ("add_rms_norm", rows::add_rms_norm),
    ("rms_norm_backward", rows::rms_norm_backward),
    ("rope", rows::rope),
    ("swiglu", rows::swiglu),
    ("swiglu_backward", rows::swiglu_backward),
    ("embedding", ends::embedding),
    ("embedding_grad", ends::embedding_grad),
    ("token_losses", ends::token_losses),
    ("cross_entropy", ends::cross_entropy),
    ("embedding_rows", parts::embedding_rows),
    ("put_columns", parts::put_columns),
    ("logit_losses", parts::logit_losses),
    ("add_losses", parts::add_losses),
    ("take_columns", parts::take_columns),
    ("attention", attention::attention),
    ("attention_backward", attention::attention_backward),
    ("copy_rows", attention::copy_rows),
    ("switch", switches::switch),
    ("restart", switches::restart),
    ("adamw", updates::adamw),
    ("adamw_vectors", updates::adamw_vectors),
    ("add_sum_squares", updates::add_sum_squares),
    ("clip_factor", updates::clip_factor),
    ("guard", updates::guard),
    ("pair", updates::pair),
    ("clip_spikes", updates::clip_spikes),
    ("scale", scaling::scale),
    ("add_scaled", scaling::add_scaled),
    ("norm_ratios", scaling::norm_ratios),
    ("limit_growth", scaling::limit_growth),
    ("scatter_add", sparse::scatter_add),
    ("gather", sparse::gather),
    ("add_bias", bias::add_bias),
    ("bias_grad", bias::bias_grad),
    ("scale_columns", magnitude::scale_columns),
    ("magnitude_grad", magnitude::magnitude_grad),
    ("magnitude_factor", magnitude::magnitude_factor),
    ("twelve layers", whole::twelve_layers),
    ("largest buffer", whole::largest_buffer),
];

/// Runs every check on a device and tells each finding as it comes. Where `is_over` says so, no check is begun.
pub fn examine(
    device: &Device,
    is_over: &mut dyn FnMut() -> bool,
    tell: &mut dyn FnMut(&Finding),
) -> Report {
    examine_with_fault(device, is_over, None, tell)
}

/// The same with a wrong value put among the results of the check of that name. For tests.
#[doc(hidden)]
pub fn examine_with_fault(
    device: &Device,
    is_over: &mut dyn FnMut() -> bool,
    fault: Option<&str>,
    tell: &mut dyn FnMut(&Finding),
) -> Report {
    let (mut findings, mut left_out) = (Vec::new(), Vec::new());
    for (name, run) in CHECKS {
        if is_over() {
            left_out.push(name);
            continue;
        }
        let mut probe = Probe::new(device, fault == Some(name));
        run(&mut probe);
        let finding = probe.finding(name);
        tell(&finding);
        findings.push(finding);
    }
    Report { device: device.name().into(), findings, left_out }
}

/// An error naming what failed, if anything did.
///
/// Errors: `Error::Device`.
pub fn verdict(reports: &[Report]) -> Result<()> {
    let failed: Vec<String> = reports
        .iter()
        .filter_map(|report| {
            let names: Vec<&str> =
                report.findings.iter().filter(|f| !f.is_ok()).map(|f| f.name).collect();
            (!names.is_empty()).then(|| format!("{} on {}", names.join(", "), report.device))
        })
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::Device {
        what: format!("wrong results: {}", failed.join("; ")),
        remedy:
            "do not train on this device; update its driver and run `fullrank doctor` again, or \
                 use --device cpu; the failing lines above belong in a report"
                .into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &'static str, trouble: Option<&str>) -> Finding {
        Finding {
            name,
            shape: String::new(),
            worst: 0.0,
            ms: 1.0,
            trouble: trouble.map(Into::into),
        }
    }

    #[test]
    fn the_verdict_names_what_failed_and_where() {
        let good = Report {
            device: "cpu".into(),
            findings: vec![finding("rope", None)],
            left_out: vec![],
        };
        assert!(verdict(std::slice::from_ref(&good)).is_ok());
        let findings =
            vec![finding("rope", None), finding("swiglu", Some("x")), finding("adamw", Some("y"))];
        let bad = Report { device: "a gpu".into(), findings, left_out: vec![] };
        let error = verdict(&[good, bad]).unwrap_err();
        assert_eq!(error.to_string(), "wrong results: swiglu, adamw on a gpu");
        assert_eq!(error.exit_code(), 4);
    }

    #[test]
    fn when_the_time_is_over_nothing_is_begun() {
        let report = examine(&Device::cpu(), &mut || true, &mut |_| unreachable!("no time"));
        assert!(report.findings.is_empty());
        assert_eq!(report.left_out.len(), CHECKS.len());
    }
}
