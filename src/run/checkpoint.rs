//! Checkpoints: the complete state of a run on disk, whole or not at all, and back to the bit.
//!
//! A checkpoint is a folder `step-00012000` with `config.json` and `model.safetensors` (Hugging Face names,
//! the full W), `method.safetensors` (factors and pools), `optim.safetensors` (moments and counters) and
//! `state.json`. It is written beside its place, synced and renamed; `state.json` holds the hash of every
//! other file, so that a damaged checkpoint is recognised and an older one taken.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::RunConfig;
use crate::data::Position;
use crate::device::Device;
use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::formats::atomic::sync_folder;
use crate::formats::hf_config::HfConfig;
use crate::formats::safetensors::{
    Dtype, SafetensorsFile, SafetensorsWriter, TensorPlan, TensorValues,
};
use crate::kernels::Matrix;
use crate::methods::{MethodState, StateReader};
use crate::model::{Model, PackAtLoad, Param, ParamId, Role};
use crate::optim::adamw::Moments;
use crate::runlog::Cmd;

use super::alerts::Alerts;
use super::engine::Engine;
use super::rank::RankProgress;

const MODEL: &str = "model.safetensors";
const METHOD: &str = "method.safetensors";
const OPTIM: &str = "optim.safetensors";
const CONFIG: &str = "config.json";
const STATE: &str = "state.json";
const VERSION: u32 = 1;

/// How far a run is: everything of its state that is no tensor.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Completed updates.
    pub t: u64,
    /// Updates attempted: completed and skipped.
    pub attempts: u64,
    /// Updates skipped because something was not finite.
    pub skipped: u64,
    /// Tokens seen in training.
    pub tokens: u64,
    /// Seconds spent training, without pauses.
    pub active_s: f64,
    /// Where the data order stands; `None` before the first batch.
    pub position: Option<Position>,
    /// Smoothed training loss, as the line view shows it.
    pub loss_ema: Option<f64>,
    /// The lowest validation loss and the step it was seen at.
    pub best: Option<Best>,
    /// Validation loss of the last evaluation.
    pub last_eval: Option<f64>,
    /// Evaluations since the best one.
    #[serde(default)]
    pub evals_since_best: u64,
    /// Number of the last event when this was written.
    pub event_seq: u64,
    /// Settings that were changed in flight, with their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub live: BTreeMap<String, String>,
    /// Changes in flight that lie ahead: the run went back to before they were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ahead: Vec<Cmd>,
    /// What the rank metrics need to go on.
    #[serde(default)]
    pub rank: RankProgress,
    /// What the rules about losses and gradients remember.
    #[serde(default)]
    pub alerts: Alerts,
}

impl Progress {
    /// A run's configuration with what was changed in flight so far.
    pub fn tuned(&self, config: &RunConfig) -> Result<RunConfig> {
        self.live.iter().try_fold(config.clone(), |config, (key, value)| {
            Ok(config.changed_live(key, value)?.config)
        })
    }
}

/// The best evaluation so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Validation loss.
    pub loss: f64,
    /// Completed updates at that time.
    pub step: u64,
}

/// `state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    progress: Progress,
    /// The method's own part.
    method: Value,
    /// Parameters that have moments.
    moments: Vec<String>,
    /// Parameters of the network that the method took away.
    removed: Vec<String>,
    /// Hashes of the other files.
    files: BTreeMap<String, String>,
}

/// Writes a checkpoint into `parent` and returns its folder. What was there before stays whatever happens.
pub fn save(parent: &Path, engine: &mut Engine, progress: &Progress) -> Result<PathBuf> {
    let target = parent.join(Checkpoint::folder_name(progress.t));
    let partial = parent.join(format!(".step-{:08}.partial", progress.t));
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    remove_leftover(&partial)?;
    fs::create_dir(&partial).map_err(Error::io("create", &partial))?;
    let written = write_files(&partial, engine, progress).and_then(|()| replace(&partial, &target));
    if let Err(error) = written {
        // The error that matters is the first; leftovers are removed by the next save in any case.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    sync_folder(parent)?;
    Ok(target)
}

/// Clears up after a process that was killed while it saved: removes what is half written, and gives a
/// checkpoint that had only been moved aside its name back.
pub fn tidy(parent: &Path) -> Result<()> {
    if !parent.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(parent).map_err(Error::io("read", parent))? {
        let path = entry.map_err(Error::io("read", parent))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(".step-") && name.ends_with(".partial") {
            remove_leftover(&path)?;
        } else if let Some(own_name) = name.strip_suffix(".replaced") {
            let target = parent.join(own_name);
            if target.exists() {
                remove_leftover(&path)?;
            } else {
                fs::rename(&path, &target).map_err(Error::io("rename", &path))?;
            }
        }
    }
    Ok(())
}

fn remove_leftover(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Gives the finished folder its name. A checkpoint of the same step (a resumed run writes it again) is moved
/// aside first and removed last.
fn replace(partial: &Path, target: &Path) -> Result<()> {
    let aside = target.with_extension("replaced");
    remove_leftover(&aside)?;
    if target.exists() {
        fs::rename(target, &aside).map_err(Error::io("rename", target))?;
    }
    fs::rename(partial, target).map_err(Error::io("rename", partial))?;
    remove_leftover(&aside)
}

fn write_files(folder: &Path, engine: &mut Engine, progress: &Progress) -> Result<()> {
    let MethodState { tensors, json, steps } = engine.with_method(|method, cx| method.state(cx));
    let steps: BTreeMap<_, _> = steps.into_iter().collect();
    let model = &engine.model;
    let by_role = |role| model.params.iter().filter(move |(_, param)| param.role == role);

    let plan = |name: &str, shape: &[usize], dtype| TensorPlan {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
    };
    let create = |file: &str, plans: Vec<TensorPlan>| {
        SafetensorsWriter::create(folder.join(file), &BTreeMap::new(), &plans)
    };

    let network = model.params.wholes(Role::Network);
    let plans = network.iter().map(|whole| plan(&whole.name, &whole.shape, Dtype::F32)).collect();
    let mut writer = create(MODEL, plans)?;
    for whole in &network {
        let values = model.params.host_values(&whole.parts);
        writer.write(&whole.name, TensorValues::F32(&values))?;
    }
    writer.finish()?;

    let factors = by_role(Role::Factor).map(|(_, p)| plan(&p.name, &p.shape, Dtype::F32));
    let plans = factors.chain(tensors.iter().map(|t| plan(&t.name, &t.value.shape(), Dtype::F32)));
    let mut writer = create(METHOD, plans.collect())?;
    for (_, param) in by_role(Role::Factor) {
        writer.write(&param.name, TensorValues::F32(&param.value().to_host()))?;
    }
    for tensor in &tensors {
        writer.write(&tensor.name, TensorValues::F32(&tensor.value.to_host()))?;
    }
    writer.finish()?;

    // The parts of a table are one tensor in files: whether there are parts depends on the device.
    let mut moments: Vec<(String, ParamId, Vec<&Moments>, Vec<usize>)> = Vec::new();
    for (id, state) in engine.optimizer.iter() {
        let param = model.params.get(id);
        let shape = moment_shape(param, state.exp_avg.shape());
        match moments.last_mut().filter(|(name, ..)| name == param.whole_name()) {
            Some((_, _, parts, rows)) => {
                rows[0] += shape[0];
                parts.push(state);
            }
            None => moments.push((param.whole_name().to_owned(), id, vec![state], shape)),
        }
    }
    let mut plans = Vec::new();
    for (name, id, _, shape) in &moments {
        let counters = steps.get(id).map_or(1, Vec::len);
        for moment in ["exp_avg", "exp_avg_sq"] {
            plans.push(plan(&format!("{name}.{moment}"), shape, Dtype::F32));
        }
        plans.push(plan(&format!("{name}.step"), &[counters], Dtype::I32));
    }
    // Counters exist before the first update gives their parameter moments.
    for (id, counters) in &steps {
        if !moments.iter().any(|(_, other, ..)| other == id) {
            let name = format!("{}.step", model.params.get(*id).name);
            plans.push(plan(&name, &[counters.len()], Dtype::I32));
        }
    }
    let mut writer = create(OPTIM, plans)?;
    for (name, id, parts, _) in &moments {
        let joined = |moment: fn(&Moments) -> &Matrix| -> Vec<f32> {
            parts.iter().flat_map(|part| moment(part).to_host()).collect()
        };
        let values = joined(|moments| &moments.exp_avg);
        writer.write(&format!("{name}.exp_avg"), TensorValues::F32(&values))?;
        let values = joined(|moments| &moments.exp_avg_sq);
        writer.write(&format!("{name}.exp_avg_sq"), TensorValues::F32(&values))?;
        if !steps.contains_key(id) {
            let step = [parts.first().map_or(0, |part| part.step as i32)];
            writer.write(&format!("{name}.step"), TensorValues::I32(&step))?;
        }
    }
    for (id, counters) in &steps {
        let name = format!("{}.step", model.params.get(*id).name);
        writer.write(&name, TensorValues::I32(counters))?;
    }
    writer.finish()?;

    model.config.write(folder, "float32")?;
    let mut files = BTreeMap::new();
    for file in [CONFIG, MODEL, METHOD, OPTIM] {
        files.insert(file.to_owned(), hash(&folder.join(file))?);
    }
    let state = State {
        version: VERSION,
        progress: progress.clone(),
        method: json,
        moments: moments.into_iter().map(|(name, ..)| name).collect(),
        removed: model.removed_parameters(),
        files,
    };
    // Values that could not be read are NaN; nothing may be kept of them.
    engine.model.device().check()?;
    let path = folder.join(STATE);
    let text = serde_json::to_vec_pretty(&state)
        .map_err(|error| Error::file(&path, error.to_string(), "report this"))?;
    crate::formats::atomic::write_atomically(&path, &text)?;
    sync_folder(folder)
}

/// The shape of moments in files: the parameter's, unless they have one of their own.
fn moment_shape(param: &Param, shape: [usize; 2]) -> Vec<usize> {
    if shape == param.sizes() { param.shape.clone() } else { shape.to_vec() }
}

fn hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = fs::File::open(path).map_err(Error::io("read", path))?;
    hasher.update_reader(file).map_err(Error::io("read", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// What to tell of a damaged checkpoint in whose place an older one is used.
pub fn skipped(error: &Error) -> String {
    format!("skipped a damaged checkpoint: {error}")
}

/// Removes checkpoints beyond the newest `keep` and the best one.
pub fn prune(checkpoints: &[PathBuf], keep: usize, best: Option<u64>) -> Result<()> {
    let best = best.map(Checkpoint::folder_name);
    let old = checkpoints.len().saturating_sub(keep.max(1));
    for path in &checkpoints[..old] {
        let is_best = path.file_name().and_then(|name| name.to_str()) == best.as_deref();
        if !is_best {
            fs::remove_dir_all(path).map_err(Error::io("remove", path))?;
        }
    }
    Ok(())
}

/// Removes the checkpoints of updates that are void, the newest first: whatever remains when the process is killed on the
/// way, the folder is that of a run that was killed earlier.
pub fn discard(checkpoints: &[PathBuf]) -> Result<()> {
    for path in checkpoints.iter().rev() {
        // Under a name that `tidy` clears away, a half removed one is not taken for a damaged one.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = path.with_file_name(format!(".{name}.partial"));
        remove_leftover(&aside)?;
        fs::rename(path, &aside).map_err(Error::io("rename", path))?;
        remove_leftover(&aside)?;
    }
    Ok(())
}

/// A checkpoint on disk whose files are all there and undamaged.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    state: State,
    model: SafetensorsFile,
    method: SafetensorsFile,
    optim: SafetensorsFile,
}

impl Checkpoint {
    /// Opens a checkpoint and checks every file against its hash.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let state: State = serde_json::from_slice(&text).map_err(|error| {
            Error::file(&path, format!("not the state of a checkpoint: {error}"), OLDER)
        })?;
        if state.version != VERSION {
            let what = format!("version {}, this program reads {VERSION}", state.version);
            return Err(Error::file(&path, what, "use the version of fullrank that wrote it"));
        }
        for (name, expected) in &state.files {
            let path = folder.join(name);
            if hash(&path)? != *expected {
                let what = "the content is not what was saved (the hash differs)";
                return Err(Error::file(&path, what, OLDER));
            }
        }
        let open = |name: &str| SafetensorsFile::open(folder.join(name));
        Ok(Self {
            model: open(MODEL)?,
            method: open(METHOD)?,
            optim: open(OPTIM)?,
            folder: folder.to_path_buf(),
            state,
        })
    }

    /// The name of the folder of a checkpoint after `step` updates.
    pub fn folder_name(step: u64) -> String {
        format!("step-{step:08}")
    }

    /// The newest of the given checkpoints (oldest first) that is intact, and what was wrong with newer ones.
    pub fn newest_intact(folders: &[PathBuf]) -> Result<(Option<Self>, Vec<Error>)> {
        let mut damaged = Vec::new();
        for folder in folders.iter().rev() {
            match Self::open(folder) {
                Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
                Err(error) => damaged.push(error),
            }
        }
        match damaged.first() {
            Some(newest) => Err(Error::run(
                format!("none of {} checkpoints is intact; the newest: {newest}", damaged.len()),
                "bring its files back from a copy; a run without any checkpoint folder starts anew",
            )),
            None => Ok((None, Vec::new())),
        }
    }

    /// How far the run was.
    pub fn progress(&self) -> &Progress {
        &self.state.progress
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The network with its weights; the method puts its factors on it in [`Checkpoint::restore`].
    pub fn load_model(&self, device: &Device) -> Result<Model> {
        self.load_packed(device, &PackAtLoad::default())
    }

    /// The same with some weights in few bits from the start.
    pub fn load_packed(&self, device: &Device, pack: &PackAtLoad) -> Result<Model> {
        let config = HfConfig::read(self.folder.join(CONFIG))?;
        Model::build(config, device, |name, shape| {
            if self.state.removed.iter().any(|removed| removed == name) {
                return Ok(vec![0.0; shape.iter().product()].into());
            }
            pack.initial(name, shape, self.model.read_expected(name, shape)?.values)
        })
    }

    /// Brings an engine with this checkpoint's model to the state that was saved; `with_moments` is false
    /// where nothing will be trained.
    pub fn restore(&self, engine: &mut Engine, with_moments: bool) -> Result<()> {
        engine.t = self.state.progress.t;
        engine.with_method(|method, cx| method.restore(cx, self))?;
        engine.model.pack_frozen()?;
        let device = engine.model.device().clone();
        let upload = |values, shape: [usize; 2], category| {
            Matrix::from_host(values, shape, &device, category)
        };
        for id in engine.model.params.ids() {
            let param = engine.model.params.get(id);
            if param.role == Role::Factor {
                let shape = param.value().shape();
                let values = self.method.read_expected(&param.name, &param.shape)?.values;
                engine.model.params.set(id, upload(values, shape, Category::Adapters));
            }
        }
        engine.with_method(|method, cx| method.restored(cx));
        if !with_moments {
            return Ok(());
        }
        for name in &self.state.moments {
            let parts = engine.model.params.parts_of(name);
            if parts.len() > 1 {
                self.restore_table(engine, name, &parts)?;
                continue;
            }
            let Some(&id) = parts.first() else {
                return Err(self.mismatch(format!("moments of {name}, which is not in the model")));
            };
            let param = engine.model.params.get(id);
            let own_shape = param.sizes();
            let shape = engine.method.moment_shape(id).unwrap_or(own_shape);
            let file_shape = moment_shape(param, shape);
            let read = |moment: &str| {
                let name = format!("{name}.{moment}");
                let values = self.optim.read_expected(&name, &file_shape)?.values;
                Ok::<_, Error>(upload(values, shape, Category::Optimizer))
            };
            let (exp_avg, exp_avg_sq) = (read("exp_avg")?, read("exp_avg_sq")?);
            let steps = self.optim.read_i32(&format!("{name}.step"))?;
            // Counters per vector belong to the method, which has read them.
            let step = if let [step] = steps[..] { step.max(0) as u32 } else { 0 };
            engine.optimizer.put(id, Moments { exp_avg, exp_avg_sq, step });
        }
        Ok(())
    }

    /// Brings back the moments of a table in several parts.
    fn restore_table(&self, engine: &mut Engine, name: &str, parts: &[ParamId]) -> Result<()> {
        let device = engine.model.device().clone();
        let shapes: Vec<[usize; 2]> =
            parts.iter().map(|&id| engine.model.params.value(id).shape()).collect();
        let rows = shapes.iter().map(|shape| shape[0]).sum();
        let width = shapes.first().map_or(0, |shape| shape[1]);
        let read =
            |moment: &str| self.optim.read_expected(&format!("{name}.{moment}"), &[rows, width]);
        let (exp_avg, exp_avg_sq) = (read("exp_avg")?.values, read("exp_avg_sq")?.values);
        let steps = self.optim.read_i32(&format!("{name}.step"))?;
        let step = steps.first().map_or(0, |step| (*step).max(0) as u32);
        let mut first = 0;
        for (&id, shape) in parts.iter().zip(shapes) {
            let here = first..first + shape[0] * shape[1];
            first = here.end;
            let upload = |values: &[f32]| {
                Matrix::from_host(
                    values[here.clone()].to_vec(),
                    shape,
                    &device,
                    Category::Optimizer,
                )
            };
            let (exp_avg, exp_avg_sq) = (upload(&exp_avg), upload(&exp_avg_sq));
            engine.optimizer.put(id, Moments { exp_avg, exp_avg_sq, step });
        }
        Ok(())
    }
}

const OLDER: &str = "name the run or an older checkpoint; a run uses its newest intact one";

impl StateReader for Checkpoint {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.method.read_expected(name, shape)?.values)
    }

    fn steps(&self, parameter: &str, len: usize) -> Result<Vec<i32>> {
        let steps = self.optim.read_i32(&format!("{parameter}.step"))?;
        if steps.len() == len {
            Ok(steps)
        } else {
            let what = format!("{parameter}.step has {} counters, expected {len}", steps.len());
            Err(self.mismatch(what))
        }
    }

    fn json(&self) -> &Value {
        &self.state.method
    }

    fn mismatch(&self, what: String) -> Error {
        Error::file(&self.folder, what, "resume with the configuration that wrote the checkpoint")
    }
}
