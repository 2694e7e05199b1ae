//! Kernels on GPUs.
//!
//! One idea: whoever owns the device waits for it. [`adapters`] finds GPUs and [`Adapter::open`] opens one, or a host
//! hands its own device to [`Gpu::new`]; [`Session::new`] uploads a problem, [`Session::submit`] returns at once, and
//! [`Pending::ready`] tells whether results are there. [`Kernel::encode`] writes a launch on the host's own buffers into
//! the host's own command encoder. Nothing here waits, starts a thread or reads a clock.
//!
//! ```no_run
//! use attnc::{Compiler, Inputs, Options, Problem, Select, Target, Tensor, TensorMut, gpu};
//!
//! let gpu = gpu::adapter(None, None)?.open()?;
//! let options = Options { target: Target::Gpu(None), ..Options::default() };
//! let module = Compiler::new(options).source("pattern local = q - k in 0 .. 128\n")?;
//! let kernel = module.kernel(&Select::named("local"))?;
//! let shape = [1, 4, 1000, 64];
//! let (x, mut out) = (vec![0.5; 4 * 1000 * 64], vec![0.0; 4 * 1000 * 64]);
//! let t = Tensor::of_f32(&x, shape)?;
//! let out = TensorMut::of_f32(&mut out, shape)?;
//! let mut problem = Problem { q: t, k: t, v: t, out, lse: None, inputs: Inputs::default() };
//! let session = gpu::Session::new(&kernel, &gpu, &problem)?;
//! let pending = session.submit(&gpu, true)?;
//! while !pending.ready(&gpu)? {
//!     std::thread::yield_now();
//! }
//! pending.finish(&mut problem)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::rc::Rc;
use std::sync::Arc;

use attnc_gpu::{Element, LaunchError, Part, Spec, Term};
use attnc_pattern::env::Env;
use attnc_syntax::diag::Diagnostic;

pub use attnc_gpu::{Adapter, Buffers, Gpu, GpuError as Error, Launch, Variant, adapter, adapters, validate, wgpu};

use crate::compiler::{Diagnostics, Shared};
use crate::kernel::Kernel;
use crate::made::Of;
use crate::problem::{Inputs, Problem};
use crate::{Chosen, DType, NO_TARGET};

/// Code of tensors that a variant does not take.
pub(crate) const UNFIT: &str = "E0620";
/// Code of an integer that may not fit 32 bits.
const RANGE: &str = "E0621";
/// Code of a GPU that failed.
const FAILED: &str = "E0622";

impl From<Error> for Diagnostics {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::NoAdapter(_) | Error::Device(_) => NO_TARGET,
            _ => FAILED,
        };
        Diagnostic::global(code, error.to_string()).help(error.help()).into()
    }
}

fn element(dtype: DType) -> Element {
    match dtype {
        DType::F32 => Element::F32,
        DType::F16 => Element::F16,
        DType::Bf16 => Element::Bf16,
    }
}

/// What is constant in the text of a shader beside the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shader {
    /// What it asks of an adapter.
    pub variant: Variant,
    /// Type of Q, K, V and of the output.
    pub dtype: DType,
    /// Dimension of queries and keys.
    pub dim: usize,
    /// Dimension of values.
    pub value_dim: usize,
}

impl Shader {
    /// For f16 and 64 elements, or f32 for the portable variant.
    #[must_use]
    pub fn of(variant: Variant) -> Shader {
        let dtype = if variant == Variant::Portable { DType::F32 } else { DType::F16 };
        Shader { variant, dtype, dim: 64, value_dim: 64 }
    }
}

/// Extents of tensors in buffers, row-major `[batch, heads, rows, pitch]`; see [`Kernel::pitches`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of Q: `[batch, heads, rows, dim]`.
    pub q: [usize; 4],
    /// Of K; V has the same but for the dimension.
    pub k: [usize; 4],
    /// Dimension of values.
    pub value_dim: usize,
    /// Type of Q, K and V.
    pub input: DType,
    /// Type of the output.
    pub output: DType,
}

impl Kernel {
    /// Whether it is for GPUs: a [`Session`] then submits its launches.
    #[must_use]
    pub fn is_for_gpu(&self) -> bool {
        matches!(self.shared().target(), crate::Target::Gpu(_))
    }

    /// The shaders of every attention in use, in the order in which they run: the name of the attention, the variant
    /// that the shader is of (levels and selections are computed in f32 whatever the others are), and its text. Needs no
    /// device.
    ///
    /// # Errors
    /// What the variant does not do.
    pub fn wgsl(&self, shader: &Shader) -> Result<Vec<(&str, Variant, String)>, Diagnostics> {
        let Shader { variant, dtype, dim, value_dim } = *shader;
        let spec = Spec { variant, input: element(dtype), output: element(dtype), d: dim, dv: value_dim };
        let mut texts = Vec::new();
        for (attention, merge) in self.arms()? {
            let built = self.shared().planned_for_gpu(attention).map_err(|list| self.shared().said(list))?;
            let modules = attnc_gpu::modules(&built.plan, &spec)
                .map_err(|e| self.shared().said(vec![self.shared().not_emitted(attention, &e)]))?;
            let name = self.program().attentions[attention].name.as_str();
            texts.extend(modules.into_iter().map(|(variant, text)| (name, variant, text)));
            if let Some((merge, gate)) = merge {
                let text =
                    gate.text(&spec).map_err(|e| self.shared().said(vec![self.shared().not_emitted(merge, &e)]))?;
                texts.push((self.program().attentions[merge].name.as_str(), Variant::Portable, text));
            }
        }
        Ok(texts)
    }

    /// Elements from row to row of Q and K, and of V and the output, in buffers for [`Kernel::encode`]. Elements beyond
    /// the dimension are 0.
    ///
    /// # Errors
    /// A variant that the GPU does not run.
    pub fn pitches(&self, gpu: &Gpu, layout: &Layout) -> Result<(usize, usize), Diagnostics> {
        let variant = self.variant(gpu, layout)?;
        let (input, output) = (element(layout.input), element(layout.output));
        let spec = Spec { variant, input, output, d: layout.q[3], dv: layout.value_dim };
        Ok((spec.pitch(), spec.value_pitch()))
    }

    fn variant(&self, gpu: &Gpu, layout: &Layout) -> Result<Variant, Diagnostics> {
        let kernels = self.shaders().map(|(kernel, _)| kernel);
        attnc_gpu::variant(kernels, gpu, element(layout.input), [layout.q[3], layout.value_dim])
            .map_err(|e| self.launch_failed(&e))
    }

    /// Prepares a launch on buffers of the host: [`Launch::encode`] then writes it into a command encoder of the host.
    ///
    /// # Errors
    /// Whatever does not fit.
    pub fn encode(
        &self,
        gpu: &Gpu,
        layout: &Layout,
        buffers: &Buffers<'_>,
        inputs: &Inputs<'_>,
    ) -> Result<Launch, Diagnostics> {
        self.prepared(layout, inputs, Of::Nothing, |parts, shape, heads| {
            attnc_gpu::launch(gpu, parts, shape, heads, buffers).map_err(|e| self.launch_failed(&e))
        })
    }

    /// Makes the environments of a launch and hands them on.
    fn prepared<T>(
        &self,
        layout: &Layout,
        inputs: &Inputs<'_>,
        from: Of<'_>,
        run: impl FnOnce(&[Part<'_>], &attnc_gpu::Shape, (&[usize], &[usize])) -> Result<T, Diagnostics>,
    ) -> Result<T, Diagnostics> {
        let [batch, q_heads, n_q, d] = layout.q;
        let [_, kv_heads, n_k, _] = layout.k;
        let made = self.environments(layout.q, layout.k, inputs, from)?;
        let parts: Vec<Part<'_>> = (self.shaders().zip(&made.parts))
            .map(|((kernel, gate), PartEnvironments { heads, envs, merge })| {
                let term = gate.zip(merge.as_ref()).map(|(gate, (envs, ends))| Term { gate, envs, ends: *ends });
                Part { kernel, heads, envs, term }
            })
            .collect();
        let shape = attnc_gpu::Shape {
            batch,
            q_heads,
            kv_heads,
            heads: made.q.len(),
            n_q,
            n_k,
            d,
            dv: layout.value_dim,
            input: element(layout.input),
            output: element(layout.output),
        };
        run(&parts, &shape, (&made.q, &made.kv))
    }

    fn launch_failed(&self, error: &LaunchError) -> Diagnostics {
        let program = self.program();
        match error {
            LaunchError::Emit(e) => {
                let attention = self.attentions().first().copied().unwrap_or(0);
                self.shared().said(vec![self.shared().not_emitted(attention, e)])
            }
            LaunchError::Gpu(e) => Diagnostics { sources: self.shared().said(vec![]).sources, ..e.clone().into() },
            LaunchError::Variant(variant) => {
                let message = format!("the GPU does not run the variant `{}`", variant.name());
                let help = "`attnc targets` says what it lacks; `--target gpu` chooses one that it runs";
                self.shared().said(vec![Diagnostic::global(NO_TARGET, message).help(help)])
            }
            LaunchError::Range { attention, expr } => {
                let span = program.exprs.span(*expr).unwrap_or(program.attentions[*attention].span);
                let message = "an integer of the pattern may not fit 32 bits for these sizes";
                let label = "GPUs compute with 32-bit integers";
                let help = "use fewer tokens or smaller sizes; `--target cpu` computes with 64 bits";
                self.shared().said(vec![Diagnostic::error(RANGE, span, message, label).help(help)])
            }
            LaunchError::EmptyRow { batch, head, row } => self.empty_row(*batch, *head, *row),
            LaunchError::Data(what) => self.shared().said(vec![Diagnostic::global("E0721", what.clone())]),
        }
    }
}

/// Heads of a part, and an environment for each (batch item, head).
pub(crate) struct PartEnvironments<'a> {
    pub(crate) heads: Vec<usize>,
    pub(crate) envs: Vec<Env<'a>>,
    /// Of an arm of a merge: environments of the merge, and whether it is the first and the last.
    pub(crate) merge: Option<(Rc<Vec<Env<'a>>>, [bool; 2])>,
}

/// What a launch computes with, made from its inputs.
pub(crate) struct Environments<'a> {
    /// By part; arms of a merge follow one another.
    pub(crate) parts: Vec<PartEnvironments<'a>>,
    /// Heads of Q that heads of the output read.
    pub(crate) q: Vec<usize>,
    /// Heads of K and V.
    pub(crate) kv: Vec<usize>,
}

/// A launch on tensors in memory.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    session: attnc_gpu::Session,
    shape: [usize; 4],
}

impl Session {
    /// Uploads a problem and prepares its launch; where Q, K and V are of several types, as f32.
    ///
    /// # Errors
    /// Whatever does not fit, and rows without entries under `empty = error`.
    pub fn new(kernel: &Kernel, gpu: &Gpu, problem: &Problem<'_>) -> Result<Session, Diagnostics> {
        let Problem { q, k, v, out, .. } = problem;
        kernel.check_shapes(problem)?;
        let input = if q.dtype() == k.dtype() && k.dtype() == v.dtype() { q.dtype() } else { DType::F32 };
        let layout = Layout { q: q.shape(), k: k.shape(), value_dim: v.shape()[3], input, output: out.dtype() };
        let read_q = |at: [usize; 3], bytes: &mut [u8]| q.row_as(at, input, bytes);
        let read_k = |at: [usize; 3], bytes: &mut [u8]| k.row_as(at, input, bytes);
        let read_v = |at: [usize; 3], bytes: &mut [u8]| v.row_as(at, input, bytes);
        let rows = Of::Rows(kernel.rows(problem, None)?);
        let session = kernel.prepared(&layout, &problem.inputs, rows, |parts, shape, heads| {
            attnc_gpu::Session::new(gpu, parts, shape, heads, [&read_q, &read_k, &read_v])
                .map_err(|e| kernel.launch_failed(&e))
        })?;
        Ok(Session { shared: kernel.shared().clone(), session, shape: out.shape() })
    }

    /// What of the GPU it uses.
    #[must_use]
    pub fn variant(&self) -> Variant {
        self.session.variant()
    }

    /// The type to which weights are rounded before they meet V.
    #[must_use]
    pub fn weights(&self) -> DType {
        if self.variant() == Variant::Matrix { DType::F16 } else { DType::F32 }
    }

    /// Submits the launch; with `read`, its results are brought back.
    ///
    /// # Errors
    /// A GPU that is lost or has no memory.
    pub fn submit(&self, gpu: &Gpu, read: bool) -> Result<Pending, Diagnostics> {
        self.submitted(gpu, if read { attnc_gpu::Read::Results } else { attnc_gpu::Read::Nothing })
    }

    /// As [`Session::submit`], and brings back what selections chose: see [`Pending::finish_chosen`].
    ///
    /// # Errors
    /// As for [`Session::submit`].
    pub fn submit_chosen(&self, gpu: &Gpu) -> Result<Pending, Diagnostics> {
        self.submitted(gpu, attnc_gpu::Read::Chosen)
    }

    fn submitted(&self, gpu: &Gpu, read: attnc_gpu::Read) -> Result<Pending, Diagnostics> {
        let pending = self.session.submit(gpu, read).map_err(|e| failed(&self.shared, e))?;
        Ok(Pending { shared: self.shared.clone(), pending, shape: self.shape })
    }
}

/// Errors that arise once a launch is prepared.
fn failed(shared: &Shared, error: LaunchError) -> Diagnostics {
    match error {
        LaunchError::Gpu(e) => Diagnostics { sources: shared.said(vec![]).sources, ..e.into() },
        other => shared.said(vec![Diagnostic::global(FAILED, format!("{other:?}"))]),
    }
}

/// A launch that was submitted.
#[derive(Debug)]
pub struct Pending {
    shared: Arc<Shared>,
    pending: attnc_gpu::Pending,
    shape: [usize; 4],
}

impl Pending {
    /// Whether results are there. Does not wait: ask again.
    ///
    /// # Errors
    /// A GPU that is lost.
    pub fn ready(&self, gpu: &Gpu) -> Result<bool, Diagnostics> {
        self.pending.ready(gpu).map_err(|e| failed(&self.shared, e))
    }

    /// Writes the results, if they were asked for, and returns the nanoseconds that the device took, if it tells.
    ///
    /// # Errors
    /// Results that are not there yet.
    pub fn finish(self, problem: &mut Problem<'_>) -> Result<Option<f64>, Diagnostics> {
        Ok(self.finish_chosen(problem)?.0)
    }

    /// As [`Pending::finish`], and what selections chose, if [`Session::submit_chosen`] asked for it.
    ///
    /// # Errors
    /// As for [`Pending::finish`].
    pub fn finish_chosen(self, problem: &mut Problem<'_>) -> Result<(Option<f64>, Vec<Chosen>), Diagnostics> {
        let results = self.pending.finish().map_err(|e| failed(&self.shared, e))?;
        let found = (results.nanos, results.chosen);
        if results.out.is_empty() {
            return Ok(found);
        }
        let [batch, heads, rows, dim] = self.shape;
        for item in 0..batch {
            let lengths = problem.inputs.lengths.get(item);
            let rows_here = lengths.map_or(rows, |&(n_q, _)| usize::try_from(n_q).unwrap_or(0));
            for head in 0..heads {
                for row in 0..rows_here {
                    let at = (item * heads + head) * rows + row;
                    problem.out.set_row(
                        [item, head, row],
                        &results.out[at * results.row..][..dim * problem.out.dtype().size()],
                    );
                    if let Some(lse) = &mut problem.lse {
                        lse.set([item, head, row, 0], f64::from(results.lse[at]));
                    }
                }
            }
        }
        Ok(found)
    }
}
