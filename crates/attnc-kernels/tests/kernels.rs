//! Every kernel of each instruction set of this machine against plain formulas, on awkward sizes and values.

mod common;

use std::ptr::null;

use attnc_kernels::Isa;
use attnc_kernels::abi::{BK, BQ_MAX, DType, HALF, KvView, LANE_STEP, Next, Table};
use common::{Random, tables};
use half::{bf16, f16};

const DIMS: [usize; 13] = [1, 2, 3, 5, 6, 7, 31, 32, 33, 64, 80, 128, 1000];
const KEYS: [usize; 14] = [1, 2, 3, 4, 5, 6, 7, 12, 31, 32, 33, 48, 63, 64];
const CANARY: f32 = 12345.0;

#[track_caller]
fn assert_close(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (&x, &y)) in a.iter().zip(b).enumerate() {
        let same = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= tolerance;
        assert!(same, "{what}: element {i} is {x} and {y}");
    }
}

/// Addresses of rows, and so many more of the last that there are [`BK`].
fn addresses(x: &[f32], stride: usize) -> [*const f32; BK] {
    let rows: Vec<*const f32> = x.chunks(stride).map(<[f32]>::as_ptr).collect();
    std::array::from_fn(|i| rows[i.min(rows.len() - 1)])
}

/// How many of the keys the first half panel takes: all, none, or some.
fn first_half(keys: usize, d: usize) -> usize {
    [keys, 0, keys / 2, keys.saturating_sub(8)][(keys + d) % 4]
}

fn lane_counts(bq: usize) -> impl Iterator<Item = usize> {
    (LANE_STEP..=bq).step_by(LANE_STEP)
}

#[test]
fn qk_is_the_matrix_product() {
    let mut random = Random(1);
    for d in DIMS {
        for keys in KEYS {
            for bq in lane_counts(BQ_MAX) {
                let lanes = if keys % 2 == 0 { bq } else { LANE_STEP };
                let (stride, half) = (d + keys % 3, first_half(keys, d));
                let visited = |key: usize, lane: usize| lane < lanes && (key < half || lane >= HALF);
                let (queries, k) = (random.reals(bq * d), random.reals(keys * stride));
                let rows = addresses(&k, stride);
                // Nothing is added, rows that go back an element a key, or what is in place of the scores.
                let (added, pitch) = (random.reals(keys * bq + bq), if keys % 4 == 1 { -1 } else { bq as i64 });
                let in_place = keys % 4 == 2;
                let from = if pitch < 0 { &added[keys..] } else { &added[..] };
                let more = |key: usize, lane: usize| match keys % 4 {
                    0 => 0.0,
                    1 => added[keys - key + lane],
                    _ => added[key * bq + lane],
                };
                for table in tables() {
                    let (mut q, mut s) = (vec![CANARY; d * bq], vec![CANARY; keys * bq]);
                    if in_place {
                        for (i, s) in s.iter_mut().enumerate().filter(|(i, _)| visited(i / bq, i % bq)) {
                            *s = added[i];
                        }
                    }
                    // SAFETY: the buffers have these sizes.
                    unsafe {
                        let (d, bq) = (d as i64, bq as i64);
                        (table.pack_q)(queries.as_ptr().cast(), 0, 4 * d, 4, null(), bq, bq, d, 1.0, q.as_mut_ptr());
                        let next = Next::of(rows.as_ptr().cast(), 4 * d);
                        let next = if keys.is_multiple_of(5) { null() } else { &raw const next };
                        let s = s.as_mut_ptr();
                        let from = if keys.is_multiple_of(4) { null() } else { from.as_ptr() };
                        let from = if in_place { s.cast_const() } else { from };
                        let (rows, keys, lanes) = (rows.as_ptr(), keys as i64, lanes as i64);
                        (table.qk)(q.as_ptr(), rows, keys, d, lanes, half as i64, bq, s, from, pitch, next);
                    }
                    let expected: Vec<f32> = (0..keys * bq)
                        .map(|i| {
                            let (key, lane) = (i / bq, i % bq);
                            let products =
                                (0..d).map(|i| f64::from(k[key * stride + i]) * f64::from(queries[lane * d + i]));
                            let sum = || products.sum::<f64>() + f64::from(more(key, lane));
                            if visited(key, lane) { sum() as f32 } else { CANARY }
                        })
                        .collect();
                    assert_close(&s, &expected, 1e-6 * (d as f32), &format!("d {d} keys {keys} bq {bq}"));
                }
            }
        }
    }
}

/// Masks of the kinds that differ: none, random, all zero, all one, one key.
fn masks(random: &mut Random, lanes: usize, keys: usize) -> Vec<Option<Vec<u64>>> {
    let random_one = (0..lanes).map(|_| random.bits()).collect();
    let single = (0..lanes).map(|lane| 1 << (lane * 7 % keys)).collect();
    let mixed = (0..lanes).map(|lane| if lane % 3 == 0 { 0 } else { random.bits() }).collect();
    vec![None, Some(random_one), Some(vec![0; lanes]), Some(vec![u64::MAX; lanes]), Some(single), Some(mixed)]
}

fn mask_ptr(mask: &Option<Vec<u64>>) -> *const u64 {
    mask.as_ref().map_or(null(), |mask| mask.as_ptr())
}

fn takes_part(mask: &Option<Vec<u64>>, lane: usize, key: usize) -> bool {
    mask.as_ref().is_none_or(|mask| mask[lane] >> key & 1 == 1)
}

/// State of a query tile's softmax.
#[derive(Clone)]
struct State {
    s: Vec<f32>,
    m: Vec<f32>,
    l: Vec<f32>,
    alpha: Vec<f32>,
}

fn softmax(table: &Table, state: &mut State, keys: usize, lanes: usize, bq: usize, mask: &Option<Vec<u64>>) -> i64 {
    // SAFETY: the state has the sizes of `keys` and `bq`.
    unsafe {
        (table.softmax)(
            state.s.as_mut_ptr(),
            keys as i64,
            lanes as i64,
            bq as i64,
            mask_ptr(mask),
            state.m.as_mut_ptr(),
            state.l.as_mut_ptr(),
            state.alpha.as_mut_ptr(),
        )
    }
}

#[test]
fn softmax_agrees_with_f64() {
    let mut random = Random(2);
    for keys in 1..=BK {
        for bq in lane_counts(BQ_MAX) {
            let lanes = if keys % 2 == 0 { bq } else { LANE_STEP };
            for mask in masks(&mut random, lanes, keys) {
                let s: Vec<f32> = random.reals(keys * bq).iter().map(|x| 30.0 * x).collect();
                // Some lanes start empty, some have seen keys, some have seen a larger maximum.
                let m: Vec<f32> = (0..bq).map(|lane| [f32::NEG_INFINITY, 0.0, 100.0, -100.0][lane % 4]).collect();
                let l: Vec<f32> = m.iter().map(|&m| if m == f32::NEG_INFINITY { 0.0 } else { 2.5 }).collect();
                for table in tables() {
                    let mut state = State { s: s.clone(), m: m.clone(), l: l.clone(), alpha: vec![CANARY; bq] };
                    let rescale = softmax(&table, &mut state, keys, lanes, bq, &mask);
                    assert_eq!(rescale != 0, state.alpha[..lanes].iter().any(|&a| a != 1.0));
                    for lane in 0..lanes {
                        let scores: Vec<Option<f64>> = (0..keys)
                            .map(|key| takes_part(&mask, lane, key).then(|| f64::from(s[key * bq + lane])))
                            .collect();
                        let top = scores.iter().flatten().copied().fold(f64::from(m[lane]), f64::max);
                        assert_eq!(f64::from(state.m[lane]), top);
                        let factor = if f64::from(m[lane]) == top { 1.0 } else { (f64::from(m[lane]) - top).exp() };
                        let p: Vec<f32> = scores.iter().map(|s| s.map_or(0.0, |s| (s - top).exp()) as f32).collect();
                        let got: Vec<f32> = (0..keys).map(|key| state.s[key * bq + lane]).collect();
                        assert_close(&got, &p, 3e-7, "p");
                        let sum = f64::from(l[lane]) * factor + p.iter().map(|&p| f64::from(p)).sum::<f64>();
                        assert!(
                            (f64::from(state.l[lane]) - sum).abs() <= 1e-6 * (1.0 + sum),
                            "keys {keys} lane {lane}"
                        );
                        assert!((f64::from(state.alpha[lane]) - factor).abs() <= 3e-7);
                    }
                    let untouched = state.m[lanes..].iter().zip(&m[lanes..]).all(|(a, b)| a == b)
                        && state.alpha[lanes..].iter().all(|&a| a == CANARY);
                    assert!(untouched, "lanes from {lanes} on are not the kernel's");
                }
            }
        }
    }
}

#[test]
fn softmax_keeps_nan_in_its_row_and_ignores_masked_ones() {
    let (keys, bq) = (37, 32);
    for table in tables() {
        for payload in [0x7fc0_0000, 0x7fc0_0001, 0xffff_ffff, 0x7fc0_01ff] {
            for key in [0, 1, 5, 36] {
                let mut state = State {
                    s: Random(3).reals(keys * bq),
                    m: vec![f32::NEG_INFINITY; bq],
                    l: vec![0.0; bq],
                    alpha: vec![0.0; bq],
                };
                // Lane 3 sees a NaN, lane 4 one that is masked, lane 5 sees +inf, lane 6 -inf, lane 7 only -inf.
                for lane in [3, 4] {
                    state.s[key * bq + lane] = f32::from_bits(payload);
                }
                state.s[key * bq + 5] = f32::INFINITY;
                state.s[key * bq + 6] = f32::NEG_INFINITY;
                for key in 0..keys {
                    state.s[key * bq + 7] = f32::NEG_INFINITY;
                }
                let mut mask = vec![u64::MAX; bq];
                mask[4] = !(1 << key);
                softmax(&table, &mut state, keys, bq, bq, &Some(mask));
                assert!(state.l[3].is_nan() && state.s[key * bq + 3].is_nan());
                assert_eq!(state.s[key * bq + 4], 0.0);
                assert!(state.l[5].is_nan());
                assert_eq!(state.s[key * bq + 6], 0.0);
                assert_eq!((state.m[7], state.l[7], state.alpha[7]), (f32::NEG_INFINITY, 0.0, 1.0));
                for lane in (0..bq).filter(|&lane| lane != 3 && lane != 5) {
                    assert!(state.l[lane].is_finite(), "lane {lane}");
                    assert!((0..keys).all(|key| state.s[key * bq + lane].is_finite()), "lane {lane}");
                }
                // A NaN stays in the sum, also when a later tile brings the first maximum.
                softmax(&table, &mut state, keys, bq, bq, &None);
                assert!(state.l[3].is_nan() && state.l[5].is_nan());
            }
        }
    }
}

#[test]
fn softmax_exponential_is_within_its_bound() {
    // Two keys: the second is the maximum, 0, so the first becomes exp(x).
    for table in tables() {
        let (lanes, step) = (BQ_MAX, 61);
        let mut bits = 0x8000_0000u32;
        let last = f32::NEG_INFINITY.to_bits();
        let mut worst = 0.0f64;
        while bits <= last {
            let mut state = State {
                s: vec![0.0; 2 * lanes],
                m: vec![f32::NEG_INFINITY; lanes],
                l: vec![0.0; lanes],
                alpha: vec![0.0; lanes],
            };
            let x: Vec<f32> = (0..lanes as u32).map(|i| f32::from_bits((bits + i * step).min(last))).collect();
            state.s[..lanes].copy_from_slice(&x);
            softmax(&table, &mut state, 2, lanes, lanes, &None);
            for (&x, &y) in x.iter().zip(&state.s) {
                let exact = f64::from(x).exp();
                if exact < f64::from(f32::MIN_POSITIVE) {
                    assert!((0.0..=f32::MIN_POSITIVE).contains(&y), "exp({x}) = {y}");
                } else {
                    let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
                    worst = worst.max((f64::from(y) - exact).abs() / ulp / (3.0 + f64::from(x.abs()) / 4.0));
                }
            }
            // Below 2^-20 the exponential is 1 for whole ranges: larger steps there.
            bits += lanes as u32 * step * if x[0] > -1e-6 { 512 } else { 1 };
        }
        assert!(worst <= 1.0, "{worst} of the bound");
        assert!(worst > 0.1, "the comparison must see rounding");
    }
}

struct Pv {
    keys: usize,
    dv: usize,
    lanes: usize,
    half: usize,
    bq: usize,
    stride: usize,
}

impl Pv {
    fn run(
        &self,
        table: &Table,
        p: &[f32],
        v: &[f32],
        mask: &Option<Vec<u64>>,
        alpha: Option<&[f32]>,
        acc: &mut [f32],
    ) {
        let rows = addresses(v, self.stride);
        let next = Next::of(rows.as_ptr().cast(), 4 * self.dv as i64);
        // SAFETY: the slices have the sizes of `self`.
        unsafe {
            (table.pv)(
                p.as_ptr(),
                rows.as_ptr(),
                self.keys as i64,
                self.dv as i64,
                self.lanes as i64,
                self.half as i64,
                self.bq as i64,
                mask_ptr(mask),
                alpha.map_or(null(), <[f32]>::as_ptr),
                acc.as_mut_ptr(),
                if self.keys.is_multiple_of(5) { null() } else { &raw const next },
            );
        }
    }
}

/// Runs a tile through start, pv and finish, so that nothing is assumed of the accumulator's layout; gives rows `[bq][dv]`.
fn output(table: &Table, size: &Pv, run: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let (bq, dv) = (size.bq as i64, size.dv as i64);
    let mut acc = vec![0.0; size.dv * size.bq];
    let (mut m, mut l) = (vec![0.0; size.bq], vec![0.0; size.bq]);
    let mut out = vec![CANARY; size.bq * size.dv];
    // SAFETY: the buffers have these sizes.
    unsafe {
        (table.start)(bq, bq, dv, m.as_mut_ptr(), l.as_mut_ptr(), acc.as_mut_ptr());
        run(&mut acc);
        l.fill(1.0);
        let (acc, m, l, out) = (acc.as_ptr(), m.as_ptr(), l.as_ptr(), out.as_mut_ptr().cast());
        (table.finish)(acc, m, l, bq, bq, dv, out, 0, 4 * dv, 4, null(), std::ptr::null_mut(), 0, null());
    }
    out
}

#[test]
fn pv_accumulates_rescales_and_skips_masked_values() {
    let mut random = Random(4);
    for dv in DIMS {
        for keys in KEYS {
            let bq = LANE_STEP * (1 + (dv + keys) % 4);
            let lanes = if keys % 2 == 0 { bq } else { LANE_STEP };
            let half = first_half(keys, dv);
            let visited = |lane: usize, key: usize| key < half || lane >= HALF;
            let size = Pv { keys, dv, lanes, half, bq, stride: dv + keys % 3 };
            for mask in masks(&mut random, lanes, keys) {
                let (mut first, mut p) = (random.reals(keys * bq), random.reals(keys * bq));
                let alpha = random.reals(bq);
                let mut v = random.reals(keys * size.stride);
                for lane in 0..lanes {
                    for key in (0..keys).filter(|&key| !takes_part(&mask, lane, key)) {
                        p[key * bq + lane] = 0.0;
                    }
                }
                for i in (0..keys * bq).filter(|i| !visited(i % bq, i / bq)) {
                    (first[i], p[i]) = (f32::NAN, f32::NAN);
                }
                // Values that are not finite, whose rows are masked for some lanes.
                let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
                let clean = v.clone();
                for (i, bad) in bad.into_iter().enumerate().filter(|_| mask.is_some() && keys > 3) {
                    v[(i * 5 % keys) * size.stride + i * 3 % dv] = bad;
                }
                let mut expected = vec![0.0f64; bq * dv];
                for lane in 0..lanes {
                    for dim in 0..dv {
                        let old: f64 = (0..keys)
                            .filter(|&key| visited(lane, key))
                            .map(|key| f64::from(first[key * bq + lane]) * f64::from(clean[key * size.stride + dim]))
                            .sum();
                        let new: f64 = (0..keys)
                            .filter(|&key| visited(lane, key) && takes_part(&mask, lane, key))
                            .map(|key| f64::from(p[key * bq + lane]) * f64::from(v[key * size.stride + dim]))
                            .sum();
                        expected[lane * dv + dim] = old * f64::from(alpha[lane]) + new;
                    }
                }
                let expected: Vec<f32> = expected.into_iter().map(|x| x as f32).collect();
                for table in tables() {
                    let got = output(&table, &size, |acc| {
                        size.run(&table, &first, &clean, &None, None, acc);
                        size.run(&table, &p, &v, &mask, Some(&alpha), acc);
                    });
                    let what = format!("dv {dv} keys {keys} lanes {lanes} bq {bq}");
                    assert_close(&got, &expected, 2e-5, &what);
                }
            }
        }
    }
}

#[test]
fn null_slots_move_only_their_lane() {
    let (bq, dv) = (32usize, 7usize);
    for table in tables() {
        for (bias, old_m, old_l) in
            [(1.0f32, 0.5f32, 2.0f32), (-3.0, 0.5, 2.0), (2.0, f32::NEG_INFINITY, 0.0), (f32::NEG_INFINITY, 0.5, 2.0)]
        {
            let size = Pv { keys: 1, dv, lanes: bq, half: 1, bq, stride: dv };
            let (mut m, mut l) = (vec![old_m; bq], vec![old_l; bq]);
            let out = output(&table, &size, |acc| {
                let weight = vec![if old_l == 0.0 { 0.0 } else { 1.0 }; bq];
                size.run(&table, &weight, &vec![3.0; dv], &None, None, acc);
                // SAFETY: the buffers have these sizes.
                unsafe {
                    (table.null_slot)(bias, 5, bq as i64, dv as i64, m.as_mut_ptr(), l.as_mut_ptr(), acc.as_mut_ptr());
                }
            });
            let total = f64::from(old_l) * f64::from(old_m).exp() + f64::from(bias).exp();
            assert!((f64::from(m[5]) + f64::from(l[5]).ln() - total.ln()).abs() < 1e-6);
            let kept = if old_l == 0.0 { 0.0 } else { 3.0 * (f64::from(old_m) - f64::from(m[5])).exp() };
            for (i, &o) in out.iter().enumerate() {
                let expected = if i / dv == 5 {
                    kept
                } else if old_l == 0.0 {
                    0.0
                } else {
                    3.0
                };
                assert!((f64::from(o) - expected).abs() < 1e-6, "{o} {expected}");
            }
            assert!((0..bq).filter(|&lane| lane != 5).all(|lane| m[lane] == old_m && l[lane] == old_l));
        }
    }
}

/// Bytes of reals of a type, and the reals they stand for.
fn encode(dtype: DType, reals: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = Vec::new();
    let mut rounded = Vec::new();
    for &x in reals {
        match dtype {
            DType::F32 => {
                bytes.extend(x.to_ne_bytes());
                rounded.push(x);
            }
            DType::F16 => {
                bytes.extend(f16::from_f32(x).to_ne_bytes());
                rounded.push(f16::from_f32(x).to_f32());
            }
            DType::Bf16 => {
                bytes.extend(bf16::from_f32(x).to_ne_bytes());
                rounded.push(bf16::from_f32(x).to_f32());
            }
        }
    }
    (bytes, rounded)
}

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

#[test]
fn pack_q_scales_gathers_and_zeroes_the_rest() {
    let mut random = Random(5);
    for d in DIMS {
        for dtype in DTYPES {
            for gap in [1, 2] {
                for rows in [0, 1, 7, 8, 16, 33, 47, 48] {
                    let bq = 48;
                    let tensor_rows = 60;
                    let row_stride = d * gap + 3;
                    let (bytes, reals) = encode(dtype, &random.reals(tensor_rows * row_stride));
                    let index: Vec<u32> = (0..rows as u32).map(|i| i * 7 % tensor_rows as u32).collect();
                    for index in [None, Some(&index)] {
                        // Read back through the product with unit vectors, whatever the layout of Q.
                        let mut unit = vec![0.0f32; d];
                        for table in tables() {
                            let mut q = vec![CANARY; d * bq];
                            // SAFETY: the buffers have these sizes.
                            unsafe {
                                (table.pack_q)(
                                    bytes.as_ptr(),
                                    dtype as i64,
                                    (row_stride * dtype.size()) as i64,
                                    (gap * dtype.size()) as i64,
                                    index.map_or(null(), |index| index.as_ptr()),
                                    rows as i64,
                                    bq as i64,
                                    d as i64,
                                    0.3,
                                    q.as_mut_ptr(),
                                );
                            }
                            for i in [0, d / 2, d - 1] {
                                let mut s = vec![CANARY; bq];
                                unit[i] = 1.0;
                                let (bq, d) = (bq as i64, d as i64);
                                // SAFETY: one key of `d` elements.
                                unsafe {
                                    (table.qk)(
                                        q.as_ptr(),
                                        addresses(&unit, d as usize).as_ptr(),
                                        1,
                                        d,
                                        bq,
                                        1,
                                        bq,
                                        s.as_mut_ptr(),
                                        null(),
                                        0,
                                        null(),
                                    )
                                };
                                unit[i] = 0.0;
                                for (lane, &s) in s.iter().enumerate() {
                                    let row = index.map_or(lane, |index| index.get(lane).map_or(0, |&i| i as usize));
                                    let x = reals[row * row_stride + i * gap] * 0.3;
                                    assert_eq!(s, if lane < rows { x } else { 0.0 }, "d {d} rows {rows} lane {lane}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Rows `first .. first + keys` as `[keys][dim]`: copied by a kernel, and where they lie if kernels would read them there.
fn read_tile(table: &Table, view: &KvView, first: usize, keys: usize) -> (Vec<f32>, Option<Vec<f32>>) {
    let dim = view.dim as usize;
    let mut scratch = vec![CANARY; keys * dim + 1];
    // SAFETY: the view's buffers hold the rows.
    unsafe { (table.kv_tile)(view, first as i64, keys as i64, scratch.as_mut_ptr()) };
    assert_eq!(scratch.pop(), Some(CANARY));
    let in_place = view.in_place().then(|| {
        let mut rows = vec![null(); keys];
        // SAFETY: as above.
        unsafe { view.addresses(first, keys, rows.as_mut_ptr()) };
        // SAFETY: the addresses are those of aligned rows of singles.
        rows.into_iter()
            .flat_map(|row| unsafe { std::slice::from_raw_parts(row.cast::<f32>(), dim) }.to_vec())
            .collect()
    });
    (scratch, in_place)
}

#[test]
fn kv_tile_reads_strided_paged_and_listed_rows_of_each_type() {
    let mut random = Random(6);
    let n = 100;
    for dim in DIMS {
        for dtype in DTYPES {
            for gap in [1usize, 2] {
                let size = dtype.size();
                let page_rows = 16usize;
                let row = dim * gap + 2;
                let pages = n / page_rows + 1;
                // Paged tensors use the same bytes, pages back to front.
                let (bytes, reals) = encode(dtype, &random.reals(pages * page_rows * row));
                let table: Vec<u32> = (0..pages as u32).rev().collect();
                let shuffled: Vec<u32> = (0..n as u32).map(|i| i * 37 % n as u32).collect();
                let every_third: Vec<u32> = (0..n as u32 / 3).map(|i| 3 * i).collect();
                for paged in [false, true] {
                    for rows in [None, Some(&shuffled), Some(&every_third)] {
                        let view = KvView {
                            base: bytes.as_ptr(),
                            row_stride: (row * size) as i64,
                            col_stride: (gap * size) as i64,
                            dtype: dtype as u32,
                            page_rows: if paged { page_rows as u32 } else { 0 },
                            table: table.as_ptr(),
                            page_stride: (page_rows * row * size) as i64,
                            rows: rows.map_or(null(), |rows| rows.as_ptr()),
                            dim: dim as u64,
                        };
                        for (first, keys) in [(0, 1), (5, 7), (16, 16), (3, 29), (0, 33)] {
                            let expected: Vec<f32> = (first..first + keys)
                                .flat_map(|i| {
                                    let row_number = rows.map_or(i, |rows| rows[i] as usize);
                                    let place = if paged {
                                        table[row_number / page_rows] as usize * page_rows + row_number % page_rows
                                    } else {
                                        row_number
                                    };
                                    let reals = &reals;
                                    (0..dim).map(move |i| reals[place * row + i * gap])
                                })
                                .collect();
                            for kernels in tables() {
                                let (tile, in_place) = read_tile(&kernels, &view, first, keys);
                                assert_eq!(tile, expected, "dim {dim} {dtype:?} gap {gap} paged {paged}");
                                let plain = dtype == DType::F32 && (gap == 1 || dim == 1);
                                assert_eq!(in_place, plain.then(|| expected.clone()), "dim {dim} {dtype:?} gap {gap}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn unaligned_singles_are_copied() {
    let reals = Random(7).reals(64);
    let mut bytes = vec![0u8];
    bytes.extend(encode(DType::F32, &reals).0);
    let view = KvView {
        base: bytes[1..].as_ptr(),
        row_stride: 32,
        col_stride: 4,
        dtype: DType::F32 as u32,
        page_rows: 0,
        table: null(),
        page_stride: 0,
        rows: null(),
        dim: 8,
    };
    for table in tables() {
        assert_eq!(read_tile(&table, &view, 0, 8), (reals.clone(), None));
    }
}

#[test]
fn finish_divides_rounds_and_scatters() {
    let mut random = Random(8);
    for dv in DIMS {
        for dtype in DTYPES {
            for (gap, rows) in [(1usize, 0usize), (1, 1), (1, 7), (2, 8), (1, 33), (2, 48), (1, 48)] {
                let (bq, row) = (48usize, dv * gap + 1);
                let size = Pv { keys: 1, dv, lanes: bq, half: 1, bq, stride: dv };
                let v = random.reals(dv);
                let p: Vec<f32> = random.reals(bq).iter().map(|x| x * 100.0).collect();
                let m = random.reals(bq);
                // Sums by which division is exact, lanes with an empty one, and one with a NaN.
                let mut l: Vec<f32> = random.reals(bq).iter().map(|x| (4.0 * x).floor().exp2()).collect();
                l[1] = 0.0;
                l[bq - 1] = f32::NAN;
                let index: Vec<u32> = (0..rows as u32).map(|i| rows as u32 - 1 - i).collect();
                for index in [None, Some(&index)] {
                    for table in tables() {
                        let mut acc = vec![0.0; dv * bq];
                        let (mut unused_m, mut unused_l) = (vec![0.0; bq], vec![0.0; bq]);
                        let mut out = vec![0xa5u8; rows * row * dtype.size()];
                        let mut lse = vec![CANARY; 2 * rows];
                        // SAFETY: the buffers have these sizes.
                        unsafe {
                            let (bq, dv) = (bq as i64, dv as i64);
                            (table.start)(bq, bq, dv, unused_m.as_mut_ptr(), unused_l.as_mut_ptr(), acc.as_mut_ptr());
                            size.run(&table, &p, &v, &None, None, &mut acc);
                            (table.finish)(
                                acc.as_ptr(),
                                m.as_ptr(),
                                l.as_ptr(),
                                rows as i64,
                                bq,
                                dv,
                                out.as_mut_ptr(),
                                dtype as i64,
                                (row * dtype.size()) as i64,
                                (gap * dtype.size()) as i64,
                                index.map_or(null(), |index| index.as_ptr()),
                                lse.as_mut_ptr(),
                                8,
                                index.map_or(null(), |index| index.as_ptr()),
                            );
                        }
                        let mut expected = vec![0xa5u8; out.len()];
                        let mut expected_lse = vec![CANARY; lse.len()];
                        for lane in 0..rows {
                            let to = index.map_or(lane, |index| index[lane] as usize);
                            let o: Vec<f32> =
                                v.iter().map(|v| if l[lane] == 0.0 { 0.0 } else { v * p[lane] / l[lane] }).collect();
                            let (o, _) = encode(dtype, &o);
                            for (i, o) in o.chunks(dtype.size()).enumerate() {
                                let at = (to * row + i * gap) * dtype.size();
                                expected[at..at + dtype.size()].copy_from_slice(o);
                            }
                            expected_lse[2 * to] =
                                if l[lane] == 0.0 { f32::NEG_INFINITY } else { m[lane] + l[lane].ln() };
                        }
                        assert_eq!(out, expected, "dv {dv} {dtype:?} gap {gap} rows {rows}");
                        assert!(lse.iter().zip(&expected_lse).all(|(a, b)| a == b || (a.is_nan() && b.is_nan())));
                    }
                }
            }
        }
    }
}

#[test]
fn quotients_are_within_two_roundings() {
    let mut random = Random(9);
    let size = Pv { keys: 1, dv: 33, lanes: BQ_MAX, half: 1, bq: BQ_MAX, stride: 33 };
    let (p, v) = (random.reals(size.bq), random.reals(size.dv));
    let l: Vec<f32> = random.reals(size.bq).iter().map(|x| x + 1.5).collect();
    for table in tables() {
        let (mut acc, mut out) = (vec![0.0; size.dv * size.bq], vec![CANARY; size.bq * size.dv]);
        size.run(&table, &p, &v, &None, None, &mut acc);
        let (bq, dv, m) = (size.bq as i64, size.dv as i64, vec![0.0; size.bq]);
        let (to, no_lse) = (out.as_mut_ptr().cast(), std::ptr::null_mut());
        // SAFETY: the buffers have these sizes.
        unsafe {
            let (acc, m, l) = (acc.as_ptr(), m.as_ptr(), l.as_ptr());
            (table.finish)(acc, m, l, bq, bq, dv, to, 0, 4 * dv, 4, null(), no_lse, 0, null());
        }
        for (i, &o) in out.iter().enumerate() {
            let (lane, dim) = (i / size.dv, i % size.dv);
            let exact = f64::from(p[lane]) * f64::from(v[dim]) / f64::from(l[lane]);
            assert!((f64::from(o) - exact).abs() <= 3.0 * exact.abs() / 16_777_216.0, "{o} {exact}");
        }
    }
}

#[test]
fn narrow_types_round_to_nearest_even() {
    // Ties, neighbours of ties, subnormal, huge and non-finite numbers; the sum is 1, so that nothing else rounds.
    let mut reals: Vec<f32> = Vec::new();
    for bits in
        [0x3f80_8000u32, 0x3f81_8000, 0x3f80_1000, 0x3f80_3000, 0x3300_0000, 0x3300_0001, 0x7f7f_ffff, 0x477f_f000]
    {
        reals.extend([bits - 1, bits, bits + 1, bits | 0x8000_0000].map(f32::from_bits));
    }
    reals.extend([0.0, -0.0, 1e-40, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 65504.0, 65519.9, 65520.0]);
    let dv = reals.len();
    for table in tables() {
        for dtype in DTYPES {
            let size = Pv { keys: 1, dv, lanes: 16, half: 1, bq: 16, stride: dv };
            let mut acc = vec![0.0; dv * 16];
            let (mut m, mut l) = (vec![0.0; 16], vec![0.0; 16]);
            let mut out = vec![0u8; dv * dtype.size()];
            // SAFETY: the buffers have these sizes.
            unsafe {
                (table.start)(16, 16, dv as i64, m.as_mut_ptr(), l.as_mut_ptr(), acc.as_mut_ptr());
                size.run(&table, &[1.0; 16], &reals, &None, None, &mut acc);
                let step = dtype.size() as i64;
                let ones = [1.0f32; 16];
                let (acc, out) = (acc.as_ptr(), out.as_mut_ptr());
                let no_lse = std::ptr::null_mut();
                (table.finish)(
                    acc,
                    m.as_ptr(),
                    ones.as_ptr(),
                    1,
                    16,
                    dv as i64,
                    out,
                    dtype as i64,
                    0,
                    step,
                    null(),
                    no_lse,
                    0,
                    null(),
                );
            }
            // The accumulator starts at +0, so a negative zero is lost.
            let plain: Vec<f32> = reals.iter().map(|x| x + 0.0).collect();
            assert_eq!(out, encode(dtype, &plain).0, "{dtype:?}");
        }
    }
}

#[test]
fn detection_and_tables_agree() {
    let available = Isa::available();
    assert_eq!(available[0], (Isa::Scalar, Ok(())));
    for (isa, result) in available {
        assert_eq!(Table::of(isa).is_some(), result.is_ok());
    }
    assert!(Table::of(Isa::best()).is_some());
    let entries = Table::best().entries();
    let qk = entries.iter().find(|(sig, _)| sig.name == "qk").unwrap();
    assert_eq!((qk.0.args.len(), qk.0.ret), (11, None));
    assert_eq!(qk.1, Table::best().qk as *const u8);
}
