//! The oracle against cases computed by hand and against closed forms.

use attnc_pattern::env::{DrawTable, Env, MapData, TensorData};
use attnc_pattern::expr::{Bin, DrawId, ExprId, MapId, Node, TensorId, Un, Var};
use attnc_pattern::oracle::{
    Attended, Evaluator, FaultKind, Head, OracleError, Output, Point, Slot, Value, View, attend, entries, mask,
    membership, row,
};
use attnc_pattern::program::{Attention, Empty, Entry, Map, MapKind, Program, Source, Tensor};
use attnc_pattern::random::fill_normal;
use attnc_pattern::tolerance::{Rounding, Target, compare};
use proptest::prelude::*;

/// An attention over the given sets, of scale 1.
fn attention(p: &mut Program, sets: &[ExprId]) -> Attention {
    let (scale, require) = (p.exprs.real(1.0), p.exprs.bool(true));
    let entry =
        |&set: &ExprId| Entry { source: Source::Tokens(set), bias: None, score: None, span: Default::default() };
    Attention {
        name: "a".into(),
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
        entries: sets.iter().map(entry).collect(),
        span: Default::default(),
    }
}

fn causal(p: &mut Program) -> ExprId {
    let (q, k) = (p.exprs.var(Var::Q), p.exprs.var(Var::K));
    p.exprs.le(k, q)
}

fn env(n_q: i64, n_k: i64, dim: i64) -> Env<'static> {
    Env { n_q, n_k, dim, heads: 1, ..Env::default() }
}

/// One head of attention 0.
fn run(p: &Program, env: &Env<'_>, q: &[f32], k: &[f32], v: &[f32]) -> Result<Output, OracleError> {
    let view = |data, n: i64| View::dense(data, [1, n as usize, data.len() / n.max(1) as usize]).unwrap();
    let head = Head { attention: Some(0), env, kv_head: 0 };
    attend(p, &[head], view(q, env.n_q), view(k, env.n_k), view(v, env.n_k))
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-12
}

#[test]
fn integers_floor_and_errors_are_values() {
    let mut p = Program::default();
    let (q, k) = (p.exprs.var(Var::Q), p.exprs.var(Var::K));
    let div = p.exprs.intern(Node::Bin(Bin::Div, q, k));
    let rem = p.exprs.intern(Node::Bin(Bin::Mod, q, k));
    let e = env(0, 0, 1);
    let mut eval = Evaluator::new(&p, &e, &[div, rem]);
    for a in -9..=9_i64 {
        for b in [-4, -3, -1, 1, 3, 5_i64] {
            let floor = (a as f64 / b as f64).floor() as i128;
            assert_eq!(eval.int(div, Point::pair(a, b)).unwrap(), floor);
            assert_eq!(eval.int(rem, Point::pair(a, b)).unwrap(), i128::from(a) - floor * i128::from(b));
        }
    }
    assert_eq!(eval.int(div, Point::pair(1, 0)).unwrap_err().kind, FaultKind::DivisionByZero);
    assert_eq!(eval.int(rem, Point::pair(7, 2)).unwrap(), 1);
    assert_eq!(eval.int(div, Point::default()).unwrap_err().kind, FaultKind::Unbound);
    assert_eq!(eval.truth(div, Point::pair(4, 2)).unwrap_err().kind, FaultKind::Kind);
}

#[test]
fn an_error_matters_only_where_it_decides() {
    let mut p = Program::default();
    let (q, k, zero) = (p.exprs.var(Var::Q), p.exprs.var(Var::K), p.exprs.int(0));
    let ratio = p.exprs.intern(Node::Bin(Bin::Div, q, k));
    let faulty = p.exprs.lt(zero, ratio);
    let known = p.exprs.lt(q, zero);
    let and = p.exprs.intern(Node::And(vec![faulty, known]));
    let or = p.exprs.intern(Node::Or(vec![faulty, known]));
    let other = p.exprs.bool(false);
    let select = p.exprs.intern(Node::Select(known, other, faulty));
    let e = env(0, 0, 1);
    let at = |root, q| membership(&p, root, &e, q, 0);
    assert!(!at(and, 5).unwrap());
    assert_eq!(at(and, -5).unwrap_err().kind, FaultKind::DivisionByZero);
    assert!(at(or, -5).unwrap());
    assert_eq!(at(or, 5).unwrap_err().kind, FaultKind::DivisionByZero);
    assert!(!at(select, -5).unwrap());
    assert!(at(select, 5).is_err());
}

#[test]
fn integers_beyond_64_bits_are_exact_and_beyond_128_an_error() {
    let mut p = Program::default();
    let q = p.exprs.var(Var::Q);
    let square = p.exprs.intern(Node::Bin(Bin::Mul, q, q));
    let fourth = p.exprs.intern(Node::Bin(Bin::Mul, square, square));
    let root = p.exprs.un(Un::Isqrt, square);
    let log = p.exprs.un(Un::Log2, square);
    let e = env(0, 0, 1);
    let mut eval = Evaluator::new(&p, &e, &[fourth, root, log]);
    let at = Point { q: Some(i64::MAX), ..Point::default() };
    assert_eq!(eval.value(square, at).unwrap(), Value::Int(i128::from(i64::MAX).pow(2)));
    assert_eq!(eval.int(root, at).unwrap(), i128::from(i64::MAX));
    assert_eq!(eval.int(log, at).unwrap(), 125);
    assert_eq!(eval.int(fourth, at).unwrap_err().kind, FaultKind::Overflow);
    let none = Point { q: Some(0), ..Point::default() };
    assert_eq!((eval.int(log, none).unwrap(), eval.int(root, none).unwrap()), (-1, 0));
}

#[test]
fn documents_may_be_empty() {
    let mut p = Program::default();
    let q = p.exprs.var(Var::Q);
    let doc = p.exprs.un(Un::DocOf, q);
    let (begin, end) = (p.exprs.un(Un::DocBegin, doc), p.exprs.un(Un::DocEnd, doc));
    let e = Env { docs: &[0, 3, 3, 5], ..env(0, 0, 1) };
    let mut eval = Evaluator::new(&p, &e, &[doc, begin, end]);
    let mut at = |q| {
        let point = Point { q: Some(q), ..Point::default() };
        [doc, begin, end].map(|x| eval.int(x, point).ok())
    };
    assert_eq!(at(2), [Some(0), Some(0), Some(3)]);
    assert_eq!(at(3), [Some(2), Some(3), Some(5)]);
    assert_eq!(at(5), [None, None, None]);
    assert_eq!(at(-1), [None, None, None]);
}

#[test]
fn an_index_outside_a_tensor_is_named() {
    let mut p = Program::default();
    let (q, k) = (p.exprs.var(Var::Q), p.exprs.var(Var::K));
    p.tensors.push(Tensor { name: "table".into(), dims: vec![], of: None, span: Default::default() });
    let load = p.exprs.intern(Node::Load(TensorId(0), vec![q, k]));
    let data: Vec<f32> = (0..6_u8).map(f32::from).collect();
    let e = Env { tensors: vec![TensorData { data: (&data).into(), dims: vec![2, 3] }], ..env(0, 0, 1) };
    let mut eval = Evaluator::new(&p, &e, &[load]);
    assert_eq!(eval.real(load, Point::pair(1, 2)).unwrap(), 5.0);
    for (q, k) in [(2, 0), (0, 3), (-1, 4)] {
        let error = eval.real(load, Point::pair(q, k)).unwrap_err();
        assert_eq!(error.kind, FaultKind::OutOfRange);
        assert_eq!(error.message, format!("index [{q}, {k}] lies outside tensor `table`"));
        assert_eq!(error.diagnostic().code, "E0708");
    }
}

#[test]
fn maps_of_both_kinds_hold_the_same_pairs() {
    let mut p = Program::default();
    let (q, k) = (p.exprs.var(Var::Q), p.exprs.var(Var::K));
    for kind in [MapKind::Bool, MapKind::Csr] {
        p.maps.push(Map { name: "m".into(), kind, per_head: false, span: Default::default() });
    }
    let [dense, csr] = [0, 1].map(|m| p.exprs.intern(Node::MapAt(MapId(m), q, k)));
    let e = Env {
        maps: vec![
            MapData::Dense { data: &[1, 0, 1, 0, 0, 0, 0, 9, 0], cols: 3 },
            MapData::Csr { indptr: &[0, 2, 2, 3], indices: &[0, 2, 1] },
        ],
        ..env(3, 3, 1)
    };
    let expected = [true, false, true, false, false, false, false, true, false];
    assert_eq!(mask(&p, dense, &e).unwrap(), expected);
    assert_eq!(mask(&p, csr, &e).unwrap(), expected);
}

#[test]
fn two_keys_by_hand() {
    let mut p = Program::default();
    let all = p.exprs.bool(true);
    let a = attention(&mut p, &[all]);
    p.attentions.push(a);
    // Weights 1 and 3: (1 * 0 + 3 * 4) / 4.
    let out = run(&p, &env(1, 2, 1), &[1.0], &[0.0, 3_f32.ln()], &[0.0, 10.0, 4.0, -2.0]).unwrap();
    assert_eq!(out.shape, [1, 1, 2]);
    assert!((out.out[0] - 3.0).abs() < 1e-6 && (out.out[1] - 1.0).abs() < 1e-6);
    assert!((out.lse[0] - 4_f64.ln()).abs() < 1e-6);
    let facts = out.rows[0];
    assert_eq!((facts.entries, facts.max_score, facts.max_value), (2, f64::from(3_f32.ln()), 10.0));
}

#[test]
fn large_scores_do_not_overflow() {
    let mut p = Program::default();
    let all = p.exprs.bool(true);
    let a = attention(&mut p, &[all]);
    p.attentions.push(a);
    let out = run(&p, &env(1, 2, 1), &[1.0], &[4000.0, 4000.0], &[1.0, 2.0]).unwrap();
    assert_eq!((out.out[0], out.lse[0]), (1.5, 4000.0 + 2_f64.ln()));
}

#[test]
fn entries_add_up_and_a_union_does_not() {
    let mut p = Program::default();
    let set = causal(&mut p);
    let union = p.exprs.or([set, set]);
    let (once, twice) = (attention(&mut p, &[union]), attention(&mut p, &[set, set]));
    let log2 = p.exprs.real(2_f64.ln());
    let mut weighted = attention(&mut p, &[set]);
    weighted.entries[0].bias = Some(log2);
    p.attentions = vec![once, twice, weighted];
    let e = env(5, 5, 2);
    let mut data = [0.0; 10];
    fill_normal(1, &mut data);
    let view = View::dense(&data, [1, 5, 2]).unwrap();
    let [once, twice, weighted] =
        [0, 1, 2].map(|a| attend(&p, &[Head { attention: Some(a), env: &e, kv_head: 0 }], view, view, view).unwrap());
    for i in 0..5 {
        assert!(near(twice.lse[i], once.lse[i] + 2_f64.ln()) && near(twice.lse[i], weighted.lse[i]));
        assert!(near(twice.out[2 * i], once.out[2 * i]) && near(weighted.out[2 * i + 1], once.out[2 * i + 1]));
        assert_eq!(twice.rows[i].entries, 2 * once.rows[i].entries);
    }
    assert_eq!(row(&p, 1, &e, 1).unwrap(), [(0, 2), (1, 2)]);
    let listed = entries(&p, 1, &e, 1).unwrap();
    let at = |entry, k| Attended { entry, slot: Slot::Token(k) };
    assert_eq!(listed, [at(0, 0), at(0, 1), at(1, 0), at(1, 1)]);
}

#[test]
fn null_slots_take_weight_and_give_nothing() {
    let mut p = Program::default();
    let all = p.exprs.bool(true);
    let mut a = attention(&mut p, &[all]);
    p.tensors.push(Tensor { name: "sink".into(), dims: vec![], of: None, span: Default::default() });
    let (head, slot) = (p.exprs.var(Var::Head), p.exprs.var(Var::Slot));
    let bias = p.exprs.intern(Node::Load(TensorId(0), vec![head, slot]));
    a.entries.push(Entry { source: Source::Null(2), bias: Some(bias), score: None, span: Default::default() });
    p.attentions.push(a);
    let sinks = [9.0, 9.0, 0.5, -1.0_f32];
    let e = Env { head: 1, tensors: vec![TensorData { data: (&sinks).into(), dims: vec![2, 2] }], ..env(1, 2, 1) };
    let out = run(&p, &e, &[2.0], &[0.25, -0.5], &[3.0, -1.0]).unwrap();
    let (a, b) = (0.5_f64.exp(), (-1.0_f64).exp());
    let total = a + b + 0.5_f64.exp() + (-1.0_f64).exp();
    assert!(near(out.out[0], (3.0 * a - b) / total));
    assert!(near(out.lse[0], total.ln()));
    assert_eq!(out.rows[0].entries, 4);
    assert_eq!(row(&p, 0, &e, 0).unwrap(), [(0, 1), (1, 1)]);
    assert_eq!(entries(&p, 0, &e, 0).unwrap()[3], Attended { entry: 1, slot: Slot::Null(1) });
}

#[test]
fn null_slots_without_bias_have_logit_0() {
    let mut p = Program::default();
    let mut a = attention(&mut p, &[]);
    a.entries.push(Entry { source: Source::Null(3), bias: None, score: None, span: Default::default() });
    p.attentions.push(a);
    let out = run(&p, &env(1, 1, 1), &[1.0], &[1.0], &[1.0]).unwrap();
    assert_eq!((out.out[0], out.lse[0]), (0.0, 3_f64.ln()));
}

#[test]
fn scale_modifier_and_bias_in_this_order() {
    let mut p = Program::default();
    let all = p.exprs.bool(true);
    let mut a = attention(&mut p, &[all]);
    let (dim, score, k) = (p.exprs.var(Var::Dim), p.exprs.var(Var::Score), p.exprs.var(Var::K));
    let (dim, k) = (p.exprs.to_real(dim), p.exprs.to_real(k));
    let (one, three) = (p.exprs.real(1.0), p.exprs.real(3.0));
    let root = p.exprs.un(Un::Sqrt, dim);
    a.scale = p.exprs.div(one, root);
    let ratio = p.exprs.div(score, three);
    let tanh = p.exprs.un(Un::Tanh, ratio);
    a.score = Some(p.exprs.mul(three, tanh));
    a.entries[0].bias = Some(k);
    p.attentions.push(a);
    let k = [1.0, 2.0, 3.0, 4.0, 0.0, -1.0, 2.0, 1.0_f32];
    let out = run(&p, &env(1, 2, 4), &[1.0, -1.0, 0.5, 2.0], &k, &[1.0, 0.0]).unwrap();
    let logit = |dot: f64, bias: f64| 3.0 * (dot / 2.0 / 3.0).tanh() + bias;
    let (a, b) = (logit(8.5, 0.0).exp(), logit(4.0, 1.0).exp());
    assert!(near(out.out[0], a / (a + b)) && near(out.lse[0], (a + b).ln()));
    assert!(near(out.rows[0].max_score, logit(4.0, 1.0).max(logit(8.5, 0.0))));
}

#[test]
fn rows_without_weight_are_zero_or_an_error() {
    let mut p = Program::default();
    let (q, k, two) = (p.exprs.var(Var::Q), p.exprs.var(Var::K), p.exprs.int(2));
    let end = p.exprs.sub(q, two);
    let set = p.exprs.le(k, end);
    let a = attention(&mut p, &[set]);
    p.attentions.push(a);
    let x = [1.0, 2.0, 3.0, 4.0];
    let out = run(&p, &env(4, 4, 1), &x, &x, &x).unwrap();
    assert_eq!((&out.out[..3], &out.lse[..2]), (&[0.0, 0.0, 1.0][..], &[f64::NEG_INFINITY; 2][..]));
    p.attentions[0].empty = Some(Empty::Error);
    let error = run(&p, &Env { q_start: 1, ..env(4, 4, 1) }, &x, &x, &x).unwrap_err();
    assert!(matches!(&error, OracleError::EmptyRow { q: 1, head: 0, .. }), "{error:?}");
    assert_eq!(error.diagnostic().code, "E0709");
    // All logits -inf: nothing, but not empty.
    let all = p.exprs.bool(true);
    let infinity = p.exprs.real(f64::NEG_INFINITY);
    p.attentions[0].entries[0] =
        Entry { source: Source::Tokens(all), bias: Some(infinity), score: None, span: Default::default() };
    let out = run(&p, &env(4, 4, 1), &x, &x, &x).unwrap();
    assert!(out.out.iter().all(|&o| o == 0.0) && out.lse.iter().all(|&l| l == f64::NEG_INFINITY));
    assert_eq!((out.rows[0].entries, out.rows[0].max_score), (4, 1.0 * 4.0));
}

#[test]
fn non_finite_keys_and_values_stay_in_their_rows() {
    let mut p = Program::default();
    let set = causal(&mut p);
    let a = attention(&mut p, &[set]);
    p.attentions.push(a);
    let mut x = vec![0.0; 8 * 4];
    fill_normal(3, &mut x);
    let clean = run(&p, &env(8, 8, 4), &x, &x, &x).unwrap();
    for (bad, in_values) in [(f32::NAN, true), (f32::INFINITY, true), (f32::NAN, false), (f32::INFINITY, false)] {
        let mut spoilt = x.clone();
        spoilt[5 * 4 + 1] = bad;
        let (k, v) = if in_values { (&x, &spoilt) } else { (&spoilt, &x) };
        let out = run(&p, &env(8, 8, 4), &x, k, v).unwrap();
        assert_eq!(out.out[..20], clean.out[..20]);
        assert_eq!(out.lse[..5], clean.lse[..5]);
        assert!(!out.out[21].is_finite() || out.lse[5] != clean.lse[5]);
        assert_eq!(out.rows[..5], clean.rows[..5]);
        let skipped = compare(&out, Target { out: &|_, r, c| out.out[r * 4 + c], lse: None }, Rounding::default(), 0);
        assert!(skipped.passed() && skipped.compared >= 5);
    }
}

#[test]
fn heads_share_keys_skip_and_pad() {
    let mut p = Program::default();
    let set = causal(&mut p);
    let a = attention(&mut p, &[set]);
    p.attentions.push(a);
    // Queries are interleaved [rows, heads, dim]; keys are dense.
    let mut q = vec![0.0; 3 * 4 * 2];
    let mut kv = vec![0.0; 2 * 3 * 2];
    fill_normal(5, &mut q);
    fill_normal(6, &mut kv);
    let q_view = View::strided(&q, [4, 3, 2], [2, 8, 1]).unwrap();
    let kv_view = View::dense(&kv, [2, 3, 2]).unwrap();
    let (full, short) = (env(3, 3, 2), env(2, 2, 2));
    let head = |attention, env, kv_head| Head { attention, env, kv_head };
    let heads = [head(Some(0), &full, 0), head(Some(0), &full, 1), head(None, &full, 1), head(Some(0), &short, 1)];
    let out = attend(&p, &heads, q_view, kv_view, kv_view).unwrap();
    for (h, g) in [(0, 0), (1, 1)] {
        let q: Vec<f32> = (0..3).flat_map(|r| q[r * 8 + h * 2..][..2].to_vec()).collect();
        let alone = run(&p, &full, &q, &kv[g * 6..][..6], &kv[g * 6..][..6]).unwrap();
        assert_eq!((&out.out[h * 6..][..6], &out.lse[h * 3..][..3]), (&alone.out[..], &alone.lse[..]));
    }
    assert!(out.out[12..18].iter().all(|&o| o == 0.0) && out.lse[6..9].iter().all(|&l| l == f64::NEG_INFINITY));
    assert_eq!(out.rows.iter().filter(|r| r.padding).count(), 1);
    assert!(out.rows[11].padding && !out.rows[10].padding);
    for wrong in [env(4, 3, 2), env(3, 4, 2), env(3, 3, 1)] {
        let heads = [Head { attention: Some(0), env: &wrong, kv_head: 0 }; 4];
        assert!(matches!(attend(&p, &heads, q_view, kv_view, kv_view), Err(OracleError::Shape(_))));
    }
    assert!(View::strided(&q, [4, 3, 2], [2, 9, 1]).is_none());
    assert!(View::dense(&q, [4, 3, 3]).is_none());
}

#[test]
fn a_draw_is_read_by_row_and_rank() {
    let mut p = Program::default();
    let (q, k) = (p.exprs.var(Var::Q), p.exprs.var(Var::K));
    let of = p.exprs.bool(true);
    p.draws.push(attnc_pattern::program::Draw {
        chooser: attnc_pattern::program::Chooser::Random { count: 2, seed: 0 },
        of,
        unit: 1,
        scope: attnc_pattern::program::DrawScope::Row,
        weight: None,
        span: Default::default(),
    });
    let drawn = p.exprs.intern(Node::Drawn(DrawId(0), q, k));
    let at = p.exprs.intern(Node::DrawAt(DrawId(0), q, k));
    let table = DrawTable { chosen: [1, 3, 2, -1].into(), count: 2, first: 5, counts: [].into(), times: [].into() };
    let e = Env { draws: vec![table], ..env(2, 4, 1) };
    let mut eval = Evaluator::new(&p, &e, &[drawn, at]);
    assert!(eval.truth(drawn, Point::pair(5, 3)).unwrap() && !eval.truth(drawn, Point::pair(6, 3)).unwrap());
    assert!(!eval.truth(drawn, Point::pair(6, -1)).unwrap());
    assert_eq!(eval.int(at, Point::pair(5, 1)).unwrap(), 3);
    assert_eq!(eval.int(at, Point::pair(6, 1)).unwrap(), -1);
    assert_eq!(eval.int(at, Point::pair(6, 2)).unwrap_err().kind, FaultKind::OutOfRange);
    assert_eq!(eval.truth(drawn, Point::pair(7, 0)).unwrap_err().kind, FaultKind::OutOfRange);
}

proptest! {
    /// Attention over two disjoint sets is the lse-weighted mean of the attentions over each.
    #[test]
    fn parts_merge(seed: u64, cut in 0_i64..9, n in 1_i64..9) {
        let mut p = Program::default();
        let (k, cut) = (p.exprs.var(Var::K), p.exprs.int(cut));
        let all = p.exprs.bool(true);
        let low = p.exprs.lt(k, cut);
        let high = p.exprs.le(cut, k);
        p.attentions = [all, low, high].map(|set| attention(&mut p, &[set])).to_vec();
        let mut x = vec![0.0; 3 * n as usize * 4];
        fill_normal(seed, &mut x);
        let shape = [1, n as usize, 4];
        let [q, k, v] = [0, 1, 2].map(|i| View::dense(&x[i * n as usize * 4..][..n as usize * 4], shape).unwrap());
        let e = env(n, n, 4);
        let [whole, a, b] = [0, 1, 2]
            .map(|i| attend(&p, &[Head { attention: Some(i), env: &e, kv_head: 0 }], q, k, v).unwrap());
        for i in 0..n as usize {
            let (wa, wb) = ((a.lse[i] - whole.lse[i]).exp(), (b.lse[i] - whole.lse[i]).exp());
            prop_assert!(near(wa + wb, 1.0));
            for c in 4 * i..4 * i + 4 {
                prop_assert!(near(wa * a.out[c] + wb * b.out[c], whole.out[c]));
                prop_assert!(whole.out[c].abs() <= whole.rows[i].max_value);
            }
        }
    }
}
