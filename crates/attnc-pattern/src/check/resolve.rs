//! Names where they are used: words of the language, items, coordinates, calls of patterns and functions.
//!
//! A pattern is expanded in the scope of its use. Without arguments it is lowered once for each scope, so
//! that patterns of patterns cost what they say and not what they repeat.

use std::rc::Rc;

use attnc_syntax::ast::{Expr, ExprKind, ItemKind, Name};
use attnc_syntax::diag::{Diagnostic, Span};

use super::names::{self, COORDINATES, FUNCTIONS, ItemRef, Named, STANDARD};
use super::scope::{self, Arg, Cx, Frame, Val};
use super::{Checker, Expanded, MAX_EXPANSIONS};
use crate::expr::{Bin, ExprId, Node, TensorId, Ty, Un, Var};

impl<'a> Checker<'a> {
    pub(super) fn name(&mut self, cx: &Cx<'a>, name: &'a str, span: Span) -> Option<Val> {
        match cx.frame.arg(name).cloned() {
            Some(Arg::Value(value)) => return Some(value),
            Some(Arg::Set(e, frame)) => return self.lower(&cx.of(frame), e),
            Some(Arg::Broken) => return None,
            None => {}
        }
        if let Some(value) = self.word(cx, name, span) {
            return value;
        }
        match self.names[cx.frame.module].get(name) {
            Some((Named::Item(item), _)) => self.item_value(cx, item, span),
            Some((Named::Size(size), _)) => {
                self.may(cx, scope::SIZES, name, span)?;
                Some(Val::plain(self.exprs.var(Var::Size(size))))
            }
            Some((Named::Segment, _)) => {
                let help = Some(format!("write `k in {name}` or `{name}.len`"));
                self.other_kind(cx, span, "a value", "a segment", help)
            }
            Some((Named::Broken, _)) => None,
            None => self.unknown_name(cx, name, span),
        }
    }

    /// A word of the language.
    fn word(&mut self, cx: &Cx<'a>, name: &str, span: Span) -> Option<Option<Val>> {
        let s = cx.scope;
        let (what, id) = match name {
            "all" => (scope::QUERY | scope::KEY, self.exprs.bool(true)),
            "none" => (scope::QUERY | scope::KEY, self.exprs.bool(false)),
            "causal" => (scope::QUERY | scope::KEY, self.exprs.le(s.original_k, s.original_q)),
            "q" => (scope::QUERY, s.q),
            "k" => (scope::KEY, s.k),
            "n_q" => (scope::COUNTS, s.n_q),
            "n_k" => (scope::COUNTS, s.n_k),
            "docs" => {
                self.program.uses_docs = true;
                (scope::COUNTS, self.exprs.var(Var::Docs))
            }
            "heads" => (scope::COUNTS, self.exprs.var(Var::Heads)),
            "head" => (scope::HEAD, self.exprs.var(Var::Head)),
            "layer" => (scope::LAYER, self.exprs.var(Var::Layer)),
            "step" => (scope::LAYER, self.exprs.var(Var::Step)),
            "d" => (scope::DIM, self.exprs.var(Var::Dim)),
            "score" => (scope::SCORE, self.exprs.var(Var::Score)),
            "slot" => (scope::SLOT, self.exprs.var(Var::Slot)),
            "branch" => (scope::BRANCH, self.exprs.var(Var::Branch)),
            "channel" => (scope::CHANNEL, self.exprs.var(Var::Channel)),
            _ if FUNCTIONS.contains(&name) => {
                let help = Some(format!("call it: `{name}(..)`"));
                return Some(self.other_kind(cx, span, "a value", "a function", help));
            }
            _ => return None,
        };
        Some(self.may(cx, what, name, span).map(|()| self.marked_if_set(cx, id, span)))
    }

    fn marked_if_set(&mut self, cx: &Cx<'a>, id: ExprId, span: Span) -> Val {
        if self.exprs.ty(id) == Ty::Bool { self.marked(cx, id, span) } else { Val::plain(id) }
    }

    fn item_value(&mut self, cx: &Cx<'a>, item: ItemRef, span: Span) -> Option<Val> {
        let kind = &self.item(item).kind;
        let noun = names::noun(kind);
        match kind {
            ItemKind::Param { .. } => self.param(item).map(Val::plain),
            ItemKind::Size(name) => {
                self.may(cx, scope::SIZES, &name.text, span)?;
                let size = self.size(item)?;
                Some(Val::plain(self.exprs.var(Var::Size(size))))
            }
            ItemKind::Pattern { .. } => self.expand(cx, item, &[], span),
            ItemKind::Tensor { name, .. } => {
                self.other_kind(cx, span, "a value", noun, Some(format!("index it: `{}[head]`", name.text)))
            }
            ItemKind::Map { name, .. } => {
                self.other_kind(cx, span, "a value", noun, Some(format!("write `map {}`", name.text)))
            }
            ItemKind::Order { name, .. } => {
                let help = format!("write `along {} {{ block 64 {{ q - k in -1 ..= 1 }} }}`", name.text);
                self.other_kind(cx, span, "a value", noun, Some(help))
            }
            ItemKind::Select { .. } => self.chosen(cx, item, None, span),
            ItemKind::Level { name, .. } => {
                let help = format!("write `all @ {0}` in an attention, or `{0}.k` in a score", name.text);
                self.other_kind(cx, span, "a value", noun, Some(help))
            }
            ItemKind::Score { name, .. } => {
                let help = format!("select by it: `select best = top 8 of {} per q`", name.text);
                self.other_kind(cx, span, "a value", noun, Some(help))
            }
            ItemKind::Attention { .. } | ItemKind::Merge { .. } | ItemKind::Model(_) => {
                let help = "an attention is not a set: give its set a name of its own with `pattern`".to_owned();
                self.other_kind(cx, span, "a set", noun, Some(help))
            }
            ItemKind::Import { .. } | ItemKind::Space(_) | ItemKind::Require(_) => None,
        }
    }

    /// Reports a name that nothing has.
    fn unknown_name<T>(&mut self, cx: &Cx<'a>, name: &str, span: Span) -> Option<T> {
        let error = Diagnostic::error("E0201", span, format!("there is no `{name}`"), "unknown name");
        let near = {
            let table = self.names[cx.frame.module].all();
            let args = cx.frame.args.iter().map(|(n, _)| *n);
            let words = names::WORDS.iter().copied();
            names::nearest(name, args.chain(table).chain(words)).map(str::to_owned)
        };
        let error = if STANDARD.contains(&name) {
            error.help(format!("import it: `import {name} from \"std\"`"))
        } else if let Some(near) = near {
            error.help(format!("did you mean `{near}`?"))
        } else if self.axes.contains_key(name) {
            error.help(format!("a coordinate is written `q.{name}` or `k.{name}`"))
        } else {
            error.help(format!("declare it: `param {name} = 1024` or `size {name}`"))
        };
        self.fail(cx, error)
    }

    /// Reports a word that is not one of a few.
    pub(super) fn unknown_word<T>(&mut self, cx: &Cx<'a>, word: &Name, what: &str, known: &[&str]) -> Option<T> {
        let error = Diagnostic::error(
            "E0214",
            word.span,
            format!("there is no {what} `{}`", word.text),
            format!("unknown {what}"),
        );
        let error = match names::nearest(&word.text, known.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => {
                error.help(format!("write {}", known.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(" or ")))
            }
        };
        self.fail(cx, error)
    }

    /// `q.t`, `k.pos`, `video.h`, `text.len`
    pub(super) fn field(&mut self, cx: &Cx<'a>, of: &'a Name, field: &'a Name) -> Option<Val> {
        let span = of.span.to(field.span);
        let query = match of.text.as_str() {
            "q" => true,
            "k" => false,
            _ => return self.segment_field(cx, of, field, span),
        };
        let what = if query { scope::QUERY } else { scope::KEY };
        self.may(cx, what, &format!("{}.{}", of.text, field.text), span)?;
        match field.text.as_str() {
            "len" => self.slot_len(cx, query, span).map(Val::plain),
            "pos" => Some(Val::plain(if query { cx.scope.original_q } else { cx.scope.original_k })),
            "doc" => {
                if cx.scope.block.is_some() {
                    return self.tokens_only(cx, span, "documents are made of tokens");
                }
                self.program.uses_docs = true;
                let position = if query { self.tokens.q } else { self.tokens.k };
                Some(Val::plain(self.exprs.un(Un::DocOf, position)))
            }
            _ => {
                let axis = self.axis(cx, field)?;
                let (id, position) = if query { (axis.q, self.tokens.q) } else { (axis.k, self.tokens.k) };
                let axes = axis.segment.map(|s| (s, span));
                if cx.place.may & scope::TOTAL == 0 {
                    return Some(Val { id, axes });
                }
                // A score has no pair to leave out: tokens of other segments have coordinate 0.
                let inside = axis.segment.map(|s| self.in_segment(s, position));
                let zero = self.exprs.int(0);
                let id = inside.map_or(id, |inside| self.exprs.select(inside, id, zero));
                Some(Val { id, axes })
            }
        }
    }

    fn segment_field(&mut self, cx: &Cx<'a>, of: &'a Name, field: &'a Name, span: Span) -> Option<Val> {
        if let Some((Named::Item(item), _)) = self.names[cx.frame.module].get(&of.text)
            && matches!(self.item(item).kind, ItemKind::Select { .. })
        {
            return self.chosen(cx, item, Some(field), span);
        }
        let index = self.segment(cx, of)?;
        self.may(cx, scope::SIZES, &format!("{}.{}", of.text, field.text), span)?;
        let segment = &self.program.space.segments[index];
        if field.text == "len" {
            return Some(Val::plain(segment.len));
        }
        let axes: Vec<(&str, ExprId)> =
            segment.axes.iter().map(|&a| self.program.axis(a)).map(|a| (a.name.as_str(), a.extent)).collect();
        if let Some(&(_, extent)) = axes.iter().find(|(name, _)| *name == field.text) {
            return Some(Val::plain(extent));
        }
        let known: Vec<&str> = axes.iter().map(|(name, _)| *name).chain(["len"]).collect();
        let error = Diagnostic::error(
            "E0201",
            field.span,
            format!("the segment `{}` has no axis `{}`", of.text, field.text),
            "unknown axis",
        );
        let error = match names::nearest(&field.text, known.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{}.{near}`?", of.text)),
            None if COORDINATES.contains(&field.text.as_str()) => {
                error.help(format!("tokens have it: `q.{}`", field.text))
            }
            None => error.help(format!("it has {}", names::listed(&known))),
        };
        self.fail(cx, error)
    }

    pub(super) fn call(&mut self, cx: &Cx<'a>, name: &'a Name, args: &'a [Expr], span: Span) -> Option<Val> {
        if matches!(name.text.as_str(), "hash" | "gray_hash") {
            return self.hash_within(cx, name, args, span);
        }
        if FUNCTIONS.contains(&name.text.as_str()) {
            return self.function(cx, name, args, span);
        }
        if cx.place == scope::VALUE && matches!(name.text.as_str(), "dot" | "energy") {
            // Its operands were read when the score was made.
            return Some(Val::plain(self.exprs.var(Var::Score)));
        }
        match self.names[cx.frame.module].get(&name.text) {
            Some((Named::Item(item), _)) => match &self.item(item).kind {
                ItemKind::Pattern { .. } => self.expand(cx, item, args, span),
                kind => {
                    let found = names::noun(kind);
                    self.other_kind(cx, name.span, "a pattern or function", found, None)
                }
            },
            Some((Named::Broken, _)) => None,
            Some(_) => self.other_kind(cx, name.span, "a pattern or function", "a size or segment", None),
            None => self.unknown_name(cx, &name.text, name.span),
        }
    }

    fn function(&mut self, cx: &Cx<'a>, name: &'a Name, args: &'a [Expr], span: Span) -> Option<Val> {
        let values: Vec<Option<Val>> = args.iter().map(|a| self.number(cx, a)).collect();
        let values = values.into_iter().collect::<Option<Vec<Val>>>()?;
        let many = matches!(name.text.as_str(), "min" | "max");
        if (many && values.len() < 2) || (!many && values.len() != 1) {
            let takes = if many { "two or more arguments" } else { "one argument" };
            return self.wrong_count(cx, span, &name.text, takes, args.len());
        }
        let axes = self.same_axes(cx, values.iter().copied())?;
        let ints = values.iter().all(|v| self.exprs.ty(v.id) == Ty::Int);
        let mut ids: Vec<ExprId> = values.iter().map(|v| v.id).collect();
        let un = match name.text.as_str() {
            "min" | "max" => {
                if !ints {
                    ids = ids.into_iter().map(|x| self.exprs.to_real(x)).collect();
                }
                let op = if name.text == "min" { Bin::Min } else { Bin::Max };
                let id = ids.iter().copied().reduce(|a, b| self.exprs.bin(op, a, b))?;
                return Some(Val { id, axes });
            }
            "abs" => {
                let id = self.exprs.un(Un::Abs, ids[0]);
                return self.fits(cx, id, &ids, span).map(|id| Val { id, axes });
            }
            "sqrt" => Un::Sqrt,
            "log" => Un::Log,
            "exp" => Un::Exp,
            _ => Un::Tanh,
        };
        let x = self.exprs.to_real(ids[0]);
        let id = self.exprs.un(un, x);
        self.finite(cx, id, span).map(Val::plain)
    }

    fn wrong_count<T>(&mut self, cx: &Cx<'a>, span: Span, name: &str, takes: &str, given: usize) -> Option<T> {
        self.fail(
            cx,
            Diagnostic::error("E0206", span, format!("`{name}` takes {takes}"), format!("{given} given here"))
                .help(format!("write `{name}({})`", if takes.starts_with("one") { "q - k" } else { "q - k, 8" })),
        )
    }

    /// Expands a pattern where it is used.
    pub(super) fn expand(&mut self, cx: &Cx<'a>, item: ItemRef, given: &'a [Expr], span: Span) -> Option<Val> {
        let ItemKind::Pattern { name, args, body } = &self.item(item).kind else { return None };
        if given.len() != args.len() {
            let takes = match args.len() {
                0 => "no arguments".to_owned(),
                1 => "one argument".to_owned(),
                n => format!("{n} arguments"),
            };
            let list: Vec<&str> = args.iter().map(|a| a.text.as_str()).collect();
            let call = if list.is_empty() { name.text.clone() } else { format!("{}({})", name.text, list.join(", ")) };
            return self.fail(
                cx,
                Diagnostic::error(
                    "E0206",
                    span,
                    format!("`{}` takes {takes}", name.text),
                    format!("{} given here", given.len()),
                )
                .label(name.span, "declared here")
                .help(format!("write `{call}`")),
            );
        }
        if cx.frame.expands(item) {
            return self.fail(
                cx,
                Diagnostic::error(
                    "E0205",
                    span,
                    format!("the pattern `{}` refers to itself", name.text),
                    "used inside itself",
                )
                .label(name.span, "declared here")
                .help("a pattern is expanded where it is used, so it cannot contain itself"),
            );
        }
        if cx.frame.depth >= MAX_EXPANSIONS {
            return self.fail(
                cx,
                Diagnostic::error("E0213", span, "patterns are expanded inside one another too often", "one too many")
                    .help(format!("at most {MAX_EXPANSIONS} deep")),
            );
        }
        self.may(cx, scope::QUERY | scope::KEY, &name.text, span)?;
        let key = (item, cx.scope, cx.place);
        if args.is_empty()
            && let Some(Expanded { value, launch }) = self.expanded.get(&key).cloned()
        {
            self.launch.extend(launch);
            return value;
        }
        let foreign = item.module != self.main;
        let bound = args.iter().zip(given).map(|(arg, e)| (arg.text.as_str(), self.argument(cx, e))).collect();
        let frame = Rc::new(Frame {
            caller: Some(Rc::clone(&cx.frame)),
            module: item.module,
            item: Some(item),
            args: bound,
            depth: cx.frame.depth + 1,
            used: cx.frame.used.or((foreign || !args.is_empty()).then_some(span)),
            shown: cx.frame.shown.or(foreign.then_some(span)),
        });
        let before = self.launch.len();
        let value = self.set(&cx.of(frame), body).map(Val::plain);
        if args.is_empty() {
            let launch = self.launch[before..].to_vec();
            self.expanded.insert(key, Expanded { value, launch });
        }
        value
    }

    /// An argument: integers by value, sets by what they say.
    fn argument(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Arg<'a> {
        if self.is_set(cx, e) {
            return Arg::Set(e, Rc::clone(&cx.frame));
        }
        self.int(cx, e).map_or(Arg::Broken, Arg::Value)
    }

    /// Whether an expression is a set, seen from its form and from what its name is.
    fn is_set(&self, cx: &Cx<'a>, mut e: &Expr) -> bool {
        while let ExprKind::Paren(inner) = &e.kind {
            e = inner;
        }
        let is_pattern = |name: &str| match self.names[cx.frame.module].get(name) {
            Some((Named::Item(item), _)) => matches!(self.item(item).kind, ItemKind::Pattern { .. }),
            _ => false,
        };
        let is_selection = |name: &str| match self.names[cx.frame.module].get(name) {
            Some((Named::Item(item), _)) => matches!(self.item(item).kind, ItemKind::Select { .. }),
            _ => false,
        };
        match &e.kind {
            ExprKind::Field(of, _) => is_selection(&of.text),
            ExprKind::Int(_)
            | ExprKind::Float(_)
            | ExprKind::Index(..)
            | ExprKind::Neg(_)
            | ExprKind::Sum(..)
            | ExprKind::Product(..) => false,
            ExprKind::Name(name) => match cx.frame.arg(name) {
                Some(arg) => matches!(arg, Arg::Set(..)),
                None => matches!(name.as_str(), "all" | "none" | "causal") || is_pattern(name) || is_selection(name),
            },
            ExprKind::Call(name, _) => is_pattern(&name.text),
            _ => true,
        }
    }

    /// `slopes[head]`: an index outside the tensor reads the nearest element.
    pub(super) fn index(&mut self, cx: &Cx<'a>, name: &'a Name, indices: &'a [Expr]) -> Option<Val> {
        let tensor = self.tensor_named(cx, name)?;
        let ids: Vec<Option<Val>> = indices.iter().map(|i| self.int(cx, i)).collect();
        self.may(cx, scope::TENSORS, &name.text, name.span)?;
        let dims = self.program.tensor(tensor).dims.clone();
        if dims.len() != indices.len() {
            return self.fail(
                cx,
                Diagnostic::error(
                    "E0212",
                    name.span,
                    format!("`{}` takes {}, not {}", name.text, indices_of(dims.len()), indices.len()),
                    format!("{} given here", indices.len()),
                )
                .label(self.program.tensor(tensor).span, "declared here")
                .help(format!("write `{}[{}]`", name.text, vec!["0"; dims.len()].join(", "))),
            );
        }
        let mut inside = Vec::new();
        for (id, dim) in ids.into_iter().zip(dims) {
            inside.push(self.clamped(id?.id, dim));
        }
        Some(Val::plain(self.exprs.intern(Node::Load(tensor, inside))))
    }

    /// The tensor of a name, or an error.
    pub(super) fn tensor_named(&mut self, cx: &Cx<'a>, name: &'a Name) -> Option<TensorId> {
        self.tensor_called(cx, &name.text, name.span)
    }

    /// The tensor of a name, or an error.
    pub(super) fn tensor_called(&mut self, cx: &Cx<'a>, name: &'a str, span: Span) -> Option<TensorId> {
        let item = match self.names[cx.frame.module].get(name) {
            Some((Named::Item(item), _)) => item,
            Some((Named::Broken, _)) => return None,
            Some(_) => return self.other_kind(cx, span, "a tensor", "a size or segment", None),
            None => return self.unknown_name(cx, name, span),
        };
        let kind = &self.item(item).kind;
        if !matches!(kind, ItemKind::Tensor { .. }) {
            return self.other_kind(cx, span, "a tensor", names::noun(kind), None);
        }
        self.tensor(item)
    }

    /// An index brought into `0 .. extent`, unless it is there already.
    fn clamped(&mut self, index: ExprId, extent: ExprId) -> ExprId {
        if matches!((self.exprs.node(index), self.exprs.node(extent)), (Node::Var(Var::Head), Node::Var(Var::Heads))) {
            return index;
        }
        let bounds = self.facts.bounds(&self.exprs, index);
        let mut index = index;
        if self.exprs.as_int(extent).is_none_or(|e| bounds.hi >= e) {
            let one = self.exprs.int(1);
            let last = self.exprs.sub(extent, one);
            index = self.exprs.min(index, last);
        }
        if bounds.lo < 0 {
            let zero = self.exprs.int(0);
            index = self.exprs.max(index, zero);
        }
        index
    }
}

fn indices_of(n: usize) -> String {
    if n == 1 { "one index".to_owned() } else { format!("{n} indices") }
}
