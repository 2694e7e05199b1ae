//! The operations that kernels execute are those that the cost foretells, for every pattern of the project.
//!
//! Only a counting build counts (feature `count`), and no other build shall pay for it. So this test builds itself
//! again with the feature and runs that; the counter is global to the process, and this file holds one test.

use std::path::{Path, PathBuf};
use std::process::Command;

use attnc::{
    Compiler, Inputs, Isa, Kernel, LoadError, Loader, MapInput, MapKind, Module, Options, Problem, Resources, Select,
    Shape, Target, Tensor, TensorData, TensorMut,
};

/// Lengths of queries and keys, and the position of the first query: whole and odd, then far into a sequence.
const LENGTHS: &[(i64, i64, Option<i64>)] =
    &[(1, 1, None), (63, 63, None), (64, 64, None), (150, 150, None), (333, 333, None), (17, 1100, Some(1001))];

/// Values for the sizes of a program, the j-th size taking the j-th of a row.
const SIZES: &[&[i64]] = &[&[5, 3, 7, 4], &[13, 12, 20, 6], &[64, 40, 2, 9], &[2, 40, 64, 9], &[24, 24, 24, 24]];

/// Spaces of more tokens are run in part.
const WHOLE: i64 = 2000;

#[test]
fn executed_operations_are_foretold() {
    if attnc::flops_executed().is_none() {
        return in_a_counting_build();
    }
    let (mut cases, mut wrong) = (0, Vec::new());
    for file in patterns() {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let module = compile(&file, Target::default());
        for (use_of, _) in module.uses() {
            let before = cases;
            for select in selections(&module, use_of) {
                let kernel = module.kernel(&select).unwrap_or_else(|said| panic!("{name}: {said}"));
                each_case(&module, &kernel, |sizes, lengths| {
                    cases += 1;
                    wrong
                        .extend(differs(&kernel, sizes, lengths).map(|d| format!("{name}:{use_of}, {lengths:?}: {d}")));
                });
            }
            assert!(cases > before, "{name}:{use_of} was run at no size");
        }
    }
    // What is executed does not depend on the instruction set.
    let module = compile(&patterns_dir().join("window.attn"), Target::Cpu(Some(Isa::Scalar)));
    let kernel = module.kernel(&Select::named("window")).expect("compiles");
    wrong.extend(differs(&kernel, &[], (333, 333, None)));
    assert!(cases > 300, "{cases} cases");
    assert!(wrong.is_empty(), "{} of {cases} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Builds this test with the feature `count` beside the build that runs it, and runs it.
fn in_a_counting_build() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Of the whole workspace, so that other crates have the features that they were built with and are not built again.
    cargo.args(["test", "--workspace", "--features", "attnc/count", "--test", "counted", "--locked", "--offline"]);
    cargo.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.output().expect("cargo runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "the counting build ran no test: {said}");
}

fn patterns_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../patterns")
}

/// Every pattern file of the project.
fn patterns() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in [patterns_dir(), patterns_dir().join("models")] {
        let entries = std::fs::read_dir(dir).expect("patterns").map(|entry| entry.expect("an entry").path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|e| e == "attn")));
    }
    files.sort();
    assert!(files.len() > 30, "patterns are found");
    files
}

/// Files of the directory that the importing file is in.
struct Beside(PathBuf);

impl Loader for Beside {
    fn load(&self, from: Option<&str>, path: &str) -> Result<(String, Vec<u8>), LoadError> {
        let dir = from.map_or(self.0.clone(), |from| Path::new(from).parent().expect("a parent").to_path_buf());
        let place = dir.join(path).canonicalize().map_err(|_| LoadError::NotFound)?;
        let bytes = std::fs::read(&place).map_err(|e| LoadError::Other(e.to_string()))?;
        Ok((place.to_string_lossy().into_owned(), bytes))
    }
}

fn compile(file: &Path, target: Target) -> Module {
    let compiler = Compiler::new(Options { target, ..Options::default() });
    let name = file.file_name().expect("a name").to_string_lossy();
    let dir = file.parent().expect("a directory").to_path_buf();
    compiler.compile(&Beside(dir), &name).unwrap_or_else(|said| panic!("{name}: {said}"))
}

/// Layers of a model whose heads differ from all before; just the name of anything else.
fn selections(module: &Module, name: &str) -> Vec<Select> {
    let Some(model) = module.program().models.iter().find(|m| m.name == name) else { return vec![Select::named(name)] };
    let (mut seen, mut selections) = (Vec::new(), Vec::new());
    for layer in 0..model.layers {
        let select = Select::named(name).layer(layer);
        let assigned = module.assignment(&select).expect("a layer");
        if !seen.contains(&assigned) {
            seen.push(assigned);
            selections.push(select);
        }
    }
    selections
}

/// Sizes and lengths that a kernel may be for.
fn each_case(module: &Module, kernel: &Kernel, mut run: impl FnMut(&[(&str, i64)], (i64, i64, Option<i64>))) {
    let names = kernel.sizes();
    let rows: &[&[i64]] = if names.is_empty() { &[&[]] } else { SIZES };
    for row in rows {
        let sizes: Vec<(&str, i64)> = names.iter().map(String::as_str).zip(row.iter().copied().cycle()).collect();
        let total = module.tokens(&sizes).expect("sizes of the space");
        let lengths = match total {
            None => LENGTHS.to_vec(),
            Some(n) if n <= WHOLE => vec![(n, n, None)],
            Some(n) => vec![(70, n, Some(n / 2)), (33, n, Some(n - 33))],
        };
        for (n_q, n_k, q_start) in lengths {
            // What its `require` refuses it is not for.
            let held = Held::new(kernel, &sizes, (n_q, n_k, q_start));
            if kernel.cost(held.shape, 1, 4, &held.inputs(&sizes)).is_ok() {
                run(&sizes, (n_q, n_k, q_start));
            }
        }
    }
}

/// What a kernel wants, owned.
struct Held {
    shape: Shape,
    q_start: Option<i64>,
    docs: Vec<i64>,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
    maps: Vec<(String, Vec<u8>, Vec<usize>)>,
}

impl Held {
    fn new(kernel: &Kernel, sizes: &[(&str, i64)], (n_q, n_k, q_start): (i64, i64, Option<i64>)) -> Held {
        let heads = kernel.heads().map_or(4, |(heads, _)| heads);
        let shape = Shape { n_q, n_k, heads, dim: 24 };
        let wants = kernel.wants(shape, sizes).expect("sizes are known");
        let tensors = wants.tensors.into_iter();
        let tensors = tensors.map(|t| (t.name, t.dims.clone(), vec![0.25; t.dims.iter().product()])).collect();
        let maps = wants.maps.into_iter().map(|map| {
            let copies = if map.per_head { heads } else { 1 };
            let block = match map.kind {
                MapKind::Bool => 1,
                MapKind::Blocks(block) => block,
                MapKind::Csr | MapKind::Offsets => panic!("a pattern with a compressed map: make one here"),
            };
            let (rows, cols) = ((n_q + block - 1) / block, (n_k + block - 1) / block);
            let data: Vec<u8> = (0..copies * rows * cols).map(|i| u8::from(i * 7 % 11 < 4)).collect();
            let mut dims = vec![rows as usize, cols as usize];
            if map.per_head {
                dims.insert(0, copies as usize);
            }
            (map.name, data, dims)
        });
        let maps = maps.collect();
        let end = n_q.max(n_k) + q_start.unwrap_or(0);
        Held { shape, q_start, docs: vec![0, end / 3, end / 3, end * 3 / 4, end], tensors, maps }
    }

    fn inputs<'a>(&'a self, sizes: &[(&'a str, i64)]) -> Inputs<'a> {
        let (maps, tensors) = (self.maps.iter(), self.tensors.iter());
        Inputs {
            sizes: sizes.to_vec(),
            docs: &self.docs,
            maps: maps.map(|(name, data, shape)| (name.as_str(), MapInput::Dense { data, shape })).collect(),
            tensors: tensors
                .map(|(name, dims, data)| (name.as_str(), TensorData { data: data.into(), dims: dims.clone() }))
                .collect(),
            q_start: self.q_start,
            k_start: self.q_start.map(|_| 0),
            ..Inputs::default()
        }
    }
}

/// Runs a case; how the operations executed differ from those foretold.
fn differs(kernel: &Kernel, sizes: &[(&str, i64)], lengths: (i64, i64, Option<i64>)) -> Option<String> {
    let held = Held::new(kernel, sizes, lengths);
    let inputs = held.inputs(sizes);
    let dv = 10;
    let cost = kernel.cost(held.shape, dv, 4, &inputs).unwrap_or_else(|said| panic!("{said}"));
    let Shape { n_q, n_k, heads, dim } = held.shape;
    let kv_heads = kernel.heads().map_or(heads / 2, |(_, kv_heads)| kv_heads);
    let out_heads = kernel.output_heads(heads as usize) as i64;
    let [q_shape, k_shape, v_shape, out_shape] =
        [(heads, n_q, dim), (kv_heads, n_k, dim), (kv_heads, n_k, dv), (out_heads, n_q, dv)]
            .map(|(h, n, d)| [1, h as usize, n as usize, d as usize]);
    let of = |shape: [usize; 4]| vec![0.5; shape.iter().product()];
    let (q, k, v, mut out) = (of(q_shape), of(k_shape), of(v_shape), of(out_shape));
    let mut problem = Problem {
        q: Tensor::of_f32(&q, q_shape).expect("q"),
        k: Tensor::of_f32(&k, k_shape).expect("k"),
        v: Tensor::of_f32(&v, v_shape).expect("v"),
        out: TensorMut::of_f32(&mut out, out_shape).expect("out"),
        lse: None,
        inputs,
    };
    attnc::flops_reset();
    kernel.run(&mut problem, Resources::default()).unwrap_or_else(|said| panic!("{said}"));
    let executed = attnc::flops_executed().expect("a counting build");
    (executed != cost.executed_flops).then(|| format!("executed {executed}, foretold {}", cost.executed_flops))
}
