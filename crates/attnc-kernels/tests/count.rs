//! Counting tables count whole tiles; the others count nothing.

use std::array::from_fn;
use std::ptr::{null, null_mut};

use attnc_kernels::abi::{Ahead, BK, DType, FEW, HALF, Table};
use attnc_kernels::{Isa, count};

#[test]
fn products_are_counted() {
    count::reset();
    let (keys, d, dv, lanes, bq) = (37_usize, 20_usize, 7_usize, 32_usize, 48_usize);
    let (q, k) = (vec![0.0_f32; d * bq], vec![0.0_f32; keys * d]);
    let (v, mut acc, mut s) = (vec![0.0_f32; keys * dv], vec![0.0_f32; dv * bq], vec![0.0_f32; keys * bq]);
    let row = |x: &[f32], dim: usize, i: usize| x[i.min(keys - 1) * dim..].as_ptr();
    let (k_rows, v_rows): ([_; BK], [_; BK]) = (from_fn(|i| row(&k, d, i)), from_fn(|i| row(&v, dv, i)));
    let mut expected = 0;
    for (isa, _) in Isa::available() {
        for (counts, table) in [(false, Table::of(isa)), (true, Table::counting(isa))] {
            let Some(table) = table else { continue };
            let (few, f32) = (3, DType::F32 as i64);
            let ahead = Ahead { at: null_mut(), stride: 0, rows: 0 };
            let half = 20;
            let (n, di, dvi, li, bqi) = (keys as i64, d as i64, dv as i64, lanes as i64, bq as i64);
            // SAFETY: the buffers have these sizes.
            unsafe {
                (table.qk)(q.as_ptr(), k_rows.as_ptr(), n, di, li, half, bqi, s.as_mut_ptr(), null(), 0, null());
                (table.pv)(
                    s.as_ptr(),
                    v_rows.as_ptr(),
                    n,
                    dvi,
                    li,
                    half,
                    bqi,
                    null(),
                    null(),
                    acc.as_mut_ptr(),
                    null(),
                );
                let (k, v) = (k.as_ptr().cast(), v.as_ptr().cast());
                (table.few_qk)(q.as_ptr(), k, f32, 4 * di, n, di, few, s.as_mut_ptr(), &raw const ahead);
                let acc = acc.as_mut_ptr();
                (table.few_pv)(s.as_ptr(), v, f32, 4 * dvi, n, dvi, few, null(), null(), acc, &raw const ahead);
            }
            assert!(few as usize <= FEW);
            expected +=
                if counts { 2 * (d + dv) * (keys * (lanes + few as usize) - (keys - half as usize) * HALF) } else { 0 };
            assert_eq!(count::flops_executed(), expected as u64, "{isa:?}, counting: {counts}");
        }
    }
}
