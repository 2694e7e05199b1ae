//! Every kernel as plainly as it can be said: the truth that faster versions are tested against, and what
//! CPUs without a version of their own run.
//!
//! The one idea: no cleverness. Sums run over keys or dims in order, a tile's sum is formed on its own and then
//! added to the running one, which keeps the error of long sequences that of the tiles' count. Nothing here
//! names an instruction.
//!
//! The contract of each function is in [`crate::abi::Table`].

use crate::abi::{Ahead, BK, BQ_MAX, DType, FEW, HALF, KvView, Next, Table};
use crate::select::plain;
use crate::tensor::{indexed, packed, place};

/// The table of these kernels.
pub(crate) const TABLE: Table = Table {
    pack_q,
    kv_tile,
    qk,
    few_qk,
    few_pv,
    own_qk,
    own_pv,
    softmax,
    pv,
    null_slot,
    start,
    finish,
    pool_sum: plain::pool_sum,
    pool_max: plain::pool_max,
    keep: plain::keep,
    reduce: plain::reduce,
};

/// See [`Table::pack_q`].
///
/// # Safety
/// `src` holds the rows, `index` is null or holds `rows` numbers, `dst` has `d * bq` elements.
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub unsafe extern "C" fn pack_q(
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
    let dtype = DType::of_code(dtype);
    let (rows, bq, d) = (rows as usize, bq as usize, d as usize);
    // SAFETY: `dst` has `d * bq` elements.
    let dst = unsafe { core::slice::from_raw_parts_mut(dst, d * bq) };
    if bq != FEW {
        dst.fill(0.0);
    }
    for lane in 0..rows {
        // SAFETY: the caller gives `rows` row numbers, and rows of `d` elements with these strides.
        unsafe {
            let row = src.offset(indexed(index, lane) * row_stride as isize);
            for i in 0..d {
                dst[place(bq, lane, i, d)] = dtype.load(row.offset(i as isize * col_stride as isize)) * scale;
            }
        }
    }
}

/// See [`Table::kv_tile`].
///
/// # Safety
/// `view` describes a tensor that holds the rows, `scratch` has `keys * dim` elements.
pub unsafe extern "C" fn kv_tile(view: *const KvView, first: i64, keys: i64, scratch: *mut f32) {
    // SAFETY: promised by the caller.
    unsafe {
        let view = &*view;
        let dtype = DType::of_code(i64::from(view.dtype));
        let dim = view.dim as usize;
        for key in 0..keys as usize {
            let row = view.row(first as usize + key);
            for i in 0..dim {
                *scratch.add(key * dim + i) = dtype.load(row.offset(i as isize * view.col_stride as isize));
            }
        }
    }
}

/// See [`Table::qk`].
///
/// # Safety
/// `q` has `d * bq` elements, `k` addresses of `keys` rows of `d`, `s` `keys * bq`; `lanes <= bq`, a multiple of
/// [`crate::abi::LANE_STEP`].
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub unsafe extern "C" fn qk(
    q: *const f32,
    k: *const *const f32,
    keys: i64,
    d: i64,
    lanes: i64,
    half: i64,
    bq: i64,
    s: *mut f32,
    from: *const f32,
    pitch: i64,
    _next: *const Next,
) {
    let (d, bq) = (d as usize, bq as usize);
    for key in 0..keys as usize {
        let first = if key < half as usize { 0 } else { HALF };
        for half in (first..lanes as usize).step_by(HALF) {
            let mut sum = [0.0f32; HALF];
            // SAFETY: key, lane and element are within the sizes that the caller promised.
            unsafe {
                let row = *k.add(key);
                for i in 0..d {
                    let q = &*q.add(packed(half, i, d)).cast::<[f32; HALF]>();
                    let k = *row.add(i);
                    for (sum, q) in sum.iter_mut().zip(q) {
                        *sum += k * q;
                    }
                }
                if !from.is_null() {
                    let from = &*from.offset(key as isize * pitch as isize).add(half).cast::<[f32; HALF]>();
                    for (sum, from) in sum.iter_mut().zip(from) {
                        *sum += from;
                    }
                }
                *s.add(key * bq + half).cast::<[f32; HALF]>() = sum;
            }
        }
    }
}

/// See [`Table::softmax`].
///
/// # Safety
/// `s` has `keys * bq` elements, `mask` is null or has `lanes`, `m`, `l`, `alpha` have `bq`; `keys <= 64`.
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub unsafe extern "C" fn softmax(
    s: *mut f32,
    keys: i64,
    lanes: i64,
    bq: i64,
    mask: *const u64,
    m: *mut f32,
    l: *mut f32,
    alpha: *mut f32,
) -> i64 {
    let (keys, bq) = (keys as usize, bq as usize);
    let mut rescale = 0;
    for lane in 0..lanes as usize {
        // SAFETY: key and lane are within the sizes that the caller promised.
        unsafe {
            let bits = if mask.is_null() { u64::MAX } else { *mask.add(lane) };
            let at = |key: usize| s.add(key * bq + lane);
            let old = *m.add(lane);
            let mut new = old;
            for key in 0..keys {
                if bits >> key & 1 == 0 {
                    *at(key) = f32::NEG_INFINITY;
                }
                // A NaN is never the maximum: it reaches the row through its exponential.
                if *at(key) > new {
                    new = *at(key);
                }
            }
            // While all scores are -inf any finite number serves: exp(-inf - 0) = 0, and not NaN.
            let origin = if new == f32::NEG_INFINITY { 0.0 } else { new };
            let mut sum = 0.0;
            for key in 0..keys {
                let p = (*at(key) - origin).exp();
                *at(key) = p;
                sum += p;
            }
            let factor = if old == new { 1.0 } else { (old - new).exp() };
            if factor != 1.0 {
                rescale = 1;
            }
            *m.add(lane) = new;
            *l.add(lane) = *l.add(lane) * factor + sum;
            *alpha.add(lane) = factor;
        }
    }
    rescale
}

/// See [`Table::pv`].
///
/// # Safety
/// `p` has `keys * bq` elements, `v` addresses of `keys` rows of `dv`, `acc` `dv * bq`; `mask` is null or has `lanes`
/// elements, `alpha` is null or has `bq`; `lanes <= bq <= BQ_MAX`, `keys <= 64`.
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub unsafe extern "C" fn pv(
    p: *const f32,
    v: *const *const f32,
    keys: i64,
    dv: i64,
    lanes: i64,
    half: i64,
    bq: i64,
    mask: *const u64,
    alpha: *const f32,
    acc: *mut f32,
    _next: *const Next,
) {
    let (lanes, bq, dv) = (lanes as usize, bq as usize, dv as usize);
    for i in 0..dv {
        let mut sum = [0.0f32; BQ_MAX];
        // SAFETY: key, lane and element are within the sizes that the caller promised.
        unsafe {
            for key in 0..keys as usize {
                let v = *(*v.add(key)).add(i);
                let first = if key < half as usize { 0 } else { HALF };
                for (lane, sum) in sum[..lanes].iter_mut().enumerate().skip(first) {
                    if mask.is_null() || *mask.add(lane) >> key & 1 == 1 {
                        *sum += v * *p.add(key * bq + lane);
                    }
                }
            }
            for (lane, sum) in sum[..lanes].iter().enumerate() {
                let acc = acc.add(packed(lane, i, dv));
                *acc = if alpha.is_null() { *acc } else { *acc * *alpha.add(lane) } + sum;
            }
        }
    }
}

/// See [`Table::few_qk`].
///
/// # Safety
/// `q` has `lanes` rows of `d`, `k` `keys` rows of `d`, `s` `keys` rows of [`FEW`]; `lanes <= FEW`.
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub unsafe extern "C" fn few_qk(
    q: *const f32,
    k: *const u8,
    dtype: i64,
    k_stride: i64,
    keys: i64,
    d: i64,
    lanes: i64,
    s: *mut f32,
    _ahead: *const Ahead,
) {
    let (dtype, d, lanes) = (DType::of_code(dtype), d as usize, lanes as usize);
    for key in 0..keys as usize {
        let mut sum = [0.0f32; FEW];
        // SAFETY: key, lane and element are within the sizes that the caller promised.
        unsafe {
            let row = k.offset(key as isize * k_stride as isize);
            for i in 0..d {
                let k = dtype.load(row.add(i * dtype.size()));
                for (lane, sum) in sum[..lanes].iter_mut().enumerate() {
                    *sum += k * *q.add(lane * d + i);
                }
            }
            *s.add(key * FEW).cast::<[f32; FEW]>() = sum;
        }
    }
}

/// See [`Table::few_pv`].
///
/// # Safety
/// `p` has `keys` rows of [`FEW`], `v` `keys` rows of `dv`, `acc` `lanes` rows of `dv`; `mask` and `alpha` are null or
/// have `lanes` elements; `lanes <= FEW`, `keys <= 64`.
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub unsafe extern "C" fn few_pv(
    p: *const f32,
    v: *const u8,
    dtype: i64,
    v_stride: i64,
    keys: i64,
    dv: i64,
    lanes: i64,
    mask: *const u64,
    alpha: *const f32,
    acc: *mut f32,
    _ahead: *const Ahead,
) {
    let (dtype, dv) = (DType::of_code(dtype), dv as usize);
    for lane in 0..lanes as usize {
        for i in 0..dv {
            let mut sum = 0.0;
            // SAFETY: key, lane and element are within the sizes that the caller promised.
            unsafe {
                for key in 0..keys as usize {
                    if mask.is_null() || *mask.add(lane) >> key & 1 == 1 {
                        let row = v.offset(key as isize * v_stride as isize);
                        sum += dtype.load(row.add(i * dtype.size())) * *p.add(key * FEW + lane);
                    }
                }
                let acc = acc.add(lane * dv + i);
                *acc = if alpha.is_null() { *acc } else { *acc * *alpha.add(lane) } + sum;
            }
        }
    }
}

/// Numbers of the keys of a row.
///
/// # Safety
/// `mask` is null or has an element for the row; `keys` is from 1 to 64.
unsafe fn own_keys(mask: *const u64, row: usize, keys: usize) -> impl Iterator<Item = usize> {
    // SAFETY: promised by the caller.
    let bits = if mask.is_null() { u64::MAX } else { unsafe { *mask.add(row) } };
    (0..keys).filter(move |key| bits >> key & 1 == 1)
}

/// See [`Table::own_qk`].
///
/// # Safety
/// `q` has `rows` rows of `d`, `k` `keys` addresses of rows of `d`, `s` `rows` rows of 64; `mask` is null or has `rows`
/// elements; `keys` is from 1 to 64.
pub unsafe extern "C" fn own_qk(
    q: *const f32,
    k: *const *const f32,
    keys: i64,
    d: i64,
    rows: i64,
    mask: *const u64,
    s: *mut f32,
) {
    let (keys, d) = (keys as usize, d as usize);
    for row in 0..rows as usize {
        // SAFETY: rows, keys and elements are within the sizes that the caller promised.
        unsafe {
            for (j, key) in own_keys(mask, row, keys).enumerate() {
                let k = *k.add(key);
                *s.add(row * BK + j) = (0..d).fold(0.0, |sum, i| sum + *k.add(i) * *q.add(row * d + i));
            }
        }
    }
}

/// See [`Table::own_pv`].
///
/// # Safety
/// As for [`own_qk`], with rows of `dv`; `m` and `l` have `rows` elements, `acc` `rows` rows of `dv`.
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub unsafe extern "C" fn own_pv(
    s: *mut f32,
    v: *const *const f32,
    keys: i64,
    dv: i64,
    rows: i64,
    mask: *const u64,
    m: *mut f32,
    l: *mut f32,
    acc: *mut f32,
) {
    let (keys, dv) = (keys as usize, dv as usize);
    for row in 0..rows as usize {
        // SAFETY: rows, keys and elements are within the sizes that the caller promised.
        unsafe {
            let count = own_keys(mask, row, keys).count();
            let s = core::slice::from_raw_parts_mut(s.add(row * BK), count);
            let old = *m.add(row);
            // A NaN is never the maximum.
            let top = s.iter().fold(old, |top, &s| if s > top { s } else { top });
            let origin = if top == f32::NEG_INFINITY { 0.0 } else { top };
            let alpha = if old == top { 1.0 } else { (old - origin).exp() };
            let mut sum = 0.0;
            for s in &mut *s {
                *s = (*s - origin).exp();
                sum += *s;
            }
            (*m.add(row), *l.add(row)) = (top, *l.add(row) * alpha + sum);
            for i in 0..dv {
                let values =
                    own_keys(mask, row, keys).zip(&*s).fold(0.0, |sum, (key, p)| sum + *(*v.add(key)).add(i) * p);
                let acc = acc.add(row * dv + i);
                *acc = *acc * alpha + values;
            }
        }
    }
}

/// See [`Table::null_slot`].
///
/// # Safety
/// `lane < bq`; `m` and `l` have `bq` elements, `acc` `dv * bq`.
pub unsafe extern "C" fn null_slot(bias: f32, lane: i64, bq: i64, dv: i64, m: *mut f32, l: *mut f32, acc: *mut f32) {
    if bias == f32::NEG_INFINITY {
        return;
    }
    let (lane, dv) = (lane as usize, dv as usize);
    // SAFETY: lane and element are within the sizes that the caller promised.
    unsafe {
        let old = *m.add(lane);
        let new = if bias > old { bias } else { old };
        // A NaN bias leaves the maximum alone and makes the sum NaN.
        let origin = if new == f32::NEG_INFINITY { 0.0 } else { new };
        let alpha = if old == new { 1.0 } else { (old - new).exp() };
        *m.add(lane) = new;
        *l.add(lane) = *l.add(lane) * alpha + (bias - origin).exp();
        if alpha != 1.0 {
            for i in 0..dv {
                *acc.add(place(bq as usize, lane, i, dv)) *= alpha;
            }
        }
    }
}

/// See [`Table::start`].
///
/// # Safety
/// `lanes <= bq`; `m` and `l` have `bq` elements, `acc` `dv * bq`.
pub unsafe extern "C" fn start(lanes: i64, bq: i64, dv: i64, m: *mut f32, l: *mut f32, acc: *mut f32) {
    let (lanes, dv) = (lanes as usize, dv as usize);
    // Vectors of few queries are whole.
    let all = if bq as usize == FEW { FEW } else { lanes };
    // SAFETY: every range is within the sizes that the caller promised.
    unsafe {
        core::slice::from_raw_parts_mut(m, all).fill(f32::NEG_INFINITY);
        core::slice::from_raw_parts_mut(l, all).fill(0.0);
        core::slice::from_raw_parts_mut(acc, dv * lanes).fill(0.0);
    }
}

/// See [`Table::finish`].
///
/// # Safety
/// `acc` has `dv * bq` elements, `m` and `l` `bq`; `index` is null or has `rows` numbers; `dst` and, unless null,
/// `lse` can be written at the rows that they name; `rows <= bq`.
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub unsafe extern "C" fn finish(
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
    let (dtype, dv, bq) = (DType::of_code(dtype), dv as usize, bq as usize);
    // SAFETY: lane, element and row are within the sizes that the caller promised.
    unsafe {
        for lane in 0..rows as usize {
            let sum = *l.add(lane);
            let row = dst.offset(indexed(index, lane) * row_stride as isize);
            for i in 0..dv {
                let o = if sum == 0.0 { 0.0 } else { *acc.add(place(bq, lane, i, dv)) / sum };
                dtype.store(row.offset(i as isize * col_stride as isize), o);
            }
        }
        finish_lse(m, l, rows, lse_index, lse, lse_stride);
    }
}

/// Writes `m + log l` of `rows` lanes, -inf where `l` is 0; nothing if `lse` is null.
///
/// # Safety
/// As for [`finish`].
pub(crate) unsafe fn finish_lse(
    m: *const f32,
    l: *const f32,
    rows: i64,
    index: *const u32,
    lse: *mut f32,
    lse_stride: i64,
) {
    if lse.is_null() {
        return;
    }
    for lane in 0..rows as usize {
        // SAFETY: lane and row are within the sizes that the caller promised.
        unsafe {
            let sum = *l.add(lane);
            let value = if sum == 0.0 { f32::NEG_INFINITY } else { *m.add(lane) + sum.ln() };
            lse.byte_offset(indexed(index, lane) * lse_stride as isize).write_unaligned(value);
        }
    }
}
