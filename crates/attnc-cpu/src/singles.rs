//! Keys and values as singles, made once for all tasks that read them.
//!
//! The one idea: kernels read singles with unit inner stride, and a tile of keys of another type that many tiles of
//! queries read would be converted for each of them. The tasks of one head of K and V therefore share a *place* of the
//! workspace, in which whoever reads a tile of keys often enough leaves it converted for the others; nobody waits for
//! it, and who finds it unfinished converts for itself, so that results do not depend on it. There are a few places, and
//! the last task of a head hands its own on.
//! Nothing here knows of patterns, or of what is computed.

use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use attnc_kernels::abi::{BK, DType, KvView, Table};

use crate::layout::ALIGN;

/// Most bytes of all places together.
pub(crate) const MOST_BYTES: usize = 32 << 20;
/// Most bytes of a place that stays in a second-level cache: its tiles are kept when they are first read.
const NEAR_BYTES: usize = 512 << 10;
/// Tasks of a head with which it gets a place that is larger: fewer seldom read a tile of keys often.
const LEAST_TASKS: usize = 8;
/// Keys that are counted as one.
const UNIT: i64 = 16;
/// How many units of a tile are read before it is kept: all of it four times. What few read is not worth memory that no
/// cache holds.
const READ_BEFORE: u8 = 4 * (BK as i64 / UNIT) as u8;
/// A tile that somebody is converting. Smaller numbers say how much of it was read.
const BUSY: u8 = u8::MAX - 1;
/// A tile that is there.
const THERE: u8 = u8::MAX;

/// Rows of K or V of a head in a place.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Singles {
    /// The rows as singles, those of tiles that are there.
    view: KvView,
    /// How it stands with each tile; null if the head has no place.
    tiles: *const AtomicU8,
    /// Units of a tile that are read before it is kept.
    before: u8,
}

impl Singles {
    /// Of a head without a place.
    pub(crate) const NONE: Singles = Singles {
        view: KvView {
            base: std::ptr::null(),
            row_stride: 0,
            col_stride: 0,
            dtype: 0,
            page_rows: 0,
            table: std::ptr::null(),
            page_stride: 0,
            rows: std::ptr::null(),
            dim: 0,
        },
        tiles: std::ptr::null(),
        before: 0,
    };

    fn of(base: *mut u8, dim: usize, tiles: *const AtomicU8, before: u8) -> Singles {
        let element = DType::F32.size();
        let Singles { view, .. } = Singles::NONE;
        let (row_stride, col_stride) = ((dim * element) as i64, element as i64);
        Singles {
            view: KvView { base, row_stride, col_stride, dtype: DType::F32 as u32, dim: dim as u64, ..view },
            tiles,
            before,
        }
    }

    /// How it stands with the tile of key `first`, and with that of the last of `count` keys: gathered keys may follow one
    /// another across the end of a tile. `None` if the head has no place, or if the keys are apart, `first` being negative.
    ///
    /// # Safety
    /// The place is that of the head, and the keys are some of its own, at least one.
    unsafe fn tiles_of(&self, (first, count): (i64, i64)) -> Option<[&AtomicU8; 2]> {
        if self.tiles.is_null() || first < 0 {
            return None;
        }
        // SAFETY: promised by the caller: there is a number for each tile of its keys.
        Some([first, first + count - 1].map(|key| unsafe { &*self.tiles.add(key as usize / BK) }))
    }

    /// The view by which `count` keys from `first` on are read, `first` being negative where they are apart: of singles, if
    /// all of these are there, or `given`.
    ///
    /// # Safety
    /// As for [`Self::tiles_of`].
    pub(crate) unsafe fn or<'a>(&'a self, given: &'a KvView, keys: (i64, i64)) -> &'a KvView {
        // Whoever stored the number had written the rows.
        let there = |tile: &AtomicU8| tile.load(Ordering::Acquire) == THERE;
        // SAFETY: promised by the caller.
        let tiles = unsafe { self.tiles_of(keys) };
        if tiles.is_some_and(|[a, b]| there(a) && there(b)) { &self.view } else { given }
    }

    /// As [`Self::or`]; and notes that the keys are read, and keeps their tile if that has been often enough. `n_k` is the
    /// number of keys of the head.
    ///
    /// # Safety
    /// As there; `given` is the head's.
    pub(crate) unsafe fn make<'a>(
        &'a self,
        kernels: &Table,
        given: &'a KvView,
        keys: (i64, i64),
        n_k: i64,
    ) -> &'a KvView {
        let (first, count) = keys;
        // SAFETY: promised by the caller; a tile is written by the one who makes it busy, and read once it is there.
        unsafe {
            let Some([state, last]) = self.tiles_of(keys) else { return given };
            if !std::ptr::eq(state, last) {
                return self.or(given, keys);
            }
            let read = state.load(Ordering::Acquire);
            if read == THERE {
                return &self.view;
            }
            let units = ((count + UNIT - 1) / UNIT) as u8;
            let next = if read >= self.before { BUSY } else { read + units };
            let ours = read != BUSY
                && state.compare_exchange(read, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
                && next == BUSY;
            if !ours {
                return given;
            }
            let from = first / BK as i64 * BK as i64;
            let to = self.view.base.wrapping_offset((from * self.view.row_stride) as isize);
            (kernels.kv_tile)(given, from, (n_k - from).min(BK as i64), to.cast_mut().cast());
            state.store(THERE, Ordering::Release);
            &self.view
        }
    }
}

/// Places that heads take and hand on.
#[derive(Debug)]
pub(crate) struct Places {
    base: AtomicPtr<u8>,
    /// Bits of those that nobody has.
    free: AtomicU64,
    /// Most keys of a head, filled up to whole tiles.
    keys: usize,
    /// Elements of a row of K and of V, 0 if that needs no place.
    dims: [usize; 2],
}

impl Places {
    /// For heads of at most `keys` keys; `dims` are elements of a row of K and of V, 0 if that needs no place.
    pub(crate) fn new(keys: usize, dims: [usize; 2]) -> Arc<Places> {
        let keys = keys.next_multiple_of(BK);
        Arc::new(Places { base: AtomicPtr::new(std::ptr::null_mut()), free: AtomicU64::new(0), keys, dims })
    }

    /// Bytes of a place, a multiple of [`ALIGN`].
    fn bytes(&self) -> Option<usize> {
        let [k, v] = self.dims;
        let rows = k.checked_add(v)?.checked_mul(self.keys)?.checked_mul(DType::F32.size())?;
        rows.checked_add(2 * self.tiles())?.checked_next_multiple_of(ALIGN)
    }

    fn tiles(&self) -> usize {
        self.keys / BK
    }

    /// Whether a place stays in a second-level cache.
    fn near(&self) -> bool {
        self.bytes().is_some_and(|bytes| bytes <= NEAR_BYTES)
    }

    /// Tasks of a head with which it gets a place.
    pub(crate) fn least_tasks(&self) -> usize {
        if self.near() { 2 } else { LEAST_TASKS }
    }

    /// How many places are of use to `heads` heads on so many threads, in at most `room` bytes.
    fn count(&self, heads: usize, threads: usize, room: usize) -> usize {
        let most = self.bytes().map_or(0, |bytes| room.min(MOST_BYTES) / bytes.max(1));
        // Threads work on the tasks of one head after another's; those of some heads are about to end.
        most.min(heads).min(threads.saturating_add(1)).min(u64::BITS as usize)
    }

    /// Bytes of as many places as [`Self::give`] asks for.
    pub(crate) fn wanted(&self, heads: usize, threads: usize, room: usize) -> usize {
        self.bytes().map_or(0, |bytes| bytes * self.count(heads, threads, room))
    }

    /// Makes places of memory of [`Self::wanted`] bytes at a multiple of [`ALIGN`].
    ///
    /// # Safety
    /// Nobody else uses the memory while tasks run, and no task runs now.
    pub(crate) unsafe fn give(&self, base: *mut u8, wanted: usize) {
        let count = self.bytes().map_or(0, |bytes| wanted / bytes.max(1));
        self.base.store(base, Ordering::Relaxed);
        for place in 0..count {
            // SAFETY: promised by the caller.
            unsafe { self.forget(place) };
        }
        let free = if count == 0 { 0 } else { u64::MAX >> (u64::BITS as usize - count) };
        self.free.store(free, Ordering::Release);
    }

    /// Where a place begins, and where the numbers of its tiles do.
    fn at(&self, place: usize) -> (*mut u8, *mut AtomicU8) {
        let base = self.base.load(Ordering::Relaxed).wrapping_add(place * self.bytes().unwrap_or(0));
        let rows = (self.dims[0] + self.dims[1]) * self.keys * DType::F32.size();
        (base, base.wrapping_add(rows).cast())
    }

    /// No tile of a place is there.
    ///
    /// # Safety
    /// Nobody uses the place.
    unsafe fn forget(&self, place: usize) {
        // SAFETY: two bytes for each tile belong to the place.
        unsafe { self.at(place).1.cast::<u8>().write_bytes(0, 2 * self.tiles()) };
    }

    /// Takes a free place.
    fn take(&self) -> Option<usize> {
        let mut free = self.free.load(Ordering::Relaxed);
        while free != 0 {
            let rest = free & (free - 1);
            match self.free.compare_exchange_weak(free, rest, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(free.trailing_zeros() as usize),
                Err(now) => free = now,
            }
        }
        None
    }

    fn put_back(&self, place: usize) {
        self.free.fetch_or(1 << place, Ordering::Release);
    }
}

/// One head of K and V, and the tasks that read it.
#[derive(Debug)]
pub(crate) struct Head {
    places: Arc<Places>,
    /// One more than the number of its place, 0 while it has none.
    place: AtomicUsize,
    /// Tasks that have not ended.
    left: AtomicUsize,
}

impl Head {
    pub(crate) fn new(places: &Arc<Places>) -> Arc<Head> {
        Arc::new(Head { places: places.clone(), place: AtomicUsize::new(0), left: AtomicUsize::new(0) })
    }

    /// The places that it has one of.
    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// Before tasks run: it has no place, and no tasks.
    pub(crate) fn renew(&self) {
        self.place.store(0, Ordering::Relaxed);
        self.left.store(0, Ordering::Relaxed);
    }

    /// Before tasks run: that many more will.
    pub(crate) fn expect(&self, tasks: usize) {
        self.left.fetch_add(tasks, Ordering::Relaxed);
    }

    /// A task begins: K and V of the head.
    pub(crate) fn begin(&self) -> [Singles; 2] {
        let mut place = self.place.load(Ordering::Acquire);
        if place == 0
            && let Some(free) = self.places.take()
        {
            match self.place.compare_exchange(0, free + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => place = free + 1,
                Err(other) => {
                    self.places.put_back(free);
                    place = other;
                }
            }
        }
        if place == 0 {
            return [Singles::NONE; 2];
        }
        let Places { keys, dims: [k, v], .. } = *self.places;
        let (base, tiles) = self.places.at(place - 1);
        let before = if self.places.near() { 0 } else { READ_BEFORE };
        let of = |at: *mut u8, dim: usize, skip: usize| match dim {
            0 => Singles::NONE,
            _ => Singles::of(at, dim, tiles.wrapping_add(skip), before),
        };
        [of(base, k, 0), of(base.wrapping_add(k * keys * DType::F32.size()), v, self.places.tiles())]
    }

    /// A task has ended; the last one's place is handed on.
    pub(crate) fn end(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let place = self.place.swap(0, Ordering::Relaxed);
            if place > 0 {
                // SAFETY: of this head no task runs any more.
                unsafe { self.places.forget(place - 1) };
                self.places.put_back(place - 1);
            }
        }
    }
}
