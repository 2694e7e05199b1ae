//! Selections: budgets, rows and candidates, and what their names mean in sets.
//!
//! What a selection chooses stands in [`crate::selection`].

use attnc_syntax::ast::{self, Clause, Expr, ExprKind, ItemKind, Name};
use attnc_syntax::diag::{Diagnostic, Span};

use super::Checker;
use super::facts::Reads;
use super::names::{ItemRef, Named};
use super::scope::{self, AMOUNT, CONSTANT, Cx, Scope, Val, WITHIN};
use crate::expr::{DrawId, ExprId, Node, SelectId, Ty};
use crate::program::{
    Among, Band, Budget, Chooser, Draw, DrawScope, Index, Norm, Reduce, Refine, Rep, Score, Select, Step,
};

const BUDGETS: &[&str] = &["top", "frac", "mass", "above", "nearest", "refine", "bands"];
const CLAUSES: &[&str] = &["within", "besides", "including", "among", "at least", "by"];

impl<'a> Checker<'a> {
    /// A declared selection.
    pub(super) fn select(&mut self, item: ItemRef) -> Option<SelectId> {
        let index = self.conditioned(item, |checker, name| {
            let ItemKind::Select { budget, of, per, clauses, .. } = &checker.item(item).kind else { return None };
            checker.make_select(item.module, name, budget, of.as_ref(), per, clauses)
        });
        index.map(|index| SelectId(index as u32))
    }

    fn make_select(
        &mut self,
        module: usize,
        name: &'a Name,
        budget: &'a ast::Budget,
        of: Option<&'a Expr>,
        per: &'a (Name, Option<Name>),
        clauses: &'a [Clause],
    ) -> Option<usize> {
        let cx = self.top(module, WITHIN);
        let word = budget.word.text.as_str();
        if !BUDGETS.contains(&word) {
            return self.unknown_word(&cx, &budget.word, "budget", BUDGETS);
        }
        let score = match of {
            Some(e) if word != "nearest" => Some(self.score_of(module, name, e)?),
            None if word == "nearest" => None,
            _ => {
                let (message, help) = if word == "nearest" {
                    ("the nearest are chosen by position, not by a score", "leave `of` out: `nearest 32 per q`")
                } else {
                    ("by which score?", "write `top 8 of dot(q, g.k) per q`")
                };
                return self.fail(&cx, bad_select(budget.word.span, message.to_owned(), help));
            }
        };
        let made = score.map(|score| self.program.score(score).clone());
        let by_query = made.as_ref().is_none_or(|score| score.rows != Index::One);
        let (rows, pool) = match (per.0.text.as_str(), &per.1) {
            ("q", None) => (Index::Queries, Among::Row),
            ("q", Some(level)) => {
                let level = self.level_named(&cx, level)?;
                self.rows_of(level);
                (Index::Slots(level), Among::Row)
            }
            ("head", None) => match &made {
                Some(score) if by_query => (score.rows, Among::Head),
                _ => (Index::One, Among::Row),
            },
            ("branch", None) => match &made {
                Some(Score { rows: rows @ Index::Branches(_), .. }) => (*rows, Among::Row),
                _ => {
                    let help = "the first operand of its product is a tensor of centroids: `dot(mu, unit(k))`";
                    return self.fail(&cx, bad_select(per.0.span, "this score has no branches".to_owned(), help));
                }
            },
            _ => return self.unknown_word(&cx, &per.0, "scope of a selection", &["q", "head", "branch"]),
        };
        let mut slots = match &made {
            Some(score) => score.slots,
            None => Index::Keys,
        };
        for clause in clauses.iter().filter(|c| c.word.text == "among") {
            slots = match &clause.value.kind {
                ExprKind::Name(word) if word == "tokens" => Index::Keys,
                ExprKind::Name(word) => {
                    let item = match self.names[module].get(word) {
                        Some((Named::Item(item), _)) if matches!(self.item(item).kind, ItemKind::Level { .. }) => item,
                        _ => {
                            let message = format!("`{word}` has no slots");
                            let help = "write `among tokens` or a level";
                            return self.fail(&cx, bad_select(clause.value.span, message, help));
                        }
                    };
                    Index::Slots(self.level(item)?)
                }
                _ => {
                    let help = "write `among tokens` or a level";
                    return self.fail(&cx, bad_select(clause.value.span, "among which slots?".to_owned(), help));
                }
            };
        }
        if let Some(score) = &made {
            self.comparable(&cx, score, rows, slots, per.0.span)?;
        }
        let (mut within, mut besides, mut including) = (None, None, None);
        let (mut at_least, mut rep) = (0, Rep::Center);
        for (i, clause) in clauses.iter().enumerate() {
            let word = clause.word.text.as_str();
            if let Some(first) = clauses[..i].iter().find(|c| c.word.text == word) {
                let message = format!("`{word}` is given twice");
                let error = Diagnostic::error("E0403", clause.word.span, message, "given again here");
                return self.fail(&cx, error.label(first.word.span, "first given here").help("keep one of them"));
            }
            match word {
                "within" => within = Some(self.pairs(&cx, &clause.value, rows, slots)?),
                "besides" => besides = Some(self.pairs(&cx, &clause.value, rows, slots)?),
                "including" => including = Some(self.pairs(&cx, &clause.value, rows, slots)?),
                "at least" => at_least = self.positive(&cx.at(CONSTANT), &clause.value, "a number of slots")?,
                "by" => {
                    rep = match &clause.value.kind {
                        ExprKind::Name(word) if word == "center" => Rep::Center,
                        ExprKind::Name(word) if word == "first" => Rep::First,
                        _ => {
                            let help = "write `by center` or `by first`";
                            let message = "which candidate stands for a part?".to_owned();
                            return self.fail(&cx, bad_select(clause.value.span, message, help));
                        }
                    };
                    if budget.word.text != "refine" {
                        let help = "only `refine` looks at one candidate for several";
                        let message = "every candidate is looked at here".to_owned();
                        return self.fail(&cx, bad_select(clause.word.span, message, help));
                    }
                }
                "among" => {}
                _ => return self.unknown_word(&cx, &clause.word, "part of a selection", CLAUSES),
            }
        }
        let budget_of = self.budget(&cx, budget, made.as_ref(), rep)?;
        if let Budget::Refine(_) = budget_of
            && (pool == Among::Head || including.is_some())
        {
            let help = "a search is for one row: write `per q.LEVEL`, and join forced slots with `|`";
            return self.fail(&cx, bad_select(budget.word.span, "`refine` ranks nothing".to_owned(), help));
        }
        if let (Budget::Bands(_), Some(clause)) = (&budget_of, clauses.iter().find(|c| c.word.text == "at least")) {
            let help = "say it of a band: `bands mass { full = 0.4 at least 0.06 }`";
            return self.fail(&cx, bad_select(clause.word.span, "at least of which band?".to_owned(), help));
        }
        let capacity = self.capacity(&budget_of, slots, pool, at_least);
        let first = self.program.draws.len();
        let select = SelectId(self.program.selects.len() as u32);
        let tables = if let Budget::Bands(bands) = &budget_of { bands.len() } else { 1 };
        let unit = match slots {
            Index::Slots(level) => self.unit_of(level),
            _ => 1,
        };
        let scope = if rows == Index::One { DrawScope::Head } else { DrawScope::Row };
        let of = self.exprs.bool(true);
        for table in 0..tables {
            let chooser = Chooser::Select { select, table };
            self.program.draws.push(Draw { chooser, of, unit, scope, weight: None, span: name.span });
        }
        self.program.selects.push(Select {
            name: name.text.clone(),
            score,
            rows,
            slots,
            pool,
            within,
            besides,
            including,
            budget: budget_of,
            at_least,
            tables: (first..first + tables).map(|d| DrawId(d as u32)).collect(),
            capacity,
            span: name.span,
        });
        Some(self.program.selects.len() - 1)
    }

    /// Whether a score can be read at these rows and candidates.
    fn comparable(&mut self, cx: &Cx<'a>, score: &Score, rows: Index, slots: Index, span: Span) -> Option<()> {
        let plain = score.is_plain();
        let fine_rows = match (score.rows, rows) {
            (Index::One, _) => true,
            (Index::Branches(_), Index::Branches(_)) => true,
            (Index::Branches(_), _) | (_, Index::Branches(_)) => false,
            // Queries of a slot share its score; a slot has no one score of its queries.
            (_, Index::Queries) => true,
            (a, b) => a == b || plain,
        };
        let fine_slots = match (score.slots, slots) {
            (Index::One, _) => false,
            (Index::Slots(_), Index::Keys) => true,
            (a, b) => a == b || plain && a == Index::Keys,
        };
        if fine_rows && fine_slots {
            return Some(());
        }
        let (message, help) = if fine_rows {
            ("the score is of other candidates", "reduce it: `then max k in LEVEL`, or choose `among` its slots")
        } else {
            ("the score is of other rows", "reduce it: `then max q in LEVEL`, or select `per` its rows")
        };
        self.fail(cx, bad_select(span, message.to_owned(), help).label(score.span, "this score"))
    }

    /// A set of pairs of rows and candidates.
    fn pairs(&mut self, cx: &Cx<'a>, e: &'a Expr, rows: Index, slots: Index) -> Option<ExprId> {
        if matches!(slots, Index::Channels | Index::Queries) {
            let help = "choose out of all of them";
            return self.fail(cx, bad_select(e.span, "sets are of queries and keys".to_owned(), help));
        }
        let mut cx = cx.clone();
        let level = if let Index::Slots(level) = slots { Some(level) } else { None };
        cx.scope.slots = (if let Index::Slots(level) = rows { Some(level) } else { None }, level);
        let set = self.set(&cx, e)?;
        if matches!(rows, Index::Branches(_)) && self.facts.reads(&self.exprs, set).has(Reads::Q) {
            let help = "join it where the selection is used: `chosen & causal`";
            return self.fail(&cx, bad_select(e.span, "a branch has no position".to_owned(), help));
        }
        Some(level.map_or(set, |level| self.at_level(level, set)))
    }

    fn budget(&mut self, cx: &Cx<'a>, written: &'a ast::Budget, score: Option<&Score>, rep: Rep) -> Option<Budget> {
        let word = &written.word;
        let constant = cx.at(CONSTANT);
        if let Some(kind) = written.kind.as_ref().filter(|kind| word.text != "bands" || kind.text != "mass") {
            return self.unknown_word(cx, kind, "kind of band", &["mass"]);
        }
        if word.text == "bands" {
            if written.bands.is_empty() {
                let help = "write `bands { near = 0.1, far = 0.3 }`";
                return self.fail(cx, bad_select(word.span, "which bands?".to_owned(), help));
            }
            let mass = written.kind.is_some();
            if mass {
                self.never_negative(cx, score, word.span)?;
            }
            let mut bands: Vec<Band> = Vec::new();
            for band in &written.bands {
                let upto = self.share(&constant, &band.upto)?;
                if bands.last().is_some_and(|last| last.upto > upto) || bands.iter().any(|b| b.name == band.name.text) {
                    let help = "bands have names of their own and end by ascending rank";
                    return self.fail(cx, bad_select(band.name.span, "bands overlap".to_owned(), help));
                }
                let least = match &band.least {
                    None => None,
                    Some(clause) if clause.word.text != "at least" => {
                        return self.unknown_word(cx, &clause.word, "part of a band", &["at least"]);
                    }
                    Some(clause) if !mass => {
                        let help = "let the band end at a greater share of the ranks";
                        let message = "a band of ranks is as long as it says".to_owned();
                        return self.fail(cx, bad_select(clause.word.span, message, help));
                    }
                    Some(clause) => Some(self.share(&constant, &clause.value)?),
                };
                let align = match &band.align {
                    None => 1,
                    Some(align) => self.positive(&constant, align, "a multiple")?,
                };
                bands.push(Band { name: band.name.text.clone(), upto, mass, least, align });
            }
            return Some(Budget::Bands(bands));
        }
        let amount = match &written.amount {
            Some(amount) if written.bands.is_empty() => amount,
            _ => {
                let help = format!("write `{} 8`", word.text);
                return self.fail(cx, bad_select(word.span, "how many?".to_owned(), &help));
            }
        };
        Some(match word.text.as_str() {
            "top" => {
                if let ExprKind::Call(count, args) = &amount.kind
                    && count.text == "count"
                {
                    return self.count_of(cx, args, amount.span);
                }
                let count = self.int(&cx.at(AMOUNT), amount)?.id;
                if let Some(v) = self.exprs.as_int(count).filter(|&v| v < 1) {
                    return self.not_positive(cx, amount.span, "a number of slots", v);
                }
                Budget::Top(count)
            }
            "frac" => Budget::Frac(self.share(&constant, amount)?),
            "mass" => {
                self.never_negative(cx, score, word.span)?;
                Budget::Mass(self.share(&constant, amount)?)
            }
            "above" => Budget::Above(self.constant_real(&constant, amount)?),
            "nearest" => Budget::Nearest(self.positive(&constant, amount, "a number of keys")?),
            _ => Budget::Refine(Refine { leaves: self.positive(&constant, amount, "a number of leaves")?, rep }),
        })
    }

    /// `top count(other)`
    fn count_of(&mut self, cx: &Cx<'a>, args: &'a [Expr], span: Span) -> Option<Budget> {
        let select = match args {
            [Expr { kind: ExprKind::Name(word), .. }] => match self.names[cx.frame.module].get(word) {
                Some((Named::Item(item), _)) if matches!(self.item(item).kind, ItemKind::Select { .. }) => {
                    Some(self.select(item)?)
                }
                _ => None,
            },
            _ => None,
        };
        let one = select.filter(|&s| self.program.select(s).tables.len() == 1);
        match one {
            Some(select) => Some(Budget::CountOf(select)),
            None => {
                let help = "name a selection with one table: `top count(budget) of a per q.g`";
                self.fail(cx, bad_select(span, "whose count?".to_owned(), help))
            }
        }
    }

    /// A fraction of (0, 1].
    fn share(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<f64> {
        let value = self.constant_real(cx, e)?;
        if value > 0.0 && value <= 1.0 {
            return Some(value);
        }
        let message = format!("a share of {value} is not above 0 and at most 1");
        self.fail(cx, bad_select(e.span, message, "write a share such as 0.25"))
    }

    fn constant_real(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<f64> {
        let id = self.real(cx, e)?;
        match self.exprs.as_real(id) {
            Some(v) => Some(v),
            None => self.not_constant(cx, e.span),
        }
    }

    /// Shares of a sum have a meaning only where nothing is negative.
    fn never_negative(&mut self, cx: &Cx<'a>, score: Option<&Score>, span: Span) -> Option<()> {
        let positive = score.is_some_and(|score| {
            score
                .steps
                .iter()
                .any(|step| matches!(step, Step::Norm { norm: Norm::Softmax | Norm::Exp | Norm::MinMax, .. }))
        });
        let kept = score.is_some_and(|score| {
            score.steps.iter().all(|step| match step {
                Step::Norm { .. } => true,
                Step::Keys { op, .. } | Step::Queries { op, .. } => {
                    matches!(op, Reduce::Max | Reduce::Mean | Reduce::Sum)
                }
            })
        });
        if positive && kept {
            return Some(());
        }
        let help = "bring it to a scale: `then softmax`, `then exp` or `then minmax`";
        self.fail(cx, bad_select(span, "the share of a score that may be negative".to_owned(), help))
    }

    /// The most slots that a row can hold.
    fn capacity(&mut self, budget: &Budget, slots: Index, pool: Among, at_least: i64) -> ExprId {
        let all = match slots {
            Index::One => self.exprs.int(1),
            Index::Queries => self.tokens.n_q,
            Index::Keys => self.tokens.n_k,
            Index::Slots(level) => self.program.level(level).slots,
            Index::Branches(count) => count,
            Index::Channels => self.exprs.var(crate::expr::Var::Dim),
        };
        // ceil(f all), with f rounded up to a multiple of 2^-20.
        let fraction = |this: &mut Self, f: f64, more: i64| {
            let parts = (f * f64::from(1 << 20)).ceil() as i64;
            let (parts, whole) = (this.exprs.int(parts), this.exprs.int(1 << 20));
            let scaled = this.exprs.mul(all, parts);
            let less = this.exprs.int((1 << 20) - 1);
            let up = this.exprs.add(scaled, less);
            let count = this.exprs.div(up, whole);
            let more = this.exprs.int(more);
            this.exprs.add(count, more)
        };
        let most = match budget {
            _ if pool == Among::Head => all,
            Budget::Top(count) => *count,
            Budget::Frac(f) => fraction(self, *f, 0),
            Budget::Nearest(n) => self.exprs.int(*n),
            Budget::Refine(refine) => self.exprs.int(refine.leaves),
            Budget::Bands(bands) if !bands[0].mass => {
                let (mut before, mut width, mut align) = (0.0, 0.0_f64, 1);
                for band in bands {
                    width = width.max(band.upto - before);
                    align = align.max(band.align);
                    before = band.upto;
                }
                fraction(self, width, align + 1)
            }
            Budget::Mass(_) | Budget::Above(_) | Budget::CountOf(_) | Budget::Bands(_) => all,
        };
        let floor = self.exprs.int(at_least);
        let most = self.exprs.max(most, floor);
        self.exprs.min(most, all)
    }

    /// The name of a selection in a set.
    pub(super) fn chosen(&mut self, cx: &Cx<'a>, item: ItemRef, band: Option<&'a Name>, span: Span) -> Option<Val> {
        let ItemKind::Select { name, clauses, .. } = &self.item(item).kind else { return None };
        self.may(cx, scope::QUERY, &name.text, span)?;
        let around = match cx.scope {
            Scope { block: Some(_), .. } => Some("block"),
            Scope { local, .. } => local,
        };
        if let Some(around) = around {
            let message = format!("a selection is of tokens, and `{around}` around it has renamed them");
            let help = format!("join it from outside: `{} & {around} ..`", name.text);
            return self.no_meaning(cx, span, message, &help);
        }
        let id = self.select(item)?;
        let select = self.program.select(id).clone();
        let table = match (&select.budget, band) {
            (Budget::Bands(bands), Some(band)) => match bands.iter().position(|b| b.name == band.text) {
                Some(table) => table,
                None => {
                    let names: Vec<&str> = bands.iter().map(|b| b.name.as_str()).collect();
                    let message = format!("`{}` has no band `{}`", name.text, band.text);
                    let error = Diagnostic::error("E0201", band.span, message, "unknown band");
                    return self.fail(cx, error.help(format!("its bands are {}", names.join(", "))));
                }
            },
            (Budget::Bands(bands), None) => {
                let help = format!("write `{}.{}`", name.text, bands[0].name);
                return self.no_meaning(cx, span, format!("which band of `{}`?", name.text), &help);
            }
            (_, Some(band)) => {
                let help = format!("write `{}`", name.text);
                return self.no_meaning(cx, band.span, format!("`{}` has no bands", name.text), &help);
            }
            (_, None) => 0,
        };
        let (q, k) = (self.tokens.q, self.tokens.k);
        let mut inside = Vec::new();
        let row = match select.rows {
            Index::One => self.exprs.int(0),
            Index::Branches(_) => self.exprs.var(crate::expr::Var::Branch),
            Index::Slots(level) => {
                let level = self.program.level(level);
                inside.extend(level.inside.map(|i| i.0));
                level.slot_q
            }
            _ => q,
        };
        let slot = match select.slots {
            Index::Keys => k,
            Index::Queries => q,
            Index::Slots(level) => {
                let level = self.program.level(level);
                inside.extend(level.inside.map(|i| i.1));
                level.slot_k
            }
            Index::One | Index::Branches(_) | Index::Channels => {
                let help = "write `level thin = channels(NAME) of k`";
                return self.no_meaning(cx, span, format!("`{}` chooses channels, not keys", name.text), help);
            }
        };
        if select.slots != Index::Queries {
            self.may(cx, scope::KEY, &name.text, span)?;
        }
        inside.push(self.exprs.intern(Node::Drawn(select.tables[table], row, slot)));
        let mut set = self.exprs.and(inside);
        if let Some(besides) = clauses.iter().find(|c| c.word.text == "besides") {
            let mut own = self.top(item.module, cx.place);
            own.scope.slots = cx.scope.slots;
            let had = self.set(&own, &besides.value)?;
            set = self.exprs.or([set, had]);
        }
        debug_assert_eq!(self.exprs.ty(set), Ty::Bool);
        Some(self.marked(cx, set, span))
    }
}

/// The error of a selection that cannot be.
fn bad_select(span: Span, message: String, help: &str) -> Diagnostic {
    Diagnostic::error("E0414", span, message, "of this selection").help(help)
}
