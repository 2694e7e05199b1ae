//! Tiles of few queries, of each instruction set of this machine, against plain formulas; and one query's numbers against
//! themselves with others beside it.

mod common;

use std::ptr::{null, null_mut};

use attnc_kernels::abi::{Ahead, DType, FEW, Table};
use common::{Random, tables};
use half::{bf16, f16};

const DIMS: [usize; 10] = [1, 3, 7, 8, 15, 33, 64, 80, 128, 1000];
const KEYS: [usize; 9] = [1, 2, 3, 5, 16, 17, 31, 63, 64];
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];
const CANARY: f32 = 12345.0;

/// Rows of a type, and the reals they stand for.
struct Stored {
    bytes: Vec<u8>,
    reals: Vec<f32>,
    dtype: DType,
    /// Elements from row to row.
    stride: usize,
}

impl Stored {
    fn of(dtype: DType, reals: &[f32], stride: usize) -> Stored {
        let (mut bytes, mut rounded) = (Vec::new(), Vec::new());
        for &x in reals {
            match dtype {
                DType::F32 => bytes.extend(x.to_ne_bytes()),
                DType::F16 => bytes.extend(f16::from_f32(x).to_ne_bytes()),
                DType::Bf16 => bytes.extend(bf16::from_f32(x).to_ne_bytes()),
            }
            rounded.push(match dtype {
                DType::F32 => x,
                DType::F16 => f16::from_f32(x).to_f32(),
                DType::Bf16 => bf16::from_f32(x).to_f32(),
            });
        }
        Stored { bytes, reals: rounded, dtype, stride }
    }

    fn step(&self) -> i64 {
        (self.stride * self.dtype.size()) as i64
    }

    /// Rows that follow: addresses that are asked for, never read.
    fn ahead(&self) -> Ahead {
        Ahead { at: self.bytes.as_ptr(), stride: self.step(), rows: 5 }
    }

    fn at(&self, row: usize, i: usize) -> f64 {
        f64::from(self.reals[row * self.stride + i])
    }
}

fn pack(table: &Table, rows: &[f32], lanes: usize, d: usize) -> Vec<f32> {
    let mut q = vec![CANARY; d * FEW];
    let bq = FEW as i64;
    // SAFETY: `lanes` rows of `d` elements, and room for `FEW`.
    unsafe {
        let (lanes, d) = (lanes as i64, d as i64);
        (table.pack_q)(rows.as_ptr().cast(), 0, 4 * d, 4, null(), lanes, bq, d, 1.0, q.as_mut_ptr());
    }
    assert!(q[lanes * d..].iter().all(|&x| x == CANARY), "only rows are written");
    q
}

fn scores(table: &Table, q: &[f32], k: &Stored, keys: usize, d: usize, lanes: usize) -> Vec<f32> {
    let mut s = vec![CANARY; keys * FEW + 1];
    let (dtype, ahead) = (k.dtype as i64, k.ahead());
    // SAFETY: the buffers have these sizes.
    unsafe {
        let (keys, d, lanes) = (keys as i64, d as i64, lanes as i64);
        (table.few_qk)(q.as_ptr(), k.bytes.as_ptr(), dtype, k.step(), keys, d, lanes, s.as_mut_ptr(), &raw const ahead);
    }
    assert_eq!(s.pop(), Some(CANARY));
    s
}

#[test]
fn scores_are_the_matrix_product_whatever_is_beside_a_query() {
    let mut random = Random(1);
    for d in DIMS {
        for keys in KEYS {
            for dtype in DTYPES {
                let stride = d + keys % 3;
                let k = Stored::of(dtype, &random.reals(keys * stride), stride);
                let rows = random.reals(FEW * d);
                for table in tables() {
                    let all = scores(&table, &pack(&table, &rows, FEW, d), &k, keys, d, FEW);
                    for lanes in 1..=FEW {
                        let got = scores(&table, &pack(&table, &rows, lanes, d), &k, keys, d, lanes);
                        for (i, &got) in got.iter().enumerate() {
                            let (key, lane) = (i / FEW, i % FEW);
                            if lane >= lanes {
                                assert_eq!(got, 0.0);
                                continue;
                            }
                            assert_eq!(got.to_bits(), all[i].to_bits(), "lane {lane} of {lanes}");
                            let exact: f64 = (0..d).map(|i| k.at(key, i) * f64::from(rows[lane * d + i])).sum();
                            assert!((f64::from(got) - exact).abs() <= 1e-6 * d as f64, "d {d} keys {keys} {dtype:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn softmax_is_the_same_whatever_is_beside_a_query() {
    let mut random = Random(4);
    for keys in 1..=64 {
        let s: Vec<f32> = random.reals(keys * FEW).iter().map(|x| 5.0 * x).collect();
        let bits: Vec<u64> = (0..FEW).map(|_| random.bits()).collect();
        for (mask, table) in [null(), bits.as_ptr()].into_iter().flat_map(|m| tables().into_iter().map(move |t| (m, t)))
        {
            let of = |lanes: usize| {
                let (mut s, mut m, mut l, mut alpha) = (s.clone(), [0.5; FEW], [1.5; FEW], [CANARY; FEW]);
                // SAFETY: the buffers have these sizes.
                unsafe {
                    let (s, m, l, alpha) = (s.as_mut_ptr(), m.as_mut_ptr(), l.as_mut_ptr(), alpha.as_mut_ptr());
                    (table.softmax)(s, keys as i64, lanes as i64, FEW as i64, mask, m, l, alpha);
                }
                let row = |at: usize, lane: usize| {
                    if at < keys { s[at * FEW + lane] } else { [m, l, alpha][at - keys][lane] }
                };
                (0..lanes).map(|lane| (0..keys + 3).map(|at| row(at, lane).to_bits()).collect()).collect()
            };
            let all: Vec<Vec<u32>> = of(FEW);
            for lanes in 1..FEW {
                assert_eq!(of(lanes), all[..lanes], "keys {keys} lanes {lanes}");
            }
        }
    }
}

#[test]
fn softmax_agrees_with_f64() {
    let mut random = Random(2);
    for keys in 1..=64 {
        for lanes in 1..=FEW {
            let s: Vec<f32> = random.reals(keys * FEW).iter().map(|x| 30.0 * x).collect();
            let m: Vec<f32> = (0..FEW).map(|lane| [f32::NEG_INFINITY, 0.0, 100.0, -100.0][(lane + keys) % 4]).collect();
            let l: Vec<f32> = m.iter().map(|&m| if m == f32::NEG_INFINITY { 0.0 } else { 2.5 }).collect();
            let bits: Vec<u64> = (0..lanes).map(|lane| if lane == 2 { 0 } else { random.bits() }).collect();
            for (masked, table) in [false, true].into_iter().flat_map(|m| tables().into_iter().map(move |t| (m, t))) {
                let (mut p, mut top, mut sum, mut alpha) = (s.clone(), m.clone(), l.clone(), vec![CANARY; FEW]);
                let mask = if masked { bits.as_ptr() } else { null() };
                // SAFETY: the buffers have these sizes.
                let rescale = unsafe {
                    let (keys, lanes, bq) = (keys as i64, lanes as i64, FEW as i64);
                    let (p, m) = (p.as_mut_ptr(), top.as_mut_ptr());
                    (table.softmax)(p, keys, lanes, bq, mask, m, sum.as_mut_ptr(), alpha.as_mut_ptr())
                };
                assert_eq!(rescale != 0, alpha[..lanes].iter().any(|&a| a != 1.0));
                for lane in 0..lanes {
                    let held = |key: usize| !masked || bits[lane] >> key & 1 == 1;
                    let score = |key: usize| f64::from(s[key * FEW + lane]);
                    let best = (0..keys).filter(|&k| held(k)).map(score).fold(f64::from(m[lane]), f64::max);
                    assert_eq!(f64::from(top[lane]), best);
                    let mut total = 0.0;
                    for key in 0..keys {
                        let want = if held(key) { (score(key) - best).exp() } else { 0.0 };
                        assert!((f64::from(p[key * FEW + lane]) - want).abs() < 3e-7, "keys {keys} lanes {lanes}");
                        total += want;
                    }
                    let factor = if f64::from(m[lane]) == best { 1.0 } else { (f64::from(m[lane]) - best).exp() };
                    total += f64::from(l[lane]) * factor;
                    assert!((f64::from(sum[lane]) - total).abs() <= 1e-6 * (1.0 + total));
                    assert!((f64::from(alpha[lane]) - factor).abs() <= 3e-7);
                }
            }
        }
    }
}

#[test]
fn softmax_keeps_nan_in_its_row() {
    for table in tables() {
        for (keys, lanes) in [(37, 4), (36, 3), (37, 8)] {
            let mut s = Random(3).reals(keys * FEW);
            s[5 * FEW] = f32::NAN;
            s[5 * FEW + 1] = f32::NAN;
            (0..keys).for_each(|key| s[key * FEW + 2] = f32::NEG_INFINITY);
            let mask: Vec<u64> = (0..lanes).map(|lane| if lane == 1 { !(1 << 5) } else { u64::MAX }).collect();
            let (mut m, mut l, mut alpha) = (vec![f32::NEG_INFINITY; FEW], vec![0.0; FEW], vec![0.0; FEW]);
            // SAFETY: the buffers have these sizes.
            unsafe {
                let (m, l, alpha) = (m.as_mut_ptr(), l.as_mut_ptr(), alpha.as_mut_ptr());
                (table.softmax)(s.as_mut_ptr(), keys as i64, lanes as i64, FEW as i64, mask.as_ptr(), m, l, alpha);
            }
            assert!(l[0].is_nan() && l[1].is_finite() && m[0].is_finite());
            assert_eq!((m[2], l[2], alpha[2]), (f32::NEG_INFINITY, 0.0, 1.0));
        }
    }
}

/// Runs a tile through start, `few_pv` and finish: rows `[lanes][dv]`.
fn output(table: &Table, dv: usize, lanes: usize, run: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let (mut m, mut l) = (vec![CANARY; FEW], vec![CANARY; FEW]);
    let (mut acc, mut out) = (vec![CANARY; FEW * dv], vec![CANARY; lanes * dv]);
    let (bq, rows, dim) = (FEW as i64, lanes as i64, dv as i64);
    // SAFETY: the buffers have these sizes.
    unsafe {
        (table.start)(rows, bq, dim, m.as_mut_ptr(), l.as_mut_ptr(), acc.as_mut_ptr());
        assert!(l.iter().all(|&l| l == 0.0));
        run(&mut acc);
        l.fill(1.0);
        let (acc, m, l, out) = (acc.as_ptr(), m.as_ptr(), l.as_ptr(), out.as_mut_ptr().cast());
        (table.finish)(acc, m, l, rows, bq, dim, out, 0, 4 * dim, 4, null(), null_mut(), 0, null());
    }
    out
}

#[test]
fn values_are_summed_rescaled_and_skipped_where_masked() {
    let mut random = Random(4);
    for dv in DIMS {
        for keys in KEYS {
            for dtype in DTYPES {
                let stride = dv + keys % 3;
                let clean = random.reals(keys * stride);
                let (p, alpha) = (random.reals(keys * FEW), random.reals(FEW));
                let mask: Vec<u64> = (0..FEW).map(|_| random.bits()).collect();
                for (masked, spoilt) in [(false, false), (true, false), (true, true)] {
                    let mut weights = p.clone();
                    let held = |lane: usize, key: usize| !masked || mask[lane] >> key & 1 == 1;
                    for i in (0..weights.len()).filter(|i| !held(i % FEW, i / FEW)) {
                        weights[i] = 0.0;
                    }
                    let mut values = clean.clone();
                    if spoilt {
                        values[(keys / 2) * stride + dv / 2] = f32::INFINITY;
                        values[(keys / 3) * stride] = f32::NAN;
                    }
                    let (first, v) = (Stored::of(dtype, &clean, stride), Stored::of(dtype, &values, stride));
                    for table in tables() {
                        let sum = |lanes: usize| {
                            output(&table, dv, lanes, |acc| {
                                let (none, some) = (null(), if masked { mask.as_ptr() } else { null() });
                                let code = dtype as i64;
                                for (p, v, mask, alpha) in
                                    [(&p, &first, none, null()), (&weights, &v, some, alpha.as_ptr())]
                                {
                                    let (ahead, at) = (v.ahead(), v.bytes.as_ptr());
                                    let (keys, dv, lanes) = (keys as i64, dv as i64, lanes as i64);
                                    let (p, acc) = (p.as_ptr(), acc.as_mut_ptr());
                                    // SAFETY: the buffers have these sizes.
                                    unsafe {
                                        let ahead = &raw const ahead;
                                        (table.few_pv)(p, at, code, v.step(), keys, dv, lanes, mask, alpha, acc, ahead);
                                    }
                                }
                            })
                        };
                        let all = sum(FEW);
                        for lanes in 1..=FEW {
                            let got = sum(lanes);
                            for (i, &got) in got.iter().enumerate() {
                                let (lane, dim) = (i / dv, i % dv);
                                let nan = got.is_nan() && all[i].is_nan();
                                // Which lanes attend to what is not finite is no matter of lanes beside them.
                                assert!(spoilt || nan || got.to_bits() == all[i].to_bits(), "lane {lane} of {lanes}");
                                let old: f64 = (0..keys).map(|k| f64::from(p[k * FEW + lane]) * first.at(k, dim)).sum();
                                let new: f64 = (0..keys)
                                    .filter(|&k| held(lane, k))
                                    .map(|k| f64::from(weights[k * FEW + lane]) * v.at(k, dim))
                                    .sum();
                                let want = old * f64::from(alpha[lane]) + new;
                                let same = (want.is_nan() && got.is_nan()) || f64::from(got) == want;
                                assert!(
                                    same || (f64::from(got) - want).abs() <= 2e-5,
                                    "dv {dv} {dtype:?}: {got} {want}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn null_slots_and_finish_find_their_lane() {
    let (dv, lanes) = (13, 5);
    for table in tables() {
        let mut acc = vec![0.0f32; FEW * dv];
        let (mut m, mut l) = (vec![0.5f32; FEW], vec![2.0f32; FEW]);
        let (bq, rows, dim) = (FEW as i64, lanes as i64, dv as i64);
        for (i, acc) in acc[..lanes * dv].iter_mut().enumerate() {
            *acc = (i / dv + 1) as f32;
        }
        let (mut out, mut lse) = (vec![CANARY; 10 * dv], vec![CANARY; 10]);
        let (index, lse_index) = ([9_u32, 2, 0, 4, 7], [1_u32, 3, 5, 0, 2]);
        // SAFETY: the buffers have these sizes.
        unsafe {
            (table.null_slot)(1.5, 3, bq, dim, m.as_mut_ptr(), l.as_mut_ptr(), acc.as_mut_ptr());
            l[1] = 0.0;
            let (o, lse) = (out.as_mut_ptr().cast(), lse.as_mut_ptr());
            let (at, of) = (index.as_ptr(), lse_index.as_ptr());
            (table.finish)(acc.as_ptr(), m.as_ptr(), l.as_ptr(), rows, bq, dim, o, 0, 4 * dim, 4, at, lse, 4, of);
        }
        let factor = (-1.0f32).exp();
        for lane in 0..lanes {
            let slot = lane == 3;
            let sum = if slot { 2.0 * factor + 1.0 } else { 2.0 };
            let want = if lane == 1 { 0.0 } else { (lane + 1) as f32 * if slot { factor } else { 1.0 } / sum };
            let row = &out[index[lane] as usize * dv..][..dv];
            assert!(row.iter().all(|&x| (x - want).abs() < 1e-6), "lane {lane}: {row:?} for {want}");
            let top: f32 = if slot { 1.5 } else { 0.5 };
            let want = if lane == 1 { f32::NEG_INFINITY } else { top + sum.ln() };
            let got = lse[lse_index[lane] as usize];
            assert!(got == want || (got - want).abs() < 1e-6, "{got} for {want}");
        }
        assert!(out[dv..2 * dv].iter().all(|&x| x == CANARY) && lse[4] == CANARY);
    }
}
