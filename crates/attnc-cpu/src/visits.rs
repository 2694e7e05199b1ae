//! What the kernels of this target visit, and what its tasks are where queries are few, as the cost of a plan asks for
//! it. Nothing here knows of patterns.

use attnc_kernels::abi::{BK, FEW, LANE_STEP};
use attnc_kernels::window;
use attnc_plan::model::{Term, Work};
use attnc_plan::{FEW_QUERIES, Few, Plan};

use crate::few::CUT_TILES;

const _: () = assert!(LANE_STEP == attnc_plan::PANEL);

/// Pairs of a key and a lane that the kernels compute.
#[derive(Clone, Copy, Debug)]
pub struct Visits(window::Visits);

impl attnc_plan::Visits for Visits {
    fn of(rows: usize) -> Visits {
        Visits(window::Visits::of(rows))
    }

    fn lanes(&self) -> usize {
        self.0.lanes()
    }

    fn tile(&mut self, halves: &[u64]) {
        self.0.tile(halves);
    }

    fn finish(self) -> attnc_plan::Visited {
        let window::Visited { pairs, spared, chunks, copied } = self.0.finish();
        attnc_plan::Visited { pairs, spared, chunks, gathered: copied }
    }
}

/// Whether a launch of `n_q` queries has so few that they may be computed with those of other heads.
#[must_use]
pub fn has_few(n_q: i64) -> bool {
    (1..=FEW_QUERIES).contains(&n_q)
}

/// What the tasks of `heads` folded heads of `n_q` queries do, `tasks` being those of a stage as they are counted, which
/// `resumes` what others have made: few queries have kernels of their own, and a long row of keys is cut into tasks.
#[must_use]
pub fn few_tasks(plan: &Plan, tasks: &[Work], resumes: bool, heads: usize, n_q: i64) -> Vec<Work> {
    let few = plan.few(n_q);
    if !has_few(n_q) && few.is_none() {
        return tasks.to_vec();
    }
    let folded = heads > 1 || few == Some(Few::Apart);
    // With keys side by side all lanes of a tile are modified.
    let tile = plan.stages.iter().map(|s| s.tile.q).max().unwrap_or(FEW);
    let mut all = Vec::new();
    for &task in tasks {
        if task[Term::Own] > 0 {
            all.push(task);
            continue;
        }
        let mut task = task;
        // Those of a stage that goes on from another are read twice, but where all stages are pieces.
        let rows = task[Term::Rows] as usize / if resumes && few.is_none() { 2 } else { 1 };
        let lanes = if rows <= FEW { rows.max(1) } else { rows.next_multiple_of(LANE_STEP) };
        let modified = match rows <= FEW {
            true => FEW,
            false if folded => tile,
            false => lanes,
        };
        let keys = task[Term::Products] / lanes as u64;
        for term in [Term::Modified, Term::Functions, Term::Lookups] {
            task[term] = task[term] / lanes as u64 * modified as u64;
        }
        if rows <= FEW {
            (task[Term::Products], task[Term::Keys], task[Term::Strided]) = (0, 0, 0);
            (task[Term::Few], task[Term::Streamed]) = (keys * rows.div_ceil(4) as u64, keys);
        }
        let pieces = if few.is_some() { keys.div_ceil((BK * CUT_TILES) as u64).max(1) } else { 1 };
        all.extend((0..pieces).map(|i| task.part(i, pieces)));
    }
    all
}
