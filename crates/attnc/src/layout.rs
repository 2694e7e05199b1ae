//! Other orders in which the tokens of a grid may lie in memory, and whether a set stays what it is in one.
//!
//! One idea: a layout is an edit of the text, which then speaks of tokens that lie otherwise, and a permutation of
//! positions. That both texts mean one set is looked at row by row, at given lengths, and not argued. Nothing here knows
//! which layout would be of use.

use attnc_pattern::expr::{AxisId, OrderId, Var};
use attnc_pattern::order;
use attnc_pattern::program::{Order, OrderKind, Program};
use attnc_syntax::ast::{Expr, File, Item, ItemKind, Name, SegmentShape, Span};
use attnc_syntax::diag::Diagnostic;

use crate::compiler::Diagnostics;
use crate::kernel::Kernel;
use crate::loader::Sources;
use crate::problem::{Inputs, Shape};
use crate::view::View;

/// Most axes of a grid whose nestings are listed.
const MOST_AXES: usize = 4;

/// An order in which the tokens of a grid may lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The segment.
    pub segment: String,
    /// The path along which its tokens lie.
    pub along: Along,
    /// Parts of the named file and what stands in their place for tokens that lie so.
    pub edits: Vec<(Span, String)>,
}

/// A path through a grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Along {
    /// Row by row, the last of these axes innermost.
    Axes(Vec<String>),
    /// An order of the file.
    Order(String),
}

/// Axes as written, each with its extent.
type Axes = Vec<(Name, Option<Expr>)>;

/// Layouts of a file's grids: every other nesting of their axes, and its orders along curves.
pub(crate) fn layouts(file: &File, sources: &Sources) -> Vec<Layout> {
    let text = |span: Span| {
        let source = sources.get(span.file).map_or("", |source| source.text.as_ref());
        source.get(span.start as usize..span.end as usize).unwrap_or("").to_owned()
    };
    let grids: Vec<(&Name, &Axes)> = file
        .items
        .iter()
        .filter_map(|item| if let ItemKind::Space(segments) = &item.kind { Some(segments) } else { None })
        .flatten()
        .filter_map(|segment| match &segment.shape {
            SegmentShape::Grid(axes) => Some((&segment.name, axes)),
            SegmentShape::Line(_) => None,
        })
        .collect();
    let mut found = Vec::new();
    for (segment, axes) in grids.iter().filter(|(_, axes)| axes.len() <= MOST_AXES) {
        let spans: Vec<Span> =
            axes.iter().map(|(name, extent)| extent.as_ref().map_or(name.span, |e| name.span.to(e.span))).collect();
        for nesting in permutations(axes.len()).into_iter().skip(1) {
            let edits = spans.iter().zip(&nesting).filter(|(span, i)| **span != spans[**i]);
            found.push(Layout {
                segment: segment.text.clone(),
                along: Along::Axes(nesting.iter().map(|&i| axes[i].0.text.clone()).collect()),
                edits: edits.map(|(span, &i)| (*span, text(spans[i]))).collect(),
            });
        }
    }
    for Item { kind, span, .. } in &file.items {
        let ItemKind::Order { name, curve, axes } = kind else { continue };
        // Another raster is a nesting, and what values sort is not known before.
        if matches!(curve.text.as_str(), "raster" | "sort") {
            continue;
        }
        let has = |own: &Axes, axis: &Name| own.iter().any(|(name, _)| name.text == axis.text);
        let of = grids.iter().find(|(_, own)| axes.iter().all(|(axis, _)| has(own, axis)));
        let Some((segment, own)) = of else { continue };
        let names: Vec<&str> = own.iter().map(|(name, _)| name.text.as_str()).collect();
        let given = Span { end: span.end, ..curve.span };
        found.push(Layout {
            segment: segment.text.clone(),
            along: Along::Order(name.text.clone()),
            edits: vec![(given, format!("raster({})", names.join(", ")))],
        });
    }
    found
}

/// All orders of so many things, as they stand first.
fn permutations(n: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for _ in 0..n {
        let longer = |p: Vec<usize>| {
            let rest: Vec<usize> = (0..n).filter(|i| !p.contains(i)).collect();
            rest.into_iter().map(move |i| p.iter().copied().chain([i]).collect())
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}

impl Kernel {
    /// Whether `other`, compiled from the text with the edits of a layout, attends to the same pairs of tokens as this kernel
    /// once the tokens lie so, with the same scores: over all heads of one batch item. Inputs are the same for both.
    ///
    /// Only launches of all tokens can be compared, and sets that no data decide; scores that read positions, or what is
    /// not known before a launch, are taken to differ.
    ///
    /// # Errors
    /// As for [`Kernel::cost`], of either kernel.
    pub fn same_laid_out(
        &self,
        other: &Kernel,
        layout: &Layout,
        shape: Shape,
        inputs: &Inputs<'_>,
    ) -> Result<bool, Diagnostics> {
        let begins = |start: Option<i64>| start.unwrap_or(0) == 0;
        let whole = shape.n_q == shape.n_k && begins(inputs.q_start) && begins(inputs.k_start);
        if !whole || !inputs.lengths.is_empty() || self.scores_by_place() || other.scores_by_place() {
            return Ok(false);
        }
        let wrong = |e: String| Diagnostics::from(Diagnostic::global("E0708", e));
        let (mut known, mut words) = (Vec::new(), None);
        for head in 0..usize::try_from(shape.heads).unwrap_or(0) {
            let who = match (self.attention(head), other.attention(head)) {
                (Some(ours), Some(theirs)) => (ours, theirs),
                (None, None) => continue,
                _ => return Ok(false),
            };
            let alike = !self.reads_head(who.0) && !other.reads_head(who.1);
            if alike && known.contains(&who) {
                continue;
            }
            known.push(who);
            let (ours, theirs) = (self.view(head as i64, shape, inputs)?, other.view(head as i64, shape, inputs)?);
            if words.is_none() {
                let places = places(self.program(), layout, &ours).map_err(wrong)?;
                words = (places.len() as i64 == shape.n_k).then(|| Words::new(&places));
            }
            let Some(words) = &words else { return Ok(false) };
            if !words.equal(&ours, &theirs).map_err(|e| wrong(e.to_string()))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether what a score becomes depends on where its query and its key lie.
    fn scores_by_place(&self) -> bool {
        let program = self.program();
        self.attentions().into_iter().any(|attention| {
            let a = &program.attentions[attention];
            let of_entries = a.entries.iter().flat_map(|e| [e.bias, e.score]);
            let mut read = of_entries.chain([a.score, Some(a.scale)]).flatten();
            program.is_dynamic(attention) || read.any(|e| program.exprs.reads(e, |v| matches!(v, Var::Q | Var::K)))
        })
    }
}

/// Where each token comes to lie.
fn places(program: &Program, layout: &Layout, view: &View<'_>) -> Result<std::sync::Arc<[u32]>, String> {
    let mut program = program.clone();
    let order = match &layout.along {
        Along::Order(name) => program.orders.iter().position(|o| o.name == *name).ok_or("is no order")?,
        Along::Axes(names) => {
            let segment =
                program.space.segments.iter().position(|s| s.name == layout.segment).ok_or("is no segment")?;
            let axis = |name: &String| {
                let of = |a: &AxisId| program.axis(*a).name == *name;
                program.space.segments[segment].axes.iter().copied().find(of).ok_or("is no axis")
            };
            let kind = OrderKind::Raster(names.iter().map(axis).collect::<Result<_, _>>()?);
            program.orders.push(Order { name: String::new(), segment: Some(segment), kind, span: Span::default() });
            program.orders.len() - 1
        }
    };
    order::index(&program, OrderId(order as u32), view.env()).map_err(|e| e.to_string())
}

/// A random word for each token: sets of tokens are equal if the sums of their words are, but for one chance in 2^128.
struct Words {
    /// The token at each place of the other layout.
    tokens: Vec<u32>,
    /// Sums of the words of all tokens before one: as they lie, and in the other layout.
    here: Vec<u128>,
    there: Vec<u128>,
}

impl Words {
    fn new(places: &[u32]) -> Words {
        let sums = |words: &mut dyn Iterator<Item = u128>| {
            let mut sum = 0_u128;
            let after = words.map(|word| {
                sum = sum.wrapping_add(word);
                sum
            });
            std::iter::once(0).chain(after).collect()
        };
        let here = sums(&mut places.iter().map(|&at| word(at)));
        let there = sums(&mut (0..places.len() as u32).map(word));
        let mut tokens: Vec<u32> = (0..places.len() as u32).collect();
        tokens.sort_unstable_by_key(|&token| places[token as usize]);
        Words { tokens, here, there }
    }

    /// Whether a view of the tokens as they lie and one of the other layout hold the same pairs, each as often.
    fn equal(&self, ours: &View<'_>, theirs: &View<'_>) -> Result<bool, attnc_pattern::analysis::EvalError> {
        if ours.nulls() != theirs.nulls() || ours.lengths() != theirs.lengths() {
            return Ok(false);
        }
        let (mut ours, mut theirs) = (ours.rows()?, theirs.rows()?);
        // Where a layout is of use, queries that share their keys follow one another in it, and their row is made once.
        for (at, &token) in self.tokens.iter().enumerate() {
            let sum = |sums: &[u128], runs: &[crate::view::Run]| {
                runs.iter().fold(0_u128, |all, run| {
                    let own = sums[run.last as usize + 1].wrapping_sub(sums[run.first as usize]);
                    all.wrapping_add(own.wrapping_mul(u128::from(run.times)))
                })
            };
            if sum(&self.here, ours.row(i64::from(token))?) != sum(&self.there, theirs.row(at as i64)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The word of a token.
fn word(at: u32) -> u128 {
    let mut stream = attnc_pattern::random::Stream::new(i64::from(at), 0, 0, 0);
    (0..4).fold(0, |word, _| word << 32 | u128::from(stream.word()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compiler, Options, Select, Target};

    /// For each layout its edited text, and whether the set of the first pattern stays equal on a grid of two by three by four.
    fn tried(text: &str) -> Vec<(String, bool)> {
        let compile = |text: &str| {
            let compiler = Compiler::new(Options { target: Target::Oracle, ..Options::default() });
            compiler.source(text).expect("compiles")
        };
        let module = compile(text);
        let name = module.uses()[0].0.to_owned();
        let base = module.kernel(&Select::named(name.as_str())).expect("is planned");
        let shape = Shape { n_q: 25, n_k: 25, heads: 2, dim: 8 };
        let of = |layout: &Layout| {
            let mut edited = text.to_owned();
            for (span, new) in layout.edits.iter().rev() {
                edited.replace_range(span.start as usize..span.end as usize, new);
            }
            let other = compile(&edited).kernel(&Select::named(name.as_str())).expect("is planned");
            let same = base.same_laid_out(&other, layout, shape, &Inputs::default()).expect("is compared");
            (edited, same)
        };
        module.layouts().iter().map(of).collect()
    }

    fn same(text: &str) -> Vec<bool> {
        tried(text).into_iter().map(|(_, same)| same).collect()
    }

    const SPACE: &str = "space text[1] ++ video(t = 2, h = 3, w = 4)\n";

    #[test]
    fn nestings_keep_what_coordinates_say() {
        let found = tried(&format!("{SPACE}pattern p = same h, w | k in text\n"));
        assert_eq!(found.len(), 5);
        assert!(found[0].0.contains("video(t = 2, w = 4, h = 3)") && found[4].0.contains("video(w = 4, h = 3, t = 2)"));
        assert!(found.iter().all(|(_, same)| *same));
        assert_eq!(
            same(&format!("{SPACE}pattern p = k in text | near(h = 3, w = 3 by 2) & disc(t, w, 2)\n")),
            [true; 5]
        );
        // What is said of positions is the same set where they come in the same order: of one frame row by row.
        let kept = [false, true, true, false, false];
        assert_eq!(same(&format!("{SPACE}pattern p = k in text | causal & same t\n")), kept);
        // Another draw.
        assert_eq!(same(&format!("{SPACE}pattern p = k in text | random 2 of same t per q seed 7\n")), [false; 5]);
    }

    #[test]
    fn orders_keep_what_is_written_along_them() {
        let of = |body: &str| same(&format!("{SPACE}order z = tile(h = 2, w = 2)\npattern p = {body}\n"));
        assert_eq!(of("along z { same block 4 } | q in text"), [true; 6]);
        // The coordinates of a tiled layout have no name.
        assert_eq!(of("along z { same block 4 } | same h"), [true, true, true, true, true, false]);
        assert_eq!(of("along z { same block 4 } & causal"), [false; 6]);
    }

    #[test]
    fn scores_that_read_positions_differ() {
        let of = |score: &str| {
            same(&format!(
                "{SPACE}attention a {{\n  score = {score}\n  align = end\n  attend same h, w | k in text\n}}\n"
            ))
        };
        assert_eq!(of("score * 0.5"), [true; 5]);
        assert_eq!(of("score - 0.5 * (q - k)"), [false; 5]);
    }
}
