//! Kernels of the project's patterns, at sizes that they are for, with what they ask for.

use std::path::{Path, PathBuf};

use attnc::{
    Compiler, Inputs, Kernel, LoadError, Loader, MapInput, MapKind, Module, Options, Select, Shape, Tensor, TensorData,
};

/// Lengths of queries and keys, and the position of the first query: whole and odd, then far into a sequence, few and
/// more than that.
const LENGTHS: &[(i64, i64, Option<i64>)] = &[
    (1, 1, None),
    (63, 63, None),
    (64, 64, None),
    (150, 150, None),
    (333, 333, None),
    (3, 700, Some(697)),
    (7, 4500, Some(4493)),
    (17, 1100, Some(1001)),
];

/// Values for the sizes of a program, the j-th size taking the j-th of a row.
const SIZES: &[&[i64]] = &[&[5, 3, 7, 4], &[13, 12, 20, 6], &[64, 40, 2, 9], &[2, 40, 64, 9], &[24, 24, 24, 24]];

/// Spaces of more tokens are run in part.
const WHOLE: i64 = 2000;

pub(crate) fn patterns_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../patterns")
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

pub(crate) fn compile(file: &Path, options: Options) -> Module {
    let compiler = Compiler::new(options);
    let name = file.file_name().expect("a name").to_string_lossy();
    let dir = file.parent().expect("a directory").to_path_buf();
    compiler.compile(&Beside(dir), &name).unwrap_or_else(|said| panic!("{name}: {said}"))
}

/// Layers of a model whose heads differ from all before; just the name of anything else.
pub(crate) fn selections(module: &Module, name: &str) -> Vec<Select> {
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
pub(crate) fn each_case(
    module: &Module,
    kernel: &Kernel,
    mut run: impl FnMut(&[(&str, i64)], (i64, i64, Option<i64>)),
) {
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
pub(crate) struct Held {
    pub(crate) shape: Shape,
    q_start: Option<i64>,
    docs: Vec<i64>,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
    maps: Vec<(String, Vec<u8>, Vec<usize>)>,
    /// Boundaries of slots.
    offsets: Vec<(String, Vec<i64>)>,
    /// Queries and keys.
    rows: [(Vec<f32>, [usize; 4]); 2],
}

impl Held {
    pub(crate) fn new(kernel: &Kernel, sizes: &[(&str, i64)], (n_q, n_k, q_start): (i64, i64, Option<i64>)) -> Held {
        let heads = kernel.heads().map_or(4, |(heads, _)| heads);
        let shape = Shape { n_q, n_k, heads, dim: 24 };
        let wants = kernel.wants(shape, sizes).expect("sizes are known");
        let tensors = wants.tensors.into_iter();
        let tensors = tensors.map(|t| (t.name, t.dims.clone(), vec![0.25; t.dims.iter().product()])).collect();
        let (offsets, maps): (Vec<_>, Vec<_>) = wants.maps.into_iter().partition(|m| m.kind == MapKind::Offsets);
        let offsets = offsets.into_iter().map(|m| (m.name, (0..n_k).step_by(7).chain([n_k]).collect())).collect();
        let maps = maps.into_iter().map(|map| {
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
        let kv_heads = kernel.heads().map_or(heads / 2, |(_, kv_heads)| kv_heads);
        let rows = [(heads, n_q), (kv_heads, n_k)].map(|(h, n)| {
            let shape = [1, h as usize, n as usize, shape.dim as usize];
            (vec![0.25; shape.iter().product()], shape)
        });
        Held { shape, q_start, docs: vec![0, end / 3, end / 3, end * 3 / 4, end], tensors, maps, offsets, rows }
    }

    /// Shapes of Q, K, V and the output of one batch item, with `dv` elements to a row of V.
    pub(crate) fn shapes(&self, kernel: &Kernel, dv: i64) -> [[usize; 4]; 4] {
        let Shape { n_q, n_k, heads, dim } = self.shape;
        let kv_heads = kernel.heads().map_or(heads / 2, |(_, kv_heads)| kv_heads);
        let out_heads = kernel.output_heads(heads as usize) as i64;
        [(heads, n_q, dim), (kv_heads, n_k, dim), (kv_heads, n_k, dv), (out_heads, n_q, dv)]
            .map(|(h, n, d)| [1, h as usize, n as usize, d as usize])
    }

    pub(crate) fn inputs<'a>(&'a self, sizes: &[(&'a str, i64)]) -> Inputs<'a> {
        let (maps, tensors) = (self.maps.iter(), self.tensors.iter());
        Inputs {
            sizes: sizes.to_vec(),
            docs: &self.docs,
            maps: maps
                .map(|(name, data, shape)| (name.as_str(), MapInput::Dense { data, shape }))
                .chain(
                    self.offsets.iter().map(|(name, at)| (name.as_str(), MapInput::Csr { indptr: at, indices: &[] })),
                )
                .collect(),
            tensors: tensors
                .map(|(name, dims, data)| (name.as_str(), TensorData { data: data.into(), dims: dims.clone() }))
                .collect(),
            rows: Some([0, 1].map(|i| Tensor::of_f32(&self.rows[i].0, self.rows[i].1).expect("rows"))),
            q_start: self.q_start,
            k_start: self.q_start.map(|_| 0),
            ..Inputs::default()
        }
    }
}
