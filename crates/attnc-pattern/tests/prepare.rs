//! What is asked of the data of a run, and what is computed from it once.

use attnc_pattern::env::{Env, MapData, TensorData};
use attnc_pattern::expr::{DrawId, ExprId, MapId, Node, TensorId, Un, Var};
use attnc_pattern::oracle::{Evaluator, Point};
use attnc_pattern::prepare::{EnvError, admit, check_env, prepare, prepare_plainly, starts};
use attnc_pattern::program::{
    Align, Attention, Chooser, Draw, DrawScope, Entry, Map, MapKind, Program, Size, Source, Tensor,
};
use attnc_pattern::random::choose;

fn program(set: impl FnOnce(&mut Program) -> ExprId) -> Program {
    let mut p = Program::default();
    let set = set(&mut p);
    let scale = p.exprs.real(1.0);
    let (one, n_q, n_k) = (p.exprs.int(1), p.exprs.var(Var::NQ), p.exprs.var(Var::NK));
    let (some, fits) = (p.exprs.le(one, n_q), p.exprs.le(n_q, n_k));
    let require = p.exprs.and([some, fits]);
    p.attentions.push(Attention {
        name: "a".into(),
        docs: vec![],
        scale,
        score: None,
        align: None,
        empty: None,
        require,
        demands: vec![],
        depends_on_alignment: true,
        merge: None,
        pooled: None,
        entries: vec![Entry { source: Source::Tokens(set), bias: None, score: None, span: Default::default() }],
        span: Default::default(),
    });
    p
}

fn env(n_q: i64, n_k: i64) -> Env<'static> {
    Env { n_q, n_k, dim: 1, heads: 1, ..Env::default() }
}

fn codes(p: &Program, env: &Env<'_>) -> Vec<&'static str> {
    check_env(p, &[0], env).err().unwrap_or_default().iter().map(|e| e.diagnostic().code).collect()
}

fn map(kind: MapKind) -> Program {
    program(|p| {
        p.maps.push(Map { name: "m".into(), kind, per_head: false, span: Default::default() });
        let (q, k) = (p.exprs.var(Var::Q), p.exprs.var(Var::K));
        p.exprs.intern(Node::MapAt(MapId(0), q, k))
    })
}

/// `random 3 of causal per SCOPE`, by `unit` positions.
fn random(unit: i64, scope: DrawScope) -> Program {
    program(|p| {
        let (q, k) = (p.exprs.var(Var::Q), p.exprs.var(Var::K));
        let of = if scope == DrawScope::Row { p.exprs.le(k, q) } else { p.exprs.bool(true) };
        p.draws.push(Draw {
            chooser: Chooser::Random { count: 3, seed: 7 },
            of,
            unit,
            scope,
            weight: None,
            span: Default::default(),
        });
        let unit = p.exprs.int(unit);
        let (row, candidate) = (p.exprs.div(q, unit), p.exprs.div(k, unit));
        p.exprs.intern(Node::Drawn(DrawId(0), row, candidate))
    })
}

#[test]
fn sizes_and_lengths() {
    let mut p = program(|p| p.exprs.bool(true));
    assert_eq!(codes(&p, &env(0, 0)), [""; 0]);
    p.sizes = ["a", "b"].map(|name| Size { name: name.into(), span: Default::default() }).to_vec();
    assert_eq!(codes(&p, &Env { sizes: vec![-1], ..env(1, 1) }), ["E0701", "E0701"]);
    assert_eq!(codes(&p, &Env { sizes: vec![0, 0], q_start: -1, ..env(-1, 1) }), ["E0702", "E0702"]);
    assert_eq!(codes(&p, &Env { sizes: vec![0, 0], k_start: i64::MAX, ..env(1, 1) }), ["E0702"]);
    p.space.total = Some(p.exprs.int(10));
    assert_eq!(codes(&p, &Env { sizes: vec![0, 0], q_start: 7, ..env(3, 10) }), [""; 0]);
    assert_eq!(codes(&p, &Env { sizes: vec![0, 0], q_start: 8, ..env(3, 11) }), ["E0702"]);
}

#[test]
fn documents() {
    let p = program(|p| {
        let (q, k) = (p.exprs.var(Var::Q), p.exprs.var(Var::K));
        let (a, b) = (p.exprs.un(Un::DocOf, q), p.exprs.un(Un::DocOf, k));
        p.exprs.eq(a, b)
    });
    let with = |docs| codes(&p, &Env { docs, ..env(4, 4) });
    assert_eq!((with(&[0, 2, 2, 4]), with(&[0, 9])), (vec![], vec![]));
    for wrong in [&[][..], &[0, 3], &[1, 4], &[0, 3, 2, 4]] {
        assert_eq!(with(wrong), ["E0703"], "{wrong:?}");
    }
}

#[test]
fn maps() {
    let fits = |kind, data| codes(&map(kind), &Env { maps: vec![data], ..env(3, 4) }).is_empty();
    let ones = [1; 12];
    assert!(fits(MapKind::Bool, MapData::Dense { data: &ones, cols: 4 }));
    assert!(!fits(MapKind::Bool, MapData::Dense { data: &ones, cols: 3 }));
    assert!(!fits(MapKind::Bool, MapData::Dense { data: &ones[..8], cols: 4 }));
    assert!(fits(MapKind::Blocks(2), MapData::Dense { data: &ones[..4], cols: 2 }));
    assert!(!fits(MapKind::Blocks(3), MapData::Dense { data: &ones[..4], cols: 2 }));
    assert!(!fits(MapKind::Bool, MapData::Absent));
    let csr = |indptr, indices| fits(MapKind::Csr, MapData::Csr { indptr, indices });
    assert!(csr(&[0, 2, 2, 3], &[0, 3, 1]));
    assert!(!csr(&[0, 2, 3], &[0, 3, 1]));
    assert!(!csr(&[0, 2, 2, 4], &[0, 3, 1]));
    assert!(!csr(&[1, 2, 2, 3], &[0, 3, 1]));
    assert!(!csr(&[0, 3, 2, 3], &[0, 2, 3]));
    assert!(!csr(&[0, 2, 2, 3], &[3, 0, 1]));
    assert!(!csr(&[0, 2, 2, 3], &[3, 3, 1]));
    assert!(!csr(&[0, 2, 2, 3], &[0, 4, 1]));
    assert!(!csr(&[0, 2, 2, 3], &[-1, 3, 1]));
    assert!(!fits(MapKind::Csr, MapData::Dense { data: &ones, cols: 4 }));
}

#[test]
fn tensors_are_asked_for_only_where_they_are_read() {
    let mut p = program(|p| p.exprs.bool(true));
    let (n_q, n_k, zero) = (p.exprs.var(Var::NQ), p.exprs.var(Var::NK), p.exprs.int(0));
    p.tensors.push(Tensor { name: "t".into(), dims: vec![n_q, n_k], of: None, span: Default::default() });
    assert_eq!(codes(&p, &env(2, 3)), [""; 0]);
    let bias = p.exprs.intern(Node::Load(TensorId(0), vec![zero, zero]));
    p.attentions[0].entries[0].bias = Some(bias);
    let data = [0.0; 6];
    let fits = |data: &[f32], dims: &[usize]| {
        codes(&p, &Env { tensors: vec![TensorData { data: data.to_vec().into(), dims: dims.to_vec() }], ..env(2, 3) })
            .is_empty()
    };
    assert!(fits(&data, &[2, 3]));
    assert!(!fits(&data, &[3, 2]) && !fits(&data, &[6]) && !fits(&data[..5], &[2, 3]) && !fits(&[], &[]));
    let error = &check_env(&p, &[0], &env(2, 3)).unwrap_err()[0];
    assert_eq!(error.to_string(), "tensor `t` was not given");
}

#[test]
fn alignment_and_require() {
    let mut p = program(|p| p.exprs.bool(true));
    let a = &mut p.attentions[0];
    assert_eq!(starts(a, (4, 4), (None, None)).unwrap(), (0, 0));
    assert_eq!(starts(a, (1, 9), (None, None)).unwrap_err().diagnostic().code, "E0711");
    assert_eq!(starts(a, (1, 9), (Some(3), Some(2))).unwrap(), (3, 2));
    a.align = Some(Align::End);
    assert_eq!(starts(a, (1, 9), (None, None)).unwrap(), (8, 0));
    assert_eq!(starts(a, (9, 1), (None, None)).unwrap_err().diagnostic().code, "E0702");
    a.align = Some(Align::Start);
    assert_eq!(starts(a, (9, 1), (None, None)).unwrap(), (0, 0));
    assert!(admit(&p, 0, &env(2, 2)).is_ok());
    let error = admit(&p, 0, &env(3, 2)).unwrap_err();
    assert!(matches!(error, EnvError::Require { lengths: (3, 2), .. }));
}

#[test]
fn draws_of_a_row_are_the_same_in_prefill_chunks_and_decode() {
    let p = random(1, DrawScope::Row);
    let whole = prepare_plainly(&p, &[0], env(12, 12)).unwrap();
    let count = |env: &Env<'_>, q| {
        let Source::Tokens(set) = p.attentions[0].entries[0].source else { unreachable!() };
        let mut eval = Evaluator::new(&p, env, &[set]);
        (0..env.n_k).filter(|&k| eval.truth(set, Point::pair(q, k)).unwrap()).collect::<Vec<_>>()
    };
    for q in 0..12 {
        let ranks = choose(7, 0, 0, q, 3, q as u64 + 1);
        let expected: Vec<i64> = ranks.iter().map(|&r| r as i64).collect();
        assert_eq!(count(&whole, q), expected);
        let decode = prepare_plainly(&p, &[0], Env { q_start: q, ..env(1, q + 1) }).unwrap();
        assert_eq!(count(&decode, q), expected);
    }
    let other = prepare_plainly(&p, &[0], Env { head: 1, ..env(12, 12) }).unwrap();
    assert_ne!(whole.draws[0].chosen, other.draws[0].chosen);
}

#[test]
fn draws_of_blocks_cover_the_blocks_that_are_touched() {
    let p = random(4, DrawScope::Row);
    let e = prepare_plainly(&p, &[0], Env { q_start: 6, ..env(7, 16) }).unwrap();
    let table = &e.draws[0];
    assert_eq!((table.first, table.chosen.len()), (1, 9));
    assert_eq!(table.chosen[..3], [0, 1, -1]);
    assert_eq!(table.chosen[3..6], [0, 1, 2]);
    assert!(prepare_plainly(&p, &[0], env(0, 16)).unwrap().draws[0].chosen.is_empty());
}

#[test]
fn draws_of_a_head_have_one_row() {
    let p = random(1, DrawScope::Head);
    let e = prepare_plainly(&p, &[0], Env { q_start: 6, ..env(2, 16) }).unwrap();
    assert_eq!((e.draws[0].first, e.draws[0].chosen.len()), (0, 3));
    let Source::Tokens(set) = p.attentions[0].entries[0].source else { unreachable!() };
    let mut eval = Evaluator::new(&p, &e, &[set]);
    let mut row = |q| (0..16).map(|k| eval.truth(set, Point::pair(q, k)).unwrap()).collect::<Vec<_>>();
    assert_eq!(row(6), row(7));
    assert_eq!(row(6).iter().filter(|&&x| x).count(), 3);
}

#[test]
fn candidates_may_come_as_long_ranges_and_fail() {
    let p = random(1, DrawScope::Row);
    let plain = prepare_plainly(&p, &[0], env(9, 9)).unwrap();
    let ranges = prepare(&p, &[0], env(9, 9), |_, _, row, found| {
        found.push(0..row + 1);
        Ok(())
    });
    assert_eq!(plain.draws[0].chosen, ranges.unwrap().draws[0].chosen);
    let failed = prepare(&p, &[0], env(9, 9), |_, _, _, _| Err(EnvError::Space { value: -1 }));
    assert_eq!(failed.unwrap_err(), [EnvError::Space { value: -1 }]);
}
