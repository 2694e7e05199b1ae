//! A host program that compiles a pattern once and runs it at several lengths, from several threads, and
//! decodes token by token against a growing cache.
//!
//! ```sh
//! cargo run --release -p attnc --example embed
//! ```

#![expect(clippy::print_stdout, reason = "a program that shows what it did")]

use std::error::Error;
use std::time::{Duration, Instant};

use attnc::{Compiler, DType, Inputs, Kernel, Options, Problem, Resources, Select, Tensor, TensorMut};

/// A window and four sinks; a host could as well load a file through its own `Loader`.
const PATTERN: &str = "
param width = 1024

attention streaming {
  align = end
  attend causal & (q - k in 0 .. width | k in 0 .. 4)
}
";

/// Query heads, KV heads and dimension.
const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const DIM: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let options = Options { set: vec![("width".into(), "256".into())], ..Options::default() };
    let module = Compiler::new(options).source(PATTERN)?;
    let kernel = module.kernel(&Select::named("streaming"))?;
    println!("compiled in {:?}: plan {}", begin.elapsed(), kernel.hash());

    // One kernel, several lengths.
    for tokens in [100, 1_000, 4_000] {
        let (out, time) = prefill(&kernel, tokens)?;
        println!("{tokens:>5} tokens: {time:>9.2?}, out[0] = {:.4}", out[0]);
    }

    // Shared between threads as it is.
    let shared: Vec<Result<Vec<f32>, String>> = std::thread::scope(|scope| {
        let run = || prefill(&kernel, 500).map(|(out, _)| out).map_err(|error| error.to_string());
        let threads = [scope.spawn(run), scope.spawn(run)];
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect()
    });
    assert_eq!(shared[0], shared[1]);

    decode(&kernel, 600)
}

/// Numbers that stand for the host's activations.
fn activations(len: usize, phase: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.37 + phase).sin()).collect()
}

/// All queries against all keys; the output and the time of the launch.
fn prefill(kernel: &Kernel, tokens: usize) -> Result<(Vec<f32>, Duration), Box<dyn Error>> {
    let q = activations(HEADS * tokens * DIM, 0.0);
    let (k, v) = (activations(KV_HEADS * tokens * DIM, 1.0), activations(KV_HEADS * tokens * DIM, 2.0));
    let mut out = vec![0.0; q.len()];
    let mut problem = Problem {
        q: Tensor::of_f32(&q, [1, HEADS, tokens, DIM])?,
        k: Tensor::of_f32(&k, [1, KV_HEADS, tokens, DIM])?,
        v: Tensor::of_f32(&v, [1, KV_HEADS, tokens, DIM])?,
        out: TensorMut::of_f32(&mut out, [1, HEADS, tokens, DIM])?,
        lse: None,
        inputs: Inputs::default(),
    };
    let begin = Instant::now();
    kernel.run(&mut problem, Resources::default())?;
    Ok((out, begin.elapsed()))
}

/// One query at a time against a cache laid out `[tokens, heads, dim]`, in memory that is allocated once.
fn decode(kernel: &Kernel, steps: usize) -> Result<(), Box<dyn Error>> {
    let row = KV_HEADS * DIM * DType::F32.size();
    let mut cache = Vec::with_capacity(2 * steps * row);
    let mut workspace = vec![0; kernel.workspace_bytes([1, HEADS, 1, DIM], steps, DIM, 1)?];
    let mut out = vec![0.0; HEADS * DIM];
    let begin = Instant::now();
    for step in 0..steps {
        // Keys, then values, of the new token.
        cache.extend(activations(2 * KV_HEADS * DIM, step as f32).into_iter().flat_map(f32::to_le_bytes));
        let q = activations(HEADS * DIM, step as f32 * 0.5);
        let shape = [1, KV_HEADS, step + 1, DIM];
        let strides = [0, (DIM * 4) as isize, 2 * row as isize, 4];
        let mut problem = Problem {
            q: Tensor::of_f32(&q, [1, HEADS, 1, DIM])?,
            k: Tensor::new(&cache, 0, DType::F32, shape, strides)?,
            v: Tensor::new(&cache, row, DType::F32, shape, strides)?,
            out: TensorMut::of_f32(&mut out, [1, HEADS, 1, DIM])?,
            lse: None,
            inputs: Inputs::default(),
        };
        kernel.run(&mut problem, Resources { workspace: Some(&mut workspace), ..Resources::default() })?;
    }
    println!("{steps:>5} steps of decoding: {:.2?}, out[0] = {:.4}", begin.elapsed(), out[0]);
    Ok(())
}
