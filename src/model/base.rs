//! The frozen weights of linear layers in few bits: which are, from when on, and what they start from.
//!
//! Embedding, norms and head stay in f32, and so does every weight that is trained.

use crate::config::Targets;
use crate::error::Result;
use crate::kernels::packed::{Codes, Format, Packing};

use super::linear::{Linear, LinearId};
use super::llama::Model;
use super::params::encode;

/// How frozen weights of linear layers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseStorage {
    /// The form.
    pub format: Format,
    /// Whether the f32 values stay in host memory, because merges go into them: added to a decoded weight, what is
    /// below half a level would be lost.
    pub keeps_master: bool,
}

/// Which weights are brought into few bits as they are read, so that a device never holds them in f32.
#[derive(Debug, Clone, Default)]
pub struct PackAtLoad(Option<(Format, Targets)>);

impl PackAtLoad {
    /// The weights of these layers.
    pub fn layers(format: Format, layers: Targets) -> Self {
        Self(Some((format, layers)))
    }

    /// What a parameter starts from.
    ///
    /// Errors: a value that the form cannot hold, with the parameter's name.
    pub fn initial(&self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<Initial> {
        let (Some((format, layers)), [rows, cols]) = (&self.0, shape) else {
            return Ok(Initial::Dense(values));
        };
        // The matrices of a block are its linear layers.
        let layer = name.strip_suffix(".weight").filter(|name| name.starts_with("model.layers."));
        if !layer.is_some_and(|layer| layers.contains(layer)) {
            return Ok(Initial::Dense(values));
        }
        let packing = Packing { format: *format, rows: *rows, cols: *cols };
        Ok(Initial::Packed(encode(name, &values, packing)?))
    }
}

/// What a parameter starts from.
#[derive(Debug)]
pub enum Initial {
    /// Its values.
    Dense(Vec<f32>),
    /// The weight of a linear layer in few bits, frozen.
    Packed(Codes),
}

impl Initial {
    /// The values of what is never in few bits.
    pub(super) fn dense(self, name: &str) -> Vec<f32> {
        match self {
            Self::Dense(values) => values,
            Self::Packed(_) => unreachable!("{name} is no weight of a linear layer"),
        }
    }
}

impl From<Vec<f32>> for Initial {
    fn from(values: Vec<f32>) -> Self {
        Self::Dense(values)
    }
}

impl Model {
    /// Says how frozen weights of linear layers are stored from [`Model::pack_frozen`] on.
    pub fn set_base_storage(&mut self, storage: Option<BaseStorage>) {
        self.base_storage = storage;
    }

    /// How frozen weights of linear layers are stored, where that is not f32.
    pub fn base_storage(&self) -> Option<BaseStorage> {
        self.base_storage
    }

    /// Brings the linear layers' weights that are frozen and still in f32 into few bits, one after the other.
    ///
    /// Errors: a value that the form cannot hold, with the weight's name.
    pub fn pack_frozen(&mut self) -> Result<()> {
        if self.base_storage.is_none() {
            return Ok(());
        }
        for index in 0..self.linears.len() {
            let linear = self.linears[index].clone();
            let Some(weight) = linear.weight else { continue };
            if self.params.is_trainable(weight) || self.params.get(weight).is_packed() {
                continue;
            }
            let values = self.params.used_values(weight);
            self.set_packed(&linear, values)?;
            if linear.magnitude.is_some() {
                self.measure_rows(LinearId(index));
            }
        }
        Ok(())
    }

    /// Gives a layer's frozen weight these values, in few bits.
    ///
    /// Errors: a value that the form cannot hold, with the weight's name.
    pub fn set_packed(&mut self, linear: &Linear, values: Vec<f32>) -> Result<()> {
        let (Some(storage), Some(weight)) = (self.base_storage, linear.weight) else {
            unreachable!("{} has no weight in few bits", linear.name)
        };
        let packing = Packing { format: storage.format, rows: linear.rows, cols: linear.cols };
        self.params.pack(weight, values, packing, storage.keeps_master, &self.device)
    }
}
