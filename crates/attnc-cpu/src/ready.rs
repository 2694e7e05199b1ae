//! A launch that is kept for the next one like it.
//!
//! The one idea: of a launch on tensors of the same layouts nothing changes but where these lie. [`Ready`] owns all that
//! its jobs point to, copies what was borrowed, and turns the jobs to other tensors without an allocation.
//! Nothing here knows of patterns, or of when two launches are alike but for their tensors.

use std::fmt;
use std::sync::Arc;

use attnc_pattern::env::{Env, MapData, TensorData};

use crate::compile::CpuKernel;
use crate::run::{Laid, Launch, Part, RunError, lay_out_and_run};
use crate::tensor::Layout;

/// Most elements of run-time tensors that are copied.
const MOST_COPIED: usize = 1 << 16;

/// As [`Part`], with what it refers to.
#[derive(Clone, Debug)]
pub struct OwnedPart<'a> {
    /// The kernel.
    pub kernel: Arc<CpuKernel>,
    /// As [`Part::heads`].
    pub heads: Vec<usize>,
    /// As [`Part::envs`].
    pub envs: Vec<Env<'a>>,
    /// As [`Part::forward`].
    pub forward: bool,
}

/// A launch that can be run again on other tensors.
pub struct Ready {
    laid: Laid<'static>,
    /// Q, K, V, output and log-sum-exp: where they lay, and how.
    tensors: [(usize, Option<Layout>); 5],
    apart: bool,
    /// What the jobs point to: nobody else reads these.
    _kernels: Vec<Arc<CpuKernel>>,
    _envs: Vec<Env<'static>>,
    _docs: Vec<i64>,
    _data: Vec<Box<[f32]>>,
}

// SAFETY: its pointers lead to what it owns, which nobody writes, and to tensors that are not read before it is turned
// to others.
unsafe impl Send for Ready {}
// SAFETY: as above; without `&mut` nothing of it is used.
unsafe impl Sync for Ready {}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready").field("jobs", &self.laid.jobs.len()).finish_non_exhaustive()
    }
}

/// Where the tensors of a launch lie, and how.
fn tensors_of(launch: &Launch<'_>) -> [(usize, Option<Layout>); 5] {
    let Launch { q, k, v, out, lse, .. } = launch;
    let [q, k, v] = [q, k, v].map(|t| (t.base.addr(), Some(t.layout)));
    let lse = lse.as_ref().map_or((0, None), |t| (t.base.addr(), Some(t.layout)));
    [q, k, v, (out.base.addr(), Some(out.layout)), lse]
}

impl Ready {
    /// As [`crate::run`], and keeps the launch; `None` if it has levels, selections, maps or large tensors.
    ///
    /// # Errors
    /// As for [`crate::run`].
    pub fn run(parts: Vec<OwnedPart<'_>>, launch: &mut Launch<'_>) -> Result<Option<Ready>, RunError> {
        let views: Vec<Part<'_>> = parts
            .iter()
            .map(|p| Part { kernel: &p.kernel, heads: &p.heads, envs: &p.envs, forward: p.forward })
            .collect();
        let mut laid = lay_out_and_run(&views, launch, None)?;
        let envs = || parts.iter().flat_map(|p| &p.envs);
        let maps = envs().flat_map(|e| &e.maps).any(|m| !matches!(m, MapData::Absent));
        if maps || parts.iter().any(|p| p.kernel.is_dynamic()) {
            return Ok(None);
        }

        // What is borrowed is copied, once for all heads.
        let mut data: Vec<(&[f32], Box<[f32]>)> = Vec::new();
        for (envs, bounds) in parts.iter().map(|p| &p.envs).zip(&mut laid.bounds) {
            for (env, bound) in envs.iter().zip(bounds) {
                for (tensor, at) in env.tensors.iter().zip(&mut bound.tensors) {
                    if tensor.data.is_empty() {
                        continue;
                    }
                    let known = data.iter().position(|(given, _)| std::ptr::eq(*given, &*tensor.data));
                    let place = known.unwrap_or_else(|| {
                        data.push((&tensor.data, Box::from(&*tensor.data)));
                        data.len() - 1
                    });
                    at.data = data[place].1.as_ptr();
                }
            }
        }
        if data.iter().map(|(_, copy)| copy.len()).sum::<usize>() > MOST_COPIED {
            return Ok(None);
        }
        let data = data.into_iter().map(|(_, copy)| copy).collect();
        // The documents are those of the launch.
        let docs = envs().next().map_or_else(Vec::new, |e| e.docs.to_vec());
        if envs().any(|e| *e.docs != *docs) {
            return Ok(None);
        }
        for job in &mut laid.jobs {
            job.ctx.doc_offsets = docs.as_ptr();
        }
        let Launch { apart, .. } = *launch;
        let tensors = tensors_of(launch);
        // SAFETY: a job refers to its kernel, which `_kernels` keeps where it is; what jobs and bounds point to is now
        // in the copies above, in lists of their own and in those of the environments, which are moved as they are.
        let laid = unsafe { std::mem::transmute::<Laid<'_>, Laid<'static>>(laid) };
        let (mut kernels, mut kept) = (Vec::with_capacity(parts.len()), Vec::new());
        for part in parts {
            kernels.push(part.kernel);
            kept.extend(part.envs.into_iter().map(without_borrows));
        }
        Ok(Some(Ready { laid, tensors, apart, _kernels: kernels, _envs: kept, _docs: docs, _data: data }))
    }

    /// Runs on the tensors and in the memory of `launch`, whose heads are not looked at. `false` if these tensors have
    /// other layouts, or if there is too little memory: nothing is written then.
    pub fn again(&mut self, launch: &mut Launch<'_>) -> bool {
        let tensors = tensors_of(launch);
        let layouts = |all: &[(usize, Option<Layout>); 5]| all.map(|(_, layout)| layout);
        if layouts(&tensors) != layouts(&self.tensors) {
            return false;
        }
        launch.apart = self.apart;
        let [q, k, v, out, lse] = self.tensors.map(|t| t.0);
        let lse_base = launch.lse.as_ref().map(|t| t.base);
        for job in &mut self.laid.jobs {
            let ctx = &mut job.ctx;
            let moved = |at: usize, from: usize| at.wrapping_sub(from) as isize;
            ctx.q.base = launch.q.base.wrapping_offset(moved(ctx.q.base.addr(), q));
            ctx.k.base = launch.k.base.wrapping_offset(moved(ctx.k.base.addr(), k));
            ctx.v.base = launch.v.base.wrapping_offset(moved(ctx.v.base.addr(), v));
            ctx.out.base = launch.out.base.wrapping_offset(moved(ctx.out.base.addr(), out));
            if let Some(base) = lse_base {
                ctx.lse = base.wrapping_offset(moved(ctx.lse.addr(), lse)).cast();
            }
        }
        self.tensors = tensors;
        self.laid.again(launch).is_some()
    }
}

/// An environment for what it owns alone.
fn without_borrows(env: Env<'_>) -> Env<'static> {
    let Env { n_q, n_k, q_start, k_start, head, heads, layer, step, dim, branch, class, .. } = env;
    let tensors = env.tensors.into_iter().map(|t| TensorData { data: Vec::new().into(), dims: t.dims });
    Env {
        n_q,
        n_k,
        q_start,
        k_start,
        head,
        heads,
        layer,
        step,
        dim,
        branch,
        class,
        sizes: env.sizes,
        docs: &[],
        maps: Vec::new(),
        tensors: tensors.collect(),
        draws: env.draws,
        levels: env.levels,
        orders: env.orders,
        positions: env.positions,
        exchange: Arc::default(),
    }
}
