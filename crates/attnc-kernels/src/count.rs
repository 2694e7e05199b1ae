//! The counter of the counting build (feature `count`): FLOPs that `qk` and `pv` execute.
//!
//! The one idea: count in the kernels, on whole tiles, so that what a cost model says beforehand can be
//! compared with what ran. Without the feature nothing is counted and nothing is paid.

#[cfg(feature = "count")]
static FLOPS: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// FLOPs of `qk` and `pv` in this process since the last [`reset`]; `None` unless this is a counting build.
#[must_use]
pub fn flops_executed() -> Option<u64> {
    #[cfg(feature = "count")]
    return Some(FLOPS.load(core::sync::atomic::Ordering::Relaxed));
    #[cfg(not(feature = "count"))]
    None
}

/// Sets the counter to zero.
pub fn reset() {
    #[cfg(feature = "count")]
    FLOPS.store(0, core::sync::atomic::Ordering::Relaxed);
}

/// One multiplication and one addition for each of `keys * dim * lanes`.
#[inline(always)]
pub(crate) fn add(_keys: i64, _dim: i64, _lanes: i64) {
    #[cfg(feature = "count")]
    FLOPS.fetch_add((2 * _keys * _dim * _lanes) as u64, core::sync::atomic::Ordering::Relaxed);
}
