//! Values of levels and merges by hand, and the judge of selections against tables that are nearly right.

use attnc_pattern::check::{Module, Settings, check};
use attnc_pattern::env::{DrawTable, Env, TensorData};
use attnc_pattern::oracle::{Head, Output, View, attend, attend_given, judge, select};
use attnc_pattern::prepare::prepare_plainly;
use attnc_pattern::program::Program;
use attnc_syntax::diag::FileId;

fn program(source: &str) -> Program {
    let file = FileId::default();
    let parsed = attnc_syntax::parse(source, file);
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    let (program, said) = check(&[Module { file, ast: parsed.file, imports: vec![] }], &Settings::default());
    program.unwrap_or_else(|| panic!("{said:?}"))
}

/// One head with one dimension, and what is given beside it.
struct Case {
    program: Program,
    attention: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    tensors: Vec<(Vec<f32>, Vec<usize>)>,
    sizes: Vec<i64>,
}

impl Case {
    fn new(source: &str, name: &str, q: &[f32], k: &[f32], v: &[f32]) -> Case {
        let program = program(source);
        let attention = program.attentions.iter().position(|a| a.name == name).expect("declared");
        Case { program, attention, q: q.to_vec(), k: k.to_vec(), v: v.to_vec(), tensors: vec![], sizes: vec![] }
    }

    fn with<T>(&self, work: impl FnOnce(&[Head<'_>], [View<'_>; 3]) -> T) -> T {
        let tensor =
            |(data, dims): &(Vec<f32>, Vec<usize>)| TensorData { data: data.clone().into(), dims: dims.clone() };
        let env = Env {
            n_q: self.q.len() as i64,
            n_k: self.k.len() as i64,
            heads: 1,
            dim: 1,
            sizes: self.sizes.clone(),
            tensors: self.tensors.iter().map(tensor).collect(),
            ..Env::default()
        };
        let env = prepare_plainly(&self.program, &[self.attention], env).expect("fits");
        let view = |x| View::dense(x, [1, x.len(), 1]).expect("a line");
        let views = [view(&self.q), view(&self.k), view(&self.v)];
        work(&[Head { attention: Some(self.attention), env: &env, kv_head: 0 }], views)
    }

    fn output(&self) -> Output {
        self.with(|heads, [q, k, v]| attend(&self.program, heads, q, k, v).expect("runs"))
    }

    fn tables(&self) -> Vec<Vec<DrawTable>> {
        self.with(|heads, [q, k, v]| select(&self.program, heads, q, k, v).expect("runs"))
    }

    fn misfits(&self, tables: &[Vec<DrawTable>]) -> Vec<String> {
        let found = self.with(|heads, [q, k, v]| judge(&self.program, heads, q, k, v, tables).expect("runs"));
        found.iter().map(ToString::to_string).collect()
    }
}

fn near(got: f64, wanted: f64) {
    assert!((got - wanted).abs() < 1e-6, "{got} for {wanted}");
}

#[test]
fn slots_weigh_as_their_bias_says() {
    // With q = 0 every logit is its bias: weights 2, 2 and 1.
    let source = "level g = mean(2) of k, v\nattention p { attend all @ g bias log(2) ++ k in 0 .. 1 }";
    let case = Case::new(source, "p", &[0.0; 5], &[1.0, 2.0, 3.0, 4.0, 9.0], &[1.0, 3.0, 5.0, 7.0, 8.0]);
    let output = case.output();
    // Means 2, 6 and, of the short last slot, 8.
    near(output.out[0], (2.0 * 2.0 + 2.0 * 6.0 + 2.0 * 8.0 + 1.0) / 7.0);
    near(output.lse[0], 7.0_f64.ln());
}

#[test]
fn every_way_to_pool() {
    let one = |pool: &str, q: f32, k: &[f32], v: &[f32]| {
        let source = format!("level g = {pool}\nattention p {{ attend all @ g }}");
        let output = Case::new(&source, "p", &vec![q; k.len()], k, v).output();
        (output.out[0], output.lse[0])
    };
    // <q, k> with the pooled key is the log-sum-exp of one slot.
    let (out, lse) = one("max(4) of k, v", 1.0, &[1.0, 5.0, 2.0], &[1.0, -2.0, 0.5]);
    near(out, 1.0);
    near(lse, 5.0);
    // The query of the slot is the maximum of its queries, here 2; values by exp(2 * 1), exp(2 * 2).
    let (out, lse) = one("softmax_mean(2) of q, k, v", 2.0, &[1.0, 2.0], &[10.0, 20.0]);
    let weights = (2.0_f64.exp(), 4.0_f64.exp());
    near(out, (10.0 * weights.0 + 20.0 * weights.1) / (weights.0 + weights.1));
    near(lse, 4.0);
    // Scale 6 / 7 of three bits and a sign, then of 127 steps.
    let (_, lse) = one("int4(4) of k, v", 1.0, &[6.0], &[1.0]);
    near(lse, 6.0);
    let (out, _) = one("int4(4) of v", 0.0, &[0.0, 0.0], &[7.0, 2.4]);
    near(out, (7.0 + 2.0) / 2.0);
    let (out, _) = one("int8(1) of v", 0.0, &[0.0, 0.0], &[7.0, 2.4]);
    near(out, (7.0 + f64::from(2.4_f32)) / 2.0);
}

#[test]
fn a_convolution_weighs_by_place() {
    let source = "space image(h = 2, w = 3)\ntensor W[2, 2]\nlevel g = conv(h = 2, w = 2, W) of k, v\n\
                  attention p { attend all @ g }";
    let mut case = Case::new(source, "p", &[0.0; 6], &[0.0; 6], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    case.tensors = vec![(vec![1.0, 10.0, 100.0, 1000.0], vec![2, 2])];
    // Boxes {1 2 4 5} and, cut by the border, {3 6}: the places of the column that is missing add nothing.
    let boxes = (1.0 + 20.0 + 400.0 + 5000.0, 3.0 + 600.0);
    near(case.output().out[0], (boxes.0 + boxes.1) / 2.0);
}

#[test]
fn queries_between_slots() {
    let source = "space image(h = 1, w = 4)\nlevel g = mean(w = 2) of q, k, v\n\
                  attention p { queries = g bilinear\n attend q / 2 == k / 2 @ g }\n\
                  attention n { queries = g\n attend q / 2 == k / 2 @ g }";
    let v = [0.0, 2.0, 4.0, 10.0];
    // Slots have the values 1 and 7; the places of the queries are -1/4 (clamped to 0), 1/4, 3/4 and 1.
    let between = Case::new(source, "p", &[0.0; 4], &[0.0; 4], &v).output();
    let wanted = [1.0, 1.0 + 6.0 / 4.0, 1.0 + 6.0 * 3.0 / 4.0, 7.0];
    between.out.iter().zip(wanted).for_each(|(&got, wanted)| near(got, wanted));
    assert!(between.rows.iter().all(|r| r.merged));
    let own = Case::new(source, "n", &[0.0; 4], &[0.0; 4], &v).output();
    own.out.iter().zip([1.0, 1.0, 7.0, 7.0]).for_each(|(&got, wanted)| near(got, wanted));
}

#[test]
fn merges_weigh_and_average() {
    let source = "tensor g[n_q]\nattention a { attend k == 0 }\nattention b { attend k == 1 }\n\
                  merge gated = gate(g[q]) of a, b\nmerge even = mean of a, b\n\
                  merge three = mean of b over 3 where q + branch < 3";
    let one = |name: &str| {
        let mut case = Case::new(source, name, &[0.0; 4], &[0.0; 4], &[1.0, 5.0, 9.0, 9.0]);
        case.tensors = vec![(vec![0.0, 0.25, 0.5, 1.0], vec![4])];
        case.output().out
    };
    one("gated").iter().zip([5.0, 4.0, 3.0, 1.0]).for_each(|(&got, wanted)| near(got, wanted));
    one("even").iter().for_each(|&got| near(got, 3.0));
    // No branch takes the last query.
    one("three").iter().zip([5.0, 5.0, 5.0, 0.0]).for_each(|(&got, wanted)| near(got, wanted));
}

#[test]
fn the_judge_allows_what_rounding_may_do() {
    let source = "select s = top 2 of dot(q, k) per q\nattention p { empty = zero\n attend s }";
    // Scores 1, 1 + 1e-7, 3 and 0.5 in each row: the second place is open between two.
    let k = [1.0, 1.0 + f32::EPSILON, 3.0, 0.5];
    let case = Case::new(source, "p", &[1.0, 1.0], &k, &[1.0, 2.0, 3.0, 4.0]);
    let own = case.tables();
    assert_eq!(own[0][0].chosen[..], [1, 2, 1, 2]);
    let given = |chosen: &[i64], counts: &[u32]| {
        let width = chosen.len() / 2;
        vec![vec![DrawTable { chosen: chosen.into(), count: width, first: 0, counts: counts.into(), times: [].into() }]]
    };
    assert!(case.misfits(&own).is_empty());
    assert!(case.misfits(&given(&[0, 2, 1, 2], &[2, 2])).is_empty());
    let wrong = [
        (given(&[2, 3, 1, 2], &[2, 2]), "holds slot 3"),
        (given(&[0, 1, 1, 2], &[2, 2]), "lacks slot 2"),
        (given(&[2, -1, 1, 2], &[1, 2]), "holds 1 slots"),
        (given(&[2, 1, 1, 2], &[2, 2]), "do not ascend"),
        (given(&[2, 7, 1, 2], &[2, 2]), "slot 7 is no candidate"),
    ];
    for (tables, said) in wrong {
        let found = case.misfits(&tables);
        assert!(found.iter().any(|m| m.contains(said)), "{said}: {found:?}");
    }
    // Output and log-sum-exp follow the tables that are given.
    let output = case.with(|heads, [q, k, v]| {
        attend_given(&case.program, heads, q, k, v, &given(&[2, -1, 3, -1], &[1, 1])).expect("runs")
    });
    assert_eq!((output.out[0], output.out[1]), (3.0, 4.0));
}

#[test]
fn the_judge_follows_a_search_and_a_share() {
    let tree = "tensor x[n_k]\nselect s = refine 2 of x[k] per q\nattention p { empty = zero\n attend s }";
    let mut case = Case::new(tree, "p", &[1.0], &[1.0; 7], &[1.0; 7]);
    case.tensors = vec![(vec![1.0, 0.0, 9.0, 5.0, 4.0, 8.0, 7.0], vec![7])];
    let own = case.tables();
    assert!(case.misfits(&own).is_empty());
    let other = vec![vec![DrawTable { chosen: [2, 6].into(), ..own[0][0].clone() }]];
    assert!(case.misfits(&other)[0].contains("the definition [2, 5]"));

    let share = "tensor x[n_k]\nscore w = x[k] then minmax\nselect s = mass 0.5 of w per q\n\
                 attention p { empty = zero\n attend s }";
    let mut case = Case::new(share, "p", &[1.0], &[1.0; 4], &[1.0; 4]);
    // Scaled to 0, 1/4, 1/4 and 1: the last alone has two thirds.
    case.tensors = vec![(vec![0.0, 1.0, 1.0, 4.0], vec![4])];
    let own = case.tables();
    assert_eq!(own[0][0].chosen[..], [3]);
    assert!(case.misfits(&own).is_empty());
    let other = vec![vec![DrawTable { chosen: [0].into(), ..own[0][0].clone() }]];
    assert!(!case.misfits(&other).is_empty());
}

#[test]
fn what_has_no_score_is_never_chosen() {
    let source = "tensor x[n_k]\nselect s = top 3 of x[k] per q\nattention p { empty = zero\n attend s }";
    let mut case = Case::new(source, "p", &[1.0], &[1.0; 4], &[1.0; 4]);
    case.tensors = vec![(vec![f32::NAN, 1.0, f32::NEG_INFINITY, f32::INFINITY], vec![4])];
    // More are asked for than have a score: those that have one.
    assert_eq!(case.tables()[0][0].chosen[..], [1, 3]);
}
