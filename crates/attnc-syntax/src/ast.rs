//! The syntax tree of a `.attn` file: what was written, with spans, before any name has a meaning.
//!
//! One expression grammar serves sets, integers and reals; kinds are told apart by the checker,
//! so that a wrong kind is an error with a span and not a parse error. Chains (`a | b | c`,
//! `a + b - c`, `a * b / c`) are n-ary: a long chain is a long list, never a deep tree.
//! Nothing here knows which names exist.

pub use crate::diag::Span;

/// A name with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// As written.
    pub text: String,
    /// Where.
    pub span: Span,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct File {
    /// Items in order. An item that did not parse is absent; its error was reported.
    pub items: Vec<Item>,
}

/// A top-level item with its `///` lines (without the slashes).
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// `///` lines right above, without slashes and one leading space.
    pub docs: Vec<String>,
    /// What it is.
    pub kind: ItemKind,
    /// From the first keyword to the last token.
    pub span: Span,
}

/// Kinds of items.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemKind {
    /// `import band, sinks from "std"`
    Import {
        /// The names brought in; never empty.
        names: Vec<Name>,
        /// `"std"` or a path relative to this file.
        from: String,
        /// Span of the string.
        from_span: Span,
    },
    /// `size prefix`: an integer given when run (`--size prefix=10`).
    Size(Name),
    /// `param window = 1024`: a compile-time constant (`--set window=512`).
    Param {
        /// Its name.
        name: Name,
        /// The default.
        value: Expr,
    },
    /// `tensor slopes[heads]`: real numbers given when run; extents are integer expressions.
    /// `tensor bucket[heads, n_k] = hash(k, planes)`: made when run.
    Tensor {
        /// Its name, also in the tensors file.
        name: Name,
        /// One extent for each axis.
        dims: Vec<Expr>,
        /// What its elements are, if it is not given.
        value: Option<Expr>,
    },
    /// `map tree : bool[heads]`, `map paro : blocks 64[heads]`, `map near : csr`: a set given when run.
    Map {
        /// Its name, also in the tensors file.
        name: Name,
        /// How it is stored.
        kind: MapKind,
        /// One set for each head (`[heads]`).
        per_head: bool,
    },
    /// `space text[226] ++ video(t = 11, h = 48, w = 85)`
    Space(Vec<Segment>),
    /// `order frames = raster(h, w, t)`, `order z = morton(h, w)`
    Order {
        /// Its name.
        name: Name,
        /// `raster`, `morton`, `hilbert`, `tile`, `sort`.
        curve: Name,
        /// Axis names; for `tile`, with sizes: `tile(h = 8, w = 8)`; for `sort`, a tensor and a segment.
        axes: Vec<(Name, Option<Expr>)>,
    },
    /// `pattern window(n) = causal & q - k in 0 .. n`
    Pattern {
        /// Its name.
        name: Name,
        /// Integer arguments, or sets where used as sets; empty when none.
        args: Vec<Name>,
        /// The set.
        body: Expr,
    },
    /// `attention name { .. }`
    Attention {
        /// Its name.
        name: Name,
        /// Statements in order.
        stmts: Vec<Stmt>,
    },
    /// `require n_q <= 4096`: sizes the whole file is for.
    Require(Expr),
    /// `level g = mean(16) of q, k, v along z`
    Level {
        /// Its name.
        name: Name,
        /// `mean`, `max`, `blocks`, ..
        pool: Name,
        /// `16`, `h = 4`, names of tensors and maps.
        args: Vec<LevelArg>,
        /// `of q, k, v`, or `of` another level; empty if not written.
        of: Vec<Name>,
        /// `along z`
        along: Option<Name>,
    },
    /// `score a = dot(q, g.k) where causal then softmax`
    Score {
        /// Its name.
        name: Name,
        /// The value of a pair.
        value: Expr,
        /// `where S`
        clauses: Vec<Clause>,
        /// `then ..`, in order.
        steps: Vec<ScoreStep>,
    },
    /// `select s = top 8 of a per q.g within causal`
    Select {
        /// Its name.
        name: Name,
        /// How many.
        budget: Budget,
        /// `of E`: by which score.
        of: Option<Expr>,
        /// `per q.g`, `per head`: for whom, and the level of it.
        per: (Name, Option<Name>),
        /// `within S`, `at least N`, ..
        clauses: Vec<Clause>,
    },
    /// `merge m = gate(E) of a, b`, `merge m = mean of a over N where S`
    Merge {
        /// Its name.
        name: Name,
        /// `gate` or `mean`.
        kind: Name,
        /// Weights.
        gates: Vec<Expr>,
        /// Attentions.
        arms: Vec<Name>,
        /// `over E`, `where S`
        clauses: Vec<Clause>,
    },
    /// `model name(layers = 42, heads = 48 on 48) { .. }`
    Model(Model),
}

/// An argument of a level: `16`, `h = 4`, `weights`.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelArg {
    /// `h =`
    pub name: Option<Name>,
    /// Its value.
    pub value: Expr,
}

/// A word and an expression: `within S`.
#[derive(Clone, Debug, PartialEq)]
pub struct Clause {
    /// The word; `at least` is one.
    pub word: Name,
    /// What it says.
    pub value: Expr,
}

/// `then max k in g`, `then minmax per head`
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreStep {
    /// `max`, `softmax`, ..
    pub op: Name,
    /// `q` or `k`
    pub side: Option<Name>,
    /// `in` a level.
    pub into: Option<Name>,
    /// `per head`
    pub per: Option<Name>,
}

/// `top 8`, `bands mass { near = 0.4, far = 0.8 by 2 }`
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// `top`, `mass`, ..
    pub word: Name,
    /// How many.
    pub amount: Option<Expr>,
    /// `mass` behind `bands`.
    pub kind: Option<Name>,
    /// Bands by ascending rank.
    pub bands: Vec<Band>,
}

/// `far = 0.8 by 2`
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    /// Its name.
    pub name: Name,
    /// Where it ends.
    pub upto: Expr,
    /// `at least 0.06`: not before.
    pub least: Option<Clause>,
    /// `by N`: its length is a multiple of N.
    pub align: Option<Expr>,
}

/// How a run-time map is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum MapKind {
    /// `bool`: one byte a pair, `[n_q, n_k]`.
    Bool,
    /// `blocks 64`: one byte a block pair, `[ceil(n_q / B), ceil(n_k / B)]`.
    Blocks(Expr),
    /// `csr`: `NAME.indptr` `[n_q + 1]` and `NAME.indices`.
    Csr,
    /// `offsets`: ascending positions, boundaries of slots.
    Offsets,
}

/// One segment of a space.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Its name.
    pub name: Name,
    /// What it holds.
    pub shape: SegmentShape,
}

/// Shape of a segment.
#[derive(Clone, Debug, PartialEq)]
pub enum SegmentShape {
    /// `text[226]`, `text[n_text]`, `tokens[]` (open: what is left of the sequence).
    Line(Option<Expr>),
    /// `video(t = 11, h, w)`: an axis without extent is a run-time size of the name `video.h`.
    Grid(Vec<(Name, Option<Expr>)>),
}

/// A statement of an attention.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// `scale = E`
    Scale(Expr),
    /// `score = E`, where `score` in E is the scaled dot product.
    Score(Expr),
    /// `align = end | start`
    Align(Name),
    /// `empty = zero | error`
    Empty(Name),
    /// `require E`
    Require(Expr),
    /// `queries = g`, `queries = g bilinear`
    Queries(Name, Option<Name>),
    /// `attend ENTRY ++ ENTRY ..`
    Attend(Vec<Entry>, Span),
}

/// One entry of `attend`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The set; `None` for null slots.
    pub set: Option<Expr>,
    /// `@ tokens`: the level; absent means tokens.
    pub level: Option<Name>,
    /// `null N`: number of null slots (in `slot`), V = 0.
    pub null: Option<Expr>,
    /// `bias E`
    pub bias: Option<Expr>,
    /// The whole entry.
    pub span: Span,
}

/// A model: which attention each (step, layer, head) has.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name.
    pub name: Name,
    /// `layers = N`
    pub layers: Expr,
    /// `steps = N`, if it has steps.
    pub steps: Option<Expr>,
    /// `heads = Q`
    pub heads: Expr,
    /// `on G`: KV heads; absent means as many as query heads.
    pub kv_heads: Option<Expr>,
    /// `by E`: the KV head of query head `head`, where Q and G do not divide.
    pub head_map: Option<Expr>,
    /// The arms, in order.
    pub arms: Vec<Arm>,
}

/// `layer 14 { .. }`, `head 0 .. 8 => diagonal`, `0 .. 8 => diagonal`, `when layer % 6 == 5 => global`, `_ => local`
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Whom it is about.
    pub select: Selector,
    /// What they get.
    pub target: Target,
    /// The whole arm.
    pub span: Span,
}

/// Whom an arm is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Selector {
    /// `_`: all that no other arm of this block names.
    Rest,
    /// `step R`, `layer R`, `head R`, or bare `R` inside a `layer` block (heads): ranges joined by `|`.
    Ranges {
        /// `step`, `layer` or `head`.
        axis: Coord,
        /// Each a single number or a range.
        ranges: Vec<RangeExpr>,
    },
    /// `when E`: a condition over `step`, `layer`, `head`.
    When(Expr),
}

/// A coordinate of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coord {
    /// A denoising step.
    Step,
    /// A layer.
    Layer,
    /// A query head.
    Head,
}

/// What an arm gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A set or attention by expression (`diagonal`, `window(512)`).
    Attention(Expr),
    /// `skip`: output 0, lse -inf, no work.
    Skip(Span),
    /// `{ .. }`
    Block(Vec<Arm>),
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where.
    pub span: Span,
}

/// Kinds of expressions. Precedence, tightest first: call, index, field; unary `-`; `* / %`; `+ -`;
/// comparison and `in`; `!`; `&`; `except`; `|`.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// `42`, `1_024`
    Int(i64),
    /// `0.5`, `1e-3`
    Float(f64),
    /// `q`, `k`, `causal`, `window`, `score`
    Name(String),
    /// `q.t`, `k.pos`, `video.h`
    Field(Name, Name),
    /// `window(1024)`, `min(a, b)`
    Call(Name, Vec<Expr>),
    /// `slopes[head]`
    Index(Name, Vec<Expr>),
    /// `-a`
    Neg(Box<Expr>),
    /// `a + b - c`: the first operand, then (is it a minus, operand).
    Sum(Box<Expr>, Vec<(bool, Expr)>),
    /// `a * b / c % d`
    Product(Box<Expr>, Vec<(MulOp, Expr)>),
    /// `a <= b`, `0 <= q - k < 8`: each link of the chain holds.
    Compare(Box<Expr>, Vec<(CmpOp, Expr)>),
    /// `e in R`
    In(Box<Expr>, InSet),
    /// `!a`
    Not(Box<Expr>),
    /// `a & b & c`
    And(Vec<Expr>),
    /// `a except b except c`: in the first and in none of the others.
    Except(Box<Expr>, Vec<Expr>),
    /// `a | b | c`
    Or(Vec<Expr>),
    /// `( a )`: kept so that the formatter can keep it and that `except` beside `|` can be seen.
    Paren(Box<Expr>),
    /// `same block 64`
    SameBlock(Box<Expr>),
    /// `same doc`
    SameDoc,
    /// `same h, w`
    SameAxes(Vec<Name>),
    /// `block 64 { P }`
    Block(Box<Expr>, Box<Expr>),
    /// `along z { P }`, `along (sq, sk) { P }`: the order of queries, that of keys if it is another, the set.
    Along(Name, Option<Name>, Box<Expr>),
    /// `each doc { P }`
    EachDoc(Box<Expr>),
    /// `near(h = 13 by 1 dilate 2 causal, w = 13)`
    Near(Vec<NearAxis>),
    /// `disc(h, w, 16)`: squared distance over the axes less than the square of the last.
    Disc(Vec<Name>, Box<Expr>),
    /// `pow2`: distance 0 or a power of two, `q` after `k`.
    Pow2,
    /// `halves(min 64) { diagonal P; below Q }`
    Halves {
        /// Longest leaf.
        min: Box<Expr>,
        /// The set inside a leaf.
        diagonal: Box<Expr>,
        /// The set of a query in a right half and a key in the left half beside it.
        below: Box<Expr>,
    },
    /// `random 3 of S per q seed 7`, `draw 3 of S per head seed 7`
    Random {
        /// `draw`: with replacement.
        replace: bool,
        /// How many.
        count: Box<Expr>,
        /// Out of which set.
        of: Box<Expr>,
        /// `q` or `head`.
        per: Name,
        /// The seed.
        seed: Box<Expr>,
    },
    /// `map paro`
    Map(Name),
}

/// One axis of `near`.
#[derive(Clone, Debug, PartialEq)]
pub struct NearAxis {
    /// The axis.
    pub axis: Name,
    /// Window, in keys; `all` is written by leaving the axis out.
    pub window: Expr,
    /// `by S`: stride.
    pub stride: Option<Expr>,
    /// `dilate D`
    pub dilate: Option<Expr>,
    /// `causal`
    pub causal: bool,
}

/// Right side of `in`.
#[derive(Clone, Debug, PartialEq)]
pub enum InSet {
    /// `lo .. hi`, `lo ..= hi`, `lo ..`, `.. hi`, with `step m`.
    Range(RangeExpr),
    /// `{0, 17, 93}`
    List(Vec<Expr>),
    /// `text`: a segment.
    Segment(Name),
    /// `sample(32, 128, 7)`: so many of the numbers below, by a seed.
    Call(Name, Vec<Expr>),
}

/// A range. Without `hi`, and `single`, it is one number (selectors only).
#[derive(Clone, Debug, PartialEq)]
pub struct RangeExpr {
    /// Lower bound; open if absent.
    pub lo: Option<Box<Expr>>,
    /// Upper bound; open if absent.
    pub hi: Option<Box<Expr>>,
    /// `..=`
    pub inclusive: bool,
    /// `step m`
    pub step: Option<Box<Expr>>,
    /// A single number (`lo`), not a range.
    pub single: bool,
    /// Where.
    pub span: Span,
}

/// `* / %`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MulOp {
    /// `*`
    Mul,
    /// `/`: floors on integers.
    Div,
    /// `%`: floors; the sign of the divisor.
    Mod,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmpOp {
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `==`
    Eq,
    /// `!=`
    Ne,
}

impl MulOp {
    /// As written.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            MulOp::Mul => "*",
            MulOp::Div => "/",
            MulOp::Mod => "%",
        }
    }
}

impl CmpOp {
    /// As written.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            CmpOp::Lt => "<",
            CmpOp::Le => "<=",
            CmpOp::Gt => ">",
            CmpOp::Ge => ">=",
            CmpOp::Eq => "==",
            CmpOp::Ne => "!=",
        }
    }
}
