//! A launch like the one before allocates nothing. A process of its own, so that nobody else's allocations are counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use attnc::{
    Compiler, DType, Inputs, Kernel, Memory, Problem, Ready, Resources, Select, Tensor, TensorData, TensorMut, Threads,
};

/// Allocations of all threads.
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: the system's allocator does everything.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const DIM: usize = 32;

/// Q, K and V of heads and KV heads, queries and keys; K and V are of the given type.
struct Data {
    q: Vec<f32>,
    k: Vec<u8>,
    v: Vec<u8>,
    dtype: DType,
    heads: [usize; 2],
    lengths: [usize; 2],
}

impl Data {
    fn new(seed: u64, dtype: DType, heads: [usize; 2], lengths: [usize; 2]) -> Data {
        let of = |seed: u64, heads: usize, rows: usize| {
            let mut values = vec![0.0; heads * rows * DIM];
            attnc::random::fill_normal(seed, &mut values);
            values
        };
        let stored = |values: Vec<f32>| -> Vec<u8> {
            match dtype {
                DType::F32 => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
                DType::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_ne_bytes()).collect(),
                DType::Bf16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_ne_bytes()).collect(),
            }
        };
        let ([h, kv], [n_q, n_k]) = (heads, lengths);
        let (k, v) = (stored(of(seed + 1, kv, n_k)), stored(of(seed + 2, kv, n_k)));
        Data { q: of(seed, h, n_q), k, v, dtype, heads, lengths }
    }

    fn run(
        &self,
        kernel: &Kernel,
        inputs: &Inputs<'_>,
        (out, lse): (&mut [f32], &mut [f32]),
        resources: Resources<'_>,
    ) -> usize {
        let ([heads, kv], [n_q, n_k]) = (self.heads, self.lengths);
        let mut problem = Problem {
            q: Tensor::of_f32(&self.q, [1, heads, n_q, DIM]).expect("q"),
            k: Tensor::contiguous(&self.k, self.dtype, [1, kv, n_k, DIM]).expect("k"),
            v: Tensor::contiguous(&self.v, self.dtype, [1, kv, n_k, DIM]).expect("v"),
            out: TensorMut::of_f32(out, [1, heads, n_q, DIM]).expect("out"),
            lse: Some(TensorMut::of_f32(lse, [1, heads, n_q, 1]).expect("lse")),
            inputs: inputs.clone(),
        };
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let ran = kernel.run(&mut problem, resources);
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        ran.unwrap_or_else(|said| panic!("{said}"));
        allocations
    }

    /// Output and log-sum-exp of a launch that keeps nothing.
    fn plain(&self, kernel: &Kernel, inputs: &Inputs<'_>) -> (Vec<f32>, Vec<f32>) {
        let (mut out, mut lse) = self.outputs();
        self.run(kernel, inputs, (&mut out, &mut lse), Resources::default());
        (out, lse)
    }

    fn outputs(&self) -> (Vec<f32>, Vec<f32>) {
        let rows = self.heads[0] * self.lengths[0];
        (vec![f32::NAN; rows * DIM], vec![f32::NAN; rows])
    }
}

const PATTERNS: &str = "
param width = 40

size far

tensor slopes[heads]

attention window {
  align = end
  attend q - k in 0 .. width
}

attention dilated {
  attend causal & (q - k) % 3 == 0
}

attention packed {
  attend causal & same doc
}

attention sinks {
  empty = error
  score = score - slopes[head] * abs(q - k)
  attend causal & (q - k in 0 .. far | k in 0 .. 4) ++ null 1 bias slopes[head]
}

model net(layers = 1, heads = 4 on 2) {
  layer 0 { 0 => window, 1 => skip, _ => dilated }
}
";

#[test]
fn a_launch_like_the_one_before_allocates_nothing() {
    let module = Compiler::default().compile(&Memory::file("m", PATTERNS), "m").unwrap_or_else(|said| panic!("{said}"));
    let slopes = [0.5, 0.25, 0.125, 0.0625];
    let docs = [0, 70, 100, 200];
    let plain = Inputs::default;
    let cases: [(&str, [usize; 2], Inputs<'_>); 8] = [
        ("window", [200, 200], plain()),
        // Tiles of keys that tasks share where they are converted.
        ("window", [900, 900], plain()),
        // Folded heads, and keys that are cut.
        ("window", [1, 9000], Inputs { lengths: vec![(1, 8990)], ..plain() }),
        ("dilated", [200, 200], plain()),
        ("packed", [200, 200], Inputs { docs: &docs, ..plain() }),
        ("window", [200, 200], Inputs { lengths: vec![(150, 180)], ..plain() }),
        (
            "sinks",
            [200, 200],
            Inputs {
                sizes: vec![("far", 30)],
                tensors: vec![("slopes", TensorData { data: (&slopes).into(), dims: vec![4] })],
                ..plain()
            },
        ),
        ("net", [200, 200], plain()),
    ];
    for count in [1, 3] {
        let threads = Threads::new(count).expect("threads");
        let types = [DType::F32, DType::F16];
        for (dtype, (name, lengths, inputs)) in types.iter().flat_map(|&dtype| cases.iter().map(move |c| (dtype, c))) {
            let kernel = module.kernel(&Select::named(*name)).unwrap_or_else(|said| panic!("{said}"));
            let all: Vec<Data> = (0..4).map(|seed| Data::new(seed, dtype, [4, 2], *lengths)).collect();
            let bytes = kernel.workspace_bytes([1, 4, lengths[0], DIM], lengths[1], DIM, count).expect("a number");
            let more = Kernel::conversion_bytes(lengths[0], [1, 2, lengths[1], DIM], DIM, count);
            let mut workspace = vec![0; bytes + more];
            for given in [true, false] {
                let (mut ready, mut counts) = (Ready::new(), Vec::new());
                for data in &all {
                    let (mut out, mut lse) = data.outputs();
                    // From within the pool: whoever calls from outside goes through rayon's queue.
                    counts.push(threads.within(|| {
                        let workspace = given.then_some(&mut workspace[..]);
                        let resources = Resources { threads: Some(&threads), workspace, ready: Some(&mut ready) };
                        data.run(&kernel, inputs, (&mut out, &mut lse), resources)
                    }));
                    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    let (o, l) = data.plain(&kernel, inputs);
                    assert!(bits(&out) == bits(&o) && bits(&lse) == bits(&l), "{name}, {dtype:?}: other results");
                }
                assert!(counts[0] > 0, "nothing is counted");
                let of = format!("{name}, {dtype:?}, {count} threads, workspace given: {given}");
                assert_eq!(counts[1..], [0; 3], "{of}");
            }
        }
    }

    // What is not alike is laid out anew, whatever differs.
    let kernel = module.kernel(&Select::named("sinks")).expect("compiles");
    let other = module.kernel(&Select::named("dilated")).expect("compiles");
    let mut ready = Ready::new();
    let steeper = [1.0, 0.5, 0.25, 0.125];
    for (kernel, lengths, far, slopes) in [
        (&kernel, [50, 50], 10, &slopes),
        (&kernel, [50, 50], 11, &slopes),
        (&kernel, [50, 50], 11, &steeper),
        (&other, [50, 50], 11, &steeper),
        (&kernel, [60, 60], 11, &steeper),
        (&kernel, [60, 60], 11, &steeper),
    ] {
        let tensors = vec![("slopes", TensorData { data: slopes.into(), dims: vec![4] })];
        let inputs = Inputs { sizes: vec![("far", far)], tensors, ..plain() };
        let data = Data::new(far as u64, DType::F32, [4, 2], lengths);
        let (mut out, mut lse) = data.outputs();
        let resources = Resources { ready: Some(&mut ready), ..Resources::default() };
        data.run(kernel, &inputs, (&mut out, &mut lse), resources);
        assert_eq!((out, lse), data.plain(kernel, &inputs));
    }
}
