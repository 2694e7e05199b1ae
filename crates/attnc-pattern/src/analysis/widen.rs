//! From the row set of one query to that of a tile of queries.
//!
//! Every expression becomes its bounds over `Q in QLo ..= QHi`. What some query may attend to takes the least
//! start and the greatest end, what every query must attend to the greatest start and the least end. Loop
//! variables stay exact: a loop of the tile runs over the values of all queries.

use super::interval::Intervals;
use super::linear::Algebra;
use crate::expr::{ExprId, Exprs, Var};
use crate::rowset::{Must, Piece, RowSet, TileComb, TileLoop, TilePiece, TileSet};

/// The tile set of a row set.
#[must_use]
pub fn tile_set(exprs: &mut Exprs, rows: &RowSet) -> TileSet {
    let (lo, hi) = (exprs.var(Var::QLo), exprs.var(Var::QHi));
    let mut algebra = Algebra::new(exprs);
    let mut widen = Widen { intervals: Intervals::new(&mut algebra, vec![(Var::Q, lo, hi)]) };
    TileSet { pieces: rows.pieces.iter().map(|p| widen.piece(p)).collect() }
}

struct Widen<'a, 'e> {
    intervals: Intervals<'a, 'e>,
}

impl Widen<'_, '_> {
    fn piece(&mut self, piece: &Piece) -> TilePiece {
        let algebra = &mut *self.intervals.algebra;
        let k_start = algebra.exprs.var(Var::KStart);
        let n_k = algebra.exprs.var(Var::NK);
        let k_end = algebra.add(k_start, n_k);
        // Whether the range of `must` means anything.
        let mut certain = piece.filter.is_none();
        let mut loops = Vec::with_capacity(piece.loops.len());
        for l in &piece.loops {
            let lo = self.intervals.int(l.lo);
            let hi = self.intervals.int(l.hi);
            // A loop bound without bounds of its own.
            let (Some((lo, must_lo)), Some((must_hi, hi))) = (lo, hi) else {
                return self.unknown(piece, k_start, k_end);
            };
            let steady = l.step == 1 || !self.intervals.reads(l.phase);
            certain &= steady;
            let span = l.span.filter(|&(base, stride)| !self.intervals.reads(base) && !self.intervals.reads(stride));
            let (step, phase) = if steady { (l.step, l.phase) } else { (1, self.intervals.algebra.int(0)) };
            loops.push(TileLoop { var: l.var, lo, hi, must_lo, must_hi, step, phase, span });
        }
        let (every, some) = match piece.guard {
            Some(g) => {
                let (every, some) = self.intervals.truth(g);
                (Some(every), Some(some))
            }
            None => (None, None),
        };
        let start = self.intervals.int(piece.start);
        let end = self.intervals.int(piece.end);
        certain &= start.is_some() && end.is_some();
        let (start, must_start) = start.unwrap_or((k_start, k_start));
        let (must_end, end) = end.unwrap_or((k_end, k_end));
        let mut combs = Vec::with_capacity(piece.combs.len());
        for c in &piece.combs {
            let width = self.intervals.int(c.width);
            let phase = self.intervals.int(c.phase);
            certain &= !self.intervals.reads(c.phase) && !self.intervals.reads(c.width);
            if self.intervals.reads(c.period) {
                certain = false;
                continue;
            }
            match (width, phase) {
                (Some((_, width)), Some((phase_lo, phase_hi))) => {
                    combs.push(TileComb { period: c.period, width, phase_lo, phase_hi });
                }
                // Without the comb there are more keys.
                _ => certain = false,
            }
        }
        let exprs = &mut *self.intervals.algebra.exprs;
        let constant = |e: Option<ExprId>| e.and_then(|e| exprs.as_bool(e));
        certain &= constant(every) != Some(false);
        let must_guard = every.filter(|&e| constant(Some(e)).is_none());
        let guard = some.filter(|&e| constant(Some(e)) != Some(true));
        let must = certain.then_some(Must { guard: must_guard, start: must_start, end: must_end });
        TilePiece { loops, guard, start, end, must, combs }
    }

    /// Every key, at once: all loops run a single time.
    fn unknown(&mut self, piece: &Piece, start: ExprId, end: ExprId) -> TilePiece {
        let (zero, one) = (self.intervals.algebra.int(0), self.intervals.algebra.int(1));
        let once = |var: u32| TileLoop {
            var,
            lo: zero,
            hi: one,
            must_lo: zero,
            must_hi: zero,
            step: 1,
            phase: zero,
            span: None,
        };
        let loops = piece.loops.iter().map(|l| once(l.var)).collect();
        TilePiece { loops, guard: None, start, end, must: None, combs: vec![] }
    }
}
