//! The contract between compiled drivers and microkernels: each kernel's signature, stated once.
//!
//! The one idea: **queries are lanes**, in panels of [`LANE_STEP`]. A score tile is `[keys][bq]`, queries
//! contiguous; packed queries are `[panel][d][LANE_STEP]` and the accumulator `[panel][dv][LANE_STEP]`, so that a
//! panel is a few adjacent cache lines (only kernels look inside these two). Rows of K and V are read
//! in place, one broadcast at a time, each by its address, so nothing of K or V is packed or gathered when it is f32 with
//! unit inner stride; row maxima, sums and rescaling are vertical vector operations.
//!
//! A tile of at most [`FEW`] queries would leave most lanes idle: it has `bq` = `FEW`, its packed queries and its
//! accumulator are `[lane][d]` and `[lane][dv]`, and [`Table::few_qk`] and [`Table::few_pv`] take the place of `qk` and
//! `pv`: elements of a row side by side, rows of any type. `lanes` is then the number of queries itself.
//!
//! Buffers that a driver owns are best aligned to cache lines; nothing but speed depends on it.
//!
//! The macro below gives for each function of a table its Rust type and the list of its
//! parameters as [`Arg`]s, from which a code generator makes its own signature. [`Table`] holds the
//! kernels on tiles, [`Rows`] operations of score modifiers, [`Support`] integer helpers, [`Math`] and `Math4` functions
//! of reals.
//! Nothing here knows of patterns, plans or code generators.

use crate::select::{Grid, Kept};
use crate::tiles::TileMarks;
use crate::window::Window;

/// Bytes of a cache line.
pub const CACHE_LINE: usize = 64;
/// Keys in a tile; a mask row is one `u64`.
pub const BK: usize = 64;
/// Most queries in a tile.
pub const BQ_MAX: usize = 64;
/// `bq` and `lanes` are multiples of this, but in a tile of [`FEW`] queries.
pub const LANE_STEP: usize = 16;
/// Lanes of half a panel.
pub const HALF: usize = LANE_STEP / 2;
/// Most queries of a tile that is computed row by row: its `bq`.
pub const FEW: usize = 8;

/// Machine type of a kernel parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A pointer.
    Ptr,
    /// A 64-bit integer.
    I64,
    /// A 32-bit real.
    F32,
    /// Four 32-bit reals in one register.
    F32X4,
}

/// Element types of tensors. The numbers are part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DType {
    /// IEEE single.
    F32 = 0,
    /// IEEE half.
    F16 = 1,
    /// Upper half of a single.
    Bf16 = 2,
}

impl DType {
    /// Bytes of an element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }
}

/// How rows of K or V are found. One (batch, KV head) at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct KvView {
    /// First element (strided) or first page (paged).
    pub base: *const u8,
    /// Bytes from row to row; inside a page when paged.
    pub row_stride: i64,
    /// Bytes from element to element of a row.
    pub col_stride: i64,
    /// [`DType`] as a number.
    pub dtype: u32,
    /// 0 = strided. Otherwise rows in a page, a power of two.
    pub page_rows: u32,
    /// Page numbers, one for each `page_rows` rows (paged only).
    pub table: *const u32,
    /// Bytes from page to page (paged only).
    pub page_stride: i64,
    /// Row numbers by schedule index, or null for the identity: the order of a schedule.
    pub rows: *const u32,
    /// Elements of a row.
    pub dim: u64,
}

/// Rows that will be read next: what a kernel asks memory for while it computes. Nothing is read of them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ahead {
    /// The first row; any address.
    pub at: *const u8,
    /// Bytes from row to row.
    pub stride: i64,
    /// How many rows.
    pub rows: i64,
}

/// Rows that are read next, wherever they lie: what a kernel asks memory for while it computes. Nothing is read of them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Next {
    /// [`BK`] addresses, any.
    pub rows: *const *const u8,
    /// Bytes of each row.
    pub bytes: i64,
    /// As many of elements that modifiers read after these, asked for in steps that are left.
    pub elements: *const *const u8,
    /// The first byte of each that is asked for, a whole number of lines.
    pub elements_from: i64,
    /// One past the last byte; 0 if there are none.
    pub elements_bytes: i64,
}

impl Next {
    /// No rows.
    pub const NOTHING: Next =
        Next { rows: core::ptr::null(), bytes: 0, elements: core::ptr::null(), elements_from: 0, elements_bytes: 0 };

    /// These rows alone.
    #[must_use]
    pub const fn of(rows: *const *const u8, bytes: i64) -> Next {
        Next { rows, bytes, ..Next::NOTHING }
    }
}

/// Signature of a function of a table: its parameters and what it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sig {
    /// The function's name, as in the table.
    pub name: &'static str,
    /// Parameters in order.
    pub args: &'static [Arg],
    /// Machine type of the result, if there is one.
    pub ret: Option<Arg>,
}

macro_rules! table {
    ($(#[$table_doc:meta])* $table:ident {
        $($(#[$doc:meta])* $name:ident : fn($($arg:ident : $ty:ty => $kind:ident),* $(,)?) $(-> $ret:ty => $ret_kind:ident)?;)*
    }) => {
        $(#[$table_doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $table {
            $($(#[$doc])* pub $name: unsafe extern "C" fn($($arg: $ty),*) $(-> $ret)?,)*
        }

        impl $table {
            /// Signature and address of every function.
            #[must_use]
            pub fn entries(&self) -> Vec<(Sig, *const u8)> {
                vec![$((
                    Sig { name: stringify!($name), args: &[$(Arg::$kind),*], ret: table!(@ret $($ret_kind)?) },
                    self.$name as *const u8,
                )),*]
            }
        }
    };
    (@ret) => { None };
    (@ret $kind:ident) => { Some(Arg::$kind) };
}

table! {
/// One implementation of every kernel. The addresses stay valid for the life of the process.
Table {
    /// Reads `rows` query rows (at most `bq`) of `d` elements, multiplies by `scale`, and packs them
    /// transposed into `dst`, `d * bq` elements; lanes from `rows` on are zero. `index` gives row numbers, or is null.
    /// With `bq` = `FEW` rows stay rows, and nothing but them is written.
    pack_q: fn(src: *const u8 => Ptr, dtype: i64 => I64, row_stride: i64 => I64, col_stride: i64 => I64,
               index: *const u32 => Ptr, rows: i64 => I64, bq: i64 => I64, d: i64 => I64, scale: f32 => F32,
               dst: *mut f32 => Ptr);

    /// Copies rows `first .. first + keys` of `view` to `scratch[keys][dim]`, as f32.
    kv_tile: fn(view: *const KvView => Ptr, first: i64 => I64, keys: i64 => I64, scratch: *mut f32 => Ptr);

    /// `s[key][lane] = sum_d k[key][d] * q[lane][d]` for `keys` keys (at most `BK`) and `lanes` lanes, and
    /// `from[key * pitch + lane]` more, unless `from` is null; it may be `s`, `bq` being the pitch.
    /// Of the first `HALF` lanes, for the first `half` keys alone (`keys` of them, if not fewer by enough to be worth it):
    /// their other scores are not written.
    /// `q` is packed for `bq` lanes, `k` holds the address of each key's row, and room for `BK` of them, `s` is `[keys][bq]`.
    /// Asks for the rows `next`, unless that is null.
    qk: fn(q: *const f32 => Ptr, k: *const *const f32 => Ptr, keys: i64 => I64, d: i64 => I64, lanes: i64 => I64,
           half: i64 => I64, bq: i64 => I64, s: *mut f32 => Ptr, from: *const f32 => Ptr, pitch: i64 => I64, next: *const Next => Ptr);

    /// As `qk`, of a tile of few queries: `lanes` at most `FEW`, `s` is `[keys][FEW]`, lanes from `lanes` on become 0.
    /// `k` are rows of the given type with unit inner stride, `k_stride` bytes apart. Asks for the rows `ahead`.
    few_qk: fn(q: *const f32 => Ptr, k: *const u8 => Ptr, dtype: i64 => I64, k_stride: i64 => I64, keys: i64 => I64,
               d: i64 => I64, lanes: i64 => I64, s: *mut f32 => Ptr, ahead: *const Ahead => Ptr);

    /// As `pv`, of a tile of few queries; rows of values as those of `few_qk`.
    few_pv: fn(p: *const f32 => Ptr, v: *const u8 => Ptr, dtype: i64 => I64, v_stride: i64 => I64, keys: i64 => I64,
               dv: i64 => I64, lanes: i64 => I64, mask: *const u64 => Ptr, alpha: *const f32 => Ptr,
               acc: *mut f32 => Ptr, ahead: *const Ahead => Ptr);

    /// Scores of queries that go one by one: `s[row][j]` of `rows` rows of queries `q[row][d]` (as `pack_q` leaves few of
    /// them) and of the j-th key that `mask` holds of the row, or of all if it is null. `k` holds addresses as for `qk`, `s` is
    /// `[rows][BK]`.
    own_qk: fn(q: *const f32 => Ptr, k: *const *const f32 => Ptr, keys: i64 => I64, d: i64 => I64, rows: i64 => I64,
               mask: *const u64 => Ptr, s: *mut f32 => Ptr);

    /// Softmax of these scores, in place, and accumulation of the values of the same keys: as `softmax` and `pv`, row by
    /// row; `acc` is `[rows][dv]`. What is not held by `mask` is not read.
    own_pv: fn(s: *mut f32 => Ptr, v: *const *const f32 => Ptr, keys: i64 => I64, dv: i64 => I64, rows: i64 => I64,
               mask: *const u64 => Ptr, m: *mut f32 => Ptr, l: *mut f32 => Ptr, acc: *mut f32 => Ptr);

    /// One step of the online softmax over `s[keys][bq]`, in place: scores become exp(s - m).
    /// `mask` is null, or one `u64` for each of `lanes` queries whose bit j says that key j takes part.
    /// Updates the running maximum `m[bq]` and sum `l[bq]`; `alpha[bq]` gets exp(old m - new m).
    /// Returns 0 if every alpha is exactly 1, so that rescaling can be left out.
    /// A masked score counts as if absent, also when it is NaN; a lane whose scores are all -inf keeps m = -inf, l = 0.
    /// Other NaN and +inf make `l` NaN; `m` is never NaN.
    /// With `bq` = `FEW` what belongs to lanes from `lanes` on is of no meaning afterwards.
    softmax: fn(s: *mut f32 => Ptr, keys: i64 => I64, lanes: i64 => I64, bq: i64 => I64, mask: *const u64 => Ptr,
                m: *mut f32 => Ptr, l: *mut f32 => Ptr, alpha: *mut f32 => Ptr) -> i64 => I64;

    /// `acc[lane][dv] = acc[lane][dv] * alpha[lane] + sum_key v[key][dv] * p[key][lane]`; without the product
    /// if `alpha` is null. With `mask`, a masked key contributes nothing even where V is not finite.
    /// `v` holds addresses as `k` does; `half` is as for `qk`: the other `p` are not read. Asks for the rows `next`, unless
    /// that is null.
    pv: fn(p: *const f32 => Ptr, v: *const *const f32 => Ptr, keys: i64 => I64, dv: i64 => I64, lanes: i64 => I64,
           half: i64 => I64, bq: i64 => I64, mask: *const u64 => Ptr, alpha: *const f32 => Ptr, acc: *mut f32 => Ptr,
           next: *const Next => Ptr);

    /// Adds one null slot (V = 0) of logit `bias` to lane `lane`: only `m` and `l` move, and `acc` is rescaled.
    null_slot: fn(bias: f32 => F32, lane: i64 => I64, bq: i64 => I64, dv: i64 => I64, m: *mut f32 => Ptr,
                  l: *mut f32 => Ptr, acc: *mut f32 => Ptr);

    /// Starts a query tile: m = -inf, l = 0, acc = 0.
    start: fn(lanes: i64 => I64, bq: i64 => I64, dv: i64 => I64, m: *mut f32 => Ptr, l: *mut f32 => Ptr, acc: *mut f32 => Ptr);

    /// Writes `rows` output rows `acc / l` and, unless `lse` is null, `m + log l`. A row with l = 0 gets 0 and -inf.
    /// `index` and `lse_index` give row numbers, or are null; strides are in bytes.
    finish: fn(acc: *const f32 => Ptr, m: *const f32 => Ptr, l: *const f32 => Ptr, rows: i64 => I64, bq: i64 => I64,
               dv: i64 => I64, dst: *mut u8 => Ptr, dtype: i64 => I64, row_stride: i64 => I64, col_stride: i64 => I64,
               index: *const u32 => Ptr, lse: *mut f32 => Ptr, lse_stride: i64 => I64, lse_index: *const u32 => Ptr);

    /// Adds `keys` rows, `stride` elements apart, to `acc[d]`, each times its element of `weights` unless that is null.
    /// The sum of these rows is formed on its own, in order.
    pool_sum: fn(rows: *const f32 => Ptr, stride: i64 => I64, keys: i64 => I64, d: i64 => I64, weights: *const f32 => Ptr,
                 acc: *mut f32 => Ptr);

    /// Replaces each element of `acc[d]` by the largest of it and those of the rows; a NaN stays one.
    pool_max: fn(rows: *const f32 => Ptr, stride: i64 => I64, keys: i64 => I64, d: i64 => I64, acc: *mut f32 => Ptr);

    /// Notes the candidates of a chunk of scores `s[keys][bq]`, of which the first lane is `lane` of `kept`: of lane i
    /// those of the keys `numbers` that `mask` holds, or all if it is null. A NaN is no candidate.
    keep: fn(s: *const f32 => Ptr, keys: i64 => I64, lane: i64 => I64, lanes: i64 => I64, bq: i64 => I64,
             mask: *const u64 => Ptr, numbers: *const u32 => Ptr, kept: *mut Kept => Ptr);

    /// Takes the scores of a chunk, as for `keep`, into the values of the slots of their keys.
    reduce: fn(s: *const f32 => Ptr, keys: i64 => I64, lane: i64 => I64, lanes: i64 => I64, bq: i64 => I64,
               mask: *const u64 => Ptr, numbers: *const u32 => Ptr, grid: *mut Grid => Ptr);
}}

table! {
/// Integer helpers of compiled drivers: tile marks, bit rows and number theory. See [`crate::tiles`] for their meaning.
Support {
    /// Bytes of the memory of a [`TileMarks`] for `n_k` keys; at least 8-byte aligned.
    marks_bytes: fn(n_k: i64 => I64) -> i64 => I64;

    /// Makes empty marks for `n_k` keys in memory of `marks_bytes(n_k)` bytes, whatever that memory held.
    marks_init: fn(marks: *mut TileMarks => Ptr, n_k: i64 => I64);

    /// Forgets every mark; costs what was marked, not the number of tiles.
    marks_clear: fn(marks: *mut TileMarks => Ptr);

    /// Marks the tiles that keys `start .. end` touch, and among them as "must" those that lie wholly
    /// inside `must_start .. must_end`, or inside that and the "must" ranges just before it that it goes on from, without a gap.
    /// Ranges are clipped to `0 .. n_k`; the last tile ends at `n_k`.
    marks_mark: fn(marks: *mut TileMarks => Ptr, start: i64 => I64, end: i64 => I64, must_start: i64 => I64,
                   must_end: i64 => I64);

    /// As `marks_mark`, for the keys `k` of the ranges with `(k - phase) mod period < width` for some phase of
    /// `phase_lo ..= phase_hi` ("must": for every one of them). `period >= 1`.
    marks_comb: fn(marks: *mut TileMarks => Ptr, start: i64 => I64, end: i64 => I64, must_start: i64 => I64,
                   must_end: i64 => I64, period: i64 => I64, width: i64 => I64, phase_lo: i64 => I64,
                   phase_hi: i64 => I64);

    /// The first marked tile that is at least `from`, or -1.
    marks_next: fn(marks: *const TileMarks => Ptr, from: i64 => I64) -> i64 => I64;

    /// 1 if every key of marked tile `tile` takes part for every query, else 0.
    marks_is_must: fn(marks: *const TileMarks => Ptr, tile: i64 => I64) -> i64 => I64;

    /// Begins the windows of a query tile of `rows` queries, of `n_k` keys, up to tile `end`. `present` is null, or one
    /// word for each tile of keys, in which bit j says that key j is there; others are attended to by no query.
    window_begin: fn(window: *mut Window => Ptr, rows: i64 => I64, n_k: i64 => I64, end: i64 => I64,
                     present: *const u64 => Ptr);

    /// Begins a window of marked tiles from `from` up. Returns the tile to go on from, or -1 where no tile is marked
    /// and nothing gathered is left. Full tiles become chunks; rows of bits of the others are empty.
    window_next: fn(window: *mut Window => Ptr, marks: *const TileMarks => Ptr, from: i64 => I64) -> i64 => I64;

    /// Adds keys `start .. end`, as far as the window's partial tiles hold them, to the row of bits of lane `lane`.
    window_range: fn(window: *mut Window => Ptr, lane: i64 => I64, start: i64 => I64, end: i64 => I64);

    /// As `window_range`, for lanes `from .. to`.
    window_rows: fn(window: *mut Window => Ptr, from: i64 => I64, to: i64 => I64, start: i64 => I64, end: i64 => I64);

    /// As `window_range`, for those of the keys with `(k - phase) mod period < width`; `period >= 1`.
    window_comb: fn(window: *mut Window => Ptr, lane: i64 => I64, start: i64 => I64, end: i64 => I64,
                    period: i64 => I64, width: i64 => I64, phase: i64 => I64);

    /// Makes chunks of the window's partial tiles. Returns the number of chunks.
    window_chunks: fn(window: *mut Window => Ptr) -> i64 => I64;

    /// As `window_chunks`, where queries go one by one: each partial tile is one chunk, of all its useful keys.
    window_own: fn(window: *mut Window => Ptr) -> i64 => I64;

    /// Notes in `seen` each query that attends to a key of the window. Before `window_chunks`.
    window_seen: fn(window: *mut Window => Ptr);

    /// Bit j of the result says `start <= k0 + j < end`, j in `0 .. 64`.
    range_bits: fn(start: i64 => I64, end: i64 => I64, k0: i64 => I64) -> u64 => I64;

    /// Bit j of the result says `(k0 + j - phase) mod period < width`, j in `0 .. 64`; `mod` floors, `period >= 1`.
    comb_bits: fn(k0: i64 => I64, period: i64 => I64, width: i64 => I64, phase: i64 => I64) -> u64 => I64;

    /// Floor of the square root; -1 for negative numbers.
    isqrt: fn(x: i64 => I64) -> i64 => I64;

    /// Floor of the binary logarithm; -1 for numbers below 1.
    log2: fn(x: i64 => I64) -> i64 => I64;

    /// The largest `i` in `0 .. n` with `offsets[i] <= pos`, or -1: the document of position `pos`.
    /// `offsets` ascend; of equal ones (empty documents) the last counts.
    partition: fn(offsets: *const i64 => Ptr, n: i64 => I64, pos: i64 => I64) -> i64 => I64;
}}

table! {
/// Functions of one real for compiled score modifiers. See [`crate::math`] for accuracies.
Math {
    /// e to the power `x`.
    exp: fn(x: f32 => F32) -> f32 => F32;
    /// Natural logarithm.
    log: fn(x: f32 => F32) -> f32 => F32;
    /// Hyperbolic tangent.
    tanh: fn(x: f32 => F32) -> f32 => F32;
}}

table! {
/// What compiled score modifiers are made of: operations on *rows*, one element of 32 bits for each of some queries side by
/// side: singles, integers, or truth values of all ones or zeros. `to` may be an operand, and rows overlap no other way.
Rows {
    /// Every element becomes `x`.
    set_real: fn(to: *mut f32 => Ptr, x: f32 => F32, lanes: i64 => I64);
    /// Every element becomes `x`, which fits 32 bits.
    set_int: fn(to: *mut i32 => Ptr, x: i64 => I64, lanes: i64 => I64);
    /// `first`, `first + 1`, and so on.
    count: fn(to: *mut i32 => Ptr, first: i64 => I64, lanes: i64 => I64);
    /// `start` more than each number of a list.
    listed: fn(to: *mut i32 => Ptr, list: *const u32 => Ptr, start: i64 => I64, lanes: i64 => I64);
    /// `keys` rows one after the other, of `pitch` elements each, a multiple of [`FEW`]: those of each row are `start` more
    /// than its number of a list.
    repeated: fn(to: *mut i32 => Ptr, list: *const u32 => Ptr, start: i64 => I64, pitch: i64 => I64, keys: i64 => I64);
    /// The same elements.
    copy: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, lanes: i64 => I64);

    /// a + b
    add: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, b: *const f32 => Ptr, lanes: i64 => I64);
    /// a - b
    sub: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, b: *const f32 => Ptr, lanes: i64 => I64);
    /// a b
    mul: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, b: *const f32 => Ptr, lanes: i64 => I64);
    /// a / b
    div: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, b: *const f32 => Ptr, lanes: i64 => I64);
    /// The lesser; NaN if either is, and -0 before 0.
    min: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, b: *const f32 => Ptr, lanes: i64 => I64);
    /// The greater; NaN if either is, and 0 before -0.
    max: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, b: *const f32 => Ptr, lanes: i64 => I64);
    /// -a
    neg: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, lanes: i64 => I64);
    /// |a|
    abs: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, lanes: i64 => I64);
    /// Square root.
    sqrt: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, lanes: i64 => I64);
    /// e to the power a.
    exp: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, lanes: i64 => I64);
    /// Natural logarithm.
    log: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, lanes: i64 => I64);
    /// Hyperbolic tangent.
    tanh: fn(to: *mut f32 => Ptr, a: *const f32 => Ptr, lanes: i64 => I64);

    /// a + b, which wraps as all operations of integers here.
    add_int: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, b: *const i32 => Ptr, lanes: i64 => I64);
    /// a - b
    sub_int: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, b: *const i32 => Ptr, lanes: i64 => I64);
    /// a b
    mul_int: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, b: *const i32 => Ptr, lanes: i64 => I64);
    /// The lesser.
    min_int: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, b: *const i32 => Ptr, lanes: i64 => I64);
    /// The greater.
    max_int: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, b: *const i32 => Ptr, lanes: i64 => I64);
    /// -a
    neg_int: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, lanes: i64 => I64);
    /// |a|
    abs_int: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, lanes: i64 => I64);
    /// An integer as a single.
    to_real: fn(to: *mut f32 => Ptr, a: *const i32 => Ptr, lanes: i64 => I64);

    /// a < b
    less: fn(to: *mut i32 => Ptr, a: *const f32 => Ptr, b: *const f32 => Ptr, lanes: i64 => I64);
    /// a <= b
    at_most: fn(to: *mut i32 => Ptr, a: *const f32 => Ptr, b: *const f32 => Ptr, lanes: i64 => I64);
    /// a = b
    equal: fn(to: *mut i32 => Ptr, a: *const f32 => Ptr, b: *const f32 => Ptr, lanes: i64 => I64);
    /// a < b
    less_int: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, b: *const i32 => Ptr, lanes: i64 => I64);
    /// a <= b
    at_most_int: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, b: *const i32 => Ptr, lanes: i64 => I64);
    /// a = b
    equal_int: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, b: *const i32 => Ptr, lanes: i64 => I64);
    /// Both, bit by bit.
    and: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, b: *const i32 => Ptr, lanes: i64 => I64);
    /// Either, bit by bit.
    or: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, b: *const i32 => Ptr, lanes: i64 => I64);
    /// Not, bit by bit.
    not: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, lanes: i64 => I64);
    /// `a` where `which` is all ones, `b` where it is zero; of any type.
    select: fn(to: *mut i32 => Ptr, which: *const i32 => Ptr, a: *const i32 => Ptr, b: *const i32 => Ptr, lanes: i64 => I64);

    /// `extent` times `a`, and `b` clamped to `0 .. extent`; `extent >= 1`.
    within: fn(to: *mut i32 => Ptr, a: *const i32 => Ptr, b: *const i32 => Ptr, extent: i64 => I64, lanes: i64 => I64);
    /// The singles at `data + stride * i`, `stride` in bytes, for each `i` of `index` clamped to `0 .. extent`; `extent >= 1`.
    load: fn(to: *mut f32 => Ptr, data: *const u8 => Ptr, index: *const i32 => Ptr, extent: i64 => I64, stride: i64 => I64,
             lanes: i64 => I64);
    /// A row of `to`, every `pitch` elements, for each of `keys` keys at `start` more than its number: element
    /// `key`, clamped to `0 .. extent`, of the array of singles that `index` names for each lane as for `load`. What is
    /// read of it next is written to `next`, whose `elements` are [`BK`] addresses that may be written.
    load_keys: fn(to: *mut f32 => Ptr, pitch: i64 => I64, data: *const u8 => Ptr, index: *const i32 => Ptr, rows: i64 => I64,
                  stride: i64 => I64, lanes: i64 => I64, numbers: *const u32 => Ptr, keys: i64 => I64, start: i64 => I64,
                  extent: i64 => I64, next: *mut Next => Ptr);
    /// Fills `keys` rows of `to`, `pitch` elements apart, with an element of `from` each.
    set_columns: fn(to: *mut f32 => Ptr, pitch: i64 => I64, from: *const f32 => Ptr, lanes: i64 => I64, keys: i64 => I64);
}}

#[cfg(target_arch = "x86_64")]
pub use four::Math4;

#[cfg(target_arch = "x86_64")]
#[allow(improper_ctypes_definitions, reason = "a vector register is a machine type of the C ABI on x86-64")]
mod four {
    use super::{Arg, Sig};
    use core::arch::x86_64::__m128;

    table! {
    /// The functions of [`Math`](super::Math) on four reals at once; lane by lane the same results.
    Math4 {
        /// e to the power `x`.
        exp: fn(x: __m128 => F32X4) -> __m128 => F32X4;
        /// Natural logarithm.
        log: fn(x: __m128 => F32X4) -> __m128 => F32X4;
        /// Hyperbolic tangent.
        tanh: fn(x: __m128 => F32X4) -> __m128 => F32X4;
    }}
}
