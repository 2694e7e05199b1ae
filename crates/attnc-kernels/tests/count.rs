//! The counting build counts whole tiles; the others have no counter. `cargo test -p attnc-kernels --features count`

use std::ptr::null;

use attnc_kernels::abi::Table;
use attnc_kernels::{Isa, count};

#[test]
fn products_are_counted() {
    count::reset();
    let (keys, d, dv, lanes, bq) = (37, 20, 7, 32, 48);
    let (q, k) = (vec![0.0; d * bq], vec![0.0; keys * d]);
    let (v, mut acc, mut s) = (vec![0.0; keys * dv], vec![0.0; dv * bq], vec![0.0; keys * bq]);
    let mut expected = 0;
    for (isa, _) in Isa::available() {
        let Some(table) = Table::of(isa) else { continue };
        let (keys, d, dv, lanes, bq) = (keys as i64, d as i64, dv as i64, lanes as i64, bq as i64);
        // SAFETY: the buffers have these sizes.
        unsafe {
            (table.qk)(q.as_ptr(), k.as_ptr(), d, keys, d, lanes, bq, s.as_mut_ptr());
            (table.pv)(s.as_ptr(), v.as_ptr(), dv, keys, dv, lanes, bq, null(), null(), acc.as_mut_ptr());
        }
        expected += 2 * keys * (d + dv) * lanes;
    }
    assert_eq!(count::flops_executed(), cfg!(feature = "count").then_some(expected as u64));
}
