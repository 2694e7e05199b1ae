//! Expressions as one line of text: for help that can be pasted, and for names of sets that have none.

use attnc_syntax::ast::Expr;
use attnc_syntax::print_expr;

/// Longer texts end in `..`.
const LONGEST: usize = 60;

/// An expression in one line.
pub(super) fn spell(e: &Expr) -> String {
    let text = print_expr(e);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ..", line[..end].trim_end()),
        None => line,
    }
}
