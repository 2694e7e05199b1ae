//! Scores: the operands of a product, the value of an item pair, and the steps that follow.
//!
//! Each step is checked against what rows and candidates are by then. What the steps mean stands in
//! [`crate::selection`].

use attnc_syntax::ast::{Clause, Expr, ExprKind, InSet, ItemKind, Name, ScoreStep};
use attnc_syntax::diag::{Diagnostic, Span};

use super::Checker;
use super::facts::Reads;
use super::names::{ItemRef, Named};
use super::scope::{CONSTANT, Cx, VALUE, WITHIN};
use crate::expr::{ExprId, LevelId, Node, ScoreId, Var};
use crate::program::{Heads, Index, Norm, Operand, Reduce, Rows, Score, Step};

const STEPS: &[&str] = &["max", "mean", "sum", "softmax", "exp", "minmax", "rowsum"];

/// What a score is made of before its steps.
enum Made {
    Product(Operand, Operand),
    Energy,
    Plain,
}

impl<'a> Checker<'a> {
    /// A declared score.
    pub(super) fn score(&mut self, item: ItemRef) -> Option<ScoreId> {
        let index = self.conditioned(item, |checker, name| {
            let ItemKind::Score { value, clauses, steps, .. } = &checker.item(item).kind else { return None };
            let score = checker.make_score(item.module, name.text.clone(), value, clauses, steps, name.span)?;
            checker.program.scores.push(score);
            Some(checker.program.scores.len() - 1)
        });
        index.map(|index| ScoreId(index as u32))
    }

    /// The score that a selection is by: one by name, or one that is written there.
    pub(super) fn score_of(&mut self, module: usize, select: &Name, e: &'a Expr) -> Option<ScoreId> {
        if let ExprKind::Name(word) = &e.kind
            && let Some((Named::Item(item), _)) = self.names[module].get(word)
            && matches!(self.item(item).kind, ItemKind::Score { .. })
        {
            return self.score(item);
        }
        let score = self.make_score(module, format!("{}.score", select.text), e, &[], &[], e.span)?;
        self.program.scores.push(score);
        Some(ScoreId((self.program.scores.len() - 1) as u32))
    }

    fn make_score(
        &mut self,
        module: usize,
        name: String,
        value: &'a Expr,
        clauses: &'a [Clause],
        steps: &'a [ScoreStep],
        span: Span,
    ) -> Option<Score> {
        let cx = self.top(module, VALUE);
        let mut products = Vec::new();
        products_in(value, &mut products);
        let made = match products.as_slice() {
            [] => Made::Plain,
            [(word, args)] => self.product_of(&cx, word, args)?,
            [_, (again, _), ..] => {
                let help = "add scores of two products outside, and give them as a tensor";
                return self.fail(&cx, bad_score(again.span, "a score has one product".to_owned(), help));
            }
        };
        let (mut rows, mut slots) = match &made {
            Made::Product(q, k) => (self.rows_index(*q), self.rows_index(*k)),
            Made::Energy => (Index::One, Index::Channels),
            Made::Plain => (Index::Queries, Index::Keys),
        };
        let levels = (level_of(rows), level_of(slots));
        let mut cx = cx;
        cx.scope.slots = levels;
        let mut id = self.real(&cx, value)?;
        if let Some(level) = level_of(rows) {
            self.rows_of(level);
        }
        let mut only = None;
        for clause in clauses {
            if only.is_some() {
                let error = Diagnostic::error("E0403", clause.word.span, "`where` is given twice", "given again here");
                return self.fail(&cx, error.help("join sets with `&`"));
            }
            only = Some(self.set(&cx.at(WITHIN), &clause.value)?);
        }
        // One row serves all queries if neither the number nor the pairs depend on the query.
        let read = only.into_iter().chain([id]).any(|e| self.facts.reads(&self.exprs, e).has(Reads::Q));
        if matches!(made, Made::Plain) && !read {
            rows = Index::One;
        }
        if let Some(level) = levels.1 {
            id = self.at_level(level, id);
            only = only.map(|only| self.at_level(level, only));
        }
        let mut done = Vec::with_capacity(steps.len());
        for step in steps {
            done.push(self.step(&cx, step, &mut rows, &mut slots)?);
        }
        let dot = if let Made::Product(q, k) = made { Some((q, k)) } else { None };
        Some(Score { name, dot, only, value: id, steps: done, rows, slots, span })
    }

    /// `dot(q, k)`, `energy(q, k)`
    fn product_of(&mut self, cx: &Cx<'a>, word: &'a Name, args: &'a [Expr]) -> Option<Made> {
        let [q, k] = args else {
            let help = format!("write `{}(q, k)`", word.text);
            let error = Diagnostic::error("E0206", word.span, format!("`{}` takes two operands", word.text), "not two");
            return self.fail(cx, error.help(help));
        };
        let (q, k) = (self.operand(cx, q)?, self.operand(cx, k)?);
        let plain = |o: Operand, rows: Rows| o.rows == rows && o.heads == Heads::Own && !o.unit;
        if word.text == "energy" {
            if !(plain(q, Rows::Q) && plain(k, Rows::K)) {
                let help = "write `energy(q, k) where q in -32 ..`";
                return self.fail(cx, bad_score(word.span, "energy is that of `q` and `k`".to_owned(), help));
            }
            return Some(Made::Energy);
        }
        let queries = matches!(q.rows, Rows::Q | Rows::LevelQ(_) | Rows::Tensor(_));
        let keys =
            matches!(k.rows, Rows::K | Rows::LevelK(_)) || matches!((q.rows, k.rows), (Rows::Tensor(_), Rows::Q));
        if !(queries && keys) {
            let help = "write queries first, then keys: `dot(g.q, g.k)`; a tensor of centroids may be the first";
            return self.fail(cx, bad_score(word.span, "a product is of queries and keys".to_owned(), help));
        }
        Some(Made::Product(q, k))
    }

    fn operand(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<Operand> {
        let own = |rows| Operand { rows, heads: Heads::Own, unit: false };
        let bad = |message: String| {
            bad_score(e.span, message, "write `q`, `k`, `g.q`, `g.k`, a tensor, or one of them in `unit(..)`")
        };
        match &e.kind {
            ExprKind::Paren(inner) => self.operand(cx, inner),
            ExprKind::Name(word) if word == "q" => Some(own(Rows::Q)),
            ExprKind::Name(word) if word == "k" => Some(own(Rows::K)),
            ExprKind::Name(word) => match self.names[cx.frame.module].get(word) {
                Some((Named::Item(item), _)) if matches!(self.item(item).kind, ItemKind::Tensor { .. }) => {
                    let tensor = self.tensor(item)?;
                    let dims = self.program.tensor(tensor).dims.clone();
                    let wide = |&d: &ExprId| matches!(self.exprs.node(d), Node::Var(Var::Dim));
                    let heads = |&d: &ExprId| matches!(self.exprs.node(d), Node::Var(Var::Heads));
                    match dims.as_slice() {
                        [_, d] if wide(d) => Some(own(Rows::Tensor(tensor))),
                        [h, _, d] if wide(d) && heads(h) => Some(own(Rows::Tensor(tensor))),
                        _ => {
                            let message = format!("`{word}` has no rows of a query's length");
                            let help = "declare it `[C, d]`, or `[heads, C, d]`";
                            self.fail(cx, bad_score(e.span, message, help))
                        }
                    }
                }
                _ => self.fail(cx, bad(format!("`{word}` is no operand of a product"))),
            },
            ExprKind::Field(of, part) => {
                let level = self.level_named(cx, of)?;
                let derived = self.program.level(level).of;
                match part.text.as_str() {
                    "q" if derived.q => Some(own(Rows::LevelQ(level))),
                    "k" if derived.k => Some(own(Rows::LevelK(level))),
                    _ => {
                        let message = format!("the level `{}` has no `{}`", of.text, part.text);
                        let help = "a level has what it is made `of`";
                        self.fail(cx, bad_score(part.span, message, help))
                    }
                }
            }
            ExprKind::Call(word, args) => {
                let ([inner], "unit" | "over_group" | "over_heads") = (args.as_slice(), word.text.as_str()) else {
                    return self.fail(cx, bad(format!("`{}` makes no operand", word.text)));
                };
                let inner = self.operand(cx, inner)?;
                Some(match word.text.as_str() {
                    "unit" => Operand { unit: true, ..inner },
                    "over_group" => Operand { heads: Heads::Group, ..inner },
                    _ => Operand { heads: Heads::All, ..inner },
                })
            }
            _ => self.fail(cx, bad("this is no operand of a product".to_owned())),
        }
    }

    fn rows_index(&self, operand: Operand) -> Index {
        match operand.rows {
            Rows::Q => Index::Queries,
            Rows::K => Index::Keys,
            Rows::LevelQ(level) | Rows::LevelK(level) => Index::Slots(level),
            Rows::Tensor(tensor) => {
                let dims = &self.program.tensor(tensor).dims;
                Index::Branches(dims[dims.len() - 2])
            }
        }
    }

    fn step(&mut self, cx: &Cx<'a>, step: &'a ScoreStep, rows: &mut Index, slots: &mut Index) -> Option<Step> {
        let word = step.op.text.as_str();
        if !STEPS.contains(&word) {
            return self.unknown_word(cx, &step.op, "step of a score", STEPS);
        }
        let norm = match word {
            "softmax" => Some(Norm::Softmax),
            "exp" => Some(Norm::Exp),
            "minmax" => Some(Norm::MinMax),
            "rowsum" => Some(Norm::RowSum),
            _ => None,
        };
        let help = "write `then max k in g`, `then mean q`, `then softmax` or `then minmax per head`";
        if let Some(norm) = norm {
            let head = match &step.per {
                None => false,
                Some(per) if per.text == "head" => true,
                Some(per) if per.text == "q" => false,
                Some(per) => return self.unknown_word(cx, per, "scope of a scale", &["q", "head"]),
            };
            if step.side.is_some() || step.into.is_some() {
                return self.fail(cx, bad_score(step.op.span, format!("`{word}` keeps rows and candidates"), help));
            }
            return Some(Step::Norm { norm, head });
        }
        let op = match word {
            "max" => Reduce::Max,
            "sum" => Reduce::Sum,
            _ => Reduce::Mean,
        };
        let keys = match step.side.as_ref().map(|s| s.text.as_str()) {
            Some("q") => false,
            Some("k") => true,
            _ => return self.fail(cx, bad_score(step.op.span, format!("`{word}` over queries or keys?"), help)),
        };
        if let Some(per) = &step.per {
            return self.fail(cx, bad_score(per.span, format!("`{word}` is over slots of a level"), help));
        }
        let into = match &step.into {
            None => Index::One,
            Some(name) => Index::Slots(self.level_named(&self.top(cx.frame.module, CONSTANT), name)?),
        };
        let from = if keys { &mut *slots } else { &mut *rows };
        let tokens = matches!(from, Index::Queries | Index::Keys);
        let nested = match (*from, into) {
            (Index::Slots(from), Index::Slots(into)) => self.is_within(from, into),
            (Index::Slots(_), Index::One) => true,
            _ => false,
        };
        if !(tokens || nested) {
            let what = if keys { "candidates" } else { "rows" };
            let span = step.into.as_ref().map_or(step.op.span, |into| into.span);
            let help = "tokens go into any level, slots into a level made of theirs";
            return self.fail(cx, bad_score(span, format!("these {what} are no part of it"), help));
        }
        *from = into;
        if !keys && let Index::Slots(level) = into {
            self.rows_of(level);
        }
        Some(if keys { Step::Keys { op, into } } else { Step::Queries { op, into } })
    }

    /// Whether slots of one level are made of slots of the other.
    fn is_within(&self, from: LevelId, into: LevelId) -> bool {
        let mut level = Some(into);
        while let Some(at) = level {
            if at == from {
                return true;
            }
            level = self.program.level(at).parent;
        }
        false
    }
}

fn level_of(index: Index) -> Option<LevelId> {
    match index {
        Index::Slots(level) => Some(level),
        _ => None,
    }
}

/// The calls of `dot` and `energy` in an expression.
fn products_in<'e>(e: &'e Expr, found: &mut Vec<(&'e Name, &'e [Expr])>) {
    match &e.kind {
        ExprKind::Call(name, args) if matches!(name.text.as_str(), "dot" | "energy") => found.push((name, args)),
        ExprKind::Call(_, list) | ExprKind::Index(_, list) | ExprKind::And(list) | ExprKind::Or(list) => {
            list.iter().for_each(|e| products_in(e, found));
        }
        ExprKind::Neg(a) | ExprKind::Not(a) | ExprKind::Paren(a) => products_in(a, found),
        ExprKind::Sum(first, rest) => {
            products_in(first, found);
            rest.iter().for_each(|(_, e)| products_in(e, found));
        }
        ExprKind::Product(first, rest) => {
            products_in(first, found);
            rest.iter().for_each(|(_, e)| products_in(e, found));
        }
        ExprKind::In(a, InSet::List(list)) => {
            products_in(a, found);
            list.iter().for_each(|e| products_in(e, found));
        }
        _ => {}
    }
}

/// The error of a score that cannot be.
fn bad_score(span: Span, message: String, help: &str) -> Diagnostic {
    Diagnostic::error("E0413", span, message, "of this score").help(help)
}
