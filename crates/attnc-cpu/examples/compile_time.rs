//! Median time from a plan to machine code, for patterns written with expressions.
//!
//! `cargo run --release -p attnc-cpu --example compile_time`

#![allow(clippy::print_stdout, reason = "the table is what the example is for")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use attnc_cpu::{Options, compile};
use attnc_pattern::expr::{ExprId, Exprs, Un, Var};
use attnc_pattern::program::{Attention, Entry, Program, Source};
use attnc_plan::VerifiedPlan;

/// A set, and a modifier of scores.
type Pattern = fn(&mut Exprs) -> (ExprId, Option<ExprId>);

fn main() {
    let patterns: [(&str, Pattern); 7] = [
        ("dense", |e| (e.bool(true), None)),
        ("causal", |e| (causal(e), None)),
        ("window", |e| (window(e, 1024), None)),
        ("streaming", |e| (streaming(e), None)),
        ("dilated", dilated),
        ("alibi", alibi),
        ("softcap", softcap),
    ];
    println!("{:10} {:>9} {:>9} {:>7}", "pattern", "median us", "first us", "bytes");
    for (name, pattern) in patterns {
        let plan = plan(name, pattern);
        let mut times: Vec<Duration> = (0..500)
            .map(|_| {
                let start = Instant::now();
                let kernel = compile(&plan, &Options::default()).expect("compiles");
                let time = start.elapsed();
                drop(kernel);
                time
            })
            .collect();
        let first = times[0].as_micros();
        times.sort_unstable();
        let bytes = compile(&plan, &Options::default()).expect("compiles").code_bytes();
        println!("{name:10} {:>9} {first:>9} {bytes:>7}", times[times.len() / 2].as_micros());
    }
}

/// The plan of one attention of one set.
fn plan(name: &str, pattern: Pattern) -> VerifiedPlan {
    let mut program = Program::default();
    let e = &mut program.exprs;
    let (set, score) = pattern(e);
    let dim = e.var(Var::Dim);
    let dim = e.to_real(dim);
    let root = e.un(Un::Sqrt, dim);
    let one = e.real(1.0);
    let (scale, require) = (e.div(one, root), e.bool(true));
    let span = Default::default();
    program.attentions.push(Attention {
        name: name.to_owned(),
        docs: vec![],
        scale,
        score,
        align: None,
        empty: None,
        require,
        demands: vec![],
        depends_on_alignment: false,
        merge: None,
        pooled: None,
        entries: vec![Entry { source: Source::Tokens(set), bias: None, score: None, span }],
        span,
    });
    attnc_plan::build(&Arc::new(program), 0, &attnc_plan::Options::default()).expect("has a plan").plan
}

/// `k <= q`
fn causal(e: &mut Exprs) -> ExprId {
    let (q, k) = (e.var(Var::Q), e.var(Var::K));
    e.le(k, q)
}

/// `q - k in 0 .. width`
fn window(e: &mut Exprs, width: i64) -> ExprId {
    let (q, k, width) = (e.var(Var::Q), e.var(Var::K), e.int(width));
    let distance = e.sub(q, k);
    let near = e.lt(distance, width);
    let causal = causal(e);
    e.and([causal, near])
}

/// `causal & (q - k in 0 .. 1024 | k in 0 .. 4)`
fn streaming(e: &mut Exprs) -> ExprId {
    let (k, four) = (e.var(Var::K), e.int(4));
    let (sink, window, causal) = (e.lt(k, four), window(e, 1024), causal(e));
    let near = e.or([sink, window]);
    e.and([causal, near])
}

/// `q - k in 0 .. 512 step 8`
fn dilated(e: &mut Exprs) -> (ExprId, Option<ExprId>) {
    let (q, k, eight, zero) = (e.var(Var::Q), e.var(Var::K), e.int(8), e.int(0));
    let distance = e.sub(q, k);
    let rest = e.modulo(distance, eight);
    let (tooth, window) = (e.eq(rest, zero), window(e, 512));
    (e.and([tooth, window]), None)
}

/// Causal with `score + exp(-head) * (k - q)`.
fn alibi(e: &mut Exprs) -> (ExprId, Option<ExprId>) {
    let (q, k, score, head) = (e.var(Var::Q), e.var(Var::K), e.var(Var::Score), e.var(Var::Head));
    let (distance, head) = (e.sub(k, q), e.to_real(head));
    let head = e.un(Un::Neg, head);
    let (slope, distance) = (e.un(Un::Exp, head), e.to_real(distance));
    let fall = e.mul(slope, distance);
    (causal(e), Some(e.add(score, fall)))
}

/// Causal with `30 * tanh(score / 30)`.
fn softcap(e: &mut Exprs) -> (ExprId, Option<ExprId>) {
    let (score, cap) = (e.var(Var::Score), e.real(30.0));
    let x = e.div(score, cap);
    let x = e.un(Un::Tanh, x);
    (causal(e), Some(e.mul(x, cap)))
}
