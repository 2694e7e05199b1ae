//! Text of expressions, row sets and tile sets: stable, for plans, tests and failures.
//!
//! Expressions print as they would be written, with as few parentheses as precedence asks for; sizes, maps and
//! tensors by name. A row set prints one line a loop, guard and range.

use std::fmt::Write;

use crate::expr::{Bin, Cmp, ExprId, Exprs, Extent, Node, Ty, Un, Var};
use crate::program::Program;
use crate::rowset::{RowSet, TileSet};

/// Binding strength, loosest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Or,
    And,
    Not,
    Compare,
    Sum,
    Product,
    Atom,
}

struct Printer<'a> {
    exprs: &'a Exprs,
    /// Names of sizes, tensors, maps and orders, where a program is at hand.
    program: Option<&'a Program>,
}

impl Printer<'_> {
    fn text(&self, id: ExprId) -> String {
        let mut out = String::new();
        self.expr(&mut out, id, Level::Or);
        out
    }

    fn name(&self, kind: &str, index: u32, of: impl Fn(&Program) -> Option<&String>) -> String {
        self.program.and_then(of).cloned().unwrap_or_else(|| format!("{kind}{index}"))
    }

    fn variable(&self, v: Var) -> String {
        let fixed = match v {
            Var::Q => "q",
            Var::K => "k",
            Var::QStart => "q_start",
            Var::KStart => "k_start",
            Var::NQ => "n_q",
            Var::NK => "n_k",
            Var::Head => "head",
            Var::Heads => "heads",
            Var::Layer => "layer",
            Var::Step => "step",
            Var::Dim => "d",
            Var::Docs => "docs",
            Var::Score => "score",
            Var::Slot => "slot",
            Var::QLo => "q_lo",
            Var::QHi => "q_hi",
            Var::Class => "class",
            Var::Modulus => "modulus",
            Var::Given(Extent::QStart) => "given q_start",
            Var::Given(Extent::KStart) => "given k_start",
            Var::Given(Extent::NQ) => "given n_q",
            Var::Given(Extent::NK) => "given n_k",
            Var::Loop(n) => return format!("i{n}"),
            Var::Size(s) => {
                return self.name("size", s.0, |p| p.sizes.get(s.0 as usize).map(|x| &x.name));
            }
        };
        fixed.to_owned()
    }

    fn level(&self, id: ExprId) -> Level {
        match self.exprs.node(id) {
            Node::Or(_) => Level::Or,
            Node::And(_) => Level::And,
            Node::Not(_) => Level::Not,
            Node::Cmp(..) => Level::Compare,
            Node::Bin(Bin::Add | Bin::Sub, ..) | Node::Un(Un::Neg, _) => Level::Sum,
            Node::Bin(Bin::Mul | Bin::Div | Bin::Mod, ..) => Level::Product,
            Node::Int(v) if *v < 0 => Level::Sum,
            _ => Level::Atom,
        }
    }

    fn expr(&self, out: &mut String, id: ExprId, around: Level) {
        let level = self.level(id);
        if level < around {
            out.push('(');
            self.bare(out, id, level);
            out.push(')');
        } else {
            self.bare(out, id, level);
        }
    }

    fn bare(&self, out: &mut String, id: ExprId, level: Level) {
        match self.exprs.node(id) {
            Node::Int(v) => out.push_str(&v.to_string()),
            Node::Real(bits) => out.push_str(&format!("{:?}", f64::from_bits(*bits))),
            Node::Bool(v) => out.push_str(if *v { "true" } else { "false" }),
            Node::Var(v) => out.push_str(&self.variable(*v)),
            Node::Un(Un::Neg, a) => {
                out.push('-');
                self.expr(out, *a, Level::Product);
            }
            Node::Un(op, a) => {
                let name = match op {
                    Un::Neg => "-".to_owned(),
                    Un::Abs => "abs".to_owned(),
                    Un::Pow2 => "pow2".to_owned(),
                    Un::Log2 => "log2".to_owned(),
                    Un::Isqrt => "isqrt".to_owned(),
                    Un::ToReal => "real".to_owned(),
                    Un::Exp => "exp".to_owned(),
                    Un::Log => "log".to_owned(),
                    Un::Sqrt => "sqrt".to_owned(),
                    Un::Tanh => "tanh".to_owned(),
                    Un::DocOf => "doc".to_owned(),
                    Un::DocBegin => "doc_begin".to_owned(),
                    Un::DocEnd => "doc_end".to_owned(),
                    Un::OrderIndex(o) => self.name("order", o.0, |p| p.orders.get(o.0 as usize).map(|x| &x.name)),
                    Un::OrderPosition(o) => {
                        format!("{}.pos", self.name("order", o.0, |p| p.orders.get(o.0 as usize).map(|x| &x.name)))
                    }
                    Un::Table(t) => format!("table{}", t.0),
                    Un::CsrBegin(m) => format!("{}.indptr", self.map(m.0)),
                    Un::CsrIndex(m) => format!("{}.indices", self.map(m.0)),
                };
                self.call(out, &name, &[*a]);
            }
            Node::Bin(Bin::Min, a, b) => self.call(out, "min", &[*a, *b]),
            Node::Bin(Bin::Max, a, b) => self.call(out, "max", &[*a, *b]),
            Node::Bin(op, a, b) => {
                // `x + -1` reads better as `x - 1`.
                if let (Bin::Add, Some(v)) = (op, self.exprs.as_int(*b))
                    && v < 0
                {
                    self.expr(out, *a, level);
                    out.push_str(&format!(" - {}", v.unsigned_abs()));
                    return;
                }
                let sign = match op {
                    Bin::Add => "+",
                    Bin::Sub => "-",
                    Bin::Mul => "*",
                    Bin::Div => "/",
                    _ => "%",
                };
                let tighter = if level == Level::Sum { Level::Product } else { Level::Atom };
                // Only a sum or product may stand to the left without parentheses.
                let left = if level == Level::Product && !matches!(op, Bin::Mul) { Level::Atom } else { level };
                self.expr(out, *a, left);
                out.push_str(&format!(" {sign} "));
                self.expr(out, *b, if *op == Bin::Add { Level::Sum } else { tighter });
            }
            Node::Cmp(op, a, b) => {
                self.expr(out, *a, Level::Sum);
                out.push_str(match op {
                    Cmp::Lt => " < ",
                    Cmp::Le => " <= ",
                    Cmp::Eq => " == ",
                    Cmp::Ne => " != ",
                });
                self.expr(out, *b, Level::Sum);
            }
            Node::And(xs) => self.joined(out, " & ", xs, Level::Not),
            Node::Or(xs) => self.joined(out, " | ", xs, Level::And),
            Node::Not(a) => {
                out.push('!');
                self.expr(out, *a, Level::Atom);
            }
            Node::Select(c, a, b) => {
                let shown = if self.exprs.ty(*a) == Ty::Bool { "choose" } else { "if" };
                self.call(out, shown, &[*c, *a, *b]);
            }
            Node::Load(t, xs) => {
                let name = self.name("tensor", t.0, |p| p.tensors.get(t.0 as usize).map(|x| &x.name));
                out.push_str(&name);
                out.push('[');
                self.joined(out, ", ", xs, Level::Or);
                out.push(']');
            }
            Node::MapAt(m, a, b) => self.call(out, &self.map(m.0), &[*a, *b]),
            Node::Drawn(d, a, b) => self.call(out, &format!("drawn{}", d.0), &[*a, *b]),
            Node::DrawAt(d, a, b) => self.call(out, &format!("draw{}", d.0), &[*a, *b]),
        }
    }

    fn map(&self, index: u32) -> String {
        self.name("map", index, |p| p.maps.get(index as usize).map(|x| &x.name))
    }

    fn call(&self, out: &mut String, name: &str, xs: &[ExprId]) {
        out.push_str(name);
        out.push('(');
        self.joined(out, ", ", xs, Level::Or);
        out.push(')');
    }

    fn joined(&self, out: &mut String, by: &str, xs: &[ExprId], level: Level) {
        for (i, &x) in xs.iter().enumerate() {
            if i > 0 {
                out.push_str(by);
            }
            self.expr(out, x, level);
        }
    }

    fn stepped(&self, step: i64, phase: ExprId) -> String {
        if step == 1 { String::new() } else { format!(" step {step} from {}", self.text(phase)) }
    }

    fn spanned(&self, span: Option<(ExprId, ExprId)>) -> String {
        span.map_or(String::new(), |(base, stride)| format!(" at {} by {}", self.text(base), self.text(stride)))
    }

    fn tight(&self, id: ExprId, around: Level) -> String {
        let mut out = String::new();
        self.expr(&mut out, id, around);
        out
    }

    fn comb(&self, phase: &str, period: ExprId, width: ExprId) -> String {
        let from = if phase == "0" { "k".to_owned() } else { format!("(k - {phase})") };
        format!(" & {from} % {} < {}", self.tight(period, Level::Atom), self.text(width))
    }

    fn rows(&self, rows: &RowSet) -> String {
        let mut out = String::new();
        for p in &rows.pieces {
            let mut indent = 0;
            let mut line = |text: String| {
                let _ = writeln!(out, "{:indent$}{text}", "");
                indent += 2;
            };
            for l in &p.loops {
                let (lo, hi) = (self.text(l.lo), self.text(l.hi));
                let rest = self.stepped(l.step, l.phase) + &self.spanned(l.span);
                line(format!("for i{} in {lo} .. {hi}{rest}", l.var));
            }
            if let Some(g) = p.guard {
                line(format!("if {}", self.text(g)));
            }
            let mut range = format!("k in {} .. {}", self.text(p.start), self.text(p.end));
            for c in &p.combs {
                range += &self.comb(&self.tight(c.phase, Level::Product), c.period, c.width);
            }
            if let Some(f) = p.filter {
                let _ = write!(range, " & test {}", self.text(f));
            }
            line(range);
        }
        if rows.pieces.is_empty() {
            out.push_str("none\n");
        }
        out
    }

    fn tiles(&self, tiles: &TileSet) -> String {
        let mut out = String::new();
        for p in &tiles.pieces {
            let mut indent = 0;
            let mut line = |text: String, deeper: usize| {
                let _ = writeln!(out, "{:indent$}{text}", "");
                indent += deeper;
            };
            for l in &p.loops {
                let (lo, hi) = (self.text(l.lo), self.text(l.hi));
                let (must_lo, must_hi) = (self.text(l.must_lo), self.text(l.must_hi));
                let rest = self.stepped(l.step, l.phase) + &self.spanned(l.span);
                line(format!("for i{} in {lo} .. {hi} (must {must_lo} .. {must_hi}){rest}", l.var), 2);
            }
            if let Some(g) = p.guard {
                line(format!("if {}", self.text(g)), 2);
            }
            let mut range = format!("may {} .. {}", self.text(p.start), self.text(p.end));
            for c in &p.combs {
                let phase = if c.phase_lo == c.phase_hi {
                    self.tight(c.phase_lo, Level::Product)
                } else {
                    format!("({} ..= {})", self.text(c.phase_lo), self.text(c.phase_hi))
                };
                range += &self.comb(&phase, c.period, c.width);
            }
            line(range, 0);
            if let Some(m) = &p.must {
                let guard = m.guard.map_or(String::new(), |g| format!(" if {}", self.text(g)));
                line(format!("must {} .. {}{guard}", self.text(m.start), self.text(m.end)), 0);
            }
        }
        if tiles.pieces.is_empty() {
            out.push_str("none\n");
        }
        out
    }
}

/// Text of an expression of a program.
#[must_use]
pub fn expr_text(program: &Program, id: ExprId) -> String {
    Printer { exprs: &program.exprs, program: Some(program) }.text(id)
}

/// Text of a row set of a program.
#[must_use]
pub fn rows_text(program: &Program, rows: &RowSet) -> String {
    Printer { exprs: &program.exprs, program: Some(program) }.rows(rows)
}

/// Text of a tile set of a program.
#[must_use]
pub fn tiles_text(program: &Program, tiles: &TileSet) -> String {
    Printer { exprs: &program.exprs, program: Some(program) }.tiles(tiles)
}

impl RowSet {
    /// Text of the set, with sizes and run-time data by number.
    #[must_use]
    pub fn display(&self, exprs: &Exprs) -> String {
        Printer { exprs, program: None }.rows(self)
    }
}
