//! Expressions as WGSL.
//!
//! The one idea: an expression is computed where its variables are first known. What depends on the launch alone, on
//! the tile of queries or on the query becomes a module variable that is set once ([`Home`]); what depends on the key
//! alone and is dear is computed once a chunk, by key; the rest stands where it is used. Every operation is total:
//! indices are clamped, a division by zero gives some number, so that code may run for pairs that a mask drops.
//! Integers are `i32`: each launch is proved to fit (`attnc_plan::range::fits_i32`).
//! Nothing here knows what an expression is for.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use attnc_pattern::expr::{Bin, Cmp, DrawId, ExprId, Extent, Node, Ty, Un, Var};
use attnc_pattern::program::{Chooser, DrawScope, MapKind, Program};
use rustc_hash::FxHashMap;

use crate::layout::Field;

/// Where the variables of an expression are all known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Home {
    /// Once for a workgroup.
    Launch,
    /// Once for a tile of queries.
    Tile,
    /// Once for a query.
    Row,
    /// Once for a key of a chunk.
    Key,
    /// Where it is used.
    Here,
}

const TILE: u8 = 1;
const ROW: u8 = 2;
const KEY: u8 = 4;
const HERE: u8 = 8;

/// What a module shares: names of hoisted values, fields and helpers that are used.
pub(crate) struct Names<'a> {
    pub(crate) program: &'a Program,
    deps: Vec<u8>,
    /// Fields of a job that are read.
    pub(crate) fields: BTreeSet<Field>,
    /// Hoisted expressions by home, in the order in which they were asked for.
    hoisted: [Vec<ExprId>; 4],
    named: FxHashMap<ExprId, String>,
    /// Helper functions that are used.
    pub(crate) helpers: BTreeSet<&'static str>,
    nonnegative: FxHashMap<ExprId, bool>,
    /// Numbers local values.
    locals: usize,
    /// Values by key that may still be added.
    key_room: usize,
    /// Whether something reads the branch of a merge; outside of one it is 0.
    pub(crate) reads_branch: bool,
    /// Why there will be no module, if so.
    pub(crate) refused: Option<String>,
}

impl<'a> Names<'a> {
    /// `key_room` is how many values by key a chunk may hold.
    pub(crate) fn new(program: &'a Program, key_room: usize) -> Names<'a> {
        let exprs = &program.exprs;
        let mut deps: Vec<u8> = Vec::with_capacity(exprs.len());
        for i in 0..exprs.len() {
            let id = ExprId(i as u32);
            deps.push(match *exprs.node(id) {
                Node::Var(v) => match v {
                    Var::QLo | Var::QHi => TILE,
                    Var::Q => ROW,
                    Var::K => KEY,
                    Var::Score | Var::Slot | Var::Channel | Var::Loop(_) => HERE,
                    _ => 0,
                },
                _ => {
                    let mut bits = 0;
                    exprs.each_operand(id, |o| bits |= deps[o.0 as usize]);
                    bits
                }
            });
        }
        Names {
            program,
            deps,
            fields: BTreeSet::new(),
            hoisted: Default::default(),
            named: FxHashMap::default(),
            helpers: BTreeSet::new(),
            nonnegative: FxHashMap::default(),
            locals: 0,
            key_room,
            reads_branch: false,
            refused: None,
        }
    }

    fn home(&self, id: ExprId) -> Home {
        match self.deps[id.0 as usize] {
            0 => Home::Launch,
            TILE => Home::Tile,
            ROW => Home::Row,
            KEY => Home::Key,
            _ => Home::Here,
        }
    }

    pub(crate) fn refuse(&mut self, what: impl Into<String>) -> String {
        self.refused.get_or_insert(what.into());
        "0".to_owned()
    }

    pub(crate) fn helper(&mut self, name: &'static str) {
        self.helpers.insert(name);
    }

    /// The module variable of a field of the job.
    pub(crate) fn field(&mut self, field: Field) -> String {
        let name = field.name();
        self.fields.insert(field);
        name
    }

    /// Hoisted expressions of a home, with their names.
    pub(crate) fn hoisted(&self, home: Home) -> Vec<(ExprId, String)> {
        self.hoisted[home as usize].iter().map(|id| (*id, self.named[id].clone())).collect()
    }

    /// Whether a key's value is worth a place in workgroup memory.
    fn dear(&self, id: ExprId) -> bool {
        let exprs = &self.program.exprs;
        exprs.reachable(&[id]).iter().any(|&e| {
            self.home(e) == Home::Key
                && match *exprs.node(e) {
                    Node::Bin(Bin::Div | Bin::Mod, a, b) => {
                        exprs.ty(a) == Ty::Int && !exprs.as_int(b).is_some_and(|b| b > 0 && b & (b - 1) == 0)
                    }
                    Node::Load(..) | Node::MapAt(..) | Node::Drawn(..) | Node::DrawAt(..) => true,
                    Node::Un(op, _) => !matches!(op, Un::Neg | Un::Abs | Un::ToReal),
                    _ => false,
                }
        })
    }

    /// The name of a value that another place computes, for code at `place`.
    fn elsewhere(&mut self, id: ExprId, place: Home) -> Option<String> {
        let home = self.home(id);
        if home >= place || home == Home::Here {
            return None;
        }
        if matches!(self.program.exprs.node(id), Node::Var(_) | Node::Int(_) | Node::Real(_) | Node::Bool(_)) {
            return None;
        }
        if home == Home::Key && !self.named.contains_key(&id) && (self.key_room == 0 || !self.dear(id)) {
            return None;
        }
        if !self.named.contains_key(&id) {
            let list = &mut self.hoisted[home as usize];
            let prefix = ["launch", "tile", "row", "key"][home as usize];
            self.named.insert(id, format!("{prefix}{}", list.len()));
            list.push(id);
            if home == Home::Key {
                self.key_room -= 1;
            }
        }
        let name = self.named[&id].clone();
        Some(match home {
            // Truth values of keys are numbers: an NVIDIA driver mixes up those of an array that several threads write.
            Home::Key if self.program.exprs.ty(id) == Ty::Bool => format!("({name}[slot] != 0)"),
            Home::Key => format!("{name}[slot]"),
            _ => name,
        })
    }

    /// Whether an integer is known not to be negative.
    pub(crate) fn nonnegative(&mut self, id: ExprId) -> bool {
        for e in self.program.exprs.reachable(&[id]) {
            if self.nonnegative.contains_key(&e) || self.program.exprs.ty(e) != Ty::Int {
                continue;
            }
            let of = |e: &ExprId| self.nonnegative.get(e).copied().unwrap_or(false);
            let known = match self.program.exprs.node(e) {
                Node::Int(v) => *v >= 0,
                Node::Var(Var::Loop(_)) => false,
                Node::Var(_) => true,
                Node::Bin(Bin::Add | Bin::Mul | Bin::Div | Bin::Min, a, b) => of(a) && of(b),
                Node::Bin(Bin::Max, a, b) => of(a) || of(b),
                Node::Bin(Bin::Mod, _, b) => of(b),
                Node::Bin(Bin::Sub, ..) => false,
                Node::Select(_, a, b) => of(a) && of(b),
                Node::Un(
                    Un::Abs
                    | Un::Pow2
                    | Un::DocBegin
                    | Un::DocEnd
                    | Un::OrderIndex(_)
                    | Un::OrderPosition(_)
                    | Un::CsrBegin(_)
                    | Un::DrawCount(_),
                    _,
                ) => true,
                _ => false,
            };
            self.nonnegative.insert(e, known);
        }
        self.nonnegative.get(&id).copied().unwrap_or(false)
    }

    /// An integer constant.
    pub(crate) fn int(&mut self, value: i64) -> String {
        match i32::try_from(value) {
            Ok(v) if v > i32::MIN => {
                if v < 0 {
                    format!("(-{})", -v)
                } else {
                    v.to_string()
                }
            }
            _ => self.refuse(format!("the number {value}, which does not fit 32 bits")),
        }
    }

    fn real(&mut self, bits: u64) -> String {
        let value = f64::from_bits(bits) as f32;
        if !value.is_finite() {
            return self.refuse("a constant that is not finite");
        }
        let text = format!("{value:?}f");
        if value.is_sign_negative() { format!("({text})") } else { text }
    }

    fn var(&mut self, var: Var) -> String {
        let field = match var {
            Var::Q => return "q".to_owned(),
            Var::K => return "k".to_owned(),
            Var::Score => return "score".to_owned(),
            Var::Slot => return "null_slot".to_owned(),
            Var::Loop(n) => return format!("i{n}"),
            Var::QLo => return "q_lo".to_owned(),
            Var::QHi => return "q_hi".to_owned(),
            Var::QStart => return "q_start".to_owned(),
            Var::KStart => return "k_start".to_owned(),
            Var::NQ => return "n_q".to_owned(),
            Var::NK => return "n_k".to_owned(),
            Var::Class => return "residue".to_owned(),
            Var::Modulus => return "stride".to_owned(),
            Var::Head => Field::Head,
            Var::Heads => Field::Heads,
            Var::Layer => Field::Layer,
            Var::Step => Field::Step,
            Var::Dim => Field::Dim,
            Var::Docs => Field::Docs,
            Var::Size(id) => Field::Size(id.0),
            Var::Given(Extent::QStart) => Field::QStart,
            Var::Given(Extent::KStart) => Field::KStart,
            Var::Given(Extent::NQ) => Field::NQ,
            Var::Given(Extent::NK) => Field::NK,
            Var::Parts(map) => Field::MapRows(map.0),
            Var::Branch => {
                self.reads_branch = true;
                return "branch".to_owned();
            }
            Var::Channel => return "channel".to_owned(),
        };
        self.field(field)
    }

    /// Whether channel `channel` is in a table that a selection made, which has one row.
    pub(crate) fn chosen_channel(&mut self, draw: DrawId) -> String {
        let draw = draw.0;
        self.helper("chosen");
        let fields = [Field::DrawData(draw), Field::DrawCount(draw), Field::DrawRows(draw)];
        let [data, count, rows] = fields.map(|f| self.field(f));
        format!("chosen({data}, {count}, {rows}, 0, channel)")
    }

    /// Types of values.
    pub(crate) fn ty(&self, id: ExprId) -> &'static str {
        match self.program.exprs.ty(id) {
            Ty::Int => "i32",
            Ty::Real => "f32",
            Ty::Bool => "bool",
        }
    }
}

/// The text of one function's body.
pub(crate) struct Body<'n, 'a> {
    pub(crate) names: &'n mut Names<'a>,
    /// What is known in the function.
    place: Home,
    pub(crate) text: String,
    depth: usize,
    /// Values by scope.
    scopes: Vec<FxHashMap<ExprId, String>>,
}

/// Longest text that is written where it is used instead of getting a name.
const SHORT: usize = 56;

impl<'n, 'a> Body<'n, 'a> {
    pub(crate) fn new(names: &'n mut Names<'a>, place: Home, depth: usize) -> Body<'n, 'a> {
        Body { names, place, text: String::new(), depth, scopes: vec![FxHashMap::default()] }
    }

    /// A line of code.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(self.text, "{:width$}{}", "", text.as_ref(), width = 2 * self.depth);
    }

    /// Opens a block.
    pub(crate) fn open(&mut self, head: impl AsRef<str>) {
        let head = head.as_ref();
        self.line(if head.is_empty() { "{".to_owned() } else { format!("{head} {{") });
        self.depth += 1;
        self.scopes.push(FxHashMap::default());
    }

    /// Closes a block.
    pub(crate) fn close(&mut self) {
        self.scopes.pop();
        self.depth -= 1;
        self.line("}");
    }

    fn known(&self, id: ExprId) -> Option<&String> {
        self.scopes.iter().rev().find_map(|s| s.get(&id))
    }

    /// A text that denotes an expression here; lines that it needs are written before.
    ///
    /// Nesting is followed with a stack of its own, so that deep expressions do not exhaust the thread's.
    pub(crate) fn value(&mut self, id: ExprId) -> String {
        // Operands first, each once; how often each is used.
        let (mut order, mut uses): (Vec<ExprId>, FxHashMap<ExprId, usize>) = Default::default();
        let mut outside: FxHashMap<ExprId, String> = FxHashMap::default();
        let mut pending = vec![(id, false)];
        while let Some((e, done)) = pending.pop() {
            if done {
                order.push(e);
                continue;
            }
            *uses.entry(e).or_insert(0) += 1;
            if uses[&e] > 1 {
                continue;
            }
            let known = self.known(e).cloned().or_else(|| self.names.elsewhere(e, self.place));
            if let Some(name) = known {
                outside.insert(e, name);
                continue;
            }
            pending.push((e, true));
            let mut operands = Vec::new();
            self.names.program.exprs.each_operand(e, |o| operands.push(o));
            pending.extend(operands.into_iter().rev().map(|o| (o, false)));
        }
        let mut texts = outside;
        for e in order {
            let text = self.node(e, &texts);
            let node = self.names.program.exprs.node(e);
            let leaf = matches!(node, Node::Var(_) | Node::Int(_) | Node::Real(_) | Node::Bool(_));
            let kept = if leaf || (uses[&e] == 1 && text.len() <= SHORT) {
                text
            } else {
                let name = format!("e{}", self.names.locals);
                self.names.locals += 1;
                let ty = self.names.ty(e);
                self.line(format!("let {name}: {ty} = {text};"));
                self.scopes.last_mut().expect("a scope").insert(e, name.clone());
                name
            };
            texts.insert(e, kept);
        }
        texts.remove(&id).unwrap_or_default()
    }

    /// One node, its operands being texts.
    fn node(&mut self, id: ExprId, texts: &FxHashMap<ExprId, String>) -> String {
        let program = self.names.program;
        let exprs = &program.exprs;
        let t = |e: &ExprId| texts[e].as_str();
        match exprs.node(id) {
            Node::Int(v) => self.names.int(*v),
            Node::Real(bits) => self.names.real(*bits),
            Node::Bool(v) => v.to_string(),
            Node::Var(v) => self.names.var(*v),
            Node::Un(op, a) => self.unary(*op, exprs.ty(*a), t(a)),
            Node::Bin(op, a, b) => {
                if exprs.ty(*a) == Ty::Real {
                    return self.real_binary(*op, t(a), t(b));
                }
                match op {
                    Bin::Div | Bin::Mod => self.divide(*op == Bin::Div, (*a, t(a)), (*b, t(b))),
                    Bin::Add => format!("({} + {})", t(a), t(b)),
                    Bin::Sub => format!("({} - {})", t(a), t(b)),
                    Bin::Mul => format!("({} * {})", t(a), t(b)),
                    Bin::Min => format!("min({}, {})", t(a), t(b)),
                    Bin::Max => format!("max({}, {})", t(a), t(b)),
                }
            }
            Node::Cmp(op, a, b) => {
                let op = match op {
                    Cmp::Lt => "<",
                    Cmp::Le => "<=",
                    Cmp::Eq => "==",
                    Cmp::Ne => "!=",
                };
                format!("({} {op} {})", t(a), t(b))
            }
            // Both sides, without a branch.
            Node::And(xs) => format!("({})", xs.iter().map(t).collect::<Vec<_>>().join(" & ")),
            Node::Or(xs) => format!("({})", xs.iter().map(t).collect::<Vec<_>>().join(" | ")),
            Node::Not(a) => format!("(!{})", t(a)),
            Node::Select(c, a, b) => format!("select({}, {}, {})", t(b), t(a), t(c)),
            Node::Load(tensor, indices) => {
                let base = self.names.field(Field::Tensor(tensor.0));
                let mut offset: Option<String> = None;
                for (axis, index) in indices.iter().enumerate() {
                    let extent = self.names.field(Field::Extent(tensor.0, axis as u32));
                    let index = format!("clamp({}, 0, {extent} - 1)", t(index));
                    offset = Some(match offset {
                        None => index,
                        Some(outer) => format!("({outer} * {extent} + {index})"),
                    });
                }
                format!("bitcast<f32>(data[{base} + {}])", offset.unwrap_or_else(|| "0".to_owned()))
            }
            Node::MapAt(map, row, col) => {
                let m = map.0;
                if program.maps[m as usize].kind == MapKind::Csr {
                    self.names.helper("csr_at");
                    let (rows, offsets, columns) = (Field::MapRows(m), Field::MapData(m), Field::MapColumns(m));
                    let [rows, offsets, columns] = [rows, offsets, columns].map(|f| self.names.field(f));
                    return format!("csr_at({offsets}, {columns}, {rows}, {}, {})", t(row), t(col));
                }
                self.names.helper("map_at");
                let fields = [Field::MapData(m), Field::MapRows(m), Field::MapColumns(m)];
                let [base, rows, cols] = fields.map(|f| self.names.field(f));
                format!("map_at({base}, {rows}, {cols}, {}, {})", t(row), t(col))
            }
            Node::Drawn(draw, row, other) => self.draw("drawn", draw.0, t(row), Some(t(other))),
            Node::DrawAt(draw, row, j) => self.draw("draw_at", draw.0, t(row), Some(t(j))),
        }
    }

    fn draw(&mut self, helper: &'static str, draw: u32, row: &str, other: Option<&str>) -> String {
        let selected = matches!(self.names.program.draws[draw as usize].chooser, Chooser::Select { .. });
        let helper = match (selected, helper) {
            (true, "drawn") => "chosen",
            (true, "draw_at") => "chosen_at",
            (false, "chosen_count") => return self.names.refuse("the number of random choices"),
            (_, helper) => helper,
        };
        self.names.helper(helper);
        let fields = [Field::DrawData(draw), Field::DrawCount(draw), Field::DrawRows(draw), Field::DrawFirst(draw)];
        let [data, count, rows, first] = fields.map(|f| self.names.field(f));
        let row = match self.names.program.draws[draw as usize].scope {
            DrawScope::Row => row,
            DrawScope::Head => "0",
        };
        match other {
            Some(other) => format!("{helper}({data}, {count}, {rows}, {row} - {first}, {other})"),
            None => format!("{helper}({data}, {count}, {rows}, {row} - {first})"),
        }
    }

    fn unary(&mut self, op: Un, ty: Ty, a: &str) -> String {
        if ty == Ty::Real {
            return match op {
                Un::Neg => format!("(-{a})"),
                Un::Abs => format!("abs({a})"),
                Un::Exp => format!("exp({a})"),
                Un::Log => format!("log({a})"),
                Un::Sqrt => format!("sqrt({a})"),
                Un::Tanh => {
                    self.names.helper("tanh_of");
                    format!("tanh_of({a})")
                }
                _ => self.names.refuse(format!("{op:?} of a real")),
            };
        }
        match op {
            Un::Neg => format!("(-{a})"),
            Un::Abs => format!("abs({a})"),
            Un::ToReal => format!("f32({a})"),
            Un::Exp => format!("exp(f32({a}))"),
            Un::Log => format!("log(f32({a}))"),
            Un::Sqrt => format!("sqrt(f32({a}))"),
            Un::Tanh => {
                self.names.helper("tanh_of");
                format!("tanh_of(f32({a}))")
            }
            Un::Pow2 => {
                self.names.helper("pow2_of");
                format!("pow2_of({a})")
            }
            Un::Log2 => {
                self.names.helper("log2_of");
                format!("log2_of({a})")
            }
            Un::Isqrt => {
                self.names.helper("isqrt_of");
                format!("isqrt_of({a})")
            }
            Un::DocOf => {
                self.names.helper("doc_of");
                let [base, docs] = [Field::DocsData, Field::Docs].map(|f| self.names.field(f));
                format!("doc_of({base}, {docs}, {a})")
            }
            Un::DocBegin => {
                let [base, docs] = [Field::DocsData, Field::Docs].map(|f| self.names.field(f));
                format!("bitcast<i32>(data[{base} + clamp({a}, 0, {docs})])")
            }
            Un::DocEnd => {
                let [base, docs] = [Field::DocsData, Field::Docs].map(|f| self.names.field(f));
                format!("bitcast<i32>(data[{base} + clamp({a} + 1, 0, {docs})])")
            }
            Un::OrderIndex(o) => {
                let [base, len] = [Field::Order(o.0), Field::OrderLen(o.0)].map(|f| self.names.field(f));
                format!("bitcast<i32>(data[{base} + clamp({a}, 0, {len} - 1)])")
            }
            Un::Table(table) => {
                let last = self.names.program.tables[table.0 as usize].len() as i64 - 1;
                if last < 0 {
                    return "0".to_owned();
                }
                let base = self.names.field(Field::Table(table.0));
                format!("bitcast<i32>(data[{base} + clamp({a}, 0, {last})])")
            }
            Un::CsrBegin(m) => {
                let [base, rows] = [Field::MapData(m.0), Field::MapRows(m.0)].map(|f| self.names.field(f));
                format!("bitcast<i32>(data[{base} + clamp({a}, 0, {rows})])")
            }
            Un::CsrIndex(m) => {
                let [base, entries] = [Field::MapColumns(m.0), Field::MapEntries(m.0)].map(|f| self.names.field(f));
                format!("bitcast<i32>(data[{base} + clamp({a}, 0, max({entries} - 1, 0))])")
            }
            Un::OrderPosition(o) => {
                let [base, len] = [Field::Position(o.0), Field::OrderLen(o.0)].map(|f| self.names.field(f));
                format!("bitcast<i32>(data[{base} + clamp({a}, 0, {len} - 1)])")
            }
            Un::PartOf(m) => {
                self.names.helper("doc_of");
                let [base, parts] = [Field::MapData(m.0), Field::MapRows(m.0)].map(|f| self.names.field(f));
                format!("doc_of({base}, {parts}, {a})")
            }
            Un::SlotLast(level) => {
                let base = self.names.field(Field::Last(level.0));
                let slots = self.names.field(Field::Slots(level.0));
                format!("bitcast<i32>(data[{base} + clamp({a}, 0, max({slots} - 1, 0))])")
            }
            Un::DrawCount(draw) => self.draw("chosen_count", draw.0, a, None),
        }
    }

    fn real_binary(&mut self, op: Bin, a: &str, b: &str) -> String {
        match op {
            Bin::Add => format!("({a} + {b})"),
            Bin::Sub => format!("({a} - {b})"),
            Bin::Mul => format!("({a} * {b})"),
            Bin::Div => format!("({a} / {b})"),
            Bin::Min => format!("min({a}, {b})"),
            Bin::Max => format!("max({a}, {b})"),
            Bin::Mod => self.names.refuse("the remainder of reals"),
        }
    }

    /// Floor division or modulo.
    fn divide(&mut self, div: bool, (a, a_text): (ExprId, &str), (b, b_text): (ExprId, &str)) -> String {
        let constant = self.names.program.exprs.as_int(b).filter(|&v| v > 0);
        if let Some(v) = constant.filter(|v| v & (v - 1) == 0) {
            let bits = v.trailing_zeros();
            return if div { format!("({a_text} >> {bits}u)") } else { format!("({a_text} & {})", v - 1) };
        }
        if constant.is_some() && self.names.nonnegative(a) {
            let op = if div { "/" } else { "%" };
            return format!("({a_text} {op} {b_text})");
        }
        let helper = if div { "floor_div" } else { "floor_mod" };
        self.names.helper(helper);
        format!("{helper}({a_text}, {b_text})")
    }
}

/// Text of a helper function.
pub(crate) fn helper(name: &str) -> &'static str {
    match name {
        "floor_div" => {
            "/// a / b, floored; some number for b = 0.\n\
             fn floor_div(a: i32, b: i32) -> i32 {\n  let d = select(b, 1, b == 0);\n  let t = a / d;\n  let r = a - t * d;\n  \
             return t - select(0, 1, (r != 0) & ((r ^ d) < 0));\n}\n"
        }
        "floor_mod" => {
            "/// What is left of a by floor division.\n\
             fn floor_mod(a: i32, b: i32) -> i32 {\n  let d = select(b, 1, b == 0);\n  let r = a - (a / d) * d;\n  \
             return r + select(0, d, (r != 0) & ((r ^ d) < 0));\n}\n"
        }
        "pow2_of" => {
            "/// 2 to the power of a; 0 for negative a.\n\
             fn pow2_of(a: i32) -> i32 {\n  return select(0, 1 << u32(clamp(a, 0, 30)), (a >= 0) & (a <= 30));\n}\n"
        }
        "log2_of" => {
            "/// The logarithm of a, floored; -1 for a <= 0.\n\
             fn log2_of(a: i32) -> i32 {\n  return select(i32(firstLeadingBit(u32(max(a, 1)))), -1, a <= 0);\n}\n"
        }
        "isqrt_of" => {
            "/// The square root of a, floored; -1 for negative a.\n\
             fn isqrt_of(a: i32) -> i32 {\n  let x = u32(max(a, 0));\n  var r = u32(sqrt(f32(x)));\n  \
             r = select(r, r - 1u, r * r > x);\n  r = select(r, r + 1u, (r + 1u) * (r + 1u) <= x);\n  \
             return select(i32(r), -1, a < 0);\n}\n"
        }
        "tanh_of" => {
            "/// The hyperbolic tangent, exact for small and large x.\n\
             fn tanh_of(x: f32) -> f32 {\n  let a = abs(x);\n  let y = x * x;\n  \
             let small = x * (1.0 - y * (0.33333334 - y * (0.13333334 - y * (0.053968254 - y * 0.021869489))));\n  \
             let large = 1.0 - 2.0 / (exp(2.0 * min(a, 15.0)) + 1.0);\n  \
             return select(select(large, -large, x < 0.0), small, a < 0.25);\n}\n"
        }
        "doc_of" => {
            "/// The document of position `at`.\n\
             fn doc_of(base: i32, docs: i32, at: i32) -> i32 {\n  var lo = 0;\n  var hi = docs;\n  \
             while (lo < hi) {\n    let mid = (lo + hi) >> 1u;\n    \
             if (bitcast<i32>(data[base + mid]) <= at) { lo = mid + 1; } else { hi = mid; }\n  }\n  return lo - 1;\n}\n"
        }
        "map_at" => {
            "/// Whether a map of bytes holds a pair.\n\
             fn map_at(base: i32, rows: i32, cols: i32, row: i32, col: i32) -> bool {\n  \
             if ((row < 0) | (row >= rows) | (col < 0) | (col >= cols)) { return false; }\n  \
             let at = u32(row) * u32(cols) + u32(col);\n  \
             return ((data[u32(base) + (at >> 2u)] >> (8u * (at & 3u))) & 255u) != 0u;\n}\n"
        }
        "csr_at" => {
            "/// Whether a compressed map holds a pair.\n\
             fn csr_at(offsets: i32, columns: i32, rows: i32, row: i32, col: i32) -> bool {\n  \
             if ((row < 0) | (row >= rows)) { return false; }\n  var lo = bitcast<i32>(data[offsets + row]);\n  \
             let end = bitcast<i32>(data[offsets + row + 1]);\n  var hi = end;\n  \
             while (lo < hi) {\n    let mid = (lo + hi) >> 1u;\n    \
             if (bitcast<i32>(data[columns + mid]) < col) { lo = mid + 1; } else { hi = mid; }\n  }\n  \
             if (lo >= end) { return false; }\n  return bitcast<i32>(data[columns + lo]) == col;\n}\n"
        }
        "drawn" => {
            "/// Whether a candidate is among those drawn for a row.\n\
             fn drawn(base: i32, count: i32, rows: i32, row: i32, candidate: i32) -> bool {\n  \
             if ((row < 0) | (row >= rows) | (candidate < 0)) { return false; }\n  \
             for (var j = 0; j < count; j++) {\n    \
             if (bitcast<i32>(data[base + row * count + j]) == candidate) { return true; }\n  }\n  return false;\n}\n"
        }
        "draw_at" => {
            "/// Candidate j of those drawn for a row; -1 if there is none.\n\
             fn draw_at(base: i32, count: i32, rows: i32, row: i32, j: i32) -> i32 {\n  \
             if ((row < 0) | (row >= rows) | (j < 0) | (j >= count)) { return -1; }\n  \
             return bitcast<i32>(data[base + row * count + j]);\n}\n"
        }
        // Rows of a selection's table: how many there are, then as many slots, ascending.
        "chosen_count" => {
            "/// How many slots were chosen for a row.\n\
             fn chosen_count(base: i32, room: i32, rows: i32, row: i32) -> i32 {\n  \
             if ((row < 0) | (row >= rows)) { return 0; }\n  return bitcast<i32>(data[base + row * (room + 1)]);\n}\n"
        }
        "chosen_at" => {
            "/// Slot j of those chosen for a row; -1 if there is none.\n\
             fn chosen_at(base: i32, room: i32, rows: i32, row: i32, j: i32) -> i32 {\n  \
             if ((row < 0) | (row >= rows) | (j < 0)) { return -1; }\n  let at = base + row * (room + 1);\n  \
             if (j >= bitcast<i32>(data[at])) { return -1; }\n  return bitcast<i32>(data[at + 1 + j]);\n}\n"
        }
        "chosen" => {
            "/// Halves what is left of a row, `lo .. hi`, towards the first slot that is not less.\n\
             fn halve(at: i32, slot: i32, lo: ptr<function, i32>, hi: ptr<function, i32>) {\n  \
             if (*lo >= *hi) { return; }\n  let mid = (*lo + *hi) >> 1u;\n  \
             if (bitcast<i32>(data[at + mid]) < slot) { *lo = mid + 1; } else { *hi = mid; }\n}\n\
             /// Whether a slot is among those chosen for a row.\n\
             fn chosen(base: i32, room: i32, rows: i32, row: i32, slot: i32) -> bool {\n  \
             if ((row < 0) | (row >= rows)) { return false; }\n  let at = base + row * (room + 1) + 1;\n  \
             let count = bitcast<i32>(data[at - 1]);\n  var lo = 0;\n  var hi = count;\n  \
             // Four halvings at a time: loops cost more than what is in them.\n  while (lo < hi) {\n    \
             halve(at, slot, &lo, &hi);\n    halve(at, slot, &lo, &hi);\n    halve(at, slot, &lo, &hi);\n    \
             halve(at, slot, &lo, &hi);\n  }\n  \
             if (lo >= count) { return false; }\n  return bitcast<i32>(data[at + lo]) == slot;\n}\n"
        }
        _ => "",
    }
}
