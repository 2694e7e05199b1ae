//! Operations on rows: what compiled score modifiers are made of.
//!
//! The one idea: a modifier is a sequence of operations on as many queries as a tile has, so that the price of a call is
//! spread over them and each operation is as wide as the machine. What can be said of one element is said once, in plain code
//! that the compiler makes vectors of; functions of reals and loads are written for each instruction set. Integers are
//! 32 bits wide and wrap; truth values are all ones or zeros. The contract is in [`crate::abi::Rows`].
//! Nothing here knows of expressions.

use core::array::from_fn;

use crate::abi::{BK, CACHE_LINE, FEW, LANE_STEP, Next, Rows};
use crate::isa::{Avx2, Avx512, Isa};
use crate::tensor::ask_row;

/// Elements of a step.
const STEP: usize = LANE_STEP;
type Reals = [f32; STEP];

impl Rows {
    /// The functions for `isa`, if this machine runs it.
    #[must_use]
    pub fn of(isa: Isa) -> Option<Rows> {
        match isa {
            Isa::Scalar => Some(plain::TABLE),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().map(|_| avx2::TABLE),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::detect().map(|_| avx512::TABLE),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 => Avx2::detect().map(|_| plain::TABLE),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512 => Avx512::detect().map(|_| plain::TABLE),
        }
    }
}

/// Does what `$step` says of each step, `$n` being the number of its elements: whole ones, then the rest. Apart, as a compiler
/// that sees one copy of `n` elements calls a function for it; and one by one, as it would do element i of several steps
/// together and gather them.
macro_rules! steps {
    ($lanes:expr, |$i:ident, $n:ident| $step:expr) => {{
        let lanes = $lanes as usize;
        let whole = lanes / STEP * STEP;
        let mut at = 0;
        while at < whole {
            let ($i, $n) = (at, STEP);
            $step
            at = core::hint::black_box(at + STEP);
        }
        if whole < lanes {
            let ($i, $n) = (whole, lanes - whole);
            $step
        }
    }};
}

/// Reads `n` elements, at most a step; the others are 0.
#[inline(always)]
unsafe fn get<T: Copy + Default>(at: *const T, n: usize) -> [T; STEP] {
    // SAFETY: the caller promises `n` elements.
    unsafe {
        if n == STEP {
            return at.cast::<[T; STEP]>().read_unaligned();
        }
        let mut out = [T::default(); STEP];
        for (j, out) in out.iter_mut().enumerate().take(n) {
            *out = *at.add(j);
        }
        out
    }
}

/// Writes the first `n` elements.
#[inline(always)]
unsafe fn put<T: Copy>(to: *mut T, x: [T; STEP], n: usize) {
    // SAFETY: the caller promises room for `n` elements.
    unsafe {
        if n == STEP {
            to.cast::<[T; STEP]>().write_unaligned(x);
        } else {
            for (j, x) in x.iter().enumerate().take(n) {
                *to.add(j) = *x;
            }
        }
    }
}

#[inline(always)]
unsafe fn fill<T: Copy>(to: *mut T, lanes: i64, f: impl Fn(usize) -> [T; STEP]) {
    // SAFETY: the caller promises rows of `lanes` elements.
    steps!(lanes, |i, n| unsafe { put(to.add(i), f(i), n) });
}

#[inline(always)]
unsafe fn each1<T: Copy + Default, U: Copy>(to: *mut U, a: *const T, lanes: i64, f: impl Fn(T) -> U) {
    // SAFETY: the caller promises rows of `lanes` elements.
    steps!(lanes, |i, n| unsafe {
        let a = get(a.add(i), n);
        put(to.add(i), from_fn(|j| f(a[j])), n);
    });
}

#[inline(always)]
unsafe fn each2<T: Copy + Default, U: Copy>(to: *mut U, a: *const T, b: *const T, lanes: i64, f: impl Fn(T, T) -> U) {
    // SAFETY: the caller promises rows of `lanes` elements.
    steps!(lanes, |i, n| unsafe {
        let (a, b) = (get(a.add(i), n), get(b.add(i), n));
        put(to.add(i), from_fn(|j| f(a[j], b[j])), n);
    });
}

/// As `each1`, of whole steps.
#[inline(always)]
unsafe fn whole(to: *mut f32, a: *const f32, lanes: i64, f: impl Fn(Reals) -> Reals) {
    // SAFETY: the caller promises rows of `lanes` elements.
    steps!(lanes, |i, n| unsafe { put(to.add(i), f(get(a.add(i), n)), n) });
}

/// The lesser, NaN if either is; of zeros the negative one: the bits of both, which are the same but for these.
#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    let (x, y) = (if a < b { a } else { b }, if b < a { b } else { a });
    f32::from_bits(x.to_bits() | y.to_bits())
}

/// The greater, NaN if either is; of zeros the positive one.
#[inline(always)]
fn greatest(a: f32, b: f32) -> f32 {
    -least(-a, -b)
}

#[inline(always)]
fn truth(x: bool) -> i32 {
    -i32::from(x)
}

/// Where element `i` of an array of `extent` rows begins.
#[inline(always)]
fn row(data: *const u8, i: i32, extent: i64, stride: i64) -> *const u8 {
    data.wrapping_offset((i64::from(i).clamp(0, extent - 1) * stride) as isize)
}

/// [`Rows::load`], one by one.
#[inline(always)]
unsafe fn load_each(to: *mut f32, data: *const u8, index: *const i32, extent: i64, stride: i64, lanes: usize) {
    for lane in 0..lanes {
        // SAFETY: the caller promises elements at every index within the extent.
        unsafe { to.add(lane).write(row(data, *index.add(lane), extent, stride).cast::<f32>().read_unaligned()) }
    }
}

/// A table of rows' operations; what differs between instruction sets is in the module: functions of steps, `gather16` and
/// `columns`.
macro_rules! table {
    ($(#[$features:meta])*) => {
        pub(super) const TABLE: Rows = Rows {
            set_real, set_int, count, listed, repeated, copy, add, sub, mul, div, min, max, neg, abs, sqrt, exp, log, tanh, add_int,
            sub_int, mul_int, min_int, max_int, neg_int, abs_int, to_real, less, at_most, equal, less_int, at_most_int,
            equal_int, and, or, not, select, within, load, load_keys, set_columns,
        };

        entries! { $(#[$features])*
            fn set_real(to: *mut f32, x: f32, lanes: i64) { fill(to, lanes, |_| [x; STEP]) }
            fn set_int(to: *mut i32, x: i64, lanes: i64) { fill(to, lanes, |_| [x as i32; STEP]) }
            fn count(to: *mut i32, first: i64, lanes: i64) {
                fill(to, lanes, |i| from_fn(|j| (first as i32).wrapping_add((i + j) as i32)))
            }
            fn listed(to: *mut i32, list: *const u32, start: i64, lanes: i64) {
                each1(to, list, lanes, |x| (x as i32).wrapping_add(start as i32))
            }
            fn repeated(to: *mut i32, list: *const u32, start: i64, pitch: i64, keys: i64) {
                let mut rows = to.cast::<[i32; FEW]>();
                for key in 0..keys as usize {
                    let x = (*list.add(key) as i32).wrapping_add(start as i32);
                    for _ in 0..pitch as usize / FEW {
                        rows.write_unaligned([x; FEW]);
                        rows = rows.add(1);
                    }
                }
            }
            fn copy(to: *mut f32, a: *const f32, lanes: i64) { each1(to, a, lanes, |a: f32| a) }
            fn add(to: *mut f32, a: *const f32, b: *const f32, lanes: i64) { each2(to, a, b, lanes, |a: f32, b| a + b) }
            fn sub(to: *mut f32, a: *const f32, b: *const f32, lanes: i64) { each2(to, a, b, lanes, |a: f32, b| a - b) }
            fn mul(to: *mut f32, a: *const f32, b: *const f32, lanes: i64) { each2(to, a, b, lanes, |a: f32, b| a * b) }
            fn div(to: *mut f32, a: *const f32, b: *const f32, lanes: i64) { each2(to, a, b, lanes, |a: f32, b| a / b) }
            fn min(to: *mut f32, a: *const f32, b: *const f32, lanes: i64) { each2(to, a, b, lanes, least) }
            fn max(to: *mut f32, a: *const f32, b: *const f32, lanes: i64) { each2(to, a, b, lanes, greatest) }
            fn neg(to: *mut f32, a: *const f32, lanes: i64) { each1(to, a, lanes, |a: f32| -a) }
            fn abs(to: *mut f32, a: *const f32, lanes: i64) { each1(to, a, lanes, f32::abs) }
            fn sqrt(to: *mut f32, a: *const f32, lanes: i64) { each1(to, a, lanes, f32::sqrt) }
            fn exp(to: *mut f32, a: *const f32, lanes: i64) { whole(to, a, lanes, |x| exp16(x)) }
            fn log(to: *mut f32, a: *const f32, lanes: i64) { whole(to, a, lanes, |x| log16(x)) }
            fn tanh(to: *mut f32, a: *const f32, lanes: i64) { whole(to, a, lanes, |x| tanh16(x)) }
            fn add_int(to: *mut i32, a: *const i32, b: *const i32, lanes: i64) { each2(to, a, b, lanes, i32::wrapping_add) }
            fn sub_int(to: *mut i32, a: *const i32, b: *const i32, lanes: i64) { each2(to, a, b, lanes, i32::wrapping_sub) }
            fn mul_int(to: *mut i32, a: *const i32, b: *const i32, lanes: i64) { each2(to, a, b, lanes, i32::wrapping_mul) }
            fn min_int(to: *mut i32, a: *const i32, b: *const i32, lanes: i64) {
                each2(to, a, b, lanes, |a: i32, b| if a < b { a } else { b })
            }
            fn max_int(to: *mut i32, a: *const i32, b: *const i32, lanes: i64) {
                each2(to, a, b, lanes, |a: i32, b| if a > b { a } else { b })
            }
            fn neg_int(to: *mut i32, a: *const i32, lanes: i64) { each1(to, a, lanes, i32::wrapping_neg) }
            fn abs_int(to: *mut i32, a: *const i32, lanes: i64) { each1(to, a, lanes, i32::wrapping_abs) }
            fn to_real(to: *mut f32, a: *const i32, lanes: i64) { each1(to, a, lanes, |a: i32| a as f32) }
            fn less(to: *mut i32, a: *const f32, b: *const f32, lanes: i64) {
                each2(to, a, b, lanes, |a: f32, b| truth(a < b))
            }
            fn at_most(to: *mut i32, a: *const f32, b: *const f32, lanes: i64) {
                each2(to, a, b, lanes, |a: f32, b| truth(a <= b))
            }
            fn equal(to: *mut i32, a: *const f32, b: *const f32, lanes: i64) {
                each2(to, a, b, lanes, |a: f32, b| truth(a == b))
            }
            fn less_int(to: *mut i32, a: *const i32, b: *const i32, lanes: i64) {
                each2(to, a, b, lanes, |a: i32, b| truth(a < b))
            }
            fn at_most_int(to: *mut i32, a: *const i32, b: *const i32, lanes: i64) {
                each2(to, a, b, lanes, |a: i32, b| truth(a <= b))
            }
            fn equal_int(to: *mut i32, a: *const i32, b: *const i32, lanes: i64) {
                each2(to, a, b, lanes, |a: i32, b| truth(a == b))
            }
            fn and(to: *mut i32, a: *const i32, b: *const i32, lanes: i64) { each2(to, a, b, lanes, |a: i32, b| a & b) }
            fn or(to: *mut i32, a: *const i32, b: *const i32, lanes: i64) { each2(to, a, b, lanes, |a: i32, b| a | b) }
            fn not(to: *mut i32, a: *const i32, lanes: i64) { each1(to, a, lanes, |a: i32| !a) }
            fn select(to: *mut i32, which: *const i32, a: *const i32, b: *const i32, lanes: i64) {
                steps!(lanes, |i, n| {
                    let (which, a, b) = (get(which.add(i), n), get(a.add(i), n), get(b.add(i), n));
                    put(to.add(i), from_fn(|j| which[j] & a[j] | !which[j] & b[j]), n);
                })
            }
            fn within(to: *mut i32, a: *const i32, b: *const i32, extent: i64, lanes: i64) {
                let (extent, last) = (extent as i32, (extent - 1) as i32);
                each2(to, a, b, lanes, |a: i32, b| {
                    let b = if b < last { b } else { last };
                    a.wrapping_mul(extent).wrapping_add(if b > 0 { b } else { 0 })
                })
            }
            fn load(to: *mut f32, data: *const u8, index: *const i32, extent: i64, stride: i64, lanes: i64) {
                steps!(lanes, |i, n| {
                    let (to, index) = (to.add(i), index.add(i));
                    if stride == size_of::<f32>() as i64 && n == STEP && extent <= i64::from(i32::MAX) {
                        gather16(to, data, index, extent as i32);
                    } else {
                        load_each(to, data, index, extent, stride, n);
                    }
                })
            }
            fn load_keys(to: *mut f32, pitch: i64, data: *const u8, index: *const i32, rows: i64, stride: i64, lanes: i64,
                         numbers: *const u32, keys: i64, start: i64, extent: i64, next: *mut Next) {
                let (pitch, lanes, keys) = (pitch as usize, lanes as usize, keys as usize);
                let Some(last) = keys.checked_sub(1) else { return };
                let mut each = [data; BK];
                for (lane, each) in each[..lanes].iter_mut().enumerate() {
                    *each = row(data, *index.add(lane), rows, stride);
                }
                let after = |row: *const u8, i: i64| row.wrapping_offset(i as isize * size_of::<f32>() as isize);
                let (first, end) = (*numbers, *numbers.add(last));
                let from = start + i64::from(first);
                if (end - first) as usize == last && from >= 0 && from + keys as i64 <= extent {
                    let repeated = each[lanes - 1];
                    each[lanes..].fill(repeated);
                    let each = each.map(|row| after(row, from));
                    columns(to, pitch, &each[..lanes], keys);
                    let each = each.map(|row| after(row, keys as i64));
                    return come_next(&each, lanes, keys * size_of::<f32>(), &mut *next);
                }
                for (lane, &row) in each[..lanes].iter().enumerate() {
                    for key in 0..keys {
                        let at = (start + i64::from(*numbers.add(key))).clamp(0, extent - 1);
                        to.add(key * pitch + lane).write(after(row, at).cast::<f32>().read_unaligned());
                    }
                }
            }
            fn set_columns(to: *mut f32, pitch: i64, from: *const f32, lanes: i64, keys: i64) {
                for key in 0..keys as isize {
                    let (to, x) = (to.offset(key * pitch as isize), *from.offset(key));
                    fill(to, lanes, |_| [x; STEP]);
                }
            }
        }
    };
}

/// Says where `bytes` bytes of the row of each lane begin that are read next, from the first line on that nothing before them
/// is in; asks for them here where no kernel can be told. The row of the last lane is repeated.
///
/// # Safety
/// `next` has room for [`BK`] addresses.
#[inline(always)]
unsafe fn come_next(rows: &[*const u8; BK], lanes: usize, bytes: usize, next: &mut Next) {
    let line = |row: *const u8| row.wrapping_add(CACHE_LINE - 1).map_addr(|at| at & !(CACHE_LINE - 1));
    if lanes <= FEW || next.elements_bytes > 0 {
        rows[..lanes].iter().for_each(|&row| ask_row(line(row), bytes));
        return;
    }
    // SAFETY: promised by the caller.
    unsafe { next.elements.cast_mut().cast::<[*const u8; BK]>().write(rows.map(line)) };
    next.elements_bytes = bytes as i64;
}

/// Functions of a table.
macro_rules! entries {
    ($(#[$features:meta])* $(fn $name:ident($($arg:ident: $ty:ty),*) $body:block)*) => {
        entries! { @each [$(#[$features])*] $(fn $name($($arg: $ty),*) $body)* }
    };
    (@each $features:tt $(fn $name:ident($($arg:ident: $ty:ty),*) $body:block)*) => {
        $(entries! { @one $features fn $name($($arg: $ty),*) $body })*
    };
    (@one [$(#[$features:meta])*] fn $name:ident($($arg:ident: $ty:ty),*) $body:block) => {
        $(#[$features])*
        #[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
        unsafe extern "C" fn $name($($arg: $ty),*) {
            // SAFETY: the caller promises rows of `lanes` elements, and what else the contract says.
            #[allow(unused_unsafe, reason = "not every body needs it")]
            unsafe { $body }
        }
    };
}

mod plain {
    use super::*;

    fn exp16(x: Reals) -> Reals {
        x.map(f32::exp)
    }

    fn log16(x: Reals) -> Reals {
        x.map(f32::ln)
    }

    fn tanh16(x: Reals) -> Reals {
        x.map(f32::tanh)
    }

    unsafe fn gather16(to: *mut f32, data: *const u8, index: *const i32, extent: i32) {
        // SAFETY: as promised by the caller.
        unsafe { load_each(to, data, index, i64::from(extent), size_of::<f32>() as i64, STEP) }
    }

    unsafe fn columns(to: *mut f32, pitch: usize, rows: &[*const u8], keys: usize) {
        for (lane, &row) in rows.iter().enumerate() {
            for key in 0..keys {
                // SAFETY: as promised by the caller.
                unsafe { to.add(key * pitch + lane).write(row.cast::<f32>().add(key).read_unaligned()) };
            }
        }
    }

    table! {}
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use core::arch::x86_64::*;

    use super::*;
    use crate::avx2::{math, transposed};
    use crate::vector::{F32, Vector};

    /// A function of eight singles on sixteen.
    macro_rules! twice {
        ($name:ident, $of:path) => {
            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) fn $name(x: Reals) -> Reals {
                // SAFETY: both are 64 bytes in which every bit pattern is a value.
                let [a, b] = unsafe { core::mem::transmute::<Reals, [__m256; 2]>(x) };
                let y = [$of(a), $of(b)];
                // SAFETY: as above.
                unsafe { core::mem::transmute::<[__m256; 2], Reals>(y) }
            }
        };
    }
    twice!(exp16, math::exp);
    twice!(log16, math::log);
    twice!(tanh16, math::tanh);

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn gather16(to: *mut f32, data: *const u8, index: *const i32, extent: i32) {
        let data = data.cast::<f32>();
        let last = _mm256_set1_epi32(extent - 1);
        for half in [0, WIDTH] {
            // SAFETY: as promised by the caller.
            unsafe {
                let i = _mm256_loadu_si256(index.add(half).cast());
                let i = _mm256_max_epi32(_mm256_min_epi32(i, last), _mm256_setzero_si256());
                let first = _mm256_cvtsi256_si32(i);
                // Most rows are neighbours, or the same.
                let apart = _mm256_sub_epi32(i, _mm256_set1_epi32(first));
                let near = _mm256_cmpeq_epi32(apart, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
                let x = if _mm256_movemask_epi8(near) == -1 {
                    _mm256_loadu_ps(data.add(first as usize))
                } else if _mm256_testz_si256(apart, apart) != 0 {
                    _mm256_set1_ps(*data.add(first as usize))
                } else {
                    _mm256_i32gather_ps::<4>(data, i)
                };
                _mm256_storeu_ps(to.add(half), x);
            }
        }
    }
    const WIDTH: usize = <__m256 as Vector>::WIDTH;

    /// The first `keys` elements of each row as rows of lanes, `pitch` elements apart. Eight rows at a time whatever the
    /// vectors: their addresses stay in registers, and as many lines in one set of a cache.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn columns(to: *mut f32, pitch: usize, rows: &[*const u8], keys: usize) {
        let whole = keys / WIDTH * WIDTH;
        for (i, rows) in rows.chunks(WIDTH).enumerate() {
            // SAFETY: the caller promises rows of `keys` elements, and room for them transposed.
            unsafe {
                let mut to = to.add(i * WIDTH);
                let mut key = 0;
                // Lengths that a compiler knows: else the square would not stay in registers.
                if let Ok(&eight) = <&[*const u8; WIDTH]>::try_from(rows) {
                    while key < whole {
                        for x in transposed(eight.map(|row| row.wrapping_add(key * size_of::<f32>()))) {
                            x.store(to);
                            to = to.wrapping_add(pitch);
                        }
                        key += WIDTH;
                    }
                }
                while key < keys {
                    let n = WIDTH.min(keys - key);
                    for &x in &square(rows, key, n)[..n] {
                        if rows.len() == WIDTH {
                            x.store(to)
                        } else {
                            x.store_some::<F32>(to.cast(), rows.len())
                        }
                        to = to.wrapping_add(pitch);
                    }
                    key += n;
                }
            }
        }
    }

    /// Columns of a few rows, of `n` elements from the one of key `key` on.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn square(rows: &[*const u8], key: usize, n: usize) -> [__m256; WIDTH] {
        // SAFETY: the caller promises that rows have the elements.
        unsafe {
            let mut square = __m256::square();
            for (x, row) in square.iter_mut().zip(rows) {
                let at = row.wrapping_add(key * size_of::<f32>());
                *x = if n == WIDTH { __m256::load_of::<F32>(at) } else { __m256::load_some::<F32>(at, n) };
            }
            __m256::transpose(square)
        }
    }

    table! { #[target_feature(enable = "avx2,fma,f16c")] }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use core::arch::x86_64::*;

    use super::avx2::{columns, exp16, log16};
    use super::*;
    use crate::softmax::exp_nonpositive;

    /// Hyperbolic tangent: a polynomial near 0, elsewhere (1 - t) / (1 + t) for t = exp(-2 |x|).
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    fn tanh16(x: Reals) -> Reals {
        let set = |x| _mm512_set1_ps(x);
        // SAFETY: both are 64 bytes in which every bit pattern is a value.
        let x = unsafe { core::mem::transmute::<Reals, __m512>(x) };
        let size = _mm512_abs_ps(x);
        let square = _mm512_mul_ps(x, x);
        let mut p = set(crate::avx2::math::TANH[0]);
        for &c in &crate::avx2::math::TANH[1..] {
            p = _mm512_fmadd_ps(p, square, set(c));
        }
        let near = _mm512_fmadd_ps(_mm512_mul_ps(p, square), size, size);
        // SAFETY: this function has the instruction set.
        let t = unsafe { exp_nonpositive(_mm512_mul_ps(size, set(-2.0)), None) };
        let by = _mm512_add_ps(t, set(1.0));
        // A division takes longer than all the rest; one step of Newton's rule is exact enough.
        let guess = _mm512_rcp14_ps(by);
        let inverse = _mm512_mul_ps(guess, _mm512_fnmadd_ps(by, guess, set(2.0)));
        let far = _mm512_mul_ps(_mm512_sub_ps(set(1.0), t), inverse);
        // In the limit the quotient is 1.
        let far = _mm512_mask_mov_ps(far, _mm512_cmp_ps_mask::<_CMP_GT_OQ>(size, set(9.02)), set(1.0));
        let y = _mm512_mask_mov_ps(far, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(size, set(0.625)), near);
        let y = _mm512_or_ps(y, _mm512_and_ps(x, set(-0.0)));
        // SAFETY: as above.
        unsafe { core::mem::transmute::<__m512, Reals>(y) }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn gather16(to: *mut f32, data: *const u8, index: *const i32, extent: i32) {
        let data = data.cast::<f32>();
        let counted = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        // SAFETY: as promised by the caller.
        unsafe {
            let i = _mm512_loadu_si512(index.cast());
            let i = _mm512_max_epi32(_mm512_min_epi32(i, _mm512_set1_epi32(extent - 1)), _mm512_setzero_si512());
            let first = _mm512_cvtsi512_si32(i);
            // Most rows are neighbours, or the same.
            let apart = _mm512_sub_epi32(i, _mm512_set1_epi32(first));
            let x = if _mm512_cmpeq_epi32_mask(apart, counted) == u16::MAX {
                _mm512_loadu_ps(data.add(first as usize))
            } else if _mm512_test_epi32_mask(apart, apart) == 0 {
                _mm512_set1_ps(*data.add(first as usize))
            } else {
                _mm512_i32gather_ps::<4>(i, data)
            };
            _mm512_storeu_ps(to, x);
        }
    }

    table! { #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")] }
}
