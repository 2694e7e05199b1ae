//! Attentions: entries and statements as written, and patterns that run with the defaults.

use attnc_syntax::ast::{self, Expr, ItemKind, Name, Stmt};
use attnc_syntax::diag::{Diagnostic, Span};

use super::Checker;
use super::facts::Reads;
use super::names::ItemRef;
use super::scope::{self, BIAS, MODIFIER, NULL_BIAS, REQUIRE, SCALE, SET};
use crate::expr::{ExprId, Node, Un, Var};
use crate::program::{Align, Attention, Demand, Empty, Entry, Partition, Pool, Pooled, Source};

/// What the statements of an attention say.
#[derive(Default)]
struct Draft {
    scale: Option<ExprId>,
    score: Option<ExprId>,
    align: Option<Align>,
    empty: Option<Empty>,
    /// What was written, in place of the default.
    require: Vec<Demand>,
    pooled: Option<Pooled>,
    entries: Vec<Entry>,
}

/// What is said of a `require` that does not hold.
const UNMET: &str = "does not hold";

/// A statement that an attention has at most once.
struct Once {
    word: &'static str,
    seen: Option<Span>,
}

impl<'a> Checker<'a> {
    /// Every attention and every pattern without arguments of the compiled file.
    pub(super) fn attentions(&mut self) {
        for (item, node) in self.items() {
            match &node.kind {
                ItemKind::Attention { .. } | ItemKind::Merge { .. } => {
                    self.attention(item);
                }
                ItemKind::Pattern { args, .. } if args.is_empty() => {
                    self.attention(item);
                }
                ItemKind::Require(e) => {
                    let cx = self.top(item.module, REQUIRE);
                    self.set(&cx, e);
                }
                _ => {}
            }
        }
    }

    /// The attention of an item: an `attention`, or a pattern without arguments with the defaults.
    pub(super) fn attention(&mut self, item: ItemRef) -> Option<usize> {
        if let Some(&known) = self.by_item.get(&item) {
            return known;
        }
        let node = self.item(item);
        self.launch.clear();
        let (name, draft) = match &node.kind {
            ItemKind::Attention { name, stmts } => (name, self.statements(item.module, name, stmts)),
            ItemKind::Pattern { name, body, .. } => (name, self.bare(item, body, name.span)),
            ItemKind::Merge { .. } => {
                let index = self.merge(item);
                self.by_item.insert(item, index);
                return index;
            }
            _ => return None,
        };
        let index =
            draft.map(|draft| self.finish_attention(item.module, name.text.clone(), &node.docs, draft, node.span));
        let index = index.flatten();
        self.by_item.insert(item, index);
        index
    }

    /// A pattern that runs as it is.
    fn bare(&mut self, item: ItemRef, body: &'a Expr, span: Span) -> Option<Draft> {
        let cx = self.top(item.module, SET);
        let set = self.expand(&cx, item, &[], body.span)?.id;
        let entry = Entry { source: Source::Tokens(set), bias: None, score: None, span: body.span };
        self.mark(&cx, set, span);
        Some(Draft { entries: vec![entry], ..Draft::default() })
    }

    /// The attention of a set that has no name: an arm of a model.
    pub(super) fn unnamed(&mut self, module: usize, set: &'a Expr, name: String) -> Option<usize> {
        self.launch.clear();
        let cx = self.top(module, SET);
        let id = self.set(&cx, set)?;
        let same = |a: &Attention| {
            a.name == name && matches!(a.entries[..], [Entry { source: Source::Tokens(s), bias: None, .. }] if s == id)
        };
        if let Some(index) = self.program.attentions.iter().position(same) {
            return Some(index);
        }
        let entry = Entry { source: Source::Tokens(id), bias: None, score: None, span: set.span };
        let draft = Draft { entries: vec![entry], ..Draft::default() };
        self.finish_attention(module, name, &[], draft, set.span)
    }

    fn finish_attention(
        &mut self,
        module: usize,
        name: String,
        docs: &[String],
        mut draft: Draft,
        span: Span,
    ) -> Option<usize> {
        for item in &self.modules[module].ast.items {
            if let ItemKind::Require(e) = &item.kind {
                let cx = self.top(module, REQUIRE);
                draft.require.push(Demand { holds: self.set(&cx, e)?, span: e.span, otherwise: UNMET });
            }
        }
        if draft.require.is_empty() {
            let one = self.exprs.int(1);
            let (n_q, n_k) = (self.tokens.n_q, self.tokens.n_k);
            let holds = [self.exprs.le(one, n_q), self.exprs.le(n_q, n_k)];
            let otherwise = "has no `require`, and so is for 1 <= n_q <= n_k";
            draft.require.extend(holds.map(|holds| Demand { holds, span, otherwise }));
        }
        for entry in &draft.entries {
            if let Source::Tokens(set) = entry.source {
                self.one_draw(set, entry.span)?;
            }
        }
        // A modifier is read at the slots of each entry.
        if let Some(score) = draft.score {
            for i in 0..draft.entries.len() {
                if let Source::Slots(level, _) = draft.entries[i].source {
                    draft.entries[i].score = Some(self.at_level(level, score));
                }
            }
        }
        draft.require.append(&mut self.launch);
        let require = self.exprs.and(draft.require.iter().map(|d| d.holds).collect::<Vec<_>>());
        let scale = match draft.scale {
            Some(scale) => scale,
            None => {
                let d = self.exprs.var(Var::Dim);
                let d = self.exprs.to_real(d);
                let (one, root) = (self.exprs.real(1.0), self.exprs.un(Un::Sqrt, d));
                self.exprs.div(one, root)
            }
        };
        let sets = draft.entries.iter().filter_map(|e| match e.source {
            Source::Tokens(set) => Some(set),
            Source::Slots(_, set) => Some(set),
            Source::Null(_) => None,
        });
        let relation =
            sets.collect::<Vec<_>>().into_iter().any(|set| self.facts.reads(&self.exprs, set).has(Reads::RELATION));
        let reals: Vec<ExprId> = draft.score.into_iter().chain(draft.entries.iter().filter_map(|e| e.bias)).collect();
        let modified = reals.into_iter().any(|e| self.facts.reads(&self.exprs, e).has(Reads::Q | Reads::K));
        self.program.attentions.push(Attention {
            name,
            docs: docs.to_vec(),
            scale,
            score: draft.score,
            align: draft.align,
            empty: draft.empty,
            require,
            demands: draft.require,
            depends_on_alignment: relation || modified,
            entries: draft.entries,
            merge: None,
            pooled: draft.pooled,
            span,
        });
        Some(self.program.attentions.len() - 1)
    }

    /// A draw with replacement counts a key as often as it was drawn. Of a set that is known only where the draw
    /// is one of its conjuncts, and the only one.
    fn one_draw(&mut self, set: ExprId, entry: Span) -> Option<()> {
        let reached = self.exprs.reachable(&[set]);
        let mut draws = reached.iter().filter_map(|&id| match *self.exprs.node(id) {
            Node::Drawn(d, ..) if self.program.draw(d).weight.is_some() => Some((id, self.program.draw(d).span)),
            _ => None,
        });
        let Some((first, span)) = draws.next() else { return Some(()) };
        let conjunct = first == set || matches!(self.exprs.node(set), Node::And(xs) if xs.contains(&first));
        let (span, message) = match draws.next() {
            Some((_, second)) => (second, "an entry has two draws with replacement"),
            None if conjunct => return Some(()),
            None => (span, "a key drawn twice would count once here"),
        };
        let error = Diagnostic::error("E0411", span, message, "how often a key counts is not clear");
        self.report(error.label(entry, "in this entry").help(
            "make it an entry of its own, which `&` and `except` may restrict: `attend causal ++ draw 8 of all per head seed 7`",
        ));
        None
    }

    fn statements(&mut self, module: usize, name: &Name, stmts: &'a [Stmt]) -> Option<Draft> {
        let mut draft = Draft::default();
        let mut fine = true;
        let mut once = ["scale", "score", "align", "empty", "queries", "attend"].map(|word| Once { word, seen: None });
        for stmt in stmts {
            let (word, span) = match stmt {
                Stmt::Scale(e) => ("scale", e.span),
                Stmt::Score(e) => ("score", e.span),
                Stmt::Align(name) => ("align", name.span),
                Stmt::Empty(name) => ("empty", name.span),
                Stmt::Require(e) => ("require", e.span),
                Stmt::Queries(name, _) => ("queries", name.span),
                Stmt::Attend(_, span) => ("attend", *span),
            };
            if let Some(once) = once.iter_mut().find(|o| o.word == word)
                && let Some(first) = once.seen.replace(span)
            {
                let help = if word == "attend" { "join entries with `++`" } else { "keep one of them" };
                self.report(
                    Diagnostic::error("E0403", span, format!("`{word}` is given twice"), "given again here")
                        .label(first, "first given here")
                        .help(help),
                );
                fine = false;
            }
            fine &= self.statement(module, stmt, &mut draft).is_some();
        }
        if !stmts.iter().any(|s| matches!(s, Stmt::Attend(..))) {
            self.report(
                Diagnostic::error("E0402", name.span, format!("`{}` attends to nothing", name.text), "has no `attend`")
                    .help("add `attend causal @ tokens`"),
            );
            fine = false;
        }
        fine.then_some(draft)
    }

    fn statement(&mut self, module: usize, stmt: &'a Stmt, draft: &mut Draft) -> Option<()> {
        match stmt {
            Stmt::Scale(e) => {
                let cx = self.top(module, SCALE);
                draft.scale = Some(self.real(&cx, e)?);
            }
            Stmt::Score(e) => {
                let cx = self.top(module, MODIFIER);
                draft.score = Some(self.real(&cx, e)?);
            }
            Stmt::Align(word) => {
                let cx = self.top(module, SET);
                draft.align = match word.text.as_str() {
                    "start" => Some(Align::Start),
                    "end" => Some(Align::End),
                    _ => return self.unknown_word(&cx, word, "alignment", &["start", "end"]),
                };
            }
            Stmt::Empty(word) => {
                let cx = self.top(module, SET);
                draft.empty = match word.text.as_str() {
                    "zero" => Some(Empty::Zero),
                    "error" => Some(Empty::Error),
                    _ => return self.unknown_word(&cx, word, "policy for empty rows", &["zero", "error"]),
                };
            }
            Stmt::Require(e) => {
                let cx = self.top(module, REQUIRE);
                draft.require.push(Demand { holds: self.set(&cx, e)?, span: e.span, otherwise: UNMET });
            }
            Stmt::Queries(level, how) => {
                let cx = self.top(module, SET);
                let bilinear = match how {
                    None => false,
                    Some(word) if word.text == "bilinear" => true,
                    Some(word) => return self.unknown_word(&cx, word, "way between slots", &["bilinear"]),
                };
                let id = self.level_named(&cx, level)?;
                self.rows_of(id);
                let of = self.program.level(id);
                if !of.of.q || bilinear && !matches!(of.partition, Partition::Axes(_)) {
                    let (message, help) = if of.of.q {
                        ("there is nothing between slots of a line", "make a level of boxes: `mean(h = 2, w = 2)`")
                    } else {
                        ("this level has no queries", "make it `of q, k, v`")
                    };
                    let error = Diagnostic::error("E0412", level.span, message, "queries of this level");
                    return self.fail(&cx, error.help(help));
                }
                draft.pooled = Some(Pooled { level: id, bilinear });
            }
            Stmt::Attend(entries, _) => {
                let entries: Vec<Option<Entry>> = entries.iter().map(|e| self.entry(module, e)).collect();
                draft.entries.extend(entries.into_iter().collect::<Option<Vec<Entry>>>()?);
            }
        }
        Some(())
    }

    fn entry(&mut self, module: usize, entry: &'a ast::Entry) -> Option<Entry> {
        let cx = self.top(module, SET);
        let level = match &entry.level {
            Some(level) if level.text != "tokens" => Some(self.level_named(&cx, level)?),
            _ => None,
        };
        let mut cx = cx;
        cx.scope.slots.1 = level;
        let source = match (&entry.set, &entry.null) {
            (Some(set), _) => self.set(&cx, set).map(|set| match level {
                Some(level) => Source::Slots(level, self.at_level(level, set)),
                None => Source::Tokens(set),
            }),
            (None, Some(slots)) => self.positive(&cx, slots, "a number of null slots").map(Source::Null),
            (None, None) => None,
        };
        let place = if entry.null.is_some() { NULL_BIAS } else { BIAS };
        let bias = entry.bias.as_ref().map(|e| self.real(&cx.at(place), e));
        let source = source?;
        let bias = match bias {
            Some(bias) => match level {
                Some(level) => {
                    let bias = bias?;
                    Some(self.at_level(level, bias))
                }
                None => Some(bias?),
            },
            None => None,
        };
        if let (Some(level), Some(written)) = (level, &entry.level) {
            let of = self.program.level(level).of;
            if !of.k && !of.v {
                let message = format!("the level `{}` has neither keys nor values", written.text);
                let error = Diagnostic::error("E0412", written.span, message, "attended to here");
                return self.fail(&cx, error.help("make it `of k, v`"));
            }
            let pooled = !matches!(self.program.level(level).pool, Pool::Channels(_) | Pool::Quantised { .. });
            if pooled && !(of.k && of.v) {
                let message = format!("slots of `{}` have keys or values, not both", written.text);
                let error = Diagnostic::error("E0412", written.span, message, "attended to here");
                return self.fail(&cx, error.help("make it `of k, v`"));
            }
        }
        Some(Entry { source, bias, score: None, span: entry.span })
    }

    /// Patterns with arguments that nothing expands are checked as far as arguments do not matter: on a copy,
    /// of which only the errors are kept.
    pub(super) fn patterns_with_arguments(&mut self) {
        let generic: Vec<_> = self
            .items()
            .filter_map(|(item, node)| match &node.kind {
                ItemKind::Pattern { args, body, .. } if !args.is_empty() => Some((item, args, body)),
                _ => None,
            })
            .collect();
        if generic.is_empty() {
            return;
        }
        let mut copy = self.clone();
        for (item, args, body) in generic {
            let mut names = super::names::Names::default();
            for arg in args {
                if let Err(error) = names.add(arg, super::names::Named::Broken) {
                    copy.report(error);
                }
            }
            let frame = scope::Frame {
                item: Some(item),
                args: args.iter().map(|arg| (arg.text.as_str(), scope::Arg::Broken)).collect(),
                ..scope::Frame::new(item.module)
            };
            let cx = copy.top(item.module, SET).of(std::rc::Rc::new(frame));
            copy.set(&cx, body);
        }
        self.diagnostics = copy.diagnostics;
        self.said = copy.said;
    }
}
