//! Rows without a key: proved away, or the smallest case shown; and arms of a union that add nothing.
//!
//! A proof names a key that every query has: the query's own, the first, the last, an end of a piece. Where
//! none is found, small launches are tried in order of size. A launch has its first key at position 0; in a
//! closed space it has all of its keys. What depends on data that no one can enumerate stays unknown.

use attnc_syntax::diag::Span;

use super::linear::Algebra;
use super::prove::Prover;
use super::rows::Rows;
use super::solve::{Context, Solver};
use super::tape::{Builder, Machine};
use super::{Role, row_set};
use crate::env::Env;
use crate::expr::{Cmp, ExprId, Exprs, Node, Ty, Un, Var};
use crate::order;
use crate::program::{Align, Attention, Chooser, OrderKind, Program, Source};
use crate::rowset::{Piece, RowSet};

/// Work of a search before it gives up: pieces of rows, and nodes of filters for each key.
const MOST_WORK: i64 = 1 << 22;
/// Longest closed space that is looked at.
const MOST_POSITIONS: i64 = 1 << 18;
/// Longest launch tried.
const LONGEST: i64 = 64;
/// Arms of one union that are compared with each other, and unions of one set that are looked at.
const MOST_ARMS: usize = 32;
/// Conditions taken apart in one proof.
const CASES: u32 = 4;

/// Whether an attention has rows without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Emptiness {
    /// No launch that `require` admits has one.
    Never,
    /// The smallest launch found that has one.
    Counterexample(Counterexample),
    /// Neither proved nor refuted.
    Unknown {
        /// Why, to be read after "because".
        why: String,
    },
}

/// A launch with an empty row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// Number of queries.
    pub n_q: i64,
    /// Number of keys.
    pub n_k: i64,
    /// Run-time sizes by name, and `head` and the like where the set reads them.
    pub sizes: Vec<(String, i64)>,
    /// Document offsets, if the set reads documents.
    pub docs: Vec<i64>,
    /// Index of the query, from 0.
    pub query: i64,
    /// The condition without which the row would not be empty, else the entry.
    pub span: Span,
}

/// Whether an attention has rows without a key. The program gains expressions and changes in nothing else.
pub fn check_empty(program: &mut Program, attention: usize) -> Emptiness {
    let attention = program.attentions[attention].clone();
    let (mut sets, mut slots) = (vec![], false);
    for entry in &attention.entries {
        match entry.source {
            Source::Null(n) if n > 0 => return Emptiness::Never,
            Source::Null(_) => {}
            Source::Tokens(set) => sets.push(set),
            // Every position has a slot: there is a slot if there is a key.
            Source::Slots(level, set) if program.level(level).inside.is_none() => {
                if program.exprs.as_bool(set) == Some(true) {
                    sets.push(set);
                } else {
                    slots = true;
                }
            }
            Source::Slots(..) => slots = true,
        }
    }
    let set = program.exprs.or(sets);
    if proved(program, &attention, set) {
        return Emptiness::Never;
    }
    match search(program, &attention, set) {
        // It has no key, and may have a slot.
        Emptiness::Counterexample(_) if slots => {
            Emptiness::Unknown { why: "that every query has a slot of a level is not proved".to_owned() }
        }
        found => found,
    }
}

/// The launches that are meant, as far as variables say it: where queries start, and how many keys there are.
fn launched(program: &mut Program, attention: &Attention, e: ExprId) -> ExprId {
    let total = program.space.total;
    let exprs = &mut program.exprs;
    let zero = exprs.int(0);
    let n_k = total.unwrap_or_else(|| exprs.var(Var::NK));
    let aligned = attention.align.is_some() || !attention.depends_on_alignment;
    let n_q = if aligned { exprs.var(Var::NQ) } else { n_k };
    let q_start = if attention.align == Some(Align::End) { exprs.sub(n_k, n_q) } else { zero };
    exprs.substitute(e, |_, v| match v {
        Var::QStart => Some(q_start),
        Var::KStart => Some(zero),
        Var::NK => Some(n_k),
        Var::NQ => Some(n_q),
        _ => None,
    })
}

fn proved(program: &mut Program, attention: &Attention, set: ExprId) -> bool {
    let set = launched(program, attention, set);
    let [q, n_k] = [Var::Q, Var::NK].map(|v| {
        let e = program.exprs.var(v);
        launched(program, attention, e)
    });
    let exprs = &mut program.exprs;
    let (zero, one) = (exprs.int(0), exprs.int(1));
    let likely = [q, zero, exprs.sub(n_k, one)].map(|key| claim(exprs, set, key, n_k));
    let known = facts(program, attention);
    if proves(program, &known, likely.iter().map(|&c| (c, 0)).chain([(likely[0], CASES)])) {
        return true;
    }
    // The ends of pieces are keys, too.
    let pieces = row_set(program, set, Role::Row).rows.pieces;
    let exprs = &mut program.exprs;
    let mut keys = vec![];
    for p in pieces.iter().filter(|p| p.loops.is_empty() && p.filter.is_none()).take(8) {
        keys.extend([p.start, exprs.sub(p.end, one)]);
        keys.extend(p.combs.iter().map(|c| c.phase));
    }
    let mut claims = likely.to_vec();
    for key in keys {
        let key = launched(program, attention, key);
        claims.push(claim(&mut program.exprs, set, key, n_k));
    }
    let any = program.exprs.or(claims.iter().copied());
    proves(program, &known, claims[likely.len()..].iter().map(|&c| (c, 0)).chain([(any, CASES)]))
}

/// That a position is a key and that the set holds it.
fn claim(exprs: &mut Exprs, set: ExprId, key: ExprId, n_k: ExprId) -> ExprId {
    let zero = exprs.int(0);
    let holds = exprs.substitute(set, |_, v| (v == Var::K).then_some(key));
    let (from, to) = (exprs.le(zero, key), exprs.lt(key, n_k));
    exprs.and([from, to, holds])
}

/// What is known of a query of a launch that `require` admits.
fn facts(program: &mut Program, attention: &Attention) -> Vec<ExprId> {
    let [q_start, n_q] = [Var::QStart, Var::NQ].map(|v| {
        let e = program.exprs.var(v);
        launched(program, attention, e)
    });
    let require = launched(program, attention, attention.require);
    let exprs = &mut program.exprs;
    let [q, head, heads] = [Var::Q, Var::Head, Var::Heads].map(|v| exprs.var(v));
    let q_end = exprs.add(q_start, n_q);
    vec![require, exprs.le(q_start, q), exprs.lt(q, q_end), exprs.lt(head, heads)]
}

/// Whether one of the claims follows from what is known, with as many conditions taken apart as each says.
fn proves(program: &mut Program, known: &[ExprId], claims: impl IntoIterator<Item = (ExprId, u32)>) -> bool {
    let Program { exprs, space, .. } = program;
    let mut algebra = Algebra::new(exprs);
    let mut prover = Prover::new(&mut algebra, space);
    known.iter().for_each(|&k| prover.assume(k));
    prover.place_query();
    claims.into_iter().any(|(claim, cases)| prover.proves(claim, cases))
}

/// What a set reads that is given when run, and whether the search can make it up.
struct Readings {
    docs: bool,
    orders: bool,
    /// Coordinates of the launch.
    places: Vec<Var>,
    /// Numbers of queries, or where they start.
    lengths: bool,
    /// Name of data that no search can enumerate.
    data: Option<String>,
}

fn readings(program: &Program, set: ExprId) -> Readings {
    let mut r = Readings { docs: false, orders: false, places: vec![], lengths: false, data: None };
    for id in program.exprs.reachable(&[set]) {
        match program.exprs.node(id) {
            Node::Un(Un::DocOf | Un::DocBegin | Un::DocEnd, _) | Node::Var(Var::Docs) => r.docs = true,
            Node::Un(Un::OrderIndex(o), _) => match program.order(*o).kind {
                OrderKind::Sort(by) => {
                    r.data = Some(format!("it depends on the tensor `{}`", program.tensor(by).name));
                }
                _ => r.orders = true,
            },
            Node::MapAt(m, ..) => r.data = Some(format!("it depends on the map `{}`", program.map(*m).name)),
            Node::Drawn(d, ..) => {
                let what = match program.draw(*d).chooser {
                    Chooser::Random { .. } => "a random choice",
                    Chooser::Select { .. } => "a selection",
                };
                r.data = Some(format!("it depends on {what}"));
            }
            Node::Un(Un::PartOf(m) | Un::CsrBegin(m), _) | Node::Var(Var::Parts(m)) => {
                r.data = Some(format!("it depends on the map `{}`", program.map(*m).name));
            }
            Node::Var(Var::Branch) => r.data = Some("it depends on the branch".to_owned()),
            Node::Load(t, _) => r.data = Some(format!("it depends on the tensor `{}`", program.tensor(*t).name)),
            Node::Var(v @ (Var::Head | Var::Layer | Var::Step)) => r.places.push(*v),
            Node::Var(Var::Dim | Var::Heads) => r.data = Some("it depends on numbers of the launch".to_owned()),
            Node::Var(Var::QStart | Var::NQ) => r.lengths = true,
            _ => {}
        }
    }
    r
}

/// Constants that `require` compares something with: sizes are tried around them.
fn thresholds(exprs: &Exprs, require: ExprId) -> Vec<i64> {
    let mut found: Vec<i64> = exprs
        .reachable(&[require])
        .into_iter()
        .filter_map(|id| match *exprs.node(id) {
            Node::Cmp(_, a, b) if exprs.ty(a) == Ty::Int => exprs.as_int(a).or(exprs.as_int(b)),
            _ => None,
        })
        .filter(|v| (4..=1 << 10).contains(v))
        .collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(3);
    found
}

/// All choices of one value for each of `n` things, at most `most`, those of small sum first.
fn choices(values: &[i64], n: usize, most: usize) -> Vec<Vec<i64>> {
    let mut all: Vec<Vec<i64>> = vec![vec![]];
    for _ in 0..n {
        let longer = all.iter().flat_map(|c| values.iter().map(move |&v| [&c[..], &[v]].concat()));
        all = longer.take(1 << 14).collect();
    }
    all.sort_by_key(|c| (c.iter().sum::<i64>(), c.clone()));
    all.truncate(most);
    all
}

fn partitions(n: i64) -> Vec<Vec<i64>> {
    let mut all = vec![vec![0, n], (0..=n).collect()];
    if n > 2 {
        all.push(vec![0, n / 2, n]);
        all.push(vec![0, 1, n]);
    }
    all
}

fn search(program: &mut Program, attention: &Attention, set: ExprId) -> Emptiness {
    let reads = readings(program, set);
    if let Some(why) = reads.data {
        return Emptiness::Unknown { why };
    }
    let rows = row_set(program, set, Role::Row).rows;
    let compiled = Rows::new(program, &rows);
    let mut roots = vec![attention.require];
    roots.extend(program.space.total);
    let builder = Builder::new(program, &roots);
    let (require, total) = (builder.slot(attention.require), program.space.total.map(|t| builder.slot(t)));
    let lengths = builder.finish();
    let mut values = vec![0, 1, 2, 3, 5];
    values.extend(thresholds(&program.exprs, attention.require));
    let sizes = choices(&values, program.sizes.len(), 256);
    let places = choices(&[0, 1, 2, 3], reads.places.len(), 64);
    let filters: Vec<ExprId> = rows.pieces.iter().filter_map(|p| p.filter).collect();
    let (pieces, tested) = (rows.pieces.len() as i64, program.exprs.reachable(&filters).len() as i64);
    let mut budget = MOST_WORK;
    let mut verified = true;
    let lens: Vec<Option<i64>> = if total.is_some() { vec![None] } else { (1..=LONGEST).map(Some).collect() };
    for n_k in lens {
        for sizes in &sizes {
            let base = Env { n_k: n_k.unwrap_or(0), n_q: 1, heads: 4, dim: 1, sizes: sizes.clone(), ..Env::default() };
            let n_k = match (n_k, total) {
                (Some(n), _) => n,
                (None, Some(slot)) => match Machine::new(&lengths, &base) {
                    Ok(m) if (1..=MOST_POSITIONS).contains(&m.get(slot)) => m.get(slot),
                    _ => {
                        verified = false;
                        continue;
                    }
                },
                (None, None) => continue,
            };
            let whole = vec![0, n_k];
            let docs = if reads.docs { partitions(n_k) } else { vec![vec![]] };
            let n_qs: Vec<i64> = match (attention.align, attention.depends_on_alignment) {
                (None, true) => vec![n_k],
                _ if n_k <= 8 => (1..=n_k).collect(),
                _ if reads.lengths => vec![1, n_k],
                _ => vec![n_k],
            };
            for n_q in n_qs {
                let q_start = if attention.align == Some(Align::End) { n_k - n_q } else { 0 };
                for docs in &docs {
                    let mut env =
                        Env { n_k, n_q, q_start, docs: if reads.docs { docs } else { &whole }, ..base.clone() };
                    match Machine::new(&lengths, &env) {
                        Ok(m) if m.holds(require) => {}
                        _ => continue,
                    }
                    if reads.orders {
                        let orders = (0..program.orders.len() as u32).map(|o| {
                            order::index(program, crate::expr::OrderId(o), &env).unwrap_or_else(|_| [].into())
                        });
                        env.orders = orders.collect();
                    }
                    for place in &places {
                        for (var, &v) in reads.places.iter().zip(place) {
                            match var {
                                Var::Head => env.head = v,
                                Var::Layer => env.layer = v,
                                _ => env.step = v,
                            }
                        }
                        budget = budget.saturating_sub(n_q.saturating_mul(pieces + n_k.saturating_mul(tested)));
                        if budget < 0 {
                            return unproved(&reads);
                        }
                        match first_empty(&compiled, &env) {
                            Err(()) => verified = false,
                            Ok(None) => {}
                            Ok(Some(query)) => {
                                let span = cause(program, attention, &env, query);
                                let names = program.sizes.iter().map(|s| s.name.clone()).zip(sizes.iter().copied());
                                let placed =
                                    reads.places.iter().zip(place).map(|(v, &x)| (place_name(*v).to_owned(), x));
                                return Emptiness::Counterexample(Counterexample {
                                    n_q,
                                    n_k,
                                    sizes: names.chain(placed).collect(),
                                    docs: if reads.docs { docs.clone() } else { vec![] },
                                    query,
                                    span,
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    let all_seen = verified && total.is_some() && program.sizes.is_empty() && !reads.docs && reads.places.is_empty();
    // Fewer queries than keys are some of the rows that were seen, unless the set reads how many there are.
    if all_seen && !reads.lengths { Emptiness::Never } else { unproved(&reads) }
}

fn unproved(reads: &Readings) -> Emptiness {
    let why = match (reads.docs, reads.places.first()) {
        (true, _) => "it depends on documents".to_owned(),
        (_, Some(v)) => format!("it depends on `{}`", place_name(*v)),
        _ => "no key that every query attends to was found".to_owned(),
    };
    Emptiness::Unknown { why }
}

fn place_name(v: Var) -> &'static str {
    match v {
        Var::Head => "head",
        Var::Layer => "layer",
        _ => "step",
    }
}

/// The first query, from 0, without a key.
fn first_empty(rows: &Rows, env: &Env<'_>) -> Result<Option<i64>, ()> {
    let mut walker = rows.walker(env).map_err(|_| ())?;
    for i in 0..env.n_q {
        if walker.row(env.q_start + i).map_err(|_| ())?.is_empty() {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

/// The condition without which the row would have a key.
fn cause(program: &mut Program, attention: &Attention, env: &Env<'_>, query: i64) -> Span {
    let entries = attention.entries.iter().filter_map(|e| match e.source {
        Source::Tokens(set) => Some((set, e.span)),
        Source::Null(_) | Source::Slots(..) => None,
    });
    let entries: Vec<(ExprId, Span)> = entries.collect();
    let [(set, span)] = *entries else { return entries.first().map_or(attention.span, |e| e.1) };
    let Node::And(xs) = program.exprs.node(set).clone() else { return program.exprs.span(set).unwrap_or(span) };
    let keys = usize::try_from(env.n_k).unwrap_or(0);
    if (keys as i64).saturating_mul(xs.len() as i64) > MOST_WORK {
        return span;
    }
    // For each key, how many conditions it fails, and the last of them: where it is the only one, it is to blame.
    let mut failed = vec![(0_usize, 0_usize); keys];
    let (k_start, n_k) = (program.exprs.var(Var::KStart), program.exprs.var(Var::NK));
    let k_end = program.exprs.add(k_start, n_k);
    for (i, &x) in xs.iter().enumerate() {
        let alone = Piece { loops: vec![], guard: None, start: k_start, end: k_end, combs: vec![], filter: Some(x) };
        let rows = RowSet { pieces: vec![alone] };
        let Ok(held) = Rows::new(program, &rows).row(env, env.q_start + query) else { return span };
        for (key, failed) in failed.iter_mut().enumerate() {
            if !held.contains(env.k_start + key as i64) {
                *failed = (failed.0 + 1, i);
            }
        }
    }
    let blamed = failed.iter().filter(|f| f.0 == 1).map(|f| f.1).filter_map(|i| Some((i, program.exprs.span(xs[i])?)));
    blamed.min_by_key(|b| b.0).map_or(span, |b| b.1)
}

/// A part of a set that does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadArm {
    /// Where it was written.
    pub span: Span,
    /// It has no key at all; otherwise all of its keys are in other arms.
    pub hits_nothing: bool,
}

/// Arms of written unions that add nothing, claimed only where that is proved.
pub fn dead_arms(program: &mut Program, attention: usize) -> Vec<DeadArm> {
    let attention = program.attentions[attention].clone();
    let mut dead = vec![];
    for entry in &attention.entries {
        if let Source::Tokens(set) = entry.source {
            let mut unions = vec![];
            let mut context = vec![];
            find_unions(&program.exprs, set, &mut context, &mut unions);
            for (context, arms) in unions.into_iter().take(MOST_ARMS) {
                if arms.len().max(context.len()) <= MOST_ARMS {
                    dead_in(program, &attention, &context, &arms, &mut dead);
                }
            }
        }
    }
    dead
}

/// Unions under intersections and unions, with what is intersected around them.
fn find_unions(exprs: &Exprs, e: ExprId, context: &mut Vec<ExprId>, out: &mut Vec<(Vec<ExprId>, Vec<ExprId>)>) {
    match exprs.node(e) {
        Node::And(xs) => {
            for (i, &x) in xs.iter().enumerate() {
                let depth = context.len();
                context.extend(xs.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, &x)| x));
                find_unions(exprs, x, context, out);
                context.truncate(depth);
            }
        }
        Node::Or(xs) => {
            out.push((context.clone(), xs.clone()));
            xs.iter().for_each(|&x| find_unions(exprs, x, context, out));
        }
        _ => {}
    }
}

fn dead_in(program: &mut Program, attention: &Attention, context: &[ExprId], arms: &[ExprId], dead: &mut Vec<DeadArm>) {
    let mut sets: Vec<(RowSet, bool)> = arms
        .iter()
        .map(|&arm| {
            let set = program.exprs.and(context.iter().copied().chain([arm]));
            let rows = row_set(program, set, Role::Row).rows;
            let misses = rows.pieces.iter().all(|p| misses_keys(program, attention, p));
            (rows, misses)
        })
        .collect();
    // Of two equal arms the later one is dead.
    for i in (0..arms.len()).rev() {
        let Some(span) = program.exprs.span(arms[i]) else { continue };
        let (rows, hits_nothing) = std::mem::take(&mut sets[i]);
        let others: Vec<&Piece> = sets.iter().filter(|s| !s.1).flat_map(|s| &s.0.pieces).collect();
        if hits_nothing || covered(program, &rows.pieces, &others) {
            dead.push(DeadArm { span, hits_nothing });
        } else {
            sets[i] = (rows, hits_nothing);
        }
    }
}

fn covered(program: &mut Program, pieces: &[Piece], by: &[&Piece]) -> bool {
    let Program { exprs, space, orders, maps, draws, .. } = program;
    let mut solver = Solver::new(Algebra::new(exprs), Context { space, orders, maps, draws });
    pieces.iter().all(|p| by.iter().any(|b| solver.covers(b, p)))
}

/// Whether a range lies outside of all keys of every launch.
fn misses_keys(program: &mut Program, attention: &Attention, piece: &Piece) -> bool {
    let n_k = program.exprs.var(Var::NK);
    let n_k = launched(program, attention, n_k);
    let require = launched(program, attention, attention.require);
    let (start, end) = (launched(program, attention, piece.start), launched(program, attention, piece.end));
    let Program { exprs, space, .. } = program;
    let zero = exprs.int(0);
    let after = exprs.cmp(Cmp::Le, n_k, start);
    let before = exprs.cmp(Cmp::Le, end, zero);
    let none = exprs.cmp(Cmp::Le, end, start);
    let mut algebra = Algebra::new(exprs);
    let mut prover = Prover::new(&mut algebra, space);
    prover.assume(require);
    [after, before, none].into_iter().any(|e| prover.proves(e, 0))
}
