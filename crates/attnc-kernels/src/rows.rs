//! Moving rows between tensors and tiles, on vectors of any width: packing queries, reading K and V, writing outputs.
//!
//! The one idea: squares of as many rows as a vector has lanes, transposed in registers, with conversion on the way; rows
//! that are far apart are asked for before the square that needs them. What has no unit inner stride goes element by
//! element into the same squares.
//!
//! The contract of each function is in [`crate::abi::Table`].

use crate::abi::{DType, FEW, KvView, LANE_STEP};
use crate::scalar::finish_lse;
use crate::tensor::{ask_row, indexed, packed};
use crate::vector::{BF16, F16, F32, Vector, size};

/// Rows that are asked for ahead of the one being copied.
const AHEAD: usize = 8;

/// Rows of a tensor.
#[derive(Clone, Copy)]
struct Rows {
    base: *mut u8,
    /// Bytes from row to row.
    stride: isize,
    /// Bytes from element to element.
    step: isize,
    /// Numbers of the rows, or null where they follow one another.
    index: *const u32,
    /// Elements of a row.
    dim: usize,
}

impl Rows {
    /// # Safety
    /// `index` is null or holds row `i`.
    #[inline(always)]
    unsafe fn at(&self, i: usize) -> *mut u8 {
        // SAFETY: promised by the caller.
        self.base.wrapping_offset(unsafe { indexed(self.index, i) } * self.stride)
    }

    /// Whether elements of type `T` lie side by side.
    #[inline(always)]
    fn contiguous<const T: u32>(&self) -> bool {
        self.step == size::<T>() as isize || self.dim == 1
    }

    /// Asks for rows `rows`, as far as there are any, unless hardware foresees them.
    #[inline(always)]
    unsafe fn ask<const T: u32>(&self, rows: core::ops::Range<usize>) {
        let bytes = self.dim * size::<T>();
        if self.index.is_null() && self.stride.unsigned_abs() < 2 * bytes {
            return;
        }
        for i in rows {
            // SAFETY: promised by the caller.
            ask_row(unsafe { self.at(i) }, bytes);
        }
    }
}

/// Elements `i ..` of a row, as many as a vector has lanes or fewer; the other lanes are 0.
#[inline(always)]
unsafe fn load<V: Vector, const T: u32>(row: *const u8, rows: &Rows, i: usize) -> V {
    let n = V::WIDTH.min(rows.dim - i);
    // SAFETY: the caller promises a row of `dim` elements.
    unsafe {
        if rows.contiguous::<T>() {
            let at = row.wrapping_add(i * size::<T>());
            return if n == V::WIDTH { V::load_of::<T>(at) } else { V::load_some::<T>(at, n) };
        }
        let mut lanes = [0.0f32; LANE_STEP];
        for (j, lane) in lanes[..n].iter_mut().enumerate() {
            *lane = dtype::<T>().load(row.wrapping_offset((i + j) as isize * rows.step));
        }
        V::load(lanes.as_ptr())
    }
}

/// Elements of a row that are whole vectors of types `T` and `U`, one side by side as the other.
#[inline(always)]
fn whole<V: Vector, const T: u32, const U: u32>(from: &Rows, to: &Rows) -> usize {
    if from.contiguous::<T>() && to.contiguous::<U>() { to.dim / V::WIDTH * V::WIDTH } else { 0 }
}

/// Writes the lanes of `x` to elements `i ..` of a row, as far as it goes.
#[inline(always)]
unsafe fn store<V: Vector, const T: u32>(row: *mut u8, rows: &Rows, i: usize, x: V) {
    let n = V::WIDTH.min(rows.dim - i);
    // SAFETY: the caller promises a row of `dim` elements, which may be written.
    unsafe {
        if rows.contiguous::<T>() {
            let at = row.wrapping_add(i * size::<T>());
            return if n == V::WIDTH { x.store_of::<T>(at) } else { x.store_some::<T>(at, n) };
        }
        let mut lanes = [0.0f32; LANE_STEP];
        x.store(lanes.as_mut_ptr());
        for (j, &lane) in lanes[..n].iter().enumerate() {
            dtype::<T>().store(row.wrapping_offset((i + j) as isize * rows.step), lane);
        }
    }
}

#[inline(always)]
fn dtype<const T: u32>() -> DType {
    match T {
        F32 => DType::F32,
        F16 => DType::F16,
        _ => DType::Bf16,
    }
}

/// Calls a function for an element type known when run.
macro_rules! of_type {
    ($dtype:expr, $f:ident::<$v:ty>($($arg:expr),* $(,)?)) => {
        match DType::of_code($dtype) {
            DType::F32 => $f::<$v, F32>($($arg),*),
            DType::F16 => $f::<$v, F16>($($arg),*),
            DType::Bf16 => $f::<$v, BF16>($($arg),*),
        }
    };
}

/// See [`crate::abi::Table::pack_q`].
///
/// # Safety
/// As there, and for [`Vector`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(crate) unsafe fn pack_q<V: Vector>(
    src: *const u8,
    dtype: i64,
    row_stride: i64,
    col_stride: i64,
    index: *const u32,
    rows: i64,
    bq: i64,
    d: i64,
    scale: f32,
    dst: *mut f32,
) {
    let from =
        Rows { base: src.cast_mut(), stride: row_stride as isize, step: col_stride as isize, index, dim: d as usize };
    // SAFETY: as promised by the caller.
    unsafe { of_type!(dtype, pack::<V>(&from, rows as usize, bq as usize, scale, dst)) }
}

#[inline(always)]
unsafe fn pack<V: Vector, const T: u32>(from: &Rows, rows: usize, bq: usize, scale: f32, dst: *mut f32) {
    let d = from.dim;
    // SAFETY: rows, elements and lanes are within the sizes that the caller promised.
    unsafe {
        let scale = V::set(scale);
        if bq == FEW {
            let to = singles(dst, d);
            let whole = whole::<V, T, F32>(from, &to);
            for lane in 0..rows {
                let (row, at) = (from.at(lane), to.at(lane));
                for i in (0..whole).step_by(V::WIDTH) {
                    let x = V::load_of::<T>(row.add(i * size::<T>())).mul(scale);
                    x.store_of::<F32>(at.add(i * size::<F32>()));
                }
                for i in (whole..d).step_by(V::WIDTH) {
                    store::<V, F32>(at, &to, i, load::<V, T>(row, from, i).mul(scale));
                }
            }
            return;
        }
        from.ask::<T>(0..rows.min(LANE_STEP));
        for lane in (0..bq).step_by(V::WIDTH) {
            let present = rows.saturating_sub(lane).min(V::WIDTH);
            from.ask::<T>((lane + LANE_STEP).min(rows)..(lane + LANE_STEP + V::WIDTH).min(rows));
            for i in (0..d).step_by(V::WIDTH) {
                let mut square = V::square();
                for (r, x) in square.as_mut()[..present].iter_mut().enumerate() {
                    *x = load::<V, T>(from.at(lane + r), from, i).mul(scale);
                }
                let square = V::transpose(square);
                for (j, x) in square.as_ref()[..V::WIDTH.min(d - i)].iter().enumerate() {
                    x.store(dst.add(packed(lane, i + j, d)));
                }
            }
        }
    }
}

/// Contiguous rows of singles.
#[inline(always)]
fn singles(base: *mut f32, dim: usize) -> Rows {
    let step = size_of::<f32>() as isize;
    Rows { base: base.cast(), stride: dim as isize * step, step, index: core::ptr::null(), dim }
}

/// See [`crate::abi::Table::kv_tile`].
///
/// # Safety
/// As there, and for [`Vector`].
#[inline(always)]
pub(crate) unsafe fn kv_tile<V: Vector>(view: *const KvView, first: i64, keys: i64, scratch: *mut f32) {
    // SAFETY: as promised by the caller.
    unsafe { of_type!(i64::from((*view).dtype), copy::<V>(&*view, first as usize, keys as usize, scratch)) }
}

#[inline(always)]
unsafe fn copy<V: Vector, const T: u32>(view: &KvView, first: usize, keys: usize, scratch: *mut f32) {
    let dim = view.dim as usize;
    let to = singles(scratch, dim);
    let from = Rows { step: view.col_stride as isize, ..to };
    let whole = whole::<V, T, F32>(&from, &to);
    // Rows that follow one another are foreseen by hardware.
    let near = view.page_rows == 0 && view.rows.is_null() && view.row_stride.unsigned_abs() < 1024;
    // SAFETY: the caller promises a view that holds the rows, and room for them in `scratch`.
    unsafe {
        for key in 0..keys {
            if !near && key + AHEAD < keys {
                ask_row(view.row(first + key + AHEAD), dim * size::<T>());
            }
            let row = view.row(first + key);
            let mut i = 0;
            while i < whole {
                V::load_of::<T>(row.add(i * size::<T>())).store(scratch.add(key * dim + i));
                i += V::WIDTH;
            }
            while i < dim {
                store::<V, F32>(to.at(key), &to, i, load::<V, T>(row, &from, i));
                i += V::WIDTH;
            }
        }
    }
}

/// See [`crate::abi::Table::finish`].
///
/// # Safety
/// As there, and for [`Vector`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(crate) unsafe fn finish<V: Vector>(
    acc: *const f32,
    m: *const f32,
    l: *const f32,
    rows: i64,
    bq: i64,
    dv: i64,
    dst: *mut u8,
    dtype: i64,
    row_stride: i64,
    col_stride: i64,
    index: *const u32,
    lse: *mut f32,
    lse_stride: i64,
    lse_index: *const u32,
) {
    let to = Rows { base: dst, stride: row_stride as isize, step: col_stride as isize, index, dim: dv as usize };
    // SAFETY: as promised by the caller.
    unsafe {
        of_type!(dtype, unpack::<V>(acc, l, rows as usize, bq as usize, &to));
        finish_lse(m, l, rows, lse_index, lse, lse_stride);
    }
}

#[inline(always)]
unsafe fn unpack<V: Vector, const T: u32>(acc: *const f32, l: *const f32, rows: usize, bq: usize, to: &Rows) {
    let dv = to.dim;
    // SAFETY: rows, elements and lanes are within the sizes that the caller promised; `bq` is a multiple of a vector's
    // lanes where lanes lie side by side.
    unsafe {
        let (zero, one) = (V::set(0.0), V::set(1.0));
        if bq == FEW {
            let from = singles(acc.cast_mut(), dv);
            let whole = whole::<V, F32, T>(&from, to);
            for lane in 0..rows {
                let sum = V::set(*l.add(lane));
                let (some, inverse) = (sum.differs(zero), one.div(sum));
                let (row, at) = (from.at(lane), to.at(lane));
                for i in (0..whole).step_by(V::WIDTH) {
                    let o = V::load_of::<F32>(row.add(i * size::<F32>())).mul(inverse).only(some);
                    o.store_of::<T>(at.add(i * size::<T>()));
                }
                for i in (whole..dv).step_by(V::WIDTH) {
                    store::<V, T>(at, to, i, load::<V, F32>(row, &from, i).mul(inverse).only(some));
                }
            }
            return;
        }
        to.ask::<T>(0..rows.min(LANE_STEP));
        for lane in (0..rows).step_by(V::WIDTH) {
            let present = V::WIDTH.min(rows - lane);
            to.ask::<T>((lane + LANE_STEP).min(rows)..(lane + LANE_STEP + V::WIDTH).min(rows));
            let sum = V::load(l.add(lane));
            // NaN differs, and passes.
            let (some, inverse) = (sum.differs(zero), one.div(sum));
            for i in (0..dv).step_by(V::WIDTH) {
                let mut square = V::square();
                for (j, x) in square.as_mut()[..V::WIDTH.min(dv - i)].iter_mut().enumerate() {
                    *x = V::load(acc.add(packed(lane, i + j, dv))).mul(inverse).only(some);
                }
                let square = V::transpose(square);
                for (r, x) in square.as_ref()[..present].iter().enumerate() {
                    store::<V, T>(to.at(lane + r), to, i, *x);
                }
            }
        }
    }
}
