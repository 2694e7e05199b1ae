//! The integer helpers against naive models, on random ranges with shrinking.

use attnc_kernels::abi::{BK, Support};
use attnc_kernels::tiles::TileMarks;
use proptest::prelude::*;

/// Marks in memory that the test owns, filled with rubbish first.
struct Marks {
    memory: Vec<u64>,
    support: Support,
    tiles: i64,
}

impl Marks {
    fn new(n_k: i64) -> Marks {
        let support = Support::get();
        // SAFETY: the helper asks nothing of its argument; the memory has the size it says, and a guard behind it.
        unsafe {
            let bytes = (support.marks_bytes)(n_k) as usize;
            assert_eq!(bytes % 8, 0);
            let mut marks = Marks {
                memory: vec![0xdead_beef_dead_beef; bytes / 8 + 1],
                support,
                tiles: (n_k + BK as i64 - 1) / BK as i64,
            };
            (support.marks_init)(marks.at(), n_k);
            marks
        }
    }

    fn at(&mut self) -> *mut TileMarks {
        self.memory.as_mut_ptr().cast()
    }

    /// Marked tiles with whether they are "must".
    fn visited(&mut self) -> Vec<(i64, bool)> {
        let mut found = Vec::new();
        let mut from = i64::MIN;
        loop {
            // SAFETY: the marks are initialised.
            let (tile, must) = unsafe {
                let tile = (self.support.marks_next)(self.at(), from);
                (tile, (self.support.marks_is_must)(self.at(), tile))
            };
            if tile < 0 {
                assert_eq!(self.memory.last(), Some(&0xdead_beef_dead_beef), "written past the end");
                return found;
            }
            assert!(tile < self.tiles && tile >= from);
            found.push((tile, must == 1));
            from = tile + 1;
        }
    }
}

/// One call of `marks_mark` or `marks_comb`.
#[derive(Clone, Debug)]
struct Call {
    range: (i64, i64),
    must: (i64, i64),
    comb: Option<(i64, i64, i64, i64)>,
}

impl Call {
    fn run(&self, marks: &mut Marks) {
        let ((start, end), (must_start, must_end)) = (self.range, self.must);
        let (at, support) = (marks.at(), marks.support);
        // SAFETY: the marks are initialised.
        unsafe {
            match self.comb {
                None => (support.marks_mark)(at, start, end, must_start, must_end),
                Some((period, width, lo, hi)) => {
                    (support.marks_comb)(at, start, end, must_start, must_end, period, width, lo, hi);
                }
            }
        }
    }

    fn takes_part(&self, k: i64, of_all_phases: bool) -> bool {
        self.comb.is_none_or(|(period, width, lo, hi)| {
            let mut each = (lo..=hi).map(|phase| (k - phase).rem_euclid(period) < width);
            if of_all_phases { lo <= hi && each.all(|x| x) } else { each.any(|x| x) }
        })
    }

    /// Whether the definition says that a key of a tile is marked.
    fn touches(&self, tile: i64, n_k: i64) -> bool {
        keys_of(tile, n_k).any(|k| self.range.0 <= k && k < self.range.1 && self.takes_part(k, false))
    }

    /// Whether every query attends to a key.
    fn must(&self, k: i64) -> bool {
        self.must.0 <= k && k < self.must.1 && self.takes_part(k, true)
    }
}

fn keys_of(tile: i64, n_k: i64) -> std::ops::Range<i64> {
    tile * BK as i64..((tile + 1) * BK as i64).min(n_k)
}

/// What the ranges of calls without a period are as "must", each with those just before that it goes on from.
fn runs(calls: &[Call], n_k: i64) -> Vec<(i64, i64)> {
    let mut last = (0, 0);
    let runs = calls.iter().map(|call| {
        let clip = |(start, end): (i64, i64)| (start.max(0), end.min(n_k));
        let ((start, end), (from, to)) = (clip(call.range), clip(call.must));
        if start >= end || from >= to {
            return (0, 0);
        }
        let follows = last.0 <= from && from <= last.1;
        last = if follows { (last.0, to.max(last.1)) } else { (from, to) };
        (last.0, to)
    });
    runs.collect()
}

fn call() -> impl Strategy<Value = Call> {
    let range = (-100i64..1500, 0i64..900, 0i64..80, 0i64..80)
        .prop_map(|(start, len, a, b)| ((start, start + len), (start + a, start + len - b)));
    let comb = proptest::option::of((1i64..400, 0i64..200, -300i64..300, 0i64..40)).prop_map(|comb| {
        comb.map(|(period, width, lo, drift)| (period, width, lo, lo + drift * i64::from(drift % 3 == 0)))
    });
    (range, comb).prop_map(|((range, must), comb)| Call { range, must, comb })
}

proptest! {
    #[test]
    fn marks_agree_with_the_definition(n_k in 0i64..1400, calls in prop::collection::vec(call(), 0..4)) {
        let mut marks = Marks::new(n_k);
        for call in &calls {
            call.run(&mut marks);
        }
        let visited = marks.visited();
        for tile in 0..marks.tiles {
            let found = visited.iter().find(|v| v.0 == tile);
            let (mut touched, mut sure, mut exact) = (false, false, true);
            for (call, run) in calls.iter().zip(runs(&calls, n_k)) {
                let may = call.touches(tile, n_k);
                touched |= may;
                sure |= may && keys_of(tile, n_k).all(|k| run.0 <= k && k < run.1);
                // Short periods and runs that flow together may be marked as a whole.
                exact &= call.comb.is_none_or(|(period, width, lo, hi)| period > BK as i64 && width + hi - lo < period);
            }
            prop_assert!(!touched || found.is_some(), "tile {} is left out", tile);
            prop_assert!(!exact || touched == found.is_some(), "tile {} is not touched", tile);
            let must = found.is_some_and(|v| v.1);
            let inside = keys_of(tile, n_k).all(|k| calls.iter().any(|call| call.must(k)));
            prop_assert!(inside || !must, "tile {} is not wholly inside", tile);
            if calls.iter().all(|call| call.comb.is_none()) {
                prop_assert_eq!(sure, must, "tile {}", tile);
            }
        }
        // SAFETY: the marks are initialised.
        unsafe { (marks.support.marks_clear)(marks.at()) };
        prop_assert!(marks.visited().is_empty());
        prop_assert!(marks.memory[1..marks.memory.len() - 1].iter().all(|&word| word == 0));
    }

    #[test]
    fn bits_agree_with_the_definition(
        k0 in -500i64..500, start in -500i64..500, len in -10i64..200,
        period in 1i64..300, width in -2i64..310, phase in -1000i64..1000,
    ) {
        let support = Support::get();
        // SAFETY: the helpers ask nothing of their arguments.
        let (range, comb) = unsafe {
            ((support.range_bits)(start, start + len, k0), (support.comb_bits)(k0, period, width, phase))
        };
        for j in 0..64 {
            prop_assert_eq!(range >> j & 1 == 1, start <= k0 + j && k0 + j < start + len, "range bit {}", j);
            prop_assert_eq!(comb >> j & 1 == 1, (k0 + j - phase).rem_euclid(period) < width, "comb bit {}", j);
        }
    }

    #[test]
    fn partition_finds_the_document(lengths in prop::collection::vec(0i64..5, 0..12), pos in -3i64..50) {
        let offsets: Vec<i64> = lengths.iter().scan(0, |at, len| { let start = *at; *at += len; Some(start) }).collect();
        let expected = offsets.iter().rposition(|&offset| offset <= pos).map_or(-1, |i| i as i64);
        // SAFETY: the offsets are there.
        let found = unsafe { (Support::get().partition)(offsets.as_ptr(), offsets.len() as i64, pos) };
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn roots_and_logarithms(x in any::<i64>()) {
        let support = Support::get();
        // SAFETY: the helpers ask nothing of their arguments.
        let (root, log) = unsafe { ((support.isqrt)(x), (support.log2)(x)) };
        if x < 0 {
            prop_assert_eq!((root, log), (-1, -1));
        } else {
            let square = |r: i64| i128::from(r) * i128::from(r);
            prop_assert!(square(root) <= i128::from(x) && i128::from(x) < square(root + 1));
            prop_assert_eq!(log, (0..63).rev().find(|&i| x >> i != 0).unwrap_or(-1));
        }
    }
}

#[test]
fn combs_of_long_periods_are_exact() {
    let n_k = 100_000;
    for (width, lo, hi) in [(200, 17, 17), (64, -5, -5), (1, 3, 40), (300, 0, 0)] {
        let call = Call { range: (1000, 99_000), must: (1000, 99_000), comb: Some((1024, width, lo, hi)) };
        let mut marks = Marks::new(n_k);
        call.run(&mut marks);
        let visited = marks.visited();
        for tile in 0..marks.tiles {
            let expected = call.touches(tile, n_k).then(|| keys_of(tile, n_k).all(|k| call.must(k)));
            let found = visited.iter().find(|v| v.0 == tile).map(|v| v.1);
            assert_eq!(found, expected, "width {width} phases {lo}..={hi} tile {tile}");
        }
    }
}

#[test]
fn nothing_overflows_at_the_ends_of_the_integers() {
    const ENDS: [i64; 7] = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
    let support = Support::get();
    let mut marks = Marks::new(300);
    for a in ENDS {
        for b in ENDS {
            for c in ENDS {
                // SAFETY: the marks are initialised; periods are at least 1.
                unsafe {
                    (support.marks_mark)(marks.at(), a, b, c, b);
                    (support.marks_comb)(marks.at(), a, b, a, b, c.max(1), b, c, a);
                    (support.marks_comb)(marks.at(), 0, 300, 0, 300, a.max(1), b, b, c);
                    (support.marks_next)(marks.at(), a);
                    (support.marks_is_must)(marks.at(), a);
                    (support.range_bits)(a, b, c);
                    (support.comb_bits)(a, b.max(1), c, a);
                }
            }
        }
    }
    let mut marks = Marks::new(300);
    // SAFETY: the marks are initialised.
    unsafe { (support.marks_mark)(marks.at(), i64::MIN, i64::MAX, i64::MIN, i64::MAX) };
    assert_eq!(marks.visited(), [(0, true), (1, true), (2, true), (3, true), (4, true)]);
}
