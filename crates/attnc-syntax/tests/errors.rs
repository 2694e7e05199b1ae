//! What is refused: each code, many errors at once, and input made to exhaust a stack or a clock.

use attnc_syntax::codes::CODES;
use attnc_syntax::diag::{Diagnostic, FileId};
use attnc_syntax::{MAX_NESTING, MAX_SOURCE, Parsed, dump, format, parse};
use std::time::{Duration, Instant};

fn read(source: &str) -> Parsed {
    parse(source, FileId(3))
}

fn codes(source: &str) -> Vec<&'static str> {
    read(source).diagnostics.iter().map(|d| d.code).collect()
}

/// The only error of `source`, found in linear time.
fn one(source: &str) -> Diagnostic {
    let start = Instant::now();
    let mut diagnostics = read(source).diagnostics;
    // Quadratic time would be hours.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
    diagnostics.remove(0)
}

#[test]
fn each_code_has_an_example_that_gives_it_alone() {
    for info in CODES {
        if !info.example.is_empty() {
            let mut found = codes(info.example);
            if info.code == "E0115" {
                assert_eq!(found.len(), 101);
                found.retain(|code| *code != "E0109");
            }
            assert_eq!(found, [info.code], "{}", info.example);
        }
    }
    assert!(CODES.is_sorted_by_key(|info| info.code));
}

#[test]
fn one_bad_item_hides_no_other() {
    let parsed = read(
        "param a = = 1\nparam b = 2\npattern c = (k in 0 .. 4\npattern d = causal\n\
         model m(layers = 2) { _ => d }\npattern e = 2x\nsize n\nstray words\n",
    );
    let codes: Vec<_> = parsed.diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(codes, ["E0109", "E0107", "E0112", "E0102", "E0109"]);
    assert_eq!(dump(&parsed.file), "param b\n  int 2\npattern d\n  name causal\n");
    assert!(parsed.diagnostics.iter().flat_map(|d| &d.labels).all(|l| l.span.file == FileId(3)));
    assert!(format("pattern c =\n").is_err());
}

#[test]
fn messages_say_what_was_found_and_what_to_write() {
    let cases = [
        ("pattern a = k = 4", "found `=` where an operator is expected", "equality is written `==`"),
        ("pattern a = b and c", "found the name `and` where an operator is expected", "intersection is written `&`"),
        ("pattern a = b && c", "found `&` where an expression is expected", "`and` is written with one `&`"),
        ("pattern size = 3", "found the keyword `size` where a name is expected", "choose another name"),
        ("pattern a = all @ tokens", "found `@` behind the end of the item", "attention name { attend SET @ tokens }"),
        ("attention a { scael = 4 }", "found the name `scael` where a statement or `}` is expected", "statements are"),
        ("pattern a = b in c in d", "found the keyword `in` where an operator", "join conditions"),
        ("pattern a = (b, c)", "found `,` where", "(same h, w)"),
        ("model m(layers = 1, heads = 1) { layer 3 => a layer 5 foo }", "found the name `foo` where `=>`, `{`", ""),
        ("attention a { attend b @ tokens | c }", "found `|` where", "entries are joined by `++`"),
        ("param a: 3", "found `:` where `=` is expected", "a definition is written with `=`"),
        ("pattern a =", "the item ends where an expression is expected", ""),
    ];
    for (source, message, help) in cases {
        let d = one(source);
        assert!(d.message.contains(message), "{source}: {}", d.message);
        assert!(d.help.as_deref().unwrap_or_default().contains(help), "{source}: {:?}", d.help);
        assert!(!d.labels.is_empty());
    }
}

#[test]
fn a_bracket_left_open_names_the_bracket() {
    let source = "attention a {\n  attend all\n\npattern b = causal\n";
    let d = one(source);
    assert_eq!((d.code, d.labels[0].span.start, d.labels[0].span.end), ("E0107", 12, 13));
    let d = one("pattern a = (b]\n");
    assert_eq!((d.code, d.labels.len()), ("E0108", 2));
}

#[test]
fn a_source_that_is_too_large_is_refused_before_it_is_read() {
    assert_eq!(one(&"(".repeat(100 << 20)).code, "E0105");
    let comment = format!("//{}", "x".repeat(MAX_SOURCE - 2));
    assert!(codes(&comment).is_empty());
    assert_eq!(codes(&(comment + "x")), ["E0105"]);
}

#[test]
fn nesting_has_a_limit() {
    let nested =
        |open: &str, n: usize, close: &str| format!("pattern a = {}causal{}\n", open.repeat(n), close.repeat(n));
    for (open, close) in [
        ("(", ")"),
        ("!", ""),
        ("-", ""),
        ("f(", ")"),
        ("a[", "]"),
        ("block 4 {", "}"),
        ("random 3 of ", " per q seed 1"),
        ("each doc {", "}"),
        ("k in {", "}"),
    ] {
        assert_eq!(one(&nested(open, MAX_NESTING as usize + 1, close)).code, "E0106", "{open}");
        let most = nested(open, MAX_NESTING as usize, close);
        if open != "k in {" {
            assert_eq!(codes(&most), [""; 0], "{open}");
            assert!(format(&most).is_ok());
        }
        for n in [10_000, 100_000] {
            let deep = nested(open, n, close);
            let code = if deep.len() > MAX_SOURCE { "E0105" } else { "E0106" };
            assert_eq!(one(&deep).code, code, "{open} {n}");
        }
    }
    // Brackets that do not match are not looked up among all those open.
    assert_eq!(one(&format!("pattern a = {}{}", "{".repeat(500_000), ")".repeat(500_000))).code, "E0106");
    assert_eq!(one(&format!("pattern a = {}{}", "{".repeat(150), ")".repeat(1_000_000))).code, "E0108");
}

#[test]
fn the_deepest_tree_fits_a_small_stack() {
    let n = MAX_NESTING as usize;
    let source = format!(
        "pattern a = {}0{}\n",
        "x | x except x & x < x + x * (".repeat(n).replace("| x except", "| (x) & x |"),
        ")".repeat(n)
    );
    let run = move || {
        let parsed = read(&source);
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        assert!(dump(&parsed.file).len() > n);
        assert!(format(&source).is_ok());
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn long_chains_are_lists() {
    let start = Instant::now();
    for (op, operand) in [(" | ", "k == 1"), (" & ", "a"), (" except ", "a"), (" + ", "a"), (" < ", "a"), (" * ", "a")]
    {
        let source = format!("pattern a = {}\n", vec![operand; 50_000].join(op));
        assert!(codes(&source).is_empty());
        let text = format(&source).unwrap();
        assert_eq!(text.matches(operand).count(), source.matches(operand).count());
    }
    let entries = format!("attention a {{ attend {} }}\n", vec!["a"; 50_000].join(" ++ "));
    assert!(codes(&entries).is_empty());
    let arms = format!("model a(layers = 1, heads = 1) {{ {} }}\n", vec!["head 1 => a"; 50_000].join(" "));
    assert!(codes(&arms).is_empty());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn errors_are_counted_but_not_all_shown() {
    let parsed = read(&"pattern\n".repeat(MAX_SOURCE / 8));
    assert_eq!(parsed.diagnostics.len(), 101);
    assert!(parsed.diagnostics[100].message.starts_with("130972 more errors"), "{}", parsed.diagnostics[100].message);
}
