//! Random syntax trees, as the parser could have built them.
//!
//! One idea: any node takes any expression as its operand; one that binds looser than the place allows gets
//! its parentheses. So every tree has exactly one spelling.

use attnc_syntax::ast::*;
use proptest::collection::vec;
use proptest::prelude::*;

type Exprs = BoxedStrategy<Expr>;
/// The first operand of a chain, then operators and operands.
type Chain<T> = (Box<Expr>, Vec<(T, Expr)>);

fn expr(kind: ExprKind) -> Expr {
    Expr { kind, span: Span::default() }
}

fn paren(e: Expr) -> Expr {
    expr(ExprKind::Paren(Box::new(e)))
}

fn named(text: &str) -> Name {
    Name { text: text.to_owned(), span: Span::default() }
}

/// Levels of precedence, loosest first.
const OR: u8 = 0;
const EXCEPT: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const COMPARE: u8 = 4;
const SUM: u8 = 5;
const PRODUCT: u8 = 6;
const UNARY: u8 = 7;
const OPERAND: u8 = 8;

fn level(e: &Expr) -> u8 {
    use ExprKind::*;
    match &e.kind {
        Or(_) => OR,
        Except(..) => EXCEPT,
        And(_) => AND,
        Not(_) => NOT,
        Compare(..) | In(..) => COMPARE,
        Sum(..) => SUM,
        Product(..) => PRODUCT,
        Neg(_)
        | SameBlock(_)
        | SameDoc
        | SameAxes(_)
        | Block(..)
        | Along(..)
        | EachDoc(_)
        | Halves { .. }
        | Near(_)
        | Disc(..)
        | Pow2
        | Random { .. }
        | Map(_) => UNARY,
        Int(_) | Float(_) | Name(_) | Field(..) | Call(..) | Index(..) | Paren(_) => OPERAND,
    }
}

/// `e` where at least `at` is asked for. A list of axes gets parentheses wherever a comma could follow it.
fn fit(at: u8, e: Expr) -> Expr {
    if level(&e) < at || matches!(&e.kind, ExprKind::SameAxes(axes) if axes.len() > 1) { paren(e) } else { e }
}

/// Its first token is a name, a number or `(`, and not the word `step`.
fn plain(e: Expr) -> Expr {
    let mut first = &e;
    while let ExprKind::Sum(inner, _) | ExprKind::Product(inner, _) = &first.kind {
        first = inner;
    }
    let plain = level(first) == OPERAND && first.kind != ExprKind::Name("step".to_owned());
    if plain { e } else { paren(e) }
}

fn name() -> impl Strategy<Value = Name> {
    // Words that are keywords elsewhere are names here.
    prop::sample::select(vec![
        "a", "b2", "q", "k", "window", "_x", "causal", "score", "scale", "align", "empty", "layer", "heads", "bool",
        "end",
    ])
    .prop_map(named)
}

fn leaf() -> Exprs {
    let word = prop_oneof![
        4 => name().prop_map(|n| n.text),
        1 => prop::sample::select(vec!["step", "head", "near", "disc", "doc", "seed"]).prop_map(str::to_owned),
    ];
    let field = prop::sample::select(vec!["t", "pos", "block", "order", "step", "in", "causal", "doc"]).prop_map(named);
    let real = prop::num::f64::POSITIVE | prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO;
    prop_oneof![
        (0..=i64::MAX).prop_map(ExprKind::Int),
        (0..100i64).prop_map(ExprKind::Int),
        real.prop_map(|x| ExprKind::Float(x.abs())),
        word.prop_map(ExprKind::Name),
        (name(), field).prop_map(|(of, field)| ExprKind::Field(of, field)),
        Just(ExprKind::SameDoc),
        Just(ExprKind::Pow2),
        vec(name(), 1..4).prop_map(ExprKind::SameAxes),
        name().prop_map(ExprKind::Map),
    ]
    .prop_map(expr)
    .boxed()
}

fn range(inner: &Exprs) -> BoxedStrategy<RangeExpr> {
    let bound = inner.clone().prop_map(|e| fit(SUM, e));
    let range = |lo: Option<Expr>, hi: Option<Expr>, inclusive: bool, step: Option<Expr>| RangeExpr {
        // `.. step 2` is a range without an end.
        hi: hi.map(|e| Box::new(plain(e))),
        lo: lo.map(Box::new),
        inclusive,
        step: step.map(|e| Box::new(plain(e))),
        single: false,
        span: Span::default(),
    };
    let step = prop::option::of(bound.clone());
    prop_oneof![
        (bound.clone(), bound.clone(), any::<bool>(), step.clone()).prop_map(move |(lo, hi, inclusive, step)| range(
            Some(lo),
            Some(hi),
            inclusive,
            step
        )),
        (bound.clone(), any::<bool>(), step.clone()).prop_map(move |(hi, inclusive, step)| range(
            None,
            Some(hi),
            inclusive,
            step
        )),
        (bound, step).prop_map(move |(lo, step)| range(Some(lo), None, false, step)),
    ]
    .boxed()
}

fn many(inner: &Exprs, at: u8, size: std::ops::Range<usize>) -> BoxedStrategy<Vec<Expr>> {
    vec(inner.clone().prop_map(move |e| fit(at, e)), size).boxed()
}

fn boxed(inner: &Exprs, at: u8) -> BoxedStrategy<Box<Expr>> {
    inner.clone().prop_map(move |e| Box::new(fit(at, e))).boxed()
}

fn chain<T: std::fmt::Debug + Clone + 'static>(
    inner: &Exprs,
    at: u8,
    op: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Chain<T>> {
    (boxed(inner, at), vec((op, inner.clone().prop_map(move |e| fit(at, e))), 1..4)).boxed()
}

fn node(inner: &Exprs) -> Exprs {
    use CmpOp::*;
    let mul = prop::sample::select(vec![MulOp::Mul, MulOp::Div, MulOp::Mod]);
    let cmp = prop::sample::select(vec![Lt, Le, Gt, Ge, Eq, Ne]);
    let set = prop_oneof![
        3 => range(inner).prop_map(InSet::Range),
        1 => many(inner, SUM, 1..5).prop_map(InSet::List),
        1 => name().prop_map(InSet::Segment),
        1 => (name(), many(inner, OR, 0..4)).prop_map(|(f, args)| InSet::Call(f, args)),
    ];
    let sum = inner.clone().prop_map(|e| fit(SUM, e));
    let near = (name(), sum.clone(), prop::option::of(sum.clone()), prop::option::of(sum), any::<bool>())
        .prop_map(|(axis, window, stride, dilate, causal)| NearAxis { axis, window, stride, dilate, causal });
    let sets =
        prop_oneof![
            boxed(inner, OPERAND).prop_map(ExprKind::SameBlock),
            (boxed(inner, OPERAND), boxed(inner, OR)).prop_map(|(size, set)| ExprKind::Block(size, set)),
            (name(), prop::option::of(name()), boxed(inner, OR)).prop_map(|(q, k, set)| ExprKind::Along(q, k, set)),
            (boxed(inner, SUM), boxed(inner, OR), boxed(inner, OR))
                .prop_map(|(min, diagonal, below)| ExprKind::Halves { min, diagonal, below }),
            boxed(inner, OR).prop_map(ExprKind::EachDoc),
            vec(near, 1..4).prop_map(ExprKind::Near),
            (vec(name(), 1..4), boxed(inner, SUM)).prop_map(|(axes, radius)| ExprKind::Disc(axes, radius)),
            (any::<bool>(), boxed(inner, OPERAND), boxed(inner, OR), name(), boxed(inner, OPERAND))
                .prop_map(|(replace, count, of, per, seed)| ExprKind::Random { replace, count, of, per, seed }),
        ];
    prop_oneof![
        many(inner, AND, 2..6).prop_map(ExprKind::Or),
        (boxed(inner, AND), many(inner, AND, 1..3)).prop_map(|(first, rest)| ExprKind::Except(first, rest)),
        many(inner, NOT, 2..5).prop_map(ExprKind::And),
        boxed(inner, NOT).prop_map(ExprKind::Not),
        chain(inner, SUM, cmp).prop_map(|(first, rest)| ExprKind::Compare(first, rest)),
        (boxed(inner, SUM), set).prop_map(|(e, set)| ExprKind::In(e, set)),
        chain(inner, PRODUCT, any::<bool>()).prop_map(|(first, rest)| ExprKind::Sum(first, rest)),
        chain(inner, UNARY, mul).prop_map(|(first, rest)| ExprKind::Product(first, rest)),
        boxed(inner, UNARY).prop_map(ExprKind::Neg),
        boxed(inner, OR).prop_map(ExprKind::Paren),
        (name(), many(inner, OR, 0..4)).prop_map(|(f, args)| ExprKind::Call(f, args)),
        (name(), many(inner, OR, 1..3)).prop_map(|(f, args)| ExprKind::Index(f, args)),
        sets,
    ]
    .prop_map(expr)
    .boxed()
}

/// Any expression.
pub(crate) fn exprs() -> Exprs {
    leaf().prop_recursive(4, 40, 4, |inner| node(&inner)).prop_map(|e| fit(OR, e)).boxed()
}

fn axes(extent: impl Strategy<Value = Option<Expr>> + 'static) -> BoxedStrategy<Vec<(Name, Option<Expr>)>> {
    vec((name(), extent), 1..4).boxed()
}

fn stmts() -> BoxedStrategy<Vec<Stmt>> {
    let entry = prop_oneof![
        3 => (exprs(), prop::option::of(name()), prop::option::of(exprs()))
            .prop_map(|(set, level, bias)| Entry { set: Some(set), level, null: None, bias, span: Span::default() }),
        1 => (exprs(), prop::option::of(exprs()))
            .prop_map(|(slots, bias)| Entry { set: None, level: None, null: Some(slots), bias, span: Span::default() }),
    ];
    let stmt = prop_oneof![
        exprs().prop_map(Stmt::Scale),
        exprs().prop_map(Stmt::Score),
        name().prop_map(Stmt::Align),
        name().prop_map(Stmt::Empty),
        exprs().prop_map(Stmt::Require),
        (name(), prop::option::of(name())).prop_map(|(level, how)| Stmt::Queries(level, how)),
        vec(entry, 1..4).prop_map(|entries| Stmt::Attend(entries, Span::default())),
    ];
    vec(stmt, 0..5).boxed()
}

fn arms(depth: u32, in_layer: bool) -> BoxedStrategy<Vec<Arm>> {
    let single = exprs().prop_map(|e| RangeExpr {
        lo: Some(Box::new(fit(SUM, e))),
        hi: None,
        inclusive: false,
        step: None,
        single: true,
        span: Span::default(),
    });
    let ranges = vec(prop_oneof![single, range(&exprs())], 1..3);
    let axis = prop::sample::select(vec![Coord::Step, Coord::Layer, Coord::Head]);
    let select = prop_oneof![
        1 => Just(Selector::Rest),
        1 => exprs().prop_map(Selector::When),
        3 => (axis, ranges).prop_map(move |(axis, mut ranges)| {
            // A bare range that began with `layer` would be read as a selector.
            if let Some(lo) = ranges[0].lo.take() {
                let bare = axis == Coord::Head && in_layer;
                ranges[0].lo = Some(if bare { Box::new(paren(*lo)) } else { lo });
            }
            Selector::Ranges { axis, ranges }
        }),
    ];
    let target = prop_oneof![exprs().prop_map(Target::Attention), Just(Target::Skip(Span::default()))];
    let arm = select.prop_flat_map(move |select| {
        let layer = matches!(select, Selector::Ranges { axis: Coord::Layer, .. });
        let target = if depth == 0 {
            target.clone().boxed()
        } else {
            prop_oneof![target.clone(), arms(depth - 1, layer).prop_map(Target::Block)].boxed()
        };
        target.prop_map(move |target| Arm { select: select.clone(), target, span: Span::default() })
    });
    vec(arm, 0..4).boxed()
}

fn model() -> BoxedStrategy<ItemKind> {
    let some = || prop::option::of(exprs());
    (name(), exprs(), some(), exprs(), some(), some(), arms(2, false))
        .prop_map(|(name, layers, steps, heads, kv_heads, head_map, arms)| {
            ItemKind::Model(Model { name, layers, steps, heads, kv_heads, head_map, arms })
        })
        .boxed()
}

fn clauses(words: &'static [&'static str]) -> BoxedStrategy<Vec<Clause>> {
    let clause = (prop::sample::select(words), exprs()).prop_map(|(word, value)| Clause { word: named(word), value });
    vec(clause, 0..3).boxed()
}

/// Levels, scores, selections and merges.
fn selections() -> BoxedStrategy<ItemKind> {
    let some = || prop::option::of(name());
    let arg = (some(), exprs()).prop_map(|(name, value)| LevelArg { name, value });
    let step = (name(), some(), some(), some()).prop_map(|(op, side, into, per)| ScoreStep { op, side, into, per });
    let amount = exprs().prop_map(|e| fit(SUM, e));
    let least = amount.clone().prop_map(|value| Clause { word: named("at least"), value });
    let band = (name(), amount.clone(), prop::option::of(least), prop::option::of(amount.clone()))
        .prop_map(|(name, upto, least, align)| Band { name, upto, least, align });
    let budget = prop_oneof![
        (name(), prop::option::of(amount)).prop_map(|(word, amount)| Budget {
            word,
            amount,
            kind: None,
            bands: vec![]
        }),
        (name(), some(), vec(band, 1..4)).prop_map(|(word, kind, bands)| Budget { word, amount: None, kind, bands }),
    ];
    let select = &["within", "besides", "including", "among", "at least", "by"];
    prop_oneof![
        (name(), name(), vec(arg, 0..4), vec(name(), 0..4), some())
            .prop_map(|(name, pool, args, of, along)| ItemKind::Level { name, pool, args, of, along }),
        (name(), exprs(), clauses(&["where"]), vec(step, 0..4))
            .prop_map(|(name, value, clauses, steps)| ItemKind::Score { name, value, clauses, steps }),
        (name(), budget, prop::option::of(exprs()), (name(), some()), clauses(select))
            .prop_map(|(name, budget, of, per, clauses)| ItemKind::Select { name, budget, of, per, clauses }),
        (name(), name(), vec(exprs(), 0..3), vec(name(), 1..3), clauses(&["over", "where"]))
            .prop_map(|(name, kind, gates, arms, clauses)| ItemKind::Merge { name, kind, gates, arms, clauses }),
    ]
    .boxed()
}

fn item() -> BoxedStrategy<Item> {
    let some = || prop::option::of(exprs());
    let operand = leaf().prop_map(|e| match e.kind {
        ExprKind::Int(_) | ExprKind::Name(_) => e,
        ExprKind::SameAxes(_) => expr(ExprKind::Int(64)),
        _ => paren(e),
    });
    let kind =
        prop_oneof![Just(MapKind::Bool), Just(MapKind::Csr), Just(MapKind::Offsets), operand.prop_map(MapKind::Blocks)];
    let shape = prop_oneof![some().prop_map(SegmentShape::Line), axes(some()).prop_map(SegmentShape::Grid)];
    let segment = (name(), shape).prop_map(|(name, shape)| Segment { name, shape });
    let same = vec(name(), 2..4).prop_map(|axes| expr(ExprKind::SameAxes(axes))).boxed();
    let body = prop_oneof![
        4 => exprs(),
        1 => same.clone(),
        1 => (same, exprs()).prop_map(|(same, e)| expr(ExprKind::And(vec![same, fit(NOT, e)]))),
    ];
    let items = prop_oneof![
        (vec(name(), 1..4), "[a-z0-9./ ]{0,12}").prop_map(|(names, from)| ItemKind::Import {
            names,
            from,
            from_span: Span::default()
        }),
        name().prop_map(ItemKind::Size),
        (name(), exprs()).prop_map(|(name, value)| ItemKind::Param { name, value }),
        (name(), vec(exprs(), 1..4), prop::option::of(exprs())).prop_map(|(name, dims, value)| ItemKind::Tensor {
            name,
            dims,
            value
        }),
        (name(), kind, any::<bool>()).prop_map(|(name, kind, per_head)| ItemKind::Map { name, kind, per_head }),
        vec(segment, 1..4).prop_map(ItemKind::Space),
        (name(), name(), axes(some())).prop_map(|(name, curve, axes)| ItemKind::Order { name, curve, axes }),
        (name(), vec(name(), 0..3), body).prop_map(|(name, args, body)| ItemKind::Pattern { name, args, body }),
        (name(), stmts()).prop_map(|(name, stmts)| ItemKind::Attention { name, stmts }),
        exprs().prop_map(ItemKind::Require),
        selections(),
        model(),
    ];
    let docs = vec("( {0,2}[a-z/!\"]{1,8}){0,3}", 0..3);
    (docs, items).prop_map(|(docs, kind)| Item { docs, kind, span: Span::default() }).boxed()
}

/// Any file.
pub(crate) fn files() -> BoxedStrategy<File> {
    vec(item(), 0..5).prop_map(|items| File { items }).boxed()
}
