//! Tensors to and from the arrays of `ndarray`.

use std::sync::Arc;

use ndarray::{Array, ArrayD, ArrayView, ArrayViewD, Dimension, IxDyn, ShapeBuilder};

use super::array::Tensor;
use super::error::TensorError;
use crate::sys::{Element, elements_of};

impl Tensor {
    /// The tensor as an array of `ndarray`, where it is: nothing is copied, whatever its strides.
    ///
    /// # Errors
    ///
    /// When its elements are of another type, are not aligned as Rust needs them, or may be written
    /// by others at any moment.
    pub fn view<T: Element>(&self) -> Result<ArrayViewD<'_, T>, TensorError> {
        if self.dtype != T::DTYPE {
            return Err(TensorError::DType { wanted: T::DTYPE, found: self.dtype });
        }
        if self.is_contiguous() {
            let shaped = ArrayViewD::from_shape(IxDyn(&self.shape), self.as_slice()?);
            return shaped.map_err(|_| TensorError::NotContiguous);
        }
        let bytes = self.still_bytes()?;
        let item = size_of::<T>();
        let bytes = &bytes[..bytes.len() - bytes.len() % item];
        let unaligned = || TensorError::Unaligned { wanted: T::DTYPE };
        let elements = elements_of::<T>(bytes).ok_or_else(unaligned)?;
        let mut strides = Vec::with_capacity(self.strides.len());
        for (stride, length) in self.strides.iter().zip(&self.shape) {
            if stride % item != 0 && *length > 1 {
                return Err(unaligned());
            }
            strides.push(stride / item);
        }
        let shape = IxDyn(&self.shape).strides(IxDyn(&strides));
        ArrayViewD::from_shape(shape, elements).map_err(|_| TensorError::NotContiguous)
    }
}

impl<T: Element, D: Dimension> From<Array<T, D>> for Tensor {
    /// The array's own memory where it is in C order, and else a copy that is.
    fn from(array: Array<T, D>) -> Tensor {
        if !array.is_standard_layout() {
            return Tensor::from(array.view());
        }
        let shape = array.shape().to_vec();
        let bytes = array.len() * size_of::<T>();
        let (elements, from) = array.into_raw_vec_and_offset();
        let tensor = Tensor::owned(T::DTYPE, shape, Arc::new(elements), bytes);
        Tensor { offset: from.unwrap_or(0) * size_of::<T>(), ..tensor }
    }
}

impl<T: Element, D: Dimension> From<ArrayView<'_, T, D>> for Tensor {
    /// A copy, in C order.
    fn from(view: ArrayView<'_, T, D>) -> Tensor {
        let elements: Vec<T> = view.iter().copied().collect();
        Tensor::from_shape(view.shape(), elements).expect("a view has as many as its shape says")
    }
}

impl<T: Element> TryFrom<Tensor> for ArrayD<T> {
    type Error = TensorError;

    /// As a vector would be: without a copy where the tensor was made of one that nobody else has,
    /// and of elements of any type that has the same numbers.
    fn try_from(tensor: Tensor) -> Result<ArrayD<T>, TensorError> {
        let shape = IxDyn(tensor.shape());
        let elements = Vec::try_from(tensor)?;
        ArrayD::from_shape_vec(shape, elements).map_err(|_| TensorError::NotContiguous)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, arr0, array, s};

    use super::*;

    #[test]
    fn arrays_come_back_as_they_went() {
        let table: Array2<f64> = array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
        let place = table.as_ptr();
        let tensor = Tensor::from(table.clone());
        assert_eq!(&[2, 3], tensor.shape());
        assert_eq!(table.view().into_dyn(), tensor.view::<f64>().unwrap());
        let moved = Tensor::from(table);
        let back = ArrayD::<f64>::try_from(moved).unwrap();
        assert_eq!(place, back.as_ptr(), "nothing was copied");
        assert_eq!(back, ArrayD::<f64>::try_from(tensor).unwrap());
        assert_eq!(7, Tensor::from(arr0(7_u8)).to_vec::<u8>().unwrap()[0]);
    }

    #[test]
    fn parts_and_transposes_are_what_they_show() {
        let table: Array2<i32> = array![[1, 2, 3], [4, 5, 6]];
        let columns = Tensor::from(table.clone().reversed_axes());
        assert_eq!((&[3, 2][..], true), (columns.shape(), columns.is_contiguous()));
        assert_eq!(vec![1, 4, 2, 5, 3, 6], columns.to_vec::<i32>().unwrap());
        let row = Tensor::from(table.slice_move(s![1, ..]));
        assert_eq!(&[4, 5, 6], row.as_slice::<i32>().unwrap());
        assert_eq!(vec![4, 5, 6], Vec::<i32>::try_from(row).unwrap());
    }

    #[test]
    fn gaps_are_seen_and_not_copied() {
        let wide = Tensor::from_shape(&[2, 4], (0_u16..8).collect()).unwrap();
        let narrow = Tensor { shape: vec![2, 2], bytes: 14, ..wide };
        assert!(!narrow.is_contiguous());
        let view = narrow.view::<u16>().unwrap();
        assert_eq!(array![[0_u16, 1], [4, 5]].into_dyn(), view);
        assert!(narrow.view::<i16>().is_err());
    }
}
