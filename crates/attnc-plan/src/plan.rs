//! The plan IR: stages over tiles, each with what it walks and the closed forms it walks by.
//!
//! A plan of a static attention has one [`Attend`] stage. Its `role` says which side a task owns:
//! a row walk owns a tile of queries and visits keys (forward, and dQ); a column walk owns a tile of
//! keys and visits queries (dK, dV). Nothing here knows of kernels, instruction sets or threads.

use std::sync::Arc;

use attnc_pattern::expr::{ExprId, OrderId, Var};
use attnc_pattern::program::{Align, Empty, Program, Source};
use attnc_pattern::rowset::{RowSet, TileSet};

/// Which side a task owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A task owns queries and visits keys.
    RowWalk,
    /// A task owns keys and visits queries.
    ColumnWalk,
}

/// Sizes of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Queries: a multiple of 16, at most 64.
    pub q: usize,
    /// Keys: 64.
    pub k: usize,
}

/// How a stage numbers tokens. What is sparse in the given order may be dense in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// As given.
    Given,
    /// Positions of one residue after the other: each is a sequence of its own, and expressions are over it
    /// ([`attnc_pattern::expr::Var::Class`]). Rows lie a stride apart; nothing is copied. The modulus is a constant or a
    /// size of the launch, and counts as 1 if it is less.
    Classes(ExprId),
    /// Queries in a declared order, keys as given: neighbours in the order share keys. A tile's queries are no range,
    /// so that the stage has no tile sets.
    Walk(OrderId),
    /// By index in declared orders, and expressions are over indices ([`attnc_pattern::expr::Un::OrderPosition`] gives
    /// the position). Rows are listed, and those of keys are gathered as they are visited.
    Ordered {
        /// The order that queries have.
        queries: OrderId,
        /// The order that keys have.
        keys: OrderId,
    },
}

/// How one attention is computed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program, whose arena holds every expression of the plan.
    pub program: Arc<Program>,
    /// Name of the attention.
    pub name: String,
    /// Index into [`Program::attentions`].
    pub attention: usize,
    /// The entries in the given order, as analysed: what the plan attends to, whatever its stages do.
    pub given: Vec<Entry>,
    /// The stages, in order. Each but the first goes on from the output and log-sum-exp of those before it.
    pub stages: Vec<Attend>,
    /// Alignment of queries against keys when no starts are given.
    pub align: Option<Align>,
    /// Policy for empty rows.
    pub empty: Option<Empty>,
    /// Sizes the plan is for.
    pub require: ExprId,
}

/// Visit entries tile by tile with an online softmax.
#[derive(Clone, Debug)]
pub struct Attend {
    /// Which side a task owns.
    pub role: Role,
    /// Tile sizes.
    pub tile: Tile,
    /// Numbering of tokens.
    pub view: View,
    /// Multiplies every dot product: a real over sizes, counts, `Dim`, coordinates.
    pub scale: ExprId,
    /// Modifier over `Score`, `Q`, `K` and run-time data.
    pub score: Option<ExprId>,
    /// The entries; they add up.
    pub entries: Vec<Entry>,
}

/// One entry of an [`Attend`].
#[derive(Clone, Debug)]
pub enum Entry {
    /// Keys of a set.
    Tokens {
        /// The set, as checked.
        set: ExprId,
        /// For one query.
        rows: RowSet,
        /// For a tile of queries.
        tiles: TileSet,
        /// Added to the modified score.
        bias: Option<ExprId>,
    },
    /// Null slots: V = 0, logit = bias.
    Null {
        /// How many.
        slots: i64,
        /// The logit of slot `Slot`; 0 without one.
        bias: Option<ExprId>,
    },
}

impl Plan {
    /// The plan before any pass: one stage that owns queries, entries as written, row sets not yet known.
    #[must_use]
    pub fn new(mut program: Arc<Program>, attention: usize) -> Plan {
        let a = program.attentions[attention].clone();
        let entries = a
            .entries
            .iter()
            .map(|e| match e.source {
                Source::Tokens(set) => {
                    // A key drawn m times is one term with the bias log m.
                    let weight = program.multiset(set).and_then(|d| program.draw(d).weight);
                    let bias = match (e.bias, weight) {
                        (Some(bias), Some(weight)) => Some(Arc::make_mut(&mut program).exprs.add(bias, weight)),
                        (bias, weight) => bias.or(weight),
                    };
                    Entry::Tokens { set, rows: RowSet::default(), tiles: TileSet::default(), bias }
                }
                Source::Null(slots) => Entry::Null { slots, bias: e.bias },
            })
            .collect();
        Plan {
            name: a.name.clone(),
            attention,
            given: Vec::new(),
            stages: vec![Attend {
                role: Role::RowWalk,
                tile: Tile { q: 64, k: 64 },
                view: View::Given,
                scale: a.scale,
                score: a.score,
                entries,
            }],
            align: a.align,
            empty: a.empty,
            require: a.require,
            program,
        }
    }

    /// Whether a score, a scale or a bias reads which head it is of. Sets may read it besides.
    #[must_use]
    pub fn reads_head(&self) -> bool {
        let exprs = &self.program.exprs;
        let of_entry = |e: &Entry| match e {
            Entry::Tokens { bias, .. } | Entry::Null { bias, .. } => *bias,
        };
        let of_stage = |s: &Attend| {
            let biases = s.entries.iter().filter_map(of_entry);
            s.score.into_iter().chain(biases).chain([s.scale]).any(|e| exprs.reads(e, |v| v == Var::Head))
        };
        self.stages.iter().any(of_stage)
    }

    /// A hash of all that decides a result's rounding: 16 hexadecimal digits of the text form's BLAKE3.
    #[must_use]
    pub fn hash(&self) -> String {
        blake3::hash(self.text().as_bytes()).to_hex()[..16].to_string()
    }
}
