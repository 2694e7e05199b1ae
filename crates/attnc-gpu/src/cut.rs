//! Which tiles of queries are cut by keys.
//!
//! The one idea: a launch takes at least as long as its longest tile. Rows that attend to everything, and a launch of few
//! rows, would keep a few workgroups busy and the others idle. Tiles at the beginning and at the end of a job that have
//! more keys than a workgroup's share of the launch are cut into equal ranges of keys, whose outputs are joined by
//! log-sum-exp in one order. Keys are counted by tile sets, for a few jobs and tiles: what is cut never changes a result
//! beyond rounding. Nothing here knows of shaders.

use attnc_pattern::analysis::{TileWalker, Tiles};
use attnc_pattern::env::Env;
use attnc_pattern::program::Program;
use attnc_plan::{Attend, Entry};

/// Workgroups that are taken to run at once.
const AT_ONCE: usize = 256;
/// Chunks of keys that a part has at least.
const LEAST: usize = 16;
/// The most parts of a tile, the most tiles that are cut at either end, and the most elements that all parts give.
const MOST_PARTS: usize = 64;
const MOST_TILES: usize = 64;
const MOST_ELEMENTS: usize = 1 << 24;
/// Jobs and tiles that are looked at.
const SAMPLES: usize = 8;

/// What of a dispatch is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Tiles at the beginning of each job.
    pub(crate) head: usize,
    /// Tiles at the end.
    pub(crate) tail: usize,
    /// Parts of each.
    pub(crate) parts: usize,
}

/// Extents of a dispatch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents {
    /// Tiles of a job.
    pub(crate) tiles: usize,
    /// Queries of a tile.
    pub(crate) tile: usize,
    /// Keys of a chunk.
    pub(crate) chunk: usize,
    /// Elements of a row that a part gives.
    pub(crate) row: usize,
}

/// What of a dispatch over the jobs `envs` is cut, if anything.
pub(crate) fn cut(program: &Program, stage: &Attend, envs: &[Env<'_>], of: Extents) -> Cut {
    let sets: Vec<Tiles> = (stage.entries.iter())
        .filter_map(|e| match e {
            Entry::Tokens { tiles, .. } => Some(Tiles::new(program, tiles)),
            Entry::Null { .. } => None,
        })
        .collect();
    let step = envs.len().div_ceil(SAMPLES).max(1);
    let jobs: Option<Vec<Job<'_>>> = envs.iter().step_by(step).map(|env| Job::new(&sets, env, of)).collect();
    let Some(mut jobs) = jobs else { return Cut::default() };
    // Chunks of a job, by a few tiles and those at its ends.
    let mut sum = 0.0;
    for job in &mut jobs {
        let step = of.tiles.div_ceil(SAMPLES).max(1);
        let (mut chunks, mut count) = (0, 0);
        for tile in (step / 2..of.tiles).step_by(step) {
            let Some(of_tile) = job.chunks(tile) else { return Cut::default() };
            (chunks, count) = (chunks + of_tile, count + 1);
        }
        sum += chunks as f64 / f64::from(count.max(1)) * of.tiles as f64;
    }
    let all = sum / jobs.len().max(1) as f64 * envs.len() as f64;
    let share = ((all / AT_ONCE as f64) as usize).max(2 * LEAST);
    let mut longest = 0;
    let mut long = |tiles: &mut dyn Iterator<Item = usize>| {
        let mut count = 0;
        for tile in tiles.take(MOST_TILES) {
            let chunks = jobs.iter_mut().filter_map(|job| job.chunks(tile)).max().unwrap_or(0);
            if chunks <= share {
                break;
            }
            longest = longest.max(chunks);
            count += 1;
        }
        count
    };
    let head = long(&mut (0..of.tiles));
    let tail = long(&mut (head..of.tiles).rev());
    if head + tail == 0 {
        return Cut::default();
    }
    let room = MOST_ELEMENTS / (envs.len() * (head + tail) * of.tile * of.row).max(1);
    let parts = longest.div_ceil((share / 4).max(LEAST)).min(MOST_PARTS).min(room);
    if parts < 2 { Cut::default() } else { Cut { head, tail, parts } }
}

/// One job whose tiles are counted.
struct Job<'a> {
    walkers: Vec<TileWalker<'a>>,
    env: &'a Env<'a>,
    of: Extents,
}

impl<'a> Job<'a> {
    fn new(sets: &'a [Tiles], env: &'a Env<'a>, of: Extents) -> Option<Job<'a>> {
        let walkers = sets.iter().map(|set| set.walker(env)).collect::<Result<_, _>>().ok()?;
        Some(Job { walkers, env, of })
    }

    /// Chunks of a tile; `None` where they cannot be counted.
    fn chunks(&mut self, tile: usize) -> Option<usize> {
        let first = i64::try_from(tile * self.of.tile).ok()?;
        let end = i64::try_from((tile + 1) * self.of.tile).ok()?.min(self.env.n_q);
        let mut keys = 0;
        for walker in &mut self.walkers {
            if first < end {
                let row = walker.row(self.env.q_start + first, self.env.q_start + end - 1).ok()?;
                keys += usize::try_from(row.may.count()).ok()?;
            }
        }
        Some(keys.div_ceil(self.of.chunk))
    }
}
