//! Borrowed strided tensors, checked when they are made.
//!
//! The one idea: a [`Tensor`] or [`TensorMut`] that exists lies within its slice, is aligned, and (if
//! written) has no two elements that share memory. A launch needs only to compare shapes.
//! Nothing here knows of attention.

use std::fmt;
use std::marker::PhantomData;

use attnc_kernels::abi::DType;

/// Why a tensor could not be made of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutError {
    /// Extents and strides multiply to more than an address can hold.
    Overflow,
    /// An element would lie outside the slice.
    OutOfBounds {
        /// Bytes before the slice's first that would be touched.
        before: u64,
        /// Bytes that the slice would have to hold.
        needed: u64,
        /// Bytes that it holds.
        found: usize,
    },
    /// The address, the offset or a stride is no multiple of the element size.
    Misaligned {
        /// Bytes of an element.
        element: usize,
    },
    /// Two elements of a tensor to be written may share memory: each stride, from the smallest up, must
    /// be at least what the axes inside it span.
    Overlap {
        /// The axis.
        axis: usize,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LayoutError::Overflow => write!(f, "extents and strides exceed the address range"),
            LayoutError::OutOfBounds { before: 0, needed, found } => {
                write!(f, "shape and strides need {needed} bytes, but the slice has {found}")
            }
            LayoutError::OutOfBounds { before, .. } => {
                write!(f, "negative strides reach {before} bytes before the slice")
            }
            LayoutError::Misaligned { element } => {
                write!(f, "address, offset and strides must be multiples of the element size, {element} bytes")
            }
            LayoutError::Overlap { axis } => {
                write!(f, "the stride of axis {axis} makes elements of an output share memory")
            }
        }
    }
}

impl std::error::Error for LayoutError {}

/// Where the elements of a `[batch, heads, rows, dim]` tensor lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) dtype: DType,
    pub(crate) shape: [usize; 4],
    /// Bytes, any sign; of an axis with one element it does not matter.
    pub(crate) strides: [isize; 4],
}

impl Layout {
    /// Row-major strides.
    fn contiguous(dtype: DType, shape: [usize; 4]) -> Result<Layout, LayoutError> {
        let mut strides = [0; 4];
        let mut step = dtype.size();
        for axis in (0..4).rev() {
            strides[axis] = isize::try_from(step).map_err(|_| LayoutError::Overflow)?;
            // Empty axes keep the strides of the others meaningful.
            step = step.checked_mul(shape[axis].max(1)).ok_or(LayoutError::Overflow)?;
        }
        Ok(Layout { dtype, shape, strides })
    }

    fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Checks that every element lies in a slice of `bytes` bytes whose element 0 is at `offset`.
    fn fits(&self, address: usize, bytes: usize, offset: usize) -> Result<(), LayoutError> {
        let element = self.dtype.size();
        if self.is_empty() {
            return Ok(());
        }
        let (mut low, mut high) = (offset as i128, offset as i128 + element as i128);
        for (&extent, &stride) in self.shape.iter().zip(&self.strides) {
            let reach = (extent as i128 - 1).checked_mul(stride as i128).ok_or(LayoutError::Overflow)?;
            if reach < 0 { low = low.saturating_add(reach) } else { high = high.saturating_add(reach) }
        }
        if low < 0 || high > bytes as i128 {
            let clip = |x: i128| u64::try_from(x.max(0)).unwrap_or(u64::MAX);
            return Err(LayoutError::OutOfBounds { before: clip(-low), needed: clip(high), found: bytes });
        }
        let mut steps = self.shape.iter().zip(&self.strides).filter(|&(&n, _)| n > 1);
        if !address.is_multiple_of(element) || !offset.is_multiple_of(element) {
            return Err(LayoutError::Misaligned { element });
        }
        if steps.any(|(_, stride)| !stride.unsigned_abs().is_multiple_of(element)) {
            return Err(LayoutError::Misaligned { element });
        }
        Ok(())
    }

    /// Checks that no two elements share memory: the axes nest, smaller strides inside larger ones.
    fn disjoint(&self) -> Result<(), LayoutError> {
        if self.is_empty() {
            return Ok(());
        }
        let mut axes = [0, 1, 2, 3];
        axes.sort_unstable_by_key(|&a| (self.strides[a].unsigned_abs(), a));
        let mut span = self.dtype.size() as u128;
        for axis in axes.into_iter().filter(|&a| self.shape[a] > 1) {
            let stride = self.strides[axis].unsigned_abs() as u128;
            if stride < span {
                return Err(LayoutError::Overlap { axis });
            }
            span += (self.shape[axis] as u128 - 1) * stride;
        }
        Ok(())
    }

    /// Byte offset of the first element of a (batch item, head).
    pub(crate) fn head(&self, batch: usize, head: usize) -> isize {
        batch as isize * self.strides[0] + head as isize * self.strides[1]
    }
}

/// A `[batch, heads, rows, dim]` tensor to be read.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub(crate) base: *const u8,
    pub(crate) layout: Layout,
    slice: PhantomData<&'a [u8]>,
}

// SAFETY: it is a shared borrow of bytes.
unsafe impl Send for Tensor<'_> {}
// SAFETY: as above.
unsafe impl Sync for Tensor<'_> {}

impl<'a> Tensor<'a> {
    /// A tensor in `bytes` whose element (0, 0, 0, 0) is at byte `offset`. Strides are in bytes and may be
    /// zero (broadcast) or negative.
    ///
    /// # Errors
    /// If an element would lie outside the slice or be misaligned.
    pub fn new(
        bytes: &'a [u8],
        offset: usize,
        dtype: DType,
        shape: [usize; 4],
        strides: [isize; 4],
    ) -> Result<Self, LayoutError> {
        let layout = Layout { dtype, shape, strides };
        layout.fits(bytes.as_ptr().addr(), bytes.len(), offset)?;
        Ok(Tensor { base: bytes.as_ptr().wrapping_add(offset), layout, slice: PhantomData })
    }

    /// A row-major tensor that begins at the slice's first byte.
    ///
    /// # Errors
    /// As for [`Tensor::new`].
    pub fn contiguous(bytes: &'a [u8], dtype: DType, shape: [usize; 4]) -> Result<Self, LayoutError> {
        Self::new(bytes, 0, dtype, shape, Layout::contiguous(dtype, shape)?.strides)
    }

    /// A row-major tensor of f32.
    ///
    /// # Errors
    /// As for [`Tensor::new`].
    pub fn of_f32(data: &'a [f32], shape: [usize; 4]) -> Result<Self, LayoutError> {
        // SAFETY: any f32 may be read as bytes; the length is that of the same memory.
        let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data)) };
        Self::contiguous(bytes, DType::F32, shape)
    }

    /// `[batch, heads, rows, dim]`
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        self.layout.shape
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.layout.dtype
    }
}

/// A `[batch, heads, rows, dim]` tensor to be written.
#[derive(Debug)]
pub struct TensorMut<'a> {
    pub(crate) base: *mut u8,
    pub(crate) layout: Layout,
    slice: PhantomData<&'a mut [u8]>,
}

// SAFETY: it is an exclusive borrow of bytes.
unsafe impl Send for TensorMut<'_> {}
// SAFETY: nothing is written through a shared reference outside `run`, which holds an exclusive one.
unsafe impl Sync for TensorMut<'_> {}

impl<'a> TensorMut<'a> {
    /// A tensor in `bytes` whose element (0, 0, 0, 0) is at byte `offset`. Strides are in bytes and may be
    /// negative.
    ///
    /// # Errors
    /// If an element would lie outside the slice or be misaligned, or if two may share memory.
    pub fn new(
        bytes: &'a mut [u8],
        offset: usize,
        dtype: DType,
        shape: [usize; 4],
        strides: [isize; 4],
    ) -> Result<Self, LayoutError> {
        let layout = Layout { dtype, shape, strides };
        layout.fits(bytes.as_ptr().addr(), bytes.len(), offset)?;
        layout.disjoint()?;
        Ok(TensorMut { base: bytes.as_mut_ptr().wrapping_add(offset), layout, slice: PhantomData })
    }

    /// A row-major tensor that begins at the slice's first byte.
    ///
    /// # Errors
    /// As for [`TensorMut::new`].
    pub fn contiguous(bytes: &'a mut [u8], dtype: DType, shape: [usize; 4]) -> Result<Self, LayoutError> {
        Self::new(bytes, 0, dtype, shape, Layout::contiguous(dtype, shape)?.strides)
    }

    /// A row-major tensor of f32.
    ///
    /// # Errors
    /// As for [`TensorMut::new`].
    pub fn of_f32(data: &'a mut [f32], shape: [usize; 4]) -> Result<Self, LayoutError> {
        let len = size_of_val(data);
        // SAFETY: any bytes are an f32 and the other way round; the length is that of the same memory.
        let bytes = unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), len) };
        Self::contiguous(bytes, DType::F32, shape)
    }

    /// `[batch, heads, rows, dim]`
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        self.layout.shape
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.layout.dtype
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_exact() {
        let data = [0.0f32; 24];
        assert!(Tensor::of_f32(&data, [1, 2, 3, 4]).is_ok());
        let err = Tensor::of_f32(&data, [1, 2, 3, 5]).unwrap_err();
        assert_eq!(err, LayoutError::OutOfBounds { before: 0, needed: 120, found: 96 });
        assert!(Tensor::of_f32(&[], [1, 0, 3, 4]).is_ok());
        assert_eq!(Tensor::of_f32(&data, [usize::MAX; 4]).unwrap_err(), LayoutError::Overflow);
    }

    #[test]
    fn strides_may_repeat_or_run_backwards_but_stay_inside() {
        let data = [0u8; 64];
        let at = |offset, strides| Tensor::new(&data, offset, DType::Bf16, [2, 2, 2, 4], strides);
        assert!(at(0, [0, 0, 8, 2]).is_ok());
        assert!(at(48, [0, 0, -48, 2]).is_ok());
        assert_eq!(at(40, [0, 0, -48, 2]).unwrap_err(), LayoutError::OutOfBounds { before: 8, needed: 48, found: 64 });
        assert_eq!(at(1, [0, 0, 8, 2]).unwrap_err(), LayoutError::Misaligned { element: 2 });
        assert_eq!(at(0, [0, 0, 9, 2]).unwrap_err(), LayoutError::Misaligned { element: 2 });
    }

    #[test]
    fn outputs_do_not_overlap_themselves() {
        let mut data = [0.0f32; 64];
        assert!(TensorMut::of_f32(&mut data, [1, 2, 4, 8]).is_ok());
        // SAFETY: plain numbers.
        let bytes = unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast::<u8>(), 256) };
        // [rows, heads, dim] storage is fine, a repeated row is not.
        assert!(TensorMut::new(bytes, 0, DType::F32, [1, 2, 4, 8], [0, 32, 64, 4]).is_ok());
        let err = TensorMut::new(bytes, 0, DType::F32, [1, 2, 4, 8], [0, 128, 0, 4]).unwrap_err();
        assert_eq!(err, LayoutError::Overlap { axis: 2 });
    }
}
