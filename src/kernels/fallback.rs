//! Short names for burn's backend operations, for the default bodies of
//! [`TrainOps`](super::ops::TrainOps). Operands broadcast as in burn.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, FloatDType, Scalar, TensorMetadata};
use burn::tensor::{DType, Shape, Slice, TensorData};

/// A float tensor of the backend.
pub(super) type Float<B> = FloatTensor<B>;
/// An integer tensor of the backend.
pub(super) type Int<B> = IntTensor<B>;

pub(super) fn add<B: Backend>(a: Float<B>, b: Float<B>) -> Float<B> {
    B::float_add(a, b)
}

pub(super) fn sub<B: Backend>(a: Float<B>, b: Float<B>) -> Float<B> {
    B::float_sub(a, b)
}

pub(super) fn mul<B: Backend>(a: Float<B>, b: Float<B>) -> Float<B> {
    B::float_mul(a, b)
}

pub(super) fn div<B: Backend>(a: Float<B>, b: Float<B>) -> Float<B> {
    B::float_div(a, b)
}

pub(super) fn scaled<B: Backend>(a: Float<B>, factor: f32) -> Float<B> {
    B::float_mul_scalar(a, Scalar::from(factor))
}

pub(super) fn shifted<B: Backend>(a: Float<B>, term: f32) -> Float<B> {
    B::float_add_scalar(a, Scalar::from(term))
}

/// Sizes of a tensor of `D` dimensions.
pub(super) fn dims<B: Backend, const D: usize>(a: &Float<B>) -> [usize; D] {
    a.shape().dims()
}

pub(super) fn reshape<B: Backend, const D: usize>(a: Float<B>, shape: [usize; D]) -> Float<B> {
    B::float_reshape(a, Shape::from(shape))
}

/// Elements `from..to` along each dimension.
pub(super) fn slice<B: Backend, const D: usize>(
    a: Float<B>,
    ranges: [std::ops::Range<usize>; D],
) -> Float<B> {
    B::float_slice(a, &ranges.map(Slice::from))
}

/// Puts `value` at the given ranges.
pub(super) fn slice_assign<B: Backend, const D: usize>(
    a: Float<B>,
    ranges: [std::ops::Range<usize>; D],
    value: Float<B>,
) -> Float<B> {
    B::float_slice_assign(a, &ranges.map(Slice::from), value)
}

/// Host values on the device of `like`.
pub(super) fn constant<B: Backend, const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    like: &Float<B>,
) -> Float<B> {
    B::float_from_data(TensorData::new(values, shape), &like.device())
}

/// Zeros on the device of `like`.
pub(super) fn zeros<B: Backend, const D: usize>(shape: [usize; D], like: &Float<B>) -> Float<B> {
    B::float_zeros(Shape::from(shape), &like.device(), FloatDType::F32)
}

/// Zeros of the shape of `like`.
pub(super) fn zeroed<B: Backend>(like: &Float<B>) -> Float<B> {
    B::float_zeros(like.shape(), &like.device(), FloatDType::F32)
}

/// Puts one value at the given places.
pub(super) fn set_entries<B: Backend>(mut x: Int<B>, entries: &[usize], value: i32) -> Int<B> {
    let device = x.device();
    for &i in entries {
        let value = B::int_from_data(TensorData::new(vec![value], [1]), &device);
        x = B::int_slice_assign(x, &[Slice::from(i..i + 1)], value);
    }
    x
}

/// Host row numbers on the device of `like`.
pub(super) fn row_numbers<B: Backend>(rows: &[usize], like: &Float<B>) -> Int<B> {
    let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
    let len = rows.len();
    let data = TensorData::new(rows, [len]);
    debug_assert_eq!(data.dtype(), DType::I32);
    B::int_from_data(data, &like.device())
}
