//! Host values on their way to a device, in portions.
//!
//! A driver maps what is being uploaded into a window of the device's memory, which is 256 MiB on many GPUs; an upload
//! that does not fit it is refused as if the memory itself were full.

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::backend::Dispatch;
use burn::tensor::{Tensor, TensorData};

use crate::device::Device;

use super::ops::TrainOps;

/// Bytes of one upload.
const PORTION: usize = 32 << 20;
/// Bytes that may be on their way before the device is waited for.
const MOST_PENDING: usize = 64 << 20;

static PENDING: AtomicUsize = AtomicUsize::new(0);

/// A tensor of these values, which fill the shape.
pub(super) fn upload<const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    if device.gpu().is_none() {
        return Tensor::from_data(TensorData::new(values, shape), device.tensor_device());
    }
    if 4 * values.len() > PORTION {
        return in_portions(&values, shape, device, PORTION / 4);
    }
    let bytes = 4 * values.len();
    let tensor = Tensor::from_data(TensorData::new(values, shape), device.tensor_device());
    if PENDING.fetch_add(bytes, Ordering::Relaxed) + bytes > MOST_PENDING {
        PENDING.store(0, Ordering::Relaxed);
        device.wait();
    }
    tensor
}

/// The same in portions of about `portion` numbers, a whole number of rows each.
fn in_portions<const D: usize>(
    values: &[f32],
    shape: [usize; D],
    device: &Device,
    portion: usize,
) -> Tensor<D> {
    let rows = if D == 1 { 1 } else { shape[0].max(1) };
    let width = values.len() / rows;
    let mut whole = Tensor::<2>::empty([rows, width], device.tensor_device()).into_dispatch();
    let per = (portion / width.max(1)).max(1);
    for (number, part) in values.chunks(per * width.max(1)).enumerate() {
        let data = TensorData::new(part.to_vec(), [part.len() / width, width]);
        let part = Tensor::<2>::from_data(data, device.tensor_device()).into_dispatch();
        whole = <Dispatch as TrainOps>::copy_rows(whole, part, number * per);
        device.wait();
    }
    Tensor::<2>::from_dispatch(whole).reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::adapter::{Adapter, Kind};

    #[test]
    fn portions_make_the_whole() {
        let adapter = Adapter::all().into_iter().find(|adapter| adapter.kind == Kind::Software);
        let Some(adapter) = adapter else { return };
        let device = adapter.open(None).unwrap();
        let values: Vec<f32> = (0..7 * 5).map(|i| i as f32).collect();
        for portion in [1, 5, 11, 34, 100] {
            let tensor = in_portions(&values, [7, 5], &device, portion);
            assert_eq!(tensor.into_data().try_into_vec::<f32>().unwrap(), values, "{portion}");
        }
    }
}
