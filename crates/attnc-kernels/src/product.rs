//! The two products of a tile, on vectors of any width.
//!
//! The one idea: queries are lanes, and a block of accumulators never leaves the registers: some keys (`qk`) or value
//! dims (`pv`) by some vectors of queries, 6 x 2 of 16 registers and 6 x 4 of 32, so that each element that is read serves
//! several multiply-adds and their latency is covered. Fewer vectors take more keys or dims.
//! Each step of an inner loop asks for a line of the rows that come next.
//!
//! A tile's contribution is summed apart and then added to the accumulator, so that the error grows with the number of
//! tiles and not of keys.
//!
//! The contract of each function is in [`crate::abi::Table`].

use core::ops::Range;

use crate::abi::{BK, CACHE_LINE, HALF, LANE_STEP, Next};
use crate::tensor::{ask, packed};
use crate::vector::{Blocks, Vector};

/// Elements of a row, or keys, that an inner loop does without a branch. Code of 24 accumulators is not repeated, since a
/// compiler then runs out of registers.
const fn step<V: Vector>() -> usize {
    if V::REGISTERS < 32 { 4 } else { 1 }
}
/// Value dims that are finished for all queries before the next, where few queries go at a time: whole cache lines of V's
/// rows, few enough for them and P to share the first-level cache.
const DIM_CHUNK: usize = 48;
/// Bytes of packed queries that a block of keys goes over: two thirds of a first-level cache.
const QUERY_BYTES: usize = 32768;

/// The rows that come next, asked for line by line: one line of one row in each step of an inner loop.
#[derive(Clone, Copy)]
pub(crate) struct Asking {
    next: Next,
    /// Steps so far.
    done: usize,
}

impl Asking {
    /// # Safety
    /// `next` is null or the address of rows.
    #[inline(always)]
    unsafe fn of(next: *const Next) -> Asking {
        // SAFETY: promised by the caller.
        let next = if next.is_null() { Next::NOTHING } else { unsafe { *next } };
        Asking { next, done: 0 }
    }

    /// What `steps` steps ask for: rows, the first of them, and where in each. When all has been asked for, rows
    /// that are at hand, so that nothing has to be decided in a step.
    #[inline(always)]
    fn steps(&mut self, steps: usize, at_hand: *const *const f32) -> (*const *const u8, usize, usize) {
        let (first, byte) = (self.done % BK, self.done / BK * CACHE_LINE);
        self.done += steps;
        if byte < self.next.bytes as usize {
            return (self.next.rows, first, byte);
        }
        let byte = byte - (self.next.bytes as usize).next_multiple_of(CACHE_LINE);
        let byte = byte + self.next.elements_from as usize;
        if byte < self.next.elements_bytes as usize {
            (self.next.elements, first, byte)
        } else {
            (at_hand.cast(), 0, 0)
        }
    }
}

/// Asks for the line of step `step`.
///
/// # Safety
/// `rows` is the address of [`BK`] addresses.
#[inline(always)]
unsafe fn ask_step((rows, first, byte): (*const *const u8, usize, usize), step: usize) {
    // SAFETY: promised by the caller.
    ask(unsafe { *rows.add((first + step) % BK) }.wrapping_add(byte));
}

/// Calls a block function for a number of vectors of queries and as many keys or dims as `$left` allows, of sizes that are
/// given for registers of AVX2, and for 4, 3, 2 and 1 vectors of queries where there are more.
macro_rules! blocks {
    ($v:ty, $cols:expr, $left:expr, $four:tt $three:tt $two:tt $one:tt, $block:ident $args:tt) => {
        match (<$v>::REGISTERS < 32, $cols) {
            (true, _) => blocks!(@ $v, 2, $left, [6 5 4 3 2], $block $args),
            (_, 4) => blocks!(@ $v, 4, $left, $four, $block $args),
            (_, 3) => blocks!(@ $v, 3, $left, $three, $block $args),
            (_, 2) => blocks!(@ $v, 2, $left, $two, $block $args),
            _ => blocks!(@ $v, 1, $left, $one, $block $args),
        }
    };
    (@ $v:ty, $cols:literal, $left:expr, [$most:literal $($n:literal)*], $block:ident $args:tt) => {{
        // The last two blocks are alike, since small ones leave units idle.
        let left = if $left > $most && $left < 2 * $most { $left.div_ceil(2) } else { $left };
        match left {
            $most.. => <$v>::$block::<$cols, $most> $args,
            $($n.. => <$v>::$block::<$cols, $n> $args,)*
            _ => <$v>::$block::<$cols, 1> $args,
        }
    }};
}

/// What is added to scores: a row for each key, or nothing if there is no address.
#[derive(Clone, Copy)]
pub(crate) struct Added {
    at: *const f32,
    /// Elements from key to key.
    pitch: isize,
}

impl Added {
    const NOTHING: Added = Added { at: core::ptr::null(), pitch: 0 };

    /// Added a key and a lane on.
    #[inline(always)]
    fn after(self, key: usize, lane: usize) -> Added {
        if self.at.is_null() {
            return self;
        }
        Added { at: self.at.wrapping_offset(key as isize * self.pitch).wrapping_add(lane), ..self }
    }
}

/// Vectors of queries that go together when `left` are.
#[inline(always)]
fn together<V: Vector>(left: usize) -> usize {
    if V::REGISTERS < 32 { 2 } else { left.min(4) }
}

/// See [`crate::abi::Table::qk`].
///
/// # Safety
/// As there, and for [`Vector`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(crate) unsafe fn qk<V: Blocks>(
    q: *const f32,
    k: *const *const f32,
    keys: i64,
    d: i64,
    lanes: i64,
    half: i64,
    bq: i64,
    s: *mut f32,
    from: *const f32,
    pitch: i64,
    next: *const Next,
) {
    let (keys, d, lanes, half, bq) = (keys as usize, d as usize, lanes as usize, half as usize, bq as usize);
    let from = Added { at: from, pitch: pitch as isize };
    // SAFETY: blocks cover keys and vectors within the sizes that the caller promised.
    unsafe {
        let mut asking = Asking::of(next);
        qk_panels::<V>(q, (k, 0..half), (d, lanes, bq), from, s, &mut asking);
        if half == keys {
            return;
        }
        let mut key = half;
        while key < keys {
            let (q, k, block) = (q.add(HALF), (k, k.add(key)), (d, 0..d, bq));
            let (s, from) = (s.add(key * bq + HALF), from.after(key, HALF));
            key += blocks!(@ V::Half, 1, keys - key, [6 5 4 3 2], qk_block(q, k, block, from, s, &mut asking));
        }
        let (q, s, from) = (q.add(packed(LANE_STEP, 0, d)), s.add(LANE_STEP), from.after(0, LANE_STEP));
        qk_panels::<V>(q, (k, half..keys), (d, lanes - LANE_STEP, bq), from, s, &mut asking);
    }
}

/// [`qk`] of some of the keys and of whole panels.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn qk_panels<V: Blocks>(
    q: *const f32,
    (k, keys): (*const *const f32, Range<usize>),
    (d, lanes, bq): (usize, usize, usize),
    from: Added,
    s: *mut f32,
    asking: &mut Asking,
) {
    let vectors = lanes / V::WIDTH;
    // SAFETY: as in `qk`.
    unsafe {
        let mut col = 0;
        while col < vectors {
            let cols = together::<V>(vectors - col);
            let (q, s) = (q.add(packed(col * V::WIDTH, 0, d)), s.add(col * V::WIDTH));
            let chunk = QUERY_BYTES / (cols * V::WIDTH * size_of::<f32>());
            for first in (0..d).step_by(chunk) {
                let dims = first..d.min(first + chunk);
                let from = if first == 0 { from.after(0, col * V::WIDTH) } else { Added::NOTHING };
                let mut key = keys.start;
                while key < keys.end {
                    let (k, s, from) = ((k, k.add(key)), s.add(key * bq), from.after(key, 0));
                    let block = (d, dims.clone(), bq);
                    // Each key has its address in a register of its own.
                    key += blocks!(V, cols, keys.end - key, [6 5 4 2] [8 6 4 2] [8 6 4 2] [8 4 2], qk_block(q, k, block, from, s, asking));
                }
            }
            col += cols;
        }
    }
}

/// Adds the products of elements `dims` to the scores of `KEYS` keys and `COLS` vectors of queries, which begin with
/// element 0, and what is added to them: at the end, so that sums are rounded as they are without. Returns `KEYS`.
#[inline(always)]
pub(crate) unsafe fn qk_block<V: Vector, const COLS: usize, const KEYS: usize>(
    q: *const f32,
    (all, k): (*const *const f32, *const *const f32),
    (d, dims, bq): (usize, Range<usize>, usize),
    from: Added,
    s: *mut f32,
    asking: &mut Asking,
) -> usize {
    // SAFETY: the caller gives `d` rows of each vector of queries, `KEYS` rows of K and of S.
    unsafe {
        // Few accumulators would wait for each other: then odd elements have their own.
        let mut sum = [[[V::set(0.0); COLS]; KEYS]; 2];
        let odd = usize::from(COLS == 1);
        let mut rows = [core::ptr::null::<f32>(); KEYS];
        for (key, row) in rows.iter_mut().enumerate() {
            *row = *k.add(key);
        }
        if dims.start > 0 {
            for (key, sum) in sum[0].iter_mut().enumerate() {
                for (col, sum) in sum.iter_mut().enumerate() {
                    *sum = V::load(s.add(key * bq + col * V::WIDTH));
                }
            }
        }
        let ahead = asking.steps(dims.len(), all);
        let step = step::<V>() + odd;
        let mut i = dims.start;
        while i + step <= dims.end {
            for j in 0..step {
                ask_step(ahead, i + j);
                add_products(&mut sum[j & odd], queries_at(q, i + j, d), rows, i + j);
            }
            i += step;
        }
        while step > 1 && i < dims.end {
            add_products(&mut sum[0], queries_at(q, i, d), rows, i);
            i += 1;
        }
        let [mut sum, odds] = sum;
        if odd > 0 {
            for (sum, odds) in sum.iter_mut().zip(odds) {
                for (sum, odds) in sum.iter_mut().zip(odds) {
                    *sum = sum.add(odds);
                }
            }
        }
        if !from.at.is_null() {
            for (key, sum) in sum.iter_mut().enumerate() {
                let from = from.at.offset(key as isize * from.pitch);
                for (col, sum) in sum.iter_mut().enumerate() {
                    *sum = sum.add(V::load(from.add(col * V::WIDTH)));
                }
            }
        }
        for (key, sum) in sum.into_iter().enumerate() {
            for (col, sum) in sum.into_iter().enumerate() {
                sum.store(s.add(key * bq + col * V::WIDTH));
            }
        }
    }
    KEYS
}

/// Element `i` of `COLS` vectors of queries.
#[inline(always)]
unsafe fn queries_at<V: Vector, const COLS: usize>(q: *const f32, i: usize, d: usize) -> [V; COLS] {
    // SAFETY: the caller gives the element of each vector of queries.
    unsafe {
        let mut query = [V::set(0.0); COLS];
        for (col, query) in query.iter_mut().enumerate() {
            *query = V::load(q.add(packed(col * V::WIDTH, i, d)));
        }
        query
    }
}

/// Adds the products of element `i` of each row with that of queries.
#[inline(always)]
unsafe fn add_products<V: Vector, const COLS: usize, const KEYS: usize>(
    sum: &mut [[V; COLS]; KEYS],
    query: [V; COLS],
    rows: [*const f32; KEYS],
    i: usize,
) {
    // SAFETY: the caller gives rows that have the element.
    unsafe {
        for (row, sum) in rows.into_iter().zip(sum) {
            let k = V::set(*row.add(i));
            for (sum, query) in sum.iter_mut().zip(query) {
                *sum = k.fma(query, *sum);
            }
        }
    }
}

/// See [`crate::abi::Table::pv`].
///
/// # Safety
/// As there, and for [`Vector`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(crate) unsafe fn pv<V: Blocks>(
    p: *const f32,
    v: *const *const f32,
    keys: i64,
    dv: i64,
    lanes: i64,
    half: i64,
    bq: i64,
    mask: *const u64,
    alpha: *const f32,
    acc: *mut f32,
    next: *const Next,
) {
    let (keys, dv, lanes, half, bq) = (keys as usize, dv as usize, lanes as usize, half as usize, bq as usize);
    // SAFETY: blocks cover dims, keys and vectors within the sizes that the caller promised.
    unsafe {
        let mut asking = Asking::of(next);
        let of = Values { v, first: 0, keys, dim: 0, dv };
        let mut from = 0;
        if half < keys {
            pv_panels::<V>(p, Values { keys: half, ..of }, LANE_STEP, bq, (mask, alpha), acc, &mut asking);
            let (p, mask, none) = (p.add(half * bq + HALF), after(mask, HALF), core::ptr::null());
            let of = Values { first: half, keys: keys - half, ..of };
            let mut dim = 0;
            while dim < dv {
                let (of, acc) = (Values { dim, ..of }, acc.add(packed(HALF, dim, dv)));
                let (dims, sound) =
                    blocks!(@ V::Half, 1, dv - dim, [12 8 6 4 2], pv_block(p, of, bq, mask, none, acc, &mut asking));
                if !sound {
                    pv_masked::<V::Half>(p, of, dims, bq, mask, 0, none, acc);
                }
                dim += dims;
            }
            from = LANE_STEP;
        }
        let (factors, acc) = ((after(mask, from), after(alpha, from)), acc.add(packed(from, 0, dv)));
        pv_panels::<V>(p.add(from), of, lanes - from, bq, factors, acc, &mut asking);
    }
}

/// [`pv`] of whole panels, with their masks and factors.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn pv_panels<V: Blocks>(
    p: *const f32,
    of: Values,
    lanes: usize,
    bq: usize,
    (mask, alpha): (*const u64, *const f32),
    acc: *mut f32,
    asking: &mut Asking,
) {
    let (vectors, dv) = (lanes / V::WIDTH, of.dv);
    let chunk = if V::REGISTERS < 32 { DIM_CHUNK } else { dv };
    // SAFETY: as in `pv`.
    unsafe {
        for first in (0..dv).step_by(chunk) {
            let end = dv.min(first + chunk);
            let mut col = 0;
            while col < vectors {
                let cols = together::<V>(vectors - col);
                let lane = col * V::WIDTH;
                let (p, mask, alpha) = (p.add(lane), after(mask, lane), after(alpha, lane));
                let mut dim = first;
                while dim < end {
                    let (of, acc) = (Values { dim, ..of }, acc.add(packed(lane, dim, dv)));
                    let (dims, sound) = blocks!(V, cols, end - dim, [6 5 4 2] [8 6 4 2] [12 8 6 4 2] [16 8 4 2], pv_block(p, of, bq, mask, alpha, acc, asking));
                    if !sound {
                        for col in 0..cols {
                            pv_masked::<V>(p, of, dims, bq, mask, col * V::WIDTH, alpha, acc);
                        }
                    }
                    dim += dims;
                }
                col += cols;
            }
        }
    }
}

/// What is `lanes` lanes on; nothing if there is no address.
#[inline(always)]
fn after<T>(at: *const T, lanes: usize) -> *const T {
    if at.is_null() { at } else { at.wrapping_add(lanes) }
}

/// Rows of `keys` values from the one of key `first` on, from dim `dim` of `dv` on.
#[derive(Clone, Copy)]
pub(crate) struct Values {
    v: *const *const f32,
    first: usize,
    keys: usize,
    dim: usize,
    dv: usize,
}

/// `DIMS` dims of `COLS` vectors of queries: `acc = acc * alpha + sum over keys`. With masks, does nothing if the sums are
/// not numbers, since a masked value must not be multiplied then, not even by zero. Returns `DIMS`, and whether it is done.
#[inline(always)]
pub(crate) unsafe fn pv_block<V: Vector, const COLS: usize, const DIMS: usize>(
    p: *const f32,
    of: Values,
    bq: usize,
    mask: *const u64,
    alpha: *const f32,
    acc: *mut f32,
    asking: &mut Asking,
) -> (usize, bool) {
    // SAFETY: the caller gives `keys` rows of P and of V (`DIMS` elements of each), and `DIMS` rows of each vector of the
    // accumulator.
    unsafe {
        let mut sum = [[V::set(0.0); COLS]; DIMS];
        let ahead = asking.steps(of.keys, of.v);
        let v = of.v.add(of.first);
        let step = step::<V>();
        let mut key = 0;
        while key + step <= of.keys {
            for j in 0..step {
                ask_step(ahead, key + j);
                add_values(&mut sum, p.add((key + j) * bq), (*v.add(key + j)).add(of.dim));
            }
            key += step;
        }
        while step > 1 && key < of.keys {
            add_values(&mut sum, p.add(key * bq), (*v.add(key)).add(of.dim));
            key += 1;
        }
        if !mask.is_null() {
            // One NaN is enough. Infinities of both signs may look like one, which costs time alone.
            let mut all = [V::set(0.0); COLS];
            for sum in &sum {
                for (all, sum) in all.iter_mut().zip(sum) {
                    *all = all.add(*sum);
                }
            }
            if all.into_iter().any(|all| V::any(all.is_nan())) {
                return (DIMS, false);
            }
        }
        for col in 0..COLS {
            let factor = factor_at::<V>(alpha, col * V::WIDTH);
            for (dim, sum) in sum.iter().enumerate() {
                let at = acc.add(packed(col * V::WIDTH, dim, of.dv));
                V::load(at).fma(factor, sum[col]).store(at);
            }
        }
    }
    (DIMS, true)
}

/// Adds the products of a key's weights, at `p`, with its values, at `row`.
#[inline(always)]
unsafe fn add_values<V: Vector, const COLS: usize, const DIMS: usize>(
    sum: &mut [[V; COLS]; DIMS],
    p: *const f32,
    row: *const f32,
) {
    // SAFETY: the caller gives `COLS` vectors of weights and `DIMS` values.
    unsafe {
        let mut weight = [V::set(0.0); COLS];
        for (col, weight) in weight.iter_mut().enumerate() {
            *weight = V::load(p.add(col * V::WIDTH));
        }
        for (dim, sum) in sum.iter_mut().enumerate() {
            let v = V::set(*row.add(dim));
            for (sum, weight) in sum.iter_mut().zip(weight) {
                *sum = v.fma(weight, *sum);
            }
        }
    }
}

/// `dims` dims of the vector of queries that begins with `lane`, without the values of masked keys. For values that are
/// not finite, thus rare.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "those of a block, at any place")]
unsafe fn pv_masked<V: Vector>(
    p: *const f32,
    of: Values,
    dims: usize,
    bq: usize,
    mask: *const u64,
    lane: usize,
    alpha: *const f32,
    acc: *mut f32,
) {
    // SAFETY: as in `pv_block`; the caller gives masks of these lanes.
    unsafe {
        let (masks, factor) = (V::masks(mask.add(lane)), factor_at::<V>(alpha, lane));
        for dim in 0..dims {
            let mut sum = V::set(0.0);
            for key in of.first..of.first + of.keys {
                let v = V::set(*(*of.v.add(key)).add(of.dim + dim)).only(V::lanes_of(masks[key / 32], key % 32));
                sum = v.fma(V::load(p.add((key - of.first) * bq + lane)), sum);
            }
            let at = acc.add(packed(lane, dim, of.dv));
            V::load(at).fma(factor, sum).store(at);
        }
    }
}

/// The factors of the vector of queries that begins with `lane`; ones if there are none.
#[inline(always)]
unsafe fn factor_at<V: Vector>(alpha: *const f32, lane: usize) -> V {
    // SAFETY: the caller gives null, or the factors of these lanes.
    unsafe { if alpha.is_null() { V::set(1.0) } else { V::load(alpha.add(lane)) } }
}
