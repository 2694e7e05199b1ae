//! Declarations of values: params, and sizes, tensors and maps that are given when run.
//!
//! Items of imported files become part of the program when something uses them; those of the compiled file
//! always do, in the order written. Run-time data is found by name, so one name is one thing.

use attnc_syntax::ast::{self, Expr, ItemKind, Name};
use attnc_syntax::diag::{Diagnostic, Span};

use super::names::{ItemRef, declared, noun};
use super::scope::{CONSTANT, Cx, TENSOR_EXTENT};
use super::{Checker, Param};
use crate::expr::{ExprId, MapId, SizeId, TensorId, Ty};
use crate::program::{Map, MapKind, Size, Tensor};

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
            let ItemKind::Tensor { dims, .. } = &checker.item(item).kind else { return None };
            let cx = checker.top(item.module, TENSOR_EXTENT);
            let extents: Vec<_> = dims.iter().map(|dim| checker.extent(&cx, dim)).collect();
            let dims = extents.into_iter().collect::<Option<Vec<_>>>()?;
            checker.program.tensors.push(Tensor { name: name.text.clone(), dims, of: None, span: name.span });
            Some(checker.program.tensors.len() - 1)
        })?;
        Some(TensorId(index as u32))
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
