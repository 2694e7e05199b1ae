//! The plan IR: stages over tiles, each with what it walks and the closed forms it walks by.
//!
//! A plan of a static attention has one [`Attend`] stage; one that depends on the data makes levels and tables of chosen
//! slots before ([`crate::choose`]). The `role` of a stage says which side a task owns:
//! a row walk owns a tile of queries and visits keys (forward, and dQ); a column walk owns a tile of
//! keys and visits queries (dK, dV). Nothing here knows of kernels, instruction sets or threads.

use std::sync::Arc;

use attnc_pattern::expr::{ExprId, Exprs, LevelId, OrderId, Var};
use attnc_pattern::program::{Align, Empty, Pool, Program, Source};
use attnc_pattern::rowset::{Piece, RowSet, TileSet};

use crate::choose::{self, Choose, Missing, Pool as Level};
use crate::inplace::InPlace;
use crate::ordered;

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
    /// Rows that a launch lists, with the position at which each stands: those of a table of chosen slots, or of what
    /// stands in place of queries ([`Plan::rows`]). As in a walk there are no tile sets.
    Rows,
}

impl View {
    /// Whether keys have the numbers of the launch, which follow one another in memory.
    #[must_use]
    pub fn keys_as_given(self) -> bool {
        matches!(self, View::Given | View::Walk(_) | View::Rows)
    }

    /// Whether the queries of a tile are listed, so that they are no range.
    #[must_use]
    pub fn is_listed(self) -> bool {
        matches!(self, View::Walk(_) | View::Rows)
    }
}

/// The levels that a stage reads; `None` is the tokens themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Whose slots its rows are.
    pub q: Option<LevelId>,
    /// Whose slots its keys are: its expressions are then over slots ([`attnc_pattern::selection`]).
    pub kv: Option<LevelId>,
}

/// Most queries of a head that are folded with those of other heads, and of a launch that are computed by class: more of
/// them fill panels on their own.
pub const FEW_QUERIES: i64 = 16;

/// How few queries are computed: for several heads at once, and with long rows of keys in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Few {
    /// Those of a head are lanes of one tile: as many as it has.
    Together,
    /// Those of a class are lanes of one tile, in all stages at once ([`queries_by_class`]): those of several classes share
    /// no keys.
    Apart,
}

/// Numbers of few queries in the groups that are in one class in every stage, `moduli` being those of the stages: 1 for one
/// without classes.
#[must_use]
pub fn queries_by_class(moduli: &[i64], n_q: i64) -> Vec<Vec<u32>> {
    let mut classes: Vec<Vec<u32>> = Vec::new();
    for query in 0..n_q.clamp(0, FEW_QUERIES) as u32 {
        let shares = |of: &&mut Vec<u32>| moduli.iter().all(|m| i64::from(query - of[0]) % (*m).max(1) == 0);
        match classes.iter_mut().find(shares) {
            Some(class) => class.push(query),
            None => classes.push(vec![query]),
        }
    }
    classes
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
    /// What stands in place of the queries; `None`: they do themselves.
    pub rows: Option<InPlace>,
    /// Levels, each after its parent.
    pub pools: Vec<Level>,
    /// Selections, each after those it reads.
    pub chooses: Vec<Choose>,
    /// The stages that attend, in order. Each but the first goes on from the output and log-sum-exp of those before it.
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
    /// Whether queries go one by one, each with its own keys and no others, and not as lanes that visit a key together.
    pub own: bool,
    /// What it reads in place of tokens.
    pub reads: Reads,
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

impl Attend {
    /// A finite constant that every score of the stage is biased by: it moves the maximum of a softmax and nothing else,
    /// so that it need not be added to scores.
    #[must_use]
    pub fn common_bias(&self, exprs: &Exprs) -> Option<f64> {
        let mut common = None;
        for entry in &self.entries {
            let Entry::Tokens { bias: Some(bias), .. } = entry else { return None };
            if common.is_some_and(|known| known != *bias) {
                return None;
            }
            common = Some(*bias);
        }
        exprs.as_real(common?).filter(|b| b.is_finite() && (*b as f32).is_finite())
    }
}

impl Plan {
    /// How `n_q` queries of a head are computed if they are few; `None` if they are as many are.
    #[must_use]
    pub fn few(&self, n_q: i64) -> Option<Few> {
        let numbered = |s: &Attend| matches!(s.view, View::Given | View::Walk(_) | View::Classes(_));
        // What is chosen differs between heads.
        let not = self.is_dynamic() || self.stages.iter().any(|s| s.own || !numbered(s));
        let (few, most) = match self.stages.as_slice() {
            [Attend { view: View::Given | View::Walk(_), tile, .. }] => (Few::Together, tile.q as i64),
            _ => (Few::Apart, FEW_QUERIES),
        };
        (!not && (1..=most).contains(&n_q)).then_some(few)
    }

    /// Most of `n_q` queries of a head that are computed together if they are few, whatever the sizes of a launch.
    #[must_use]
    pub fn most_together(&self, n_q: i64) -> i64 {
        let of_class = |stage: &Attend| match stage.view {
            View::Classes(modulus) => self.program.exprs.as_int(modulus).map_or(n_q, |m| (n_q - 1) / m.max(1) + 1),
            _ => n_q,
        };
        self.stages.iter().map(of_class).min().unwrap_or(n_q)
    }

    /// Whether queries of a stage may go one by one ([`Attend::own`]): scores are used as they are, and where the plan has
    /// several stages it is not one that has code for few queries ([`Plan::few`]).
    #[must_use]
    pub fn may_own(&self, stage: &Attend) -> bool {
        let plain = |e: &Entry| matches!(e, Entry::Tokens { bias: None, .. });
        stage.score.is_none()
            && (self.is_dynamic() || self.stages.len() == 1)
            && stage.reads.q.is_none()
            && stage.view != View::Rows
            && self.rows.is_none()
            && (stage.entries.iter().all(plain) || stage.common_bias(&self.program.exprs).is_some())
    }

    /// Whether a stage looks at every pair of a query and a key: its set has no closed ends in the stage's order.
    #[must_use]
    pub fn tests_all(&self) -> bool {
        let pieces = self.stages.iter().flat_map(|stage| &stage.entries).flat_map(Entry::pieces);
        pieces.into_iter().any(|piece| ordered::tests_all(&self.program.exprs, piece))
    }
}

impl Entry {
    /// Pieces of its row set.
    pub(crate) fn pieces(&self) -> &[Piece] {
        match self {
            Entry::Tokens { rows, .. } => &rows.pieces,
            Entry::Null { .. } => &[],
        }
    }
}

impl Plan {
    /// The plan before any pass: levels and selections, and for the tokens and each level that it attends to a stage that
    /// owns queries; entries as written, row sets not yet known.
    ///
    /// # Errors
    /// What has no plan.
    pub fn new(mut program: Arc<Program>, attention: usize) -> Result<Plan, Missing> {
        let (pools, chooses) = choose::stages(&mut program, attention)?;
        let (rows, arm) = InPlace::of(Arc::make_mut(&mut program), attention);
        let (whole, a) = (program.attentions[attention].clone(), program.attentions[arm].clone());
        let view = if rows.is_some() { View::Rows } else { View::Given };
        let queries = a.pooled.map(|pooled| pooled.level);
        let of = |reads| Attend {
            role: Role::RowWalk,
            tile: Tile { q: 64, k: 64 },
            view,
            own: false,
            reads,
            scale: a.scale,
            score: a.score,
            entries: Vec::new(),
        };
        let mut stages: Vec<Attend> = Vec::new();
        for e in &a.entries {
            let (reads, score, entry) = match e.source {
                Source::Tokens(set) => {
                    // A key drawn m times is one term with the bias log m.
                    let weight = program.multiset(set).and_then(|d| program.draw(d).weight);
                    let bias = match (e.bias, weight) {
                        (Some(bias), Some(weight)) => Some(Arc::make_mut(&mut program).exprs.add(bias, weight)),
                        (bias, weight) => bias.or(weight),
                    };
                    let entry = Entry::Tokens { set, rows: RowSet::default(), tiles: TileSet::default(), bias };
                    (Reads { q: queries, kv: None }, a.score, entry)
                }
                Source::Slots(level, set) => {
                    let entry = Entry::Tokens { set, rows: RowSet::default(), tiles: TileSet::default(), bias: e.bias };
                    let own = choose::tokenwise(&program, level) && program.level(level).of.q;
                    let own = own || matches!(program.level(level).pool, Pool::Channels(_));
                    if own && queries.is_some() {
                        let what = "levels of tokens beside queries that are slots of a level".to_owned();
                        return Err(Missing { what, span: program.level(level).span });
                    }
                    (Reads { q: own.then_some(level).or(queries), kv: Some(level) }, e.score, entry)
                }
                Source::Null(slots) => (Reads { q: queries, kv: None }, a.score, Entry::Null { slots, bias: e.bias }),
            };
            match stages.iter_mut().find(|s| (s.reads, s.score) == (reads, score)) {
                Some(stage) => stage.entries.push(entry),
                None => {
                    // Where slots are keys, lengths of the launch have other names.
                    let scale = match reads.kv {
                        Some(_) => choose::of_launch(&mut Arc::make_mut(&mut program).exprs, a.scale),
                        None => a.scale,
                    };
                    stages.push(Attend { entries: vec![entry], score, scale, ..of(reads) });
                }
            }
        }
        if stages.is_empty() {
            stages.push(of(Reads { q: queries, kv: None }));
        }
        Ok(Plan {
            name: whole.name,
            attention,
            given: Vec::new(),
            rows,
            pools,
            chooses,
            stages,
            align: whole.align,
            empty: a.empty,
            require: whole.require,
            program,
        })
    }

    /// Whether it makes levels or tables before it attends.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        !(self.pools.is_empty() && self.chooses.is_empty() && self.rows.is_none())
    }

    /// Whether a scale reads which head it is of.
    #[must_use]
    pub fn scales_by_head(&self) -> bool {
        self.stages.iter().any(|s| self.program.exprs.reads(s.scale, |v| v == Var::Head))
    }

    /// A hash of all that decides a result's rounding: 16 hexadecimal digits of the text form's BLAKE3.
    #[must_use]
    pub fn hash(&self) -> String {
        blake3::hash(self.text().as_bytes()).to_hex()[..16].to_string()
    }
}
