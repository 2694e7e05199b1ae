//! Modifiers and biases over a tile of scores, four queries at a time: those that have no form on rows ([`super::rows`]).
//!
//! The one idea: queries lie side by side, so that an expression has a *vector* form wherever its operation
//! has one; where it has none (division of integers, loads), each of the four is computed as a scalar and
//! the results are put together. Integers of the vector form are 32 bits: a range analysis says which
//! expressions fit ([`super::range`]). What does not depend on the query or the
//! score is computed once and spread. Nothing here knows which scores a mask will drop.

use attnc_pattern::expr::{Bin, ExprId, Node, Ty, Un, Var};
use cranelift::codegen::ir::types::{F32X4, I32, I32X4};
use cranelift::codegen::ir::{ConstantData, InstBuilder, MemFlagsData, Value};

use super::expr::{float_cc, int_cc};
use super::{Emitter, Form, trusted};
use crate::layout::Scratch;

/// A tile of scores.
pub(super) struct ScoreTile {
    /// Position of the first query.
    pub(super) q: Value,
    /// Where numbers of queries are listed, if they do not follow one another; `q` is then that of number 0.
    pub(super) walk: Option<Value>,
    /// Where the head of each lane is listed, if they differ.
    pub(super) heads: Option<Value>,
    /// First lane, counted from the first query.
    pub(super) lane: Value,
    /// How many lanes.
    pub(super) lanes: Value,
    /// Numbers of the keys.
    pub(super) k: Value,
    /// How many.
    pub(super) keys: Value,
    /// The number of the first where they follow one another, else -1.
    pub(super) first: Value,
}

impl Emitter<'_> {
    /// Replaces every score by `modifier(score) + bias`.
    pub(super) fn modify(&mut self, tile: &ScoreTile, modifier: Option<ExprId>, bias: Option<ExprId>) {
        if modifier.is_none() && bias.is_none() {
            return;
        }
        if let Some(by) = self.side_by_side {
            self.modify_side_by_side(tile, by, (modifier, bias));
            return;
        }
        let roots: Vec<ExprId> = modifier.into_iter().chain(bias).collect();
        if tile.heads.is_none() && self.have_rows(&roots) {
            self.modify_rows(tile, modifier, bias);
            return;
        }
        let scratch = self.scratch;
        let scores = self.field(scratch, std::mem::offset_of!(Scratch, s), super::I64);
        let k_start = self.variable(Var::KStart, Form::Scalar);
        // Bytes from one key to the next.
        let stride = self.field(scratch, std::mem::offset_of!(Scratch, bq), super::I64);
        let stride = self.ins().get().ishl_imm_u(stride, 2);
        let offset = self.ins().get().ishl_imm_u(tile.lane, 2);
        let scores = self.ins().get().iadd(scores, offset);
        let end = self.ins().get().iadd(tile.lane, tile.lanes);
        self.loop_for((tile.lane, end), 4, &[scores], |e, group, at| {
            match tile.walk {
                Some(walk) => e.bind_listed(Var::Q, walk, group, tile.q),
                None => {
                    let q = e.ins().get().iadd(tile.q, group);
                    e.bind(Var::Q, Form::Scalar, q);
                }
            }
            if let Some(heads) = tile.heads {
                let start = e.int(0);
                e.bind_listed(Var::Head, heads, group, start);
            }
            let first = e.int(0);
            e.loop_for((first, tile.keys), 1, at, |e, j, at| {
                let offset = e.ins().get().ishl_imm_u(j, 2);
                let at_key = e.ins().get().iadd(tile.k, offset);
                let number = e.ins().get().uload32(trusted(), at_key, 0);
                let k = e.ins().get().iadd(k_start, number);
                let score = e.ins().get().load(F32X4, trusted(), at[0], 0);
                e.bind(Var::K, Form::Scalar, k);
                e.bind(Var::Score, Form::Vector, score);
                let modified = modifier.map_or(score, |m| e.value(m, Form::Vector));
                let result = match bias {
                    Some(bias) => {
                        let bias = e.value(bias, Form::Vector);
                        e.ins().get().fadd(modified, bias)
                    }
                    None => modified,
                };
                e.ins().get().store(trusted(), result, at[0], 0);
                vec![e.ins().get().iadd(at[0], stride)]
            });
            vec![e.ins().get().iadd_imm_s(at[0], 16)]
        });
    }

    /// Binds four values of a variable that are `start` more than the numbers listed from place `group` on.
    fn bind_listed(&mut self, var: Var, list: Value, group: Value, start: Value) {
        let offset = self.ins().get().ishl_imm_u(group, 2);
        let at = self.ins().get().iadd(list, offset);
        for i in 0..4 {
            let number = self.ins().get().uload32(trusted(), at, 4 * i32::from(i));
            let value = self.ins().get().iadd(start, number);
            self.bind(var, Form::Lane(i), value);
        }
        let numbers = self.ins().get().load(I32X4, MemFlagsData::new(), at, 0);
        let start = self.ins().get().ireduce(I32, start);
        let start = self.ins().get().splat(I32X4, start);
        let values = self.ins().get().iadd(start, numbers);
        self.bind(var, Form::Vector, values);
    }

    /// What a vector form is made of: vectors of the operands, or its own value for each query.
    pub(super) fn vector_needs(&mut self, id: ExprId) -> Vec<(ExprId, Form)> {
        if !self.differs(id) {
            vec![(id, Form::Scalar)]
        } else if self.has_vector_form(id) {
            self.program.exprs.operands(id).into_iter().map(|o| (o, Form::Vector)).collect()
        } else {
            (0..4).map(|i| (id, Form::Lane(i))).collect()
        }
    }

    /// Whether the operation exists on vectors and its operands fit them.
    fn has_vector_form(&mut self, id: ExprId) -> bool {
        let exprs = &self.program.exprs;
        let ty = exprs.ty(id);
        let operation = match exprs.node(id) {
            Node::Var(Var::Q | Var::Score | Var::Head) | Node::Cmp(..) | Node::And(_) | Node::Or(_) | Node::Not(_) => {
                true
            }
            Node::Select(..) => true,
            Node::Un(Un::Neg | Un::Abs | Un::Sqrt | Un::ToReal, _) => true,
            Node::Un(Un::Exp | Un::Log | Un::Tanh, _) => !self.callees.math4.is_empty(),
            Node::Bin(Bin::Div, ..) => ty == Ty::Real,
            Node::Bin(op, ..) => *op != Bin::Mod,
            _ => false,
        };
        operation && exprs.operands(id).into_iter().all(|o| exprs.ty(o) != Ty::Int || self.fits_i32(o))
    }

    pub(super) fn vector_node(&mut self, id: ExprId, scope: usize) -> Value {
        if !self.differs(id) {
            let value = self.operand(id, Form::Scalar, scope);
            return self.splat(id, value, scope);
        }
        if !self.has_vector_form(id) {
            return self.collect_lanes(id, scope);
        }
        let ty = self.program.exprs.ty(id);
        let node = self.program.exprs.node(id).clone();
        let get = |e: &mut Self, o: ExprId| e.operand(o, Form::Vector, scope);
        match node {
            Node::Var(v) => self.variable(v, Form::Vector),
            Node::Un(op, a) => {
                let a = get(self, a);
                match (op, ty) {
                    (Un::Neg, Ty::Int) => self.at(scope).get().ineg(a),
                    (Un::Abs, Ty::Int) => self.at(scope).get().iabs(a),
                    (Un::ToReal, _) => self.at(scope).get().fcvt_from_sint(F32X4, a),
                    (Un::Neg, _) => self.at(scope).get().fneg(a),
                    (Un::Abs, _) => self.at(scope).get().fabs(a),
                    (Un::Sqrt, _) => self.at(scope).get().sqrt(a),
                    (Un::Exp, _) => self.math4(scope, "exp", a),
                    (Un::Log, _) => self.math4(scope, "log", a),
                    _ => self.math4(scope, "tanh", a),
                }
            }
            Node::Bin(op, a, b) => {
                let (a, b) = (get(self, a), get(self, b));
                let mut at = self.at(scope);
                match (op, ty) {
                    (Bin::Add, Ty::Int) => at.get().iadd(a, b),
                    (Bin::Sub, Ty::Int) => at.get().isub(a, b),
                    (Bin::Mul, Ty::Int) => at.get().imul(a, b),
                    (Bin::Min, Ty::Int) => at.get().smin(a, b),
                    (Bin::Max, Ty::Int) => at.get().smax(a, b),
                    (Bin::Add, _) => at.get().fadd(a, b),
                    (Bin::Sub, _) => at.get().fsub(a, b),
                    (Bin::Mul, _) => at.get().fmul(a, b),
                    (Bin::Min, _) => at.get().fmin(a, b),
                    (Bin::Max, _) => at.get().fmax(a, b),
                    (Bin::Div | Bin::Mod, _) => at.get().fdiv(a, b),
                }
            }
            Node::Cmp(op, a, b) => {
                let int = self.program.exprs.ty(a) == Ty::Int;
                let (a, b) = (get(self, a), get(self, b));
                let mut at = self.at(scope);
                if int { at.get().icmp(int_cc(op), a, b) } else { at.get().fcmp(float_cc(op), a, b) }
            }
            Node::And(ref xs) | Node::Or(ref xs) => {
                let all = matches!(node, Node::And(_));
                let values: Vec<Value> = xs.iter().map(|&x| get(self, x)).collect();
                let mut at = self.at(scope);
                let join = |a, b| if all { at.get().band(a, b) } else { at.get().bor(a, b) };
                values.into_iter().reduce(join).unwrap_or_else(|| self.refuse("an empty conjunction", super::I64))
            }
            Node::Not(a) => {
                let a = get(self, a);
                self.at(scope).get().bnot(a)
            }
            Node::Select(c, a, b) => {
                let (c, a, b) = (get(self, c), get(self, a), get(self, b));
                let mut at = self.at(scope);
                let mask = if ty == Ty::Real { at.get().bitcast(F32X4, MemFlagsData::new(), c) } else { c };
                at.get().bitselect(mask, a, b)
            }
            _ => self.collect_lanes(id, scope),
        }
    }

    fn math4(&mut self, scope: usize, name: &str, a: Value) -> Value {
        let callee = self.callees.math4[name];
        self.call_at(scope, callee, &[a]).expect("functions of reals return a real")
    }

    /// One scalar for all four queries.
    pub(super) fn splat(&mut self, id: ExprId, value: Value, scope: usize) -> Value {
        let value = self.narrow(id, value, scope);
        let ty = if self.program.exprs.ty(id) == Ty::Real { F32X4 } else { I32X4 };
        self.at(scope).get().splat(ty, value)
    }

    /// Four scalars side by side.
    fn collect_lanes(&mut self, id: ExprId, scope: usize) -> Value {
        let first = self.operand(id, Form::Lane(0), scope);
        let mut vector = self.splat(id, first, scope);
        for i in 1..4 {
            let lane = self.operand(id, Form::Lane(i), scope);
            let lane = self.narrow(id, lane, scope);
            vector = self.at(scope).get().insertlane(vector, lane, i);
        }
        vector
    }

    /// A scalar as an element of a vector.
    fn narrow(&mut self, id: ExprId, value: Value, scope: usize) -> Value {
        let ty = self.program.exprs.ty(id);
        let mut at = self.at(scope);
        match ty {
            Ty::Real => value,
            Ty::Int => at.get().ireduce(I32, value),
            Ty::Bool => {
                let wide = at.get().uextend(I32, value);
                at.get().ineg(wide)
            }
        }
    }

    /// A variable that differs between the four queries, from what is bound in scope `scope`.
    pub(super) fn lanes_of(&mut self, var: Var, form: Form, scope: usize) -> Option<Value> {
        let bound = |e: &Self, form| e.scopes[scope].values.get(&(var, form)).copied();
        match (var, form) {
            (Var::Q, Form::Lane(i)) => {
                let first = bound(self, Form::Scalar)?;
                Some(self.at(scope).get().iadd_imm_s(first, i64::from(i)))
            }
            (Var::Q, _) => {
                let first = bound(self, Form::Scalar)?;
                let iota: Vec<u8> = (0_i32..4).flat_map(i32::to_le_bytes).collect();
                let iota = self.func.dfg.constants.insert(ConstantData::from(iota));
                let mut at = self.at(scope);
                let first = at.get().ireduce(I32, first);
                let first = at.get().splat(I32X4, first);
                let iota = at.get().vconst(I32X4, iota);
                Some(at.get().iadd(first, iota))
            }
            (Var::Score, Form::Lane(i)) => {
                let scores = bound(self, Form::Vector)?;
                Some(self.at(scope).get().extractlane(scores, i))
            }
            _ => None,
        }
    }
}
