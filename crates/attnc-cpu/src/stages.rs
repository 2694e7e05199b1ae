//! What compiled code calls: whole-tile steps that depend on the layout of tensors, not on the pattern.
//!
//! The one idea: a stage is to a driver what an instruction is to a program. Each fetches addresses
//! and strides from [`Ctx`] and [`Scratch`] and calls microkernels; the driver decides which, when and on
//! which keys. [`STAGES`] gives name, address and signature of each, from which the driver's calls are made.
//! Nothing here knows of patterns or code generation.

use attnc_kernels::abi::Arg;

use crate::layout::{Ctx, DrawRef, MapRef, Scratch};

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
            /// Its address, parameters and result.
            pub(crate) fn entry(self) -> (usize, &'static [Arg], Option<Arg>) {
                match self {
                    $(Stage::$name => (($name as *const u8).addr(), &[$(Arg::$kind),*], stages!(@ret $($ret_kind)?)),)*
                }
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
        unsafe {
            let (ctx, scratch) = (&*ctx, &mut *scratch);
            let kernels = &*ctx.table;
            let dv = ctx.v.dim as i64;
            scratch.lanes = (rows as usize).next_multiple_of(attnc_kernels::abi::LANE_STEP) as i64;
            let src = ctx.q.base.wrapping_offset((first * ctx.q.row_stride) as isize);
            (kernels.pack_q)(
                src, ctx.q.dtype, ctx.q.row_stride, ctx.q.col_stride, std::ptr::null(), rows, scratch.bq, ctx.dim, scale,
                scratch.q,
            );
            (kernels.start)(scratch.lanes, scratch.bq, dv, scratch.m, scratch.l, scratch.acc);
        }
    }

    /// Scores of keys `first .. first + keys` against the tile's queries.
    fn scores(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, first: i64 => I64, keys: i64 => I64) {
        // SAFETY: as in `begin`; `first + keys <= n_k` and `keys <= BK`.
        unsafe {
            let (ctx, scratch) = (&*ctx, &mut *scratch);
            let kernels = &*ctx.table;
            let mut stride = 0;
            let k = (kernels.kv_tile)(&ctx.k, first, keys, scratch.rows, &mut stride) as *const f32;
            (kernels.qk)(scratch.q, k, stride, keys, ctx.dim, scratch.lanes, scratch.bq, scratch.s);
        }
    }

    /// Softmax of the scores and accumulation of values; `masked` says whether the bit rows count.
    fn fold(ctx: *const Ctx => Ptr, scratch: *mut Scratch => Ptr, first: i64 => I64, keys: i64 => I64, masked: i64 => I64) {
        // SAFETY: as in `scores`.
        unsafe {
            let (ctx, scratch) = (&*ctx, &mut *scratch);
            let kernels = &*ctx.table;
            let (bq, lanes) = (scratch.bq, scratch.lanes);
            let mask = if masked == 0 { std::ptr::null() } else { scratch.masks.cast_const() };
            let rescale = (kernels.softmax)(scratch.s, keys, lanes, bq, mask, scratch.m, scratch.l, scratch.alpha);
            let alpha = if rescale == 0 { std::ptr::null() } else { scratch.alpha.cast_const() };
            let mut stride = 0;
            let v = (kernels.kv_tile)(&ctx.v, first, keys, scratch.rows, &mut stride) as *const f32;
            (kernels.pv)(scratch.s, v, stride, keys, ctx.v.dim as i64, lanes, bq, mask, alpha, scratch.acc);
        }
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
            let dst = ctx.out.base.wrapping_offset((first * ctx.out.row_stride) as isize);
            let lse = if ctx.lse.is_null() { ctx.lse } else { ctx.lse.wrapping_byte_offset((first * ctx.lse_stride) as isize) };
            ((*ctx.table).finish)(
                scratch.acc, scratch.m, scratch.l, rows, scratch.bq, ctx.v.dim as i64, dst, ctx.out.dtype, ctx.out.row_stride,
                ctx.out.col_stride, std::ptr::null(), lse, ctx.lse_stride,
            );
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
        let chosen = unsafe { drawn_row(&*draw, row) };
        (candidate >= 0 && chosen.contains(&candidate)) as i64
    }

    /// Entry `j` of what was drawn for row `row`; -1 if there is none.
    fn draw_at(draw: *const DrawRef => Ptr, row: i64 => I64, j: i64 => I64) -> i64 => I64 {
        // SAFETY: compiled code passes a draw of its `Ctx`.
        let chosen = unsafe { drawn_row(&*draw, row) };
        usize::try_from(j).ok().and_then(|j| chosen.get(j)).copied().unwrap_or(-1)
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

/// What was drawn for a row; nothing for rows outside the table.
///
/// # Safety
/// `draw` describes memory that lives as long as the result is used.
unsafe fn drawn_row<'a>(draw: &DrawRef, row: i64) -> &'a [i64] {
    let row = row.wrapping_sub(draw.first);
    if !(0..draw.rows).contains(&row) {
        return &[];
    }
    // SAFETY: the table has `rows` rows of `count` entries.
    unsafe { std::slice::from_raw_parts(draw.chosen.wrapping_offset((row * draw.count) as isize), draw.count as usize) }
}
