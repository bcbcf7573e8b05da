//! A tensor: numbers of one type in one piece of memory, in some dimensions.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use clutch_protocol::dtype::{DType, c_strides, check_layout};

use super::error::TensorError;
use crate::memory::memfd::{SharedMemory, StillMemory, built};
use crate::sys::{Element, bytes_of};

/// An array of numbers, which is a numpy array in Python.
///
/// As an argument, or anywhere inside one, it is sent as memory: the numbers are copied once, into
/// memory that the worker maps, or not at all where they are in such memory already
/// ([`Tensor::build`], what came from a worker, a [`SharedTensor`](super::SharedTensor)). As a
/// result, or anywhere inside one, it is the worker's memory, mapped: nothing is copied. Cloning
/// shares the memory.
///
/// Python code that returns a small array has it sent as nested lists; a tensor takes those too,
/// and has `int64`, `uint64`, `float64` or `bool` for its elements then, as numpy would. That is
/// why [`to_vec`](Tensor::to_vec) converts between types where that is exact, and
/// [`as_slice`](Tensor::as_slice), which copies nothing, does not.
///
/// ```no_run
/// # async fn f(client: clutch_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use clutch_client::Tensor;
///
/// let table = Tensor::from_shape(&[1000, 3], vec![0.5_f64; 3000])?;
/// let sums: Vec<f64> = client.call("numpy:sum", (&table, 0)).await?;
/// let doubled: Tensor = client.call("numpy:add", (&table, &table)).await?;
/// assert_eq!(&[1000, 3], doubled.shape());
/// assert_eq!(1.0, doubled.to_vec::<f64>()?[0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tensor {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// Bytes from one element to the next.
    pub(super) strides: Vec<usize>,
    pub(super) memory: Memory,
    /// Where in the memory it begins.
    pub(super) offset: usize,
    /// How much of the memory is its own.
    pub(super) bytes: usize,
}

/// Where the numbers are.
#[derive(Clone)]
pub(super) enum Memory {
    Owned(Arc<dyn Owner>),
    Still(Arc<StillMemory>),
    Shared { memory: Arc<SharedMemory>, writable: bool },
}

/// Whoever owns bytes of this process that a tensor is made of.
pub(crate) trait Owner: Send + Sync {
    /// The bytes, which never move nor change.
    fn bytes(&self) -> &[u8];

    /// Itself, to be taken back as what it was.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<T: Element> Owner for Vec<T> {
    fn bytes(&self) -> &[u8] {
        bytes_of(self)
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl Owner for Bytes {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// How many elements a shape has; an error if they fit no memory.
pub(super) fn count(shape: &[usize], item_bytes: usize) -> Result<usize, TensorError> {
    let too_large = || TensorError::TooLarge { shape: shape.to_vec() };
    if shape.contains(&0) {
        return Ok(0);
    }
    let elements = shape.iter().try_fold(1_usize, |all, length| all.checked_mul(*length));
    let elements = elements.ok_or_else(too_large)?;
    match elements.checked_mul(item_bytes) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(elements),
        _ => Err(too_large()),
    }
}

/// How many elements a shape has that has been checked. Beside a 0 the other lengths may be
/// anything, and their product more than a number holds.
pub(super) fn elements(shape: &[usize]) -> usize {
    if shape.contains(&0) { 0 } else { shape.iter().product() }
}

pub(super) fn wide(shape: &[usize]) -> Vec<u64> {
    shape.iter().map(|length| *length as u64).collect()
}

/// Strides in C order, in bytes.
pub(super) fn in_order(dtype: DType, shape: &[usize]) -> Vec<usize> {
    let strides = c_strides(dtype.item_bytes(), &wide(shape));
    strides.into_iter().map(|stride| usize::try_from(stride).unwrap_or(usize::MAX)).collect()
}

impl Tensor {
    /// An array of this shape, its elements in C order (the last index runs fastest). The vector
    /// becomes the tensor's; it is copied once, when it is sent.
    ///
    /// # Errors
    ///
    /// When the shape has another number of elements.
    pub fn from_shape<T: Element>(
        shape: &[usize],
        elements: Vec<T>,
    ) -> Result<Tensor, TensorError> {
        if count(shape, size_of::<T>())? != elements.len() {
            return Err(TensorError::Shape { shape: shape.to_vec(), elements: elements.len() });
        }
        let bytes = size_of_val(&elements[..]);
        Ok(Tensor::owned(T::DTYPE, shape.to_vec(), Arc::new(elements), bytes))
    }

    /// An array over bytes that are its elements in C order, little endian: for element types that
    /// Rust has no number for, and for bytes that came from elsewhere.
    ///
    /// # Errors
    ///
    /// When the shape has another number of elements.
    pub fn from_bytes(
        dtype: DType,
        shape: &[usize],
        bytes: impl Into<Bytes>,
    ) -> Result<Tensor, TensorError> {
        let bytes: Bytes = bytes.into();
        let item = dtype.item_bytes();
        if count(shape, item)? * item != bytes.len() {
            let elements = bytes.len() / item;
            return Err(TensorError::Shape { shape: shape.to_vec(), elements });
        }
        let length = bytes.len();
        Ok(Tensor::owned(dtype, shape.to_vec(), Arc::new(bytes), length))
    }

    /// An array that is filled where it stays: in memory that is sent as it is, so that its numbers
    /// are never copied. They are zeros at first.
    ///
    /// # Errors
    ///
    /// When the system has no memory for it.
    pub fn build<T: Element>(
        shape: &[usize],
        fill: impl FnOnce(&mut [T]),
    ) -> Result<Tensor, TensorError> {
        let elements = count(shape, size_of::<T>())?;
        let bytes = elements * size_of::<T>();
        let memory = built(bytes as u64, |own| fill(&mut own.elements_mut()[..elements]))?;
        let (shape, memory) = (shape.to_vec(), Memory::Still(memory));
        let strides = in_order(T::DTYPE, &shape);
        Ok(Tensor { dtype: T::DTYPE, strides, shape, memory, offset: 0, bytes })
    }

    pub(crate) fn owned(
        dtype: DType,
        shape: Vec<usize>,
        owner: Arc<dyn Owner>,
        bytes: usize,
    ) -> Tensor {
        let strides = in_order(dtype, &shape);
        let memory = Memory::Owned(owner);
        Tensor { dtype, shape, strides, memory, offset: 0, bytes }
    }

    /// An array over memory that came, if it lies within that.
    pub(super) fn over(
        (dtype, shape, strides): (DType, &[u64], &[i64]),
        memory: Memory,
        (offset, bytes): (usize, usize),
    ) -> Result<Tensor, &'static str> {
        check_layout(dtype.item_bytes(), shape, strides, bytes as u64)?;
        let narrow = |length: &u64| usize::try_from(*length).map_err(|_| "has too many elements");
        let shape = shape.iter().map(narrow).collect::<Result<Vec<_>, _>>()?;
        let strides = match strides {
            none if none.is_empty() || shape.contains(&0) => in_order(dtype, &shape),
            // Where there is no second element it may be anything.
            strides => strides.iter().map(|s| usize::try_from(*s).unwrap_or(0)).collect(),
        };
        Ok(Tensor { dtype, shape, strides, memory, offset, bytes })
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its length in each dimension; empty for a single number.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Bytes from one element to the next in each dimension.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        elements(&self.shape)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Whether its elements lie one behind the other, in C order.
    pub fn is_contiguous(&self) -> bool {
        let wanted = in_order(self.dtype, &self.shape);
        let mut strides = self.strides.iter().zip(&wanted).zip(&self.shape);
        // Where there is no second element, nothing is between it and the first.
        self.is_empty()
            || strides.all(|((stride, wanted), length)| *length <= 1 || stride == wanted)
    }

    /// Whether others may write its memory while it is looked at: it is, or came from, a
    /// [`SharedTensor`](super::SharedTensor).
    pub fn is_shared(&self) -> bool {
        matches!(self.memory, Memory::Shared { .. })
    }

    /// The same numbers in another shape.
    ///
    /// # Errors
    ///
    /// When that has another number of elements, or these do not lie one behind the other.
    pub fn reshape(mut self, shape: &[usize]) -> Result<Tensor, TensorError> {
        if !self.is_contiguous() {
            return Err(TensorError::NotContiguous);
        }
        let elements = self.len();
        if count(shape, self.dtype.item_bytes())? != elements {
            return Err(TensorError::Shape { shape: shape.to_vec(), elements });
        }
        self.shape = shape.to_vec();
        self.strides = in_order(self.dtype, shape);
        Ok(self)
    }
}

/// What it is, not what is in it.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor")
            .field("dtype", &format_args!("{}", self.dtype))
            .field("shape", &self.shape)
            .field("shared", &self.is_shared())
            .finish_non_exhaustive()
    }
}

impl<T: Element> From<Vec<T>> for Tensor {
    /// One dimension.
    fn from(elements: Vec<T>) -> Tensor {
        let bytes = size_of_val(&elements[..]);
        Tensor::owned(T::DTYPE, vec![elements.len()], Arc::new(elements), bytes)
    }
}

impl<T: Element> From<&[T]> for Tensor {
    /// One dimension, copied. [`Tensor::build`] would save that copy.
    fn from(elements: &[T]) -> Tensor {
        elements.to_vec().into()
    }
}
