//! Few queries over many keys: heads that share keys become one job, and its keys are cut into tasks.
//!
//! The one idea: what is done is fixed by the launch and never by the threads. Query heads of one part that read the
//! same keys and values, and whose kernel finds the same sets for them, are *folded*: their queries are the lanes of one
//! tile, found by lists of row numbers, so that K and V are read once for all of them; what is done to scores may differ
//! between heads, as that of each lane is listed. Where a plan has several stages, or numbers keys by classes, the queries
//! of each class are a job of their own ([`attnc_plan::Few::Apart`]). A job of one tile of
//! queries is *cut* after every [`CUT_TILES`] tiles of keys that it visits, and between stages; each piece makes an output
//! and a log-sum-exp of its own, and whoever ends the last piece merges them in a fixed tree. A job's cuts depend on
//! nothing beside it.
//! Nothing here knows of patterns or machine code.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use attnc_kernels::abi::{BK, DType, FEW, Support};
use attnc_pattern::env::{Env, MapData};
use attnc_plan::{FEW_QUERIES, Few, Plan};

use crate::compile::{CpuKernel, Uses};
use crate::layout::{ALIGN, Ctx, Rows, Scratch};
use crate::tensor::Layout;

/// Tiles of keys in a piece: enough that beginning and merging cost little, and few enough for a long sequence to be
/// spread over threads.
pub(crate) const CUT_TILES: usize = 64;

/// Most heads of `n_q` queries that are folded where they share keys and have the same sets: as many as have lanes.
#[must_use]
pub fn most_folded(plan: &Plan, n_q: i64) -> usize {
    let lanes = plan.stages.iter().map(|s| s.tile.q).min().unwrap_or(0);
    match plan.few(n_q) {
        None => 1,
        Some(Few::Together) if n_q > FEW_QUERIES => 1,
        Some(Few::Together) => lanes / n_q as usize,
        Some(Few::Apart) => lanes / plan.most_together(n_q).max(1) as usize,
    }
}

/// Heads of a part in groups to compute together, as places in `heads`: by the KV head that they read, [`most_folded`] at
/// a time. `alike(a, b)` says whether nothing but their queries differs.
pub(crate) fn groups(
    kernel: &CpuKernel,
    heads: &[usize],
    kv_heads: &[usize],
    n_q: impl Fn(usize) -> i64,
    alike: impl Fn(usize, usize) -> bool,
) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (at, &head) in heads.iter().enumerate() {
        let most = most_folded(kernel.plan(), n_q(at));
        let joins = |group: &&mut Vec<usize>| {
            let first = group[0];
            kv_heads[heads[first]] == kv_heads[head]
                && group.len() < most
                && alike(first, at)
                && !kernel.differs_by_head()
        };
        match groups.iter_mut().filter(|_| most > 1).find(joins) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

/// Whether a kernel finds the same in two environments, whatever their heads.
pub(crate) fn alike(a: &Env<'_>, b: &Env<'_>, uses: &Uses) -> bool {
    let numbers = |e: &Env<'_>| [e.n_q, e.n_k, e.q_start, e.k_start, e.heads, e.layer, e.step, e.dim];
    let maps = |&m: &usize| match (a.maps.get(m), b.maps.get(m)) {
        (Some(x), Some(y)) => same_map(x, y),
        _ => false,
    };
    let tensors = |&(t, _): &(usize, usize)| match (a.tensors.get(t), b.tensors.get(t)) {
        (Some(x), Some(y)) => std::ptr::eq(&*x.data, &*y.data) && x.dims == y.dims,
        _ => false,
    };
    let draws = |&d: &usize| match (a.draws.get(d), b.draws.get(d)) {
        (Some(x), Some(y)) => x.chose_alike(y),
        _ => false,
    };
    let orders = |&o: &usize| match (a.orders.get(o), b.orders.get(o)) {
        (Some(x), Some(y)) => std::sync::Arc::ptr_eq(x, y),
        _ => false,
    };
    numbers(a) == numbers(b)
        && uses.sizes.iter().all(|&s| a.sizes.get(s) == b.sizes.get(s))
        && (!uses.docs || std::ptr::eq(a.docs, b.docs))
        && uses.maps.iter().all(maps)
        && uses.tensors.iter().all(tensors)
        && uses.draws.iter().all(draws)
        && uses.orders.iter().chain(&uses.positions).all(orders)
}

/// Whether elements of each tensor that a kernel reads are numbered in 32 bits, as code for few queries has them.
pub(crate) fn small_tensors(env: &Env<'_>, uses: &Uses) -> bool {
    let small = |t: &[usize]| t.iter().try_fold(1_i32, |all, &n| all.checked_mul(i32::try_from(n).ok()?)).is_some();
    uses.tensors.iter().all(|&(t, _)| env.tensors.get(t).is_none_or(|data| small(&data.dims)))
}

/// Whether two maps are given, and are the same memory.
pub(crate) fn same_map(a: &MapData<'_>, b: &MapData<'_>) -> bool {
    match (a, b) {
        (MapData::Dense { data: x, cols: i }, MapData::Dense { data: y, cols: j }) => std::ptr::eq(*x, *y) && i == j,
        (MapData::Csr { indptr: x, indices: i }, MapData::Csr { indptr: y, indices: j }) => {
            std::ptr::eq(*x, *y) && std::ptr::eq(*i, *j)
        }
        _ => false,
    }
}

/// Rows of several heads as multiples of one distance.
#[derive(Debug)]
struct Listed {
    /// The distance, in bytes.
    unit: i64,
    /// Multiples of it, by lane.
    index: Box<[u32]>,
}

impl Listed {
    /// Query `i` of `heads[h]` is lane `h * walk.len() + i` and row `walk[i]`; `None` if the layout has no such numbers.
    fn of(layout: &Layout, heads: &[usize], walk: &[u32]) -> Option<Listed> {
        // Of an axis with one element the stride does not matter.
        let stride = |axis: usize| if layout.shape[axis] > 1 { layout.strides[axis] as i64 } else { 0 };
        let (head, row) = (stride(1), stride(2));
        let unit = gcd(head, row).max(1);
        let number = |h: usize, i: u32| {
            let bytes = (h as i64).checked_mul(head)?.checked_add(i64::from(i).checked_mul(row)?)?;
            u32::try_from(bytes / unit).ok()
        };
        let index = heads.iter().flat_map(|&h| walk.iter().map(move |&i| (h, i))).map(|(h, i)| number(h, i));
        Some(Listed { unit, index: index.collect::<Option<_>>()? })
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.abs() } else { gcd(b, a % b) }
}

/// Heads folded into one tile of queries.
#[derive(Debug)]
pub(crate) struct Fold {
    /// For each stage the number of the query of each lane, filled up to a whole tile with the last.
    walks: Box<[Box<[u32]>]>,
    /// The head of each lane, filled up likewise.
    heads: Box<[u32]>,
    lanes: i64,
    q: Listed,
    out: Listed,
    lse: Option<Listed>,
}

impl Fold {
    /// Folds heads of the output; `q_heads` are those of the queries. `walk` lists the queries of one head in order, and
    /// `numbers` what they are in each stage; tiles hold at most `tile` of them.
    pub(crate) fn of(
        (q, q_heads): (&Layout, &[usize]),
        (out, lse, heads): (&Layout, Option<&Layout>, &[usize]),
        walk: &[u32],
        numbers: &[Vec<u32>],
        tile: usize,
    ) -> Option<Fold> {
        let lanes = heads.len() * walk.len();
        let filled = |mut each: Vec<u32>| {
            each.resize(tile.max(lanes), *each.last()?);
            Some(each.into_boxed_slice())
        };
        Some(Fold {
            walks: numbers.iter().map(|numbers| filled(numbers.repeat(heads.len()))).collect::<Option<_>>()?,
            heads: filled(heads.iter().flat_map(|&h| walk.iter().map(move |_| h as u32)).collect())?,
            lanes: lanes as i64,
            q: Listed::of(q, q_heads, walk)?,
            out: Listed::of(out, heads, walk)?,
            lse: match lse {
                Some(layout) => Some(Listed::of(layout, heads, walk)?),
                None => None,
            },
        })
    }

    /// Queries of all heads.
    pub(crate) fn lanes(&self) -> i64 {
        self.lanes
    }

    /// Makes of the context of the first head that of all; bases are those of head 0.
    pub(crate) fn apply(&self, ctx: &mut Ctx, q: *const u8, out: *mut u8, lse: *mut f32) {
        fn list<P>(rows: &mut Rows<P>, base: P, listed: &Listed) {
            (rows.base, rows.row_stride, rows.index) = (base, listed.unit, listed.index.as_ptr());
        }
        list(&mut ctx.q, q, &self.q);
        list(&mut ctx.out, out, &self.out);
        if let Some(listed) = &self.lse {
            (ctx.lse, ctx.lse_stride, ctx.lse_index) = (lse, listed.unit, listed.index.as_ptr());
        }
        (ctx.lane_heads, ctx.lanes) = (self.heads.as_ptr(), self.lanes);
    }

    /// Numbers the queries as a stage does.
    pub(crate) fn number(&self, ctx: &mut Ctx, stage: usize) {
        ctx.walk = self.walks[stage].as_ptr();
    }
}

/// Tiles of keys that a stage of a job visits.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) stage: usize,
    pub(crate) tiles: Range<i64>,
}

/// A job's keys in pieces.
#[derive(Debug)]
pub(crate) struct Cuts {
    at: Vec<Piece>,
    lanes: usize,
    dv: usize,
    /// `[piece][lane][dv]` outputs, then `[piece][lane]` log-sum-exps.
    partial: *mut f32,
    /// Pieces that are not done.
    left: AtomicUsize,
}

/// Most pieces of `n_k` keys, in each stage of a plan at least one.
pub(crate) fn most_pieces(plan: &Plan, n_k: i64) -> usize {
    plan.stages.len() * usize::try_from(n_k).unwrap_or(0).div_ceil(CUT_TILES * BK).max(1)
}

/// Bytes of the results of `pieces` pieces of `lanes` queries.
pub(crate) fn partial_bytes(pieces: usize, lanes: usize, dv: usize) -> Option<usize> {
    let one = lanes.checked_mul(dv.checked_add(1)?)?.checked_mul(size_of::<f32>())?;
    one.checked_mul(pieces)?.checked_next_multiple_of(ALIGN)
}

/// Cuts the marked tiles of a scratch into pieces of a stage, at least one.
///
/// # Safety
/// The scratch has marks.
pub(crate) unsafe fn cut(scratch: &Scratch, stage: usize, pieces: &mut Vec<Piece>) {
    let next = Support::get().marks_next;
    let (mut first, mut seen, mut tile) = (0, 0, -1);
    loop {
        // SAFETY: promised by the caller.
        tile = unsafe { next(scratch.marks, tile + 1) };
        if tile < 0 {
            break;
        }
        if seen == CUT_TILES {
            pieces.push(Piece { stage, tiles: first..tile });
            (first, seen) = (tile, 0);
        }
        seen += 1;
    }
    pieces.push(Piece { stage, tiles: first..i64::MAX });
}

impl Cuts {
    /// Of a job of `lanes` queries; memory for its results comes later.
    pub(crate) fn new(at: Vec<Piece>, lanes: i64, dv: usize) -> Cuts {
        let left = AtomicUsize::new(at.len());
        Cuts { at, lanes: lanes as usize, dv, partial: std::ptr::null_mut(), left }
    }

    /// The pieces.
    pub(crate) fn at(&self) -> &[Piece] {
        &self.at
    }

    pub(crate) fn pieces(&self) -> usize {
        self.at.len()
    }

    /// Bytes that [`Self::give`] wants.
    pub(crate) fn bytes(&self) -> Option<usize> {
        partial_bytes(self.pieces(), self.lanes, self.dv)
    }

    /// No piece is done.
    pub(crate) fn renew(&mut self) {
        *self.left.get_mut() = self.pieces();
    }

    /// Gives memory for the results of the pieces.
    pub(crate) fn give(&mut self, memory: *mut u8) {
        self.partial = memory.cast();
    }

    /// First output of a piece, and its first log-sum-exp.
    fn result(&self, piece: usize) -> (*mut f32, *mut f32) {
        let outputs = self.pieces() * self.lanes * self.dv;
        let o = self.partial.wrapping_add(piece * self.lanes * self.dv);
        (o, self.partial.wrapping_add(outputs + piece * self.lanes))
    }

    /// Narrows a context to one piece.
    pub(crate) fn narrow(&self, ctx: &mut Ctx, piece: usize) {
        let Range { start, end } = self.at[piece].tiles;
        (ctx.first_tile, ctx.end_tile) = (start, end);
        // Null slots are with the first keys of their stage.
        ctx.nulls = i64::from(start == 0);
        let (o, lse) = self.result(piece);
        let single = size_of::<f32>() as i64;
        ctx.out = Rows {
            base: o.cast(),
            dtype: DType::F32 as i64,
            row_stride: self.dv as i64 * single,
            col_stride: single,
            index: std::ptr::null(),
        };
        (ctx.lse, ctx.lse_stride, ctx.lse_index) = (lse, single, std::ptr::null());
    }

    /// Notes that a piece is done. The last one to say so merges all and writes what `ctx`, that of the whole job, says.
    ///
    /// # Safety
    /// As for [`CpuKernel::drive`]; each piece is computed before it is said to be done, once.
    pub(crate) unsafe fn done(&self, ctx: &Ctx) {
        // What others have written is seen by the last.
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let (pieces, lanes, dv) = (self.pieces(), self.lanes, self.dv);
        let (o, lse) = self.result(0);
        // SAFETY: the memory was given for these sizes, and every piece has been written by threads that are done with it.
        let (o, lse) = unsafe {
            (
                std::slice::from_raw_parts_mut(o, pieces * lanes * dv),
                std::slice::from_raw_parts_mut(lse, pieces * lanes),
            )
        };
        let mut step = 1;
        while step < pieces {
            for first in (0..pieces - step).step_by(2 * step) {
                let of = |n: usize| -> (Range<usize>, Range<usize>) {
                    let from = first * n;
                    (from..from + n, step * n - n..step * n)
                };
                let ((oa, ob), (la, lb)) = (of(lanes * dv), of(lanes));
                let (o1, o2) = o[oa.start..].split_at_mut(oa.len());
                let (lse1, lse2) = lse[la.start..].split_at_mut(la.len());
                // Slices of equal lengths are not refused.
                let merged = attnc_kernels::merge(o1, lse1, &o2[ob], &lse2[lb]);
                debug_assert_eq!(merged, Ok(()));
            }
            step *= 2;
        }
        for first in (0..lanes).step_by(FEW) {
            let rows = FEW.min(lanes - first);
            let m = &lse[first..first + rows];
            let mut l = [0.0f32; FEW];
            for (l, &m) in l.iter_mut().zip(m) {
                *l = if m == f32::NEG_INFINITY { 0.0 } else { 1.0 };
            }
            // SAFETY: lanes in rows, as tiles of few queries have them.
            unsafe {
                let acc = o[first * dv..].as_ptr();
                ctx.finish(acc, m.as_ptr(), l.as_ptr(), (first as i64, rows as i64), FEW as i64);
            }
        }
    }
}
