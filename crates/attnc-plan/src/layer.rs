//! The plan of a layer: which heads run with which plan, and what runs together.
//!
//! A layer begins as one launch a head, as it is written down. The pass `fuse` makes one launch of them, in which heads
//! of one plan are one part: they share machine code, heads on the same KV head follow one another, and all tasks are
//! dealt to the same threads, those of the longest rows first. Heads that skip are in no launch. A launch is over when
//! all its tasks are. Nothing here knows of lengths or targets.

use std::fmt::Write as _;

use crate::passes::{Options, PASSES, Run};
use crate::verify::Refusal;

/// Heads of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerPlan {
    /// What is run.
    pub name: String,
    /// One after the other.
    pub launches: Vec<LayerLaunch>,
    /// Heads that skip.
    pub skipped: Vec<usize>,
}

/// What runs at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerLaunch {
    /// The parts.
    pub parts: Vec<LayerPart>,
}

/// Heads of one plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerPart {
    /// Index into [`attnc_pattern::program::Program::attentions`].
    pub attention: usize,
    /// Its name.
    pub name: String,
    /// Each head of the output, with the KV head that it reads.
    pub heads: Vec<(usize, usize)>,
}

impl LayerPlan {
    /// One launch a head: for each its attention and KV head, or `None` if it skips.
    #[must_use]
    pub fn new(name: &str, heads: &[Option<(usize, usize)>], attention: impl Fn(usize) -> String) -> LayerPlan {
        let mut plan = LayerPlan { name: name.to_owned(), launches: Vec::new(), skipped: Vec::new() };
        for (head, of) in heads.iter().enumerate() {
            match *of {
                Some((at, kv)) => {
                    let part = LayerPart { attention: at, name: attention(at), heads: vec![(head, kv)] };
                    plan.launches.push(LayerLaunch { parts: vec![part] });
                }
                None => plan.skipped.push(head),
            }
        }
        plan
    }

    /// Runs the passes over layers, the verifier after each; `after` sees the plan after each.
    ///
    /// # Errors
    /// A pass that broke a rule, and the rule: a mistake of this compiler.
    pub fn passed(
        mut self,
        options: &Options,
        mut after: impl FnMut(&'static str, &LayerPlan),
    ) -> Result<LayerPlan, (&'static str, Refusal)> {
        let given = self.clone();
        for pass in PASSES {
            let Run::Layer(run) = pass.run else { continue };
            if pass.required || !options.leaves_out(pass.name) {
                run(&mut self);
                self.check(&given).map_err(|refusal| (pass.name, refusal))?;
                after(pass.name, &self);
            }
        }
        Ok(self)
    }

    /// Whether every head does what it did in another plan of the layer, once.
    fn check(&self, given: &LayerPlan) -> Result<(), Refusal> {
        let heads = |plan: &LayerPlan| {
            let parts = plan.launches.iter().flat_map(|l| &l.parts);
            let heads = parts.flat_map(|p| p.heads.iter().map(|&(head, kv)| (head, p.attention, kv)));
            let mut heads: Vec<(usize, usize, usize)> = heads.collect();
            heads.sort_unstable();
            heads
        };
        let same = heads(self) == heads(given) && self.skipped == given.skipped;
        let rule = || "every head of a layer runs once, with its attention and its KV head".to_owned();
        if same { Ok(()) } else { Err(Refusal { rule: rule() }) }
    }

    /// The plan as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("layer {}\n", self.name);
        for launch in &self.launches {
            let _ = writeln!(out, "  launch");
            for part in &launch.parts {
                let heads = numbers(part.heads.iter().map(|h| h.0));
                let mut kv: Vec<usize> = part.heads.iter().map(|h| h.1).collect();
                kv.dedup();
                let _ = writeln!(out, "    {}: heads {heads} on KV heads {}", part.name, numbers(kv.into_iter()));
            }
        }
        if !self.skipped.is_empty() {
            let _ = writeln!(out, "  skip: heads {}", numbers(self.skipped.iter().copied()));
        }
        out
    }
}

/// Numbers with runs as `first-last`.
fn numbers(each: impl Iterator<Item = usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for n in each {
        match runs.last_mut() {
            Some(last) if last.1 + 1 == n => last.1 = n,
            _ => runs.push((n, n)),
        }
    }
    let shown = runs.into_iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    shown.collect::<Vec<_>>().join(", ")
}

/// One launch, and one part for all heads of an attention; those of one KV head follow one another.
pub(crate) fn fuse(plan: &mut LayerPlan) {
    let mut parts: Vec<LayerPart> = Vec::new();
    for part in plan.launches.drain(..).flat_map(|l| l.parts) {
        match parts.iter_mut().find(|p| p.attention == part.attention) {
            Some(known) => known.heads.extend(part.heads),
            None => parts.push(part),
        }
    }
    for part in &mut parts {
        part.heads.sort_by_key(|&(head, kv)| (kv, head));
    }
    if !parts.is_empty() {
        plan.launches.push(LayerLaunch { parts });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(heads: &[Option<(usize, usize)>]) -> LayerPlan {
        LayerPlan::new("l", heads, |a| ["near", "far"][a].to_owned())
    }

    #[test]
    fn heads_of_one_plan_are_one_part() {
        let plan = layer(&[Some((1, 0)), Some((0, 1)), None, Some((1, 0)), Some((1, 1))]);
        let given = "layer l\n  launch\n    far: heads 0 on KV heads 0\n  launch\n    near: heads 1 on KV heads 1\n  launch\n    \
                     far: heads 3 on KV heads 0\n  launch\n    far: heads 4 on KV heads 1\n  skip: heads 2\n";
        assert_eq!(plan.text(), given);
        let mut seen = Vec::new();
        let fused = plan.clone().passed(&Options::default(), |name, _| seen.push(name)).unwrap();
        assert_eq!(seen, ["fuse"]);
        let text = "layer l\n  launch\n    far: heads 0, 3-4 on KV heads 0-1\n    near: heads 1 on KV heads 1\n  skip: heads 2\n";
        assert_eq!(fused.text(), text);
        let without = Options { without: vec!["fuse".to_owned()], ..Options::default() };
        assert_eq!(plan.clone().passed(&without, |_, _| ()).unwrap(), plan);
    }

    #[test]
    fn a_head_that_is_lost_is_refused() {
        let given = layer(&[Some((0, 0)), Some((1, 0))]);
        let mut lost = given.clone();
        lost.launches.pop();
        assert!(lost.check(&given).is_err());
        let mut other = given.clone();
        other.launches[0].parts[0].heads[0].1 = 1;
        assert!(other.check(&given).is_err());
        assert!(given.check(&given).is_ok());
    }
}
