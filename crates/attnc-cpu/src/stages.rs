//! What compiled code calls: whole-tile steps that depend on the layout of tensors, not on the pattern.
//!
//! The one idea: a stage is to a driver what an instruction is to a program. Each fetches addresses
//! and strides from [`Ctx`] and [`Scratch`] and calls microkernels; the driver decides which, when and on
//! which keys. [`Stage`] gives place and signature of each, from which the driver's calls are made.
//! Nothing here knows of patterns or code generation.

use std::ops::Range;

use attnc_kernels::abi::{Ahead, Arg, BK, CACHE_LINE, DType, FEW, KvView, LANE_STEP, Next, Support, Table};
use attnc_kernels::tiles::TileMarks;
use attnc_kernels::window::{Chunk, WINDOW_TILES, Window};

use crate::layout::{Ctx, DrawRef, MapRef, Rows, Scratch};

macro_rules! stages {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident : $ty:ty => $kind:ident),*) $(-> $ret:ty => $ret_kind:ident)? $body:block)*) => {
        $($(#[$doc])* unsafe extern "C" fn $name($($arg: $ty),*) $(-> $ret)? $body)*

        /// A function that compiled code may call.
        #[allow(non_camel_case_types, reason = "named as the functions")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Stage {
            $($(#[$doc])* $name),*
        }

        impl Stage {
            /// Its place among [`Self::addresses`], parameters and result.
            pub(crate) fn entry(self) -> (usize, &'static [Arg], Option<Arg>) {
                match self {
                    $(Stage::$name => (self as usize, &[$(Arg::$kind),*], stages!(@ret $($ret_kind)?)),)*
                }
            }

            /// Where all of them are.
            pub(crate) fn addresses() -> Vec<usize> {
                vec![$(($name as *const u8).addr()),*]
            }
        }
    };
    (@ret) => { None };
    (@ret $kind:ident) => { Some(Arg::$kind) };
}

stages! {
    /// Begins a tile: queries `first .. first + rows` packed and scaled, running values reset.
    fn begin(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, first: i64 => I64, rows: i64 => I64, scale: f32 => F32) {
        // SAFETY: compiled code passes the `Ctx` and `Scratch` of its own call, `first + rows <= n_q`, `rows <= bq`;
        // the launch has checked the tensors behind them and cut the scratch for these sizes.
        unsafe { begun(&*ctx, &mut *scratch, (first, rows), scale, (*ctx).v.dim as i64) }
    }

    /// As `begin`, where no values are summed.
    fn begin_scores(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, first: i64 => I64, rows: i64 => I64, scale: f32 => F32) {
        // SAFETY: as in `begin`.
        unsafe { begun(&*ctx, &mut *scratch, (first, rows), scale, 0) }
    }

    /// As `begin`, of queries that go one by one: their rows stay rows.
    fn begin_own(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, first: i64 => I64, rows: i64 => I64, scale: f32 => F32) {
        // SAFETY: as in `begin`; some of the rows of the tile are a tile of few queries.
        unsafe {
            let (ctx, scratch) = (&*ctx, &mut *scratch);
            let kernels = &*ctx.table;
            let (few, dv) = (FEW as i64, ctx.v.dim as i64);
            (scratch.first, scratch.rows) = (first, rows);
            for (lane, rows, [acc, m, l]) in eights(ctx, scratch, rows) {
                let (src, index) = ctx.q.from(ctx.q.base, first + lane);
                let q = scratch.q.wrapping_add((lane * ctx.dim) as usize);
                (kernels.pack_q)(src, ctx.q.dtype, ctx.q.row_stride, ctx.q.col_stride, index, rows, few, ctx.dim, scale, q);
                (kernels.start)(rows, few, dv, m, l, acc);
            }
        }
    }

    /// A chunk, for each query those of its keys that are its own: scores, softmax and values.
    fn attend_own(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, chunk: *const Chunk => Ptr) {
        // SAFETY: as in `scores`; the window's chunks are of all queries of the tile.
        unsafe {
            let (ctx, scratch, chunk) = (&*ctx, &mut *scratch, &*chunk);
            let kernels = &*ctx.table;
            let Chunk { first, count, mask, .. } = *chunk;
            let k = ctx.k_singles.make(kernels, &ctx.k, (first, count), ctx.n_k);
            let k = rows(kernels, &k, chunk, scratch, scratch.keys);
            (kernels.own_qk)(scratch.q, k, count, ctx.dim, scratch.rows, mask, scratch.s);
            let v = ctx.v_singles.make(kernels, &ctx.v, (first, count), ctx.n_k);
            let v = rows(kernels, &v, chunk, scratch, scratch.values);
            let (dv, Scratch { s, m, l, acc, .. }) = (ctx.v.dim as i64, *scratch);
            (kernels.own_pv)(s, v, count, dv, scratch.rows, mask, m, l, acc);
        }
    }

    /// As `end`, of queries that go one by one.
    fn end_own(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, first: i64 => I64, rows: i64 => I64) {
        // SAFETY: as in `end`.
        unsafe {
            let (ctx, scratch) = (&*ctx, &*scratch);
            for (lane, rows, [acc, m, l]) in eights(ctx, scratch, rows) {
                ctx.finish(acc, m, l, (first + lane, rows), FEW as i64);
            }
        }
    }

    /// As `resume`, of queries that go one by one.
    fn resume_own(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, first: i64 => I64, rows: i64 => I64) {
        // SAFETY: as in `resume`.
        unsafe {
            let ctx = &*ctx;
            for (lane, rows, [acc, m, l]) in eights(ctx, &*scratch, rows) {
                ctx.resume(acc, m, l, (first + lane, rows), FEW as i64);
            }
        }
    }

    /// Goes on, after `begin`, from what earlier stages have made of queries `first .. first + rows`: a softmax whose
    /// sum is 1 and whose maximum is the log-sum-exp.
    fn resume(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, first: i64 => I64, rows: i64 => I64) {
        // SAFETY: as in `begin`; earlier stages are finished, and no other thread reads or writes these rows.
        unsafe {
            let Scratch { acc, m, l, bq, .. } = *scratch;
            (*ctx).resume(acc, m, l, (first, rows), bq);
        }
    }

    /// Moves the running maxima of the tile.
    fn shift(scratch: *mut Scratch => Ptr, rows: i64 => I64, by: f32 => F32) {
        // SAFETY: as in `begin`; there is a maximum for each row.
        unsafe {
            let m = std::slice::from_raw_parts_mut((*scratch).m, rows as usize);
            m.iter_mut().for_each(|m| *m += by);
        }
    }

    /// Scores of the keys of a chunk against the tile's queries. Unless it is null, `from` is added: that of the first key
    /// and lane, and `pitch` elements on that of the next key. It may be in place of the scores; of few queries, behind them.
    fn scores(
        ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, chunk: *const Chunk => Ptr, from: *const f32 => Ptr, pitch: i64 => I64
    ) {
        // SAFETY: as in `begin`; chunks are the window's, of keys below `n_k`, at most `BK` of them. Compiled code has made
        // `from` for these keys and lanes.
        unsafe {
            let (ctx, scratch, chunk) = (&*ctx, &mut *scratch, &*chunk);
            let kernels = &*ctx.table;
            if scratch.bq == FEW as i64 {
                let (k, dtype, stride) = few_rows(kernels, &ctx.k, chunk, scratch);
                let next = ahead(&ctx.v, chunk.first, chunk.count);
                (kernels.few_qk)(scratch.q, k, dtype, stride, chunk.count, ctx.dim, chunk.lanes, scratch.s, &next);
                add_few(chunk, scratch, (from, pitch));
                return;
            }
            // Values are read next, and where they are.
            let values = ctx.v_singles.or(&ctx.v, (chunk.first, chunk.count));
            addresses(&values, chunk, scratch.values);
            // Of what modifiers read of the next keys, a half; the other is asked for with the values.
            let Next { elements, elements_bytes, .. } = scratch.next;
            let next = Next { elements, elements_bytes: half(elements_bytes), ..Next::of(scratch.values, row_bytes(&values)) };
            product(ctx, chunk, scratch, (from, pitch), &next);
        }
    }

    /// As `scores`, where nothing is done with values: the keys of the next chunk are read next.
    fn scores_alone(
        ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, chunk: *const Chunk => Ptr, from: *const f32 => Ptr, pitch: i64 => I64
    ) {
        // SAFETY: as in `scores`.
        unsafe {
            let (ctx, scratch, chunk) = (&*ctx, &mut *scratch, &*chunk);
            let kernels = &*ctx.table;
            let after = (*scratch.window).after(chunk);
            if scratch.bq == FEW as i64 {
                let (k, dtype, stride) = few_rows(kernels, &ctx.k, chunk, scratch);
                let next = after.map_or((-1, 0), |next| (next.first, next.count));
                let next = ahead(&ctx.k, next.0, next.1);
                (kernels.few_qk)(scratch.q, k, dtype, stride, chunk.count, ctx.dim, chunk.lanes, scratch.s, &next);
                add_few(chunk, scratch, (from, pitch));
                return;
            }
            let next = match after {
                Some(next) => {
                    let keys = ctx.k_singles.or(&ctx.k, (next.first, next.count));
                    addresses(&keys, next, scratch.values);
                    Next::of(scratch.values, row_bytes(&keys))
                }
                None => Next::NOTHING,
            };
            product(ctx, chunk, scratch, (from, pitch), &next);
        }
    }

    /// Softmax of the scores of a chunk and accumulation of its values.
    fn fold(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, chunk: *const Chunk => Ptr) {
        // SAFETY: as in `scores`.
        unsafe {
            let (ctx, scratch, chunk) = (&*ctx, &mut *scratch, &*chunk);
            let kernels = &*ctx.table;
            let (bq, lanes, mask, lane) = (scratch.bq, chunk.lanes, chunk.mask, chunk.lane as usize);
            let (s, acc) = (scratch.s.wrapping_add(lane), scratch.acc.wrapping_add(lane * ctx.v.dim as usize));
            let [m, l, alpha] = [scratch.m, scratch.l, scratch.alpha].map(|p| p.wrapping_add(lane));
            let rescale = (kernels.softmax)(s, chunk.count, lanes, bq, mask, m, l, alpha);
            let alpha = if rescale == 0 { std::ptr::null() } else { alpha.cast_const() };
            if bq == FEW as i64 {
                let (v, dtype, stride) = few_rows(kernels, &ctx.v, chunk, scratch);
                // As far as keys go on, which more often than not are the next ones.
                let after = chunk.first + chunk.count;
                let next = if chunk.first < 0 { -1 } else { after };
                let end = ctx.n_k.min(ctx.end_tile.saturating_mul(BK as i64));
                let next = ahead(&ctx.k, next, (end - after).min(BK as i64));
                (kernels.few_pv)(s, v, dtype, stride, chunk.count, ctx.v.dim as i64, lanes, mask, alpha, acc, &next);
                return;
            }
            let next = after(ctx, chunk, scratch);
            // What modifiers read of the next keys is asked for once.
            let Next { elements, elements_bytes, .. } = scratch.next;
            let next = Next { elements, elements_bytes, elements_from: half(elements_bytes), ..next };
            scratch.next.elements_bytes = 0;
            let reading = ctx.v_singles.make(kernels, &ctx.v, (chunk.first, chunk.count), ctx.n_k);
            // Where they lie they have been found with the scores.
            let v = if ctx.v.in_place() {
                scratch.values.cast_const().cast()
            } else {
                rows(kernels, &reading, chunk, scratch, scratch.values)
            };
            (kernels.pv)(s, v, chunk.count, ctx.v.dim as i64, lanes, chunk.half, bq, mask, alpha, acc, &next);
        }
    }

    /// Keeps the best of the scores of a chunk.
    fn keep(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, chunk: *const Chunk => Ptr) {
        // SAFETY: as in `scores`; a selection has made its lists.
        unsafe {
            let (ctx, scratch, chunk) = (&*ctx, &mut *scratch, &*chunk);
            let s = scratch.s.wrapping_add(chunk.lane as usize);
            let Chunk { keys, count, lane, lanes, mask, .. } = *chunk;
            ((*ctx.table).keep)(s, count, lane, lanes, scratch.bq, mask, keys, scratch.kept);
        }
    }

    /// Takes the scores of a chunk into the values of their slots and, if so asked, into the running maxima and sums.
    fn reduce(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, chunk: *const Chunk => Ptr) {
        // SAFETY: as in `keep`.
        unsafe {
            let (ctx, scratch, chunk) = (&*ctx, &mut *scratch, &*chunk);
            let kernels = &*ctx.table;
            let s = scratch.s.wrapping_add(chunk.lane as usize);
            let Chunk { mut keys, count, lane, lanes, mask, .. } = *chunk;
            if !ctx.listed.is_null() {
                // Chunks are parts of the list, and slots are listed beside it.
                keys = ctx.listed_slots.wrapping_offset(keys.offset_from(ctx.listed));
            }
            let bq = scratch.bq;
            (kernels.reduce)(s, count, lane, lanes, bq, mask, keys, scratch.grid);
            let totals = (*scratch.grid).totals;
            if totals == 0 {
                return;
            }
            if totals == 2 {
                for row in 0..count {
                    let row = std::slice::from_raw_parts_mut(s.wrapping_add((row * bq) as usize), lanes as usize);
                    row.iter_mut().for_each(|s| *s = if s.is_nan() { f32::NEG_INFINITY } else { *s });
                }
            }
            let [m, l, alpha] = [scratch.m, scratch.l, scratch.alpha].map(|p| p.wrapping_add(lane as usize));
            (kernels.softmax)(s, count, lanes, bq, mask, m, l, alpha);
        }
    }

    /// Begins a window of the keys that are listed, from the one numbered `from` on; the number of the first that it does
    /// not hold, or -1 where none are left.
    fn listed_next(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, rows: i64 => I64, from: i64 => I64) -> i64 => I64 {
        // SAFETY: as in `begin`; a search has listed keys below `n_k`, which stay as long as it takes their scores.
        unsafe {
            let listed = std::slice::from_raw_parts((*ctx).listed, (*ctx).listed_count as usize);
            let to = listed.len().min(from as usize + WINDOW_TILES * BK);
            if from as usize >= to {
                return -1;
            }
            Window::list((*scratch).window, rows as usize, &listed[from as usize..to]);
            to as i64
        }
    }

    /// Bits of the listed keys of a column of a window that are among `start .. end`.
    fn listed_bits(window: *const Window => Ptr, column: i64 => I64, start: i64 => I64, end: i64 => I64) -> u64 => I64 {
        // SAFETY: compiled code passes its own window, which has the column.
        unsafe { (*window).listed_bits(column as usize, start, end) }
    }

    /// Makes chunks of the keys of a window of listed keys; how many.
    fn listed_chunks(window: *mut Window => Ptr) -> i64 => I64 {
        // SAFETY: compiled code passes its own window.
        unsafe { (*window).listed_chunks() }
    }

    /// One null slot of logit `bias` for query `lane` of the tile.
    fn null(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, lane: i64 => I64, bias: f32 => F32) {
        // SAFETY: as in `begin`; `lane < rows`.
        unsafe {
            let (ctx, scratch) = (&*ctx, &*scratch);
            let dv = ctx.v.dim as i64;
            ((*ctx.table).null_slot)(bias, lane, scratch.bq, dv, scratch.m, scratch.l, scratch.acc);
        }
    }

    /// Ends a tile: rows of output and `lse`.
    fn end(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, first: i64 => I64, rows: i64 => I64) {
        // SAFETY: as in `begin`; no other thread writes these rows.
        unsafe {
            let (ctx, scratch) = (&*ctx, &*scratch);
            ctx.finish(scratch.acc, scratch.m, scratch.l, (first, rows), scratch.bq);
        }
    }

    /// 1 if a compressed map holds (row, col), else 0; pairs outside it are not held.
    fn csr_at(map: *const MapRef => Ptr, row: i64 => I64, col: i64 => I64) -> i64 => I64 {
        // SAFETY: compiled code passes a map of its `Ctx`.
        let (indptr, indices) = unsafe { csr(&*map) };
        let at = |row: i64| usize::try_from(row).ok().and_then(|r| indptr.get(r)).and_then(|&o| usize::try_from(o).ok());
        let columns = at(row).zip(at(row.wrapping_add(1))).and_then(|(from, to)| indices.get(from..to));
        columns.is_some_and(|columns| columns.binary_search(&col).is_ok()) as i64
    }

    /// The first of entries `from .. to`, of one row of a compressed map, whose column is at least `col`; `to` if none is.
    fn csr_from(map: *const MapRef => Ptr, from: i64 => I64, to: i64 => I64, col: i64 => I64) -> i64 => I64 {
        // SAFETY: compiled code passes a map of its `Ctx`.
        let (_, indices) = unsafe { csr(&*map) };
        let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
        match range.and_then(|(from, to)| indices.get(from..to)) {
            Some(columns) => from + columns.partition_point(|&c| c < col) as i64,
            None => to,
        }
    }

    /// 1 if candidate `candidate` is among those drawn for row `row`, else 0.
    fn drawn(draw: *const DrawRef => Ptr, row: i64 => I64, candidate: i64 => I64) -> i64 => I64 {
        // SAFETY: compiled code passes a draw of its `Ctx`.
        let held = match unsafe { drawn_row(&*draw, row) } {
            Chosen::Drawn(chosen) => candidate >= 0 && chosen.contains(&candidate),
            Chosen::Selected(chosen) => u32::try_from(candidate).is_ok_and(|c| chosen.binary_search(&c).is_ok()),
        };
        held as i64
    }

    /// Entry `j` of what was drawn for row `row`; -1 if there is none.
    fn draw_at(draw: *const DrawRef => Ptr, row: i64 => I64, j: i64 => I64) -> i64 => I64 {
        let Ok(j) = usize::try_from(j) else { return -1 };
        // SAFETY: compiled code passes a draw of its `Ctx`.
        match unsafe { drawn_row(&*draw, row) } {
            Chosen::Drawn(chosen) => chosen.get(j).copied().unwrap_or(-1),
            Chosen::Selected(chosen) => chosen.get(j).map_or(-1, |&c| i64::from(c)),
        }
    }

    /// How many entries row `row` of a choice has.
    fn draw_count(draw: *const DrawRef => Ptr, row: i64 => I64) -> i64 => I64 {
        // SAFETY: compiled code passes a draw of its `Ctx`.
        match unsafe { drawn_row(&*draw, row) } {
            Chosen::Drawn(chosen) => chosen.partition_point(|&c| c >= 0) as i64,
            Chosen::Selected(chosen) => chosen.len() as i64,
        }
    }

    /// Adds to the rows of bits of lanes `from .. to`, for each of entries `first .. last` of row `row` of a choice, its
    /// keys: from `unit` times the entry plus `begin` up to that plus `end`, of those `lo .. hi`.
    fn window_chosen(
        window: *mut Window => Ptr, from: i64 => I64, to: i64 => I64, draw: *const DrawRef => Ptr, row: i64 => I64,
        first: i64 => I64, last: i64 => I64, unit: i64 => I64, begin: i64 => I64, end: i64 => I64, lo: i64 => I64,
        hi: i64 => I64
    ) {
        // SAFETY: compiled code passes its own window and a draw of its `Ctx`.
        let (window, chosen) = unsafe { (&mut *window, drawn_row(&*draw, row)) };
        let lanes = from as usize..to as usize;
        let (lo, hi) = (lo.max(window.from), hi.min(window.to));
        let ranges = Ranges { unit, begin, end, lo, hi };
        match chosen {
            Chosen::Drawn(chosen) if window.is_listed() => {
                let ranges = ranges.of(some(chosen, first, last).iter().copied());
                ranges.for_each(|(start, end)| window.add_listed(lanes.clone(), start, end));
            }
            Chosen::Selected(chosen) if window.is_listed() => {
                let ranges = ranges.of(some(chosen, first, last).iter().map(|&c| i64::from(c)));
                ranges.for_each(|(start, end)| window.add_listed(lanes.clone(), start, end));
            }
            Chosen::Selected(chosen) if (unit, end) == (1, begin + 1) => {
                add_keys(window, lanes, some(chosen, first, last), ranges);
            }
            Chosen::Drawn(chosen) => add_ranges(window, lanes, ranges.of(some(chosen, first, last).iter().copied())),
            Chosen::Selected(chosen) => {
                add_ranges(window, lanes, ranges.of(some(chosen, first, last).iter().map(|&c| i64::from(c))));
            }
        }
    }

    /// Marks the tiles of keys of the same entries; if `whole`, as such that every query of the tile has.
    fn marks_chosen(
        marks: *mut TileMarks => Ptr, whole: i64 => I64, draw: *const DrawRef => Ptr, row: i64 => I64,
        first: i64 => I64, last: i64 => I64, unit: i64 => I64, begin: i64 => I64, end: i64 => I64, lo: i64 => I64,
        hi: i64 => I64
    ) {
        let ranges = Ranges { unit, begin, end, lo, hi };
        // SAFETY: compiled code passes its own marks and a draw of its `Ctx`.
        unsafe {
            match drawn_row(&*draw, row) {
                Chosen::Drawn(chosen) => {
                    mark_ranges(marks, whole != 0, ranges.of(some(chosen, first, last).iter().copied()));
                }
                // Entries that are a key each, run by run.
                Chosen::Selected(chosen) if (unit, end) == (1, begin + 1) => {
                    let runs = runs(some(chosen, first, last));
                    let runs = runs.map(|(from, to)| ((from + begin).max(lo), (to + begin).min(hi)));
                    mark_ranges(marks, whole != 0, runs.filter(|r| r.0 < r.1));
                }
                Chosen::Selected(chosen) => {
                    mark_ranges(marks, whole != 0, ranges.of(some(chosen, first, last).iter().map(|&c| i64::from(c))));
                }
            }
        }
    }

    /// The first entry of row `row` of a selection that is at least `candidate`; the number of entries if none is.
    fn draw_from(draw: *const DrawRef => Ptr, row: i64 => I64, candidate: i64 => I64) -> i64 => I64 {
        // SAFETY: compiled code passes a draw of its `Ctx`.
        match unsafe { drawn_row(&*draw, row) } {
            Chosen::Drawn(chosen) => chosen.partition_point(|&c| c >= 0 && c < candidate) as i64,
            Chosen::Selected(chosen) => chosen.partition_point(|&c| i64::from(c) < candidate) as i64,
        }
    }
}

/// Begins a tile whose values have `dv` elements: queries `first .. first + rows` packed and scaled, running values reset.
///
/// # Safety
/// As for the stages.
unsafe fn begun(ctx: &Ctx, scratch: &mut Scratch, (first, rows): (i64, i64), scale: f32, dv: i64) {
    let few = rows as usize <= FEW;
    let lanes = if few { rows } else { (rows as usize).next_multiple_of(LANE_STEP) as i64 };
    if few {
        scratch.bq = FEW as i64;
    }
    (scratch.first, scratch.rows) = (first, rows);
    let Rows { dtype, row_stride, col_stride, .. } = ctx.q;
    let (src, index) = ctx.q.from(ctx.q.base, first);
    // SAFETY: promised by the caller.
    unsafe {
        let kernels = &*ctx.table;
        (kernels.pack_q)(src, dtype, row_stride, col_stride, index, rows, scratch.bq, ctx.dim, scale, scratch.q);
        (kernels.start)(lanes, scratch.bq, dv, scratch.m, scratch.l, scratch.acc);
    }
}

/// Scores of the keys of a chunk against the queries of a tile that are more than a few.
///
/// # Safety
/// As for the stages.
unsafe fn product(ctx: &Ctx, chunk: &Chunk, scratch: &Scratch, (from, pitch): (*const f32, i64), next: &Next) {
    // SAFETY: promised by the caller.
    unsafe {
        let kernels = &*ctx.table;
        let k = ctx.k_singles.make(kernels, &ctx.k, (chunk.first, chunk.count), ctx.n_k);
        let k = rows(kernels, &k, chunk, scratch, scratch.keys);
        // Packed queries and the accumulator have `LANE_STEP` lanes side by side, panel after panel.
        let lane = chunk.lane as usize;
        let (q, s) = (scratch.q.wrapping_add(lane * ctx.dim as usize), scratch.s.wrapping_add(lane));
        (kernels.qk)(q, k, chunk.count, ctx.dim, chunk.lanes, chunk.half, scratch.bq, s, from, pitch, next);
    }
}

/// Adds to the scores of few queries what is not null.
///
/// # Safety
/// As for the stages.
unsafe fn add_few(chunk: &Chunk, scratch: &Scratch, (from, pitch): (*const f32, i64)) {
    if from.is_null() {
        return;
    }
    for key in 0..chunk.count as usize {
        for lane in 0..chunk.lanes as usize {
            // SAFETY: promised by the caller.
            unsafe { *scratch.s.add(key * FEW + lane) += *from.offset(key as isize * pitch as isize).add(lane) };
        }
    }
}

/// Entries `first .. last`, as far as there are any.
fn some<T>(chosen: &[T], first: i64, last: i64) -> &[T] {
    let [first, last] = [first, last].map(|at| usize::try_from(at).unwrap_or(0).min(chosen.len()));
    chosen.get(first..last).unwrap_or(&[])
}

/// What keys an entry of a choice stands for.
#[derive(Clone, Copy)]
struct Ranges {
    unit: i64,
    begin: i64,
    end: i64,
    lo: i64,
    hi: i64,
}

impl Ranges {
    /// Those of ascending entries, none of which is empty; what fills a row of a draw up is left out.
    fn of(self, entries: impl Iterator<Item = i64>) -> impl Iterator<Item = (i64, i64)> {
        let Ranges { unit, begin, end, lo, hi } = self;
        let all = entries.take_while(|&entry| entry >= 0).map(move |entry| {
            let at = entry.wrapping_mul(unit);
            (at.wrapping_add(begin).max(lo), at.wrapping_add(end).min(hi))
        });
        all.filter(|r| r.0 < r.1)
    }
}

/// Ascending entries as runs of those that follow one another.
fn runs(entries: &[u32]) -> impl Iterator<Item = (i64, i64)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = *entries.get(at)?;
        let from = at;
        let follows = |at: usize| entries.get(at) == Some(&(first + (at - from) as u32));
        at += 1;
        while follows(at + BK - 1) {
            at += BK;
        }
        while follows(at) {
            at += 1;
        }
        Some((i64::from(first), i64::from(first) + (at - from) as i64))
    })
}

/// Adds ranges, whose ends ascend and which lie in the window, to the rows of bits of some lanes: a word of each tile at a
/// time.
fn add_ranges(window: &mut Window, lanes: Range<usize>, ranges: impl Iterator<Item = (i64, i64)>) {
    const TILE: i64 = BK as i64;
    let Window { partial, tile, bits, .. } = window;
    let tiles = &tile[..*partial as usize];
    let mut put = |column: usize, word: u64| match &mut bits[column][lanes.clone()] {
        [row] => *row |= word,
        rows => rows.iter_mut().for_each(|row| *row |= word),
    };
    let (mut column, mut word) = (0, 0_u64);
    for (mut start, end) in ranges {
        while start < end {
            let at = start.div_euclid(TILE);
            if tiles.get(column).is_some_and(|&t| t < at) {
                if word != 0 {
                    put(column, std::mem::take(&mut word));
                }
                while tiles.get(column).is_some_and(|&t| t < at) {
                    column += 1;
                }
            }
            let Some(&here) = tiles.get(column) else { return };
            if here > at {
                // Tiles between are full or not marked; what ranges before this one have had is there.
                start = here * TILE;
                continue;
            }
            let stop = end.min((at + 1) * TILE);
            word |= (u64::MAX >> (TILE - (stop - start))) << (start - at * TILE);
            start = stop;
        }
    }
    if word != 0 {
        put(column, word);
    }
}

/// As [`add_ranges`], of entries that are a key each.
fn add_keys(window: &mut Window, lanes: Range<usize>, entries: &[u32], Ranges { begin, lo, hi, .. }: Ranges) {
    let Window { partial, tile, bits, .. } = window;
    let tiles = &tile[..*partial as usize];
    let mut put = |column: usize, word: u64| match &mut bits[column][lanes.clone()] {
        [row] => *row |= word,
        rows => rows.iter_mut().for_each(|row| *row |= word),
    };
    let (mut column, mut word, mut here) = (0, 0_u64, -1);
    let within = |bound: i64| entries.partition_point(|&entry| i64::from(entry) + begin < bound);
    let (mut next, last) = (within(lo), within(hi));
    while next < last {
        let entry = entries[next];
        next += 1;
        let key = i64::from(entry) + begin;
        let at = key / BK as i64;
        if at != here {
            if word != 0 {
                put(column, std::mem::take(&mut word));
            }
            while tiles.get(column).is_some_and(|&t| t < at) {
                column += 1;
            }
            match tiles.get(column) {
                None => return,
                Some(&next) if next == at => here = at,
                Some(_) => continue,
            }
            // All the rest of a tile at once.
            let more = BK - 1 - (key % BK as i64) as usize;
            if more > 0 && next + more <= last && entries[next + more - 1] == entry + more as u32 {
                word |= u64::MAX << (key % BK as i64);
                next += more;
                continue;
            }
        }
        word |= 1 << (key % BK as i64);
    }
    if word != 0 {
        put(column, word);
    }
}

/// Marks the tiles of ranges whose ends ascend; those that follow one another are one.
///
/// # Safety
/// The marks are those of the driver's thread.
unsafe fn mark_ranges(marks: *mut TileMarks, whole: bool, ranges: impl Iterator<Item = (i64, i64)>) {
    const TILE: i64 = BK as i64;
    let mark = Support::get().marks_mark;
    let (mut known, mut marked) = ((0, 0), -1);
    let mut put = |(start, end): (i64, i64)| {
        // Of many in one tile the first is enough.
        let (from, to) = (start / TILE, (end - 1) / TILE);
        if start < end && (from != to || to != marked || whole && end - start == TILE) {
            // SAFETY: promised by the caller.
            unsafe { mark(marks, start, end, start, if whole { end } else { 0 }) };
            marked = to;
        }
    };
    for (start, end) in ranges {
        if start <= known.1 && known.0 < known.1 {
            known.1 = known.1.max(end);
        } else {
            put(std::mem::replace(&mut known, (start, end)));
        }
    }
    put(known);
}

impl Ctx {
    /// Makes what earlier stages have written of rows `first .. first + rows` running values of a tile of `bq` queries.
    ///
    /// # Safety
    /// As for the stages; `acc`, `m` and `l` are those of a tile of `bq` queries.
    unsafe fn resume(&self, acc: *mut f32, m: *mut f32, l: *mut f32, (first, rows): (i64, i64), bq: i64) {
        let Rows { dtype, row_stride, col_stride, .. } = self.from;
        // SAFETY: promised by the caller.
        unsafe {
            let (src, index) = self.from.from(self.from.base, first);
            let dv = self.v.dim as i64;
            ((*self.table).pack_q)(src, dtype, row_stride, col_stride, index, rows, bq, dv, 1.0, acc);
            for r in 0..rows as usize {
                let number = if index.is_null() { first + r as i64 } else { i64::from(*index.add(r)) };
                let lse = *self.from_lse.wrapping_byte_offset((number * self.from_lse_stride) as isize);
                let (max, sum) = match lse {
                    f32::NEG_INFINITY => (lse, 0.0),
                    _ if lse.is_finite() => (lse, 1.0),
                    _ => (0.0, f32::NAN),
                };
                m.add(r).write(max);
                l.add(r).write(sum);
            }
        }
    }

    /// Writes output and `lse` of `rows` lanes from lane `first` on: `acc` and the sums are theirs.
    ///
    /// # Safety
    /// As for the stages; `acc`, `m` and `l` are those of a tile of `bq` queries.
    pub(crate) unsafe fn finish(
        &self,
        acc: *const f32,
        m: *const f32,
        l: *const f32,
        (first, rows): (i64, i64),
        bq: i64,
    ) {
        let (dst, index) = self.out.from(self.out.base.cast_const(), first);
        let (skip, lse_index) = if self.lse_index.is_null() {
            (first, self.lse_index)
        } else {
            (0, self.lse_index.wrapping_offset(first as isize))
        };
        let lse = if self.lse.is_null() {
            self.lse
        } else {
            self.lse.wrapping_byte_offset((skip * self.lse_stride) as isize)
        };
        // SAFETY: promised by the caller.
        unsafe {
            ((*self.table).finish)(
                acc,
                m,
                l,
                rows,
                bq,
                self.v.dim as i64,
                dst.cast_mut(),
                self.out.dtype,
                self.out.row_stride,
                self.out.col_stride,
                index,
                lse,
                self.lse_stride,
                lse_index,
            );
        }
    }
}

/// The rows of a tile that go one by one, as many at a time as a tile of few queries has: the first lane, how many, and where
/// their accumulators, maxima and sums are.
fn eights(ctx: &Ctx, scratch: &Scratch, rows: i64) -> impl Iterator<Item = (i64, i64, [*mut f32; 3])> {
    let (few, dv, Scratch { acc, m, l, .. }) = (FEW as i64, ctx.v.dim as usize, *scratch);
    (0..rows).step_by(FEW).map(move |first| {
        let lane = first as usize;
        let running = [acc.wrapping_add(lane * dv), m.wrapping_add(lane), l.wrapping_add(lane)];
        (first, (rows - first).min(few), running)
    })
}

/// Rows from key `first` on, at most `count` of them, as what comes next; nothing for keys that do not follow one another.
fn ahead(view: &KvView, first: i64, count: i64) -> Ahead {
    if first < 0 || view.page_rows != 0 || !view.rows.is_null() {
        return Ahead { at: view.base, stride: 0, rows: 0 };
    }
    Ahead { at: view.base.wrapping_offset((first * view.row_stride) as isize), stride: view.row_stride, rows: count }
}

/// Rows of any type for a tile of few queries: the address of the first, the type, and the distance of rows in bytes.
///
/// # Safety
/// As for the stages.
unsafe fn few_rows(kernels: &Table, view: &KvView, chunk: &Chunk, scratch: &Scratch) -> (*const u8, i64, i64) {
    let mut numbers = [0; BK];
    // SAFETY: promised by the caller.
    unsafe {
        let (of, first) = of_chunk(view, chunk, &mut numbers);
        match of.spaced(first as usize, chunk.count as usize) {
            Some((at, stride)) => (at, i64::from(view.dtype), stride),
            None => {
                (kernels.kv_tile)(&of, first, chunk.count, scratch.copy);
                (scratch.copy.cast(), DType::F32 as i64, view.dim as i64 * DType::F32.size() as i64)
            }
        }
    }
}

/// The view of a chunk's keys, and which of its rows is the first. Single keys of a view that lists rows are places in
/// its list, and `numbers` holds what is listed there.
///
/// # Safety
/// As for the stages.
unsafe fn of_chunk(view: &KvView, chunk: &Chunk, numbers: &mut [u32; BK]) -> (KvView, i64) {
    if chunk.first >= 0 {
        return (*view, chunk.first);
    }
    if view.rows.is_null() {
        return (KvView { rows: chunk.keys, ..*view }, 0);
    }
    for (i, number) in numbers[..chunk.count as usize].iter_mut().enumerate() {
        // SAFETY: keys of a chunk are below the number of listed rows.
        *number = unsafe { *view.rows.add(*chunk.keys.add(i) as usize) };
    }
    (KvView { rows: numbers.as_ptr(), ..*view }, 0)
}

/// Stores the addresses of a chunk's rows, of any type.
///
/// # Safety
/// As for the stages; `to` has room for [`BK`] addresses.
unsafe fn addresses(view: &KvView, chunk: &Chunk, to: *mut *const u8) {
    let mut numbers = [0; BK];
    // SAFETY: promised by the caller.
    unsafe {
        let (of, first) = of_chunk(view, chunk, &mut numbers);
        of.addresses(first as usize, chunk.count as usize, to);
        fill_up(to, chunk.count);
    }
}

/// Repeats the last of `count` addresses up to [`BK`] of them.
///
/// # Safety
/// `rows` is the address of `count` addresses, at least one, and of room for [`BK`].
unsafe fn fill_up(rows: *mut *const u8, count: i64) {
    for i in count as usize..BK {
        // SAFETY: promised by the caller.
        unsafe { rows.add(i).write(*rows.add(count as usize - 1)) };
    }
}

/// Half of the lines of so many bytes.
fn half(bytes: i64) -> i64 {
    let line = CACHE_LINE as i64;
    bytes / (2 * line) * line
}

/// Bytes of a row.
fn row_bytes(view: &KvView) -> i64 {
    let element = if view.dtype == DType::F32 as u32 { DType::F32.size() } else { DType::F16.size() };
    view.dim as i64 * element as i64
}

/// The addresses of a chunk's rows as singles, at `to`: where they lie, or of copies.
///
/// # Safety
/// As for [`addresses`].
unsafe fn rows(
    kernels: &Table,
    view: &KvView,
    chunk: &Chunk,
    scratch: &Scratch,
    to: *mut *const u8,
) -> *const *const f32 {
    // SAFETY: promised by the caller; the copies have room.
    unsafe {
        if view.in_place() {
            addresses(view, chunk, to);
        } else {
            let mut numbers = [0; BK];
            let (of, first) = of_chunk(view, chunk, &mut numbers);
            (kernels.kv_tile)(&of, first, chunk.count, scratch.copy);
            let bytes = view.dim as usize * DType::F32.size();
            for key in 0..chunk.count as usize {
                to.add(key).write(scratch.copy.cast_const().cast::<u8>().wrapping_add(key * bytes));
            }
            fill_up(to, chunk.count);
        }
    }
    to.cast_const().cast()
}

/// What is read or written after the values of a chunk: keys of the next one, or if it is the window's last, the tile's
/// output, more often than not.
///
/// # Safety
/// As for the stages.
unsafe fn after(ctx: &Ctx, chunk: &Chunk, scratch: &Scratch) -> Next {
    // SAFETY: promised by the caller.
    unsafe {
        match (*scratch.window).after(chunk) {
            Some(next) => {
                let keys = ctx.k_singles.or(&ctx.k, (next.first, next.count));
                addresses(&keys, next, scratch.keys);
                Next::of(scratch.keys, row_bytes(&keys))
            }
            None => {
                for r in 0..scratch.rows {
                    let (at, index) = ctx.out.from(ctx.out.base.cast_const(), scratch.first + r);
                    let number = if index.is_null() { 0 } else { i64::from(*index) };
                    scratch.keys.add(r as usize).write(at.wrapping_offset((number * ctx.out.row_stride) as isize));
                }
                let element = if ctx.out.dtype == DType::F32 as i64 { DType::F32.size() } else { DType::F16.size() };
                fill_up(scratch.keys, scratch.rows);
                Next::of(scratch.keys, ctx.v.dim as i64 * element as i64)
            }
        }
    }
}

/// Offsets and columns of a compressed map.
///
/// # Safety
/// `map` describes memory that lives as long as the result is used.
unsafe fn csr<'a>(map: &MapRef) -> (&'a [i64], &'a [i64]) {
    // SAFETY: the counts are those of the slices that were bound.
    unsafe {
        let indptr = std::slice::from_raw_parts(map.indptr, map.offsets as usize);
        (indptr, std::slice::from_raw_parts(map.indices, map.entries as usize))
    }
}

/// What was chosen for a row.
enum Chosen<'a> {
    /// By a draw: -1 after the last.
    Drawn(&'a [i64]),
    /// By a selection.
    Selected(&'a [u32]),
}

/// What was chosen for a row; nothing for rows outside the table.
///
/// # Safety
/// `draw` describes memory that lives as long as the result is used.
unsafe fn drawn_row<'a>(draw: &DrawRef, row: i64) -> Chosen<'a> {
    let row = row.wrapping_sub(draw.first);
    if !(0..draw.rows).contains(&row) {
        return Chosen::Drawn(&[]);
    }
    let at = (row * draw.count) as usize;
    // SAFETY: the table has `rows` rows of `count` entries, and of a selection as many counts, none larger.
    unsafe {
        if draw.selected.is_null() {
            Chosen::Drawn(std::slice::from_raw_parts(draw.drawn.wrapping_add(at), draw.count as usize))
        } else {
            let count = *draw.counts.wrapping_add(row as usize) as usize;
            Chosen::Selected(std::slice::from_raw_parts(draw.selected.wrapping_add(at), count))
        }
    }
}
