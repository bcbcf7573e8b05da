//! Arrays: arguments and results that are numpy arrays in Python, and are passed on by their memory
//! instead of number by number.
//!
//! - `array`: a [`Tensor`], how it is made, and what it says of itself.
//! - `elements`: its numbers as slices and vectors.
//! - `number`: one element as a number, and back where that is exact.
//! - `wire`: how it is sent and received; `lists`: as what, where it cannot be attached.
//! - `shared`: a [`SharedTensor`], which is made once and that workers write in place.
//! - `ndarray`, `arrow`: to and from the arrays of others, behind features of the same names.
//! - `error`: what can be wrong with one.

mod array;
#[cfg(feature = "arrow")]
mod arrow;
mod elements;
mod error;
mod lists;
#[cfg(feature = "ndarray")]
mod ndarray;
mod number;
mod shared;
mod wire;

pub use array::Tensor;
#[cfg(feature = "arrow")]
pub use arrow::ArrowTable;
pub use error::TensorError;
pub use shared::SharedTensor;
