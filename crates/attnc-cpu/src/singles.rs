//! Keys and values as singles, made once for all tasks that read them.
//!
//! The one idea: kernels read singles with unit inner stride, and a tile of keys of another type that many tiles of
//! queries read would be converted for each of them. The tasks of one head of K and V therefore share a *place* of the
//! workspace, in which whoever reads a tile of keys often enough leaves it converted for the others; nobody waits for
//! it, and who finds it unfinished converts for itself, so that results do not depend on it. There are a few places, and
//! the last task of a head hands its own on.
//!
//! Of most heads all tiles have a slot of their own, and what is there stays. Of longer ones only the first have, and the
//! others share a ring of slots, tile after tile: one that is read takes its slot from the tile that had it. What is read
//! along K, as by a window, is there while it is read; of what is read over and over from end to end that is kept which
//! has slots of its own.
//!
//! In a ring nobody writes rows that another reads, and nobody reads unfinished ones, because all of a slot is one atomic
//! word: its tile, how it stands with it, and how many readers it has. A reader adds itself and looks at what the word
//! was: only if its tile was there may it read, until it takes itself away. A writer changes tile and state only by
//! exchanging a word that has no readers: whoever adds itself before makes the exchange fail, whoever adds itself after
//! sees that the tile is not there. One who is about to find that out is a reader too, which at worst makes somebody else
//! convert for itself.
//! Nothing here knows of patterns, or of what is computed.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use attnc_kernels::abi::{BK, CACHE_LINE, DType, KvView, Table};

/// Most bytes of all places together.
pub(crate) const MOST_BYTES: usize = 32 << 20;
/// Bytes of the ring of a place: what a window of some thousand keys reads.
const RING_BYTES: usize = 4 << 20;
/// Most bytes of a place that stays in a second-level cache: its tiles are kept when they are first read.
const NEAR_BYTES: usize = 512 << 10;
/// Tasks of a head with which it gets a place that is larger: fewer seldom read a tile of keys often.
const LEAST_TASKS: usize = 8;
/// Keys that are counted as one.
const UNIT: i64 = 16;
/// How many units of a tile are read before it is kept: all of it four times. What few read is not worth memory that no
/// cache holds.
const READ_BEFORE: u64 = 4 * (BK as i64 / UNIT) as u64;
/// As [`READ_BEFORE`], in a ring, and no other tile of its slot between: all of it twice.
const READ_BEFORE_IN_RING: u64 = 2 * (BK as i64 / UNIT) as u64;

/// How it stands with a slot, on a line of its own: the numbers of the tile, of its readers and of its state. Readers are
/// counted in rings alone.
#[derive(Debug)]
#[repr(C, align(64))]
struct Slot(AtomicU64);

const _: () = assert!(size_of::<Slot>() == CACHE_LINE);

/// A tile that somebody is converting. Smaller states say how many units of it were read.
const BUSY: u64 = THERE - 1;
/// A tile that is there.
const THERE: u64 = 0xff;
/// One reader.
const READER: u64 = 0x100;
/// Bits of the tile.
const TILE: u32 = u32::BITS;

/// The word of a tile that nobody reads.
fn word(tile: u64, state: u64) -> u64 {
    tile << TILE | state
}

/// Whether the word says that a tile is there, whoever reads it.
fn holds(found: u64, tile: u64) -> bool {
    (found >> TILE, found % READER) == (tile, THERE)
}

/// Rows of K or V of a head in a place.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Singles {
    /// The rows of the slots as singles.
    view: KvView,
    /// How it stands with each slot; null if the head has no place.
    slots: *const Slot,
    /// How many tiles have one of their own.
    own: u64,
    /// How many the others take from one another.
    ring: u64,
    /// Units of a tile that are read before it is kept.
    before: u64,
}

/// How rows are read; while it lives, nobody else writes them.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    view: KvView,
    /// The slot in which this is a reader.
    slot: Option<&'a Slot>,
}

impl Deref for Reading<'_> {
    type Target = KvView;

    fn deref(&self) -> &KvView {
        &self.view
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(Slot(slot)) = self.slot {
            // Who writes next does so after what was read.
            slot.fetch_sub(READER, Ordering::Release);
        }
    }
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
        slots: std::ptr::null(),
        own: 0,
        ring: 0,
        before: 0,
    };

    /// The tile of the first of `count` keys from `first` on, and whether it is that of the last: gathered keys may follow
    /// one another across the end of a tile. `None` if there is no place for them, or if they are apart, `first` being
    /// negative.
    fn tile_of(&self, (first, count): (i64, i64)) -> Option<(u64, bool)> {
        if self.slots.is_null() || first < 0 {
            return None;
        }
        let [tile, last] = [first, first + count - 1].map(|key| key as u64 / BK as u64);
        (self.ring > 0 || last < self.own).then_some((tile, tile == last))
    }

    /// The slot of a tile.
    ///
    /// # Safety
    /// The head has a place for the tile, and the place is still its own.
    unsafe fn slot(&self, tile: u64) -> &Slot {
        // SAFETY: there are `own + ring` slots.
        unsafe { &*self.slots.add(self.number(tile) as usize) }
    }

    fn number(&self, tile: u64) -> u64 {
        if self.takes(tile) { self.own + (tile - self.own) % self.ring } else { tile }
    }

    /// Whether a tile takes its slot from others.
    fn takes(&self, tile: u64) -> bool {
        tile >= self.own
    }

    /// The view by which keys of a tile are read in its slot.
    fn view_of(&self, tile: u64) -> KvView {
        let ahead = self.number(tile) as i64 - tile as i64;
        let bytes = ahead * BK as i64 * self.view.row_stride;
        KvView { base: self.view.base.wrapping_offset(bytes as isize), ..self.view }
    }

    /// The view by which `count` keys from `first` on would be read now, `first` being negative where they are apart: of
    /// singles, if all of these are there, or `given`. Of a ring no more than that, as tiles come and go.
    ///
    /// # Safety
    /// The place is that of the head, and the keys are some of its own, at least one.
    pub(crate) unsafe fn or(&self, given: &KvView, keys: (i64, i64)) -> KvView {
        // Whoever stored the word had written the rows.
        // SAFETY: promised by the caller.
        let there = |tile: u64| holds(unsafe { self.slot(tile) }.0.load(Ordering::Acquire), tile);
        match self.tile_of(keys) {
            Some((tile, true)) if there(tile) => self.view_of(tile),
            Some((tile, false)) if !self.takes(tile + 1) && there(tile) && there(tile + 1) => self.view,
            _ => *given,
        }
    }

    /// How keys are read, as [`Self::or`]; and notes that they are, and keeps their tile if that has been often enough.
    /// `n_k` is the number of keys of the head.
    ///
    /// # Safety
    /// As there; `given` is the head's.
    pub(crate) unsafe fn make(&self, kernels: &Table, given: &KvView, keys: (i64, i64), n_k: i64) -> Reading<'_> {
        let as_given = Reading { view: *given, slot: None };
        // SAFETY: promised by the caller; a tile is written by the one who makes it busy, and read once it is there.
        unsafe {
            let tile = match self.tile_of(keys) {
                Some((tile, true)) => tile,
                Some((tile, false)) if !self.takes(tile + 1) => {
                    return Reading { view: self.or(given, keys), slot: None };
                }
                _ => return as_given,
            };
            let slot = self.slot(tile);
            let found = slot.0.load(Ordering::Acquire);
            if holds(found, tile) {
                return self.join(slot, tile).unwrap_or(as_given);
            }
            let (of, state) = (found >> TILE, found % READER);
            let read = if of == tile { state } else { 0 };
            let units = ((keys.1 + UNIT - 1) / UNIT) as u64;
            let before = if self.takes(tile) { READ_BEFORE_IN_RING } else { self.before };
            let next = if read >= before { BUSY } else { read + units };
            // Readers have left before rows are written.
            let ours = state != BUSY
                && found == word(of, state)
                && slot.0.compare_exchange(found, word(tile, next), Ordering::Acquire, Ordering::Relaxed).is_ok()
                && next == BUSY;
            if !ours {
                return as_given;
            }
            let view = self.view_of(tile);
            let first = tile as i64 * BK as i64;
            let to = view.base.wrapping_offset((first * view.row_stride) as isize);
            (kernels.kv_tile)(given, first, (n_k - first).min(BK as i64), to.cast_mut().cast());
            let reader = if self.takes(tile) { READER } else { 0 };
            slot.0.fetch_add(THERE - BUSY + reader, Ordering::Release);
            Reading { view, slot: self.takes(tile).then_some(slot) }
        }
    }

    /// Becomes a reader of a tile that was in its slot; `None` if it is no longer.
    fn join<'a>(&'a self, slot: &'a Slot, tile: u64) -> Option<Reading<'a>> {
        if !self.takes(tile) {
            return Some(Reading { view: self.view, slot: None });
        }
        let found = slot.0.fetch_add(READER, Ordering::Acquire);
        let reading = Reading { view: self.view_of(tile), slot: Some(slot) };
        holds(found, tile).then_some(reading)
    }
}

/// Bytes of a place of so many slots for rows of K and V of `dims` elements, a multiple of [`ALIGN`]; 0 if none of them
/// needs a place.
fn bytes_of(slots: usize, dims: [usize; 2]) -> Option<usize> {
    match dims[0].checked_add(dims[1])?.checked_mul(BK * DType::F32.size())? {
        0 => Some(0),
        rows => rows.checked_add(2 * size_of::<Slot>())?.checked_mul(slots),
    }
}

/// Places that heads take and hand on.
#[derive(Debug)]
pub(crate) struct Places {
    base: AtomicPtr<u8>,
    /// Bits of those that nobody has.
    free: AtomicU64,
    /// Slots for tiles of keys, each for one tile.
    own: usize,
    /// Slots for the tiles after these.
    ring: usize,
    /// Elements of a row of K and of V, 0 if that needs no place.
    dims: [usize; 2],
}

impl Places {
    /// For heads of at most `keys` keys; `dims` are elements of a row of K and of V, 0 if that needs no place.
    pub(crate) fn new(keys: usize, dims: [usize; 2]) -> Arc<Places> {
        let tiles = keys.div_ceil(BK);
        match bytes_of(tiles, dims) {
            Some(bytes) if bytes <= MOST_BYTES => Places::of((tiles, 0), dims),
            _ => {
                let [all, ring] = [MOST_BYTES, RING_BYTES].map(|most| bytes_of(1, dims).map_or(0, |one| most / one));
                Places::of((all - ring, ring), dims)
            }
        }
    }

    /// With so many slots for one tile each, and for the others.
    pub(crate) fn of((own, ring): (usize, usize), dims: [usize; 2]) -> Arc<Places> {
        Arc::new(Places { base: AtomicPtr::new(std::ptr::null_mut()), free: AtomicU64::new(0), own, ring, dims })
    }

    fn slots(&self) -> usize {
        self.own + self.ring
    }

    /// Bytes of a place, a multiple of [`ALIGN`].
    fn bytes(&self) -> Option<usize> {
        bytes_of(self.slots(), self.dims)
    }

    /// Whether a place stays in a second-level cache.
    fn near(&self) -> bool {
        self.ring == 0 && self.bytes().is_some_and(|bytes| bytes <= NEAR_BYTES)
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

    /// Where a place begins, and where its slots of K and then of V do.
    fn at(&self, place: usize) -> (*mut u8, *mut Slot) {
        let base = self.base.load(Ordering::Relaxed).wrapping_add(place * self.bytes().unwrap_or(0));
        (base, base.wrapping_add((self.dims[0] + self.dims[1]) * self.column()).cast())
    }

    /// Bytes of one element of all rows of a place.
    fn column(&self) -> usize {
        self.slots() * BK * DType::F32.size()
    }

    /// No tile of a place is there.
    ///
    /// # Safety
    /// Nobody uses the place.
    unsafe fn forget(&self, place: usize) {
        // SAFETY: the slots belong to the place; all bits of an integer may be 0.
        unsafe { self.at(place).1.write_bytes(0, 2 * self.slots()) };
    }

    /// K and V of the head that has the place.
    fn singles(&self, place: usize) -> [Singles; 2] {
        let (base, slots) = self.at(place);
        let &Places { own, ring, dims: [k, v], .. } = self;
        let before = if self.near() { 0 } else { READ_BEFORE };
        let of = |base: *mut u8, dim: usize, slots: *const Slot| {
            if dim == 0 {
                return Singles::NONE;
            }
            let (element, dtype) = (DType::F32.size() as i64, DType::F32 as u32);
            let (row_stride, dim) = (dim as i64 * element, dim as u64);
            let view = KvView { base, row_stride, col_stride: element, dtype, dim, ..Singles::NONE.view };
            Singles { view, slots, own: own as u64, ring: ring as u64, before }
        };
        [of(base, k, slots), of(base.wrapping_add(k * self.column()), v, slots.wrapping_add(self.slots()))]
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
        self.places.singles(place - 1)
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
