//! A run of the folder at a glance, before it is opened: its curve, its settings, what lies on disk.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::RunModel;
use crate::error::{Error, Result};
use crate::runlog::body::{Body, Run};
use crate::runlog::{RunDir, Tail};
use crate::tui::source::Facts;

/// Points of the curve that are kept.
const MOST_POINTS: usize = 512;

/// What the browser shows beside its list.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Preview {
    /// What is trained, on what and with what.
    pub run: Run,
    /// Updates and their training loss, thinned out.
    pub losses: Vec<(f64, f64)>,
    /// Updates and the validation loss.
    pub evals: Vec<(f64, f64)>,
    /// Its settings, `table.key` to value.
    pub config: BTreeMap<String, String>,
    /// The machine: `linux x86_64, 2 cores`.
    pub host: String,
    /// The program's version.
    pub version: String,
    /// Updates of the checkpoints that lie there.
    pub checkpoints: Vec<u64>,
    /// Bytes of the whole folder.
    pub bytes: u64,
    /// The log's length when it was read: a longer one is worth another look.
    pub revision: u64,
}

/// Points of a line, thinned out by halves: every second one goes when there are too many, and from then on only
/// every second is taken.
struct Thin {
    points: Vec<(f64, f64)>,
    every: u64,
    count: u64,
}

impl Thin {
    fn new() -> Self {
        Self { points: Vec::new(), every: 1, count: 0 }
    }

    fn add(&mut self, point: (f64, f64)) {
        if self.count.is_multiple_of(self.every) {
            self.points.push(point);
        }
        self.count += 1;
        if self.points.len() > MOST_POINTS {
            let mut place = 0;
            self.points.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.every *= 2;
        }
    }
}

impl Preview {
    /// Reads a run of the folder.
    ///
    /// Errors: `Error::Io` where the log or the folder is there and cannot be read.
    pub fn read(dir: &RunDir) -> Result<Self> {
        let mut preview = Self::default();
        let (mut losses, mut evals) = (Thin::new(), Vec::new());
        Tail::new(dir.events()).each(|event| {
            preview.revision += 1;
            let step = event.step as f64;
            match event.body {
                Body::Run(run) => preview.run = *run,
                Body::Step(update) => losses.add((step, update.loss)),
                Body::Eval(eval) => evals.push((step, eval.loss)),
                Body::Resume(resume) => {
                    if let Some(from) = resume.from_step {
                        losses.points.retain(|point| point.0 <= from as f64);
                        evals.retain(|point: &(f64, f64)| point.0 <= from as f64);
                    }
                }
                _ => {}
            }
        })?;
        (preview.losses, preview.evals) = (losses.points, evals);
        preview.config = Facts::read(dir).config;
        let facts = std::fs::read(dir.facts()).ok();
        let facts: Value =
            facts.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let host = &facts["host"];
        if let (Some(os), Some(arch)) = (host["os"].as_str(), host["arch"].as_str()) {
            preview.host = format!("{os} {arch}, {} cores", host["cores"].as_u64().unwrap_or(0));
        }
        facts["version"].as_str().unwrap_or_default().clone_into(&mut preview.version);
        preview.checkpoints = dir.list_checkpoints()?.into_iter().map(|point| point.step).collect();
        preview.bytes = size(dir.path())?;
        Ok(preview)
    }

    /// What an open run tells of itself; nothing is read.
    pub fn of(run: &RunModel) -> Self {
        let points = |table: &crate::series::Table| {
            let end = table.clock.at(table.len().saturating_sub(1), crate::series::Axis::Step);
            table.draw("loss", crate::series::Axis::Step, 0.0..end, MOST_POINTS / 4, false)
        };
        Self {
            run: run.summary.run.clone(),
            losses: points(&run.steps),
            evals: points(&run.evals),
            config: run.config.clone(),
            version: run.summary.run.version.clone(),
            checkpoints: run.checkpoints.iter().map(|point| point.at.step).collect(),
            revision: run.revision,
            ..Self::default()
        }
    }
}

/// Bytes of the files in a folder and below; links are not followed.
fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        // A file may go while it is looked at: a live run writes beside and renames.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            sum += size(&entry.path()).unwrap_or(0);
        } else if kind.is_file() {
            sum += entry.metadata().map_or(0, |about| about.len());
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture;

    #[test]
    fn a_preview_from_disk_shows_what_the_open_run_shows() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::at(folder.path());
        let lines = fixture::events("lora", 1, 100);
        let lines: Vec<String> = lines.iter().map(|event| event.to_line().unwrap()).collect();
        std::fs::write(dir.events(), lines.join("\n") + "\n").unwrap();
        std::fs::write(dir.config(), "[train]\nmethod = \"lora\"\nrank = 16\n").unwrap();
        let preview = Preview::read(&dir).unwrap();
        assert_eq!((preview.losses.len(), preview.evals.len()), (100, 5));
        assert_eq!(preview.config["train.rank"], "16");
        assert!(preview.bytes > 1000 && preview.run.method == "lora");
        let open = Preview::of(&fixture::run_of("lora", 1, 100));
        assert_eq!((open.losses.len(), &open.run), (100, &preview.run));
    }

    #[test]
    fn a_long_curve_is_thinned_out_evenly() {
        let mut thin = Thin::new();
        (0..100_000).for_each(|x| thin.add((f64::from(x), 0.0)));
        assert!(thin.points.len() <= MOST_POINTS && thin.points.len() > MOST_POINTS / 4);
        let gaps: Vec<f64> = thin.points.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(gaps.iter().all(|gap| *gap == gaps[0]));
    }
}
