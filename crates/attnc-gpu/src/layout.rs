//! What a shader is told of a job: one (batch item, head) as a row of 32-bit words.
//!
//! The one idea: a module reads only the fields that its pattern needs, so that the row is a list of [`Field`]s that
//! emission collects and a launch fills in. Run-time data (maps, tensors, documents, draws, orders) stand in one buffer
//! of words; fields say where. Nothing here knows of shaders' text or of wgpu.

/// One word of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Field {
    /// Number of queries of the job.
    NQ,
    /// Number of keys.
    NK,
    /// Position of the first query.
    QStart,
    /// Position of the first key.
    KStart,
    /// First row of the job in Q.
    QRow,
    /// First row in K and V; where keys are slots of a level, in K.
    KRow,
    /// First row in V, where keys are slots of a level.
    VRow,
    /// First row in the output, the log-sum-exp and what is handed over between stages.
    ORow,
    /// Query head.
    Head,
    /// Number of query heads.
    Heads,
    /// Layer.
    Layer,
    /// Step.
    Step,
    /// Dimension of queries and keys.
    Dim,
    /// Number of documents.
    Docs,
    /// Where document offsets begin.
    DocsData,
    /// Where the queries of a walk are listed.
    Walk,
    /// Where the rows in place of queries are listed, branch by branch: how many, then as many numbers of queries.
    Stand,
    /// Most rows of a branch.
    StandRoom,
    /// A size of the program.
    Size(u32),
    /// Where a tensor begins.
    Tensor(u32),
    /// An extent of it.
    Extent(u32, u32),
    /// Where a map begins: its bytes or its offsets.
    MapData(u32),
    /// Its rows.
    MapRows(u32),
    /// Its columns; of a compressed one, where they begin.
    MapColumns(u32),
    /// Entries of a compressed map.
    MapEntries(u32),
    /// Where a draw begins.
    DrawData(u32),
    /// Entries of a row of it.
    DrawCount(u32),
    /// Its rows.
    DrawRows(u32),
    /// Its first row.
    DrawFirst(u32),
    /// Where an order begins.
    Order(u32),
    /// How long it is.
    OrderLen(u32),
    /// Where a constant table begins.
    Table(u32),
    /// Where the positions in an order begin, by index.
    Position(u32),
    /// Number of slots of a level.
    Slots(u32),
    /// Where the last positions of the slots of a level begin.
    Last(u32),
    /// What one pass alone knows, by its name.
    Own(&'static str),
}

impl Field {
    /// The module variable that holds it.
    pub(crate) fn name(self) -> String {
        match self {
            Field::NQ => "given_n_q".to_owned(),
            Field::NK => "given_n_k".to_owned(),
            Field::QStart => "given_q_start".to_owned(),
            Field::KStart => "given_k_start".to_owned(),
            Field::QRow => "q_row".to_owned(),
            Field::KRow => "k_row".to_owned(),
            Field::VRow => "v_row".to_owned(),
            Field::ORow => "o_row".to_owned(),
            Field::Head => "head".to_owned(),
            Field::Heads => "heads".to_owned(),
            Field::Layer => "layer".to_owned(),
            Field::Step => "step_number".to_owned(),
            Field::Dim => "dim".to_owned(),
            Field::Docs => "docs".to_owned(),
            Field::DocsData => "doc_offsets".to_owned(),
            Field::Walk => "walk".to_owned(),
            Field::Stand => "stand".to_owned(),
            Field::StandRoom => "stand_room".to_owned(),
            Field::Size(n) => format!("size{n}"),
            Field::Tensor(n) => format!("tensor{n}"),
            Field::Extent(n, axis) => format!("tensor{n}_extent{axis}"),
            Field::MapData(n) => format!("map{n}"),
            Field::MapRows(n) => format!("map{n}_rows"),
            Field::MapColumns(n) => format!("map{n}_columns"),
            Field::MapEntries(n) => format!("map{n}_entries"),
            Field::DrawData(n) => format!("draw{n}"),
            Field::DrawCount(n) => format!("draw{n}_count"),
            Field::DrawRows(n) => format!("draw{n}_rows"),
            Field::DrawFirst(n) => format!("draw{n}_first"),
            Field::Order(n) => format!("order{n}"),
            Field::OrderLen(n) => format!("order{n}_len"),
            Field::Table(n) => format!("table{n}"),
            Field::Position(n) => format!("position{n}"),
            Field::Slots(n) => format!("slots{n}"),
            Field::Last(n) => format!("last{n}"),
            Field::Own(name) => name.to_owned(),
        }
    }
}
