//! How a text is read: words that mean something in one place only, numbers, docs, and the one layout.

use attnc_syntax::diag::FileId;
use attnc_syntax::{dump, format, parse};

/// The tree of a text without errors.
fn tree(source: &str) -> String {
    let parsed = parse(source, FileId::default());
    assert!(parsed.diagnostics.is_empty(), "{source}: {:?}", parsed.diagnostics);
    dump(&parsed.file)
}

/// Both texts parse, to the same tree.
fn same(a: &str, b: &str) {
    assert_eq!(tree(a), tree(b), "{a}\n{b}");
}

#[test]
fn precedence() {
    same("pattern a = !b & c | d & e", "pattern a = !b & c | d & e");
    assert_eq!(
        tree("pattern a = -b.t + 2 * c[0] < 3 & !d in 0 .. 4 except e & f"),
        "pattern a\n  except\n    and\n      compare\n        sum\n          neg\n            field b.t\n          plus\n            \
         product\n              int 2\n              *\n                index c\n                  int 0\n        <\n          \
         int 3\n      not\n        in\n          name d\n          range\n            from\n              int 0\n            \
         to\n              int 4\n    and\n      name e\n      name f\n"
    );
}

#[test]
fn numbers_and_ranges() {
    same("pattern a = k in 0..4", "pattern a = k in 0 .. 4");
    same("param a = 1_024", "param a = 1024");
    assert_eq!(tree("param a = 1e-3"), "param a\n  real 0.001\n");
    assert_eq!(tree("param a = 2.5e+3"), "param a\n  real 2500.0\n");
    assert_eq!(tree("param a = 9_223_372_036_854_775_807"), "param a\n  int 9223372036854775807\n");
    assert_eq!(
        tree("pattern a = k in .. 4 step 2"),
        "pattern a\n  in\n    name k\n    range\n      to\n        int 4\n      step\n        int 2\n"
    );
    assert_eq!(
        tree("pattern a = k in -32 .. step n"),
        "pattern a\n  in\n    name k\n    range\n      from\n        neg\n          int 32\n      step\n        name n\n"
    );
    assert_eq!(
        tree("pattern a = k in 0 .. step"),
        tree("pattern a = k in 0 .. (step)").replace("paren\n          name", "name")
    );
}

#[test]
fn words_are_names_elsewhere() {
    for word in
        ["score", "scale", "align", "empty", "bias", "null", "near", "disc", "doc", "seed", "step", "layer", "head"]
    {
        assert_eq!(
            tree(&format!("param {word} = {word} + 1")),
            format!("param {word}\n  sum\n    name {word}\n    plus\n      int 1\n")
        );
    }
    let text = "attention a {\n  scale = scale\n  score = score + bias[head]\n  attend seed @ tokens bias bias[head] ++ null null bias null\n}\n";
    assert_eq!(format(text).as_deref(), Ok(text));
    same("pattern a = b.block == b.in", "pattern a = b . block == b . in");
    assert_eq!(tree("map near : csr\nmap b : bool[heads]"), "map near csr\nmap b bool for each head\n");
    assert_eq!(tree("pattern a =\n  map b\nmap b : csr"), "pattern a\n  map b\nmap b csr\n");
}

#[test]
fn axes_go_on_at_commas_where_nothing_else_could() {
    assert_eq!(tree("pattern a = same h, w & b"), "pattern a\n  and\n    same axes h, w\n    name b\n");
    assert_eq!(tree("pattern a = f(same h, w)"), "pattern a\n  call f\n    same axes h\n    name w\n");
    assert_eq!(tree("pattern a = f((same h, w))"), "pattern a\n  call f\n    paren\n      same axes h, w\n");
    assert_eq!(tree("pattern a = block 4 { same h, w, t }"), "pattern a\n  block\n    int 4\n    same axes h, w, t\n");
}

#[test]
fn arms_need_no_commas() {
    same(
        "model m(layers = 2, heads = 4 on 2) {\n  layer 0 { 0 .. 2 => a\n    step 1 => b\n    3 => c _ => d }\n  when x => y step 2 => z _ => w\n}",
        "model m(layers = 2, heads = 4 on 2) { layer 0 { 0 .. 2 => a, step 1 => b, 3 => c, _ => d }, when x => y, step 2 => z, _ => w }",
    );
    // On the line of a range `step` belongs to it.
    assert!(tree("model m(layers = 2, heads = 4) { _ => k in 0 .. 8 step 2 }").contains("step\n          int 2"));
}

#[test]
fn docs_belong_to_the_item_below() {
    let text = "//! head\n/// one\n///\n///  two\npattern a = b // c\n/// not of an item\n\n// d\n";
    let parsed = parse(text, FileId::default());
    assert_eq!(parsed.file.items[0].docs, ["one", "", " two"]);
    let comments: Vec<_> = parsed.comments.iter().map(|c| (c.text.as_str(), c.own_line)).collect();
    assert_eq!(comments, [("//! head", true), ("// c", false), ("/// not of an item", true), ("// d", true)]);
    assert_eq!(
        format(text).unwrap(),
        "//! head\n/// one\n///\n///  two\npattern a = b // c\n// not of an item\n\n// d\n"
    );
}

#[test]
fn the_layout() {
    let text = include_str!("layout.attn");
    assert_eq!(format(text).as_deref(), Ok(text));
    let squeezed =
        text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n").replace("  ", " ");
    let laid_out = format(&squeezed).unwrap();
    let bare: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect();
    assert_eq!(laid_out, bare);
    assert_eq!(format("").as_deref(), Ok(""));
    assert_eq!(format("\r\n  size  n\r\n").as_deref(), Ok("size n\n"));
}
