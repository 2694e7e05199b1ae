//! Tensors of a launch as f64 rows, head by head.

/// Dense rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Matrix {
    pub(super) data: Vec<f64>,
    pub(super) cols: usize,
}

impl Matrix {
    pub(super) fn new(cols: usize) -> Self {
        Matrix { data: Vec::new(), cols }
    }

    pub(super) fn push(&mut self, row: &[f64]) {
        self.data.extend_from_slice(row);
    }

    pub(super) fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    pub(super) fn rows(&self) -> usize {
        self.data.len().checked_div(self.cols).unwrap_or(0)
    }
}

/// Q by query head, K and V by KV head, only the rows that a launch has.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    pub(super) q: Vec<Matrix>,
    pub(super) k: Vec<Matrix>,
    pub(super) v: Vec<Matrix>,
    /// KV head of each query head.
    pub(super) kv_head: Vec<usize>,
}

impl Sources {
    /// The mean of some heads' rows.
    pub(super) fn mean(heads: &[&Matrix]) -> Matrix {
        let mut mean = heads[0].clone();
        for other in &heads[1..] {
            mean.data.iter_mut().zip(&other.data).for_each(|(m, x)| *m += x);
        }
        mean.data.iter_mut().for_each(|m| *m /= heads.len() as f64);
        mean
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
