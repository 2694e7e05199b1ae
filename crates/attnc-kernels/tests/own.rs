//! Queries one by one, of each instruction set of this machine, against plain formulas.

mod common;

use attnc_kernels::abi::BK;
use common::{Random, tables};

const SIZES: [(usize, usize, usize); 8] =
    [(1, 1, 1), (3, 5, 2), (16, 8, 13), (33, 40, 31), (64, 64, 64), (80, 17, 40), (128, 200, 9), (100, 64, 17)];
const ROWS: usize = 19;
const CANARY: f32 = 12345.0;

/// Rows of bits of `keys` keys: runs, some of them with holes, and rows without any.
fn masks(random: &mut Random, keys: usize) -> Vec<u64> {
    let all = u64::MAX >> (BK - keys);
    let mut row = |i: usize| match i % 4 {
        0 => 0,
        1 => all >> (random.bits() as usize % keys),
        2 => random.bits(),
        _ => all,
    };
    (0..ROWS).map(|i| row(i) & all).collect()
}

fn addresses(x: &[f32], stride: usize) -> [*const f32; BK] {
    std::array::from_fn(|key| x.as_ptr().wrapping_add((key * stride).min(x.len() - stride)))
}

/// What is kept of each row: maximum, sum, output.
struct State {
    m: Vec<f32>,
    l: Vec<f32>,
    acc: Vec<f32>,
}

#[test]
fn rows_attend_to_their_own_keys() {
    for table in tables() {
        for (d, dv, keys) in SIZES {
            let mut random = Random((d * dv + keys) as u64);
            let q = random.reals(ROWS * d);
            let mut state = State {
                m: vec![f32::NEG_INFINITY; ROWS],
                l: vec![0.0; ROWS],
                acc: [vec![0.0; ROWS * dv], vec![CANARY; 64]].concat(),
            };
            // Three chunks: with masks, without, and with masks again.
            let chunks: Vec<_> = (0..3)
                .map(|i| {
                    let mask = (i != 1).then(|| masks(&mut random, keys));
                    let mut v = random.reals(keys * dv);
                    // A value that is not finite reaches only the rows that read it: here, none.
                    let unread =
                        (0..keys).find(|key| mask.as_ref().is_some_and(|m| m.iter().all(|row| row >> key & 1 == 0)));
                    if let Some(key) = unread {
                        v[key * dv] = f32::NAN;
                    }
                    (random.reals(keys * d), v, mask)
                })
                .collect();
            for (k, v, mask) in &chunks {
                let mut s = vec![CANARY; ROWS * BK];
                let mask = mask.as_ref().map_or(std::ptr::null(), |m| m.as_ptr());
                let (keys, rows) = (keys as i64, ROWS as i64);
                let State { m, l, acc } = &mut state;
                let (m, l, acc) = (m.as_mut_ptr(), l.as_mut_ptr(), acc.as_mut_ptr());
                // SAFETY: everything has the size that the contract asks for.
                unsafe {
                    let k = addresses(k, d);
                    (table.own_qk)(q.as_ptr(), k.as_ptr(), keys, d as i64, rows, mask, s.as_mut_ptr());
                    let v = addresses(v, dv);
                    (table.own_pv)(s.as_mut_ptr(), v.as_ptr(), keys, dv as i64, rows, mask, m, l, acc);
                }
            }
            for row in 0..ROWS {
                let own = |mask: &Option<Vec<u64>>, key: usize| mask.as_ref().is_none_or(|m| m[row] >> key & 1 == 1);
                let mut terms = vec![];
                for (k, v, mask) in &chunks {
                    for key in (0..keys).filter(|&key| own(mask, key)) {
                        let dot = (0..d).map(|i| f64::from(q[row * d + i]) * f64::from(k[key * d + i])).sum::<f64>();
                        terms.push((dot, &v[key * dv..][..dv]));
                    }
                }
                let top = terms.iter().fold(f64::NEG_INFINITY, |top, t| top.max(t.0));
                let sum: f64 = terms.iter().map(|t| (t.0 - top).exp()).sum();
                assert!((f64::from(state.m[row]) - top).abs() <= 1e-4, "d {d}, keys {keys}, row {row}");
                assert!((f64::from(state.l[row]) - sum).abs() <= 1e-4 * sum, "d {d}, keys {keys}, row {row}: the sum");
                for i in 0..dv {
                    let want: f64 = terms.iter().map(|t| (t.0 - top).exp() * f64::from(t.1[i])).sum();
                    let got = f64::from(state.acc[row * dv + i]);
                    assert!(
                        (got - want).abs() <= 1e-4 * sum,
                        "d {d}, dv {dv}, keys {keys}, row {row}: {got} for {want}"
                    );
                }
            }
            assert!(state.acc[ROWS * dv..].iter().all(|&x| x == CANARY), "written beyond the rows");
        }
    }
}

#[test]
fn scores_that_are_no_numbers_stay_in_their_row() {
    for table in tables() {
        let (q, k) = ([f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 1.0], [1.0, 2.0]);
        let (mut s, mut m, mut l, mut acc) = ([CANARY; 4 * BK], [f32::NEG_INFINITY; 4], [0.0; 4], [0.0; 4]);
        let rows = addresses(&k, 1);
        // SAFETY: four rows of one element, and two keys.
        unsafe {
            (table.own_qk)(q.as_ptr(), rows.as_ptr(), 2, 1, 4, std::ptr::null(), s.as_mut_ptr());
            let (m, l, acc) = (m.as_mut_ptr(), l.as_mut_ptr(), acc.as_mut_ptr());
            (table.own_pv)(s.as_mut_ptr(), rows.as_ptr(), 2, 1, 4, std::ptr::null(), m, l, acc);
        }
        assert!(m.iter().all(|m| !m.is_nan()), "{m:?}");
        assert!(l[0].is_nan() && l[2].is_nan() && l[1] == 0.0 && m[1] == f32::NEG_INFINITY, "{m:?} {l:?}");
        assert!((l[3] - (1.0 + (-1.0_f32).exp())).abs() < 1e-5 && acc[3].is_finite(), "{l:?} {acc:?}");
    }
}
