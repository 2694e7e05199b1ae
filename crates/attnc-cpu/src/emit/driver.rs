//! The functions of a plan: `drive` computes a tile of queries, `check` looks for rows without entries.
//!
//! The one idea: both *walk* the tiles of keys that a tile of queries visits. The tile set's closed forms
//! are run to mark tiles; marked tiles are visited in ascending order; a tile that is not known to be full
//! gets one row of bits a query from the row set's closed forms. What differs is done at each tile.
//! Nothing here knows of tensors' layouts; see [`crate::stages`].

use attnc_kernels::abi::{BK, BQ_MAX, LANE_STEP};
use attnc_pattern::expr::{Bin, ExprId, Var};
use attnc_pattern::program::Empty;
use attnc_pattern::rowset::{Piece, RowSet, TilePiece, TileSet};
use attnc_plan::{Attend, Entry, Plan, Role};
use cranelift::codegen::ir::condcodes::IntCC;
use cranelift::codegen::ir::types::I64;
use cranelift::codegen::ir::{Function, InstBuilder, Value};
use cranelift::codegen::isa::CallConv;

use super::score::ScoreTile;
use super::{Callees, Emitter, Form, trusted};
use crate::compile::{CompileError, Uses};
use crate::layout::Scratch;
use crate::stages::Stage;

/// The functions of a plan, and what they read of an environment.
pub(crate) struct Code {
    pub(crate) drive: Function,
    /// Present where an empty row is an error.
    pub(crate) check: Option<Function>,
    pub(crate) uses: Uses,
}

/// Writes the functions of a plan.
pub(crate) fn emit(plan: &Plan, callees: &Callees, conv: CallConv) -> Result<Code, CompileError> {
    let attend = supported(plan)?;
    let (drive, mut uses) = drive(plan, attend, callees, conv)?;
    // A null slot is an entry, so that no row is empty beside one.
    let fed = attend.entries.iter().any(|e| matches!(e, Entry::Null { slots: 1.., .. }));
    let check = if plan.empty == Some(Empty::Error) && !fed {
        let (check, more) = check(plan, attend, callees, conv)?;
        uses.join(more);
        Some(check)
    } else {
        None
    };
    Ok(Code { drive, check, uses })
}

/// The one stage of a plan that this back end runs.
fn supported(plan: &Plan) -> Result<&Attend, CompileError> {
    let unsupported = |what: &str| Err(CompileError::Unsupported(what.to_owned()));
    let [attend] = plan.stages.as_slice() else {
        return unsupported("plans of several stages");
    };
    if attend.role == Role::ColumnWalk {
        return unsupported("walks over columns: kernels for them are those of a backward pass");
    }
    if attend.order.is_some() {
        return unsupported("tiles of tokens in another order than the given one");
    }
    let q = attend.tile.q;
    if attend.tile.k != BK || q == 0 || q > BQ_MAX || !q.is_multiple_of(LANE_STEP) {
        return unsupported("tiles of other sizes than those of its kernels");
    }
    Ok(attend)
}

/// A tile of queries.
struct QueryTile<'a> {
    attend: &'a Attend,
    /// First row, numbered within the head.
    first: Value,
    rows: Value,
    /// Position of the first row.
    at: Value,
    /// Tiles of keys to visit.
    marks: Value,
    /// Bit rows of the tile of keys being visited.
    masks: Value,
}

/// A tile of keys.
struct KeyTile {
    /// First key, numbered within the head.
    first: Value,
    /// Position of the first key.
    at: Value,
    /// Keys.
    keys: Value,
    /// One bit for each key.
    full: Value,
}

/// Begins a function: the tile of queries that its third parameter numbers.
fn query_tile<'a>(e: &mut Emitter<'_>, attend: &'a Attend, number: Value) -> QueryTile<'a> {
    let bq = attend.tile.q as i64;
    let n_q = e.variable(Var::NQ, Form::Scalar);
    let q_start = e.variable(Var::QStart, Form::Scalar);
    let first = e.ins().get().imul_imm_s(number, bq);
    let left = e.ins().get().isub(n_q, first);
    let most = e.int(bq);
    let rows = e.ins().get().smin(left, most);
    let at = e.ins().get().iadd(q_start, first);
    let end = e.ins().get().iadd(at, rows);
    let last = e.ins().get().iadd_imm_s(end, -1);
    e.bind(Var::QLo, Form::Scalar, at);
    e.bind(Var::QHi, Form::Scalar, last);
    let marks = e.field(e.scratch, std::mem::offset_of!(Scratch, marks), I64);
    let masks = e.field(e.scratch, std::mem::offset_of!(Scratch, masks), I64);
    QueryTile { attend, first, rows, at, marks, masks }
}

/// The function that computes a tile.
fn drive(plan: &Plan, attend: &Attend, callees: &Callees, conv: CallConv) -> Result<(Function, Uses), CompileError> {
    let (mut e, number) = Emitter::new(&plan.program, callees, conv, false);
    let t = query_tile(&mut e, attend, number);
    let scale = e.scalar(attend.scale);
    e.stage(Stage::begin, &[e.ctx, e.scratch, t.first, t.rows, scale]);
    for entry in &attend.entries {
        match entry {
            Entry::Tokens { rows, tiles, bias, .. } => attend_tokens(&mut e, &t, rows, tiles, *bias),
            Entry::Null { slots, bias } => attend_nulls(&mut e, &t, *slots, *bias),
        }
    }
    e.stage(Stage::end, &[e.ctx, e.scratch, t.first, t.rows]);
    e.ins().get().return_(&[]);
    e.finish()
}

/// The function that returns the first row of a tile without entries, numbered within the head, or -1.
fn check(plan: &Plan, attend: &Attend, callees: &Callees, conv: CallConv) -> Result<(Function, Uses), CompileError> {
    let (mut emitter, number) = Emitter::new(&plan.program, callees, conv, true);
    let e = &mut emitter;
    let t = query_tile(e, attend, number);
    each_row(e, &t, &[], |e, r, _| {
        let zero = e.int(0);
        let slot = row_slot(e, &t, r);
        e.ins().get().store(trusted(), zero, slot, 0);
        vec![]
    });
    for entry in &attend.entries {
        let Entry::Tokens { rows, tiles, .. } = entry else { continue };
        mark(e, &t, tiles);
        each_tile(e, &t, |e, tile, must| {
            // Whether a row has been seen is all that counts; which bits it has does not.
            each_row(e, &t, &[], |e, r, _| {
                let slot = row_slot(e, &t, r);
                let seen = e.ins().get().load(I64, trusted(), slot, 0);
                let bits = row_bits(e, rows, tile);
                let bits = e.ins().get().bor(bits, must);
                let seen = e.ins().get().bor(seen, bits);
                e.ins().get().store(trusted(), seen, slot, 0);
                vec![]
            });
        });
    }
    // The first empty row is the last one found by a loop that runs downwards.
    let none = e.int(-1);
    let zero = e.int(0);
    let found = e.loop_for((zero, t.rows), 1, &[none], |e, up, found| {
        let beyond = e.ins().get().isub(t.rows, up);
        let r = e.ins().get().iadd_imm_s(beyond, -1);
        let slot = row_slot(e, &t, r);
        let seen = e.ins().get().load(I64, trusted(), slot, 0);
        let empty = e.ins().get().icmp_imm_s(IntCC::Equal, seen, 0);
        let row = e.ins().get().iadd(t.first, r);
        vec![e.ins().get().select(empty, row, found[0])]
    });
    e.ins().get().return_(&found);
    emitter.finish()
}

/// One entry of tokens.
fn attend_tokens(e: &mut Emitter<'_>, t: &QueryTile<'_>, rows: &RowSet, tiles: &TileSet, bias: Option<ExprId>) {
    let (ctx, scratch) = (e.ctx, e.scratch);
    mark(e, t, tiles);
    each_tile(e, t, |e, tile, must| {
        // Bits that some row has, and bits that all rows have.
        let none = e.int(0);
        let partial = e.ins().get().icmp_imm_s(IntCC::Equal, must, 0);
        let bits = e.when(partial, &[must, must], |e| {
            let ones = e.int(-1);
            each_row(e, t, &[none, ones], |e, r, bits| {
                let row = row_bits(e, rows, tile);
                let slot = row_slot(e, t, r);
                e.ins().get().store(trusted(), row, slot, 0);
                let any = e.ins().get().bor(bits[0], row);
                let all = e.ins().get().band(bits[1], row);
                vec![any, all]
            })
        });
        let some = e.ins().get().icmp_imm_s(IntCC::NotEqual, bits[0], 0);
        e.when(some, &[], |e| {
            e.stage(Stage::scores, &[ctx, scratch, tile.first, tile.keys]);
            let stride = t.attend.tile.q as i64;
            let scores = ScoreTile { q: t.at, k: tile.at, keys: tile.keys, stride };
            e.modify(&scores, t.attend.score, bias);
            let part = e.ins().get().icmp(IntCC::NotEqual, bits[1], tile.full);
            let masked = e.ins().get().uextend(I64, part);
            e.stage(Stage::fold, &[ctx, scratch, tile.first, tile.keys, masked]);
            vec![]
        });
    });
}

/// One entry of null slots.
fn attend_nulls(e: &mut Emitter<'_>, t: &QueryTile<'_>, slots: i64, bias: Option<ExprId>) {
    let (ctx, scratch) = (e.ctx, e.scratch);
    let none = e.int(0);
    let slots = e.int(slots);
    e.loop_for((none, slots), 1, &[], |e, slot, _| {
        e.bind(Var::Slot, Form::Scalar, slot);
        let first = e.int(0);
        e.loop_for((first, t.rows), 1, &[], |e, r, _| {
            let q = e.ins().get().iadd(t.at, r);
            e.bind(Var::Q, Form::Scalar, q);
            let logit = match bias {
                Some(bias) => e.scalar(bias),
                None => e.ins().get().f32const(0.0),
            };
            e.stage(Stage::null, &[ctx, scratch, r, logit]);
            vec![]
        });
        vec![]
    });
}

/// Runs `body` for each row of the tile, its query bound, threading `state` through.
fn each_row<'p>(
    e: &mut Emitter<'p>,
    t: &QueryTile<'_>,
    state: &[Value],
    body: impl FnOnce(&mut Emitter<'p>, Value, &[Value]) -> Vec<Value>,
) -> Vec<Value> {
    let first = e.int(0);
    e.loop_for((first, t.rows), 1, state, |e, r, state| {
        let q = e.ins().get().iadd(t.at, r);
        e.bind(Var::Q, Form::Scalar, q);
        body(e, r, state)
    })
}

/// Runs `body` for each marked tile with the tile and its full bit row if it is known to be full, else 0.
fn each_tile<'p>(e: &mut Emitter<'p>, t: &QueryTile<'_>, body: impl FnOnce(&mut Emitter<'p>, &KeyTile, Value)) {
    let n_k = e.variable(Var::NK, Form::Scalar);
    let k_start = e.variable(Var::KStart, Form::Scalar);
    let zero = e.int(0);
    let tile = e.support("marks_next", &[t.marks, zero]);
    e.loop_while(
        &[tile],
        |e, i| e.ins().get().icmp_imm_s(IntCC::SignedGreaterThanOrEqual, i[0], 0),
        |e, i| {
            let first = e.ins().get().ishl_imm_u(i[0], i64::from(BK.trailing_zeros()));
            let left = e.ins().get().isub(n_k, first);
            let most = e.int(BK as i64);
            let keys = e.ins().get().smin(left, most);
            let at = e.ins().get().iadd(k_start, first);
            // keys >= 1, so that the shift is by less than 64.
            let ones = e.int(-1);
            let shift = e.ins().get().isub(most, keys);
            let full = e.ins().get().ushr(ones, shift);
            let must = e.support("marks_is_must", &[t.marks, i[0]]);
            let must = e.ins().get().ineg(must);
            let must = e.ins().get().band(must, full);
            body(e, &KeyTile { first, at, keys, full }, must);
            let next = e.ins().get().iadd_imm_s(i[0], 1);
            vec![e.support("marks_next", &[t.marks, next])]
        },
    );
}

/// Marks the tiles that a tile set visits.
fn mark(e: &mut Emitter<'_>, t: &QueryTile<'_>, tiles: &TileSet) {
    e.support_unit("marks_clear", &[t.marks]);
    for piece in &tiles.pieces {
        mark_loops(e, t, piece, 0, None);
    }
}

/// The loops of a piece from `depth` inwards; `certain` says that all outer variables are common to all rows.
fn mark_loops(e: &mut Emitter<'_>, t: &QueryTile<'_>, piece: &TilePiece, depth: usize, certain: Option<Value>) {
    let Some(l) = piece.loops.get(depth) else {
        return match piece.guard {
            Some(guard) => {
                let guard = e.scalar(guard);
                e.when(guard, &[], |e| {
                    mark_range(e, t, piece, certain);
                    vec![]
                });
            }
            None => mark_range(e, t, piece, certain),
        };
    };
    let (lo, hi) = (e.scalar(l.lo), e.scalar(l.hi));
    let lo = first_value(e, lo, l.step, l.phase);
    e.loop_for((lo, hi), l.step, &[], |e, v, _| {
        e.bind(Var::Loop(l.var), Form::Scalar, v);
        let certain = piece.must.as_ref().map(|_| {
            let (lo, hi) = (e.scalar(l.must_lo), e.scalar(l.must_hi));
            let above = e.ins().get().icmp(IntCC::SignedLessThanOrEqual, lo, v);
            let below = e.ins().get().icmp(IntCC::SignedLessThan, v, hi);
            let here = e.ins().get().band(above, below);
            match certain {
                Some(outer) => e.ins().get().band(outer, here),
                None => here,
            }
        });
        mark_loops(e, t, piece, depth + 1, certain);
        vec![]
    });
}

/// Marks one range of a piece, its loop variables being bound.
fn mark_range(e: &mut Emitter<'_>, t: &QueryTile<'_>, piece: &TilePiece, certain: Option<Value>) {
    let k_start = e.variable(Var::KStart, Form::Scalar);
    let row_of = |e: &mut Emitter<'_>, position: ExprId| {
        let position = e.scalar(position);
        e.ins().get().isub(position, k_start)
    };
    let (start, end) = (row_of(e, piece.start), row_of(e, piece.end));
    let none = e.int(0);
    let (must_start, must_end) = match &piece.must {
        // Of several combs only the first is marked by, so that nothing is certain.
        Some(must) if piece.combs.len() <= 1 => {
            let (start, end) = (row_of(e, must.start), row_of(e, must.end));
            let guard = must.guard.map(|g| e.scalar(g));
            let holds = match (guard, certain) {
                (Some(a), Some(b)) => Some(e.ins().get().band(a, b)),
                (a, b) => a.or(b),
            };
            let end = match holds {
                Some(holds) => e.ins().get().select(holds, end, none),
                None => end,
            };
            // An end of 0 leaves no key, whatever the start.
            (start, end)
        }
        _ => (none, none),
    };
    match piece.combs.first() {
        None => e.support_unit("marks_mark", &[t.marks, start, end, must_start, must_end]),
        Some(comb) => {
            let (period, width) = (e.scalar(comb.period), e.scalar(comb.width));
            let (lo, hi) = (row_of(e, comb.phase_lo), row_of(e, comb.phase_hi));
            let args = [t.marks, start, end, must_start, must_end, period, width, lo, hi];
            e.support_unit("marks_comb", &args);
        }
    }
}

/// The bits of one row, its query being bound.
fn row_bits(e: &mut Emitter<'_>, rows: &RowSet, tile: &KeyTile) -> Value {
    let mut bits = e.int(0);
    for piece in &rows.pieces {
        bits = piece_bits(e, piece, 0, tile, bits);
    }
    e.ins().get().band(bits, tile.full)
}

/// `bits` with those of a piece, from loop `depth` inwards.
fn piece_bits(e: &mut Emitter<'_>, piece: &Piece, depth: usize, tile: &KeyTile, bits: Value) -> Value {
    let Some(l) = piece.loops.get(depth) else {
        return match piece.guard {
            Some(guard) => {
                let guard = e.scalar(guard);
                e.when(guard, &[bits], |e| vec![range_bits(e, piece, tile, bits)])[0]
            }
            None => range_bits(e, piece, tile, bits),
        };
    };
    let (mut lo, mut hi) = (e.scalar(l.lo), e.scalar(l.hi));
    if let Some((base, stride)) = l.span {
        // Only iterations whose span meets the tile.
        let base = e.scalar(base);
        e.scalar(stride);
        let first = e.ins().get().isub(tile.at, base);
        let reach = e.ins().get().iadd_imm_s(first, BK as i64 - 1);
        let inner = e.inner();
        let least = e.divide(Bin::Div, (first, false), (stride, Form::Scalar), inner);
        let most = e.divide(Bin::Div, (reach, false), (stride, Form::Scalar), inner);
        let most = e.ins().get().iadd_imm_s(most, 1);
        lo = e.ins().get().smax(lo, least);
        hi = e.ins().get().smin(hi, most);
    }
    if l.step == 1
        && let (Some((map, to_start)), Some((_, to_end))) =
            (e.column_of(piece.start, l.var, Bin::Max), e.column_of(piece.end, l.var, Bin::Min))
    {
        // Columns ascend in a row: only entries that meet the tile, `start < at + 64` and `at < end`. A maximum
        // of starts or a minimum of ends says the same of each of its operands.
        let map = e.map_address(map);
        let from = position_less(e, tile.at, &to_end, 1);
        let to = position_less(e, tile.at, &to_start, BK as i64);
        lo = e.csr_from(map, lo, hi, from);
        hi = e.csr_from(map, lo, hi, to);
    }
    let lo = first_value(e, lo, l.step, l.phase);
    e.loop_for((lo, hi), l.step, &[bits], |e, v, bits| {
        e.bind(Var::Loop(l.var), Form::Scalar, v);
        vec![piece_bits(e, piece, depth + 1, tile, bits[0])]
    })[0]
}

/// `at` less the sum of `terms`, plus `more`.
fn position_less(e: &mut Emitter<'_>, at: Value, terms: &[ExprId], more: i64) -> Value {
    let mut at = at;
    for &term in terms {
        let term = e.scalar(term);
        at = e.ins().get().isub(at, term);
    }
    e.ins().get().iadd_imm_s(at, more)
}

/// The first value of a loop, from `lo` up.
fn first_value(e: &mut Emitter<'_>, lo: Value, step: i64, phase: ExprId) -> Value {
    if step == 1 {
        return lo;
    }
    let phase = e.scalar(phase);
    let ahead = e.ins().get().isub(phase, lo);
    let ahead = if step & (step - 1) == 0 {
        e.ins().get().band_imm_s(ahead, step - 1)
    } else {
        let by = e.int(step);
        let rest = e.ins().get().srem(ahead, by);
        let below = e.ins().get().sshr_imm_u(rest, 63);
        let fix = e.ins().get().band(below, by);
        e.ins().get().iadd(rest, fix)
    };
    e.ins().get().iadd(lo, ahead)
}

/// `bits` with those of the range, combs and filter of a piece, its loop variables being bound.
fn range_bits(e: &mut Emitter<'_>, piece: &Piece, tile: &KeyTile, bits: Value) -> Value {
    let (start, end) = (e.scalar(piece.start), e.scalar(piece.end));
    let mut own = e.support("range_bits", &[start, end, tile.at]);
    for comb in &piece.combs {
        let (period, width) = (e.scalar(comb.period), e.scalar(comb.width));
        let phase = e.scalar(comb.phase);
        let teeth = e.support("comb_bits", &[tile.at, period, width, phase]);
        own = e.ins().get().band(own, teeth);
    }
    if let Some(filter) = piece.filter {
        own = e.ins().get().band(own, tile.full);
        own = filter_bits(e, filter, tile, own);
    }
    e.ins().get().bor(bits, own)
}

/// Those of `bits` whose keys satisfy a predicate.
fn filter_bits(e: &mut Emitter<'_>, filter: ExprId, tile: &KeyTile, bits: Value) -> Value {
    let none = e.int(0);
    let last = e.loop_while(
        &[bits, none],
        |e, s| e.ins().get().icmp_imm_s(IntCC::NotEqual, s[0], 0),
        |e, s| {
            let j = e.ins().get().ctz(s[0]);
            let k = e.ins().get().iadd(tile.at, j);
            e.bind(Var::K, Form::Scalar, k);
            let holds = e.scalar(filter);
            let holds = e.ins().get().uextend(I64, holds);
            let bit = e.ins().get().ishl(holds, j);
            let kept = e.ins().get().bor(s[1], bit);
            let less = e.ins().get().iadd_imm_s(s[0], -1);
            let rest = e.ins().get().band(s[0], less);
            vec![rest, kept]
        },
    );
    last[1]
}

/// Address of the bit row of row `r`.
fn row_slot(e: &mut Emitter<'_>, t: &QueryTile<'_>, r: Value) -> Value {
    let offset = e.ins().get().ishl_imm_u(r, 3);
    e.ins().get().iadd(t.masks, offset)
}
