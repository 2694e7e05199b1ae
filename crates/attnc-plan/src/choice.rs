//! Choosing among alternatives: which tile a stage has.
//!
//! The one idea: an alternative is counted as a launch is ([`crate::cost()`]), exactly and with what the target visits,
//! but for one tile of queries in the middle of a sequence of nominal lengths; rates make times of counts
//! ([`crate::model`]), and the least time wins. Keys that are given when run cannot be counted: where every query has
//! its own, the smallest tile shares least. All passes ask here, so that rates of a machine that is known better are
//! given in one place ([`Machine`]). Nothing here knows of targets.

use attnc_pattern::analysis::{EvalError, Rows};
use attnc_pattern::env::Env;
use attnc_pattern::expr::{ExprId, Node, Un, Var};
use attnc_pattern::program::{Chooser, DrawScope, Index, Program};
use attnc_pattern::rowset::Piece;

use crate::choose::env_of;
use crate::cost::{self, Shape, Visits};
use crate::model::{Rates, Term, Work};
use crate::plan::{Attend, Entry, View};
use crate::typical;

/// Queries of the tiles that are compared.
pub const TILES: [usize; 3] = [64, 32, 16];

/// Positions of a sequence that stands for all.
pub const NOMINAL: i64 = 4096;
/// The same for a target that is for long ones.
const NOMINAL_LONG: i64 = 32768;
/// Value of a run-time size: a side of a grid.
const NOMINAL_SIZE: i64 = 64;
/// What a smaller tile has to win, since lanes side by side are worth something that is not counted.
const LEAST_GAIN: f64 = 0.1;
/// How much longer a pair takes where queries go one by one than the rates say, with the widest vectors beside what lanes
/// take with these: a choice is to be right for all.
const OWN_AT_MOST: f64 = 1.4;

/// What alternatives are judged by.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Time of what is counted.
    pub rates: Rates,
    /// Dimensions and element type, as far as they are known.
    pub shape: Shape,
    count: Count,
}

type Count = fn(&Program, &Attend, &Env<'_>, &[usize], Shape) -> Result<Vec<Work>, EvalError>;

impl Machine {
    /// A machine of the present day whose target visits what `V` says.
    #[must_use]
    pub fn typical<V: Visits>() -> Machine {
        Machine { rates: typical::reference(), shape: Shape { d_k: 64, d_v: 64, element: 4 }, count: cost::sample::<V> }
    }

    /// Nanoseconds that a query of a head takes in a stage with each of [`TILES`], in the middle of a sequence of
    /// [`NOMINAL`] positions; `None` for what cannot be counted beforehand.
    #[must_use]
    pub fn prices(&self, program: &Program, stage: &Attend) -> Option<Vec<f64>> {
        let (works, queries) = self.works(program, stage, &TILES)?;
        Some(works.iter().map(|work| self.price(work) / queries).collect())
    }

    /// What the tasks of a stage do with each of some tiles, and how many queries they have.
    fn works(&self, program: &Program, stage: &Attend, tiles: &[usize]) -> Option<(Vec<Work>, f64)> {
        let mut env = nominal(program, stage.view, NOMINAL, TILES[0])?;
        if let Some(level) = stage.reads.kv {
            env = env_of(program, Index::Slots(level), &env).ok()?;
        }
        let works = (self.count)(program, stage, &env, tiles, self.shape).ok()?;
        Some((works, env.n_q.max(1) as f64))
    }

    fn price(&self, work: &Work) -> f64 {
        self.rates.nanos(work, (self.shape.d_k + self.shape.d_v) as f64 / 2.0)
    }

    /// What a query of a head takes in a stage with the best of [`TILES`]; `None` for what cannot be counted beforehand or
    /// would take longer to count than a plan may.
    #[must_use]
    pub(crate) fn least(&self, program: &Program, stage: &Attend) -> Option<f64> {
        let mut pieces = stage.entries.iter().flat_map(Entry::pieces);
        if pieces.any(|p| !p.loops.is_empty() || p.filter.is_some()) {
            return None;
        }
        self.prices(program, stage)?.into_iter().min_by(f64::total_cmp)
    }

    /// The tile that a stage takes least time with: its queries, and whether they go one by one ([`Attend::own`]), which
    /// is looked at if they may.
    pub(crate) fn tile(&self, program: &Program, stage: &Attend, may_own: bool) -> (usize, bool) {
        let [largest, .., smallest] = TILES;
        let pieces = stage.entries.iter().flat_map(Entry::pieces);
        let (listed, others): (Vec<&Piece>, Vec<&Piece>) = pieces.partition(|p| scattered(program, p));
        if !listed.is_empty() {
            // Of rows that grow with the sequence own keys are a small part.
            let local = |end| program.exprs.reads(end, |v| v == Var::Q);
            let short = others.iter().all(|p| local(p.start) && local(p.end));
            return (if short { smallest } else { largest }, false);
        }
        // What has to be searched takes longer than a plan may.
        if others.iter().any(|p| !p.loops.is_empty() || p.filter.is_some()) {
            return (largest, false);
        }
        // Boxes of a walk fill the largest.
        let Some((works, queries)) = self.works(program, stage, &TILES) else { return (largest, false) };
        let times: Vec<f64> = works.iter().map(|work| self.price(work) / queries).collect();
        let Some(&most) = times.first() else { return (largest, false) };
        let mut best = (largest, most * (1.0 - LEAST_GAIN));
        for (&tile, &time) in TILES.iter().zip(&times).skip(1) {
            if time < best.1 {
                best = (tile, time);
            }
        }
        if may_own {
            let mut wide = *self;
            wide.rates[Term::Own] *= OWN_AT_MOST;
            // Queries are begun and ended alike: the gain is one of what lies between.
            let mut ends = Work::default();
            ends[Term::Rows] = works[0][Term::Rows];
            let ends = self.price(&ends) / queries;
            let least = times.into_iter().fold(f64::INFINITY, f64::min) - ends;
            let least = ends + least * (1.0 - LEAST_GAIN);
            // Every pair of tiles without masks is of use: where these alone take too long, nothing has to be counted.
            let mut useful = Work::default();
            useful[Term::Own] = works[0][Term::Products].saturating_sub(works[0][Term::Masked]);
            let may_pay = wide.price(&useful) / queries < least;
            let apart = Attend { own: true, ..stage.clone() };
            let price = || Some(wide.price(wide.works(program, &apart, &[largest])?.0.first()?) / queries);
            if may_pay && price().is_some_and(|price| price < least) {
                return (largest, true);
            }
        }
        (best.0, false)
    }
}

/// Whether each query has keys of its own that are listed one by one.
pub(crate) fn scattered(program: &Program, piece: &Piece) -> bool {
    let exprs = &program.exprs;
    let listed = |id: ExprId| match *exprs.node(id) {
        Node::DrawAt(draw, row, _) => {
            let draw = program.draw(draw);
            // What was chosen for a block of queries its neighbours share.
            let own = match draw.chooser {
                Chooser::Select { .. } => *exprs.node(piece.pinned(exprs, row)) == Node::Var(Var::Q),
                Chooser::Random { .. } => draw.scope == DrawScope::Row,
            };
            draw.unit == 1 && own
        }
        Node::Un(Un::CsrIndex(_), _) => true,
        _ => false,
    };
    !piece.loops.is_empty() && exprs.reachable(&[piece.start]).into_iter().any(listed)
}

/// Keys of tiles of queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Those that some query of a tile has, over all tiles.
    pub some: u64,
    /// Those that every query of a tile has.
    pub all: u64,
}

/// The most ranges of keys that are looked at.
const MOST_RANGES: usize = 1 << 15;

/// The keys of as many queries in the middle of a long sequence as the largest of `tiles` has, cut
/// into tiles of each of these sizes; `None` for what cannot be counted beforehand or would take long.
#[must_use]
pub fn keys(program: &Program, stage: &Attend, tiles: &[usize]) -> Option<Vec<Keys>> {
    let queries = tiles.iter().copied().max()?;
    let mut env = nominal(program, stage.view, NOMINAL_LONG, queries)?;
    // Tiles begin at multiples of their size.
    env.q_start -= env.q_start.rem_euclid(queries as i64);
    let mut found = vec![Keys::default(); tiles.len()];
    let mut ranges = 0;
    for entry in &stage.entries {
        let Entry::Tokens { rows, .. } = entry else { continue };
        let rows = Rows::new(program, rows);
        let mut walker = rows.walker(&env).ok()?;
        let mut of_row = Vec::new();
        for q in env.q_start..env.q_start + env.n_q {
            let row: Vec<_> = walker.row(q).ok()?.ranges().take(MOST_RANGES).collect();
            ranges += row.len();
            if ranges >= MOST_RANGES {
                return None;
            }
            of_row.push(row);
        }
        for (keys, &tile) in found.iter_mut().zip(tiles) {
            for rows in of_row.chunks(tile) {
                // Where ranges begin and end, and how many are open behind.
                let ends = rows.iter().flatten().flat_map(|range| [(*range.start(), 1), (*range.end() + 1, -1)]);
                let mut ends: Vec<(i64, i64)> = ends.collect();
                ends.sort_unstable();
                let mut open = 0;
                for pair in ends.windows(2) {
                    open += pair[0].1;
                    let length = pair[1].0.abs_diff(pair[0].0);
                    keys.some += if open > 0 { length } else { 0 };
                    keys.all += if open == rows.len() as i64 { length } else { 0 };
                }
            }
        }
    }
    Some(found)
}

/// Queries in the middle of a nominal sequence, in the numbering of a view.
fn nominal(program: &Program, view: View, length: i64, queries: usize) -> Option<Env<'static>> {
    const DOCS: [[i64; 2]; 2] = [[0, NOMINAL], [0, NOMINAL_LONG]];
    let env = Env {
        n_q: length,
        n_k: length,
        heads: 8,
        dim: 64,
        sizes: vec![NOMINAL_SIZE; program.sizes.len()],
        docs: &DOCS[usize::from(length > NOMINAL)],
        ..Env::default()
    };
    let mut env = match view {
        View::Given => env,
        View::Classes(modulus) => {
            let modulus = program.exprs.as_int(modulus).unwrap_or(NOMINAL_SIZE).max(1);
            env.of_class(modulus, 0)
        }
        View::Ordered { .. } => env.in_orders(length, length),
        View::Walk(_) | View::Rows => return None,
    };
    let rows = env.n_q.min(queries as i64);
    (env.q_start, env.n_q) = (env.q_start + (env.n_q - rows) / 2, rows);
    Some(env)
}
