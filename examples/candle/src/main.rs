//! An encoder in candle whose attention is replaced: with the dense pattern its output is that of candle's own attention,
//! with a window that of a masked one.
//!
//! ```sh
//! cargo run --release                      # weights drawn at random
//! cargo run --release -- model.safetensors # those of all-MiniLM-L6-v2
//! ```

use attnc_candle::Attention;
use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::{
    Embedding, LayerNorm, Linear, Module, VarBuilder, VarMap, embedding, layer_norm, linear, ops::softmax_last_dim,
};

/// Extents of all-MiniLM-L6-v2.
const WIDTH: usize = 384;
const HEADS: usize = 12;
const DIM: usize = WIDTH / HEADS;
const LAYERS: usize = 6;
const WORDS: usize = 30522;
const PLACES: usize = 512;

const PATTERNS: &str = "
param radius = 32

pattern dense = all
pattern near = q - k in -radius ..= radius
";

/// A function of queries, keys and values, `[batch, heads, tokens, dim]`.
type Attend<'a> = &'a dyn Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;

/// A layer of BERT.
struct Layer {
    /// Queries, keys and values.
    projections: [Linear; 3],
    output: Linear,
    norm: LayerNorm,
    up: Linear,
    down: Linear,
    last: LayerNorm,
}

impl Layer {
    fn new(vb: &VarBuilder<'_>) -> Result<Layer> {
        let of = |name: &str| linear(WIDTH, WIDTH, vb.pp("attention.self").pp(name));
        Ok(Layer {
            projections: [of("query")?, of("key")?, of("value")?],
            output: linear(WIDTH, WIDTH, vb.pp("attention.output.dense"))?,
            norm: layer_norm(WIDTH, 1e-12, vb.pp("attention.output.LayerNorm"))?,
            up: linear(WIDTH, 4 * WIDTH, vb.pp("intermediate.dense"))?,
            down: linear(4 * WIDTH, WIDTH, vb.pp("output.dense"))?,
            last: layer_norm(WIDTH, 1e-12, vb.pp("output.LayerNorm"))?,
        })
    }

    fn forward(&self, x: &Tensor, attend: Attend<'_>) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        // Heads stand between tokens and elements, and stay there.
        let heads = |l: &Linear| l.forward(x)?.reshape((batch, tokens, HEADS, DIM))?.transpose(1, 2);
        let [q, k, v] = &self.projections;
        let seen = attend(&heads(q)?, &heads(k)?, &heads(v)?)?;
        let seen = seen.transpose(1, 2)?.reshape((batch, tokens, WIDTH))?;
        let x = self.norm.forward(&(x + self.output.forward(&seen)?)?)?;
        let inner = self.up.forward(&x)?.gelu_erf()?;
        self.last.forward(&(&x + self.down.forward(&inner)?)?)
    }
}

/// The encoder.
struct Encoder {
    words: Embedding,
    places: Embedding,
    kinds: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl Encoder {
    fn new(vb: &VarBuilder<'_>) -> Result<Encoder> {
        let of = |n, name: &str| embedding(n, WIDTH, vb.pp("embeddings").pp(name));
        Ok(Encoder {
            words: of(WORDS, "word_embeddings")?,
            places: of(PLACES, "position_embeddings")?,
            kinds: of(2, "token_type_embeddings")?,
            norm: layer_norm(WIDTH, 1e-12, vb.pp("embeddings.LayerNorm"))?,
            layers: (0..LAYERS).map(|i| Layer::new(&vb.pp("encoder.layer").pp(i))).collect::<Result<_>>()?,
        })
    }

    /// The last hidden states of `[batch, tokens]` words.
    fn forward(&self, words: &Tensor, attend: Attend<'_>) -> Result<Tensor> {
        let places = self.places.forward(&Tensor::arange(0, words.dim(1)? as u32, words.device())?)?;
        let kinds = self.kinds.forward(&words.zeros_like()?)?;
        let mut x = self.norm.forward(&(self.words.forward(words)? + kinds)?.broadcast_add(&places)?)?;
        for layer in &self.layers {
            x = layer.forward(&x, attend)?;
        }
        Ok(x)
    }
}

/// Attention with candle's own operations; `mask` is added to scores.
fn own(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let scores = (q.contiguous()?.matmul(&k.t()?.contiguous()?)? / (DIM as f64).sqrt())?;
    let scores = mask.map_or_else(|| Ok(scores.clone()), |mask| scores.broadcast_add(mask))?;
    softmax_last_dim(&scores)?.matmul(&v.contiguous()?)
}

/// The largest difference of two tensors.
fn difference(a: &Tensor, b: &Tensor) -> Result<f32> {
    (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()
}

fn main() -> Result<()> {
    let device = Device::Cpu;
    let map = VarMap::new();
    let (vb, whose) = match std::env::args().nth(1) {
        Some(path) => (VarBuilder::from_buffered_safetensors(std::fs::read(&path)?, DType::F32, &device)?, path),
        None => (VarBuilder::from_varmap(&map, DType::F32, &device), "drawn at random".to_owned()),
    };
    let encoder = Encoder::new(&vb)?;
    println!("weights: {whose}");

    // Two texts of words that are there; what they say does not matter here.
    let (batch, tokens) = (2, 300);
    let words: Vec<u32> = (0..batch * tokens).map(|i| (1000 + i * i * 31 % 20_000) as u32).collect();
    let words = Tensor::from_vec(words, (batch, tokens), &device)?;

    let radius = 32;
    let dense = Attention::new(PATTERNS, "dense", &[])?;
    let near = Attention::new(PATTERNS, "near", &[("radius", &radius.to_string())])?;
    let far = |q: usize, k: usize| if q.abs_diff(k) > radius { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..tokens).flat_map(|q| (0..tokens).map(move |k| far(q, k))).collect();
    let mask = Tensor::from_vec(mask, (tokens, tokens), &device)?;

    let all = encoder.forward(&words, &|q, k, v| own(q, k, v, None))?;
    let masked = encoder.forward(&words, &|q, k, v| own(q, k, v, Some(&mask)))?;
    let by_dense = encoder.forward(&words, &|q, k, v| dense.attend(q, k, v))?;
    let by_near = encoder.forward(&words, &|q, k, v| near.attend(q, k, v))?;

    // Hidden states are normalised: their elements are about 1.
    let most = 1e-4;
    for (what, ours, theirs) in [("dense", &by_dense, &all), ("near", &by_near, &masked)] {
        let found = difference(ours, theirs)?;
        println!("{what}: at most {found:.1e} from candle's own, after {LAYERS} layers");
        if found.is_nan() || found > most {
            bail!("`{what}` differs by {found}, and {most} would be rounding");
        }
    }
    let cosine = |a: &Tensor, b: &Tensor| -> Result<f32> {
        let dot = |a: &Tensor, b: &Tensor| (a * b)?.sum(D::Minus1);
        let norms = (dot(a, a)? * dot(b, b)?)?.sqrt()?;
        (dot(a, b)? / norms)?.mean_all()?.to_scalar()
    };
    let pooled = |x: &Tensor| x.mean(1);
    println!("a window of {radius} each way: cosine {:.3} to dense", cosine(&pooled(&by_near)?, &pooled(&all)?)?);
    if difference(&by_near, &all)? < 1e-3 {
        bail!("the window changes nothing");
    }
    Ok(())
}
