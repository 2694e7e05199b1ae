//! One attention of one head: entries, logits, a softmax, in f64. What the formulas are stands in [`super::attend`].

use super::attend::{OracleError, RowFacts};
use super::entries::{Attended, Slot, Walker, entry_envs, queries};
use super::eval::Evaluator;
use super::fault::{EvalError, Point};
use super::level::{self, Pooled, slots_of};
use super::score::rows;
use super::select::Chosen;
use super::sources::{Matrix, Sources, dot};
use crate::env::Env;
use crate::expr::ExprId;
use crate::program::{Empty, Index, Partition, Pool, Program, Source};

/// Output rows of one head.
pub(super) struct Rows {
    pub(super) out: Matrix,
    pub(super) lse: Vec<f64>,
    pub(super) facts: Vec<RowFacts>,
}

/// Everything that one head reads.
#[derive(Clone, Copy)]
pub(super) struct HeadOf<'a> {
    pub(super) program: &'a Program,
    /// With all orders, levels and tables.
    pub(super) env: &'a Env<'a>,
    pub(super) sources: &'a Sources,
    pub(super) head: usize,
}

impl HeadOf<'_> {
    /// Output, log-sum-exp and facts of the queries.
    pub(super) fn attend(self, attention: usize) -> Result<Rows, OracleError> {
        let written = &self.program.attentions[attention];
        if let Some(merge) = &written.merge {
            return self.merge(merge);
        }
        let Some(pooled) = written.pooled else {
            let positions: Vec<i64> = queries(self.env).collect();
            return self.rows(attention, &positions, &self.sources.q[self.head]);
        };
        // Once for each slot of queries that has some.
        let slots = rows(self.program, self.env, Index::Slots(pooled.level))?;
        let level = self.level(pooled.level)?;
        let mut q = Matrix::new(level.q.cols);
        slots.iter().for_each(|&(slot, _)| q.push(level.q.row(slot as usize)));
        let positions: Vec<i64> = slots.iter().map(|s| s.1).collect();
        let of_slots = self.rows(attention, &positions, &q)?;
        let (of_q, _) = slots_of(self.program, self.env, pooled.level)?;
        let mut spread = Rows { out: Matrix::new(of_slots.out.cols), lse: vec![], facts: vec![] };
        for (i, slot) in of_q.iter().enumerate() {
            let weights = match (slot, pooled.bilinear) {
                (None, _) => vec![],
                (Some(slot), false) => vec![(*slot, 1.0)],
                (Some(_), true) => self.between(pooled.level, self.env.q_start + i as i64)?,
            };
            let mut out = vec![0.0; spread.out.cols];
            let (mut lse, mut facts) = (f64::NEG_INFINITY, RowFacts::default());
            for &(slot, weight) in &weights {
                let Some(at) = slots.iter().position(|s| s.0 == slot) else { continue };
                out.iter_mut().zip(of_slots.out.row(at)).for_each(|(o, x)| *o += weight * x);
                facts.join(&of_slots.facts[at]);
                lse = of_slots.lse[at];
            }
            facts.merged |= pooled.bilinear;
            spread.out.push(&out);
            spread.lse.push(if pooled.bilinear { f64::NAN } else { lse });
            spread.facts.push(facts);
        }
        Ok(spread)
    }

    /// Slots around a query with half-pixel centres, and their weights.
    fn between(self, level: crate::expr::LevelId, q: i64) -> Result<Vec<(i64, f64)>, OracleError> {
        let (program, env) = (self.program, self.env);
        let Partition::Axes(axes) = &program.level(level).partition else { return Ok(vec![]) };
        let mut found = vec![(0_i64, 1.0)];
        for &(id, size) in axes {
            let axis = program.axis(id);
            let extent = level::size(program, env, axis.extent)?;
            let stride = level::size(program, env, axis.stride)?;
            let begin = level::size(program, env, program.space.segments[axis.segment].begin)?;
            let b = size.unwrap_or(extent);
            let boxes = extent.div_euclid(b) + i64::from(extent % b > 0);
            let x = (q - begin).div_euclid(stride) % extent;
            let u = ((x as f64 + 0.5) / b as f64 - 0.5).clamp(0.0, (boxes - 1) as f64);
            let (low, part) = (u.floor() as i64, u.fract());
            let ends = [(low, 1.0 - part), ((low + 1).min(boxes - 1), part)];
            found = found
                .iter()
                .flat_map(|&(slot, w)| ends.iter().map(move |&(c, p)| (slot * boxes + c, w * p)))
                .filter(|&(_, w)| w > 0.0)
                .collect();
        }
        Ok(found)
    }

    fn level(self, id: crate::expr::LevelId) -> Result<Pooled, EvalError> {
        let kept = Chosen { draws: &self.env.draws }.channels(self.program, id);
        level::pooled(self.program, self.env, self.sources, id, self.head, &kept)
    }

    /// The rows of `q`, which stand at `positions`.
    fn rows(self, attention: usize, positions: &[i64], q: &Matrix) -> Result<Rows, OracleError> {
        let HeadOf { program, env, sources, head } = self;
        let written = &program.attentions[attention];
        let (k, v) = (&sources.k[sources.kv_head[head]], &sources.v[sources.kv_head[head]]);
        let levels = written.entries.iter().map(|entry| match entry.source {
            Source::Slots(level, _) => self.level(level).map(Some),
            _ => Ok(None),
        });
        let levels = levels.collect::<Result<Vec<Option<Pooled>>, EvalError>>()?;
        // The queries of an entry are the level's where its slots are tokens.
        let own_q = |entry: usize| match written.entries[entry].source {
            Source::Slots(level, _) => {
                let of = program.level(level);
                of.of.q && matches!(of.pool, Pool::Channels(_) | Pool::Quantised { .. })
            }
            _ => false,
        };
        let envs = entry_envs(program, attention, env)?;
        let mut walker = Walker::new(program, attention, env, &envs);
        let mut logits = Logits::new(program, attention, env, &envs)?;
        let mut made = Rows { out: Matrix::new(v.cols), lse: vec![], facts: vec![] };
        let (mut found, mut terms) = (Vec::new(), Vec::new());
        for (i, &position) in positions.iter().enumerate() {
            found.clear();
            walker.row(position, &mut found)?;
            if found.is_empty() && written.empty == Some(Empty::Error) {
                let (attention, span) = (written.name.clone(), written.span);
                return Err(OracleError::EmptyRow { attention, head: env.head, q: position, span });
            }
            let mut facts = RowFacts { entries: found.len() as u64, ..RowFacts::default() };
            terms.clear();
            for attended in &found {
                let pair = match attended.slot {
                    Slot::Token(k_position) => {
                        let at = (k_position - env.k_start) as usize;
                        Some((q.row(i), k.row(at), v.row(at)))
                    }
                    Slot::Pooled(slot) => levels[attended.entry].as_ref().map(|level| {
                        let x = if own_q(attended.entry) { level.q.row(i) } else { q.row(i) };
                        (x, level.k.row(slot as usize), level.v.row(slot as usize))
                    }),
                    Slot::Null(_) => None,
                };
                let product = pair.map(|(q, k, _)| dot(q, k));
                let (score, logit) = logits.of(position, *attended, product)?;
                facts.max_score = largest(facts.max_score, &[score, logit]);
                let value = pair.map_or(&[][..], |(_, _, v)| v);
                facts.max_value = largest(facts.max_value, value);
                terms.push((logit, value));
            }
            let mut out = vec![0.0; v.cols];
            made.lse.push(softmax(&terms, &mut out));
            made.out.push(&out);
            made.facts.push(facts);
        }
        Ok(made)
    }
}

/// Scores and logits of one attention of one head.
struct Logits<'a> {
    scale: f64,
    modifier: Option<(ExprId, Evaluator<'a>)>,
    /// Of each entry its modifier, if it is another, and its bias.
    entries: Vec<[Option<(ExprId, Evaluator<'a>)>; 2]>,
}

impl<'a> Logits<'a> {
    fn new(
        program: &'a Program,
        attention: usize,
        env: &'a Env<'a>,
        envs: &'a [Option<Env<'a>>],
    ) -> Result<Self, EvalError> {
        let attention = &program.attentions[attention];
        let with = |root: Option<ExprId>, env| root.map(|root| (root, Evaluator::new(program, env, &[root])));
        let entries = attention.entries.iter().zip(envs).map(|(entry, own)| {
            let env = own.as_ref().unwrap_or(env);
            [with(entry.score, env), with(entry.bias, env)]
        });
        Ok(Logits {
            scale: Evaluator::new(program, env, &[attention.scale]).real(attention.scale, Point::default())?,
            modifier: with(attention.score, env),
            entries: entries.collect(),
        })
    }

    /// Score and logit of an entry; `dot` is `<q, k>`, `None` for null slots, whose score is 0.
    fn of(&mut self, q: i64, attended: Attended, dot: Option<f64>) -> Result<(f64, f64), EvalError> {
        let point = match attended.slot {
            Slot::Token(k) | Slot::Pooled(k) => Point::pair(q, k),
            Slot::Null(slot) => Point { q: Some(q), slot: Some(slot), ..Point::default() },
        };
        let [own, bias] = &mut self.entries[attended.entry];
        let score = match (dot, own.as_mut().or(self.modifier.as_mut())) {
            (None, _) => 0.0,
            (Some(dot), None) => self.scale * dot,
            (Some(dot), Some((root, modifier))) => {
                modifier.real(*root, Point { score: Some(self.scale * dot), ..point })?
            }
        };
        let bias = match bias {
            Some((root, bias)) => bias.real(*root, point)?,
            None => 0.0,
        };
        Ok((score, score + bias))
    }
}

/// Weighs `terms`, pairs of a logit and a row of V (empty for V = 0), into `out`; returns the log-sum-exp.
fn softmax(terms: &[(f64, &[f64])], out: &mut [f64]) -> f64 {
    out.fill(0.0);
    if terms.iter().all(|&(logit, _)| logit == f64::NEG_INFINITY) {
        return f64::NEG_INFINITY;
    }
    // `f64::max` passes over a NaN; the sum of exponentials does not.
    let max = terms.iter().fold(f64::NEG_INFINITY, |m, &(logit, _)| m.max(logit));
    let mut sum = 0.0;
    for &(logit, value) in terms {
        let weight = (logit - max).exp();
        sum += weight;
        out.iter_mut().zip(value).for_each(|(o, v)| *o += weight * v);
    }
    out.iter_mut().for_each(|o| *o /= sum);
    max + sum.ln()
}

fn largest(so_far: f64, values: &[f64]) -> f64 {
    values.iter().map(|v| v.abs()).filter(|v| v.is_finite()).fold(so_far, f64::max)
}
