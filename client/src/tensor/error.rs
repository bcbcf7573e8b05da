//! What can be wrong with a tensor, or with what is asked of it.

use std::io;

use clutch_protocol::dtype::DType;
use thiserror::Error;

/// Why a tensor cannot be made, or cannot be seen as what was asked for.
#[derive(Debug, Error)]
pub enum TensorError {
    /// The shape and the number of elements do not belong together.
    #[error(
        "the shape {shape:?} has another number of elements than the {elements} that are there"
    )]
    Shape {
        /// The shape.
        shape: Vec<usize>,
        /// How many elements there are.
        elements: usize,
    },
    /// The shape has more elements than any memory.
    #[error("an array of the shape {shape:?} is larger than any memory; choose a smaller one")]
    TooLarge {
        /// The shape.
        shape: Vec<usize>,
    },
    /// It has other elements.
    #[error("its elements are {found}, not {wanted}; `to_vec` converts what can be")]
    DType {
        /// What was asked for.
        wanted: DType,
        /// What they are.
        found: DType,
    },
    /// Its elements do not lie one behind the other.
    #[error("its elements do not lie one behind the other in memory; copy them with `to_vec`")]
    NotContiguous,
    /// Its memory begins where no such element may.
    #[error("its memory is not aligned for {wanted}; copy it with `to_vec`")]
    Unaligned {
        /// What was asked for.
        wanted: DType,
    },
    /// Others may write it at any moment, so no slice of it may exist.
    #[error("its memory is shared with whoever may write it; copy it out with `to_vec`")]
    Shared,
    /// It has booleans that are neither 0 nor 1.
    #[error("it has a boolean that is neither 0 nor 1; read it as uint8")]
    NotBoolean,
    /// An element is not exactly what was asked for.
    #[error("element {index} is not exactly a {wanted}; read it as {found} and round it yourself")]
    Inexact {
        /// Which element, in C order.
        index: usize,
        /// What was asked for.
        wanted: DType,
        /// What it is.
        found: DType,
    },
    /// Part of it was asked for that it does not have.
    #[error("elements {from} to {to} were asked for, and it has {elements}")]
    Range {
        /// The first.
        from: usize,
        /// The one behind the last.
        to: usize,
        /// How many it has.
        elements: usize,
    },
    /// An array of Arrow has places without a number.
    #[error("{count} of its elements are null, which no tensor has; fill or drop them")]
    Nulls {
        /// How many.
        count: usize,
    },
    /// It may not be written by whoever asked for that.
    #[error("this memory is for reading only; make a `SharedTensor::zeroed` to have it written")]
    ReadOnly,
    /// The system has not so much memory left, or lets this process have no more.
    #[error(
        "there is no memory for this array: {0}; free some, make the array smaller, or raise what \
         limits it (a control group's memory, vm.overcommit_memory)"
    )]
    NoMemory(#[source] io::Error),
    /// The system cannot make memory that is passed on, for want of descriptors, say.
    #[error("memory for an array is not to be had: {0}; look at `ulimit -n` and free memory")]
    Memory(#[source] io::Error),
}

impl From<io::Error> for TensorError {
    fn from(error: io::Error) -> TensorError {
        use io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull};
        match error.kind() {
            OutOfMemory | QuotaExceeded | StorageFull => TensorError::NoMemory(error),
            _ => TensorError::Memory(error),
        }
    }
}
