//! What an expression is worth at one query, key, score and slot.
//!
//! Evaluation is total: a division by zero or an index out of range is the value of its node, and spreads
//! to those that need it. `And` is false if any operand is false, `Or` true if any is true, `Select` needs
//! only the branch it takes: what an expression is worth does not depend on the order of its operands.
//!
//! Operands have smaller ids than their users, so one pass over the reachable nodes suffices; nodes are
//! grouped by the innermost variable they read, and only groups whose variable moved are computed again.

use super::fault::{EvalError, FaultKind, Point};
use super::value::{Value, at, binary, compare, unary};
use crate::env::{DrawTable, Env, MapData};
use crate::expr::{DrawId, ExprId, MapId, Node, TensorId, Un, Var};
use crate::program::{DrawScope, Program};

/// The node at which a value was lost.
#[derive(Clone, Copy, Debug)]
struct Fault {
    at: ExprId,
    kind: FaultKind,
}

type Cell = Result<Value, Fault>;

/// Groups of nodes, by innermost variable read: none, the query, the key, the score or slot.
const LEVELS: usize = 4;

/// Values of all nodes under some roots, at the point last asked for.
pub struct Evaluator<'a> {
    program: &'a Program,
    env: &'a Env<'a>,
    levels: [Vec<ExprId>; LEVELS],
    cells: Vec<Cell>,
    point: Point,
}

impl<'a> Evaluator<'a> {
    /// An evaluator of `roots` and of everything they are made of.
    #[must_use]
    pub fn new(program: &'a Program, env: &'a Env<'a>, roots: &[ExprId]) -> Self {
        let exprs = &program.exprs;
        let mut level_of = vec![0_u8; exprs.len()];
        let mut levels: [Vec<ExprId>; LEVELS] = Default::default();
        for id in exprs.reachable(roots) {
            let level = match exprs.node(id) {
                Node::Var(Var::Q) => 1,
                Node::Var(Var::K) => 2,
                Node::Var(Var::Score | Var::Slot) => 3,
                _ => exprs.operands(id).iter().map(|o| level_of[o.0 as usize]).max().unwrap_or(0),
            };
            level_of[id.0 as usize] = level;
            levels[usize::from(level)].push(id);
        }
        let unset = Err(Fault { at: ExprId(0), kind: FaultKind::Unbound });
        let mut this = Evaluator { program, env, levels, cells: vec![unset; exprs.len()], point: Point::default() };
        this.compute(0);
        this
    }

    /// The value of `root`, one of the roots given to [`Evaluator::new`] or an operand of one.
    pub fn value(&mut self, root: ExprId, point: Point) -> Result<Value, EvalError> {
        let old = std::mem::replace(&mut self.point, point);
        if point.q != old.q {
            self.compute(1);
        } else if point.k != old.k {
            self.compute(2);
        } else if point.score != old.score || point.slot != old.slot {
            self.compute(3);
        }
        self.cell(root).map_err(|fault| self.explain(fault))
    }

    /// The value of an integer root.
    pub fn int(&mut self, root: ExprId, point: Point) -> Result<i128, EvalError> {
        match self.value(root, point)? {
            Value::Int(v) => Ok(v),
            _ => Err(self.explain(Fault { at: root, kind: FaultKind::Kind })),
        }
    }

    /// The value of a real root.
    pub fn real(&mut self, root: ExprId, point: Point) -> Result<f64, EvalError> {
        match self.value(root, point)? {
            Value::Real(v) => Ok(v),
            _ => Err(self.explain(Fault { at: root, kind: FaultKind::Kind })),
        }
    }

    /// The value of a truth root.
    pub fn truth(&mut self, root: ExprId, point: Point) -> Result<bool, EvalError> {
        match self.value(root, point)? {
            Value::Bool(v) => Ok(v),
            _ => Err(self.explain(Fault { at: root, kind: FaultKind::Kind })),
        }
    }

    /// Computes the groups from `first` inwards.
    fn compute(&mut self, first: usize) {
        for level in first..LEVELS {
            for i in 0..self.levels[level].len() {
                let id = self.levels[level][i];
                self.cells[id.0 as usize] = self.node(id);
            }
        }
    }

    fn cell(&self, id: ExprId) -> Cell {
        self.cells[id.0 as usize]
    }

    fn node(&self, id: ExprId) -> Cell {
        let fault = |kind| Fault { at: id, kind };
        match self.program.exprs.node(id) {
            Node::Int(v) => Ok(Value::Int(i128::from(*v))),
            Node::Real(bits) => Ok(Value::Real(f64::from_bits(*bits))),
            Node::Bool(v) => Ok(Value::Bool(*v)),
            Node::Var(v) => self.variable(*v).ok_or(fault(FaultKind::Unbound)),
            Node::Un(op, a) => self.look_up(*op, self.cell(*a)?).map_err(fault),
            Node::Bin(op, a, b) => binary(*op, self.cell(*a)?, self.cell(*b)?).map_err(fault),
            Node::Cmp(op, a, b) => compare(*op, self.cell(*a)?, self.cell(*b)?).map_err(fault),
            Node::And(xs) => self.decided_by(xs, false),
            Node::Or(xs) => self.decided_by(xs, true),
            Node::Not(a) => match self.cell(*a)? {
                Value::Bool(v) => Ok(Value::Bool(!v)),
                _ => Err(fault(FaultKind::Kind)),
            },
            Node::Select(c, a, b) => match self.cell(*c)? {
                Value::Bool(c) => self.cell(if c { *a } else { *b }),
                _ => Err(fault(FaultKind::Kind)),
            },
            Node::Load(tensor, indices) => self.load(id, *tensor, indices),
            Node::MapAt(map, a, b) => {
                let (row, col) = self.two(id, *a, *b)?;
                self.map_at(*map, row, col).map(Value::Bool).map_err(fault)
            }
            Node::Drawn(draw, a, b) => {
                let (row, candidate) = self.two(id, *a, *b)?;
                let chosen = self.drawn(*draw, row).map_err(fault)?;
                Ok(Value::Bool(chosen.iter().any(|&c| c >= 0 && i128::from(c) == candidate)))
            }
            Node::DrawAt(draw, a, b) => {
                let (row, j) = self.two(id, *a, *b)?;
                let chosen = self.drawn(*draw, row).map_err(fault)?;
                at(chosen, j).map(|c| Value::Int(i128::from(c))).map_err(fault)
            }
        }
    }

    fn variable(&self, var: Var) -> Option<Value> {
        let env = self.env;
        let int = match var {
            Var::Q => self.point.q?,
            Var::K => self.point.k?,
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
            Var::Size(id) => *env.sizes.get(id.0 as usize)?,
            Var::Slot => self.point.slot?,
            Var::Score => return self.point.score.map(Value::Real),
            Var::Class => env.residue(),
            Var::Modulus => env.modulus(),
            Var::Given(extent) => env.given(extent),
            Var::Loop(_) | Var::QLo | Var::QHi => return None,
        };
        Some(Value::Int(i128::from(int)))
    }

    /// `decisive` if some operand is; otherwise the first error; otherwise the other truth value.
    fn decided_by(&self, operands: &[ExprId], decisive: bool) -> Cell {
        let mut result = Ok(Value::Bool(!decisive));
        for &x in operands {
            match self.cell(x) {
                Ok(Value::Bool(v)) if v == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => result = result.and(Err(Fault { at: x, kind: FaultKind::Kind })),
                Err(fault) => result = result.and(Err(fault)),
            }
        }
        result
    }

    fn two(&self, id: ExprId, a: ExprId, b: ExprId) -> Result<(i128, i128), Fault> {
        match (self.cell(a)?, self.cell(b)?) {
            (Value::Int(a), Value::Int(b)) => Ok((a, b)),
            _ => Err(Fault { at: id, kind: FaultKind::Kind }),
        }
    }

    /// An operation that reads run-time data or a table; the others are plain arithmetic.
    fn look_up(&self, op: Un, a: Value) -> Result<Value, FaultKind> {
        let int = match (op, a) {
            (Un::DocOf, Value::Int(x)) => {
                let docs = self.documents()?;
                if x < 0 || x >= i128::from(docs[docs.len() - 1]) {
                    return Err(FaultKind::OutOfRange);
                }
                docs.partition_point(|&begin| i128::from(begin) <= x) as i128 - 1
            }
            (Un::DocBegin, Value::Int(x)) => i128::from(at(&self.documents()?[..self.env.docs.len() - 1], x)?),
            (Un::DocEnd, Value::Int(x)) => i128::from(at(&self.documents()?[1..], x)?),
            (Un::OrderIndex(order), Value::Int(x)) => {
                let index = self.env.orders.get(order.0 as usize).ok_or(FaultKind::Missing)?;
                i128::from(at(index, x)?)
            }
            (Un::Table(table), Value::Int(x)) => i128::from(at(&self.program.tables[table.0 as usize], x)?),
            (Un::CsrBegin(map), Value::Int(x)) => i128::from(at(self.csr(map)?.0, x)?),
            (Un::CsrIndex(map), Value::Int(x)) => i128::from(at(self.csr(map)?.1, x)?),
            _ => return unary(op, a),
        };
        Ok(Value::Int(int))
    }

    fn documents(&self) -> Result<&'a [i64], FaultKind> {
        if self.env.docs.is_empty() { Err(FaultKind::Missing) } else { Ok(self.env.docs) }
    }

    fn csr(&self, map: MapId) -> Result<(&'a [i64], &'a [i64]), FaultKind> {
        match self.env.maps.get(map.0 as usize) {
            Some(MapData::Csr { indptr, indices }) => Ok((indptr, indices)),
            _ => Err(FaultKind::Missing),
        }
    }

    fn map_at(&self, map: MapId, row: i128, col: i128) -> Result<bool, FaultKind> {
        match self.env.maps.get(map.0 as usize) {
            None | Some(MapData::Absent) => Err(FaultKind::Missing),
            Some(MapData::Dense { data, cols }) => {
                if col < 0 || col >= *cols as i128 || row < 0 {
                    return Err(FaultKind::OutOfRange);
                }
                Ok(at(data, row * *cols as i128 + col)? != 0)
            }
            Some(MapData::Csr { indptr, indices }) => {
                let (from, to) = (at(indptr, row)?, at(indptr, row + 1)?);
                let columns = usize::try_from(from).ok().zip(usize::try_from(to).ok());
                let columns = columns.and_then(|(from, to)| indices.get(from..to)).ok_or(FaultKind::OutOfRange)?;
                Ok(columns.iter().any(|&c| i128::from(c) == col))
            }
        }
    }

    /// What was drawn for a row.
    fn drawn(&self, id: DrawId, row: i128) -> Result<&[i64], FaultKind> {
        let DrawTable { chosen, count, first, .. } = self.env.draws.get(id.0 as usize).ok_or(FaultKind::Missing)?;
        let row = match self.program.draw(id).scope {
            DrawScope::Head => 0,
            DrawScope::Row => row - i128::from(*first),
        };
        let begin = usize::try_from(row).ok().and_then(|r| r.checked_mul(*count)).ok_or(FaultKind::OutOfRange)?;
        begin.checked_add(*count).and_then(|end| chosen.get(begin..end)).ok_or(FaultKind::OutOfRange)
    }

    fn load(&self, id: ExprId, tensor: TensorId, indices: &[ExprId]) -> Cell {
        let fault = |kind| Fault { at: id, kind };
        let data = self.env.tensors.get(tensor.0 as usize).ok_or(fault(FaultKind::Missing))?;
        if data.dims.len() != indices.len() {
            return Err(fault(FaultKind::Missing));
        }
        let mut offset = 0_usize;
        for (&index, &extent) in indices.iter().zip(&data.dims) {
            let Value::Int(index) = self.cell(index)? else { return Err(fault(FaultKind::Kind)) };
            let index = usize::try_from(index).ok().filter(|&i| i < extent).ok_or(fault(FaultKind::OutOfRange))?;
            offset = offset * extent + index;
        }
        data.data.get(offset).map(|&x| Value::Real(f64::from(x))).ok_or(fault(FaultKind::OutOfRange))
    }

    /// The error in words; the operands of the faulty node still have their values.
    fn explain(&self, fault: Fault) -> EvalError {
        let exprs = &self.program.exprs;
        let indices = |ids: &[ExprId]| {
            let shown = ids.iter().map(|&i| match self.cell(i) {
                Ok(Value::Int(v)) => v.to_string(),
                _ => "?".to_owned(),
            });
            shown.collect::<Vec<_>>().join(", ")
        };
        let operands = exprs.operands(fault.at);
        let what = match exprs.node(fault.at) {
            Node::Load(t, _) => format!("tensor `{}`", self.program.tensor(*t).name),
            Node::MapAt(m, ..) | Node::Un(Un::CsrBegin(m) | Un::CsrIndex(m), _) => {
                format!("map `{}`", self.program.map(*m).name)
            }
            Node::Drawn(..) | Node::DrawAt(..) => "the random choice".to_owned(),
            Node::Un(Un::OrderIndex(o), _) => format!("order `{}`", self.program.order(*o).name),
            Node::Un(Un::Table(_), _) => "the table".to_owned(),
            Node::Un(Un::DocOf | Un::DocBegin | Un::DocEnd, _) => "the document offsets".to_owned(),
            Node::Var(Var::Size(s)) => {
                format!("size `{}`", self.program.sizes.get(s.0 as usize).map_or("?", |s| s.name.as_str()))
            }
            Node::Var(v) => format!("variable {v:?}"),
            _ => "the expression".to_owned(),
        };
        let message = match fault.kind {
            FaultKind::Unbound => format!("{what} has no value here"),
            FaultKind::Overflow => "an integer does not fit in 128 bits".to_owned(),
            FaultKind::DivisionByZero => "an integer is divided by zero".to_owned(),
            FaultKind::Domain => format!("operand {} is outside the domain of the operation", indices(&operands)),
            FaultKind::OutOfRange => format!("index [{}] lies outside {what}", indices(&operands)),
            FaultKind::Missing => format!("{what} was not given"),
            FaultKind::Kind => format!("{what} has an operand of the wrong kind"),
        };
        EvalError { kind: fault.kind, message, span: exprs.span(fault.at), point: self.point }
    }
}
