//! Forms of sets that are more than algebra: scopes, equal places, neighbourhoods, random and given sets.
//!
//! Each is lowered to comparisons of positions and coordinates, so that the analysis needs to know nothing
//! of the words. What compares coordinates or documents speaks of tokens and is refused inside `block`.

use attnc_syntax::ast::{Expr, ExprKind, ItemKind, Name, NearAxis};
use attnc_syntax::diag::{Diagnostic, Span};

use super::facts::Reads;
use super::names::{self, Named};
use super::scope::{self, Cx, Scope, Val};
use super::space::AxisRef;
use super::{Checker, MAX_LENGTH};
use crate::expr::{DrawId, ExprId, Node, OrderId, TensorId, Un, Var};
use crate::program::{Chooser, Demand, Draw, DrawScope, Made, MapKind, Order, OrderKind, Tensor};

/// Deepest leaves of `halves`: each level costs a compiler as much as a set of its own.
const MOST_HALVINGS: u32 = 16;

/// An axis of `near` with its constants.
struct Near {
    axis: AxisRef,
    window: i64,
    stride: i64,
    dilation: i64,
    causal: bool,
    span: Span,
}

impl<'a> Checker<'a> {
    /// A form that is always a set.
    pub(super) fn form(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<Val> {
        if cx.place.may & (scope::QUERY | scope::KEY) != scope::QUERY | scope::KEY {
            let message = format!("a set cannot be written in {}", cx.place.name);
            return self.no_meaning(cx, e.span, message, "use numbers, sizes and params");
        }
        let id = match &e.kind {
            ExprKind::SameBlock(size) => self.same_block(cx, size),
            ExprKind::SameDoc => self.same_doc(cx, e.span),
            ExprKind::SameAxes(axes) => self.same_places(cx, axes),
            ExprKind::Block(size, body) => self.block(cx, size, body, e.span),
            ExprKind::Along(q, k, body) => self.along(cx, q, k.as_ref(), body, e.span),
            ExprKind::EachDoc(body) => self.each_doc(cx, body, e.span),
            ExprKind::Near(axes) => self.near(cx, axes),
            ExprKind::Disc(axes, radius) => self.disc(cx, axes, radius),
            ExprKind::Pow2 => Some(self.pow2(cx)),
            ExprKind::Halves { min, diagonal, below } => self.halves(cx, min, diagonal, below, e.span),
            ExprKind::Random { .. } => self.random(cx, e),
            ExprKind::Map(name) => self.given(cx, name, e.span),
            _ => None,
        }?;
        self.mark(cx, id, e.span);
        Some(Val::plain(id))
    }

    /// Reports that blocks have no such property.
    pub(super) fn tokens_only<T>(&mut self, cx: &Cx<'a>, span: Span, why: &str) -> Option<T> {
        let message = format!("{why}, and inside `block` there are only blocks");
        self.no_meaning(cx, span, message, "join it from outside: `block 64 { .. } & ..`")
    }

    fn same_block(&mut self, cx: &Cx<'a>, size: &'a Expr) -> Option<ExprId> {
        let size = self.positive(cx, size, "a block")?;
        let size = self.exprs.int(size);
        let (q, k) = (self.exprs.div(cx.scope.q, size), self.exprs.div(cx.scope.k, size));
        Some(self.exprs.eq(q, k))
    }

    fn same_doc(&mut self, cx: &Cx<'a>, span: Span) -> Option<ExprId> {
        if cx.scope.block.is_some() {
            return self.tokens_only(cx, span, "documents are made of tokens");
        }
        self.program.uses_docs = true;
        let q = self.exprs.un(Un::DocOf, self.tokens.q);
        let k = self.exprs.un(Un::DocOf, self.tokens.k);
        Some(self.exprs.eq(q, k))
    }

    fn same_places(&mut self, cx: &Cx<'a>, names: &'a [Name]) -> Option<ExprId> {
        let (axes, segment) = self.axes_of_one_segment(cx, names.iter())?;
        let mut all = vec![self.both_in(segment)];
        for axis in axes {
            all.push(self.exprs.eq(axis.q, axis.k));
        }
        Some(self.exprs.and(all))
    }

    /// Axes by name, each once and all of one segment.
    fn axes_of_one_segment(
        &mut self,
        cx: &Cx<'a>,
        names: impl Iterator<Item = &'a Name>,
    ) -> Option<(Vec<AxisRef>, Option<usize>)> {
        let names: Vec<&Name> = names.collect();
        let axes: Vec<Option<AxisRef>> = names.iter().map(|name| self.axis(cx, name)).collect();
        let axes = axes.into_iter().collect::<Option<Vec<AxisRef>>>()?;
        for (i, name) in names.iter().enumerate() {
            if let Some(first) = names[..i].iter().find(|n| n.text == name.text) {
                return self.fail(
                    cx,
                    Diagnostic::error(
                        "E0202",
                        name.span,
                        format!("the axis `{}` is named twice", name.text),
                        "again here",
                    )
                    .label(first.span, "first here")
                    .help("name each axis once"),
                );
            }
        }
        let sides =
            axes.iter().zip(&names).map(|(axis, name)| Val { id: axis.q, axes: axis.segment.map(|s| (s, name.span)) });
        let segment = self.same_axes(cx, sides.collect::<Vec<_>>())?.map(|(segment, _)| segment);
        Some((axes, segment))
    }

    // ---- scopes ----

    fn block(&mut self, cx: &Cx<'a>, size: &'a Expr, body: &'a Expr, span: Span) -> Option<ExprId> {
        let size = self.positive(cx, size, "a block")?;
        // Both are lengths.
        let unit = cx.scope.block.unwrap_or(1) * size;
        if unit > MAX_LENGTH {
            return self.fail(
                cx,
                Diagnostic::error(
                    "E0301",
                    span,
                    "a block of blocks is longer than any sequence",
                    format!("holds {unit}"),
                )
                .help("use smaller blocks"),
            );
        }
        let scope = cx.scope.blocks(&mut self.exprs, size, unit);
        self.set(&cx.within(scope), body)
    }

    /// Whether a scope that renames tokens may open here.
    fn outermost(&mut self, cx: &Cx<'a>, span: Span, what: &str) -> Option<()> {
        let around = match cx.scope {
            Scope { block: Some(_), .. } => "block",
            Scope { orders: Some(_), .. } => "along",
            Scope { local: Some(around), .. } => around,
            _ => return Some(()),
        };
        let message = format!("`{what}` renames tokens, and `{around}` around it has renamed them already");
        let help = format!("write `{what}` outermost, and blocks inside it");
        self.no_meaning(cx, span, message, &help)
    }

    /// `along z { P }`, `along (zq, zk) { P }`
    fn along(&mut self, cx: &Cx<'a>, q: &'a Name, k: Option<&'a Name>, body: &'a Expr, span: Span) -> Option<ExprId> {
        self.outermost(cx, span, "along")?;
        let first = self.order_named(cx, q);
        let orders = (first?, k.map_or(first, |k| self.order_named(cx, k))?);
        let (q, k) = (self.in_order(orders.0, cx.scope.q), self.in_order(orders.1, cx.scope.k));
        let scope = Scope { q, k, orders: Some(orders), ..cx.scope };
        self.set(&cx.within(scope), body)
    }

    /// The place of a position in an order; a launch has positions that the order knows.
    pub(super) fn in_order(&mut self, order: OrderId, position: ExprId) -> ExprId {
        self.need_extents(self.program.order(order).segment);
        if let Some(sorted) = self.sorted(order) {
            let end = if position == self.tokens.q { self.tokens.end_q } else { self.tokens.end_k };
            let known = self.exprs.le(end, sorted);
            let span = self.program.order(order).span;
            self.launch.push(Demand { holds: known, span, otherwise: "sorts fewer positions than there are" });
        }
        self.exprs.un(Un::OrderIndex(order), position)
    }

    /// How many positions, from the first, a sort without a segment moves.
    fn sorted(&self, order: OrderId) -> Option<ExprId> {
        match *self.program.order(order) {
            Order { segment: None, kind: OrderKind::Sort(by), .. } => self.program.tensor(by).dims.last().copied(),
            _ => None,
        }
    }

    pub(super) fn order_named(&mut self, cx: &Cx<'a>, name: &'a Name) -> Option<OrderId> {
        let item = match self.names[cx.frame.module].get(&name.text) {
            Some((Named::Item(item), _)) => item,
            Some((Named::Broken, _)) => return None,
            _ => return self.unknown_order(cx, name, "unknown order"),
        };
        if !matches!(self.item(item).kind, ItemKind::Order { .. }) {
            let label = names::noun(&self.item(item).kind);
            return self.unknown_order(cx, name, &format!("this is {label}"));
        }
        self.order(item)
    }

    fn unknown_order<T>(&mut self, cx: &Cx<'a>, name: &Name, label: &str) -> Option<T> {
        let error = Diagnostic::error("E0201", name.span, format!("there is no order `{}`", name.text), label);
        let table = &self.names[cx.frame.module];
        let is_order = |name: &&str| match table.get(name) {
            Some((Named::Item(item), _)) => matches!(self.item(item).kind, ItemKind::Order { .. }),
            _ => false,
        };
        let error = match names::nearest(&name.text, table.all().into_iter().filter(is_order)) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("declare it: `order {} = morton(h, w)`", name.text)),
        };
        self.fail(cx, error)
    }

    /// Positions and lengths of the query's document; keys of others are left out by `same doc`.
    fn each_doc(&mut self, cx: &Cx<'a>, body: &'a Expr, span: Span) -> Option<ExprId> {
        self.outermost(cx, span, "each doc")?;
        let same = self.same_doc(cx, span)?;
        self.mark(cx, same, span);
        let doc = self.exprs.un(Un::DocOf, self.tokens.q);
        let (begin, end) = (self.exprs.un(Un::DocBegin, doc), self.exprs.un(Un::DocEnd, doc));
        let n = self.exprs.sub(end, begin);
        let (q, k) = (self.exprs.sub(cx.scope.q, begin), self.exprs.sub(cx.scope.k, begin));
        let body = self.set(&cx.within(cx.scope.local("each doc", (q, n), (k, n))), body)?;
        Some(self.exprs.and([same, body]))
    }

    /// Recursive halving. Node i of depth j holds the positions `i n / 2^j .. (i + 1) n / 2^j`, so a position p is
    /// in node `((p + 1) 2^j - 1) / n`; the leaves have the least depth D at which `n <= M 2^D`. Depths have a
    /// bound: the levels are written out, those from D on without pairs.
    fn halves(
        &mut self,
        cx: &Cx<'a>,
        min: &'a Expr,
        diagonal: &'a Expr,
        below: &'a Expr,
        span: Span,
    ) -> Option<ExprId> {
        self.outermost(cx, span, "halves")?;
        let least = self.positive(cx, min, "a leaf")?;
        let most = self.program.space.total.and_then(|t| self.exprs.as_int(t)).unwrap_or(MAX_LENGTH);
        let levels = (0..MOST_HALVINGS).find(|&level| most <= least << level).unwrap_or(MOST_HALVINGS);
        let (q, k, n_k) = (self.tokens.q, self.tokens.k, self.tokens.n_k);
        let (k_start, q_end) = (self.exprs.var(Var::KStart), self.tokens.end_q);
        let e = &mut self.exprs;
        let (zero, one) = (e.int(0), e.int(1));
        // The keys are the whole sequence, and the queries a part of it.
        let longest = e.int(least << levels);
        let conditions = [
            (e.eq(k_start, zero), "needs the keys from the first"),
            (e.le(q_end, n_k), "needs queries that are among the keys"),
            (e.le(n_k, longest), "halves fewer keys than there are: write a larger leaf"),
        ];
        self.launch.extend(conditions.map(|(holds, otherwise)| Demand { holds, span, otherwise }));

        // 2^D: D is the number of bits of (n - 1) / M.
        let n = e.max(n_k, one);
        let last = e.sub(n, one);
        let size = e.int(least);
        let last = e.div(last, size);
        let bits = e.un(Un::Log2, last);
        let depth = e.add(bits, one);
        let leaves = e.un(Un::Pow2, depth);
        let leaves = e.max(leaves, one);
        let (own, other) = (self.node(q, leaves, n), self.node(k, leaves, n));
        let leaf = self.exprs.eq(own, other);
        let [begin, _, end] = self.halved(own, leaves, n);
        let inside = self.set_of_parts(cx, diagonal, (begin, end), (begin, end));
        let mut all = vec![inside.map(|inside| self.exprs.and([leaf, inside]))];
        for level in 0..levels {
            let nodes = self.exprs.int(1 << level);
            let node = if level == 0 { zero } else { self.node(q, nodes, n) };
            let [begin, middle, end] = self.halved(node, nodes, n);
            let e = &mut self.exprs;
            let leaf = e.int(least << level);
            let split = [e.lt(leaf, n), e.le(middle, q), e.le(begin, k), e.lt(k, middle)];
            let inside = self.set_of_parts(cx, below, (middle, end), (begin, middle));
            all.push(inside.map(|inside| self.exprs.and(split.into_iter().chain([inside]))));
        }
        let all = all.into_iter().collect::<Option<Vec<ExprId>>>()?;
        Some(self.exprs.or(all))
    }

    /// The node of a position among `nodes` that share `n` positions.
    fn node(&mut self, position: ExprId, nodes: ExprId, n: ExprId) -> ExprId {
        let e = &mut self.exprs;
        let one = e.int(1);
        let next = e.add(position, one);
        let scaled = e.mul(next, nodes);
        let before = e.sub(scaled, one);
        e.div(before, n)
    }

    /// Where a node begins, where its right half begins, and where it ends. A node times n is a floor times its
    /// divisor, which is known to fit 64 bits: the ends are written with that product alone.
    fn halved(&mut self, node: ExprId, nodes: ExprId, n: ExprId) -> [ExprId; 3] {
        let e = &mut self.exprs;
        let two = e.int(2);
        let here = e.mul(node, n);
        let twice = e.mul(here, two);
        let (centre, after) = (e.add(twice, n), e.add(here, n));
        let children = e.mul(nodes, two);
        [e.div(here, nodes), e.div(centre, children), e.div(after, nodes)]
    }

    /// A set of a query in one part of the sequence and a key in another, with positions and lengths of the parts.
    fn set_of_parts(
        &mut self,
        cx: &Cx<'a>,
        body: &'a Expr,
        of_q: (ExprId, ExprId),
        of_k: (ExprId, ExprId),
    ) -> Option<ExprId> {
        let e = &mut self.exprs;
        let q = (e.sub(cx.scope.q, of_q.0), e.sub(of_q.1, of_q.0));
        let k = (e.sub(cx.scope.k, of_k.0), e.sub(of_k.1, of_k.0));
        self.set(&cx.within(cx.scope.local("halves", q, k)), body)
    }

    // ---- neighbourhoods ----

    /// NATTEN's neighbourhood on each axis: clamped at the edges, never truncated.
    fn near(&mut self, cx: &Cx<'a>, axes: &'a [NearAxis]) -> Option<ExprId> {
        let (refs, segment) = self.axes_of_one_segment(cx, axes.iter().map(|a| &a.axis))?;
        let constants: Vec<Option<Near>> = axes.iter().zip(refs).map(|(a, axis)| self.near_axis(cx, a, axis)).collect();
        let mut all = vec![self.both_in(segment)];
        for near in constants {
            let near = near?;
            let span = near.span;
            let allowed = self.near_on(&near);
            self.mark(cx, allowed, span);
            all.push(allowed);
        }
        Some(self.exprs.and(all))
    }

    fn near_axis(&mut self, cx: &Cx<'a>, written: &'a NearAxis, axis: AxisRef) -> Option<Near> {
        let window = self.positive(cx, &written.window, "a window");
        let stride = written.stride.as_ref().map_or(Some(1), |e| self.positive(cx, e, "a stride"));
        let dilation = written.dilate.as_ref().map_or(Some(1), |e| self.positive(cx, e, "a dilation"));
        let (window, stride, dilation) = (window?, stride?, dilation?);
        let name = &written.axis.text;
        let span = written.axis.span.to(written.window.span);
        if stride > window {
            let place = written.stride.as_ref().map_or(span, |e| e.span);
            return self.fail(
                cx,
                Diagnostic::error("E0312", place, "a stride is longer than its window", format!("this is {stride}"))
                    .label(written.window.span, format!("the window is {window}"))
                    .help(format!("write `{name} = {window} by {window}` or less")),
            );
        }
        // Both are lengths, so that their product is far from the end of 64 bits.
        let reach = window * dilation;
        match self.exprs.as_int(axis.extent) {
            Some(extent) if reach > extent => {
                let most = extent / dilation;
                let help = if most > 0 {
                    format!("at most `{name} = {most}`; a whole axis is written by leaving it out")
                } else {
                    "use a smaller dilation".to_owned()
                };
                return self.fail(
                    cx,
                    Diagnostic::error(
                        "E0312",
                        written.window.span,
                        format!("a window is longer than the axis `{name}`"),
                        format!("reaches over {reach} of {extent}"),
                    )
                    .help(help),
                );
            }
            Some(_) => {}
            None => {
                let reach = self.exprs.int(reach);
                let fits = self.exprs.le(reach, axis.extent);
                let (span, otherwise) = (written.window.span, "is longer than the axis");
                self.launch.push(Demand { holds: fits, span, otherwise });
            }
        }
        Some(Near { axis, window, stride, dilation, causal: written.causal, span })
    }

    /// One axis of a neighbourhood: with `i` and `j` the places of query and key in their residue class of
    /// `n` places, the first key is `clamp(lead - w / 2, 0, n - w)`, where `lead` is the middle (the last,
    /// if causal) of the query's stride group, and `w` keys follow (those up to `i`, if causal).
    fn near_on(&mut self, near: &Near) -> ExprId {
        let e = &mut self.exprs;
        let &Near { axis, window, stride, dilation, causal, .. } = near;
        if e.as_int(axis.extent) == Some(window) && !causal {
            return e.bool(true);
        }
        let (w, s, one, zero) = (e.int(window), e.int(stride), e.int(1), e.int(0));
        let dil = e.int(dilation);
        let (group, other) = (e.modulo(axis.q, dil), e.modulo(axis.k, dil));
        let (i, j) = (e.div(axis.q, dil), e.div(axis.k, dil));
        // Places in the residue class: ceil((extent - group) / dilation).
        let rest = e.sub(axis.extent, group);
        let up = e.int(dilation - 1);
        let rest = e.add(rest, up);
        let n = e.div(rest, dil);
        let first = e.div(i, s);
        let first = e.mul(first, s);
        let (start, last) = if causal {
            let behind = e.int(stride - 1);
            let lead = e.add(first, behind);
            let most = e.sub(n, one);
            let lead = e.min(lead, most);
            let behind = e.int(window - 1);
            let start = e.sub(lead, behind);
            (e.max(start, zero), i)
        } else {
            let shift = e.int(stride / 2 - window / 2);
            let start = e.add(first, shift);
            let start = e.max(start, zero);
            let most = e.sub(n, w);
            let start = e.min(start, most);
            let ahead = e.int(window - 1);
            (start, e.add(start, ahead))
        };
        let (from, to, class) = (e.le(start, j), e.le(j, last), e.eq(group, other));
        e.and([from, to, class])
    }

    fn disc(&mut self, cx: &Cx<'a>, names: &'a [Name], radius: &'a Expr) -> Option<ExprId> {
        let places = self.axes_of_one_segment(cx, names.iter());
        let r = self.positive(cx, radius, "a radius")?;
        let (axes, segment) = places?;
        let mut distance = self.exprs.int(0);
        for axis in axes {
            let d = self.exprs.sub(axis.q, axis.k);
            let d = self.exprs.mul(d, d);
            distance = self.exprs.add(distance, d);
        }
        let square = self.exprs.int(r * r);
        let near = self.exprs.lt(distance, square);
        let inside = self.both_in(segment);
        Some(self.exprs.and([inside, near]))
    }

    /// The distance is 0 or a power of two.
    fn pow2(&mut self, cx: &Cx<'a>) -> ExprId {
        let e = &mut self.exprs;
        let d = e.sub(cx.scope.q, cx.scope.k);
        let zero = e.int(0);
        let exponent = e.un(Un::Log2, d);
        let power = e.un(Un::Pow2, exponent);
        let (after, same, is_power) = (e.le(zero, d), e.eq(d, zero), e.eq(power, d));
        let either = e.or([same, is_power]);
        e.and([after, either])
    }

    // ---- random and given sets ----

    /// `random ..` and `draw ..`
    fn random(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<ExprId> {
        let ExprKind::Random { replace, count, of, per, seed } = &e.kind else { return None };
        let span = e.span;
        let word = if *replace { "draw" } else { "random" };
        if cx.scope.orders.is_some() || cx.scope.local.is_some() {
            let around = cx.scope.local.unwrap_or("along");
            let message = format!("`{word}` chooses by position, and `{around}` around it has renamed them");
            return self.no_meaning(cx, span, message, "join it from outside: `.. | random 3 of causal per q seed 7`");
        }
        let count = self.positive(cx, count, "a count");
        let seed = self.constant_int(cx, seed);
        let from = self.set(cx, of);
        let scope = match per.text.as_str() {
            "q" if *replace => {
                let message = "a draw with replacement is shared by the queries of a head".to_owned();
                return self.no_meaning(cx, per.span, message, "write `per head`, or `random` for one without");
            }
            "q" => DrawScope::Row,
            "head" => DrawScope::Head,
            _ => return self.unknown_word(cx, per, "scope of a choice", &["q", "head"]),
        };
        let (count, seed, from) = (count?, seed?, from?);
        if scope == DrawScope::Head && self.facts.reads(&self.exprs, from).has(Reads::Q) {
            let message = "one choice for a head cannot depend on `q`".to_owned();
            return self.no_meaning(
                cx,
                of.span,
                message,
                "choose out of keys: `random 3 of k in 0 .. 64 per head seed 7`",
            );
        }
        if self.exprs.reachable(&[from]).iter().any(|&id| matches!(self.exprs.node(id), Node::Drawn(..))) {
            let message = "a random set cannot be drawn from a random set".to_owned();
            return self.no_meaning(cx, of.span, message, "draw from a set of positions");
        }
        let (chooser, unit) = (Chooser::Random { count, seed }, cx.scope.block.unwrap_or(1));
        let draw = Draw { chooser, of: from, unit, scope, weight: None, span };
        // The same words say the same choice, wherever they are expanded.
        let known = self.program.draws.iter().position(|d| {
            (&d.chooser, d.of, d.unit, d.scope) == (&draw.chooser, draw.of, draw.unit, draw.scope)
                && d.weight.is_some() == *replace
        });
        let index = known.unwrap_or_else(|| {
            self.program.draws.push(draw);
            self.program.draws.len() - 1
        });
        let id = DrawId(index as u32);
        if *replace && known.is_none() {
            // No file can declare a tensor of this name.
            let name = format!("draw {index}");
            let tensor = TensorId(self.program.tensors.len() as u32);
            self.program.tensors.push(Tensor { name, dims: vec![cx.scope.end_k], of: Some(Made::Weight(id)), span });
            self.program.draws[index].weight = Some(self.exprs.intern(Node::Load(tensor, vec![cx.scope.k])));
        }
        let row = if scope == DrawScope::Head { self.exprs.int(0) } else { cx.scope.q };
        Some(self.exprs.intern(Node::Drawn(id, row, cx.scope.k)))
    }

    /// `map NAME`: rows and columns of the launch; inside `along`, places in the order.
    fn given(&mut self, cx: &Cx<'a>, name: &'a Name, span: Span) -> Option<ExprId> {
        let item = match self.names[cx.frame.module].get(&name.text) {
            Some((Named::Item(item), _)) if matches!(self.item(item).kind, ItemKind::Map { .. }) => item,
            Some((Named::Broken, _)) => return None,
            _ => return self.unknown_map(cx, name),
        };
        let around = match cx.scope {
            Scope { block: Some(_), .. } => Some("block"),
            Scope { local, .. } => local,
        };
        if let Some(around) = around {
            let message = format!("a map speaks of tokens of a launch, and `{around}` around it has renamed them");
            let help = format!("join it from outside: `map {} & {around} ..`", name.text);
            return self.no_meaning(cx, span, message, &help);
        }
        let map = self.map(item)?;
        let (q_start, k_start) = (self.exprs.var(Var::QStart), self.exprs.var(Var::KStart));
        let (mut row, mut column) = match cx.scope.orders {
            None => (self.exprs.sub(self.tokens.q, q_start), self.exprs.sub(self.tokens.k, k_start)),
            Some((q, k)) => {
                self.whole_sequence(Var::QStart, q, self.tokens.n_q);
                self.whole_sequence(Var::KStart, k, self.tokens.n_k);
                (cx.scope.q, cx.scope.k)
            }
        };
        if let MapKind::Blocks(size) = self.program.map(map).kind {
            let size = self.exprs.int(size);
            row = self.exprs.div(row, size);
            column = self.exprs.div(column, size);
        }
        Some(self.exprs.intern(Node::MapAt(map, row, column)))
    }

    /// Places of an order are rows or columns of a launch only if it has all that the order moves.
    pub(super) fn whole_sequence(&mut self, start: Var, order: OrderId, n: ExprId) {
        let end = match self.program.order(order).segment {
            Some(segment) => {
                let segment = &self.program.space.segments[segment];
                self.exprs.add(segment.begin, segment.len)
            }
            None => self.sorted(order).unwrap_or(n),
        };
        let (start, zero) = (self.exprs.var(start), self.exprs.int(0));
        let holds = [self.exprs.eq(start, zero), self.exprs.le(end, n)];
        let span = self.program.order(order).span;
        self.launch.extend(holds.map(|holds| Demand { holds, span, otherwise: "needs all positions that it moves" }));
    }

    fn unknown_map<T>(&mut self, cx: &Cx<'a>, name: &Name) -> Option<T> {
        let error = Diagnostic::error("E0201", name.span, format!("there is no map `{}`", name.text), "unknown map");
        let table = &self.names[cx.frame.module];
        let is_map = |name: &&str| match table.get(name) {
            Some((Named::Item(item), _)) => matches!(self.item(item).kind, ItemKind::Map { .. }),
            _ => false,
        };
        let error = match names::nearest(&name.text, table.all().into_iter().filter(is_map)) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("declare it: `map {} : blocks 64[heads]`", name.text)),
        };
        self.fail(cx, error)
    }
}
