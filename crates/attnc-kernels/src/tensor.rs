//! Elements and rows of tensors in memory, as every kernel sees them.
//!
//! The one idea: an address computed here is the only way from a view to bytes, so that strides, pages,
//! row lists and element types are understood once. Nothing here knows of tiles' contents.

use half::{bf16, f16};

use crate::abi::{CACHE_LINE, DType, FEW, KvView, LANE_STEP};

impl DType {
    /// The type with number `code`.
    ///
    /// # Panics
    /// If there is none, which breaks the contract.
    pub(crate) fn of_code(code: i64) -> DType {
        match code {
            0 => DType::F32,
            1 => DType::F16,
            2 => DType::Bf16,
            _ => panic!("no element type has the number {code}"),
        }
    }

    /// Reads the element at `at`.
    ///
    /// # Safety
    /// `at` points to an element of this type; any alignment.
    #[inline(always)]
    pub(crate) unsafe fn load(self, at: *const u8) -> f32 {
        // SAFETY: the caller gives the address of an element of this size.
        unsafe {
            match self {
                DType::F32 => at.cast::<f32>().read_unaligned(),
                DType::F16 => f16::from_bits(at.cast::<u16>().read_unaligned()).to_f32(),
                DType::Bf16 => bf16::from_bits(at.cast::<u16>().read_unaligned()).to_f32(),
            }
        }
    }

    /// Writes `x`, rounded to nearest even, at `at`.
    ///
    /// # Safety
    /// `at` may be written as an element of this type; any alignment.
    #[inline(always)]
    pub(crate) unsafe fn store(self, at: *mut u8, x: f32) {
        // SAFETY: the caller gives the address of an element of this size.
        unsafe {
            match self {
                DType::F32 => at.cast::<f32>().write_unaligned(x),
                DType::F16 => at.cast::<u16>().write_unaligned(f16::from_f32(x).to_bits()),
                DType::Bf16 => at.cast::<u16>().write_unaligned(bf16::from_f32(x).to_bits()),
            }
        }
    }
}

impl KvView {
    /// Address of row `index` of the schedule.
    ///
    /// # Safety
    /// `index` is within `rows`, and the row it names within the tensor.
    #[inline]
    pub(crate) unsafe fn row(&self, index: usize) -> *const u8 {
        // SAFETY: the caller keeps `index` within the list, and the row's page within the table.
        let row = if self.rows.is_null() { index } else { unsafe { *self.rows.add(index) as usize } };
        if self.page_rows == 0 {
            return self.base.wrapping_offset(row as isize * self.row_stride as isize);
        }
        let page_rows = self.page_rows as usize;
        // SAFETY: as above; `page_rows` is a power of two.
        let page = unsafe { *self.table.add(row >> page_rows.trailing_zeros()) };
        self.base
            .wrapping_offset(page as isize * self.page_stride as isize)
            .wrapping_offset((row & (page_rows - 1)) as isize * self.row_stride as isize)
    }

    /// Asks memory for rows, to the second-level cache: they are read later, and others before them.
    ///
    /// # Safety
    /// As for [`Self::addresses`], for the rows that are numbered.
    pub unsafe fn ask(&self, numbers: &[u32]) {
        let bytes = self.dim as usize * DType::of_code(i64::from(self.dtype)).size();
        for &number in numbers {
            // SAFETY: promised by the caller.
            let row = unsafe { self.row(number as usize) };
            (0..bytes).step_by(CACHE_LINE).for_each(|byte| ask(row.wrapping_add(byte)));
        }
    }

    /// Stores the addresses of rows `first .. first + keys`, of any type, to `to`.
    ///
    /// # Safety
    /// The view describes a tensor that holds the rows, and `to` has room for as many addresses.
    #[inline]
    pub unsafe fn addresses(&self, first: usize, keys: usize, to: *mut *const u8) {
        // SAFETY: as promised by the caller.
        unsafe {
            if self.page_rows == 0 && self.rows.is_null() {
                let start = self.base.wrapping_offset(first as isize * self.row_stride as isize);
                for key in 0..keys {
                    to.add(key).write(start.wrapping_offset(key as isize * self.row_stride as isize));
                }
                return;
            }
            for key in 0..keys {
                to.add(key).write(self.row(first + key));
            }
        }
    }

    /// Whether kernels read the rows where they lie: aligned f32 with unit inner stride, of which a cache holds a tile.
    #[must_use]
    #[inline]
    pub fn in_place(&self) -> bool {
        let bytes = DType::F32.size() as i64;
        let aligned = |x: i64| x % bytes == 0;
        self.dtype == DType::F32 as u32
            && (self.col_stride == bytes || self.dim == 1)
            && aligned(self.base.addr() as i64)
            && aligned(self.row_stride)
            && (self.page_rows == 0 || aligned(self.page_stride))
            && !crowded(self.row_stride as isize, self.dim as usize * DType::F32.size())
    }

    /// The rows `first .. first + keys` where they lie, as the first row's address and the distance of rows in bytes, if
    /// they have unit inner stride and are equally spaced.
    ///
    /// # Safety
    /// The view describes a tensor that holds the rows.
    #[must_use]
    #[inline]
    pub unsafe fn spaced(&self, first: usize, keys: usize) -> Option<(*const u8, i64)> {
        let element = DType::of_code(i64::from(self.dtype)).size();
        if self.col_stride != element as i64 && self.dim > 1 {
            return None;
        }
        // SAFETY: the caller keeps the rows within the tensor.
        let row = |i: usize| unsafe { self.row(first + i) };
        let start = row(0);
        let step = if keys > 1 { row(1).addr().wrapping_sub(start.addr()) as isize } else { 0 };
        let regular = (self.page_rows == 0 && self.rows.is_null())
            || (2..keys).all(|i| row(i) == start.wrapping_offset(step * i as isize));
        regular.then_some((start, step as i64))
    }
}

/// Whether rows of `bytes` bytes, `step` bytes apart, share so few sets of a first-level cache (64 sets of lines of 64
/// bytes, 8 ways) that a tile of them does not stay there though it would fit.
fn crowded(step: isize, bytes: usize) -> bool {
    let apart = 1_usize << step.unsigned_abs().trailing_zeros().min(12);
    step != 0 && apart > bytes.next_power_of_two().max(512)
}

/// Row number `i`, looked up in `index` unless that is null.
///
/// # Safety
/// `index` is null or holds more than `i` numbers.
#[inline]
pub(crate) unsafe fn indexed(index: *const u32, i: usize) -> isize {
    // SAFETY: promised by the caller.
    if index.is_null() { i as isize } else { unsafe { *index.add(i) as isize } }
}

/// As [`packed`], of tiles of few queries too.
#[inline]
pub(crate) fn place(bq: usize, lane: usize, i: usize, dim: usize) -> usize {
    if bq == FEW { lane * dim + i } else { packed(lane, i, dim) }
}

/// Place of element `i` of lane `lane` in packed queries or an accumulator of `dim` elements a lane.
#[inline]
pub(crate) fn packed(lane: usize, i: usize, dim: usize) -> usize {
    (lane / LANE_STEP * dim + i) * LANE_STEP + lane % LANE_STEP
}

/// Asks memory for the line at `at`, any address, to the second-level cache: what is asked for is not the next thing
/// that is read, and the first level is full of what is.
#[inline(always)]
pub(crate) fn ask(at: *const u8) {
    // SAFETY: a prefetch reads nothing that could fault.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks memory for a row of `bytes` bytes at `at`, to the first-level cache.
#[inline(always)]
pub(crate) fn ask_row(at: *const u8, bytes: usize) {
    for byte in (0..bytes).step_by(CACHE_LINE) {
        // SAFETY: as in `ask`.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(at.wrapping_add(byte).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (at, byte);
    }
}
