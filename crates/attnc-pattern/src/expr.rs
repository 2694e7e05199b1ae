//! The closed expression IR: integers, reals and truth values over queries, keys, sizes and run-time data.
//!
//! One arena holds everything a pattern computes: the membership predicate of a set is a `Bool`
//! expression over [`Var::Q`] and [`Var::K`], a score modifier a `Real` one over [`Var::Score`].
//! Nodes are interned, so that equal expressions are one id and common parts are computed once;
//! constructors fold constants and put sums in one order, which makes affine forms easy to see.
//! Nothing here knows of tiles, targets or text.

use std::collections::hash_map::Entry;

use attnc_syntax::diag::Span;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// An expression of one [`Exprs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExprId(pub u32);

/// Operands of a node: most have three at most.
pub type Operands = SmallVec<[ExprId; 4]>;

/// The kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    /// A mathematical integer (compiled to 64 bits where that is proved to suffice).
    Int,
    /// A real: f64 in the oracle, f32 on targets.
    Real,
    /// A truth value.
    Bool,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),*) => {
        $($(#[$doc])* #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)] pub struct $name(pub u32);)*
    };
}
ids! {
    /// A run-time size of a program.
    SizeId,
    /// A run-time tensor of reals.
    TensorId,
    /// A run-time map.
    MapId,
    /// A table of chosen candidates: a random choice, or a selection.
    DrawId,
    /// A constant table of integers.
    TableId,
    /// An axis of a space, numbered over all segments.
    AxisId,
    /// A declared order.
    OrderId,
    /// A level.
    LevelId,
    /// A score.
    ScoreId,
    /// A selection.
    SelectId
}

/// A length or a start of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Extent {
    /// Position of the first query.
    QStart,
    /// Position of the first key.
    KStart,
    /// Number of queries.
    NQ,
    /// Number of keys.
    NK,
}

/// What an expression may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Var {
    /// Position of the query in the sequence: `QStart <= Q < QStart + NQ`.
    Q,
    /// Position of the key in the sequence: `KStart <= K < KStart + NK`.
    K,
    /// Position of the first query.
    QStart,
    /// Position of the first key.
    KStart,
    /// Number of queries.
    NQ,
    /// Number of keys.
    NK,
    /// Query head, from 0.
    Head,
    /// Number of query heads.
    Heads,
    /// Layer, from 0.
    Layer,
    /// Step, from 0.
    Step,
    /// Dimension of queries and keys, `d`.
    Dim,
    /// Number of documents.
    Docs,
    /// A declared run-time size.
    Size(SizeId),
    /// The score being modified: `scale * <q, k>`.
    Score,
    /// Number of a null slot within its entry; in the slot expressions of a level, number of a slot of it.
    Slot,
    /// Number of a branch of a merge.
    Branch,
    /// Number of a channel of the output, in a gate.
    Channel,
    /// Number of parts of an `offsets` map.
    Parts(MapId),
    /// A variable bound by a loop of a row-set piece.
    Loop(u32),
    /// First query position of a tile of queries (only in widened row sets).
    QLo,
    /// Last query position of a tile of queries, inclusive (only in widened row sets).
    QHi,
    /// The residue of a class: where a schedule takes the positions of one residue modulo m as a sequence of their
    /// own, position `m * Q + Class` is query `Q` of it, and the variables above for lengths and starts are its own.
    Class,
    /// The modulus of a class where it is known when run, at least 1.
    Modulus,
    /// A length or start of the whole launch, where the plain variables are those of a class or of an order.
    Given(Extent),
}

/// Operations with two operands. On integers `Div` and `Mod` floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bin {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a * b
    Mul,
    /// a / b; floors on integers.
    Div,
    /// a - floor(a / b) * b; integers only.
    Mod,
    /// The smaller.
    Min,
    /// The larger.
    Max,
}

/// Operations with one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Un {
    /// -a
    Neg,
    /// |a|
    Abs,
    /// 2 to the power of an integer `0 <= a < 62`; 0 for negative a.
    Pow2,
    /// floor(log2(a)) of an integer; -1 for a <= 0.
    Log2,
    /// floor(sqrt(a)) of an integer; -1 for a < 0.
    Isqrt,
    /// An integer as a real.
    ToReal,
    /// e^a
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// Hyperbolic tangent.
    Tanh,
    /// Document of a position (documents are contiguous): monotone.
    DocOf,
    /// First position of a document: monotone.
    DocBegin,
    /// One past the last position of a document: monotone.
    DocEnd,
    /// Index of a position in a declared order.
    OrderIndex(OrderId),
    /// Position that has an index in a declared order: what schedules that number by index read.
    OrderPosition(OrderId),
    /// Entry of a constant table; the index is within the table.
    Table(TableId),
    /// First entry of a row of a CSR map: `indptr[a]`, a = query row from 0; monotone.
    CsrBegin(MapId),
    /// Key column of entry a of a CSR map (from 0).
    CsrIndex(MapId),
    /// Part of position a in an `offsets` map: monotone. `CsrBegin` is the first position of a part.
    PartOf(MapId),
    /// Last position, in original order, of slot a of a level whose slots are not ranges of positions.
    SlotLast(LevelId),
    /// How many candidates were chosen for row a of a draw.
    DrawCount(DrawId),
}

/// Comparisons. `>`, `>=` are written with operands exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cmp {
    /// a < b
    Lt,
    /// a <= b
    Le,
    /// a == b
    Eq,
    /// a != b
    Ne,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// An integer constant.
    Int(i64),
    /// A real constant, by its bits so that nodes can be hashed.
    Real(u64),
    /// A truth constant.
    Bool(bool),
    /// A variable.
    Var(Var),
    /// One operand.
    Un(Un, ExprId),
    /// Two operands of one kind.
    Bin(Bin, ExprId, ExprId),
    /// Two integers or two reals compared.
    Cmp(Cmp, ExprId, ExprId),
    /// All hold. At least two operands, sorted, none a constant or an `And`.
    And(Vec<ExprId>),
    /// One holds. At least two operands, in the order written, none a constant or an `Or`.
    Or(Vec<ExprId>),
    /// Does not hold.
    Not(ExprId),
    /// Condition, value if it holds, value if not.
    Select(ExprId, ExprId, ExprId),
    /// Element of a run-time tensor; indices from 0.
    Load(TensorId, Vec<ExprId>),
    /// Whether a run-time map holds (query row, key row), both from 0 within the launch, in blocks for a block map.
    MapAt(MapId, ExprId, ExprId),
    /// Whether candidate `b` is among those drawn for row `a` (both in units of the draw, from position 0).
    Drawn(DrawId, ExprId, ExprId),
    /// The j-th (`b`) candidate drawn for row `a`, ascending in j; -1 where fewer were drawn.
    DrawAt(DrawId, ExprId, ExprId),
}

impl Node {
    /// The kind of its value, given those of all expressions before it.
    fn ty(&self, tys: &[Ty]) -> Ty {
        let of = |id: ExprId| tys[id.0 as usize];
        match self {
            Node::Int(_) | Node::DrawAt(..) => Ty::Int,
            Node::Real(_) | Node::Var(Var::Score) | Node::Load(..) => Ty::Real,
            Node::Var(_) => Ty::Int,
            Node::Bool(_)
            | Node::Cmp(..)
            | Node::And(_)
            | Node::Or(_)
            | Node::Not(_)
            | Node::MapAt(..)
            | Node::Drawn(..) => Ty::Bool,
            Node::Un(op, a) => match op {
                Un::Neg | Un::Abs => of(*a),
                Un::ToReal | Un::Exp | Un::Log | Un::Sqrt | Un::Tanh => Ty::Real,
                _ => Ty::Int,
            },
            Node::Bin(_, a, _) | Node::Select(_, a, _) => of(*a),
        }
    }
}

/// Expressions that a walk from users to operands has met, a bit for each. One word of 64 is skipped at a time,
/// so that a walk costs little more than what it meets, however large the arena is.
struct Met(SmallVec<[u64; 16]>);

impl Met {
    fn up_to(last: ExprId) -> Self {
        Met(SmallVec::from_elem(0, last.0 as usize / 64 + 1))
    }

    fn add(&mut self, id: ExprId) {
        self.0[id.0 as usize / 64] |= 1 << (id.0 % 64);
    }

    /// The greatest that is met, which is forgotten. Operands have smaller ids than their users.
    fn take_last(&mut self) -> Option<ExprId> {
        while let Some(word) = self.0.last_mut() {
            if *word != 0 {
                let bit = 63 - word.leading_zeros();
                *word &= !(1 << bit);
                return Some(ExprId((self.0.len() - 1) as u32 * 64 + bit));
            }
            self.0.pop();
        }
        None
    }
}

/// The arena.
#[derive(Clone, Debug, Default)]
pub struct Exprs {
    nodes: Vec<Node>,
    /// The kind of each: a chain of operations asks for that of its first operand.
    tys: Vec<Ty>,
    ids: FxHashMap<Node, ExprId>,
    spans: FxHashMap<ExprId, Span>,
}

impl Exprs {
    /// An empty arena.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The node of an expression.
    #[must_use]
    pub fn node(&self, id: ExprId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Number of nodes; ids are `0 .. len`, and operands have smaller ids than their users.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// No node yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Remembers where an expression was written; the first place stays.
    pub fn set_span(&mut self, id: ExprId, span: Span) {
        self.spans.entry(id).or_insert(span);
    }

    /// Where an expression was first written, if it was.
    #[must_use]
    pub fn span(&self, id: ExprId) -> Option<Span> {
        self.spans.get(&id).copied()
    }

    /// Interns a node as it is. The named constructors below simplify first: prefer them.
    pub fn intern(&mut self, node: Node) -> ExprId {
        match self.ids.entry(node) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let id = ExprId(u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes"));
                self.tys.push(new.key().ty(&self.tys));
                self.nodes.push(new.key().clone());
                *new.insert(id)
            }
        }
    }

    /// An integer constant.
    pub fn int(&mut self, value: i64) -> ExprId {
        self.intern(Node::Int(value))
    }

    /// A real constant.
    pub fn real(&mut self, value: f64) -> ExprId {
        self.intern(Node::Real(value.to_bits()))
    }

    /// A truth constant.
    pub fn bool(&mut self, value: bool) -> ExprId {
        self.intern(Node::Bool(value))
    }

    /// A variable.
    pub fn var(&mut self, var: Var) -> ExprId {
        self.intern(Node::Var(var))
    }

    /// The value of an integer constant.
    #[must_use]
    pub fn as_int(&self, id: ExprId) -> Option<i64> {
        match *self.node(id) {
            Node::Int(v) => Some(v),
            _ => None,
        }
    }

    /// The value of a real constant.
    #[must_use]
    pub fn as_real(&self, id: ExprId) -> Option<f64> {
        match *self.node(id) {
            Node::Real(v) => Some(f64::from_bits(v)),
            _ => None,
        }
    }

    /// The value of a truth constant.
    #[must_use]
    pub fn as_bool(&self, id: ExprId) -> Option<bool> {
        match *self.node(id) {
            Node::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// The kind of an expression.
    #[must_use]
    pub fn ty(&self, id: ExprId) -> Ty {
        self.tys[id.0 as usize]
    }

    /// Operands of a node, in order.
    #[must_use]
    pub fn operands(&self, id: ExprId) -> Operands {
        let mut found = Operands::new();
        self.each_operand(id, |o| found.push(o));
        found
    }

    /// Calls `f` with each operand of a node, in order.
    pub fn each_operand(&self, id: ExprId, mut f: impl FnMut(ExprId)) {
        match self.node(id) {
            Node::Int(_) | Node::Real(_) | Node::Bool(_) | Node::Var(_) => {}
            Node::Un(_, a) | Node::Not(a) => f(*a),
            Node::Bin(_, a, b)
            | Node::Cmp(_, a, b)
            | Node::MapAt(_, a, b)
            | Node::Drawn(_, a, b)
            | Node::DrawAt(_, a, b) => {
                f(*a);
                f(*b);
            }
            Node::And(xs) | Node::Or(xs) | Node::Load(_, xs) => xs.iter().copied().for_each(f),
            Node::Select(c, a, b) => {
                f(*c);
                f(*a);
                f(*b);
            }
        }
    }

    /// Every expression reachable from `roots`, operands before users, each once.
    #[must_use]
    pub fn reachable(&self, roots: &[ExprId]) -> Vec<ExprId> {
        let Some(&last) = roots.iter().max() else { return vec![] };
        let mut met = Met::up_to(last);
        roots.iter().for_each(|&r| met.add(r));
        let mut found = Vec::new();
        while let Some(id) = met.take_last() {
            found.push(id);
            self.each_operand(id, |o| met.add(o));
        }
        found.reverse();
        found
    }

    /// Whether an expression reads a variable for which `pred` holds.
    #[must_use]
    pub fn reads(&self, id: ExprId, pred: impl Fn(Var) -> bool) -> bool {
        let mut met = Met::up_to(id);
        met.add(id);
        while let Some(at) = met.take_last() {
            if matches!(*self.node(at), Node::Var(v) if pred(v)) {
                return true;
            }
            self.each_operand(at, |o| met.add(o));
        }
        false
    }
}
