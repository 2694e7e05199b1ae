//! Masks in the formats of other engines.
//!
//! One idea: every format is filled from rows of ranges, so that no mask of queries by keys is built on the way, and a
//! format that cannot hold a row says which. What is no mask at all, scores, biases and null slots, is refused unless the
//! caller says that it is taken care of. Nothing here knows how a file or an array of a host is made.

mod blocks;
mod columns;
mod rows;

use attnc_pattern::analysis::EvalError;
use attnc_pattern::program::Source;
use attnc_syntax::diag::{CodeInfo, Diagnostic};

use crate::compiler::Diagnostics;
use crate::kernel::Kernel;
use crate::problem::{Inputs, Shape};
use crate::view::{RowWalk, Run};

/// Code of a mask that a format cannot express.
pub const NO_FORMAT: &str = "E0630";

/// Most elements of an array.
const MOST: usize = 1 << 28;

/// Formats of masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `FlexAttention`: `kv_num_blocks` `[1, H, R]`, `kv_indices` `[1, H, R, C]` and the same of `full_` blocks, all i32;
    /// `row_starts` and `row_ends` `[H, queries, F]` i32 hold the ranges of each row, for the function of partial blocks.
    Flex,
    /// cuDNN: `mask_func` `[H, F, queries]` i32: the row attends to `[0, f0)`, `[f1, f2)` and so on.
    Cudnn,
    /// `FlashMask`: `startend_row_indices` `[1, H, keys, 1 | 2 | 4]` i32, and the number `causal`.
    Flashmask,
    /// `FlashInfer`: `indptr` `[R + 1]` and `indices` i32 of blocks, and `mask` `[blocks, B, B]` of bool if some are partial.
    Flashinfer,
    /// JAX Splash: `block_mask` `[H, R, C]` i8 (0 empty, 1 partial, 2 full), `data_next` and `mask_next` i32 of the same
    /// shape, and the different `partial_mask_blocks` `[P, B, B]` of bool.
    Splash,
    /// `MagiAttention`: `q_ranges` and `k_ranges` `[S, 2]` i32, `attn_type_map` `[S]` i32 (0 full, 1 causal, 2 inverse
    /// causal, 3 both).
    Magi,
    /// Compressed rows: `indptr` `[queries + 1]`, or `[H, queries + 1]` with each row from 0, and `indices`, all i64.
    Csr,
    /// Pairs: `row` and `col`, and `head` if heads differ, all i64.
    Coo,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 8] = [
        Format::Flex,
        Format::Cudnn,
        Format::Flashmask,
        Format::Flashinfer,
        Format::Splash,
        Format::Magi,
        Format::Csr,
        Format::Coo,
    ];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Flex => "flex",
            Format::Cudnn => "cudnn",
            Format::Flashmask => "flashmask",
            Format::Flashinfer => "flashinfer",
            Format::Splash => "splash",
            Format::Magi => "magi",
            Format::Csr => "csr",
            Format::Coo => "coo",
        }
    }

    /// The format of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|f| f.name() == name)
    }
}

/// What to export.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions {
    /// The format.
    pub format: Format,
    /// Queries and keys of a block, in formats that have blocks; `None` is 128, or for `FlashInfer` the largest power of
    /// two up to 128 that divides both lengths.
    pub block: Option<i64>,
    /// Leave out scores, biases and null slots: the caller gives them to the engine.
    pub mask_only: bool,
    /// Most functions of cuDNN, most slices of `MagiAttention`; `None` is any number.
    pub most: Option<i64>,
}

impl ExportOptions {
    /// A format, and nothing else said.
    #[must_use]
    pub fn new(format: Format) -> Self {
        ExportOptions { format, block: None, mask_only: false, most: None }
    }
}

/// A mask in a format: arrays and numbers by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Row-major arrays.
    pub arrays: Vec<Array>,
    /// `queries`, `keys`, `heads` (1 if all heads are alike) and what the format adds.
    pub numbers: Vec<(&'static str, i64)>,
}

/// A row-major array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// Its name in the engine.
    pub name: &'static str,
    /// Extents.
    pub shape: Vec<usize>,
    /// Elements.
    pub values: Values,
}

/// Elements of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// Bytes that are 0 or 1.
    Bool(Vec<u8>),
    /// 8 bits, signed.
    I8(Vec<i8>),
    /// 32 bits, signed.
    I32(Vec<i32>),
    /// 64 bits, signed.
    I64(Vec<i64>),
}

impl Exported {
    /// The array of a name.
    #[must_use]
    pub fn array(&self, name: &str) -> Option<&Array> {
        self.arrays.iter().find(|a| a.name == name)
    }

    /// The number of a name.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        self.numbers.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}

/// Why a mask cannot be exported.
enum Refused {
    /// A row, or what else of a head breaks the format.
    Format(String),
    /// An expression without a value.
    Value(EvalError),
    /// Everything else.
    Said(Diagnostics),
}

impl From<EvalError> for Refused {
    fn from(error: EvalError) -> Self {
        Refused::Value(error)
    }
}

impl From<Diagnostics> for Refused {
    fn from(said: Diagnostics) -> Self {
        Refused::Said(said)
    }
}

/// What all formats are filled from.
struct Mask<'a> {
    kernel: &'a Kernel,
    shape: Shape,
    inputs: &'a Inputs<'a>,
    options: &'a ExportOptions,
    /// Heads that are told apart: 1 if all are alike.
    heads: usize,
    n_q: usize,
    n_k: usize,
}

impl Mask<'_> {
    /// Calls `each` with every row of a head: its number and its ranges, ascending, apart, and each pair once.
    fn rows(&self, head: usize, mut each: impl FnMut(usize, &[Run]) -> Result<(), Refused>) -> Result<(), Refused> {
        if self.kernel.attention(head).is_none() {
            // It skips.
            return (0..self.n_q).try_for_each(|row| each(row, &[]));
        }
        let view = self.kernel.view(head as i64, self.shape, self.inputs)?;
        let mut walk = view.rows()?;
        for row in 0..self.n_q {
            each(row, self.once(&mut walk, head, row)?)?;
        }
        Ok(())
    }

    /// The ranges of a row in which each pair counts once.
    fn once<'w>(&self, walk: &'w mut RowWalk<'_>, head: usize, row: usize) -> Result<&'w [Run], Refused> {
        let runs = walk.row(row as i64)?;
        match runs.iter().find(|run| run.times > 1) {
            None => Ok(runs),
            Some(run) => {
                let Run { first, times, .. } = run;
                Err(Refused::Format(format!("row {row} of head {head} attends to key {first} {times} times")))
            }
        }
    }

    /// Refuses heads that are not alike, with the first row in which they differ.
    fn one_head(&self, why: &str) -> Result<(), Refused> {
        if self.heads == 1 {
            return Ok(());
        }
        let own = |head: usize| -> Result<Vec<Vec<(i64, i64)>>, Refused> {
            let (mut rows, mut held) = (Vec::new(), 0);
            self.rows(head, |row, runs| {
                held += runs.len();
                if held > MOST >> 4 {
                    return Err(Refused::Format(format!("up to row {row} there are more than {} ranges", MOST >> 4)));
                }
                rows.push(runs.iter().map(|r| (r.first, r.last)).collect());
                Ok(())
            })?;
            Ok(rows)
        };
        let first = own(0)?;
        for head in 1..self.heads {
            if let Some(row) = own(head)?.iter().zip(&first).position(|(a, b)| a != b) {
                return Err(Refused::Format(format!("{why}, and row {row} of head {head} is not that of head 0")));
            }
        }
        Ok(())
    }

    /// The size of blocks; both lengths are whole blocks if `whole`.
    fn block(&self, whole: bool) -> Result<usize, Refused> {
        let block = match self.options.block {
            Some(block) if (1..=1 << 16).contains(&block) => block as usize,
            Some(block) => return Err(Refused::Format(format!("a block has 1 to 65536 rows, and not {block}"))),
            None => 128,
        };
        for (what, n) in [("query", self.n_q), ("key", self.n_k)] {
            if whole && !n.is_multiple_of(block) {
                let begin = n / block * block;
                return Err(Refused::Format(format!(
                    "blocks are whole, and the block of {block} that begins with {what} row {begin} ends beyond {n}"
                )));
            }
        }
        Ok(block)
    }

    /// An empty list with room for so many elements.
    fn room<T>(&self, extents: &[usize]) -> Result<Vec<T>, Refused> {
        let count = extents.iter().try_fold(1_usize, |n, &e| n.checked_mul(e)).unwrap_or(usize::MAX);
        let mut list = Vec::new();
        if count > MOST || list.try_reserve_exact(count).is_err() {
            return Err(Refused::Format(format!("an array would have {extents:?} elements, more than fit")));
        }
        Ok(list)
    }

    /// A list of so many zeros.
    fn zeros<T: Clone + Default>(&self, extents: &[usize]) -> Result<Vec<T>, Refused> {
        let mut list = self.room(extents)?;
        list.resize(extents.iter().product(), T::default());
        Ok(list)
    }

    fn exported(&self, arrays: Vec<Array>, more: &[(&'static str, i64)]) -> Exported {
        let mut numbers = vec![("queries", self.n_q as i64), ("keys", self.n_k as i64), ("heads", self.heads as i64)];
        numbers.extend(more);
        Exported { arrays, numbers }
    }
}

fn array(name: &'static str, shape: impl Into<Vec<usize>>, values: Values) -> Array {
    Array { name, shape: shape.into(), values }
}

impl Kernel {
    /// The mask of all heads in the format of another engine. Scales are no part of it, and neither are score
    /// modifiers, biases and null slots: an attention that has those is refused unless `mask_only` is set.
    ///
    /// # Errors
    /// `E0630` if the format cannot express the mask, with the row that breaks it; sizes and data that do not fit.
    pub fn export(&self, shape: Shape, inputs: &Inputs<'_>, options: &ExportOptions) -> Result<Exported, Diagnostics> {
        let refuse = |message: String| {
            let message = format!("`{}` cannot express the pattern: {message}", options.format.name());
            self.said(vec![Diagnostic::global(NO_FORMAT, message).help("`csr` and `coo` hold every mask")])
        };
        if !options.mask_only {
            self.only_a_mask(options.format)?;
        }
        let extent = |n: i64| usize::try_from(n).ok().filter(|_| n <= i64::from(i32::MAX));
        let (Some(n_q), Some(n_k)) = (extent(shape.n_q), extent(shape.n_k)) else {
            return Err(refuse(format!("lengths are at most {}", i32::MAX)));
        };
        let all = self.output_heads(usize::try_from(shape.heads).unwrap_or(0));
        let alike = self.heads_alike(all);
        let heads = if alike { all.min(1) } else { all };
        let mask = Mask { kernel: self, shape, inputs, options, heads, n_q, n_k };
        let made = match options.format {
            Format::Flex => blocks::flex(&mask),
            Format::Flashinfer => blocks::flashinfer(&mask),
            Format::Splash => blocks::splash(&mask),
            Format::Flashmask => columns::flashmask(&mask),
            Format::Cudnn => rows::cudnn(&mask),
            Format::Magi => rows::magi(&mask),
            Format::Csr => rows::csr(&mask),
            Format::Coo => rows::coo(&mask),
        };
        made.map_err(|refused| match refused {
            Refused::Format(message) => refuse(message),
            Refused::Value(error) => self.said(vec![Diagnostic::global("E0708", error.to_string())]),
            Refused::Said(said) => said,
        })
    }

    /// Refuses attentions that are more than a mask.
    fn only_a_mask(&self, format: Format) -> Result<(), Diagnostics> {
        for index in self.attentions() {
            let attention = &self.program().attentions[index];
            let bias = attention.entries.iter().any(|e| e.bias.is_some());
            let null = attention.entries.iter().any(|e| matches!(e.source, Source::Null(_)));
            let what = match (attention.score.is_some(), bias, null) {
                (true, ..) => "a score modifier",
                (_, true, _) => "a bias",
                (_, _, true) => "null slots",
                _ => continue,
            };
            let message = format!("`{}` is a mask, and `{}` has {what}", format.name(), attention.name);
            let said = Diagnostic::error(NO_FORMAT, attention.span, message, "asked for here");
            let help = "export the mask alone (`--mask-only`, `mask_only`) and give the engine the rest";
            return Err(self.said(vec![said.help(help)]));
        }
        Ok(())
    }
}

/// Diagnostics of exports.
pub(crate) const CODES: &[CodeInfo] = &[CodeInfo {
    code: NO_FORMAT,
    title: "a format of another engine cannot express the pattern",
    explain: "FlashMask holds at most two ranges of excluded queries for a key, block formats of Splash and FlashInfer \
              whole blocks, and FlashInfer and MagiAttention one mask for all heads; no mask holds scores, biases, null \
              slots, or a pair that counts twice. The message names the row. `csr` and `coo` hold every mask.",
    example: "",
}];
