//! What the actions of the grammar do beyond naming a node: spans, chains, checks that LR(1) cannot make.
//!
//! One idea: an action never fails. It reports and hands on the best node it has, or no item,
//! so that one parse reports all that it sees.

use crate::ast::*;
use crate::diag::{Diagnostic, FileId};

/// The state of one parse: where spans lie and what was reported.
pub(crate) struct Builder {
    pub(crate) file: FileId,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// `layers = 42`, `heads = 48 on 8 by head / 6`
pub(crate) struct ModelArg {
    pub(crate) name: Name,
    pub(crate) value: Expr,
    pub(crate) on: Option<Expr>,
    pub(crate) by: Option<Expr>,
}

impl Builder {
    pub(crate) fn span(&self, start: u32, end: u32) -> Span {
        Span { file: self.file, start, end }
    }

    pub(crate) fn expr(&self, start: u32, end: u32, kind: ExprKind) -> Expr {
        Expr { kind, span: self.span(start, end) }
    }

    pub(crate) fn list<T>(first: T, rest: Vec<T>) -> Vec<T> {
        let mut list = rest;
        list.insert(0, first);
        list
    }

    pub(crate) fn unbox<T>(list: Vec<Box<T>>) -> Vec<T> {
        list.into_iter().map(|item| *item).collect()
    }

    pub(crate) fn item(kind: ItemKind) -> Option<Box<ItemKind>> {
        Some(Box::new(kind))
    }

    /// `first` alone, or the chain of `first` and `rest`.
    pub(crate) fn chain<R>(
        &self,
        start: u32,
        end: u32,
        first: Expr,
        rest: Vec<R>,
        kind: impl FnOnce(Box<Expr>, Vec<R>) -> ExprKind,
    ) -> Expr {
        if rest.is_empty() { first } else { self.expr(start, end, kind(Box::new(first), rest)) }
    }

    /// A union; `except` directly inside it needs parentheses.
    pub(crate) fn or(&mut self, start: u32, end: u32, first: Expr, rest: Vec<Expr>) -> Expr {
        if rest.is_empty() {
            return first;
        }
        let list = Self::list(first, rest);
        if let Some(mixed) = list.iter().find(|e| matches!(e.kind, ExprKind::Except(..))) {
            self.diagnostics.push(
                Diagnostic::error("E0111", mixed.span, "`except` and `|` stand side by side", "which comes first?")
                    .help("write `(a except b) | c` or `a except (b | c)`"),
            );
        }
        self.expr(start, end, ExprKind::Or(list))
    }

    pub(crate) fn single(&self, number: Expr) -> RangeExpr {
        let span = number.span;
        RangeExpr { lo: Some(Box::new(number)), hi: None, inclusive: false, step: None, single: true, span }
    }

    pub(crate) fn range(
        &self,
        start: u32,
        end: u32,
        lo: Option<Expr>,
        inclusive: bool,
        hi: Option<Expr>,
        step: Option<Expr>,
    ) -> RangeExpr {
        let span = self.span(start, end);
        RangeExpr {
            lo: lo.map(Box::new),
            hi: hi.map(Box::new),
            inclusive,
            step: step.map(Box::new),
            single: false,
            span,
        }
    }

    /// `halves(min M) { diagonal P; below Q }`, with the words that were written.
    pub(crate) fn halves(&mut self, min: (Name, Expr), diagonal: (Name, Expr), below: (Name, Expr)) -> ExprKind {
        for (written, word) in [(&min.0, "min"), (&diagonal.0, "diagonal"), (&below.0, "below")] {
            if written.text != word {
                self.diagnostics.push(
                    Diagnostic::error(
                        "E0109",
                        written.span,
                        format!("found the name `{}` where `{word}` is expected", written.text),
                        format!("`{word}` expected"),
                    )
                    .help("write `halves(min 64) { diagonal causal; below all }`"),
                );
            }
        }
        let [min, diagonal, below] = [min.1, diagonal.1, below.1].map(Box::new);
        ExprKind::Halves { min, diagonal, below }
    }

    /// `map NAME : KIND BLOCK [HEADS]`
    pub(crate) fn map(
        &mut self,
        name: Name,
        kind: Name,
        block: Option<Expr>,
        heads: Option<Name>,
    ) -> Option<Box<ItemKind>> {
        let stored = match (kind.text.as_str(), block) {
            ("bool", None) => MapKind::Bool,
            ("csr", None) => MapKind::Csr,
            ("offsets", None) => MapKind::Offsets,
            ("blocks", Some(size)) => MapKind::Blocks(size),
            _ => {
                self.diagnostics.push(
                    Diagnostic::error("E0114", kind.span, "a map is stored in another way", "not a way to store a map")
                        .help("write `bool`, `blocks 64`, `csr` or `offsets`"),
                );
                return None;
            }
        };
        if let Some(axis) = heads.as_ref().filter(|axis| axis.text != "heads") {
            self.diagnostics.push(
                Diagnostic::error(
                    "E0114",
                    axis.span,
                    "a map has one set, or one for each head",
                    "not an axis of a map",
                )
                .help("write `[heads]`, or nothing"),
            );
            return None;
        }
        Self::item(ItemKind::Map { name, kind: stored, per_head: heads.is_some() })
    }

    /// `model NAME(ARGS) { ARMS }`
    #[expect(clippy::vec_box, reason = "boxed for the parser's stack")]
    pub(crate) fn model(&mut self, name: Name, args: Vec<Box<ModelArg>>, arms: Vec<Box<Arm>>) -> Option<Box<ItemKind>> {
        let reported = self.diagnostics.len();
        let arms = Self::unbox(arms);
        let (mut layers, mut steps, mut heads) = (None, None, None);
        for arg in args {
            let slot = match arg.name.text.as_str() {
                "layers" => &mut layers,
                "steps" => &mut steps,
                "heads" => &mut heads,
                other => {
                    self.diagnostics.push(
                        Diagnostic::error(
                            "E0112",
                            arg.name.span,
                            format!("a model has no `{other}`"),
                            "`layers`, `heads` or `steps` expected",
                        )
                        .help("write `model name(layers = 32, heads = 32 on 8) { .. }`"),
                    );
                    continue;
                }
            };
            if let Some(extra) = arg.on.as_ref().or(arg.by.as_ref()).filter(|_| arg.name.text != "heads") {
                self.diagnostics.push(Diagnostic::error(
                    "E0112",
                    extra.span,
                    "only `heads` has KV heads",
                    format!("`{}` takes one number", arg.name.text),
                ));
            }
            if slot.is_some() {
                self.diagnostics.push(Diagnostic::error(
                    "E0112",
                    arg.name.span,
                    format!("`{}` is given twice", arg.name.text),
                    "given before",
                ));
            }
            *slot = Some(arg);
        }
        for (missing, _) in [("layers", &layers), ("heads", &heads)].iter().filter(|(_, arg)| arg.is_none()) {
            self.diagnostics.push(
                Diagnostic::error("E0112", name.span, format!("the model does not say its `{missing}`"), "this model")
                    .help(format!("write `model {}(layers = 32, heads = 32 on 8) {{ .. }}`", name.text)),
            );
        }
        self.bare_ranges(&arms, false);
        match (layers, heads) {
            (Some(layers), Some(heads)) if self.diagnostics.len() == reported => Self::item(ItemKind::Model(Model {
                name,
                layers: layers.value,
                steps: steps.map(|arg| arg.value),
                heads: heads.value,
                kv_heads: heads.on,
                head_map: heads.by,
                arms,
            })),
            _ => None,
        }
    }

    /// A range without `head` before it is about heads in a `layer` block, and an error elsewhere.
    fn bare_ranges(&mut self, arms: &[Arm], in_layer: bool) {
        for arm in arms {
            let mut layer = false;
            if let Selector::Ranges { axis, ranges } = &arm.select {
                layer = *axis == Coord::Layer;
                // A selector with its word begins before its first range.
                if let Some(range) = ranges.first().filter(|range| range.span.start == arm.span.start)
                    && !in_layer
                {
                    self.diagnostics.push(
                        Diagnostic::error("E0113", range.span, "a range of what?", "steps, layers or heads?")
                            .help("only directly inside `layer N { .. }` a range is about heads; write `step`, `layer` or `head` before it"),
                    );
                }
            }
            if let Target::Block(inner) = &arm.target {
                self.bare_ranges(inner, layer);
            }
        }
    }
}
