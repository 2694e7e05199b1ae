//! Tensors in memory of other programs: `DLPack` and plain pointers, checked before anything is read.
//!
//! One idea: whatever a host hands over becomes a [`Raw`], a pointer with extents and strides in bytes, and everything
//! that can be wrong with it is said with the name of the argument. Only then is its memory borrowed as a tensor of the
//! library, which checks the layout once more. The `DLPack` structures are those of its versions 0.x and 1.x.
//! Nothing here knows who the host is.

#![allow(unsafe_code, reason = "memory of other programs has no lifetime that a compiler could see")]

use std::ffi::c_void;
use std::ops::Range;

use attnc::{CodeInfo, DType, Diagnostic, Inputs, LayoutError, MapInput, Supply, Tensor, TensorMut};

/// Code of elements of a type that does not serve.
pub const WRONG_TYPE: &str = "E0732";
/// Code of axes, extents or strides that do not serve.
pub const WRONG_SHAPE: &str = "E0734";
/// Code of memory that does not serve: that of another device, not to be written, or shared.
pub const WRONG_MEMORY: &str = "E0739";

/// Where memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DLDevice {
    /// 1 is memory of the CPU, 3 such memory that a CUDA device can reach.
    pub device_type: i32,
    /// Number of the device.
    pub device_id: i32,
}

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DLDataType {
    /// 0 int, 1 uint, 2 float, 3 handle, 4 bfloat, 5 complex, 6 bool.
    pub code: u8,
    /// Bits of a lane.
    pub bits: u8,
    /// Lanes of an element.
    pub lanes: u16,
}

/// A tensor as `DLPack` describes it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DLTensor {
    /// Its memory.
    pub data: *mut c_void,
    /// Where that is.
    pub device: DLDevice,
    /// Number of axes.
    pub ndim: i32,
    /// What an element is.
    pub dtype: DLDataType,
    /// Extents.
    pub shape: *mut i64,
    /// Strides in elements; null is row-major.
    pub strides: *mut i64,
    /// Bytes from `data` to the first element.
    pub byte_offset: u64,
}

/// A tensor with its owner, of versions before 1.0.
#[derive(Debug)]
#[repr(C)]
pub struct DLManagedTensor {
    /// The tensor.
    pub dl_tensor: DLTensor,
    /// The owner's own.
    pub manager_ctx: *mut c_void,
    /// Gives it back.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

/// A version of `DLPack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DLPackVersion {
    /// Layouts differ between them.
    pub major: u32,
    /// Fields may be added.
    pub minor: u32,
}

/// A tensor with its owner, of versions from 1.0 on.
#[derive(Debug)]
#[repr(C)]
pub struct DLManagedTensorVersioned {
    /// The version it was made with.
    pub version: DLPackVersion,
    /// The owner's own.
    pub manager_ctx: *mut c_void,
    /// Gives it back.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    /// Bit 0 is: not to be written.
    pub flags: u64,
    /// The tensor.
    pub dl_tensor: DLTensor,
}

/// The flag of memory that must not be written.
pub const READ_ONLY: u64 = 1;

/// A tensor somewhere in memory, of four axes.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    /// Its first element.
    pub data: *mut u8,
    /// What an element is.
    pub dtype: DType,
    /// `[batch, heads, rows, dim]`
    pub shape: [usize; 4],
    /// Bytes.
    pub strides: [isize; 4],
}

// SAFETY: a pointer and numbers; whoever borrows the memory says for how long.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

/// How axes of a host's tensor become four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axes {
    /// `[batch, heads, rows, dim]`, or without the batch.
    Rows,
    /// `[batch, heads, rows]`, or without the batch: one number a row.
    Numbers,
}

/// Addresses of the elements of a slice.
#[must_use]
pub fn bytes_of<T>(slice: &[T]) -> Range<usize> {
    let begin = slice.as_ptr().addr();
    begin..begin + size_of_val(slice)
}

/// Refuses memory to be written, of this name, that is also that of one of `others`.
///
/// # Errors
/// The first of `others` that it shares memory with.
pub fn apart<'a>(
    name: &str,
    written: &Range<usize>,
    others: impl IntoIterator<Item = (&'a str, Range<usize>)>,
) -> Result<(), Diagnostic> {
    let shared = |other: &Range<usize>| {
        !other.is_empty() && !written.is_empty() && written.start < other.end && other.start < written.end
    };
    match others.into_iter().find(|(_, other)| shared(other)) {
        Some((other, _)) => {
            Err(refused(WRONG_MEMORY, name, &format!("shares memory with `{other}`"), "write to other memory"))
        }
        None => Ok(()),
    }
}

/// Memory of run-time data that is borrowed, by name.
#[must_use]
pub fn bytes_of_inputs<'a>(inputs: &'a Inputs<'_>) -> Vec<(&'a str, Range<usize>)> {
    let mut all = vec![("docs", bytes_of(inputs.docs))];
    for (name, map) in &inputs.maps {
        match map {
            MapInput::Dense { data, .. } => all.push((name, bytes_of(data))),
            MapInput::Csr { indptr, indices } => all.extend([(*name, bytes_of(indptr)), (*name, bytes_of(indices))]),
        }
    }
    all.extend(inputs.tensors.iter().map(|(name, tensor)| (*name, bytes_of(&tensor.data))));
    all.extend(inputs.supplied.iter().map(|(name, supply)| match supply {
        Supply::Reals { data, .. } => (*name, bytes_of(data)),
        Supply::Slots { data, .. } => (*name, bytes_of(data)),
    }));
    all
}

/// Says what is wrong with an argument.
#[must_use]
pub fn refused(code: &'static str, name: &str, what: &str, help: &str) -> Diagnostic {
    Diagnostic::global(code, format!("`{name}` {what}")).help(help)
}

impl Raw {
    /// Takes a tensor of `DLPack`.
    ///
    /// # Errors
    /// Memory of another device, elements of another type, more or fewer axes.
    ///
    /// # Safety
    /// `shape`, and `strides` unless it is null, point to `ndim` numbers.
    pub unsafe fn of_dlpack(name: &str, tensor: &DLTensor, axes: Axes) -> Result<Raw, Diagnostic> {
        // Memory of the CPU, plain or known to a driver of CUDA or ROCm.
        if !matches!(tensor.device.device_type, 1 | 3 | 11) {
            let DLDevice { device_type, device_id } = tensor.device;
            let kind = device_name(device_type);
            let help = "copy it to memory of the CPU";
            return Err(refused(WRONG_MEMORY, name, &format!("is on device {kind}:{device_id}"), help));
        }
        let DLDataType { code, bits, lanes } = tensor.dtype;
        let dtype = match (code, bits, lanes) {
            (2, 32, 1) => DType::F32,
            (2, 16, 1) => DType::F16,
            (4, 16, 1) => DType::Bf16,
            _ => return Err(Self::wrong_type(name, &type_name(code, bits, lanes))),
        };
        let rank = usize::try_from(tensor.ndim).unwrap_or(0);
        let size = dtype.size();
        let (shape, strides): (&[i64], Option<&[i64]>) = if rank == 0 {
            (&[], None)
        } else {
            // SAFETY: the caller's promise.
            unsafe {
                let strides = (!tensor.strides.is_null()).then(|| std::slice::from_raw_parts(tensor.strides, rank));
                (std::slice::from_raw_parts(tensor.shape, rank), strides)
            }
        };
        let offset = usize::try_from(tensor.byte_offset).unwrap_or(usize::MAX);
        let data = tensor.data.cast::<u8>().wrapping_add(offset);
        let bytes = |s: &i64| isize::try_from(*s).ok().and_then(|s| s.checked_mul(size as isize));
        let strides: Option<Vec<isize>> = strides.map(|list| list.iter().map(bytes).collect()).unwrap_or(Some(vec![]));
        let Some(strides) = strides else { return Err(Self::layout(name, &LayoutError::Overflow)) };
        Self::of_axes(name, data, dtype, shape, &strides, axes)
    }

    /// Takes a pointer with extents and strides in bytes; without strides it is row-major.
    ///
    /// # Errors
    /// More or fewer axes than there should be, and negative extents.
    pub fn of_axes(
        name: &str,
        data: *mut u8,
        dtype: DType,
        shape: &[i64],
        strides: &[isize],
        axes: Axes,
    ) -> Result<Raw, Diagnostic> {
        let (wanted, names) = match axes {
            Axes::Rows => (4, "[batch, heads, tokens, dim] or [heads, tokens, dim]"),
            Axes::Numbers => (3, "[batch, heads, tokens] or [heads, tokens]"),
        };
        if shape.len() != wanted && shape.len() + 1 != wanted {
            return Err(refused(
                WRONG_SHAPE,
                name,
                &format!("has {} axes", shape.len()),
                &format!("{names} is wanted"),
            ));
        }
        let mut extents = [1_usize; 4];
        let mut steps = [0_isize; 4];
        let first = wanted - shape.len();
        for (axis, &extent) in shape.iter().enumerate() {
            let negative =
                |_| refused(WRONG_SHAPE, name, &format!("has an extent of {extent}"), "extents are not negative");
            extents[first + axis] = usize::try_from(extent).map_err(negative)?;
        }
        if strides.is_empty() {
            let mut step = dtype.size();
            for axis in (0..4).rev() {
                let overflow = || Self::layout(name, &LayoutError::Overflow);
                steps[axis] = isize::try_from(step).map_err(|_| overflow())?;
                step = step.checked_mul(extents[axis].max(1)).ok_or_else(overflow)?;
            }
        } else {
            steps[first..wanted].copy_from_slice(&strides[..shape.len()]);
            // Of an axis with one element the stride is anything; a whole one keeps the layout's rules simple.
            for axis in (0..4).filter(|&a| extents[a] == 1) {
                steps[axis] = 0;
            }
        }
        Ok(Raw { data, dtype, shape: extents, strides: steps })
    }

    /// An argument whose elements are of another type.
    #[must_use]
    pub fn wrong_type(name: &str, found: &str) -> Diagnostic {
        refused(WRONG_TYPE, name, &format!("has elements of {found}"), "convert it to float32, float16 or bfloat16")
    }

    /// An argument whose memory is laid out in a way that cannot be used.
    #[must_use]
    pub fn layout(name: &str, error: &LayoutError) -> Diagnostic {
        refused(WRONG_SHAPE, name, &format!("cannot be used where it lies: {error}"), "make a contiguous copy")
    }

    /// The lowest byte, and how many there are up to the highest.
    fn span(&self) -> Option<(isize, usize)> {
        if self.shape.contains(&0) {
            return Some((0, 0));
        }
        let (mut low, mut high) = (0_isize, isize::try_from(self.dtype.size()).ok()?);
        for (&extent, &stride) in self.shape.iter().zip(&self.strides) {
            let reach = isize::try_from(extent - 1).ok()?.checked_mul(stride)?;
            if reach < 0 { low = low.checked_add(reach)? } else { high = high.checked_add(reach)? }
        }
        Some((low, usize::try_from(high.checked_sub(low)?).ok()?))
    }

    /// The addresses from the first byte to the last; none if it has no elements.
    #[must_use]
    pub fn bytes(&self) -> Range<usize> {
        let (low, len) = self.span().unwrap_or((0, 0));
        let begin = self.data.addr().wrapping_add_signed(low);
        begin..begin.saturating_add(len)
    }

    /// Borrows it to be read.
    ///
    /// # Errors
    /// A layout that the library refuses.
    ///
    /// # Safety
    /// Every element between the extents is memory that may be read for `'a`, and is not written meanwhile.
    pub unsafe fn tensor<'a>(&self, name: &str) -> Result<Tensor<'a>, Diagnostic> {
        let (low, len) = self.span().ok_or_else(|| Self::layout(name, &LayoutError::Overflow))?;
        let bytes: &[u8] = if len == 0 {
            &[]
        } else if self.data.is_null() {
            return Err(refused(WRONG_MEMORY, name, "has no memory", "give a pointer to its elements"));
        } else {
            // SAFETY: from the lowest element to the end of the highest; the caller's promise.
            unsafe { std::slice::from_raw_parts(self.data.wrapping_offset(low), len) }
        };
        Tensor::new(bytes, low.unsigned_abs(), self.dtype, self.shape, self.strides).map_err(|e| Self::layout(name, &e))
    }

    /// Borrows it to be written.
    ///
    /// # Errors
    /// A layout that the library refuses, such as two elements in one place.
    ///
    /// # Safety
    /// Every element between the extents is memory that may be written for `'a`, and nobody else looks at meanwhile.
    pub unsafe fn tensor_mut<'a>(&self, name: &str) -> Result<TensorMut<'a>, Diagnostic> {
        let (low, len) = self.span().ok_or_else(|| Self::layout(name, &LayoutError::Overflow))?;
        let bytes: &mut [u8] = if len == 0 {
            &mut []
        } else if self.data.is_null() {
            return Err(refused(WRONG_MEMORY, name, "has no memory", "give a pointer to its elements"));
        } else {
            // SAFETY: from the lowest element to the end of the highest; the caller's promise.
            unsafe { std::slice::from_raw_parts_mut(self.data.wrapping_offset(low), len) }
        };
        TensorMut::new(bytes, low.unsigned_abs(), self.dtype, self.shape, self.strides)
            .map_err(|e| Self::layout(name, &e))
    }
}

/// Code of an argument of the C library that cannot be used.
pub const WRONG_ARGUMENT: &str = "E0740";

/// What is to be said of arguments of programs; the other codes are of tensors in files too.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: WRONG_MEMORY,
        title: "the memory of a tensor does not serve",
        explain: "Tensors of a C or Python program lie in memory of the CPU; an output may be written and shares no memory \
              with `q`, `k` or `v`.",
        example: "",
    },
    CodeInfo {
        code: WRONG_ARGUMENT,
        title: "an argument of the C library cannot be used",
        explain: "A pointer is null where it may not be, a handle was freed or is of another kind, a text is not UTF-8, or the \
              size that a structure begins with is not its own.",
        example: "",
    },
];

/// Name of a kind of device.
fn device_name(kind: i32) -> &'static str {
    match kind {
        2 => "cuda",
        7 => "vulkan",
        8 => "metal",
        10 => "rocm",
        13 => "cuda-managed",
        14 => "oneapi",
        15 => "webgpu",
        _ => "other",
    }
}

/// Name of a type of elements.
fn type_name(code: u8, bits: u8, lanes: u16) -> String {
    let kind = ["int", "uint", "float", "handle", "bfloat", "complex", "bool"].get(usize::from(code));
    let kind = kind.copied().unwrap_or("code ");
    match (kind, lanes) {
        ("bool", _) => kind.to_owned(),
        ("code ", _) => format!("code {code}, {bits} bits"),
        (_, 1) => format!("{kind}{bits}"),
        _ => format!("{kind}{bits}x{lanes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(data: &mut [f32], shape: &mut [i64], strides: Option<&mut [i64]>) -> DLTensor {
        DLTensor {
            data: data.as_mut_ptr().cast(),
            device: DLDevice { device_type: 1, device_id: 0 },
            ndim: shape.len() as i32,
            dtype: DLDataType { code: 2, bits: 32, lanes: 1 },
            shape: shape.as_mut_ptr(),
            strides: strides.map_or(std::ptr::null_mut(), <[i64]>::as_mut_ptr),
            byte_offset: 0,
        }
    }

    #[test]
    fn strided_memory_is_read_where_it_lies() {
        let mut data: Vec<f32> = (0..24).map(|x| x as f32).collect();
        // [tokens, heads, dim] seen as [heads, tokens, dim], tokens backwards.
        let (mut shape, mut strides) = ([2, 3, 4], [4, -8, 1]);
        let mut tensor = of(&mut data, &mut shape, Some(&mut strides));
        tensor.byte_offset = 16 * 4;
        // SAFETY: shapes and strides have three numbers, and the data outlive the tensor.
        let t = unsafe { Raw::of_dlpack("q", &tensor, Axes::Rows).expect("fits").tensor("q").expect("fits") };
        assert_eq!((t.shape(), t.get([0, 1, 0, 2]), t.get([0, 0, 2, 0])), ([1, 2, 3, 4], 22.0, 0.0));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let mut data = [0.0_f32; 8];
        let said = |change: &dyn Fn(&mut DLTensor), shape: &mut [i64], axes| {
            let mut tensor = of(&mut data.clone(), shape, None);
            change(&mut tensor);
            // SAFETY: the shape has as many numbers as axes.
            unsafe { Raw::of_dlpack("k", &tensor, axes) }.expect_err("refused").message
        };
        let shape = &mut [1, 2, 2, 2];
        assert_eq!(said(&|t| t.device.device_type = 2, shape, Axes::Rows), "`k` is on device cuda:0");
        assert_eq!(said(&|t| t.dtype.code = 0, shape, Axes::Rows), "`k` has elements of int32");
        assert_eq!(said(&|_| (), &mut [8], Axes::Rows), "`k` has 1 axes");
        assert_eq!(said(&|_| (), &mut [2, -1, 2], Axes::Numbers), "`k` has an extent of -1");
        let (mut shape, mut strides) = ([2, 2, 2], [0, 2, 1]);
        let tensor = of(&mut data, &mut shape, Some(&mut strides));
        // SAFETY: three numbers each; nothing else looks at the data.
        let (raw, twice) = unsafe {
            let raw = Raw::of_dlpack("out", &tensor, Axes::Rows).expect("four axes");
            (raw, raw.tensor_mut("out").expect_err("two elements in one place").message)
        };
        assert!(twice.starts_with("`out` cannot be used where it lies"), "{twice}");
        assert!(apart("out", &raw.bytes(), [("q", raw.bytes())]).is_err());
        let nothing = Raw { shape: [1, 0, 2, 2], ..raw };
        assert!(apart("out", &nothing.bytes(), [("q", raw.bytes())]).is_ok());
    }
}
