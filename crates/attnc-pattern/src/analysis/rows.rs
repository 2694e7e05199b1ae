//! The keys of one query, from a row set.
//!
//! A [`Row`] is a set of ranges and combs that are pairwise disjoint, so that counting, membership and tiles
//! need no key-by-key work; a comb is spelt out only where it crosses another comb or a filter.
//! [`RowWalker`] reuses its buffers from row to row, and what a piece gave where no number of the query that it reads
//! is another: a block of queries is one row, and so it is where only the last key moves on. Nothing here knows of tile
//! sizes or targets.

use std::borrow::Cow;

use super::tape::{Builder, Code, Machine, Slot, Tape};
use crate::env::Env;
use crate::expr::{Bin, Cmp, ExprId, Node, Ty, Var};
use crate::program::Program;
use crate::rowset::{Piece, RowSet};

pub use super::tape::EvalError;

/// Combs of up to this many teeth are written as ranges.
const FEW_TEETH: i64 = 4;

/// Keys `start <= k < end` with `(k - phase) mod period < width`, `0 < width < period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CombRun {
    /// First key position of the run: in a tooth or not.
    pub start: i64,
    /// One past the last.
    pub end: i64,
    /// Distance of teeth.
    pub period: i64,
    /// Length of a tooth.
    pub width: i64,
    /// Where a tooth begins, in `0 .. period`.
    pub phase: i64,
}

impl CombRun {
    /// Keys before `k`, counted from a tooth at or before any key of interest.
    fn before(&self, k: i64) -> i128 {
        let offset = i128::from(k) - i128::from(self.phase);
        let (period, width) = (i128::from(self.period), i128::from(self.width));
        offset.div_euclid(period) * width + offset.rem_euclid(period).min(width)
    }

    fn count(&self) -> u64 {
        if self.start >= self.end { 0 } else { (self.before(self.end) - self.before(self.start)) as u64 }
    }

    fn contains(&self, k: i64) -> bool {
        self.start <= k && k < self.end && (k - self.phase).rem_euclid(self.period) < self.width
    }

    /// The first tooth that ends after `k`, clipped to the run and to `k ..`.
    fn tooth_from(&self, k: i64) -> Option<(i64, i64)> {
        let k = k.max(self.start);
        let mut begin = k - (k - self.phase).rem_euclid(self.period);
        if begin + self.width <= k {
            begin = begin.checked_add(self.period)?;
        }
        let (from, to) = (begin.max(k), begin.saturating_add(self.width).min(self.end));
        (from < to).then_some((from, to))
    }

    fn teeth(&self) -> i64 {
        if self.start >= self.end { 0 } else { (self.end - self.start) / self.period + 2 }
    }
}

/// The keys of one query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Half-open ranges, ascending, disjoint and not adjacent.
    spans: Vec<(i64, i64)>,
    /// Ascending; from `start` to `end` none meets another run or a span.
    runs: Vec<CombRun>,
}

impl Row {
    /// Whether a key position belongs to the row.
    #[must_use]
    pub fn contains(&self, k: i64) -> bool {
        let at = self.spans.partition_point(|s| s.1 <= k);
        self.spans.get(at).is_some_and(|s| s.0 <= k) || self.runs.iter().any(|r| r.contains(k))
    }

    /// Number of keys.
    #[must_use]
    pub fn count(&self) -> u64 {
        let spans: u64 = self.spans.iter().map(|s| s.1.abs_diff(s.0)).sum();
        spans + self.runs.iter().map(CombRun::count).sum::<u64>()
    }

    /// No key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty() && self.runs.iter().all(|r| r.count() == 0)
    }

    /// Maximal closed ranges `first ..= last`, ascending; combs are spelt out as the iterator moves.
    #[must_use]
    pub fn ranges(&self) -> Ranges<'_> {
        self.ranges_from(i64::MIN)
    }

    /// The same of the keys from `k` on, the first range clipped to them.
    #[must_use]
    pub fn ranges_from(&self, k: i64) -> Ranges<'_> {
        let span = self.spans.partition_point(|s| s.1 <= k);
        let run = self.runs.partition_point(|r| r.end <= k);
        Ranges { row: self, at: k, span, run }
    }

    /// The first maximal range that ends at or after `k`, clipped to `k ..`; half-open.
    #[must_use]
    pub fn next_from(&self, k: i64) -> Option<(i64, i64)> {
        self.ranges_from(k).half_open()
    }

    /// Whether every key of `from .. to` belongs to the row.
    #[must_use]
    pub fn covers(&self, from: i64, to: i64) -> bool {
        from >= to || self.next_from(from).is_some_and(|r| r.0 == from && r.1 >= to)
    }

    pub(super) fn clear(&mut self) {
        self.spans.clear();
        self.runs.clear();
    }

    pub(super) fn push(&mut self, start: i64, end: i64) {
        if start < end {
            self.spans.push((start, end));
        }
    }

    fn push_key(&mut self, k: i64) {
        match self.spans.last_mut() {
            Some(last) if last.1 == k => last.1 = k + 1,
            _ => self.push(k, k + 1),
        }
    }

    /// Adds a comb; one without gaps is a range, one of few teeth several.
    pub(super) fn push_comb(&mut self, start: i64, end: i64, period: i64, width: i64, phase: i64) {
        if start >= end || period <= 0 || width <= 0 {
            return;
        }
        if width >= period {
            return self.push(start, end);
        }
        let run = CombRun { start, end, period, width, phase: phase.rem_euclid(period) };
        if run.teeth() <= FEW_TEETH {
            self.spell(&run);
        } else {
            self.runs.push(run);
        }
    }

    fn spell(&mut self, run: &CombRun) {
        let mut at = run.start;
        while let Some((from, to)) = run.tooth_from(at) {
            self.spans.push((from, to));
            at = to;
        }
    }

    /// Adds the keys of another row that come before `end`.
    fn push_before(&mut self, end: i64, other: &Row) {
        let spans = other.spans.partition_point(|s| s.0 < end);
        self.spans.extend_from_slice(&other.spans[..spans]);
        if let Some(last) = self.spans.last_mut() {
            last.1 = if spans > 0 { last.1.min(end) } else { last.1 };
        }
        let runs = other.runs.iter().take_while(|r| r.start < end);
        self.runs.extend(runs.map(|r| CombRun { end: r.end.min(end), ..*r }));
    }

    /// Makes everything disjoint and sorted.
    pub(super) fn normalise(&mut self) {
        if !self.runs.is_empty() {
            self.separate_runs();
        }
        self.join_spans();
        if !self.runs.is_empty() {
            self.cut_runs();
        }
    }

    fn join_spans(&mut self) {
        let spans = &mut self.spans;
        if spans.len() < 2 {
            return;
        }
        if spans.len() == 2 {
            if spans[0] > spans[1] {
                spans.swap(0, 1);
            }
        } else if !spans.is_sorted() {
            spans.sort_unstable();
        }
        let mut last = 0;
        for i in 1..spans.len() {
            if spans[i].0 <= spans[last].1 {
                spans[last].1 = spans[last].1.max(spans[i].1);
            } else {
                last += 1;
                spans[last] = spans[i];
            }
        }
        spans.truncate(last + 1);
    }

    /// Equal combs are joined; different ones that meet are spelt out.
    fn separate_runs(&mut self) {
        let runs = &mut self.runs;
        runs.sort_unstable_by_key(|r| (r.period, r.width, r.phase, r.start));
        let mut last = 0;
        for i in 1..runs.len() {
            let (a, b) = (runs[last], runs[i]);
            if (a.period, a.width, a.phase) == (b.period, b.width, b.phase) && b.start <= a.end {
                runs[last].end = a.end.max(b.end);
            } else {
                last += 1;
                runs[last] = b;
            }
        }
        runs.truncate(last + 1);
        runs.sort_unstable();
        let mut reach = i64::MIN;
        let meet = runs.iter().any(|r| {
            let met = r.start < reach;
            reach = reach.max(r.end);
            met
        });
        if meet {
            for run in std::mem::take(&mut self.runs) {
                self.spell(&run);
            }
        }
    }

    /// Takes the spans out of the runs.
    fn cut_runs(&mut self) {
        let meets = |run: &CombRun, spans: &[(i64, i64)]| {
            let at = spans.partition_point(|s| s.1 <= run.start);
            spans.get(at).is_some_and(|s| s.0 < run.end)
        };
        if !self.runs.iter().any(|r| meets(r, &self.spans)) {
            return;
        }
        let mut cut = Vec::with_capacity(self.runs.len() + 1);
        for run in &self.runs {
            let mut start = run.start;
            let first = self.spans.partition_point(|s| s.1 <= run.start);
            for &(from, to) in self.spans[first..].iter().take_while(|s| s.0 < run.end) {
                if start < from {
                    cut.push(CombRun { start, end: from, ..*run });
                }
                start = to;
            }
            if start < run.end {
                cut.push(CombRun { start, ..*run });
            }
        }
        self.runs = cut;
    }
}

/// Iterator over the maximal ranges of a row.
#[derive(Clone, Debug)]
pub struct Ranges<'a> {
    row: &'a Row,
    at: i64,
    /// Spans and runs before these end before `at`.
    span: usize,
    run: usize,
}

impl Ranges<'_> {
    #[inline]
    fn half_open(&mut self) -> Option<(i64, i64)> {
        if !self.row.runs.is_empty() {
            return self.among_runs();
        }
        // Spans alone are maximal as they stand.
        let &(from, to) = self.row.spans.get(self.span)?;
        let from = from.max(self.at);
        (self.span, self.at) = (self.span + 1, to);
        Some((from, to))
    }

    fn among_runs(&mut self) -> Option<(i64, i64)> {
        let mut found = self.piece()?;
        self.at = found.1;
        while let Some(next) = self.piece()
            && next.0 == found.1
        {
            (found.1, self.at) = (next.1, next.1);
        }
        Some(found)
    }

    /// The next span or tooth.
    fn piece(&mut self) -> Option<(i64, i64)> {
        let (spans, runs, at) = (&self.row.spans, &self.row.runs, self.at);
        while spans.get(self.span).is_some_and(|s| s.1 <= at) {
            self.span += 1;
        }
        while runs.get(self.run).is_some_and(|r| r.end <= at) {
            self.run += 1;
        }
        let mut best = spans.get(self.span).map(|s| (s.0.max(at), s.1));
        for run in &runs[self.run..] {
            if best.is_some_and(|b| b.0 <= run.start.max(at)) {
                break;
            }
            if let Some(tooth) = run.tooth_from(at)
                && best.is_none_or(|b| tooth.0 < b.0)
            {
                best = Some(tooth);
                break;
            }
        }
        best
    }
}

impl Iterator for Ranges<'_> {
    type Item = std::ops::RangeInclusive<i64>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (from, to) = self.half_open()?;
        Some(from..=to - 1)
    }
}

#[derive(Clone, Debug)]
struct PieceCode {
    loops: Vec<LoopCode>,
    guard: Option<Slot>,
    start: Slot,
    end: Slot,
    /// Where it ends in any case, whatever its loops come to.
    last: Option<Slot>,
    /// Period, width, phase.
    combs: Vec<(Slot, Slot, Slot)>,
    filter: Option<(Slot, Code)>,
    match_by: Option<Match>,
    /// Of what depends on the query, what all of this but `last` reads: where it is alike, the piece is.
    told_by: Vec<Slot>,
}

impl PieceCode {
    /// What it reads beside its codes.
    fn slots(&self) -> impl Iterator<Item = Slot> {
        let loops = self.loops.iter().flat_map(|l| [l.lo, l.hi, l.phase]);
        let combs = self.combs.iter().flat_map(|&(period, width, phase)| [period, width, phase]);
        let tested = self.filter.iter().map(|(slot, _)| *slot);
        let matched = self.match_by.iter().flat_map(|by| [by.of_key, by.wanted]);
        loops.chain(self.guard).chain([self.start, self.end]).chain(combs).chain(tested).chain(matched)
    }

    fn codes(&self) -> impl Iterator<Item = Code> {
        let tested = self.filter.iter().map(|(_, code)| code.clone());
        let matched = self.match_by.iter().map(|by| by.code.clone());
        self.loops.iter().map(|l| l.body.clone()).chain(tested).chain(matched)
    }
}

/// A part of a filter by which few keys are worth a test: that a value of the key equals one that does not depend on it.
#[derive(Clone, Debug)]
struct Match {
    /// Value of a key, and what computes it.
    of_key: Slot,
    code: Code,
    wanted: Slot,
    real: bool,
}

impl Match {
    /// The first such part of a filter.
    fn of(program: &Program, filter: ExprId) -> Option<[ExprId; 2]> {
        let exprs = &program.exprs;
        let parts = match exprs.node(filter) {
            Node::And(parts) => parts.as_slice(),
            _ => std::slice::from_ref(&filter),
        };
        let reads_key = |e: ExprId| exprs.reads(e, |v| v == Var::K);
        let of_key = |e: ExprId| reads_key(e) && !exprs.reads(e, |v| matches!(v, Var::Q | Var::Loop(_)));
        parts.iter().find_map(|&part| match *exprs.node(part) {
            Node::Cmp(Cmp::Eq, a, b) if of_key(a) && !reads_key(b) => Some([a, b]),
            Node::Cmp(Cmp::Eq, a, b) if of_key(b) && !reads_key(a) => Some([b, a]),
            _ => None,
        })
    }

    /// A value such that equal ones have equal bits; `None` for what equals nothing.
    fn bits(&self, value: i64) -> Option<i64> {
        if !self.real {
            return Some(value);
        }
        let x = f64::from_bits(value as u64);
        (!x.is_nan()).then(|| (x + 0.0).to_bits() as i64)
    }
}

/// Keys of an environment by the values that filters compare: for each piece pairs of a value and a key, ascending.
#[derive(Clone, Debug, Default)]
pub struct Matches(Vec<Vec<(i64, i64)>>);

#[derive(Clone, Debug)]
struct LoopCode {
    lo: Slot,
    hi: Slot,
    step: i64,
    phase: Slot,
    /// What depends on the variable.
    body: Code,
}

/// Where a piece ends as its loops have it, and where it ends in any case: it ends at the lower.
fn ends(program: &Program, piece: &Piece) -> (ExprId, Option<ExprId>) {
    let exprs = &program.exprs;
    let loops = |e: ExprId| exprs.reads(e, |v| matches!(v, Var::Loop(_)));
    match *exprs.node(piece.end) {
        // A filter may have no value beyond the end.
        Node::Bin(Bin::Min, a, b) if piece.filter.is_none() && loops(a) != loops(b) => {
            if loops(a) {
                (a, Some(b))
            } else {
                (b, Some(a))
            }
        }
        _ => (piece.end, None),
    }
}

/// A compiled row set.
#[derive(Clone, Debug)]
pub struct Rows {
    tape: Tape,
    pieces: Vec<PieceCode>,
}

impl Rows {
    /// Compiles a row set of a program.
    #[must_use]
    pub fn new(program: &Program, rows: &RowSet) -> Self {
        let mut roots: Vec<ExprId> = vec![];
        let ends: Vec<(ExprId, Option<ExprId>)> = rows.pieces.iter().map(|p| ends(program, p)).collect();
        let of_piece: Vec<Vec<ExprId>> = rows
            .pieces
            .iter()
            .zip(&ends)
            .map(|(p, (end, last))| {
                let loops = p.loops.iter().flat_map(|l| [l.lo, l.hi, l.phase]);
                let combs = p.combs.iter().flat_map(|c| [c.period, c.width, c.phase]);
                let all: Vec<ExprId> =
                    loops.chain(combs).chain([p.start, *end]).chain(p.guard).chain(p.filter).collect();
                roots.extend(all.iter().chain(last));
                all
            })
            .collect();
        let mut b = Builder::new(program, &roots);
        let pieces = rows.pieces.iter().zip(&of_piece).zip(ends).map(|((p, roots), (end, last))| PieceCode {
            loops: p
                .loops
                .iter()
                .enumerate()
                .map(|(depth, l)| LoopCode {
                    lo: b.slot(l.lo),
                    hi: b.slot(l.hi),
                    step: l.step,
                    phase: b.slot(l.phase),
                    body: b.loop_code(depth, roots),
                })
                .collect(),
            guard: p.guard.map(|g| b.slot(g)),
            start: b.slot(p.start),
            end: b.slot(end),
            last: last.map(|last| b.slot(last)),
            combs: p.combs.iter().map(|c| (b.slot(c.period), b.slot(c.width), b.slot(c.phase))).collect(),
            filter: p.filter.map(|f| (b.slot(f), b.key_code(&[f]))),
            match_by: p.filter.filter(|_| p.combs.is_empty()).and_then(|f| Match::of(program, f)).map(
                |[key, wanted]| {
                    let real = program.exprs.ty(key) == Ty::Real;
                    Match { of_key: b.slot(key), code: b.key_code(&[key]), wanted: b.slot(wanted), real }
                },
            ),
            told_by: vec![],
        });
        let mut pieces: Vec<PieceCode> = pieces.collect();
        let tape = b.finish();
        for piece in &mut pieces {
            piece.told_by = tape.of_row(piece.slots(), piece.codes());
        }
        Rows { tape, pieces }
    }

    /// Rows in one environment.
    pub fn walker<'a>(&'a self, env: &'a Env<'a>) -> Result<RowWalker<'a>, EvalError> {
        let machine = Machine::new(&self.tape, env)?;
        Ok(RowWalker { rows: self, machine, matches: None, row: Row::default(), parts: vec![], made: false })
    }

    /// As [`Self::walker`], with the keys of the environment sorted before: for walkers of a few rows each.
    ///
    /// # Errors
    /// Data that the environment lacks.
    pub fn walker_by<'a>(&'a self, env: &'a Env<'a>, matches: &'a Matches) -> Result<RowWalker<'a>, EvalError> {
        Ok(RowWalker { matches: Some(Cow::Borrowed(matches)), ..self.walker(env)? })
    }

    /// The keys of an environment by what filters compare them by.
    ///
    /// # Errors
    /// Data that the environment lacks.
    pub fn matches(&self, env: &Env<'_>) -> Result<Matches, EvalError> {
        let mut machine = Machine::new(&self.tape, env)?;
        machine.set_row(env.q_start);
        Ok(self.sorted(&mut machine))
    }

    fn sorted(&self, machine: &mut Machine<'_>) -> Matches {
        let env = machine.env();
        let keys = env.k_start..env.k_start.saturating_add(env.n_k);
        let mut of_piece = |piece: &PieceCode| {
            let Some(by) = &piece.match_by else { return vec![] };
            let of_key = |k: i64| {
                machine.set_key(k, &by.code);
                by.bits(machine.get(by.of_key)).map(|value| (value, k))
            };
            let mut all: Vec<(i64, i64)> = keys.clone().filter_map(of_key).collect();
            all.sort_unstable();
            all
        };
        Matches(self.pieces.iter().map(&mut of_piece).collect())
    }

    /// The row of one query at position `q`.
    pub fn row(&self, env: &Env<'_>, q: i64) -> Result<Row, EvalError> {
        let mut walker = self.walker(env)?;
        walker.row(q)?;
        Ok(walker.row)
    }
}

/// Computes rows one after the other.
#[derive(Clone, Debug)]
pub struct RowWalker<'a> {
    rows: &'a Rows,
    machine: Machine<'a>,
    matches: Option<Cow<'a, Matches>>,
    row: Row,
    /// For each piece what it was read of and gave; of nothing before the first row.
    parts: Vec<Part>,
    /// Whether `row` and `parts` are those of a query.
    made: bool,
}

/// What a piece gave.
#[derive(Clone, Debug)]
struct Part {
    /// Values of [`PieceCode::told_by`], and whether they are other than those of the row before.
    of: Vec<i64>,
    other: bool,
    last: i64,
    /// If it has loops, its keys, whatever `last` is.
    row: Row,
}

impl Part {
    fn new(piece: &PieceCode) -> Part {
        Part { of: vec![0; piece.told_by.len()], other: false, last: i64::MAX, row: Row::default() }
    }

    /// Reads what the piece is told by, and its last key; whether either is other than before.
    fn read(&mut self, piece: &PieceCode, machine: &Machine<'_>) -> bool {
        self.other = false;
        for (&slot, of) in piece.told_by.iter().zip(&mut self.of) {
            let value = machine.get(slot);
            self.other |= value != *of;
            *of = value;
        }
        let last = piece.last.map_or(i64::MAX, |slot| machine.get(slot));
        self.other | (last != std::mem::replace(&mut self.last, last))
    }
}

impl RowWalker<'_> {
    /// The row of the query at position `q`, clipped to the keys of the environment.
    ///
    /// # Errors
    /// An integer that does not fit 64 bits.
    pub fn row(&mut self, q: i64) -> Result<&Row, EvalError> {
        self.go_to(q)?;
        Ok(&self.row)
    }

    /// The row that was asked for last.
    #[must_use]
    pub fn here(&self) -> &Row {
        &self.row
    }

    /// Goes to the row of the query at position `q`; whether it may be another than the last one.
    ///
    /// # Errors
    /// An integer that does not fit 64 bits.
    pub fn go_to(&mut self, q: i64) -> Result<bool, EvalError> {
        if self.matches.is_none() && self.rows.pieces.iter().any(|p| p.match_by.is_some()) {
            self.machine.set_row(q);
            self.matches = Some(Cow::Owned(self.rows.sorted(&mut self.machine)));
        }
        self.machine.set_row(q);
        let made = std::mem::take(&mut self.made);
        if self.parts.is_empty() {
            self.parts = self.rows.pieces.iter().map(Part::new).collect();
        }
        let mut moved = !made;
        for (piece, part) in self.rows.pieces.iter().zip(&mut self.parts) {
            moved |= part.read(piece, &self.machine);
        }
        if !moved && !self.machine.overflowed() {
            self.made = true;
            return Ok(false);
        }
        self.row.clear();
        for (i, (piece, part)) in self.rows.pieces.iter().zip(&mut self.parts).enumerate() {
            let sorted = self.matches.as_ref().and_then(|m| m.0.get(i)).map_or(&[][..], Vec::as_slice);
            if piece.loops.is_empty() {
                emit(&mut self.machine, (piece, sorted), 0, &mut self.row);
                continue;
            }
            if part.other || !made {
                part.row.clear();
                emit(&mut self.machine, (piece, sorted), 0, &mut part.row);
                part.row.normalise();
            }
            self.row.push_before(part.last, &part.row);
        }
        if self.machine.overflowed() {
            return Err(EvalError::Overflow { q });
        }
        self.row.normalise();
        self.made = true;
        Ok(true)
    }
}

fn emit(m: &mut Machine<'_>, (piece, sorted): (&PieceCode, &[(i64, i64)]), depth: usize, row: &mut Row) {
    if let Some(l) = piece.loops.get(depth) {
        let (lo, hi) = (m.get(l.lo), m.get(l.hi));
        let phase = m.get(l.phase);
        let mut v = first_in_class(lo, l.step, phase);
        while v < hi && !m.overflowed() {
            m.set_loop(depth, v, &l.body);
            emit(m, (piece, sorted), depth + 1, row);
            match v.checked_add(l.step) {
                Some(next) => v = next,
                None => return m.fail(),
            }
        }
        return;
    }
    if piece.guard.is_some_and(|g| !m.holds(g)) {
        return;
    }
    let env = m.env();
    let start = m.get(piece.start).max(env.k_start);
    let end = m.get(piece.end).min(env.k_start.saturating_add(env.n_k));
    if start >= end {
        return;
    }
    match (&*piece.combs, &piece.filter) {
        ([], None) => row.push(start, end),
        (&[(period, width, phase)], None) => row.push_comb(start, end, m.get(period), m.get(width), m.get(phase)),
        ([], Some((slot, code))) if piece.match_by.is_some() => {
            let wanted = piece.match_by.as_ref().and_then(|by| by.bits(m.get(by.wanted)));
            let Some(wanted) = wanted else { return };
            let from = sorted.partition_point(|&pair| pair < (wanted, start));
            for &(_, k) in sorted[from..].iter().take_while(|&&pair| pair < (wanted, end)) {
                m.set_key(k, code);
                if m.holds(*slot) {
                    row.push_key(k);
                }
            }
        }
        (combs, filter) => {
            let mut teeth = Row::default();
            crossed(m, combs, start, end, &mut teeth);
            let Some((slot, code)) = filter else {
                row.spans.append(&mut teeth.spans);
                return;
            };
            for &(from, to) in &teeth.spans {
                for k in from..to {
                    m.set_key(k, code);
                    if m.holds(*slot) {
                        row.push_key(k);
                    }
                }
            }
        }
    }
}

/// The least value of at least `lo` that is `phase` modulo `step`.
pub(super) fn first_in_class(lo: i64, step: i64, phase: i64) -> i64 {
    if step <= 1 { lo } else { lo.saturating_add((i128::from(phase) - i128::from(lo)).rem_euclid(step.into()) as i64) }
}

/// The keys of `start .. end` that several combs hold, tooth by tooth.
fn crossed(m: &Machine<'_>, combs: &[(Slot, Slot, Slot)], start: i64, end: i64, out: &mut Row) {
    let Some((&(period, width, phase), rest)) = combs.split_first() else { return out.push(start, end) };
    let mut teeth = Row::default();
    teeth.push_comb(start, end, m.get(period), m.get(width), m.get(phase));
    for run in std::mem::take(&mut teeth.runs) {
        teeth.spell(&run);
    }
    for (from, to) in teeth.spans {
        crossed(m, rest, from, to, out);
    }
}

/// Number of pairs over all queries of an environment. Exact; needs memory for one row.
pub fn count(program: &Program, rows: &RowSet, env: &Env<'_>) -> Result<u128, EvalError> {
    let rows = Rows::new(program, rows);
    let mut walker = rows.walker(env)?;
    let mut total = 0;
    for q in env.q_start..env.q_start.saturating_add(env.n_q) {
        total += u128::from(walker.row(q)?.count());
    }
    Ok(total)
}
