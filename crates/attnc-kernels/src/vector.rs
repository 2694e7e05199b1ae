//! Vectors of singles: what the tile kernels ask of an instruction set.
//!
//! The one idea: a kernel is written once, over [`Vector`], and becomes code in a function that enables the instruction
//! set ([`table!`]), into which all of it is inlined. Nothing between may be a function of its own, nor a closure: it would lack
//! the instructions. Where code ends and another function begins is therefore said here: [`Blocks`].
//!
//! Every method is `unsafe` for that reason alone, unless it says more: **the machine must have the implementor's
//! instruction set.**

use core::ops::Range;

use crate::abi::DType;
use crate::product::{Added, Asking, Values};
#[cfg(doc)]
use crate::{own, product, softmax};

/// [`DType::F32`] as a parameter of methods.
pub(crate) const F32: u32 = DType::F32 as u32;
/// [`DType::F16`].
pub(crate) const F16: u32 = DType::F16 as u32;
/// [`DType::Bf16`].
pub(crate) const BF16: u32 = DType::Bf16 as u32;

/// Bytes of an element of type `T`.
pub(crate) const fn size<const T: u32>() -> usize {
    if T == F32 { 4 } else { 2 }
}

/// A vector of singles.
pub(crate) trait Vector: Copy {
    /// Singles in a vector.
    const WIDTH: usize;
    /// Vectors that the machine has registers for.
    const REGISTERS: usize;
    /// As many vectors as each has singles.
    type Square: Copy + AsRef<[Self]> + AsMut<[Self]>;
    /// Some of the lanes.
    type Lanes: Copy;
    /// For each of 32 keys, the lanes that it takes part in.
    type Masks: Copy;

    /// The same number in each lane.
    unsafe fn set(x: f32) -> Self;
    /// Reads a vector; `at` is the address of its singles.
    unsafe fn load(at: *const f32) -> Self;
    /// Writes a vector; `at` is the address of room for it.
    unsafe fn store(self, at: *mut f32);
    /// Reads a vector of elements of type `T` at `at`.
    unsafe fn load_of<const T: u32>(at: *const u8) -> Self;
    /// Reads the first `n` of them, fewer than a vector; the other lanes are 0.
    unsafe fn load_some<const T: u32>(at: *const u8, n: usize) -> Self;
    /// Writes a vector as elements of type `T`, rounded to nearest even, at `at`.
    unsafe fn store_of<const T: u32>(self, at: *mut u8);
    /// Writes the first `n` of them, fewer than a vector.
    unsafe fn store_some<const T: u32>(self, at: *mut u8, n: usize);

    /// Sum.
    unsafe fn add(self, other: Self) -> Self;
    /// Difference.
    unsafe fn sub(self, other: Self) -> Self;
    /// Product.
    unsafe fn mul(self, other: Self) -> Self;
    /// Quotient.
    unsafe fn div(self, other: Self) -> Self;
    /// `self * by + more`, rounded once.
    unsafe fn fma(self, by: Self, more: Self) -> Self;
    /// `self * by - less`, rounded once.
    unsafe fn fms(self, by: Self, less: Self) -> Self;
    /// The larger of the two; `other` where one of them is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// As [`Self::max`] in `lanes`; `other` elsewhere.
    unsafe fn max_in(self, other: Self, lanes: Self::Lanes) -> Self;
    /// The bits of the lanes shifted to the place of a single's exponent.
    unsafe fn to_exponent(self) -> Self;
    /// The sum of the lanes of each vector of a square.
    unsafe fn sums(square: Self::Square) -> Self;
    /// The sum of the lanes.
    unsafe fn total(self) -> f32;
    /// The largest lane; none is NaN.
    unsafe fn largest(self) -> f32;
    /// The square with rows and columns exchanged.
    unsafe fn transpose(square: Self::Square) -> Self::Square;
    /// A square of zeros.
    unsafe fn square() -> Self::Square;

    /// Lanes where the two are not equal, or one is NaN.
    unsafe fn differs(self, other: Self) -> Self::Lanes;
    /// Lanes where `self` is not less than `other`, or one is NaN.
    unsafe fn not_less(self, other: Self) -> Self::Lanes;
    /// Lanes that are NaN.
    unsafe fn is_nan(self) -> Self::Lanes;
    /// Lanes of both.
    unsafe fn both(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Whether there is a lane.
    unsafe fn any(lanes: Self::Lanes) -> bool;
    /// `self` in `lanes`, 0 elsewhere.
    unsafe fn only(self, lanes: Self::Lanes) -> Self;
    /// `self` in `lanes`, `other` elsewhere.
    unsafe fn or_else(self, lanes: Self::Lanes, other: Self) -> Self;

    /// Reads the masks of as many lanes as a vector has, one `u64` each, at `at`: those of the first 32 keys, and of the others.
    unsafe fn masks(at: *const u64) -> [Self::Masks; 2];
    /// The lanes that key `key`, less than 32, takes part in.
    unsafe fn lanes_of(masks: Self::Masks, key: usize) -> Self::Lanes;
}

/// Blocks of the kernels as functions of their own, which have the instruction set: a compiler finds registers for the
/// accumulators of a small function, not of one that holds every block.
///
/// # Safety
/// As for the functions of the same names.
pub(crate) trait Blocks: Vector {
    /// A vector of half a panel.
    type Half: Blocks;

    /// [`product::qk_block`].
    unsafe fn qk_block<const COLS: usize, const KEYS: usize>(
        q: *const f32,
        k: (*const *const f32, *const *const f32),
        of: (usize, Range<usize>, usize),
        from: Added,
        s: *mut f32,
        asking: &mut Asking,
    ) -> usize;

    /// [`product::pv_block`].
    unsafe fn pv_block<const COLS: usize, const DIMS: usize>(
        p: *const f32,
        of: Values,
        bq: usize,
        mask: *const u64,
        alpha: *const f32,
        acc: *mut f32,
        asking: &mut Asking,
    ) -> (usize, bool);

    /// [`own::own_dots`].
    unsafe fn own_dots<const KEYS: usize, const WHOLE: bool>(
        q: *const f32,
        rows: *const *const f32,
        d: usize,
        s: *mut f32,
    ) -> usize;

    /// [`own::own_values`].
    unsafe fn own_values<const WIDE: usize, const WHOLE: bool>(
        p: *const f32,
        rows: (*const *const f32, usize),
        dims: (usize, usize),
        factor: f32,
        acc: *mut f32,
    ) -> usize;

    /// [`softmax::columns`].
    unsafe fn columns<const MASKED: bool, const COLS: usize>(
        s: *mut f32,
        keys: usize,
        bq: usize,
        mask: *const u64,
        m: *mut f32,
        l: *mut f32,
        alpha: *mut f32,
    ) -> bool;
}

/// Implements methods of [`Vector`] by instructions.
macro_rules! instructions {
    ($($(#[$attribute:meta])* fn $name:ident $(<const $t:ident: u32>)? ($($arg:ident $(: $ty:ty)?),*) $(-> $ret:ty)? $body:block)*) => {
        $(
            $(#[$attribute])*
            #[inline(always)]
            unsafe fn $name $(<const $t: u32>)? ($($arg $(: $ty)?),*) $(-> $ret)? {
                // SAFETY: the caller promises the instruction set, and addresses of what the method says.
                unsafe { $body }
            }
        )*
    };
}
pub(crate) use instructions;

/// A table of the generic kernels for a vector, in functions that enable an instruction set. The module has kernels
/// of few queries in `few`, and `select` one of the same name.
macro_rules! table {
    ($features:literal, $vector:ty, $select:ident) => {
        /// The table of these kernels. What touches one lane, or is a fill, is the scalar version's.
        pub(crate) const TABLE: $crate::abi::Table = $crate::abi::Table {
            pack_q,
            kv_tile,
            qk,
            few_qk: few::qk,
            few_pv: few::pv,
            own_qk,
            own_pv,
            softmax,
            pv,
            null_slot: $crate::scalar::null_slot,
            start: $crate::scalar::start,
            finish,
            pool_sum: $crate::select::$select::pool_sum,
            pool_max: $crate::select::$select::pool_max,
            keep: $crate::select::$select::keep,
            reduce: $crate::select::$select::reduce,
        };

        impl $crate::vector::Blocks for $vector {
            type Half = core::arch::x86_64::__m256;

            $crate::vector::blocks! { $features, $vector,
                fn qk_block<COLS: usize, KEYS: usize>(q: *const f32, k: (*const *const f32, *const *const f32),
                    of: (usize, core::ops::Range<usize>, usize), from: $crate::product::Added, s: *mut f32,
                    asking: &mut $crate::product::Asking) -> usize, product;
                fn pv_block<COLS: usize, DIMS: usize>(p: *const f32, of: $crate::product::Values, bq: usize,
                    mask: *const u64, alpha: *const f32, acc: *mut f32,
                    asking: &mut $crate::product::Asking) -> (usize, bool), product;
                fn own_dots<KEYS: usize, WHOLE: bool>(q: *const f32, rows: *const *const f32, d: usize, s: *mut f32) -> usize,
                    own;
                fn own_values<WIDE: usize, WHOLE: bool>(p: *const f32, rows: (*const *const f32, usize), dims: (usize, usize),
                    factor: f32, acc: *mut f32) -> usize, own;
                fn columns<MASKED: bool, COLS: usize>(s: *mut f32, keys: usize, bq: usize, mask: *const u64,
                    m: *mut f32, l: *mut f32, alpha: *mut f32) -> bool, softmax;
            }
        }

        $crate::vector::entries! { $features, $vector,
            fn pack_q(src: *const u8, dtype: i64, row_stride: i64, col_stride: i64, index: *const u32, rows: i64, bq: i64,
                      d: i64, scale: f32, dst: *mut f32) of rows;
            fn kv_tile(view: *const $crate::abi::KvView, first: i64, keys: i64, scratch: *mut f32) of rows;
            fn finish(acc: *const f32, m: *const f32, l: *const f32, rows: i64, bq: i64, dv: i64, dst: *mut u8,
                      dtype: i64, row_stride: i64, col_stride: i64, index: *const u32, lse: *mut f32, lse_stride: i64,
                      lse_index: *const u32) of rows;
            fn qk(q: *const f32, k: *const *const f32, keys: i64, d: i64, lanes: i64, half: i64, bq: i64, s: *mut f32,
                  from: *const f32, pitch: i64, next: *const $crate::abi::Next) of product;
            fn pv(p: *const f32, v: *const *const f32, keys: i64, dv: i64, lanes: i64, half: i64, bq: i64, mask: *const u64,
                  alpha: *const f32, acc: *mut f32, next: *const $crate::abi::Next) of product;
            fn own_qk(q: *const f32, k: *const *const f32, keys: i64, d: i64, rows: i64, mask: *const u64, s: *mut f32) of own;
            fn own_pv(s: *mut f32, v: *const *const f32, keys: i64, dv: i64, rows: i64, mask: *const u64, m: *mut f32,
                      l: *mut f32, acc: *mut f32) of own;
        }

        #[target_feature(enable = $features)]
        #[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
        unsafe extern "C" fn softmax(s: *mut f32, keys: i64, lanes: i64, bq: i64, mask: *const u64, m: *mut f32,
                                     l: *mut f32, alpha: *mut f32) -> i64 {
            // SAFETY: as the caller promised.
            unsafe {
                if bq as usize == $crate::abi::FEW {
                    let (keys, lanes, mut masks) = (keys as usize, lanes as usize, [0; $crate::abi::FEW]);
                    if !mask.is_null() {
                        masks[..lanes].copy_from_slice(core::slice::from_raw_parts(mask, lanes));
                    }
                    let changed = match (mask.is_null(), lanes <= few::QUERIES) {
                        (true, true) => few::softmax_of::<false, true>(s, keys, masks, m, l, alpha),
                        (true, false) => few::softmax_of::<false, false>(s, keys, masks, m, l, alpha),
                        (false, true) => few::softmax_of::<true, true>(s, keys, masks, m, l, alpha),
                        (false, false) => few::softmax_of::<true, false>(s, keys, masks, m, l, alpha),
                    };
                    return i64::from(changed & ((1 << lanes) - 1) != 0);
                }
                $crate::softmax::softmax::<$vector>(s, keys, lanes, bq, mask, m, l, alpha)
            }
        }
    };
}
pub(crate) use table;

/// Calls `$do` of a vector's first key and number of keys, `$step`, for all of `$keys`, two vectors at a time; with fewer at
/// the end. A macro, since what is called has a target's features and is to know how many keys there are.
macro_rules! in_pairs {
    ($do:ident, $keys:expr, $step:expr) => {
        let whole = $keys / (2 * $step) * (2 * $step);
        for key in (0..whole).step_by(2 * $step) {
            $do(key, $step);
            $do(key + $step, $step);
        }
        for key in (whole..$keys).step_by($step) {
            $do(key, $step.min($keys - key));
        }
    };
}
pub(crate) use in_pairs;

/// Functions of a table, each a generic one for a vector.
macro_rules! entries {
    ($features:literal, $vector:ty, $(fn $name:ident($($arg:ident: $ty:ty),*) of $module:ident;)*) => {
        $(
            #[target_feature(enable = $features)]
            #[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
            unsafe extern "C" fn $name($($arg: $ty),*) {
                // SAFETY: as the caller promised; this function has the instruction set.
                unsafe { $crate::$module::$name::<$vector>($($arg),*) }
            }
        )*
    };
}
pub(crate) use entries;

/// Methods of [`Blocks`], each a generic function for a vector in one that has the instruction set.
macro_rules! blocks {
    ($features:literal, $vector:ty, $(
        fn $name:ident<$a:ident: $a_ty:ty, $b:ident: $b_ty:ty>($($arg:ident: $ty:ty),*) -> $ret:ty, $module:ident;
    )*) => {
        $(
            unsafe fn $name<const $a: $a_ty, const $b: $b_ty>($($arg: $ty),*) -> $ret {
                #[target_feature(enable = $features)]
                #[inline(never)]
                unsafe fn with_features<const $a: $a_ty, const $b: $b_ty>($($arg: $ty),*) -> $ret {
                    // SAFETY: as the caller promised; this function has the instruction set.
                    unsafe { $crate::$module::$name::<$vector, $a, $b>($($arg),*) }
                }
                // By address: a compiler that sees the call may take the body apart, `inline(never)` or not, and blocks
                // side by side in one function run out of registers.
                let block: unsafe fn($($ty),*) -> $ret = with_features::<$a, $b>;
                // SAFETY: the caller promises the instruction set and what the function asks for.
                unsafe { core::hint::black_box(block)($($arg),*) }
            }
        )*
    };
}
pub(crate) use blocks;
