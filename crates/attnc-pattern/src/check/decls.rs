//! Declarations of values: params, and sizes, tensors and maps that are given when run.
//!
//! Items of imported files become part of the program when something uses them; those of the compiled file
//! always do, in the order written. Run-time data is found by name, so one name is one thing.

use attnc_syntax::ast::{self, Expr, ExprKind, ItemKind, Name};
use attnc_syntax::diag::{Diagnostic, Span};

use super::names::{ItemRef, declared, noun};
use super::scope::{CONSTANT, Cx, ELEMENT, TENSOR_EXTENT, Val};
use super::{Checker, Param};
use crate::expr::{ExprId, MapId, Node, SizeId, TensorId, Ty, Var};
use crate::program::{Hash, MOST_BITS, Made, Map, MapKind, Size, Tensor};

/// The tensor whose elements are being lowered, and the hashes that they read.
#[derive(Clone, Debug)]
pub(super) struct Hashed {
    name: String,
    dims: Vec<ExprId>,
    made: Vec<(Hash, TensorId)>,
}

/// An expression without the parentheses around it.
fn unwrapped(e: &Expr) -> &Expr {
    match &e.kind {
        ExprKind::Paren(inner) => unwrapped(inner),
        _ => e,
    }
}

impl<'a> Checker<'a> {
    /// Declares the items of the compiled file.
    pub(super) fn declarations(&mut self) {
        for (item, node) in self.items() {
            match &node.kind {
                ItemKind::Param { .. } => {
                    self.param(item);
                }
                ItemKind::Size(_) => {
                    self.size(item);
                }
                ItemKind::Tensor { .. } => {
                    self.tensor(item);
                }
                ItemKind::Map { .. } => {
                    self.map(item);
                }
                ItemKind::Order { .. } => {
                    self.order(item);
                }
                ItemKind::Level { .. } => {
                    self.level(item);
                }
                ItemKind::Score { .. } => {
                    self.score(item);
                }
                ItemKind::Select { .. } => {
                    self.select(item);
                }
                _ => {}
            }
        }
    }

    /// The value of a param: a constant integer or real.
    pub(super) fn param(&mut self, item: ItemRef) -> Option<ExprId> {
        let ItemKind::Param { name, value } = &self.item(item).kind else { return None };
        match self.params.get(&item) {
            Some(Param::Known(value)) => return *value,
            Some(Param::Started) => {
                self.report(
                    Diagnostic::error(
                        "E0205",
                        name.span,
                        format!("the param `{}` depends on itself", name.text),
                        "its value needs its value",
                    )
                    .help(format!("write a number: `param {} = 1024`", name.text)),
                );
                return None;
            }
            None => {}
        }
        self.params.insert(item, Param::Started);
        let value = self.constant(item, name, value);
        self.params.insert(item, Param::Known(value));
        value
    }

    fn constant(&mut self, item: ItemRef, name: &Name, value: &'a Expr) -> Option<ExprId> {
        let cx = self.top(item.module, CONSTANT);
        let val = self.number(&cx, value)?;
        let ty = self.exprs.ty(val.id);
        let known =
            if ty == Ty::Int { self.exprs.as_int(val.id).is_some() } else { self.exprs.as_real(val.id).is_some() };
        if !known {
            return self.not_constant(&cx, value.span);
        }
        let Some(text) = self.chosen.get(&item).cloned() else {
            return Some(val.id);
        };
        let plain = text.trim().replace('_', "");
        let chosen = match ty {
            Ty::Int => plain.parse().ok().map(|v| self.exprs.int(v)),
            _ => plain.parse().ok().filter(|v: &f64| v.is_finite()).map(|v| self.exprs.real(v)),
        };
        if chosen.is_none() {
            let noun = if ty == Ty::Int { "an integer of 64 bits" } else { "a finite real number" };
            self.report(
                Diagnostic::error(
                    "E0309",
                    name.span,
                    format!("`{text}` is no value for the param `{}`", name.text),
                    format!("this param is {noun}"),
                )
                .help(format!(
                    "write `--set {}={}`",
                    name.text,
                    if ty == Ty::Int { "1024" } else { "0.5" }
                )),
            );
        }
        chosen
    }

    /// Reports that something must be known when compiling.
    pub(super) fn not_constant<T>(&mut self, cx: &Cx<'a>, span: Span) -> Option<T> {
        self.fail(
            cx,
            Diagnostic::error("E0305", span, "this must be known when compiling", "depends on the run")
                .help("use numbers and params: `param window = 1024`"),
        )
    }

    /// A run-time size.
    pub(super) fn size(&mut self, item: ItemRef) -> Option<SizeId> {
        let index = self.declare(item, |checker, name| {
            checker.program.sizes.push(Size { name: name.text.clone(), span: name.span });
            Some(checker.program.sizes.len() - 1)
        })?;
        Some(SizeId(index as u32))
    }

    /// A run-time tensor.
    pub(super) fn tensor(&mut self, item: ItemRef) -> Option<TensorId> {
        let index = self.declare(item, |checker, name| {
            let ItemKind::Tensor { dims, value, .. } = &checker.item(item).kind else { return None };
            let cx = checker.top(item.module, TENSOR_EXTENT);
            let extents: Vec<_> = dims.iter().map(|dim| checker.extent(&cx, dim)).collect();
            let dims = extents.into_iter().collect::<Option<Vec<_>>>()?;
            let of = match value {
                Some(value) => Some(checker.made(item, name, &dims, value)?),
                None => None,
            };
            checker.program.tensors.push(Tensor { name: name.text.clone(), dims, of, span: name.span });
            Some(checker.program.tensors.len() - 1)
        })?;
        Some(TensorId(index as u32))
    }

    /// `= E` of a tensor: an element for each position, of each head.
    fn made(&mut self, item: ItemRef, name: &Name, dims: &[ExprId], value: &'a Expr) -> Option<Made> {
        let cx = self.top(item.module, ELEMENT);
        let cx = cx.within(cx.scope.positions());
        let of_heads = |c: &Self| matches!(c.exprs.node(dims[0]), Node::Var(Var::Heads));
        if !(dims.len() == 1 || dims.len() == 2 && of_heads(self)) {
            let message = format!("`{}` is made position by position", name.text);
            let error = Diagnostic::error("E0314", name.span, message, "has other axes");
            let help = format!("declare it `{0}[heads, n_k]`, or `{0}[n_k]` where heads do not differ", name.text);
            return self.fail(&cx, error.help(help));
        }
        if let ExprKind::Call(word, args) = &unwrapped(value).kind
            && matches!(word.text.as_str(), "hash" | "gray_hash")
        {
            return self.hash(&cx, word, args, value.span, (&name.text, dims.len())).map(Made::Hash);
        }
        let outer = self.hashed.replace(Hashed { name: name.text.clone(), dims: dims.to_vec(), made: Vec::new() });
        let value = self.real(&cx, value);
        let hashed = std::mem::replace(&mut self.hashed, outer);
        let value = value?;
        if dims.len() == 1
            && (self.exprs.reads(value, |v| v == Var::Head) || hashed.is_some_and(|h| !h.made.is_empty()))
        {
            return self.differs(&cx, name.span, &name.text);
        }
        Some(Made::Formula(value))
    }

    fn differs<T>(&mut self, cx: &Cx<'a>, span: Span, name: &str) -> Option<T> {
        let error = Diagnostic::error("E0314", span, "heads have elements of their own", "has no axis of heads");
        self.fail(cx, error.help(format!("declare it `{name}[heads, n_k]`")))
    }

    /// `hash(k, planes)`
    fn hash(
        &mut self,
        cx: &Cx<'a>,
        word: &'a Name,
        args: &'a [Expr],
        span: Span,
        (name, axes): (&str, usize),
    ) -> Option<Hash> {
        let help = format!("write `{0}(q, planes)` or `{0}(k, planes)`, with `tensor planes[d, 8]`", word.text);
        let [rows, planes] = args else {
            let error = Diagnostic::error("E0314", span, format!("`{}` takes rows and planes", word.text), "not so");
            return self.fail(cx, error.help(help));
        };
        let queries = match &unwrapped(rows).kind {
            ExprKind::Name(side) if side == "q" => true,
            ExprKind::Name(side) if side == "k" => false,
            _ => {
                let error = Diagnostic::error("E0314", rows.span, "these are no rows", "neither `q` nor `k`");
                return self.fail(cx, error.help(help));
            }
        };
        let (planes, span_of_planes) = match &unwrapped(planes).kind {
            ExprKind::Name(text) => (self.tensor_called(cx, text, planes.span)?, planes.span),
            _ => {
                let error = Diagnostic::error("E0314", planes.span, "this is no tensor", "not a name");
                return self.fail(cx, error.help(help));
            }
        };
        let dims = &self.program.tensor(planes).dims;
        let wide = |&d: &ExprId| matches!(self.exprs.node(d), Node::Var(Var::Dim));
        let heads = |&d: &ExprId| matches!(self.exprs.node(d), Node::Var(Var::Heads));
        let fits = match dims.as_slice() {
            [d, _] => wide(d),
            [h, d, _] => heads(h) && wide(d),
            _ => false,
        };
        let bits = dims.last().and_then(|&bits| self.exprs.as_int(bits));
        if !fits || bits.is_none_or(|bits| bits > MOST_BITS as i64) {
            let message = format!("planes are `[d, bits]` or `[heads, d, bits]`, of at most {MOST_BITS} bits");
            let error = Diagnostic::error("E0314", span_of_planes, message, "has other axes");
            return self.fail(cx, error.label(self.program.tensor(planes).span, "declared here").help(help));
        }
        if axes == 1 {
            return self.differs(cx, span, name);
        }
        Some(Hash { queries, planes, gray: word.text == "gray_hash" })
    }

    /// A hash within a formula: an element of a tensor that nobody can name.
    pub(super) fn hash_within(&mut self, cx: &Cx<'a>, word: &'a Name, args: &'a [Expr], span: Span) -> Option<Val> {
        let Some(Hashed { name: of, dims, made }) = self.hashed.clone().filter(|_| cx.place == ELEMENT) else {
            let error = Diagnostic::error("E0314", word.span, "buckets are made for a tensor", "not here");
            let help =
                format!("declare `tensor bucket[heads, n_k] = {}(k, planes)` and read `bucket[head, k]`", word.text);
            return self.fail(cx, error.help(help));
        };
        let hash = self.hash(cx, word, args, span, (&of, dims.len()))?;
        let known = made.iter().find(|(made, _)| *made == hash).map(|(_, tensor)| *tensor);
        let tensor = known.unwrap_or_else(|| {
            let tensor = TensorId(self.program.tensors.len() as u32);
            // No file can declare a tensor of this name.
            let name = format!("{} {}", word.text, tensor.0);
            self.program.tensors.push(Tensor { name, dims, of: Some(Made::Hash(hash)), span });
            tensor
        });
        if let Some(hashed) = &mut self.hashed {
            hashed.made.push((hash, tensor));
        }
        let head = self.exprs.var(Var::Head);
        Some(Val::plain(self.exprs.intern(Node::Load(tensor, vec![head, cx.scope.k]))))
    }

    /// An extent: an integer, at least 1 where it is known.
    pub(super) fn extent(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<ExprId> {
        let id = self.int(cx, e)?.id;
        match self.exprs.as_int(id) {
            Some(v) if v < 1 => self.not_positive(cx, e.span, "an extent", v),
            _ => Some(id),
        }
    }

    /// Reports a size that is not positive.
    pub(super) fn not_positive<T>(&mut self, cx: &Cx<'a>, span: Span, what: &str, value: i64) -> Option<T> {
        self.fail(
            cx,
            Diagnostic::error("E0304", span, format!("{what} must be at least 1"), format!("this is {value}"))
                .help("write a positive number"),
        )
    }

    /// A run-time map.
    pub(super) fn map(&mut self, item: ItemRef) -> Option<MapId> {
        let index = self.declare(item, |checker, name| {
            let ItemKind::Map { kind, per_head, .. } = &checker.item(item).kind else { return None };
            let kind = match kind {
                ast::MapKind::Bool => MapKind::Bool,
                ast::MapKind::Csr => MapKind::Csr,
                ast::MapKind::Offsets if *per_head => {
                    let help = "boundaries are shared by all heads: leave `[heads]` out";
                    let cx = checker.top(item.module, CONSTANT);
                    return checker.no_meaning(&cx, name.span, "slots are the same for all heads".to_owned(), help);
                }
                ast::MapKind::Offsets => MapKind::Offsets,
                ast::MapKind::Blocks(size) => {
                    let cx = checker.top(item.module, CONSTANT);
                    MapKind::Blocks(checker.positive(&cx, size, "a block")?)
                }
            };
            checker.program.maps.push(Map { name: name.text.clone(), kind, per_head: *per_head, span: name.span });
            Some(checker.program.maps.len() - 1)
        })?;
        Some(MapId(index as u32))
    }

    /// As [`Self::declare`], for what asks something of the launches of those who use it.
    pub(super) fn conditioned(
        &mut self,
        item: ItemRef,
        add: impl FnOnce(&mut Self, &'a Name) -> Option<usize>,
    ) -> Option<usize> {
        let launch = std::mem::take(&mut self.launch);
        let index = self.declare(item, add);
        let own = std::mem::replace(&mut self.launch, launch);
        self.launch.extend_from_slice(self.conditions.entry(item).or_insert(own));
        index
    }

    /// Makes an item part of the program, once.
    pub(super) fn declare(
        &mut self,
        item: ItemRef,
        add: impl FnOnce(&mut Self, &'a Name) -> Option<usize>,
    ) -> Option<usize> {
        if let Some(&known) = self.declared.get(&item) {
            return known;
        }
        let name = declared(&self.item(item).kind)?;
        if self.making.contains(&item) {
            let noun = noun(&self.item(item).kind);
            let message = format!("{noun} needs itself: `{}`", name.text);
            self.report(
                Diagnostic::error("E0205", name.span, message, "is made of itself")
                    .help("make it of tokens, or of what is declared apart from it"),
            );
            return None;
        }
        self.making.push(item);
        let index = if matches!(self.item(item).kind, ItemKind::Order { .. }) || self.own_name(item, name) {
            add(self, name)
        } else {
            None
        };
        self.making.retain(|&made| made != item);
        self.declared.insert(item, index);
        index
    }

    /// Whether no other file gave run-time data this name.
    fn own_name(&mut self, item: ItemRef, name: &'a Name) -> bool {
        match self.data.get(name.text.as_str()) {
            Some(&(owner, first)) if owner != item => {
                // Twice in one file was reported when its names were read.
                if owner.module != item.module {
                    self.report(
                        Diagnostic::error(
                            "E0202",
                            name.span,
                            format!("the name `{}` is given twice", name.text),
                            "data of this name is declared here",
                        )
                        .label(first, "and in another file here")
                        .help("run-time data is found by its name: rename one, or import it from the other file"),
                    );
                }
                false
            }
            _ => {
                self.data.insert(&name.text, (item, name.span));
                true
            }
        }
    }
}
