//! Random choice, the same on every target: Philox4x32-10 and what is drawn from it.
//!
//! The generator is that of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011): a
//! block cipher of a 128-bit counter under a 64-bit key, so that a row is drawn without those before it.
//!
//! Words of a stream, for a seed (64 bits), layer (32), head (16) and row (48: a position, or a block):
//!
//! ```text
//! key     = [seed, seed >> 32]
//! counter = [block, row, head | (row >> 32) << 16, layer]        block = 0, 1, 2, ..
//! ```
//!
//! each block giving its four words in order. A draw of a head has row 0. A number below m is the high
//! half of `word * m`, words whose low half is less than `2^32 mod m` being passed over (Lemire, "Fast
//! Random Integer Generation in an Interval", 2019). `count` of m without replacement are Floyd's: for j
//! from m - count to m - 1, take a number t below j + 1, or j itself if t is taken already.
//! `count` of m with replacement are `count` numbers below m, one after the other.
//! Two draws with one seed choose alike. Nothing here knows where candidates come from.

use std::ops::Range;

use crate::env::{DrawTable, Env};
use crate::program::{Chooser, Draw, DrawScope};

/// Ten rounds of Philox4x32.
#[must_use]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        let high = |x: u64| (x >> 32) as u32;
        counter = [high(b) ^ counter[1] ^ key[0], b as u32, high(a) ^ counter[3] ^ key[1], a as u32];
    }
    counter
}

/// The words of one (seed, layer, head, row), in order.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    words: [u32; 4],
    /// Words of `words` already given.
    used: usize,
}

impl Stream {
    /// The stream from its first word.
    #[must_use]
    pub fn new(seed: i64, layer: i64, head: i64, row: i64) -> Self {
        let head = (head as u32 & 0xFFFF) | ((row >> 32) as u32) << 16;
        let key = [seed as u32, (seed >> 32) as u32];
        Stream { key, counter: [0, row as u32, head, layer as u32], words: [0; 4], used: 4 }
    }

    /// The next word.
    pub fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.words = philox(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// A number below `bound`, each as likely as any other; `bound` is at least 1.
    pub fn below(&mut self, bound: u32) -> u32 {
        let passed_over = (u32::MAX % bound + 1) % bound;
        loop {
            let product = u64::from(self.word()) * u64::from(bound);
            if product as u32 >= passed_over {
                return (product >> 32) as u32;
            }
        }
    }
}

/// `count` of the numbers below `m`, ascending; all of them if `count >= m`.
///
/// `m` is below 2^32: what lies beyond is never chosen.
#[must_use]
pub fn choose(seed: i64, layer: i64, head: i64, row: i64, count: u64, m: u64) -> Vec<u64> {
    if count >= m {
        return (0..m).collect();
    }
    let m = u32::try_from(m).unwrap_or(u32::MAX);
    let mut stream = Stream::new(seed, layer, head, row);
    let mut chosen: Vec<u64> = Vec::new();
    for j in m - u32::try_from(count).unwrap_or(m).min(m)..m {
        let t = u64::from(if j == u32::MAX { stream.word() } else { stream.below(j + 1) });
        // All chosen so far are less than j.
        match chosen.binary_search(&t) {
            Ok(_) => chosen.push(u64::from(j)),
            Err(place) => chosen.insert(place, t),
        }
    }
    chosen
}

/// `count` numbers below `m` with replacement: each that came, ascending, and how often.
///
/// `m` is below 2^32: what lies beyond is never chosen.
#[must_use]
pub fn choose_again(seed: i64, layer: i64, head: i64, row: i64, count: u64, m: u64) -> Vec<(u64, u32)> {
    let m = u32::try_from(m).unwrap_or(u32::MAX);
    let count = if m == 0 { 0 } else { count };
    let mut stream = Stream::new(seed, layer, head, row);
    let mut times = std::collections::BTreeMap::new();
    for _ in 0..count {
        *times.entry(u64::from(stream.below(m))).or_insert(0) += 1;
    }
    times.into_iter().collect()
}

/// Draws for `rows` (in units; `0..1` for a draw of a head).
///
/// `candidates` appends the candidates of a row in units, as disjoint ascending ranges; its error is ours.
pub fn draw_table<E>(
    draw: &Draw,
    env: &Env<'_>,
    rows: Range<i64>,
    mut candidates: impl FnMut(i64, &mut Vec<Range<i64>>) -> Result<(), E>,
) -> Result<DrawTable, E> {
    // A selection is made in a launch: before it there is nothing.
    let Chooser::Random { count, seed } = draw.chooser else { return Ok(DrawTable::default()) };
    let count = usize::try_from(count).unwrap_or(0);
    let (mut chosen, mut times) = (Vec::new(), Vec::new());
    let mut ranges = Vec::new();
    for row in rows.clone() {
        ranges.clear();
        candidates(row, &mut ranges)?;
        let length = |r: &Range<i64>| (r.end - r.start).max(0) as u64;
        let m = ranges.iter().map(length).sum();
        let ranks = if draw.weight.is_some() {
            let ranks = choose_again(seed, env.layer, env.head, row, count as u64, m);
            times.extend(ranks.iter().map(|r| r.1));
            times.extend(std::iter::repeat_n(0, count - ranks.len()));
            ranks.into_iter().map(|r| r.0).collect()
        } else {
            choose(seed, env.layer, env.head, row, count as u64, m)
        };
        let drawn = ranks.len();
        let (mut before, mut rest) = (0, ranges.iter());
        let mut range = rest.next();
        for rank in ranks {
            while let Some(r) = range
                && rank - before >= length(r)
            {
                before += length(r);
                range = rest.next();
            }
            chosen.extend(range.map(|r| r.start + (rank - before) as i64));
        }
        chosen.extend(std::iter::repeat_n(-1, count - drawn));
    }
    let first = if draw.scope == DrawScope::Head { 0 } else { rows.start };
    Ok(DrawTable { chosen: chosen.into(), count, first, counts: [].into(), times: times.into() })
}

/// Rows of a draw that the queries of `env` read, in units.
#[must_use]
pub fn draw_rows(draw: &Draw, env: &Env<'_>) -> Range<i64> {
    match draw.scope {
        DrawScope::Head => 0..1,
        DrawScope::Row if env.n_q == 0 => 0..0,
        DrawScope::Row => env.q_start / draw.unit..(env.q_start + env.n_q - 1) / draw.unit + 1,
    }
}

/// Fills with independent N(0, 1), by Box and Muller; the same for the same seed.
pub fn fill_normal(seed: u64, out: &mut [f32]) {
    let mut stream = Stream::new(seed as i64, 0, 0, 0);
    for pair in out.chunks_mut(2) {
        // In (0, 1]: the logarithm is finite.
        let radius = (f64::from(stream.word()) + 1.0) / 4_294_967_296.0;
        let angle = f64::from(stream.word()) / 4_294_967_296.0 * std::f64::consts::TAU;
        let radius = (-2.0 * radius.ln()).sqrt();
        for (x, y) in pair.iter_mut().zip([angle.cos(), angle.sin()]) {
            *x = (radius * y) as f32;
        }
    }
}

/// Fills with independent uniform numbers of `0 <= x < 1`, multiples of 2^-24; the same for the same seed.
pub fn fill_uniform(seed: u64, out: &mut [f32]) {
    let mut stream = Stream::new(seed as i64, 0, 0, 0);
    for x in out {
        *x = (stream.word() >> 8) as f32 / 16_777_216.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_answers_of_random123() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_stream_is_laid_out_as_documented() {
        let mut stream = Stream::new(0x1_0000_0007, 5, 3, (2 << 32) | 9);
        let expected = [0, 1].map(|block| philox([block, 9, 3 | 2 << 16, 5], [7, 1])).concat();
        assert_eq!((0..8).map(|_| stream.word()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn every_subset_is_as_likely() {
        // 10 subsets of 2 of 5, expected 2000 each: six sigma are 255.
        let mut seen = std::collections::BTreeMap::new();
        for row in 0..20_000 {
            *seen.entry(choose(1, 0, 0, row, 2, 5)).or_insert(0_i32) += 1;
        }
        assert_eq!(seen.len(), 10);
        assert!(seen.values().all(|n| (n - 2000).abs() < 255), "{seen:?}");
    }

    #[test]
    fn with_replacement_every_candidate_is_as_likely_each_time() {
        let seen = choose_again(5, 1, 2, 0, 20_000, 4);
        assert_eq!(seen.iter().map(|s| s.1).sum::<u32>(), 20_000);
        // 5000 of each are expected: six sigma are 367.
        assert!(seen.len() == 4 && seen.iter().all(|s| s.1.abs_diff(5_000) < 367), "{seen:?}");
        let mut stream = Stream::new(5, 1, 2, 0);
        let plain: Vec<u64> = (0..3).map(|_| u64::from(stream.below(4))).collect();
        let few = choose_again(5, 1, 2, 0, 3, 4);
        assert!(few.iter().all(|&(r, m)| plain.iter().filter(|&&p| p == r).count() == m as usize));
        assert!(choose_again(5, 1, 2, 0, 3, 0).is_empty());
    }

    #[test]
    fn numbers_below_a_bound_that_does_not_divide_are_unbiased() {
        // Without rejection every third number would come twice as often as the others: 1 in 2, not 1 in 3.
        let bound = 0xC000_0000;
        let mut stream = Stream::new(3, 0, 0, 0);
        let multiples_of_3 = (0..30_000).filter(|_| stream.below(bound).is_multiple_of(3)).count();
        assert!((9_500..10_500).contains(&multiples_of_3), "{multiples_of_3}");
    }

    #[test]
    fn rows_take_the_candidates_of_their_ranks_and_pad() {
        let draw = Draw {
            chooser: Chooser::Random { count: 3, seed: 11 },
            of: crate::expr::ExprId(0),
            unit: 1,
            scope: DrawScope::Row,
            weight: None,
            span: Default::default(),
        };
        let env = Env { head: 2, layer: 4, ..Env::default() };
        let table = draw_table(&draw, &env, 6..8, |row, found| {
            found.push(10..12);
            found.push(12..12);
            if row == 7 {
                found.extend([20..23, 40..41]);
            }
            Ok::<(), ()>(())
        });
        let table = table.unwrap();
        assert_eq!((table.count, table.first, &table.chosen[..3]), (3, 6, &[10, 11, -1][..]));
        let pool = [10, 11, 20, 21, 22, 40];
        let expected: Vec<i64> = choose(11, 4, 2, 7, 3, 6).iter().map(|&r| pool[r as usize]).collect();
        assert_eq!(table.chosen[3..], expected[..]);
    }

    #[test]
    fn normals_have_mean_0_and_variance_1() {
        let mut x = vec![0.0; 100_001];
        fill_normal(7, &mut x);
        let n = x.len() as f64;
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n;
        let fourth = x.iter().map(|&x| f64::from(x).powi(4)).sum::<f64>() / n;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03 && (fourth - 3.0).abs() < 0.2);
        let mut again = vec![0.0; 100];
        fill_normal(7, &mut again);
        assert_eq!(again[..], x[..100]);
        fill_uniform(7, &mut x);
        assert!(x.iter().all(|x| (0.0..1.0).contains(x)));
        assert!((x.iter().map(|&x| f64::from(x)).sum::<f64>() / n - 0.5).abs() < 0.01);
    }

    proptest! {
        #[test]
        fn choices_are_ascending_distinct_and_as_many_as_there_can_be(seed: i64, row in 0_i64..1 << 40, count in 0_u64..60, m in 0_u64..80) {
            let chosen = choose(seed, 1, 2, row, count, m);
            prop_assert_eq!(chosen.len() as u64, count.min(m));
            prop_assert!(chosen.windows(2).all(|w| w[0] < w[1]));
            prop_assert!(chosen.iter().all(|&c| c < m));
        }

        #[test]
        fn below_is_below(seed: i64, bound in 1_u32..) {
            let mut stream = Stream::new(seed, 0, 0, 0);
            for _ in 0..8 {
                prop_assert!(stream.below(bound) < bound);
            }
        }
    }
}
