//! Arrays: arguments and results that are numpy arrays in Python, and are passed on by their memory
//! instead of number by number.
//!
//! - `array`: a [`Tensor`], how it is made, and what it says of itself.
//! - `elements`: its numbers as slices and vectors.
//! - `number`: one element as a number, and back where that is exact.
//! - `wire`: how it is sent and received; `lists`: as what, where it cannot be attached.
//! - `shared`: a [`SharedTensor`], which is made once and that workers write in place.
//! - `error`: what can be wrong with one.

mod array;
mod elements;
mod error;
mod lists;
mod number;
mod shared;
mod wire;

pub use array::Tensor;
pub use error::TensorError;
pub use shared::SharedTensor;
