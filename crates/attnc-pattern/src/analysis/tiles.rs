//! What a tile of queries may and must attend to, from a tile set, and how tiles of keys are classed by it.

use super::rows::{EvalError, Row, first_in_class};
use super::tape::{Builder, Code, Machine, Slot, Tape};
use crate::env::Env;
use crate::expr::ExprId;
use crate::program::Program;
use crate::rowset::TileSet;

/// What a tile of pairs holds. A tile without any pair is not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Every pair. Never wrong.
    Full,
    /// Perhaps some pairs.
    Partial,
}

/// The keys of a tile of queries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TileRow {
    /// Holds every key that some query attends to.
    pub may: Row,
    /// Holds only keys that every query attends to.
    pub must: Row,
}

impl TileRow {
    /// Tiles of `size` keys from `k_start`, by number, that are not empty. Costs the tiles it yields.
    pub fn tiles(&self, env: &Env<'_>, size: i64) -> impl Iterator<Item = (i64, Class)> {
        let (k_start, k_end) = (env.k_start, env.k_start.saturating_add(env.n_k));
        let mut at = k_start;
        std::iter::from_fn(move || {
            let (from, _) = self.may.next_from(at)?;
            let tile = (from - k_start) / size;
            let begin = k_start + tile * size;
            let end = begin.saturating_add(size).min(k_end);
            at = end;
            Some((tile, if self.must.covers(begin, end) { Class::Full } else { Class::Partial }))
        })
    }
}

#[derive(Clone, Debug)]
struct LoopCode {
    lo: Slot,
    hi: Slot,
    must_lo: Slot,
    must_hi: Slot,
    step: i64,
    phase: Slot,
    body: Code,
}

#[derive(Clone, Debug)]
struct PieceCode {
    loops: Vec<LoopCode>,
    guard: Option<Slot>,
    start: Slot,
    end: Slot,
    /// Guard, start, end.
    must: Option<(Option<Slot>, Slot, Slot)>,
    /// Period, width, least and greatest phase.
    combs: Vec<[Slot; 4]>,
}

/// A compiled tile set.
#[derive(Clone, Debug)]
pub struct Tiles {
    tape: Tape,
    pieces: Vec<PieceCode>,
}

impl Tiles {
    /// Compiles a tile set of a program.
    #[must_use]
    pub fn new(program: &Program, tiles: &TileSet) -> Self {
        let mut roots: Vec<ExprId> = vec![];
        let of_piece: Vec<Vec<ExprId>> = tiles
            .pieces
            .iter()
            .map(|p| {
                let loops = p.loops.iter().flat_map(|l| [l.lo, l.hi, l.must_lo, l.must_hi, l.phase]);
                let combs = p.combs.iter().flat_map(|c| [c.period, c.width, c.phase_lo, c.phase_hi]);
                let must = p.must.iter().flat_map(|m| [m.start, m.end].into_iter().chain(m.guard));
                let all: Vec<ExprId> = loops.chain(combs).chain(must).chain([p.start, p.end]).chain(p.guard).collect();
                roots.extend(&all);
                all
            })
            .collect();
        let mut b = Builder::new(program, &roots);
        let pieces = tiles.pieces.iter().zip(&of_piece).map(|(p, roots)| PieceCode {
            loops: p
                .loops
                .iter()
                .enumerate()
                .map(|(depth, l)| LoopCode {
                    lo: b.slot(l.lo),
                    hi: b.slot(l.hi),
                    must_lo: b.slot(l.must_lo),
                    must_hi: b.slot(l.must_hi),
                    step: l.step,
                    phase: b.slot(l.phase),
                    body: b.loop_code(depth, roots),
                })
                .collect(),
            guard: p.guard.map(|g| b.slot(g)),
            start: b.slot(p.start),
            end: b.slot(p.end),
            must: p.must.as_ref().map(|m| (m.guard.map(|g| b.slot(g)), b.slot(m.start), b.slot(m.end))),
            combs: p
                .combs
                .iter()
                .map(|c| [b.slot(c.period), b.slot(c.width), b.slot(c.phase_lo), b.slot(c.phase_hi)])
                .collect(),
        });
        let pieces = pieces.collect();
        Tiles { tape: b.finish(), pieces }
    }

    /// Tiles in one environment.
    pub fn walker<'a>(&'a self, env: &'a Env<'a>) -> Result<TileWalker<'a>, EvalError> {
        Ok(TileWalker { tiles: self, machine: Machine::new(&self.tape, env)?, row: TileRow::default() })
    }

    /// The keys of queries at positions `q_lo ..= q_hi`.
    pub fn row(&self, env: &Env<'_>, q_lo: i64, q_hi: i64) -> Result<TileRow, EvalError> {
        let mut walker = self.walker(env)?;
        walker.row(q_lo, q_hi)?;
        Ok(walker.row)
    }
}

/// Computes rows of tiles one after the other.
#[derive(Clone, Debug)]
pub struct TileWalker<'a> {
    tiles: &'a Tiles,
    machine: Machine<'a>,
    row: TileRow,
}

impl TileWalker<'_> {
    /// The keys of queries at positions `q_lo ..= q_hi`.
    pub fn row(&mut self, q_lo: i64, q_hi: i64) -> Result<&TileRow, EvalError> {
        self.row.may.clear();
        self.row.must.clear();
        self.machine.set_tile(q_lo, q_hi);
        for piece in &self.tiles.pieces {
            emit(&mut self.machine, piece, 0, true, &mut self.row);
        }
        if self.machine.overflowed() {
            return Err(EvalError::Overflow { q: q_lo });
        }
        self.row.may.normalise();
        self.row.must.normalise();
        Ok(&self.row)
    }
}

fn emit(m: &mut Machine<'_>, piece: &PieceCode, depth: usize, certain: bool, row: &mut TileRow) {
    if let Some(l) = piece.loops.get(depth) {
        let (hi, must) = (m.get(l.hi), m.get(l.must_lo)..m.get(l.must_hi));
        let mut v = first_in_class(m.get(l.lo), l.step, m.get(l.phase));
        while v < hi && !m.overflowed() {
            m.set_loop(depth, v, &l.body);
            emit(m, piece, depth + 1, certain && must.contains(&v), row);
            match v.checked_add(l.step) {
                Some(next) => v = next,
                None => return m.fail(),
            }
        }
        return;
    }
    if piece.guard.is_some_and(|g| !m.holds(g)) {
        return;
    }
    let env = m.env();
    let clip = |start: i64, end: i64| (start.max(env.k_start), end.min(env.k_start.saturating_add(env.n_k)));
    let (start, end) = clip(m.get(piece.start), m.get(piece.end));
    // Several combs: the sparsest alone still holds every key.
    let sparsest = piece
        .combs
        .iter()
        .map(|c| c.map(|slot| m.get(slot)))
        .map(|[period, width, lo, hi]| (period, width.saturating_add(hi.saturating_sub(lo)), lo))
        .max_by_key(|&(period, width, _)| (i128::from(period) << 32) / i128::from(width.max(1)));
    match sparsest {
        None => row.may.push(start, end),
        Some((period, width, phase)) => row.may.push_comb(start, end, period, width, phase),
    }
    if let Some((guard, start, end)) = piece.must
        && certain
        && guard.is_none_or(|g| m.holds(g))
    {
        let (start, end) = clip(m.get(start), m.get(end));
        match *piece.combs {
            [] => row.must.push(start, end),
            [comb] => {
                let [period, width, phase, last] = comb.map(|slot| m.get(slot));
                if phase == last {
                    row.must.push_comb(start, end, period, width, phase);
                }
            }
            _ => {}
        }
    }
}
