//! Few queries: folded heads and cut keys against the definition, and bit by bit against themselves.

use super::*;
use crate::few::CUT_TILES;
use crate::run::{Laid, lay_out_and_run};

/// Keys of one piece.
const PIECE: usize = CUT_TILES * 64;

/// A launch with heads that share keys.
#[derive(Clone)]
struct Decode {
    n_q: usize,
    /// Keys of each batch item; tensors have as many as the most.
    n_k: Vec<usize>,
    q_start: i64,
    kv_of: Vec<usize>,
    d: usize,
    dv: usize,
    dtype: DType,
    /// Heads of a row side by side, `[batch, rows, heads, dim]`.
    interleaved: bool,
    threads: usize,
    /// Less working memory than all pieces want.
    tight: bool,
}

impl Decode {
    fn new(n_q: usize, n_k: usize, kv_of: &[usize]) -> Decode {
        let (n_k, kv_of) = (vec![n_k], kv_of.to_vec());
        let dtype = DType::F32;
        Decode { n_q, n_k, q_start: 0, kv_of, d: 32, dv: 24, dtype, interleaved: false, threads: 2, tight: false }
    }

    fn kv_heads(&self) -> usize {
        self.kv_of.iter().max().map_or(0, |h| h + 1)
    }

    /// The shape of one head's problem.
    fn shape(&self, item: usize) -> Shape {
        let (n_q, n_k, q_start) = (self.n_q, self.n_k[item], self.q_start);
        Shape { n_q, n_k, q_start, k_start: 0, heads: self.kv_of.len(), d: self.d, dv: self.dv }
    }

    fn strides(&self, heads: usize, rows: usize, dim: usize, size: usize) -> [isize; 4] {
        let [h, r, d] = [heads, rows, dim].map(|n| n as isize);
        let strides = if self.interleaved { [h * r * d, d, h * d, 1] } else { [h * r * d, r * d, d, 1] };
        strides.map(|s| s * size as isize)
    }

    /// Element numbers of a row.
    fn at(&self, (heads, rows, dim): (usize, usize, usize), item: usize, head: usize, row: usize) -> usize {
        let [b, h, r, _] = self.strides(heads, rows, dim, 1).map(|s| s as usize);
        item * b + head * h + row * r
    }

    /// Rows `0 .. rows` of each of `heads` (of `of` in the tensor) of an item, head by head.
    fn rows(
        &self,
        x: &[f32],
        (of, all, dim): (usize, usize, usize),
        item: usize,
        heads: &[usize],
        rows: usize,
    ) -> Vec<f32> {
        let each = heads.iter().flat_map(|&h| (0..rows).map(move |r| (h, r)));
        each.flat_map(|(h, r)| x[self.at((of, all, dim), item, h, r)..][..dim].iter().copied()).collect()
    }

    /// Q, K and V as stored and as read back.
    fn tensors(&self, seeds: &[u64]) -> [(Vec<u64>, usize, Vec<f32>); 3] {
        let (heads, most) = (self.kv_of.len(), *self.n_k.iter().max().expect("an item"));
        let sizes = [heads * self.n_q * self.d, self.kv_heads() * most * self.d, self.kv_heads() * most * self.dv];
        let types = [DType::F32, self.dtype, self.dtype];
        [0, 1, 2].map(|i| {
            let x: Vec<f32> = seeds.iter().flat_map(|seed| noise(3 * seed + i as u64 + 1, sizes[i])).collect();
            let (bytes, x) = stored(types[i], &x);
            (aligned(&bytes), bytes.len(), x)
        })
    }

    /// Output and log-sum-exp, each `[item][head][row]`. Items have the seeds' numbers.
    fn run<'a>(
        &self,
        kernel: &CpuKernel,
        seeds: &[u64],
        env: impl Fn(&Shape, usize) -> Env<'a>,
    ) -> Result<(Vec<f32>, Vec<f32>), RunError> {
        self.run_and_look(kernel, seeds, env, |_| {})
    }

    /// As [`Self::run`]; `look` is given how the launch was laid out.
    fn run_and_look<'a>(
        &self,
        kernel: &CpuKernel,
        seeds: &[u64],
        env: impl Fn(&Shape, usize) -> Env<'a>,
        look: impl FnOnce(Laid<'_>),
    ) -> Result<(Vec<f32>, Vec<f32>), RunError> {
        let (batch, heads, kv_heads) = (seeds.len(), self.kv_of.len(), self.kv_heads());
        let most = *self.n_k.iter().max().expect("an item");
        let [(q, q_len, _), (k, k_len, _), (v, v_len, _)] = self.tensors(seeds);
        let every: Vec<usize> = (0..heads).collect();
        let envs: Vec<Env<'a>> =
            (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))).map(|(b, h)| env(&self.shape(b), h)).collect();
        let parts = [Part { kernel, heads: &every, envs: &envs, forward: false }];
        let unknown = [Part { kernel, heads: &[], envs: &[], forward: false }];
        let asked = if self.tight { &unknown } else { &parts };
        let mut workspace = vec![0xa5; workspace_bytes(asked, most, self.d, self.dv, self.threads)];
        let mut out = vec![f32::NAN; batch * heads * self.n_q * self.dv];
        let mut lse = vec![f32::NAN; batch * heads * self.n_q];
        let size = self.dtype.size();
        let tensor = |words, len, dtype: DType, [heads, rows, dim]: [usize; 3]| {
            let strides = self.strides(heads, rows, dim, dtype.size());
            Tensor::new(bytes_of(words, len), 0, dtype, [batch, heads, rows, dim], strides).expect("fits")
        };
        assert_eq!(k_len, batch * kv_heads * most * self.d * size);
        {
            let out_len = out.len() * 4;
            // SAFETY: the singles are that many bytes, and nothing else refers to them.
            let bytes = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u8>(), out_len) };
            let strides = self.strides(heads, self.n_q, self.dv, 4);
            let pool = pool(self.threads);
            let mut launch = Launch {
                q: tensor(&q, q_len, DType::F32, [heads, self.n_q, self.d]),
                k: tensor(&k, k_len, self.dtype, [kv_heads, most, self.d]),
                v: tensor(&v, v_len, self.dtype, [kv_heads, most, self.dv]),
                out: TensorMut::new(bytes, 0, DType::F32, [batch, heads, self.n_q, self.dv], strides).expect("fits"),
                lse: Some(TensorMut::of_f32(&mut lse, [batch, heads, self.n_q, 1]).expect("fits")),
                q_heads: &every,
                kv_heads: &self.kv_of,
                workspace: &mut workspace,
                pool: Some(&pool),
                apart: false,
            };
            look(lay_out_and_run(&parts, &mut launch, None)?);
        }
        let of = (heads, self.n_q, self.dv);
        let out = (0..batch).flat_map(|b| self.rows(&out, of, b, &every, self.n_q)).collect();
        Ok((out, lse))
    }

    /// Compares with the definition, on any number of threads.
    #[track_caller]
    fn agrees<'a>(&self, plan: &Plan, meaning: &Meaning<'_>, env: impl Fn(&Shape, usize) -> Env<'a> + Copy) {
        let heads: Vec<usize> = (0..self.kv_of.len()).collect();
        let most = *self.n_k.iter().max().expect("an item");
        let seeds: Vec<u64> = (0..self.n_k.len() as u64).collect();
        let [q, k, v] = self.tensors(&seeds).map(|t| t.2);
        for (isa, _) in Isa::available().into_iter().filter(|(_, available)| available.is_ok()) {
            let kernel = kernel(plan, isa);
            let (got, got_lse) = self.run(&kernel, &seeds, env).expect("runs");
            for threads in [1, 3] {
                let other = Decode { threads, ..self.clone() }.run(&kernel, &seeds, env).expect("runs");
                same_bits(&(got.clone(), got_lse.clone()), &other, "threads change the result");
            }
            let tight = Decode { tight: true, ..self.clone() }.run(&kernel, &seeds, env).expect("runs");
            same_bits(&(got.clone(), got_lse.clone()), &tight, "memory changes the result");
            let mut at = 0;
            for item in 0..self.n_k.len() {
                let s = self.shape(item);
                let q = self.rows(&q, (heads.len(), self.n_q, self.d), item, &heads, self.n_q);
                let k = self.rows(&k, (self.kv_heads(), most, self.d), item, &self.kv_of, s.n_k);
                let v = self.rows(&v, (self.kv_heads(), most, self.dv), item, &self.kv_of, s.n_k);
                let (out, lse, top) = naive(meaning, &s, &q, &k, &v);
                let bound = (16.0 + 4.0 * (self.d.max(self.dv) as f64).sqrt()) * 2f64.powi(-24) * (1.0 + top);
                for (i, want) in lse.iter().enumerate() {
                    let row = at + i;
                    let same = f64::from(got_lse[row]) == *want || (f64::from(got_lse[row]) - want).abs() <= bound;
                    assert!(same, "{isa:?} item {item} lse {i}: {} for {want}", got_lse[row]);
                    for c in 0..self.dv {
                        let (got, want) = (f64::from(got[row * self.dv + c]), out[i * self.dv + c]);
                        assert!((got - want).abs() <= bound, "{isa:?} item {item} row {i} col {c}: {got} for {want}");
                    }
                }
                at += lse.len();
            }
        }
    }
}

#[track_caller]
fn same_bits(a: &(Vec<f32>, Vec<f32>), b: &(Vec<f32>, Vec<f32>), what: &str) {
    let bits = |x: &(Vec<f32>, Vec<f32>)| x.0.iter().chain(&x.1).map(|f| f.to_bits()).collect::<Vec<_>>();
    assert!(bits(a) == bits(b), "{what}");
}

fn env<'a>(s: &Shape, head: usize) -> Env<'a> {
    s.env(head)
}

/// Seven heads on three, one on one, five on one.
const GROUPS: [&[usize]; 3] = [&[0, 2, 1, 0, 2, 0, 1], &[0], &[0; 5]];

fn dense() -> Plan {
    let mut pen = Pen::new();
    let all = pen.everything();
    one(&mut pen, vec![all], None)
}

#[test]
fn folded_heads_and_cut_keys_agree_with_the_definition() {
    let plan = dense();
    for (i, n_k) in [0, 1, 63, 64, 65, PIECE + 1].into_iter().enumerate() {
        for (j, n_q) in [1, 2, 3, 5, 16, 17].into_iter().enumerate() {
            for kv_of in GROUPS {
                // The larger problems in one layout each.
                for interleaved in [false, true] {
                    if n_k > PIECE && (interleaved != ((i + j) % 2 == 0) || n_q > 5) {
                        continue;
                    }
                    let case = Decode { interleaved, ..Decode::new(n_q, n_k, kv_of) };
                    case.agrees(&plan, &plain(&|_, _, _| 1), env);
                }
            }
        }
    }
}

#[test]
fn keys_are_cut_for_as_many_queries_as_a_tile_has() {
    let plan = dense();
    let kernel = kernel(&plan, Isa::best());
    for (n_q, tasks) in [(17, 2), (40, 2), (64, 2), (65, 1)] {
        let case = Decode { d: 16, dv: 9, ..Decode::new(n_q, PIECE + 70, &[0, 0]) };
        case.agrees(&plan, &plain(&|_, _, _| 1), env);
        let mut dealt = Vec::new();
        case.run_and_look(&kernel, &[0], env, |mut laid| dealt = laid.dealt()).expect("runs");
        let tiles = n_q.div_ceil(64);
        assert_eq!(dealt.len(), 2 * tiles * tasks, "{n_q} queries");
    }
}

#[test]
fn every_type_and_dimension() {
    let plan = dense();
    for dtype in [DType::F16, DType::Bf16] {
        for (n_q, d, dv) in [(1, 64, 128), (2, 33, 7), (4, 8, 80)] {
            let case = Decode { d, dv, dtype, interleaved: n_q == 2, ..Decode::new(n_q, PIECE + 70, GROUPS[0]) };
            case.agrees(&plan, &plain(&|_, _, _| 1), env);
        }
    }
}

#[test]
fn pieces_end_anywhere() {
    let plan = dense();
    for n_k in [PIECE - 1, PIECE, 2 * PIECE - 63, 2 * PIECE, 3 * PIECE + 1, 5 * PIECE] {
        Decode { d: 8, dv: 8, ..Decode::new(1, n_k, &[0, 0]) }.agrees(&plan, &plain(&|_, _, _| 1), env);
    }
}

#[test]
fn windows_sinks_biases_and_null_slots() {
    let n_k = 3 * PIECE;
    let mut pen = Pen::new();
    // Wide enough for several pieces, and sinks far away from it.
    let (sinks, window) = (pen.range(|p, _| p.int(0), |p, _| p.int(70)), pen.window(PIECE as i64 + 900));
    let ahead = {
        let (q, k) = (pen.var(Var::Q), pen.var(Var::K));
        let ahead = pen.e().sub(q, k);
        let ahead = pen.e().to_real(ahead);
        let slope = pen.real(-0.001);
        pen.e().mul(slope, ahead)
    };
    let tokens = tokens(&mut pen, vec![sinks, window], Some(ahead));
    let logit = pen.real(0.5);
    let plan = pen.plan(vec![tokens, Entry::Null { slots: 2, bias: Some(logit) }]);
    let times = |_: i64, q: i64, k: i64| usize::from((0..PIECE as i64 + 900).contains(&(q - k)) || k < 70);
    let meaning =
        Meaning { times: &times, logit: &|_, q, k, s| s - 0.001 * (q - k) as f64, nulls: &|_, _| vec![0.5, 0.5] };
    for n_q in [1, 4, 7] {
        let q_start = (n_k - n_q) as i64;
        Decode { q_start, ..Decode::new(n_q, n_k, &[0, 0, 0, 1]) }.agrees(&plan, &meaning, env);
    }
}

/// Whether a launch has fewer jobs than heads.
#[track_caller]
fn folds(case: &Decode, plan: &Plan, yes: bool) {
    let kernel = kernel(plan, Isa::best());
    let mut jobs = 0;
    case.run_and_look(&kernel, &[0], env, |laid| jobs = laid.jobs.len()).expect("runs");
    assert_eq!(jobs < case.kv_of.len(), yes, "{jobs} jobs");
}

#[test]
fn scores_that_differ_between_heads_are_folded() {
    let mut pen = Pen::new();
    let all = pen.everything();
    let bias = {
        let (h, k) = (pen.var(Var::Head), pen.var(Var::K));
        let product = pen.e().mul(h, k);
        let product = pen.e().to_real(product);
        let slope = pen.real(-0.01);
        pen.e().mul(slope, product)
    };
    let plan = one(&mut pen, vec![all], Some(bias));
    let meaning =
        Meaning { times: &|_, _, _| 1, logit: &|h, _, k, s| s - 0.01 * (h * k) as f64, nulls: &|_, _| vec![] };
    for n_q in [1, 2, 3, 9, 16] {
        Decode::new(n_q, 300, GROUPS[0]).agrees(&plan, &meaning, env);
    }
    let long = Decode::new(1, PIECE + 300, GROUPS[0]);
    long.agrees(&plan, &meaning, env);
    folds(&long, &plan, true);
}

#[test]
fn scores_without_a_form_on_rows_are_folded_too() {
    // Quotients of integers have none.
    let mut pen = Pen::new();
    let window = pen.window(290);
    let score = {
        let (s, h, q, k) = (pen.var(Var::Score), pen.var(Var::Head), pen.var(Var::Q), pen.var(Var::K));
        let (two, three, small) = (pen.int(2), pen.int(3), pen.real(0.01));
        let e = pen.e();
        let (half, third, apart) = (e.div(h, two), e.div(k, three), e.sub(q, k));
        let product = e.mul(half, third);
        let sum = e.add(product, apart);
        let sum = e.to_real(sum);
        let sum = e.mul(sum, small);
        e.add(s, sum)
    };
    let mut plan = one(&mut pen, vec![window], None);
    plan.stages[0].score = Some(score);
    let meaning = Meaning {
        times: &|_, q, k| usize::from((0..290).contains(&(q - k))),
        logit: &|h, q, k, s| s + 0.01 * ((h / 2) * (k / 3) + q - k) as f64,
        nulls: &|_, _| vec![],
    };
    for n_q in [1, 3, 11] {
        let case = Decode { q_start: 301 - n_q as i64, ..Decode::new(n_q, 301, GROUPS[0]) };
        case.agrees(&plan, &meaning, env);
        folds(&case, &plan, true);
    }
}

#[test]
fn tensors_and_null_slots_of_folded_heads() {
    let mut pen = Pen::new();
    for name in ["pair", "table", "sinks"] {
        let tensor =
            attnc_pattern::program::Tensor { name: name.to_owned(), dims: vec![], of: None, span: Default::default() };
        pen.program.tensors.push(tensor);
    }
    let all = pen.everything();
    let (s, q, k, head) = (pen.var(Var::Score), pen.var(Var::Q), pen.var(Var::K), pen.var(Var::Head));
    let (two, five, most) = (pen.real(2.0), pen.int(5), pen.int(6));
    let e = pen.e();
    let pair = e.intern(Node::Load(TensorId(0), vec![head, q, k]));
    // One index between is the same for all lanes, one is beyond the extent.
    let apart = e.sub(k, q);
    let apart = e.min(apart, most);
    let table = e.intern(Node::Load(TensorId(1), vec![head, five, apart]));
    let capped = e.div(s, two);
    let capped = e.un(Un::Tanh, capped);
    let capped = e.mul(capped, two);
    let score = e.add(capped, pair);
    let logit = e.intern(Node::Load(TensorId(2), vec![head]));
    let entry = tokens(&mut pen, vec![all], Some(table));
    let mut plan = pen.plan(vec![entry, Entry::Null { slots: 2, bias: Some(logit) }]);
    plan.stages[0].score = Some(score);
    for (n_q, n_k) in [(1, 77), (3, 64), (12, 131), (1, PIECE + 5)] {
        let (pair, table, sinks) = (noise(1, 7 * n_q * n_k), noise(2, 7 * 2 * 7), noise(3, 7));
        let logit = |h: i64, q: i64, k: i64, s: f64| {
            let pair = pair[(h as usize * n_q + q as usize) * n_k + k as usize];
            let table = table[(h as usize * 2 + 1) * 7 + (k - q).clamp(0, 6) as usize];
            2.0 * (s / 2.0).tanh() + f64::from(pair) + f64::from(table)
        };
        let nulls = |h: i64, _: i64| vec![f64::from(sinks[h as usize]); 2];
        let meaning = Meaning { times: &|_, _, _| 1, logit: &logit, nulls: &nulls };
        let env = |s: &Shape, h: usize| {
            let tensors = vec![
                TensorData { data: (&pair).into(), dims: vec![7, n_q, n_k] },
                TensorData { data: (&table).into(), dims: vec![7, 2, 7] },
                TensorData { data: (&sinks).into(), dims: vec![7] },
            ];
            Env { tensors, ..s.env(h) }
        };
        for kv_of in [GROUPS[0], &[0, 1, 2, 3, 4, 5, 6]] {
            Decode::new(n_q, n_k, kv_of).agrees(&plan, &meaning, env);
        }
    }
}

#[test]
fn sets_that_differ_between_heads_are_not_folded() {
    let mut pen = Pen::new();
    let some = pen.range(|p, _| p.int(0), |p, _| p.off(Var::Head, 60));
    let bias = {
        let (h, slope) = (pen.var(Var::Head), pen.real(0.25));
        let (h, k) = (pen.e().to_real(h), pen.var(Var::K));
        let k = pen.e().to_real(k);
        let k = pen.e().mul(slope, k);
        pen.e().add(h, k)
    };
    let plan = one(&mut pen, vec![some], Some(bias));
    let meaning = Meaning {
        times: &|h, _, k| usize::from(k < h + 60),
        logit: &|h, _, k, s| s + h as f64 + 0.25 * k as f64,
        nulls: &|_, _| vec![],
    };
    for n_q in [1, 3] {
        let case = Decode::new(n_q, 200, GROUPS[0]);
        case.agrees(&plan, &meaning, env);
        folds(&case, &plan, false);
    }
}

#[test]
fn maps_of_one_head_each_are_kept_apart() {
    let mut pen = Pen::new();
    pen.program.maps.push(Map { name: "m".to_owned(), kind: MapKind::Bool, per_head: true, span: Default::default() });
    let (q, k) = (pen.var(Var::Q), pen.var(Var::K));
    let held = pen.e().intern(Node::MapAt(MapId(0), q, k));
    let piece = filtered(&mut pen, held);
    let plan = one(&mut pen, vec![piece], None);
    let (n_q, n_k) = (2_usize, 500_usize);
    let cells: Vec<Vec<u8>> =
        (0..3_usize).map(|h| (0..n_q * n_k).map(|i| u8::from(i * (h + 7) % 5 < 2)).collect()).collect();
    let times = |h: i64, q: i64, k: i64| usize::from(cells[h as usize][q as usize * n_k + k as usize] != 0);
    let env = |s: &Shape, h: usize| Env { maps: vec![MapData::Dense { data: &cells[h], cols: n_k }], ..s.env(h) };
    Decode::new(n_q, n_k, &[0; 3]).agrees(&plan, &plain(&times), env);
}

#[test]
fn items_beside_change_nothing() {
    let kernel = kernel(&dense(), Isa::best());
    let lengths = [3 * PIECE + 9, 17, 0, PIECE + 1];
    let all = Decode { n_k: lengths.to_vec(), ..Decode::new(2, 0, GROUPS[0]) };
    let seeds: Vec<u64> = (0..lengths.len() as u64).collect();
    let together = all.run(&kernel, &seeds, env).expect("runs");
    let rows = all.kv_of.len() * all.n_q;
    all.agrees(&dense(), &plain(&|_, _, _| 1), env);
    // The first has as many keys as the tensors, so that its own launch reads the same.
    let alone = Decode { n_k: vec![lengths[0]], ..all.clone() }.run(&kernel, &seeds[..1], env).expect("runs");
    let first = (together.0[..rows * all.dv].to_vec(), together.1[..rows].to_vec());
    same_bits(&first, &alone, "a batch changes the result");
}

/// The most that one of `threads` threads has to do, and what each would have if all had the same.
fn shares(tasks: &[i64], threads: usize) -> (i64, f64) {
    let most = attnc_plan::model::makespan(tasks.iter().map(|&t| t as f64), threads);
    (most as i64, tasks.iter().sum::<i64>() as f64 / threads as f64)
}

#[test]
fn threads_have_equal_work_where_lengths_differ() {
    let kernel = kernel(&dense(), Isa::best());
    // Of one query pieces of one length; of 100 two tiles of queries a head, as long as the item has keys.
    for (n_q, lengths, at_most) in [
        (1, vec![9 * PIECE, 100, 3 * PIECE + 640, PIECE, 5 * PIECE - 1], 1.08),
        (100, vec![PIECE, 64, 2 * PIECE, 1000, PIECE / 2, 0, 3000], 1.01),
    ] {
        let most = *lengths.iter().max().expect("an item");
        let kv_of: Vec<usize> = (0..16).map(|head| head / 4).collect();
        let all = Decode { n_k: lengths.clone(), d: 1, dv: 1, ..Decode::new(n_q, most, &kv_of) };
        let seeds: Vec<u64> = (0..lengths.len() as u64).collect();
        let mut dealt = Vec::new();
        all.run_and_look(&kernel, &seeds, env, |mut laid| dealt = laid.dealt()).expect("runs");
        let tiles: i64 = lengths.iter().map(|&n| n.div_ceil(64) as i64).sum();
        let jobs = if n_q == 1 { 4 } else { 16 * 2 };
        assert_eq!(dealt.iter().sum::<i64>(), jobs * tiles);
        for threads in 2..=8 {
            let (most, even) = shares(&dealt, threads);
            assert!(most as f64 <= at_most * even, "{threads} threads: {most} tiles of keys, {even} were even");
        }
    }
}

#[test]
fn empty_rows_of_folded_heads_are_found() {
    let mut pen = Pen::new();
    // Queries before position 3 attend to nothing.
    let piece = pen.range(|p, _| p.int(0), |p, q| p.off(q, -2));
    let mut plan = one(&mut pen, vec![piece], None);
    plan.empty = Some(Empty::Error);
    let kernel = kernel(&plan, Isa::best());
    let case = Decode { q_start: 1, ..Decode::new(4, 100, &[1, 0, 1, 0]) };
    assert_eq!(case.run(&kernel, &[0], env).err(), Some(RunError::EmptyRow { batch: 0, head: 0, row: 0 }));
    let case = Decode { q_start: 3, ..case };
    assert!(case.run(&kernel, &[0], env).is_ok());
}

#[test]
fn heads_fold_by_what_they_share() {
    use crate::few::{cut, groups};

    let kernel = kernel(&dense(), Isa::best());
    let folded = |kv: &[usize], n_q: i64, alike: &dyn Fn(usize, usize) -> bool| {
        let heads: Vec<usize> = (0..kv.len()).collect();
        groups(&kernel, &heads, kv, |_| n_q, alike)
    };
    let yes = |_, _| true;
    assert_eq!(folded(GROUPS[0], 1, &yes), [vec![0, 3, 5], vec![1, 4], vec![2, 6]]);
    assert_eq!(folded(&[0, 0, 0], 1, &|a, b| a % 2 == b % 2), [vec![0, 2], vec![1]]);
    // A tile has 64 lanes; heads of more than 16 queries stay alone.
    assert_eq!(folded(&[0; 5], 16, &yes), [vec![0, 1, 2, 3], vec![4]]);
    assert_eq!(folded(&[0; 2], 17, &yes), [vec![0], vec![1]]);

    // Cuts count the tiles that are visited, not keys.
    let n_k = 500 * 64;
    let support = attnc_kernels::abi::Support::get();
    // SAFETY: memory as large and as aligned as the helpers ask for; only the marks of the scratch are used.
    let cuts = unsafe {
        let mut memory = vec![0_u64; (support.marks_bytes)(n_k) as usize / 8];
        let marks = memory.as_mut_ptr().cast();
        (support.marks_init)(marks, n_k);
        let size = crate::layout::ScratchSize { bq: 64, d: 1, dv: 1, marks: 64, more: 0 };
        let mut scratch = crate::layout::Scratch::cut(std::ptr::null_mut(), size).expect("is small");
        scratch.marks = marks;
        (support.marks_mark)(marks, 0, 3 * 64, 0, 0);
        let mut cuts = Vec::new();
        cut(&scratch, 0, &mut cuts);
        (support.marks_mark)(marks, 400 * 64, 499 * 64, 0, 0);
        cut(&scratch, 1, &mut cuts);
        cuts
    };
    let second = 400 + CUT_TILES as i64 - 3;
    let cuts: Vec<_> = cuts.into_iter().map(|piece| (piece.stage, piece.tiles)).collect();
    assert_eq!(cuts, [(0, 0..i64::MAX), (1, 0..second), (1, second..i64::MAX)]);
}
