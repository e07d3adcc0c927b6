//! Named parameters, which of them are trained, and their gradients.

use std::collections::HashMap;

use crate::device::Device;
use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::kernels::Matrix;
use crate::kernels::packed::{Codes, Packed, Packing, Weight};

/// Index of a parameter in [`Params`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(usize);

/// What a parameter is to the model; decides which file of a checkpoint holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Part of the network, with its Hugging Face name.
    Network,
    /// Added by a method: a low-rank factor.
    Factor,
}

/// One named parameter.
#[derive(Debug)]
pub struct Param {
    /// Hugging Face name, or `<layer>.lora_A` and the like.
    pub name: String,
    /// Shape in files; a norm gain is `[C]` there and a matrix `[1, C]` here.
    pub shape: Vec<usize>,
    /// What it is to the model.
    pub role: Role,
    /// Whether gradients are computed for it.
    pub trainable: bool,
    value: Option<Value>,
}

/// How a value is held.
#[derive(Debug)]
enum Value {
    Dense(Matrix),
    /// In few bits; `master` is the f32 it was encoded from, in host memory, where merges go into it.
    Packed {
        packed: Box<Packed>,
        master: Option<Matrix>,
    },
}

impl Param {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the parameter has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value in f32. It is missing only while an update in place holds it. Only the frozen weight of a linear layer
    /// may be in few bits: for such a parameter there are [`Params::weight`] and [`Params::host_values`].
    pub fn value(&self) -> &Matrix {
        match self.held() {
            Value::Dense(value) => value,
            Value::Packed { .. } => unreachable!("parameter {} is in few bits", self.name),
        }
    }

    /// Whether the value is in few bits.
    pub fn is_packed(&self) -> bool {
        matches!(self.value, Some(Value::Packed { .. }))
    }

    /// `[rows, columns]` of the value.
    pub fn sizes(&self) -> [usize; 2] {
        match self.held() {
            Value::Dense(value) => value.shape(),
            Value::Packed { packed, .. } => packed.shape(),
        }
    }

    fn held(&self) -> &Value {
        match &self.value {
            Some(value) => value,
            None => unreachable!("parameter {} is being updated", self.name),
        }
    }

    /// What files hold: the value, or of one in few bits what it was encoded from, or decoded.
    fn host_values(&self) -> Vec<f32> {
        match self.held() {
            Value::Dense(value) => value.to_host(),
            Value::Packed { master: Some(master), .. } => master.to_host(),
            Value::Packed { packed, master: None } => packed.to_host().decode(),
        }
    }
}

/// All parameters of a model, by id and by name.
#[derive(Debug, Default)]
pub struct Params {
    list: Vec<Param>,
    by_name: HashMap<String, ParamId>,
}

/// What stands between the name of a table and the number of a part's first row.
const PART: &str = ".rows_";

/// A tensor as files have it: a parameter, or a table whose parts are parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// Its name in files.
    pub name: String,
    /// Its shape in files.
    pub shape: Vec<usize>,
    /// Its parameters, in the order of their rows.
    pub parts: Vec<ParamId>,
}

/// The name of the part of a table that begins at a row.
pub(super) fn part_name(table: &str, first_row: usize) -> String {
    format!("{table}{PART}{first_row}")
}

impl Param {
    /// The name of the tensor in files; a part of a table has that of the table.
    pub fn whole_name(&self) -> &str {
        self.name.split_once(PART).map_or(self.name.as_str(), |(table, _)| table)
    }
}

impl Params {
    /// The tensors of one role as files have them, in order of addition.
    pub fn wholes(&self, role: Role) -> Vec<Whole> {
        let mut all: Vec<Whole> = Vec::new();
        for (id, param) in self.iter().filter(|(_, param)| param.role == role) {
            match all.last_mut().filter(|last| last.name == param.whole_name()) {
                Some(table) => {
                    table.shape[0] += param.shape[0];
                    table.parts.push(id);
                }
                None => all.push(Whole {
                    name: param.whole_name().to_owned(),
                    shape: param.shape.clone(),
                    parts: vec![id],
                }),
            }
        }
        all
    }

    /// The parameters of a tensor as files have it; none if there is no such tensor.
    pub fn parts_of(&self, name: &str) -> Vec<ParamId> {
        let of = self.iter().filter(|(_, param)| param.whole_name() == name);
        of.map(|(id, _)| id).collect()
    }

    /// The values of a tensor as checkpoints have it; waits for the device. Of a weight in few bits these are the f32
    /// values that merges go into, where it has such, else what it decodes to.
    pub fn host_values(&self, parts: &[ParamId]) -> Vec<f32> {
        match parts {
            [one] => self.get(*one).host_values(),
            parts => parts.iter().flat_map(|&id| self.get(id).host_values()).collect(),
        }
    }

    /// The values that products use: of a weight in few bits what it decodes to.
    pub fn used_values(&self, id: ParamId) -> Vec<f32> {
        match self.get(id).held() {
            Value::Dense(value) => value.to_host(),
            Value::Packed { packed, .. } => packed.to_host().decode(),
        }
    }

    /// The value as products take it.
    pub fn weight(&self, id: ParamId) -> Weight<'_> {
        match self.get(id).held() {
            Value::Dense(value) => Weight::Dense(value),
            Value::Packed { packed, .. } => Weight::Packed(packed),
        }
    }

    /// Adds a frozen weight of the network in few bits.
    pub fn add_packed(
        &mut self,
        name: impl Into<String>,
        codes: &Codes,
        device: &Device,
    ) -> ParamId {
        let Packing { rows, cols, .. } = codes.packing;
        let value =
            Value::Packed { packed: Box::new(Packed::from_host(codes, device)), master: None };
        self.insert(name.into(), vec![rows, cols], Role::Network, value, false)
    }

    /// Brings a frozen weight into few bits, and a weight that is there already from its master again. With
    /// `keeps_master` the f32 values stay in host memory.
    ///
    /// Errors: a value that the form cannot hold, with the parameter's name.
    pub fn pack(
        &mut self,
        id: ParamId,
        values: Vec<f32>,
        packing: Packing,
        keeps_master: bool,
        device: &Device,
    ) -> Result<()> {
        let param = &mut self.list[id.0];
        assert!(!param.trainable, "{} is trained and stays in f32", param.name);
        let codes = encode(&param.name, &values, packing)?;
        // First, so that there are never two copies.
        param.value = None;
        let master = keeps_master.then(|| {
            // On the CPU backend its bytes stand in the run's ledger.
            let host = if device.gpu().is_some() { Device::cpu() } else { device.clone() };
            Matrix::from_host(values, [packing.rows, packing.cols], &host, Category::Weights)
        });
        param.value =
            Some(Value::Packed { packed: Box::new(Packed::from_host(&codes, device)), master });
        Ok(())
    }

    /// Adds a parameter; names are unique.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        shape: Vec<usize>,
        role: Role,
        value: Matrix,
        trainable: bool,
    ) -> ParamId {
        let name = name.into();
        assert_eq!(shape.iter().product::<usize>(), value.len(), "{name} has shape {shape:?}");
        self.insert(name, shape, role, Value::Dense(value), trainable)
    }

    fn insert(
        &mut self,
        name: String,
        shape: Vec<usize>,
        role: Role,
        value: Value,
        trainable: bool,
    ) -> ParamId {
        let id = ParamId(self.list.len());
        let earlier = self.by_name.insert(name.clone(), id);
        assert!(earlier.is_none(), "parameter {name} is added once");
        self.list.push(Param { name, shape, role, trainable, value: Some(value) });
        id
    }

    /// The parameter.
    pub fn get(&self, id: ParamId) -> &Param {
        &self.list[id.0]
    }

    /// The parameter's value.
    pub fn value(&self, id: ParamId) -> &Matrix {
        self.get(id).value()
    }

    /// The id of a name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }

    /// Switches gradients on or off.
    pub fn set_trainable(&mut self, id: ParamId, trainable: bool) {
        let param = &mut self.list[id.0];
        assert!(!(trainable && param.is_packed()), "{} is in few bits and frozen", param.name);
        param.trainable = trainable;
    }

    /// Whether gradients are computed for the parameter.
    pub fn is_trainable(&self, id: ParamId) -> bool {
        self.list[id.0].trainable
    }

    /// Replaces the value; the shape stays.
    pub fn set(&mut self, id: ParamId, value: Matrix) {
        let param = &mut self.list[id.0];
        assert_eq!(value.len(), param.len(), "{} keeps its shape", param.name);
        param.value = Some(Value::Dense(value));
    }

    /// Replaces a matrix by one of another shape, such as a factor whose rank has changed.
    pub fn replace(&mut self, id: ParamId, value: Matrix) {
        let param = &mut self.list[id.0];
        param.shape = value.shape().to_vec();
        param.value = Some(Value::Dense(value));
    }

    /// Takes the value out for an operation in place; [`Params::set`] puts the result back.
    pub fn take(&mut self, id: ParamId) -> Matrix {
        let param = &mut self.list[id.0];
        match param.value.take() {
            Some(Value::Dense(value)) => value,
            Some(Value::Packed { .. }) => unreachable!("parameter {} is in few bits", param.name),
            None => unreachable!("parameter {} is already taken", param.name),
        }
    }

    /// Changes the value in place.
    pub fn update(&mut self, id: ParamId, change: impl FnOnce(Matrix) -> Matrix) {
        let value = self.take(id);
        self.set(id, change(value));
    }

    /// All ids in order of addition.
    pub fn ids(&self) -> Vec<ParamId> {
        self.iter().map(|(id, _)| id).collect()
    }

    /// All parameters in order of addition. None may be taken out for an update.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &Param)> {
        let all = self.list.iter().enumerate().map(|(i, param)| (ParamId(i), param));
        all.filter(|(_, param)| param.value.is_some())
    }

    /// Takes a parameter out for good; its id stays unused.
    pub fn remove(&mut self, id: ParamId) {
        let param = &mut self.list[id.0];
        self.by_name.remove(&param.name);
        param.trainable = false;
        param.value = None;
    }

    /// Number of elements that are trained.
    pub fn trainable_len(&self) -> usize {
        self.list.iter().filter(|p| p.trainable).map(Param::len).sum()
    }
}

/// A matrix in few bits.
///
/// Errors: a value that the form cannot hold, with the tensor's name and its place.
pub fn encode(name: &str, values: &[f32], packing: Packing) -> Result<Codes> {
    Codes::encode(values, packing).map_err(|unfit| {
        Error::run(
            format!(
                "{name} holds {} in row {}, column {}, which model.base_storage = {} cannot store",
                unfit.value,
                unfit.row,
                unfit.column,
                packing.format.name()
            ),
            if unfit.value.is_finite() {
                "use --base-storage q8 or nf4, whose scales have the range of f32, or f32"
            } else {
                "use a model whose weights are finite"
            },
        )
    })
}

/// Gradients by parameter, accumulated over micro-batches.
#[derive(Debug, Default)]
pub struct Gradients {
    slots: HashMap<ParamId, Matrix>,
}

impl Gradients {
    /// Takes a parameter's gradient out, if there is one.
    pub fn take(&mut self, id: ParamId) -> Option<Matrix> {
        self.slots.remove(&id)
    }

    /// Stores a parameter's gradient.
    pub fn put(&mut self, id: ParamId, grad: Matrix) {
        self.slots.insert(id, grad);
    }

    /// A parameter's gradient.
    pub fn get(&self, id: ParamId) -> Option<&Matrix> {
        self.slots.get(&id)
    }

    /// The ids that have a gradient, ascending: the order of every loop over gradients.
    pub fn ids(&self) -> Vec<ParamId> {
        let mut ids: Vec<_> = self.slots.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}
