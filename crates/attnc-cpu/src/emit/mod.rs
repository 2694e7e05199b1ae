//! Generation of Cranelift IR: a function builder of nested scopes, on which drivers are written.
//!
//! The one idea: a scope binds variables, and every expression is computed once, in the outermost scope
//! that knows its variables. While an inner scope is open, code of an outer one goes before the jump that
//! entered the inner one. Values are therefore memoised with their scope, and loop-invariant code is
//! hoisted by construction, without an optimiser. What is hoisted may run though nobody needs it, so that
//! no expression may trap or read out of bounds ([`expr`]).
//!
//! [`driver`] writes the functions of a plan, [`score`] the modifiers of a tile of scores, [`rows`] their operations on
//! rows of queries.
//! Nothing here knows of tensors' layouts or of instruction sets.

pub(crate) mod driver;
mod expr;
mod range;
mod rows;
mod score;

use std::collections::BTreeMap;

use attnc_kernels::Isa;
use attnc_kernels::abi::{Arg, Math, Rows, Support};
use attnc_pattern::expr::{ExprId, Exprs, Node, Var};
use attnc_pattern::program::Program;
use cranelift::codegen::cursor::{Cursor, FuncCursor};
use cranelift::codegen::ir::condcodes::IntCC;
use cranelift::codegen::ir::types::{F32, F32X4, I64};
use cranelift::codegen::ir::{
    AbiParam, Block, BlockArg, Function, InsertBuilder, Inst, InstBuilder, MemFlagsData, SigRef, Signature,
    StackSlotData, StackSlotKind, Type, Value,
};
use cranelift::codegen::isa::CallConv;

use rustc_hash::FxHashMap;

use crate::compile::{CompileError, Uses};
use crate::layout::Ctx;
use crate::stages::Stage;

/// A function that compiled code may call: its place in [`Callees::addresses`], parameters and result.
pub(crate) type Callee = (usize, &'static [Arg], Option<Arg>);

/// Functions by name, from the tables of the kernels' contract, and the stages. Code reads their addresses from a list
/// that it is given, so that it holds none: it is the same in every process.
pub(crate) struct Callees {
    support: FxHashMap<&'static str, Callee>,
    math: FxHashMap<&'static str, Callee>,
    rows: FxHashMap<&'static str, Callee>,
    math4: FxHashMap<&'static str, Callee>,
    addresses: Vec<usize>,
}

impl Callees {
    /// The functions for an instruction set that this machine runs.
    pub(crate) fn of(isa: Isa) -> Option<Callees> {
        let mut addresses = Stage::addresses();
        let mut by_name = |entries: Vec<(attnc_kernels::abi::Sig, *const u8)>| {
            let listed = entries.into_iter().map(|(sig, address)| {
                addresses.push(address.addr());
                (sig.name, (addresses.len() - 1, sig.args, sig.ret))
            });
            listed.collect()
        };
        let (support, math) = (by_name(Support::get().entries()), by_name(Math::of(isa)?.entries()));
        let rows = by_name(Rows::of(isa)?.entries());
        #[cfg(target_arch = "x86_64")]
        let math4 = by_name(attnc_kernels::abi::Math4::of(isa)?.entries());
        #[cfg(not(target_arch = "x86_64"))]
        let math4 = FxHashMap::default();
        Some(Callees { support, math, rows, math4, addresses })
    }

    /// Where they are.
    pub(crate) fn addresses(&self) -> &[usize] {
        &self.addresses
    }
}

/// In which form a value of an expression is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    /// One value: i64, f32, or i8 for truth values.
    Scalar,
    /// One value for one of four queries side by side.
    Lane(u8),
    /// Four queries side by side: i32x4, f32x4, or i32x4 of all ones or zeros.
    Vector,
    /// As many queries as a chunk has lanes, in memory: the address of i32, f32, or i32 of all ones or zeros.
    Row,
}

/// What an expression depends on, as a set of bits.
type Deps = u64;

/// Bit of a variable. Launch-wide variables and tile bounds are known everywhere and have none; the head has one where
/// lanes are of several ([`Emitter::heads_differ`]).
const fn dep(var: Var) -> Deps {
    match var {
        Var::Q => 1,
        Var::K => 2,
        Var::Score => 4,
        Var::Slot => 8,
        Var::Head => 16,
        // Two loops that share a bit are only thought to depend on each other.
        Var::Loop(n) => 32 << (n % 59),
        _ => 0,
    }
}

/// One nested region of code.
#[derive(Default)]
struct Scope {
    /// The instruction that entered the scope inside this one; code of this scope goes before it.
    entered: Option<Inst>,
    /// Variables bound here.
    binds: Deps,
    values: FxHashMap<(Var, Form), Value>,
    memo: FxHashMap<(ExprId, Form), Value>,
    /// Quotients and remainders, floored, by dividend and divisor.
    divisions: FxHashMap<(Value, ExprId), (Value, Value)>,
    /// Divisors that are not 0.
    divisors: FxHashMap<ExprId, Value>,
}

/// Builds one function.
pub(crate) struct Emitter<'a> {
    program: &'a Program,
    callees: &'a Callees,
    func: Function,
    conv: CallConv,
    /// Where code of the innermost scope goes.
    block: Block,
    scopes: Vec<Scope>,
    signatures: Vec<(&'static [Arg], Option<Arg>, SigRef)>,
    /// Dependencies of every expression of the arena.
    deps: Vec<Deps>,
    /// Bounds of integers, for those that have been asked.
    ranges: FxHashMap<ExprId, (i64, i64)>,
    /// What has been read of constant memory, by address and offset.
    parts: FxHashMap<(Value, i32), Value>,
    uses: Uses,
    tensors: BTreeMap<usize, usize>,
    /// What elements of rows differ by: queries and scores, or keys while rows of keys are made.
    across: Deps,
    /// Elements of rows that differ from query to query.
    lanes: Option<Value>,
    /// How rows hold several keys, if they do.
    side_by_side: Option<rows::SideBySide>,
    /// An expression whose row is to be made at this address.
    target: Option<(ExprId, Value)>,
    /// Why there will be no function, if so.
    refused: Option<String>,
    ctx: Value,
    scratch: Value,
}

/// Loads and stores of memory that is known to be there and aligned.
fn trusted() -> MemFlagsData {
    MemFlagsData::trusted()
}

/// Loads of what no compiled code writes.
fn constant() -> MemFlagsData {
    MemFlagsData::trusted().with_readonly().with_can_move()
}

fn ty(arg: Arg) -> Type {
    match arg {
        Arg::Ptr | Arg::I64 => I64,
        Arg::F32 => F32,
        Arg::F32X4 => F32X4,
    }
}

impl<'a> Emitter<'a> {
    /// A function `(ctx, scratch, tile)` with or without an integer result, and its third parameter.
    fn new(program: &'a Program, callees: &'a Callees, conv: CallConv, returns: bool) -> (Emitter<'a>, Value) {
        let mut func = Function::new();
        func.signature = signature(conv, &[Arg::Ptr, Arg::Ptr, Arg::I64], returns.then_some(Arg::I64));
        let block = func.dfg.make_block();
        func.layout.append_block(block);
        let [ctx, scratch, tile] = [I64; 3].map(|t| func.dfg.append_block_param(block, t));
        let emitter = Emitter {
            program,
            callees,
            func,
            conv,
            block,
            scopes: vec![Scope::default()],
            signatures: Vec::new(),
            deps: dependencies(&program.exprs, !dep(Var::Head)),
            ranges: FxHashMap::default(),
            parts: FxHashMap::default(),
            uses: Uses::default(),
            tensors: BTreeMap::new(),
            across: expr::LANES,
            lanes: None,
            side_by_side: None,
            target: None,
            refused: None,
            ctx,
            scratch,
        };
        (emitter, tile)
    }

    /// The finished function and what it reads of an environment.
    fn finish(mut self) -> Result<(Function, Uses), CompileError> {
        if let Some(what) = self.refused {
            return Err(CompileError::Unsupported(what));
        }
        self.uses.tensors = self.tensors.into_iter().collect();
        let Uses { sizes, maps, draws, orders, positions, levels, .. } = &mut self.uses;
        for list in [sizes, maps, draws, orders, positions, levels] {
            list.sort_unstable();
            list.dedup();
        }
        Ok((self.func, self.uses))
    }

    /// From now on lanes are of several heads: where a scope binds the head it is that of a lane, elsewhere the launch's.
    fn heads_differ(&mut self) {
        self.deps = dependencies(&self.program.exprs, !0);
    }

    /// The innermost scope.
    fn inner(&self) -> usize {
        self.scopes.len() - 1
    }

    /// An instruction of scope `scope`.
    fn at(&mut self, scope: usize) -> Ins<'_> {
        let cursor = FuncCursor::new(&mut self.func);
        let cursor = match self.scopes[scope].entered {
            Some(inst) => cursor.at_inst(inst),
            None => cursor.at_bottom(self.block),
        };
        Ins(cursor)
    }

    /// An instruction of the innermost scope.
    fn ins(&mut self) -> Ins<'_> {
        let inner = self.inner();
        self.at(inner)
    }

    fn int(&mut self, value: i64) -> Value {
        self.ins().get().iconst(I64, value)
    }

    /// A field of a struct of [`crate::layout`].
    fn field(&mut self, base: Value, offset: usize, ty: Type) -> Value {
        self.ins().get().load(ty, trusted(), base, offset as i32)
    }

    /// Memory of the function's own, from a cache line on, known from scope `scope` on.
    fn on_stack(&mut self, bytes: usize, scope: usize) -> Value {
        // Cache lines are 64 bytes.
        let data = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes as u32, 6);
        let slot = self.func.create_sized_stack_slot(data);
        self.at(scope).get().stack_addr(I64, slot, 0)
    }

    fn call_at(&mut self, scope: usize, (place, args, ret): Callee, values: &[Value]) -> Option<Value> {
        let known = self.signatures.iter().find(|(a, r, _)| *a == args && *r == ret).map(|&(.., sig)| sig);
        let sig = known.unwrap_or_else(|| {
            let sig = self.func.import_signature(signature(self.conv, args, ret));
            self.signatures.push((args, ret, sig));
            sig
        });
        let callees = self.context(std::mem::offset_of!(Ctx, callees));
        let callee = self.part(callees, 0, place * size_of::<usize>());
        let inst = self.at(scope).get().call_indirect(sig, callee, values);
        ret.map(|_| self.func.dfg.first_result(inst))
    }

    /// A call of a stage.
    fn stage(&mut self, stage: Stage, args: &[Value]) -> Option<Value> {
        self.call_at(self.inner(), stage.entry(), args)
    }

    /// A call of a helper that returns an integer, in scope `scope`.
    fn support_at(&mut self, scope: usize, name: &str, args: &[Value]) -> Value {
        let callee = self.callees.support[name];
        self.call_at(scope, callee, args).expect("the helper returns an integer")
    }

    /// A call of a helper that returns an integer.
    fn support(&mut self, name: &str, args: &[Value]) -> Value {
        self.support_at(self.inner(), name, args)
    }

    /// A call of a helper that returns nothing.
    fn support_unit(&mut self, name: &str, args: &[Value]) {
        let callee = self.callees.support[name];
        self.call_at(self.inner(), callee, args);
    }

    fn new_block(&mut self, params: &[Type]) -> (Block, Vec<Value>) {
        let block = self.func.dfg.make_block();
        let values = params.iter().map(|&t| self.func.dfg.append_block_param(block, t)).collect();
        (block, values)
    }

    fn types(&self, values: &[Value]) -> Vec<Type> {
        values.iter().map(|&v| self.func.dfg.value_type(v)).collect()
    }

    /// Continues in `block`.
    fn switch_to(&mut self, block: Block) {
        self.func.layout.append_block(block);
        self.block = block;
    }

    fn jump(&mut self, to: Block, args: &[Value]) -> Inst {
        self.ins().get().jump(to, &args_of(args))
    }

    fn brif(&mut self, cond: Value, then: (Block, &[Value]), other: (Block, &[Value])) -> Inst {
        self.ins().get().brif(cond, then.0, &args_of(then.1), other.0, &args_of(other.1))
    }

    /// Opens a scope that was entered by `by`.
    fn enter(&mut self, by: Inst, binds: &[(Var, Form, Value)]) {
        let inner = self.inner();
        self.scopes[inner].entered = Some(by);
        let bits = binds.iter().fold(0, |bits, (var, ..)| bits | dep(*var));
        let values = binds.iter().map(|&(var, form, value)| ((var, form), value)).collect();
        self.scopes.push(Scope { binds: bits, values, ..Scope::default() });
    }

    /// Binds a variable in the innermost scope.
    fn bind(&mut self, var: Var, form: Form, value: Value) {
        let scope = self.scopes.last_mut().expect("a function has a scope");
        scope.binds |= dep(var);
        scope.values.insert((var, form), value);
    }

    /// Closes the innermost scope; what follows goes to `block`.
    fn leave(&mut self, block: Block) {
        self.scopes.pop();
        let inner = self.inner();
        self.scopes[inner].entered = None;
        self.switch_to(block);
    }

    /// `while cond(state) { state = body(state) }`, in a scope of its own; the last state.
    fn loop_while(
        &mut self,
        state: &[Value],
        cond: impl FnOnce(&mut Self, &[Value]) -> Value,
        body: impl FnOnce(&mut Self, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let types = self.types(state);
        let (header, params) = self.new_block(&types);
        let (inside, _) = self.new_block(&[]);
        let (exit, _) = self.new_block(&[]);
        let entry = self.jump(header, state);
        self.enter(entry, &[]);
        self.switch_to(header);
        let go_on = cond(self, &params);
        self.brif(go_on, (inside, &[]), (exit, &[]));
        self.switch_to(inside);
        let next = body(self, &params);
        self.jump(header, &next);
        self.leave(exit);
        params
    }

    /// `for v in from .. to step by { state = body(v, state) }`, in a scope of its own; the last state.
    fn loop_for(
        &mut self,
        (from, to): (Value, Value),
        by: i64,
        state: &[Value],
        body: impl FnOnce(&mut Self, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let all: Vec<Value> = [from].iter().chain(state).copied().collect();
        let mut last = self.loop_while(
            &all,
            |e, s| e.ins().get().icmp(IntCC::SignedLessThan, s[0], to),
            |e, s| {
                let state = body(e, s[0], &s[1..]);
                let next = e.ins().get().iadd_imm_s(s[0], by);
                std::iter::once(next).chain(state).collect()
            },
        );
        last.remove(0);
        last
    }

    /// `if cond { state = body() }`, in a scope of its own; the state after it.
    fn when(&mut self, cond: Value, state: &[Value], body: impl FnOnce(&mut Self) -> Vec<Value>) -> Vec<Value> {
        let types = self.types(state);
        let (then, _) = self.new_block(&[]);
        let (after, params) = self.new_block(&types);
        let entry = self.brif(cond, (then, &[]), (after, state));
        self.enter(entry, &[]);
        self.switch_to(then);
        let state = body(self);
        self.jump(after, &state);
        self.leave(after);
        params
    }

    /// Notes that the plan cannot be compiled, and goes on with a value of no meaning.
    fn refuse(&mut self, what: impl Into<String>, ty: Type) -> Value {
        self.refused.get_or_insert(what.into());
        let mut at = self.at(0);
        if ty == F32 { at.get().f32const(0.0) } else { at.get().iconst(ty, 0) }
    }
}

/// A place for one instruction.
struct Ins<'f>(FuncCursor<'f>);

impl<'f> Ins<'f> {
    fn get(&mut self) -> InsertBuilder<'_, &mut FuncCursor<'f>> {
        self.0.ins()
    }
}

fn args_of(values: &[Value]) -> Vec<BlockArg> {
    values.iter().map(|&v| BlockArg::Value(v)).collect()
}

fn signature(conv: CallConv, args: &[Arg], ret: Option<Arg>) -> Signature {
    let mut sig = Signature::new(conv);
    sig.params.extend(args.iter().map(|&a| AbiParam::new(ty(a))));
    sig.returns.extend(ret.map(|a| AbiParam::new(ty(a))));
    sig
}

/// Dependencies of every expression on some variables; operands come before their users.
fn dependencies(exprs: &Exprs, among: Deps) -> Vec<Deps> {
    let mut deps: Vec<Deps> = Vec::with_capacity(exprs.len());
    for i in 0..exprs.len() {
        let id = ExprId(i as u32);
        let own = match *exprs.node(id) {
            Node::Var(v) => dep(v) & among,
            _ => exprs.operands(id).iter().fold(0, |bits, o| bits | deps[o.0 as usize]),
        };
        deps.push(own);
    }
    deps
}
