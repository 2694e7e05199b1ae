//! What a command works on: the module and the name in it, the lengths, and the program's run-time data.
//!
//! One idea: `FILE:NAME`, `--tokens`, `--size`, `--docs` and a tensors file mean the same in every command
//! because this is where they become a kernel, a shape and inputs of the library.

use std::path::Path;

use attnc::{
    Compiler, Inputs, Kernel, MapInput, MapKind, Module, Options, Returned, ReturnedValues, Select, Shape, TensorData,
    Wants,
};
use attnc_host::kept::keeping;

use crate::args::{LengthArgs, SetArgs, SizeArgs, Subject, Target};
use crate::files::{Disk, STDIN};
use crate::report::{Failure, Outcome, Reporter};
use crate::tensors::{self, TensorFile};

/// The compiler's options for a target.
pub(crate) fn options(set: &SetArgs, target: &Target) -> Options {
    let target = match target {
        Target::Cpu => attnc::Target::Cpu(None),
        Target::CpuScalar => attnc::Target::Cpu(Some(attnc::Isa::Scalar)),
        Target::CpuAvx2 => attnc::Target::Cpu(Some(attnc::Isa::Avx2)),
        Target::CpuAvx512 => attnc::Target::Cpu(Some(attnc::Isa::Avx512)),
        Target::Oracle => attnc::Target::Oracle,
        #[cfg(feature = "gpu")]
        Target::Gpu(name) => attnc::Target::Gpu(name.variant),
    };
    let (without, tile_q) = (set.passes.without(), set.passes.tile);
    let plan = attnc::PlanOptions { without, tile_q, ..attnc::PlanOptions::default() };
    Options { set: set.set.clone(), target, plan, ..Options::default() }
}

/// Loads and checks a file; warnings are printed. Its kernels are kept for the next process.
pub(crate) fn module(path: &str, options: Options, reporter: Reporter) -> Outcome<Module> {
    let module = keeping(Compiler::new(options)).compile(&Disk, path)?;
    reporter.print(&module.warnings());
    Ok(module)
}

/// The name that is meant: the one given, or the file's default.
pub(crate) fn name_of(module: &Module, subject: &Subject) -> Outcome<String> {
    if let Some(name) = &subject.name {
        return Ok(name.clone());
    }
    let stem = if subject.path == STDIN { "" } else { &subject.path };
    let stem = Path::new(stem).file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(module.default_use(&stem)?)
}

/// Names and numbers given on the command line.
pub(crate) fn sizes_of(given: &[(String, i64)]) -> Vec<(&str, i64)> {
    given.iter().map(|(name, value)| (name.as_str(), *value)).collect()
}

/// Sizes with the number of tokens among them, where the space is one axis and its size was not given.
pub(crate) fn sized(module: &Module, tokens: Option<i64>, given: &SizeArgs) -> SizeArgs {
    let mut sizes = given.clone();
    if let (Some(axis), Some(tokens)) = (module.axis(), tokens)
        && sizes.size.iter().all(|(name, _)| name != axis)
    {
        sizes.size.push((axis.to_owned(), tokens));
    }
    sizes
}

/// Queries and keys: from the sizes where they fix the space, from `--tokens` and `--keys` elsewhere.
pub(crate) fn lengths(module: &Module, given: &LengthArgs, args: &SizeArgs) -> Outcome<(i64, i64)> {
    let total = module.tokens(&sizes_of(&args.size))?;
    let lengths = match (total, given.tokens, given.keys) {
        // A part of the queries of a fixed space needs a place.
        (Some(total), tokens, keys) => {
            let part = args.q_start.is_some() || args.k_start.is_some();
            let n_q = tokens.unwrap_or(total);
            let n_k = keys.unwrap_or(total);
            if !part && (n_q, n_k) != (total, total) {
                return Err(Failure::usage(
                    format!("the space has {total} tokens, and --tokens or --keys says otherwise"),
                    "leave them out, or give --q-start or --k-start as well to show a part",
                ));
            }
            (n_q, n_k)
        }
        (None, Some(n_q), keys) => (n_q, keys.unwrap_or(n_q)),
        (None, None, _) => return Err(Failure::usage("the number of tokens is not given", "add --tokens N")),
    };
    let last = |start: Option<i64>, count: i64| start.unwrap_or(0).saturating_add(count);
    let most = last(args.q_start, lengths.0).max(last(args.k_start, lengths.1));
    if most > attnc::MAX_LEN {
        return Err(Failure::usage(
            format!("{most} tokens are too many"),
            format!("at most {} are possible", attnc::MAX_LEN),
        ));
    }
    Ok(lengths)
}

/// Query heads and KV heads: those of the model, or those given.
pub(crate) fn heads(kernel: &Kernel, given: Option<i64>, kv: Option<i64>) -> Outcome<(i64, i64)> {
    match kernel.heads() {
        Some((heads, kv_heads)) => {
            if given.is_some_and(|h| h != heads) || kv.is_some_and(|g| g != kv_heads) {
                let name = &kernel.select().name;
                return Err(Failure::usage(
                    format!("model `{name}` has {heads} heads on {kv_heads}"),
                    "leave out --heads and --kv-heads, or name an attention of it",
                ));
            }
            Ok((heads, kv_heads))
        }
        None => {
            let heads = given.unwrap_or(1);
            let kv_heads = kv.unwrap_or(heads);
            if heads % kv_heads != 0 {
                return Err(Failure::usage(
                    format!("{heads} query heads do not map to {kv_heads} KV heads"),
                    "use as many KV heads as divide the query heads, or a model that writes the map",
                ));
            }
            Ok((heads, kv_heads))
        }
    }
}

/// A shape as its maps and tensors see it: with the heads of the output.
pub(crate) fn of_output(kernel: &Kernel, shape: Shape) -> Shape {
    let heads = usize::try_from(shape.heads).unwrap_or(0);
    Shape { heads: i64::try_from(kernel.output_heads(heads)).unwrap_or(i64::MAX), ..shape }
}

/// The kernel of a subject.
pub(crate) fn kernel(module: &Module, name: &str, sizes: &SizeArgs) -> Outcome<Kernel> {
    Ok(module.kernel(&Select::named(name).layer(sizes.layer).step(sizes.step))?)
}

/// Run-time data, owned.
#[derive(Debug, Default)]
pub(crate) struct Data {
    pub(crate) sizes: Vec<(String, i64)>,
    pub(crate) docs: Vec<i64>,
    pub(crate) maps: Vec<(String, Map)>,
    pub(crate) tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
    pub(crate) q_start: Option<i64>,
    pub(crate) k_start: Option<i64>,
    /// Queries and keys of each batch item, where it is padded.
    pub(crate) lengths: Vec<(i64, i64)>,
    /// Levels, scores and selections.
    pub(crate) supplied: Vec<Returned>,
}

/// A map, owned.
#[derive(Debug)]
pub(crate) enum Map {
    /// Bytes with their extents.
    Dense(Vec<u8>, Vec<usize>),
    /// Offsets and columns.
    Csr(Vec<i64>, Vec<i64>),
}

impl Data {
    /// Sizes, starts and document offsets of the command line; the last document ends with the keys.
    pub(crate) fn new(args: &SizeArgs, positions: i64) -> Data {
        let mut docs = args.docs.clone();
        if docs.last().is_some_and(|&last| last < positions) {
            docs.push(positions);
        }
        Data { sizes: args.size.clone(), docs, q_start: args.q_start, k_start: args.k_start, ..Data::default() }
    }

    /// Reads what a kernel wants and the file has.
    pub(crate) fn read(&mut self, file: &mut TensorFile, wants: &Wants) -> Outcome {
        for tensor in &wants.tensors {
            let name = &tensor.name;
            if file.has(name) {
                let stored = file.read(name)?;
                let values = stored.reals(name)?;
                self.tensors.push((name.clone(), stored.shape, values));
            }
        }
        for map in &wants.maps {
            let name = &map.name;
            if map.kind == MapKind::Csr {
                let (indptr, indices) = (format!("{name}.indptr"), format!("{name}.indices"));
                if file.has(&indptr) {
                    let offsets = file.read(&indptr)?.integers(&indptr)?;
                    let columns = file.read(&indices)?.integers(&indices)?;
                    self.maps.push((name.clone(), Map::Csr(offsets, columns)));
                }
            } else if map.kind == MapKind::Offsets && file.has(name) {
                self.maps.push((name.clone(), Map::Csr(file.read(name)?.integers(name)?, vec![])));
            } else if file.has(name) {
                let stored = file.read(name)?;
                self.maps.push((name.clone(), Map::Dense(stored.truths(name)?.to_vec(), stored.shape)));
            }
        }
        if wants.docs && self.docs.is_empty() && file.has("docs") {
            self.docs = file.read("docs")?.integers("docs")?;
        }
        Ok(())
    }

    /// Reads the levels, scores and selections of a kernel that a file has under their names.
    pub(crate) fn read_supplied(&mut self, path: &Path, kernel: &Kernel) -> Outcome {
        let mut file = TensorFile::open(path)?;
        let known = kernel.exchanged();
        for name in &known {
            if !file.has(name) {
                continue;
            }
            let stored = file.read(name)?;
            let Ok(shape) = <[usize; 4]>::try_from(stored.shape.as_slice()) else {
                let message = format!("tensor `{name}` has shape {:?}", stored.shape);
                let help = "levels, scores and selections have four axes: batch, heads, rows, columns";
                return Err(tensors::wrong("E0734", message, help));
            };
            let values = if stored.is_real() {
                ReturnedValues::Reals(stored.reals(name)?)
            } else {
                let slot = |slot| i32::try_from(slot).unwrap_or(i32::MAX);
                ReturnedValues::Slots(stored.integers(name)?.into_iter().map(slot).collect())
            };
            self.supplied.push(Returned { name: name.clone(), shape, values });
        }
        if self.supplied.is_empty() {
            let message =
                format!("`{}` has no level, score or selection of `{}`", path.display(), kernel.select().name);
            let help = match known.as_slice() {
                [] => "it has none".to_owned(),
                known => format!("they are: {}", known.join(", ")),
            };
            return Err(Failure::run("E0731", message, help));
        }
        Ok(())
    }

    /// Makes what a kernel wants and was not given, at random: a stream for each name, from the seed.
    ///
    /// Tensors are uniform in 0 .. 1. A dense map holds a pair with probability 1/4 and in any case the pairs on
    /// the line from its first corner to its last; a row of a compressed map holds up to 33 columns, the one on that line
    /// among them. Documents have uniform lengths of 1 to n / 3 + 1, parts of `offsets` of at most 127 of these.
    pub(crate) fn fill(&mut self, wants: &Wants, shape: Shape, seed: u64) -> Outcome {
        let positions = (self.q_start.unwrap_or(0) + shape.n_q).max(self.k_start.unwrap_or(0) + shape.n_k);
        let mut seed = seed.wrapping_mul(1 << 32);
        let mut stream = || {
            seed = seed.wrapping_add(1);
            attnc::random::Stream::new(seed as i64, 0, 0, 0)
        };
        for tensor in &wants.tensors {
            if self.tensors.iter().all(|(name, ..)| *name != tensor.name) {
                let mut stream = stream();
                let mut values = room(tensor.dims.iter().map(|&d| d as i128))?;
                let count = tensor.dims.iter().product();
                values.extend((0..count).map(|_: usize| (stream.word() >> 8) as f32 / 16_777_216.0));
                self.tensors.push((tensor.name.clone(), tensor.dims.clone(), values));
            }
        }
        for map in &wants.maps {
            if self.maps.iter().all(|(name, _)| *name != map.name) {
                let mut stream = stream();
                let heads = if map.per_head { shape.heads } else { 1 };
                let made = match map.kind {
                    MapKind::Bool => dense(&mut stream, map.per_head, heads, shape.n_q, shape.n_k)?,
                    MapKind::Blocks(b) => {
                        let (rows, cols) = (div_ceil(shape.n_q, b), div_ceil(shape.n_k, b));
                        dense(&mut stream, map.per_head, heads, rows, cols)?
                    }
                    MapKind::Csr => compressed(&mut stream, heads, shape.n_q, shape.n_k)?,
                    MapKind::Offsets => Map::Csr(parts(&mut stream, shape.n_k, 127), vec![]),
                };
                self.maps.push((map.name.clone(), made));
            }
        }
        if wants.docs && self.docs.is_empty() {
            self.docs = parts(&mut stream(), positions, u32::MAX);
        }
        Ok(())
    }

    /// As the library takes it.
    pub(crate) fn inputs(&self) -> Inputs<'_> {
        fn map(map: &Map) -> MapInput<'_> {
            match map {
                Map::Dense(data, shape) => MapInput::Dense { data, shape },
                Map::Csr(indptr, indices) => MapInput::Csr { indptr, indices },
            }
        }
        let tensors = self.tensors.iter();
        Inputs {
            sizes: sizes_of(&self.sizes),
            docs: &self.docs,
            maps: self.maps.iter().map(|(name, m)| (name.as_str(), map(m))).collect(),
            tensors: tensors
                .map(|(name, dims, data)| (name.as_str(), TensorData { data: data.into(), dims: dims.clone() }))
                .collect(),
            rows: None,
            q_start: self.q_start,
            k_start: self.k_start,
            lengths: self.lengths.clone(),
            supplied: self.supplied.iter().map(Returned::supply).collect(),
        }
    }
}

/// How many parts of `size` cover `n`; both are not negative, and a size of 0 counts as 1.
pub(crate) fn div_ceil(n: i64, size: i64) -> i64 {
    n / size.max(1) + i64::from(n % size.max(1) > 0)
}

/// An empty list with room for the product of these extents, or an error if there is no memory for it.
fn room<T>(extents: impl IntoIterator<Item = i128>) -> Outcome<Vec<T>> {
    let mut list = Vec::new();
    let count = extents.into_iter().try_fold(1_i128, i128::checked_mul).and_then(|n| usize::try_from(n).ok());
    match count.map(|n| list.try_reserve_exact(n)) {
        Some(Ok(())) => Ok(list),
        _ => Err(Failure::run(
            "E0733",
            "there is no memory for the maps and tensors of these lengths",
            "use fewer tokens",
        )),
    }
}

fn dense(stream: &mut attnc::random::Stream, per_head: bool, heads: i64, rows: i64, cols: i64) -> Outcome<Map> {
    let mut data = room([heads, rows, cols].map(i128::from))?;
    for _ in 0..heads {
        for row in 0..rows {
            let own = row * cols / rows.max(1);
            data.extend((0..cols).map(|col| u8::from(stream.below(4) == 0 || col == own)));
        }
    }
    let extent = |n: i64| usize::try_from(n).unwrap_or(0);
    let mut shape = vec![extent(rows), extent(cols)];
    if per_head {
        shape.insert(0, extent(heads));
    }
    Ok(Map::Dense(data, shape))
}

/// Boundaries of parts of 1 to n / 3 + 1 positions, and at most `most`.
fn parts(stream: &mut attnc::random::Stream, positions: i64, most: u32) -> Vec<i64> {
    let longest = u32::try_from(positions / 3 + 1).unwrap_or(u32::MAX).min(most);
    let mut parts = vec![0];
    let mut at = 0;
    while at < positions {
        at = (at + 1 + i64::from(stream.below(longest))).min(positions);
        parts.push(at);
    }
    parts
}

fn compressed(stream: &mut attnc::random::Stream, heads: i64, rows: i64, cols: i64) -> Outcome<Map> {
    let mut indptr = room([heads, rows + 1].map(i128::from))?;
    let mut indices: Vec<i64> = room([heads, rows, cols.min(33)].map(i128::from))?;
    for _ in 0..heads {
        let begin = indices.len();
        indptr.extend([0]);
        for row in 0..rows {
            let mut columns = Vec::new();
            if cols > 0 {
                let bound = u32::try_from(cols).unwrap_or(u32::MAX);
                columns.extend((0..cols.min(32)).map(|_| i64::from(stream.below(bound))));
                columns.push(row * cols / rows);
            }
            columns.sort_unstable();
            columns.dedup();
            indices.extend(columns);
            indptr.push((indices.len() - begin) as i64);
        }
    }
    Ok(Map::Csr(indptr, indices))
}

#[cfg(test)]
mod tests {
    use super::*;
    use attnc::{WantedMap, WantedTensor};

    #[test]
    fn made_data_fit_what_is_wanted() {
        let wants = Wants {
            tensors: vec![WantedTensor { name: "t".into(), dims: vec![2, 3] }],
            maps: vec![
                WantedMap { name: "b".into(), kind: MapKind::Blocks(4), per_head: true },
                WantedMap { name: "c".into(), kind: MapKind::Csr, per_head: false },
            ],
            docs: true,
        };
        let shape = Shape { n_q: 5, n_k: 9, heads: 2, dim: 8 };
        let mut data = Data::default();
        data.fill(&wants, shape, 3).expect("fits");
        assert_eq!(data.tensors[0].2.len(), 6);
        let Map::Dense(bytes, extents) = &data.maps[0].1 else { panic!("dense") };
        assert_eq!((bytes.len(), extents.as_slice()), (12, &[2, 2, 3][..]));
        let Map::Csr(indptr, indices) = &data.maps[1].1 else { panic!("csr") };
        assert_eq!((indptr.len(), *indptr.last().expect("rows")), (6, indices.len() as i64));
        assert!(indices.iter().all(|&c| (0..9).contains(&c)));
        assert!(data.docs.is_sorted() && data.docs[0] == 0 && data.docs.last() == Some(&9));
        let mut again = Data::default();
        again.fill(&wants, shape, 3).expect("fits");
        assert_eq!(again.docs, data.docs);
    }

    #[test]
    fn the_last_document_ends_with_the_keys() {
        let args = SizeArgs { docs: vec![0, 100], ..SizeArgs::default() };
        assert_eq!(Data::new(&args, 250).docs, [0, 100, 250]);
        assert_eq!(Data::new(&args, 100).docs, [0, 100]);
        assert!(Data::new(&SizeArgs::default(), 9).docs.is_empty());
    }
}
