//! Modifiers and biases over a tile of scores, a row of queries at a time.
//!
//! The one idea: an expression that differs between queries is a row in memory, each operation a call that makes one row of
//! others, as wide as the machine. What does not depend on the key is made once for a chunk. Two kinds of what does are
//! made for all keys of a chunk at once: what is known by the distance of query and key alone is one *strip* of distances,
//! of which each key's row begins one element before that of the key before; and elements of a tensor whose last index is
//! the key are rows of the tensor, transposed. What is only added to scores is made before they are, and the products add
//! it. Where queries are few a row holds several keys *side by side*, all lanes of one and then those of the next, as scores
//! lie: as many as make a call worth its price. Nothing here knows of instruction sets.

use attnc_kernels::abi::{BK, BQ_MAX, FEW, LANE_STEP};
use attnc_pattern::expr::{Bin, Cmp, ExprId, Node, Ty, Un, Var};
use cranelift::codegen::ir::condcodes::IntCC;
use cranelift::codegen::ir::types::I64;
use cranelift::codegen::ir::{InstBuilder, Value};

use super::expr::LANES;
use super::score::ScoreTile;
use super::{Deps, Emitter, Form, dep, trusted};
use crate::layout::{Ctx, Scratch, TensorRef};

/// Bytes of an element of a row.
const ELEMENT: i64 = 4;
/// Elements of a strip: every distance between a query and a key of a chunk, in whole steps.
const STRIP: i64 = (BQ_MAX + BK) as i64;
const _: () = assert!(STRIP % LANE_STEP as i64 == 0);
/// Elements of a row of several keys, at most.
const SEVERAL: i64 = (FEW * BK) as i64;
const _: () = assert!(SEVERAL >= STRIP);
/// Bytes from key to key of a tile of elements of a tensor.
const PITCH: i64 = BK as i64 * ELEMENT;

/// How rows hold several keys.
#[derive(Clone, Copy)]
pub(super) struct SideBySide {
    /// Elements of a key: all lanes of a tile.
    pitch: Value,
    /// Keys of a row.
    keys: Value,
    /// Elements of a row.
    elements: Value,
}

impl Emitter<'_> {
    /// From now on rows of scores hold several keys, if all expressions that scores are modified by have a form on such rows.
    /// `lists` are the variables whose value for each lane is a number of a list and a start; lanes are known.
    pub(super) fn lay_side_by_side(&mut self, roots: &[ExprId], lists: &[(Var, Value, Value)]) {
        self.across |= dep(Var::K);
        let fits = !roots.is_empty() && self.have_rows(roots);
        self.across = LANES;
        if !fits {
            return;
        }
        let pitch = self.field(self.scratch, std::mem::offset_of!(Scratch, bq), I64);
        let most = self.int(SEVERAL);
        let keys = self.ins().get().udiv(most, pitch);
        let elements = self.ins().get().imul(pitch, keys);
        for &(var, list, start) in lists {
            if !roots.iter().any(|&id| self.program.exprs.reads(id, |v| v == var)) {
                continue;
            }
            let row = self.row_of(SEVERAL);
            let none = self.int(0);
            let stride = self.ins().get().ishl_imm_u(pitch, 2);
            self.loop_for((none, keys), 1, &[row], |e, _, at| {
                e.row_call("listed", &[at[0], list, start, pitch]);
                vec![e.ins().get().iadd(at[0], stride)]
            });
            self.bind(var, Form::Row, row);
        }
        self.side_by_side = Some(SideBySide { pitch, keys, elements });
    }

    /// As [`Self::modify_rows`], for rows of several keys.
    pub(super) fn modify_side_by_side(
        &mut self,
        tile: &ScoreTile,
        by: SideBySide,
        (modifier, bias): (Option<ExprId>, Option<ExprId>),
    ) {
        self.across |= dep(Var::K);
        let scores = self.field(self.scratch, std::mem::offset_of!(Scratch, s), I64);
        let k_start = self.variable(Var::KStart, Form::Scalar);
        let none = self.int(0);
        let more = |e: &mut Self, at: &[Value]| e.ins().get().icmp(IntCC::SignedLessThan, at[0], tile.keys);
        self.loop_while(&[none, scores, tile.k], more, |e, at| {
            let left = e.ins().get().isub(tile.keys, at[0]);
            let keys = e.ins().get().smin(left, by.keys);
            let lanes = e.ins().get().imul(keys, by.pitch);
            e.lanes = Some(lanes);
            let reads_key = |&id: &ExprId| e.program.exprs.reads(id, |v| v == Var::K);
            if modifier.iter().chain(&bias).any(reads_key) {
                let row = e.row_of(SEVERAL);
                e.row_call("repeated", &[row, at[2], k_start, by.pitch, keys]);
                e.bind(Var::K, Form::Row, row);
            }
            e.modify_row(at[1], (modifier, bias), lanes);
            let bytes = e.ins().get().ishl_imm_u(lanes, 2);
            let numbers = e.ins().get().ishl_imm_u(keys, 2);
            [(at[0], keys), (at[1], bytes), (at[2], numbers)].map(|(at, by)| e.ins().get().iadd(at, by)).to_vec()
        });
        self.lanes = None;
        self.across = LANES;
    }

    /// Whether rows being made hold several keys.
    fn of_several(&self) -> bool {
        self.across == LANES | dep(Var::K)
    }

    /// Elements of a row of what depends on some variables; for what is the same for all keys those of a whole row.
    fn elements(&self, deps: Deps) -> Option<Value> {
        match self.side_by_side {
            Some(by) if self.of_several() && deps & (dep(Var::K) | dep(Var::Score)) == 0 => Some(by.elements),
            _ => self.lanes,
        }
    }

    /// Most elements of the rows being made.
    fn room(&self) -> i64 {
        // Of rows of one key strips have the most.
        if self.of_several() { SEVERAL } else { STRIP }
    }

    /// Whether every expression under `roots` that differs between queries has a form on rows.
    pub(super) fn have_rows(&mut self, roots: &[ExprId]) -> bool {
        let all = self.program.exprs.reachable(roots);
        all.into_iter().all(|id| !self.differs(id) || self.has_row_form(id))
    }

    fn has_row_form(&mut self, id: ExprId) -> bool {
        let exprs = &self.program.exprs;
        let real = exprs.ty(id) == Ty::Real;
        let operation = match exprs.node(id) {
            Node::Var(Var::Q | Var::K | Var::Score | Var::Head) | Node::Cmp(..) | Node::Not(_) | Node::Select(..) => {
                true
            }
            Node::And(xs) | Node::Or(xs) => !xs.is_empty(),
            Node::Un(Un::Neg | Un::Abs, _) => true,
            Node::Un(Un::ToReal, a) => exprs.ty(*a) == Ty::Int,
            Node::Un(Un::Sqrt | Un::Exp | Un::Log | Un::Tanh, a) => exprs.ty(*a) == Ty::Real,
            Node::Bin(Bin::Div, ..) => real,
            Node::Bin(op, ..) => *op != Bin::Mod,
            Node::Load(_, indices) => self.of_several() || !self.differ_several(indices),
            _ => false,
        };
        // Indices that do not differ are scalars beside one that does.
        let load = matches!(exprs.node(id), Node::Load(_, indices) if !self.differ_several(indices));
        let fits = |o: ExprId| exprs.ty(o) != Ty::Int || load && !self.differs(o) || self.fits_i32(o);
        operation && exprs.operands(id).into_iter().all(fits)
    }

    /// Whether more than one index of an element differs.
    fn differ_several(&self, indices: &[ExprId]) -> bool {
        indices.iter().filter(|&&i| self.differs(i)).count() > 1
    }

    /// Replaces every score by `modifier(score) + bias`, both of which have a form on rows.
    pub(super) fn modify_rows(&mut self, tile: &ScoreTile, modifier: Option<ExprId>, bias: Option<ExprId>) {
        let roots: Vec<ExprId> = modifier.into_iter().chain(bias).collect();
        let each = |e: &mut Self, strips: &[(ExprId, Value)], tiles: &[ExprId]| {
            e.modify_each_key(tile, (modifier, bias), strips, tiles);
            vec![]
        };
        self.with_strips(tile, &roots, &[], each);
    }

    /// Makes what is added to scores before they are, if that is all that is done to them and it has a form on rows: where that
    /// of the first key and the first lane is, and how many elements on that of the next key. It may be in place of the scores.
    pub(super) fn added(
        &mut self,
        tile: &ScoreTile,
        modifier: Option<ExprId>,
        bias: Option<ExprId>,
    ) -> Option<(Value, Value)> {
        let (added, negative) = self.addend(modifier, bias)?;
        if self.deps[added.0 as usize] & (LANES | dep(Var::K)) == dep(Var::K) {
            return self.added_by_key(tile, (added, negative));
        }
        if !self.have_rows(&[added]) {
            return None;
        }
        let place = self.place_of_scores(tile);
        let made = |e: &mut Self, strips: &[(ExprId, Value)], tiles: &[ExprId]| {
            if let Some(&(_, strip)) = strips.iter().find(|s| s.0 == added) {
                // Rows of later keys begin before that of the first.
                let before = e.ins().get().iadd_imm_s(tile.keys, -1);
                let before = e.ins().get().ishl_imm_u(before, 2);
                let strip = e.ins().get().isub(strip, before);
                let strip = e.negated(strip, negative, STRIP);
                return vec![e.ins().get().iadd(strip, before), e.int(-1)];
            }
            e.make_each_key(tile, (added, negative), place, strips, tiles);
            vec![place.0, place.1]
        };
        let state = [place.0, place.1];
        let made = self.with_strips(tile, &[added], &state, made);
        Some((made[0], made[1]))
    }

    /// As [`Self::added`], what is known by the key alone: one row of all keys of the chunk.
    fn added_by_key(&mut self, tile: &ScoreTile, (added, negative): (ExprId, bool)) -> Option<(Value, Value)> {
        self.across = dep(Var::K);
        let has = self.have_rows(&[added]);
        let place = has.then(|| {
            let (to, pitch) = self.place_of_scores(tile);
            let none = self.int(0);
            let some = self.ins().get().icmp(IntCC::SignedGreaterThan, tile.keys, none);
            self.when(some, &[], |e| {
                let k_start = e.variable(Var::KStart, Form::Scalar);
                let row = e.row_of(BK as i64);
                e.row_call("listed", &[row, tile.k, k_start, tile.keys]);
                e.lanes = Some(tile.keys);
                e.bind(Var::K, Form::Row, row);
                let added = e.value(added, Form::Row);
                let added = e.negated(added, negative, BK as i64);
                e.row_call("set_columns", &[to, pitch, added, tile.lanes, tile.keys]);
                e.lanes = None;
                vec![]
            });
            (to, pitch)
        });
        self.across = LANES;
        place
    }

    /// Where what is added to scores is made: the score of the first key and lane, of few queries apart from scores, and how
    /// many elements on that of the next key is.
    fn place_of_scores(&mut self, tile: &ScoreTile) -> (Value, Value) {
        let scratch = self.scratch;
        let scores = self.field(scratch, std::mem::offset_of!(Scratch, s), I64);
        let pitch = self.field(scratch, std::mem::offset_of!(Scratch, bq), I64);
        let lane = self.ins().get().ishl_imm_u(tile.lane, 2);
        let few = self.ins().get().icmp_imm_s(IntCC::Equal, pitch, FEW as i64);
        let behind = self.int((BK * FEW) as i64 * ELEMENT);
        let skip = self.ins().get().select(few, behind, lane);
        (self.ins().get().iadd(scores, skip), pitch)
    }

    /// A row of the innermost scope, of at most `elements`; a new one of the negative, if so asked.
    fn negated(&mut self, row: Value, negative: bool, elements: i64) -> Value {
        let Some(lanes) = self.lanes.filter(|_| negative) else { return row };
        let to = self.row_of(elements);
        self.row_call("neg", &[to, row, lanes]);
        to
    }

    /// Runs `each` with the strips and the tiles under `roots`: strips are made where the keys of a chunk follow one another.
    /// The values that it returns; `state` has their types.
    fn with_strips(
        &mut self,
        tile: &ScoreTile,
        roots: &[ExprId],
        state: &[Value],
        each: impl Fn(&mut Self, &[(ExprId, Value)], &[ExprId]) -> Vec<Value>,
    ) -> Vec<Value> {
        let strips = if tile.walk.is_none() { self.strips(roots) } else { Vec::new() };
        let tiles = self.tiles(roots, &strips);
        if strips.is_empty() {
            return each(self, &[], &tiles);
        }
        let together = self.ins().get().icmp_imm_s(IntCC::SignedGreaterThanOrEqual, tile.first, 0);
        let state = self.when(together, state, |e| {
            let k_start = e.variable(Var::KStart, Form::Scalar);
            let k = e.ins().get().iadd(k_start, tile.first);
            // The first query less the distances of the keys from the first.
            let last = e.ins().get().iadd_imm_s(tile.keys, -1);
            let q = e.ins().get().iadd(tile.q, tile.lane);
            let q = e.ins().get().isub(q, last);
            // Whole steps: a few elements more take less than a step that is cut short.
            let lanes = e.ins().get().iadd(tile.lanes, last);
            let lanes = e.ins().get().iadd_imm_s(lanes, LANE_STEP as i64 - 1);
            let lanes = e.ins().get().band_imm_s(lanes, -(LANE_STEP as i64));
            let row = e.row_of(STRIP);
            e.row_call("count", &[row, q, lanes]);
            e.lanes = Some(lanes);
            e.bind(Var::Q, Form::Row, row);
            e.bind(Var::K, Form::Scalar, k);
            let rows: Vec<(ExprId, Value)> = strips.iter().map(|&id| (id, e.value(id, Form::Row))).collect();
            // Those of the last key begin the strip.
            let begin = e.ins().get().ishl_imm_u(last, 2);
            let rows: Vec<(ExprId, Value)> =
                rows.into_iter().map(|(id, row)| (id, e.ins().get().iadd(row, begin))).collect();
            e.forget();
            let state = each(e, &rows, &tiles);
            e.lanes = None;
            state
        });
        let apart = self.ins().get().icmp_imm_s(IntCC::SignedLessThan, tile.first, 0);
        self.when(apart, &state, |e| each(e, &[], &tiles))
    }

    /// Forgets what the innermost scope has computed: what it binds changes.
    fn forget(&mut self) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.memo.clear();
            scope.divisions.clear();
            scope.divisors.clear();
            scope.values.clear();
        }
    }

    /// Binds the queries of a tile, of which rows are made.
    fn bind_queries(&mut self, tile: &ScoreTile) {
        self.lanes = Some(tile.lanes);
        let row = self.row_of(BQ_MAX as i64);
        match tile.walk {
            Some(walk) => {
                let ahead = self.ins().get().ishl_imm_u(tile.lane, 2);
                let at = self.ins().get().iadd(walk, ahead);
                self.row_call("listed", &[row, at, tile.q, tile.lanes]);
            }
            None => {
                let q = self.ins().get().iadd(tile.q, tile.lane);
                self.row_call("count", &[row, q, tile.lanes]);
            }
        }
        self.bind(Var::Q, Form::Row, row);
    }

    /// Runs `body` for each key of a tile, bound, with its row of elements from `first` on, `pitch` elements apart; `strips` and
    /// `tiles` are made for all keys at once.
    fn each_key(
        &mut self,
        tile: &ScoreTile,
        (first, pitch): (Value, Value),
        strips: &[(ExprId, Value)],
        tiles: &[ExprId],
        body: impl FnOnce(&mut Self, Value),
    ) {
        let stride = self.ins().get().ishl_imm_u(pitch, 2);
        let k_start = self.variable(Var::KStart, Form::Scalar);
        let tiles: Vec<(ExprId, Value)> = tiles.iter().map(|&id| (id, self.keys_of(id, tile, None))).collect();
        let state: Vec<Value> = std::iter::once(first).chain(strips.iter().chain(&tiles).map(|s| s.1)).collect();
        let none = self.int(0);
        self.loop_for((none, tile.keys), 1, &state, |e, j, at| {
            let offset = e.ins().get().ishl_imm_u(j, 2);
            let at_key = e.ins().get().iadd(tile.k, offset);
            let number = e.ins().get().uload32(trusted(), at_key, 0);
            let k = e.ins().get().iadd(k_start, number);
            e.bind(Var::K, Form::Scalar, k);
            let inner = e.inner();
            for (&(id, _), &row) in strips.iter().chain(&tiles).zip(&at[1..]) {
                e.scopes[inner].memo.insert((id, Form::Row), row);
            }
            body(e, at[0]);
            let mut next = vec![e.ins().get().iadd(at[0], stride)];
            for (i, &row) in at[1..].iter().enumerate() {
                let by = if i < strips.len() { -ELEMENT } else { PITCH };
                next.push(e.ins().get().iadd_imm_s(row, by));
            }
            next
        });
    }

    /// Replaces the rows of a tile of scores one by one.
    fn modify_each_key(
        &mut self,
        tile: &ScoreTile,
        (modifier, bias): (Option<ExprId>, Option<ExprId>),
        strips: &[(ExprId, Value)],
        tiles: &[ExprId],
    ) {
        let scratch = self.scratch;
        let scores = self.field(scratch, std::mem::offset_of!(Scratch, s), I64);
        let ahead = self.ins().get().ishl_imm_u(tile.lane, 2);
        let scores = self.ins().get().iadd(scores, ahead);
        let pitch = self.field(scratch, std::mem::offset_of!(Scratch, bq), I64);
        self.bind_queries(tile);
        self.each_key(tile, (scores, pitch), strips, tiles, |e, at| {
            e.modify_row(at, (modifier, bias), tile.lanes);
        });
        self.lanes = None;
    }

    /// Replaces a row of scores.
    fn modify_row(&mut self, at: Value, (modifier, bias): (Option<ExprId>, Option<ExprId>), lanes: Value) {
        self.bind(Var::Score, Form::Row, at);
        let modified = modifier.map(|m| self.row_into(m, (bias.is_none()).then_some(at)));
        match (modified, bias) {
            (modified, Some(bias)) => {
                let bias = self.value(bias, Form::Row);
                self.row_call("add", &[at, modified.unwrap_or(at), bias, lanes]);
            }
            (Some(modified), None) if modified != at => self.row_call("copy", &[at, modified, lanes]),
            _ => {}
        }
    }

    /// Makes what is added to scores, or its negative, at `place`.
    fn make_each_key(
        &mut self,
        tile: &ScoreTile,
        (added, negative): (ExprId, bool),
        place: (Value, Value),
        strips: &[(ExprId, Value)],
        tiles: &[ExprId],
    ) {
        self.bind_queries(tile);
        if !negative && tiles.contains(&added) {
            self.keys_of(added, tile, Some(place));
        } else {
            self.each_key(tile, place, strips, tiles, |e, at| {
                let row = e.row_into(added, Some(at));
                if negative {
                    e.row_call("neg", &[at, row, tile.lanes]);
                } else if row != at {
                    e.row_call("copy", &[at, row, tile.lanes]);
                }
            });
        }
        self.lanes = None;
    }

    /// What is added to scores, if that is all that is done to them; and whether it is taken from them instead.
    fn addend(&self, modifier: Option<ExprId>, bias: Option<ExprId>) -> Option<(ExprId, bool)> {
        let exprs = &self.program.exprs;
        let score = |id: ExprId| *exprs.node(id) == Node::Var(Var::Score);
        let (added, negative) = match (modifier.filter(|&m| !score(m)), bias) {
            (None, bias) => (bias?, false),
            (Some(modifier), None) => match *exprs.node(modifier) {
                Node::Bin(Bin::Add, a, b) if score(a) => (b, false),
                Node::Bin(Bin::Add, a, b) if score(b) => (a, false),
                Node::Bin(Bin::Sub, a, b) if score(a) => (b, true),
                _ => return None,
            },
            _ => return None,
        };
        (self.deps[added.0 as usize] & dep(Var::Score) == 0).then_some((added, negative))
    }

    /// The row of an expression, at `to` if it is made in the innermost scope.
    fn row_into(&mut self, id: ExprId, to: Option<Value>) -> Value {
        let here = !self.is_constant(id) && self.differs(id) && self.scope_of(id) == self.inner();
        self.target = to.filter(|_| here).map(|to| (id, to));
        let row = self.value(id, Form::Row);
        self.target = None;
        row
    }

    /// The greatest expressions under `roots` that are known by the distance of query and key, and are more than that.
    fn strips(&self, roots: &[ExprId]) -> Vec<ExprId> {
        let exprs = &self.program.exprs;
        let (mut found, mut left, mut seen) = (Vec::new(), roots.to_vec(), Vec::new());
        while let Some(id) = left.pop() {
            if seen.contains(&id) {
                continue;
            }
            seen.push(id);
            let both = dep(Var::Q) | dep(Var::K);
            let deps = self.deps[id.0 as usize];
            if deps & both == both && deps & !both == 0 && self.of_distance(id) {
                found.push(id);
            } else {
                left.extend(exprs.operands(id));
            }
        }
        found
    }

    /// Whether an expression reads query and key as their difference alone.
    fn of_distance(&self, id: ExprId) -> bool {
        let exprs = &self.program.exprs;
        let var = |id: ExprId, v| *exprs.node(id) == Node::Var(v);
        let (mut left, mut seen) = (vec![id], Vec::new());
        while let Some(id) = left.pop() {
            if seen.contains(&id) || self.deps[id.0 as usize] == 0 {
                continue;
            }
            seen.push(id);
            match *exprs.node(id) {
                Node::Var(_) => return false,
                Node::Bin(Bin::Sub, a, b) if var(a, Var::Q) && var(b, Var::K) || var(a, Var::K) && var(b, Var::Q) => {}
                _ => left.extend(exprs.operands(id)),
            }
        }
        true
    }

    /// Elements of tensors under `roots` whose last index is the key and nothing else of them depends on it; not those
    /// within `strips`.
    fn tiles(&self, roots: &[ExprId], strips: &[ExprId]) -> Vec<ExprId> {
        let exprs = &self.program.exprs;
        let (mut found, mut left, mut seen) = (Vec::new(), roots.to_vec(), strips.to_vec());
        while let Some(id) = left.pop() {
            if seen.contains(&id) {
                continue;
            }
            seen.push(id);
            if let Node::Load(_, indices) = exprs.node(id)
                && let Some((&last, outer)) = indices.split_last()
                && self.key_of(last).is_some()
                && outer.iter().all(|i| self.deps[i.0 as usize] & !dep(Var::Q) == 0)
                && self.differs(id)
            {
                found.push(id);
            } else {
                left.extend(exprs.operands(id));
            }
        }
        found
    }

    /// If an index is the key, or the lesser of it and what does not depend on query or key: that.
    fn key_of(&self, id: ExprId) -> Option<Option<ExprId>> {
        let exprs = &self.program.exprs;
        let key = |id: ExprId| *exprs.node(id) == Node::Var(Var::K);
        match *exprs.node(id) {
            Node::Var(Var::K) => Some(None),
            Node::Bin(Bin::Min, a, b) => {
                let most = if key(a) { b } else { a };
                ((key(a) || key(b)) && self.deps[most.0 as usize] == 0).then_some(Some(most))
            }
            _ => None,
        }
    }

    /// Makes the elements of a tensor for all keys of a tile: where those of the first are. At a place, and as far apart as is
    /// said, or else in rows of their own.
    fn keys_of(&mut self, id: ExprId, tile: &ScoreTile, to: Option<(Value, Value)>) -> Value {
        let Node::Load(tensor, indices) = self.program.exprs.node(id).clone() else {
            return self.refuse("elements of no tensor", I64);
        };
        let outer = &indices[..indices.len() - 1];
        for &i in outer {
            self.value(i, if self.differs(i) { Form::Row } else { Form::Scalar });
        }
        let scope = self.inner();
        let place = self.tensor_rows(tensor.0 as usize, &indices, outer.len(), scope);
        let k_start = self.variable(Var::KStart, Form::Scalar);
        let Place { data, index, rows, stride, mut last } = place;
        if let Some(most) = indices.last().and_then(|&i| self.key_of(i)).flatten() {
            let most = self.scalar(most);
            let end = self.ins().get().iadd_imm_s(most, 1);
            last = self.ins().get().smin(last, end);
            let one = self.int(1);
            last = self.ins().get().smax(last, one);
        }
        let scratch = self.scratch;
        let next = self.ins().get().iadd_imm_s(scratch, std::mem::offset_of!(Scratch, next) as i64);
        let of = [data, index, rows, stride, tile.lanes, tile.k, tile.keys, k_start, last, next];
        let (to, pitch) = to.unwrap_or_else(|| (self.row_of((BK * BK) as i64), self.int(BK as i64)));
        self.row_call("load_keys", &[&[to, pitch], &of[..]].concat());
        to
    }

    /// The elements of a tensor by all of its indices at once: where the first is, the row of their numbers, and how many there
    /// are. These numbers fit 32 bits, as whoever calls this code with a tensor has checked.
    fn tensor_places(&mut self, tensor: usize, indices: &[ExprId]) -> (Value, Value, Value) {
        let (data, dims) = self.tensor_parts(tensor, indices);
        // The first is clamped with the whole, which is enough to stay in the tensor.
        let mut deps = self.deps[indices[0].0 as usize];
        let mut place = self.operand(indices[0], Form::Row, self.scope_for(deps));
        let mut all = self.part(dims, 0, 0);
        for (axis, &i) in indices.iter().enumerate().skip(1) {
            deps |= self.deps[i.0 as usize];
            let scope = self.scope_for(deps);
            let extent = self.part(dims, axis as i32 * 8, 0);
            let index = self.operand(i, Form::Row, scope);
            let Some(lanes) = self.elements(deps) else { return (data, place, all) };
            let to = self.row_at(self.room(), scope);
            self.row_call_at(scope, "within", &[to, place, index, extent, lanes]);
            (place, all) = (to, self.at(0).get().imul(all, extent));
        }
        (data, place, all)
    }

    /// Where a tensor's elements and its extents are.
    fn tensor_parts(&mut self, tensor: usize, indices: &[ExprId]) -> (Value, Value) {
        if self.tensors.insert(tensor, indices.len()).is_some_and(|rank| rank != indices.len()) {
            self.refuse("a tensor with two numbers of indices", I64);
        }
        let tensors = self.context(std::mem::offset_of!(Ctx, tensors));
        let at = (tensor * size_of::<TensorRef>()) as i32;
        let data = self.part(tensors, at, std::mem::offset_of!(TensorRef, data));
        (data, self.part(tensors, at, std::mem::offset_of!(TensorRef, dims)))
    }

    /// Where elements of a tensor are, by the one index of the first `axes` that differs between queries; the others of
    /// these are constant, and what follows them is at 0.
    fn tensor_rows(&mut self, tensor: usize, indices: &[ExprId], axes: usize, scope: usize) -> Place {
        let (mut data, dims) = self.tensor_parts(tensor, indices);
        let mut stride = self.at(0).get().iconst(I64, ELEMENT);
        let (mut index, mut of) = (data, (stride, stride));
        let last = self.part(dims, (indices.len() as i32 - 1) * 8, 0);
        for (axis, &i) in indices.iter().enumerate().rev() {
            let extent = self.part(dims, axis as i32 * 8, 0);
            if axis < axes && self.differs(i) {
                index = self.operand(i, Form::Row, scope);
                of = (extent, stride);
            } else if axis < axes {
                let i = self.operand(i, Form::Scalar, scope);
                let most = self.at(0).get().iadd_imm_s(extent, -1);
                let i = self.clamp(i, most, scope);
                let offset = self.at(scope).get().imul(i, stride);
                data = self.at(scope).get().iadd(data, offset);
            }
            stride = self.at(0).get().imul(stride, extent);
        }
        Place { data, index, rows: of.0, stride: of.1, last }
    }

    /// Memory for a row of `elements`.
    fn row_of(&mut self, elements: i64) -> Value {
        let inner = self.inner();
        self.row_at(elements, inner)
    }

    fn row_at(&mut self, elements: i64, scope: usize) -> Value {
        self.on_stack((elements * ELEMENT) as usize, scope)
    }

    fn row_call(&mut self, name: &str, args: &[Value]) {
        let inner = self.inner();
        self.row_call_at(inner, name, args);
    }

    fn row_call_at(&mut self, scope: usize, name: &str, args: &[Value]) {
        let callee = self.callees.rows[name];
        self.call_at(scope, callee, args);
    }

    /// What a row is made of.
    pub(super) fn row_needs(&self, id: ExprId) -> Vec<(ExprId, Form)> {
        if !self.differs(id) {
            return vec![(id, Form::Scalar)];
        }
        let load = matches!(self.program.exprs.node(id), Node::Load(_, indices) if !self.differ_several(indices));
        let form = |o| if load && !self.differs(o) { Form::Scalar } else { Form::Row };
        self.program.exprs.operands(id).into_iter().map(|o| (o, form(o))).collect()
    }

    /// The row of a constant, made once.
    pub(super) fn constant_row(&mut self, id: ExprId) -> Value {
        let row = self.spread(id, 0);
        self.scopes[0].memo.insert((id, Form::Row), row);
        row
    }

    /// What is the same for all queries as a row.
    fn spread(&mut self, id: ExprId, scope: usize) -> Value {
        let value = self.operand(id, Form::Scalar, scope);
        let room = self.room();
        let (row, lanes) = (self.row_at(room, scope), self.at(scope).get().iconst(I64, room));
        match self.program.exprs.ty(id) {
            Ty::Real => self.row_call_at(scope, "set_real", &[row, value, lanes]),
            Ty::Int => self.row_call_at(scope, "set_int", &[row, value, lanes]),
            Ty::Bool => {
                let wide = self.at(scope).get().uextend(I64, value);
                let ones = self.at(scope).get().ineg(wide);
                self.row_call_at(scope, "set_int", &[row, ones, lanes]);
            }
        }
        row
    }

    pub(super) fn row_node(&mut self, id: ExprId, scope: usize) -> Value {
        if !self.differs(id) {
            return self.spread(id, scope);
        }
        let node = self.program.exprs.node(id).clone();
        if let Node::Var(v) = node {
            return self.variable(v, Form::Row);
        }
        let to = match self.target {
            Some((target, to)) if target == id => to,
            _ => self.row_at(self.room(), scope),
        };
        let Some(lanes) = self.elements(self.deps[id.0 as usize]) else {
            return self.refuse("a row of unknown length", I64);
        };
        let int = |e: &Self, o: ExprId| e.program.exprs.ty(o) != Ty::Real;
        let get = |e: &mut Self, o: ExprId| e.operand(o, Form::Row, scope);
        match node {
            Node::Un(op, a) => {
                let name = match (op, int(self, a)) {
                    (Un::Neg, false) => "neg",
                    (Un::Neg, true) => "neg_int",
                    (Un::Abs, false) => "abs",
                    (Un::Abs, true) => "abs_int",
                    (Un::ToReal, _) => "to_real",
                    (Un::Sqrt, _) => "sqrt",
                    (Un::Exp, _) => "exp",
                    (Un::Log, _) => "log",
                    _ => "tanh",
                };
                let a = get(self, a);
                self.row_call_at(scope, name, &[to, a, lanes]);
            }
            Node::Bin(op, a, b) => {
                let by = self.inverse(op, b);
                let name = match (op, int(self, a)) {
                    (Bin::Add, false) => "add",
                    (Bin::Sub, false) => "sub",
                    (Bin::Mul, false) => "mul",
                    (Bin::Div | Bin::Mod, _) if by.is_some() => "mul",
                    (Bin::Div | Bin::Mod, _) => "div",
                    (Bin::Min, false) => "min",
                    (Bin::Max, false) => "max",
                    (Bin::Add, true) => "add_int",
                    (Bin::Sub, true) => "sub_int",
                    (Bin::Mul, true) => "mul_int",
                    (Bin::Min, true) => "min_int",
                    (Bin::Max, true) => "max_int",
                };
                let a = get(self, a);
                let b = match by {
                    Some(by) => by,
                    None => get(self, b),
                };
                self.row_call_at(scope, name, &[to, a, b, lanes]);
            }
            Node::Cmp(op, a, b) => {
                let name = match (op, int(self, a)) {
                    (Cmp::Lt, false) => "less",
                    (Cmp::Le, false) => "at_most",
                    (Cmp::Eq | Cmp::Ne, false) => "equal",
                    (Cmp::Lt, true) => "less_int",
                    (Cmp::Le, true) => "at_most_int",
                    (Cmp::Eq | Cmp::Ne, true) => "equal_int",
                };
                let (a, b) = (get(self, a), get(self, b));
                self.row_call_at(scope, name, &[to, a, b, lanes]);
                if op == Cmp::Ne {
                    self.row_call_at(scope, "not", &[to, to, lanes]);
                }
            }
            Node::And(ref xs) | Node::Or(ref xs) => {
                let name = if matches!(node, Node::And(_)) { "and" } else { "or" };
                let mut first = get(self, xs[0]);
                for &x in &xs[1..] {
                    let x = get(self, x);
                    self.row_call_at(scope, name, &[to, first, x, lanes]);
                    first = to;
                }
                return first;
            }
            Node::Not(a) => {
                let a = get(self, a);
                self.row_call_at(scope, "not", &[to, a, lanes]);
            }
            Node::Select(c, a, b) => {
                let (c, a, b) = (get(self, c), get(self, a), get(self, b));
                self.row_call_at(scope, "select", &[to, c, a, b, lanes]);
            }
            Node::Load(tensor, indices) if self.differ_several(&indices) => {
                let (data, index, extent) = self.tensor_places(tensor.0 as usize, &indices);
                let stride = self.at(0).get().iconst(I64, ELEMENT);
                self.row_call_at(scope, "load", &[to, data, index, extent, stride, lanes]);
            }
            Node::Load(tensor, indices) => {
                let Place { data, index, rows, stride, .. } =
                    self.tensor_rows(tensor.0 as usize, &indices, indices.len(), scope);
                self.row_call_at(scope, "load", &[to, data, index, rows, stride, lanes]);
            }
            _ => return self.refuse("an expression without a row", I64),
        }
        to
    }

    /// A row of 1 / b, where a quotient by a constant is as well a product: the constant is far from what has no inverse.
    fn inverse(&mut self, op: Bin, b: ExprId) -> Option<Value> {
        let Node::Real(bits) = *self.program.exprs.node(b) else { return None };
        let by = f64::from_bits(bits).abs();
        if op != Bin::Div || !(1e-18..=1e18).contains(&by) {
            return None;
        }
        let inverse = self.at(0).get().f32const((1.0 / f64::from_bits(bits)) as f32);
        let room = self.room();
        let (row, lanes) = (self.row_at(room, 0), self.at(0).get().iconst(I64, room));
        self.row_call_at(0, "set_real", &[row, inverse, lanes]);
        Some(row)
    }
}

/// Elements of a tensor, one for each query.
struct Place {
    data: Value,
    /// Row of indices.
    index: Value,
    /// Extent of that index.
    rows: Value,
    /// Bytes from one to the next.
    stride: Value,
    /// Extent of the last index.
    last: Value,
}
