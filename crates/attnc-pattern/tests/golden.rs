//! Key ranges that papers and reference implementations fix, from source text to rows.

use attnc_pattern::check::{Module, Settings, check};
use attnc_pattern::env::Env;
use attnc_pattern::oracle::row;
use attnc_pattern::program::Program;
use attnc_syntax::diag::FileId;

fn program(source: &str) -> Program {
    let parsed = attnc_syntax::parse(source, FileId(0));
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    let module = Module { file: FileId(0), ast: parsed.file, imports: vec![] };
    let (program, diagnostics) = check(&[module], &Settings::default());
    program.unwrap_or_else(|| panic!("{diagnostics:?}"))
}

/// Keys of query `q` of the last attention, each once.
fn keys(program: &Program, n: i64, q: i64) -> Vec<i64> {
    let env = Env { n_q: n, n_k: n, dim: 64, heads: 1, ..Env::default() };
    let keys = row(program, program.attentions.len() - 1, &env, q).unwrap();
    assert!(keys.iter().all(|&(_, count)| count == 1));
    keys.into_iter().map(|(k, _)| k).collect()
}

/// `0-3 1-4 ..`: the first and the last key of every query, with all between.
fn rows(program: &Program, n: i64) -> String {
    let shown = (0..n).map(|q| {
        let keys = keys(program, n, q);
        let (first, last) = (keys[0], keys[keys.len() - 1]);
        assert_eq!(keys, (first..=last).collect::<Vec<_>>());
        format!("{first}-{last}")
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// NATTEN's clamped window (Generalized Neighborhood Attention, 2025): stride and causal axes.
#[test]
fn natten_windows_of_4_on_12() {
    for (axis, expected) in [
        ("x = 4", "0-3 0-3 0-3 1-4 2-5 3-6 4-7 5-8 6-9 7-10 8-11 8-11"),
        ("x = 4 by 2", "0-3 0-3 1-4 1-4 3-6 3-6 5-8 5-8 7-10 7-10 8-11 8-11"),
        ("x = 4 causal", "0-0 0-1 0-2 0-3 1-4 2-5 3-6 4-7 5-8 6-9 7-10 8-11"),
    ] {
        let program = program(&format!("space line(x = 12)\n\npattern near_x = near({axis})\n"));
        assert_eq!(rows(&program, 12), expected, "{axis}");
    }
}

/// The formula of NATTEN's reference mask: for a coordinate of a dilation group, its window.
fn natten(x: i64, n: i64, [w, s, d]: [i64; 3], causal: bool) -> Vec<i64> {
    let (group, i) = (x % d, x / d);
    let length = (n - group + d - 1) / d;
    let (first, last) = if causal {
        let lead = (i / s * s + s - 1).min(length - 1);
        ((lead - w + 1).max(0), i)
    } else {
        let (left, right) = (w / 2, w / 2 + w % 2 - 1);
        let lead = (i / s * s + s / 2).min(length - 1);
        let center = lead.clamp(left, length - 1 - right);
        (center - left, center + right)
    };
    (first..=last).map(|j| j * d + group).collect()
}

#[test]
fn natten_windows_with_stride_and_dilation() {
    for n in [12, 13, 17] {
        for (w, s, d) in [(3, 1, 1), (4, 3, 1), (5, 5, 1), (3, 1, 2), (4, 2, 3), (3, 2, 4), (12, 1, 1)] {
            for causal in [false, true] {
                let word = if causal { " causal" } else { "" };
                let text = format!("space line(x = {n})\n\npattern p = near(x = {w} by {s} dilate {d}{word})\n");
                let program = program(&text);
                for x in 0..n {
                    assert_eq!(keys(&program, n, x), natten(x, n, [w, s, d], causal), "{text} at {x}");
                }
            }
        }
    }
}

/// Over several axes the windows are a product.
#[test]
fn natten_on_a_grid() {
    let program = program("space image(h = 5, w = 6)\n\npattern p = near(h = 3 by 2, w = 4 causal)\n");
    for q in 0..30 {
        let columns = natten(q % 6, 6, [4, 1, 1], true);
        let rows = natten(q / 6, 5, [3, 2, 1], false);
        let expected: Vec<i64> = rows.iter().flat_map(|y| columns.iter().map(move |x| y * 6 + x)).collect();
        assert_eq!(keys(&program, 30, q), expected, "at {q}");
    }
}

/// PowerAttention (2025): a window of 2 blocks, 1 sink block, and blocks at distances that are powers of two.
#[test]
fn power_attention_block_rows() {
    for block in [1, 4] {
        let program =
            program(&format!("pattern power = causal & block {block} {{ pow2 | q - k in 0 .. 2 | k in 0 .. 1 }}\n"));
        for (row, expected) in [(4, &[0, 2, 3, 4][..]), (7, &[0, 3, 5, 6, 7]), (9, &[0, 1, 5, 7, 8, 9])] {
            let last = (row + 1) * block - 1;
            let tokens: Vec<i64> = expected.iter().flat_map(|b| b * block..(b + 1) * block).collect();
            assert_eq!(keys(&program, 10 * block, last), tokens, "block {block}, row {row}");
        }
    }
}

/// CLEAR (2024): tokens of a disc, its rim left out, and all text.
#[test]
fn clear_disc() {
    let program =
        program("space text[2] ++ image(h = 5, w = 5)\n\npattern clear = disc(h, w, 2) | k in text | q in text\n");
    let center = 2 + 2 * 5 + 2;
    let disc = [-6, -5, -4, -1, 0, 1, 4, 5, 6].map(|d| center + d);
    assert_eq!(keys(&program, 27, center), [&[0, 1][..], &disc].concat());
    assert_eq!(keys(&program, 27, 1), (0..27).collect::<Vec<_>>());
}
