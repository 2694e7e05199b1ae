//! Where an expression stands: what `q` and `k` mean there, what it may read, and whose arguments it sees.
//!
//! A pattern is a function that is expanded where it is used: its body is lowered in the scope of the use
//! (`block 64 { window(3) }` is a window of blocks), its names are looked up in the file that wrote it.
//! An integer argument has its value at the call; a set argument is a relation, and is lowered where the
//! body uses it, with the names of the caller.

use std::rc::Rc;

use attnc_syntax::ast::Expr;
use attnc_syntax::diag::Span;

use super::names::ItemRef;
use crate::expr::{ExprId, Exprs, LevelId, OrderId, Var};

/// A lowered expression.
#[derive(Clone, Copy, Debug)]
pub(super) struct Val {
    pub(super) id: ExprId,
    /// The segment whose coordinates it names, and where.
    pub(super) axes: Option<(usize, Span)>,
}

impl Val {
    /// A value that names no coordinates.
    pub(super) fn plain(id: ExprId) -> Self {
        Val { id, axes: None }
    }
}

/// What positions and lengths mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    /// `q` and `k`: indices of tokens, or of blocks, in the order of `along`.
    pub(super) q: ExprId,
    pub(super) k: ExprId,
    /// The same in original order: what `causal` and `q.pos` read.
    pub(super) original_q: ExprId,
    pub(super) original_k: ExprId,
    /// `n_q` and `n_k`.
    pub(super) n_q: ExprId,
    pub(super) n_k: ExprId,
    /// One past the last query and key: what a range with a leading minus counts from.
    pub(super) end_q: ExprId,
    pub(super) end_k: ExprId,
    /// Tokens of one block, inside `block B { .. }`.
    pub(super) block: Option<i64>,
    /// Inside `along z { .. }`: the orders of queries and of keys.
    pub(super) orders: Option<(OrderId, OrderId)>,
    /// Inside a form with positions of its own: `each doc` or `halves`.
    pub(super) local: Option<&'static str>,
    /// Levels at whose slots of queries and of keys all is read in the end.
    pub(super) slots: (Option<LevelId>, Option<LevelId>),
}

impl Scope {
    /// Tokens in original order.
    pub(super) fn tokens(exprs: &mut Exprs) -> Self {
        let (q, k) = (exprs.var(Var::Q), exprs.var(Var::K));
        let (n_q, n_k) = (exprs.var(Var::NQ), exprs.var(Var::NK));
        let (q_start, k_start) = (exprs.var(Var::QStart), exprs.var(Var::KStart));
        let (end_q, end_k) = (exprs.add(q_start, n_q), exprs.add(k_start, n_k));
        let slots = (None, None);
        let (block, orders, local) = (None, None, None);
        Scope { q, k, original_q: q, original_k: k, n_q, n_k, end_q, end_k, block, orders, local, slots }
    }

    /// Where `q` is `k`: of positions one by one.
    pub(super) fn positions(self) -> Self {
        Scope { q: self.k, original_q: self.original_k, ..self }
    }

    /// Positions and lengths of the query's and of the key's part of the sequence, inside `form`.
    pub(super) fn local(self, form: &'static str, q: (ExprId, ExprId), k: (ExprId, ExprId)) -> Self {
        let ((q, n_q), (k, n_k)) = (q, k);
        let local = Some(form);
        Scope { q, k, original_q: q, original_k: k, n_q, n_k, end_q: n_q, end_k: n_k, local, ..self }
    }

    /// Blocks of `size` positions of this scope, which hold `unit` tokens each.
    pub(super) fn blocks(self, exprs: &mut Exprs, size: i64, unit: i64) -> Self {
        let b = exprs.int(size);
        let less = exprs.int(size - 1);
        let mut down = |x| exprs.div(x, b);
        let (q, k) = (down(self.q), down(self.k));
        let (original_q, original_k) = (down(self.original_q), down(self.original_k));
        let mut up = |x| {
            let x = exprs.add(x, less);
            exprs.div(x, b)
        };
        Scope {
            q,
            k,
            original_q,
            original_k,
            n_q: up(self.n_q),
            n_k: up(self.n_k),
            end_q: up(self.end_q),
            end_k: up(self.end_k),
            block: Some(unit),
            ..self
        }
    }
}

/// One expansion of a pattern, or the top level of a file.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    /// Whoever used the pattern.
    pub(super) caller: Option<Rc<Frame<'a>>>,
    /// The module in which names are looked up.
    pub(super) module: usize,
    /// What is expanded.
    pub(super) item: Option<ItemRef>,
    /// Arguments by name.
    pub(super) args: Vec<(&'a str, Arg<'a>)>,
    /// Number of expansions around this one.
    pub(super) depth: usize,
    /// The outermost use that led here: what an error inside the body points back to.
    pub(super) used: Option<Span>,
    /// Where expressions of the body are said to be written, if not where they are: the use in the
    /// compiled file of a pattern from another file.
    pub(super) shown: Option<Span>,
}

impl<'a> Frame<'a> {
    /// The top level of a module.
    pub(super) fn new(module: usize) -> Self {
        Frame { caller: None, module, item: None, args: vec![], depth: 0, used: None, shown: None }
    }

    /// Whether a pattern is being expanded here or around here.
    pub(super) fn expands(&self, item: ItemRef) -> bool {
        let mut frame = Some(self);
        while let Some(f) = frame {
            if f.item == Some(item) {
                return true;
            }
            frame = f.caller.as_deref();
        }
        false
    }

    /// An argument.
    pub(super) fn arg(&self, name: &str) -> Option<&Arg<'a>> {
        self.args.iter().find(|(n, _)| *n == name).map(|(_, arg)| arg)
    }
}

/// An argument of a pattern.
#[derive(Clone, Debug)]
pub(super) enum Arg<'a> {
    /// An integer.
    Value(Val),
    /// A set and the frame in which it was written.
    Set(&'a Expr, Rc<Frame<'a>>),
    /// Its error was reported.
    Broken,
}

/// What may be read: a set of the constants below.
pub(super) type May = u16;
/// `q`, positions and coordinates of queries.
pub(super) const QUERY: May = 1;
/// `k`, positions and coordinates of keys.
pub(super) const KEY: May = 1 << 1;
/// `score`
pub(super) const SCORE: May = 1 << 2;
/// `slot`
pub(super) const SLOT: May = 1 << 3;
/// `head`
pub(super) const HEAD: May = 1 << 4;
/// `layer`, `step`
pub(super) const LAYER: May = 1 << 5;
/// `d`
pub(super) const DIM: May = 1 << 6;
/// `n_q`, `n_k`, `heads`, `docs`
pub(super) const COUNTS: May = 1 << 7;
/// Sizes and extents.
pub(super) const SIZES: May = 1 << 8;
/// Tensors.
pub(super) const TENSORS: May = 1 << 9;
/// A number that every pair has: coordinates of tokens of other segments are 0.
pub(super) const TOTAL: May = 1 << 10;
/// `branch`
pub(super) const BRANCH: May = 1 << 11;
/// `channel`
pub(super) const CHANNEL: May = 1 << 12;

/// What an expression is for, and so what it may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// In words, with an article.
    pub(super) name: &'static str,
    pub(super) may: May,
}

/// A set.
pub(super) const SET: Place = Place { name: "a set", may: QUERY | KEY | HEAD | LAYER | COUNTS | SIZES | BRANCH };
/// The candidates of a selection, and the pairs of a score: sets that may read tensors.
pub(super) const WITHIN: Place = Place { name: "a set of candidates", may: SET.may | TENSORS };
/// `score a = ..`
pub(super) const VALUE: Place =
    Place { name: "a score", may: QUERY | KEY | HEAD | LAYER | DIM | COUNTS | SIZES | TENSORS | TOTAL };
/// `merge m = gate(..)`
pub(super) const GATE: Place =
    Place { name: "a gate", may: QUERY | HEAD | LAYER | COUNTS | SIZES | TENSORS | TOTAL | CHANNEL };
/// `merge m = mean of a over N where ..`
pub(super) const TAKES: Place = Place { name: "the queries of a branch", may: SET.may };
/// Amounts of selections.
pub(super) const AMOUNT: Place = Place { name: "an amount", may: DIM | COUNTS | SIZES };
/// `scale = ..`
pub(super) const SCALE: Place = Place { name: "a scale", may: LAYER | DIM | COUNTS | SIZES };
/// `score = ..`
pub(super) const MODIFIER: Place =
    Place { name: "a score", may: QUERY | KEY | SCORE | HEAD | LAYER | DIM | COUNTS | SIZES | TENSORS | TOTAL };
/// `bias ..` of tokens.
pub(super) const BIAS: Place = Place { name: "a bias", may: MODIFIER.may & !SCORE };
/// `bias ..` of null slots.
pub(super) const NULL_BIAS: Place = Place { name: "a bias of null slots", may: (BIAS.may & !KEY) | SLOT };
/// `require ..`
pub(super) const REQUIRE: Place = Place { name: "a requirement", may: DIM | COUNTS | SIZES };
/// Extents of tensors.
pub(super) const TENSOR_EXTENT: Place = Place { name: "an extent of a tensor", may: DIM | COUNTS | SIZES };
/// Elements of tensors that are made.
pub(super) const ELEMENT: Place = Place { name: "an element of a tensor", may: VALUE.may };
/// Extents of a space.
pub(super) const SPACE_EXTENT: Place = Place { name: "an extent of a space", may: SIZES };
/// Values known when compiling.
pub(super) const CONSTANT: Place = Place { name: "a constant", may: 0 };
/// `when ..` in a model.
pub(super) const WHEN: Place = Place { name: "a condition of a model", may: HEAD | LAYER };
/// `by ..` in a model.
pub(super) const HEAD_MAP: Place = Place { name: "a map of heads", may: HEAD };

/// All that an expression needs to be lowered.
#[derive(Clone, Debug)]
pub(super) struct Cx<'a> {
    pub(super) frame: Rc<Frame<'a>>,
    pub(super) scope: Scope,
    pub(super) place: Place,
}

impl<'a> Cx<'a> {
    /// The same with another scope.
    pub(super) fn within(&self, scope: Scope) -> Self {
        Cx { scope, ..self.clone() }
    }

    /// The same with another frame.
    pub(super) fn of(&self, frame: Rc<Frame<'a>>) -> Self {
        Cx { frame, ..self.clone() }
    }

    /// The same in another place.
    pub(super) fn at(&self, place: Place) -> Self {
        Cx { place, ..self.clone() }
    }
}
