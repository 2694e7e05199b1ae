//! Dense attention of one head by the kernels alone, as a share of this core's measured peak.
//!
//! `cargo run --release -p attnc-kernels --example peak [TOKENS [HEADS [ISA]]]`; HEADS says how many heads lie side by
//! side in a row of K and V, of which one is read.
#![allow(clippy::print_stdout, reason = "an example reports to its terminal")]

use std::ptr::null;
use std::time::{Duration, Instant};

use attnc_kernels::Isa;
use attnc_kernels::abi::{BK, DType, KvView, Table};
use attnc_kernels::peak::fma_burst;

const BQ: usize = 64;

fn main() {
    let number = |i, default| std::env::args().nth(i).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (tokens, heads) = (number(1, 8192), number(2, 1));
    let only = std::env::args().nth(3);
    for (isa, _) in Isa::available() {
        let Some(table) = Table::of(isa) else { continue };
        if only.as_ref().is_some_and(|only| only != isa.name()) {
            continue;
        }
        let peak = (0..5).map(|_| measure_peak(isa)).fold(0.0, f64::max);
        println!("{}: peak {:.1} GFLOP/s", isa.name(), peak / 1e9);
        for d in [32, 64, 128, 256] {
            let total = Attention::new(tokens, d, heads).measure(&table);
            let flops = |products: usize| (products * 2 * tokens * BQ * d) as f64;
            let share = |flops: f64, time: Duration| 100.0 * flops / time.as_secs_f64() / peak;
            println!(
                "  D {d:3}: {:.1} % of peak  (qk {:.1} %, pv {:.1} %, softmax {:.1} % of the time)",
                share(flops(2), total.all),
                share(flops(1), total.qk),
                share(flops(1), total.pv),
                100.0 * total.softmax.as_secs_f64() / (total.qk + total.pv + total.softmax).as_secs_f64(),
            );
        }
    }
}

fn measure_peak(isa: Isa) -> f64 {
    let mut best = 0.0f64;
    let end = Instant::now() + Duration::from_millis(100);
    while Instant::now() < end {
        let begin = Instant::now();
        let (flops, sink) = fma_burst(isa, 100_000);
        std::hint::black_box(sink);
        best = best.max(flops as f64 / begin.elapsed().as_secs_f64());
    }
    best
}

/// A cache line, at which buffers begin.
#[derive(Clone)]
#[repr(align(64))]
struct Line([f32; 16]);

fn zeros(n: usize) -> Vec<Line> {
    vec![Line([0.0; 16]); n.div_ceil(16)]
}

/// One query tile against a sequence.
struct Attention {
    tokens: usize,
    d: usize,
    /// Elements from row to row of K and V.
    stride: usize,
    q: Vec<Line>,
    k: Vec<Line>,
    v: Vec<Line>,
    s: Vec<Line>,
    acc: Vec<Line>,
    m: Vec<Line>,
    l: Vec<Line>,
    alpha: Vec<Line>,
}

/// Time for the sequence.
struct Times {
    all: Duration,
    qk: Duration,
    softmax: Duration,
    pv: Duration,
}

impl Attention {
    fn new(tokens: usize, d: usize, heads: usize) -> Attention {
        let mut state = 1u32;
        let mut random = |n: usize| {
            let mut lines = zeros(n);
            for x in lines.iter_mut().flat_map(|line| &mut line.0) {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *x = (state >> 8) as f32 / 8_388_608.0 - 1.0;
            }
            lines
        };
        Attention {
            tokens,
            d,
            stride: heads * d,
            q: random(d * BQ),
            k: random(tokens * heads * d),
            v: random(tokens * heads * d),
            s: zeros(BK * BQ),
            acc: zeros(d * BQ),
            m: zeros(BQ),
            l: zeros(BQ),
            alpha: zeros(BQ),
        }
    }

    /// Best of many passes, timed as a whole; then the kernels apart, as the lowest tenth of their calls, which other load leaves alone.
    fn measure(mut self, table: &Table) -> Times {
        let end = Instant::now() + Duration::from_millis(400);
        let mut all = Duration::MAX;
        let mut calls: [Vec<Duration>; 3] = Default::default();
        while Instant::now() < end {
            all = all.min(self.pass(table, |_, call| call()));
            self.pass(table, |kernel, call| {
                let begin = Instant::now();
                call();
                calls[kernel].push(begin.elapsed());
            });
        }
        let [qk, softmax, pv] = calls.map(|mut calls| {
            calls.sort();
            calls[calls.len() / 10] * self.tokens.div_ceil(BK) as u32
        });
        Times { all, qk, softmax, pv }
    }

    /// Attends once. Each call of `qk` (0), `softmax` (1) and `pv` (2) goes through `timed`.
    fn pass(&mut self, table: &Table, mut timed: impl FnMut(usize, &mut dyn FnMut())) -> Duration {
        let (d, bq) = (self.d as i64, BQ as i64);
        let view = |rows: &[Line]| KvView {
            base: rows.as_ptr().cast(),
            row_stride: 4 * self.stride as i64,
            col_stride: 4,
            dtype: DType::F32 as u32,
            page_rows: 0,
            table: null(),
            page_stride: 0,
            rows: null(),
            dim: d as u64,
        };
        let (k, v) = (view(&self.k), view(&self.v));
        let at = |lines: &mut [Line]| lines.as_mut_ptr().cast::<f32>();
        let (m, l, alpha) = (at(&mut self.m), at(&mut self.l), at(&mut self.alpha));
        let (s, acc) = (at(&mut self.s), at(&mut self.acc));
        let begin = Instant::now();
        // SAFETY: every buffer has the size that its kernel asks for, and the views hold `tokens` rows.
        unsafe {
            (table.start)(bq, bq, d, m, l, acc);
            for first in (0..self.tokens).step_by(BK) {
                let keys = BK.min(self.tokens - first) as i64;
                let mut stride = 0;
                let row = (table.kv_tile)(&raw const k, first as i64, keys, s, &raw mut stride) as *const f32;
                timed(0, &mut || (table.qk)(self.q.as_ptr().cast(), row, stride, keys, d, bq, bq, s));
                let mut rescale = 0;
                timed(1, &mut || rescale = (table.softmax)(s, keys, bq, bq, null(), m, l, alpha));
                let row = (table.kv_tile)(&raw const v, first as i64, keys, s, &raw mut stride) as *const f32;
                let alpha = if rescale == 0 { null() } else { alpha.cast_const() };
                timed(2, &mut || (table.pv)(s, row, stride, keys, d, bq, bq, null(), alpha, acc));
            }
        }
        begin.elapsed()
    }
}
