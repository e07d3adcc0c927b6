//! Access of the CPU kernels to the values of flex tensors, and how work is cut into tasks.
//!
//! Arrays are contiguous with offset 0 from the moment they are made; asserted here, once per access.

use burn::tensor::{DType, TensorData};
use burn_flex::FlexTensor;

use super::pool;

/// Elements that one task of an element-wise loop takes: 64 KiB of f32, so that three operands fit a
/// second-level cache. A constant, because the cut must not depend on the number of threads.
pub(super) const CHUNK: usize = 16 * 1024;

/// Rows of `columns` elements that make one task.
pub(super) fn rows_per_task(columns: usize) -> usize {
    (CHUNK / columns.max(1)).max(1)
}

fn assert_plain(tensor: &FlexTensor, stored: usize) {
    let layout = tensor.layout();
    assert!(
        layout.is_contiguous() && layout.start_offset() == 0 && stored == layout.num_elements(),
        "arrays are contiguous and own their whole storage"
    );
}

/// The f32 values.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    let values = tensor.storage::<f32>();
    assert_plain(tensor, values.len());
    values
}

/// The i32 values.
pub(super) fn indices(tensor: &FlexTensor) -> &[i32] {
    let values = tensor.storage::<i32>();
    assert_plain(tensor, values.len());
    values
}

/// The f32 values, to be changed in place. Panics if the storage is shared: an in-place operation with
/// an aliased target is an error of the caller, and a silent copy would hide it.
pub(super) fn values_mut(tensor: &mut FlexTensor) -> &mut [f32] {
    let elements = tensor.layout().num_elements();
    let plain = tensor.is_contiguous() && tensor.layout().start_offset() == 0;
    let values = tensor.try_storage_mut::<f32>();
    assert!(values.is_some(), "an operation in place needs the only handle to its target");
    let values = values.unwrap_or_default();
    assert!(plain && values.len() == elements, "arrays own their whole storage");
    values
}

/// The i32 values, to be changed in place; as [`values_mut`].
pub(super) fn indices_mut(tensor: &mut FlexTensor) -> &mut [i32] {
    let values = tensor.try_storage_mut::<i32>();
    assert!(values.is_some(), "an operation in place needs the only handle to its target");
    values.unwrap_or_default()
}

/// Sizes of a matrix.
pub(super) fn sizes(tensor: &FlexTensor) -> [usize; 2] {
    tensor.layout().shape().dims()
}

/// A matrix of these values.
pub(super) fn matrix(values: Vec<f32>, sizes: [usize; 2]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, sizes))
}

/// A vector of these values.
pub(super) fn vector(values: Vec<f32>) -> FlexTensor {
    let len = values.len();
    FlexTensor::from_data(TensorData::new(values, [len]))
}

/// Keeps the storage of a tensor for the next one, if nobody else holds it.
pub(super) fn recycle(tensor: FlexTensor) -> bool {
    if !tensor.is_unique() || tensor.dtype() != DType::F32 {
        return false;
    }
    tensor.into_data().try_into_vec::<f32>().is_ok_and(pool::give_back)
}
