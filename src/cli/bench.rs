//! `fullrank bench`: kernels and whole steps beside stock burn, as a table or as JSON.

// A page is put together from formatted lines; `write!` to a string would add an error to ignore.
#![allow(clippy::format_push_string)]

use std::io::Write;

use super::args::BenchArgs;
use super::print::notice;
use super::text::{self, Table, or_absent};
use crate::bench::kernels::KernelRow;
use crate::bench::steps::StepRow;
use crate::bench::ui::{self, UiReport};
use crate::bench::{Report, run};
use crate::error::Result;
use crate::kernels::ceiling::Ceilings;
use crate::run::session::with_threads;

/// Measures and prints.
///
/// Errors: no such device, its failure, an unknown method, or a stdout that refuses.
pub fn bench(args: &BenchArgs, stdout: &mut dyn Write) -> Result<()> {
    if let Some(updates) = args.screen_updates {
        let report = ui::measure(updates, &mut notice)?;
        if args.json {
            return text::print_json(stdout, &report.json());
        }
        return text::print(stdout, &screen(&report));
    }
    let report = with_threads(args.threads, || run(&args.options, &mut notice))?;
    if args.json {
        return text::print_json(stdout, &report.json());
    }
    text::print(stdout, &page(&report))
}

fn page(report: &Report) -> String {
    let mut page = format!("device  {}\n", report.device);
    if let Some(ceilings) = report.ceilings {
        page += &format!(
            "at most {:.1} GB/s copied, {:.0} GFLOP/s multiplied and added\n\n",
            ceilings.bytes_per_s / 1e9,
            ceilings.flop_per_s / 1e9
        );
        page += &kernels(&report.kernels, ceilings);
    }
    if !report.steps.is_empty() {
        page += "\n";
        page += &steps(&report.steps);
        for row in &report.steps {
            page += &programs(row);
        }
    }
    page
}

fn screen(report: &UiReport) -> String {
    let mut page = format!(
        "{} runs of {} updates, a log of {} loaded in {:.2} s; {:.1} B an update in memory{}\n\n",
        ui::RUNS,
        text::count(report.updates),
        text::bytes(report.log_bytes),
        report.load_s,
        report.bytes_per_update,
        report.rss_bytes.map_or_else(String::new, |rss| format!(", {} in all", text::bytes(rss))),
    );
    let mut table = Table::new(&[
        "view",
        "size",
        ">first ms",
        ">frame ms",
        ">key to frame ms",
        ">of 99 %",
        "slowest",
    ]);
    for row in &report.frames {
        let ms = |ms: f64| format!("{ms:.2}");
        table.row(&[
            row.view.into(),
            format!("{}x{}", row.size.0, row.size.1),
            ms(row.first_ms),
            ms(row.draw_ms),
            ms(row.key_ms.0),
            ms(row.key_ms.1),
            row.slowest_key.into(),
        ]);
    }
    page += &table.render(0);
    page += &format!(
        "\nlive with 20 updates a second: {:.1} frames a second, {:.0} B/s to the terminal, {:.2} % of a core for \
         recorder and screen\n",
        report.live_frames_per_s,
        report.live_bytes_per_s,
        100.0 * report.live_cpu_share.unwrap_or(report.live_share)
    );
    page
}

fn kernels(rows: &[KernelRow], ceilings: Ceilings) -> String {
    let mut table = Table::new(&[
        "kernel",
        "shape",
        ">ms",
        ">GFLOP/s",
        ">GB/s",
        ">of the most",
        ">stock ms",
        ">x stock",
    ]);
    for row in rows {
        // Operands that stay in a cache move faster than a copy of large buffers.
        let share = ceilings.least_seconds(row.flop, row.bytes) / row.seconds;
        table.row(&[
            row.name.into(),
            row.shape.clone(),
            format!("{:.3}", row.seconds * 1e3),
            format!("{:.1}", row.gflops()),
            format!("{:.1}", row.bytes / row.seconds / 1e9),
            if share > 1.0 { "cached".into() } else { format!("{:.0} %", share * 100.0) },
            or_absent(row.stock_seconds, |seconds| format!("{:.3}", seconds * 1e3)),
            or_absent(row.stock_seconds, |seconds| format!("{:.2}", seconds / row.seconds)),
        ]);
    }
    table.render(0)
}

fn steps(rows: &[StepRow]) -> String {
    let mut table = Table::new(&[
        "method",
        ">tokens/s",
        ">best",
        "stock",
        ">tokens/s",
        ">best",
        ">x stock",
        ">x best",
        ">ledger",
        ">predicted",
        ">pools",
        ">resident",
        ">steps",
    ]);
    for row in rows {
        let ratio = |ratio: f64| format!("{ratio:.2}");
        table.row(&[
            row.method.clone(),
            text::rate(row.tokens_per_s),
            text::rate(row.best_tokens_per_s),
            or_absent(row.stock.clone(), |stock| stock),
            or_absent(row.stock_tokens_per_s, text::rate),
            or_absent(row.best_stock_tokens_per_s, text::rate),
            or_absent(row.ratio(), ratio),
            or_absent(row.best_ratio(), ratio),
            or_absent(row.ledger_peak_bytes, text::bytes),
            or_absent(row.predicted_bytes, text::bytes),
            or_absent(row.pool_bytes, text::bytes),
            or_absent(row.rss_bytes, text::bytes),
            row.rounds.to_string(),
        ]);
    }
    table.render(0)
}

/// The programs of a method's profiled updates; empty without a profile.
fn programs(row: &StepRow) -> String {
    let Some(updates) = row.profiled.filter(|_| !row.programs.is_empty()) else {
        return String::new();
    };
    let total: f64 = row.programs.iter().map(|time| time.seconds).sum();
    let each = 1e3 / updates as f64;
    let mut table = Table::new(&["program", ">launches", ">ms", ">share"]);
    for time in &row.programs {
        table.row(&[
            time.name.into(),
            format!("{:.1}", time.launches as f64 / updates as f64),
            format!("{:.3}", time.seconds * each),
            format!("{:.1} %", 100.0 * time.seconds / total),
        ]);
    }
    format!(
        "\n{}: {:.1} ms of programs an update, waiting for each\n\n{}",
        row.method,
        total * each,
        table.render(0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::ceiling::ProgramTime;

    #[test]
    fn the_page_shows_speed_share_and_ratio() {
        let kernel = KernelRow {
            name: "matmul",
            shape: "8 x 8 -> 8".into(),
            flop: 1e9,
            bytes: 1e6,
            seconds: 0.1,
            stock_seconds: Some(0.2),
        };
        let step = StepRow {
            method: "full".into(),
            tokens_per_s: 4000.0,
            best_tokens_per_s: 4100.0,
            stock: Some("full".into()),
            stock_tokens_per_s: Some(2000.0),
            best_stock_tokens_per_s: Some(2050.0),
            ledger_peak_bytes: Some(1 << 20),
            predicted_bytes: Some(1 << 20),
            pool_bytes: None,
            rss_bytes: None,
            rounds: 7,
            profiled: Some(2),
            programs: vec![
                ProgramTime { name: "matmul_tile", launches: 4, seconds: 0.003 },
                ProgramTime { name: "adamw", launches: 2, seconds: 0.001 },
            ],
        };
        let report = Report {
            device: "cpu".into(),
            ceilings: Some(Ceilings { bytes_per_s: 2e10, flop_per_s: 4e10 }),
            kernels: vec![kernel],
            steps: vec![step],
        };
        assert_eq!(
            page(&report),
            "\
device  cpu
at most 20.0 GB/s copied, 40 GFLOP/s multiplied and added

kernel  shape            ms  GFLOP/s  GB/s  of the most  stock ms  x stock
matmul  8 x 8 -> 8  100.000     10.0   0.0         25 %   200.000     2.00

method  tokens/s   best  stock  tokens/s   best  x stock  x best   ledger  predicted  pools  resident  steps
full       4,000  4,100  full      2,000  2,050     2.00    2.00  1.0 MiB    1.0 MiB      -         -      7

full: 2.0 ms of programs an update, waiting for each

program      launches     ms   share
matmul_tile       2.0  1.500  75.0 %
adamw             1.0  0.500  25.0 %
"
        );
    }
}
