//! Pooled rows and kept candidates of each instruction set against plain formulas.

mod common;

use std::ptr::null;

use attnc_kernels::abi::{BK, BQ_MAX, FEW, LANE_STEP};
use attnc_kernels::select::{Kept, best, capacity, index, key, score};
use common::{Random, tables};

#[test]
fn keys_are_in_the_order_of_scores() {
    let scores = [f32::INFINITY, f32::MAX, 2.0, 1.0, f32::MIN_POSITIVE, 1e-45, 0.0, -1e-45, -1.0, f32::MIN];
    for (i, &a) in scores.iter().enumerate() {
        assert_eq!(score(key(a, 7)), a);
        assert_eq!(index(key(a, u32::MAX)), u32::MAX);
        for &b in &scores[i + 1..] {
            assert!(key(a, 9) < key(b, 3), "{a} before {b}");
        }
        assert!(key(a, 3) < key(a, 4), "{a}");
        assert!(key(a, u32::MAX) < key(f32::NEG_INFINITY, 0), "{a}");
    }
    assert_eq!(key(0.0, 1), key(-0.0, 1));
}

#[test]
fn the_best_are_the_smallest_keys() {
    let mut random = Random(3);
    for n in [0, 1, 2, 50] {
        for wanted in [0, 1, 2, 49, 50, 51] {
            // Few scores, so that many are equal.
            let list: Vec<u64> = (0..n).map(|i| key((random.bits() % 5) as f32, i)).collect();
            let mut sorted = list.clone();
            sorted.sort_unstable();
            sorted.truncate(wanted);
            let mut list = list;
            let count = best(&mut list, wanted);
            list.truncate(count);
            if wanted < n as usize {
                assert_eq!(list.iter().max(), list.last(), "the last is the worst");
            }
            list.sort_unstable();
            assert_eq!(list, sorted, "{wanted} of {n}");
        }
    }
}

#[test]
fn pools_are_sums_and_maxima_of_rows() {
    let mut random = Random(5);
    for d in [1, 2, 15, 16, 31, 32, 33, 64, 80, 257] {
        for keys in [0, 1, 2, 7, 63, 64] {
            let stride = d + keys % 3;
            let rows = random.reals(keys * stride);
            let weights = random.reals(keys);
            let start = random.reals(d);
            let mut first: Option<[Vec<f32>; 3]> = None;
            for table in tables() {
                let [mut plain, mut weighted, mut most] = [start.clone(), start.clone(), start.clone()];
                // SAFETY: the buffers have these sizes.
                unsafe {
                    let (r, s, k, d) = (rows.as_ptr(), stride as i64, keys as i64, d as i64);
                    (table.pool_sum)(r, s, k, d, null(), plain.as_mut_ptr());
                    (table.pool_sum)(r, s, k, d, weights.as_ptr(), weighted.as_mut_ptr());
                    (table.pool_max)(r, s, k, d, most.as_mut_ptr());
                }
                for i in 0..d {
                    let of = |key: usize| f64::from(rows[key * stride + i]);
                    let sum: f64 = (0..keys).map(of).sum();
                    let dot: f64 = (0..keys).map(|key| of(key) * f64::from(weights[key])).sum();
                    let max = (0..keys).map(|key| rows[key * stride + i]).fold(start[i], f32::max);
                    let error = |found: f32, expected: f64| (f64::from(found - start[i]) - expected).abs();
                    assert!(error(plain[i], sum) < 1e-5 && error(weighted[i], dot) < 1e-5, "d {d} keys {keys}");
                    assert_eq!(most[i], max, "d {d} keys {keys}");
                }
                let all = [plain, weighted, most];
                assert_eq!(first.get_or_insert_with(|| all.clone()), &all, "the same bits, d {d} keys {keys}");
            }
        }
    }
    for table in tables() {
        let mut acc = [f32::NEG_INFINITY, 1.0];
        // SAFETY: two rows of two elements.
        unsafe { (table.pool_max)([f32::NAN, 0.0, 5.0, 2.0].as_ptr(), 2, 2, 2, acc.as_mut_ptr()) };
        assert!(acc[0].is_nan() && acc[1] == 2.0);
    }
}

/// Scores, their numbers, and masks if not every lane has every key.
type Chunk = (Vec<f32>, Vec<u32>, Option<Vec<u64>>);

/// Scores of some chunks of keys, and which of them each lane has.
struct Case {
    bq: usize,
    lanes: usize,
    chunks: Vec<Chunk>,
}

fn case(random: &mut Random, chunks: usize, levels: u64) -> Case {
    let few = random.bits().is_multiple_of(3);
    let lanes = if few { 1 + (random.bits() as usize) % FEW } else { LANE_STEP * (1 + (random.bits() as usize) % 4) };
    let bq = if few { FEW } else { BQ_MAX };
    // Chunks come in no order, as gathered ones do.
    let mut firsts: Vec<u32> = (0..chunks as u32).collect();
    firsts.sort_by_key(|_| random.bits());
    let chunks = firsts.into_iter().map(|first| {
        let keys = 1 + (random.bits() as usize) % BK;
        let value = |random: &mut Random| match random.bits() % 40 {
            0 => f32::NAN,
            1 => f32::NEG_INFINITY,
            2 => f32::INFINITY,
            _ => (random.bits() % levels) as f32 - (levels / 2) as f32,
        };
        let s = (0..keys * bq).map(|_| value(random)).collect();
        let numbers = (0..keys as u32).map(|j| first * BK as u32 + j).collect();
        let mask = (random.bits().is_multiple_of(2)).then(|| (0..lanes).map(|_| random.bits()).collect());
        (s, numbers, mask)
    });
    let chunks = chunks.collect();
    Case { bq, lanes, chunks }
}

#[test]
fn kept_are_the_best_with_the_lowest_indices() {
    let mut random = Random(11);
    for round in 0..200 {
        let levels = [3, 1_000_000][round % 2];
        let Case { bq, lanes, chunks } = case(&mut random, 1 + round % 13, levels);
        let all = chunks.len() * BK;
        for wanted in [1, 8, 100, all] {
            let room = if wanted == all { all } else { capacity(wanted, all) };
            for table in tables() {
                let mut lists = vec![0_u64; BQ_MAX * room];
                let mut kept = Kept::new(lists.as_mut_ptr(), room, wanted);
                for (s, numbers, mask) in &chunks {
                    let mask = mask.as_ref().map_or(null(), |m| m.as_ptr());
                    let (keys, lanes, bq) = (numbers.len() as i64, lanes as i64, bq as i64);
                    // SAFETY: the buffers have these sizes.
                    unsafe { (table.keep)(s.as_ptr(), keys, 0, lanes, bq, mask, numbers.as_ptr(), &mut kept) };
                }
                for lane in 0..lanes {
                    let list = &mut lists[lane * room..][..kept.len[lane] as usize];
                    let count = best(list, wanted);
                    let mut found = list[..count].to_vec();
                    found.sort_unstable();
                    let mut expected: Vec<u64> = vec![];
                    for (s, numbers, mask) in &chunks {
                        let takes = |j: &usize| mask.as_ref().is_none_or(|m| m[lane] >> j & 1 == 1);
                        let of = (0..numbers.len()).filter(takes).map(|j| (s[j * bq + lane], numbers[j]));
                        expected.extend(of.filter(|(s, _)| !s.is_nan()).map(|(s, n)| key(s, n)));
                    }
                    expected.sort_unstable();
                    expected.truncate(wanted);
                    assert_eq!(found, expected, "round {round}, {wanted} of {all}, lane {lane}");
                }
            }
        }
    }
}
