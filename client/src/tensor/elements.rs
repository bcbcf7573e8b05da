//! A tensor's numbers as slices, which copy nothing, and as vectors, which do.

use std::borrow::Cow;

use clutch_protocol::dtype::DType;

use super::array::{Memory, Tensor};
use super::error::TensorError;
use super::number::Number;
use crate::sys::{Element, elements_of, fill_bytes};

impl Tensor {
    /// Its elements in C order, where they are.
    ///
    /// # Errors
    ///
    /// When they are of another type, do not lie one behind the other, are not aligned as Rust
    /// needs them, or may be written by others at any moment.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        if self.dtype != T::DTYPE {
            return Err(TensorError::DType { wanted: T::DTYPE, found: self.dtype });
        }
        let bytes = self.as_bytes()?;
        elements_of(bytes).ok_or(match T::DTYPE {
            DType::Bool => TensorError::NotBoolean,
            wanted => TensorError::Unaligned { wanted },
        })
    }

    /// The bytes of its elements in C order, where they are.
    ///
    /// # Errors
    ///
    /// When they do not lie one behind the other, or may be written by others at any moment.
    pub fn as_bytes(&self) -> Result<&[u8], TensorError> {
        if !self.is_contiguous() {
            return Err(TensorError::NotContiguous);
        }
        let length = self.len() * self.dtype.item_bytes();
        Ok(&self.still_bytes()?[..length])
    }

    /// Its elements in C order, copied: of any tensor, and as any type that has the same numbers.
    ///
    /// # Errors
    ///
    /// When an element is not exactly a number of that type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        let mut elements = vec![T::default(); self.len()];
        if self.dtype == T::DTYPE
            && self.is_contiguous()
            && let Memory::Shared { memory, .. } = &self.memory
        {
            let mut done = Ok(());
            fill_bytes(&mut elements, |target| done = memory.read(self.offset, target));
            done?;
            return Ok(elements);
        }
        let bytes = self.bytes_in_order();
        if self.dtype == T::DTYPE {
            fill_bytes(&mut elements, |target| target.copy_from_slice(&bytes));
            return Ok(elements);
        }
        let (item, wanted) = (self.dtype.item_bytes(), T::DTYPE);
        let mut inexact = None;
        fill_bytes(&mut elements, |target| {
            let targets = target.chunks_exact_mut(wanted.item_bytes());
            for (index, (source, target)) in bytes.chunks_exact(item).zip(targets).enumerate() {
                if !Number::read(self.dtype, source).write(wanted, target) {
                    inexact.get_or_insert(index);
                }
            }
        });
        match inexact {
            None => Ok(elements),
            Some(index) => Err(TensorError::Inexact { index, wanted, found: self.dtype }),
        }
    }

    /// The bytes of its elements in C order: borrowed where they lie so and stand still.
    pub(super) fn bytes_in_order(&self) -> Cow<'_, [u8]> {
        if let Ok(bytes) = self.as_bytes() {
            return bytes.into();
        }
        let all: Cow<'_, [u8]> = match (&self.memory, self.still_bytes()) {
            (_, Ok(bytes)) => bytes.into(),
            (Memory::Shared { memory, .. }, _) => {
                let mut copy = vec![0; self.bytes];
                memory.memory.read(self.offset, &mut copy);
                copy.into()
            }
            (Memory::Owned(_) | Memory::Still(_), Err(_)) => unreachable!("they stand still"),
        };
        let length = self.len() * self.dtype.item_bytes();
        if self.is_contiguous() {
            return all[..length].to_vec().into();
        }
        let mut ordered = Vec::with_capacity(length);
        self.put_in_order(&all, 0, 0, &mut ordered);
        ordered.into()
    }

    fn put_in_order(&self, all: &[u8], dimension: usize, at: usize, ordered: &mut Vec<u8>) {
        let Some(length) = self.shape.get(dimension) else {
            return ordered.extend_from_slice(&all[at..at + self.dtype.item_bytes()]);
        };
        for index in 0..*length {
            self.put_in_order(all, dimension + 1, at + index * self.strides[dimension], ordered);
        }
    }

    /// Its part of its memory.
    pub(super) fn still_bytes(&self) -> Result<&[u8], TensorError> {
        let all = match &self.memory {
            Memory::Owned(owner) => owner.bytes(),
            Memory::Still(memory) => memory.memory.bytes(),
            Memory::Shared { .. } => return Err(TensorError::Shared),
        };
        Ok(&all[self.offset..self.offset + self.bytes])
    }
}

impl<T: Element> TryFrom<Tensor> for Vec<T> {
    type Error = TensorError;

    /// Its elements in C order. A vector that became a tensor and was not cloned comes back as it
    /// was; anything else is copied as by [`Tensor::to_vec`].
    fn try_from(tensor: Tensor) -> Result<Vec<T>, TensorError> {
        let is_whole = tensor.offset == 0 && tensor.is_contiguous();
        let Memory::Owned(owner) = &tensor.memory else { return tensor.to_vec() };
        if !is_whole || owner.bytes().len() != tensor.bytes {
            return tensor.to_vec();
        }
        let Ok(elements) = std::sync::Arc::clone(owner).into_any().downcast::<Vec<T>>() else {
            return tensor.to_vec();
        };
        drop(tensor);
        Ok(std::sync::Arc::try_unwrap(elements).unwrap_or_else(|shared| (*shared).clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_in_comes_out() {
        let tensor = Tensor::from_shape(&[2, 3], vec![1_i32, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(&[1, 2, 3, 4, 5, 6], tensor.as_slice::<i32>().unwrap());
        assert_eq!(vec![1_u8, 2, 3, 4, 5, 6], tensor.to_vec::<u8>().unwrap());
        assert_eq!(1.0, tensor.to_vec::<f64>().unwrap()[0]);
        assert!(matches!(
            tensor.as_slice::<f64>(),
            Err(TensorError::DType { wanted: DType::F64, found: DType::I32 })
        ));
        let halves = Tensor::from(vec![0.5, 1.0]);
        assert!(matches!(halves.to_vec::<i64>(), Err(TensorError::Inexact { index: 0, .. })));
    }

    #[test]
    fn a_vector_that_nobody_else_has_comes_back_without_a_copy() {
        let vector = vec![1.5_f32; 1000];
        let place = vector.as_ptr();
        let back = Vec::<f32>::try_from(Tensor::from(vector)).unwrap();
        assert_eq!(place, back.as_ptr());
        let tensor = Tensor::from(back);
        let other = tensor.clone();
        let copied = Vec::<f32>::try_from(tensor).unwrap();
        assert_ne!(place, copied.as_ptr());
        assert_eq!(1000, other.len());
        let wide = Vec::<f64>::try_from(other).unwrap();
        assert_eq!(vec![1.5; 1000], wide);
    }

    #[test]
    fn elements_in_another_order_are_put_in_order() {
        let columns = Tensor {
            strides: vec![2, 4],
            ..Tensor::from_shape(&[2, 3], vec![1_u16, 2, 3, 4, 5, 6]).unwrap()
        };
        assert!(!columns.is_contiguous());
        assert_eq!(vec![1, 3, 5, 2, 4, 6], columns.to_vec::<u16>().unwrap());
        assert!(matches!(columns.as_slice::<u16>(), Err(TensorError::NotContiguous)));
        assert!(columns.reshape(&[6]).is_err());
    }

    #[test]
    fn bytes_of_odd_places_and_values_are_no_slices() {
        let bytes = bytes::Bytes::from(vec![1_u8; 25]);
        let at = |from: usize| Tensor::from_bytes(DType::F64, &[3], bytes.slice(from..from + 24));
        let outcomes = [at(0).unwrap(), at(1).unwrap()].map(|t| t.as_slice::<f64>().is_ok());
        assert!(outcomes != [true, true], "one of them is not aligned");
        assert_eq!(
            at(0).unwrap().to_vec::<f64>().unwrap(),
            at(1).unwrap().to_vec::<f64>().unwrap()
        );
        let booleans = Tensor::from_bytes(DType::Bool, &[2], vec![1, 2]).unwrap();
        assert!(matches!(booleans.as_slice::<bool>(), Err(TensorError::NotBoolean)));
        assert_eq!(vec![true, true], booleans.to_vec::<bool>().unwrap());
    }

    #[test]
    fn what_is_built_in_place_is_a_value() {
        let built = Tensor::build::<i64>(&[3], |elements| elements[1] = 7).unwrap();
        assert_eq!(&[0, 7, 0], built.as_slice::<i64>().unwrap());
        assert_eq!(0, Tensor::build::<f64>(&[0, 5], |all| assert!(all.is_empty())).unwrap().len());
        assert!(matches!(
            Tensor::build::<f64>(&[usize::MAX, 2], |_| {}),
            Err(TensorError::TooLarge { .. })
        ));
        assert!(Tensor::from_shape(&[2, 2], vec![1_u8; 3]).is_err());
    }
}
