//! A pattern as an operation of candle.
//!
//! [`Attend`] is a custom operation of queries, keys and values; [`EncoderLayer`] is a layer of BERT that takes its
//! attention from outside, so that candle's own and a pattern's can be held against each other.

use attnc::{Compiler, DType, Inputs, Kernel, Memory, Problem, Resources, Select, TensorMut};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType};
use candle_nn::{LayerNorm, Linear, Module, VarBuilder, layer_norm, linear, ops::softmax_last_dim};

/// Attention under a pattern: `[batch, heads, tokens, dim]` three times in, once out.
#[derive(Clone, Debug)]
pub struct Attend(Kernel);

impl Attend {
    /// Compiles the only pattern of a text.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn new(text: &str) -> Result<Attend> {
        let module = Compiler::default().compile(&Memory::file("pattern", text), "pattern").map_err(said)?;
        let name = module.default_use("").map_err(said)?;
        Ok(Attend(module.kernel(&Select::named(name)).map_err(said)?))
    }

    /// Attention of `q` over `k` and `v`.
    ///
    /// # Errors
    /// Tensors that do not fit.
    pub fn apply(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        q.apply_op3_no_bwd(k, v, self)
    }
}

fn said(said: attnc::Diagnostics) -> candle_core::Error {
    candle_core::Error::Msg(said.to_string())
}

/// A tensor of candle where it lies, whatever its strides.
fn borrowed<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<attnc::Tensor<'a>> {
    let (dtype, bytes): (_, &[u8]) = match storage {
        CpuStorage::F32(values) => (DType::F32, bytemuck::cast_slice(values)),
        CpuStorage::F16(values) => (DType::F16, bytemuck::cast_slice(values)),
        CpuStorage::BF16(values) => (DType::Bf16, bytemuck::cast_slice(values)),
        other => candle_core::bail!("attention of {:?} is not possible", other.dtype()),
    };
    let size = dtype.size();
    let &[a, b, c, d] = layout.dims() else { candle_core::bail!("four axes are wanted, not {:?}", layout.dims()) };
    let mut strides = [0; 4];
    for (stride, &steps) in strides.iter_mut().zip(layout.stride()) {
        *stride = (steps * size) as isize;
    }
    attnc::Tensor::new(bytes, layout.start_offset() * size, dtype, [a, b, c, d], strides)
        .map_err(|e| candle_core::Error::Msg(e.to_string()))
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attnc"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (borrowed(q, q_layout)?, borrowed(k, k_layout)?, borrowed(v, v_layout)?);
        let [batch, heads, tokens, _] = q.shape();
        let shape = [batch, self.0.output_heads(heads), tokens, v.shape()[3]];
        let mut out = vec![0.0_f32; shape.iter().product()];
        let out_t = TensorMut::of_f32(&mut out, shape).map_err(|e| candle_core::Error::Msg(e.to_string()))?;
        let mut problem = Problem { q, k, v, out: out_t, lse: None, inputs: Inputs::default() };
        self.0.run(&mut problem, Resources::default()).map_err(said)?;
        Ok((f32::to_cpu_storage_owned(out), Shape::from_dims(&shape)))
    }
}

/// A layer of BERT.
#[derive(Clone, Debug)]
pub struct EncoderLayer {
    heads: usize,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attended: LayerNorm,
    up: Linear,
    down: Linear,
    done: LayerNorm,
}

impl EncoderLayer {
    /// Takes its weights by the names that BERT has for them.
    ///
    /// # Errors
    /// Weights that are missing or of another shape.
    pub fn new(vb: &VarBuilder<'_>, hidden: usize, inner: usize, heads: usize) -> Result<EncoderLayer> {
        let own = vb.pp("attention.self");
        let out = vb.pp("attention.output");
        Ok(EncoderLayer {
            heads,
            query: linear(hidden, hidden, own.pp("query"))?,
            key: linear(hidden, hidden, own.pp("key"))?,
            value: linear(hidden, hidden, own.pp("value"))?,
            output: linear(hidden, hidden, out.pp("dense"))?,
            attended: layer_norm(hidden, 1e-12, out.pp("LayerNorm"))?,
            up: linear(hidden, inner, vb.pp("intermediate.dense"))?,
            down: linear(inner, hidden, vb.pp("output.dense"))?,
            done: layer_norm(hidden, 1e-12, vb.pp("output.LayerNorm"))?,
        })
    }

    /// The layer on `[batch, tokens, hidden]`, with an attention of `[batch, heads, tokens, dim]`.
    ///
    /// # Errors
    /// Those of candle and of the attention.
    pub fn forward(
        &self,
        x: &Tensor,
        attention: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (batch, tokens, hidden) = x.dims3()?;
        // Views: nothing is copied before the kernel reads it.
        let split = |t: Tensor| t.reshape((batch, tokens, self.heads, hidden / self.heads))?.transpose(1, 2);
        let (q, k, v) =
            (split(self.query.forward(x)?)?, split(self.key.forward(x)?)?, split(self.value.forward(x)?)?);
        let mixed = attention(&q, &k, &v)?.transpose(1, 2)?.reshape((batch, tokens, hidden))?;
        let x = self.attended.forward(&(self.output.forward(&mixed)? + x)?)?;
        let inner = self.up.forward(&x)?.gelu_erf()?;
        self.done.forward(&(self.down.forward(&inner)? + x)?)
    }
}

/// Attention as candle computes it, under a mask `[tokens, keys]` that is added to the scores.
///
/// # Errors
/// Those of candle.
pub fn dense(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let scale = 1.0 / (q.dim(3)? as f64).sqrt();
    let scores = (q.contiguous()?.matmul(&k.t()?.contiguous()?)? * scale)?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    softmax_last_dim(&scores)?.matmul(&v.contiguous()?)
}
