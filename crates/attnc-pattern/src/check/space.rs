//! The space: segments and axes over the token axis, coordinates as expressions of positions, and orders.
//!
//! A coordinate is `(position - begin) / stride % extent`; the outermost axis needs no remainder. It has a
//! meaning for tokens of its segment only: whoever compares coordinates adds [`Checker::in_segment`].

use std::collections::HashSet;

use attnc_syntax::ast::{Expr, ExprKind, ItemKind, Name, SegmentShape};
use attnc_syntax::diag::{Diagnostic, Span};

use super::Checker;
use super::facts::{Bounds, Facts, MAX_LENGTH};
use super::names::{self, COORDINATES, ItemRef, Named};
use super::scope::{CONSTANT, Cx, SPACE_EXTENT};
use crate::expr::{AxisId, ExprId, Node, OrderId, SizeId, Var};
use crate::program::{Axis, Demand, Order, OrderKind, Segment, Size};

/// An axis as expressions see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct AxisRef {
    /// Its segment; `None` for `pos`, the axis of the whole sequence.
    pub(super) segment: Option<usize>,
    /// Its place among the axes of the program; `None` for `pos`.
    pub(super) id: Option<AxisId>,
    /// Coordinate of the query.
    pub(super) q: ExprId,
    /// Coordinate of the key.
    pub(super) k: ExprId,
    /// Number of coordinates.
    pub(super) extent: ExprId,
}

impl<'a> Checker<'a> {
    /// Declares the one space of the program, wherever it was written.
    pub(super) fn space(&mut self) {
        let mut spaces = Vec::new();
        for (module, unit) in self.modules.iter().enumerate() {
            for item in &unit.ast.items {
                if let ItemKind::Space(segments) = &item.kind {
                    spaces.push((module, segments, item.span));
                }
            }
        }
        // The compiled file comes last: where there are two, its own is the one that is kept.
        let Some(&(module, segments, span)) = spaces.last() else { return };
        for &(_, _, other) in &spaces[..spaces.len() - 1] {
            self.report(
                Diagnostic::error("E0210", span, "a program has one space", "this is one")
                    .label(other, "and this is another")
                    .help("keep one of them; imported patterns then speak of its axes"),
            );
        }
        let cx = self.top(module, SPACE_EXTENT);
        let mut begin = self.exprs.int(0);
        let mut axis_names: HashSet<&str> = HashSet::new();
        for (index, segment) in segments.iter().enumerate() {
            if let Some(before) = segments[..index].last()
                && matches!(before.shape, SegmentShape::Line(None))
            {
                let name = &before.name;
                self.report(
                    Diagnostic::error(
                        "E0310",
                        name.span,
                        "only the last segment can be open",
                        "takes all that is left",
                    )
                    .label(segment.name.span, "nothing is left for this segment")
                    .help(format!("give it a length: `{0}[n_{0}]`", name.text)),
                );
            }
            let mut axes = Vec::new();
            let (len, is_open) = match &segment.shape {
                SegmentShape::Line(Some(extent)) => {
                    (self.space_extent(&cx, Some(extent), String::new(), extent.span), false)
                }
                SegmentShape::Line(None) => {
                    let end = self.tokens.end_k;
                    let rest = self.exprs.sub(end, begin);
                    let zero = self.exprs.int(0);
                    (self.exprs.max(rest, zero), true)
                }
                SegmentShape::Grid(grid) => {
                    let mut stride = self.exprs.int(1);
                    // Innermost first: the stride of an axis is the product of those inside it.
                    for (name, extent) in grid.iter().rev() {
                        self.axis_name(name, &mut axis_names);
                        let size = format!("{}.{}", segment.name.text, name.text);
                        let extent = self.space_extent(&cx, extent.as_ref(), size, name.span);
                        axes.push(Axis { name: name.text.clone(), segment: index, extent, stride, span: name.span });
                        stride = self.length(stride, extent, segment.name.span, true);
                    }
                    axes.reverse();
                    (stride, false)
                }
            };
            let first = self.program.space.axes.len() as u32;
            let ids = (first..first + axes.len() as u32).map(AxisId).collect();
            self.program.space.axes.extend(axes);
            self.program.space.segments.push(Segment {
                name: segment.name.text.clone(),
                begin,
                len,
                axes: ids,
                open: is_open,
            });
            begin = self.length(begin, len, segment.name.span, false);
        }
        if !self.program.space.segments.last().is_some_and(|s| s.open) {
            self.program.space.total = Some(begin);
        }
        self.coordinates(segments.iter().filter_map(|s| match &s.shape {
            SegmentShape::Grid(axes) => Some(axes.iter().map(|(name, _)| name.text.as_str())),
            SegmentShape::Line(_) => None,
        }));
    }

    /// The sum or product of two lengths, which must stay a length.
    fn length(&mut self, a: ExprId, b: ExprId, span: Span, product: bool) -> ExprId {
        let id = match (self.exprs.as_int(a), self.exprs.as_int(b)) {
            (Some(x), Some(y)) => {
                let known = if product { x.checked_mul(y) } else { x.checked_add(y) };
                match known.filter(|&v| v <= MAX_LENGTH) {
                    Some(v) => self.exprs.int(v),
                    None => {
                        self.report(
                            Diagnostic::error(
                                "E0301",
                                span,
                                format!("the space has more than {MAX_LENGTH} positions"),
                                "too long with this segment",
                            )
                            .help("make an extent smaller"),
                        );
                        self.exprs.int(MAX_LENGTH)
                    }
                }
            }
            _ if product => self.exprs.mul(a, b),
            _ => self.exprs.add(a, b),
        };
        self.facts.state(&self.exprs, id, Bounds::new(0, MAX_LENGTH));
        id
    }

    fn axis_name(&mut self, name: &'a Name, seen: &mut HashSet<&'a str>) {
        if let Err(error) = names::reserved(name) {
            self.report(error);
        } else if COORDINATES.contains(&name.text.as_str()) || name.text == "len" {
            self.report(
                Diagnostic::error("E0203", name.span, format!("every token has `{}`", name.text), "this name is taken")
                    .help(format!("choose another name, for example `{}_0`", name.text)),
            );
        } else if !seen.insert(&name.text) {
            self.report(
                Diagnostic::error(
                    "E0202",
                    name.span,
                    format!("the axis `{}` is given twice", name.text),
                    "given again here",
                )
                .help(format!("choose another name, for example `{}_2`", name.text)),
            );
        }
    }

    /// The extent of an axis or line. A name that nothing else has declares a run-time size, and so does
    /// an axis without extent (`video.h`).
    fn space_extent(&mut self, cx: &Cx<'a>, extent: Option<&'a Expr>, axis: String, span: Span) -> ExprId {
        let id = match extent {
            None => Some(self.new_size(axis, span)),
            Some(Expr { kind: ExprKind::Name(name), span })
                if self.names[cx.frame.module].get(name).is_none() && !names::WORDS.contains(&name.as_str()) =>
            {
                let id = self.new_size(name.clone(), *span);
                if let Some(size) = self.program.size(name) {
                    let name = Name { text: name.clone(), span: *span };
                    if let Err(error) = self.names[cx.frame.module].add(&name, Named::Size(size)) {
                        self.report(error);
                    }
                }
                Some(id)
            }
            Some(extent) => self.extent(cx, extent),
        };
        // After an error an unknown length stands in, so that axes are still known by name.
        let id = id.unwrap_or(self.tokens.n_k);
        self.facts.state(&self.exprs, id, Bounds::new(0, MAX_LENGTH));
        id
    }

    fn new_size(&mut self, name: String, span: Span) -> ExprId {
        let id = self.program.size(&name).unwrap_or_else(|| {
            self.program.sizes.push(Size { name, span });
            SizeId((self.program.sizes.len() - 1) as u32)
        });
        self.exprs.var(Var::Size(id))
    }

    /// Builds the coordinates of all axes, whose names come by segment.
    fn coordinates(&mut self, axis_names: impl Iterator<Item = impl Iterator<Item = &'a str>>) {
        // What was known before the length of the space was is too wide.
        self.facts = Facts::new();
        if let Some(total) = self.program.space.total.and_then(|t| self.exprs.as_int(t)) {
            self.facts.set_positions(total);
        }
        let space = &self.program.space;
        let lengths: Vec<ExprId> = (space.segments.iter().flat_map(|s| [s.begin, s.len]))
            .chain(space.axes.iter().flat_map(|a| [a.extent, a.stride]))
            .chain(space.total)
            .collect();
        for id in lengths {
            self.facts.state(&self.exprs, id, Bounds::new(0, MAX_LENGTH));
        }
        for (index, name) in axis_names.flatten().enumerate() {
            let axis = self.program.space.axes[index].clone();
            let segment = self.program.space.segments[axis.segment].clone();
            let outermost = segment.axes[0].0 as usize == index;
            let [q, k] = [self.tokens.q, self.tokens.k].map(|position| {
                let inside = self.exprs.sub(position, segment.begin);
                let mut x = self.exprs.div(inside, axis.stride);
                if !outermost {
                    x = self.exprs.modulo(x, axis.extent);
                }
                let most = self.exprs.as_int(axis.extent).unwrap_or(MAX_LENGTH) - 1;
                self.facts.state(&self.exprs, x, Bounds::new(0, most));
                x
            });
            let id = Some(AxisId(index as u32));
            self.axes.insert(name, AxisRef { segment: Some(axis.segment), id, q, k, extent: axis.extent });
        }
    }

    /// An axis by name; `pos` is the axis of the whole sequence.
    pub(super) fn axis(&mut self, cx: &Cx<'a>, name: &'a Name) -> Option<AxisRef> {
        if cx.scope.block.is_some() {
            return self.tokens_only(cx, name.span, &format!("`{}` is a coordinate of tokens", name.text));
        }
        if name.text == "pos" {
            let (q, k) = (self.tokens.q, self.tokens.k);
            let extent = self.program.space.total.unwrap_or(self.tokens.end_k);
            return Some(AxisRef { segment: None, id: None, q, k, extent });
        }
        let Some(&axis) = self.axes.get(name.text.as_str()) else {
            let mut known: Vec<&str> = self.axes.keys().copied().chain(["pos"]).collect();
            known.sort_unstable();
            let error =
                Diagnostic::error("E0201", name.span, format!("there is no axis `{}`", name.text), "unknown axis");
            let error = match names::nearest(&name.text, known.iter().copied()) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None if self.axes.is_empty() => error.help(format!("declare it: `space tokens({})`", name.text)),
                None => error.help(format!("the axes are {}", names::listed(&known))),
            };
            return self.fail(cx, error);
        };
        self.need_extents(axis.segment);
        Some(axis)
    }

    /// A launch must give positive extents, since coordinates divide by them.
    pub(super) fn need_extents(&mut self, segment: Option<usize>) {
        let Some(segment) = segment else { return };
        for axis in self.program.space.segments[segment].axes.clone() {
            let Axis { extent, span, .. } = self.program.axis(axis).clone();
            if self.exprs.as_int(extent).is_none() {
                let one = self.exprs.int(1);
                let positive = self.exprs.le(one, extent);
                self.launch.push(Demand { holds: positive, span, otherwise: "has no cells" });
            }
        }
    }

    /// Whether a position lies in a segment; no condition where every position does.
    pub(super) fn in_segment(&mut self, segment: usize, position: ExprId) -> ExprId {
        let Segment { begin, len, .. } = self.program.space.segments[segment].clone();
        let mut conditions = Vec::new();
        if self.exprs.as_int(begin) != Some(0) {
            conditions.push(self.exprs.le(begin, position));
        }
        // The sequence ends with the last segment.
        if segment + 1 < self.program.space.segments.len() {
            let end = self.exprs.add(begin, len);
            conditions.push(self.exprs.lt(position, end));
        }
        self.exprs.and(conditions)
    }

    /// Whether both tokens lie in a segment.
    pub(super) fn both_in(&mut self, segment: Option<usize>) -> ExprId {
        match segment {
            None => self.exprs.bool(true),
            Some(segment) => {
                let (q, k) = (self.tokens.q, self.tokens.k);
                let (q, k) = (self.in_segment(segment, q), self.in_segment(segment, k));
                self.exprs.and([q, k])
            }
        }
    }

    /// The segment of a name, or an error.
    pub(super) fn segment(&mut self, cx: &Cx<'a>, name: &'a Name) -> Option<usize> {
        let position = self.program.space.segments.iter().position(|s| s.name == name.text);
        if position.is_some() {
            return position;
        }
        let known: Vec<String> = self.program.space.segments.iter().map(|s| s.name.clone()).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let error =
            Diagnostic::error("E0201", name.span, format!("there is no segment `{}`", name.text), "unknown segment");
        let error = match names::nearest(&name.text, known.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None if known.is_empty() => error.help(format!("declare it: `space {}[]`", name.text)),
            None => error.help(format!("the segments are {}", names::listed(&known))),
        };
        self.fail(cx, error)
    }

    /// A declared order.
    pub(super) fn order(&mut self, item: ItemRef) -> Option<OrderId> {
        let index = self.declare(item, |checker, name| {
            let ItemKind::Order { curve, axes, .. } = &checker.item(item).kind else { return None };
            let (segment, kind) = match curve.text.as_str() {
                "sort" => checker.sort(item.module, curve, axes)?,
                _ => checker.curve(item.module, curve, axes).map(|(segment, kind)| (Some(segment), kind))?,
            };
            checker.program.orders.push(Order { name: name.text.clone(), segment, kind, span: name.span });
            Some(checker.program.orders.len() - 1)
        })?;
        Some(OrderId(index as u32))
    }

    fn curve(
        &mut self,
        module: usize,
        curve: &'a Name,
        axes: &'a [(Name, Option<Expr>)],
    ) -> Option<(usize, OrderKind)> {
        const CURVES: &[&str] = &["raster", "tile", "morton", "hilbert", "sort"];
        let cx = self.top(module, CONSTANT);
        if !CURVES.contains(&curve.text.as_str()) {
            return self.unknown_word(&cx, curve, "order", CURVES);
        }
        let errors = self.diagnostics.len();
        let mut ids = Vec::new();
        let mut sizes = Vec::new();
        let mut segment = None;
        for (name, size) in axes {
            let axis = self.axis(&cx, name)?;
            let (Some(id), Some(of)) = (axis.id, axis.segment) else {
                let help = "name axes of one segment: `space image(h, w)`";
                self.bad_order(name.span, "`pos` is not an axis of a grid".to_owned(), help);
                continue;
            };
            if ids.contains(&id) {
                self.bad_order(name.span, format!("the axis `{}` is named twice", name.text), "name each axis once");
            }
            if *segment.get_or_insert(of) != of {
                let message = format!("the axis `{}` is of another segment", name.text);
                self.bad_order(name.span, message, "an order is of one segment");
            }
            match (curve.text.as_str(), size) {
                ("tile", None) => {
                    let message = format!("a tile needs a size along `{}`", name.text);
                    self.bad_order(name.span, message, "write the size: `tile(h = 8, w = 8)`");
                }
                ("tile", Some(size)) => {
                    let size = self.positive(&cx, size, "a tile")?;
                    sizes.push((id, size));
                }
                (_, Some(size)) => {
                    let message = format!("`{}` takes axes without sizes", curve.text);
                    self.bad_order(size.span, message, "leave the size out, or use `tile`");
                }
                (_, None) => {}
            }
            ids.push(id);
        }
        let segment = segment?;
        let all = self.program.space.segments[segment].axes.len();
        if curve.text == "raster" && ids.len() != all {
            let message = format!("`raster` names {} of the {all} axes", ids.len());
            self.bad_order(curve.span, message, "name every axis of the segment, outermost first");
        }
        if curve.text == "hilbert" && ids.len() != 2 {
            let message = format!("a Hilbert curve has two axes, not {}", ids.len());
            self.bad_order(curve.span, message, "name two axes; the others stay outermost");
        }
        let kind = match curve.text.as_str() {
            "raster" => OrderKind::Raster(ids),
            "tile" => OrderKind::Tile(sizes),
            "morton" => OrderKind::Morton(ids),
            _ => OrderKind::Hilbert(ids),
        };
        (self.diagnostics.len() == errors).then_some((segment, kind))
    }

    /// `sort(T)`, `sort(T, segment)`
    fn sort(
        &mut self,
        module: usize,
        curve: &'a Name,
        given: &'a [(Name, Option<Expr>)],
    ) -> Option<(Option<usize>, OrderKind)> {
        let cx = self.top(module, CONSTANT);
        let help = "give a tensor and, where one is meant, a segment: `sort(buckets, video)`";
        if let Some(size) = given.iter().find_map(|(_, size)| size.as_ref()) {
            self.bad_order(size.span, "`sort` takes a tensor without sizes".to_owned(), help);
            return None;
        }
        let (name, segment) = match given {
            [(name, _)] => (name, None),
            [(name, _), (segment, _)] => (name, Some(self.segment(&cx, segment)?)),
            _ => {
                self.bad_order(curve.span, format!("`sort` takes a tensor, not {} names", given.len()), help);
                return None;
            }
        };
        let by = self.tensor_named(&cx, name)?;
        let declared = self.program.tensor(by);
        let per_head = |e: ExprId| matches!(self.exprs.node(e), Node::Var(Var::Heads));
        match *declared.dims {
            [_] => {}
            [heads, _] if per_head(heads) => {}
            _ => {
                let message = format!("`{}` has not one value for each position", name.text);
                self.bad_order(name.span, message, "declare it `[n_k]`, or `[heads, n_k]`");
                return None;
            }
        }
        Some((segment, OrderKind::Sort(by)))
    }

    fn bad_order(&mut self, span: Span, message: String, help: &str) {
        self.report(Diagnostic::error("E0311", span, message, "here").help(help));
    }
}
