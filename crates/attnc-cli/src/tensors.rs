//! Tensors in files and at random.
//!
//! One idea: a safetensors file is never trusted and never read whole. Its header is parsed and held against the
//! length of the file; then the tensors that are asked for are read, each once, into aligned memory. Random
//! tensors come from one documented generator, the same on every machine and for any number of threads.
//! Nothing here knows of attention.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use attnc::{CodeInfo, DType, Diagnostic, Diagnostics, Returned, ReturnedValues};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::args::Element;
use crate::files::{Output, write_failure};
use crate::report::{Failure, Outcome};

/// Most bytes of a header; the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// Addresses of tensors are multiples of this.
const ALIGN: usize = 64;

impl Element {
    /// The element type as the library names it.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Element::F32 => DType::F32,
            Element::F16 => DType::F16,
            Element::Bf16 => DType::Bf16,
        }
    }
}

/// Name of an element type.
pub(crate) fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::F16 => "f16",
        DType::Bf16 => "bf16",
    }
}

/// Aligned bytes.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    at: usize,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes, or an error if there is no memory for them.
    pub(crate) fn zeroed(len: usize) -> Outcome<Buffer> {
        let no_memory = || {
            let message = format!("there is no memory for {len} bytes");
            Failure::run("E0733", message, "use fewer tokens or heads, or a smaller element type")
        };
        let whole = len.checked_add(ALIGN).ok_or_else(no_memory)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(whole).map_err(|_| no_memory())?;
        bytes.resize(whole, 0);
        let at = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Ok(Buffer { bytes, at, len })
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.at..self.at + self.len]
    }

    /// The bytes, to be written.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.at..self.at + self.len]
    }
}

/// A tensor in memory.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Buffer,
}

impl Stored {
    /// The type, if kernels can read it.
    pub(crate) fn dtype(&self, name: &str) -> Outcome<DType> {
        match self.dtype {
            Dtype::F32 => Ok(DType::F32),
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::Bf16),
            other => Err(wrong_type(name, other, "f32, f16 or bf16")),
        }
    }

    /// `[heads, tokens, dim]` or `[batch, heads, tokens, dim]` as four extents.
    pub(crate) fn extents(&self, name: &str) -> Outcome<[usize; 4]> {
        match *self.shape.as_slice() {
            [heads, tokens, dim] => Ok([1, heads, tokens, dim]),
            [batch, heads, tokens, dim] => Ok([batch, heads, tokens, dim]),
            _ => Err(Failure::run(
                "E0734",
                format!("tensor `{name}` has shape {:?}", self.shape),
                "[heads, tokens, dim] or [batch, heads, tokens, dim] is wanted",
            )),
        }
    }

    /// As a borrowed tensor of the library.
    pub(crate) fn tensor(&self, name: &str) -> Outcome<attnc::Tensor<'_>> {
        let (dtype, shape) = (self.dtype(name)?, self.extents(name)?);
        attnc::Tensor::contiguous(self.data.bytes(), dtype, shape).map_err(|e| layout(name, &e))
    }

    /// Whether its elements are reals.
    pub(crate) fn is_real(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64)
    }

    /// As reals.
    pub(crate) fn reals(&self, name: &str) -> Outcome<Vec<f32>> {
        let bytes = self.data.bytes();
        Ok(match self.dtype {
            Dtype::F32 => each(bytes, f32::from_le_bytes),
            Dtype::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
            other => return Err(wrong_type(name, other, "f32, f16, bf16 or f64")),
        })
    }

    /// As integers.
    pub(crate) fn integers(&self, name: &str) -> Outcome<Vec<i64>> {
        let bytes = self.data.bytes();
        Ok(match self.dtype {
            Dtype::I64 => each(bytes, i64::from_le_bytes),
            Dtype::I32 => each(bytes, |b| i32::from_le_bytes(b).into()),
            Dtype::U32 => each(bytes, |b| u32::from_le_bytes(b).into()),
            other => return Err(wrong_type(name, other, "i64, i32 or u32")),
        })
    }

    /// As truth values of one byte.
    pub(crate) fn truths(&self, name: &str) -> Outcome<&[u8]> {
        match self.dtype {
            Dtype::BOOL | Dtype::U8 | Dtype::I8 => Ok(self.data.bytes()),
            other => Err(wrong_type(name, other, "bool or u8")),
        }
    }
}

fn each<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&b| read(b)).collect()
}

fn wrong_type(name: &str, found: Dtype, wanted: &str) -> Failure {
    Failure::run("E0732", format!("tensor `{name}` is of {found}"), format!("{wanted} is wanted"))
}

/// A tensor that does not fit its memory.
pub(crate) fn layout(name: &str, error: &attnc::LayoutError) -> Failure {
    Failure::run("E0734", format!("tensor `{name}`: {error}"), "check its shape")
}

/// A safetensors file whose header has been read.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    file: File,
    /// Where the data begin.
    data: u64,
    metadata: Metadata,
    /// Names that begin with this are looked for first.
    prefix: String,
}

impl TensorFile {
    /// Reads the header and holds it against the length of the file.
    pub(crate) fn open(path: &Path) -> Outcome<TensorFile> {
        let shown = path.display().to_string();
        let unreadable = |e: &std::io::Error| {
            let error = match e.kind() {
                std::io::ErrorKind::NotFound => attnc::LoadError::NotFound,
                std::io::ErrorKind::IsADirectory => attnc::LoadError::Directory,
                _ => attnc::LoadError::Other(e.to_string()),
            };
            Failure::file(error.diagnostic(&shown, None))
        };
        let wrong = |why: String| {
            let help =
                "safetensors: 8 bytes of header length, a JSON header, then the data, nothing less and nothing more";
            Failure::run("E0730", format!("`{shown}` is not a safetensors file: {why}"), help)
        };
        let mut file = File::open(path).map_err(|e| unreadable(&e))?;
        let meta = file.metadata().map_err(|e| unreadable(&e))?;
        if meta.is_dir() {
            return Err(Failure::file(attnc::LoadError::Directory.diagnostic(&shown, None)));
        }
        let whole = meta.len();
        let mut head = [0; 8];
        file.read_exact(&mut head).map_err(|_| wrong(format!("it has {whole} bytes")))?;
        let length = u64::from_le_bytes(head);
        if length > MAX_HEADER || length > whole.saturating_sub(8) {
            return Err(wrong(format!("it has {whole} bytes and says that its header has {length}")));
        }
        // At most MAX_HEADER bytes, which the file has.
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(|e| unreadable(&e))?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| wrong(format!("its header is wrong: {e}")))?;
        let data = 8 + length;
        let told = data.checked_add(metadata.data_len() as u64);
        if told != Some(whole) {
            let told = told.map_or("too many".to_owned(), |n| n.to_string());
            return Err(wrong(format!("it has {whole} bytes, and its header tells of {told}")));
        }
        Ok(TensorFile { path: path.to_path_buf(), file, data, metadata, prefix: String::new() })
    }

    /// Looks for names behind this prefix first, and then without it.
    pub(crate) fn look_behind(&mut self, prefix: &str) {
        prefix.clone_into(&mut self.prefix);
    }

    /// Names of its tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(&format!("{}{name}", self.prefix)).or_else(|| self.metadata.info(name))
    }

    /// Whether it holds a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.info(name).is_some()
    }

    /// Reads a tensor.
    pub(crate) fn read(&mut self, name: &str) -> Outcome<Stored> {
        let Some(TensorInfo { dtype, shape, data_offsets: (begin, end) }) = self.info(name).cloned() else {
            let mut names: Vec<String> = self.metadata.offset_keys();
            names.sort_unstable();
            names.truncate(20);
            let message = format!("`{}` has no tensor `{name}`", self.path.display());
            return Err(Failure::run("E0731", message, format!("it has: {}", names.join(", "))));
        };
        let mut data = Buffer::zeroed(end - begin)?;
        let read = self
            .file
            .seek(SeekFrom::Start(self.data + begin as u64))
            .and_then(|_| self.file.read_exact(data.bytes_mut()));
        read.map_err(|e| Failure::run("E0730", format!("`{}`: {e}", self.path.display()), "check the file"))?;
        Ok(Stored { dtype, shape, data })
    }
}

/// Writes tensors, and what was handed back beside them, as a safetensors file that appears when it is complete.
pub(crate) fn write(path: &Path, tensors: &[(&str, DType, &[usize], &[u8])], beside: &[Returned]) -> Outcome {
    let of = |dtype| match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
    };
    let bytes: Vec<(Dtype, Vec<u8>)> = beside
        .iter()
        .map(|returned| match &returned.values {
            ReturnedValues::Reals(reals) => (Dtype::F32, reals.iter().flat_map(|x| x.to_le_bytes()).collect()),
            ReturnedValues::Slots(slots) => (Dtype::I32, slots.iter().flat_map(|x| x.to_le_bytes()).collect()),
        })
        .collect();
    let tensors = tensors.iter().map(|&(name, dtype, shape, bytes)| (name, of(dtype), shape, bytes));
    let beside =
        beside.iter().zip(&bytes).map(|(r, (dtype, bytes))| (r.name.as_str(), *dtype, &r.shape[..], &bytes[..]));
    store(path, None, &tensors.chain(beside).collect::<Vec<_>>())
}

/// Writes arrays of any type, and texts about them.
pub(crate) fn store(
    path: &Path,
    about: Option<HashMap<String, String>>,
    arrays: &[(&str, Dtype, &[usize], &[u8])],
) -> Outcome {
    let mut at = 0;
    let mut infos = Vec::new();
    for &(name, dtype, shape, bytes) in arrays {
        let info = TensorInfo { dtype, shape: shape.to_vec(), data_offsets: (at, at + bytes.len()) };
        infos.push((name.to_owned(), info));
        at += bytes.len();
    }
    let wrong = |e: String| Failure::run("E0734", format!("the outputs cannot be stored: {e}"), "check their shapes");
    let metadata = Metadata::new(about, infos).map_err(|e| wrong(e.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| wrong(e.to_string()))?;
    // The data begin at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut output = Output::open(Some(path))?;
    let mut all = || {
        output.write_all(&(header.len() as u64).to_le_bytes())?;
        output.write_all(&header)?;
        arrays.iter().try_for_each(|(.., bytes)| output.write_all(bytes))
    };
    all().map_err(|e| write_failure(&e))?;
    output.finish()
}

/// Elements that one stream of the generator fills.
const CHUNK: usize = 1 << 16;

/// A tensor of independent N(0, 1), rounded to its type. Chunk c of 65,536 elements, row-major, is the
/// library's `fill_normal` with seed `seed * 2^32 + c`.
pub(crate) fn normal(dtype: DType, shape: [usize; 4], seed: u64) -> Outcome<Stored> {
    let elements = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    let bytes = elements.and_then(|n| n.checked_mul(dtype.size())).ok_or_else(|| {
        Failure::run("E0734", format!("a tensor of shape {shape:?} is too large"), "use fewer tokens or heads")
    })?;
    let mut data = Buffer::zeroed(bytes)?;
    let mut chunks: Vec<(u64, &mut [u8])> = (0..).zip(data.bytes_mut().chunks_mut(CHUNK * dtype.size())).collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(chunks.len().max(1));
    let share = chunks.len().div_ceil(workers).max(1);
    std::thread::scope(|scope| {
        for part in chunks.chunks_mut(share) {
            scope.spawn(move || {
                let mut values = vec![0.0_f32; CHUNK];
                for (c, bytes) in part {
                    let values = &mut values[..bytes.len() / dtype.size()];
                    attnc::random::fill_normal(seed.wrapping_mul(1 << 32).wrapping_add(*c), values);
                    encode(dtype, values, bytes);
                }
            });
        }
    });
    let dtype = match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
    };
    Ok(Stored { dtype, shape: shape.to_vec(), data })
}

/// Rounds values to a type.
fn encode(dtype: DType, values: &[f32], bytes: &mut [u8]) {
    match dtype {
        DType::F32 => bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(b, v)| *b = v.to_le_bytes()),
        DType::F16 => {
            bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(b, &v)| *b = f16::from_f32(v).to_le_bytes());
        }
        DType::Bf16 => {
            bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(b, &v)| *b = bf16::from_f32(v).to_le_bytes());
        }
    }
}

/// Diagnostics of tensors in files.
pub(crate) const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: "E0730",
        title: "a file is not safetensors",
        explain: "The file is truncated, or its header tells of other lengths than it has. Nothing of such a file is used.",
        example: "",
    },
    CodeInfo {
        code: "E0731",
        title: "a tensor is missing from a file",
        explain: "Names of Q, K and V are `q`, `k` and `v` unless --q, --k, --v say otherwise; tensors and maps of the program \
                  stand under their own names, compressed rows as `NAME.indptr` and `NAME.indices`, document offsets as `docs`.",
        example: "",
    },
    CodeInfo {
        code: "E0732",
        title: "a tensor has a type that does not serve",
        explain: "Q, K and V are f32, f16 or bf16; dense maps bool or u8; offsets and indices i64, i32 or u32.",
        example: "",
    },
    CodeInfo {
        code: "E0733",
        title: "there is no memory for a tensor",
        explain: "Inputs and outputs are held in memory whole.",
        example: "",
    },
    CodeInfo {
        code: "E0734",
        title: "a tensor has a shape that does not serve",
        explain: "Q, K and V are [heads, tokens, dim] or [batch, heads, tokens, dim].",
        example: "",
    },
];

/// Diagnostics that say something is wrong with one tensor, for callers that make their own sentence.
pub(crate) fn wrong(code: &'static str, message: String, help: &str) -> Failure {
    Failure::from(Diagnostics::from(Diagnostic::global(code, message).help(help)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("attnc-tensors-{}-{name}", std::process::id()))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let path = scratch("round");
        let made = normal(DType::Bf16, [1, 2, 3, 5], 7).expect("fits");
        write(&path, &[("out", DType::Bf16, &[2, 3, 5], made.data.bytes()), ("lse", DType::F32, &[0], &[])], &[])
            .expect("writes");
        let mut file = TensorFile::open(&path).expect("opens");
        let read = file.read("out").expect("is there");
        assert_eq!((read.shape.as_slice(), read.data.bytes()), (&[2, 3, 5][..], made.data.bytes()));
        assert!(file.has("lse") && file.read("v").is_err());
        std::fs::remove_file(path).expect("cleans up");
    }

    #[test]
    fn lies_are_seen() {
        let path = scratch("lies");
        write(&path, &[("q", DType::F32, &[2, 2], &[0; 16])], &[]).expect("writes");
        let good = std::fs::read(&path).expect("reads");
        let mut cases: Vec<Vec<u8>> = (0..good.len()).map(|n| good[..n].to_vec()).collect();
        cases.push([&good[..], b"x"].concat());
        cases.push([&u64::MAX.to_le_bytes()[..], &good[8..]].concat());
        let text = String::from_utf8(good[8..good.len() - 16].to_vec()).expect("JSON");
        for (from, to) in
            [("[2,2]", "[2,3]"), ("[2,2]", "[4294967296,4294967296]"), ("16]", "99]"), ("F32", "F64"), ("{", "[")]
        {
            let header = text.replacen(from, to, 1);
            cases.push([&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat());
        }
        for (i, case) in cases.iter().enumerate() {
            std::fs::write(&path, case).expect("writes");
            let failure = TensorFile::open(&path).expect_err(&format!("case {i}"));
            assert_eq!((failure.exit, failure.diagnostics.list[0].code), (4, "E0730"), "case {i}");
        }
        std::fs::remove_file(path).expect("cleans up");
    }

    #[test]
    fn chunks_are_streams_of_their_own() {
        let whole = normal(DType::F32, [1, 1, 2, CHUNK], 3).expect("fits").reals("x").expect("reals");
        let mut second = vec![0.0; CHUNK];
        attnc::random::fill_normal((3 << 32) + 1, &mut second);
        assert_eq!(whole[CHUNK..], second[..]);
    }
}
