//! The integers of a file that decide its sets: values of params, and those written in patterns.
//!
//! One idea: a tool that tries another window or stride asks where the numbers stand, and compiles the file anew
//! with one of them changed. Nothing here knows which change would be of use.

use attnc_syntax::ast::{Expr, ExprKind, File, InSet, ItemKind, RangeExpr, Span, Stmt};

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

/// Numbers of params and of sets, in the order written.
pub(crate) fn numbers(file: &File) -> Vec<Number> {
    let mut found = Vec::new();
    for item in &file.items {
        match &item.kind {
            ItemKind::Param { name, value } => {
                if let ExprKind::Int(number) = value.kind {
                    found.push(Number { owner: name.text.clone(), param: true, value: number, span: value.span });
                }
            }
            ItemKind::Pattern { name, body, .. } => collect(&name.text, body, &mut found),
            ItemKind::Attention { name, stmts } => {
                let entries =
                    stmts.iter().filter_map(|s| if let Stmt::Attend(list, _) = s { Some(list) } else { None });
                for set in entries.flatten().filter_map(|entry| entry.set.as_ref()) {
                    collect(&name.text, set, &mut found);
                }
            }
            _ => {}
        }
    }
    found
}

/// Adds the integers of an expression.
fn collect(owner: &str, expr: &Expr, found: &mut Vec<Number>) {
    fn range(r: &RangeExpr) -> impl Iterator<Item = &Expr> {
        [&r.lo, &r.hi, &r.step].into_iter().filter_map(|e| e.as_deref())
    }
    let mut parts: Vec<&Expr> = Vec::new();
    match &expr.kind {
        ExprKind::Int(value) => {
            found.push(Number { owner: owner.to_owned(), param: false, value: *value, span: expr.span });
        }
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
        collect(owner, part, found);
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
}
