//! Passes as data, run in order, the verifier after each.
//!
//! `rows` and `widen` make the closed forms that every back end needs; the others may be switched off.
//! A pass changes the schedule, never the meaning. Nothing here knows of targets.

use std::sync::Arc;

use attnc_pattern::analysis::{self, Note};
use attnc_pattern::expr::{Bin, DrawId, ExprId, Node, Var};
use attnc_pattern::program::{Chooser, Empty, Program};
use attnc_pattern::rowset::{Piece, RowSet, TileSet};

use crate::choice::{self, Machine};
use crate::choose::Missing;
use crate::inplace::InPlace;
use crate::layer::{LayerPlan, fuse};
use crate::plan::{Attend, Entry, Plan, Role, View};
use crate::range;
use crate::reorder::{any, reorder};
use crate::verify::{Refusal, Stage, VerifiedPlan, check, seal};

/// One pass.
#[derive(Clone, Copy)]
pub struct Pass {
    /// Its name, for `--passes` and `--no-pass`.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Back ends cannot do without it.
    pub required: bool,
    pub(crate) run: Run,
}

/// What a pass changes.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// The plan of an attention; and what the verifier may expect then.
    Plan(fn(&mut Plan, &Options, &mut Vec<Note>), Stage),
    /// The plan of a layer.
    Layer(fn(&mut LayerPlan)),
}

/// All passes, in order.
pub const PASSES: &[Pass] = &[
    Pass {
        name: "rows",
        about: "row sets of every entry by symbolic analysis",
        required: true,
        run: Run::Plan(rows, Stage::Rows),
    },
    Pass {
        name: "reorder",
        about: "sets that are dense in another order run in it",
        required: false,
        run: Run::Plan(reorder, Stage::Rows),
    },
    Pass {
        name: "prune",
        about: "entries that are empty for every query are left out",
        required: false,
        run: Run::Plan(prune, Stage::Rows),
    },
    Pass {
        name: "split",
        about: "parts that want tiles of their own become stages",
        required: false,
        run: Run::Plan(split, Stage::Rows),
    },
    Pass { name: "tile", about: "tile sizes by cost", required: false, run: Run::Plan(tile, Stage::Rows) },
    Pass {
        name: "widen",
        about: "what a tile of queries may and must attend to",
        required: true,
        run: Run::Plan(widen, Stage::Tiles),
    },
    Pass {
        name: "fuse",
        about: "heads of a layer with one plan run as one launch",
        required: false,
        run: Run::Layer(fuse),
    },
];

/// What a caller may decide.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names of passes to leave out; required ones stay.
    pub without: Vec<String>,
    /// Queries in a tile: 16, 32, 48 or 64. `None` lets the `tile` pass choose.
    pub tile_q: Option<usize>,
    /// What the passes choose by; `None` leaves every stage with the largest tile.
    pub machine: Option<Machine>,
}

impl Options {
    pub(crate) fn leaves_out(&self, pass: &str) -> bool {
        self.without.iter().any(|name| name == pass)
    }
}

/// Why there is no plan.
#[derive(Clone, Debug)]
pub enum PlanError {
    /// A pass broke a rule: a mistake of this compiler. The dump is the plan's text after the pass.
    Pass {
        /// The pass.
        pass: &'static str,
        /// The rule.
        refusal: Refusal,
        /// Text form of the plan.
        dump: String,
    },
    /// An integer of the pattern may not fit 64 bits for sequences of up to [`crate::MAX_LEN`] positions.
    Range {
        /// The expression.
        expr: ExprId,
    },
    /// What there is no plan for.
    Missing(Missing),
    /// The set has more pieces than a kernel may hold.
    TooLarge {
        /// Pieces found.
        pieces: usize,
    },
}

/// Most pieces in all entries of a plan.
pub const MAX_PIECES: usize = 512;

/// A plan with what the analysis had to say about it.
#[derive(Clone, Debug)]
pub struct Built {
    /// The plan.
    pub plan: VerifiedPlan,
    /// Forms that fell out of the exact analysis.
    pub notes: Vec<Note>,
}

/// Makes the plan of one attention: all passes, the verifier after each.
///
/// # Errors
/// See [`PlanError`].
pub fn build(program: &Arc<Program>, attention: usize, options: &Options) -> Result<Built, PlanError> {
    build_each(program, attention, options, |_, _| {})
}

/// As [`build`]; `after` sees the plan after each pass that ran, once the verifier has passed it.
///
/// # Errors
/// See [`PlanError`].
pub fn build_each(
    program: &Arc<Program>,
    attention: usize,
    options: &Options,
    mut after: impl FnMut(&Pass, &Plan),
) -> Result<Built, PlanError> {
    match run_passes(program, attention, options, &mut after) {
        // Positions of a class are larger expressions: where they do not fit, the given order may.
        Err(PlanError::Range { .. } | PlanError::TooLarge { .. }) if !options.leaves_out("reorder") => {
            let without = options.without.iter().cloned().chain(["reorder".to_owned()]).collect();
            run_passes(program, attention, &Options { without, ..options.clone() }, &mut after)
        }
        other => other,
    }
}

fn run_passes(
    program: &Arc<Program>,
    attention: usize,
    options: &Options,
    after: &mut impl FnMut(&Pass, &Plan),
) -> Result<Built, PlanError> {
    let mut plan = Plan::new(program.clone(), attention).map_err(PlanError::Missing)?;
    let mut notes = Vec::new();
    for pass in PASSES {
        if !pass.required && options.leaves_out(pass.name) {
            continue;
        }
        let Run::Plan(run, stage) = pass.run else { continue };
        run(&mut plan, options, &mut notes);
        if let Err(refusal) = check(&plan, stage) {
            return Err(PlanError::Pass { pass: pass.name, refusal, dump: plan.text() });
        }
        let pieces = pieces(&plan);
        if pieces > MAX_PIECES {
            return Err(PlanError::TooLarge { pieces });
        }
        after(pass, &plan);
    }
    range::fits(&plan).map_err(|expr| PlanError::Range { expr })?;
    let plan = seal(plan).map_err(|(plan, refusal)| PlanError::Pass { pass: "seal", refusal, dump: plan.text() })?;
    Ok(Built { plan, notes })
}

fn pieces(plan: &Plan) -> usize {
    let of = |e: &Entry| match e {
        Entry::Tokens { rows, .. } => rows.pieces.len(),
        Entry::Null { .. } => 0,
    };
    let scored = plan.chooses.iter().filter_map(|c| c.scored.as_ref()).map(|s| &s.walk);
    scored.chain(&plan.stages).flat_map(|s| &s.entries).map(of).sum()
}

fn rows(plan: &mut Plan, _: &Options, notes: &mut Vec<Note>) {
    let program = Arc::make_mut(&mut plan.program);
    let scored = plan.chooses.iter_mut().filter_map(|c| c.scored.as_mut()).map(|s| &mut s.walk);
    for stage in scored.chain(&mut plan.stages) {
        let role = match stage.role {
            Role::RowWalk => analysis::Role::Row,
            Role::ColumnWalk => analysis::Role::Column,
        };
        for entry in &mut stage.entries {
            if let Entry::Tokens { set, rows, .. } = entry {
                let found = analysis::row_set(program, *set, role);
                *rows = found.rows;
                notes.extend(found.notes);
            }
        }
    }
    let energies =
        plan.chooses.iter_mut().filter_map(|c| c.energy.as_mut()).flat_map(|e| [&mut e.queries, &mut e.keys]);
    for listed in energies.chain(plan.rows.as_mut().and_then(InPlace::takes_mut)) {
        listed.rows = analysis::row_set(program, listed.set, analysis::Role::Row).rows;
    }
    for c in &mut plan.chooses {
        let items = c.scored.iter_mut().flat_map(|s| s.sampled.iter_mut().chain(&mut s.listed));
        for listed in [&mut c.candidates].into_iter().chain(&mut c.besides).chain(&mut c.including).chain(items) {
            listed.rows = analysis::row_set(program, listed.set, analysis::Role::Row).rows;
        }
    }
    let tokens = plan.stages.iter().filter(|s| s.reads.kv.is_none());
    plan.given = tokens.flat_map(|s| &s.entries).cloned().collect();
}

fn prune(plan: &mut Plan, _: &Options, _: &mut Vec<Note>) {
    for stage in &mut plan.stages {
        stage.entries.retain(|e| !matches!(e, Entry::Tokens { rows, .. } if rows.pieces.is_empty()));
    }
    // One stage has to write the output of queries that attend to nothing.
    let mut kept = plan.stages.iter().any(|s| !s.entries.is_empty());
    plan.stages.retain(|s| !s.entries.is_empty() || !std::mem::replace(&mut kept, true));
}

/// Keys that each query has of its own, beside keys that neighbours share, become a stage: in a large tile every lane
/// would visit the own keys of all.
fn split(plan: &mut Plan, options: &Options, _: &mut Vec<Note>) {
    // Rows without entries are looked for stage by stage.
    if options.machine.is_none() || plan.empty == Some(Empty::Error) {
        return;
    }
    let program = Arc::make_mut(&mut plan.program);
    let mut stages = Vec::with_capacity(plan.stages.len());
    for stage in plan.stages.drain(..) {
        match parts(program, &stage) {
            Some((shared, own)) if stage.view == View::Given => stages.extend([shared, own]),
            _ => stages.push(stage),
        }
    }
    plan.stages = stages;
}

/// A stage without the pieces of keys that are listed query by query, and one of these less the others.
fn parts(program: &mut Program, stage: &Attend) -> Option<(Attend, Attend)> {
    let (mut shared, mut own) = (Vec::new(), Vec::new());
    for entry in &stage.entries {
        let Entry::Tokens { set, rows, bias, .. } = entry else {
            shared.push(entry.clone());
            continue;
        };
        let (listed, others): (Vec<Piece>, Vec<Piece>) =
            rows.pieces.iter().cloned().partition(|p| choice::scattered(program, p));
        let entry = |set, pieces| {
            let rows = RowSet { pieces };
            Entry::Tokens { set, rows, tiles: TileSet::default(), bias: *bias }
        };
        if listed.is_empty() {
            shared.push(entry(*set, others));
            continue;
        }
        let exprs = &mut program.exprs;
        let known = any(exprs, &others)?;
        let rest = exprs.not(known);
        let keep = |mut piece: Piece| {
            if exprs.as_bool(rest).is_some() {
                return vec![piece];
            }
            // Less one range there are two, and no key need be tested.
            if let [Piece { start, end, guard: None, filter: None, loops, combs }] = others.as_slice()
                && loops.is_empty()
                && combs.is_empty()
            {
                let before = Piece { end: exprs.min(piece.end, *start), ..piece.clone() };
                let after = Piece { start: exprs.max(piece.start, *end), ..piece };
                return vec![before, after];
            }
            piece.filter = Some(exprs.and(piece.filter.into_iter().chain([rest])));
            vec![piece]
        };
        let listed = listed.into_iter().flat_map(keep).collect();
        own.push(entry(exprs.and([*set, rest]), listed));
        if !others.is_empty() {
            shared.push(entry(known, others));
        }
    }
    let some = |entries: &[Entry]| entries.iter().any(|e| matches!(e, Entry::Tokens { .. }));
    let stages =
        || (Attend { entries: shared.clone(), ..stage.clone() }, Attend { entries: own.clone(), ..stage.clone() });
    (some(&shared) && some(&own)).then(stages)
}

fn tile(plan: &mut Plan, options: &Options, _: &mut Vec<Note>) {
    let may_own: Vec<bool> = plan.stages.iter().map(|stage| plan.may_own(stage)).collect();
    let Plan { program, stages, .. } = plan;
    for (stage, may_own) in stages.iter_mut().zip(may_own) {
        let chosen = || {
            let chosen = chosen_by(program, stage);
            if chosen.iter().any(|&choice| chosen_apart(program, choice)) {
                return Some((16, false));
            }
            // A nominal launch knows nothing of what is chosen alike.
            if chosen.iter().any(|&(draw, _)| chosen_alike(program, draw)) {
                return None;
            }
            // Which slots are chosen is not known beforehand.
            let known = stage.reads.kv.is_none() || chosen.is_empty();
            let machine = options.machine.filter(|_| known && stage.reads.q.is_none() && stage.view != View::Rows)?;
            Some(machine.tile(program, stage, may_own))
        };
        if let Some((q, own)) = options.tile_q.map(|q| (q, false)).or_else(chosen) {
            (stage.tile.q, stage.own) = (q, own);
        }
    }
}

/// The choices that keys of a stage are, each with the row of it that a query reads.
fn chosen_by(program: &Program, stage: &Attend) -> Vec<(DrawId, ExprId)> {
    let exprs = &program.exprs;
    let sets = stage.entries.iter().filter_map(|e| match e {
        Entry::Tokens { rows, .. } => Some(rows),
        Entry::Null { .. } => None,
    });
    let mut found = Vec::new();
    for piece in sets.flat_map(|r| &r.pieces) {
        for id in exprs.reachable(&[piece.start, piece.end]) {
            if let Node::DrawAt(draw, row, _) = *exprs.node(id) {
                found.push((draw, piece.pinned(exprs, row)));
            }
        }
    }
    found
}

/// Whether fewer queries than a panel holds share what was chosen for them: a larger tile would visit what one of its
/// panels was given with all of them.
fn chosen_apart(program: &Program, (draw, row): (DrawId, ExprId)) -> bool {
    match *program.exprs.node(row) {
        Node::Var(Var::Q) => !chosen_alike(program, draw),
        Node::Bin(Bin::Div, _, unit) => program.exprs.as_int(unit).is_some_and(|unit| unit <= 32),
        _ => false,
    }
}

/// Whether neighbouring queries mostly choose alike, since what they choose by is a number of the key alone.
fn chosen_alike(program: &Program, draw: DrawId) -> bool {
    let Chooser::Select { select, .. } = program.draw(draw).chooser else { return false };
    let score = program.select(select).score.map(|score| program.score(score));
    score.is_some_and(|score| score.dot.is_none() && !program.exprs.reads(score.value, |v| v == Var::Q))
}

fn widen(plan: &mut Plan, _: &Options, _: &mut Vec<Note>) {
    let program = Arc::make_mut(&mut plan.program);
    for stage in plan.stages.iter_mut().filter(|s| !s.view.is_listed()) {
        for entry in &mut stage.entries {
            if let Entry::Tokens { rows, tiles, .. } = entry {
                *tiles = analysis::tile_set(&mut program.exprs, rows);
            }
        }
    }
}
