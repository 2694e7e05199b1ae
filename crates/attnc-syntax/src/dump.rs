//! The syntax tree as text, for `--emit ast` and for comparing trees.
//!
//! One idea: a node a line, children indented, names and strings quoted where they could hold anything, spans left out.
//! So two trees have the same text exactly if they are equal up to spans.

use crate::ast::*;
use std::fmt::Write;

/// The tree of a file, without spans; ends with a line end unless the file is empty.
#[must_use]
pub fn dump(file: &File) -> String {
    let mut dump = Dump::default();
    for item in &file.items {
        for line in &item.docs {
            dump.node(format_args!("doc {line:?}"));
        }
        dump.item(&item.kind);
    }
    dump.text
}

#[derive(Default)]
struct Dump {
    text: String,
    level: usize,
}

impl Dump {
    fn node(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.extend(std::iter::repeat_n("  ", self.level));
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{text}");
    }

    fn leaf(&mut self, text: &str) {
        self.node(format_args!("{text}"));
    }

    /// A node and what `children` writes below it.
    fn tree(&mut self, text: std::fmt::Arguments<'_>, children: impl FnOnce(&mut Self)) {
        self.node(text);
        self.level += 1;
        children(self);
        self.level -= 1;
    }

    /// `label` with one expression below it.
    fn one(&mut self, label: &str, expr: &Expr) {
        self.tree(format_args!("{label}"), |d| d.expr(expr));
    }

    /// `label` with the expression below it, if there is one.
    fn some(&mut self, label: &str, expr: Option<&Expr>) {
        if let Some(expr) = expr {
            self.one(label, expr);
        }
    }

    fn all<'e>(&mut self, label: std::fmt::Arguments<'_>, list: impl IntoIterator<Item = &'e Expr>) {
        self.tree(label, |d| list.into_iter().for_each(|e| d.expr(e)));
    }

    fn axes(&mut self, label: std::fmt::Arguments<'_>, axes: &[(Name, Option<Expr>)]) {
        self.tree(label, |d| {
            for (name, extent) in axes {
                d.tree(format_args!("axis {}", name.text), |d| extent.iter().for_each(|e| d.expr(e)));
            }
        });
    }

    fn item(&mut self, item: &ItemKind) {
        match item {
            ItemKind::Import { names, from, .. } => self.node(format_args!("import {} from {from:?}", texts(names))),
            ItemKind::Size(name) => self.node(format_args!("size {}", name.text)),
            ItemKind::Param { name, value } => self.one(&format!("param {}", name.text), value),
            ItemKind::Tensor { name, dims, value } => self.tree(format_args!("tensor {}", name.text), |d| {
                dims.iter().for_each(|e| d.expr(e));
                d.some("value", value.as_ref());
            }),
            ItemKind::Map { name, kind, per_head } => {
                let heads = if *per_head { " for each head" } else { "" };
                match kind {
                    MapKind::Bool => self.node(format_args!("map {} bool{heads}", name.text)),
                    MapKind::Csr => self.node(format_args!("map {} csr{heads}", name.text)),
                    MapKind::Offsets => self.node(format_args!("map {} offsets{heads}", name.text)),
                    MapKind::Blocks(size) => self.one(&format!("map {} blocks{heads}", name.text), size),
                }
            }
            ItemKind::Space(segments) => self.tree(format_args!("space"), |d| {
                for segment in segments {
                    let name = &segment.name.text;
                    match &segment.shape {
                        SegmentShape::Line(extent) => d.all(format_args!("line {name}"), extent),
                        SegmentShape::Grid(axes) => d.axes(format_args!("grid {name}"), axes),
                    }
                }
            }),
            ItemKind::Order { name, curve, axes } => {
                self.axes(format_args!("order {} {}", name.text, curve.text), axes);
            }
            ItemKind::Pattern { name, args, body } => {
                let label = if args.is_empty() { String::new() } else { format!("({})", texts(args)) };
                self.one(&format!("pattern {}{label}", name.text), body);
            }
            ItemKind::Attention { name, stmts } => {
                self.tree(format_args!("attention {}", name.text), |d| stmts.iter().for_each(|s| d.stmt(s)));
            }
            ItemKind::Require(condition) => self.one("require", condition),
            ItemKind::Level { name, pool, args, of, along } => {
                let of = if of.is_empty() { String::new() } else { format!(" of {}", texts(of)) };
                let along = along.as_ref().map_or(String::new(), |order| format!(" along {}", order.text));
                self.tree(format_args!("level {} {}{of}{along}", name.text, pool.text), |d| {
                    for arg in args {
                        match &arg.name {
                            Some(name) => d.one(&name.text, &arg.value),
                            None => d.expr(&arg.value),
                        }
                    }
                });
            }
            ItemKind::Score { name, value, clauses, steps } => self.tree(format_args!("score {}", name.text), |d| {
                d.expr(value);
                d.clauses(clauses);
                for step in steps {
                    let word = |before: &str, name: &Option<Name>| {
                        name.as_ref().map_or(String::new(), |name| format!(" {before}{}", name.text))
                    };
                    let (side, into, per) = (word("", &step.side), word("in ", &step.into), word("per ", &step.per));
                    d.node(format_args!("then {}{side}{into}{per}", step.op.text));
                }
            }),
            ItemKind::Select { name, budget, of, per, clauses } => {
                let level = per.1.as_ref().map_or(String::new(), |level| format!(".{}", level.text));
                self.tree(format_args!("select {} per {}{level}", name.text, per.0.text), |d| {
                    let kind = budget.kind.as_ref().map_or(String::new(), |kind| format!(" {}", kind.text));
                    d.tree(format_args!("{}{kind}", budget.word.text), |d| {
                        budget.amount.iter().for_each(|amount| d.expr(amount));
                        for band in &budget.bands {
                            d.tree(format_args!("band {}", band.name.text), |d| {
                                d.expr(&band.upto);
                                d.clauses(band.least.as_slice());
                                d.some("by", band.align.as_ref());
                            });
                        }
                    });
                    d.some("of", of.as_ref());
                    d.clauses(clauses);
                });
            }
            ItemKind::Merge { name, kind, gates, arms, clauses } => {
                self.tree(format_args!("merge {} {} of {}", name.text, kind.text, texts(arms)), |d| {
                    gates.iter().for_each(|gate| d.expr(gate));
                    d.clauses(clauses);
                });
            }
            ItemKind::Model(model) => self.tree(format_args!("model {}", model.name.text), |d| {
                d.one("layers", &model.layers);
                d.some("steps", model.steps.as_ref());
                d.one("heads", &model.heads);
                d.some("on", model.kv_heads.as_ref());
                d.some("by", model.head_map.as_ref());
                model.arms.iter().for_each(|arm| d.arm(arm));
            }),
        }
    }

    fn clauses(&mut self, clauses: &[Clause]) {
        clauses.iter().for_each(|clause| self.one(&clause.word.text, &clause.value));
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Scale(value) => self.one("scale", value),
            Stmt::Score(value) => self.one("score", value),
            Stmt::Align(name) => self.node(format_args!("align {}", name.text)),
            Stmt::Empty(name) => self.node(format_args!("empty {}", name.text)),
            Stmt::Require(condition) => self.one("require", condition),
            Stmt::Queries(level, how) => {
                let how = how.as_ref().map_or(String::new(), |how| format!(" {}", how.text));
                self.node(format_args!("queries {}{how}", level.text));
            }
            Stmt::Attend(entries, _) => self.tree(format_args!("attend"), |d| {
                for entry in entries {
                    let level = entry.level.as_ref().map_or(String::new(), |name| format!(" @ {}", name.text));
                    d.tree(format_args!("entry{level}"), |d| {
                        entry.set.iter().for_each(|set| d.expr(set));
                        d.some("null", entry.null.as_ref());
                        d.some("bias", entry.bias.as_ref());
                    });
                }
            }),
        }
    }

    fn arm(&mut self, arm: &Arm) {
        self.tree(format_args!("arm"), |d| {
            match &arm.select {
                Selector::Rest => d.leaf("rest"),
                Selector::When(condition) => d.one("when", condition),
                Selector::Ranges { axis, ranges } => {
                    let axis = match axis {
                        Coord::Step => "step",
                        Coord::Layer => "layer",
                        Coord::Head => "head",
                    };
                    d.tree(format_args!("{axis}"), |d| ranges.iter().for_each(|range| d.range(range)));
                }
            }
            match &arm.target {
                Target::Attention(value) => d.expr(value),
                Target::Skip(_) => d.leaf("skip"),
                Target::Block(arms) => {
                    d.tree(format_args!("arms"), |d| arms.iter().for_each(|arm| d.arm(arm)));
                }
            }
        });
    }

    fn range(&mut self, range: &RangeExpr) {
        let label = match (range.single, range.inclusive) {
            (true, _) => "number",
            (false, true) => "range inclusive",
            (false, false) => "range",
        };
        self.tree(format_args!("{label}"), |d| {
            d.some("from", range.lo.as_deref());
            d.some("to", range.hi.as_deref());
            d.some("step", range.step.as_deref());
        });
    }

    /// A chain: operators that differ from one operand to the next stand above their operands.
    fn chain<'e>(&mut self, label: &str, first: &Expr, rest: impl Iterator<Item = (&'static str, &'e Expr)>) {
        self.tree(format_args!("{label}"), |d| {
            d.expr(first);
            rest.for_each(|(op, operand)| d.one(op, operand));
        });
    }

    fn expr(&mut self, expr: &Expr) {
        match &expr.kind {
            ExprKind::Int(value) => self.node(format_args!("int {value}")),
            ExprKind::Float(value) => self.node(format_args!("real {value:?}")),
            ExprKind::Name(name) => self.node(format_args!("name {name}")),
            ExprKind::Field(of, field) => self.node(format_args!("field {}.{}", of.text, field.text)),
            ExprKind::Call(name, args) => self.all(format_args!("call {}", name.text), args),
            ExprKind::Index(name, indices) => self.all(format_args!("index {}", name.text), indices),
            ExprKind::Neg(operand) => self.one("neg", operand),
            ExprKind::Not(operand) => self.one("not", operand),
            ExprKind::Sum(first, rest) => {
                self.chain("sum", first, rest.iter().map(|(minus, e)| (if *minus { "minus" } else { "plus" }, e)));
            }
            ExprKind::Product(first, rest) => {
                self.chain("product", first, rest.iter().map(|(op, e)| (op.symbol(), e)));
            }
            ExprKind::Compare(first, rest) => {
                self.chain("compare", first, rest.iter().map(|(op, e)| (op.symbol(), e)));
            }
            ExprKind::In(operand, set) => self.tree(format_args!("in"), |d| {
                d.expr(operand);
                match set {
                    InSet::Range(range) => d.range(range),
                    InSet::List(list) => d.all(format_args!("list"), list),
                    InSet::Segment(name) => d.node(format_args!("segment {}", name.text)),
                    InSet::Call(name, args) => d.all(format_args!("call {}", name.text), args),
                }
            }),
            ExprKind::And(list) => self.all(format_args!("and"), list),
            ExprKind::Or(list) => self.all(format_args!("or"), list),
            ExprKind::Except(first, rest) => {
                self.all(format_args!("except"), std::iter::once(&**first).chain(rest));
            }
            ExprKind::Paren(inner) => self.one("paren", inner),
            ExprKind::SameBlock(size) => self.one("same block", size),
            ExprKind::SameDoc => self.leaf("same doc"),
            ExprKind::SameAxes(axes) => self.node(format_args!("same axes {}", texts(axes))),
            ExprKind::Block(size, set) => self.all(format_args!("block"), [&**size, &**set]),
            ExprKind::Along(q, None, set) => self.one(&format!("along {}", q.text), set),
            ExprKind::Along(q, Some(k), set) => self.one(&format!("along ({}, {})", q.text, k.text), set),
            ExprKind::EachDoc(set) => self.one("each doc", set),
            ExprKind::Near(axes) => self.tree(format_args!("near"), |d| {
                for axis in axes {
                    let causal = if axis.causal { " causal" } else { "" };
                    d.tree(format_args!("axis {}{causal}", axis.axis.text), |d| {
                        d.expr(&axis.window);
                        d.some("by", axis.stride.as_ref());
                        d.some("dilate", axis.dilate.as_ref());
                    });
                }
            }),
            ExprKind::Disc(axes, radius) => self.one(&format!("disc {}", texts(axes)), radius),
            ExprKind::Pow2 => self.leaf("pow2"),
            ExprKind::Halves { min, diagonal, below } => {
                self.all(format_args!("halves"), [&**min, &**diagonal, &**below]);
            }
            ExprKind::Random { replace, count, of, per, seed } => {
                let word = if *replace { "draw" } else { "random" };
                self.all(format_args!("{word} per {}", per.text), [&**count, &**of, &**seed]);
            }
            ExprKind::Map(name) => self.node(format_args!("map {}", name.text)),
        }
    }
}

fn texts(names: &[Name]) -> String {
    names.iter().map(|name| name.text.as_str()).collect::<Vec<_>>().join(", ")
}
