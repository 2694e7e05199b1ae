//! HiP's tree from its definition: nodes over the candidates of one row, halved and ranked round by round.

use crate::program::{Refine, Rep};

/// The places of the candidates that are found, ascending, and the least gap between a node that was kept and one that
/// was not, over all rounds: results are determined only down to scores that near.
pub(super) fn refined(refine: &Refine, scores: &[f64]) -> (Vec<usize>, f64) {
    let (c, n) = (scores.len(), refine.leaves as usize);
    let mut gap = f64::INFINITY;
    if c <= n {
        return ((0..c).collect(), gap);
    }
    let mut nodes: Vec<(usize, usize)> = (0..n).map(|i| (i * c / n, (i + 1) * c / n - i * c / n)).collect();
    // The least number of rounds after which no node has more than one candidate.
    let mut rounds = 0;
    while c > n << rounds {
        rounds += 1;
    }
    for _ in 0..rounds {
        let mut halves: Vec<(f64, usize, usize)> = Vec::new();
        for &(b, s) in &nodes {
            let h = s / 2;
            for (b, s) in [(b, h), (b + h, s - h)] {
                let rep = match refine.rep {
                    Rep::First => b,
                    Rep::Center => b + s / 2,
                };
                if s > 0 {
                    halves.push((scores[rep], b, s));
                }
            }
        }
        halves.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
        if let (Some(kept), Some(dropped)) = (halves.get(n - 1), halves.get(n)) {
            let between = kept.0 - dropped.0;
            gap = gap.min(if between.is_nan() { 0.0 } else { between });
        }
        halves.truncate(n);
        nodes = halves.into_iter().map(|(_, b, s)| (b, s)).collect();
    }
    let mut found: Vec<usize> = nodes.into_iter().map(|(b, _)| b).collect();
    found.sort_unstable();
    (found, gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_halves_as_written() {
        // Seven candidates, two leaves: nodes (0, 3) and (3, 4); two rounds.
        // Round 1: (0, 1), (1, 2), (3, 2), (5, 2) are represented by 0, 2, 4, 6: the scores 1, 9, 4, 7 keep (1, 2), (5, 2).
        // Round 2: (1, 1), (2, 1), (5, 1), (6, 1): the scores 0, 9, 8, 7 keep 2 and 5.
        let scores = [1.0, 0.0, 9.0, 5.0, 4.0, 8.0, 7.0];
        let tree = |rep| refined(&Refine { leaves: 2, rep }, &scores);
        assert_eq!(tree(Rep::Center), (vec![2, 5], 1.0));
        // By the first candidate: 0, 1, 3, 5 with 1, 0, 5, 8 keep (3, 2), (5, 2); then 3, 4, 5, 6 with 5, 4, 8, 7.
        assert_eq!(tree(Rep::First), (vec![5, 6], 2.0));
        assert_eq!(refined(&Refine { leaves: 7, rep: Rep::First }, &scores).0, [0, 1, 2, 3, 4, 5, 6]);
    }
}
