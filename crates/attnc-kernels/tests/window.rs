//! Windows against a naive model: every pair of a query and a key once, and no more visits than foretold.

use std::collections::BTreeSet;

use attnc_kernels::abi::{BQ_MAX, FEW, HALF, LANE_STEP, Support};
use attnc_kernels::tiles::TileMarks;
use attnc_kernels::window::{Chunk, Visits, Window};
use proptest::prelude::*;

/// Keys of one query: a range, or the teeth of a comb in it.
#[derive(Clone, Debug)]
struct Keys {
    lane: usize,
    range: (i64, i64),
    comb: Option<(i64, i64, i64)>,
}

impl Keys {
    fn hold(&self, n_k: i64) -> impl Iterator<Item = (usize, i64)> + '_ {
        let keys = self.range.0.max(0)..self.range.1.min(n_k);
        let tooth = |k: &i64| self.comb.is_none_or(|(period, width, phase)| (k - phase).rem_euclid(period) < width);
        keys.filter(tooth).map(|k| (self.lane, k))
    }
}

fn keys(rows: usize, n_k: i64) -> impl Strategy<Value = Keys> {
    let range = (-10..n_k + 10, 0..n_k).prop_map(|(start, len)| (start, start + len));
    let short = (0..n_k, 0..40_i64).prop_map(|(start, len)| (start, start + len));
    let comb = (1..90_i64, 1..4_i64, -5..100_i64).prop_map(|(period, width, phase)| (period, width.min(period), phase));
    (0..rows, prop_oneof![range, short], proptest::option::of(comb)).prop_map(|(lane, range, comb)| Keys {
        lane,
        range,
        comb,
    })
}

/// Queries, keys, what each query attends to, and a range that all attend to.
fn cases() -> impl Strategy<Value = (usize, i64, Vec<Keys>, (i64, i64))> {
    (1..=BQ_MAX, 1..5000_i64).prop_flat_map(|(rows, n_k)| {
        let all = (0..n_k, 0..n_k).prop_map(|(start, len)| (start, start + len));
        (Just(rows), Just(n_k), proptest::collection::vec(keys(rows, n_k), 0..40), all)
    })
}

/// What the chunks of all windows of tiles `from .. to` visit: pairs attended to, and pairs visited.
fn walk(rows: usize, n_k: i64, given: &[Keys], all: (i64, i64), (from, to): (i64, i64)) -> (Vec<(usize, i64)>, u64) {
    let support = Support::get();
    let (mut found, mut visited) = (Vec::new(), 0);
    // SAFETY: memory as large and as aligned as the helpers ask for, initialised before it is used; a window is numbers
    // and pointers, and `window_begin` writes the one field for which not every bit is valid.
    unsafe {
        let mut memory = vec![0_u64; (support.marks_bytes)(n_k) as usize / 8];
        let marks: *mut TileMarks = memory.as_mut_ptr().cast();
        (support.marks_init)(marks, n_k);
        let mut rubbish = vec![0xabab_abab_abab_abab_u64; size_of::<Window>() / 8];
        let window: *mut Window = rubbish.as_mut_ptr().cast();
        (support.marks_mark)(marks, all.0, all.1, all.0, all.1);
        for k in given {
            (support.marks_mark)(marks, k.range.0, k.range.1, 0, 0);
        }
        (support.window_begin)(window, rows as i64, n_k, to, std::ptr::null());
        let mut from = from;
        loop {
            from = (support.window_next)(window, marks, from);
            if from < 0 {
                break;
            }
            // All rows at once, but for the first.
            (support.window_rows)(window, 1, rows as i64, all.0, all.1);
            (support.window_range)(window, 0, all.0, all.1);
            for k in given {
                let lane = k.lane as i64;
                match k.comb {
                    None => (support.window_range)(window, lane, k.range.0, k.range.1),
                    Some((period, width, phase)) => {
                        (support.window_comb)(window, lane, k.range.0, k.range.1, period, width, phase);
                    }
                }
            }
            for i in 0..(support.window_chunks)(window) as usize {
                let Chunk { keys, count, first, lane, lanes, half, mask } = (*window).chunk[i];
                let keys = std::slice::from_raw_parts(keys, count as usize);
                assert!(keys.is_sorted() && (first < 0 || keys.iter().map(|&k| i64::from(k)).eq(first..first + count)));
                let whole = lane % LANE_STEP as i64 == 0 && lanes % LANE_STEP as i64 == 0 && lanes > 0;
                assert!(if rows <= FEW { (lane, lanes) == (0, rows as i64) } else { whole });
                visited += (count * lanes - (count - half) * HALF as i64) as u64;
                for at in 0..lanes as usize {
                    let bits = if mask.is_null() { u64::MAX } else { *mask.add(at) };
                    let lane = lane as usize + at;
                    assert!(mask.is_null() || lane < rows || bits == 0, "a bit of no query");
                    let visited = if at < HALF { half } else { count };
                    let first = |n: i64| u64::MAX.checked_shr(64 - n as u32).unwrap_or(0);
                    assert!(
                        bits & first(count) & !first(visited) == 0 || lane >= rows || mask.is_null() && half == count
                    );
                    let held = keys.iter().enumerate().filter(|(j, _)| bits >> j & 1 == 1 && lane < rows);
                    found.extend(held.map(|(_, &k)| (lane, i64::from(k))));
                }
            }
        }
    }
    (found, visited)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_pair_is_visited_once((rows, n_k, given, all) in cases()) {
        let everyone = (0..rows).map(|lane| Keys { lane, range: all, comb: None });
        let each: Vec<Keys> = given.iter().cloned().chain(everyone).collect();
        let expected: BTreeSet<(usize, i64)> = each.iter().flat_map(|k| k.hold(n_k)).collect();
        let (mut found, visited) = walk(rows, n_k, &given, all, (0, i64::MAX));
        found.sort_unstable();
        prop_assert!(found.iter().eq(&expected));

        // Of some of the tiles, those pairs.
        let (from, to) = (n_k / 200, n_k / 100);
        let (mut part, _) = walk(rows, n_k, &given, all, (from, to));
        part.sort_unstable();
        prop_assert!(part.iter().eq(expected.iter().filter(|(_, k)| (from..to).contains(&(k / 64)))));

        let mut foretold = Visits::of(rows);
        let tiles: BTreeSet<i64> = expected.iter().map(|(_, k)| k / 64).collect();
        for tile in tiles {
            let mut halves = vec![0_u64; rows.div_ceil(HALF)];
            for &(lane, k) in expected.iter().filter(|(_, k)| k / 64 == tile) {
                halves[lane / HALF] |= 1 << (k % 64);
            }
            foretold.tile(&halves);
        }
        let foretold = foretold.finish();
        prop_assert_eq!(visited, foretold.pairs - foretold.spared);
    }
}
