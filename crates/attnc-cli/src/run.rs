//! `attnc run`: tensors in, tensors out.

use std::time::Instant;

use attnc::{DType, Kernel, Problem, Resources, Returned, Shape, Tensor, TensorMut, Threads};

use crate::args::{RunArgs, Target};
use crate::files;
use crate::machine;
use crate::report::{Failure, Outcome, Reporter};
use crate::subject::{self, Data};
use crate::tensors::{self, Buffer, Stored, TensorFile};

pub(crate) fn run(args: &RunArgs, reporter: Reporter) -> Outcome {
    let module = subject::module(&args.subject.path, subject::options(&args.set, &args.target), reporter)?;
    let name = subject::name_of(&module, &args.subject)?;
    let kernel = subject::kernel(&module, &name, &args.sizes)?;
    let threads = threads(args.threads)?;

    let mut file = TensorFile::open(&args.input)?;
    let given = Given::read(&mut file, &args.q, &args.k, &args.v)?;
    let shape = given.shape()?;
    // A part of the keys does not tell how many there are.
    let tokens = args.sizes.k_start.is_none().then_some(shape.n_k);
    let mut data = Data::new(&subject::sized(&module, tokens, &args.sizes), shape.n_q.max(shape.n_k));
    data.lengths = padding(&mut file, &given)?;
    data.read(&mut file, &kernel.wants(shape, &subject::sizes_of(&data.sizes))?)?;
    if let Some(path) = &args.supplied {
        data.read_supplied(path, &kernel)?;
    }
    let inputs = data.inputs();

    let dtype = match args.out_dtype {
        Some(element) => element.dtype(),
        None => given.q.dtype("q")?,
    };
    let mut results = Results::new(&kernel, &given, dtype)?;
    let begin = Instant::now();
    let mut problem = results.problem(&given, inputs)?;
    let names: Vec<&str> = args.returned.iter().map(String::as_str).collect();
    let (target, returned) = execute(&kernel, &args.target, &threads, &names, &mut problem)?;
    let taken = machine::nanos(begin);

    // Outputs have a batch axis if the inputs have one.
    let (out, lse) = (results.out_shape, results.lse_shape);
    let (out, lse) = if given.q.shape.len() == 3 { (&out[1..], &lse[1..3]) } else { (&out[..], &lse[..3]) };
    let stored = [("out", dtype, out, results.out.bytes()), ("lse", DType::F32, lse, results.lse.bytes())];
    tensors::write(&args.output, &stored, &returned)?;
    files::print(&format!(
        "{name}: plan {} on {target}, {} threads, {}\n",
        kernel.hash(),
        threads.count(),
        machine::time(taken)
    ))
}

/// Runs a kernel on its target; the name of what ran, and what it hands back.
fn execute(
    kernel: &Kernel,
    target: &Target,
    threads: &Threads,
    names: &[&str],
    problem: &mut Problem<'_>,
) -> Outcome<(String, Vec<Returned>)> {
    #[cfg(feature = "gpu")]
    if let Some(gpu) = crate::gpu::open(target)? {
        if let Some(name) = names.first() {
            let message = format!("`{name}` is asked for, and a GPU hands nothing back but its output");
            return Err(Failure::run("E0620", message, "run it on the CPU: `--target cpu`"));
        }
        let session = crate::gpu::run(kernel, &gpu, problem)?;
        return Ok((format!("gpu:{}", session.variant().name()), Vec::new()));
    }
    let resources = Resources { threads: Some(threads), ..Resources::default() };
    let returned = match names {
        [] => {
            kernel.run(problem, resources)?;
            Vec::new()
        }
        names => kernel.run_returning(problem, resources, names)?,
    };
    let ran = match (target, kernel.isa()) {
        (Target::Oracle, _) => "oracle".to_owned(),
        (_, Some(isa)) => format!("cpu:{}", isa.name()),
        (_, None) => "cpu".to_owned(),
    };
    Ok((ran, returned))
}

/// A pool of as many threads as asked for, or as there are cores.
pub(crate) fn threads(given: Option<i64>) -> Outcome<Threads> {
    let count = given.map_or_else(machine::cores, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if count > 4096 {
        return Err(Failure::usage(format!("{count} threads are too many"), "at most 4096 are possible"));
    }
    Threads::new(count).map_err(|why| Failure::run("E0735", why.message, "use fewer --threads"))
}

/// Q, K and V.
pub(crate) struct Given {
    pub(crate) q: Stored,
    pub(crate) k: Stored,
    pub(crate) v: Stored,
}

impl Given {
    /// Reads them by their names.
    pub(crate) fn read(file: &mut TensorFile, q: &str, k: &str, v: &str) -> Outcome<Given> {
        let given = Given { q: file.read(q)?, k: file.read(k)?, v: file.read(v)? };
        for (name, tensor) in [(q, &given.q), (k, &given.k), (v, &given.v)] {
            tensor.tensor(name)?;
        }
        Ok(given)
    }

    /// Makes them at random.
    pub(crate) fn random(dtype: DType, q: [usize; 4], k: [usize; 4], dv: usize, seed: u64) -> Outcome<Given> {
        let v = [k[0], k[1], k[2], dv];
        Ok(Given {
            q: tensors::normal(dtype, q, seed.wrapping_mul(3))?,
            k: tensors::normal(dtype, k, seed.wrapping_mul(3).wrapping_add(1))?,
            v: tensors::normal(dtype, v, seed.wrapping_mul(3).wrapping_add(2))?,
        })
    }

    /// Lengths and counts.
    pub(crate) fn shape(&self) -> Outcome<Shape> {
        let [_, heads, n_q, dim] = self.q.extents("q")?.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let n_k = i64::try_from(self.k.extents("k")?[2]).unwrap_or(i64::MAX);
        Ok(Shape { n_q, n_k, heads, dim })
    }
}

/// Queries and keys of each batch item, if the file has `q_lengths` or `k_lengths`.
pub(crate) fn padding(file: &mut TensorFile, given: &Given) -> Outcome<Vec<(i64, i64)>> {
    let (q, k) = (given.q.extents("q")?, given.k.extents("k")?);
    let mut of = |name: &str, rows: usize| -> Outcome<Option<Vec<i64>>> {
        if !file.has(name) {
            return Ok(None);
        }
        let lengths = file.read(name)?.integers(name)?;
        if lengths.len() != q[0] || lengths.iter().any(|&n| n < 0 || n > rows as i64) {
            let message = format!("`{name}` should hold {} lengths of 0 to {rows}", q[0]);
            return Err(tensors::wrong("E0734", message, "one length for each batch item"));
        }
        Ok(Some(lengths))
    };
    let (queries, keys) = (of("q_lengths", q[2])?, of("k_lengths", k[2])?);
    if queries.is_none() && keys.is_none() {
        return Ok(Vec::new());
    }
    let queries = queries.unwrap_or_else(|| vec![q[2] as i64; q[0]]);
    let keys = keys.unwrap_or_else(|| vec![k[2] as i64; q[0]]);
    Ok(queries.into_iter().zip(keys).collect())
}

/// Memory for the output and the log-sum-exp.
pub(crate) struct Results {
    pub(crate) out: Buffer,
    pub(crate) lse: Buffer,
    pub(crate) out_shape: [usize; 4],
    pub(crate) lse_shape: [usize; 4],
    pub(crate) dtype: DType,
}

impl Results {
    /// For what a kernel makes of these tensors.
    pub(crate) fn new(kernel: &Kernel, given: &Given, dtype: DType) -> Outcome<Results> {
        let ([batch, heads, rows, _], dv) = (given.q.extents("q")?, given.v.extents("v")?[3]);
        let heads = kernel.output_heads(heads);
        let (out_shape, lse_shape) = ([batch, heads, rows, dv], [batch, heads, rows, 1]);
        let bytes = |shape: [usize; 4], size: usize| {
            let count = shape.iter().try_fold(size, |n, &d| n.checked_mul(d));
            Buffer::zeroed(count.unwrap_or(usize::MAX))
        };
        Ok(Results { out: bytes(out_shape, dtype.size())?, lse: bytes(lse_shape, 4)?, out_shape, lse_shape, dtype })
    }

    /// A launch that writes here.
    pub(crate) fn problem<'a>(&'a mut self, given: &'a Given, inputs: attnc::Inputs<'a>) -> Outcome<Problem<'a>> {
        let of = |name: &'static str| move |e: attnc::LayoutError| tensors::layout(name, &e);
        Ok(Problem {
            q: given.q.tensor("q")?,
            k: given.k.tensor("k")?,
            v: given.v.tensor("v")?,
            out: TensorMut::contiguous(self.out.bytes_mut(), self.dtype, self.out_shape).map_err(of("out"))?,
            lse: Some(TensorMut::contiguous(self.lse.bytes_mut(), DType::F32, self.lse_shape).map_err(of("lse"))?),
            inputs,
        })
    }

    /// What was written.
    pub(crate) fn tensors(&self) -> Outcome<(Tensor<'_>, Tensor<'_>)> {
        let of = |name: &'static str| move |e: attnc::LayoutError| tensors::layout(name, &e);
        Ok((
            Tensor::contiguous(self.out.bytes(), self.dtype, self.out_shape).map_err(of("out"))?,
            Tensor::contiguous(self.lse.bytes(), DType::F32, self.lse_shape).map_err(of("lse"))?,
        ))
    }
}
