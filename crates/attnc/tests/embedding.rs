//! The library as a host program sees it.

use attnc::{
    Compiler, DType, Diagnostics, Inputs, Kernel, MapInput, Memory, Module, Options, Problem, Resources, Select, Shape,
    Target, Tensor, TensorData, TensorMut, Threads, compare, merge, random,
};

fn module(text: &str) -> Module {
    Compiler::default().source(text).unwrap_or_else(|said| panic!("{said}"))
}

fn kernel(text: &str, name: &str) -> Kernel {
    module(text).kernel(&Select::named(name)).unwrap_or_else(|said| panic!("{said}"))
}

fn codes<T>(result: Result<T, Diagnostics>) -> Vec<&'static str> {
    result.err().map(|said| said.list.iter().map(|d| d.code).collect()).unwrap_or_default()
}

fn normal(seed: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    random::fill_normal(seed, &mut values);
    values
}

/// Tensors of a launch, owned.
struct Held {
    q: (Vec<f32>, [usize; 4]),
    k: (Vec<f32>, [usize; 4]),
    v: (Vec<f32>, [usize; 4]),
    out: Vec<f32>,
    lse: Vec<f32>,
}

impl Held {
    fn new(batch: usize, (heads, kv): (usize, usize), (n_q, n_k): (usize, usize), (d, dv): (usize, usize)) -> Held {
        let of = |seed, shape: [usize; 4]| (normal(seed, shape.iter().product()), shape);
        Held {
            q: of(1, [batch, heads, n_q, d]),
            k: of(2, [batch, kv, n_k, d]),
            v: of(3, [batch, kv, n_k, dv]),
            out: vec![f32::NAN; batch * heads * n_q * dv],
            lse: vec![f32::NAN; batch * heads * n_q],
        }
    }

    fn problem<'a>(&'a mut self, inputs: Inputs<'a>) -> Problem<'a> {
        let [batch, heads, n_q, _] = self.q.1;
        Problem {
            q: Tensor::of_f32(&self.q.0, self.q.1).expect("q"),
            k: Tensor::of_f32(&self.k.0, self.k.1).expect("k"),
            v: Tensor::of_f32(&self.v.0, self.v.1).expect("v"),
            out: TensorMut::of_f32(&mut self.out, [batch, heads, n_q, self.v.1[3]]).expect("out"),
            lse: Some(TensorMut::of_f32(&mut self.lse, [batch, heads, n_q, 1]).expect("lse")),
            inputs,
        }
    }

    /// Runs and compares with the oracle.
    fn agree(&mut self, kernel: &Kernel, inputs: &Inputs<'_>) {
        let ([batch, heads, n_q, _], dv) = (self.q.1, self.v.1[3]);
        let mut problem = self.problem(inputs.clone());
        let oracle = kernel.oracle(&problem).unwrap_or_else(|said| panic!("{said}"));
        kernel.run(&mut problem, Resources::default()).unwrap_or_else(|said| panic!("{said}"));
        let out = Tensor::of_f32(&self.out, [batch, heads, n_q, dv]).expect("out");
        let lse = Tensor::of_f32(&self.lse, [batch, heads, n_q, 1]).expect("lse");
        let report = compare(&oracle, &out, Some(&lse));
        assert!(report.passed() && report.compared > 0, "{report:?}");
    }
}

#[test]
fn kernels_are_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Kernel>();
    shared::<Module>();
}

#[test]
fn one_kernel_serves_every_shape() {
    let kernel = kernel("pattern local = q - k in 0 .. 20\n", "local");
    for (batch, heads, lengths, dims) in [
        (1, (1, 1), (1, 1), (1, 1)),
        (2, (4, 2), (65, 65), (33, 17)),
        (1, (6, 1), (130, 130), (64, 80)),
        (3, (2, 2), (7, 7), (8, 8)),
    ] {
        Held::new(batch, heads, lengths, dims).agree(&kernel, &Inputs::default());
    }
}

#[test]
fn starts_place_the_queries() {
    let kernel = kernel("pattern local = q - k in 0 .. 20\n", "local");
    let mut held = Held::new(1, (2, 1), (5, 70), (16, 16));
    assert_eq!(codes(kernel.run(&mut held.problem(Inputs::default()), Resources::default())), ["E0711"]);
    for q_start in [0, 30, 65] {
        held.agree(&kernel, &Inputs { q_start: Some(q_start), ..Inputs::default() });
    }
}

#[test]
fn parts_of_the_keys_merge_to_the_whole() {
    let kernel = kernel("pattern all_keys = causal\n", "all_keys");
    let (n, half, d) = (60, 25, 16);
    let mut whole = Held::new(1, (1, 1), (n, n), (d, d));
    kernel.run(&mut whole.problem(Inputs::default()), Resources::default()).expect("runs");
    let part = |from: usize, to: usize| {
        let mut held = Held::new(1, (1, 1), (n, to - from), (d, d));
        held.q.0.clone_from(&whole.q.0);
        held.k.0 = whole.k.0[from * d..to * d].to_vec();
        held.v.0 = whole.v.0[from * d..to * d].to_vec();
        held
    };
    // Shards have rows without keys, and more queries than keys.
    let text = "attention shard {\n  require n_q >= 1\n  empty = zero\n  attend causal\n}\n";
    let shard = self::kernel(text, "shard");
    let (mut first, mut second) = (part(0, half), part(half, n));
    shard
        .run(&mut first.problem(Inputs { q_start: Some(0), ..Inputs::default() }), Resources::default())
        .unwrap_or_else(|said| panic!("{said}"));
    let inputs = Inputs { q_start: Some(0), k_start: Some(half as i64), ..Inputs::default() };
    shard.run(&mut second.problem(inputs), Resources::default()).unwrap_or_else(|said| panic!("{said}"));
    merge(&mut first.out, &mut first.lse, &second.out, &second.lse).expect("lengths fit");
    assert!(first.out.iter().zip(&whole.out).all(|(a, b)| (a - b).abs() < 1e-5));
    assert!(first.lse.iter().zip(&whole.lse).all(|(a, b)| (a - b).abs() < 1e-5));
}

#[test]
fn batches_may_be_padded() {
    let kernel = kernel("pattern local = q - k in 0 .. 20\n", "local");
    let mut held = Held::new(3, (2, 1), (40, 40), (16, 16));
    held.agree(&kernel, &Inputs { lengths: vec![(40, 40), (1, 1), (17, 17)], ..Inputs::default() });
    let (rows, row) = (2 * 40, 16);
    assert!(held.out[(rows + 1) * row..(rows + 40) * row].iter().all(|&o| o == 0.0));
    assert_eq!(held.lse[rows + 1], f32::NEG_INFINITY);
    let inputs = Inputs { lengths: vec![(41, 40)], ..Inputs::default() };
    assert_eq!(codes(kernel.run(&mut held.problem(inputs), Resources::default())), ["E0702"]);
}

#[test]
fn threads_change_no_bit() {
    let kernel = kernel("pattern sparse = causal & (q - k) % 3 == 0\n", "sparse");
    let mut held = Held::new(1, (4, 2), (300, 300), (32, 32));
    let mut seen: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
    for count in [1, 2, 3] {
        let threads = Threads::new(count).expect("threads");
        let mut problem = held.problem(Inputs::default());
        kernel.run(&mut problem, Resources { threads: Some(&threads), ..Resources::default() }).expect("runs");
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect();
        seen.push((bits(&held.out), bits(&held.lse)));
    }
    assert!(seen.iter().all(|s| *s == seen[0]));
}

#[test]
fn eight_threads_compile_and_call_at_once() {
    // One module for all, of which each makes its kernels, and a module of each; calls come from within a pool of the
    // host, too.
    let text = "param width = 9\n\npattern local = q - k in 0 .. width\n\npattern far = causal & (q - k) % 3 == 0\n";
    let shared = module(text);
    let host = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    std::thread::scope(|scope| {
        for i in 0..8_usize {
            let (shared, host) = (&shared, &host);
            scope.spawn(move || {
                for round in 0..4 {
                    let set = vec![("width".to_owned(), (1 + i + round).to_string())];
                    let own = Compiler::new(Options { set, ..Options::default() }).source(text).expect("checks");
                    for (module, name) in [(&own, "local"), (shared, "local"), (shared, "far")] {
                        let kernel = module.kernel(&Select::named(name)).expect("compiles");
                        let mut held = Held::new(1, (2, 1), (60 + i, 60 + i), (16, 16));
                        held.agree(&kernel, &Inputs::default());
                        host.install(|| held.agree(&kernel, &Inputs::default()));
                    }
                }
            });
        }
    });
}

#[test]
fn a_model_gives_each_head_its_own() {
    let text = "
attention local {
  align = end
  attend q - k in 0 .. 5
}

attention global {
  align = end
  attend causal
}

model net(layers = 6, heads = 6 on 4 by head * 2 / 3) {
  when layer % 3 == 2 { head 0 .. 2 => global, head 2 => skip, _ => local }
  _ => local
}
";
    let module = module(text);
    let kernel = module.kernel(&Select::named("net").layer(2)).unwrap_or_else(|said| panic!("{said}"));
    assert_eq!(kernel.heads(), Some((6, 4)));
    let names: Vec<_> =
        (0..6).map(|h| kernel.attention(h).map(|a| kernel.program().attentions[a].name.as_str())).collect();
    assert_eq!(names, [Some("global"), Some("global"), None, Some("local"), Some("local"), Some("local")]);
    let mut held = Held::new(1, (6, 4), (50, 50), (16, 16));
    held.agree(&kernel, &Inputs::default());
    assert!(held.out[2 * 50 * 16..3 * 50 * 16].iter().all(|&o| o == 0.0));
    assert!(held.lse[2 * 50..3 * 50].iter().all(|&l| l == f32::NEG_INFINITY));
    // Layers that are alike are one kernel.
    let other = module.kernel(&Select::named("net").layer(5)).expect("compiles");
    assert_eq!(other.hash(), kernel.hash());
    assert_eq!(codes(module.kernel(&Select::named("net").layer(6))), ["E0723"]);
    let mut wrong = Held::new(1, (6, 3), (50, 50), (16, 16));
    assert_eq!(codes(kernel.run(&mut wrong.problem(Inputs::default()), Resources::default())), ["E0722"]);
}

#[test]
fn data_given_when_run_reaches_the_kernel() {
    let text = "
tensor slopes[heads]
map keep : csr

attention data {
  empty = zero
  score = score - slopes[head] * abs(q - k)
  attend map keep ++ null 2 bias slopes[head]
}
";
    let kernel = kernel(text, "data");
    let slopes = [0.5, 0.25];
    let (indptr, indices) = ([0, 2, 2, 5], [0, 2, 0, 1, 3]);
    let map = MapInput::Csr { indptr: &indptr, indices: &indices };
    let inputs = Inputs {
        maps: vec![("keep", map)],
        tensors: vec![("slopes", TensorData { data: (&slopes).into(), dims: vec![2] })],
        q_start: Some(1),
        ..Inputs::default()
    };
    let mut held = Held::new(1, (2, 1), (3, 4), (8, 8));
    held.agree(&kernel, &inputs);
    let shape = Shape { n_q: 3, n_k: 4, heads: 2, dim: 8 };
    let view = kernel.view(1, shape, &inputs).expect("fits");
    let mut rows = view.rows().expect("has values");
    let row: Vec<_> = rows.row(2).expect("has values").iter().map(|r| (r.first, r.last, r.times)).collect();
    assert_eq!(row, [(0, 1, 1), (3, 3, 1)]);
    assert_eq!(view.nulls(), [2]);
    let nothing = Inputs { q_start: Some(1), ..Inputs::default() };
    assert_eq!(codes(kernel.run(&mut held.problem(nothing), Resources::default())), ["E0704", "E0705"]);
}

#[test]
fn an_empty_row_is_an_error_before_anything_is_written() {
    let kernel = kernel("attention strict {\n  empty = error\n  attend q - k in 1 .. 4\n}\n", "strict");
    let mut held = Held::new(1, (1, 1), (6, 6), (8, 8));
    assert_eq!(codes(kernel.run(&mut held.problem(Inputs::default()), Resources::default())), ["E0709"]);
    assert!(held.out.iter().all(|o| o.is_nan()));
    held.agree(&kernel, &Inputs { q_start: Some(1), ..Inputs::default() });
}

#[test]
fn an_empty_row_of_one_branch_is_an_error_before_anything_is_written() {
    let text = "attention strict {\n  empty = error\n  attend q - k in 1 .. 4\n}\n\npattern near = causal\n\n\
                merge both = mean of near, strict\n";
    let kernel = kernel(text, "both");
    let mut held = Held::new(1, (2, 1), (6, 6), (8, 8));
    assert_eq!(codes(kernel.run(&mut held.problem(Inputs::default()), Resources::default())), ["E0709"]);
    assert!(held.out.iter().all(|o| o.is_nan()));
}

#[test]
fn launches_of_too_many_heads_are_not_counted() {
    let kernel = kernel("pattern near = causal\n", "near");
    let codes_of = |shape| codes(kernel.workspace_bytes(shape, 5, 8, 1));
    assert_eq!(codes_of([1, 1 << 45, 5, 8]), ["E0722"]);
    assert_eq!(codes_of([1 << 45, 1, 5, 8]), ["E0722"]);
    let shape = Shape { n_q: 5, n_k: 5, heads: 2, dim: 8 };
    let count = |batch| kernel.forecast(shape, 2, 8, 4, batch, &Inputs::default());
    assert_eq!(codes(count(u64::MAX)), ["E0722"]);
    assert_eq!(count(0).expect("nothing to do").cost.entries, 0);
    assert_eq!(count(3).expect("fits").cost.entries, 3 * 2 * 15);
}

#[test]
fn sizes_outside_require_are_refused() {
    let kernel = kernel("attention small {\n  require n_q <= 8\n  attend causal\n}\n", "small");
    let mut held = Held::new(1, (1, 1), (9, 9), (8, 8));
    assert_eq!(codes(kernel.run(&mut held.problem(Inputs::default()), Resources::default())), ["E0707"]);
}

#[test]
fn a_fixed_space_wants_its_tokens() {
    let kernel = kernel("space grid(h = 4, w = 5)\n\npattern rows = same h\n", "rows");
    Held::new(1, (2, 1), (20, 20), (8, 8)).agree(&kernel, &Inputs::default());
    let mut short = Held::new(1, (2, 1), (19, 19), (8, 8));
    assert_eq!(codes(kernel.run(&mut short.problem(Inputs::default()), Resources::default())), ["E0702"]);
    // A part of it has a place.
    let inputs = Inputs { q_start: Some(0), k_start: Some(0), ..Inputs::default() };
    short.agree(&kernel, &inputs);
}

#[test]
fn the_oracle_is_a_target() {
    let options = Options { target: Target::Oracle, ..Options::default() };
    let module = Compiler::new(options).source("pattern local = q - k in 0 .. 3\n").expect("checks");
    let kernel = module.kernel(&Select::named("local")).expect("plans");
    assert_eq!(kernel.isa(), None);
    let mut held = Held::new(1, (1, 1), (9, 9), (8, 8));
    held.agree(&kernel, &Inputs::default());
}

#[test]
fn strided_tensors_are_read_in_place() {
    let kernel = kernel("pattern local = q - k in 0 .. 3\n", "local");
    // [tokens, 3, heads, dim] as a fused projection leaves it.
    let (n, heads, d) = (21, 2, 8);
    let fused = normal(9, n * 3 * heads * d);
    let bytes: Vec<u8> = fused.iter().flat_map(|x| x.to_le_bytes()).collect();
    let row = 3 * heads * d * 4;
    let strides = [0, (d * 4) as isize, row as isize, 4];
    let view = |part: usize| Tensor::new(&bytes, part * heads * d * 4, DType::F32, [1, heads, n, d], strides);
    let (Ok(q), Ok(k), Ok(v)) = (view(0), view(1), view(2)) else {
        panic!("the allocator aligns to 4");
    };
    let mut out = vec![0.0; heads * n * d];
    let out_t = TensorMut::of_f32(&mut out, [1, heads, n, d]).expect("out");
    let mut problem = Problem { q, k, v, out: out_t, lse: None, inputs: Inputs::default() };
    let oracle = kernel.oracle(&problem).expect("runs");
    kernel.run(&mut problem, Resources::default()).expect("runs");
    assert!(compare(&oracle, &Tensor::of_f32(&out, [1, heads, n, d]).expect("out"), None).passed());
}

#[test]
fn files_come_through_a_loader() {
    let files = Memory::new()
        .with("main", "import near_by from \"lib\"\nimport sinks from \"std\"\n\nparam w = 4\n\npattern p = near_by(w) | causal & sinks(1)\n")
        .with("lib", "pattern near_by(n) = q - k in 0 .. n\n");
    let options = Options { set: vec![("w".into(), "2".into())], ..Options::default() };
    let module = Compiler::new(options).compile(&files, "main").unwrap_or_else(|said| panic!("{said}"));
    let kernel = module.kernel(&Select::named("p")).expect("compiles");
    let (shape, inputs) = (Shape { n_q: 5, n_k: 5, heads: 1, dim: 8 }, Inputs::default());
    let view = kernel.view(0, shape, &inputs).expect("fits");
    let row: Vec<_> = view.rows().expect("rows").row(4).expect("row").iter().map(|r| (r.first, r.last)).collect();
    assert_eq!(row, [(0, 0), (3, 4)]);
    let cost = kernel.cost(shape, 8, 4, &inputs).expect("fits");
    assert_eq!((cost.entries, cost.useful_flops), (1 + 2 + 3 + 3 + 3, 12 * 32));
}

#[test]
fn a_pattern_is_built_without_text() {
    use attnc::construct::{FileBuilder, call, k, name, q};
    let tree = FileBuilder::new()
        .import(["sinks"], "std")
        .import(["near_by"], "lib")
        .param("w", 3)
        .pattern("local", name("causal") & (call("near_by", [name("w")]) | call("sinks", [2])))
        .build();
    let lib = Memory::file("lib", "pattern near_by(n) = q - k in 0 .. n\n");
    let built = Compiler::default().tree(&lib, &tree).unwrap_or_else(|said| panic!("{said}"));
    let same = "pattern local = causal & (q - k in 0 .. 3 | k in 0 .. 2)\n";
    let kernels = [built, module(same)].map(|m| m.kernel(&Select::named("local")).expect("compiles"));
    let (shape, inputs) = (Shape { n_q: 40, n_k: 40, heads: 1, dim: 8 }, Inputs::default());
    assert_eq!(kernels[0].difference(&kernels[1], shape, &inputs).expect("fits"), attnc::Difference::default());
    // What is wrong with it is shown in its text.
    let wrong = FileBuilder::new().pattern("p", (q() - k()).within(0, "windw")).build();
    let said = Compiler::default().tree(&Memory::new(), &wrong).expect_err("refused");
    let label = &said.list[0].labels[0];
    let text = &said.sources.get(label.span.file).expect("a text").text;
    assert_eq!((said.list[0].code, &text[label.span.start as usize..label.span.end as usize]), ("E0201", "windw"));
    // A name that is no name would be another pattern.
    let two = FileBuilder::new().pattern("p", name("causal | all")).build();
    assert_eq!(codes(Compiler::default().tree(&Memory::new(), &two)), ["E0613"]);
}

#[test]
fn queries_repeat_where_there_are_more_kv_heads() {
    let text = "attention near_by {\n  attend q - k in 0 .. 3\n}\n\nattention far {\n  attend causal\n}\n\n\
                model reversed(layers = 1, heads = 2 on 6) {\n  layer 0 { 0 => near_by, 1 => far }\n}\n";
    let kernel = kernel(text, "reversed");
    assert_eq!((kernel.heads(), kernel.output_heads(2)), (Some((2, 6)), 6));
    let (n, d) = (20, 8);
    let (q, k, v) = (normal(1, 2 * n * d), normal(2, 6 * n * d), normal(3, 6 * n * d));
    let mut out = vec![f32::NAN; 6 * n * d];
    let mut problem = Problem {
        q: Tensor::of_f32(&q, [1, 2, n, d]).expect("q"),
        k: Tensor::of_f32(&k, [1, 6, n, d]).expect("k"),
        v: Tensor::of_f32(&v, [1, 6, n, d]).expect("v"),
        out: TensorMut::of_f32(&mut out, [1, 6, n, d]).expect("out"),
        lse: None,
        inputs: Inputs::default(),
    };
    let oracle = kernel.oracle(&problem).expect("runs");
    kernel.run(&mut problem, Resources::default()).unwrap_or_else(|said| panic!("{said}"));
    assert!(compare(&oracle, &Tensor::of_f32(&out, [1, 6, n, d]).expect("out"), None).passed());
    // Head h of the output: query head h % 2 over KV head h, as that attention alone gives it.
    for head in 0..6 {
        let name = ["near_by", "far"][head % 2];
        let mut alone = vec![f32::NAN; n * d];
        let of = |data: &[f32], head: usize| data[head * n * d..][..n * d].to_vec();
        let (q, k, v) = (of(&q, head % 2), of(&k, head), of(&v, head));
        let mut problem = Problem {
            q: Tensor::of_f32(&q, [1, 1, n, d]).expect("q"),
            k: Tensor::of_f32(&k, [1, 1, n, d]).expect("k"),
            v: Tensor::of_f32(&v, [1, 1, n, d]).expect("v"),
            out: TensorMut::of_f32(&mut alone, [1, 1, n, d]).expect("out"),
            lse: None,
            inputs: Inputs::default(),
        };
        self::kernel(text, name).run(&mut problem, Resources::default()).expect("runs");
        assert_eq!(out[head * n * d..][..n * d], alone[..], "head {head}");
    }
}

#[test]
fn launches_beyond_every_limit_are_refused() {
    let kernel = kernel("pattern local = q - k in 0 .. 4\n", "local");
    let mut held = Held::new(1, (1, 1), (4, 4), (8, 8));
    let mut run = |inputs: Inputs<'_>| codes(kernel.run(&mut held.problem(inputs), Resources::default()));
    assert_eq!(run(Inputs { q_start: Some(i64::MAX), ..Inputs::default() }), ["E0702"]);
    assert_eq!(run(Inputs { q_start: Some(i64::MIN), ..Inputs::default() }), ["E0702"]);
    assert_eq!(run(Inputs { k_start: Some(attnc::MAX_LEN - 3), ..Inputs::default() }), ["E0702"]);
    assert_eq!(run(Inputs { docs: &[0, i64::MAX], ..Inputs::default() }), ["E0703"]);
    assert_eq!(run(Inputs { lengths: vec![(4, 4), (4, 4)], ..Inputs::default() }), ["E0702"]);
    assert_eq!(run(Inputs { lengths: vec![(-1, -1)], ..Inputs::default() }), ["E0702", "E0702"]);
    assert_eq!(run(Inputs { sizes: vec![("n", 3)], ..Inputs::default() }), ["E0720"]);
    let most = i64::MAX;
    for (shape, code) in [
        (Shape { n_q: most, n_k: 4, heads: 1, dim: 8 }, "E0702"),
        (Shape { n_q: 4, n_k: -4, heads: 1, dim: 8 }, "E0702"),
        (Shape { n_q: 4, n_k: 4, heads: most, dim: 8 }, "E0722"),
        (Shape { n_q: 4, n_k: 4, heads: 1, dim: most }, "E0721"),
    ] {
        assert_eq!(codes(kernel.cost(shape, 8, 4, &Inputs::default())), [code]);
        assert_eq!(codes(kernel.wants(shape, &[])), [code]);
    }
    assert_eq!(codes(module("pattern p = causal\n").kernel(&Select::named("p").layer(most))), ["E0723"]);
}

#[test]
fn values_that_do_not_fit_the_keys_are_refused() {
    let options = Options { target: Target::Oracle, ..Options::default() };
    for target in [Options::default(), options] {
        let module = Compiler::new(target).source("pattern p = causal\n").expect("checks");
        let kernel = module.kernel(&Select::named("p")).expect("plans");
        for shape in [[2, 1, 5, 8], [1, 2, 5, 8], [1, 1, 4, 8]] {
            let mut held = Held::new(1, (2, 1), (5, 5), (8, 8));
            held.v = (normal(3, shape.iter().product()), shape);
            assert_eq!(codes(kernel.run(&mut held.problem(Inputs::default()), Resources::default())), ["E0721"]);
        }
    }
}
