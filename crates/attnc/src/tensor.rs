//! Borrowed strided tensors as a host program hands them over.
//!
//! One idea: a tensor is a shape over somebody else's slice, checked when it is made, and readable element by
//! element without `unsafe`, so that the oracle and the compiled kernels see the same memory. Axes are always
//! `[batch, heads, rows, dim]`. Nothing here knows of attention.

use attnc_cpu::{DType, LayoutError};
use half::{bf16, f16};

/// Strides of a row-major tensor, in bytes.
fn row_major(dtype: DType, shape: [usize; 4]) -> Option<[isize; 4]> {
    let mut strides = [0; 4];
    let mut step = dtype.size();
    for axis in (0..4).rev() {
        strides[axis] = isize::try_from(step).ok()?;
        step = step.checked_mul(shape[axis].max(1))?;
    }
    Some(strides)
}

/// A tensor to be read.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    data: Data<'a>,
    shape: [usize; 4],
}

#[derive(Clone, Copy, Debug)]
enum Data<'a> {
    Bytes { bytes: &'a [u8], offset: usize, dtype: DType, strides: [isize; 4] },
    F32(&'a [f32]),
}

impl<'a> Tensor<'a> {
    /// A tensor in `bytes` whose first element is at byte `offset`. Strides are in bytes and may be zero
    /// (broadcast) or negative; elements are little-endian.
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
        attnc_cpu::Tensor::new(bytes, offset, dtype, shape, strides)?;
        Ok(Tensor { data: Data::Bytes { bytes, offset, dtype, strides }, shape })
    }

    /// A row-major tensor that begins at the slice's first byte.
    ///
    /// # Errors
    /// As for [`Tensor::new`].
    pub fn contiguous(bytes: &'a [u8], dtype: DType, shape: [usize; 4]) -> Result<Self, LayoutError> {
        Self::new(bytes, 0, dtype, shape, row_major(dtype, shape).ok_or(LayoutError::Overflow)?)
    }

    /// A row-major tensor of f32.
    ///
    /// # Errors
    /// As for [`Tensor::new`].
    pub fn of_f32(data: &'a [f32], shape: [usize; 4]) -> Result<Self, LayoutError> {
        attnc_cpu::Tensor::of_f32(data, shape)?;
        Ok(Tensor { data: Data::F32(data), shape })
    }

    /// `[batch, heads, rows, dim]`
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self.data {
            Data::Bytes { dtype, .. } => dtype,
            Data::F32(_) => DType::F32,
        }
    }

    /// The elements of some heads of a batch item as f32, row-major `[heads, rows, dim]`.
    #[must_use]
    pub(crate) fn item(&self, batch: usize, heads: &[usize]) -> Vec<f32> {
        let [.., rows, dim] = self.shape;
        let mut values = vec![0.0; heads.len() * rows * dim];
        let places = heads.iter().flat_map(|&head| (0..rows).map(move |row| [batch, head, row]));
        for (at, to) in places.zip(values.chunks_exact_mut(dim.max(1))) {
            self.row(at, to);
        }
        values
    }

    /// The elements of a row.
    pub(crate) fn row(&self, [batch, head, row]: [usize; 3], to: &mut [f32]) {
        match self.data {
            Data::Bytes { bytes, offset, dtype: DType::F32, strides } if strides[3] == 4 && !to.is_empty() => {
                let at = byte_at(offset, &strides, self.shape, [batch, head, row, 0]);
                let (elements, _) = bytes[at..at + 4 * to.len()].as_chunks::<4>();
                to.iter_mut().zip(elements).for_each(|(to, bytes)| *to = f32::from_le_bytes(*bytes));
            }
            _ => to.iter_mut().enumerate().for_each(|(col, to)| *to = self.get([batch, head, row, col])),
        }
    }

    /// The element at an index within the shape.
    ///
    /// # Panics
    /// If it is not within.
    #[must_use]
    pub fn get(&self, index: [usize; 4]) -> f32 {
        match self.data {
            Data::Bytes { bytes, offset, dtype, strides } => {
                let at = byte_at(offset, &strides, self.shape, index);
                match dtype {
                    DType::F32 => f32::from_le_bytes(array(bytes, at)),
                    DType::F16 => f16::from_le_bytes(array(bytes, at)).to_f32(),
                    DType::Bf16 => bf16::from_le_bytes(array(bytes, at)).to_f32(),
                }
            }
            Data::F32(data) => data[element_at(self.shape, index)],
        }
    }

    /// Writes a row as elements of a type that holds all of its own, in the host's order of bytes.
    #[cfg(feature = "gpu")]
    pub(crate) fn row_as(&self, [batch, head, row]: [usize; 3], dtype: DType, bytes: &mut [u8]) {
        let size = dtype.size();
        if let Data::Bytes { bytes: own, offset, dtype: of, strides } = self.data
            && (of, strides[3]) == (dtype, size as isize)
            && self.shape[3] > 0
            && cfg!(target_endian = "little")
        {
            let at = byte_at(offset, &strides, self.shape, [batch, head, row, 0]);
            bytes.copy_from_slice(&own[at..at + self.shape[3] * size]);
            return;
        }
        for (col, element) in bytes.chunks_exact_mut(size).enumerate() {
            let value = self.get([batch, head, row, col]);
            match dtype {
                DType::F32 => element.copy_from_slice(&value.to_ne_bytes()),
                DType::F16 => element.copy_from_slice(&f16::from_f32(value).to_ne_bytes()),
                DType::Bf16 => element.copy_from_slice(&bf16::from_f32(value).to_ne_bytes()),
            }
        }
    }

    /// As the back end takes it.
    pub(crate) fn of_cpu(&self) -> Result<attnc_cpu::Tensor<'a>, LayoutError> {
        match self.data {
            Data::Bytes { bytes, offset, dtype, strides } => {
                attnc_cpu::Tensor::new(bytes, offset, dtype, self.shape, strides)
            }
            Data::F32(data) => attnc_cpu::Tensor::of_f32(data, self.shape),
        }
    }
}

/// A tensor to be written.
#[derive(Debug)]
pub struct TensorMut<'a> {
    data: DataMut<'a>,
    shape: [usize; 4],
}

#[derive(Debug)]
enum DataMut<'a> {
    Bytes { bytes: &'a mut [u8], offset: usize, dtype: DType, strides: [isize; 4] },
    F32(&'a mut [f32]),
}

impl<'a> TensorMut<'a> {
    /// A tensor in `bytes` whose first element is at byte `offset`. Strides are in bytes and may be negative.
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
        attnc_cpu::TensorMut::new(bytes, offset, dtype, shape, strides)?;
        Ok(TensorMut { data: DataMut::Bytes { bytes, offset, dtype, strides }, shape })
    }

    /// A row-major tensor that begins at the slice's first byte.
    ///
    /// # Errors
    /// As for [`TensorMut::new`].
    pub fn contiguous(bytes: &'a mut [u8], dtype: DType, shape: [usize; 4]) -> Result<Self, LayoutError> {
        Self::new(bytes, 0, dtype, shape, row_major(dtype, shape).ok_or(LayoutError::Overflow)?)
    }

    /// A row-major tensor of f32.
    ///
    /// # Errors
    /// As for [`TensorMut::new`].
    pub fn of_f32(data: &'a mut [f32], shape: [usize; 4]) -> Result<Self, LayoutError> {
        attnc_cpu::TensorMut::of_f32(data, shape)?;
        Ok(TensorMut { data: DataMut::F32(data), shape })
    }

    /// `[batch, heads, rows, dim]`
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self.data {
            DataMut::Bytes { dtype, .. } => dtype,
            DataMut::F32(_) => DType::F32,
        }
    }

    /// Writes an element, rounded to the tensor's type.
    ///
    /// # Panics
    /// If the index is not within the shape.
    pub fn set(&mut self, index: [usize; 4], value: f64) {
        let shape = self.shape;
        match &mut self.data {
            DataMut::Bytes { bytes, offset, dtype, strides } => {
                let at = byte_at(*offset, strides, shape, index);
                match dtype {
                    DType::F32 => bytes[at..at + 4].copy_from_slice(&(value as f32).to_le_bytes()),
                    DType::F16 => bytes[at..at + 2].copy_from_slice(&f16::from_f64(value).to_le_bytes()),
                    DType::Bf16 => bytes[at..at + 2].copy_from_slice(&bf16::from_f64(value).to_le_bytes()),
                }
            }
            DataMut::F32(data) => data[element_at(shape, index)] = value as f32,
        }
    }

    /// Writes a row, given as elements of the tensor's type in the host's order of bytes.
    #[cfg(feature = "gpu")]
    pub(crate) fn set_row(&mut self, [batch, head, row]: [usize; 3], bytes: &[u8]) {
        let dtype = self.dtype();
        for (col, element) in bytes.chunks_exact(dtype.size()).enumerate() {
            let value = match *element {
                [a, b] if dtype == DType::F16 => f16::from_ne_bytes([a, b]).to_f32(),
                [a, b] => bf16::from_ne_bytes([a, b]).to_f32(),
                [a, b, c, d] => f32::from_ne_bytes([a, b, c, d]),
                _ => 0.0,
            };
            self.set([batch, head, row, col], f64::from(value));
        }
    }

    /// As the back end takes it.
    pub(crate) fn of_cpu(&mut self) -> Result<attnc_cpu::TensorMut<'_>, LayoutError> {
        match &mut self.data {
            DataMut::Bytes { bytes, offset, dtype, strides } => {
                attnc_cpu::TensorMut::new(bytes, *offset, *dtype, self.shape, *strides)
            }
            DataMut::F32(data) => attnc_cpu::TensorMut::of_f32(data, self.shape),
        }
    }
}

/// Byte of an element; the layout was checked when the tensor was made.
fn byte_at(offset: usize, strides: &[isize; 4], shape: [usize; 4], index: [usize; 4]) -> usize {
    assert!(index.iter().zip(shape).all(|(&i, n)| i < n), "index {index:?} within {shape:?}");
    let steps = index.iter().zip(strides).map(|(&i, &stride)| i as isize * stride).sum::<isize>();
    offset.wrapping_add_signed(steps)
}

/// Place of an element of a row-major tensor.
fn element_at(shape: [usize; 4], index: [usize; 4]) -> usize {
    assert!(index.iter().zip(shape).all(|(&i, n)| i < n), "index {index:?} within {shape:?}");
    index.iter().zip(shape).fold(0, |at, (&i, n)| at * n + i)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_through_any_layout() {
        let data: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let plain = Tensor::of_f32(&data, [1, 2, 3, 4]).expect("fits");
        assert_eq!(plain.get([0, 1, 2, 3]), 23.0);
        assert_eq!(plain.item(0, &[0, 1]), data);
        // [rows, heads, dim] seen as [heads, rows, dim], rows backwards.
        let bytes: Vec<u8> = data.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
        let turned = Tensor::new(&bytes, 32, DType::Bf16, [1, 2, 3, 4], [0, 8, -16, 2]);
        if let Ok(turned) = turned {
            assert_eq!(turned.get([0, 1, 0, 0]), 20.0);
            assert_eq!(turned.get([0, 0, 2, 3]), 3.0);
        } else {
            // A byte slice may lie at an odd address.
            assert!(!bytes.as_ptr().addr().is_multiple_of(2));
        }
    }

    #[test]
    fn written_elements_are_rounded_to_their_type() {
        let mut data = [0.0f32; 4];
        let mut tensor = TensorMut::of_f32(&mut data, [1, 1, 2, 2]).expect("fits");
        tensor.set([0, 0, 1, 0], 0.1);
        assert_eq!(data, [0.0, 0.0, 0.1, 0.0]);
    }
}
