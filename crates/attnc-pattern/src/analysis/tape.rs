//! Expressions compiled to a list of instructions over numbered slots.
//!
//! Instructions are grouped by the innermost variable they depend on: those of the environment run once, those
//! of the query once a row, those of a loop once an iteration, those of the key once a key. Evaluation is total
//! and eager, so a value that nobody needs may be anything: division by zero gives 0, an index outside of its
//! data gives 0, false or, of a tensor, the nearest element; an overflow is remembered and makes the row an error.

use rustc_hash::FxHashMap;

use crate::build::{floor_div, floor_mod};
use crate::env::{Env, MapData};
use crate::expr::{Bin, Cmp, ExprId, Exprs, Node, Ty, Un, Var};
use crate::program::{DrawScope, Program};

/// Why a row cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvalError {
    /// An integer does not fit in 64 bits.
    Overflow {
        /// Position of the query, or of the first query of the tile.
        q: i64,
    },
    /// The set reads data that the environment lacks.
    Missing {
        /// What is missing: its kind and name.
        what: String,
    },
}

impl std::fmt::Display for EvalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EvalError::Overflow { q } => write!(f, "an integer of the row of query {q} does not fit in 64 bits"),
            EvalError::Missing { what } => write!(f, "{what} was not given"),
        }
    }
}

impl std::error::Error for EvalError {}

/// A slot of a tape.
pub(super) type Slot = usize;

/// Level of expressions over lengths, coordinates and data alone.
const ENV: u8 = 0;
/// Level of expressions over the query.
const ROW: u8 = 1;
/// Level of expressions over the outermost loop.
const LOOP: u8 = 2;
/// Level of expressions over the key.
const KEY: u8 = u8::MAX;

#[derive(Clone, Copy, Debug)]
enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Min,
    Max,
    Real(Bin),
    Lt,
    Le,
    Eq,
    Ne,
    RealCmp(Cmp),
    And,
    Or,
    Not,
    Select,
    Un(Un),
    RealUn(Un),
    /// Table by number.
    Table(u32),
    /// Tensor by number, its indices by place in [`Tape::indices`].
    Load(u32, u32),
    MapAt(u32),
    Drawn(u32),
    DrawAt(u32),
}

#[derive(Clone, Copy, Debug)]
struct Instr {
    op: Op,
    dst: u32,
    a: u32,
    b: u32,
    c: u32,
}

/// A run of instructions.
pub(super) type Code = std::ops::Range<usize>;

/// Compiled expressions.
#[derive(Clone, Debug, Default)]
pub(super) struct Tape {
    code: Vec<Instr>,
    env: Code,
    row: Code,
    slots: usize,
    constants: Vec<(Slot, i64)>,
    vars: Vec<(Slot, Var)>,
    q: Option<Slot>,
    q_lo: Option<Slot>,
    q_hi: Option<Slot>,
    pub(super) key: Option<Slot>,
    loops: Vec<Option<Slot>>,
    indices: Vec<Vec<Slot>>,
    tables: Vec<Vec<i64>>,
    draw_scopes: Vec<DrawScope>,
    needs: Vec<Need>,
}

/// Data that an environment must have.
#[derive(Clone, Debug, PartialEq)]
struct Need {
    kind: Kind,
    index: usize,
    what: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Size,
    Docs,
    Map,
    Csr,
    Draw,
    Order,
    Place,
    Tensor(usize),
    Level,
}

/// Compiles expressions; [`Builder::slot`] says where a value will be.
pub(super) struct Builder<'p> {
    program: &'p Program,
    tape: Tape,
    slots: FxHashMap<ExprId, Slot>,
    levels: FxHashMap<ExprId, u8>,
    pending: Vec<(u8, ExprId, Instr)>,
}

impl<'p> Builder<'p> {
    /// A builder of a tape that can compute all of `roots`.
    pub(super) fn new(program: &'p Program, roots: &[ExprId]) -> Self {
        let mut this = Builder {
            program,
            tape: Tape {
                tables: program.tables.clone(),
                draw_scopes: program.draws.iter().map(|d| d.scope).collect(),
                ..Tape::default()
            },
            slots: FxHashMap::default(),
            levels: FxHashMap::default(),
            pending: vec![],
        };
        for id in program.exprs.reachable(roots) {
            this.compile(id);
        }
        this.tape.env = this.emit(ENV, None);
        this.tape.row = this.emit(ROW, None);
        this
    }

    /// Where the value of a root is after its level has run.
    pub(super) fn slot(&self, id: ExprId) -> Slot {
        self.slots[&id]
    }

    /// Code for what `roots` need that depends on loop `depth`, but on nothing further in.
    pub(super) fn loop_code(&mut self, depth: usize, roots: &[ExprId]) -> Code {
        self.emit(LOOP.saturating_add(depth.min(200) as u8), Some(roots))
    }

    /// Code for what `roots` need that depends on the key.
    pub(super) fn key_code(&mut self, roots: &[ExprId]) -> Code {
        self.emit(KEY, Some(roots))
    }

    pub(super) fn finish(self) -> Tape {
        self.tape
    }

    fn emit(&mut self, level: u8, roots: Option<&[ExprId]>) -> Code {
        let from = self.tape.code.len();
        let wanted: Option<Vec<ExprId>> = roots.map(|r| self.program.exprs.reachable(r));
        for &(l, id, instr) in &self.pending {
            if l == level && wanted.as_ref().is_none_or(|w| w.binary_search(&id).is_ok()) {
                self.tape.code.push(instr);
            }
        }
        from..self.tape.code.len()
    }

    fn need(&mut self, kind: Kind, index: usize, what: String) {
        let need = Need { kind, index, what };
        if !self.tape.needs.contains(&need) {
            self.tape.needs.push(need);
        }
    }

    fn compile(&mut self, id: ExprId) {
        let exprs: &Exprs = &self.program.exprs;
        let slot = self.tape.slots;
        self.tape.slots += 1;
        self.slots.insert(id, slot);
        let node = exprs.node(id);
        let level = match node {
            Node::Var(Var::Q | Var::QLo | Var::QHi) => ROW,
            Node::Var(Var::Loop(n)) => LOOP.saturating_add((*n).min(200) as u8),
            // What is read of keys reads no channels, and the other way round.
            Node::Var(Var::K | Var::Channel) => KEY,
            _ => exprs.operands(id).iter().map(|o| self.levels[o]).max().unwrap_or(ENV),
        };
        self.levels.insert(id, level);
        let at = |e: &ExprId| self.slots[e] as u32;
        let real = |e: &ExprId| exprs.ty(*e) == Ty::Real;
        let (op, a, b, c) = match node {
            Node::Int(v) => return self.tape.constants.push((slot, *v)),
            Node::Real(bits) => return self.tape.constants.push((slot, *bits as i64)),
            Node::Bool(v) => return self.tape.constants.push((slot, i64::from(*v))),
            Node::Var(v) => return self.variable(slot, *v),
            Node::Un(op, a) => match op {
                Un::Table(t) => (Op::Table(t.0), at(a), 0, 0),
                Un::Neg | Un::Abs if real(a) => (Op::RealUn(*op), at(a), 0, 0),
                Un::Exp | Un::Log | Un::Sqrt | Un::Tanh | Un::ToReal => (Op::RealUn(*op), at(a), 0, 0),
                _ => (Op::Un(*op), at(a), 0, 0),
            },
            Node::Bin(op, a, b) => {
                let kind = match op {
                    _ if real(a) => Op::Real(*op),
                    Bin::Add => Op::Add,
                    Bin::Sub => Op::Sub,
                    Bin::Mul => Op::Mul,
                    Bin::Div => Op::Div,
                    Bin::Mod => Op::Mod,
                    Bin::Min => Op::Min,
                    Bin::Max => Op::Max,
                };
                (kind, at(a), at(b), 0)
            }
            Node::Cmp(op, a, b) => {
                let kind = match op {
                    _ if real(a) => Op::RealCmp(*op),
                    Cmp::Lt => Op::Lt,
                    Cmp::Le => Op::Le,
                    Cmp::Eq => Op::Eq,
                    Cmp::Ne => Op::Ne,
                };
                (kind, at(a), at(b), 0)
            }
            Node::And(xs) | Node::Or(xs) => {
                let kind = if matches!(node, Node::And(_)) { Op::And } else { Op::Or };
                // A chain: every step but the last has a slot of its own.
                let (mut left, last) = (at(&xs[0]), xs.len() - 1);
                let operands: Vec<u32> = xs.iter().map(at).collect();
                for &right in &operands[1..last] {
                    let dst = self.tape.slots as u32;
                    self.tape.slots += 1;
                    self.pending.push((level, id, Instr { op: kind, dst, a: left, b: right, c: 0 }));
                    left = dst;
                }
                (kind, left, operands[last], 0)
            }
            Node::Not(a) => (Op::Not, at(a), 0, 0),
            Node::Select(c, a, b) => (Op::Select, at(a), at(b), at(c)),
            Node::Load(t, xs) => {
                let indices = xs.iter().map(|x| self.slots[x]).collect();
                self.tape.indices.push(indices);
                (Op::Load(t.0, self.tape.indices.len() as u32 - 1), 0, 0, 0)
            }
            Node::MapAt(m, a, b) => (Op::MapAt(m.0), at(a), at(b), 0),
            Node::Drawn(d, a, b) => (Op::Drawn(d.0), at(a), at(b), 0),
            Node::DrawAt(d, a, b) => (Op::DrawAt(d.0), at(a), at(b), 0),
        };
        self.pending.push((level, id, Instr { op, dst: slot as u32, a, b, c }));
        match node {
            Node::Un(Un::DocOf | Un::DocBegin | Un::DocEnd, _) => {
                self.need(Kind::Docs, 0, "document offsets".to_owned())
            }
            Node::Un(Un::CsrBegin(m) | Un::CsrIndex(m) | Un::PartOf(m), _) => {
                let what = format!("map `{}` in compressed rows", self.program.map(*m).name);
                self.need(Kind::Csr, m.0 as usize, what);
            }
            Node::Un(Un::OrderIndex(o), _) => {
                let what = format!("order `{}`", self.program.order(*o).name);
                self.need(Kind::Order, o.0 as usize, what);
            }
            Node::Un(Un::OrderPosition(o), _) => {
                let what = format!("order `{}`", self.program.order(*o).name);
                self.need(Kind::Place, o.0 as usize, what);
            }
            Node::Un(Un::SlotLast(l), _) => {
                let what = format!("slots of level `{}`", self.program.level(*l).name);
                self.need(Kind::Level, l.0 as usize, what);
            }
            Node::Un(Un::DrawCount(d), _) => {
                self.need(Kind::Draw, d.0 as usize, format!("choice {}", d.0));
            }
            Node::MapAt(m, ..) => {
                let what = format!("map `{}`", self.program.map(*m).name);
                self.need(Kind::Map, m.0 as usize, what);
            }
            Node::Drawn(d, ..) | Node::DrawAt(d, ..) => {
                self.need(Kind::Draw, d.0 as usize, format!("choice {}", d.0));
            }
            Node::Load(t, xs) => {
                let what = format!("tensor `{}`", self.program.tensor(*t).name);
                self.need(Kind::Tensor(xs.len()), t.0 as usize, what);
            }
            _ => {}
        }
    }

    fn variable(&mut self, slot: Slot, var: Var) {
        match var {
            Var::Q => self.tape.q = Some(slot),
            Var::QLo => self.tape.q_lo = Some(slot),
            Var::QHi => self.tape.q_hi = Some(slot),
            Var::K | Var::Channel => self.tape.key = Some(slot),
            Var::Loop(n) => {
                let n = n as usize;
                if self.tape.loops.len() <= n {
                    self.tape.loops.resize(n + 1, None);
                }
                self.tape.loops[n] = Some(slot);
            }
            _ => {
                if let Var::Size(s) = var {
                    let name = self.program.sizes.get(s.0 as usize).map_or("?", |s| s.name.as_str());
                    self.need(Kind::Size, s.0 as usize, format!("size `{name}`"));
                }
                self.tape.vars.push((slot, var));
            }
        }
    }
}

impl Tape {
    /// Of what depends on the query alone, the slots among those given, and those that instructions of `codes` read.
    pub(super) fn of_row(&self, slots: impl Iterator<Item = Slot>, codes: impl Iterator<Item = Code>) -> Vec<Slot> {
        let mut read = vec![false; self.slots];
        slots.for_each(|slot| read[slot] = true);
        for instr in codes.flat_map(|code| &self.code[code]) {
            let all = [instr.a, instr.b, instr.c].map(|slot| slot as usize);
            let operands = match instr.op {
                Op::Load(_, at) => &self.indices[at as usize][..],
                Op::Select => &all,
                Op::Not | Op::Un(_) | Op::RealUn(_) | Op::Table(_) => &all[..1],
                _ => &all[..2],
            };
            operands.iter().for_each(|&slot| read[slot] = true);
        }
        let of_row = self.code[self.row.clone()].iter().map(|instr| instr.dst as usize);
        of_row.chain(self.q).filter(|&slot| read[slot]).collect()
    }

    fn check(&self, env: &Env<'_>) -> Result<(), EvalError> {
        for need in &self.needs {
            let given = match need.kind {
                Kind::Size => env.sizes.len() > need.index,
                Kind::Docs => env.docs.len() > 1,
                Kind::Map => !matches!(env.maps.get(need.index), None | Some(MapData::Absent)),
                Kind::Csr => matches!(env.maps.get(need.index), Some(MapData::Csr { .. })),
                Kind::Draw => env.draws.len() > need.index,
                Kind::Level => env.levels.len() > need.index,
                Kind::Order => env.orders.len() > need.index,
                Kind::Place => env.positions.len() > need.index,
                Kind::Tensor(rank) => env.tensors.get(need.index).is_some_and(|t| t.dims.len() == rank),
            };
            if !given {
                return Err(EvalError::Missing { what: need.what.clone() });
            }
        }
        Ok(())
    }
}

/// Slots of one tape in one environment.
#[derive(Clone, Debug)]
pub(super) struct Machine<'a> {
    tape: &'a Tape,
    env: &'a Env<'a>,
    slots: Vec<i64>,
    /// An integer did not fit since the start of the row.
    overflow: bool,
    overflow_in_env: bool,
}

impl<'a> Machine<'a> {
    pub(super) fn new(tape: &'a Tape, env: &'a Env<'a>) -> Result<Self, EvalError> {
        tape.check(env)?;
        let mut slots = vec![0; tape.slots];
        for &(slot, v) in &tape.constants {
            slots[slot] = v;
        }
        for &(slot, var) in &tape.vars {
            slots[slot] = match var {
                Var::QStart => env.q_start,
                Var::KStart => env.k_start,
                Var::NQ => env.n_q,
                Var::NK => env.n_k,
                Var::Head => env.head,
                Var::Heads => env.heads,
                Var::Layer => env.layer,
                Var::Step => env.step,
                Var::Dim => env.dim,
                Var::Docs => (env.docs.len() as i64 - 1).max(0),
                Var::Size(s) => env.sizes[s.0 as usize],
                Var::Class => env.residue(),
                Var::Modulus => env.modulus(),
                Var::Given(extent) => env.given(extent),
                Var::Branch => env.branch,
                Var::Parts(m) => env.parts(m),
                Var::Score | Var::Slot | Var::Channel | Var::Q | Var::K | Var::Loop(_) | Var::QLo | Var::QHi => 0,
            };
        }
        let mut this = Machine { tape, env, slots, overflow: false, overflow_in_env: false };
        this.run(&tape.env);
        this.overflow_in_env = this.overflow;
        Ok(this)
    }

    pub(super) fn env(&self) -> &'a Env<'a> {
        self.env
    }

    #[inline]
    pub(super) fn get(&self, slot: Slot) -> i64 {
        self.slots[slot]
    }

    #[inline]
    pub(super) fn holds(&self, slot: Slot) -> bool {
        self.slots[slot] != 0
    }

    pub(super) fn overflowed(&self) -> bool {
        self.overflow
    }

    pub(super) fn fail(&mut self) {
        self.overflow = true;
    }

    pub(super) fn set_row(&mut self, q: i64) {
        self.overflow = self.overflow_in_env;
        if let Some(slot) = self.tape.q {
            self.slots[slot] = q;
        }
        self.run(&self.tape.row);
    }

    pub(super) fn set_tile(&mut self, q_lo: i64, q_hi: i64) {
        self.overflow = self.overflow_in_env;
        if let Some(slot) = self.tape.q_lo {
            self.slots[slot] = q_lo;
        }
        if let Some(slot) = self.tape.q_hi {
            self.slots[slot] = q_hi;
        }
        self.run(&self.tape.row);
    }

    pub(super) fn set_loop(&mut self, n: usize, v: i64, code: &Code) {
        if let Some(Some(slot)) = self.tape.loops.get(n) {
            self.slots[*slot] = v;
        }
        self.run(code);
    }

    pub(super) fn set_key(&mut self, k: i64, code: &Code) {
        if let Some(slot) = self.tape.key {
            self.slots[slot] = k;
        }
        self.run(code);
    }

    fn run(&mut self, code: &Code) {
        let tape = self.tape;
        for i in &tape.code[code.clone()] {
            let (a, b) = (self.slots[i.a as usize], self.slots[i.b as usize]);
            let value = match i.op {
                Op::Add => self.fits(a.checked_add(b)),
                Op::Sub => self.fits(a.checked_sub(b)),
                Op::Mul => self.fits(a.checked_mul(b)),
                Op::Div if b == 0 => 0,
                Op::Mod if b == 0 => 0,
                Op::Div => self.fits(floor_div(a, b)),
                Op::Mod => self.fits(floor_mod(a, b)),
                Op::Min => a.min(b),
                Op::Max => a.max(b),
                Op::Lt => i64::from(a < b),
                Op::Le => i64::from(a <= b),
                Op::Eq => i64::from(a == b),
                Op::Ne => i64::from(a != b),
                Op::And => a & b,
                Op::Or => a | b,
                Op::Not => 1 - a,
                Op::Select => {
                    if self.slots[i.c as usize] != 0 {
                        a
                    } else {
                        b
                    }
                }
                Op::Un(op) => self.unary(op, a),
                Op::Table(t) => element(&tape.tables[t as usize], a),
                Op::Real(op) => real(op, f64::from_bits(a as u64), f64::from_bits(b as u64)).to_bits() as i64,
                Op::RealUn(op) => real_unary(op, a).to_bits() as i64,
                Op::RealCmp(op) => {
                    let (a, b) = (f64::from_bits(a as u64), f64::from_bits(b as u64));
                    i64::from(match op {
                        Cmp::Lt => a < b,
                        Cmp::Le => a <= b,
                        Cmp::Eq => a == b,
                        Cmp::Ne => a != b,
                    })
                }
                Op::Load(t, at) => self.load(t, &tape.indices[at as usize]).to_bits() as i64,
                Op::MapAt(m) => i64::from(self.map_at(m, a, b)),
                Op::Drawn(d) => i64::from(b >= 0 && self.draw(d, a).binary_search(&b).is_ok()),
                Op::DrawAt(d) => self.draw_at(d, a, b),
            };
            self.slots[i.dst as usize] = value;
        }
    }

    #[inline]
    fn fits(&mut self, v: Option<i64>) -> i64 {
        match v {
            Some(v) => v,
            None => {
                self.overflow = true;
                0
            }
        }
    }

    fn unary(&mut self, op: Un, a: i64) -> i64 {
        let docs = self.env.docs;
        let csr = |m: u32| match self.env.maps.get(m as usize) {
            Some(&MapData::Csr { indptr, indices }) => (indptr, indices),
            _ => (&[] as &[i64], &[] as &[i64]),
        };
        match op {
            Un::Neg => self.fits(a.checked_neg()),
            Un::Abs => self.fits(a.checked_abs()),
            Un::Pow2 => {
                if (0..62).contains(&a) {
                    1 << a
                } else {
                    0
                }
            }
            Un::Log2 => a.checked_ilog2().map_or(-1, i64::from),
            Un::Isqrt => a.checked_isqrt().unwrap_or(-1),
            // Positions before and after all documents count as in documents -1 and `docs`.
            Un::DocOf => docs.partition_point(|&begin| begin <= a) as i64 - 1,
            Un::DocBegin => clamped(docs, a),
            Un::DocEnd => clamped(docs, a.saturating_add(1)),
            Un::OrderIndex(o) => {
                let order = &self.env.orders[o.0 as usize];
                usize::try_from(a).ok().and_then(|i| order.get(i)).map_or(a, |&i| i64::from(i))
            }
            Un::OrderPosition(o) => {
                let order = &self.env.positions[o.0 as usize];
                usize::try_from(a).ok().and_then(|i| order.get(i)).map_or(a, |&i| i64::from(i))
            }
            Un::CsrBegin(m) => element(csr(m.0).0, a),
            Un::CsrIndex(m) => element(csr(m.0).1, a),
            // Positions beyond the last part count as one more, as for documents.
            Un::PartOf(m) => csr(m.0).0.partition_point(|&begin| begin <= a) as i64 - 1,
            Un::SlotLast(l) => element(&self.env.levels[l.0 as usize].last, a),
            Un::DrawCount(d) => self.draw(d.0, a).len() as i64,
            Un::Table(_) | Un::ToReal | Un::Exp | Un::Log | Un::Sqrt | Un::Tanh => 0,
        }
    }

    fn map_at(&self, m: u32, row: i64, col: i64) -> bool {
        let (Ok(row), Ok(column)) = (usize::try_from(row), usize::try_from(col)) else { return false };
        match self.env.maps[m as usize] {
            MapData::Absent => false,
            MapData::Dense { data, cols } => {
                column < cols && row.checked_mul(cols).and_then(|at| data.get(at + column)).is_some_and(|&x| x != 0)
            }
            MapData::Csr { indptr, indices } => {
                let bounds = indptr.get(row).zip(indptr.get(row + 1));
                let of_row =
                    bounds.and_then(|(&a, &b)| indices.get(usize::try_from(a).ok()?..usize::try_from(b).ok()?));
                of_row.is_some_and(|cols| cols.binary_search(&col).is_ok())
            }
        }
    }

    /// What was chosen for a row: entries that ascend, and behind them what fills the row up, which is negative.
    fn drawn(&self, d: u32, row: i64) -> &[i64] {
        let table = &self.env.draws[d as usize];
        let row = match self.tape.draw_scopes[d as usize] {
            DrawScope::Head => 0,
            DrawScope::Row => row.wrapping_sub(table.first),
        };
        let from = usize::try_from(row).ok().and_then(|r| r.checked_mul(table.count));
        from.and_then(|from| table.chosen.get(from..from.checked_add(table.count)?)).unwrap_or(&[])
    }

    fn draw(&self, d: u32, row: i64) -> &[i64] {
        let all = self.drawn(d, row);
        &all[..all.partition_point(|&c| c >= 0)]
    }

    fn draw_at(&self, d: u32, row: i64, at: i64) -> i64 {
        let found = usize::try_from(at).ok().and_then(|at| self.drawn(d, row).get(at));
        found.map_or(-1, |&c| c.max(-1))
    }

    fn load(&self, t: u32, indices: &[Slot]) -> f64 {
        let tensor = &self.env.tensors[t as usize];
        let mut at = 0;
        for (&slot, &extent) in indices.iter().zip(&tensor.dims) {
            match usize::try_from(self.slots[slot]) {
                Ok(i) if i < extent => at = at * extent + i,
                _ if extent == 0 => return f64::NAN,
                // Beyond its data a tensor reads the nearest element.
                Ok(_) => at = at * extent + extent - 1,
                Err(_) => at = at * extent + if self.slots[slot] < 0 { 0 } else { extent - 1 },
            }
        }
        tensor.data.get(at).map_or(f64::NAN, |&x| f64::from(x))
    }
}

fn element(items: &[i64], at: i64) -> i64 {
    usize::try_from(at).ok().and_then(|i| items.get(i)).copied().unwrap_or(0)
}

fn clamped(offsets: &[i64], at: i64) -> i64 {
    let last = offsets.len() as i64 - 1;
    element(offsets, at.clamp(0, last))
}

fn real(op: Bin, a: f64, b: f64) -> f64 {
    match op {
        Bin::Add => a + b,
        Bin::Sub => a - b,
        Bin::Mul => a * b,
        Bin::Div => a / b,
        Bin::Mod => f64::NAN,
        Bin::Min | Bin::Max if a.is_nan() || b.is_nan() => f64::NAN,
        Bin::Min => a.min(b),
        Bin::Max => a.max(b),
    }
}

fn real_unary(op: Un, a: i64) -> f64 {
    let x = f64::from_bits(a as u64);
    match op {
        Un::Neg => -x,
        Un::Abs => x.abs(),
        Un::Exp => x.exp(),
        Un::Log => x.ln(),
        Un::Sqrt => x.sqrt(),
        Un::Tanh => x.tanh(),
        Un::ToReal => a as f64,
        _ => f64::NAN,
    }
}
