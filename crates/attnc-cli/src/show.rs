//! `attnc show`: rows, tiles and pictures of one head.
//!
//! Rows and tiles are written as they are computed, so that a million rows need no memory.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::ops::Range;

use attnc::{AttendedRow, DType, EvalError, Kernel, Module, Run, Shape, TileRun, View};
use attnc_host::Grid;

use crate::args::{ShowArgs, ShowAs, Target};
use crate::files::{Output, write_failure};
use crate::report::{Failure, Outcome, Reporter};
use crate::run::{Given, Results};
use crate::subject::{self, Data};
use crate::tensors::TensorFile;

/// Dimension of random queries, keys and values.
const DIM: usize = 16;
/// Columns of a terminal picture, two for each cell.
const COLUMNS: i64 = 128;
/// Pixels of an SVG or PNG.
const PIXELS: i64 = 512;
/// Cells of an SVG: each may be a rectangle.
const CELLS: i64 = 256;
/// Cells or pixels of any picture, each way.
const MOST: i64 = 8192;

pub(crate) fn show(args: &ShowArgs, reporter: Reporter) -> Outcome {
    let module = subject::module(&args.subject.path, subject::options(&args.set, &Target::Oracle), reporter)?;
    let name = subject::name_of(&module, &args.subject)?;
    let kernel = subject::kernel(&module, &name, &args.sizes)?;
    if kernel.reads_rows() || usize::try_from(args.head).is_ok_and(|head| kernel.is_dynamic(head)) {
        return dynamic(args, &module, &kernel);
    }
    let sizes = subject::sized(&module, args.lengths.keys.or(args.lengths.tokens), &args.sizes);
    let (n_q, n_k) = subject::lengths(&module, &args.lengths, &sizes)?;
    let (heads, _) = match kernel.heads() {
        Some(heads) => heads,
        None => subject::heads(&kernel, Some(args.heads.unwrap_or(args.head.saturating_add(1))), None)?,
    };
    let heads = subject::of_output(&kernel, Shape { n_q, n_k, heads, dim: 64 }).heads;
    if args.head >= heads {
        return Err(Failure::usage(format!("there is no head {}", args.head), format!("there are {heads}, from 0")));
    }
    // The dimension matters to scales alone, and nothing here has one.
    let shape = Shape { n_q, n_k, heads, dim: 64 };
    let mut data = Data::new(&sizes, n_q.max(n_k));
    if let Some(path) = &args.input {
        data.read(&mut TensorFile::open(path)?, &kernel.wants(shape, &subject::sizes_of(&data.sizes))?)?;
    }
    if let Some(path) = &args.supplied {
        data.read_supplied(path, &kernel)?;
    }
    if let Some(seed) = args.seed {
        data.fill(&kernel.wants(shape, &subject::sizes_of(&data.sizes))?, shape, seed.unsigned_abs())?;
    }
    let inputs = data.inputs();
    let view = kernel.view(args.head, shape, &inputs)?;
    let mut output = Output::open(args.output.as_deref())?;
    draw(&mut output, &view, args)?;
    output.finish()
}

/// Rows and pictures of what depends on the data: by the definition, from tensors of a file or at random.
fn dynamic(args: &ShowArgs, module: &Module, kernel: &Kernel) -> Outcome {
    let mut file = args.input.as_ref().map(|path| TensorFile::open(path)).transpose()?;
    // Where nothing is selected, any values show the pairs.
    let selects = kernel.reads_rows() || usize::try_from(args.head).is_ok_and(|head| kernel.selects(head));
    let given = match (&mut file, args.seed.or((!selects).then_some(0))) {
        (Some(file), _) if file.has("q") => Given::read(file, "q", "k", "v")?,
        (_, Some(seed)) => {
            let sizes = subject::sized(module, args.lengths.keys.or(args.lengths.tokens), &args.sizes);
            let (n_q, n_k) = subject::lengths(module, &args.lengths, &sizes)?;
            let (heads, kv) = match kernel.heads() {
                Some(heads) => heads,
                None => subject::heads(kernel, Some(args.heads.unwrap_or(args.head.saturating_add(1))), None)?,
            };
            let n = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
            let (q, k) = ([1, n(heads), n(n_q), DIM], [1, n(kv), n(n_k), DIM]);
            Given::random(DType::F32, q, k, DIM, seed.unsigned_abs())?
        }
        _ => {
            let help = "give --input FILE with `q`, `k` and `v`, or --seed N for random ones";
            return Err(Failure::usage("this attention depends on the data", help));
        }
    };
    let shape = given.shape()?;
    let heads = subject::of_output(kernel, shape).heads;
    if args.head >= heads {
        return Err(Failure::usage(format!("there is no head {}", args.head), format!("there are {heads}, from 0")));
    }
    let tokens = args.sizes.k_start.is_none().then_some(shape.n_k);
    let mut data = Data::new(&subject::sized(module, tokens, &args.sizes), shape.n_q.max(shape.n_k));
    let wants = kernel.wants(shape, &subject::sizes_of(&data.sizes))?;
    if let Some(file) = &mut file {
        data.read(file, &wants)?;
    }
    if let Some(seed) = args.seed {
        data.fill(&wants, shape, seed.unsigned_abs())?;
    }
    if let Some(path) = &args.supplied {
        data.read_supplied(path, kernel)?;
    }
    let mut results = Results::new(kernel, &given, DType::F32)?;
    let problem = results.problem(&given, data.inputs())?;
    let found = kernel.attended(&problem, usize::try_from(args.head).unwrap_or(0))?;
    let wanted = args.rows.clone().unwrap_or(0..i64::MAX);
    let range = wanted.start.min(shape.n_q)..wanted.end.min(shape.n_q);
    let mut output = Output::open(args.output.as_deref())?;
    let grid = |most: i64| Grid::of_rows(&found, range.clone(), most);
    let width = args.width.unwrap_or(PIXELS).min(MOST);
    let bytes = match args.form {
        ShowAs::Rows => {
            let mut text = Vec::new();
            for row in range.clone() {
                let of_row = usize::try_from(row).ok().and_then(|row| found.rows.get(row));
                write_attended(&mut text, row, of_row.unwrap_or(&AttendedRow::default()))
                    .map_err(|e| write_failure(&e))?;
            }
            text
        }
        ShowAs::Tiles => {
            let help = "rows and pictures are shown: `--as rows`";
            return Err(Failure::usage("tiles of what depends on the data are not known", help));
        }
        ShowAs::Picture => grid((args.width.unwrap_or(COLUMNS) / 2).clamp(1, MOST)).text().into_bytes(),
        ShowAs::Svg => grid(width.min(CELLS)).svg(width).into_bytes(),
        ShowAs::Png => {
            let drawn = grid(width).png(width);
            drawn
                .map_err(|e| Failure::run("E0809", format!("the picture cannot be encoded: {e}"), "use another form"))?
        }
    };
    output.write_all(&bytes).map_err(|e| write_failure(&e))?;
    output.finish()
}

/// `Q: A-B C level[D-E] level[F]*2 null[0-3]`
fn write_attended(out: &mut impl Write, row: i64, attended: &AttendedRow) -> io::Result<()> {
    write!(out, "{row}:")?;
    write_runs(out, &attended.tokens)?;
    for (level, slots) in &attended.levels {
        for slots in slots {
            write!(out, " {level}[{}]{}", Ends(slots), Times(slots))?;
        }
    }
    if attended.nulls > 0 {
        write!(out, " {}", null(attended.nulls))?;
    }
    writeln!(out)
}

/// `A-B` or `C`
struct Ends<'a>(&'a Run);

impl fmt::Display for Ends<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { first, last, .. } = *self.0;
        if last > first { write!(f, "{first}-{last}") } else { write!(f, "{first}") }
    }
}

/// `*2`, or nothing for what counts once
struct Times<'a>(&'a Run);

impl fmt::Display for Times<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.times > 1 { write!(f, "*{}", self.0.times) } else { Ok(()) }
    }
}

fn draw(output: &mut Output, view: &View<'_>, args: &ShowArgs) -> Outcome {
    let (n_q, _) = view.lengths();
    let clip = |most: i64| {
        let wanted = args.rows.clone().unwrap_or(0..i64::MAX);
        wanted.start.min(most)..wanted.end.min(most)
    };
    let grid = |most: i64| Grid::new(view, clip(n_q), most).map_err(|e| no_value(&e));
    let bytes = match args.form {
        ShowAs::Rows => return rows(output, view, clip(n_q)),
        ShowAs::Tiles => return tiles(output, view, clip(subject::div_ceil(n_q, view.tile().0))),
        ShowAs::Picture => {
            let mut text = grid((args.width.unwrap_or(COLUMNS) / 2).clamp(1, MOST))?.text();
            for slots in view.nulls() {
                // Writing to a string does not fail.
                let _ = writeln!(text, "and {} in every row", null(*slots));
            }
            text.into_bytes()
        }
        ShowAs::Svg => {
            let width = args.width.unwrap_or(PIXELS).min(MOST);
            grid(width.min(CELLS))?.svg(width).into_bytes()
        }
        ShowAs::Png => {
            let width = args.width.unwrap_or(PIXELS).min(MOST);
            let drawn = grid(width)?.png(width);
            drawn
                .map_err(|e| Failure::run("E0809", format!("the picture cannot be encoded: {e}"), "use another form"))?
        }
    };
    output.write_all(&bytes).map_err(|e| write_failure(&e))
}

/// `null[0-3]`
fn null(slots: i64) -> String {
    if slots == 1 { "null[0]".to_owned() } else { format!("null[0-{}]", slots - 1) }
}

fn rows(output: &mut Output, view: &View<'_>, range: Range<i64>) -> Outcome {
    let tail: String = view.nulls().iter().filter(|&&n| n > 0).map(|&n| format!(" {}", null(n))).collect();
    let mut walk = view.rows().map_err(|e| no_value(&e))?;
    for row in range {
        let runs = walk.row(row).map_err(|e| no_value(&e))?;
        write_row(output, row, runs, &tail).map_err(|e| write_failure(&e))?;
    }
    Ok(())
}

/// `Q: A-B C D-E*2 null[0-3]`
fn write_row(out: &mut impl Write, row: i64, runs: &[Run], tail: &str) -> io::Result<()> {
    write!(out, "{row}:")?;
    write_runs(out, runs)?;
    writeln!(out, "{tail}")
}

fn write_runs(out: &mut impl Write, runs: &[Run]) -> io::Result<()> {
    runs.iter().try_for_each(|run| write!(out, " {}{}", Ends(run), Times(run)))
}

fn tiles(output: &mut Output, view: &View<'_>, range: Range<i64>) -> Outcome {
    let mut walk = view.tiles().map_err(|e| no_value(&e))?;
    for row in range {
        let runs = walk.row(row).map_err(|e| no_value(&e))?;
        write_tiles(output, row, runs).map_err(|e| write_failure(&e))?;
    }
    Ok(())
}

/// `T: full A-B partial C`
fn write_tiles(out: &mut impl Write, row: i64, runs: &[TileRun]) -> io::Result<()> {
    write!(out, "{row}:")?;
    let mut last = None;
    for run in runs {
        if last != Some(run.full) {
            write!(out, " {}", if run.full { "full" } else { "partial" })?;
            last = Some(run.full);
        }
        write!(out, " {}", run.first)?;
        if run.last > run.first {
            write!(out, "-{}", run.last)?;
        }
    }
    writeln!(out)
}

fn no_value(error: &EvalError) -> Failure {
    Failure::run("E0708", error.to_string(), "use smaller numbers, or a condition that leaves such rows out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_as_documented() {
        let line = |runs: &[Run], tail| {
            let mut out = Vec::new();
            write_row(&mut out, 7, runs, tail).expect("writes");
            String::from_utf8(out).expect("text")
        };
        let run = |first, last, times| Run { first, last, times };
        assert_eq!(line(&[run(0, 3, 1), run(5, 5, 1), run(8, 9, 2)], ""), "7: 0-3 5 8-9*2\n");
        assert_eq!(line(&[], ""), "7:\n");
        assert_eq!(line(&[run(1, 1, 3)], " null[0-3]"), "7: 1*3 null[0-3]\n");
        assert_eq!((null(1), null(4)), ("null[0]".to_owned(), "null[0-3]".to_owned()));
    }

    #[test]
    fn tiles_read_as_documented() {
        let mut out = Vec::new();
        let run = |first, last, full| TileRun { first, last, full };
        write_tiles(&mut out, 2, &[run(0, 0, false), run(3, 5, true), run(6, 6, true), run(7, 7, false)])
            .expect("writes");
        assert_eq!(String::from_utf8(out).expect("text"), "2: partial 0 full 3-5 6 partial 7\n");
    }
}
