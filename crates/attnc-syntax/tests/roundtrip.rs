//! The printer against the parser, on random trees, comments and noise.

mod common;

use attnc_syntax::ast::{Expr, File, Item, ItemKind, Name, Span};
use attnc_syntax::diag::FileId;
use attnc_syntax::{Parsed, dump, format, parse, print_expr, print_file};
use common::{exprs, files};
use proptest::prelude::*;

fn read(source: &str) -> Parsed {
    parse(source, FileId::default())
}

/// `param x = E`
fn param(value: Expr) -> File {
    let name = Name { text: "x".to_owned(), span: Span::default() };
    File { items: vec![Item { docs: vec![], kind: ItemKind::Param { name, value }, span: Span::default() }] }
}

/// The text laid out, or a failed test.
fn laid_out(source: &str) -> Result<String, TestCaseError> {
    format(source).map_err(|errors| TestCaseError::fail(format!("{errors:?}\n{source}")))
}

/// `text` with `insert` in place of the white space after which it is the `n`-th.
fn replace_space(text: &str, n: usize, insert: &str) -> String {
    let spaces: Vec<usize> = text.char_indices().filter(|(_, c)| c.is_whitespace()).map(|(i, _)| i).collect();
    if spaces.is_empty() {
        return text.to_owned();
    }
    let at = spaces[n % spaces.len()];
    format!("{}{insert}{}", &text[..at], &text[at + 1..])
}

fn comments(source: &str) -> Vec<String> {
    let mut texts: Vec<String> =
        read(source).comments.iter().map(|c| c.text.trim_start_matches('/').trim().to_owned()).collect();
    texts.sort();
    texts
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_parses_to_the_same_tree((text, tree) in files().prop_map(|f| (print_file(&f), dump(&f)))) {
        let parsed = read(&text);
        prop_assert!(parsed.diagnostics.is_empty(), "{:?}\n{}", parsed.diagnostics, text);
        prop_assert_eq!(dump(&parsed.file), tree, "{}", text);
        prop_assert_eq!(laid_out(&text)?, text);
    }

    #[test]
    fn an_expression_prints_on_one_line((text, tree) in exprs().prop_map(|e| (print_expr(&e), dump(&param(e))))) {
        prop_assert!(!text.contains('\n'));
        let parsed = read(&format!("param x = {text}"));
        prop_assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        prop_assert_eq!(dump(&parsed.file), tree);
    }

    /// Comments and empty lines anywhere: the layout keeps the comments and the tree, and is a fixed point.
    #[test]
    fn comments_stay(file in files().prop_map(|f| print_file(&f)), places in proptest::collection::vec((any::<usize>(), 0..6usize), 0..6)) {
        let mut text = file;
        for (i, (place, kind)) in places.into_iter().enumerate() {
            let insert = match kind {
                0 | 1 => format!(" // c{i}\n"),
                2 => format!("\n// c{i}\n"),
                3 => format!("\n\n\n  // c{i}\n\n\n"),
                4 => format!("\n/// c{i}\n"),
                _ => "\n\n".to_owned(),
            };
            text = replace_space(&text, place, &insert);
        }
        let parsed = read(&text);
        // A line end before a word of an item can change what the text means, even to nothing.
        if parsed.diagnostics.is_empty() {
            let once = laid_out(&text)?;
            prop_assert_eq!(dump(&read(&once).file), dump(&parsed.file), "{}\n=>\n{}", text, once);
            prop_assert_eq!(comments(&once), comments(&text), "{}\n=>\n{}", text, once);
            let twice = laid_out(&once)?;
            prop_assert_eq!(&twice, &once, "{}", text);
        }
    }

    #[test]
    fn any_text_is_read_without_panic(text in any::<String>()) {
        let _ = (read(&text), format(&text));
    }

    #[test]
    fn any_tokens_are_read_without_panic(words in proptest::collection::vec(prop::sample::select(WORDS.to_vec()), 0..80)) {
        let text = words.join(" ");
        let parsed = read(&text);
        prop_assert!(parsed.diagnostics.iter().all(|d| d.labels.iter().all(|l| text.get(l.span.start as usize..l.span.end as usize).is_some())));
        if let Ok(once) = format(&text) {
            prop_assert_eq!(laid_out(&once)?, once);
        }
    }
}

const WORDS: &[&str] = &[
    "\nimport",
    "from",
    "\"std\"",
    "\nsize",
    "\nparam",
    "\ntensor",
    "\nmap",
    "\nspace",
    "\norder",
    "\npattern",
    "\nattention",
    "\nrequire",
    "\nmodel",
    "attend",
    "on",
    "by",
    "when",
    "skip",
    "in",
    "except",
    "same",
    "block",
    "along",
    "each",
    "doc",
    "dilate",
    "causal",
    "pow2",
    "random",
    "draw",
    "halves",
    "diagonal",
    "of",
    "per",
    "seed",
    "near",
    "disc",
    "step",
    "layer",
    "head",
    "score",
    "scale",
    "bias",
    "null",
    "a",
    "b",
    "x",
    "\nx",
    "0",
    "42",
    "0.5",
    "1e-3",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    "{",
    "}",
    ",",
    ":",
    ".",
    "..",
    "..=",
    "=",
    "=>",
    "@",
    "_",
    "+",
    "++",
    "-",
    "*",
    "/",
    "%",
    "<",
    "<=",
    "==",
    "!=",
    "!",
    "&",
    "|",
    "// note\n",
    "\n/// doc\n",
    ";",
    "∧",
    "\n",
];
