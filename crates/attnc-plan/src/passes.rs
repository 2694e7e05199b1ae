//! Passes as data, run in order, the verifier after each.
//!
//! The first two make the closed forms that every back end needs; the others may be switched off.
//! A pass changes the schedule, never the meaning. Nothing here knows of targets.

use std::sync::Arc;

use attnc_pattern::analysis::{self, Note};
use attnc_pattern::expr::{Bin, ExprId, Exprs, Node, Var};
use attnc_pattern::program::Program;

use crate::choose::Missing;
use crate::plan::{Attend, Entry, Plan, Role, Tile};
use crate::range;
use crate::reorder::reorder;
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
    /// What the verifier may expect after it.
    after: Stage,
    run: fn(&mut Plan, &Options, &mut Vec<Note>),
}

/// All passes, in order.
pub const PASSES: &[Pass] = &[
    Pass {
        name: "rows",
        about: "row sets of every entry by symbolic analysis",
        required: true,
        after: Stage::Rows,
        run: rows,
    },
    Pass {
        name: "reorder",
        about: "sets that are dense in another order run in it",
        required: false,
        after: Stage::Rows,
        run: reorder,
    },
    Pass {
        name: "prune",
        about: "entries that are empty for every query are left out",
        required: false,
        after: Stage::Rows,
        run: prune,
    },
    Pass { name: "tile", about: "tile sizes", required: true, after: Stage::Rows, run: tile },
    Pass {
        name: "widen",
        about: "what a tile of queries may and must attend to",
        required: true,
        after: Stage::Tiles,
        run: widen,
    },
];

/// What a caller may decide.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names of passes to leave out; required ones stay.
    pub without: Vec<String>,
    /// Queries in a tile: 16, 32, 48 or 64. `None` lets the `tile` pass choose.
    pub tile_q: Option<usize>,
}

impl Options {
    fn leaves_out(&self, pass: &str) -> bool {
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
        (pass.run)(&mut plan, options, &mut notes);
        if let Err(refusal) = check(&plan, pass.after) {
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
    for c in &mut plan.chooses {
        for listed in [&mut c.candidates].into_iter().chain(&mut c.besides).chain(&mut c.including) {
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

fn tile(plan: &mut Plan, options: &Options, _: &mut Vec<Note>) {
    let exprs = &plan.program.exprs;
    for stage in &mut plan.stages {
        let q = options.tile_q.unwrap_or_else(|| if chosen_apart(exprs, stage) { 16 } else { 64 });
        stage.tile = Tile { q, k: 64 };
    }
}

/// Whether fewer queries than a panel holds share what was chosen for them: a larger tile would visit what one of its
/// panels was given with all of them.
fn chosen_apart(exprs: &Exprs, stage: &Attend) -> bool {
    let sets = stage.entries.iter().filter_map(|e| match e {
        Entry::Tokens { rows, .. } => Some(rows),
        Entry::Null { .. } => None,
    });
    sets.flat_map(|r| &r.pieces).any(|piece| {
        exprs.reachable(&[piece.start, piece.end]).iter().any(|&id| match *exprs.node(id) {
            Node::DrawAt(_, row, _) => match *exprs.node(piece.pinned(exprs, row)) {
                Node::Var(Var::Q) => true,
                Node::Bin(Bin::Div, _, unit) => exprs.as_int(unit).is_some_and(|unit| unit <= 32),
                _ => false,
            },
            _ => false,
        })
    })
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
