//! The functions of a plan: `drive` computes a tile of queries, `check` looks for rows without entries.
//!
//! The one idea: both *walk* the tiles of keys that a tile of queries visits. The tile set's closed forms
//! are run to mark tiles; marked tiles come in windows; tiles of a window that are not known to be full get one
//! row of bits a query from the row set's closed forms. What differs is done at each window.
//! Nothing here knows of tensors' layouts; see [`crate::stages`].

use std::mem::offset_of;

use attnc_kernels::abi::{BK, BQ_MAX, LANE_STEP};
use attnc_kernels::window::{Chunk, Window};
use attnc_pattern::expr::{Bin, ExprId, Node, Var};
use attnc_pattern::program::Empty;
use attnc_pattern::rowset::{Piece, RowSet, TilePiece, TileSet};
use attnc_plan::{Attend, Entry, Plan, Role, Scored, View};
use cranelift::codegen::ir::condcodes::IntCC;
use cranelift::codegen::ir::types::I64;
use cranelift::codegen::ir::{Function, InstBuilder, Value};
use cranelift::codegen::isa::CallConv;

use super::expr::ChosenRanges;
use super::score::ScoreTile;
use super::{Callees, Emitter, Form, trusted};
use crate::compile::{CompileError, Uses};
use crate::layout::{Ctx, Rows, Scratch};
use crate::stages::Stage;

/// The functions of a plan, and what they read of an environment.
pub(crate) struct Code {
    /// One for each stage that attends.
    pub(crate) drive: Vec<Function>,
    /// One for each selection by score.
    pub(crate) score: Vec<Option<Function>>,
    /// Present where an empty row is an error.
    pub(crate) check: Option<Function>,
    pub(crate) uses: Uses,
}

/// Writes the functions of a plan.
pub(crate) fn emit(plan: &Plan, callees: &Callees, conv: CallConv) -> Result<Code, CompileError> {
    let mut uses = Uses::default();
    let mut functions = Vec::with_capacity(plan.stages.len());
    for (i, attend) in plan.stages.iter().enumerate() {
        supported(attend)?;
        let (function, more) = drive(plan, attend, (Tiled::of(attend), i > 0), callees, conv)?;
        uses.join(more);
        functions.push(function);
    }
    let mut score = Vec::with_capacity(plan.chooses.len());
    for choose in &plan.chooses {
        let made = choose.scored.as_ref().map(|scored| {
            supported(&scored.walk)?;
            self::score(plan, scored, callees, conv)
        });
        score.push(made.transpose()?.map(|(function, more)| {
            uses.join(more);
            function
        }));
    }
    // A null slot is an entry, so that no row is empty beside one.
    let fed = plan.stages.iter().flat_map(|s| &s.entries).any(|e| matches!(e, Entry::Null { slots: 1.., .. }));
    let check = if plan.empty == Some(Empty::Error) && !fed {
        if plan.rows.is_some() {
            return Err(CompileError::Unsupported("a search for empty rows in place of queries".to_owned()));
        }
        let [attend] = plan.stages.as_slice() else {
            return Err(CompileError::Unsupported("a search for empty rows over several stages".to_owned()));
        };
        let (check, more) = check(plan, attend, callees, conv)?;
        uses.join(more);
        Some(check)
    } else {
        None
    };
    Ok(Code { drive: functions, score, check, uses })
}

/// What a plan needs besides for few queries.
pub(crate) struct FewCode {
    /// For each stage what computes the queries of several heads at once, and what marks the tiles of keys that a tile of
    /// queries visits for any entry.
    pub(crate) stages: Vec<[Function; 2]>,
    /// Whether something beside scores reads the head, so that it must be the same for all lanes.
    pub(crate) of_one_head: bool,
}

/// Writes the functions of a plan for few queries; `None` for one that computes them as many.
pub(crate) fn emit_few(plan: &Plan, callees: &Callees, conv: CallConv) -> Result<Option<FewCode>, CompileError> {
    if plan.few(1).is_none() {
        return Ok(None);
    }
    let (mut stages, mut of_one_head) = (Vec::with_capacity(plan.stages.len()), false);
    for attend in &plan.stages {
        let (folded, uses) = drive(plan, attend, (Tiled::Folded, false), callees, conv)?;
        of_one_head |= uses.head;
        let (mut e, number) = Emitter::new(&plan.program, callees, conv, false);
        let t = query_tile(&mut e, attend, number, Tiled::of(attend));
        e.support_unit("marks_clear", &[t.marks]);
        for entry in &attend.entries {
            if let Entry::Tokens { rows, tiles, .. } = entry {
                mark_more(&mut e, &t, rows, tiles);
            }
        }
        e.ins().get().return_(&[]);
        let (touched, _) = e.finish()?;
        stages.push([folded, touched]);
    }
    Ok(Some(FewCode { stages, of_one_head }))
}

/// Whether this back end runs a stage.
fn supported(attend: &Attend) -> Result<(), CompileError> {
    let unsupported = |what: &str| Err(CompileError::Unsupported(what.to_owned()));
    if attend.role == Role::ColumnWalk {
        return unsupported("walks over columns: kernels for them are those of a backward pass");
    }
    let q = attend.tile.q;
    if attend.tile.k != BK || q == 0 || q > BQ_MAX || !q.is_multiple_of(LANE_STEP) {
        return unsupported("tiles of other sizes than those of its kernels");
    }
    Ok(())
}

/// A tile of queries.
struct QueryTile<'a> {
    attend: &'a Attend,
    /// First row, numbered within the head.
    first: Value,
    rows: Value,
    /// Position of the first row; of number 0 where rows are listed. In a numbering by orders, an index.
    at: Value,
    /// Where numbers of rows are listed, if they do not follow one another.
    walk: Option<Value>,
    /// Where the head of each row is listed, if they may differ.
    heads: Option<Value>,
    /// Tiles of keys to visit.
    marks: Value,
    /// Some of them.
    window: Value,
}

/// Which queries a tile holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tiled {
    /// Those that follow one another.
    Given,
    /// Those that the stage's walk lists.
    Listed,
    /// Those that the stage's numbering lists by index.
    Ordered,
    /// A tile of rows in place of queries: each lane's is listed.
    Rows,
    /// All of the launch, of several heads: each lane's and its head are listed.
    Folded,
}

impl Tiled {
    /// As the stage's view has it.
    fn of(attend: &Attend) -> Tiled {
        match attend.view {
            View::Given | View::Classes(_) => Tiled::Given,
            View::Walk(_) => Tiled::Listed,
            // A tile of them is all that the function is given.
            View::Rows => Tiled::Rows,
            View::Ordered { .. } => Tiled::Ordered,
        }
    }
}

/// Begins a function: the tile of queries that its third parameter numbers.
fn query_tile<'a>(e: &mut Emitter<'_>, attend: &'a Attend, number: Value, tiled: Tiled) -> QueryTile<'a> {
    let marks = e.field(e.scratch, offset_of!(Scratch, marks), I64);
    let window = e.field(e.scratch, offset_of!(Scratch, window), I64);
    if matches!(tiled, Tiled::Rows | Tiled::Folded) {
        let (n_q, at) = (e.variable(Var::NQ, Form::Scalar), e.variable(Var::QStart, Form::Scalar));
        let end = e.ins().get().iadd(at, n_q);
        let last = e.ins().get().iadd_imm_s(end, -1);
        e.bind(Var::QLo, Form::Scalar, at);
        e.bind(Var::QHi, Form::Scalar, last);
        let first = e.int(0);
        let rows = e.field(e.ctx, offset_of!(Ctx, lanes), I64);
        let walk = Some(e.field(e.ctx, offset_of!(Ctx, walk), I64));
        let heads = (tiled == Tiled::Folded).then(|| {
            e.heads_differ();
            e.field(e.ctx, offset_of!(Ctx, lane_heads), I64)
        });
        return QueryTile { attend, first, rows, at, walk, heads, marks, window };
    }
    let bq = attend.tile.q as i64;
    if tiled == Tiled::Ordered {
        let lanes = e.field(e.ctx, offset_of!(Ctx, lanes), I64);
        let first = e.ins().get().imul_imm_s(number, bq);
        let left = e.ins().get().isub(lanes, first);
        let most = e.int(bq);
        let rows = e.ins().get().smin(left, most);
        let list = e.field(e.ctx, offset_of!(Ctx, walk), I64);
        let walk = listed(e, list, first);
        // Indices ascend in a tile.
        let lo = e.ins().get().uload32(trusted(), walk, 0);
        let end = listed(e, walk, rows);
        let hi = e.ins().get().uload32(trusted(), end, -(size_of::<u32>() as i32));
        e.bind(Var::QLo, Form::Scalar, lo);
        e.bind(Var::QHi, Form::Scalar, hi);
        let at = e.int(0);
        return QueryTile { attend, first, rows, at, walk: Some(walk), heads: None, marks, window };
    }
    let n_q = e.variable(Var::NQ, Form::Scalar);
    let q_start = e.variable(Var::QStart, Form::Scalar);
    let first = e.ins().get().imul_imm_s(number, bq);
    let left = e.ins().get().isub(n_q, first);
    let most = e.int(bq);
    let rows = e.ins().get().smin(left, most);
    let mut at = e.ins().get().iadd(q_start, first);
    let end = e.ins().get().iadd(at, rows);
    let last = e.ins().get().iadd_imm_s(end, -1);
    e.bind(Var::QLo, Form::Scalar, at);
    e.bind(Var::QHi, Form::Scalar, last);
    let walk = (tiled == Tiled::Listed).then(|| {
        let list = e.field(e.ctx, offset_of!(Ctx, walk), I64);
        at = q_start;
        listed(e, list, first)
    });
    QueryTile { attend, first, rows, at, walk, heads: None, marks, window }
}

/// Where element `i` of a list of numbers is.
fn listed(e: &mut Emitter<'_>, list: Value, i: Value) -> Value {
    let offset = e.ins().get().ishl_imm_u(i, i64::from(size_of::<u32>().trailing_zeros()));
    e.ins().get().iadd(list, offset)
}

/// The function that computes a tile.
fn drive(
    plan: &Plan,
    attend: &Attend,
    (tiled, resumes): (Tiled, bool),
    callees: &Callees,
    conv: CallConv,
) -> Result<(Function, Uses), CompileError> {
    let (mut e, number) = Emitter::new(&plan.program, callees, conv, false);
    let t = query_tile(&mut e, attend, number, tiled);
    let scale = e.scalar(attend.scale);
    let (begins, goes_on, ends) = match attend.own {
        true => (Stage::begin_own, Stage::resume_own, Stage::end_own),
        false => (Stage::begin, Stage::resume, Stage::end),
    };
    e.stage(begins, &[e.ctx, e.scratch, t.first, t.rows, scale]);
    if resumes {
        e.stage(goes_on, &[e.ctx, e.scratch, t.first, t.rows]);
    }
    // What is added to all scores alike is added to their maximum instead.
    let common = attend.common_bias(&plan.program.exprs).map(|bias| bias as f32);
    let shift = |e: &mut Emitter<'_>, by: f32| {
        let by = e.ins().get().f32const(by);
        e.stage(Stage::shift, &[e.scratch, t.rows, by]);
    };
    if let Some(bias) = common {
        shift(&mut e, -bias);
    }
    if let (Some(heads), Some(walk)) = (t.heads, t.walk) {
        let none = e.int(0);
        let biases = attend.entries.iter().filter_map(token_bias).filter(|_| common.is_none());
        let roots: Vec<ExprId> = attend.score.into_iter().chain(biases).collect();
        e.lay_side_by_side(&roots, &[(Var::Q, walk, t.at), (Var::Head, heads, none)]);
    }
    for entry in &attend.entries {
        match entry {
            Entry::Tokens { rows, tiles, bias, .. } => {
                attend_tokens(&mut e, &t, rows, tiles, bias.filter(|_| common.is_none()));
            }
            Entry::Null { slots, bias } => attend_nulls(&mut e, &t, *slots, *bias),
        }
    }
    if let Some(bias) = common {
        shift(&mut e, bias);
    }
    e.stage(ends, &[e.ctx, e.scratch, t.first, t.rows]);
    e.ins().get().return_(&[]);
    e.finish()
}

/// What is added to the scores of an entry's tokens.
fn token_bias(entry: &Entry) -> Option<ExprId> {
    match entry {
        Entry::Tokens { bias, .. } => *bias,
        Entry::Null { .. } => None,
    }
}

/// The function that takes the scores of a tile of items of a selection.
fn score(plan: &Plan, scored: &Scored, callees: &Callees, conv: CallConv) -> Result<(Function, Uses), CompileError> {
    let (mut e, number) = Emitter::new(&plan.program, callees, conv, false);
    let t = query_tile(&mut e, &scored.walk, number, Tiled::Rows);
    let scale = e.scalar(scored.walk.scale);
    e.stage(Stage::begin_scores, &[e.ctx, e.scratch, t.first, t.rows, scale]);
    let take = if scored.direct { Stage::keep } else { Stage::reduce };
    for entry in &scored.walk.entries {
        if let Entry::Tokens { rows, tiles, .. } = entry {
            let found = if scored.searched { vec![] } else { mark(&mut e, &t, rows, tiles) };
            each_chunk(&mut e, &t, (rows, &found), scored.searched, |e, chunk| {
                if scored.dot.is_some() {
                    scores(e, &t, chunk, None, Stage::scores_alone);
                } else {
                    let tile = score_tile(e, &t, chunk);
                    e.modify(&tile, t.attend.score, None);
                }
                e.stage(take, &[e.ctx, e.scratch, chunk]);
            });
        }
    }
    e.ins().get().return_(&[]);
    e.finish()
}

/// The function that returns the first row of a tile without entries, numbered within the head, or -1.
fn check(plan: &Plan, attend: &Attend, callees: &Callees, conv: CallConv) -> Result<(Function, Uses), CompileError> {
    let (mut emitter, number) = Emitter::new(&plan.program, callees, conv, true);
    let e = &mut emitter;
    // Queries of a walk may as well come as given: nothing is computed with them.
    let ordered = Tiled::of(attend) == Tiled::Ordered;
    let t = query_tile(e, attend, number, if ordered { Tiled::Ordered } else { Tiled::Given });
    each_row(e, &t, |e, r| {
        let zero = e.int(0);
        let slot = seen_slot(e, &t, r);
        e.ins().get().store(trusted(), zero, slot, 0);
    });
    for entry in &attend.entries {
        let Entry::Tokens { rows, tiles, .. } = entry else { continue };
        let found = mark(e, &t, rows, tiles);
        each_window(e, &t, (rows, &found), false, |e| e.support_unit("window_seen", &[t.window]));
    }
    // Numbers of rows need not ascend in a tile. Without a sign, -1 is more than all of them.
    let rows = ordered.then(|| e.field(e.ctx, offset_of!(Ctx, q) + offset_of!(Rows<*const u8>, index), I64));
    let none = e.int(-1);
    let zero = e.int(0);
    let found = e.loop_for((zero, t.rows), 1, &[none], |e, r, found| {
        let slot = seen_slot(e, &t, r);
        let seen = e.ins().get().load(I64, trusted(), slot, 0);
        let empty = e.ins().get().icmp_imm_s(IntCC::Equal, seen, 0);
        let mut row = e.ins().get().iadd(t.first, r);
        if let Some(rows) = rows {
            let at = listed(e, rows, row);
            row = e.ins().get().uload32(trusted(), at, 0);
        }
        let first = e.ins().get().umin(row, found[0]);
        vec![e.ins().get().select(empty, first, found[0])]
    });
    e.ins().get().return_(&found);
    emitter.finish()
}

/// One entry of tokens.
fn attend_tokens(e: &mut Emitter<'_>, t: &QueryTile<'_>, rows: &RowSet, tiles: &TileSet, bias: Option<ExprId>) {
    let (ctx, scratch) = (e.ctx, e.scratch);
    let found = mark(e, t, rows, tiles);
    each_chunk(e, t, (rows, &found), false, |e, chunk| {
        if t.attend.own {
            e.stage(Stage::attend_own, &[ctx, scratch, chunk]);
            return;
        }
        scores(e, t, chunk, bias, Stage::scores);
        e.stage(Stage::fold, &[ctx, scratch, chunk]);
    });
}

/// Runs `body` for each chunk of keys that the marked tiles give; of `listed` keys alone, if so asked.
fn each_chunk<'p>(
    e: &mut Emitter<'p>,
    t: &QueryTile<'_>,
    rows: (&RowSet, &[Option<Runs>]),
    listed: bool,
    body: impl FnOnce(&mut Emitter<'p>, Value),
) {
    each_window(e, t, rows, listed, |e| {
        let chunks = match (listed, t.attend.own) {
            (true, _) => e.stage(Stage::listed_chunks, &[t.window]).expect("the stage returns an integer"),
            (_, true) => e.support("window_own", &[t.window]),
            _ => e.support("window_chunks", &[t.window]),
        };
        let first = e.ins().get().iadd_imm_s(t.window, offset_of!(Window, chunk) as i64);
        let bytes = e.ins().get().imul_imm_s(chunks, size_of::<Chunk>() as i64);
        let end = e.ins().get().iadd(first, bytes);
        e.loop_for((first, end), size_of::<Chunk>() as i64, &[], |e, chunk, _| {
            body(e, chunk);
            vec![]
        });
    });
}

/// Makes the scores of a chunk: products, and what is done to them.
fn scores(e: &mut Emitter<'_>, t: &QueryTile<'_>, chunk: Value, bias: Option<ExprId>, products: Stage) {
    let tile = score_tile(e, t, chunk);
    let added = if t.heads.is_some() { None } else { e.added(&tile, t.attend.score, bias) };
    let (from, pitch) = added.unwrap_or_else(|| {
        let none = e.int(0);
        (none, none)
    });
    e.stage(products, &[e.ctx, e.scratch, chunk, from, pitch]);
    if added.is_none() {
        e.modify(&tile, t.attend.score, bias);
    }
}

/// The tile of scores of a chunk.
fn score_tile(e: &mut Emitter<'_>, t: &QueryTile<'_>, chunk: Value) -> ScoreTile {
    let k = e.field(chunk, offset_of!(Chunk, keys), I64);
    let keys = e.field(chunk, offset_of!(Chunk, count), I64);
    let lane = e.field(chunk, offset_of!(Chunk, lane), I64);
    let lanes = e.field(chunk, offset_of!(Chunk, lanes), I64);
    let first = e.field(chunk, offset_of!(Chunk, first), I64);
    ScoreTile { q: t.at, walk: t.walk, heads: t.heads, lane, lanes, k, keys, first }
}

/// One entry of null slots.
fn attend_nulls(e: &mut Emitter<'_>, t: &QueryTile<'_>, slots: i64, bias: Option<ExprId>) {
    let (ctx, scratch) = (e.ctx, e.scratch);
    let none = e.int(0);
    let here = e.field(ctx, offset_of!(Ctx, nulls), I64);
    let slots = e.ins().get().imul_imm_s(here, slots);
    e.loop_for((none, slots), 1, &[], |e, slot, _| {
        e.bind(Var::Slot, Form::Scalar, slot);
        each_row(e, t, |e, r| {
            if let Some(heads) = t.heads {
                let at = listed(e, heads, r);
                let head = e.ins().get().uload32(trusted(), at, 0);
                e.bind(Var::Head, Form::Scalar, head);
            }
            let logit = match bias {
                Some(bias) => e.scalar(bias),
                None => e.ins().get().f32const(0.0),
            };
            e.stage(Stage::null, &[ctx, scratch, r, logit]);
        });
        vec![]
    });
}

/// Runs `body` for each row of the tile, its query bound.
fn each_row<'p>(e: &mut Emitter<'p>, t: &QueryTile<'_>, body: impl FnOnce(&mut Emitter<'p>, Value)) {
    let first = e.int(0);
    e.loop_for((first, t.rows), 1, &[], |e, r, _| {
        let q = query_of(e, t, r);
        e.bind(Var::Q, Form::Scalar, q);
        body(e, r);
        vec![]
    });
}

/// Runs `body` for each window of marked tiles, with the rows of bits of its partial tiles; `found` are runs of rows, of
/// pieces for which they are known. Where keys are `listed`, windows are of those alone.
fn each_window<'p>(
    e: &mut Emitter<'p>,
    t: &QueryTile<'_>,
    (rows, found): (&RowSet, &[Option<Runs>]),
    listed: bool,
    body: impl FnOnce(&mut Emitter<'p>),
) {
    let n_k = e.variable(Var::NK, Form::Scalar);
    let k_start = e.variable(Var::KStart, Form::Scalar);
    let first = if listed {
        e.int(0)
    } else {
        let end = e.field(e.ctx, offset_of!(Ctx, end_tile), I64);
        let present = e.field(e.ctx, offset_of!(Ctx, present), I64);
        e.support_unit("window_begin", &[t.window, t.rows, n_k, end, present]);
        e.field(e.ctx, offset_of!(Ctx, first_tile), I64)
    };
    let next = |e: &mut Emitter<'p>, from| match listed {
        true => e.stage(Stage::listed_next, &[e.ctx, e.scratch, t.rows, from]).expect("the stage returns an integer"),
        false => e.support("window_next", &[t.window, t.marks, from]),
    };
    let from = next(e, first);
    e.loop_while(
        &[from],
        |e, from| e.ins().get().icmp_imm_s(IntCC::SignedGreaterThanOrEqual, from[0], 0),
        |e, from| {
            let partial = e.field(t.window, offset_of!(Window, partial), I64);
            let some = e.ins().get().icmp_imm_s(IntCC::NotEqual, partial, 0);
            e.when(some, &[], |e| {
                let of = |e: &mut Emitter<'p>, field| {
                    let key = e.field(t.window, field, I64);
                    e.ins().get().iadd(k_start, key)
                };
                let (from, to) = (of(e, offset_of!(Window, from)), of(e, offset_of!(Window, to)));
                let bits = e.ins().get().iadd_imm_s(t.window, offset_of!(Window, bits) as i64);
                let bits_end = e.ins().get().imul_imm_s(partial, COLUMN);
                let bits_end = e.ins().get().iadd(bits, bits_end);
                let tiles = e.ins().get().iadd_imm_s(t.window, offset_of!(Window, tile) as i64);
                let span = Span { window: t.window, from, to, bits, bits_end, tiles, listed };
                let mut single = Vec::new();
                for (i, piece) in rows.pieces.iter().enumerate() {
                    let fill_run = |e: &mut Emitter<'p>, r, end| fill(e, piece, 0, &Sink::Lanes(&span, r, end));
                    if let Some(Some(runs)) = found.get(i) {
                        runs.each(e, t, fill_run);
                    } else if let Some(units) = e.units_of(piece) {
                        Runs::find(e, t, units).each(e, t, fill_run);
                    } else if let Some((bare, ranges)) = e.unclipped(piece)
                        && let Some(units) = e.units_of(&bare)
                    {
                        fill_alike(e, t, (piece, &bare, &ranges), &span, units);
                    } else {
                        single.push(piece);
                    }
                }
                if !single.is_empty() {
                    each_row(e, t, |e, r| {
                        for piece in single {
                            fill(e, piece, 0, &Sink::Window(&span, r));
                        }
                    });
                }
                vec![]
            });
            body(e);
            vec![next(e, from[0])]
        },
    );
}

/// Bytes from the rows of bits of one partial tile to those of the next.
const COLUMN: i64 = (BQ_MAX * size_of::<u64>()) as i64;

/// The partial tiles of a window, or some of their keys.
#[derive(Clone, Copy)]
struct Span {
    window: Value,
    /// Position of the first key of the first.
    from: Value,
    /// One past the position of the last key of the last.
    to: Value,
    /// Rows of bits of the first.
    bits: Value,
    /// One past those of the last.
    bits_end: Value,
    /// Their numbers.
    tiles: Value,
    /// They are no tiles but chunks of listed keys.
    listed: bool,
}

/// Marks the tiles to visit: by the tile set where there is one, else row by row. The runs that were found of each piece.
fn mark(e: &mut Emitter<'_>, t: &QueryTile<'_>, rows: &RowSet, tiles: &TileSet) -> Vec<Option<Runs>> {
    e.support_unit("marks_clear", &[t.marks]);
    mark_more(e, t, rows, tiles)
}

/// Marks tiles beside those that are.
fn mark_more(e: &mut Emitter<'_>, t: &QueryTile<'_>, rows: &RowSet, tiles: &TileSet) -> Vec<Option<Runs>> {
    let listed = t.attend.view.is_listed();
    let mut by_row = Vec::new();
    let mut found = Vec::with_capacity(rows.pieces.len());
    for (i, piece) in rows.pieces.iter().enumerate() {
        // What was chosen for listed rows, or for rows that no loop goes over, has no bounds: it is looked up.
        let looked_up = listed || e.chosen(piece) || e.lists_keys(piece);
        let runs = if looked_up { e.units_of(piece) } else { None }.map(|units| Runs::find(e, t, units));
        match &runs {
            Some(runs) => runs.each(e, t, |e, r, end| {
                let first = e.ins().get().icmp_imm_s(IntCC::Equal, r, 0);
                let last = e.ins().get().icmp(IntCC::Equal, end, t.rows);
                let whole = e.ins().get().band(first, last);
                fill(e, piece, 0, &Sink::Marks(t.marks, Some(whole)));
            }),
            // Tiles that only what is clipped would touch turn out to be empty.
            None if let Some((bare, _)) = e.unclipped(piece).filter(|_| looked_up)
                && let Some(units) = e.units_of(&bare) =>
            {
                Runs::find(e, t, units).each(e, t, |e, _, _| fill(e, &bare, 0, &Sink::Marks(t.marks, None)));
            }
            None if looked_up => by_row.push(piece),
            None => {
                if let Some(tile) = tiles.pieces.get(i) {
                    mark_loops(e, t, tile, 0, None);
                }
            }
        }
        found.push(runs);
    }
    if !by_row.is_empty() {
        each_row(e, t, |e, _| {
            for piece in by_row {
                fill(e, piece, 0, &Sink::Marks(t.marks, None));
            }
        });
    }
    found
}

/// Runs of rows of a tile that share the values of some expressions: a table on the stack with an entry for each run, of its
/// first row and those values; one more entry tells where the last run ends.
struct Runs {
    units: Vec<ExprId>,
    first: Value,
    end: Value,
}

impl Runs {
    /// Bytes of an entry.
    fn stride(units: &[ExprId]) -> i32 {
        (8 * (1 + units.len())) as i32
    }

    /// Where the values of an entry are.
    fn values(units: &[ExprId]) -> impl Iterator<Item = (ExprId, i32)> {
        units.iter().zip(1..).map(|(&unit, i)| (unit, 8 * i))
    }

    /// Finds the runs of a tile.
    fn find(e: &mut Emitter<'_>, t: &QueryTile<'_>, units: Vec<ExprId>) -> Runs {
        let stride = Runs::stride(&units);
        // An entry before the first, which no row is compared with, and one past the last.
        let table = e.on_stack((BQ_MAX + 2) * stride as usize, e.inner());
        let first = e.ins().get().iadd_imm_s(table, i64::from(stride));
        let none = e.int(0);
        let end = e.loop_for((none, t.rows), 1, &[first], |e, r, next| {
            let q = query_of(e, t, r);
            e.bind(Var::Q, Form::Scalar, q);
            let mut new = e.ins().get().icmp_imm_s(IntCC::Equal, r, 0);
            let mut here = Vec::with_capacity(units.len());
            for (unit, at) in Runs::values(&units) {
                let value = e.scalar(unit);
                let ty = e.type_of(unit);
                let before = e.ins().get().load(ty, trusted(), next[0], at - stride);
                let other = e.ins().get().icmp(IntCC::NotEqual, value, before);
                new = e.ins().get().bor(new, other);
                here.push((value, at));
            }
            e.when(new, next, |e| {
                e.ins().get().store(trusted(), r, next[0], 0);
                for (value, at) in here {
                    e.ins().get().store(trusted(), value, next[0], at);
                }
                vec![e.ins().get().iadd_imm_s(next[0], i64::from(stride))]
            })
        });
        e.ins().get().store(trusted(), t.rows, end[0], 0);
        Runs { units, first, end: end[0] }
    }

    /// Runs `body` for each run: its query and the values bound, with the first row and one past the last.
    fn each<'p>(&self, e: &mut Emitter<'p>, t: &QueryTile<'_>, body: impl FnOnce(&mut Emitter<'p>, Value, Value)) {
        let stride = Runs::stride(&self.units);
        e.loop_for((self.first, self.end), i64::from(stride), &[], |e, entry, _| {
            let first = e.field(entry, 0, I64);
            let end = e.field(entry, stride as usize, I64);
            let q = query_of(e, t, first);
            e.bind(Var::Q, Form::Scalar, q);
            for (unit, at) in Runs::values(&self.units) {
                let ty = e.type_of(unit);
                let value = e.field(entry, at as usize, ty);
                e.assume(unit, value);
            }
            body(e, first, end);
            vec![]
        });
    }
}

/// Position of the query of row `r` of the tile.
fn query_of(e: &mut Emitter<'_>, t: &QueryTile<'_>, r: Value) -> Value {
    let ahead = match t.walk {
        Some(walk) => {
            let at = listed(e, walk, r);
            e.ins().get().uload32(trusted(), at, 0)
        }
        None => r,
    };
    e.ins().get().iadd(t.at, ahead)
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

/// Where the keys of a row are noted.
enum Sink<'a> {
    /// In the row of bits of a lane.
    Window(&'a Span, Value),
    /// In those of lanes, from the first up to but not including the second.
    Lanes(&'a Span, Value, Value),
    /// As tiles to visit; with a truth value that says that all rows of the tile have these keys.
    Marks(Value, Option<Value>),
}

impl<'a> Sink<'a> {
    /// The window whose keys alone are noted, if there is one.
    fn span(&self) -> Option<&'a Span> {
        match self {
            Sink::Window(span, _) | Sink::Lanes(span, ..) => Some(span),
            Sink::Marks(..) => None,
        }
    }
}

/// Notes the keys of a piece, its query being bound; from loop `depth` inwards.
fn fill(e: &mut Emitter<'_>, piece: &Piece, depth: usize, into: &Sink<'_>) {
    // What the loops from here on do not change is asked once before them.
    let inner = |e: &Emitter<'_>, from: usize, guard: ExprId| {
        piece.loops[from.min(piece.loops.len())..]
            .iter()
            .any(|l| e.program.exprs.reads(guard, |v| v == Var::Loop(l.var)))
    };
    let guards = match piece.guard.map(|g| (g, e.program.exprs.node(g))) {
        None => vec![],
        Some((_, Node::And(all))) => all.clone(),
        Some((guard, _)) => vec![guard],
    };
    let here: Vec<ExprId> =
        guards.into_iter().filter(|&g| !inner(e, depth, g) && (depth == 0 || inner(e, depth - 1, g))).collect();
    if here.is_empty() {
        return fill_loop(e, piece, depth, into);
    }
    let holds: Vec<Value> = here.into_iter().map(|guard| e.scalar(guard)).collect();
    let Some(holds) = holds.into_iter().reduce(|a, b| e.ins().get().band(a, b)) else { return };
    e.when(holds, &[], |e| {
        fill_loop(e, piece, depth, into);
        vec![]
    });
}

/// As [`fill`], what guards the loop being asked.
fn fill_loop(e: &mut Emitter<'_>, piece: &Piece, depth: usize, into: &Sink<'_>) {
    let Some(l) = piece.loops.get(depth) else { return fill_range(e, piece, into) };
    let (mut lo, mut hi) = (e.scalar(l.lo), e.scalar(l.hi));
    if let (Some((base, stride)), Some(span)) = (l.span, into.span()) {
        // Only iterations whose span meets the window.
        let base = e.scalar(base);
        e.scalar(stride);
        let first = e.ins().get().isub(span.from, base);
        let reach = e.ins().get().isub(span.to, base);
        let reach = e.ins().get().iadd_imm_s(reach, -1);
        let inner = e.inner();
        let least = e.divide(Bin::Div, (first, false), (stride, Form::Scalar), inner);
        let most = e.divide(Bin::Div, (reach, false), (stride, Form::Scalar), inner);
        let most = e.ins().get().iadd_imm_s(most, 1);
        lo = e.ins().get().smax(lo, least);
        hi = e.ins().get().smin(hi, most);
    }
    if l.step == 1
        && let Some(span) = into.span()
        && let (Some((map, to_start)), Some((_, to_end))) =
            (e.column_of(piece.start, l.var, Bin::Max), e.column_of(piece.end, l.var, Bin::Min))
    {
        // Columns ascend in a row: only entries that meet the window, `start < to` and `from < end`. A maximum
        // of starts or a minimum of ends says the same of each of its operands.
        let map = e.map_address(map);
        let from = position_less(e, span.from, &to_end, 1);
        let to = position_less(e, span.to, &to_start, 0);
        lo = e.csr_from(map, lo, hi, from);
        hi = e.csr_from(map, lo, hi, to);
    }
    if l.step == 1
        && let Some((draw, row)) = e.choice_of(piece, l.var)
    {
        // As many entries as there are, and of those the ones that meet the window, as they ascend.
        let (mut from, mut to) = (e.int(0), e.int(i64::MAX));
        let bounds =
            (e.chosen_unit(piece.start, l.var, Some(Bin::Max)), e.chosen_unit(piece.end, l.var, Some(Bin::Min)));
        if let (Some(span), (Some((unit, to_start)), Some((unit_of_end, to_end)))) = (into.span(), bounds)
            && unit == unit_of_end
        {
            from = position_less(e, span.from, &to_end, 0);
            to = position_less(e, span.to, &to_start, -1);
            if let Some(unit) = unit {
                let inner = e.inner();
                from = e.divide(Bin::Div, (from, false), (unit, Form::Scalar), inner);
                to = e.divide(Bin::Div, (to, false), (unit, Form::Scalar), inner);
            }
            (from, to) = (e.ins().get().iadd_imm_s(from, 1), e.ins().get().iadd_imm_s(to, 1));
        }
        let row = e.scalar(row);
        let first = e.draw_from(draw, row, from);
        let last = e.draw_from(draw, row, to);
        lo = e.ins().get().smax(lo, first);
        hi = e.ins().get().smin(hi, last);
    }
    if let Some(ranges) = e.chosen_ranges(piece, depth) {
        return fill_chosen(e, &ranges, (lo, hi), into);
    }
    let lo = first_value(e, lo, l.step, l.phase);
    e.loop_for((lo, hi), l.step, &[], |e, v, _| {
        e.bind(Var::Loop(l.var), Form::Scalar, v);
        fill(e, piece, depth + 1, into);
        vec![]
    });
}

/// Notes the ranges of entries `first .. last` of a row of a choice at once.
fn fill_chosen(e: &mut Emitter<'_>, ranges: &ChosenRanges, (first, last): (Value, Value), into: &Sink<'_>) {
    let k_start = e.variable(Var::KStart, Form::Scalar);
    let row = e.scalar(ranges.row);
    let (address, row) = e.choice(ranges.draw, row);
    let unit = match ranges.begin.unit {
        Some(unit) => e.scalar(unit),
        None => e.int(1),
    };
    let sum = |e: &mut Emitter<'_>, terms: &[ExprId]| {
        let none = e.int(0);
        let sum = terms.iter().fold(none, |sum, &term| {
            let term = e.scalar(term);
            e.ins().get().iadd(sum, term)
        });
        e.ins().get().isub(sum, k_start)
    };
    let (begin, end) = (sum(e, &ranges.begin.terms), sum(e, &ranges.end.terms));
    let (lo, hi) = match into.span() {
        Some(span) => (e.ins().get().isub(span.from, k_start), e.ins().get().isub(span.to, k_start)),
        None => (e.int(0), e.variable(Var::NK, Form::Scalar)),
    };
    let (lo, hi) = clipped(e, ranges, lo, hi);
    let of = [address, row, first, last, unit, begin, end, lo, hi];
    match *into {
        Sink::Window(span, lane) => {
            let next = e.ins().get().iadd_imm_s(lane, 1);
            e.stage(Stage::window_chosen, &[&[span.window, lane, next], &of[..]].concat());
        }
        Sink::Lanes(span, from, to) => {
            e.stage(Stage::window_chosen, &[&[span.window, from, to], &of[..]].concat());
        }
        Sink::Marks(marks, whole) => {
            let whole = match whole {
                Some(whole) => e.ins().get().uextend(I64, whole),
                None => e.int(0),
            };
            e.stage(Stage::marks_chosen, &[&[marks, whole], &of[..]].concat());
        }
    }
}

/// Keys `lo .. hi` of the launch, as far as they are within what clips ranges.
fn clipped(e: &mut Emitter<'_>, ranges: &ChosenRanges, mut lo: Value, mut hi: Value) -> (Value, Value) {
    let k_start = e.variable(Var::KStart, Form::Scalar);
    for &from in &ranges.begin.clips {
        let from = e.scalar(from);
        let from = e.ins().get().isub(from, k_start);
        lo = e.ins().get().smax(lo, from);
    }
    for &to in &ranges.end.clips {
        let to = e.scalar(to);
        let to = e.ins().get().isub(to, k_start);
        hi = e.ins().get().smin(hi, to);
    }
    (lo, hi)
}

/// Fills the rows of bits of a piece whose queries have the same keys but for what clips them: at once those that it clips
/// of none, then the others.
fn fill_alike(
    e: &mut Emitter<'_>,
    t: &QueryTile<'_>,
    (piece, bare, ranges): (&Piece, &Piece, &ChosenRanges),
    span: &Span,
    units: Vec<ExprId>,
) {
    Runs::find(e, t, units).each(e, t, |e, first, end| {
        let (none, n_k) = (e.int(0), e.variable(Var::NK, Form::Scalar));
        let common = e.loop_for((first, end), 1, &[none, n_k], |e, r, common| {
            let q = query_of(e, t, r);
            e.bind(Var::Q, Form::Scalar, q);
            let (lo, hi) = clipped(e, ranges, common[0], common[1]);
            vec![lo, hi]
        });
        let k_start = e.variable(Var::KStart, Form::Scalar);
        let (lo, hi) = (e.ins().get().iadd(common[0], k_start), e.ins().get().iadd(common[1], k_start));
        let (from, to) = (e.ins().get().smax(span.from, lo), e.ins().get().smin(span.to, hi));
        fill(e, bare, 0, &Sink::Lanes(&Span { from, to, ..*span }, first, end));
        let mut rest = Vec::new();
        if !ranges.begin.clips.is_empty() {
            rest.push(Span { to: e.ins().get().smin(span.to, lo), ..*span });
        }
        if !ranges.end.clips.is_empty() {
            rest.push(Span { from: e.ins().get().smax(span.from, hi), ..*span });
        }
        for span in rest {
            let some = e.ins().get().icmp(IntCC::SignedLessThan, span.from, span.to);
            e.when(some, &[], |e| {
                e.loop_for((first, end), 1, &[], |e, r, _| {
                    let q = query_of(e, t, r);
                    e.bind(Var::Q, Form::Scalar, q);
                    fill(e, piece, 0, &Sink::Window(&span, r));
                    vec![]
                });
                vec![]
            });
        }
    });
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

/// Notes the range of a piece, its loop variables being bound.
fn fill_range(e: &mut Emitter<'_>, piece: &Piece, into: &Sink<'_>) {
    let k_start = e.variable(Var::KStart, Form::Scalar);
    let (start, end) = (e.scalar(piece.start), e.scalar(piece.end));
    let row_of = |e: &mut Emitter<'_>, position| e.ins().get().isub(position, k_start);
    let (span, lane) = match into {
        Sink::Window(span, lane) => (span, *lane),
        Sink::Lanes(span, from, to) => {
            let (start, end) = (row_of(e, start), row_of(e, end));
            e.support_unit("window_rows", &[span.window, *from, *to, start, end]);
            return;
        }
        Sink::Marks(marks, whole) => {
            let (start, end) = (row_of(e, start), row_of(e, end));
            let none = e.int(0);
            match piece.combs.first() {
                None => {
                    let must = whole.map_or(none, |whole| e.ins().get().select(whole, end, none));
                    e.support_unit("marks_mark", &[*marks, start, end, start, must]);
                }
                Some(comb) => {
                    let (period, width, phase) = (e.scalar(comb.period), e.scalar(comb.width), e.scalar(comb.phase));
                    let phase = row_of(e, phase);
                    let args = [*marks, start, end, none, none, period, width, phase, phase];
                    e.support_unit("marks_comb", &args);
                }
            }
            return;
        }
    };
    match (piece.combs.as_slice(), piece.filter) {
        ([], None) => {
            let (start, end) = (row_of(e, start), row_of(e, end));
            e.support_unit("window_range", &[span.window, lane, start, end]);
        }
        ([comb], None) => {
            let (period, width, phase) = (e.scalar(comb.period), e.scalar(comb.width), e.scalar(comb.phase));
            let (start, end, phase) = (row_of(e, start), row_of(e, end), row_of(e, phase));
            e.support_unit("window_comb", &[span.window, lane, start, end, period, width, phase]);
        }
        _ if span.listed => fill_listed(e, piece, (start, end), (span, lane)),
        _ => {
            let slot = e.ins().get().ishl_imm_u(lane, 3);
            let from = e.ins().get().iadd(span.bits, slot);
            e.loop_for((from, span.bits_end), COLUMN, &[span.tiles], |e, row, tile| {
                let number = e.ins().get().load(I64, trusted(), tile[0], 0);
                let first = e.ins().get().ishl_imm_u(number, i64::from(BK.trailing_zeros()));
                let at = e.ins().get().iadd(k_start, first);
                let clipped = e.ins().get().smin(end, span.to);
                let bits = tile_bits(e, piece, (start, clipped), at);
                let known = e.ins().get().load(I64, trusted(), row, 0);
                let bits = e.ins().get().bor(known, bits);
                e.ins().get().store(trusted(), bits, row, 0);
                vec![e.ins().get().iadd_imm_s(tile[0], size_of::<i64>() as i64)]
            });
        }
    }
}

/// Notes those listed keys of a range that are in every comb of a piece and satisfy its filter.
fn fill_listed(e: &mut Emitter<'_>, piece: &Piece, (start, end): (Value, Value), (span, lane): (&Span, Value)) {
    let k_start = e.variable(Var::KStart, Form::Scalar);
    let (start, end) = (e.ins().get().isub(start, k_start), e.ins().get().isub(end, k_start));
    let combs: Vec<[Value; 3]> =
        piece.combs.iter().map(|c| [e.scalar(c.period), e.scalar(c.width), e.scalar(c.phase)]).collect();
    let slot = e.ins().get().ishl_imm_u(lane, 3);
    let from = e.ins().get().iadd(span.bits, slot);
    let (none, keys) = (e.int(0), e.field(span.window, offset_of!(Window, listed), I64));
    e.loop_for((from, span.bits_end), COLUMN, &[none, keys], |e, row, state| {
        let (column, keys) = (state[0], state[1]);
        let bits = e.stage(Stage::listed_bits, &[span.window, column, start, end]);
        let bits = bits.expect("the stage returns an integer");
        let holds = |e: &mut Emitter<'_>, j| {
            let at = listed(e, keys, j);
            let k = e.ins().get().uload32(trusted(), at, 0);
            let k = e.ins().get().iadd(k, k_start);
            let mut all = e.int(1);
            for &[period, width, phase] in &combs {
                let teeth = e.support("comb_bits", &[k, period, width, phase]);
                all = e.ins().get().band(all, teeth);
            }
            if let Some(filter) = piece.filter {
                e.bind(Var::K, Form::Scalar, k);
                let holds = e.scalar(filter);
                let holds = e.ins().get().uextend(I64, holds);
                all = e.ins().get().band(all, holds);
            }
            all
        };
        let bits = each_bit(e, bits, holds);
        let known = e.ins().get().load(I64, trusted(), row, 0);
        let bits = e.ins().get().bor(known, bits);
        e.ins().get().store(trusted(), bits, row, 0);
        let column = e.ins().get().iadd_imm_s(column, 1);
        vec![column, e.ins().get().iadd_imm_s(keys, (BK * size_of::<u32>()) as i64)]
    });
}

/// Bits of the keys from position `at` up that lie in a range, in every comb of a piece, and satisfy its filter.
fn tile_bits(e: &mut Emitter<'_>, piece: &Piece, (start, end): (Value, Value), at: Value) -> Value {
    let mut bits = e.support("range_bits", &[start, end, at]);
    for comb in &piece.combs {
        let (period, width, phase) = (e.scalar(comb.period), e.scalar(comb.width), e.scalar(comb.phase));
        let teeth = e.support("comb_bits", &[at, period, width, phase]);
        bits = e.ins().get().band(bits, teeth);
    }
    match piece.filter {
        Some(filter) => filter_bits(e, filter, at, bits),
        None => bits,
    }
}

/// Those of `bits` whose keys satisfy a predicate.
fn filter_bits(e: &mut Emitter<'_>, filter: ExprId, at: Value, bits: Value) -> Value {
    each_bit(e, bits, |e, j| {
        let k = e.ins().get().iadd(at, j);
        e.bind(Var::K, Form::Scalar, k);
        let holds = e.scalar(filter);
        e.ins().get().uextend(I64, holds)
    })
}

/// Those of `bits` for whose numbers `holds` gives 1, and not 0.
fn each_bit<'p>(e: &mut Emitter<'p>, bits: Value, holds: impl FnOnce(&mut Emitter<'p>, Value) -> Value) -> Value {
    let none = e.int(0);
    let last = e.loop_while(
        &[bits, none],
        |e, s| e.ins().get().icmp_imm_s(IntCC::NotEqual, s[0], 0),
        |e, s| {
            let j = e.ins().get().ctz(s[0]);
            let holds = holds(e, j);
            let bit = e.ins().get().ishl(holds, j);
            let kept = e.ins().get().bor(s[1], bit);
            let less = e.ins().get().iadd_imm_s(s[0], -1);
            let rest = e.ins().get().band(s[0], less);
            vec![rest, kept]
        },
    );
    last[1]
}

/// Where it is noted that row `r` attends to something.
fn seen_slot(e: &mut Emitter<'_>, t: &QueryTile<'_>, r: Value) -> Value {
    let offset = e.ins().get().ishl_imm_u(r, 3);
    let offset = e.ins().get().iadd_imm_s(offset, offset_of!(Window, seen) as i64);
    e.ins().get().iadd(t.window, offset)
}
