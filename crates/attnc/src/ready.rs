//! What a launch leaves for the next one like it.
//!
//! One idea: two launches of a kernel are alike if everything but the addresses of their tensors and the values of Q, K
//! and V is equal, and then the second one has nothing to check and nothing to allocate. That is decided here, by
//! value; nothing here knows how a launch is laid out.

use std::fmt;
use std::sync::Arc;

use crate::compiler::Shared;
use crate::kernel::Select;
use crate::problem::Inputs;

/// What is kept from one launch to the next, and memory to work in: give it to one launch after another, of any kernels.
///
/// A launch that is like the one before, of the same kernel with the same shapes, strides, element types and
/// [`Inputs`], finds all of itself here and allocates nothing; any other is laid out as it would be without, and takes
/// its place. Nothing is kept of launches with run-time maps, with more than 65,536 elements of run-time tensors, of what
/// depends on the data, and of targets other than the CPU. Results are the same in any case.
#[derive(Default)]
pub struct Ready {
    pub(crate) kept: Option<Launched>,
    /// Working memory of launches that are given none.
    pub(crate) memory: Vec<u8>,
}

impl Ready {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Ready {
        Ready::default()
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kept, memory) = (self.kept.is_some(), self.memory.len());
        f.debug_struct("Ready").field("kept", &kept).field("memory", &memory).finish()
    }
}

/// A launch and what it was given.
pub(crate) struct Launched {
    shared: Arc<Shared>,
    select: Select,
    given: Given,
    pub(crate) threads: usize,
    pub(crate) launch: attnc_cpu::Ready,
}

/// As [`Inputs`], owned.
struct Given {
    sizes: Vec<(String, i64)>,
    docs: Vec<i64>,
    tensors: Vec<(String, Vec<f32>, Vec<usize>)>,
    q_start: Option<i64>,
    k_start: Option<i64>,
    lengths: Vec<(i64, i64)>,
}

impl Launched {
    pub(crate) fn new(
        (shared, select): (&Arc<Shared>, &Select),
        inputs: &Inputs<'_>,
        threads: usize,
        launch: attnc_cpu::Ready,
    ) -> Launched {
        let Inputs { sizes, docs, maps: _, tensors, rows: _, q_start, k_start, lengths, supplied: _ } = inputs;
        let given = Given {
            sizes: sizes.iter().map(|&(name, n)| (name.to_owned(), n)).collect(),
            docs: docs.to_vec(),
            tensors: tensors.iter().map(|(name, t)| ((*name).to_owned(), t.data.to_vec(), t.dims.clone())).collect(),
            q_start: *q_start,
            k_start: *k_start,
            lengths: lengths.clone(),
        };
        Launched { shared: shared.clone(), select: select.clone(), given, threads, launch }
    }

    /// Whether it is a launch of this kernel that was given the same.
    pub(crate) fn is_of(&self, shared: &Arc<Shared>, select: &Select, inputs: &Inputs<'_>) -> bool {
        let Given { sizes, docs, tensors, q_start, k_start, lengths } = &self.given;
        let size = |(a, b): (&(String, i64), &(&str, i64))| (a.0.as_str(), a.1) == *b;
        let same =
            |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits());
        Arc::ptr_eq(&self.shared, shared)
            && self.select == *select
            && (*q_start, *k_start) == (inputs.q_start, inputs.k_start)
            && inputs.maps.is_empty()
            && inputs.supplied.is_empty()
            && docs == inputs.docs
            && *lengths == inputs.lengths
            && sizes.len() == inputs.sizes.len()
            && sizes.iter().zip(&inputs.sizes).all(size)
            && tensors.len() == inputs.tensors.len()
            && tensors.iter().zip(&inputs.tensors).all(|((name, data, dims), (other, given))| {
                name == other && *dims == given.dims && same(data, &given.data)
            })
    }
}
