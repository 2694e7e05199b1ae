//! What is built without text is what its text parses to.

use attnc_syntax::ast::{CmpOp, Expr, File, MapKind};
use attnc_syntax::construct::{
    AttentionBuilder, FileBuilder, block, call, each_doc, field, index, k, map, name, q, same_axes, same_block,
    same_doc,
};
use attnc_syntax::diag::FileId;
use attnc_syntax::{dump, parse, print_expr, print_file};

fn pattern(set: Expr) -> File {
    FileBuilder::new().pattern("p", set).build()
}

fn agrees(file: &File) {
    let text = print_file(file);
    let parsed = parse(&text, FileId::default());
    assert!(parsed.diagnostics.is_empty(), "{:?}\n{text}", parsed.diagnostics);
    assert_eq!(dump(&parsed.file), dump(file), "{text}");
}

#[test]
fn every_operator_agrees_with_the_parser() {
    let near = || (q() - k()).within(0, name("w") * 2 + 1);
    let causal = || name("causal");
    let sets: Vec<(Expr, &str)> = vec![
        (near(), "q - k in 0 .. w * 2 + 1"),
        (near() | causal() | name("all"), "q - k in 0 .. w * 2 + 1 | causal | all"),
        (causal() & (near() | k().within(0, 4)), "causal & (q - k in 0 .. w * 2 + 1 | k in 0 .. 4)"),
        (causal().except(near()).except(same_doc()), "causal except q - k in 0 .. w * 2 + 1 except same doc"),
        (causal().except(near()) | name("all"), "(causal except q - k in 0 .. w * 2 + 1) | all"),
        (!(causal() | near()), "!(causal | q - k in 0 .. w * 2 + 1)"),
        (!causal() & !near(), "!causal & !q - k in 0 .. w * 2 + 1"),
        (((q() - k()) * 2 - (q() + k())).compare(CmpOp::Le, -3), "(q - k) * 2 - (q + k) <= -3"),
        (Expr::from(0).compare(CmpOp::Le, q() - k()).compare(CmpOp::Lt, 8), "0 <= q - k < 8"),
        (((q() - k()) % 7).compare(CmpOp::Eq, q() / (k() / 3)), "(q - k) % 7 == q / (k / 3)"),
        ((q() - k()).within_step(-128, 128, 8), "q - k in -128 .. 128 step 8"),
        (k().in_range(Some((-32).into()), None, None), "k in -32 .."),
        (k().in_range(None, Some(9.into()), Some(2.into())), "k in .. 9 step 2"),
        (k().one_of([0, 17, 93]), "k in {0, 17, 93}"),
        (q().in_segment("text"), "q in text"),
        (block(64, q().compare(CmpOp::Eq, k())), "block 64 { q == k }"),
        (block(name("b") * 2, causal()), "block (b * 2) { causal }"),
        (same_block(64) & same_axes(["h"]), "same block 64 & same h"),
        (same_axes(["h", "w"]) | causal(), "(same h, w) | causal"),
        (each_doc(near()) | map("tree"), "each doc { q - k in 0 .. w * 2 + 1 } | map tree"),
        (
            call("window", [512]) & call("both", [causal(), near()]),
            "window(512) & both(causal, q - k in 0 .. w * 2 + 1)",
        ),
        (field("q", "t").compare(CmpOp::Ge, -field("k", "t")), "q.t >= -k.t"),
    ];
    for (set, text) in sets {
        assert_eq!(print_expr(&set), text);
        agrees(&pattern(set));
    }
}

#[test]
fn every_item_agrees_with_the_parser() {
    let attention = AttentionBuilder::new()
        .require(name("n_q").compare(CmpOp::Ge, 1))
        .scale(0.125)
        .score(name("score") - index("slopes", ["head"]) * call("abs", [q() - k()]))
        .align("end")
        .empty("zero")
        .attend(call("near_by", [name("window")]))
        .bias(-1.5)
        .attend(map("keep"))
        .null(2);
    let file = FileBuilder::new()
        .import(["sinks", "band"], "std")
        .param("window", 1024)
        .size("prefix")
        .tensor("slopes", ["heads"])
        .map("keep", MapKind::Blocks(64.into()), true)
        .grid("video", [("t", Some(4.into())), ("h", None)])
        .pattern("local", (q() - k()).within(0, "window"))
        .attention("both", attention)
        .build();
    agrees(&file);
    assert!(print_file(&file).contains("attend near_by(window) bias -1.5 ++ map keep ++ null 2"));
}
