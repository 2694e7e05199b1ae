//! Counting kernels: tables whose products count their FLOPs.
//!
//! The one idea: count whole tiles, in front of the kernels, so that what a cost model says beforehand can be compared with
//! what ran. Other tables count nothing and pay nothing.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::abi::{Ahead, HALF, Next, Table};
use crate::isa::Isa;
use crate::scalar;

static FLOPS: AtomicU64 = AtomicU64::new(0);

/// FLOPs of the products of counting tables in this process since the last [`reset`].
#[must_use]
pub fn flops_executed() -> u64 {
    FLOPS.load(Ordering::Relaxed)
}

/// Sets the counter to zero.
pub fn reset() {
    FLOPS.store(0, Ordering::Relaxed);
}

/// One multiplication and one addition for each element of each pair.
fn add(elements: i64) {
    FLOPS.fetch_add(2 * elements as u64, Ordering::Relaxed);
}

/// Keys of all rows together.
///
/// # Safety
/// `mask` is null or has `rows` elements; `keys` is from 1 to 64.
unsafe fn own_keys(keys: i64, rows: i64, mask: *const u64) -> i64 {
    if mask.is_null() {
        return keys * rows;
    }
    // SAFETY: promised by the caller.
    (0..rows as usize).map(|row| i64::from(unsafe { *mask.add(row) }.count_ones())).sum()
}

/// A table as a type, so that functions can be made for it.
trait Kernels {
    const TABLE: Table;
}

struct Scalar;

impl Kernels for Scalar {
    const TABLE: Table = scalar::TABLE;
}

#[cfg(target_arch = "x86_64")]
struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Kernels for Avx2 {
    const TABLE: Table = crate::avx2::TABLE;
}

#[cfg(target_arch = "x86_64")]
struct Avx512;

#[cfg(target_arch = "x86_64")]
impl Kernels for Avx512 {
    const TABLE: Table = crate::avx512::TABLE;
}

impl Table {
    /// As [`Table::of`], of kernels that count.
    #[must_use]
    pub fn counting(isa: Isa) -> Option<Table> {
        Table::of(isa)?;
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(counting::<Avx2>()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some(counting::<Avx512>()),
            _ => Some(counting::<Scalar>()),
        }
    }
}

fn counting<T: Kernels>() -> Table {
    Table {
        qk: qk::<T>,
        pv: pv::<T>,
        few_qk: few_qk::<T>,
        few_pv: few_pv::<T>,
        own_qk: own_qk::<T>,
        own_pv: own_pv::<T>,
        ..T::TABLE
    }
}

/// Pairs of a key and a lane, of which the first half panel takes `half` keys.
fn pairs(keys: i64, lanes: i64, half: i64) -> i64 {
    keys * lanes - (keys - half) * HALF as i64
}

macro_rules! counted {
    ($(fn $name:ident($($arg:ident: $ty:ty),*), $elements:expr;)*) => {
        $(
            #[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
            unsafe extern "C" fn $name<T: Kernels>($($arg: $ty),*) {
                // SAFETY: as the caller promised; the table was given out after detection.
                unsafe {
                    add($elements);
                    (T::TABLE.$name)($($arg),*);
                }
            }
        )*
    };
}

counted! {
    fn qk(q: *const f32, k: *const *const f32, keys: i64, d: i64, lanes: i64, half: i64, bq: i64, s: *mut f32,
          from: *const f32, pitch: i64, next: *const Next),
        pairs(keys, lanes, half) * d;
    fn pv(p: *const f32, v: *const *const f32, keys: i64, dv: i64, lanes: i64, half: i64, bq: i64, mask: *const u64,
          alpha: *const f32, acc: *mut f32, next: *const Next),
        pairs(keys, lanes, half) * dv;
    fn few_qk(q: *const f32, k: *const u8, dtype: i64, k_stride: i64, keys: i64, d: i64, lanes: i64, s: *mut f32,
              ahead: *const Ahead),
        keys * d * lanes;
    fn few_pv(p: *const f32, v: *const u8, dtype: i64, v_stride: i64, keys: i64, dv: i64, lanes: i64, mask: *const u64,
              alpha: *const f32, acc: *mut f32, ahead: *const Ahead),
        keys * dv * lanes;
    fn own_qk(q: *const f32, k: *const *const f32, keys: i64, d: i64, rows: i64, mask: *const u64, s: *mut f32),
        own_keys(keys, rows, mask) * d;
    fn own_pv(s: *mut f32, v: *const *const f32, keys: i64, dv: i64, rows: i64, mask: *const u64, m: *mut f32,
              l: *mut f32, acc: *mut f32),
        own_keys(keys, rows, mask) * dv;
}
