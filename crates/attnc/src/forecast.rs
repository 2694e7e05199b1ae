//! What a launch will do: its exact cost, and the time that a calibration predicts for it.
//!
//! One idea: heads that attend to the same keys are counted once; the order of jobs is that of a launch, so that
//! tasks can be dealt to threads as they will be. Where queries are few, heads that share keys are one job.
//! Nothing here measures anything.

use attnc_plan::model::{Calibration, Work};
use attnc_plan::{Cost, Counted};

use crate::problem::{Inputs, Shape};

/// A launch that is to be counted.
#[derive(Clone, Copy, Debug)]
pub struct Upcoming<'a> {
    /// Of one batch item.
    pub shape: Shape,
    /// KV heads.
    pub kv_heads: i64,
    /// Dimension of values.
    pub dim_v: i64,
    /// Bytes of an element.
    pub element: u64,
    /// Batch items.
    pub batch: u64,
    /// Run-time data.
    pub inputs: &'a Inputs<'a>,
}

/// What a launch may take to be of interest.
#[derive(Clone, Copy, Debug)]
pub struct Limit<'a> {
    /// Of these, `nanos` nanoseconds.
    pub machine: &'a Calibration,
    /// On so many threads.
    pub threads: usize,
    /// What it may take.
    pub nanos: f64,
}

/// A launch that has been counted, made by [`crate::Kernel::forecast`].
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    /// Cost of all heads of all batch items.
    pub cost: Cost,
    /// What was counted, each once.
    pub(crate) counted: Vec<Counted>,
    /// Indices into `counted`, in the order of a launch: batch item by batch item.
    pub(crate) jobs: Vec<usize>,
    /// Done once a launch.
    pub(crate) once: Work,
    /// Mean of the elements of a row of K and of V.
    pub(crate) elements: f64,
    /// Bytes of K and V of all KV heads.
    pub(crate) bytes: f64,
    /// Bytes of rows that tiles visit, those of a KV head once for all heads that share it.
    pub(crate) visited: f64,
}

impl Forecast {
    /// All that it does.
    #[must_use]
    pub fn work(&self) -> Work {
        let mut sum = self.once;
        sum.add(&Work::one(attnc_plan::model::Term::Launches), 1);
        for &job in &self.jobs {
            for task in self.counted[job].stages.iter().flatten() {
                sum.add(task, 1);
            }
        }
        sum
    }

    /// Bytes of rows that tiles visit, those of a KV head once for all heads that share it.
    #[must_use]
    pub fn visited(&self) -> f64 {
        self.visited
    }

    /// Mean of the elements of a row of K and of V.
    #[must_use]
    pub fn elements(&self) -> f64 {
        self.elements
    }

    /// Bytes of K and V of all KV heads.
    #[must_use]
    pub fn bytes(&self) -> f64 {
        self.bytes
    }

    /// Nanoseconds on `threads` threads of a machine.
    #[must_use]
    pub fn nanos(&self, machine: &Calibration, threads: usize) -> f64 {
        let heads: Vec<&[Vec<Work>]> = self.counted.iter().map(|c| c.stages.as_slice()).collect();
        machine.reading(self.bytes).nanos(&self.once, &heads, &self.jobs, self.elements, threads)
    }
}
