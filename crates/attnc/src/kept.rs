//! What a sparse attention keeps of dense attention: how many pairs, and which share of the softmax's mass.
//!
//! One idea: the log-sum-exp of dense attention turns a score into its share of the mass, so that only the pairs that are
//! kept are looked at, a row at a time, and nothing has one number for each pair. Both references are measured in one
//! walk: every key, and every key that is not ahead of its query. Nothing here knows how rows are found.

use crate::view::Run;

/// Shares of the mass of dense attention, by query.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Share {
    /// Mass on keys that are attended to themselves: the sum over batch items.
    pub rows: Vec<f64>,
    /// Mass on keys that only slots of levels stand for.
    pub pooled: Vec<f64>,
}

/// What one head keeps.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Kept {
    /// Entries: keys and slots of levels, as often as they count; null slots are none.
    pub entries: u64,
    /// Entries of keys that are ahead of their query.
    pub ahead: u64,
    /// Batch items.
    pub items: usize,
    /// Of attention to every key.
    pub all: Share,
    /// Of attention to every key that is not ahead of its query.
    pub causal: Share,
    /// Densities of the first batch item, row-major; a cell is `side` queries by `side` keys.
    pub cells: Vec<f32>,
    /// Cells in a row.
    pub cols: usize,
    /// Queries and keys of a cell.
    pub side: usize,
}

impl Share {
    /// The mean over queries and batch items: on keys themselves, and on keys that only slots stand for.
    #[must_use]
    pub fn mean(&self, items: usize) -> (f64, f64) {
        let count = (self.rows.len() * items).max(1) as f64;
        (self.rows.iter().sum::<f64>() / count, self.pooled.iter().sum::<f64>() / count)
    }
}

impl Kept {
    /// Nothing, of so many queries and keys.
    pub(crate) fn new(n_q: i64, n_k: i64, cells: usize) -> Kept {
        let [n_q, n_k] = [n_q, n_k].map(|n| usize::try_from(n).unwrap_or(0));
        let share = || Share { rows: vec![0.0; n_q], pooled: vec![0.0; n_q] };
        let side = n_q.max(n_k).div_ceil(cells.max(1)).max(1);
        let cols = n_k.div_ceil(side);
        let of_picture = if cells == 0 { 0 } else { n_q.div_ceil(side) * cols };
        Kept { all: share(), causal: share(), cells: vec![0.0; of_picture], cols, side, ..Kept::default() }
    }

    /// Begins a batch item: `q` and `k` are rows of one head, `lse` its log-sum-exps.
    pub(crate) fn item<'a>(
        &'a mut self,
        q: &'a [f32],
        k: &'a [f32],
        lse: [&'a dyn Fn(usize) -> f32; 2],
        drawn: bool,
    ) -> Item<'a> {
        self.items += 1;
        let dim = q.len().checked_div(self.all.rows.len()).unwrap_or(0);
        Item { q, k, lse, dim, drawn: drawn && !self.cells.is_empty(), kept: self }
    }
}

/// One batch item of a head.
pub(crate) struct Item<'a> {
    q: &'a [f32],
    k: &'a [f32],
    lse: [&'a dyn Fn(usize) -> f32; 2],
    dim: usize,
    drawn: bool,
    kept: &'a mut Kept,
}

impl Item<'_> {
    /// Adds a row of queries; `own` is the key that stands where the query does.
    pub(crate) fn row(
        &mut self,
        row: usize,
        own: i64,
        tokens: &[Run],
        levels: &[(String, Vec<Run>)],
        shares: &[(i64, f32)],
    ) {
        let of = |run: &Run| (run.last - run.first + 1).unsigned_abs() * u64::from(run.times);
        let slots: u64 = levels.iter().flat_map(|(_, runs)| runs).map(of).sum();
        self.kept.entries += tokens.iter().map(of).sum::<u64>() + slots;
        for run in tokens {
            let ahead = (run.last - run.first.max(own + 1) + 1).max(0).unsigned_abs();
            self.kept.ahead += ahead * u64::from(run.times);
            for key in run.first..=run.last {
                self.add(row, own, key, false);
                self.draw(row, key, run.times as f32);
            }
        }
        for &(key, share) in shares {
            if !tokens.iter().any(|run| (run.first..=run.last).contains(&key)) {
                self.kept.ahead += u64::from(key > own);
                self.add(row, own, key, true);
                self.draw(row, key, share.min(1.0));
            }
        }
    }

    fn add(&mut self, row: usize, own: i64, key: i64, pooled: bool) {
        let key_at = usize::try_from(key).unwrap_or(usize::MAX);
        let q = self.q.get(row * self.dim..(row + 1) * self.dim);
        let k = key_at.checked_mul(self.dim).and_then(|begin| self.k.get(begin..begin + self.dim));
        let (Some(q), Some(k)) = (q, k) else { return };
        let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
        let score = dot / (self.dim as f64).sqrt();
        let of = |share: &mut Share, lse: f32| {
            let list = if pooled { &mut share.pooled } else { &mut share.rows };
            list[row] += (score - f64::from(lse)).exp();
        };
        of(&mut self.kept.all, (self.lse[0])(row));
        if key <= own {
            of(&mut self.kept.causal, (self.lse[1])(row));
        }
    }

    fn draw(&mut self, row: usize, key: i64, weight: f32) {
        if !self.drawn {
            return;
        }
        let side = self.kept.side;
        let (y, x) = (row / side, usize::try_from(key).unwrap_or(0) / side);
        // Rows and keys of the last cells are fewer.
        let height = side.min(self.kept.all.rows.len() - y * side);
        let keys = self.k.len().checked_div(self.dim).unwrap_or(0);
        let width = side.min(keys.saturating_sub(x * side)).max(1);
        if let Some(cell) = self.kept.cells.get_mut(y * self.kept.cols + x) {
            *cell += weight / (height * width) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mass_and_entries_are_counted_from_the_definition() {
        let (q, k) = ([1.0_f32, 0.5, -1.0], [0.5_f32, -2.0, 1.0]);
        let lse = |q: f32, n: usize| k[..n].iter().map(|k| f64::from(q * k).exp()).sum::<f64>().ln() as f32;
        let (all, causal) = (|row: usize| lse(q[row], 3), |row: usize| lse(q[row], row + 1));
        let mut kept = Kept::new(3, 3, 3);
        let mut item = kept.item(&q, &k, [&all, &causal], true);
        let run = |first, last, times| Run { first, last, times };
        item.row(0, 0, &[run(0, 2, 1)], &[], &[]);
        item.row(1, 1, &[run(0, 0, 2)], &[], &[]);
        item.row(2, 2, &[run(2, 2, 1)], &[("l".to_owned(), vec![run(0, 0, 1)])], &[(0, 0.5), (1, 0.5)]);
        assert_eq!((kept.entries, kept.ahead), (3 + 2 + 2, 2));
        let part = |q: f32, keys: &[usize], lse: f32| -> f64 {
            keys.iter().map(|&key| (f64::from(q * k[key]) - f64::from(lse)).exp()).sum()
        };
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(close(kept.all.rows[0], 1.0) && close(kept.causal.rows[0], 1.0));
        assert!(close(kept.all.rows[1], part(q[1], &[0], all(1))), "a key that counts twice has its mass once");
        assert!(close(kept.causal.rows[1], part(q[1], &[0], causal(1))));
        assert!(close(kept.all.rows[2] + kept.all.pooled[2], 1.0));
        assert_eq!(kept.cells, [1.0, 1.0, 1.0, 2.0, 0.0, 0.0, 0.5, 0.5, 1.0]);
    }
}
