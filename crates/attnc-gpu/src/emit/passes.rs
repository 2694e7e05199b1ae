//! Passes before a plan attends: rows of levels, scores, and tables of chosen slots.
//!
//! The one idea: every table is made on the device from lists that a launch knows beforehand, so that nothing is read
//! back. A score is a grid of words, made by items, reduced and normed pass by pass; a ranking turns scores into numbers
//! that ascend where scores descend, finds digit by digit the number up to which the budget reaches, and writes slots in
//! ascending order. Equal scores go to the lower slot, then the lower row. How many workgroups there are is fixed by
//! sizes; each goes over the rows that fall to it, and over as many candidates as a row turns out to have.
//! Scores are f32, whatever the type of the tensors. Nothing here knows of devices.

use std::fmt::Write as _;

use attnc_pattern::expr::{ExprId, LevelId, Node, TensorId, Un};
use attnc_pattern::program::{
    Among, Band, Budget, Chooser, Index, Norm, Operand, Pool as Pooling, Program, Reduce, Rep, Rows, Select, Step,
};
use attnc_pattern::rowset::RowSet;
use attnc_plan::{Choose, InPlace, Plan, Scored, choose};

use super::expr::{self, Body, Home, Names};
use super::{Element, EmitError, Spec, sets};
use crate::layout::Field;

/// Q, K or V.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
    Q,
    K,
    V,
}

/// What a pass makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Rows of an operand of a level; a workgroup for each row where they are weighed by queries.
    Pool { pool: usize, of: Of },
    /// Rows of an operand of a score that are means over heads or of length 1: a number of [`choose::prepared`].
    Operand(usize),
    /// The first grid of a selection's scores: a workgroup for each row of items.
    Items(usize),
    /// Grid `grid` of a selection's scores from the one before.
    Grid { choose: usize, grid: usize, how: How },
    /// A table of ranked candidates: a workgroup for each row.
    Rank(usize),
    /// A table of pairs that are ranked together: their numbers, how far each table reaches, and the tables.
    Fill(usize),
    /// See [`Kind::Fill`].
    Reach(usize),
    /// See [`Kind::Fill`].
    Write(usize),
    /// A table that a search finds: a workgroup for each row.
    Search(usize),
    /// Sums of squares of the channels of rows: a workgroup for [`PART`] rows.
    Energy(usize),
    /// Lists of the queries that each branch of a merge takes: a workgroup for each branch.
    Stand,
    /// The tiles of a stage that have rows, and how many workgroups they are.
    Tasks(usize),
    /// The output of queries, from those of the rows in place of them: a thread for each vector.
    Spread,
}

/// How a grid is made from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Rows become one: a thread for each value.
    Queries,
    /// Steps within rows: a workgroup for each row.
    Rows,
    /// One scale for the whole head, in place: a workgroup for each head.
    Head,
}

/// One pass: a module of its own.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    /// Its WGSL; the entry point is `main`.
    pub(crate) text: String,
    pub(crate) kind: Kind,
    pub(crate) fields: Vec<Field>,
    /// Bindings, and whether each is written.
    pub(crate) bindings: Vec<(u32, bool)>,
}

impl Pass {
    /// Whether it comes after the stages that attend.
    pub(crate) fn is_last(&self) -> bool {
        self.kind == Kind::Spread
    }
}

/// Threads of a workgroup.
pub(crate) const THREADS: usize = 64;
/// Rows whose channels are summed up one after the other.
pub(crate) const PART: usize = 64;
/// Threads of a workgroup that goes over all of a head.
pub(crate) const MANY: usize = 256;

/// Steps of a score that one pass takes: norms, candidates that become one, norms.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Batch {
    pub(crate) before: Vec<Norm>,
    pub(crate) keys: Option<(Reduce, Index)>,
    pub(crate) after: Vec<Norm>,
}

/// How the values of a selection's score are made.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// Items whose candidates become one as they are scored.
    pub(crate) first: Option<(Reduce, Index)>,
    /// Steps on rows of items.
    pub(crate) items: Batch,
    /// The other grids, each from the one before.
    pub(crate) grids: Vec<(How, Batch, Option<Reduce>, Norm)>,
    /// Candidates of each grid, the first included.
    pub(crate) slots: Vec<Index>,
    /// Rows of each grid are those of the score; else of items.
    pub(crate) reduced: Vec<bool>,
}

impl Recipe {
    pub(crate) fn new(scored: &Scored) -> Recipe {
        let mut steps = scored.steps.as_slice();
        let mut at = scored.items;
        let first = match steps.first() {
            Some(Step::Keys { op, into }) => {
                steps = &steps[1..];
                at = *into;
                Some((*op, *into))
            }
            _ => None,
        };
        let items = batch(&mut steps, &mut at);
        let mut recipe = Recipe { first, items, grids: Vec::new(), slots: vec![at], reduced: vec![false] };
        let mut reduced = false;
        while let Some(step) = steps.first() {
            let none = Batch::default();
            let made = match step {
                Step::Queries { op, .. } => {
                    reduced = true;
                    steps = &steps[1..];
                    (How::Queries, none, Some(*op), Norm::Exp)
                }
                Step::Norm { norm, head: true } => {
                    steps = &steps[1..];
                    (How::Head, none, None, *norm)
                }
                _ => (How::Rows, batch(&mut steps, &mut at), None, Norm::Exp),
            };
            recipe.grids.push(made);
            recipe.slots.push(at);
            recipe.reduced.push(reduced);
        }
        recipe
    }

    /// Whether a row of items needs memory of its own beside the grid.
    pub(crate) fn slab(&self) -> bool {
        self.items.keys.is_some()
    }
}

/// Takes the steps of a batch off the front.
fn batch(steps: &mut &[Step], at: &mut Index) -> Batch {
    let mut batch = Batch::default();
    while let Some(step) = steps.first() {
        match step {
            Step::Norm { norm, head: false } if batch.keys.is_none() => batch.before.push(*norm),
            Step::Norm { norm, head: false } => batch.after.push(*norm),
            Step::Keys { op, into } if batch.keys.is_none() => {
                batch.keys = Some((*op, *into));
                *at = *into;
            }
            _ => break,
        }
        *steps = &steps[1..];
    }
    batch
}

/// The passes of a plan, in order.
///
/// # Errors
/// What this back end does not do.
pub(crate) fn passes(plan: &Plan, spec: &Spec) -> Result<Vec<Pass>, EmitError> {
    let mut all = Vec::new();
    for (number, pool) in plan.pools.iter().enumerate() {
        for (of, wanted) in [(Of::Q, pool.of.q), (Of::K, pool.of.k), (Of::V, pool.of.v)] {
            if wanted {
                all.push(pooled(plan, spec, number, of)?);
            }
        }
    }
    for (number, operand) in choose::prepared(plan).into_iter().enumerate() {
        all.push(operand_rows(plan, spec, number, operand));
    }
    for (number, made) in plan.chooses.iter().enumerate() {
        choices(plan, spec, number, made, &mut all)?;
    }
    if let Some(rows) = &plan.rows {
        if let Some(takes) = rows.takes() {
            all.push(stand(plan, spec, takes)?);
            for (number, stage) in plan.stages.iter().enumerate() {
                all.push(tasks(plan, number, stage.tile.q));
            }
        }
        all.push(spread(plan, spec, rows));
    }
    Ok(all)
}

/// The level that has the rows of an operand of a level, if they are made.
pub(crate) fn pooled_in(plan: &Plan, level: LevelId, of: Of) -> Option<LevelId> {
    let origin = choose::origin(&plan.program, level, derived(of))?;
    plan.pools.iter().any(|p| p.level == origin && derived(of)(p.of)).then_some(origin)
}

/// The type of the rows that something derived is read from: tensors as they are, levels as f32.
pub(crate) fn element_of(program: &Program, spec: &Spec, level: Option<LevelId>, of: Of) -> Element {
    let level = level.and_then(|l| choose::origin(program, l, derived(of)));
    if level.is_some() { Element::F32 } else { spec.input }
}

/// Whether a level derives an operand.
pub(crate) fn derived(of: Of) -> fn(attnc_pattern::program::Derived) -> bool {
    match of {
        Of::Q => |d| d.q,
        Of::K => |d| d.k,
        Of::V => |d| d.v,
    }
}

/// Whether members of a level's slots are lists; else they are ranges.
pub(crate) fn is_listed(program: &Program, id: LevelId) -> bool {
    let level = program.level(id);
    (level.parent.is_none() && program.is_scattered(id)) || matches!(level.pool, Pooling::Weighted(_))
}

const HEAD: &str = "struct Dispatch {
  first_job: i32,
  jobs: i32,
  /// Most rows of a job.
  rows: i32,
  /// Workgroups.
  groups: i32,
  /// Memory of a workgroup: where that of the first begins, and how much each has.
  scratch: i32,
  room: i32,
}
";

fn element_name(element: Element) -> &'static str {
    if element == Element::F32 { "vec4<f32>" } else { "vec2<u32>" }
}

/// A binding of rows and the function that reads four elements.
fn reader(binding: u32, name: &str, function: &str, element: Element) -> String {
    let load = match element {
        Element::F32 => format!("{name}[at]"),
        Element::F16 => format!("vec4<f32>(unpack2x16float({name}[at].x), unpack2x16float({name}[at].y))"),
        Element::Bf16 => format!(
            "bitcast<vec4<f32>>(vec4<u32>({name}[at].x << 16u, {name}[at].x & 0xffff0000u, {name}[at].y << 16u, {name}[at].y & 0xffff0000u))"
        ),
    };
    format!(
        "@group(0) @binding({binding}) var<storage, read> {name}: array<{}>;\n\
         fn {function}(at: i32) -> vec4<f32> {{ return {load}; }}\n",
        element_name(element)
    )
}

/// Sets the fields of a job from its row of words.
pub(super) fn set_fields(fields: &[Field]) -> String {
    let mut t = String::new();
    for field in fields {
        let _ = writeln!(t, "var<private> {}: i32;", field.name());
    }
    let _ = write!(t, "\nfn read_job(job: i32) {{\n  let at = job * {};\n", fields.len());
    for (i, field) in fields.iter().enumerate() {
        let _ = writeln!(t, "  {} = jobs[at + {i}];", field.name());
    }
    t.push_str("}\nfn word(at: i32) -> i32 { return bitcast<i32>(data[at]); }\n");
    t
}

/// The pass of one operand of a level.
fn pooled(plan: &Plan, spec: &Spec, number: usize, of: Of) -> Result<Pass, EmitError> {
    let program = &*plan.program;
    let id = plan.pools[number].level;
    let level = program.level(id);
    let element = element_of(program, spec, level.parent, of);
    let keys_element = element_of(program, spec, level.parent, Of::K);
    let listed = is_listed(program, id);
    let softmax = matches!(level.pool, Pooling::SoftmaxMean) && of == Of::V;
    let vectors = if of == Of::V { spec.value_pitch() / 4 } else { spec.pitch() / 4 };
    let mut fields = vec![Field::Own("rows"), Field::Own("source"), Field::Own("made"), Field::Own("members")];
    if listed {
        fields.push(Field::Own("lists"));
    }
    let (start, step, end) = match &level.pool {
        Pooling::Mean => ("vec4<f32>()", "sum += read_source(at);", "sum / f32(max(end - begin, 1))"),
        Pooling::Max | Pooling::SoftmaxMean if !softmax => {
            ("vec4<f32>(-3.4028235e38)", "sum = max(sum, read_source(at));", "select(vec4<f32>(), sum, end > begin)")
        }
        Pooling::SoftmaxMean => ("", "", ""),
        Pooling::Weighted(_) => {
            fields.extend([Field::Own("places"), Field::Own("weights"), Field::Own("weight_count")]);
            (
                "vec4<f32>()",
                "sum += bitcast<f32>(data[weights + clamp(word(places + i), 0, weight_count - 1)]) * read_source(at);",
                "sum",
            )
        }
        Pooling::Quantised { bits, block } => {
            return Ok(quantised(plan, spec, (number, of), (*bits, *block), element));
        }
        Pooling::Nothing | Pooling::Max | Pooling::Channels(_) => {
            return Err(EmitError::Unsupported(format!("the level `{}`", level.name)));
        }
    };
    let mut t = format!(
        "// Level `{}` of attention `{}`: rows of {}.\n\n{HEAD}/// Vectors of four elements in a row.\nconst V4: i32 = {vectors};\n",
        level.name,
        plan.name,
        match of {
            Of::Q => "queries",
            Of::K => "keys",
            Of::V => "values",
        }
    );
    t.push_str("\n@group(0) @binding(0) var<uniform> dispatch: Dispatch;\n@group(0) @binding(1) var<storage, read> jobs: array<i32>;\n");
    t.push_str("@group(0) @binding(2) var<storage, read> data: array<u32>;\n");
    t.push_str(&reader(3, "sources", "read_source", element));
    let mut bindings = vec![(0, false), (1, false), (2, false), (3, false)];
    if softmax {
        fields.extend([
            Field::Own("keys_source"),
            Field::Own("queries_made"),
            Field::Own("queries_first"),
            Field::Own("queries_end"),
        ]);
        let _ = writeln!(t, "const D4: i32 = {};", spec.pitch() / 4);
        t.push_str(&reader(4, "keys", "read_key", keys_element));
        t.push_str(&reader(5, "queries", "read_query", Element::F32));
        bindings.extend([(4, false), (5, false)]);
    }
    t.push_str("@group(0) @binding(6) var<storage, read_write> made_rows: array<vec4<f32>>;\n\n");
    bindings.push((6, true));
    t.push_str(&set_fields(&fields));
    let bounds = if listed {
        "    let begin = word(members + row);\n    let end = word(members + row + 1);\n"
    } else {
        "    let begin = word(members + 2 * row);\n    let end = word(members + 2 * row + 1);\n"
    };
    let member = if listed { "word(lists + i)" } else { "i" };
    if softmax {
        let root = (spec.d as f64).sqrt();
        let _ = write!(
            t,
            "\nvar<workgroup> chances: array<f32, {THREADS}>;\n\
             /// A workgroup for each slot: values weighed by a softmax of their keys against the slot's query.\n\
             @compute @workgroup_size({THREADS})\n\
             fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
             let lane = i32(thread);\n  \
             for (var task = i32(group.x); task < dispatch.jobs * dispatch.rows; task += dispatch.groups) {{\n    \
             read_job(dispatch.first_job + task / dispatch.rows);\n    let row = task % dispatch.rows;\n    \
             if (row >= rows) {{ continue; }}\n{bounds}    \
             // A slot without queries is attended to by none.\n    let some = (end > begin) & (row >= queries_first) & (row < queries_end);\n    \
             var top = -3.0e38;\n    var total = 0.0;\n    \
             var sum = vec4<f32>();\n    for (var base = begin; some & (base < end); base += {THREADS}) {{\n      \
             let i = base + lane;\n      var product = -3.0e38;\n      if (i < end) {{\n        let key = (keys_source + {member}) * D4;\n        \
             let query = (queries_made + row - queries_first) * D4;\n        var four = vec4<f32>();\n        \
             for (var c = 0; c < D4; c++) {{ four += read_query(query + c) * read_key(key + c); }}\n        \
             product = ((four.x + four.y) + (four.z + four.w)) / {root:?}f;\n      }}\n      workgroupBarrier();\n      \
             chances[lane] = product;\n      workgroupBarrier();\n      let count = min(end - base, {THREADS});\n      \
             var most = top;\n      for (var j = 0; j < count; j++) {{ most = max(most, chances[j]); }}\n      \
             let shrink = exp(top - most);\n      total *= shrink;\n      sum *= shrink;\n      top = most;\n      \
             for (var j = 0; j < count; j++) {{\n        let i = base + j;\n        let weight = exp(chances[j] - top);\n        \
             total += weight;\n        if (lane < V4) {{ sum += weight * read_source((source + {member}) * V4 + lane); }}\n      }}\n    }}\n    \
             if (lane < V4) {{ made_rows[(made + row) * V4 + lane] = select(vec4<f32>(), sum / total, some); }}\n  }}\n}}\n"
        );
    } else {
        let _ = write!(
            t,
            "\n/// A thread for each vector of each row.\n@compute @workgroup_size({THREADS})\n\
             fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
             let total = dispatch.jobs * dispatch.rows * V4;\n  \
             for (var task = i32(group.x) * {THREADS} + i32(thread); task < total; task += dispatch.groups * {THREADS}) {{\n    \
             let c = task % V4;\n    read_job(dispatch.first_job + task / V4 / dispatch.rows);\n    \
             let row = (task / V4) % dispatch.rows;\n    if (row >= rows) {{ continue; }}\n{bounds}    var sum = {start};\n    \
             for (var i = begin; i < end; i++) {{\n      let at = (source + {member}) * V4 + c;\n      {step}\n    }}\n    \
             made_rows[(made + row) * V4 + c] = {end};\n  }}\n}}\n"
        );
    }
    Ok(Pass { text: t, kind: Kind::Pool { pool: number, of }, fields, bindings })
}

/// The pass of one operand of a level of rows that are rounded to so many bits.
fn quantised(plan: &Plan, spec: &Spec, (number, of): (usize, Of), (bits, size): (u32, i64), element: Element) -> Pass {
    let level = plan.program.level(plan.pools[number].level);
    // No sequence is longer.
    let size = size.min(i64::from(i32::MAX / 2));
    let vectors = if of == Of::V { spec.value_pitch() / 4 } else { spec.pitch() / 4 };
    let own = ["rows", "source", "made", "first_block", "first_position"];
    let fields: Vec<Field> = own.into_iter().map(Field::Own).collect();
    let levels = (1_u32 << (bits - 1)) - 1;
    let mut t = format!(
        "// Level `{}` of attention `{}`: rows of {bits} bits.\n\n{HEAD}/// Vectors of four elements in a row.\n\
         const V4: i32 = {vectors};\nconst THREADS: i32 = {THREADS};\n/// Tokens of a block.\nconst SIZE: i32 = {size};\n\
         /// The greatest number.\nconst LEVELS: f32 = {levels}.0;\n\n",
        level.name, plan.name,
    );
    t.push_str("@group(0) @binding(0) var<uniform> dispatch: Dispatch;\n@group(0) @binding(1) var<storage, read> jobs: array<i32>;\n");
    t.push_str("@group(0) @binding(2) var<storage, read> data: array<u32>;\n");
    t.push_str(&reader(3, "sources", "read_source", element));
    t.push_str("@group(0) @binding(6) var<storage, read_write> made_rows: array<vec4<f32>>;\n\n");
    t.push_str(&set_fields(&fields));
    t.push_str(MOST);
    t.push_str(ROUNDED);
    let _ = write!(
        t,
        "\n/// A workgroup for each block.\n@compute @workgroup_size({THREADS})\n\
         fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
         let lane = i32(thread);\n  \
         for (var task = i32(group.x); task < dispatch.jobs * dispatch.rows; task += dispatch.groups) {{\n    \
         read_job(dispatch.first_job + task / dispatch.rows);\n    let block = first_block + task % dispatch.rows;\n    \
         let begin = max(block * SIZE - first_position, 0);\n    let end = min(block * SIZE - first_position + SIZE, rows);\n    \
         var own = 0.0;\n    for (var i = begin * V4 + lane; i < end * V4; i += THREADS) {{\n      \
         let x = abs(read_source(source * V4 + i));\n      own = max(own, max(max(x.x, x.y), max(x.z, x.w)));\n    }}\n    \
         let most = most_of(own, lane);\n    for (var i = begin * V4 + lane; i < end * V4; i += THREADS) {{\n      \
         let x = read_source(source * V4 + i);\n      let a = abs(x);\n      \
         let y = vec4<f32>(rounded(a.x, most), rounded(a.y, most), rounded(a.z, most), rounded(a.w, most));\n      \
         made_rows[made * V4 + i] = select(y, -y, x < vec4<f32>());\n    }}\n  }}\n}}\n"
    );
    let bindings = vec![(0, false), (1, false), (2, false), (3, false), (6, true)];
    Pass { text: t, kind: Kind::Pool { pool: number, of }, fields, bindings }
}

/// Numbers nearest to quotients, ties to even, without rounding: with the sign of `2 LEVELS x - (2 n + 1) most`, whose terms
/// are products of few bits.
const ROUNDED: &str = "fn high_bits(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u); }
/// The multiple of `most / LEVELS` that is nearest to x, both at least 0.
fn rounded(x: f32, most: f32) -> f32 {
  if (most <= 0.0) { return 0.0; }
  let n = floor(LEVELS * x / most);
  let odd = 2.0 * n + 1.0;
  let x_high = high_bits(x);
  let most_high = high_bits(most);
  let above = (2.0 * LEVELS * x_high - odd * most_high) + (2.0 * LEVELS * (x - x_high) - odd * (most - most_high));
  let up = (above > 0.0) | ((above == 0.0) & ((i32(n) & 1) == 1));
  return select(n, n + 1.0, up) * most / LEVELS;
}
";

/// The pass of an operand that is a mean over heads, or of length 1.
fn operand_rows(plan: &Plan, spec: &Spec, number: usize, operand: Operand) -> Pass {
    let of = if choose::of_queries(operand) { Of::Q } else { Of::K };
    let element = element_of(&plan.program, spec, choose::level_of(operand), of);
    let fields = vec![Field::Own("rows"), Field::Own("made"), Field::Own("heads_read"), Field::Own("head_count")];
    let mut t = format!(
        "// An operand of a score of attention `{}`: means over heads{}.\n\n{HEAD}const V4: i32 = {};\n\n",
        plan.name,
        if operand.unit { ", of length 1" } else { "" },
        spec.pitch() / 4
    );
    t.push_str("@group(0) @binding(0) var<uniform> dispatch: Dispatch;\n@group(0) @binding(1) var<storage, read> jobs: array<i32>;\n");
    t.push_str("@group(0) @binding(2) var<storage, read> data: array<u32>;\n");
    t.push_str(&reader(3, "sources", "read_source", element));
    t.push_str("@group(0) @binding(6) var<storage, read_write> made_rows: array<vec4<f32>>;\n\n");
    t.push_str(&set_fields(&fields));
    let unit = if operand.unit {
        "    var square = 0.0;\n    for (var other = 0; other < V4; other++) {\n      let x = mean(row, other);\n      square += dot(x, x);\n    }\n    \
         let length = sqrt(square);\n    let own = mean(row, c);\n    made_rows[(made + row) * V4 + c] = select(own, own / length, length > 0.0);\n"
    } else {
        "    made_rows[(made + row) * V4 + c] = mean(row, c);\n"
    };
    let _ = write!(
        t,
        "\nfn mean(row: i32, c: i32) -> vec4<f32> {{\n  var sum = vec4<f32>();\n  \
         for (var h = 0; h < head_count; h++) {{ sum += read_source((word(heads_read + h) + row) * V4 + c); }}\n  \
         return sum / f32(max(head_count, 1));\n}}\n\n@compute @workgroup_size({THREADS})\n\
         fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
         let total = dispatch.jobs * dispatch.rows * V4;\n  \
         for (var task = i32(group.x) * {THREADS} + i32(thread); task < total; task += dispatch.groups * {THREADS}) {{\n    \
         let c = task % V4;\n    read_job(dispatch.first_job + task / V4 / dispatch.rows);\n    \
         let row = (task / V4) % dispatch.rows;\n    if (row >= rows) {{ continue; }}\n{unit}  }}\n}}\n"
    );
    let bindings = vec![(0, false), (1, false), (2, false), (3, false), (6, true)];
    Pass { text: t, kind: Kind::Operand(number), fields, bindings }
}

/// A module in the making.
struct Module<'a> {
    plan: &'a Plan,
    spec: &'a Spec,
    names: Names<'a>,
    functions: String,
    /// Types of the rows of a product.
    dot: Option<[Element; 2]>,
    /// The tensor whose rows are the first of a product.
    tensor: Option<TensorId>,
    /// Queries and keys are exchanged.
    exchanged: bool,
    threads: usize,
    /// What of the library it uses beside sums.
    library: Vec<&'static str>,
}

impl<'a> Module<'a> {
    fn new(plan: &'a Plan, spec: &'a Spec, threads: usize) -> Module<'a> {
        Module {
            plan,
            spec,
            names: Names::new(&plan.program, 0),
            functions: String::new(),
            dot: None,
            tensor: None,
            exchanged: false,
            threads,
            library: Vec::new(),
        }
    }

    fn own(&mut self, name: &'static str) {
        self.names.field(Field::Own(name));
    }

    fn uses(&mut self, piece: &'static str) {
        if !self.library.contains(&piece) {
            self.library.push(piece);
        }
    }

    /// `fn keepN(k, slot)` and, if asked for, `fn nextN(least)` of a set.
    fn set(&mut self, n: usize, set: ExprId, rows: &RowSet, next: bool) {
        if next {
            let text = sets::row_next(&mut self.names, n, rows);
            self.functions.push_str(&text);
        }
        let text = sets::keep(&mut self.names, n, set, rows);
        self.functions.push_str(&text);
    }

    /// Functions of the values of items: `keep0`, `item(number, k)`.
    fn items(&mut self, scored: &Scored) {
        for entry in &scored.walk.entries {
            if let attnc_plan::Entry::Tokens { set, rows, .. } = entry {
                self.set(0, *set, rows, false);
            }
        }
        let modified = scored.walk.score.is_some();
        if modified {
            let text = sets::logit(&mut self.names, 0, scored.walk.score, None);
            self.functions.push_str(&text);
        }
        let mut b = Body::new(&mut self.names, Home::Here, 1);
        let scale = b.value(scored.walk.scale);
        let lines = b.text;
        let product = if let Some((a, b)) = scored.dot {
            let of = |operand: Operand| {
                let of = if choose::of_queries(operand) { Of::Q } else { Of::K };
                if operand.heads != attnc_pattern::program::Heads::Own || operand.unit {
                    return Element::F32;
                }
                element_of(&self.plan.program, self.spec, choose::level_of(operand), of)
            };
            self.dot = Some([of(a), of(b)]);
            let row = match a.rows {
                Rows::Tensor(tensor) => {
                    self.tensor = Some(tensor);
                    "read_row(number, c)"
                }
                _ => {
                    self.own("rows_from");
                    "read_row((rows_from + number) * D4 + c)"
                }
            };
            self.own("keys_from");
            let listed = if scored.listed.is_some() {
                self.own("listed");
                "word(listed + number)"
            } else {
                "number"
            };
            // A loop would not be unrolled.
            let vectors = self.spec.pitch() / 4;
            let products = if vectors > 32 {
                "for (var c = 0; c < D4; c++) { four += own[c] * read_key(at + c); }\n".to_owned()
            } else {
                let each = (0..vectors).map(|c| format!("four += own[{c}] * read_key(at + {c});\n  "));
                each.collect::<String>().trim_end().to_owned() + "\n"
            };
            let _ = write!(
                self.functions,
                "/// The query of a row of items.\nvar<workgroup> own: array<vec4<f32>, D4>;\n\
                 fn read_own(number: i32, lane: i32) {{\n  workgroupBarrier();\n  \
                 for (var c = lane; c < D4; c += THREADS) {{ own[c] = {row}; }}\n  \
                 workgroupBarrier();\n}}\nfn product(number: i32) -> f32 {{\n  let at = (keys_from + {listed}) * D4;\n  \
                 var four = vec4<f32>();\n  {products}  \
                 return (four.x + four.y) + (four.z + four.w);\n}}\n"
            );
            format!("{scale} * product(number)")
        } else {
            "0.0".to_owned()
        };
        let value = if modified { "logit0(score, k, number)" } else { "score" };
        let _ = write!(
            self.functions,
            "/// The value of item number `number`, at `k`.\nfn item(number: i32, k: i32) -> f32 {{\n{lines}  \
             let score = {product};\n  return {value};\n}}\n"
        );
        self.own("first_key");
        self.own("key_count");
    }

    /// `fn read_row(number, c)`: a vector of a row of a tensor, for the head at hand if it has rows for each.
    fn tensor_rows(&mut self, tensor: TensorId) -> String {
        let axes = self.plan.program.tensor(tensor).dims.len();
        let base = self.names.field(Field::Tensor(tensor.0));
        let dim = self.names.field(Field::Dim);
        let row = if axes > 2 {
            let head = self.names.field(Field::Head);
            let rows = self.names.field(Field::Extent(tensor.0, (axes - 2) as u32));
            format!("({head} * {rows} + number)")
        } else {
            "number".to_owned()
        };
        format!(
            "/// Four elements of a row of a tensor; those beyond it are 0.\nfn read_row(number: i32, c: i32) -> vec4<f32> {{\n  \
             let at = {base} + {row} * {dim};\n  var found = vec4<f32>();\n  for (var i = 0; i < 4; i++) {{\n    \
             if (4 * c + i < {dim}) {{ found[i] = bitcast<f32>(data[at + 4 * c + i]); }}\n  }}\n  return found;\n}}\n"
        )
    }

    /// Lines that set the hoisted values of a home.
    fn assignments(&mut self, home: Home) -> String {
        let list = self.names.hoisted(home);
        let mut b = Body::new(&mut self.names, home, 1);
        for (id, name) in list {
            let value = b.value(id);
            b.line(format!("{name} = {value};"));
        }
        b.text
    }

    /// Puts the module together.
    fn finish(mut self, title: &str, kind: Kind, main: &str) -> Result<Pass, EmitError> {
        for field in [Field::NQ, Field::NK, Field::QStart, Field::KStart] {
            self.names.field(field);
        }
        let tensor_rows = self.tensor.map(|tensor| self.tensor_rows(tensor));
        // Values of an inner place may ask for those of an outer one.
        let row = self.assignments(Home::Row);
        let launch = self.assignments(Home::Launch);
        if let Some(what) = self.names.refused {
            return Err(EmitError::Unsupported(what));
        }
        let fields: Vec<Field> = self.names.fields.iter().copied().collect();
        let mut t = format!("// {title} of attention `{}`.\n\n{HEAD}", self.plan.name);
        let _ = write!(
            t,
            "const THREADS: i32 = {};\n/// Vectors of four elements in a row.\nconst D4: i32 = {};\n\
             /// A score that is not there.\nconst ABSENT: u32 = 0xff800000u;\n/// The number of what is no candidate.\n\
             const NOTHING: u32 = 0xffffffffu;\nconst residue: i32 = 0;\nconst stride: i32 = 1;\n\n",
            self.threads,
            self.spec.pitch() / 4
        );
        t.push_str("@group(0) @binding(0) var<uniform> dispatch: Dispatch;\n@group(0) @binding(1) var<storage, read> jobs: array<i32>;\n");
        t.push_str("/// Tables, and what a launch knows beforehand.\n@group(0) @binding(2) var<storage, read_write> data: array<u32>;\n");
        let mut bindings = vec![(0, false), (1, false), (2, true)];
        if let Some([a, b]) = self.dot {
            if self.tensor.is_none() {
                t.push_str(&reader(3, "row_vectors", "read_row", a));
                bindings.push((3, false));
            }
            t.push_str(&reader(4, "key_vectors", "read_key", b));
            bindings.push((4, false));
        }
        t.push_str("/// Scores, and memory of workgroups.\n@group(0) @binding(5) var<storage, read_write> work: array<u32>;\n\n");
        bindings.push((5, true));
        t.push_str(&set_fields(&fields));
        t.push_str(
            "\nvar<private> n_q: i32;\nvar<private> n_k: i32;\nvar<private> q_start: i32;\nvar<private> k_start: i32;\n\
             var<private> k_end: i32;\nvar<private> q: i32;\nvar<private> branch: i32;\n",
        );
        for home in [Home::Launch, Home::Row] {
            for (id, name) in self.names.hoisted(home) {
                let _ = writeln!(t, "var<private> {name}: {};", self.names.ty(id));
            }
        }
        t.push('\n');
        for name in &self.names.helpers {
            t.push_str(expr::helper(name));
            t.push('\n');
        }
        t.push_str(&tensor_rows.unwrap_or_default());
        let (n_q, q_start) =
            if self.exchanged { ("given_n_k", "given_k_start") } else { ("given_n_q", "given_q_start") };
        let _ = write!(
            t,
            "/// Candidates or items from `first` on.\nfn enter(first: i32, count: i32) {{\n  n_q = {n_q};\n  \
             q_start = {q_start};\n  k_start = first;\n  n_k = count;\n  k_end = first + count;\n{launch}}}\n\
             fn set_query(position: i32) {{\n  q = position;\n{row}}}\n\n"
        );
        t.push_str(MOST);
        t.push_str(SUMS);
        for piece in &self.library {
            t.push_str(piece);
        }
        t.push_str(&self.functions);
        t.push('\n');
        t.push_str(main);
        Ok(Pass { text: t, kind, fields, bindings })
    }
}

/// The greatest number of a workgroup.
const MOST: &str = "
var<workgroup> parts: array<f32, THREADS>;
fn most_of(x: f32, lane: i32) -> f32 {
  workgroupBarrier();
  parts[lane] = x;
  workgroupBarrier();
  for (var half = THREADS / 2; half > 0; half /= 2) {
    if (lane < half) { parts[lane] = max(parts[lane], parts[lane + half]); }
    workgroupBarrier();
  }
  return parts[0];
}
";

/// Sums over a workgroup, beside [`MOST`].
const SUMS: &str = "var<workgroup> counted: atomic<u32>;
fn sync() {
  storageBarrier();
  workgroupBarrier();
}
/// Whether a score is there: neither absent nor no number.
fn there(bits: u32) -> bool { return ((bits & 0x7fffffffu) <= 0x7f800000u) & (bits != ABSENT); }
fn finite(bits: u32) -> bool { return (bits & 0x7fffffffu) < 0x7f800000u; }
fn sum_of(x: f32, lane: i32) -> f32 {
  workgroupBarrier();
  parts[lane] = x;
  workgroupBarrier();
  for (var half = THREADS / 2; half > 0; half /= 2) {
    if (lane < half) { parts[lane] += parts[lane + half]; }
    workgroupBarrier();
  }
  return parts[0];
}
fn count_of(x: i32, lane: i32) -> i32 {
  workgroupBarrier();
  if (lane == 0) { atomicStore(&counted, 0u); }
  workgroupBarrier();
  atomicAdd(&counted, u32(x));
  workgroupBarrier();
  return i32(atomicLoad(&counted));
}
";

/// Brings values to one scale, each thread those that it wrote.
const NORMS: &str = "fn most_at(at: i32, count: i32, lane: i32) -> f32 {
  var most = -3.4028235e38;
  for (var i = lane; i < count; i += THREADS) {
    if (there(work[at + i])) { most = max(most, bitcast<f32>(work[at + i])); }
  }
  return most_of(most, lane);
}
fn sum_at(at: i32, count: i32, lane: i32) -> f32 {
  var sum = 0.0;
  for (var i = lane; i < count; i += THREADS) {
    if (there(work[at + i])) { sum += bitcast<f32>(work[at + i]); }
  }
  return sum_of(sum, lane);
}
fn norm_exp(at: i32, count: i32, lane: i32) {
  let most = most_at(at, count, lane);
  for (var i = lane; i < count; i += THREADS) {
    if (there(work[at + i])) { work[at + i] = bitcast<u32>(exp(bitcast<f32>(work[at + i]) - most)); }
  }
}
fn norm_row_sum(at: i32, count: i32, lane: i32) {
  let total = sum_at(at, count, lane);
  let by = select(total, 1.0, total == 0.0);
  for (var i = lane; i < count; i += THREADS) {
    if (there(work[at + i])) { work[at + i] = select(bitcast<u32>(bitcast<f32>(work[at + i]) / by), 0u, total == 0.0); }
  }
}
fn norm_softmax(at: i32, count: i32, lane: i32) {
  norm_exp(at, count, lane);
  norm_row_sum(at, count, lane);
}
fn norm_minmax(at: i32, count: i32, lane: i32) {
  let most = most_at(at, count, lane);
  var least = -3.4028235e38;
  for (var i = lane; i < count; i += THREADS) {
    if (there(work[at + i])) { least = max(least, -bitcast<f32>(work[at + i])); }
  }
  let low = -most_of(least, lane);
  let range = select(most - low, 1.0, most <= low);
  for (var i = lane; i < count; i += THREADS) {
    if (there(work[at + i])) {
      work[at + i] = select(bitcast<u32>((bitcast<f32>(work[at + i]) - low) / range), 0u, most <= low);
    }
  }
}
";

/// A value taken into others.
const FOLDS: &str =
    "fn fold_max(sum: f32, met: i32, value: f32) -> f32 { return select(value, max(sum, value), met > 0); }
fn fold_sum(sum: f32, met: i32, value: f32) -> f32 { return select(value, sum + value, met > 0); }
fn folded(sum: f32, met: i32) -> u32 { return select(ABSENT, bitcast<u32>(sum), met > 0); }
fn averaged(sum: f32, met: i32) -> u32 { return select(ABSENT, bitcast<u32>(sum / f32(max(met, 1))), met > 0); }
";

/// Rankings: numbers that ascend where scores descend, and how far a budget reaches among them.
const RANKS: &str = "/// The number of a score.
fn rank_of(bits: u32) -> u32 {
  let plain = select(bits, 0u, bits == 0x80000000u);
  let ascending = plain ^ select(0x80000000u, 0xffffffffu, (plain >> 31u) != 0u);
  return ~ascending;
}
/// The score of a number.
fn score_of(rank: u32) -> u32 {
  let ascending = ~rank;
  return ascending ^ select(0xffffffffu, 0x80000000u, (ascending >> 31u) != 0u);
}
var<workgroup> bins: array<atomic<u32>, 16>;
var<workgroup> marks: array<atomic<u32>, THREADS / 32>;
/// How many of a workgroup's threads have `flag`, and how many of them come before this one.
fn place(flag: bool, lane: i32) -> vec2<i32> {
  workgroupBarrier();
  if (lane < THREADS / 32) { atomicStore(&marks[lane], 0u); }
  workgroupBarrier();
  if (flag) { atomicOr(&marks[lane / 32], 1u << u32(lane % 32)); }
  workgroupBarrier();
  var before = 0u;
  var all = 0u;
  for (var i = 0; i < THREADS / 32; i++) {
    let word = atomicLoad(&marks[i]);
    all += countOneBits(word);
    if (i < lane / 32) { before += countOneBits(word); }
    if (i == lane / 32) { before += countOneBits(word & ((1u << u32(lane % 32)) - 1u)); }
  }
  return vec2<i32>(i32(before), i32(all));
}
/// Of `count` numbers the one at which `target` of them, at least 1, are reached, how many are less, and how many equal.
fn reach_count(at: i32, count: i32, step: i32, goal: i32, lane: i32) -> vec3<u32> {
  var prefix = 0u;
  var left = u32(goal);
  var ties = 0u;
  for (var shift = 28; shift >= 0; shift -= 4) {
    workgroupBarrier();
    if (lane < 16) { atomicStore(&bins[lane], 0u); }
    workgroupBarrier();
    for (var i = lane; i < count; i += THREADS) {
      let rank = work[at + i * step];
      var of_prefix = rank != NOTHING;
      if (shift < 28) { of_prefix = of_prefix & ((rank >> u32(shift + 4)) == prefix); }
      if (of_prefix) { atomicAdd(&bins[(rank >> u32(shift)) & 15u], 1u); }
    }
    workgroupBarrier();
    var digit = 0u;
    for (; digit < 15u; digit++) {
      let own = atomicLoad(&bins[digit]);
      if (own >= left) { break; }
      left -= own;
    }
    ties = atomicLoad(&bins[digit]);
    prefix = (prefix << 4u) | digit;
  }
  return vec3<u32>(prefix, u32(goal) - left, ties);
}
/// The place of tie number `number`, from 1.
fn tie_place(at: i32, count: i32, step: i32, rank: u32, number: u32, lane: i32) -> i32 {
  var met = 0;
  for (var base = 0; base < count; base += THREADS) {
    let i = base + lane;
    var tie = false;
    if (i < count) { tie = work[at + i * step] == rank; }
    let found = place(tie, lane);
    if (met + found.y >= i32(number)) {
      // The one thread whose tie it is.
      let mine = tie & (met + found.x + 1 == i32(number));
      return i32(most_of(select(-1.0, f32(lane), mine), lane)) + base;
    }
    met += found.y;
  }
  return count;
}
/// How far the first `target` of a ranking reach: a number, and of those that equal it the last place.
fn reach(at: i32, count: i32, step: i32, goal: i32, lane: i32) -> vec2<u32> {
  if (goal <= 0) { return vec2<u32>(0u, NOTHING); }
  let found = reach_count(at, count, step, goal, lane);
  let wanted = u32(goal) - found.y;
  if (wanted >= found.z) { return vec2<u32>(found.x, 0x7fffffffu); }
  return vec2<u32>(found.x, u32(tie_place(at, count, step, found.x, wanted, lane)));
}
/// Whether the number at a place is among those that a reach has.
fn within_reach(rank: u32, i: i32, end: vec2<u32>) -> bool {
  if (end.y == NOTHING) { return false; }
  return (rank != NOTHING) & ((rank < end.x) | ((rank == end.x) & (i <= i32(end.y))));
}
";

/// How many of a ranking it takes to hold a share.
const MASS: &str = "fn weight_of(rank: u32) -> f32 {
  let bits = score_of(rank);
  return select(0.0, bitcast<f32>(bits), (rank != NOTHING) & finite(bits));
}
var<workgroup> weights_of: array<f32, THREADS * 16>;
var<workgroup> counts_of: array<u32, THREADS * 16>;
/// How many of the first are less than `wanted` together; with `inclusive` not more.
fn count_to(at: i32, count: i32, step: i32, wanted: f32, inclusive: bool, lane: i32) -> i32 {
  var prefix = 0u;
  var sum = 0.0;
  var before = 0u;
  var ties = 0u;
  for (var shift = 28; shift >= 0; shift -= 4) {
    workgroupBarrier();
    for (var d = 0; d < 16; d++) {
      weights_of[lane * 16 + d] = 0.0;
      counts_of[lane * 16 + d] = 0u;
    }
    for (var i = lane; i < count; i += THREADS) {
      let rank = work[at + i * step];
      var of_prefix = rank != NOTHING;
      if (shift < 28) { of_prefix = of_prefix & ((rank >> u32(shift + 4)) == prefix); }
      if (of_prefix) {
        let bin = lane * 16 + i32((rank >> u32(shift)) & 15u);
        weights_of[bin] += weight_of(rank);
        counts_of[bin] += 1u;
      }
    }
    for (var half = THREADS / 2; half > 0; half /= 2) {
      workgroupBarrier();
      if (lane < half) {
        for (var d = 0; d < 16; d++) {
          weights_of[lane * 16 + d] += weights_of[(lane + half) * 16 + d];
          counts_of[lane * 16 + d] += counts_of[(lane + half) * 16 + d];
        }
      }
    }
    workgroupBarrier();
    // The last digit that there is, if none reaches.
    var digit = 16u;
    for (var d = 0u; d < 16u; d++) {
      if (counts_of[d] == 0u) { continue; }
      if (digit < 16u) {
        let next = sum + weights_of[digit];
        if (select(next >= wanted, next > wanted, inclusive)) { break; }
        sum = next;
        before += counts_of[digit];
      }
      digit = d;
    }
    if (digit == 16u) { return i32(before); }
    ties = counts_of[digit];
    prefix = (prefix << 4u) | digit;
  }
  // All of one score: how many of them stay below.
  let each = weight_of(prefix);
  for (var i = 0u; i < ties; i++) {
    let next = sum + each;
    if (select(next >= wanted, next > wanted, inclusive)) { return i32(before); }
    sum = next;
    before += 1u;
  }
  return i32(before);
}
";

/// Text of a call that norms.
fn norm(norm: Norm) -> &'static str {
    match norm {
        Norm::Softmax => "norm_softmax",
        Norm::Exp => "norm_exp",
        Norm::MinMax => "norm_minmax",
        Norm::RowSum => "norm_row_sum",
    }
}

/// Function that takes a value in, and function that ends it.
fn fold(op: Reduce) -> (&'static str, &'static str) {
    match op {
        Reduce::Max => ("fold_max", "folded"),
        Reduce::Sum => ("fold_sum", "folded"),
        Reduce::Mean => ("fold_sum", "averaged"),
    }
}

/// Lines of the steps of a batch: from `from`, of `width` values, to `to`, of `into` values.
fn steps(m: &mut Module<'_>, batch: &Batch) -> String {
    m.uses(NORMS);
    let mut t = String::new();
    for n in &batch.before {
        let _ = writeln!(t, "    {}(base, width, lane);", norm(*n));
    }
    if let Some((op, _)) = batch.keys {
        m.uses(FOLDS);
        m.own("fold_begin");
        m.own("fold_list");
        let (take, end) = fold(op);
        let _ = write!(
            t,
            "    sync();\n    for (var s = lane; s < into; s += THREADS) {{\n      var sum = 0.0;\n      var met = 0;\n      \
             for (var i = word(fold_begin + s); i < word(fold_begin + s + 1); i++) {{\n        \
             let bits = work[base + word(fold_list + i)];\n        if (there(bits)) {{\n          \
             sum = {take}(sum, met, bitcast<f32>(bits));\n          met += 1;\n        }}\n      }}\n      \
             work[to + s] = {end}(sum, met);\n    }}\n"
        );
    }
    for n in &batch.after {
        let _ = writeln!(t, "    {}(to, into, lane);", norm(*n));
    }
    t
}

/// The beginning of an entry point that goes over rows: `row` of the job that is set.
fn over_rows(threads: usize) -> String {
    format!(
        "@compute @workgroup_size({threads})\n\
         fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
         let lane = i32(thread);\n  let scratch = dispatch.scratch + i32(group.x) * dispatch.room;\n  \
         for (var task = i32(group.x); task < dispatch.jobs * dispatch.rows; task += dispatch.groups) {{\n    \
         read_job(dispatch.first_job + task / dispatch.rows);\n    let row = task % dispatch.rows;\n    \
         if (row >= rows) {{ continue; }}\n"
    )
}

/// The passes of a selection.
fn choices(plan: &Plan, spec: &Spec, number: usize, made: &Choose, all: &mut Vec<Pass>) -> Result<(), EmitError> {
    let program = &*plan.program;
    let select = program.select(made.select);
    let name = &select.name;
    if matches!(select.slots, Index::Branches(_)) || (select.slots == Index::Channels && made.energy.is_none()) {
        return Err(EmitError::Unsupported(format!("the selection `{name}`: it is not of keys, slots or channels")));
    }
    if let Some(energy) = &made.energy {
        let data = |e: ExprId| {
            program.exprs.reachable(&[e]).into_iter().any(|e| match *program.exprs.node(e) {
                Node::Drawn(d, ..) | Node::DrawAt(d, ..) | Node::Un(Un::DrawCount(d), _) => {
                    matches!(program.draw(d).chooser, Chooser::Select { .. })
                }
                _ => false,
            })
        };
        if data(energy.queries.set) || data(energy.keys.set) {
            let what = "an energy over what another selection chose";
            return Err(EmitError::Unsupported(format!("the selection `{name}`: {what}")));
        }
        all.push(squares(plan, spec, number));
        all.push(rank(plan, spec, number, made, None)?);
        return Ok(());
    }
    if made.including.is_some() && by_mass(&select.budget) {
        let what = "a share of a sum of which some candidates are chosen first";
        return Err(EmitError::Unsupported(format!("the selection `{name}`: {what}")));
    }
    let Some(scored) = &made.scored else {
        all.push(rank(plan, spec, number, made, None)?);
        return Ok(());
    };
    if scored.searched {
        all.push(search(plan, spec, number, made, scored)?);
        return Ok(());
    }
    if scored.direct {
        all.push(rank(plan, spec, number, made, Some(scored))?);
        return Ok(());
    }
    let recipe = Recipe::new(scored);
    all.push(items(plan, spec, number, scored, &recipe)?);
    for (grid, (how, batch, op, of_head)) in recipe.grids.iter().enumerate() {
        let title = format!("Scores of the selection `{name}`");
        let threads = if *how == How::Head { MANY } else { THREADS };
        let mut m = Module::new(plan, spec, threads);
        for field in ["rows", "from_grid", "width", "to_grid", "into"] {
            m.own(field);
        }
        let main = match how {
            How::Rows => {
                let to = if batch.keys.is_some() { "to_grid + row * into" } else { "base" };
                let body = steps(&mut m, batch);
                format!(
                    "{}    let base = from_grid + row * width;\n    let to = {to};\n{body}    sync();\n  }}\n}}\n",
                    over_rows(THREADS)
                )
            }
            How::Queries => {
                m.uses(FOLDS);
                m.own("groups");
                let (take, end) = fold(op.unwrap_or(Reduce::Max));
                format!(
                    "@compute @workgroup_size({THREADS})\n\
                     fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
                     for (var task = i32(group.x) * THREADS + i32(thread); task < dispatch.jobs * dispatch.rows; task += dispatch.groups * THREADS) {{\n    \
                     read_job(dispatch.first_job + task / dispatch.rows);\n    let value = task % dispatch.rows;\n    \
                     if (value >= rows * width) {{ continue; }}\n    let row = value / width;\n    let s = value % width;\n    \
                     var sum = 0.0;\n    var met = 0;\n    \
                     for (var i = word(groups + 2 * row); i < word(groups + 2 * row + 1); i++) {{\n      \
                     let bits = work[from_grid + i * width + s];\n      if (there(bits)) {{\n        \
                     sum = {take}(sum, met, bitcast<f32>(bits));\n        met += 1;\n      }}\n    }}\n    \
                     work[to_grid + row * width + s] = {end}(sum, met);\n  }}\n}}\n"
                )
            }
            How::Head => {
                m.uses(NORMS);
                format!(
                    "@compute @workgroup_size({MANY})\n\
                     fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
                     for (var job = i32(group.x); job < dispatch.jobs; job += dispatch.groups) {{\n    \
                     read_job(dispatch.first_job + job);\n    {}(from_grid, rows * width, i32(thread));\n  }}\n}}\n",
                    norm(*of_head)
                )
            }
        };
        all.push(m.finish(&title, Kind::Grid { choose: number, grid, how: *how }, &main)?);
    }
    if select.pool == Among::Head {
        all.extend(together(plan, spec, number, made, scored)?);
    } else {
        all.push(rank(plan, spec, number, made, Some(scored))?);
    }
    Ok(())
}

/// The first grid: values of items, and steps on rows of them.
fn items(plan: &Plan, spec: &Spec, number: usize, scored: &Scored, recipe: &Recipe) -> Result<Pass, EmitError> {
    let mut m = Module::new(plan, spec, THREADS);
    m.items(scored);
    for field in ["rows", "stands", "numbers", "width", "to_grid", "into"] {
        m.own(field);
    }
    let base = if recipe.slab() { "scratch" } else { "to_grid + row * into" };
    let own = if scored.dot.is_some() { "    read_own(word(numbers + row), lane);\n" } else { "" };
    let values = match recipe.first {
        Some((op, _)) => {
            m.uses(FOLDS);
            m.own("slots_begin");
            m.own("slots_list");
            let (take, end) = fold(op);
            format!(
                "    for (var s = lane; s < width; s += THREADS) {{\n      var sum = 0.0;\n      var met = 0;\n      \
                 for (var i = word(slots_begin + s); i < word(slots_begin + s + 1); i++) {{\n        \
                 let number = word(slots_list + i);\n        let k = k_start + number;\n        \
                 if (keep0(k, number)) {{\n          let value = item(number, k);\n          if (there(bitcast<u32>(value))) {{\n            \
                 sum = {take}(sum, met, value);\n            met += 1;\n          }}\n        }}\n      }}\n      \
                 work[base + s] = {end}(sum, met);\n    }}\n"
            )
        }
        None => "    for (var s = lane; s < width; s += THREADS) {\n      let k = k_start + s;\n      var bits = ABSENT;\n      \
                 if (keep0(k, s)) { bits = bitcast<u32>(item(s, k)); }\n      work[base + s] = bits;\n    }\n"
            .to_owned(),
    };
    let steps = steps(&mut m, &recipe.items);
    let main = format!(
        "{}    enter(first_key, key_count);\n    set_query(given_q_start + word(stands + row));\n{own}    \
         let base = {base};\n    let to = to_grid + row * into;\n{values}{steps}    sync();\n  }}\n}}\n",
        over_rows(THREADS)
    );
    let select = plan.program.select(plan.chooses[number].select);
    m.finish(&format!("Scores of the selection `{}`", select.name), Kind::Items(number), &main)
}

fn by_mass(budget: &Budget) -> bool {
    match budget {
        Budget::Mass(_) => true,
        Budget::Bands(bands) => bands.iter().any(|b| b.mass),
        _ => false,
    }
}

/// Rows and candidates of a score after all its steps.
pub(crate) fn after(scored: &Scored) -> (Index, Index) {
    scored.steps.iter().fold((scored.item_rows, scored.items), |(rows, slots), step| match step {
        Step::Keys { into, .. } => (rows, *into),
        Step::Queries { into, .. } => (*into, slots),
        Step::Norm { .. } => (rows, slots),
    })
}

/// `fn held(row, slot)`: bits of the score of a candidate in a grid, for a row of the selection.
fn held(m: &mut Module<'_>, select: &Select, scored: &Scored) {
    let (rows, slots) = after(scored);
    m.own("values");
    m.own("width");
    m.own("score_rows");
    let row = if rows == select.rows {
        "row"
    } else {
        m.own("row_of");
        "word(row_of + row)"
    };
    // Candidates are counted from the first.
    let slot = if slots == select.slots {
        "(slot - first_slot)"
    } else {
        m.own("candidate_of");
        "word(candidate_of + slot - first_slot)"
    };
    let _ = write!(
        m.functions,
        "/// The score of a candidate, as bits.\nfn held(row: i32, slot: i32) -> u32 {{\n  let r = {row};\n  let c = {slot};\n  \
         if ((r < 0) | (r >= score_rows) | (c < 0) | (c >= width)) {{ return ABSENT; }}\n  return work[values + r * width + c];\n}}\n"
    );
}

/// Sets of a selection: `next1` and `keep1` of candidates, `keep2` of those had already, `keep3` of those chosen first.
fn candidate_sets(m: &mut Module<'_>, made: &Choose, next: bool) {
    m.own("first_slot");
    m.own("slot_count");
    m.set(1, made.candidates.set, &made.candidates.rows, next);
    if let Some(besides) = &made.besides {
        m.set(2, besides.set, &besides.rows, false);
    }
    if let Some(including) = &made.including {
        m.set(3, including.set, &including.rows, false);
    }
}

/// Lines that set `ends` of each table from `c`, `forced` and, for shares, `had` and `sum`: where it ends in the ranking.
fn ends(m: &mut Module<'_>, select: &Select, step: i32) -> String {
    let mut t = String::new();
    let least = select.at_least;
    let count = match &select.budget {
        Budget::Top(_) | Budget::Nearest(_) => {
            m.own("wanted");
            "wanted".to_owned()
        }
        Budget::Frac(share) => {
            let (above, below) = fraction(*share);
            m.uses(SHARES);
            format!("share_up(c, {above}u, {below}u)")
        }
        Budget::Above(limit) => {
            let limit = at_most(*limit);
            let _ = write!(
                t,
                "    var above = 0;\n    for (var i = lane; i < listed_count; i += THREADS) {{\n      let rank = work[scratch + i * {step}];\n      \
                 // Those that are chosen first count whatever their score.\n      \
                 if ((rank != NOTHING) & ((rank == 0u) | (bitcast<f32>(score_of(rank)) > f32({limit:?})))) {{ above += 1; }}\n    }}\n    \
                 let above_count = count_of(above, lane);\n"
            );
            "above_count".to_owned()
        }
        Budget::CountOf(_) => "borrowed(row)".to_owned(),
        Budget::Mass(share) => {
            m.uses(MASS);
            let share = *share as f32;
            let _ = write!(
                t,
                "    let wanted_sum = {share:?}f * total - had;\n    \
                 // The last one that it takes is the one by which the share is reached.\n    \
                 var by_sum = 0;\n    if (wanted_sum > 0.0) {{ by_sum = count_to(scratch, listed_count, {step}, wanted_sum, false, lane) + 1; }}\n    \
                 if (!(total > 0.0)) {{ by_sum = c; }}\n"
            );
            "by_sum".to_owned()
        }
        Budget::Bands(bands) => return banded(m, bands, step),
        Budget::Refine(_) => "0".to_owned(),
    };
    let _ = write!(t, "    ends[0] = 0;\n    ends[1] = clamp(max({count}, {least}), 0, c);\n");
    t
}

/// Ends of bands.
fn banded(m: &mut Module<'_>, bands: &[Band], step: i32) -> String {
    let mut t = "    ends[0] = 0;\n    var end = 0;\n    var up = 0;\n".to_owned();
    for (i, band) in bands.iter().enumerate() {
        if band.mass {
            m.uses(MASS);
            let upto = band.upto as f32;
            let _ = writeln!(
                t,
                "    end = 1 + count_to(scratch, listed_count, {step}, {upto:?}f * total - had, true, lane);"
            );
        } else {
            m.uses(SHARES);
            let (above, below) = fraction(band.upto);
            let _ = writeln!(t, "    end = share_down(c, {above}u, {below}u);");
        }
        if let Some(least) = band.least {
            m.uses(SHARES);
            let (above, below) = fraction(least);
            let _ = writeln!(t, "    end = max(end, share_down(c, {above}u, {below}u) + 1);");
        }
        let align = band.align.max(1);
        let _ = write!(
            t,
            "    up = (max(min(end, c) - ends[{i}], 0) + {align} - 1) / {align} * {align};\n    \
             if (ends[{i}] + up > c) {{ up = (c - ends[{i}]) / {align} * {align}; }}\n    ends[{}] = ends[{i}] + up;\n",
            i + 1
        );
    }
    t
}

/// Shares of a number of candidates, exactly.
const SHARES: &str = "/// c * above / below, rounded down, and what is left of it; the product may have 64 bits.
fn share_of(c: u32, above: u32, below: u32) -> vec2<u32> {
  var quotient = 0u;
  var left = 0u;
  for (var bit = 31; bit >= 0; bit--) {
    quotient = quotient << 1u;
    // left < below <= 10^9: twice that and `above` fit.
    left = left << 1u;
    if (left >= below) { left -= below; quotient += 1u; }
    if (((c >> u32(bit)) & 1u) != 0u) {
      left += above % below;
      quotient += above / below;
      if (left >= below) { left -= below; quotient += 1u; }
    }
  }
  return vec2<u32>(quotient, left);
}
fn share_down(c: i32, above: u32, below: u32) -> i32 { return i32(share_of(u32(c), above, below).x); }
fn share_up(c: i32, above: u32, below: u32) -> i32 {
  let found = share_of(u32(c), above, below);
  return i32(found.x + select(0u, 1u, found.y > 0u));
}
";

/// The largest single that is at most `limit`: scores above the one are those above the other.
fn at_most(limit: f64) -> f32 {
    let near = limit.clamp(-3.0e38, 3.0e38) as f32;
    if f64::from(near) > limit { near.next_down() } else { near }
}

/// A share in (0, 1] as a fraction of whole numbers below 10^9; see [`attnc_pattern::slots::floor_share`].
fn fraction(share: f64) -> (u32, u32) {
    let text = format!("{share:.9}");
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let (mut above, mut below) = (digits.parse::<u64>().unwrap_or(0), 1_000_000_000_u64);
    while above.is_multiple_of(10) && below > 1 {
        above /= 10;
        below /= 10;
    }
    (above as u32, below as u32)
}

/// `fn borrowed(row)`: how many another selection chose.
fn borrowed(m: &mut Module<'_>, select: &Select) {
    let Budget::CountOf(other) = select.budget else { return };
    let of = m.plan.program.select(other);
    let Some(draw) = of.tables.first() else { return };
    let fields = [Field::DrawData(draw.0), Field::DrawCount(draw.0), Field::DrawRows(draw.0), Field::DrawFirst(draw.0)];
    let [data, count, rows, first] = fields.map(|f| m.names.field(f));
    m.own("table_first");
    let row = if of.rows == Index::One { "0".to_owned() } else { format!("row + table_first - {first}") };
    let _ = write!(
        m.functions,
        "/// How many another selection chose.\nfn borrowed(row: i32) -> i32 {{\n  let r = {row};\n  \
         if ((r < 0) | (r >= {rows})) {{ return 0; }}\n  return word({data} + r * ({count} + 1));\n}}\n"
    );
}

/// A ranking of each row: candidates are listed in memory of the workgroup as pairs of a number and a slot.
fn rank(plan: &Plan, spec: &Spec, number: usize, made: &Choose, scored: Option<&Scored>) -> Result<Pass, EmitError> {
    let program = &*plan.program;
    let select = program.select(made.select);
    let direct = scored.filter(|s| s.direct);
    let mut m = Module::new(plan, spec, THREADS);
    m.uses(RANKS);
    for field in ["rows", "row_stands", "table", "capacity"] {
        m.own(field);
    }
    candidate_sets(&mut m, made, true);
    borrowed(&mut m, select);
    let own = match (scored, direct) {
        _ if made.energy.is_some() => {
            for name in ["query_count", "keys_counted", "sums", "values"] {
                m.own(name);
            }
            m.functions.push_str(
                "/// The number of a channel by its energy.\nfn number_of(row: i32, slot: i32) -> u32 {\n  let bits = work[values + slot];\n  \
                 return select(NOTHING, rank_of(bits), there(bits));\n}\n",
            );
            format!(
                "    let of_queries = (query_count + {PART} - 1) / {PART};\n    let of_all = of_queries + (keys_counted + {PART} - 1) / {PART};\n    \
                 for (var c = lane; c < slot_count; c += THREADS) {{\n      var sum_q = 0.0;\n      var sum_k = 0.0;\n      \
                 for (var p = 0; p < of_queries; p++) {{ sum_q += bitcast<f32>(work[sums + p * 4 * D4 + c]); }}\n      \
                 for (var p = of_queries; p < of_all; p++) {{ sum_k += bitcast<f32>(work[sums + p * 4 * D4 + c]); }}\n      \
                 let energy = sum_q / f32(max(query_count, 1)) * (sum_k / f32(max(keys_counted, 1)));\n      \
                 work[values + c] = select(ABSENT, bitcast<u32>(energy), (query_count > 0) & (keys_counted > 0));\n    }}\n"
            )
        }
        (None, _) => {
            let last = if let Index::Slots(level) = select.slots
                && program.is_scattered(level)
            {
                let field = m.names.field(Field::Last(level.0));
                format!("word({field} + slot)")
            } else {
                "slot".to_owned()
            };
            // The largest position comes first: numbers descend with it, from below those of no score.
            let _ = write!(
                m.functions,
                "/// The number of a candidate by where it stands.\nfn number_of(row: i32, slot: i32) -> u32 {{ return 0x7fffffffu - u32(max({last}, 0)); }}\n"
            );
            String::new()
        }
        (Some(_), Some(direct)) => {
            m.items(direct);
            m.own("numbers");
            // Which pairs the score is for.
            let only = select.score.and_then(|score| program.score(score).only);
            let only = if only.is_some() { "  if (!keep0(slot, slot)) { return NOTHING; }\n" } else { "" };
            let _ = write!(
                m.functions,
                "/// The number of a candidate by its score.\nfn number_of(row: i32, slot: i32) -> u32 {{\n{only}  let bits = bitcast<u32>(item(slot - first_slot, slot));\n  \
                 return select(NOTHING, rank_of(bits), there(bits));\n}}\n"
            );
            if direct.dot.is_some() { "    read_own(word(numbers + row), lane);\n".to_owned() } else { String::new() }
        }
        (Some(scored), None) => {
            held(&mut m, select, scored);
            m.functions.push_str(
                "/// The number of a candidate by its score.\nfn number_of(row: i32, slot: i32) -> u32 {\n  let bits = held(row, slot);\n  \
                 return select(NOTHING, rank_of(bits), there(bits));\n}\n",
            );
            String::new()
        }
    };
    // Those chosen first have the least number, and of equal numbers the lower slot comes first.
    let numbered = if made.including.is_some() {
        "select(number_of(row, slot), 0u, keep3(slot, slot))"
    } else {
        "number_of(row, slot)"
    };
    let tables = select.tables.len();
    let sums = if by_mass(&select.budget) {
        let had = if made.besides.is_some() && made.energy.is_none() {
            "    var own_had = 0.0;\n    for (var slot = first_slot + lane; slot < first_slot + slot_count; slot += THREADS) {\n      \
             if (keep2(slot, slot)) {\n        let bits = held(row, slot);\n        if (finite(bits)) { own_had += bitcast<f32>(bits); }\n      }\n    }\n    \
             let had = sum_of(own_had, lane);\n"
        } else {
            "    let had = 0.0;\n"
        };
        m.uses(MASS);
        format!(
            "{had}    var own_sum = 0.0;\n    for (var i = lane; i < listed_count; i += THREADS) {{ own_sum += weight_of(work[scratch + 2 * i]); }}\n    \
             let total = sum_of(own_sum, lane) + had;\n"
        )
    } else {
        String::new()
    };
    let ends = ends(&mut m, select, 2);
    let main = format!(
        "{head}    enter(first_slot, slot_count);\n    set_query(given_q_start + word(row_stands + row));\n{own}    \
         // Candidates in ascending order.\n    sync();\n    var listed_count = 0;\n    var least = k_start;\n    loop {{\n      \
         let run = next1(least);\n      if (run.x >= run.y) {{ break; }}\n      \
         for (var slot = run.x + lane; slot < run.y; slot += THREADS) {{\n        let at = scratch + 2 * (listed_count + slot - run.x);\n        \
         var number = NOTHING;\n        if (keep1(slot, slot)) {{ number = {numbered}; }}\n        \
         work[at] = number;\n        work[at + 1] = u32(slot);\n      }}\n      listed_count += run.y - run.x;\n      least = run.y;\n    }}\n    sync();\n    \
         var candidates = 0;\n    for (var i = lane; i < listed_count; i += THREADS) {{\n      \
         if (work[scratch + 2 * i] != NOTHING) {{ candidates += 1; }}\n    }}\n    let c = count_of(candidates, lane);\n    \
         var ends: array<i32, {ends_len}>;\n{sums}{ends}    var begin = vec2<u32>(0u, NOTHING);\n    \
         for (var t = 0; t < {tables}; t++) {{\n      let end = reach(scratch, listed_count, 2, ends[t + 1], lane);\n      \
         let at = table + (t * rows + row) * (capacity + 1);\n      var count = 0;\n      \
         for (var base = 0; base < listed_count; base += THREADS) {{\n        let i = base + lane;\n        var chosen = false;\n        \
         if (i < listed_count) {{\n          let number = work[scratch + 2 * i];\n          \
         chosen = within_reach(number, i, end) & !within_reach(number, i, begin);\n        }}\n        \
         let found = place(chosen, lane);\n        let to = count + found.x;\n        \
         if (chosen & (to < capacity)) {{ data[at + 1 + to] = work[scratch + 2 * i + 1]; }}\n        count += found.y;\n      }}\n      \
         if (lane == 0) {{ data[at] = u32(min(count, capacity)); }}\n      begin = end;\n    }}\n    sync();\n  }}\n}}\n",
        head = over_rows(THREADS),
        ends_len = tables + 1,
    );
    m.finish(&format!("Tables of the selection `{}`", select.name), Kind::Rank(number), &main)
}

/// A ranking of all pairs of a head, slot by slot: of equal scores the lower slot comes first, then the lower row.
fn together(plan: &Plan, spec: &Spec, number: usize, made: &Choose, scored: &Scored) -> Result<Vec<Pass>, EmitError> {
    let select = plan.program.select(made.select);
    let tables = select.tables.len();
    let title = format!("Tables of the selection `{}`", select.name);
    // Numbers of all pairs, and scores of those had already.
    let mut m = Module::new(plan, spec, THREADS);
    m.uses(RANKS);
    for field in ["rows", "row_stands", "numbered"] {
        m.own(field);
    }
    candidate_sets(&mut m, made, false);
    held(&mut m, select, scored);
    let forced = if made.including.is_some() { "      if (keep3(slot, slot)) { number = 0u; }\n" } else { "" };
    let had = if made.besides.is_some() {
        m.own("had_at");
        "    var had = 0u;\n    if (keep2(slot, slot) & finite(bits)) { had = bits; }\n    work[had_at + pair] = had;\n"
    } else {
        ""
    };
    let main = format!(
        "@compute @workgroup_size({THREADS})\n\
         fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
         for (var task = i32(group.x) * THREADS + i32(thread); task < dispatch.jobs * dispatch.rows; task += dispatch.groups * THREADS) {{\n    \
         read_job(dispatch.first_job + task / dispatch.rows);\n    let pair = task % dispatch.rows;\n    \
         if (pair >= rows * slot_count) {{ continue; }}\n    enter(first_slot, slot_count);\n    let row = pair % rows;\n    \
         let slot = first_slot + pair / rows;\n    set_query(given_q_start + word(row_stands + row));\n    let bits = held(row, slot);\n    \
         var number = NOTHING;\n    if (keep1(slot, slot)) {{\n      number = select(NOTHING, rank_of(bits), there(bits));\n{forced}    }}\n    \
         work[numbered + pair] = number;\n{had}  }}\n}}\n"
    );
    let fill = m.finish(&title, Kind::Fill(number), &main)?;
    let mut m = Module::new(plan, spec, if by_mass(&select.budget) { THREADS } else { MANY });
    let threads = m.threads;
    m.uses(RANKS);
    for field in ["rows", "slot_count", "numbered", "reaches"] {
        m.own(field);
    }
    borrowed(&mut m, select);
    let sums = if by_mass(&select.budget) {
        m.uses(MASS);
        let had = if made.besides.is_some() {
            m.own("had_at");
            "    var own_had = 0.0;\n    for (var i = lane; i < listed_count; i += THREADS) { own_had += bitcast<f32>(work[had_at + i]); }\n    \
             let had = sum_of(own_had, lane);\n"
        } else {
            "    let had = 0.0;\n"
        };
        format!(
            "{had}    var own_sum = 0.0;\n    for (var i = lane; i < listed_count; i += THREADS) {{ own_sum += weight_of(work[scratch + i]); }}\n    \
             let total = sum_of(own_sum, lane) + had;\n"
        )
    } else {
        String::new()
    };
    let ends = ends(&mut m, select, 1);
    let main = format!(
        "@compute @workgroup_size({threads})\n\
         fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
         let lane = i32(thread);\n  for (var job = i32(group.x); job < dispatch.jobs; job += dispatch.groups) {{\n    \
         read_job(dispatch.first_job + job);\n    let row = 0;\n    let scratch = numbered;\n    let listed_count = rows * slot_count;\n    \
         var candidates = 0;\n    for (var i = lane; i < listed_count; i += THREADS) {{\n      \
         if (work[scratch + i] != NOTHING) {{ candidates += 1; }}\n    }}\n    \
         let c = count_of(candidates, lane);\n    \
         var ends: array<i32, {}>;\n{sums}{ends}    for (var t = 0; t < {tables}; t++) {{\n      \
         let end = reach(scratch, listed_count, 1, ends[t + 1], lane);\n      if (lane == 0) {{\n        \
         work[reaches + 2 * t] = end.x;\n        work[reaches + 2 * t + 1] = end.y;\n      }}\n    }}\n    sync();\n  }}\n}}\n",
        tables + 1
    );
    let reach = m.finish(&title, Kind::Reach(number), &main)?;
    let mut m = Module::new(plan, spec, THREADS);
    m.uses(RANKS);
    for field in ["rows", "slot_count", "first_slot", "numbered", "reaches", "table", "capacity"] {
        m.own(field);
    }
    let main = format!(
        "{}    for (var t = 0; t < {tables}; t++) {{\n      var begin = vec2<u32>(0u, NOTHING);\n      \
         if (t > 0) {{ begin = vec2<u32>(work[reaches + 2 * t - 2], work[reaches + 2 * t - 1]); }}\n      \
         let end = vec2<u32>(work[reaches + 2 * t], work[reaches + 2 * t + 1]);\n      \
         let at = table + (t * rows + row) * (capacity + 1);\n      var count = 0;\n      \
         for (var base = 0; base < slot_count; base += THREADS) {{\n        let slot = base + lane;\n        var chosen = false;\n        \
         if (slot < slot_count) {{\n          let i = slot * rows + row;\n          let number = work[numbered + i];\n          \
         chosen = within_reach(number, i, end) & !within_reach(number, i, begin);\n        }}\n        \
         let found = place(chosen, lane);\n        let to = count + found.x;\n        \
         if (chosen & (to < capacity)) {{ data[at + 1 + to] = u32(first_slot + slot); }}\n        count += found.y;\n      }}\n      \
         if (lane == 0) {{ data[at] = u32(min(count, capacity)); }}\n    }}\n    sync();\n  }}\n}}\n",
        over_rows(THREADS)
    );
    let write = m.finish(&title, Kind::Write(number), &main)?;
    Ok(vec![fill, reach, write])
}

/// A search of each row: its candidates, then nodes of a tree, in memory of the workgroup.
fn search(plan: &Plan, spec: &Spec, number: usize, made: &Choose, scored: &Scored) -> Result<Pass, EmitError> {
    let select = plan.program.select(made.select);
    let Budget::Refine(refine) = &select.budget else {
        return Err(EmitError::Unsupported(format!("the selection `{}`", select.name)));
    };
    let leaves = refine.leaves;
    if i32::try_from(leaves).is_err() || leaves < 1 {
        return Err(EmitError::Unsupported(format!("a search for {leaves} candidates")));
    }
    let mut m = Module::new(plan, spec, THREADS);
    m.uses(RANKS);
    m.uses(FOLDS);
    for field in ["rows", "row_stands", "table", "capacity", "stands", "numbers", "groups", "slots_begin", "slots_list"]
    {
        m.own(field);
    }
    candidate_sets(&mut m, made, true);
    m.items(scored);
    let keys = scored.steps.iter().find_map(|s| match s {
        Step::Keys { op, .. } => Some(*op),
        _ => None,
    });
    let queries = scored.steps.iter().find_map(|s| match s {
        Step::Queries { op, .. } => Some(*op),
        _ => None,
    });
    let (take_key, end_key) = fold(keys.unwrap_or(Reduce::Max));
    let (take_row, end_row) = fold(queries.unwrap_or(Reduce::Max));
    let (group_begin, group_end) =
        if queries.is_some() { ("word(groups + 2 * row)", "word(groups + 2 * row + 1)") } else { ("row", "row + 1") };
    let own = if scored.dot.is_some() { "read_own(word(numbers + i), lane);" } else { "workgroupBarrier();" };
    let center = if refine.rep == Rep::Center { " + work[sizes + h] / 2u" } else { "" };
    let main = format!(
        "/// Nodes that are kept.\nconst LEAVES: i32 = {leaves};\n{head}    \
         enter(first_slot, slot_count);\n    set_query(given_q_start + word(row_stands + row));\n    \
         // Candidates in ascending order.\n    sync();\n    var c = 0;\n    var least = k_start;\n    loop {{\n      \
         let run = next1(least);\n      if (run.x >= run.y) {{ break; }}\n      \
         for (var base = run.x; base < run.y; base += THREADS) {{\n        let slot = base + lane;\n        var has = slot < run.y;\n        \
         if (has) {{ has = keep1(slot, slot); }}\n        let found = place(has, lane);\n        \
         if (has) {{ work[scratch + c + found.x] = u32(slot); }}\n        c += found.y;\n      }}\n      least = run.y;\n    }}\n    sync();\n    \
         let at = table + row * (capacity + 1);\n    if (c <= LEAVES) {{\n      \
         for (var i = lane; i < min(c, capacity); i += THREADS) {{ data[at + 1 + i] = work[scratch + i]; }}\n      \
         if (lane == 0) {{ data[at] = u32(min(c, capacity)); }}\n      sync();\n      continue;\n    }}\n    \
         // First candidate and size of nodes, then of their halves, and a number, a sum and a count of each half.\n    \
         let firsts = scratch + slot_count;\n    let node_sizes = firsts + LEAVES;\n    let halves = node_sizes + LEAVES;\n    \
         let sizes = halves + 2 * LEAVES;\n    let ranks = sizes + 2 * LEAVES;\n    let sums = ranks + 2 * LEAVES;\n    \
         let mets = sums + 2 * LEAVES;\n    for (var i = lane; i < LEAVES; i += THREADS) {{\n      \
         let b = i * (c / LEAVES) + i * (c % LEAVES) / LEAVES;\n      \
         let e = (i + 1) * (c / LEAVES) + (i + 1) * (c % LEAVES) / LEAVES;\n      work[firsts + i] = u32(b);\n      \
         work[node_sizes + i] = u32(e - b);\n    }}\n    enter(first_key, key_count);\n    \
         for (var reached = LEAVES; reached < c; reached *= 2) {{\n      sync();\n      \
         for (var h = lane; h < 2 * LEAVES; h += THREADS) {{\n        let b = work[firsts + h / 2];\n        let s = work[node_sizes + h / 2];\n        \
         let second = (h & 1) == 1;\n        work[halves + h] = select(b, b + s / 2u, second);\n        \
         work[sizes + h] = select(s / 2u, s - s / 2u, second);\n        work[sums + h] = 0u;\n        work[mets + h] = 0u;\n      }}\n      \
         for (var i = {group_begin}; i < {group_end}; i++) {{\n        set_query(given_q_start + word(stands + i));\n        {own}\n        \
         for (var h = lane; h < 2 * LEAVES; h += THREADS) {{\n          if (work[sizes + h] == 0u) {{ continue; }}\n          \
         let slot = i32(work[scratch + i32(work[halves + h]{center})]) - first_slot;\n          var sum = 0.0;\n          var met = 0;\n          \
         for (var j = word(slots_begin + slot); j < word(slots_begin + slot + 1); j++) {{\n            \
         let number = word(slots_list + j);\n            let k = k_start + number;\n            if (keep0(k, number)) {{\n              \
         let value = item(number, k);\n              if (there(bitcast<u32>(value))) {{\n                \
         sum = {take_key}(sum, met, value);\n                met += 1;\n              }}\n            }}\n          }}\n          \
         let bits = {end_key}(sum, met);\n          if (there(bits)) {{\n            let before = i32(work[mets + h]);\n            \
         work[sums + h] = bitcast<u32>({take_row}(bitcast<f32>(work[sums + h]), before, bitcast<f32>(bits)));\n            \
         work[mets + h] = u32(before + 1);\n          }}\n        }}\n      }}\n      \
         for (var h = lane; h < 2 * LEAVES; h += THREADS) {{\n        \
         let bits = {end_row}(bitcast<f32>(work[sums + h]), i32(work[mets + h]));\n        \
         work[ranks + h] = select(rank_of(bits), NOTHING, work[sizes + h] == 0u);\n      }}\n      sync();\n      \
         let end = reach(ranks, 2 * LEAVES, 1, LEAVES, lane);\n      var count = 0;\n      \
         for (var base = 0; base < 2 * LEAVES; base += THREADS) {{\n        let h = base + lane;\n        var kept = false;\n        \
         if (h < 2 * LEAVES) {{ kept = within_reach(work[ranks + h], h, end); }}\n        let found = place(kept, lane);\n        \
         let to = count + found.x;\n        if (kept & (to < LEAVES)) {{\n          work[firsts + to] = work[halves + h];\n          \
         work[node_sizes + to] = work[sizes + h];\n        }}\n        count += found.y;\n      }}\n    }}\n    sync();\n    \
         for (var i = lane; i < min(LEAVES, capacity); i += THREADS) {{ data[at + 1 + i] = work[scratch + i32(work[firsts + i])]; }}\n    \
         if (lane == 0) {{ data[at] = u32(min(LEAVES, capacity)); }}\n    sync();\n  }}\n}}\n",
        head = over_rows(THREADS),
    );
    m.finish(&format!("Tables of the selection `{}`, by a search", select.name), Kind::Search(number), &main)
}

/// Sums of squares by channel of the rows over which the energy of channels is taken: those of queries, then of keys.
fn squares(plan: &Plan, spec: &Spec, number: usize) -> Pass {
    let select = plan.program.select(plan.chooses[number].select);
    let own = ["queries_listed", "query_count", "rows_from", "keys_listed", "keys_counted", "keys_from", "sums"];
    let fields: Vec<Field> = own.into_iter().map(Field::Own).collect();
    let mut t = format!(
        "// Energies for the selection `{}` of attention `{}`.\n\n{HEAD}const D4: i32 = {};\n/// Rows that are summed up one after the other.\nconst PART: i32 = {PART};\n\n",
        select.name,
        plan.name,
        spec.pitch() / 4
    );
    t.push_str("@group(0) @binding(0) var<uniform> dispatch: Dispatch;\n@group(0) @binding(1) var<storage, read> jobs: array<i32>;\n");
    t.push_str("@group(0) @binding(2) var<storage, read> data: array<u32>;\n");
    t.push_str(&reader(3, "row_vectors", "read_row", spec.input));
    t.push_str(&reader(4, "key_vectors", "read_key", spec.input));
    t.push_str("@group(0) @binding(5) var<storage, read_write> work: array<u32>;\n\n");
    t.push_str(&set_fields(&fields));
    let _ = write!(
        t,
        "\n@compute @workgroup_size({THREADS})\n\
         fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
         for (var task = i32(group.x); task < dispatch.jobs * dispatch.rows; task += dispatch.groups) {{\n    \
         read_job(dispatch.first_job + task / dispatch.rows);\n    let part = task % dispatch.rows;\n    \
         let of_queries = (query_count + PART - 1) / PART;\n    let first = (part - of_queries) * PART;\n    \
         for (var c = i32(thread); c < D4; c += {THREADS}) {{\n      var sum = vec4<f32>();\n      \
         if (part < of_queries) {{\n        for (var i = part * PART; i < min(part * PART + PART, query_count); i++) {{\n          \
         let x = read_row((rows_from + word(queries_listed + i)) * D4 + c);\n          sum += x * x;\n        }}\n      }} else {{\n        \
         for (var i = first; i < min(first + PART, keys_counted); i++) {{\n          \
         let x = read_key((keys_from + word(keys_listed + i)) * D4 + c);\n          sum += x * x;\n        }}\n      }}\n      \
         if (first < keys_counted) {{\n        for (var i = 0; i < 4; i++) {{ work[sums + (part * D4 + c) * 4 + i] = bitcast<u32>(sum[i]); }}\n      }}\n    }}\n  }}\n}}\n"
    );
    let bindings = vec![(0, false), (1, false), (2, false), (3, false), (4, false), (5, true)];
    Pass { text: t, kind: Kind::Energy(number), fields, bindings }
}

/// Lists of the queries that each branch takes.
fn stand(plan: &Plan, spec: &Spec, takes: &choose::Listed) -> Result<Pass, EmitError> {
    let mut m = Module::new(plan, spec, THREADS);
    m.exchanged = true;
    m.uses(RANKS);
    m.own("branches");
    let [stand, room] = [Field::Stand, Field::StandRoom].map(|f| m.names.field(f));
    m.set(0, takes.set, &takes.rows, false);
    let main = format!(
        "@compute @workgroup_size({THREADS})\n\
         fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
         let lane = i32(thread);\n  \
         for (var task = i32(group.x); task < dispatch.jobs * dispatch.rows; task += dispatch.groups) {{\n    \
         read_job(dispatch.first_job + task / dispatch.rows);\n    branch = task % dispatch.rows;\n    \
         if (branch >= branches) {{ continue; }}\n    \
         // Candidates are queries.\n    enter(given_q_start, given_n_q);\n    set_query(given_k_start);\n    \
         let at = {stand} + branch * ({room} + 1);\n    var count = 0;\n    \
         for (var base = 0; base < n_k; base += THREADS) {{\n      let number = base + lane;\n      var taken = number < n_k;\n      \
         if (taken) {{ taken = keep0(k_start + number, number); }}\n      let found = place(taken, lane);\n      \
         let to = count + found.x;\n      if (taken & (to < {room})) {{ data[at + 1 + to] = u32(number); }}\n      \
         count += found.y;\n    }}\n    if (lane == 0) {{ data[at] = u32(min(count, {room})); }}\n    sync();\n  }}\n}}\n"
    );
    m.finish("Queries of the branches", Kind::Stand, &main)
}

/// The tiles of a stage that have rows: their numbers, how many there are, and that as the size of a dispatch.
fn tasks(plan: &Plan, stage: usize, tile: usize) -> Pass {
    let fields = vec![Field::Stand, Field::StandRoom, Field::Own("branches"), Field::Own("most_groups")];
    let mut t = format!(
        "// Tiles of stage {} of attention `{}` that have rows.\n\n{HEAD}const TILE: u32 = {tile}u;\n\n",
        stage + 1,
        plan.name
    );
    t.push_str("@group(0) @binding(0) var<uniform> dispatch: Dispatch;\n@group(0) @binding(1) var<storage, read> jobs: array<i32>;\n");
    t.push_str("@group(0) @binding(2) var<storage, read_write> data: array<u32>;\n");
    t.push_str("/// Workgroups of the stage.\n@group(0) @binding(6) var<storage, read_write> size: array<u32, 3>;\n\n");
    t.push_str(&set_fields(&fields));
    let _ = write!(
        t,
        "\nvar<workgroup> counts: array<u32, {THREADS}>;\n\
         /// One workgroup. `scratch` is where the list begins, `room` how many tiles a branch has at most.\n\
         @compute @workgroup_size({THREADS})\nfn main(@builtin(local_invocation_index) thread: u32) {{\n  \
         let lane = i32(thread);\n  let pairs = dispatch.jobs * dispatch.rows;\n  var total = 0u;\n  \
         for (var base = 0; base < pairs; base += {THREADS}) {{\n    let pair = base + lane;\n    var tiles = 0u;\n    \
         if (pair < pairs) {{\n      read_job(dispatch.first_job + pair / dispatch.rows);\n      \
         let branch = pair % dispatch.rows;\n      \
         if (branch < branches) {{ tiles = (data[stand + branch * (stand_room + 1)] + TILE - 1u) / TILE; }}\n    }}\n    \
         workgroupBarrier();\n    counts[lane] = tiles;\n    workgroupBarrier();\n    var at = total;\n    \
         for (var i = 0; i < {THREADS}; i++) {{\n      if (i < lane) {{ at += counts[i]; }}\n      total += counts[i];\n    }}\n    \
         for (var i = 0u; i < tiles; i++) {{ data[u32(dispatch.scratch + 1) + at + i] = u32(pair * dispatch.room) + i; }}\n  }}\n  \
         read_job(dispatch.first_job);\n  let width = u32(most_groups);\n  if (lane == 0) {{\n    \
         data[dispatch.scratch] = total;\n    size[0] = min(total, width);\n    size[1] = (total + width - 1u) / width;\n    size[2] = 1u;\n  }}\n}}\n"
    );
    let bindings = vec![(0, false), (1, false), (2, true), (6, true)];
    Pass { text: t, kind: Kind::Tasks(stage), fields, bindings }
}

/// The output of each query, from those of the rows in place of queries.
fn spread(plan: &Plan, spec: &Spec, rows: &InPlace) -> Pass {
    let mut fields = vec![Field::NQ, Field::ORow, Field::Own("first_stood")];
    let (find, sum) = match rows {
        InPlace::Slots(_) => {
            fields.extend(["parts_begin", "parts_rows", "parts_weights"].map(Field::Own));
            (
                "    for (var i = word(parts_begin + row); i < word(parts_begin + row + 1); i++) {\n      \
                 let at = (first_stood + word(parts_rows + i)) * (V4 + 1);\n      \
                 sum += bitcast<f32>(data[parts_weights + i]) * stood[at + c];\n      let state = stood[at + V4];\n      \
                 log_sum = select(0xff800000u, bitcast<u32>(state.x), state.y > 0.0);\n    }\n",
                "sum",
            )
        }
        InPlace::Branches { .. } => {
            fields.extend([Field::Stand, Field::StandRoom, Field::Own("branches")]);
            (
                "    var taken = 0.0;\n    for (var branch = 0; branch < branches; branch++) {\n      \
                 // Queries of a branch ascend.\n      let list = stand + branch * (stand_room + 1);\n      let count = word(list);\n      \
                 var lo = 0;\n      var hi = count;\n      while (lo < hi) {\n        let mid = (lo + hi) >> 1u;\n        \
                 if (word(list + 1 + mid) < row) { lo = mid + 1; } else { hi = mid; }\n      }\n      \
                 if (lo >= count) { continue; }\n      if (word(list + 1 + lo) != row) { continue; }\n      \
                 sum += stood[(first_stood + branch * stand_room + lo) * (V4 + 1) + c];\n      taken += 1.0;\n    }\n",
                "sum / max(taken, 1.0)",
            )
        }
    };
    let output = if spec.output == Element::F32 { "vec4<f32>" } else { "vec2<u32>" };
    let mut t = format!(
        "// The output of attention `{}`.\n\n{HEAD}/// Vectors of four elements in a row.\nconst V4: i32 = {};\n\n",
        plan.name,
        spec.value_pitch() / 4
    );
    t.push_str("@group(0) @binding(0) var<uniform> dispatch: Dispatch;\n@group(0) @binding(1) var<storage, read> jobs: array<i32>;\n");
    t.push_str("@group(0) @binding(2) var<storage, read> data: array<u32>;\n");
    t.push_str(
        "/// Output and log-sum-exp of rows.\n@group(0) @binding(3) var<storage, read> stood: array<vec4<f32>>;\n",
    );
    let _ = writeln!(t, "@group(0) @binding(6) var<storage, read_write> output: array<{output}>;");
    t.push_str("@group(0) @binding(7) var<storage, read_write> log_sums: array<u32>;\n\n");
    t.push_str(&set_fields(&fields));
    t.push_str(super::writer(spec.output));
    // What is made of several rows has no log-sum-exp.
    let log_sum = if rows.is_merged() { "0x7fc00000u" } else { "log_sum" };
    let _ = write!(
        t,
        "\n/// A thread for each vector of each query.\n@compute @workgroup_size({THREADS})\n\
         fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
         let total = dispatch.jobs * dispatch.rows * V4;\n  \
         for (var task = i32(group.x) * {THREADS} + i32(thread); task < total; task += dispatch.groups * {THREADS}) {{\n    \
         let c = task % V4;\n    read_job(dispatch.first_job + task / V4 / dispatch.rows);\n    \
         let row = (task / V4) % dispatch.rows;\n    if (row >= given_n_q) {{ continue; }}\n    \
         var sum = vec4<f32>();\n    var log_sum = 0xff800000u;\n{find}    \
         write_o(u32(o_row + row) * u32(V4) + u32(c), {sum});\n    if (c == 0) {{ log_sums[o_row + row] = {log_sum}; }}\n  }}\n}}\n"
    );
    let bindings = vec![(0, false), (1, false), (2, false), (3, false), (6, true), (7, true)];
    Pass { text: t, kind: Kind::Spread, fields, bindings }
}

/// Words of memory of a workgroup that a pass needs for rows of so many candidates.
pub(crate) fn room(plan: &Plan, kind: Kind, candidates: usize) -> usize {
    match kind {
        Kind::Rank(_) => 2 * candidates,
        Kind::Search(number) => {
            let leaves = match &plan.program.select(plan.chooses[number].select).budget {
                Budget::Refine(refine) => usize::try_from(refine.leaves).unwrap_or(0),
                _ => 0,
            };
            candidates + 12 * leaves
        }
        Kind::Items(number) if plan.chooses[number].scored.as_ref().is_some_and(|s| Recipe::new(s).slab()) => {
            candidates
        }
        _ => 0,
    }
}
