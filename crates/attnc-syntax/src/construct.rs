//! Syntax trees without text: the nodes that the parser makes, made by functions and operators.
//!
//! One idea: a tree that is built is the tree that its text parses to. Chains are joined and looser operands get their
//! parentheses here, so that [`print_file`](crate::print_file) and the parser undo each other. Spans are empty.
//! Nothing here knows which names exist.
//!
//! ```
//! use attnc_syntax::construct::{FileBuilder, k, name, q};
//!
//! let file = FileBuilder::new()
//!     .param("window", 4)
//!     .pattern("local", name("causal") & ((q() - k()).within(0, name("window")) | k().within(0, 2)))
//!     .build();
//! assert_eq!(
//!     attnc_syntax::print_file(&file),
//!     "param window = 4\npattern local = causal & (q - k in 0 .. window | k in 0 .. 2)\n",
//! );
//! ```

use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Rem, Sub};

use crate::ast::{
    CmpOp, Entry, Expr, ExprKind, File, InSet, Item, ItemKind, MapKind, MulOp, Name, RangeExpr, Segment, SegmentShape,
    Span, Stmt,
};

fn expr(kind: ExprKind) -> Expr {
    Expr { kind, span: Span::default() }
}

fn named(text: impl Into<String>) -> Name {
    Name { text: text.into(), span: Span::default() }
}

/// How tightly an expression binds, loosest first.
fn level(e: &Expr) -> u8 {
    match &e.kind {
        ExprKind::Or(_) => 0,
        ExprKind::Except(..) => 1,
        ExprKind::And(_) => 2,
        ExprKind::Not(_) => 3,
        ExprKind::Compare(..) | ExprKind::In(..) => 4,
        ExprKind::Sum(..) => 5,
        ExprKind::Product(..) => 6,
        ExprKind::Int(_) | ExprKind::Float(_) | ExprKind::Name(_) | ExprKind::Field(..) => 8,
        ExprKind::Call(..) | ExprKind::Index(..) | ExprKind::Paren(_) => 8,
        _ => 7,
    }
}

/// With parentheses where it binds looser than the place allows, and around a list of axes, which a comma could go on.
fn fit(at: u8, e: Expr) -> Expr {
    let list = matches!(&e.kind, ExprKind::SameAxes(axes) if axes.len() > 1);
    if level(&e) < at || list { expr(ExprKind::Paren(Box::new(e))) } else { e }
}

/// The query's position.
#[must_use]
pub fn q() -> Expr {
    name("q")
}

/// The key's position.
#[must_use]
pub fn k() -> Expr {
    name("k")
}

/// A name: a param, a pattern, a size, `causal`, `all`, `head` and so on.
pub fn name(text: impl Into<String>) -> Expr {
    expr(ExprKind::Name(text.into()))
}

/// `q.t`, `video.h`
pub fn field(of: impl Into<String>, part: impl Into<String>) -> Expr {
    expr(ExprKind::Field(named(of), named(part)))
}

/// `window(1024)`, `min(a, b)`
pub fn call<T: Into<Expr>>(function: impl Into<String>, args: impl IntoIterator<Item = T>) -> Expr {
    expr(ExprKind::Call(named(function), args.into_iter().map(Into::into).collect()))
}

/// `slopes[head]`
pub fn index<T: Into<Expr>>(tensor: impl Into<String>, at: impl IntoIterator<Item = T>) -> Expr {
    expr(ExprKind::Index(named(tensor), at.into_iter().map(Into::into).collect()))
}

/// `block 64 { P }`: the set of P over numbers of blocks.
pub fn block(size: impl Into<Expr>, set: impl Into<Expr>) -> Expr {
    expr(ExprKind::Block(Box::new(fit(8, size.into())), Box::new(set.into())))
}

/// `same block 64`
pub fn same_block(size: impl Into<Expr>) -> Expr {
    expr(ExprKind::SameBlock(Box::new(fit(8, size.into()))))
}

/// `same doc`
#[must_use]
pub fn same_doc() -> Expr {
    expr(ExprKind::SameDoc)
}

/// `same h, w`
pub fn same_axes<T: Into<String>>(axes: impl IntoIterator<Item = T>) -> Expr {
    expr(ExprKind::SameAxes(axes.into_iter().map(named).collect()))
}

/// `each doc { P }`
pub fn each_doc(set: impl Into<Expr>) -> Expr {
    expr(ExprKind::EachDoc(Box::new(set.into())))
}

/// `map NAME`
pub fn map(name: impl Into<String>) -> Expr {
    expr(ExprKind::Map(named(name)))
}

impl From<i64> for Expr {
    fn from(value: i64) -> Expr {
        match value.checked_abs() {
            Some(size) if value < 0 => expr(ExprKind::Neg(Box::new(expr(ExprKind::Int(size))))),
            // The least number has no positive to write a minus before; the checker refuses it in any spelling.
            _ => expr(ExprKind::Int(value)),
        }
    }
}

impl From<f64> for Expr {
    fn from(value: f64) -> Expr {
        if value.is_sign_negative() {
            return expr(ExprKind::Neg(Box::new(expr(ExprKind::Float(-value)))));
        }
        expr(ExprKind::Float(value))
    }
}

impl From<&str> for Expr {
    /// A name.
    fn from(text: &str) -> Expr {
        name(text)
    }
}

impl Expr {
    /// `self in lo .. hi`
    #[must_use]
    pub fn within(self, lo: impl Into<Expr>, hi: impl Into<Expr>) -> Expr {
        self.in_range(Some(lo.into()), Some(hi.into()), None)
    }

    /// `self in lo .. hi step m`
    #[must_use]
    pub fn within_step(self, lo: impl Into<Expr>, hi: impl Into<Expr>, step: impl Into<Expr>) -> Expr {
        self.in_range(Some(lo.into()), Some(hi.into()), Some(step.into()))
    }

    /// `self in lo ..`, `self in .. hi` and so on; a range without both ends is not one.
    #[must_use]
    pub fn in_range(self, lo: Option<Expr>, hi: Option<Expr>, step: Option<Expr>) -> Expr {
        let end = |e: Option<Expr>| e.map(|e| Box::new(fit(5, e)));
        let (lo, hi, step, span) = (end(lo), end(hi), end(step), Span::default());
        let range = RangeExpr { lo, hi, inclusive: false, step, single: false, span };
        expr(ExprKind::In(Box::new(fit(5, self)), InSet::Range(range)))
    }

    /// `self in {0, 17, 93}`
    #[must_use]
    pub fn one_of<T: Into<Expr>>(self, list: impl IntoIterator<Item = T>) -> Expr {
        let list = list.into_iter().map(|e| fit(5, e.into())).collect();
        expr(ExprKind::In(Box::new(fit(5, self)), InSet::List(list)))
    }

    /// `self in SEGMENT`
    #[must_use]
    pub fn in_segment(self, segment: impl Into<String>) -> Expr {
        expr(ExprKind::In(Box::new(fit(5, self)), InSet::Segment(named(segment))))
    }

    /// A comparison; one of a comparison goes on with it: `0 <= q - k < 8`.
    #[must_use]
    pub fn compare(self, op: CmpOp, other: impl Into<Expr>) -> Expr {
        let other = fit(5, other.into());
        match self.kind {
            ExprKind::Compare(first, mut rest) => {
                rest.push((op, other));
                expr(ExprKind::Compare(first, rest))
            }
            _ => expr(ExprKind::Compare(Box::new(fit(5, self)), vec![(op, other)])),
        }
    }

    /// `self except other`
    #[must_use]
    pub fn except(self, other: impl Into<Expr>) -> Expr {
        let other = fit(2, other.into());
        match self.kind {
            ExprKind::Except(first, mut rest) => {
                rest.push(other);
                expr(ExprKind::Except(first, rest))
            }
            _ => expr(ExprKind::Except(Box::new(fit(2, self)), vec![other])),
        }
    }

    fn sum(self, minus: bool, other: Expr) -> Expr {
        let other = fit(6, other);
        match self.kind {
            ExprKind::Sum(first, mut rest) => {
                rest.push((minus, other));
                expr(ExprKind::Sum(first, rest))
            }
            _ => expr(ExprKind::Sum(Box::new(fit(6, self)), vec![(minus, other)])),
        }
    }

    fn product(self, op: MulOp, other: Expr) -> Expr {
        let other = fit(7, other);
        match self.kind {
            ExprKind::Product(first, mut rest) => {
                rest.push((op, other));
                expr(ExprKind::Product(first, rest))
            }
            _ => expr(ExprKind::Product(Box::new(fit(7, self)), vec![(op, other)])),
        }
    }
}

impl<T: Into<Expr>> BitAnd<T> for Expr {
    type Output = Expr;

    fn bitand(self, other: T) -> Expr {
        let other = fit(3, other.into());
        match self.kind {
            ExprKind::And(mut list) => {
                list.push(other);
                expr(ExprKind::And(list))
            }
            _ => expr(ExprKind::And(vec![fit(3, self), other])),
        }
    }
}

impl<T: Into<Expr>> BitOr<T> for Expr {
    type Output = Expr;

    fn bitor(self, other: T) -> Expr {
        // Beside `|` a difference needs parentheses.
        let other = fit(2, other.into());
        match self.kind {
            ExprKind::Or(mut list) => {
                list.push(other);
                expr(ExprKind::Or(list))
            }
            _ => expr(ExprKind::Or(vec![fit(2, self), other])),
        }
    }
}

impl Not for Expr {
    type Output = Expr;

    fn not(self) -> Expr {
        expr(ExprKind::Not(Box::new(fit(3, self))))
    }
}

impl Neg for Expr {
    type Output = Expr;

    fn neg(self) -> Expr {
        expr(ExprKind::Neg(Box::new(fit(7, self))))
    }
}

impl<T: Into<Expr>> Add<T> for Expr {
    type Output = Expr;

    fn add(self, other: T) -> Expr {
        self.sum(false, other.into())
    }
}

impl<T: Into<Expr>> Sub<T> for Expr {
    type Output = Expr;

    fn sub(self, other: T) -> Expr {
        self.sum(true, other.into())
    }
}

impl<T: Into<Expr>> Mul<T> for Expr {
    type Output = Expr;

    fn mul(self, other: T) -> Expr {
        self.product(MulOp::Mul, other.into())
    }
}

impl<T: Into<Expr>> Div<T> for Expr {
    type Output = Expr;

    fn div(self, other: T) -> Expr {
        self.product(MulOp::Div, other.into())
    }
}

impl<T: Into<Expr>> Rem<T> for Expr {
    type Output = Expr;

    fn rem(self, other: T) -> Expr {
        self.product(MulOp::Mod, other.into())
    }
}

/// Statements of an attention.
#[derive(Clone, Debug, Default)]
pub struct AttentionBuilder {
    stmts: Vec<Stmt>,
    entries: Vec<Entry>,
}

impl AttentionBuilder {
    /// No statements.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Attends to a set; one more is joined by `++`.
    #[must_use]
    pub fn attend(mut self, set: impl Into<Expr>) -> Self {
        self.entries.push(Entry { set: Some(set.into()), level: None, null: None, bias: None, span: Span::default() });
        self
    }

    /// Attends to null slots.
    #[must_use]
    pub fn null(mut self, slots: impl Into<Expr>) -> Self {
        let null = Some(slots.into());
        self.entries.push(Entry { set: None, level: None, null, bias: None, span: Span::default() });
        self
    }

    /// Adds a bias to the entry before.
    #[must_use]
    pub fn bias(mut self, bias: impl Into<Expr>) -> Self {
        if let Some(entry) = self.entries.last_mut() {
            entry.bias = Some(bias.into());
        }
        self
    }

    /// `scale = E`
    #[must_use]
    pub fn scale(mut self, scale: impl Into<Expr>) -> Self {
        self.stmts.push(Stmt::Scale(scale.into()));
        self
    }

    /// `score = E`, of `score`
    #[must_use]
    pub fn score(mut self, score: impl Into<Expr>) -> Self {
        self.stmts.push(Stmt::Score(score.into()));
        self
    }

    /// `align = end`, `align = start`
    #[must_use]
    pub fn align(mut self, side: impl Into<String>) -> Self {
        self.stmts.push(Stmt::Align(named(side)));
        self
    }

    /// `empty = zero`, `empty = error`
    #[must_use]
    pub fn empty(mut self, policy: impl Into<String>) -> Self {
        self.stmts.push(Stmt::Empty(named(policy)));
        self
    }

    /// `require E`
    #[must_use]
    pub fn require(mut self, condition: impl Into<Expr>) -> Self {
        self.stmts.push(Stmt::Require(condition.into()));
        self
    }
}

/// Items of a file.
#[derive(Clone, Debug, Default)]
pub struct FileBuilder {
    items: Vec<Item>,
}

impl FileBuilder {
    /// No items.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Any item.
    #[must_use]
    pub fn item(mut self, kind: ItemKind) -> Self {
        self.items.push(Item { docs: Vec::new(), kind, span: Span::default() });
        self
    }

    /// `import NAMES from "FILE"`
    #[must_use]
    pub fn import<T: Into<String>>(self, names: impl IntoIterator<Item = T>, from: impl Into<String>) -> Self {
        let names = names.into_iter().map(named).collect();
        self.item(ItemKind::Import { names, from: from.into(), from_span: Span::default() })
    }

    /// `param NAME = E`
    #[must_use]
    pub fn param(self, name: impl Into<String>, value: impl Into<Expr>) -> Self {
        self.item(ItemKind::Param { name: named(name), value: value.into() })
    }

    /// `size NAME`
    #[must_use]
    pub fn size(self, name: impl Into<String>) -> Self {
        self.item(ItemKind::Size(named(name)))
    }

    /// `tensor NAME[DIMS]`
    #[must_use]
    pub fn tensor<T: Into<Expr>>(self, name: impl Into<String>, dims: impl IntoIterator<Item = T>) -> Self {
        self.item(ItemKind::Tensor { name: named(name), dims: dims.into_iter().map(Into::into).collect(), value: None })
    }

    /// `tensor NAME[DIMS] = E`
    #[must_use]
    pub fn made_tensor<T: Into<Expr>>(
        self,
        name: impl Into<String>,
        dims: impl IntoIterator<Item = T>,
        value: impl Into<Expr>,
    ) -> Self {
        let (dims, value) = (dims.into_iter().map(Into::into).collect(), Some(value.into()));
        self.item(ItemKind::Tensor { name: named(name), dims, value })
    }

    /// `map NAME : KIND`, one for each head if `per_head`
    #[must_use]
    pub fn map(self, name: impl Into<String>, kind: MapKind, per_head: bool) -> Self {
        self.item(ItemKind::Map { name: named(name), kind, per_head })
    }

    /// `space NAME(h = 4, w)`: one segment with axes, of given extents or of sizes given when run.
    #[must_use]
    pub fn grid<T: Into<String>>(
        self,
        segment: impl Into<String>,
        axes: impl IntoIterator<Item = (T, Option<Expr>)>,
    ) -> Self {
        let axes = axes.into_iter().map(|(axis, extent)| (named(axis), extent)).collect();
        self.item(ItemKind::Space(vec![Segment { name: named(segment), shape: SegmentShape::Grid(axes) }]))
    }

    /// `pattern NAME = SET`
    #[must_use]
    pub fn pattern(self, name: impl Into<String>, set: impl Into<Expr>) -> Self {
        self.item(ItemKind::Pattern { name: named(name), args: Vec::new(), body: set.into() })
    }

    /// `attention NAME { .. }`
    #[must_use]
    pub fn attention(self, name: impl Into<String>, of: AttentionBuilder) -> Self {
        let AttentionBuilder { mut stmts, entries } = of;
        if !entries.is_empty() {
            stmts.push(Stmt::Attend(entries, Span::default()));
        }
        self.item(ItemKind::Attention { name: named(name), stmts })
    }

    /// The tree.
    #[must_use]
    pub fn build(self) -> File {
        File { items: self.items }
    }
}
