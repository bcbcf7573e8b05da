//! Numbers seen as bytes, and bytes as numbers.

#![expect(unsafe_code, reason = "one of the three files of this crate that may")]

use std::mem::size_of;

use clutch_protocol::dtype::DType;

/// What an array's elements are in Rust.
///
/// # Safety
///
/// Zeros are a value of it, it has no padding and no interior mutability, and every value of its
/// bytes is a value of it unless it is `bool`.
pub unsafe trait Element: Copy + Default + Send + Sync + std::fmt::Debug + 'static {
    /// What numpy calls it.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($type:ty = $dtype:ident,)*) => {
        $(
            // SAFETY: it is a number, or two of them without anything between.
            unsafe impl Element for $type {
                const DTYPE: DType = DType::$dtype;
            }
            const _: () = assert!(size_of::<$type>() == DType::$dtype.item_bytes());
        )*
    };
}

elements! {
    bool = Bool,
    i8 = I8, i16 = I16, i32 = I32, i64 = I64,
    u8 = U8, u16 = U16, u32 = U32, u64 = U64,
    f32 = F32, f64 = F64,
    [f32; 2] = C64, [f64; 2] = C128,
}

/// Elements as the bytes they are.
pub(crate) fn bytes_of<T: Element>(elements: &[T]) -> &[u8] {
    // SAFETY: an element has no padding, so each of its bytes is a byte.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// Elements as bytes to be filled with bytes of valid elements.
pub(crate) fn fill_bytes<T: Element>(elements: &mut [T], fill: impl FnOnce(&mut [u8])) {
    let length = size_of_val(elements);
    if T::DTYPE == DType::Bool {
        let mut bytes = vec![0_u8; length];
        fill(&mut bytes);
        for (index, byte) in bytes.iter().enumerate() {
            let one: &[T] = elements_of(std::slice::from_ref(if *byte == 0 { &0 } else { &1 }))
                .expect("0 and 1 are booleans");
            elements[index] = one[0];
        }
        return;
    }
    // SAFETY: the bytes are borrowed once and have no padding, and whatever is written into them is
    // a value of an element that is no `bool`.
    fill(unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), length) });
}

/// Bytes as the elements they are; none where they are not whole ones, not aligned as these have to
/// be, or no booleans.
pub(crate) fn elements_of<T: Element>(bytes: &[u8]) -> Option<&[T]> {
    if T::DTYPE == DType::Bool && bytes.iter().any(|byte| *byte > 1) {
        return None;
    }
    // SAFETY: every value of its bytes is a value of an element, and of `bool` 0 and 1 are.
    let (head, body, tail) = unsafe { bytes.align_to::<T>() };
    (head.is_empty() && tail.is_empty()).then_some(body)
}
