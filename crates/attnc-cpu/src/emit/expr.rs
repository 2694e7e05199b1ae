//! Scalar code of expressions.
//!
//! The one idea: every operation is total. Division by zero gives some number, indices are clamped to what they
//! index, pairs outside a map are not held; so that code may be hoisted, and may run for elements that a mask
//! will drop. For elements that count, a checked program and a checked launch keep operands in range, and the
//! meaning is that of the pattern: integers floor, reals are f32.
//! Nothing here knows what an expression is for.

use attnc_pattern::expr::{Bin, Cmp, DrawId, ExprId, Node, TensorId, Ty, Un, Var};
use attnc_pattern::program::{DrawScope, MapKind};
use attnc_pattern::rowset::Piece;
use cranelift::codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift::codegen::ir::types::{F32, I8, I64};
use cranelift::codegen::ir::{InstBuilder, Type, Value};

use super::{Deps, Emitter, Form, constant, dep};
use crate::layout::{Ctx, DrawRef, MapRef, OrderRef, SlotsRef, TensorRef};
use crate::stages::Stage;

/// Bits that make a value differ between the queries of a group.
pub(super) const LANES: Deps = dep(Var::Q) | dep(Var::Score) | dep(Var::Head);

impl Emitter<'_> {
    /// The value of an expression in the innermost scope.
    pub(super) fn scalar(&mut self, id: ExprId) -> Value {
        self.value(id, Form::Scalar)
    }

    /// The value of an expression in the innermost scope, in a form.
    ///
    /// Nesting is followed with a stack of its own, so that deep expressions do not exhaust the thread's.
    pub(super) fn value(&mut self, id: ExprId, form: Form) -> Value {
        let mut pending = vec![(id, form)];
        while let Some(&(id, form)) = pending.last() {
            if self.is_constant(id) || self.known(id, form).is_some() {
                pending.pop();
                continue;
            }
            let before = pending.len();
            for (operand, form) in self.needs(id, form) {
                if !self.is_constant(operand) && self.known(operand, form).is_none() {
                    pending.push((operand, form));
                }
            }
            if pending.len() == before {
                let scope = self.scope_of(id);
                let value = match form {
                    Form::Vector => self.vector_node(id, scope),
                    Form::Row => self.row_node(id, scope),
                    _ => self.scalar_node(id, form, scope),
                };
                let key = (id, self.normal(id, form));
                self.scopes[scope].memo.insert(key, value);
                pending.pop();
            }
        }
        self.operand(id, form, self.inner())
    }

    /// Takes `value` for that of an expression in the innermost scope, which binds one of its variables.
    pub(super) fn assume(&mut self, id: ExprId, value: Value) {
        let scope = self.scope_of(id);
        self.scopes[scope].memo.insert((id, Form::Scalar), value);
    }

    /// The type of an expression's scalar value.
    pub(super) fn type_of(&self, id: ExprId) -> Type {
        match self.program.exprs.ty(id) {
            Ty::Int => I64,
            Ty::Real => F32,
            Ty::Bool => I8,
        }
    }

    /// What has to be computed before an expression in a form.
    fn needs(&mut self, id: ExprId, form: Form) -> Vec<(ExprId, Form)> {
        match form {
            Form::Vector => self.vector_needs(id),
            Form::Row => self.row_needs(id),
            form => self.program.exprs.operands(id).into_iter().map(|o| (o, form)).collect(),
        }
    }

    pub(super) fn is_constant(&self, id: ExprId) -> bool {
        matches!(self.program.exprs.node(id), Node::Int(_) | Node::Real(_) | Node::Bool(_))
    }

    /// Whether an expression differs between the queries of a group, or its keys where rows are made of these.
    pub(super) fn differs(&self, id: ExprId) -> bool {
        self.deps[id.0 as usize] & self.across != 0
    }

    /// The form under which a value is kept: one for all lanes where they agree.
    fn normal(&self, id: ExprId, form: Form) -> Form {
        match form {
            Form::Lane(_) if !self.differs(id) => Form::Scalar,
            form => form,
        }
    }

    /// The outermost scope that knows all variables of an expression.
    pub(super) fn scope_of(&self, id: ExprId) -> usize {
        self.scope_for(self.deps[id.0 as usize])
    }

    /// The outermost scope that knows some variables.
    pub(super) fn scope_for(&self, deps: Deps) -> usize {
        self.scopes.iter().rposition(|s| s.binds & deps != 0).unwrap_or(0)
    }

    pub(super) fn known(&self, id: ExprId, form: Form) -> Option<Value> {
        let key = (id, self.normal(id, form));
        self.scopes[self.scope_of(id)].memo.get(&key).copied()
    }

    /// The value of an expression that has been computed, for an instruction of scope `scope`. Constants are
    /// made where they are used.
    pub(super) fn operand(&mut self, id: ExprId, form: Form, scope: usize) -> Value {
        if let Some(value) = self.known(id, form) {
            return value;
        }
        if form == Form::Row {
            return self.constant_row(id);
        }
        let value = match *self.program.exprs.node(id) {
            Node::Int(v) => self.at(scope).get().iconst(I64, v),
            Node::Real(bits) => self.at(scope).get().f32const(f64::from_bits(bits) as f32),
            Node::Bool(v) => self.at(scope).get().iconst(I8, i64::from(v)),
            _ => self.refuse(format!("an expression out of order, {id:?}"), I64),
        };
        if form == Form::Vector { self.splat(id, value, scope) } else { value }
    }

    /// The value of a variable in a form.
    pub(super) fn variable(&mut self, var: Var, form: Form) -> Value {
        // What is the same for all queries of a group is bound once.
        let form = if dep(var) & self.across == 0 { Form::Scalar } else { form };
        let bound = self.scopes.iter().rev().find_map(|s| s.values.get(&(var, form)).copied());
        if let Some(value) = bound {
            return value;
        }
        let scope = self.scopes.iter().rposition(|s| s.binds & dep(var) != 0).unwrap_or(0);
        match self.launch_variable(var).or_else(|| self.lanes_of(var, form, scope)) {
            Some(value) => {
                self.scopes[scope].values.insert((var, form), value);
                value
            }
            None => self.refuse(format!("variable {var:?} here"), I64),
        }
    }

    fn launch_variable(&mut self, var: Var) -> Option<Value> {
        let offset = match var {
            Var::QStart => std::mem::offset_of!(Ctx, q_start),
            Var::KStart => std::mem::offset_of!(Ctx, k_start),
            Var::NQ => std::mem::offset_of!(Ctx, n_q),
            Var::NK => std::mem::offset_of!(Ctx, n_k),
            Var::Head => {
                self.uses.head = true;
                std::mem::offset_of!(Ctx, head)
            }
            Var::Heads => std::mem::offset_of!(Ctx, heads),
            Var::Layer => std::mem::offset_of!(Ctx, layer),
            Var::Step => std::mem::offset_of!(Ctx, step),
            Var::Dim => std::mem::offset_of!(Ctx, dim),
            Var::Branch => std::mem::offset_of!(Ctx, branch),
            Var::Docs => std::mem::offset_of!(Ctx, docs),
            Var::Class => std::mem::offset_of!(Ctx, residue),
            Var::Modulus => std::mem::offset_of!(Ctx, modulus),
            Var::Given(extent) => std::mem::offset_of!(Ctx, given) + 8 * extent as usize,
            Var::Parts(map) => {
                let base = self.map(map.0 as usize);
                let len = self.part(base.0, base.1, std::mem::offset_of!(MapRef, offsets));
                return Some(self.at(0).get().iadd_imm_s(len, -1));
            }
            Var::Size(id) => {
                self.uses.sizes.push(id.0 as usize);
                let sizes = self.context(std::mem::offset_of!(Ctx, sizes));
                return Some(self.part(sizes, id.0 as i32 * 8, 0));
            }
            _ => return None,
        };
        Some(self.context(offset))
    }

    /// A field of the context.
    pub(super) fn context(&mut self, offset: usize) -> Value {
        self.part(self.ctx, 0, offset)
    }

    /// A number or address in memory that is constant throughout the call; read once.
    pub(super) fn part(&mut self, items: Value, item: i32, field: usize) -> Value {
        let offset = item + field as i32;
        if let Some(&value) = self.parts.get(&(items, offset)) {
            return value;
        }
        let value = self.at(0).get().load(I64, constant(), items, offset);
        self.parts.insert((items, offset), value);
        value
    }

    fn scalar_node(&mut self, id: ExprId, form: Form, scope: usize) -> Value {
        let node = self.program.exprs.node(id).clone();
        let get = |e: &mut Self, o: ExprId| e.operand(o, form, scope);
        match node {
            Node::Int(_) | Node::Real(_) | Node::Bool(_) => self.operand(id, form, scope),
            Node::Var(v) => self.variable(v, form),
            Node::Un(op, a) => {
                let real = self.program.exprs.ty(a) == Ty::Real;
                let a = get(self, a);
                if real { self.real_unary(op, a, scope) } else { self.int_unary(op, a, scope) }
            }
            Node::Bin(op @ (Bin::Div | Bin::Mod), a, b) if self.program.exprs.ty(a) == Ty::Int => {
                let positive = self.range(a).0 >= 0;
                let a = get(self, a);
                self.divide(op, (a, positive), (b, form), scope)
            }
            Node::Bin(op, a, b) => {
                let real = self.program.exprs.ty(a) == Ty::Real;
                let (a, b) = (get(self, a), get(self, b));
                if real { self.real_binary(op, a, b, scope) } else { self.int_binary(op, a, b, scope) }
            }
            Node::Cmp(op, a, b) => {
                let real = self.program.exprs.ty(a) == Ty::Real;
                let (a, b) = (get(self, a), get(self, b));
                let mut at = self.at(scope);
                if real { at.get().fcmp(float_cc(op), a, b) } else { at.get().icmp(int_cc(op), a, b) }
            }
            Node::And(xs) | Node::Or(xs) if xs.is_empty() => self.refuse("an empty conjunction", I8),
            Node::And(ref xs) | Node::Or(ref xs) => {
                let all = matches!(node, Node::And(_));
                let mut result = get(self, xs[0]);
                for &x in &xs[1..] {
                    let x = get(self, x);
                    let mut at = self.at(scope);
                    result = if all { at.get().band(result, x) } else { at.get().bor(result, x) };
                }
                result
            }
            Node::Not(a) => {
                let a = get(self, a);
                self.at(scope).get().bxor_imm_u(a, 1)
            }
            Node::Select(c, a, b) => {
                let (c, a, b) = (get(self, c), get(self, a), get(self, b));
                self.at(scope).get().select(c, a, b)
            }
            Node::Load(tensor, indices) => {
                let indices: Vec<Value> = indices.iter().map(|&i| get(self, i)).collect();
                self.tensor_element(tensor, &indices, scope)
            }
            Node::MapAt(map, row, col) => {
                let (row, col) = (get(self, row), get(self, col));
                self.map_at(map.0 as usize, row, col, scope)
            }
            Node::Drawn(draw, row, candidate) => {
                let (row, candidate) = (get(self, row), get(self, candidate));
                let held = self.draw(Stage::drawn, draw.0 as usize, row, candidate, scope);
                self.at(scope).get().icmp_imm_s(IntCC::NotEqual, held, 0)
            }
            Node::DrawAt(draw, row, j) => {
                let (row, j) = (get(self, row), get(self, j));
                self.draw(Stage::draw_at, draw.0 as usize, row, j, scope)
            }
        }
    }

    fn int_unary(&mut self, op: Un, a: Value, scope: usize) -> Value {
        match op {
            Un::Neg => self.at(scope).get().ineg(a),
            Un::Abs => self.at(scope).get().iabs(a),
            Un::ToReal => self.at(scope).get().fcvt_from_sint(F32, a),
            Un::Pow2 => {
                let one = self.at(scope).get().iconst(I64, 1);
                let power = self.at(scope).get().ishl(one, a);
                let zero = self.at(scope).get().iconst(I64, 0);
                let valid = self.at(scope).get().icmp_imm_u(IntCC::UnsignedLessThan, a, 62);
                self.at(scope).get().select(valid, power, zero)
            }
            Un::PartOf(map) => {
                let base = self.map(map.0 as usize);
                let items = self.part(base.0, base.1, std::mem::offset_of!(MapRef, indptr));
                let len = self.part(base.0, base.1, std::mem::offset_of!(MapRef, offsets));
                self.support_at(scope, "partition", &[items, len, a])
            }
            Un::SlotLast(level) => {
                let level = level.0 as usize;
                self.uses.levels.push(level);
                let levels = self.context(std::mem::offset_of!(Ctx, levels));
                let at = (level * size_of::<SlotsRef>()) as i32;
                let items = self.part(levels, at, std::mem::offset_of!(SlotsRef, last));
                let len = self.part(levels, at, std::mem::offset_of!(SlotsRef, len));
                let last = self.at(0).get().iadd_imm_s(len, -1);
                self.element(items, a, last, scope)
            }
            Un::DrawCount(draw) => {
                let (address, row) = self.draw_row(draw.0 as usize, a, scope);
                let count = self.call_at(scope, Stage::draw_count.entry(), &[address, row]);
                count.expect("the stage returns an integer")
            }
            Un::Log2 => self.support_at(scope, "log2", &[a]),
            Un::Isqrt => self.support_at(scope, "isqrt", &[a]),
            Un::DocOf => {
                let (offsets, docs) = self.documents();
                self.support_at(scope, "partition", &[offsets, docs, a])
            }
            Un::DocBegin => {
                let (offsets, docs) = self.documents();
                self.element(offsets, a, docs, scope)
            }
            Un::DocEnd => {
                let (offsets, docs) = self.documents();
                let next = self.at(scope).get().iadd_imm_s(a, 1);
                self.element(offsets, next, docs, scope)
            }
            Un::OrderIndex(order) | Un::OrderPosition(order) => {
                let order = order.0 as usize;
                let (items, count) = if matches!(op, Un::OrderIndex(_)) {
                    self.uses.orders.push(order);
                    (std::mem::offset_of!(OrderRef, index), std::mem::offset_of!(OrderRef, len))
                } else {
                    self.uses.positions.push(order);
                    (std::mem::offset_of!(OrderRef, position), std::mem::offset_of!(OrderRef, positions))
                };
                let orders = self.context(std::mem::offset_of!(Ctx, orders));
                let at = (order * size_of::<OrderRef>()) as i32;
                let index = self.part(orders, at, items);
                let len = self.part(orders, at, count);
                let last = self.at(0).get().iadd_imm_s(len, -1);
                let i = self.clamp(a, last, scope);
                let offset = self.at(scope).get().ishl_imm_u(i, 2);
                let address = self.at(scope).get().iadd(index, offset);
                self.at(scope).get().uload32(constant(), address, 0)
            }
            Un::Table(table) => {
                let (number, table) = (table.0 as usize, &self.program.tables[table.0 as usize]);
                if table.is_empty() {
                    return self.at(scope).get().iconst(I64, 0);
                }
                let last = table.len() as i64 - 1;
                let tables = self.context(std::mem::offset_of!(Ctx, tables));
                let address = self.part(tables, 0, number * size_of::<*const i64>());
                let last = self.at(scope).get().iconst(I64, last);
                self.element(address, a, last, scope)
            }
            Un::CsrBegin(map) => {
                let base = self.map(map.0 as usize);
                let items = self.part(base.0, base.1, std::mem::offset_of!(MapRef, indptr));
                let len = self.part(base.0, base.1, std::mem::offset_of!(MapRef, offsets));
                let last = self.at(0).get().iadd_imm_s(len, -1);
                self.element(items, a, last, scope)
            }
            Un::CsrIndex(map) => {
                let base = self.map(map.0 as usize);
                let items = self.part(base.0, base.1, std::mem::offset_of!(MapRef, indices));
                let len = self.part(base.0, base.1, std::mem::offset_of!(MapRef, entries));
                let last = self.at(0).get().iadd_imm_s(len, -1);
                self.element(items, a, last, scope)
            }
            Un::Exp | Un::Log | Un::Sqrt | Un::Tanh => {
                let real = self.at(scope).get().fcvt_from_sint(F32, a);
                self.real_unary(op, real, scope)
            }
        }
    }

    fn real_unary(&mut self, op: Un, a: Value, scope: usize) -> Value {
        match op {
            Un::Neg => self.at(scope).get().fneg(a),
            Un::Abs => self.at(scope).get().fabs(a),
            Un::Sqrt => self.at(scope).get().sqrt(a),
            Un::Exp => self.math(scope, "exp", a),
            Un::Log => self.math(scope, "log", a),
            Un::Tanh => self.math(scope, "tanh", a),
            _ => self.refuse(format!("{op:?} of a real"), F32),
        }
    }

    fn math(&mut self, scope: usize, name: &str, a: Value) -> Value {
        let callee = self.callees.math[name];
        self.call_at(scope, callee, &[a]).expect("functions of reals return a real")
    }

    fn int_binary(&mut self, op: Bin, a: Value, b: Value, scope: usize) -> Value {
        let mut at = self.at(scope);
        match op {
            Bin::Add => at.get().iadd(a, b),
            Bin::Sub => at.get().isub(a, b),
            Bin::Mul => at.get().imul(a, b),
            Bin::Min => at.get().smin(a, b),
            Bin::Max => at.get().smax(a, b),
            Bin::Div | Bin::Mod => self.divide_signed(op == Bin::Div, a, b, scope),
        }
    }

    fn real_binary(&mut self, op: Bin, a: Value, b: Value, scope: usize) -> Value {
        let mut at = self.at(scope);
        match op {
            Bin::Add => at.get().fadd(a, b),
            Bin::Sub => at.get().fsub(a, b),
            Bin::Mul => at.get().fmul(a, b),
            Bin::Div => at.get().fdiv(a, b),
            Bin::Min => at.get().fmin(a, b),
            Bin::Max => at.get().fmax(a, b),
            Bin::Mod => self.refuse("the remainder of reals", F32),
        }
    }

    /// Floor division or modulo of `a`, which may be known not to be negative, by an expression of integers.
    /// Where the divisor is 0 the result is of no meaning.
    pub(super) fn divide(
        &mut self,
        op: Bin,
        (a, positive): (Value, bool),
        (by, form): (ExprId, Form),
        scope: usize,
    ) -> Value {
        let div = op == Bin::Div;
        let power = self.program.exprs.as_int(by).filter(|&v| v > 0 && v & (v - 1) == 0);
        if let Some(by) = power {
            let mut at = self.at(scope);
            let bits = i64::from(by.trailing_zeros());
            return if div { at.get().sshr_imm_u(a, bits) } else { at.get().band_imm_s(a, by - 1) };
        }
        if self.differs(by) || self.range(by).0 < 0 {
            let by = self.operand(by, form, scope);
            return self.divide_signed(div, a, by, scope);
        }
        let known = self.scopes[scope].divisions.get(&(a, by)).copied();
        let (quotient, rest) = known.unwrap_or_else(|| {
            let made = self.divide_by_positive((a, positive), by, scope);
            self.scopes[scope].divisions.insert((a, by), made);
            made
        });
        if div { quotient } else { rest }
    }

    /// Quotient and remainder, floored, by what is not negative.
    fn divide_by_positive(&mut self, (a, positive): (Value, bool), by: ExprId, scope: usize) -> (Value, Value) {
        let by = self.divisor(by, scope);
        let mut at = self.at(scope);
        let quotient = at.get().sdiv(a, by);
        let product = at.get().imul(quotient, by);
        let rest = at.get().isub(a, product);
        if positive {
            return (quotient, rest);
        }
        // All ones where the machine has rounded up.
        let below = at.get().sshr_imm_u(rest, 63);
        let quotient = at.get().iadd(quotient, below);
        let fix = at.get().band(below, by);
        (quotient, at.get().iadd(rest, fix))
    }

    /// A divisor that is at least 1, computed where it is first known.
    fn divisor(&mut self, by: ExprId, scope: usize) -> Value {
        if let Some(v) = self.program.exprs.as_int(by) {
            return self.at(scope).get().iconst(I64, v.max(1));
        }
        let home = self.scope_of(by);
        if let Some(&value) = self.scopes[home].divisors.get(&by) {
            return value;
        }
        let value = self.operand(by, Form::Scalar, home);
        let value = if self.range(by).0 > 0 {
            value
        } else {
            let one = self.at(home).get().iconst(I64, 1);
            self.at(home).get().smax(value, one)
        };
        self.scopes[home].divisors.insert(by, value);
        value
    }

    /// Floor division or modulo by what may be negative.
    fn divide_signed(&mut self, div: bool, a: Value, b: Value, scope: usize) -> Value {
        let mut at = self.at(scope);
        // The machine traps for divisors 0 and (with the least integer) -1.
        let next = at.get().iadd_imm_s(b, 1);
        let special = at.get().icmp_imm_u(IntCC::UnsignedLessThan, next, 2);
        let one = at.get().iconst(I64, 1);
        let safe = at.get().select(special, one, b);
        let quotient = at.get().sdiv(a, safe);
        let product = at.get().imul(quotient, safe);
        let rest = at.get().isub(a, product);
        // A remainder of the other sign than the divisor: the machine has rounded up.
        let signs = at.get().bxor(rest, safe);
        let differ = at.get().icmp_imm_s(IntCC::SignedLessThan, signs, 0);
        let some = at.get().icmp_imm_s(IntCC::NotEqual, rest, 0);
        let up = at.get().band(differ, some);
        if !div {
            let fixed = at.get().iadd(rest, safe);
            return at.get().select(up, fixed, rest);
        }
        let less = at.get().iadd_imm_s(quotient, -1);
        let quotient = at.get().select(up, less, quotient);
        // -a for divisor -1.
        let negated = at.get().ineg(a);
        let negated = at.get().band(negated, b);
        at.get().select(special, negated, quotient)
    }

    /// `value` within `0 ..= last`, and 0 if `last` is negative.
    pub(super) fn clamp(&mut self, value: Value, last: Value, scope: usize) -> Value {
        let mut at = self.at(scope);
        let below = at.get().smin(value, last);
        let zero = at.get().iconst(I64, 0);
        at.get().smax(below, zero)
    }

    /// Item `i`, clamped to `0 ..= last`, of an array of i64.
    fn element(&mut self, items: Value, i: Value, last: Value, scope: usize) -> Value {
        let i = self.clamp(i, last, scope);
        let mut at = self.at(scope);
        let offset = at.get().ishl_imm_u(i, 3);
        let address = at.get().iadd(items, offset);
        at.get().load(I64, constant(), address, 0)
    }

    /// Document offsets and the number of documents.
    fn documents(&mut self) -> (Value, Value) {
        self.uses.docs = true;
        (self.context(std::mem::offset_of!(Ctx, doc_offsets)), self.variable(Var::Docs, Form::Scalar))
    }

    /// Array and offset of a map.
    fn map(&mut self, map: usize) -> (Value, i32) {
        self.uses.maps.push(map);
        (self.context(std::mem::offset_of!(Ctx, maps)), (map * size_of::<MapRef>()) as i32)
    }

    /// Address of a map.
    pub(super) fn map_address(&mut self, map: usize) -> Value {
        let (maps, at) = self.map(map);
        self.at(0).get().iadd_imm_s(maps, i64::from(at))
    }

    /// The first entry of `from .. to` of a compressed map whose column is at least `col`.
    pub(super) fn csr_from(&mut self, map: Value, from: Value, to: Value, col: Value) -> Value {
        self.stage(Stage::csr_from, &[map, from, to, col]).expect("the stage returns an integer")
    }

    /// If an expression is the column of the entry that a loop variable numbers, plus terms that do not depend on
    /// it: the map and those terms. Operands of `through` are tried one by one.
    pub(super) fn column_of(&self, id: ExprId, var: u32, through: Bin) -> Option<(usize, Vec<ExprId>)> {
        let exprs = &self.program.exprs;
        match *exprs.node(id) {
            Node::Un(Un::CsrIndex(map), v) if *exprs.node(v) == Node::Var(Var::Loop(var)) => {
                Some((map.0 as usize, vec![]))
            }
            Node::Bin(op, a, b) if op == through => {
                self.column_of(a, var, through).or_else(|| self.column_of(b, var, through))
            }
            Node::Bin(Bin::Add, a, b) => {
                let depends = |id| exprs.reads(id, |v| v == Var::Loop(var));
                let (column, term) = if depends(a) { (a, b) } else { (b, a) };
                let (map, mut terms) = self.column_of(column, var, through).filter(|_| !depends(term))?;
                terms.push(term);
                Some((map, terms))
            }
            _ => None,
        }
    }

    /// What expressions of a piece read, without what says which rows of random choices and selections they read; and
    /// these choices with their rows and entries.
    fn read_by(&self, piece: &Piece) -> (Vec<Var>, Vec<(DrawId, ExprId, ExprId)>) {
        let exprs = &self.program.exprs;
        // A loop that runs once only names its value.
        let loops = piece.loops.iter().filter(|l| !l.runs_once(exprs));
        let mut left: Vec<ExprId> = loops.flat_map(|l| [l.lo, l.hi, l.phase]).collect();
        left.extend([piece.start, piece.end]);
        left.extend(piece.guard);
        let (mut seen, mut vars, mut choices) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(id) = left.pop() {
            if seen.contains(&id) {
                continue;
            }
            seen.push(id);
            match *exprs.node(id) {
                Node::Var(_) if piece.pinned(exprs, id) != id => left.push(piece.pinned(exprs, id)),
                Node::Var(v) => vars.push(v),
                Node::DrawAt(draw, row, entry) => {
                    choices.push((draw, piece.pinned(exprs, row), entry));
                    left.push(entry);
                }
                // Its own node is the entry of no loop.
                Node::Un(Un::DrawCount(draw), row) => choices.push((draw, piece.pinned(exprs, row), id)),
                _ => left.extend(exprs.operands(id)),
            }
        }
        (vars, choices)
    }

    /// If queries with one value of an expression have the same keys of a piece, since these are what was chosen for that
    /// value: the expression.
    pub(super) fn unit_of(&self, piece: &Piece) -> Option<ExprId> {
        let exprs = &self.program.exprs;
        let plain = piece.combs.is_empty() && piece.filter.is_none() && piece.loops.iter().all(|l| l.step == 1);
        let (vars, choices) = if plain { self.read_by(piece) } else { return None };
        let row = choices.first()?.1;
        let steady = !vars.contains(&Var::Q) && choices.iter().all(|c| c.1 == row);
        let own = exprs.reads(row, |v| v == Var::Q) && !exprs.reads(row, |v| matches!(v, Var::Loop(_) | Var::K));
        // A row of its own for each query is no unit.
        (steady && own && *exprs.node(row) != Node::Var(Var::Q)).then_some(row)
    }

    /// Expressions such that queries with the same values of all of them have the same keys of a piece; if neighbours
    /// mostly do.
    pub(super) fn units_of(&self, piece: &Piece) -> Option<Vec<ExprId>> {
        self.unit_of(piece).map(|unit| vec![unit]).or_else(|| self.blocks_of(piece))
    }

    /// If a piece reads its query only as the number of a block of queries: expressions of it.
    fn blocks_of(&self, piece: &Piece) -> Option<Vec<ExprId>> {
        if !piece.combs.is_empty() || piece.filter.is_some() || piece.loops.iter().any(|l| l.step != 1) {
            return None;
        }
        let exprs = &self.program.exprs;
        let (mut found, mut seen) = (Vec::new(), Vec::new());
        let mut left: Vec<ExprId> = piece.loops.iter().flat_map(|l| [l.lo, l.hi]).collect();
        left.extend([piece.start, piece.end]);
        left.extend(piece.guard);
        while let Some(id) = left.pop() {
            let deps = self.deps[id.0 as usize];
            if deps & dep(Var::Q) == 0 || seen.contains(&id) {
                continue;
            }
            seen.push(id);
            if deps != dep(Var::Q) {
                left.extend(exprs.operands(id));
            } else if self.of_blocks(id) {
                found.push(id);
            } else {
                return None;
            }
        }
        (!found.is_empty()).then_some(found)
    }

    /// Whether an expression of the query is one of blocks of queries.
    fn of_blocks(&self, id: ExprId) -> bool {
        /// Queries of a block that it is worth to look for.
        const BLOCK: i64 = 4;
        let exprs = &self.program.exprs;
        let (mut left, mut seen) = (vec![id], Vec::new());
        while let Some(id) = left.pop() {
            if self.deps[id.0 as usize] == 0 || seen.contains(&id) {
                continue;
            }
            seen.push(id);
            match *exprs.node(id) {
                Node::Var(_) => return false,
                // What a launch divides by is large, as far as one can tell.
                Node::Bin(Bin::Div, _, by)
                    if exprs.as_int(by).map_or(self.deps[by.0 as usize] & dep(Var::Q) == 0, |by| by >= BLOCK) => {}
                _ => left.extend(exprs.operands(id)),
            }
        }
        true
    }

    /// Whether keys of a piece are what was chosen for its query, which its tile set then has no bounds for.
    pub(super) fn chosen(&self, piece: &Piece) -> bool {
        let exprs = &self.program.exprs;
        exprs.reachable(&[piece.start, piece.end]).iter().any(|&id| match *exprs.node(id) {
            Node::DrawAt(_, row, _) => exprs.reads(row, |v| v == Var::Q),
            _ => false,
        })
    }

    /// If a loop runs over what was chosen for a row: the choice and the row.
    pub(super) fn choice_of(&self, piece: &Piece, var: u32) -> Option<(usize, ExprId)> {
        let exprs = &self.program.exprs;
        let entry = |&&(_, row, entry): &&(DrawId, ExprId, ExprId)| {
            let free = !exprs.reads(row, |v| v == Var::K || v == Var::Loop(var));
            *exprs.node(entry) == Node::Var(Var::Loop(var)) && free
        };
        let (_, choices) = self.read_by(piece);
        let (draw, row, _) = choices.iter().find(entry)?;
        // Of one choice: another's entries may end elsewhere.
        let alone = choices.iter().filter(entry).all(|c| (c.0, c.1) == (*draw, *row));
        alone.then_some((draw.0 as usize, *row))
    }

    /// If an expression is a multiple of what the entry that a loop variable numbers says, plus terms that do not depend
    /// on it: the factor, unless it is 1, and those terms. Operands of `through` are tried one by one.
    pub(super) fn chosen_unit(
        &self,
        id: ExprId,
        var: u32,
        through: Option<Bin>,
    ) -> Option<(Option<ExprId>, Vec<ExprId>)> {
        let exprs = &self.program.exprs;
        let entry = |id: ExprId| matches!(*exprs.node(id), Node::DrawAt(_, _, j) if *exprs.node(j) == Node::Var(Var::Loop(var)));
        match *exprs.node(id) {
            Node::DrawAt(..) => entry(id).then_some((None, vec![])),
            Node::Bin(Bin::Mul, a, b) => {
                let (factor, of) = if exprs.as_int(a).is_some() { (a, b) } else { (b, a) };
                (entry(of) && exprs.as_int(factor).is_some_and(|f| f > 0)).then_some((Some(factor), vec![]))
            }
            Node::Bin(op, a, b) if Some(op) == through => {
                self.chosen_unit(a, var, through).or_else(|| self.chosen_unit(b, var, through))
            }
            Node::Bin(Bin::Add, a, b) => {
                let depends = |id| exprs.reads(id, |v| v == Var::Loop(var));
                let (of, term) = if depends(a) { (a, b) } else { (b, a) };
                let (factor, mut terms) = self.chosen_unit(of, var, through).filter(|_| !depends(term))?;
                terms.push(term);
                Some((factor, terms))
            }
            _ => None,
        }
    }

    /// An end of a range as [`Self::chosen_unit`] has it, clipped by operands of `through` that do not depend on the loop
    /// variable: what is clipped, its factor and terms, and these operands.
    fn chosen_end(&self, id: ExprId, var: u32, through: Bin) -> Option<ChosenEnd> {
        let exprs = &self.program.exprs;
        match *exprs.node(id) {
            Node::Bin(op, a, b) if op == through => {
                let depends = |id| exprs.reads(id, |v| v == Var::Loop(var));
                let (of, clip) = if depends(a) { (a, b) } else { (b, a) };
                let mut end = self.chosen_end(of, var, through).filter(|_| !depends(clip))?;
                end.clips.push(clip);
                Some(end)
            }
            _ => {
                let (unit, terms) = self.chosen_unit(id, var, None)?;
                Some(ChosenEnd { id, unit, terms, clips: vec![] })
            }
        }
    }

    /// If the innermost loop of a piece runs over all that was chosen for a row, and the ranges of its entries ascend with
    /// them: these ranges.
    pub(super) fn chosen_ranges(&self, piece: &Piece, depth: usize) -> Option<ChosenRanges> {
        let exprs = &self.program.exprs;
        let (l, inner) = piece.loops.get(depth..)?.split_first()?;
        if !inner.is_empty() || l.step != 1 || !piece.combs.is_empty() || piece.filter.is_some() {
            return None;
        }
        let (draw, row) = self.choice_of(piece, l.var)?;
        let begin = self.chosen_end(piece.start, l.var, Bin::Max)?;
        let end = self.chosen_end(piece.end, l.var, Bin::Min)?;
        if begin.unit != end.unit {
            return None;
        }
        // That there is such an entry is known where entries are listed.
        let entry = |id: ExprId| match *exprs.node(id) {
            Node::Cmp(Cmp::Le, a, b) => {
                exprs.as_int(a) == Some(0)
                    && matches!(*exprs.node(b), Node::DrawAt(_, _, j) if *exprs.node(j) == Node::Var(Var::Loop(l.var)))
            }
            _ => false,
        };
        let guards = match piece.guard.map(|g| (g, exprs.node(g))) {
            None => vec![],
            Some((_, Node::And(all))) => all.clone(),
            Some((guard, _)) => vec![guard],
        };
        if guards.into_iter().any(|g| !entry(g) && exprs.reads(g, |v| v == Var::Loop(l.var))) {
            return None;
        }
        Some(ChosenRanges { draw, row, begin, end })
    }

    /// A piece of ranges that were chosen, without what clips them.
    pub(super) fn unclipped(&self, piece: &Piece) -> Option<(Piece, ChosenRanges)> {
        let ranges = self.chosen_ranges(piece, piece.loops.len().checked_sub(1)?)?;
        Some((Piece { start: ranges.begin.id, end: ranges.end.id, ..piece.clone() }, ranges))
    }

    /// Whether keys of a piece are chosen one by one.
    pub(super) fn lists_keys(&self, piece: &Piece) -> bool {
        self.unclipped(piece).is_some_and(|(_, ranges)| ranges.begin.unit.is_none())
    }

    /// Address of a choice, and the row of it that is meant, where code is being written.
    pub(super) fn choice(&mut self, draw: usize, row: Value) -> (Value, Value) {
        let inner = self.inner();
        self.draw_row(draw, row, inner)
    }

    /// The first entry of a row of a choice that is at least `candidate`.
    pub(super) fn draw_from(&mut self, draw: usize, row: Value, candidate: Value) -> Value {
        let inner = self.inner();
        self.draw(Stage::draw_from, draw, row, candidate, inner)
    }

    fn map_at(&mut self, map: usize, row: Value, col: Value, scope: usize) -> Value {
        let (maps, at) = self.map(map);
        if self.program.maps[map].kind == MapKind::Csr {
            let address = self.map_address(map);
            let held = self.call_at(scope, Stage::csr_at.entry(), &[address, row, col]);
            let held = held.expect("the stage returns an integer");
            return self.at(scope).get().icmp_imm_s(IntCC::NotEqual, held, 0);
        }
        let data = self.part(maps, at, std::mem::offset_of!(MapRef, data));
        let rows = self.part(maps, at, std::mem::offset_of!(MapRef, rows));
        let cols = self.part(maps, at, std::mem::offset_of!(MapRef, cols));
        let mut at = self.at(scope);
        let in_rows = at.get().icmp(IntCC::UnsignedLessThan, row, rows);
        let in_cols = at.get().icmp(IntCC::UnsignedLessThan, col, cols);
        let inside = at.get().band(in_rows, in_cols);
        let offset = at.get().imul(row, cols);
        let offset = at.get().iadd(offset, col);
        let zero = at.get().iconst(I64, 0);
        let offset = at.get().select(inside, offset, zero);
        let address = at.get().iadd(data, offset);
        let byte = at.get().load(I8, constant(), address, 0);
        let set = at.get().icmp_imm_s(IntCC::NotEqual, byte, 0);
        at.get().band(inside, set)
    }

    fn draw(&mut self, stage: Stage, draw: usize, row: Value, other: Value, scope: usize) -> Value {
        let (address, row) = self.draw_row(draw, row, scope);
        self.call_at(scope, stage.entry(), &[address, row, other]).expect("the stage returns an integer")
    }

    /// Address of a choice, and the row of it that is meant.
    fn draw_row(&mut self, draw: usize, row: Value, scope: usize) -> (Value, Value) {
        self.uses.draws.push(draw);
        let draws = self.context(std::mem::offset_of!(Ctx, draws));
        let address = self.at(0).get().iadd_imm_s(draws, (draw * size_of::<DrawRef>()) as i64);
        let row = match self.program.draws[draw].scope {
            DrawScope::Row => row,
            DrawScope::Head => self.at(scope).get().iconst(I64, 0),
        };
        (address, row)
    }

    fn tensor_element(&mut self, tensor: TensorId, indices: &[Value], scope: usize) -> Value {
        let tensor = tensor.0 as usize;
        if self.tensors.insert(tensor, indices.len()).is_some_and(|rank| rank != indices.len()) {
            return self.refuse("a tensor with two numbers of indices", F32);
        }
        let tensors = self.context(std::mem::offset_of!(Ctx, tensors));
        let at = (tensor * size_of::<TensorRef>()) as i32;
        let data = self.part(tensors, at, std::mem::offset_of!(TensorRef, data));
        let dims = self.part(tensors, at, std::mem::offset_of!(TensorRef, dims));
        let mut address = data;
        let mut offset = None;
        for (axis, &index) in indices.iter().enumerate() {
            let extent = self.part(dims, axis as i32 * 8, 0);
            let last = self.at(0).get().iadd_imm_s(extent, -1);
            let index = self.clamp(index, last, scope);
            offset = Some(match offset {
                None => index,
                Some(outer) => {
                    let outer = self.at(scope).get().imul(outer, extent);
                    self.at(scope).get().iadd(outer, index)
                }
            });
        }
        if let Some(offset) = offset {
            let bytes = self.at(scope).get().ishl_imm_u(offset, 2);
            address = self.at(scope).get().iadd(data, bytes);
        }
        self.at(scope).get().load(F32, constant(), address, 0)
    }
}

/// Ranges of keys of the entries of a row of a choice.
pub(super) struct ChosenRanges {
    pub(super) draw: usize,
    pub(super) row: ExprId,
    pub(super) begin: ChosenEnd,
    pub(super) end: ChosenEnd,
}

/// An end of such a range: of entry e at `unit * e` plus the terms, but not beyond any of the clips.
pub(super) struct ChosenEnd {
    /// The end without clips.
    pub(super) id: ExprId,
    /// 1 if there is none.
    pub(super) unit: Option<ExprId>,
    pub(super) terms: Vec<ExprId>,
    pub(super) clips: Vec<ExprId>,
}

pub(super) fn int_cc(op: Cmp) -> IntCC {
    match op {
        Cmp::Lt => IntCC::SignedLessThan,
        Cmp::Le => IntCC::SignedLessThanOrEqual,
        Cmp::Eq => IntCC::Equal,
        Cmp::Ne => IntCC::NotEqual,
    }
}

pub(super) fn float_cc(op: Cmp) -> FloatCC {
    match op {
        Cmp::Lt => FloatCC::LessThan,
        Cmp::Le => FloatCC::LessThanOrEqual,
        Cmp::Eq => FloatCC::Equal,
        Cmp::Ne => FloatCC::NotEqual,
    }
}
