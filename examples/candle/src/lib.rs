//! An operation for candle that is attention by a pattern.
//!
//! One idea: tensors of candle are read where they lie, whatever their strides, so that the heads of a projection need
//! not be made contiguous; the output is the only tensor that is made. It runs on the CPU and has no gradient.

use std::sync::{Arc, Mutex};

use attnc::{Compiler, DType, Inputs, Kernel, Memory, Options, Problem, Ready, Resources, Select, TensorMut};
use bytemuck::Pod;
use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Tensor, WithDType, bail};
use half::{bf16, f16};

/// A compiled pattern. A clone is the same kernel; all may run at once.
#[derive(Clone, Debug)]
pub struct Attention(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kernel: Kernel,
    /// What launches have left, as many as have run at once: layers of one shape find each other's.
    ready: Mutex<Vec<Ready>>,
}

impl Attention {
    /// Compiles the pattern or attention `name` of a text, with values of its params.
    ///
    /// # Errors
    /// What is wrong with the text, with its code.
    pub fn new(text: &str, name: &str, params: &[(&str, &str)]) -> Result<Attention> {
        let set = params.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let compiler = Compiler::new(Options { set, ..Options::default() });
        let module = compiler.compile(&Memory::file("text", text), "text").map_err(Error::wrap)?;
        let kernel = module.kernel(&Select::named(name)).map_err(Error::wrap)?;
        Ok(Attention(Arc::new(Inner { kernel, ready: Mutex::default() })))
    }

    /// Attention of `q`, `[batch, heads, tokens, dim]`, over `k` and `v`, `[batch, KV heads, keys, dim]`, all of f32, f16
    /// or bf16 and of any strides: `[batch, heads, tokens, dim of v]`, of the type of `q`.
    ///
    /// # Errors
    /// Tensors that do not fit, by name, and those of another device.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        q.apply_op3(k, v, self.clone())
    }

    fn run<T: Element>(&self, [q, k, v]: [(&CpuStorage, &Layout); 3]) -> Result<(Vec<T>, Shape)> {
        let (q, k, v) = (view::<T>("q", q)?, view::<T>("k", k)?, view::<T>("v", v)?);
        let Inner { kernel, ready } = &*self.0;
        let [batch, heads, tokens, _] = q.shape();
        let shape = [batch, kernel.output_heads(heads), tokens, v.shape()[3]];
        let mut made = vec![T::zeroed(); shape.iter().product()];
        let out = TensorMut::contiguous(bytemuck::cast_slice_mut(&mut made), T::OF, shape).map_err(Error::wrap)?;
        let mut problem = Problem { q, k, v, out, lse: None, inputs: Inputs::default() };
        let list = || ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut mine = list().pop().unwrap_or_default();
        // Threads are those of rayon, on which candle runs, too.
        let ran = kernel.run(&mut problem, Resources { ready: Some(&mut mine), ..Resources::default() });
        list().push(mine);
        ran.map_err(Error::wrap)?;
        Ok((made, Shape::from_dims(&shape)))
    }
}

/// Element types of both sides.
trait Element: WithDType + Pod {
    const OF: DType;
}

impl Element for f32 {
    const OF: DType = DType::F32;
}

impl Element for f16 {
    const OF: DType = DType::F16;
}

impl Element for bf16 {
    const OF: DType = DType::Bf16;
}

/// A tensor where it lies.
fn view<'a, T: Element>(name: &str, (storage, layout): (&'a CpuStorage, &Layout)) -> Result<attnc::Tensor<'a>> {
    let wrong = |what: String| Error::Msg(format!("`{name}`: {what}"));
    let data = storage.as_slice::<T>().map_err(|e| wrong(e.to_string()))?;
    let (shape, strides) = match (layout.dims(), layout.stride()) {
        (&[batch, heads, rows, dim], &[a, b, c, d]) => ([batch, heads, rows, dim], [a, b, c, d]),
        (other, _) => return Err(wrong(format!("[batch, heads, tokens, dim] is wanted, and not {other:?}"))),
    };
    let size = size_of::<T>();
    let strides = strides.map(|stride| (stride * size) as isize);
    attnc::Tensor::new(bytemuck::cast_slice(data), layout.start_offset() * size, T::OF, shape, strides)
        .map_err(|e| wrong(e.to_string()))
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attnc"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        of_q: &Layout,
        k: &CpuStorage,
        of_k: &Layout,
        v: &CpuStorage,
        of_v: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let given = [(q, of_q), (k, of_k), (v, of_v)];
        Ok(match q {
            CpuStorage::F32(_) => self.run(given).map(|(out, shape)| (CpuStorage::F32(out), shape))?,
            CpuStorage::F16(_) => self.run(given).map(|(out, shape)| (CpuStorage::F16(out), shape))?,
            CpuStorage::BF16(_) => self.run(given).map(|(out, shape)| (CpuStorage::BF16(out), shape))?,
            _ => bail!("`q` is of none of f32, f16 and bf16"),
        })
    }
}
