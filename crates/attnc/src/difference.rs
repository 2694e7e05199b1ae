//! How two sets differ: which pairs one has that the other lacks, exactly and in few words.
//!
//! One idea: neighbouring rows that change alike are told once, whether their changed keys lie at the same distances from
//! the query or in the same places. Nothing here knows of patterns.

use crate::view::Run;

/// Most ranges of keys that a difference tells of.
const MOST: usize = 1 << 12;
/// Most of them that are told in words of one row.
const IN_WORDS: usize = 6;

/// What another set has more, and less, than one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Pairs that the other has more. A pair that counts twice is two.
    pub added: u64,
    /// Pairs that it lacks.
    pub removed: u64,
    /// Which pairs these are, head by head and row by row.
    pub rows: Vec<ChangedRows>,
    /// Rows that change and are not in `rows`, of which there would be too many.
    pub left_out: u64,
}

/// Neighbouring queries whose keys change alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedRows {
    /// The heads for which they do.
    pub heads: Vec<usize>,
    /// Positions of the first and the last query.
    pub queries: (i64, i64),
    /// Whether keys are told by their distance from the query, `k - q`; else by position.
    pub relative: bool,
    /// First and last key of each range that is added.
    pub added: Vec<(i64, i64)>,
    /// The same of those that are removed.
    pub removed: Vec<(i64, i64)>,
}

impl ChangedRows {
    /// In words, the first ranges of each row: `queries 64 ..= 90: keys q - 65 ..= q - 64 removed`.
    #[must_use]
    pub fn text(&self) -> String {
        let place = |at: i64| match (self.relative, at) {
            (false, _) => at.to_string(),
            (true, 0) => "q".to_owned(),
            (true, _) => format!("q {} {}", if at < 0 { '-' } else { '+' }, at.unsigned_abs()),
        };
        let range = |&(a, b): &(i64, i64)| if a == b { place(a) } else { format!("{} ..= {}", place(a), place(b)) };
        let one = |list: &[(i64, i64)], what: &str| {
            let key = if matches!(list, [(a, b)] if a == b) { "key" } else { "keys" };
            let ranges: Vec<String> = list.iter().take(IN_WORDS).map(range).collect();
            let more = match list.len().saturating_sub(IN_WORDS) {
                0 => String::new(),
                more => format!(" and {more} ranges more"),
            };
            (!list.is_empty()).then(|| format!("{key} {}{more} {what}", ranges.join(", ")))
        };
        let changes: Vec<String> =
            [one(&self.added, "added"), one(&self.removed, "removed")].into_iter().flatten().collect();
        let (first, last) = self.queries;
        let queries = if first == last { format!("query {first}") } else { format!("queries {first} ..= {last}") };
        format!("{queries}: {}", changes.join("; "))
    }
}

/// Takes rows one by one.
#[derive(Debug, Default)]
pub(crate) struct Differing {
    found: Difference,
    /// The last rows, told by place and by distance as long as both are true.
    open: Option<(ChangedRows, ChangedRows)>,
    ranges: usize,
}

impl Differing {
    /// Takes the keys of query `q`; columns of keys begin at position `k_start`.
    pub(crate) fn row(&mut self, q: i64, k_start: i64, ours: &[Run], theirs: &[Run]) {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        let (more, less) = differences(ours, theirs, &mut added, &mut removed);
        if more == 0 && less == 0 {
            return self.close();
        }
        self.found.added += more;
        self.found.removed += less;
        let shifted = |list: &[(i64, i64)], by: i64| list.iter().map(|(a, b)| (a + by, b + by)).collect::<Vec<_>>();
        let told = |relative: bool| {
            let by = k_start - if relative { q } else { 0 };
            let (added, removed) = (shifted(&added, by), shifted(&removed, by));
            ChangedRows { heads: Vec::new(), queries: (q, q), relative, added, removed }
        };
        let here = (told(false), told(true));
        let alike = |a: &ChangedRows, b: &ChangedRows| {
            a.queries.1 + 1 == q && (&a.added, &a.removed, a.relative) == (&b.added, &b.removed, b.relative)
        };
        if let Some((place, distance)) = &mut self.open {
            let (by_place, by_distance) = (alike(place, &here.0), alike(distance, &here.1));
            if by_place || by_distance {
                place.queries.1 = if by_place { q } else { place.queries.1 };
                distance.queries.1 = if by_distance { q } else { distance.queries.1 };
                return;
            }
        }
        self.close();
        self.open = Some(here);
    }

    /// Notes the rows that are open.
    fn close(&mut self) {
        let Some((place, distance)) = self.open.take() else { return };
        let rows = if place.queries.1 >= distance.queries.1 { place } else { distance };
        self.ranges += rows.added.len() + rows.removed.len();
        if self.ranges > MOST {
            self.found.left_out += rows.queries.0.abs_diff(rows.queries.1) + 1;
        } else {
            self.found.rows.push(rows);
        }
    }

    /// All rows having been taken, what differs for heads of their own.
    pub(crate) fn finish(mut self) -> Difference {
        self.close();
        self.found
    }
}

/// Keys of one row that `theirs` has more often than `ours`, and less often; both ascend. How many, counted as often.
fn differences(ours: &[Run], theirs: &[Run], more: &mut Vec<(i64, i64)>, less: &mut Vec<(i64, i64)>) -> (u64, u64) {
    fn note(list: &mut Vec<(i64, i64)>, from: i64, until: i64) {
        match list.last_mut() {
            Some(last) if last.1 + 1 == from => last.1 = until - 1,
            _ => list.push((from, until - 1)),
        }
    }
    let (mut added, mut removed) = (0, 0);
    let (mut i, mut j, mut at) = (0, 0, i64::MIN);
    loop {
        while ours.get(i).is_some_and(|run| run.last < at) {
            i += 1;
        }
        while theirs.get(j).is_some_and(|run| run.last < at) {
            j += 1;
        }
        let next = [ours.get(i), theirs.get(j)].into_iter().flatten().map(|run| run.first.max(at)).min();
        let Some(from) = next else { return (added, removed) };
        // Up to where either begins or ends next.
        let times = |run: Option<&Run>| run.filter(|run| run.first <= from).map_or(0, |run| u64::from(run.times));
        let end = |run: Option<&Run>| run.map_or(i64::MAX, |r| if r.first <= from { r.last + 1 } else { r.first });
        let until = end(ours.get(i)).min(end(theirs.get(j)));
        let (a, b, keys) = (times(ours.get(i)), times(theirs.get(j)), (until - from).unsigned_abs());
        if b > a {
            added += keys * (b - a);
            note(more, from, until);
        } else if a > b {
            removed += keys * (a - b);
            note(less, from, until);
        }
        at = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(runs: &[(i64, i64, u32)]) -> Vec<Run> {
        runs.iter().map(|&(first, last, times)| Run { first, last, times }).collect()
    }

    #[test]
    fn runs_are_held_against_each_other() {
        let differences = |ours: &[(i64, i64, u32)], theirs: &[(i64, i64, u32)]| {
            let (mut more, mut less) = (Vec::new(), Vec::new());
            let counts = super::differences(&of(ours), &of(theirs), &mut more, &mut less);
            (counts, more, less)
        };
        assert_eq!(differences(&[(0, 9, 1)], &[(0, 9, 1)]), ((0, 0), vec![], vec![]));
        assert_eq!(differences(&[(0, 9, 1)], &[(5, 14, 1)]), ((5, 5), vec![(10, 14)], vec![(0, 4)]));
        assert_eq!(differences(&[(0, 3, 2), (8, 8, 1)], &[(2, 8, 1)]), ((4, 6), vec![(4, 7)], vec![(0, 3)]));
        assert_eq!(differences(&[], &[(1, 2, 3), (7, 7, 1)]), ((7, 0), vec![(1, 2), (7, 7)], vec![]));
        assert_eq!(differences(&[(1, 2, 3)], &[]), ((0, 6), vec![], vec![(1, 2)]));
        assert_eq!(differences(&[], &[]), ((0, 0), vec![], vec![]));
    }

    #[test]
    fn rows_that_change_alike_are_told_once() {
        let mut all = Differing::default();
        // A window of three that becomes one of two, a sink that goes, and a row that stays.
        for q in 0..9_i64 {
            let window = |keys: i64| (0.max(q - keys + 1), q, 1);
            all.row(q + 100, 100, &of(&[window(3)]), &of(&[window(2)]));
        }
        for q in 109..112 {
            all.row(q, 100, &of(&[(0, 0, 1), (5, 6, 1)]), &of(&[(5, 7, 1)]));
        }
        all.row(112, 100, &of(&[(3, 3, 1)]), &of(&[(3, 3, 1)]));
        let found = all.finish();
        assert_eq!((found.added, found.removed, found.left_out), (3, 7 + 3, 0));
        let texts: Vec<String> = found.rows.iter().map(ChangedRows::text).collect();
        assert_eq!(
            texts,
            ["queries 102 ..= 108: key q - 2 removed", "queries 109 ..= 111: key 107 added; key 100 removed",]
        );
    }

    #[test]
    fn what_is_too_long_to_tell_is_counted() {
        let mut all = Differing::default();
        for q in 0..2 * MOST as i64 {
            all.row(q, 0, &[], &of(&[(q % 2, q * q % 7 + 2, 1)]));
        }
        let found = all.finish();
        let told: u64 = found.rows.iter().map(|r| r.queries.0.abs_diff(r.queries.1) + 1).sum();
        assert!(found.rows.len() <= MOST && found.left_out > 0);
        assert_eq!(told + found.left_out, 2 * MOST as u64);
    }
}
