//! Queries by their residues.
//!
//! The one idea: where the keys of a query are teeth that lie as the query does in a period, neighbours share little and
//! queries a period apart share everything. A stage of nothing else takes the queries of one residue after those of
//! another, so that its tiles are dense; keys stay as given. Phases of a tile are those of its residues, which ascend from
//! `class_lo` to `class_hi`, as other ends are those of its positions. Nothing here knows of teeth themselves.

use attnc_pattern::expr::{Bin, ExprId, Exprs, Node, Un, Var};
use attnc_pattern::program::Program;
use attnc_pattern::rowset::{TileComb, TilePiece};
use attnc_plan::{Attend, Entry, View};

/// Widest tooth where keys have a bound that moves with the query: tiles then reach beyond the keys of most of their
/// queries, twice as far on average.
const WIDEST: i64 = 64;

/// The least modulus that is worth it.
const LEAST: i64 = 16;

/// The modulus by whose residues the queries of a stage are taken; 1 if they are not.
pub(super) fn modulus(program: &Program, attend: &Attend) -> i64 {
    let exprs = &program.exprs;
    let mut found = 1;
    if attend.view != View::Given || attend.reads.q.is_some() || attend.reads.kv.is_some() {
        return 1;
    }
    for entry in &attend.entries {
        let Entry::Tokens { rows, tiles, .. } = entry else { continue };
        if tiles.pieces.is_empty() || rows.pieces.iter().any(|p| p.filter.is_some()) {
            return 1;
        }
        for piece in &tiles.pieces {
            let ([comb], []) = (&*piece.combs, &*piece.loops) else { return 1 };
            let Some(period) = exprs.as_int(comb.period).filter(|&p| p >= LEAST && i32::try_from(p).is_ok()) else {
                return 1;
            };
            let narrow = exprs.as_int(comb.width).is_some_and(|w| w <= WIDEST);
            let open = free(exprs, piece.start) && free(exprs, piece.end);
            let half_open = free(exprs, piece.start) || free(exprs, piece.end);
            if direction(exprs, comb).is_none() || !(open || (half_open && narrow)) || (found != 1 && found != period) {
                return 1;
            }
            found = period;
        }
    }
    found
}

/// Whether an expression is the same for all tiles.
fn free(exprs: &Exprs, e: ExprId) -> bool {
    !exprs.reads(e, |v| matches!(v, Var::QLo | Var::QHi))
}

/// 1 where the phase of a query grows as its position does, -1 where it falls.
fn direction(exprs: &Exprs, comb: &TileComb) -> Option<i64> {
    let slopes = |v| Some((slope(exprs, comb.phase_lo, v)?, slope(exprs, comb.phase_hi, v)?));
    match (slopes(Var::QLo)?, slopes(Var::QHi)?) {
        ((1, 0), (0, 1)) => Some(1),
        ((0, -1), (-1, 0)) => Some(-1),
        _ => None,
    }
}

/// By how much an integer grows with a variable; `None` where that is not the same everywhere.
fn slope(exprs: &Exprs, e: ExprId, var: Var) -> Option<i64> {
    if !exprs.reads(e, |v| v == var) {
        return Some(0);
    }
    match *exprs.node(e) {
        Node::Var(_) => Some(1),
        Node::Un(Un::Neg, x) => slope(exprs, x, var)?.checked_neg(),
        Node::Bin(Bin::Add, x, y) => slope(exprs, x, var)?.checked_add(slope(exprs, y, var)?),
        Node::Bin(Bin::Sub, x, y) => slope(exprs, x, var)?.checked_sub(slope(exprs, y, var)?),
        Node::Bin(Bin::Mul, x, y) => match (exprs.as_int(x), exprs.as_int(y)) {
            (Some(by), _) => slope(exprs, y, var)?.checked_mul(by),
            (_, Some(by)) => slope(exprs, x, var)?.checked_mul(by),
            _ => None,
        },
        _ => None,
    }
}

/// The phases of a tile, from those of its positions.
pub(super) fn phases(exprs: &Exprs, comb: &TileComb, (lo, hi): (String, String)) -> (String, String) {
    if direction(exprs, comb) == Some(-1) {
        (format!("({lo} + q_hi - class_hi)"), format!("({hi} + q_lo - class_lo)"))
    } else {
        (format!("({lo} + class_lo - q_lo)"), format!("({hi} + class_hi - q_hi)"))
    }
}

/// Whether queries of one residue have the same keys of a piece.
pub(super) fn whole(exprs: &Exprs, piece: &TilePiece) -> bool {
    piece.guard.is_none() && free(exprs, piece.start) && free(exprs, piece.end)
}

/// Lines that set the range of positions and of residues of a tile.
pub(super) const TILE: &str = "  let tile_begin = query_at(tile_first);
  let tile_last = query_at(tile_first + tile_rows - 1);
  class_lo = q_start + tile_begin % RESIDUES;
  class_hi = q_start + tile_last % RESIDUES;
  // Of several residues it has about all positions.
  let one = class_lo == class_hi;
  q_lo = q_start + select(0, tile_begin, one);
  q_hi = q_start + select(n_q - 1, tile_last, one);
";

/// The function that numbers queries, which comes after [`TILE`].
pub(super) fn query_at(modulus: i64) -> String {
    format!(
        "const RESIDUES: i32 = {modulus};\n\
         /// The query at place `at` where those of one residue come after those of another. The first residues may have one more.\n\
         fn query_at(at: i32) -> i32 {{\n  let more = n_q % RESIDUES;\n  let long = n_q / RESIDUES + 1;\n  \
         if (at < more * long) {{ return at / long + at % long * RESIDUES; }}\n  let rest = at - more * long;\n  \
         return more + rest / (long - 1) + rest % (long - 1) * RESIDUES;\n}}\n\n"
    )
}
