//! The tensors of the engine: f32 matrices and vectors and i32 index lists on a device, each with its
//! entry in the memory ledger. Rooms above use these and the functions of `kernels`, never burn.

use std::sync::Arc;

use burn::backend::{Dispatch, ExecutionError};
use burn::tensor::{DType, Element, Int, Tensor, TensorData, Transaction};

use crate::device::Device;
use crate::device::fault::{Fault, Faults};
use crate::device::memory::{Category, Ledger, Ticket};

use super::ops::TrainOps;
use super::pool;
use super::upload::upload;

/// A row-major f32 tensor of `D` dimensions on a device.
///
/// `clone` shares the storage. An operation that works in place takes the array by value, needs the
/// only handle to it (asserted), and gives the same storage back.
#[derive(Debug, Clone)]
pub struct Array<const D: usize> {
    held: Held<D>,
    ticket: Arc<Ticket>,
}

/// A tensor that is recycled when it is dropped.
#[derive(Debug, Clone)]
struct Held<const D: usize>(Option<Tensor<D>>);

impl<const D: usize> Held<D> {
    fn get(&self) -> &Tensor<D> {
        match &self.0 {
            Some(tensor) => tensor,
            None => unreachable!("only `take` empties it, and consumes it"),
        }
    }

    fn take(mut self) -> Tensor<D> {
        match self.0.take() {
            Some(tensor) => tensor,
            None => unreachable!("only `take` empties it, and consumes it"),
        }
    }
}

impl<const D: usize> Drop for Held<D> {
    fn drop(&mut self) {
        if let Some(tensor) = self.0.take() {
            <Dispatch as TrainOps>::recycle(tensor.into_dispatch());
        }
    }
}

/// `[rows, columns]`, row-major f32. Norm gains are matrices of one row.
pub type Matrix = Array<2>;
/// `[n]`, f32.
pub type Vector = Array<1>;

impl<const D: usize> Array<D> {
    /// Copies host values to the device. Panics if `values` does not fill `shape`.
    pub fn from_host(
        values: Vec<f32>,
        shape: [usize; D],
        device: &Device,
        category: Category,
    ) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values fill shape {shape:?}");
        Self::new(upload(values, shape, device), device.ledger(), category)
    }

    /// A tensor of zeros.
    pub fn zeros(shape: [usize; D], device: &Device, category: Category) -> Self {
        if device.gpu().is_none() {
            return Self::from_host(pool::zeroed(shape.iter().product()), shape, device, category);
        }
        let tensor = Tensor::<D>::empty(shape, device.tensor_device()).into_dispatch();
        let tensor = <Dispatch as TrainOps>::zero(tensor);
        Self::new(Tensor::from_dispatch(tensor), device.ledger(), category)
    }

    /// Zeros of the shape and on the device of this array.
    #[must_use]
    pub fn zeros_like(&self, category: Category) -> Self {
        let (shape, device) = (self.shape(), self.held.get().device());
        let tensor = if device == burn::tensor::Device::flex() {
            Tensor::from_data(TensorData::new(pool::zeroed(self.len()), shape), &device)
        } else {
            let tensor = Tensor::<D>::empty(shape, &device).into_dispatch();
            Tensor::from_dispatch(<Dispatch as TrainOps>::zero(tensor))
        };
        Self::new(tensor, self.ticket.ledger(), category)
    }

    /// The same value everywhere.
    pub fn filled(value: f32, shape: [usize; D], device: &Device, category: Category) -> Self {
        if device.gpu().is_none() {
            let values = vec![value; shape.iter().product()];
            return Self::from_host(values, shape, device, category);
        }
        let tensor = Tensor::<D>::empty(shape, device.tensor_device()).into_dispatch();
        let tensor = <Dispatch as TrainOps>::fill(tensor, value);
        Self::new(Tensor::from_dispatch(tensor), device.ledger(), category)
    }

    /// Copies the values to the host; waits for the device. If the device failed, the values are NaN and
    /// [`Device::check`] has the cause.
    pub fn to_host(&self) -> Vec<f32> {
        let read = self.held.get().clone().try_into_data();
        read_values(read, self.len(), f32::NAN, self.ticket.ledger())
    }

    /// [`Array::to_host`] of several arrays of one device with a single wait for it.
    pub fn all_to_host(arrays: &[&Self]) -> Vec<Vec<f32>> {
        let Some(first) = arrays.first() else { return Vec::new() };
        let transaction = Transaction::default();
        let transaction = arrays.iter().fold(transaction, |t, array| t.register(array.tensor()));
        let read = match transaction.try_execute() {
            Ok(all) => all.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); arrays.len()],
        };
        let ledger = first.ticket.ledger();
        let pairs = arrays.iter().zip::<Vec<_>>(read);
        pairs.map(|(array, read)| read_values(read, array.len(), f32::NAN, ledger)).collect()
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> [usize; D] {
        self.held.get().dims()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts the array under another category from here on.
    #[must_use]
    pub fn labelled(self, category: Category) -> Self {
        let ledger = Arc::clone(self.ticket.ledger());
        let Self { held, ticket } = self;
        drop(ticket);
        Self::new(held.take(), &ledger, category)
    }

    /// A copy with storage of its own.
    #[must_use]
    pub fn duplicate(&self, device: &Device, category: Category) -> Self {
        if device.gpu().is_none() {
            return Self::from_host(self.to_host(), self.shape(), device, category);
        }
        let tensor = <Dispatch as TrainOps>::copy(self.tensor().into_dispatch());
        Self::new(Tensor::from_dispatch(tensor), device.ledger(), category)
    }

    /// The same elements in rows of another length. Panics if they are not as many.
    #[must_use]
    pub fn reshaped<const E: usize>(self, shape: [usize; E]) -> Array<E> {
        assert_eq!(self.len(), shape.iter().product::<usize>(), "elements fill {shape:?}");
        let Self { held, ticket } = self;
        Array { held: Held(Some(held.take().reshape(shape))), ticket }
    }

    pub(super) fn new(tensor: Tensor<D>, ledger: &Arc<Ledger>, category: Category) -> Self {
        let bytes = tensor.dims().iter().product::<usize>() as u64 * 4;
        Self { held: Held(Some(tensor)), ticket: Ticket::new(ledger, category, bytes) }
    }

    /// Accounts for scratch memory of an operation on this array, until the ticket is dropped.
    pub(super) fn hold(&self, bytes: u64) -> Arc<Ticket> {
        Ticket::new(self.ticket.ledger(), Category::Activations, bytes)
    }

    /// What went wrong on the device.
    pub(super) fn faults(&self) -> &Faults {
        self.ticket.ledger().faults()
    }

    /// Wraps the result of an operation, accounted as an activation in this array's ledger.
    pub(super) fn like<const E: usize>(&self, tensor: Tensor<E>) -> Array<E> {
        Array::new(tensor, self.ticket.ledger(), Category::Activations)
    }

    /// Host values on this array's device, accounted as an activation in its ledger.
    pub(super) fn beside<const E: usize>(&self, values: Vec<f32>, shape: [usize; E]) -> Array<E> {
        let device = self.held.get().device();
        self.like(Tensor::from_data(TensorData::new(values, shape), &device))
    }

    pub(super) fn tensor(&self) -> Tensor<D> {
        self.held.get().clone()
    }

    /// Takes the tensor out for an operation in place; [`Array::from_parts`] puts the result back.
    /// Panics if there is another handle: it would see the values change, or force a copy.
    pub(super) fn into_unique_parts(self, operation: &str) -> (Tensor<D>, Arc<Ticket>) {
        assert_eq!(
            Arc::strong_count(&self.ticket),
            1,
            "{operation} works in place and needs the only handle to its target {:?}",
            self.shape()
        );
        (self.held.take(), self.ticket)
    }

    /// Runs an operation in place on the tensor.
    pub(super) fn in_place(
        self,
        operation: &str,
        run: impl FnOnce(Tensor<D>) -> Tensor<D>,
    ) -> Self {
        self.in_place_with(operation, |tensor| (run(tensor), ())).0
    }

    /// The same for an operation with a second result.
    pub(super) fn in_place_with<R>(
        self,
        operation: &str,
        run: impl FnOnce(Tensor<D>) -> (Tensor<D>, R),
    ) -> (Self, R) {
        let (tensor, ticket) = self.into_unique_parts(operation);
        let (tensor, result) = run(tensor);
        (Self::from_parts(tensor, ticket), result)
    }

    pub(super) fn from_parts(tensor: Tensor<D>, ticket: Arc<Ticket>) -> Self {
        Self { held: Held(Some(tensor)), ticket }
    }
}

/// The values of a read-back, or `substitute` where the device failed, which is recorded.
fn read_values<E: Element>(
    read: Result<TensorData, ExecutionError>,
    len: usize,
    substitute: E,
    ledger: &Ledger,
) -> Vec<E> {
    let values = match read {
        // The bytes themselves may come late, so the device may fail here too.
        Ok(data) => data.try_into_vec::<E>().map_err(|error| format!("{error:?}")),
        Err(error) => Err(error.to_string()),
    };
    values.unwrap_or_else(|message| {
        ledger.faults().record(Fault::of_read(&message));
        vec![substitute; len]
    })
}

/// A list of i32 on a device: token ids, positions, counters, row numbers.
#[derive(Debug, Clone)]
pub struct Indices {
    tensor: Tensor<1, Int>,
    ticket: Arc<Ticket>,
}

fn int_tensor(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), (device.tensor_device(), DType::I32))
}

impl Indices {
    /// Copies host values to the device.
    pub fn from_host(values: &[i32], device: &Device, category: Category) -> Self {
        let tensor = int_tensor(values.to_vec(), device);
        let ticket = Ticket::new(device.ledger(), category, values.len() as u64 * 4);
        Self { tensor, ticket }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.tensor.dims()[0]
    }

    /// Whether the list has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the values to the host; waits for the device.
    pub fn to_host(&self) -> Vec<i32> {
        let read = self.tensor.clone().try_into_data();
        read_values(read, self.len(), i32::MIN, self.ticket.ledger())
    }

    /// Runs an operation that works in place on the only handle.
    pub(super) fn in_place<R>(
        &mut self,
        run: impl FnOnce(Tensor<1, Int>) -> (R, Tensor<1, Int>),
    ) -> R {
        let nothing = Tensor::<1, Int>::empty([1], (Device::cpu().tensor_device(), DType::I32));
        let (result, tensor) = run(std::mem::replace(&mut self.tensor, nothing));
        self.tensor = tensor;
        result
    }

    pub(super) fn tensor(&self) -> Tensor<1, Int> {
        self.tensor.clone()
    }
}
