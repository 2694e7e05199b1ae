//! The integers of a file that decide its sets: values of params, those written in patterns, strides that may be written.
//!
//! One idea: a tool that tries another window or stride asks where the numbers stand, and compiles the file anew
//! with one of them changed. Nothing here knows which change would be of use.

use attnc_syntax::ast::{Expr, ExprKind, File, InSet, Item, ItemKind, NearAxis, RangeExpr, Span, Stmt};

/// An integer of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    /// The param, pattern or attention in which it stands.
    pub owner: String,
    /// Whether it is the value of a param, and not a number among others.
    pub param: bool,
    /// As written.
    pub value: i64,
    /// Where.
    pub span: Span,
}

/// Where a neighbourhood of a file has its strides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strides {
    /// The pattern or attention in which it stands.
    pub owner: String,
    /// For each axis where its stride stands, or, where it has none, the empty place for `by S`.
    pub places: Vec<Span>,
}

impl Strides {
    /// What is to be written in each place for windows that move by `stride`.
    #[must_use]
    pub fn edits(&self, stride: i64) -> Vec<(Span, String)> {
        let text = |place: &Span| if place.start < place.end { stride.to_string() } else { format!(" by {stride}") };
        self.places.iter().map(|place| (*place, text(place))).collect()
    }
}

/// Numbers of params and of sets, in the order written.
pub(crate) fn numbers(file: &File) -> Vec<Number> {
    let mut found = Vec::new();
    for item in &file.items {
        if let ItemKind::Param { name, value } = &item.kind
            && let ExprKind::Int(number) = value.kind
        {
            found.push(Number { owner: name.text.clone(), param: true, value: number, span: value.span });
        }
        each_set(item, |owner, set| {
            each_part(set, &mut |part| {
                if let ExprKind::Int(value) = part.kind {
                    found.push(Number { owner: owner.to_owned(), param: false, value, span: part.span });
                }
            });
        });
    }
    found
}

/// Strides of neighbourhoods, in the order written.
pub(crate) fn strides(file: &File) -> Vec<Strides> {
    let mut found = Vec::new();
    for item in &file.items {
        each_set(item, |owner, set| {
            each_part(set, &mut |part| {
                if let ExprKind::Near(axes) = &part.kind {
                    let place = |axis: &NearAxis| match &axis.stride {
                        Some(stride) => stride.span,
                        None => Span { start: axis.window.span.end, ..axis.window.span },
                    };
                    found.push(Strides { owner: owner.to_owned(), places: axes.iter().map(place).collect() });
                }
            });
        });
    }
    found
}

/// The sets that an item is written with, each with the item's name.
fn each_set<'a>(item: &'a Item, mut with: impl FnMut(&'a str, &'a Expr)) {
    match &item.kind {
        ItemKind::Pattern { name, body, .. } => with(&name.text, body),
        ItemKind::Attention { name, stmts } => {
            let entries = stmts.iter().filter_map(|s| if let Stmt::Attend(list, _) = s { Some(list) } else { None });
            entries.flatten().filter_map(|entry| entry.set.as_ref()).for_each(|set| with(&name.text, set));
        }
        _ => {}
    }
}

/// An expression and all that it is made of, as written.
fn each_part<'a>(expr: &'a Expr, with: &mut impl FnMut(&'a Expr)) {
    fn range(r: &RangeExpr) -> impl Iterator<Item = &Expr> {
        [&r.lo, &r.hi, &r.step].into_iter().filter_map(|e| e.as_deref())
    }
    with(expr);
    let mut parts: Vec<&Expr> = Vec::new();
    match &expr.kind {
        ExprKind::Int(_) => {}
        ExprKind::Float(_) | ExprKind::Name(_) | ExprKind::Field(..) | ExprKind::SameDoc | ExprKind::SameAxes(_) => {}
        ExprKind::Pow2 | ExprKind::Map(_) => {}
        ExprKind::Call(_, list) | ExprKind::Index(_, list) | ExprKind::And(list) | ExprKind::Or(list) => {
            parts.extend(list);
        }
        ExprKind::Neg(a) | ExprKind::Not(a) | ExprKind::Paren(a) | ExprKind::SameBlock(a) => parts.push(a),
        ExprKind::Along(_, _, a) | ExprKind::EachDoc(a) | ExprKind::Disc(_, a) => parts.push(a),
        ExprKind::Sum(first, rest) => parts.extend(std::iter::once(&**first).chain(rest.iter().map(|(_, e)| e))),
        ExprKind::Product(first, rest) => parts.extend(std::iter::once(&**first).chain(rest.iter().map(|(_, e)| e))),
        ExprKind::Compare(first, rest) => parts.extend(std::iter::once(&**first).chain(rest.iter().map(|(_, e)| e))),
        ExprKind::Except(first, rest) => parts.extend(std::iter::once(&**first).chain(rest)),
        ExprKind::In(a, set) => {
            parts.push(a);
            match set {
                InSet::Range(r) => parts.extend(range(r)),
                InSet::List(list) => parts.extend(list),
                InSet::Call(_, list) => parts.extend(list),
                InSet::Segment(_) => {}
            }
        }
        ExprKind::Block(size, body) => parts.extend([&**size, &**body]),
        ExprKind::Near(axes) => {
            for axis in axes {
                parts.push(&axis.window);
                parts.extend(axis.stride.iter().chain(&axis.dilate));
            }
        }
        ExprKind::Halves { min, diagonal, below } => parts.extend([&**min, &**diagonal, &**below]),
        // How many, and of what; another seed is another pattern of the same cost.
        ExprKind::Random { count, of, .. } => parts.extend([&**count, &**of]),
    }
    for part in parts {
        each_part(part, with);
    }
}

#[cfg(test)]
mod tests {
    use crate::Compiler;

    #[test]
    fn numbers_of_sets_are_found() {
        let text =
            "param w = 8\nattention a {\n  scale = 0.5\n  attend q - k in 0 .. w step 3 | block 16 { q == k }\n}\n";
        let module = Compiler::default().source(text).expect("compiles");
        let found = module.numbers();
        let seen: Vec<(&str, bool, i64)> = found.iter().map(|n| (n.owner.as_str(), n.param, n.value)).collect();
        assert_eq!(seen, [("w", true, 8), ("a", false, 0), ("a", false, 3), ("a", false, 16)]);
        let of = |i: usize| &text[found[i].span.start as usize..found[i].span.end as usize];
        assert_eq!((of(0), of(2), of(3)), ("8", "3", "16"));
    }
    #[test]
    fn strides_of_neighbourhoods_are_found() {
        let text = "space i(h, w)\npattern p = near(h = 5 by 2, w = 7 causal) | near(pos = 3 dilate 2)\n";
        let module = Compiler::default().source(text).expect("compiles");
        let edited = module.strides().into_iter().map(|strides| {
            let mut text = text.to_owned();
            for (span, new) in strides.edits(4).into_iter().rev() {
                text.replace_range(span.start as usize..span.end as usize, &new);
            }
            text.lines().nth(1).unwrap_or("").to_owned()
        });
        let expected = [
            "pattern p = near(h = 5 by 4, w = 7 by 4 causal) | near(pos = 3 dilate 2)",
            "pattern p = near(h = 5 by 2, w = 7 causal) | near(pos = 3 by 4 dilate 2)",
        ];
        assert_eq!(edited.collect::<Vec<_>>(), expected);
    }
}
