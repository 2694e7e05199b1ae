//! Keys and values that are converted once: bit for bit what singles give.

use super::*;
use crate::conversion_bytes;

const BATCH: usize = 2;
const HEADS: usize = 6;
const KV_HEADS: usize = 3;
const N: usize = 700;
const DIM: usize = 24;
const DIM_V: usize = 40;
/// Keys and queries of each batch item.
const LENGTHS: [usize; BATCH] = [700, 650];

/// Output and log-sum-exp as bits, and whether memory beyond that of scratches was written.
fn bits(kernel: &CpuKernel, dtype: DType, [q, k, v]: [&[u8]; 3], threads: usize, places: bool) -> (Vec<u32>, bool) {
    let heads: Vec<usize> = (0..HEADS).collect();
    let kv_heads: Vec<usize> = (0..HEADS).map(|h| h * KV_HEADS / HEADS).collect();
    let envs: Vec<Env<'_>> = (0..BATCH)
        .flat_map(|b| heads.iter().map(move |&h| (b, h)))
        .map(|(b, h)| Env {
            n_q: LENGTHS[b] as i64,
            n_k: LENGTHS[b] as i64,
            head: h as i64,
            heads: HEADS as i64,
            dim: DIM as i64,
            ..Env::default()
        })
        .collect();
    let parts = [Part { kernel, heads: &heads, envs: &envs, forward: false }];
    let scratches = workspace_bytes(&parts, N, DIM, DIM_V, threads);
    let more = if places { conversion_bytes(N, BATCH * KV_HEADS, N, [DIM, DIM_V], threads) } else { 0 };
    let mut workspace = vec![0xa5; scratches + more];
    let (mut out, mut lse) = (vec![f32::NAN; BATCH * HEADS * N * DIM_V], vec![f32::NAN; BATCH * HEADS * N]);
    let pool = pool(threads);
    let tensor = |bytes, heads, dim| Tensor::contiguous(bytes, dtype, [BATCH, heads, N, dim]).expect("fits");
    let mut launch = Launch {
        q: tensor(q, HEADS, DIM),
        k: tensor(k, KV_HEADS, DIM),
        v: tensor(v, KV_HEADS, DIM_V),
        out: TensorMut::of_f32(&mut out, [BATCH, HEADS, N, DIM_V]).expect("fits"),
        lse: Some(TensorMut::of_f32(&mut lse, [BATCH, HEADS, N, 1]).expect("fits")),
        q_heads: &heads,
        kv_heads: &kv_heads,
        workspace: &mut workspace,
        pool: Some(&pool),
        apart: false,
    };
    run(&parts, &mut launch).expect("runs");
    // Places come before scratches; rows of K are the first.
    let used = workspace[64..64 + DIM * size_of::<f32>()].iter().any(|&b| b != 0xa5);
    (out.iter().chain(&lse).map(|x| x.to_bits()).collect(), used)
}

#[test]
fn converted_once_or_each_time_is_the_same() {
    let mut pen = Pen::new();
    let (all, window) = (pen.causal(), pen.window(200));
    let plans = [one(&mut pen, vec![all], None), one(&mut pen, vec![window], None)];
    for (isa, available) in Isa::available() {
        if available.is_err() {
            continue;
        }
        for (plan, dtype) in plans.iter().flat_map(|plan| [DType::F16, DType::Bf16].map(|dtype| (plan, dtype))) {
            let kernel = kernel(plan, isa);
            let of = |seed, n| stored(dtype, &noise(seed, n));
            let tensors = [
                of(1, BATCH * HEADS * N * DIM),
                of(2, BATCH * KV_HEADS * N * DIM),
                of(3, BATCH * KV_HEADS * N * DIM_V),
            ];
            let words = tensors.each_ref().map(|(bytes, _)| aligned(bytes));
            let given: [&[u8]; 3] = std::array::from_fn(|i| bytes_of(&words[i], tensors[i].0.len()));
            let singles = tensors.each_ref().map(|(_, values)| stored(DType::F32, values).0);
            let words = singles.each_ref().map(|bytes| aligned(bytes));
            let singles: [&[u8]; 3] = std::array::from_fn(|i| bytes_of(&words[i], singles[i].len()));
            let (want, _) = bits(&kernel, DType::F32, singles, 1, false);
            for threads in [1, 2, 5] {
                let (got, used) = bits(&kernel, dtype, given, threads, true);
                assert!(used, "{isa:?} {dtype:?} {threads}: nothing is kept");
                assert!(got == want, "{isa:?} {dtype:?} {threads}: other bits with places");
                let (got, _) = bits(&kernel, dtype, given, threads, false);
                assert!(got == want, "{isa:?} {dtype:?} {threads}: other bits without");
            }
        }
    }
}
