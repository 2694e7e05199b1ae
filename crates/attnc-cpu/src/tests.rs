//! Compiled kernels against attention computed from its definition in f64.
//!
//! Row sets and tile sets are written by hand here, so that a mistake of the analysis cannot hide one of
//! the code generator. Membership is a Rust closure, which shares nothing with either.

mod few;
mod singles;

use std::sync::Arc;

use attnc_kernels::Isa;
use attnc_kernels::abi::DType;
use attnc_pattern::env::{DrawTable, Env, MapData, TensorData};
use attnc_pattern::expr::{Bin, Cmp, DrawId, ExprId, Exprs, MapId, Node, OrderId, SizeId, TableId, TensorId, Un, Var};
use attnc_pattern::program::{Chooser, Draw, DrawScope, Empty, Map, MapKind, Order, OrderKind, Program, Size};
use attnc_pattern::rowset::{Comb, Loop, Must, Piece, RowSet, TileComb, TileLoop, TilePiece, TileSet};
use attnc_plan::{Attend, Entry, Plan, Reads, Role, Tile, View};

use crate::jit::compile_plan;
use crate::{CompileError, CpuKernel, Launch, Options, Part, RunError, Tensor, TensorMut, run, workspace_bytes};

/// Numbers in -1 .. 1, the same everywhere.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Expressions of a program in the making.
struct Pen {
    program: Program,
}

impl Pen {
    fn new() -> Pen {
        Pen { program: Program::default() }
    }

    fn e(&mut self) -> &mut Exprs {
        &mut self.program.exprs
    }

    fn var(&mut self, v: Var) -> ExprId {
        self.e().var(v)
    }

    fn int(&mut self, v: i64) -> ExprId {
        self.e().int(v)
    }

    fn real(&mut self, v: f64) -> ExprId {
        self.e().real(v)
    }

    /// `var + c`
    fn off(&mut self, v: Var, c: i64) -> ExprId {
        let v = self.var(v);
        let c = self.int(c);
        self.e().add(v, c)
    }

    fn size(&mut self, name: &str) -> Var {
        self.program.sizes.push(Size { name: name.to_owned(), span: Default::default() });
        Var::Size(SizeId(self.program.sizes.len() as u32 - 1))
    }

    /// One piece without loops, as a row set and as a tile set. `lo` and `hi` give the range from `Q`.
    fn range(
        &mut self,
        start: impl Fn(&mut Pen, Var) -> ExprId,
        end: impl Fn(&mut Pen, Var) -> ExprId,
    ) -> (Piece, TilePiece) {
        let piece = Piece {
            loops: vec![],
            guard: None,
            start: start(self, Var::Q),
            end: end(self, Var::Q),
            combs: vec![],
            filter: None,
        };
        // Ends that do not decrease with Q.
        let must = Must { guard: None, start: start(self, Var::QHi), end: end(self, Var::QLo) };
        let tile = TilePiece {
            loops: vec![],
            guard: None,
            start: start(self, Var::QLo),
            end: end(self, Var::QHi),
            must: Some(must),
            combs: vec![],
        };
        (piece, tile)
    }

    /// All keys.
    fn everything(&mut self) -> (Piece, TilePiece) {
        self.range(
            |p, _| p.var(Var::KStart),
            |p, _| {
                let (a, b) = (p.var(Var::KStart), p.var(Var::NK));
                p.e().add(a, b)
            },
        )
    }

    /// `q - k in 0 .. width`
    fn window(&mut self, width: i64) -> (Piece, TilePiece) {
        self.range(move |p, q| p.off(q, 1 - width), |p, q| p.off(q, 1))
    }

    /// `k <= q`
    fn causal(&mut self) -> (Piece, TilePiece) {
        self.range(|p, _| p.int(0), |p, q| p.off(q, 1))
    }

    fn plan(&mut self, entries: Vec<Entry>) -> Plan {
        let d = self.var(Var::Dim);
        let d = self.e().to_real(d);
        let root = self.e().un(Un::Sqrt, d);
        let one = self.real(1.0);
        let scale = self.e().div(one, root);
        let require = self.e().bool(true);
        let program = self.program.clone();
        Plan {
            rows: None,
            program: Arc::new(program),
            name: "test".to_owned(),
            attention: 0,
            given: vec![],
            pools: vec![],
            chooses: vec![],
            stages: vec![Attend {
                reads: Reads::default(),
                role: Role::RowWalk,
                tile: Tile { q: 64, k: 64 },
                view: View::Given,
                own: false,
                scale,
                score: None,
                entries,
            }],
            align: None,
            empty: None,
            require,
        }
    }
}

/// An entry of tokens of hand-written pieces.
fn tokens(pen: &mut Pen, pieces: Vec<(Piece, TilePiece)>, bias: Option<ExprId>) -> Entry {
    let set = pen.e().bool(true);
    let (rows, tiles): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
    Entry::Tokens { set, rows: RowSet { pieces: rows }, tiles: TileSet { pieces: tiles }, bias }
}

/// A plan of one entry of tokens.
fn one(pen: &mut Pen, pieces: Vec<(Piece, TilePiece)>, bias: Option<ExprId>) -> Plan {
    let entry = tokens(pen, pieces, bias);
    pen.plan(vec![entry])
}

/// A launch of one batch item and as many heads as are wanted, on dense f32.
#[derive(Clone, Copy)]
struct Shape {
    n_q: usize,
    n_k: usize,
    q_start: i64,
    k_start: i64,
    heads: usize,
    d: usize,
    dv: usize,
}

impl Shape {
    fn square(n: usize) -> Shape {
        Shape { n_q: n, n_k: n, q_start: 0, k_start: 0, heads: 1, d: 64, dv: 64 }
    }

    fn env<'a>(&self, head: usize) -> Env<'a> {
        Env {
            n_q: self.n_q as i64,
            n_k: self.n_k as i64,
            q_start: self.q_start,
            k_start: self.k_start,
            head: head as i64,
            heads: self.heads as i64,
            dim: self.d as i64,
            ..Env::default()
        }
    }
}

/// What attends, by the definition: keys with how often they count and their bias, and logits of null slots.
struct Meaning<'a> {
    /// (head, q, k) -> how many entries have the pair.
    times: &'a dyn Fn(i64, i64, i64) -> usize,
    /// (head, q, k, score) -> logit
    logit: &'a dyn Fn(i64, i64, i64, f64) -> f64,
    /// (head, q) -> logits of null slots
    nulls: &'a dyn Fn(i64, i64) -> Vec<f64>,
}

fn plain<'a>(times: &'a dyn Fn(i64, i64, i64) -> usize) -> Meaning<'a> {
    Meaning { times, logit: &|_, _, _, s| s, nulls: &|_, _| vec![] }
}

/// Output and log-sum-exp by the definition, and the largest |score|.
fn naive(meaning: &Meaning<'_>, s: &Shape, q: &[f32], k: &[f32], v: &[f32]) -> (Vec<f64>, Vec<f64>, f64) {
    let (mut out, mut lse, mut most) = (vec![0.0; s.heads * s.n_q * s.dv], vec![], 0.0f64);
    for h in 0..s.heads {
        for i in 0..s.n_q {
            let mut terms: Vec<(f64, Option<usize>)> =
                (meaning.nulls)(h as i64, s.q_start + i as i64).into_iter().map(|l| (l, None)).collect();
            for j in 0..s.n_k {
                let (qp, kp) = (s.q_start + i as i64, s.k_start + j as i64);
                let times = (meaning.times)(h as i64, qp, kp);
                if times == 0 {
                    continue;
                }
                let (qr, kr) = (&q[(h * s.n_q + i) * s.d..][..s.d], &k[(h * s.n_k + j) * s.d..][..s.d]);
                let dot: f64 = qr.iter().zip(kr).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                let logit = (meaning.logit)(h as i64, qp, kp, dot / (s.d as f64).sqrt());
                most = most.max(logit.abs());
                terms.extend(std::iter::repeat_n((logit, Some(j)), times));
            }
            let top = terms.iter().fold(f64::NEG_INFINITY, |m, t| m.max(t.0));
            if top == f64::NEG_INFINITY {
                lse.push(top);
                continue;
            }
            let sum: f64 = terms.iter().map(|t| (t.0 - top).exp()).sum();
            for (l, j) in terms {
                let Some(j) = j else { continue };
                let p = (l - top).exp() / sum;
                for c in 0..s.dv {
                    out[(h * s.n_q + i) * s.dv + c] += p * f64::from(v[(h * s.n_k + j) * s.dv + c]);
                }
            }
            lse.push(top + sum.ln());
        }
    }
    (out, lse, most)
}

fn kernel(plan: &Plan, isa: Isa) -> CpuKernel {
    compile_plan(plan, &Options { isa: Some(isa), verify: true, ..Options::default() }).expect("compiles")
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
}

/// Runs on dense f32 with the given environments, one for each head.
fn run_dense(
    kernel: &CpuKernel,
    s: &Shape,
    envs: &[Env<'_>],
    (q, k, v): (&[f32], &[f32], &[f32]),
    threads: usize,
) -> Result<(Vec<f32>, Vec<f32>), RunError> {
    let heads: Vec<usize> = (0..s.heads).collect();
    let mut out = vec![f32::NAN; s.heads * s.n_q * s.dv];
    let mut lse = vec![f32::NAN; s.heads * s.n_q];
    let parts = [Part { kernel, heads: &heads, envs, forward: false }];
    let mut workspace = vec![0xa5; workspace_bytes(&parts, s.n_k, s.d, s.dv, threads)];
    let pool = pool(threads);
    let mut launch = Launch {
        q: Tensor::of_f32(q, [1, s.heads, s.n_q, s.d]).expect("fits"),
        k: Tensor::of_f32(k, [1, s.heads, s.n_k, s.d]).expect("fits"),
        v: Tensor::of_f32(v, [1, s.heads, s.n_k, s.dv]).expect("fits"),
        out: TensorMut::of_f32(&mut out, [1, s.heads, s.n_q, s.dv]).expect("fits"),
        lse: Some(TensorMut::of_f32(&mut lse, [1, s.heads, s.n_q, 1]).expect("fits")),
        q_heads: &heads,
        kv_heads: &heads,
        workspace: &mut workspace,
        pool: Some(&pool),
        apart: false,
    };
    run(&parts, &mut launch)?;
    Ok((out, lse))
}

/// Compares within (16 + 4 sqrt D) u (1 + max |s|), both instruction sets, one and two threads.
#[track_caller]
fn agrees<'a>(plan: &Plan, s: &Shape, meaning: &Meaning<'_>, env: impl Fn(usize) -> Env<'a>) {
    let (q, k, v) =
        (noise(1, s.heads * s.n_q * s.d), noise(2, s.heads * s.n_k * s.d), noise(3, s.heads * s.n_k * s.dv));
    let (out, lse, most) = naive(meaning, s, &q, &k, &v);
    let bound = (16.0 + 4.0 * (s.d.max(s.dv) as f64).sqrt()) * 2f64.powi(-24) * (1.0 + most);
    let envs: Vec<Env<'a>> = (0..s.heads).map(env).collect();
    for (isa, available) in Isa::available() {
        if available.is_err() {
            continue;
        }
        let kernel = kernel(plan, isa);
        let one = run_dense(&kernel, s, &envs, (&q, &k, &v), 1).expect("runs");
        let two = run_dense(&kernel, s, &envs, (&q, &k, &v), 2).expect("runs");
        let bits = |x: &(Vec<f32>, Vec<f32>)| x.0.iter().chain(&x.1).map(|f| f.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&one), bits(&two), "threads change the result");
        for (i, (&got, &want)) in one.0.iter().zip(&out).enumerate() {
            let (row, col) = (i / s.dv, i % s.dv);
            assert!((f64::from(got) - want).abs() <= bound, "{isa:?} row {row} col {col}: {got} for {want}");
        }
        for (row, (&got, &want)) in one.1.iter().zip(&lse).enumerate() {
            let same = f64::from(got) == want || (f64::from(got) - want).abs() <= bound;
            assert!(same, "{isa:?} lse {row}: {got} for {want}");
        }
    }
}

#[test]
fn causal_window_and_dense_at_odd_sizes() {
    for n in [1, 2, 63, 64, 65, 130, 200] {
        for (d, dv) in [(64, 64), (1, 3), (33, 80)] {
            let s = Shape { d, dv, heads: 2, ..Shape::square(n) };
            let mut pen = Pen::new();
            let all = pen.everything();
            let plan = one(&mut pen, vec![all], None);
            agrees(&plan, &s, &plain(&|_, _, _| 1), |h| s.env(h));
            let causal = pen.causal();
            let plan = one(&mut pen, vec![causal], None);
            agrees(&plan, &s, &plain(&|_, q, k| usize::from(k <= q)), |h| s.env(h));
            let window = pen.window(50);
            let plan = one(&mut pen, vec![window], None);
            agrees(&plan, &s, &plain(&|_, q, k| usize::from((0..50).contains(&(q - k)))), |h| s.env(h));
        }
    }
}

#[test]
fn starts_shift_queries_and_keys() {
    let mut pen = Pen::new();
    let (sinks, window) = (pen.range(|p, _| p.int(0), |p, _| p.int(70)), pen.window(90));
    let plan = one(&mut pen, vec![sinks, window], None);
    let member = |_: i64, q: i64, k: i64| usize::from((0..90).contains(&(q - k)) || k < 70);
    for (n_q, n_k, q_start, k_start) in [(1, 300, 299, 0), (100, 300, 200, 0), (70, 129, 140, 33), (64, 64, 0, 0)] {
        let s = Shape { n_q, n_k, q_start, k_start, ..Shape::square(0) };
        agrees(&plan, &s, &plain(&member), |h| s.env(h));
    }
}

#[test]
fn combs_of_constant_and_given_period() {
    let mut pen = Pen::new();
    let period = pen.size("period");
    for given in [false, true] {
        for (p, width, n) in [(3, 1, 150), (100, 7, 400), (64, 64, 130), (200, 130, 500)] {
            let (mut piece, mut tile) = pen.causal();
            let period = if given { pen.var(period) } else { pen.int(p) };
            let width_of = pen.int(width);
            // (k - q) mod period < width
            let (q, lo, hi) = (pen.var(Var::Q), pen.var(Var::QLo), pen.var(Var::QHi));
            piece.combs.push(Comb { period, width: width_of, phase: q });
            tile.combs.push(TileComb { period, width: width_of, phase_lo: lo, phase_hi: hi });
            let plan = one(&mut pen, vec![(piece, tile)], None);
            let member = move |_: i64, q: i64, k: i64| usize::from(k <= q && (k - q).rem_euclid(p) < width);
            for (q_start, k_start) in [(0, 0), (500, 37)] {
                let s = Shape { q_start, k_start, d: 16, dv: 16, ..Shape::square(n) };
                agrees(&plan, &s, &plain(&member), |h| Env { sizes: vec![p], ..s.env(h) });
            }
        }
    }
}

#[test]
fn two_combs_hold_together() {
    let mut pen = Pen::new();
    let (mut piece, mut tile) = pen.everything();
    for (period, width) in [(96, 40), (5, 3)] {
        let (period, width, phase) = (pen.int(period), pen.int(width), pen.int(2));
        piece.combs.push(Comb { period, width, phase });
        tile.combs.push(TileComb { period, width, phase_lo: phase, phase_hi: phase });
    }
    let plan = one(&mut pen, vec![(piece, tile)], None);
    let member = |_: i64, _: i64, k: i64| usize::from((k - 2).rem_euclid(96) < 40 && (k - 2).rem_euclid(5) < 3);
    let s = Shape { d: 16, dv: 16, ..Shape::square(300) };
    agrees(&plan, &s, &plain(&member), |h| s.env(h));
}

/// A filtered piece over all keys.
/// Place of each of 400 positions: multiples of a number without a common divisor.
fn scattered(by: u32) -> Arc<[u32]> {
    (0..400).map(|position| position * by % 400).collect()
}

fn inverse(order: &[u32]) -> Arc<[u32]> {
    attnc_pattern::order::inverse(order)
}

#[test]
fn rows_are_listed_by_the_orders_of_a_launch() {
    let mut pen = Pen::new();
    let (mut near, mut near_tile) = pen.window(70);
    // Position 100 and what is before it, told by position and not by place.
    let (k, hundred) = (pen.var(Var::K), pen.int(100));
    let at = pen.e().un(Un::OrderPosition(OrderId(1)), k);
    near.filter = Some(pen.e().le(hundred, at));
    near_tile.must = None;
    let everything = pen.window(3);
    for name in ["of queries", "of keys"] {
        let kind = OrderKind::Sort(TensorId(0));
        pen.program.orders.push(Order { name: name.to_owned(), segment: None, kind, span: Default::default() });
    }
    let mut plan = one(&mut pen, vec![(near, near_tile), everything], None);
    plan.stages[0].view = View::Ordered { queries: OrderId(0), keys: OrderId(1) };
    let (of_queries, of_keys) = (scattered(7), scattered(3));
    let member = |_: i64, q: i64, k: i64| {
        let apart = i64::from(of_queries[q as usize]) - i64::from(of_keys[k as usize]);
        usize::from((0..70).contains(&apart) && k >= 100 || (0..3).contains(&apart))
    };
    let orders = vec![of_queries.clone(), of_keys.clone()];
    let positions: Vec<Arc<[u32]>> = orders.iter().map(|o| inverse(o)).collect();
    let whole = Shape { d: 16, dv: 8, heads: 2, ..Shape::square(400) };
    let some = Shape { n_q: 130, n_k: 290, q_start: 250, k_start: 60, ..whole };
    let few = Shape { n_q: 3, n_k: 390, q_start: 9, k_start: 10, ..whole };
    for s in [whole, some, few] {
        let env = |h| Env { orders: orders.clone(), positions: positions.clone(), ..s.env(h) };
        agrees(&plan, &s, &plain(&member), env);
    }

    // Orders that lie are refused before anything runs.
    let kernel = kernel(&plan, Isa::best());
    let s = Shape { heads: 1, ..whole };
    let x = noise(4, 400 * 16);
    let (twice, short): (Arc<[u32]>, Arc<[u32]>) = ((0..400).map(|i| i / 2).collect(), (0..399).collect());
    let far: Arc<[u32]> = (0..400).map(|i| i + 1).collect();
    for wrong in [twice, short, far] {
        for at in 0..2 {
            let mut env = Env { orders: orders.clone(), positions: positions.clone(), ..s.env(0) };
            env.orders[at] = wrong.clone();
            let refused = run_dense(&kernel, &s, &[env], (&x, &x, &x[..400 * 8]), 1);
            assert!(matches!(refused, Err(RunError::Env { .. })), "{refused:?}");
        }
    }
    let env = Env { orders, ..s.env(0) };
    let refused = run_dense(&kernel, &s, &[env], (&x, &x, &x[..400 * 8]), 1);
    assert!(matches!(refused, Err(RunError::Env { .. })), "{refused:?}");
}

fn filtered(pen: &mut Pen, filter: ExprId) -> (Piece, TilePiece) {
    let (mut piece, mut tile) = pen.everything();
    piece.filter = Some(filter);
    tile.must = None;
    (piece, tile)
}

#[test]
fn filters_floor_and_are_total() {
    let mut pen = Pen::new();
    let by = pen.size("by");
    // ((q - 90) / 7) mod 3 = (k - 50) mod by, with by = 4, -4, -1, 0 and 3 given.
    let (q, k, by_) = (pen.off(Var::Q, -90), pen.off(Var::K, -50), pen.var(by));
    let (seven, three) = (pen.int(7), pen.int(3));
    let e = pen.e();
    let a = e.div(q, seven);
    let a = e.modulo(a, three);
    let b = e.intern(Node::Bin(Bin::Mod, k, by_));
    let c = e.intern(Node::Bin(Bin::Div, k, by_));
    let equal = e.eq(a, b);
    let less = e.lt(c, q);
    let filter = e.and([equal, less]);
    let piece = filtered(&mut pen, filter);
    let plan = one(&mut pen, vec![piece], None);
    let (s, kernel) = (Shape { d: 8, dv: 8, ..Shape::square(150) }, kernel(&plan, Isa::best()));
    let mut env = s.env(0);
    for by in [4_i64, 3] {
        let member = move |_: i64, q: i64, k: i64| {
            let (x, y) = ((q - 90).div_euclid(7).rem_euclid(3), (k - 50).rem_euclid(by));
            usize::from(x == y && (k - 50).div_euclid(by) < q - 90)
        };
        agrees(&plan, &s, &plain(&member), |h| Env { sizes: vec![by], ..s.env(h) });
    }
    // A launch refuses negative sizes; a divisor of zero must not trap.
    env.sizes = vec![0];
    let x = noise(4, 150 * 8);
    run_dense(&kernel, &s, &[env.clone()], (&x, &x, &x), 1).expect("a division by zero is 0");
    env.sizes = vec![-4];
    let refused = run_dense(&kernel, &s, &[env], (&x, &x, &x), 1);
    assert!(matches!(refused, Err(RunError::Env { .. })), "{refused:?}");
}

#[test]
fn division_floors_for_every_sign() {
    // Divisors computed by the pattern may be negative: (q - 20) / (k - 20) and its remainder.
    let mut pen = Pen::new();
    let (q, k) = (pen.off(Var::Q, -20), pen.off(Var::K, -20));
    let e = pen.e();
    let (div, rest) = (e.intern(Node::Bin(Bin::Div, q, k)), e.intern(Node::Bin(Bin::Mod, q, k)));
    let (div, rest) = (e.to_real(div), e.to_real(rest));
    let ten = e.real(0.01);
    let rest = e.mul(rest, ten);
    let bias = e.add(div, rest);
    let all = pen.everything();
    let plan = one(&mut pen, vec![all], Some(bias));
    let s = Shape { d: 4, dv: 4, ..Shape::square(41) };
    let logit = |_: i64, q: i64, k: i64, x: f64| {
        let (a, b) = (q - 20, k - 20);
        let div = if b == 0 { 0 } else { (a as f64 / b as f64).floor() as i64 };
        x + div as f64 + if b == 0 { 0.0 } else { (a - div * b) as f64 * 0.01 }
    };
    agrees(&plan, &s, &Meaning { times: &|_, _, _| 1, logit: &logit, nulls: &|_, _| vec![] }, |h| s.env(h));
}

/// A neighbourhood on a grid of given extents: rows within `r` and columns within `r` of the query's.
fn grid(pen: &mut Pen, h: Var, w: Var, r: i64) -> (Piece, TilePiece) {
    let row_of = |pen: &mut Pen, v: Var| {
        let (v, w) = (pen.var(v), pen.var(w));
        pen.e().div(v, w)
    };
    let clip = |pen: &mut Pen, at: ExprId, lo: bool, most: Var| {
        let by = pen.int(if lo { -r } else { r + 1 });
        let zero = pen.int(0);
        let most = pen.var(most);
        let e = pen.e();
        let moved = e.add(at, by);
        if lo { e.max(moved, zero) } else { e.min(moved, most) }
    };
    let (zero, width) = (pen.int(0), pen.var(w));
    let at = row_of(pen, Var::Q);
    let (lo, hi) = (clip(pen, at, true, h), clip(pen, at, false, h));
    let row = pen.var(Var::Loop(0));
    let first = pen.e().mul(row, width);
    let (q, w_) = (pen.var(Var::Q), pen.var(w));
    let col = pen.e().modulo(q, w_);
    let (c_lo, c_hi) = (clip(pen, col, true, w), clip(pen, col, false, w));
    let (start, end) = (pen.e().add(first, c_lo), pen.e().add(first, c_hi));
    let span = Some((zero, width));
    let piece = Piece {
        loops: vec![Loop { var: 0, lo, hi, step: 1, phase: zero, span }],
        guard: None,
        start,
        end,
        combs: vec![],
        filter: None,
    };
    let (at_lo, at_hi) = (row_of(pen, Var::QLo), row_of(pen, Var::QHi));
    let (lo, hi) = (clip(pen, at_lo, true, h), clip(pen, at_hi, false, h));
    let (must_lo, must_hi) = (clip(pen, at_hi, true, h), clip(pen, at_lo, false, h));
    // Any column for some query; common to all are only whole rows of narrow grids, which nobody claims.
    let last = pen.e().add(first, width);
    let tile = TilePiece {
        loops: vec![TileLoop { var: 0, lo, hi, must_lo, must_hi, step: 1, phase: zero, span }],
        guard: None,
        start: first,
        end: last,
        must: None,
        combs: vec![],
    };
    (piece, tile)
}

#[test]
fn loops_over_the_rows_of_a_grid() {
    for (height, width, r) in [(9, 17, 2), (3, 100, 1), (40, 5, 3)] {
        let mut pen = Pen::new();
        let (h, w) = (pen.size("h"), pen.size("w"));
        let piece = grid(&mut pen, h, w, r);
        let plan = one(&mut pen, vec![piece], None);
        let member = move |_: i64, q: i64, k: i64| {
            let near = (q / width - k / width).abs() <= r && (q % width - k % width).abs() <= r;
            usize::from(near)
        };
        let s = Shape { d: 16, dv: 16, ..Shape::square((height * width) as usize) };
        agrees(&plan, &s, &plain(&member), |h| Env { sizes: vec![height, width], ..s.env(h) });
    }
}

#[test]
fn loops_with_steps_guards_and_certain_ranges() {
    // Blocks of 40 keys at v * 40, v = 1 (mod 3), up to the query's, for queries from 30 on: all queries of a tile
    // beyond a block have all of it.
    let mut pen = Pen::new();
    let (zero, one_, forty) = (pen.int(0), pen.int(1), pen.int(40));
    let hi_of = |pen: &mut Pen, v: Var| {
        let (v, one_, forty) = (pen.var(v), pen.int(1), pen.int(40));
        let b = pen.e().div(v, forty);
        pen.e().add(b, one_)
    };
    let v = pen.var(Var::Loop(5));
    let start = pen.e().mul(v, forty);
    let end = pen.e().add(start, forty);
    let guard_of = |pen: &mut Pen, v: Var| {
        let (v, thirty) = (pen.var(v), pen.int(30));
        pen.e().le(thirty, v)
    };
    let span = Some((zero, forty));
    let hi = hi_of(&mut pen, Var::Q);
    let piece = Piece {
        loops: vec![Loop { var: 5, lo: zero, hi, step: 3, phase: one_, span }],
        guard: Some(guard_of(&mut pen, Var::Q)),
        start,
        end,
        combs: vec![],
        filter: None,
    };
    let (hi, must_hi) = (hi_of(&mut pen, Var::QHi), hi_of(&mut pen, Var::QLo));
    let tile = TilePiece {
        loops: vec![TileLoop { var: 5, lo: zero, hi, must_lo: zero, must_hi, step: 3, phase: one_, span }],
        guard: Some(guard_of(&mut pen, Var::QHi)),
        start,
        end,
        must: Some(Must { guard: Some(guard_of(&mut pen, Var::QLo)), start, end }),
        combs: vec![],
    };
    let plan = one(&mut pen, vec![(piece, tile)], None);
    let member = |_: i64, q: i64, k: i64| usize::from(q >= 30 && k / 40 <= q / 40 && (k / 40) % 3 == 1);
    let s = Shape { d: 16, dv: 16, ..Shape::square(400) };
    agrees(&plan, &s, &plain(&member), |h| s.env(h));
}

#[test]
fn entries_add_up_and_null_slots_count() {
    let mut pen = Pen::new();
    let (window, sinks) = (pen.window(30), pen.range(|p, _| p.int(0), |p, _| p.int(8)));
    let bias = pen.real(0.7);
    let (a, b) = (tokens(&mut pen, vec![window], None), tokens(&mut pen, vec![sinks], Some(bias)));
    // Two slots of logit 0.5 * slot + 0.01 * q + sink[head].
    pen.program.tensors.push(attnc_pattern::program::Tensor {
        name: "sink".to_owned(),
        dims: vec![],
        of: None,
        span: Default::default(),
    });
    let (slot, q, head) = (pen.var(Var::Slot), pen.var(Var::Q), pen.var(Var::Head));
    let (half, cent) = (pen.real(0.5), pen.real(0.01));
    let e = pen.e();
    let (slot, q) = (e.to_real(slot), e.to_real(q));
    let (x, y) = (e.mul(slot, half), e.mul(q, cent));
    let sink = e.intern(Node::Load(TensorId(0), vec![head]));
    let sum = e.add(x, y);
    let logit = e.add(sum, sink);
    let plan = pen.plan(vec![Entry::Null { slots: 1, bias: None }, a, b, Entry::Null { slots: 2, bias: Some(logit) }]);
    let sinks = [0.25_f32, -1.5];
    let nulls = |h: i64, q: i64| {
        let of = |s: f64| 0.5 * s + 0.01 * q as f64 + f64::from(sinks[h as usize]);
        vec![0.0, of(0.0), of(1.0)]
    };
    let times = |_: i64, q: i64, k: i64| usize::from((0..30).contains(&(q - k))) + usize::from(k < 8);
    // A key of both entries would have two logits: the window leaves the first keys to the sinks there.
    let times_one = |h: i64, q: i64, k: i64| if q < 40 { 0 } else { times(h, q, k) };
    let logit = |_: i64, _: i64, k: i64, s: f64| if k < 8 { s + f64::from(0.7f32) } else { s };
    let s = Shape { n_q: 90, q_start: 40, heads: 2, d: 20, dv: 7, ..Shape::square(130) };
    let tensor = TensorData { data: (&sinks).into(), dims: vec![2] };
    agrees(&plan, &s, &Meaning { times: &times_one, logit: &logit, nulls: &nulls }, |h| Env {
        tensors: vec![tensor.clone()],
        ..s.env(h)
    });
}

/// Runs a causal plan with a modifier against its meaning.
#[track_caller]
fn modified(pen: &mut Pen, score: ExprId, logit: &dyn Fn(i64, i64, i64, f64) -> f64, env: &Env<'_>) {
    let causal = pen.causal();
    let mut plan = one(pen, vec![causal], None);
    plan.stages[0].score = Some(score);
    for (n, q_start) in [(130, 0), (75, 55)] {
        let s = Shape { n_q: n, q_start, heads: 2, d: 16, dv: 16, ..Shape::square(130) };
        let times = |_: i64, q: i64, k: i64| usize::from(k <= q);
        agrees(&plan, &s, &Meaning { times: &times, logit, nulls: &|_, _| vec![] }, |h| Env {
            sizes: env.sizes.clone(),
            tensors: env.tensors.clone(),
            docs: env.docs,
            ..s.env(h)
        });
    }
}

#[test]
fn alibi_in_vector_form() {
    let mut pen = Pen::new();
    let (score, q, k, head) = (pen.var(Var::Score), pen.var(Var::Q), pen.var(Var::K), pen.var(Var::Head));
    let base = pen.real(-0.125);
    let e = pen.e();
    let (distance, head) = (e.sub(k, q), e.to_real(head));
    let distance = e.to_real(distance);
    let slope = e.mul(base, head);
    let slope = e.un(Un::Exp, slope);
    let fall = e.mul(slope, distance);
    let logit = e.add(score, fall);
    modified(&mut pen, logit, &|h, q, k, s| s + (-0.125 * h as f64).exp() * (k - q) as f64, &Env::default());
}

#[test]
fn softcap_and_functions_of_reals() {
    let mut pen = Pen::new();
    let (score, cap) = (pen.var(Var::Score), pen.real(0.5));
    let e = pen.e();
    let x = e.div(score, cap);
    let x = e.un(Un::Tanh, x);
    let capped = e.mul(x, cap);
    // + log(1 + exp(s)) - sqrt(|s|), min(.., 0.3), max(.., -0.3)
    let exp = e.un(Un::Exp, score);
    let one = e.real(1.0);
    let exp = e.add(exp, one);
    let soft = e.un(Un::Log, exp);
    let abs = e.un(Un::Abs, score);
    let root = e.un(Un::Sqrt, abs);
    let sum = e.add(capped, soft);
    let sum = e.sub(sum, root);
    let (hi, lo) = (e.real(0.3), e.real(-0.3));
    let sum = e.min(sum, hi);
    let sum = e.max(sum, lo);
    let sum = e.un(Un::Neg, sum);
    let logit = |_: i64, _: i64, _: i64, s: f64| {
        let x = 0.5 * (s / 0.5).tanh() + s.exp().ln_1p() - s.abs().sqrt();
        -x.min(f64::from(0.3f32)).max(f64::from(-0.3f32))
    };
    modified(&mut pen, sum, &logit, &Env::default());
}

#[test]
fn selections_and_integers_of_queries() {
    // if k / 3 mod 5 = q mod 5 or |q - k| < 7 and not q * q < 900 then s + min(q - k, 20) * 0.05 else -s
    let mut pen = Pen::new();
    let (s, q, k) = (pen.var(Var::Score), pen.var(Var::Q), pen.var(Var::K));
    let e = pen.e();
    let [three, five, seven, twenty, many] = [3, 5, 7, 20, 900].map(|v| e.int(v));
    let a = e.div(k, three);
    let a = e.modulo(a, five);
    let b = e.modulo(q, five);
    let first = e.eq(a, b);
    let distance = e.sub(q, k);
    let size = e.un(Un::Abs, distance);
    let near = e.lt(size, seven);
    let square = e.mul(q, q);
    let small = e.intern(Node::Cmp(Cmp::Lt, square, many));
    let far = e.intern(Node::Not(small));
    let second = e.and([near, far]);
    let cond = e.or([first, second]);
    let capped = e.min(distance, twenty);
    let capped = e.to_real(capped);
    let step = e.real(0.05);
    let grown = e.mul(capped, step);
    let sum = e.add(s, grown);
    let negated = e.un(Un::Neg, s);
    let logit = e.select(cond, sum, negated);
    let meaning = |_: i64, q: i64, k: i64, s: f64| {
        if (k / 3) % 5 == q % 5 || ((q - k).abs() < 7 && q * q >= 900) { s + (q - k).min(20) as f64 * 0.05 } else { -s }
    };
    modified(&mut pen, logit, &meaning, &Env::default());
}

#[test]
fn tensors_tables_and_documents_in_modifiers() {
    let mut pen = Pen::new();
    for name in ["bias", "relative"] {
        let tensor =
            attnc_pattern::program::Tensor { name: name.to_owned(), dims: vec![], of: None, span: Default::default() };
        pen.program.tensors.push(tensor);
    }
    pen.program.tables.push(vec![3, 1, 2]);
    let (s, q, k, head) = (pen.var(Var::Score), pen.var(Var::Q), pen.var(Var::K), pen.var(Var::Head));
    let e = pen.e();
    let full = e.intern(Node::Load(TensorId(0), vec![head, q, k]));
    let distance = e.sub(q, k);
    // Relative positions beyond 8 share a bucket; log2 and isqrt make more of them.
    let log = e.un(Un::Log2, distance);
    let root = e.un(Un::Isqrt, distance);
    let bucket = e.add(log, root);
    let relative = e.intern(Node::Load(TensorId(1), vec![bucket]));
    let doc = e.un(Un::DocOf, k);
    let begin = e.un(Un::DocBegin, doc);
    let end = e.un(Un::DocEnd, doc);
    let length = e.sub(end, begin);
    let three = e.int(3);
    let of = e.modulo(length, three);
    let entry = e.un(Un::Table(TableId(0)), of);
    let power = e.un(Un::Pow2, entry);
    let power = e.to_real(power);
    let small = e.real(0.1);
    let power = e.mul(power, small);
    let sum = [full, relative, power].into_iter().fold(s, |a, b| e.add(a, b));
    let (full, relative) = (noise(7, 2 * 130 * 130), noise(8, 32));
    let docs = [0, 10, 10, 77, 130];
    let meaning = |h: i64, q: i64, k: i64, s: f64| {
        let d = q - k;
        let bucket = d.checked_ilog2().map_or(-1, i64::from) + d.checked_isqrt().unwrap_or(-1);
        let doc = docs.partition_point(|&o| o <= k) - 1;
        let power = [3, 1, 2][((docs[doc + 1] - docs[doc]) % 3) as usize];
        let full = f64::from(full[((h * 130 + q) * 130 + k) as usize]);
        s + full + f64::from(relative[bucket.max(0) as usize]) + 0.1 * f64::from(1 << power)
    };
    let tensors = vec![
        TensorData { data: (&full).into(), dims: vec![2, 130, 130] },
        TensorData { data: (&relative).into(), dims: vec![32] },
    ];
    modified(&mut pen, sum, &meaning, &Env { tensors, docs: &docs, ..Env::default() });
}

#[test]
fn maps_of_every_kind() {
    let n = 150_usize;
    let held = |q: i64, k: i64| (q * 7 + k * 3) % 11 < 4 && q % 13 != 5;
    let dense: Vec<u8> = (0..n * n).map(|i| u8::from(held((i / n) as i64, (i % n) as i64)) * 2).collect();
    let (mut indptr, mut indices) = (vec![0], vec![]);
    for q in 0..n as i64 {
        indices.extend((0..n as i64).filter(|&k| held(q, k)));
        indptr.push(indices.len() as i64);
    }
    let blocks: Vec<u8> = (0..10 * 10).map(|i| u8::from((i / 10 + i % 10) % 3 == 0)).collect();
    let mut pen = Pen::new();
    for kind in [MapKind::Bool, MapKind::Csr, MapKind::Blocks(16)] {
        pen.program.maps.push(Map { name: "m".to_owned(), kind, per_head: false, span: Default::default() });
    }
    let maps = vec![
        MapData::Dense { data: &dense, cols: n },
        MapData::Csr { indptr: &indptr, indices: &indices },
        MapData::Dense { data: &blocks, cols: 10 },
    ];
    let s = Shape { d: 8, dv: 8, q_start: 40, k_start: 20, ..Shape::square(n) };
    let row = |pen: &mut Pen, v: Var, start: Var| {
        let (v, start) = (pen.var(v), pen.var(start));
        pen.e().sub(v, start)
    };
    let (q, k) = (row(&mut pen, Var::Q, Var::QStart), row(&mut pen, Var::K, Var::KStart));
    for map in 0..3 {
        let (q, k) = if map == 2 {
            let unit = pen.int(16);
            (pen.e().div(q, unit), pen.e().div(k, unit))
        } else {
            (q, k)
        };
        let filter = pen.e().intern(Node::MapAt(MapId(map), q, k));
        let piece = filtered(&mut pen, filter);
        let plan = one(&mut pen, vec![piece], None);
        let member = |_: i64, q: i64, k: i64| {
            let (q, k) = (q - 40, k - 20);
            usize::from(if map == 2 { (q / 16 + k / 16) % 3 == 0 } else { held(q, k) })
        };
        agrees(&plan, &s, &plain(&member), |h| Env { maps: maps.clone(), ..s.env(h) });
    }

    // The same rows by a loop over stored entries.
    let e = pen.e();
    let v = e.var(Var::Loop(0));
    let (one_, start) = (e.int(1), e.var(Var::KStart));
    let next = e.add(q, one_);
    let (lo, hi) = (e.un(Un::CsrBegin(MapId(1)), q), e.un(Un::CsrBegin(MapId(1)), next));
    let col = e.un(Un::CsrIndex(MapId(1)), v);
    let begin = e.add(col, start);
    let end = e.add(begin, one_);
    let zero = e.int(0);
    let piece = Piece {
        loops: vec![Loop { var: 0, lo, hi, step: 1, phase: zero, span: None }],
        guard: None,
        start: begin,
        end,
        combs: vec![],
        filter: None,
    };
    let (_, mut tile) = pen.everything();
    tile.loops.push(TileLoop {
        var: 0,
        lo: zero,
        hi: one_,
        must_lo: zero,
        must_hi: zero,
        step: 1,
        phase: zero,
        span: None,
    });
    tile.must = None;
    let plan = one(&mut pen, vec![(piece, tile)], None);
    let member = |_: i64, q: i64, k: i64| usize::from(held(q - 40, k - 20));
    agrees(&plan, &s, &plain(&member), |h| Env { maps: maps.clone(), ..s.env(h) });
    let looked_up = compile_plan(&plan, &Options { clif: true, ..Options::default() }).expect("compiles");
    let calls = |k: &CpuKernel| k.clif().unwrap_or_default().matches("call_indirect").count();
    let (mut piece, tile) = pen.everything();
    piece.filter = None;
    let simple = one(&mut pen, vec![(piece, tile)], None);
    let simple = compile_plan(&simple, &Options { clif: true, ..Options::default() }).expect("compiles");
    assert_eq!(calls(&looked_up), calls(&simple) + 2, "entries of a row are found by two searches");

    // Offsets that lie are refused before anything runs.
    let lying = vec![0; n];
    let mut env = Env { maps: maps.clone(), ..s.env(0) };
    env.maps[1] = MapData::Csr { indptr: &lying, indices: &indices };
    let x = noise(5, n * 8);
    let refused = run_dense(&kernel(&plan, Isa::best()), &s, &[env], (&x, &x, &x), 1);
    assert!(matches!(refused, Err(RunError::Env { .. })), "{refused:?}");
}

#[test]
fn random_choices_are_read_from_their_table() {
    let mut pen = Pen::new();
    let always = pen.e().bool(true);
    let draw = Draw {
        chooser: Chooser::Random { count: 3, seed: 1 },
        of: always,
        unit: 16,
        scope: DrawScope::Row,
        weight: None,
        span: Default::default(),
    };
    pen.program.draws.push(draw);
    let (q, k, unit) = (pen.var(Var::Q), pen.var(Var::K), pen.int(16));
    let e = pen.e();
    let (q, k) = (e.div(q, unit), e.div(k, unit));
    let filter = e.intern(Node::Drawn(DrawId(0), q, k));
    // And the second choice itself, as a range.
    let one_ = e.int(1);
    let second = e.intern(Node::DrawAt(DrawId(0), q, one_));
    let start = e.mul(second, unit);
    let end = e.add(start, unit);
    let piece = filtered(&mut pen, filter);
    let drawn = one(&mut pen, vec![piece], None);
    let (mut piece, mut tile) = pen.everything();
    (piece.start, piece.end, tile.must) = (start, end, None);
    let at = one(&mut pen, vec![(piece, tile)], None);

    // Rows of units 2 .. 8; the last row has two choices only.
    let rows = [[0, 3, 5], [1, 2, 4], [0, 1, 6], [2, 5, 6], [3, 4, 5], [0, 1, -1]];
    let chosen: Vec<i64> = rows.concat();
    let table = DrawTable { chosen: chosen.into(), count: 3, first: 2, counts: [].into(), times: [].into() };
    let s = Shape { q_start: 32, d: 8, dv: 8, n_q: 90, ..Shape::square(112) };
    let row = |q: i64| rows[(q / 16 - 2) as usize];
    let env = |h| Env { draws: vec![table.clone()], ..s.env(h) };
    agrees(&drawn, &s, &plain(&|_, q, k| usize::from(row(q).contains(&(k / 16)))), env);
    agrees(&at, &s, &plain(&|_, q, k| usize::from(row(q)[1] == k / 16)), env);
}

#[test]
fn empty_rows_are_zero_or_an_error() {
    let mut pen = Pen::new();
    // Keys q + 1 .. q + 3: nothing for the last query.
    let piece = pen.range(|p, q| p.off(q, 1), |p, q| p.off(q, 3));
    let mut plan = one(&mut pen, vec![piece], None);
    let s = Shape { heads: 2, d: 8, dv: 8, ..Shape::square(130) };
    let member = |_: i64, q: i64, k: i64| usize::from((1..3).contains(&(k - q)));
    agrees(&plan, &s, &plain(&member), |h| s.env(h));

    plan.empty = Some(Empty::Error);
    let x = noise(6, 2 * 130 * 8);
    let kernel = kernel(&plan, Isa::best());
    let empty = run_dense(&kernel, &s, &[s.env(0), s.env(1)], (&x, &x, &x), 2);
    assert_eq!(empty, Err(RunError::EmptyRow { batch: 0, head: 0, row: 129 }));
    // With more keys than queries every row has some.
    let s = Shape { n_q: 128, ..s };
    let full = run_dense(&kernel, &s, &[s.env(0), s.env(1)], (&x[..2 * 128 * 8], &x, &x), 2);
    assert!(full.is_ok(), "{full:?}");
    // Without keys the first row of the first head is empty, without queries none.
    let s = Shape { n_k: 0, ..s };
    let none = run_dense(&kernel, &s, &[s.env(0), s.env(1)], (&x[..2 * 128 * 8], &[], &[]), 1);
    assert_eq!(none, Err(RunError::EmptyRow { batch: 0, head: 0, row: 0 }));
    let s = Shape { n_q: 0, ..s };
    assert!(run_dense(&kernel, &s, &[s.env(0), s.env(1)], (&[], &[], &[]), 1).is_ok());
}

#[test]
fn no_keys_give_empty_rows() {
    let mut pen = Pen::new();
    let all = pen.everything();
    let plan = one(&mut pen, vec![all], None);
    let s = Shape { n_k: 0, ..Shape::square(70) };
    let q = noise(1, 70 * 64);
    let (out, lse) = run_dense(&kernel(&plan, Isa::best()), &s, &[s.env(0)], (&q, &[], &[]), 2).expect("runs");
    assert!(out.iter().all(|&x| x == 0.0) && lse.iter().all(|&x| x == f32::NEG_INFINITY));
}

#[test]
fn values_that_are_not_finite_stay_in_their_rows() {
    let mut pen = Pen::new();
    let window = pen.window(10);
    let plan = one(&mut pen, vec![window], None);
    let s = Shape { d: 8, dv: 8, ..Shape::square(100) };
    let (q, mut k, mut v) = (noise(1, 800), noise(2, 800), noise(3, 800));
    let clean = run_dense(&kernel(&plan, Isa::best()), &s, &[s.env(0)], (&q, &k, &v), 1).expect("runs");
    k[50 * 8] = f32::NAN;
    v[70 * 8..71 * 8].fill(f32::INFINITY);
    let (out, lse) = run_dense(&kernel(&plan, Isa::best()), &s, &[s.env(0)], (&q, &k, &v), 1).expect("runs");
    for row in 0..100 {
        let (o, l) = (&out[row * 8..][..8], lse[row]);
        match row {
            50..60 => assert!(l.is_nan() && o.iter().all(|x| x.is_nan()), "row {row}"),
            70..80 => assert!(l.is_finite() && o.iter().all(|x| !x.is_finite()), "row {row}"),
            // Kernels may round otherwise beside a value that is not finite.
            _ => assert!(o.iter().zip(&clean.0[row * 8..]).all(|(a, b)| (a - b).abs() < 1e-6) && l == clean.1[row]),
        }
    }
}

/// Elements of a type, and the same as f32.
fn stored(dtype: DType, x: &[f32]) -> (Vec<u8>, Vec<f32>) {
    match dtype {
        DType::F32 => (x.iter().flat_map(|v| v.to_ne_bytes()).collect(), x.to_vec()),
        DType::F16 => x.iter().map(|&v| half::f16::from_f32(v)).map(|h| (h.to_ne_bytes(), h.to_f32())).fold(
            Default::default(),
            |mut all: (Vec<u8>, Vec<f32>), (b, f)| {
                all.0.extend(b);
                all.1.push(f);
                all
            },
        ),
        DType::Bf16 => x.iter().map(|&v| half::bf16::from_f32(v)).map(|h| (h.to_ne_bytes(), h.to_f32())).fold(
            Default::default(),
            |mut all: (Vec<u8>, Vec<f32>), (b, f)| {
                all.0.extend(b);
                all.1.push(f);
                all
            },
        ),
    }
}

fn loaded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        DType::F32 => bytes.chunks(4).map(|b| f32::from_ne_bytes(b.try_into().expect("four"))).collect(),
        DType::F16 => bytes.chunks(2).map(|b| half::f16::from_ne_bytes(b.try_into().expect("two")).to_f32()).collect(),
        DType::Bf16 => {
            bytes.chunks(2).map(|b| half::bf16::from_ne_bytes(b.try_into().expect("two")).to_f32()).collect()
        }
    }
}

/// Memory with the alignment of any element.
fn aligned(bytes: &[u8]) -> Vec<u64> {
    let mut words = vec![0_u64; bytes.len().div_ceil(8)];
    for (i, b) in bytes.iter().enumerate() {
        words[i / 8] |= u64::from(*b) << (i % 8 * 8);
    }
    words
}

fn bytes_of(words: &[u64], len: usize) -> &[u8] {
    // SAFETY: the words hold at least `len` initialised bytes.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), len) }
}

#[test]
fn batches_groups_types_strides_and_padding() {
    let mut pen = Pen::new();
    let causal = pen.causal();
    let plan = one(&mut pen, vec![causal], None);
    let kernel = kernel(&plan, Isa::best());
    let (batch, heads, kv_heads, n, d, dv) = (2_usize, 4_usize, 2_usize, 70_usize, 24_usize, 40_usize);
    // Head 2 has no part; batch item 1 is shorter. Q is [batch, rows, heads, dim], K broadcast over the batch.
    let (computed, kv_of) = ([0, 1, 3], [0, 0, 1, 1]);
    let lengths = [70_usize, 33];
    for (dtype, out_type) in
        [(DType::F32, DType::F32), (DType::F16, DType::F16), (DType::Bf16, DType::Bf16), (DType::F16, DType::F32)]
    {
        let size = dtype.size() as isize;
        let (q_bytes, q) = stored(dtype, &noise(1, batch * n * heads * d));
        let (k_bytes, k) = stored(dtype, &noise(2, kv_heads * n * d));
        let (v_bytes, v) = stored(dtype, &noise(3, batch * kv_heads * n * dv));
        let (q_mem, k_mem, v_mem) = (aligned(&q_bytes), aligned(&k_bytes), aligned(&v_bytes));
        let (nd, di) = (n as isize, d as isize);
        let q_strides = [nd * heads as isize * di, di, heads as isize * di, 1].map(|s| s * size);
        let k_strides = [0, nd * di, di, 1].map(|s| s * size);
        let mut out_mem = vec![u64::MAX; (batch * heads * n * dv * out_type.size()).div_ceil(8)];
        let out_len = batch * heads * n * dv * out_type.size();
        // SAFETY: the words hold at least that many bytes, and nothing else refers to them.
        let out_bytes = unsafe { std::slice::from_raw_parts_mut(out_mem.as_mut_ptr().cast::<u8>(), out_len) };
        let mut lse = vec![f32::NAN; batch * heads * n];
        let envs: Vec<Env<'_>> = (0..batch)
            .flat_map(|b| computed.map(|h| (b, h)))
            .map(|(b, h)| Env {
                n_q: lengths[b] as i64,
                n_k: lengths[b] as i64,
                head: h as i64,
                heads: heads as i64,
                dim: d as i64,
                ..Env::default()
            })
            .collect();
        let parts = [Part { kernel: &kernel, heads: &computed, envs: &envs, forward: false }];
        let mut workspace = vec![1; workspace_bytes(&parts, n, d, dv, 2)];
        let threads = pool(2);
        let shape_k = [batch, kv_heads, n, d];
        let mut launch = Launch {
            q: Tensor::new(bytes_of(&q_mem, q_bytes.len()), 0, dtype, [batch, heads, n, d], q_strides).expect("fits"),
            k: Tensor::new(bytes_of(&k_mem, k_bytes.len()), 0, dtype, shape_k, k_strides).expect("fits"),
            v: Tensor::contiguous(bytes_of(&v_mem, v_bytes.len()), dtype, [batch, kv_heads, n, dv]).expect("fits"),
            out: TensorMut::contiguous(out_bytes, out_type, [batch, heads, n, dv]).expect("fits"),
            lse: Some(TensorMut::of_f32(&mut lse, [batch, heads, n, 1]).expect("fits")),
            q_heads: &[0, 1, 2, 3],
            kv_heads: &kv_of,
            workspace: &mut workspace,
            pool: Some(&threads),
            apart: false,
        };
        run(&parts, &mut launch).expect("runs");
        let out = loaded(out_type, bytes_of(&out_mem, out_len));
        let rounding = match out_type {
            DType::F32 => 0.0,
            DType::F16 => 2f64.powi(-11),
            DType::Bf16 => 2f64.powi(-8),
        };
        for b in 0..batch {
            for h in 0..heads {
                let len = if h == 2 { 0 } else { lengths[b] };
                let s = Shape { d, dv, ..Shape::square(len) };
                let rows: Vec<f32> =
                    (0..len).flat_map(|r| q[((b * n + r) * heads + h) * d..][..d].iter().copied()).collect();
                let kv = kv_of[h];
                let keys = &k[kv * n * d..][..len * d];
                let values = &v[(b * kv_heads + kv) * n * dv..][..len * dv];
                let (want, want_lse, most) = naive(&plain(&|_, q, k| usize::from(k <= q)), &s, &rows, keys, values);
                let bound = (16.0 + 4.0 * (dv as f64).sqrt()) * 2f64.powi(-24) * (1.0 + most) + rounding;
                for r in 0..n {
                    let at = (b * heads + h) * n + r;
                    let got = &out[at * dv..][..dv];
                    if r >= len {
                        assert!(got.iter().all(|&x| x == 0.0) && lse[at] == f32::NEG_INFINITY, "padding {b} {h} {r}");
                        continue;
                    }
                    for c in 0..dv {
                        let (got, want) = (f64::from(got[c]), want[r * dv + c]);
                        assert!((got - want).abs() <= bound, "{dtype:?} {b} {h} {r} {c}: {got} for {want}");
                    }
                    assert!((f64::from(lse[at]) - want_lse[r]).abs() <= bound - rounding);
                }
            }
        }
    }
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    let mut pen = Pen::new();
    let width = pen.size("width");
    let width = pen.var(width);
    let (mut piece, mut tile) = pen.everything();
    (piece.end, tile.end, tile.must) = (width, width, None);
    let plan = one(&mut pen, vec![(piece, tile)], None);
    let kernel = kernel(&plan, Isa::best());
    let data = vec![0.0; 2 * 16 * 8];
    let (heads, good) = ([0, 1], Env { n_q: 16, n_k: 16, heads: 2, dim: 8, sizes: vec![4], ..Env::default() });
    let envs = [good.clone(), Env { head: 1, ..good.clone() }];
    struct Tried<'a> {
        shapes: [[usize; 4]; 5],
        heads: &'a [usize],
        envs: &'a [Env<'a>],
        q_heads: &'a [usize],
        kv_heads: &'a [usize],
        workspace: usize,
    }
    let shape = [1, 2, 16, 8];
    let fine = || Tried {
        shapes: [shape, shape, shape, shape, [1, 2, 16, 1]],
        heads: &heads,
        envs: &envs,
        q_heads: &heads,
        kv_heads: &heads,
        workspace: 1 << 20,
    };
    let attempt = |t: Tried<'_>| {
        let (mut out, mut lse, mut workspace) = (vec![7.0; 256], vec![7.0; 256], vec![0; t.workspace]);
        let result = run(
            &[Part { kernel: &kernel, heads: t.heads, envs: t.envs, forward: false }],
            &mut Launch {
                q: Tensor::of_f32(&data, t.shapes[0]).expect("fits"),
                k: Tensor::of_f32(&data, t.shapes[1]).expect("fits"),
                v: Tensor::of_f32(&data, t.shapes[2]).expect("fits"),
                out: TensorMut::of_f32(&mut out, t.shapes[3]).expect("fits"),
                lse: Some(TensorMut::of_f32(&mut lse, t.shapes[4]).expect("fits")),
                q_heads: t.q_heads,
                kv_heads: t.kv_heads,
                workspace: &mut workspace,
                pool: None,
                apart: false,
            },
        );
        if result.is_err() {
            assert!(out.iter().chain(&lse).all(|&x| x == 7.0), "a refused launch has written");
        }
        result
    };
    assert_eq!(attempt(fine()), Ok(()));
    for (tensor, at, bad) in [
        ("k", 1, [1, 2, 16, 4]),
        ("v", 2, [1, 2, 15, 8]),
        ("v", 2, [1, 1, 16, 8]),
        ("out", 3, [1, 2, 16, 7]),
        ("lse", 4, [1, 2, 15, 1]),
    ] {
        let mut t = fine();
        t.shapes[at] = bad;
        let refused = attempt(t);
        assert!(
            matches!(&refused, Err(RunError::Shape { tensor: name, found, .. }) if *name == tensor && *found == bad)
        );
    }
    let refused = attempt(Tried { q_heads: &[0, 2], ..fine() });
    assert_eq!(refused, Err(RunError::Head { list: "q_heads", head: 2, heads: 2 }));
    let refused = attempt(Tried { kv_heads: &[0], ..fine() });
    assert_eq!(refused, Err(RunError::Count { list: "kv_heads", expected: 2, found: 1 }));
    let refused = attempt(Tried { heads: &[1, 1], ..fine() });
    assert_eq!(refused, Err(RunError::HeadTwice { head: 1 }));
    let refused = attempt(Tried { heads: &[2], ..fine() });
    assert_eq!(refused, Err(RunError::Head { list: "heads", head: 2, heads: 2 }));
    let refused = attempt(Tried { envs: &envs[..1], ..fine() });
    assert_eq!(refused, Err(RunError::Count { list: "envs", expected: 2, found: 1 }));
    let refused = attempt(Tried { workspace: 1000, ..fine() });
    assert!(matches!(refused, Err(RunError::Workspace { found: 1000, needed: 1001.. })), "{refused:?}");
    for bad in [
        Env { n_q: 17, ..good.clone() },
        Env { n_k: -1, ..good.clone() },
        Env { q_start: i64::MAX, ..good.clone() },
        Env { k_start: -1, ..good.clone() },
        Env { head: 1, ..good.clone() },
        Env { dim: 9, ..good.clone() },
        Env { sizes: vec![], ..good.clone() },
        Env { sizes: vec![i64::MIN], ..good.clone() },
    ] {
        let refused = attempt(Tried { envs: &[bad, envs[1].clone()], ..fine() });
        assert!(matches!(refused, Err(RunError::Env { batch: 0, head: 0, .. })), "{refused:?}");
    }
}

#[test]
fn what_is_not_supported_is_refused() {
    let mut pen = Pen::new();
    let all = pen.everything();
    let mut plan = one(&mut pen, vec![all], None);
    plan.stages[0].role = Role::ColumnWalk;
    let refused = compile_plan(&plan, &Options::default());
    assert!(matches!(&refused, Err(CompileError::Unsupported(what)) if what.contains("columns")), "{refused:?}");
    plan.stages[0].role = Role::RowWalk;
    plan.stages[0].tile.q = 24;
    let refused = compile_plan(&plan, &Options::default());
    assert!(matches!(&refused, Err(CompileError::Unsupported(what)) if what.contains("sizes")), "{refused:?}");
}

#[test]
fn deep_expressions_do_not_exhaust_the_stack() {
    let mut pen = Pen::new();
    let (q, k) = (pen.var(Var::Q), pen.var(Var::K));
    let mut x = q;
    for _ in 0..2_000 {
        x = pen.e().intern(Node::Bin(Bin::Max, x, k));
        x = pen.e().intern(Node::Bin(Bin::Min, x, q));
    }
    let filter = pen.e().intern(Node::Cmp(Cmp::Le, k, x));
    let piece = filtered(&mut pen, filter);
    let plan = one(&mut pen, vec![piece], None);
    let s = Shape { d: 4, dv: 4, ..Shape::square(20) };
    let member = |_: i64, q: i64, k: i64| usize::from(k <= q);
    agrees(&plan, &s, &plain(&member), |h| s.env(h));
}

#[test]
fn texts_are_kept_when_asked_for() {
    let mut pen = Pen::new();
    let all = pen.everything();
    let mut plan = one(&mut pen, vec![all], None);
    plan.empty = Some(Empty::Error);
    let kernel = compile_plan(&plan, &Options { clif: true, asm: true, ..Options::default() }).expect("compiles");
    let (clif, asm) = (kernel.clif().unwrap_or_default(), kernel.asm().unwrap_or_default());
    for name in ["; drive\n", "; check\n"] {
        assert!(clif.contains(name) && asm.contains(name), "{name}");
    }
    assert!(clif.contains("call_indirect") && asm.contains("ret") && kernel.code_bytes() > 100);
    let silent = compile_plan(&plan, &Options::default()).expect("compiles");
    assert!(silent.clif().is_none() && silent.asm().is_none());
}

#[test]
fn kernels_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<CpuKernel>();
}
