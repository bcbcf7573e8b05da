//! Arrays in memory that is made once, passed to many calls, and written in place.

use std::fmt;
use std::sync::Arc;

use clutch_protocol::dtype::DType;

use super::array::{Memory, Tensor, count, elements, in_order};
use super::error::TensorError;
use crate::memory::memfd::{SharedMemory, Writers, shared};
use crate::sys::{Element, bytes_of, fill_bytes};

/// An array in shared memory. Workers that are given [`writable`](SharedTensor::writable) write
/// into it in place; those given [`read_only`](SharedTensor::read_only) look at it where it is.
/// Nothing is copied, however many calls it is passed to, and the kernel frees the memory when its
/// last holder is gone.
///
/// Who may write is the kernel's business: a read-only argument is a descriptor that was opened for
/// reading, of which no process can make a mapping that writes. A process of the same user could
/// open the memory of another anew through `/proc`, as it could attach a debugger to it. Against
/// that too, [`for_readers`](SharedTensor::for_readers) makes memory that nobody but this process
/// can ever write, by whatever way.
///
/// Workers write at any moment, so Rust may have no reference into the memory: numbers are copied
/// in and out, and while a worker writes, a copy may be part old and part new, never in the middle
/// of an aligned number. When a call that was given the array has been answered, what it wrote is
/// there.
///
/// ```no_run
/// # async fn f(client: clutch_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use clutch_client::SharedTensor;
///
/// let shared = SharedTensor::zeroed::<f64>(&[1000, 1000])?;
/// client.call::<()>("model:step", (shared.writable()?,)).await?;
/// let corner: f64 = client.call("model:corner", (shared.read_only(),)).await?;
/// let mut first_row = [0.0; 1000];
/// shared.read_into(0, &mut first_row)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SharedTensor {
    memory: Arc<SharedMemory>,
    dtype: DType,
    shape: Vec<usize>,
    /// Where in the memory it begins.
    offset: usize,
    writable: bool,
}

impl SharedTensor {
    /// An array of zeros that workers may be let write.
    ///
    /// # Errors
    ///
    /// When the system has no memory for it.
    pub fn zeroed<T: Element>(shape: &[usize]) -> Result<SharedTensor, TensorError> {
        SharedTensor::create::<T>(shape, Writers::Given)
    }

    /// An array of zeros that this process can write, and nobody else, ever: for data that many
    /// workers read and that changes between their calls.
    ///
    /// # Errors
    ///
    /// When the system has no memory for it, or is a Linux before 5.1.
    pub fn for_readers<T: Element>(shape: &[usize]) -> Result<SharedTensor, TensorError> {
        SharedTensor::create::<T>(shape, Writers::Us)
    }

    /// An array of these elements, in C order, that workers may be let write.
    ///
    /// # Errors
    ///
    /// When the shape has another number of elements, or the system has no memory for it.
    pub fn from_slice<T: Element>(
        shape: &[usize],
        elements: &[T],
    ) -> Result<SharedTensor, TensorError> {
        if count(shape, size_of::<T>())? != elements.len() {
            return Err(TensorError::Shape { shape: shape.to_vec(), elements: elements.len() });
        }
        let shared = SharedTensor::zeroed::<T>(shape)?;
        shared.write_from(0, elements)?;
        Ok(shared)
    }

    fn create<T: Element>(shape: &[usize], writers: Writers) -> Result<SharedTensor, TensorError> {
        let bytes = count(shape, size_of::<T>())? * size_of::<T>();
        let memory = shared(bytes as u64, writers)?;
        let writable = writers == Writers::Given;
        Ok(SharedTensor { memory, dtype: T::DTYPE, shape: shape.to_vec(), offset: 0, writable })
    }

    /// The shared array that came as, or was made, this tensor; none if others cannot write it, or
    /// its elements do not lie one behind the other.
    pub fn of(tensor: &Tensor) -> Option<SharedTensor> {
        let Memory::Shared { memory, writable } = &tensor.memory else { return None };
        tensor.is_contiguous().then(|| SharedTensor {
            memory: Arc::clone(memory),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            offset: tensor.offset,
            writable: *writable,
        })
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its length in each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        elements(&self.shape)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// The array as an argument whose receiver may write it.
    ///
    /// # Errors
    ///
    /// When it was made for readers, or came as one to read.
    pub fn writable(&self) -> Result<Tensor, TensorError> {
        if self.writable { Ok(self.tensor(true)) } else { Err(TensorError::ReadOnly) }
    }

    /// The array as an argument whose receiver can only read it.
    pub fn read_only(&self) -> Tensor {
        self.tensor(false)
    }

    fn tensor(&self, writable: bool) -> Tensor {
        Tensor {
            dtype: self.dtype,
            shape: self.shape.clone(),
            strides: in_order(self.dtype, &self.shape),
            memory: Memory::Shared { memory: Arc::clone(&self.memory), writable },
            offset: self.offset,
            bytes: self.len() * self.dtype.item_bytes(),
        }
    }

    /// Copies the elements from number `from` (in C order) on out of the shared memory.
    ///
    /// # Errors
    ///
    /// When there are not so many, they are of another type, or the system has no memory for those
    /// that nobody has written yet.
    pub fn read_into<T: Element>(&self, from: usize, target: &mut [T]) -> Result<(), TensorError> {
        let at = self.place::<T>(from, target.len())?;
        let mut done = Ok(());
        fill_bytes(target, |bytes| done = self.memory.read(at, bytes));
        Ok(done?)
    }

    /// Copies elements into the shared memory, from number `to` (in C order) on.
    ///
    /// # Errors
    ///
    /// When there is no room for so many, they are of another type, this process may not write, or
    /// the system has no memory for them.
    pub fn write_from<T: Element>(&self, to: usize, source: &[T]) -> Result<(), TensorError> {
        let at = self.place::<T>(to, source.len())?;
        if !self.memory.memory.is_writable() {
            return Err(TensorError::ReadOnly);
        }
        Ok(self.memory.write(at, bytes_of(source))?)
    }

    /// All elements, copied, as by [`Tensor::to_vec`].
    ///
    /// # Errors
    ///
    /// When an element is not exactly a number of that type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        self.read_only().to_vec()
    }

    /// Where in the memory some elements are.
    fn place<T: Element>(&self, from: usize, count: usize) -> Result<usize, TensorError> {
        if self.dtype != T::DTYPE {
            return Err(TensorError::DType { wanted: T::DTYPE, found: self.dtype });
        }
        let (to, elements) = (from.saturating_add(count), self.len());
        if to > elements {
            return Err(TensorError::Range { from, to, elements });
        }
        Ok(self.offset + from * size_of::<T>())
    }
}

impl fmt::Debug for SharedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTensor")
            .field("dtype", &format_args!("{}", self.dtype))
            .field("shape", &self.shape)
            .field("writable", &self.writable)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_copied_in_and_out_at_any_place() {
        let shared = SharedTensor::zeroed::<u16>(&[5, 20]).unwrap();
        let numbers: Vec<u16> = (0..100).collect();
        for (from, to) in [(0, 100), (1, 2), (3, 47), (7, 7), (99, 100)] {
            shared.write_from(0, &[0_u16; 100]).unwrap();
            shared.write_from(from, &numbers[from..to]).unwrap();
            let mut back = vec![9; to - from];
            shared.read_into(from, &mut back).unwrap();
            assert_eq!(&numbers[from..to], back);
            let all = shared.to_vec::<u16>().unwrap();
            let kept = |(index, number): (usize, &u16)| {
                *number == if (from..to).contains(&index) { numbers[index] } else { 0 }
            };
            assert!(all.iter().enumerate().all(kept), "nothing else was touched");
        }
        assert!(matches!(shared.write_from(100, &[1_u16]), Err(TensorError::Range { .. })));
        assert!(matches!(shared.write_from(0, &[1_u8]), Err(TensorError::DType { .. })));
        assert!(matches!(shared.read_only().as_slice::<u16>(), Err(TensorError::Shared)));
    }

    #[test]
    fn no_elements_are_none_however_long_the_rest_is() {
        let shape = [usize::MAX, usize::MAX, 0];
        assert_eq!(0, SharedTensor::zeroed::<f64>(&shape).unwrap().len());
        let tensor = Tensor::from_shape(&shape, Vec::<f64>::new()).unwrap();
        assert_eq!((0, true), (tensor.len(), tensor.is_empty()));
        assert_eq!(Vec::<f64>::new(), tensor.to_vec::<f64>().unwrap());
    }

    #[test]
    fn neighbours_in_one_word_can_be_written_by_several_threads() {
        let shared = SharedTensor::zeroed::<u8>(&[64]).unwrap();
        std::thread::scope(|scope| {
            for at in [0, 3, 5, 8, 13] {
                let shared = &shared;
                scope.spawn(move || {
                    for value in 0..=u8::MAX {
                        for _ in 0..100 {
                            shared.write_from(at, &[value; 2]).unwrap();
                        }
                        let mut back = [0; 2];
                        shared.read_into(at, &mut back).unwrap();
                        assert_eq!([value; 2], back, "nobody else writes these");
                    }
                });
            }
        });
        let all = shared.to_vec::<u8>().unwrap();
        let written = |at: usize| [0, 1, 3, 4, 5, 6, 8, 9, 13, 14].contains(&at);
        for (at, byte) in all.into_iter().enumerate() {
            assert_eq!(if written(at) { 255 } else { 0 }, byte);
        }
        shared.write_from(64, &[0_u8; 0]).unwrap();
        shared.read_into(5, &mut [0_u8; 0]).unwrap();
    }

    #[test]
    fn who_may_write_is_said_once() {
        let shared = SharedTensor::for_readers::<f64>(&[4]).unwrap();
        assert!(matches!(shared.writable(), Err(TensorError::ReadOnly)));
        shared.write_from(0, &[1.5; 4]).unwrap();
        assert_eq!(vec![1.5; 4], shared.to_vec::<f64>().unwrap());
        let open = SharedTensor::from_slice(&[2, 2], &[1_i8, 2, 3, 4]).unwrap();
        assert!(SharedTensor::of(&open.writable().unwrap()).unwrap().writable().is_ok());
        assert!(SharedTensor::of(&open.read_only()).unwrap().writable().is_err());
        assert!(SharedTensor::of(&Tensor::from(vec![1])).is_none());
    }
}
