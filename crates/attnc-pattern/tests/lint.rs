//! Diagnostics of the analysis: every code has an example that gives it, and sound programs give none.

use attnc_pattern::analysis::{CODES, lint};
use attnc_pattern::check::{Module, Settings, check};
use attnc_pattern::program::Program;
use attnc_syntax::diag::{Diagnostic, FileId};

fn program(source: &str) -> Program {
    let parsed = attnc_syntax::parse(source, FileId(0));
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    let module = Module { file: FileId(0), ast: parsed.file, imports: vec![] };
    let (program, diagnostics) = check(&[module], &Settings::default());
    program.unwrap_or_else(|| panic!("{source}: {diagnostics:?}"))
}

/// Diagnostics as `CODE message [what is underlined]`.
fn linted(source: &str) -> Vec<String> {
    let shown = |d: Diagnostic| {
        let span = d.labels[0].span;
        format!("{} {} [{}]", d.code, d.message, &source[span.start as usize..span.end as usize])
    };
    lint(&mut program(source)).into_iter().map(shown).collect()
}

#[test]
fn every_code_has_an_example() {
    for info in CODES {
        let found = linted(info.example);
        assert!(found.iter().any(|d| d.starts_with(info.code)), "{}: {found:?}", info.code);
    }
}

#[test]
fn the_smallest_counter_example_is_shown_with_its_condition() {
    assert_eq!(
        linted("pattern p = causal & q - k in 1 .. 8\n"),
        ["E0501 query 0 of n_q = 1, n_k = 1 attends to no key [q - k in 1 .. 8]"]
    );
    assert_eq!(
        linted("size far\npattern p = causal & q - k in 0 .. far\n"),
        ["E0501 query 0 of n_q = 1, n_k = 1, far = 0 attends to no key [q - k in 0 .. far]"]
    );
    assert_eq!(
        linted("space text[2] ++ image(h = 2, w = 3)\npattern p = same h\n"),
        ["E0501 query 0 of n_q = 8, n_k = 8 attends to no key [same h]"]
    );
    assert_eq!(
        linted("pattern p = same doc & q - k in 1 .. 3 | q % 2 == 1\n"),
        [
            "E0501 query 0 of n_q = 1, n_k = 1, documents at 0, 1 attends to no key [same doc & q - k in 1 .. 3 | q % 2 == 1]"
        ]
    );
}

#[test]
fn what_is_proved_or_decided_is_not_reported() {
    for source in [
        "pattern p = causal & q - k in 0 .. 8\n",
        "pattern p = causal & (q - k in 3 .. 8 | k in 0 .. 4)\n",
        "pattern p = block 64 { q - k in -2 .. 2 }\n",
        "pattern p = each doc { causal & q - k in 0 .. 8 }\n",
        "pattern p = (q - k) % 128 == 0 & causal\n",
        "space text[3] ++ image(h = 6, w = 7)\npattern p = near(h = 3, w = 5) | k in text\n",
        "space image(h, w)\npattern p = near(h = 3 dilate 2, w = 5 by 2) \n",
        "space image(h, w)\npattern p = disc(h, w, 3)\n",
        "require n_q >= 1 & n_q <= n_k & n_k > 4\npattern p = k in 2 .. 4\n",
        "attention a {\n  empty = zero\n  attend causal & q - k in 1 .. 8\n}\n",
        "attention a {\n  attend (causal & q - k in 1 .. 8) ++ null 1\n}\n",
    ] {
        assert_eq!(linted(source), [""; 0], "{source}");
    }
}

#[test]
fn arms_that_add_nothing_are_named() {
    assert_eq!(
        linted("pattern p = causal & (q - k in 0 .. 8 | q - k in 2 .. 4 | k in 0 .. 1)\n"),
        ["W0503 an arm of a union adds nothing [q - k in 2 .. 4]"]
    );
    // Of two equal arms one is needed.
    assert_eq!(linted("pattern p = causal | block 4 { q == k } | same block 4\n"), [""; 0]);
}
