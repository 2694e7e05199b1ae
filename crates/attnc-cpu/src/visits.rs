//! What the kernels of this target visit, as the cost of a plan asks for it. Nothing here knows of patterns.

use attnc_kernels::abi::LANE_STEP;
use attnc_kernels::window;

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

    fn tile(&mut self, panels: &[u64]) {
        self.0.tile(panels);
    }

    fn finish(self) -> attnc_plan::Visited {
        let (pairs, chunks, gathered) = self.0.finish_chunks();
        attnc_plan::Visited { pairs, chunks, gathered }
    }
}
