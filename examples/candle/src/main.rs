//! Holds an encoder layer of BERT with attention by attnc against the same layer with candle's own.
//!
//! ```sh
//! cargo run --release --manifest-path examples/candle/Cargo.toml [MODEL.safetensors]
//! ```
//!
//! With a file, such as that of all-MiniLM-L6-v2, the weights are those of its first layer; without one they are random.

use std::time::Instant;

use attnc_candle::{Attend, EncoderLayer, dense};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};

const HIDDEN: usize = 384;
const INNER: usize = 1536;
const HEADS: usize = 12;
const TOKENS: usize = 512;
const WINDOW: i64 = 64;

fn main() -> Result<()> {
    let device = Device::Cpu;
    let varmap = VarMap::new();
    let vb = match std::env::args().nth(1) {
        Some(path) => {
            let bytes = std::fs::read(path)?;
            VarBuilder::from_buffered_safetensors(bytes, DType::F32, &device)?.pp("encoder.layer.0")
        }
        None => VarBuilder::from_varmap(&varmap, DType::F32, &device),
    };
    let layer = EncoderLayer::new(&vb, HIDDEN, INNER, HEADS)?;
    let x = Tensor::randn(0.0_f32, 1.0, (2, TOKENS, HIDDEN), &device)?;

    let all = Attend::new("pattern dense = all\n")?;
    let window = Attend::new(&format!("pattern window = q - k in -{WINDOW} ..= {WINDOW}\n"))?;
    let outside = |q: i64, k: i64| if (q - k).abs() <= WINDOW { 0.0 } else { f32::NEG_INFINITY };
    let rows = (0..TOKENS as i64).flat_map(|q| (0..TOKENS as i64).map(move |k| outside(q, k)));
    let mask = Tensor::from_iter(rows, &device)?.reshape((TOKENS, TOKENS))?;

    let mut failed = false;
    for (name, pattern, mask) in [("dense", &all, None), ("window", &window, Some(&mask))] {
        let begin = Instant::now();
        let theirs = layer.forward(&x, |q, k, v| dense(q, k, v, mask))?;
        let between = Instant::now();
        let ours = layer.forward(&x, |q, k, v| pattern.apply(q, k, v))?;
        let (a, b) = (between - begin, between.elapsed());
        let worst = (theirs - ours)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        println!("{name}: layers differ by {worst:e}; candle {a:.1?}, attnc {b:.1?}");
        failed |= worst.is_nan() || worst > 2e-5;
    }
    if failed {
        candle_core::bail!("the layers should not differ by more than 2e-5");
    }
    Ok(())
}
