//! Lowered sets against formulas written here again, in plain arithmetic; one failing program for every code.

use attnc_syntax::diag::{Diagnostic, FileId, Severity};
use attnc_syntax::parse;
use proptest::prelude::*;

use super::codes::CODES;
use super::{Module, STANDARD, Settings, check};
use crate::env::{Env, MapData};
use crate::expr::{Node, Ty, Var};
use crate::oracle;
use crate::prepare::{admit, prepare_plainly};
use crate::program::{Attention, Chooser, DrawScope, OrderKind, Program, Source};

const STD: &str = include_str!("../../../../patterns/std.attn");

fn module(text: &str, file: u32, imports: Vec<FileId>) -> Module {
    let parsed = parse(text, FileId(file));
    assert!(parsed.diagnostics.is_empty(), "{text}\n{:?}", parsed.diagnostics);
    Module { file: FileId(file), ast: parsed.file, imports }
}

/// Checks a source; every import of it is of the standard library.
fn compile(text: &str, set: &[(&str, &str)]) -> (Option<Program>, Vec<Diagnostic>) {
    let imports = text.lines().filter(|l| l.starts_with("import ")).map(|_| FileId(0)).collect();
    let modules = [module(STD, 0, vec![]), module(text, 1, imports)];
    let set = set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    check(&modules, &Settings { set })
}

fn program(text: &str) -> Program {
    let (program, diagnostics) = compile(text, &[]);
    program.unwrap_or_else(|| panic!("{text}\n{diagnostics:#?}"))
}

fn errors(text: &str) -> Vec<&'static str> {
    let (program, diagnostics) = compile(text, &[]);
    assert_eq!(program.is_none(), diagnostics.iter().any(|d| d.severity == Severity::Error));
    diagnostics.iter().map(|d| d.code).collect()
}

fn attention<'p>(program: &'p Program, name: &str) -> &'p Attention {
    program.attentions.iter().find(|a| a.name == name).unwrap_or_else(|| panic!("no attention {name}"))
}

fn env(n_q: i64, n_k: i64) -> Env<'static> {
    Env { n_q, n_k, heads: 1, dim: 64, docs: &[], ..Env::default() }
}

/// The mask of the attention `p` of a program, with what an environment needs computed.
fn mask(program: &Program, env: Env<'_>) -> Vec<Vec<i64>> {
    let index = program.attentions.iter().position(|a| a.name == "p").expect("an attention `p`");
    let env = prepare_plainly(program, &[index], env).unwrap_or_else(|e| panic!("{e:?}"));
    let Source::Tokens(set) = program.attentions[index].entries[0].source else { panic!("null slots") };
    let bits = oracle::mask(program, set, &env).unwrap_or_else(|e| panic!("{e:?}"));
    let n_k = env.n_k as usize;
    bits.chunks(n_k).map(|row| (0..n_k as i64).filter(|&k| row[k as usize]).collect()).collect()
}

/// `p` is the set of pairs (by row and column) for which `formula` holds.
fn is(text: &str, env: Env<'_>, formula: impl Fn(i64, i64) -> bool) {
    let program = program(text);
    let (n_q, n_k) = (env.n_q, env.n_k);
    let rows = mask(&program, env);
    for q in 0..n_q {
        let expected: Vec<i64> = (0..n_k).filter(|&k| formula(q, k)).collect();
        assert_eq!(rows[q as usize], expected, "{text} at q = {q}");
    }
}

fn same(text: &str, formula: impl Fn(i64, i64) -> bool) {
    is(&format!("pattern p = {text}"), env(24, 24), formula);
}

#[test]
fn algebra_and_comparisons() {
    same("all", |_, _| true);
    same("none", |_, _| false);
    same("causal", |q, k| k <= q);
    same("!causal", |q, k| k > q);
    same("causal & q - k < 4 | k == 9", |q, k| (k <= q && q - k < 4) || k == 9);
    same("(causal except k in 0 .. 3) | q in 0 .. 2", |q, k| (k <= q && k >= 3) || q < 2);
    same("causal except k < 3 except k == 5", |q, k| k <= q && k >= 3 && k != 5);
    same("0 <= q - k < 5", |q, k| (0..5).contains(&(q - k)));
    same("(q / 7) % 3 == k % 3", |q, k| (q / 7) % 3 == k % 3);
    same("(q - k) % 3 == 0", |q, k| (q - k).rem_euclid(3) == 0);
    same("(q - k) / 4 == -2", |q, k| (q - k).div_euclid(4) == -2);
    same("abs(q - k) <= min(3, q)", |q, k| (q - k).abs() <= 3.min(q));
    same("q - k in -2 ..= 2", |q, k| (q - k).abs() <= 2);
    same("q - k in -9 .. 10 step 3", |q, k| (-9..10).contains(&(q - k)) && (q - k).rem_euclid(3) == 0);
    same("q - k in 2 ..", |q, k| q - k >= 2);
    same("k in {0, 17, 23}", |_, k| [0, 17, 23].contains(&k));
    same("k in -5 ..", |_, k| k >= 24 - 5);
    same("k in -5 .. -2", |_, k| (19..22).contains(&k));
    same("q in -1 - 1 ..", |q, _| q >= 22);
    same("same block 5", |q, k| q / 5 == k / 5);
    same("k >= n_k - 4 | q < n_q / 4", |q, k| k >= 20 || q < 6);
    same("q.pos == k.pos", |q, k| q == k);
}

#[test]
fn starts_and_other_lengths_shift_positions() {
    let at = |q_start, k_start| Env { q_start, k_start, ..env(5, 16) };
    let text = "require n_q <= n_k\npattern p = causal & k in -7 ..";
    // With keys at 4 .. 20 and queries at 15 .. 20.
    is(text, at(15, 4), |q, k| k + 4 <= q + 15 && k + 4 >= 20 - 7);
    is(text, at(11, 0), |q, k| k <= q + 11 && k >= 16 - 7);
}

#[test]
fn blocks_speak_of_blocks() {
    same("block 4 { causal }", |q, k| k / 4 <= q / 4);
    same("block 4 { q - k in -1 ..= 1 } & causal", |q, k| (q / 4 - k / 4).abs() <= 1 && k <= q);
    same("block 5 { k in -1 .. }", |_, k| k / 5 == 4);
    same("block 5 { k >= n_k - 1 }", |_, k| k / 5 == 4);
    same("block 2 { block 3 { q == k } }", |q, k| q / 6 == k / 6);
    same("block 4 { k in {0, 3} } | same block 4", |q, k| [0, 3].contains(&(k / 4)) || q / 4 == k / 4);
    same("block 4 { q.pos == k.pos }", |q, k| q / 4 == k / 4);
}

#[test]
fn documents_are_local() {
    let docs = [0, 5, 6, 14, 20];
    let doc = |x: i64| docs.iter().rposition(|&b| b <= x).unwrap();
    let begin = |x: i64| docs[doc(x)];
    let packed = || Env { docs: &docs, ..env(20, 20) };
    is("pattern p = same doc", packed(), |q, k| doc(q) == doc(k));
    is("pattern p = q.doc == 1 | k.doc == docs - 1", packed(), |q, k| doc(q) == 1 || doc(k) == 3);
    is("pattern p = each doc { causal & k in 0 .. 2 }", packed(), |q, k| {
        doc(q) == doc(k) && k <= q && k - begin(q) < 2
    });
    is("pattern p = each doc { k in -1 .. }", packed(), |q, k| {
        doc(q) == doc(k) && (k + 1 == 20 || doc(k + 1) > doc(k))
    });
    is("pattern p = each doc { block 2 { q == k } }", packed(), |q, k| {
        doc(q) == doc(k) && (q - begin(q)) / 2 == (k - begin(k)) / 2
    });
    is("pattern p = each doc { k == n_k - 1 & q == n_q - 1 }", packed(), |q, k| q == k && docs.contains(&(q + 1)));
    assert!(program("pattern p = each doc { causal }").uses_docs);
    assert!(!program("pattern p = causal").uses_docs);
}

#[test]
fn axes_relate_tokens_of_their_segment() {
    let space = "space text[3] ++ video(t = 2, h = 3, w = 2) ++ rest[]\n";
    let video = |x: i64| (3..15).contains(&x);
    let (t, h, w) = (|x: i64| (x - 3) / 6, |x: i64| (x - 3) / 2 % 3, |x: i64| (x - 3) % 2);
    let on = |text: &str, formula: &dyn Fn(i64, i64) -> bool| {
        is(&format!("{space}pattern p = {text}"), env(18, 18), formula);
    };
    on("q.t == k.t", &|q, k| video(q) && video(k) && t(q) == t(k));
    on("same h, w", &|q, k| video(q) && video(k) && h(q) == h(k) && w(q) == w(k));
    on("k.t == 1", &|q, k| video(q) && video(k) && t(k) == 1);
    on("!(k.t == 1)", &|q, k| !(video(q) && video(k) && t(k) == 1));
    on("q.h != k.h & k in video", &|q, k| video(q) && video(k) && h(q) != h(k));
    on("k in text | q in text", &|q, k| k < 3 || q < 3);
    on("q in rest", &|q, _| q >= 15);
    on("k.w in 1 ..", &|q, k| video(q) && video(k) && w(k) == 1);
    on("k.h in {0, 2}", &|q, k| video(q) && video(k) && [0, 2].contains(&h(k)));
    on("q.t <= k.t < 1", &|q, k| video(q) && video(k) && t(q) <= t(k) && t(k) < 1);
    on("k == text.len + video.h", &|_, k| k == 6);
    on("disc(h, w, 2)", &|q, k| video(q) && video(k) && (h(q) - h(k)).pow(2) + (w(q) - w(k)).pow(2) < 4);
}

#[test]
fn extents_may_be_given_when_run() {
    let text = "space text[n_text] ++ image(h, w)\nsize n\npattern p = same h & n_text < n | k in text";
    let program = program(text);
    let names: Vec<&str> = program.sizes.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["n_text", "image.w", "image.h", "n"]);
    assert!(program.space.total.is_some());
    let env = Env { sizes: vec![2, 3, 4, 9], ..env(14, 14) };
    let image = |x: i64| x >= 2;
    is(text, env, |q, k| !image(k) || (image(q) && (q - 2) / 3 == (k - 2) / 3));
}

/// NATTEN's rule as its source has it, on one axis.
fn natten(x: i64, len: i64, w: i64, s: i64, dil: i64, causal: bool) -> Vec<i64> {
    let (g, i) = (x % dil, x / dil);
    let n = (len - g + dil - 1) / dil;
    let allowed = |j: i64| {
        if causal {
            let lead = (i / s * s + s - 1).min(n - 1);
            ((lead - w + 1).max(0)..=i).contains(&j)
        } else {
            let (left, right) = (w / 2, w / 2 + w % 2 - 1);
            let center = (i / s * s + s / 2).min(n - 1).max(left).min(n - 1 - right);
            (center - left..=center + right).contains(&j)
        }
    };
    (0..len).filter(|y| y % dil == g && allowed(y / dil)).collect()
}

#[test]
fn near_is_natten_on_one_axis() {
    for len in [7, 12] {
        for w in 1..=len {
            for s in 1..=w {
                for dil in 1..=len / w {
                    for causal in [false, true] {
                        let word = if causal { " causal" } else { "" };
                        let text = format!("space seq(x = {len})\npattern p = near(x = {w} by {s} dilate {dil}{word})");
                        let rows = mask(&program(&text), env(len, len));
                        for q in 0..len {
                            assert_eq!(rows[q as usize], natten(q, len, w, s, dil, causal), "{text} at {q}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn near_has_the_published_vectors() {
    let rows = |near: &str| -> String {
        let rows = mask(&program(&format!("pattern p = near(pos = {near})")), env(12, 12));
        let ends = rows.iter().map(|r| format!("{}-{}", r[0], r[r.len() - 1]));
        ends.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(rows("4"), "0-3 0-3 0-3 1-4 2-5 3-6 4-7 5-8 6-9 7-10 8-11 8-11");
    assert_eq!(rows("4 by 2"), "0-3 0-3 1-4 1-4 3-6 3-6 5-8 5-8 7-10 7-10 8-11 8-11");
    assert_eq!(rows("4 causal"), "0-0 0-1 0-2 0-3 1-4 2-5 3-6 4-7 5-8 6-9 7-10 8-11");
}

#[test]
fn near_on_a_grid_is_a_product() {
    let (hh, ww) = (5, 4);
    is(
        "space text[2] ++ image(h = 5, w = 4)\npattern p = near(h = 3 by 2, w = 2 dilate 2 causal) | k in text",
        env(22, 22),
        |q, k| {
            let (h, w) = (|x: i64| (x - 2) / ww, |x: i64| (x - 2) % ww);
            let near = q >= 2
                && k >= 2
                && natten(h(q), hh, 3, 2, 1, false).contains(&h(k))
                && natten(w(q), ww, 2, 1, 2, true).contains(&w(k));
            near || k < 2
        },
    );
    // An axis that is left out is not restricted.
    is("space image(h = 5, w = 4)\npattern p = near(w = 3)", env(20, 20), |q, k| {
        natten(q % ww, ww, 3, 1, 1, false).contains(&(k % ww))
    });
}

#[test]
fn near_on_an_open_axis_needs_room() {
    let program = program("pattern p = near(pos = 5 dilate 2)");
    let index = program.attentions.iter().position(|a| a.name == "p").unwrap();
    assert!(admit(&program, index, &env(10, 10)).is_ok());
    assert!(admit(&program, index, &env(9, 9)).is_err());
}

#[test]
fn power_attention_has_the_published_rows() {
    let rows = mask(&program("pattern p = causal & (pow2 | q - k in 0 .. 2 | k in 0 .. 1)"), env(10, 10));
    assert_eq!(rows[4], [0, 2, 3, 4]);
    assert_eq!(rows[7], [0, 3, 5, 6, 7]);
    assert_eq!(rows[9], [0, 1, 5, 7, 8, 9]);
    same("pow2", |q, k| q == k || (q > k && (q - k) & (q - k - 1) == 0));
}

#[test]
fn along_an_order() {
    // Places of (h, w) in column-major order; causal and axes stay as they are.
    let column = |x: i64| if x < 2 { x } else { 2 + (x - 2) % 4 * 3 + (x - 2) / 4 };
    let space = "space text[2] ++ image(h = 3, w = 4)\norder z = raster(w, h)\n";
    let on = |text: &str, formula: &dyn Fn(i64, i64) -> bool| {
        is(&format!("{space}pattern p = {text}"), env(14, 14), formula);
    };
    on("along z { q - k in 0 .. 3 }", &|q, k| (0..3).contains(&(column(q) - column(k))));
    on("along z { block 3 { q - k in -1 ..= 1 } }", &|q, k| (column(q) / 3 - column(k) / 3).abs() <= 1);
    on("along z { causal & same block 7 }", &|q, k| k <= q && column(q) / 7 == column(k) / 7);
    on("along z { block 2 { causal } }", &|q, k| k / 2 <= q / 2);
    on("along z { k == q.pos }", &|q, k| column(k) == q);
    on("along z { k in -2 .. & q.h == k.h }", &|q, k| {
        q >= 2 && k >= 2 && column(k) >= 12 && (q - 2) / 4 == (k - 2) / 4
    });
}

#[test]
fn orders_name_axes_of_one_segment() {
    let p = program(
        "space v(t = 2, h = 4, w = 4)\norder a = raster(h, w, t)\norder b = morton(h, w)\n\
         order c = hilbert(h, w)\norder e = tile(h = 2, w = 2)\npattern p = all",
    );
    let kinds: Vec<&OrderKind> = p.orders.iter().map(|o| &o.kind).collect();
    assert!(
        matches!(kinds[..], [OrderKind::Raster(r), OrderKind::Morton(m), OrderKind::Hilbert(_), OrderKind::Tile(t)]
        if r.len() == 3 && m.len() == 2 && t.iter().all(|(_, size)| *size == 2))
    );
    assert_eq!(errors("space v(h = 4, w = 4)\norder a = raster(h)\npattern p = all"), ["E0311"]);
    assert_eq!(errors("space v(h = 4, w = 4)\norder a = morton(h, h)\npattern p = all"), ["E0311"]);
    assert_eq!(errors("space v(h = 4, w = 4)\norder a = tile(h)\npattern p = all"), ["E0311"]);
    assert_eq!(errors("space v(h = 4) ++ u(w = 4)\norder a = morton(h, w)\npattern p = all"), ["E0311"]);
    assert_eq!(errors("space v(h = 4, w = 4)\norder a = spiral(h, w)\npattern p = all"), ["E0214"]);
}

#[test]
fn maps_are_read_by_rows_of_the_launch() {
    let p = program("map tree : bool\npattern p = map tree & causal");
    let data: Vec<u8> = (0..12).map(|i| u8::from(i % 5 == 0)).collect();
    let index = 0;
    let env = Env { q_start: 1, maps: vec![MapData::Dense { data: &data, cols: 4 }], ..env(3, 4) };
    let env = prepare_plainly(&p, &[index], env).unwrap();
    let Source::Tokens(set) = p.attentions[index].entries[0].source else { panic!() };
    let bits = oracle::mask(&p, set, &env).unwrap();
    for q in 0..3 {
        for k in 0..4 {
            assert_eq!(bits[q * 4 + k], (q * 4 + k) % 5 == 0 && k <= q + 1);
        }
    }
    assert!(p.attentions[index].depends_on_alignment);
    let blocks = program("map b : blocks 4\npattern p = map b");
    let data: Vec<u8> = (0..6).map(|i| i % 2).collect();
    let given = Env { q_start: 2, maps: vec![MapData::Dense { data: &data, cols: 3 }], n_q: 7, n_k: 10, ..env };
    let env = prepare_plainly(&blocks, &[0], given).unwrap();
    let Source::Tokens(set) = blocks.attentions[0].entries[0].source else { panic!() };
    let bits = oracle::mask(&blocks, set, &env).unwrap();
    for q in 0..7 {
        for k in 0..10 {
            assert_eq!(bits[q * 10 + k], (q / 4 * 3 + k / 4) % 2 == 1);
        }
    }
    assert!(!program("map tree : bool\npattern p = map tree").attentions[0].depends_on_alignment);
}

#[test]
fn maps_along_an_order_are_read_by_its_places() {
    let text = "space image(h = 2, w = 3)\norder z = raster(w, h)\nmap m : blocks 2\nattention p {\n  empty = zero\n  attend along z { map m }\n}";
    let data = [1, 0, 0, 0, 1, 1, 0, 0, 1];
    let given = || Env { maps: vec![MapData::Dense { data: &data, cols: 3 }], ..env(6, 6) };
    let place = |x: i64| x % 3 * 2 + x / 3;
    is(text, given(), |q, k| data[(place(q) / 2 * 3 + place(k) / 2) as usize] == 1);
    let p = program(text);
    assert!(admit(&p, 0, &given()).is_ok());
    assert!(admit(&p, 0, &Env { n_q: 5, q_start: 1, ..given() }).is_err());
}

#[test]
fn random_choices_are_drawn_from_their_set() {
    let p = program("pattern p = block 2 { random 2 of q - k in 1 .. 6 per q seed 7 } | same block 2");
    assert_eq!(p.draws.len(), 1);
    assert_eq!(p.draws[0].chooser, Chooser::Random { count: 2, seed: 7 });
    assert_eq!((p.draws[0].unit, p.draws[0].scope), (2, DrawScope::Row));
    let rows = mask(&p, env(24, 24));
    for (q, row) in rows.iter().enumerate() {
        let q = q as i64;
        let drawn: Vec<i64> = row.iter().copied().filter(|k| k / 2 != q / 2).collect();
        assert_eq!(drawn.len() as i64, 2 * 2.min(q / 2), "row {q}");
        assert!(drawn.iter().all(|k| (1..6).contains(&(q / 2 - k / 2))), "row {q}: {row:?}");
    }
    let twice =
        program("pattern part(n) = random n of causal per q seed 3\npattern p = part(2) | block 4 { all } & part(2)");
    assert_eq!(twice.draws.len(), 1);
    let head = program("pattern p = random 3 of k in 0 .. 9 per head seed 1");
    let rows = mask(&head, env(12, 12));
    assert!(rows.iter().all(|r| *r == rows[0] && r.len() == 3 && r.iter().all(|k| *k < 9)));
    assert_eq!(errors("pattern p = random 3 of causal per head seed 1"), ["E0209"]);
}

#[test]
fn draws_with_replacement_stand_alone() {
    let p = program("attention p { attend causal & (draw 9 of k in 0 .. 4 per head seed 5) ++ q == k }");
    let Source::Tokens(set) = p.attentions[0].entries[0].source else { panic!("tokens") };
    let drawn = p.multiset(set).expect("a draw");
    assert!(p.draw(drawn).weight.is_some() && p.attentions[0].entries[0].bias.is_none());
    let prepared = prepare_plainly(&p, &[0], env(6, 6)).unwrap();
    let table = &prepared.draws[0];
    assert_eq!((0..4).map(|k| table.times_of(k)).sum::<u32>(), 9);
    let entries = oracle::entries(&p, 0, &prepared, 5).unwrap();
    assert_eq!(entries.len(), 10);
    // The tensor that kernels read says how often, as a logarithm.
    let made = &prepared.tensors[0];
    assert_eq!(made.dims, [6]);
    for k in 0..4 {
        let times = f64::from(table.times_of(k)).max(1.0);
        assert!((f64::from(made.data[k as usize]) - times.ln()).abs() < 1e-6);
    }
    let draw = "(draw 3 of all per head seed 1)";
    for set in [format!("causal | {draw}"), format!("!{draw}"), format!("causal except {draw}")] {
        assert_eq!(errors(&format!("pattern p = {set}")), ["E0411"], "{set}");
    }
    assert_eq!(errors(&format!("pattern p = {draw} & draw 4 of all per head seed 1")), ["E0411"]);
    assert_eq!(errors("pattern p = draw 3 of all per q seed 1"), ["E0209"]);
    assert_eq!(errors(&format!("pattern p = {draw} except causal")), [""; 0]);
    // A random choice without replacement of the same words is another choice.
    let both = program("attention p { attend draw 3 of all per head seed 1 ++ random 3 of all per head seed 1 }");
    assert_eq!((both.draws.len(), both.tensors.len()), (2, 1));
}

#[test]
fn halves_are_recursive() {
    type Part = (i64, i64);
    /// Whether (q, k) is in the halves of `part`, whose depth is below that of the leaves.
    fn holds(node: (i64, u32), n: i64, depth: u32, q: i64, k: i64, below: &dyn Fn(Part, Part) -> bool) -> bool {
        let first = |i: i64, level: u32| (i * n) >> level;
        let (i, level) = node;
        let (begin, end) = (first(i, level), first(i + 1, level));
        if ![q, k].iter().all(|p| (begin..end).contains(p)) {
            return false;
        }
        if level == depth {
            return k <= q;
        }
        let middle = first(2 * i + 1, level + 1);
        let across = q >= middle && k < middle && below((q - middle, end - middle), (k - begin, middle - begin));
        across || (0..2).any(|side| holds((2 * i + side, level + 1), n, depth, q, k, below))
    }
    for n in [1, 2, 3, 7, 12, 13, 31, 40] {
        for least in [1, 2, 5, 16, 64] {
            let depth = (0..).find(|&d| n <= least << d).unwrap();
            let text =
                format!("pattern p = halves(min {least}) {{ diagonal causal; below q - k in 0 .. 3 | k in -1 .. }}");
            is(&text, env(n, n), |q, k| {
                holds((0, 0), n, depth, q, k, &|(q, _), (k, n_k)| (0..3).contains(&(q - k)) || k == n_k - 1)
            });
        }
    }
    let p = program("pattern p = halves(min 4) { diagonal causal; below all }");
    let admits = |env| admit(&p, 0, &env).is_ok();
    assert!(admits(env(9, 9)) && admits(Env { q_start: 6, ..env(3, 9) }) && !admits(Env { k_start: 1, ..env(9, 9) }));
    assert!(admits(env(4 << 16, 4 << 16)) && !admits(env((4 << 16) + 1, (4 << 16) + 1)));
    assert_eq!(errors("pattern p = each doc { halves(min 4) { diagonal causal; below all } }"), ["E0209"]);
    assert_eq!(errors("pattern p = halves(min 4) { diagonal each doc { all }; below all }"), ["E0209"]);
}

#[test]
fn sorts_number_positions_by_values() {
    let values = [2.0, 0.0, 1.0, 0.0, 2.0, 1.0, 7.0, -1.0];
    let place = |p: i64| {
        let own = values[p as usize];
        values.iter().enumerate().filter(|&(i, &v)| v < own || v == own && (i as i64) < p).count() as i64
    };
    let tensor = || crate::env::TensorData { data: (&values).into(), dims: vec![8] };
    let given = || Env { tensors: vec![tensor()], ..env(8, 8) };
    let text = "tensor t[n_k]\norder s = sort(t)\npattern p =";
    is(&format!("{text} along s {{ same block 3 }} & causal"), given(), |q, k| place(q) / 3 == place(k) / 3 && k <= q);
    let two = || Env {
        tensors: vec![tensor(), crate::env::TensorData { data: values[..5].into(), dims: vec![5] }],
        ..env(5, 8)
    };
    let text = "tensor t[n_k]\ntensor u[n_q]\norder s = sort(t)\norder r = sort(u)\npattern p =";
    let first = |q: i64| {
        let own = values[q as usize];
        values[..5].iter().enumerate().filter(|&(i, &v)| v < own || v == own && (i as i64) < q).count() as i64
    };
    is(&format!("{text} along (r, s) {{ q == k }}"), two(), |q, k| first(q) == place(k));
    let p = program(&format!("{text} along (r, s) {{ q == k }}"));
    assert!(admit(&p, 0, &env(5, 8)).is_ok() && admit(&p, 0, &Env { q_start: 3, ..env(5, 8) }).is_err());
    assert_eq!(errors("size n\norder s = sort(n)"), ["E0204"]);
    assert_eq!(errors("tensor t[n_q, n_k]\norder s = sort(t)"), ["E0311"]);
    assert_eq!(errors("tensor t[n_q]\norder s = sort(t = 3)"), ["E0311"]);
}

#[test]
fn the_standard_library_means_its_formulas() {
    let on = |call: &str, formula: &dyn Fn(i64, i64) -> bool| {
        let name = call.split('(').next().unwrap();
        is(&format!("import {name} from \"std\"\npattern p = {call}"), env(24, 24), formula);
    };
    on("band(-2, 5)", &|q, k| (-2..5).contains(&(q - k)));
    on("window(5)", &|q, k| (0..5).contains(&(q - k)));
    on("sliding(3)", &|q, k| (q - k).abs() <= 3);
    on("sinks(4)", &|_, k| k < 4);
    on("recent(4)", &|_, k| k >= 20);
    on("globals(2)", &|q, k| k < 2 || q < 2);
    on("dilated(3, 4)", &|q, k| [0, 4, 8].contains(&(q - k)));
    on("dilated_sliding(2, 3)", &|q, k| (q - k).abs() <= 6 && (q - k) % 3 == 0);
    on("streaming(4, 2)", &|q, k| k <= q && (q - k < 4 || k < 2));
    on("strided(5)", &|q, k| k <= q && (q - k < 5 || (q - k) % 5 == 0));
    on("fixed(6, 2)", &|q, k| k <= q && (q / 6 == k / 6 || k % 6 >= 4));
    on("local_blocks(7)", &|q, k| q / 7 == k / 7);
    on("chunked(7)", &|q, k| k <= q && q / 7 == k / 7);
    on("causal_blocks(7)", &|q, k| k / 7 <= q / 7);
    on("block_band(4, 1)", &|q, k| (q / 4 - k / 4).abs() <= 1);
    on("prefix(6)", &|q, k| k <= q || k < 6);
    on("power(2, 3, 1)", &|q, k| {
        let x = q / 2 - k / 2;
        k <= q && ((x & (x - 1)) == 0 || x < 3 || k / 2 < 1)
    });
    let docs = [0, 10, 24];
    let packed = Env { docs: &docs, ..env(24, 24) };
    is("import causal_docs from \"std\"\npattern p = causal_docs", packed, |q, k| k <= q && (q < 10) == (k < 10));
}

#[test]
fn the_standard_library_is_listed_and_checks_alone() {
    let names: Vec<&str> =
        STD.lines().filter_map(|l| l.strip_prefix("pattern ")).map(|l| l.split(['(', ' ']).next().unwrap()).collect();
    assert_eq!(names, STANDARD);
    let (program, diagnostics) = check(&[module(STD, 0, vec![])], &Settings::default());
    assert!(diagnostics.is_empty(), "{diagnostics:#?}");
    assert_eq!(program.unwrap().attentions.len(), 1);
}

#[test]
fn patterns_expand_where_they_are_used() {
    same("block 4 { f(2) }\npattern f(n) = q - k in 0 .. n", |q, k| (0..2).contains(&(q / 4 - k / 4)));
    same("blocks(causal)\npattern blocks(S) = block 4 { S }", |q, k| k / 4 <= q / 4);
    same("f(f(causal))\npattern f(S) = S | k in 0 .. 2", |q, k| k <= q || k < 2);
    same("f(2 * 3, none)\npattern f(n, S) = g(n + 1) | S\npattern g(m) = q - k in 0 .. m", |q, k| {
        (0..7).contains(&(q - k))
    });
    same("f(q - k)\npattern f(x) = x in 0 .. 3", |q, k| (0..3).contains(&(q - k)));
    same("x & y\npattern x = causal\npattern y = !(q == k)", |q, k| k < q);
}

#[test]
fn settings_choose_params() {
    let text =
        "param n = 4\nparam m = n * 2\nparam x = 0.5\npattern p = q - k in 0 .. m\nattention a { scale = x attend p }";
    let width = |set: &[(&str, &str)]| mask(&compile(text, set).0.unwrap(), env(24, 24))[23].len();
    assert_eq!(width(&[]), 8);
    assert_eq!(width(&[("n", "3")]), 6);
    assert_eq!(width(&[("n", "3"), ("m", "1_0"), ("x", "2")]), 10);
    let code = |set: &[(&str, &str)]| compile(text, set).1.iter().map(|d| d.code).collect::<Vec<_>>();
    assert_eq!(code(&[("k", "3")]), ["E0308"]);
    assert_eq!(code(&[("n", "3.5")]), ["E0309"]);
    assert_eq!(code(&[("n", "99999999999999999999")]), ["E0309"]);
    assert_eq!(code(&[("x", "inf")]), ["E0309"]);
    assert_eq!(code(&[("n", "0")]), ["E0306"]);
    let help = compile(text, &[("nn", "3")]).1[0].help.clone().unwrap();
    assert!(help.contains("--set n=3"), "{help}");
}

#[test]
fn attentions_keep_what_is_written() {
    let p = program(
        "tensor sinks[heads, 2]\nrequire n_q <= 4096\nattention a {\n  scale = 1.0 / d\n  score = 30 * tanh(score / 30)\n  \
         align = end\n  empty = zero\n  attend causal bias head * (q - k) ++ all @ tokens ++ null 2 bias sinks[head, slot]\n}",
    );
    let a = attention(&p, "a");
    assert_eq!(a.entries.len(), 3);
    assert!(matches!(a.entries[2].source, Source::Null(2)));
    assert!(a.demands.iter().all(|d| d.otherwise == "does not hold") && a.depends_on_alignment);
    for id in [Some(a.scale), a.score, a.entries[0].bias, a.entries[2].bias] {
        assert_eq!(p.exprs.ty(id.unwrap()), Ty::Real);
    }
    assert!(p.exprs.reads(a.score.unwrap(), |v| v == Var::Score));
    // The head is always within `heads`; a slot is brought into the tensor.
    let Node::Load(_, indices) = p.exprs.node(a.entries[2].bias.unwrap()) else { panic!() };
    assert_eq!(*p.exprs.node(indices[0]), Node::Var(Var::Head));
    let defaults = program("pattern p = all");
    let a = attention(&defaults, "p");
    assert!(a.demands.len() == 2 && !a.depends_on_alignment && a.score.is_none());
    for (n_q, n_k, fine) in [(1, 1, true), (0, 1, false), (3, 2, false), (2, 7, true)] {
        let env = env(n_q, n_k);
        let mut evaluator = oracle::Evaluator::new(&defaults, &env, &[a.require]);
        assert_eq!(evaluator.truth(a.require, oracle::Point::default()).unwrap(), fine);
    }
}

#[test]
fn alignment_matters_where_positions_are_compared() {
    let depends = |set: &str| attention(&program(&format!("pattern p = {set}")), "p").depends_on_alignment;
    assert!(depends("causal"));
    assert!(depends("same block 4"));
    assert!(depends("k in 0 .. 4 | q - k in 0 .. 2"));
    assert!(depends("same doc"));
    assert!(!depends("all"));
    assert!(!depends("k in 0 .. 4 | q in 0 .. 4"));
}

#[test]
fn coordinates_in_scores_are_zero_outside_their_segment() {
    let p = program(
        "tensor rel[7]\nspace text[2] ++ image(h = 4, w = 2)\nattention p {\n  attend all bias rel[q.h - k.h + 3]\n}",
    );
    let a = attention(&p, "p");
    let data: Vec<f32> = (0..7).map(|i| i as f32).collect();
    let tensor = crate::env::TensorData { data: (&data).into(), dims: vec![7] };
    let env = Env { tensors: vec![tensor], ..env(10, 10) };
    let mut evaluator = oracle::Evaluator::new(&p, &env, &[a.entries[0].bias.unwrap()]);
    for q in 0..10 {
        for k in 0..10 {
            let h = |x: i64| if x < 2 { 0 } else { (x - 2) / 2 };
            let value = evaluator.real(a.entries[0].bias.unwrap(), oracle::Point::pair(q, k)).unwrap();
            assert_eq!(value, (h(q) - h(k) + 3) as f64, "{q} {k}");
        }
    }
}

#[test]
fn models_are_flattened() {
    let p = program(
        "pattern a = causal\npattern b = all\nmodel m(layers = 6, heads = 8 on 2) {\n  when layer % 3 == 2 => a\n  \
         layer 0 { 0 .. 4 => a, 5 | 6 => q - k in 0 .. 9, _ => skip }\n  _ => b\n}",
    );
    let m = &p.models[0];
    assert_eq!((m.layers, m.steps, m.heads, m.kv_heads, m.head_map.clone()), (6, 1, 8, 2, None));
    let chosen = |layer, head| {
        let env = Env { layer, head, heads: 8, ..env(1, 1) };
        let arm = m.arms.iter().find(|arm| {
            oracle::Evaluator::new(&p, &env, &[arm.when]).truth(arm.when, oracle::Point::default()).unwrap()
        });
        arm.unwrap().attention.map(|i| p.attentions[i].name.clone())
    };
    assert_eq!(chosen(0, 3).as_deref(), Some("a"));
    assert_eq!(chosen(0, 5).as_deref(), Some("q - k in 0 .. 9"));
    assert_eq!(chosen(0, 4), None);
    assert_eq!(chosen(2, 0).as_deref(), Some("a"));
    assert_eq!(chosen(4, 0).as_deref(), Some("b"));
}

#[test]
fn heads_map_where_they_divide_or_where_it_is_written() {
    let map = |heads: &str| {
        let (p, d) = compile(&format!("model m(layers = 1, heads = {heads}) {{ _ => all }}"), &[]);
        p.map(|p| p.models[0].head_map.clone()).ok_or_else(|| d[0].code)
    };
    assert_eq!(map("8"), Ok(None));
    assert_eq!(map("8 on 2"), Ok(None));
    assert_eq!(map("4 on 8"), Ok(None));
    assert_eq!(map("6 on 4"), Err("E0407"));
    assert_eq!(map("6 on 4 by head * 4 / 6"), Ok(Some(vec![0, 0, 1, 2, 2, 3])));
    assert_eq!(map("6 on 4 by head"), Err("E0407"));
}

#[test]
fn a_mistake_is_said_once_and_others_are_found() {
    let text = "pattern a = windwo(3) & q - k\npattern b = a | causl\npattern c = b & (q + causal) in 0 .. 3\npattern f(x) = nope & x";
    assert_eq!(errors(text), ["E0201", "E0204", "E0201", "E0204", "E0201"]);
    let (_, diagnostics) = compile("pattern p = windwo(3)\npattern window_of(n) = q - k in 0 .. n", &[]);
    assert_eq!(diagnostics[0].help.as_deref(), Some("declare it: `param windwo = 1024` or `size windwo`"));
    let (_, diagnostics) = compile("pattern p = window(3)", &[]);
    assert_eq!(diagnostics[0].help.as_deref(), Some("import it: `import window from \"std\"`"));
    let (_, diagnostics) = compile("pattern edge = all\npattern p = egde", &[]);
    assert_eq!(diagnostics[0].help.as_deref(), Some("did you mean `edge`?"));
}

#[test]
fn an_error_inside_a_pattern_points_back_to_its_use() {
    let text = "import window from \"std\"\npattern p = window(0)";
    let (_, diagnostics) = compile(text, &[]);
    assert_eq!(diagnostics[0].code, "E0306");
    let used = &diagnostics[0].labels[1];
    assert_eq!(used.span.file, FileId(1));
    assert_eq!(&text[used.span.start as usize..used.span.end as usize], "window(0)");
}

#[test]
fn sets_remember_where_they_were_written() {
    let text = "import window from \"std\"\npattern p = window(7) | k in 0 .. 3";
    let p = program(text);
    let Source::Tokens(set) = attention(&p, "p").entries[0].source else { panic!() };
    let Node::Or(arms) = p.exprs.node(set) else { panic!() };
    let written: Vec<&str> = arms
        .iter()
        .map(|&arm| p.exprs.span(arm).unwrap())
        .inspect(|span| assert_eq!(span.file, FileId(1)))
        .map(|span| &text[span.start as usize..span.end as usize])
        .collect();
    assert_eq!(written, ["window(7)", "k in 0 .. 3"]);
}

#[test]
fn long_unions_and_deep_brackets_are_fine() {
    let arms: Vec<String> = (0..50_000).map(|i| format!("q - k == {i}")).collect();
    let text = format!("pattern p = {}", arms.join(" | "));
    let parsed = module(&text, 1, vec![]);
    let start = std::time::Instant::now();
    assert!(check(&[parsed], &Settings::default()).0.is_some());
    let took = start.elapsed();
    assert!(took.as_secs() < 5, "{took:?}");

    let depth = 190;
    let deep = format!("pattern p = {}causal{}", "!(all & (".repeat(depth / 3), "))".repeat(depth / 3));
    program(&deep);
}

#[test]
fn expansions_are_bounded() {
    let mut text = String::from("pattern p0(n) = q - k in 0 .. n\n");
    for i in 1..40 {
        text.push_str(&format!("pattern p{i}(n) = p{}(n) | p{}(n + 1)\n", i - 1, i - 1));
    }
    text.push_str("pattern p = p39(1)\n");
    assert_eq!(errors(&text), ["E0213"]);
    let chain: String = (1..100).map(|i| format!("pattern p{i} = p{} & causal\n", i - 1)).collect();
    assert_eq!(errors(&format!("pattern top = p99\npattern p0 = all\n{chain}")), ["E0213"]);
    // Bodies as deep as the parser lets them be, inside one another, on the stack of a test.
    let deep = |i: usize| format!("pattern p{i}(n) = {}p{}(n){}\n", "!(".repeat(95), i - 1, ")".repeat(95));
    let bodies: String = (1..30).map(deep).collect();
    assert_eq!(errors(&format!("pattern p0(n) = k == n\n{bodies}pattern p = p29(3)")), ["E0213"]);
    let calls = format!("pattern p = {}causal{}\npattern f(S) = S | k == 3", "f(".repeat(150), ")".repeat(150));
    assert!(compile(&calls, &[]).0.is_some());
}

/// Expressions of any kind, most of which mean nothing.
fn nonsense() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "q",
        "k",
        "0",
        "1",
        "-3",
        "2.5",
        "9223372036854775807",
        "n_k",
        "head",
        "d",
        "score",
        "slot",
        "docs",
        "causal",
        "none",
        "same doc",
        "pow2",
        "w",
        "s",
        "m",
        "f",
        "g(2)",
        "g",
        "h(all)",
        "text",
        "q.pos",
        "k.h",
        "image.w",
        "text.len",
        "k.doc",
        "same h, w",
        "near(h = 3 by 2, w = w)",
        "disc(h, w, 2)",
        "k in text",
        "map m",
        "t[head]",
        "random 2 of causal per q seed 1",
        "min(q, k)",
        "log(3)",
        "unknown",
        "z",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(5, 40, 3, |inner| {
        let shape = prop::sample::select(vec![
            "(A) + (B)",
            "(A) - (B)",
            "(A) * (B)",
            "(A) / (B)",
            "(A) % (B)",
            "-(A)",
            "!(A)",
            "(A) & (B)",
            "(A) | (B)",
            "(A) except (B)",
            "(A) < (B)",
            "(A) == (B) != (C)",
            "(A) in (B) .. (C)",
            "k in -(A) ..",
            "(A) in {(B), (C)}",
            "(A) in .. (B) step 3",
            "block (A) { (B) }",
            "along z { A }",
            "each doc { A }",
            "same block (A)",
            "h(A)",
            "g(A)",
            "abs(A)",
            "max(A, B)",
            "sqrt(A)",
            "t[A]",
            "random 2 of (A) per head seed (B)",
            "near(h = (A))",
        ]);
        (shape, inner.clone(), inner.clone(), inner)
            .prop_map(|(shape, a, b, c)| shape.replace('A', &a).replace('B', &b).replace('C', &c))
    })
}

proptest! {
    #[test]
    fn nothing_panics(a in nonsense(), b in nonsense(), c in nonsense()) {
        let text = format!(
            "space text[3] ++ image(h = 4, w)\norder z = hilbert(h, w)\nsize s\nparam w = 3\nmap m : csr\ntensor t[heads]\n\
             pattern f = causal\npattern g(x) = q - k in 0 .. x\npattern h(S) = S & {a}\npattern p = {b}\n\
             attention a {{\n  score = {c}\n  require {a}\n  attend {b} bias {a} ++ null 2 bias {b}\n}}\n\
             model mm(layers = 2, heads = 2) {{\n  when {a} => {b}\n  _ => all\n}}"
        );
        let parsed = parse(&text, FileId(1));
        let modules = [Module { file: FileId(1), ast: parsed.file, imports: vec![] }];
        let (program, diagnostics) = check(&modules, &Settings::default());
        prop_assert_eq!(program.is_none(), diagnostics.iter().any(|d| d.severity == Severity::Error));
    }
}

#[test]
fn every_example_gives_its_code() {
    for info in CODES.iter().filter(|info| !info.example.is_empty()) {
        let imports = info.example.lines().filter(|l| l.starts_with("import ")).map(|_| FileId(0)).collect();
        let modules = [module(STD, 0, vec![]), module(info.example, 1, imports)];
        let (program, diagnostics) = check(&modules, &Settings::default());
        assert!(program.is_none(), "{}", info.code);
        // One code more than the others is shown for too many of them.
        let others = if info.code == "E0215" { "E0201" } else { info.code };
        assert!(diagnostics.iter().all(|d| d.code == others || d.code == info.code), "{}: {diagnostics:#?}", info.code);
        assert_eq!(diagnostics.last().map(|d| d.code), Some(info.code));
        assert!(diagnostics.iter().all(|d| d.help.is_some()), "{}: {diagnostics:#?}", info.code);
    }
    let mut codes: Vec<&str> = CODES.iter().map(|c| c.code).collect();
    let listed = codes.len();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), listed);
}

#[test]
fn every_reported_code_is_listed() {
    let sources = [
        include_str!("arith.rs"),
        include_str!("attention.rs"),
        include_str!("decls.rs"),
        include_str!("forms.rs"),
        include_str!("lower.rs"),
        include_str!("mod.rs"),
        include_str!("model.rs"),
        include_str!("names.rs"),
        include_str!("resolve.rs"),
        include_str!("space.rs"),
    ];
    for source in sources {
        for (i, _) in source.match_indices("\"E0") {
            let code = &source[i + 1..i + 6];
            assert!(CODES.iter().any(|c| c.code == code), "{code} is not listed");
        }
    }
}
