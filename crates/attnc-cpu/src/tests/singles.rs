//! Keys and values that are converted once: bit for bit what singles give.

use attnc_kernels::abi::{BK, KvView, Table};

use super::*;
use crate::conversion_bytes;
use crate::layout::ALIGN;
use crate::run::kv_view;
use crate::singles::{Head, Places, Singles};

/// What a launch is of.
struct Shape {
    heads: usize,
    kv_heads: usize,
    /// Queries and keys of each batch item, the queries being the last positions.
    lengths: &'static [[usize; 2]],
    dims: [usize; 2],
}

impl Shape {
    /// Most queries and most keys.
    fn rows(&self) -> [usize; 2] {
        [0, 1].map(|i| self.lengths.iter().map(|n| n[i]).max().expect("some"))
    }

    /// Q, K and V as stored, and what they hold.
    fn tensors(&self, dtype: DType) -> [(Vec<u8>, Vec<f32>); 3] {
        let ([n_q, n_k], [d, dv], batch) = (self.rows(), self.dims, self.lengths.len());
        let of = |seed, n| stored(dtype, &noise(seed, n));
        let kv = batch * self.kv_heads * n_k;
        [of(1, batch * self.heads * n_q * d), of(2, kv * d), of(3, kv * dv)]
    }

    /// Output and log-sum-exp as bits, and whether memory beyond that of scratches was written.
    fn bits(
        &self,
        kernel: &CpuKernel,
        dtype: DType,
        [q, k, v]: [&[u8]; 3],
        threads: usize,
        places: bool,
    ) -> (Vec<u32>, bool) {
        let (batch, [n_q, n_k], [d, dv]) = (self.lengths.len(), self.rows(), self.dims);
        let heads: Vec<usize> = (0..self.heads).collect();
        let kv_heads: Vec<usize> = (0..self.heads).map(|h| h * self.kv_heads / self.heads).collect();
        let envs: Vec<Env<'_>> = self
            .lengths
            .iter()
            .flat_map(|lengths| heads.iter().map(move |&h| (lengths.map(|n| n as i64), h)))
            .map(|([n_q, n_k], h)| Env {
                n_q,
                n_k,
                q_start: n_k - n_q,
                head: h as i64,
                heads: self.heads as i64,
                dim: d as i64,
                ..Env::default()
            })
            .collect();
        let parts = [Part { kernel, heads: &heads, envs: &envs, forward: false }];
        let scratches = workspace_bytes(&parts, n_k, d, dv, threads);
        let more = if places { conversion_bytes(n_q, batch * self.kv_heads, n_k, self.dims, threads) } else { 0 };
        let mut workspace = vec![0xa5; scratches + more];
        let rows = batch * self.heads * n_q;
        let (mut out, mut lse) = (vec![f32::NAN; rows * dv], vec![f32::NAN; rows]);
        let pool = pool(threads);
        let tensor = |bytes, heads, n, dim| Tensor::contiguous(bytes, dtype, [batch, heads, n, dim]).expect("fits");
        let mut launch = Launch {
            q: tensor(q, self.heads, n_q, d),
            k: tensor(k, self.kv_heads, n_k, d),
            v: tensor(v, self.kv_heads, n_k, dv),
            out: TensorMut::of_f32(&mut out, [batch, self.heads, n_q, dv]).expect("fits"),
            lse: Some(TensorMut::of_f32(&mut lse, [batch, self.heads, n_q, 1]).expect("fits")),
            q_heads: &heads,
            kv_heads: &kv_heads,
            workspace: &mut workspace,
            pool: Some(&pool),
            apart: false,
        };
        run(&parts, &mut launch).expect("runs");
        // Places come before scratches; rows of K are the first.
        let used = workspace[64..64 + d * size_of::<f32>()].iter().any(|&b| b != 0xa5);
        (out.iter().chain(&lse).map(|x| x.to_bits()).collect(), used)
    }
}

/// With every instruction set and each 16-bit type the bits that singles give.
fn check(shape: &Shape, plans: &[Plan]) {
    for dtype in [DType::F16, DType::Bf16] {
        let tensors = shape.tensors(dtype);
        let words = tensors.each_ref().map(|(bytes, _)| aligned(bytes));
        let given: [&[u8]; 3] = std::array::from_fn(|i| bytes_of(&words[i], tensors[i].0.len()));
        let singles = tensors.each_ref().map(|(_, values)| stored(DType::F32, values).0);
        let words = singles.each_ref().map(|bytes| aligned(bytes));
        let singles: [&[u8]; 3] = std::array::from_fn(|i| bytes_of(&words[i], singles[i].len()));
        let available = Isa::available().into_iter().filter(|(_, available)| available.is_ok());
        for (isa, plan) in available.flat_map(|(isa, _)| plans.iter().map(move |plan| (isa, plan))) {
            let kernel = kernel(plan, isa);
            let (want, _) = shape.bits(&kernel, DType::F32, singles, 1, false);
            for threads in [1, 2, 5] {
                let (got, used) = shape.bits(&kernel, dtype, given, threads, true);
                assert!(used, "{isa:?} {dtype:?} {threads}: nothing is kept");
                assert!(got == want, "{isa:?} {dtype:?} {threads}: other bits with places");
                let (got, _) = shape.bits(&kernel, dtype, given, threads, false);
                assert!(got == want, "{isa:?} {dtype:?} {threads}: other bits without");
            }
        }
    }
}

#[test]
fn converted_once_or_each_time_is_the_same() {
    let mut pen = Pen::new();
    let (all, window) = (pen.causal(), pen.window(200));
    let plans = [one(&mut pen, vec![all], None), one(&mut pen, vec![window], None)];
    check(&Shape { heads: 6, kv_heads: 3, lengths: &[[700, 700], [650, 650]], dims: [24, 40] }, &plans);
}

/// All keys of a head would take more than all places may.
#[test]
fn so_it_is_in_a_ring() {
    let mut pen = Pen::new();
    let (all, sinks) = (pen.everything(), pen.range(|p, _| p.int(0), |p, _| p.int(70)));
    let window = pen.window(400);
    let plans = [one(&mut pen, vec![all], None), one(&mut pen, vec![sinks, window], None)];
    check(&Shape { heads: 1, kv_heads: 1, lengths: &[[520, 4400]], dims: [1000, 1000] }, &plans);
}

/// A head whose rows hold their own numbers, with slots for three tiles and a ring of a few slots for the others.
struct Ring {
    head: Arc<Head>,
    /// The ring.
    _memory: Vec<u64>,
    keys: Vec<u64>,
}

impl Ring {
    const OWN: usize = 3;
    const SLOTS: usize = 3;
    const DIM: usize = 8;
    /// The last tile is not whole.
    const KEYS: usize = 20 * BK + 10;

    fn new() -> Ring {
        let places = Places::of((Self::OWN, Self::SLOTS), [Self::DIM; 2]);
        let wanted = places.wanted(1, 1, usize::MAX);
        let mut memory = vec![0_u64; (wanted + ALIGN) / size_of::<u64>()];
        let base = memory.as_mut_ptr().cast::<u8>();
        let base = base.wrapping_add(base.align_offset(ALIGN));
        // SAFETY: the memory is the ring's, as long as the head is.
        unsafe { places.give(base, wanted) };
        let rows: Vec<f32> = (0..Self::KEYS * Self::DIM).map(|i| (i / Self::DIM) as f32).collect();
        Ring { head: Head::new(&places), _memory: memory, keys: aligned(&stored(DType::F16, &rows).0) }
    }

    fn view(&self) -> KvView {
        let bytes = bytes_of(&self.keys, Self::KEYS * Self::DIM * DType::F16.size());
        kv_view(&Tensor::contiguous(bytes, DType::F16, [1, 1, Self::KEYS, Self::DIM]).expect("fits"), 0, 0)
    }

    fn keys(tile: usize) -> (i64, i64) {
        let first = tile * BK;
        (first as i64, (Self::KEYS - first).min(BK) as i64)
    }

    /// Reads a tile; whether it was there. What is read is the tile, also after `meanwhile`.
    fn read(&self, singles: &Singles, tile: usize, meanwhile: impl FnOnce()) -> bool {
        let (view, keys) = (self.view(), Self::keys(tile));
        let table = Table::scalar();
        // SAFETY: keys of the head, whose place the singles are of.
        let reading = unsafe { singles.make(&table, &view, keys, Self::KEYS as i64) };
        if *reading == view {
            return false;
        }
        let right = || {
            let mut rows = [std::ptr::null(); BK];
            let (first, count) = (keys.0 as usize, keys.1 as usize);
            // SAFETY: rows of the ring, which are not written while they are read.
            unsafe {
                reading.addresses(first, count, rows.as_mut_ptr());
                let row = |i: usize| std::slice::from_raw_parts(rows[i].cast::<f32>(), Self::DIM);
                (0..count).all(|i| row(i).iter().all(|&x| x == (first + i) as f32))
            }
        };
        assert!(right(), "tile {tile}");
        meanwhile();
        assert!(right(), "tile {tile}, later");
        true
    }
}

#[test]
fn a_ring_keeps_what_is_read_on_and_on() {
    let ring = Ring::new();
    ring.head.expect(1);
    let [k, _] = ring.head.begin();
    let read = |tile| ring.read(&k, tile, || {});
    // Of tiles with slots of their own what is there stays.
    assert_eq!([1, 1, 1, 1, 1, 1].map(read), [false, false, false, false, true, true]);
    // The other tiles from here on: 0, 3 and 6 share a slot.
    let read = |tile| ring.read(&k, Ring::OWN + tile, || {});
    assert_eq!([0, 0, 0, 0].map(read), [false, false, true, true]);
    // Another tile of the slot makes both begin anew.
    assert_eq!([3, 0, 3, 0, 3, 0].map(read), [false; 6]);
    assert_eq!([0, 0, 1, 1, 1, 17, 17, 17].map(read), [false, true, false, false, true, false, false, false]);
    // Nobody takes the slot of a tile that is read.
    assert!(ring.read(&k, Ring::OWN, || assert_eq!([3, 6, 3, 3, 3, 3].map(read), [false; 6])));
    assert_eq!([3, 3, 3].map(read), [false, false, true]);
    assert!(ring.read(&k, 1, || {}));
    ring.head.end();
}

#[test]
fn threads_read_the_tile_that_they_ask_for() {
    let ring = Ring::new();
    ring.head.expect(8);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let ring = &ring;
            scope.spawn(move || {
                let singles = ring.head.begin();
                // All go along the keys, not quite together.
                let mut some = thread as u32;
                for step in 0..40_000 {
                    some = some.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let tile = (step / 16 + (some >> 30) as usize) % Ring::KEYS.div_ceil(BK);
                    ring.read(&singles[step % 2], tile, || {});
                }
                ring.head.end();
            });
        }
    });
}
