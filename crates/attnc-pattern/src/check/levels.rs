//! Levels: how positions are cut into slots, and how a set of tokens is read at the slots of a level.
//!
//! Reading at a level is a substitution: the key's position becomes the last one of a slot, its coordinates, places
//! and blocks what they are there. Blocks that hold whole slots become blocks of slots, so that the analysis meets no
//! minimum where none is needed. What slots mean stands in [`crate::selection`].

use std::collections::HashMap;

use attnc_syntax::ast::{self, Expr, ExprKind, ItemKind, LevelArg, Name};
use attnc_syntax::diag::{Diagnostic, Span};

use super::Checker;
use super::facts::{Bounds, MAX_LENGTH};
use super::names::{self, ItemRef, Named};
use super::scope::{CONSTANT, Cx};
use crate::expr::{Bin, DrawId, ExprId, Extent, LevelId, MapId, Node, TensorId, Un, Var};
use crate::program::{Demand, Derived, Index, Level, Partition, Pool};

const POOLS: &[&str] = &["mean", "max", "conv", "softmax_mean", "blocks", "channels", "int8", "int4"];

/// The arguments of a level, taken apart.
struct Args<'a> {
    partition: Option<Partition>,
    /// The segment of the axes.
    segment: Option<usize>,
    rest: Vec<&'a Expr>,
}

impl<'a> Checker<'a> {
    /// A declared level.
    pub(super) fn level(&mut self, item: ItemRef) -> Option<LevelId> {
        let index = self.conditioned(item, |checker, name| {
            let ItemKind::Level { pool, args, of, along, .. } = &checker.item(item).kind else { return None };
            let level = checker.make_level(item.module, name, pool, args, of, along.as_ref())?;
            checker.program.levels.push(level);
            Some(checker.program.levels.len() - 1)
        });
        index.map(|index| LevelId(index as u32))
    }

    /// The level of a name, or an error.
    pub(super) fn level_named(&mut self, cx: &Cx<'a>, name: &'a Name) -> Option<LevelId> {
        match self.names[cx.frame.module].get(&name.text) {
            Some((Named::Item(item), _)) if matches!(self.item(item).kind, ItemKind::Level { .. }) => self.level(item),
            Some((Named::Broken, _)) => None,
            _ => {
                let error = Diagnostic::error(
                    "E0401",
                    name.span,
                    format!("there is no level `{}`", name.text),
                    "unknown level",
                );
                let table = &self.names[cx.frame.module];
                let is_level = |name: &&str| match table.get(name) {
                    Some((Named::Item(item), _)) => matches!(self.item(item).kind, ItemKind::Level { .. }),
                    _ => false,
                };
                let error = match names::nearest(&name.text, table.all().into_iter().filter(is_level)) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help(format!(
                        "the level of keys and values themselves is `tokens`; declare another: `level {} = mean(16) of k, v`",
                        name.text
                    )),
                };
                self.fail(cx, error)
            }
        }
    }

    fn make_level(
        &mut self,
        module: usize,
        name: &'a Name,
        pool: &'a Name,
        args: &'a [LevelArg],
        of: &'a [Name],
        along: Option<&'a Name>,
    ) -> Option<Level> {
        let cx = self.top(module, CONSTANT);
        if !POOLS.contains(&pool.text.as_str()) {
            return self.unknown_word(&cx, pool, "way to make a level", POOLS);
        }
        let (parent, mut derived) = self.derived(&cx, of)?;
        let Args { partition, segment, rest } = self.level_args(&cx, name, pool, args)?;
        let bad = |span: Span, message: String, help: &str| bad_level(span, message, help);
        let (pool_of, partition) = match (pool.text.as_str(), partition, rest.as_slice()) {
            ("mean", Some(partition), []) => (Pool::Mean, partition),
            ("max", Some(partition), []) => (Pool::Max, partition),
            ("softmax_mean", Some(partition), []) => (Pool::SoftmaxMean, partition),
            ("blocks", Some(partition), []) => (Pool::Nothing, partition),
            ("conv", Some(partition), [weights]) => {
                (Pool::Weighted(self.weights(&cx, weights, &partition)?), partition)
            }
            ("channels", None, [kept]) => (Pool::Channels(self.channels(&cx, kept)?), Partition::Blocks(1)),
            ("int8" | "int4", Some(Partition::Blocks(block)), []) => {
                let bits = if pool.text == "int8" { 8 } else { 4 };
                (Pool::Quantised { bits, block }, Partition::Blocks(1))
            }
            (word, ..) => {
                let help = match word {
                    "conv" => "write `conv(16, W)` or `conv(h = 4, w = 4, W)` with a tensor of weights",
                    "channels" => "write `channels(NAME)` with a selection of channels",
                    "int8" | "int4" => "write how many tokens share a scale: `int8(64)`",
                    _ => {
                        "write `mean(16)`, `mean(h = 4, w = 4)`, `mean(into = 8)` or `mean(NAME)` with an `offsets` map"
                    }
                };
                let span = pool.span;
                return self.fail(&cx, bad(span, format!("`{word}` does not take these arguments"), help));
            }
        };
        match (&pool_of, of.is_empty()) {
            (Pool::Nothing, true) => {}
            (Pool::Nothing, false) if parent.is_some() => derived = Derived::default(),
            (Pool::Nothing, false) => {
                let help = "leave `of` out, or pool with `mean`";
                return self.fail(&cx, bad(of[0].span, "`blocks` derives nothing".to_owned(), help));
            }
            (_, true) => {
                let help = "write `of k, v`, `of q, k, v`, or `of` another level";
                return self.fail(&cx, bad(pool.span, "a level says what it is made of".to_owned(), help));
            }
            (Pool::SoftmaxMean, false) if derived.v && !(derived.q && derived.k) => {
                let help = "write `softmax_mean(16) of q, k, v`: values are weighed by queries and keys of the slot";
                return self.fail(&cx, bad(of[0].span, "a softmax inside a slot reads all three".to_owned(), help));
            }
            _ => {}
        }
        let tokenwise = matches!(pool_of, Pool::Channels(_) | Pool::Quantised { .. });
        let order = match along {
            None => None,
            Some(order) if parent.is_some() || segment.is_some() || tokenwise => {
                let help = "an order numbers tokens: write it at the level that is made of them, in blocks";
                return self.fail(&cx, bad(order.span, "nothing is numbered anew here".to_owned(), help));
            }
            Some(order) => Some(self.order_named(&cx, order)?),
        };
        if let Some(parent) = parent {
            let of_parent = self.program.level(parent);
            let grid = matches!(of_parent.partition, Partition::Axes(_));
            if grid || tokenwise || !matches!(partition, Partition::Blocks(_)) {
                let (message, help) = if tokenwise {
                    ("channels and widths are those of tokens", "make it of q, k or v")
                } else if grid {
                    ("boxes of a grid have no order to be cut in", "make both levels of tokens, with larger boxes")
                } else {
                    ("slots of a level are cut into blocks", "write `mean(16) of NAME`")
                };
                return self.fail(&cx, bad(of[0].span, message.to_owned(), help));
            }
        }
        let draft = Level {
            name: name.text.clone(),
            parent,
            partition,
            order,
            pool: pool_of,
            of: derived,
            slots: self.tokens.n_k,
            slot_q: self.tokens.q,
            slot_k: self.tokens.k,
            inside: None,
            last: self.tokens.k,
            last_q: self.tokens.q,
            len: self.tokens.n_k,
            span: name.span,
        };
        Some(self.numbers_of(draft, segment))
    }

    /// `of q, k, v`, `of l1`
    fn derived(&mut self, cx: &Cx<'a>, of: &'a [Name]) -> Option<(Option<LevelId>, Derived)> {
        let mut derived = Derived::default();
        if let [parent] = of
            && !matches!(parent.text.as_str(), "q" | "k" | "v")
        {
            let parent = self.level_named(cx, parent)?;
            return Some((Some(parent), self.program.level(parent).of));
        }
        for name in of {
            let part = match name.text.as_str() {
                "q" => &mut derived.q,
                "k" => &mut derived.k,
                "v" => &mut derived.v,
                _ => {
                    let message = format!("`{}` is none of q, k and v", name.text);
                    return self.fail(cx, bad_level(name.span, message, "write `of q, k, v`, or one other level"));
                }
            };
            if std::mem::replace(part, true) {
                let message = format!("`{}` is named twice", name.text);
                return self.fail(cx, bad_level(name.span, message, "name each once"));
            }
        }
        Some((None, derived))
    }

    fn level_args(&mut self, cx: &Cx<'a>, name: &'a Name, pool: &'a Name, args: &'a [LevelArg]) -> Option<Args<'a>> {
        let mut partition = None;
        let mut axes = Vec::new();
        let mut segment = None;
        let mut rest = Vec::new();
        for arg in args {
            match &arg.name {
                Some(into) if into.text == "into" => {
                    partition = Some(Partition::Into(self.positive(cx, &arg.value, "a number of slots")?));
                }
                Some(axis) => {
                    let of = self.axis(cx, axis)?;
                    let (Some(id), Some(own)) = (of.id, of.segment) else {
                        let help = "write `mean(16)` for blocks of positions";
                        return self.fail(cx, bad_level(axis.span, "`pos` is no axis of a grid".to_owned(), help));
                    };
                    if axes.iter().any(|&(known, _)| known == id) || *segment.get_or_insert(own) != own {
                        let message = format!("`{}` is named twice, or an axis of another segment", axis.text);
                        return self.fail(cx, bad_level(axis.span, message, "name axes of one segment, each once"));
                    }
                    let whole = matches!(&arg.value.kind, ExprKind::Name(word) if word == "all");
                    let size = if whole { None } else { Some(self.positive(cx, &arg.value, "a box")?) };
                    axes.push((id, size));
                }
                None => match &arg.value.kind {
                    ExprKind::Name(word) if pool.text != "channels" => match self.offsets_named(cx, word) {
                        Some(map) => partition = Some(Partition::Offsets(map)),
                        None if partition.is_none() && axes.is_empty() => {
                            let size = self.positive(cx, &arg.value, "a block")?;
                            partition = Some(Partition::Blocks(size));
                        }
                        None => rest.push(&arg.value),
                    },
                    _ if pool.text == "channels" => rest.push(&arg.value),
                    _ => partition = Some(Partition::Blocks(self.positive(cx, &arg.value, "a block")?)),
                },
            }
        }
        if let Some(segment) = segment {
            if partition.is_some() {
                let message = "slots are cut by positions or by axes, not by both".to_owned();
                return self.fail(cx, bad_level(name.span, message, "write `mean(16)` or `mean(h = 4, w = 4)`"));
            }
            // Axes that are left out keep each coordinate.
            let all = self.program.space.segments[segment].axes.clone();
            let size = |axis| axes.iter().find(|&&(known, _)| known == axis).map_or(Some(1), |&(_, size)| size);
            partition = Some(Partition::Axes(all.into_iter().map(|axis| (axis, size(axis))).collect()));
        }
        Some(Args { partition, segment, rest })
    }

    fn offsets_named(&mut self, cx: &Cx<'a>, word: &str) -> Option<MapId> {
        let Some((Named::Item(item), _)) = self.names[cx.frame.module].get(word) else { return None };
        match &self.item(item).kind {
            ItemKind::Map { kind: ast::MapKind::Offsets, .. } => self.map(item),
            _ => None,
        }
    }

    /// The weights of a convolution: one for each place of a slot.
    fn weights(&mut self, cx: &Cx<'a>, e: &'a Expr, partition: &Partition) -> Option<TensorId> {
        let ExprKind::Name(word) = &e.kind else {
            return self.other_kind(cx, e.span, "a tensor", "an expression", None);
        };
        let item = match self.names[cx.frame.module].get(word) {
            Some((Named::Item(item), _)) if matches!(self.item(item).kind, ItemKind::Tensor { .. }) => item,
            _ => return self.other_kind(cx, e.span, "a tensor", "another name", None),
        };
        let tensor = self.tensor(item)?;
        let places: Vec<Option<i64>> = match partition {
            Partition::Blocks(size) => vec![Some(*size)],
            // Axes that keep each coordinate have no axis of weights.
            Partition::Axes(axes) => axes.iter().map(|a| a.1).filter(|&size| size != Some(1)).collect(),
            Partition::Into(_) | Partition::Offsets(_) => vec![None],
        };
        let dims: Vec<Option<i64>> = self.program.tensor(tensor).dims.iter().map(|&d| self.exprs.as_int(d)).collect();
        if places.contains(&None) || dims != places {
            let message = format!("`{word}` has not one weight for each place of a slot");
            let help = "declare one axis for each axis of a box, or one for a block: `tensor W[4, 4]`";
            return self.fail(cx, bad_level(e.span, message, help));
        }
        Some(tensor)
    }

    fn channels(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<DrawId> {
        let found = match &e.kind {
            ExprKind::Name(word) => match self.names[cx.frame.module].get(word) {
                Some((Named::Item(item), _)) if matches!(self.item(item).kind, ItemKind::Select { .. }) => {
                    self.select(item)
                }
                _ => None,
            },
            _ => None,
        };
        let kept = found.map(|select| self.program.select(select).clone());
        match kept {
            Some(select) if select.slots == Index::Channels && select.rows == Index::One => Some(select.tables[0]),
            _ => {
                let message = "this is no selection of channels".to_owned();
                let help = "select them by energy: `select kept = top 64 of energy(q, k) per head`";
                self.fail(cx, bad_level(e.span, message, help))
            }
        }
    }

    /// Fills in the expressions of a level.
    fn numbers_of(&mut self, mut level: Level, segment: Option<usize>) -> Level {
        let (q, k) = (self.tokens.q, self.tokens.k);
        let (end_k, end_q) = (self.tokens.end_k, self.tokens.end_q);
        let (slot, zero, one) = (self.exprs.var(Var::Slot), self.exprs.int(0), self.exprs.int(1));
        let k_start = self.exprs.var(Var::KStart);
        let whole = self.exprs.eq(k_start, zero);
        let otherwise = "cuts the keys from the first";
        self.launch.push(Demand { holds: whole, span: level.span, otherwise });
        if let Some(order) = level.order {
            self.whole_sequence(Var::KStart, order, self.tokens.n_k);
        }
        let parent = level.parent.map(|p| self.program.level(p).clone());
        match (&level.partition, &parent) {
            (Partition::Blocks(size), Some(parent)) => {
                let b = self.exprs.int(*size);
                let less = self.exprs.int(size - 1);
                let up = self.exprs.add(parent.slots, less);
                level.slots = self.exprs.div(up, b);
                level.slot_q = self.exprs.div(parent.slot_q, b);
                level.slot_k = self.exprs.div(parent.slot_k, b);
                // The parent's last slot of this one.
                let next = self.exprs.add(slot, one);
                let next = self.exprs.mul(next, b);
                let next = self.exprs.min(next, parent.slots);
                let final_one = self.exprs.sub(next, one);
                let id = LevelId(self.program.levels.len() as u32);
                if self.scattered(level.parent) {
                    level.last = self.exprs.un(Un::SlotLast(id), slot);
                    level.last_q = level.last;
                } else {
                    level.last = self.exprs.substitute(parent.last, |_, v| (v == Var::Slot).then_some(final_one));
                    level.last_q = self.exprs.substitute(parent.last_q, |_, v| (v == Var::Slot).then_some(final_one));
                }
                let first = self.exprs.mul(slot, b);
                let begin = self.first_of(parent, first);
                let end = self.first_of(parent, next);
                level.len = self.exprs.sub(end, begin);
            }
            (Partition::Blocks(size), None) => {
                let b = self.exprs.int(*size);
                let less = self.exprs.int(size - 1);
                let up = self.exprs.add(end_k, less);
                level.slots = self.exprs.div(up, b);
                let (q, k) = match level.order {
                    Some(order) => (self.in_order(order, q), self.in_order(order, k)),
                    None => (q, k),
                };
                level.slot_q = self.exprs.div(q, b);
                level.slot_k = self.exprs.div(k, b);
                let next = self.exprs.add(slot, one);
                let next = self.exprs.mul(next, b);
                if level.order.is_some() {
                    let id = LevelId(self.program.levels.len() as u32);
                    level.last = self.exprs.un(Un::SlotLast(id), slot);
                    level.last_q = level.last;
                } else {
                    [level.last, level.last_q] = [end_k, end_q].map(|end| {
                        let end = self.exprs.min(next, end);
                        self.exprs.sub(end, one)
                    });
                }
                let begin = self.exprs.mul(slot, b);
                let end = self.exprs.min(next, end_k);
                level.len = self.exprs.sub(end, begin);
            }
            (Partition::Into(parts), _) => {
                let n = self.exprs.int(*parts);
                let enough = self.exprs.le(n, end_k);
                let otherwise = "has more slots than there are positions";
                self.launch.push(Demand { holds: enough, span: level.span, otherwise });
                level.slots = n;
                [level.slot_q, level.slot_k] = [q, k].map(|p| {
                    let next = self.exprs.add(p, one);
                    let scaled = self.exprs.mul(next, n);
                    let scaled = self.exprs.sub(scaled, one);
                    self.exprs.div(scaled, end_k)
                });
                let begin = self.first_of(&level, slot);
                let next = self.exprs.add(slot, one);
                let end = self.first_of(&level, next);
                level.len = self.exprs.sub(end, begin);
                level.last = self.exprs.sub(end, one);
                let end = self.exprs.min(end, end_q);
                level.last_q = self.exprs.sub(end, one);
            }
            (Partition::Offsets(map), _) => {
                let map = *map;
                level.slots = self.exprs.var(Var::Parts(map));
                [level.slot_q, level.slot_k] = [q, k].map(|p| self.exprs.un(Un::PartOf(map), p));
                let begin = self.first_of(&level, slot);
                let next = self.exprs.add(slot, one);
                let end = self.first_of(&level, next);
                level.len = self.exprs.sub(end, begin);
                level.last = self.exprs.sub(end, one);
                let end = self.exprs.min(end, end_q);
                level.last_q = self.exprs.sub(end, one);
            }
            (Partition::Axes(axes), _) => {
                self.need_extents(segment);
                let (mut slots, mut len) = (one, one);
                let (mut slot_q, mut slot_k) = (zero, zero);
                for (depth, (coordinate, &(axis, size))) in self.boxes(axes, slot).into_iter().zip(axes).enumerate() {
                    let of = self.program.axis(axis).clone();
                    let (count, box_len) = match size {
                        None => (one, of.extent),
                        Some(size) => {
                            let b = self.exprs.int(size);
                            let less = self.exprs.int(size - 1);
                            let up = self.exprs.add(of.extent, less);
                            let count = self.exprs.div(up, b);
                            // A position outside of the segment has a slot in here, too.
                            let reduced = if depth == 0 { self.exprs.modulo(coordinate, count) } else { coordinate };
                            let begin = self.exprs.mul(reduced, b);
                            let end = self.exprs.add(begin, b);
                            let end = self.exprs.min(end, of.extent);
                            (count, self.exprs.sub(end, begin))
                        }
                    };
                    let Some(of) = self.axes.get(of.name.as_str()).copied() else { continue };
                    for (sum, coordinate) in [(&mut slot_q, of.q), (&mut slot_k, of.k)] {
                        let part = match size {
                            None => zero,
                            Some(size) => {
                                let b = self.exprs.int(size);
                                self.exprs.div(coordinate, b)
                            }
                        };
                        *sum = self.exprs.mul(*sum, count);
                        *sum = self.exprs.add(*sum, part);
                    }
                    slots = self.exprs.mul(slots, count);
                    len = self.exprs.mul(len, box_len);
                }
                (level.slots, level.len, level.slot_q, level.slot_k) = (slots, len, slot_q, slot_k);
                if let Some(segment) = segment {
                    let inside = [q, k].map(|p| self.in_segment(segment, p));
                    if inside.iter().any(|&i| self.exprs.as_bool(i).is_none()) {
                        level.inside = Some((inside[0], inside[1]));
                    }
                    // The launch has the whole segment.
                    let of = self.program.space.segments[segment].clone();
                    let end = self.exprs.add(of.begin, of.len);
                    let all = self.exprs.le(end, end_k);
                    let otherwise = "needs all of its segment";
                    self.launch.push(Demand { holds: all, span: level.span, otherwise });
                }
                let id = LevelId(self.program.levels.len() as u32);
                level.last = self.exprs.un(Un::SlotLast(id), slot);
                level.last_q = level.last;
            }
        }
        for id in [level.slots, level.slot_q, level.slot_k, level.last, level.last_q, level.len] {
            self.facts.state(&self.exprs, id, Bounds::new(-1, MAX_LENGTH));
        }
        level
    }

    fn scattered(&self, level: Option<LevelId>) -> bool {
        level.is_some_and(|level| self.program.is_scattered(level))
    }

    /// The first place of a slot, which may be one past the last: for lengths.
    fn first_of(&mut self, level: &Level, slot: ExprId) -> ExprId {
        match level.partition {
            Partition::Blocks(size) => {
                let b = self.exprs.int(size);
                let first = self.exprs.mul(slot, b);
                match level.parent {
                    Some(parent) => {
                        let parent = self.program.level(parent).clone();
                        let first = self.exprs.min(first, parent.slots);
                        self.first_of(&parent, first)
                    }
                    None => self.exprs.min(first, self.tokens.end_k),
                }
            }
            Partition::Into(parts) => {
                let n = self.exprs.int(parts);
                let scaled = self.exprs.mul(slot, self.tokens.end_k);
                self.exprs.div(scaled, n)
            }
            Partition::Offsets(map) => self.exprs.un(Un::CsrBegin(map), slot),
            Partition::Axes(_) => slot,
        }
    }

    /// Coordinates of a slot among the boxes of a grid, one for each axis.
    fn boxes(&mut self, axes: &[(crate::expr::AxisId, Option<i64>)], slot: ExprId) -> Vec<ExprId> {
        let mut rest = slot;
        let mut found = Vec::new();
        for &(axis, size) in axes.iter().rev() {
            let extent = self.program.axis(axis).extent;
            let count = match size {
                None => self.exprs.int(1),
                Some(size) => {
                    let (b, less) = (self.exprs.int(size), self.exprs.int(size - 1));
                    let up = self.exprs.add(extent, less);
                    self.exprs.div(up, b)
                }
            };
            // There are no more slots than boxes: the outermost coordinate is what is left.
            let outermost = found.len() + 1 == axes.len() && size.is_some();
            found.push(if outermost { rest } else { self.exprs.modulo(rest, count) });
            rest = self.exprs.div(rest, count);
        }
        found.reverse();
        found
    }

    /// Rows of queries that are slots: the launch has all queries where slots are no ranges.
    pub(super) fn rows_of(&mut self, level: LevelId) {
        if self.scattered(Some(level)) {
            let (q_start, zero) = (self.exprs.var(Var::QStart), self.exprs.int(0));
            let whole = self.exprs.eq(q_start, zero);
            let all = self.exprs.eq(self.tokens.n_q, self.tokens.n_k);
            let (span, otherwise) = (self.program.level(level).span, "has rows of queries that need all queries");
            self.launch.extend([whole, all].map(|holds| Demand { holds, span, otherwise }));
        }
    }

    /// The number of positions in the slot of the query or key, at the levels of the place.
    pub(super) fn slot_len(&mut self, cx: &Cx<'a>, query: bool, span: Span) -> Option<ExprId> {
        let (q, k) = cx.scope.slots;
        let Some(level) = (if query { q } else { k }) else {
            let side = if query { "q" } else { "k" };
            let message = format!("`{side}.len` is the length of a slot, and there are tokens here");
            return self.no_meaning(cx, span, message, "read it in a score or bias of a level");
        };
        let level = self.program.level(level).clone();
        let slot = if query { level.slot_q } else { level.slot_k };
        Some(self.exprs.substitute(level.len, |_, v| (v == Var::Slot).then_some(slot)))
    }

    /// A pair expression of tokens, read at the slots of a level: see [`crate::selection`].
    pub(super) fn at_level(&mut self, id: LevelId, root: ExprId) -> ExprId {
        let level = self.program.level(id).clone();
        let slot = self.exprs.var(Var::K);
        let given = |e: &mut crate::expr::Exprs, v: Var| match v {
            Var::NK => Some(e.var(Var::Given(Extent::NK))),
            Var::KStart => Some(e.var(Var::Given(Extent::KStart))),
            Var::Slot => Some(slot),
            _ => None,
        };
        let last = self.exprs.substitute(level.last, given);
        // The place in the numbering that blocks cut, and how many of it a slot has.
        let (base, unit) = self.base(id);
        let mut new: HashMap<ExprId, ExprId> = HashMap::new();
        // Coordinates of keys that boxes cut, those of boxes, and how many of the first one of the second has.
        let mut cut: Vec<(ExprId, ExprId, i64)> = vec![];
        if let Partition::Axes(axes) = &level.partition {
            for (coordinate, &(axis, size)) in self.boxes(axes, slot).into_iter().zip(axes) {
                let of = self.program.axis(axis).clone();
                let one = self.exprs.int(1);
                let end = match size {
                    None => of.extent,
                    Some(size) => {
                        let b = self.exprs.int(size);
                        let next = self.exprs.add(coordinate, one);
                        let next = self.exprs.mul(next, b);
                        self.exprs.min(next, of.extent)
                    }
                };
                let at = self.exprs.sub(end, one);
                if let Some(known) = self.axes.get(of.name.as_str()) {
                    new.insert(known.k, at);
                    cut.extend(size.map(|size| (known.k, coordinate, size)));
                }
            }
        }
        new.insert(level.slot_k, slot);
        for node in self.exprs.reachable(&[root]) {
            if new.contains_key(&node) {
                continue;
            }
            let read = match *self.exprs.node(node) {
                Node::Var(Var::K) => last,
                Node::Var(v) => given(&mut self.exprs, v).unwrap_or(node),
                Node::Bin(Bin::Div, x, c)
                    if Some(x) == base
                        && let Some(c) = self.exprs.as_int(c)
                        && c > 0
                        && c % unit == 0 =>
                {
                    let c = self.exprs.int(c / unit);
                    self.exprs.div(slot, c)
                }
                Node::Bin(Bin::Div, x, c)
                    if let Some(&(_, coordinate, size)) = cut.iter().find(|cut| cut.0 == x)
                        && let Some(c) = self.exprs.as_int(c)
                        && c > 0
                        && c % size == 0 =>
                {
                    let c = self.exprs.int(c / size);
                    self.exprs.div(coordinate, c)
                }
                // Inside `along` a slot stands at its last place.
                Node::Un(Un::OrderIndex(_), _) if Some(node) == base => {
                    let (one, b) = (self.exprs.int(1), self.exprs.int(unit));
                    let next = self.exprs.add(slot, one);
                    let next = self.exprs.mul(next, b);
                    let end = self.tokens.end_k;
                    let end = self.exprs.substitute(end, given);
                    let next = self.exprs.min(next, end);
                    self.exprs.sub(next, one)
                }
                _ => {
                    let operands: Vec<ExprId> = self.exprs.operands(node).iter().map(|o| new[o]).collect();
                    self.exprs.rebuild(node, &operands)
                }
            };
            if let Some(span) = self.exprs.span(node)
                && self.exprs.as_bool(read).is_none()
            {
                self.exprs.set_span(read, span);
            }
            new.insert(node, read);
        }
        new[&root]
    }

    /// The place that a chain of blocks cuts, and how many places its slots have.
    fn base(&mut self, id: LevelId) -> (Option<ExprId>, i64) {
        let level = self.program.level(id).clone();
        let (Partition::Blocks(size), parent) = (&level.partition, level.parent) else { return (None, 1) };
        match parent {
            Some(parent) => {
                let (base, unit) = self.base(parent);
                (base, unit.saturating_mul(*size))
            }
            None => {
                let k = self.tokens.k;
                let base = match level.order {
                    Some(order) => self.exprs.un(Un::OrderIndex(order), k),
                    None => k,
                };
                (Some(base), *size)
            }
        }
    }

    /// Positions of one slot, where slots are blocks of positions.
    pub(super) fn unit_of(&mut self, id: LevelId) -> i64 {
        match self.base(id) {
            (Some(base), unit) if base == self.tokens.k => unit,
            _ => 1,
        }
    }
}

/// The error of a level that cannot be.
fn bad_level(span: Span, message: String, help: &str) -> Diagnostic {
    Diagnostic::error("E0412", span, message, "of this level").help(help)
}
