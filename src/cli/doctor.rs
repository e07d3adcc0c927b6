//! `fullrank doctor`: the self-test of the kernels, a line for each as it ends.

// A page is put together from formatted lines; `write!` to a string would add an error to ignore.
#![allow(clippy::format_push_string)]

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;

use super::print::notice;
use super::text;
use crate::device::Device;
use crate::device::adapter::{Adapter, Kind};
use crate::doctor::{Finding, Report, examine, verdict};
use crate::error::Result;
use crate::run::machine::cpu_seconds;

/// After this no check is begun, so that the whole ends within a minute.
const TIME: Duration = Duration::from_secs(50);
/// On the CPU the time counts in which this process computes: beside other work it may take as long as this.
const LONGEST: Duration = Duration::from_mins(4);

/// The time that the checks have.
struct Budget {
    begin: Instant,
    /// Seconds that this process had computed then, where the system tells.
    cpu_s: Option<f64>,
}

impl Budget {
    fn begin() -> Self {
        Self { begin: Instant::now(), cpu_s: cpu_seconds() }
    }

    fn is_over(&self, device: &Device) -> bool {
        let passed = self.begin.elapsed();
        let is_cpu = device.gpu().is_none_or(|gpu| gpu.kind == Kind::Software);
        let computed = || Some(cpu_seconds()? - self.cpu_s?);
        match computed().filter(|_| is_cpu && passed < LONGEST) {
            Some(computed) => passed >= TIME && computed >= TIME.as_secs_f64(),
            None => passed >= TIME,
        }
    }
}

/// Tests the device that `choice` names and prints what was found. Where `auto` finds no GPU, the CPU and then a
/// software adapter, if there is one.
///
/// Errors: `Error::Device` if a result is wrong, or there is no such device.
pub fn doctor(choice: &str, is_json: bool, stdout: &mut dyn Write) -> Result<()> {
    let budget = Budget::begin();
    let device = Device::open(choice, None)?;
    let mut reports = vec![one(&device, &budget, is_json, stdout)?];
    if choice == "auto" && device.gpu().is_none() {
        match Adapter::all().iter().find(|adapter| adapter.kind == Kind::Software) {
            Some(adapter) => {
                notice("no usable GPU was found; testing the software adapter as well");
                reports.push(one(&adapter.open(None)?, &budget, is_json, stdout)?);
            }
            None => {
                notice("no usable GPU was found, and no software adapter; tested the CPU alone");
            }
        }
    }
    let outcome = verdict(&reports);
    if is_json {
        text::print_json(stdout, &json!({"ok": outcome.is_ok(), "devices": reports}))?;
    }
    outcome
}

fn one(device: &Device, budget: &Budget, is_json: bool, stdout: &mut dyn Write) -> Result<Report> {
    let begin = Instant::now();
    // The first failure to write ends the lines, not the test.
    let mut written = Ok(());
    let report = examine(device, &mut || budget.is_over(device), &mut |finding| {
        let line = line(finding, device.name());
        if is_json {
            notice(line.trim_end());
        } else if written.is_ok() {
            written = text::print(stdout, &line);
        }
    });
    written?;
    let ending = ending(&report, begin.elapsed().as_secs_f64());
    if is_json {
        notice(ending.trim_end());
    } else {
        text::print(stdout, &ending)?;
    }
    Ok(report)
}

fn line(finding: &Finding, device: &str) -> String {
    let Finding { name, shape, worst, ms, trouble } = finding;
    match trouble {
        None => {
            format!("ok    {name:<19} {shape:<53} worst {worst:.1e} {ms:>8.1} ms  on {device}\n")
        }
        Some(trouble) => format!("WRONG {name:<19} {shape:<53} on {device}\n      {trouble}\n"),
    }
}

fn ending(report: &Report, seconds: f64) -> String {
    let right = report.findings.iter().filter(|finding| finding.is_ok()).count();
    let all = report.findings.len() + report.left_out.len();
    let mut text = format!("{right} of {all} right in {seconds:.0} s on {}\n", report.device);
    if !report.left_out.is_empty() {
        text += &format!("not tested, as the time was over: {}\n", report.left_out.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_ran_and_a_failing_one_what_was_expected() {
        let mut finding = Finding {
            name: "rope",
            shape: "1 x 2048 tokens".into(),
            worst: 3.14e-7,
            ms: 12.34,
            trouble: None,
        };
        let good = line(&finding, "llvmpipe (vulkan, software)");
        assert!(good.starts_with("ok    rope "), "{good}");
        assert!(
            good.ends_with("worst 3.1e-7     12.3 ms  on llvmpipe (vulkan, software)\n"),
            "{good}"
        );
        finding.trouble = Some("row 3: expected 1, got 2".into());
        assert!(line(&finding, "x").ends_with("on x\n      row 3: expected 1, got 2\n"));
    }

    #[test]
    fn what_was_left_out_is_said() {
        let report =
            Report { device: "cpu".into(), findings: vec![], left_out: vec!["rope", "scale"] };
        assert_eq!(
            ending(&report, 50.2),
            "0 of 2 right in 50 s on cpu\nnot tested, as the time was over: rope, scale\n"
        );
    }
}
