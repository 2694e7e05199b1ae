//! Kernels give their memory back. A process of its own, so that nothing else moves the figure.

#![cfg(target_os = "linux")]

use std::sync::Arc;

use attnc_cpu::{Options, compile};
use attnc_pattern::expr::Var;
use attnc_pattern::program::{Attention, Entry, Program, Source};

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok()).expect("pages") * 4096
}

#[test]
fn ten_thousand_kernels_leave_nothing() {
    let mut program = Program::default();
    let e = &mut program.exprs;
    let (q, k) = (e.var(Var::Q), e.var(Var::K));
    let (set, scale, require) = (e.le(k, q), e.real(0.125), e.bool(true));
    program.attentions.push(Attention {
        name: "causal".to_owned(),
        docs: vec![],
        scale,
        score: None,
        align: None,
        empty: None,
        require,
        demands: vec![],
        depends_on_alignment: false,
        merge: None,
        pooled: None,
        entries: vec![Entry { source: Source::Tokens(set), bias: None, score: None, span: Default::default() }],
        span: Default::default(),
    });
    let built = attnc_plan::build(&Arc::new(program), 0, &attnc_plan::Options::default()).expect("has a plan");
    let options = Options { verify: false, ..Options::default() };
    let many = |n| (0..n).for_each(|_| drop(compile(&built.plan, &options).expect("compiles")));
    many(500);
    let before = resident();
    many(10_000);
    // A kernel holds at least a page: one in a hundred left behind would be seen.
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 * 4096, "{grown} bytes");
}
