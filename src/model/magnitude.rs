//! Trained lengths of the rows of a linear layer's weight (DoRA).

use crate::device::Device;
use crate::device::memory::Category;
use crate::kernels::magnitude::magnitude_factor;
use crate::kernels::{Matrix, Vector};

use super::linear::LinearId;
use super::llama::Model;
use super::params::{ParamId, Role};

/// `y = factor ⊙ z` with `z = (W + s·B·A)·x` and `factor = magnitude / length`, where `length` is that of the rows of
/// `W + s·B·A` and a constant in the backward pass.
#[derive(Debug, Clone)]
pub struct Magnitude {
    /// The trained lengths `[1, M]`.
    pub id: ParamId,
    /// Squared lengths of the rows of the frozen `W`, `[M]`.
    squares: Vector,
    /// Lengths of the rows of `W + s·B·A`, `[M]`.
    pub(super) length: Vector,
    /// `magnitude / length`, `[M]`.
    pub(super) factor: Vector,
    device: Device,
}

impl Magnitude {
    /// What the outputs are multiplied by, `[M]`.
    pub fn factor(&self) -> &Vector {
        &self.factor
    }

    /// A gradient of the lengths to add to.
    pub(super) fn zero_grad(&self) -> Matrix {
        Matrix::zeros([1, self.factor.len()], &self.device, Category::Gradients)
    }
}

impl Model {
    /// Gives a layer with weight and adapter a trained length for each output, `<layer>.lora_magnitude_vector`, which
    /// begins as that of the row of `W`. [`Model::refresh_magnitudes`] must follow when the factors have their values.
    pub fn add_magnitude(&mut self, id: LinearId) {
        let linear = &self.linears[id.0];
        let (name, rows) = (linear.name.clone(), linear.rows);
        let Some(squares) = self.squared_rows(id) else { return };
        let lengths: Vec<f32> = squares.iter().map(|&s| f64::from(s).sqrt() as f32).collect();
        let device = self.device.clone();
        let vector = |values| Vector::from_host(values, [rows], &device, Category::Adapters);
        let value = Matrix::from_host(lengths.clone(), [1, rows], &device, Category::Adapters);
        let name = format!("{name}.lora_magnitude_vector");
        let id_of_lengths = self.params.add(name, vec![rows], Role::Factor, value, true);
        self.linears[id.0].magnitude = Some(Magnitude {
            id: id_of_lengths,
            squares: vector(squares),
            length: vector(lengths),
            factor: vector(vec![1.0; rows]),
            device: device.clone(),
        });
    }

    /// Squared lengths of the rows of a layer's weight as products use it.
    fn squared_rows(&self, id: LinearId) -> Option<Vec<f32>> {
        let linear = &self.linears[id.0];
        let values = self.params.used_values(linear.weight?);
        let square = |row: &[f32]| row.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>();
        Some(values.chunks(linear.cols).map(|row| square(row) as f32).collect())
    }

    /// Takes the lengths of a weight's rows anew, after it was brought into few bits; the trained lengths stay.
    pub(super) fn measure_rows(&mut self, id: LinearId) {
        let Some(squares) = self.squared_rows(id) else { return };
        if let Some(magnitude) = &mut self.linears[id.0].magnitude {
            let shape = [squares.len()];
            magnitude.squares = Vector::from_host(squares, shape, &self.device, Category::Adapters);
        }
    }

    /// Computes the lengths of the rows of `W + s·B·A` and the factors of the outputs anew. To be called after every
    /// change of the factors or the magnitudes; without it the layers keep the former ones.
    pub fn refresh_magnitudes(&mut self) {
        for linear in &mut self.linears {
            let (Some(magnitude), Some(adapter), Some(weight)) =
                (&mut linear.magnitude, linear.adapter, linear.weight)
            else {
                continue;
            };
            let value = |id| self.params.value(id);
            let (length, factor) = magnitude_factor(
                value(magnitude.id),
                &magnitude.squares,
                self.params.weight(weight),
                value(adapter.a),
                value(adapter.b),
                adapter.scale,
            );
            magnitude.length = length.labelled(Category::Adapters);
            magnitude.factor = factor.labelled(Category::Adapters);
        }
    }
}
