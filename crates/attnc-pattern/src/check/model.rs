//! Models: which attention each (step, layer, head) has, shown to be exactly one by counting them all.
//!
//! Arms are flattened to conditions of which the first that holds decides; the count makes sure that among
//! the arms that were written no two claim the same place, so that their order does not matter.

use std::collections::HashMap;

use attnc_syntax::ast::{Arm, Coord, Expr, ExprKind, ItemKind, Model as Written, RangeExpr, Selector, Target};
use attnc_syntax::diag::{Diagnostic, Span};

use super::Checker;
use super::names::{ItemRef, Named};
use super::scope::{CONSTANT, HEAD_MAP, WHEN};
use super::spell::spell;
use crate::build::{floor_div, floor_mod};
use crate::expr::{Bin, Cmp, ExprId, Exprs, Node, Un, Var};
use crate::program::{Model, ModelArm};

/// Most places of a model.
const MAX_PLACES: i64 = 4_000_000;
/// Most tests of a place by an arm.
const MAX_TESTS: usize = 1 << 28;

/// The places of a model, numbered `(step * layers + layer) * heads + head`.
#[derive(Clone, Copy)]
struct Places {
    steps: i64,
    layers: i64,
    heads: i64,
}

impl Places {
    fn coordinates(self, place: u32) -> [i64; 3] {
        let place = i64::from(place);
        [place / self.heads / self.layers, place / self.heads % self.layers, place % self.heads]
    }

    fn name(self, place: u32) -> String {
        let [step, layer, head] = self.coordinates(place);
        if self.steps > 1 {
            format!("step {step}, layer {layer}, head {head}")
        } else {
            format!("layer {layer}, head {head}")
        }
    }

    fn extent(self, axis: Coord) -> i64 {
        match axis {
            Coord::Step => self.steps,
            Coord::Layer => self.layers,
            Coord::Head => self.heads,
        }
    }
}

/// A block of arms: whom it is about, and where its arms go.
struct Block<'b, 'a> {
    model: &'a Written,
    places: Places,
    arms: &'a [Arm],
    /// The places it must assign.
    region: Vec<u32>,
    /// The condition under which it is reached.
    when: ExprId,
    span: Span,
    out: &'b mut Vec<ModelArm>,
}

impl<'a> Checker<'a> {
    /// Every model of the compiled file.
    pub(super) fn models(&mut self) {
        for (item, node) in self.items() {
            if let ItemKind::Model(model) = &node.kind
                && let Some(checked) = self.model(item, model, node.span)
            {
                self.program.models.push(checked);
            }
        }
    }

    fn model(&mut self, item: ItemRef, model: &'a Written, span: Span) -> Option<Model> {
        let cx = self.top(item.module, CONSTANT);
        let layers = self.positive(&cx, &model.layers, "a number of layers");
        let steps = model.steps.as_ref().map_or(Some(1), |e| self.positive(&cx, e, "a number of steps"));
        let heads = self.positive(&cx, &model.heads, "a number of heads");
        let kv_heads = model.kv_heads.as_ref().map_or(heads, |e| self.positive(&cx, e, "a number of heads"));
        let (layers, steps, heads, kv_heads) = (layers?, steps?, heads?, kv_heads?);
        let count = layers.checked_mul(steps).and_then(|n| n.checked_mul(heads)).filter(|&n| n <= MAX_PLACES);
        if count.is_none() || kv_heads > MAX_PLACES {
            return self.fail(
                &cx,
                Diagnostic::error("E0409", model.name.span, "a model is too large", "too many steps, layers and heads")
                    .help(format!("their product may be {MAX_PLACES}")),
            );
        }
        let head_map = self.head_map(item, model, heads, kv_heads);
        let places = Places { steps, layers, heads };
        let mut arms = Vec::new();
        let everywhere = self.exprs.bool(true);
        let region = (0..u32::try_from(count?).ok()?).collect();
        let mut tests = 0;
        let block =
            Block { model, places, arms: &model.arms, region, when: everywhere, span: model.name.span, out: &mut arms };
        self.block_of_arms(item, block, &mut tests)?;
        let name = model.name.text.clone();
        Some(Model { name, layers, steps, heads, kv_heads, head_map: head_map?, arms, span })
    }

    /// The KV head of each head; `None` inside where the proportional one is meant.
    fn head_map(&mut self, item: ItemRef, model: &'a Written, heads: i64, kv_heads: i64) -> Option<Option<Vec<i64>>> {
        let cx = self.top(item.module, HEAD_MAP);
        let Some(by) = &model.head_map else {
            if heads % kv_heads == 0 || kv_heads % heads == 0 {
                return Some(None);
            }
            let span = model.kv_heads.as_ref().map_or(model.heads.span, |e| e.span);
            return self.fail(
                &cx,
                Diagnostic::error(
                    "E0407",
                    span,
                    format!("{heads} heads do not map to {kv_heads} KV heads"),
                    "does not divide",
                )
                .help(format!("write the map: `heads = {heads} on {kv_heads} by head * {kv_heads} / {heads}`")),
            );
        };
        let id = self.int(&cx, by)?.id;
        let mut value = Evaluator::new(&self.exprs, id);
        let mut map = Vec::new();
        for head in 0..heads {
            match value.at([0, 0, head]) {
                Some(kv) if (0..kv_heads).contains(&kv) => map.push(kv),
                kv => {
                    let found = kv.map_or("no KV head".to_owned(), |kv| format!("KV head {kv}"));
                    return self.fail(
                        &cx,
                        Diagnostic::error(
                            "E0407",
                            by.span,
                            format!("head {head} maps to {found}"),
                            "leaves the KV heads",
                        )
                        .help(format!("KV heads are 0 .. {kv_heads}")),
                    );
                }
            }
        }
        Some(Some(map))
    }

    /// Assigns every place of a block, or says which one is assigned twice or not at all.
    fn block_of_arms(&mut self, item: ItemRef, block: Block<'_, 'a>, tests: &mut usize) -> Option<()> {
        let Block { model, places, arms, region, when, span, out } = block;
        *tests += region.len().saturating_mul(arms.len());
        if *tests > MAX_TESTS {
            let cx = self.top(item.module, CONSTANT);
            return self.fail(
                &cx,
                Diagnostic::error("E0409", span, "a model is too large", "too many arms for so many heads")
                    .help("join arms with `|`, or use `when`"),
            );
        }
        let mut fine = true;
        let mut owner: Vec<Option<usize>> = vec![None; region.len()];
        let mut rest = None;
        let mut conditions = Vec::new();
        for (index, arm) in arms.iter().enumerate() {
            let condition = match &arm.select {
                Selector::Rest => {
                    if let Some(first) = rest.replace(index) {
                        self.report(
                            Diagnostic::error("E0410", arm.span, "`_` is given twice", "given again here")
                                .label(arms[first].span, "first given here")
                                .help("keep one of them"),
                        );
                        fine = false;
                    }
                    continue;
                }
                Selector::Ranges { axis, ranges } => self.selected(item, places, *axis, ranges),
                Selector::When(e) => {
                    let cx = self.top(item.module, WHEN);
                    self.set(&cx, e)
                }
            };
            let Some(condition) = condition else {
                fine = false;
                continue;
            };
            conditions.push((index, condition));
            let mut claim = Claim::new(&self.exprs, condition, places);
            let mut clash = None;
            for (place, owner) in region.iter().zip(&mut owner) {
                if !claim.holds(places.coordinates(*place)) {
                    continue;
                }
                match *owner {
                    None => *owner = Some(index),
                    Some(first) => {
                        clash.get_or_insert((first, *place));
                    }
                }
            }
            if let Some((first, place)) = clash {
                self.report(
                    Diagnostic::error("E0405", arm.span, format!("{} is assigned twice", places.name(place)), "here")
                        .label(arms[first].span, "and here")
                        .help("make the arms disjoint; `_` is for all that no other arm names"),
                );
                fine = false;
            }
        }
        if fine
            && rest.is_none()
            && let Some(missing) = owner.iter().position(Option::is_none)
        {
            let name = places.name(region[missing]);
            self.report(
                Diagnostic::error(
                    "E0406",
                    span,
                    format!("{name} is not assigned"),
                    format!("`{}` leaves it out", model.name.text),
                )
                .help("add `_ => all`, or `_ => skip`"),
            );
            fine = false;
        }
        for (index, condition) in conditions.into_iter().map(|(i, c)| (i, Some(c))).chain(rest.map(|i| (i, None))) {
            let arm = &arms[index];
            let when = match condition {
                Some(condition) => self.exprs.and([when, condition]),
                None => when,
            };
            let attention = match &arm.target {
                Target::Skip(_) => None,
                Target::Attention(e) => match self.target(item, e) {
                    Some(attention) => Some(attention),
                    None => {
                        fine = false;
                        continue;
                    }
                },
                Target::Block(inner) => {
                    let mine = if condition.is_some() { Some(index) } else { None };
                    let region = region.iter().zip(&owner).filter(|(_, o)| **o == mine).map(|(p, _)| *p).collect();
                    let inner = Block { model, places, arms: inner, region, when, span: arm.span, out: &mut *out };
                    fine &= self.block_of_arms(item, inner, tests).is_some();
                    continue;
                }
            };
            out.push(ModelArm { when, attention, span: arm.span });
        }
        fine.then_some(())
    }

    /// The condition of a selector by ranges.
    fn selected(&mut self, item: ItemRef, places: Places, axis: Coord, ranges: &'a [RangeExpr]) -> Option<ExprId> {
        let (var, noun) = match axis {
            Coord::Step => (Var::Step, "steps"),
            Coord::Layer => (Var::Layer, "layers"),
            Coord::Head => (Var::Head, "heads"),
        };
        let x = self.exprs.var(var);
        let extent = places.extent(axis);
        let cx = self.top(item.module, CONSTANT);
        let mut any = Vec::with_capacity(ranges.len());
        let mut named = vec![false; usize::try_from(extent).unwrap_or(0)];
        for range in ranges {
            let lo = range.lo.as_deref().map_or(Some(0), |e| self.constant_int(&cx, e))?;
            let hi = match &range.hi {
                _ if range.single => lo.checked_add(1),
                None => Some(extent),
                Some(e) => self.constant_int(&cx, e)?.checked_add(i64::from(range.inclusive)),
            };
            let step = range.step.as_deref().map_or(Some(1), |e| self.positive(&cx, e, "a step"))?;
            let hi = hi.filter(|&hi| 0 <= lo && lo < hi && hi <= extent);
            let Some(hi) = hi else {
                return self.fail(
                    &cx,
                    Diagnostic::error(
                        "E0408",
                        range.span,
                        format!("a range leaves the {noun} or holds none"),
                        "not in the model",
                    )
                    .help(format!("the {noun} are 0 .. {extent}")),
                );
            };
            let first = lo + (step - lo % step) % step;
            for x in (first..hi).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
                if std::mem::replace(&mut named[x as usize], true) {
                    let message = format!("{} {x} is named twice", noun.trim_end_matches('s'));
                    let said = Diagnostic::error("E0405", range.span, message, "here again");
                    return self.fail(&cx, said.help("name each once: `0 | 2 ..= 5`"));
                }
            }
            let (from, to) = (self.exprs.int(lo), self.exprs.int(hi));
            let within = if hi == lo + 1 {
                self.exprs.eq(x, from)
            } else {
                let ends = [self.exprs.le(from, x), self.exprs.lt(x, to)];
                self.exprs.and(ends)
            };
            let (m, zero) = (self.exprs.int(step), self.exprs.int(0));
            let part = self.exprs.modulo(x, m);
            let comb = self.exprs.eq(part, zero);
            any.push(self.exprs.and([within, comb]));
        }
        Some(self.exprs.or(any))
    }

    /// The attention that an arm gives.
    fn target(&mut self, item: ItemRef, e: &'a Expr) -> Option<usize> {
        if let ExprKind::Name(name) = &e.kind
            && let Some((Named::Item(target), _)) = self.names[item.module].get(name)
        {
            match &self.item(target).kind {
                ItemKind::Attention { .. } | ItemKind::Merge { .. } => return self.attention(target),
                ItemKind::Pattern { args, .. } if args.is_empty() => return self.attention(target),
                _ => {}
            }
        }
        self.unnamed(item.module, e, spell(e))
    }
}

/// What an arm claims. Most arms speak of one coordinate: they are evaluated once for each of its values.
enum Claim<'e> {
    /// By values of a coordinate (0 = step, 1 = layer, 2 = head).
    Table(usize, Vec<bool>),
    /// Place by place.
    Places(Evaluator<'e>),
}

impl<'e> Claim<'e> {
    fn new(exprs: &'e Exprs, condition: ExprId, places: Places) -> Self {
        let mut value = Evaluator::new(exprs, condition);
        let read = [Var::Step, Var::Layer, Var::Head].map(|var| value.nodes.iter().any(|(n, _)| **n == Node::Var(var)));
        let (axis, extent) = match read {
            [_, false, false] => (0, places.steps),
            [false, _, false] => (1, places.layers),
            [false, false, _] => (2, places.heads),
            _ => return Claim::Places(value),
        };
        let table = (0..extent).map(|v| value.at(std::array::from_fn(|i| if i == axis { v } else { 0 })) == Some(1));
        Claim::Table(axis, table.collect())
    }

    fn holds(&mut self, place: [i64; 3]) -> bool {
        match self {
            Claim::Table(axis, table) => table[place[*axis] as usize],
            Claim::Places(value) => value.at(place) == Some(1),
        }
    }
}

/// Evaluates an expression over `Step`, `Layer` and `Head`; truth values are 0 and 1.
struct Evaluator<'e> {
    /// Nodes that it needs, operands first, with the places of operands in `values`.
    nodes: Vec<(&'e Node, Vec<usize>)>,
    values: Vec<Option<i64>>,
}

impl<'e> Evaluator<'e> {
    fn new(exprs: &'e Exprs, root: ExprId) -> Self {
        let mut slots: HashMap<ExprId, usize> = HashMap::new();
        let mut nodes = Vec::new();
        for id in exprs.reachable(&[root]) {
            let operands = exprs.operands(id).iter().map(|o| slots[o]).collect();
            slots.insert(id, nodes.len());
            nodes.push((exprs.node(id), operands));
        }
        Evaluator { values: vec![None; nodes.len()], nodes }
    }

    /// The value at `[step, layer, head]`; `None` if there is none (a division by zero).
    fn at(&mut self, place: [i64; 3]) -> Option<i64> {
        for (i, (node, operands)) in self.nodes.iter().enumerate() {
            let value = node_value(node, place, |n| self.values[operands[n]], operands.len());
            self.values[i] = value;
        }
        *self.values.last()?
    }
}

fn node_value(
    node: &Node,
    [step, layer, head]: [i64; 3],
    operand: impl Fn(usize) -> Option<i64>,
    n: usize,
) -> Option<i64> {
    let truth = |b: bool| Some(i64::from(b));
    match node {
        Node::Int(v) => Some(*v),
        Node::Bool(b) => truth(*b),
        Node::Var(Var::Step) => Some(step),
        Node::Var(Var::Layer) => Some(layer),
        Node::Var(Var::Head) => Some(head),
        Node::Un(op, _) => {
            let x = operand(0)?;
            match op {
                Un::Neg => x.checked_neg(),
                Un::Abs => x.checked_abs(),
                _ => None,
            }
        }
        Node::Bin(op, ..) => {
            let (a, b) = (operand(0)?, operand(1)?);
            match op {
                Bin::Add => a.checked_add(b),
                Bin::Sub => a.checked_sub(b),
                Bin::Mul => a.checked_mul(b),
                Bin::Div => floor_div(a, b),
                Bin::Mod => floor_mod(a, b),
                Bin::Min => Some(a.min(b)),
                Bin::Max => Some(a.max(b)),
            }
        }
        Node::Cmp(op, ..) => {
            let (a, b) = (operand(0)?, operand(1)?);
            truth(match op {
                Cmp::Lt => a < b,
                Cmp::Le => a <= b,
                Cmp::Eq => a == b,
                Cmp::Ne => a != b,
            })
        }
        Node::And(_) => truth((0..n).all(|i| operand(i) == Some(1))),
        Node::Or(_) => truth((0..n).any(|i| operand(i) == Some(1))),
        Node::Not(_) => truth(operand(0)? == 0),
        Node::Select(..) => {
            if operand(0)? == 1 {
                operand(1)
            } else {
                operand(2)
            }
        }
        _ => None,
    }
}
