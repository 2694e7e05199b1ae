//! From a verified plan to the text of its compute shaders, one module for each stage.
//!
//! The one idea: a workgroup owns a tile of queries of one (batch item, head), finds its keys from the plan's closed
//! forms ([`sets`]), fills a chunk of them in workgroup memory, and goes on with an online softmax. Sizes, starts and
//! strides are read when it runs; the dimensions and element types of a [`Spec`] are constants of the text.
//! [`rows`] has a thread for each query and asks for nothing but WebGPU's defaults, or for f16 and subgroups; [`matrix`]
//! computes both products with cooperative matrices. Nothing here knows of devices.

mod expr;
pub(crate) mod gate;
mod matrix;
pub(crate) mod passes;
mod residues;
mod rows;
mod sets;

use std::fmt;
use std::fmt::Write as _;

use attnc_pattern::program::Empty;
use attnc_plan::{Attend, Entry, Plan, Reads, Role, VerifiedPlan, View};

use crate::layout::Field;
use expr::{Body, Home, Names};
use sets::Search;

/// What a shader asks of its adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variant {
    /// f32 arithmetic, 16 KiB of workgroup memory, no optional feature.
    Portable,
    /// f16 in memory, sums in f32; needs `shader-f16` and subgroups.
    Half,
    /// Products by cooperative matrices, f16 in and f32 out; needs them, `shader-f16` and subgroups of 32.
    Matrix,
}

impl Variant {
    /// All variants.
    pub const ALL: [Variant; 3] = [Variant::Portable, Variant::Half, Variant::Matrix];

    /// As in the name of a target.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Variant::Portable => "portable",
            Variant::Half => "f16",
            Variant::Matrix => "matrix",
        }
    }
}

/// Element types of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32 bits.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Element {
    /// Bytes of one.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::Bf16 => "bf16",
        }
    }
}

/// What is constant in the text of a shader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// What it asks of the adapter.
    pub variant: Variant,
    /// Type of Q, K and V.
    pub input: Element,
    /// Type of the output.
    pub output: Element,
    /// Dimension of queries and keys.
    pub d: usize,
    /// Dimension of values.
    pub dv: usize,
}

/// Largest dimension of queries, keys or values that a variant takes.
#[must_use]
pub fn max_dim(variant: Variant) -> usize {
    match variant {
        Variant::Portable | Variant::Half => 256,
        Variant::Matrix => 128,
    }
}

impl Spec {
    /// Elements from one row of Q or K to the next; the last ones of a row are 0.
    #[must_use]
    pub fn pitch(&self) -> usize {
        self.d.next_multiple_of(self.step())
    }

    /// Elements from one row of V or of the output to the next.
    #[must_use]
    pub fn value_pitch(&self) -> usize {
        self.dv.next_multiple_of(self.step())
    }

    fn step(&self) -> usize {
        if self.variant == Variant::Matrix { 16 } else { 4 }
    }
}

/// Why a plan has no shader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmitError {
    /// The plan asks for what this back end does not do.
    Unsupported(String),
    /// Elements of this type under this variant would be narrowed.
    Narrowed(Variant, Element),
    /// A dimension that the variant does not take.
    Dim(Variant, usize),
}

impl fmt::Display for EmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EmitError::Unsupported(what) => write!(f, "the GPU target does not support {what}"),
            EmitError::Narrowed(variant, element) => {
                write!(f, "the variant `{}` computes with f16: {} would be narrowed", variant.name(), element.name())
            }
            EmitError::Dim(variant, d) => {
                write!(
                    f,
                    "a dimension of {d} does not fit the variant `{}`, which takes 1 to {}",
                    variant.name(),
                    max_dim(*variant)
                )
            }
        }
    }
}

impl std::error::Error for EmitError {}

/// The shader of one stage.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its WGSL; the entry point is `attend`.
    pub text: String,
    /// Queries of a workgroup.
    pub tile: usize,
    /// Keys of a chunk.
    pub(crate) chunk: usize,
    /// The variant that it is of.
    pub variant: Variant,
    pub(crate) view: View,
    /// The levels whose slots are queries and keys.
    pub(crate) reads: Reads,
    /// Of classes; 1 without them.
    pub(crate) modulus: i64,
    pub(crate) fields: Vec<Field>,
    /// Reads run-time data.
    pub(crate) data: bool,
    /// Goes on from the stages before.
    pub(crate) resumes: bool,
    /// Other stages go on from it.
    pub(crate) hands_over: bool,
    /// Tiles with many keys can be cut; `join` is then an entry point too.
    pub(crate) cuts: bool,
}

/// Writes the shaders of a plan, one for each stage.
///
/// # Errors
/// What this back end, or the variant, does not do.
pub fn emit(plan: &VerifiedPlan, spec: &Spec) -> Result<Vec<Stage>, EmitError> {
    if spec.variant != Variant::Portable && spec.input != Element::F16 {
        return Err(EmitError::Narrowed(spec.variant, spec.input));
    }
    if let Some(&d) = [spec.d, spec.dv].iter().find(|&&d| d == 0 || d > max_dim(spec.variant)) {
        return Err(EmitError::Dim(spec.variant, d));
    }
    if let Some(what) = beyond(plan) {
        return Err(EmitError::Unsupported(what.to_owned()));
    }
    let last = plan.stages.len() - 1;
    // Of rows in place of queries the output of these is made.
    let stands = plan.rows.is_some();
    plan.stages
        .iter()
        .enumerate()
        .map(|(i, attend)| stage(plan, attend, spec, (i, i > 0, i < last || stands)))
        .collect()
}

/// The text of every module of a plan with the variant that it is of, in the order in which they run.
///
/// # Errors
/// As for [`emit`].
pub fn modules(plan: &VerifiedPlan, spec: &Spec) -> Result<Vec<(Variant, String)>, EmitError> {
    let stages = emit(plan, spec)?;
    let passes = passes::passes(plan, spec)?;
    let (after, before): (Vec<_>, Vec<_>) = passes.into_iter().partition(passes::Pass::is_last);
    let text = |p: passes::Pass| (Variant::Portable, p.text);
    let stages = stages.into_iter().map(|s| (s.variant, s.text));
    Ok(before.into_iter().map(text).chain(stages).chain(after.into_iter().map(text)).collect())
}

/// What of a plan this back end does not do, if anything. Where it is the numbering of a stage, a plan without the
/// pass `reorder` is one that it does.
#[must_use]
pub fn beyond(plan: &Plan) -> Option<&'static str> {
    if plan.is_dynamic() && plan.empty == Some(Empty::Error) {
        // Found out on the device, and nothing is read back before output is written.
        return Some("`empty = error` where what rows attend to depends on the data, which the device alone knows");
    }
    plan.stages.iter().find_map(|s| match s.view {
        View::Given | View::Walk(_) | View::Rows => None,
        View::Classes(modulus) => {
            let known = plan.program.exprs.as_int(modulus).is_some_and(|m| i32::try_from(m).is_ok());
            (!known).then_some("residue classes of a modulus that is known only when run")
        }
        View::Ordered { .. } => Some("keys numbered by an order"),
    })
}

/// One stage in the making.
struct Maker<'a> {
    plan: &'a Plan,
    attend: &'a Attend,
    spec: &'a Spec,
    names: Names<'a>,
    resumes: bool,
    hands_over: bool,
    /// Whether tiles with many keys can be cut.
    cuts: bool,
    /// The modulus by whose residues queries are taken; 1: as the view has them.
    residues: i64,
    /// Threads of a workgroup, keys of a chunk.
    threads: usize,
    chunk: usize,
    /// Queries of a workgroup.
    tile: usize,
    /// Of the variant `matrix`.
    form: matrix::Form,
    /// Functions of the pattern.
    functions: String,
    /// For each entry of tokens: its number, how its keys are found, and whether scores are changed.
    entries: Vec<TokenEntry>,
    /// Null entries: number and slots.
    nulls: Vec<(usize, i64)>,
    /// The scale, as text.
    scale: String,
}

struct TokenEntry {
    number: usize,
    search: Search,
    logit: bool,
    /// Length of the text that decides a pair.
    keep: usize,
}

fn stage(
    plan: &Plan,
    attend: &Attend,
    spec: &Spec,
    (index, resumes, hands_over): (usize, bool, bool),
) -> Result<Stage, EmitError> {
    if attend.role == Role::ColumnWalk {
        return Err(EmitError::Unsupported("walks over columns: they are those of a backward pass".to_owned()));
    }
    // Levels are f32, which no variant narrows; and tiles of rows that are listed are those of the variants with a thread
    // for each. Rows are as far apart as the launch has them.
    let apart = Spec { d: spec.pitch(), dv: spec.value_pitch(), ..*spec };
    let spec = &match (attend.reads, attend.view, spec.variant) {
        (Reads { q: None, kv: None }, View::Rows, Variant::Matrix) => Spec { variant: Variant::Half, ..apart },
        (Reads { q: None, kv: None }, ..) => *spec,
        _ => Spec { variant: Variant::Portable, ..apart },
    };
    let form = matrix::Form::of(spec);
    let chunk = if spec.variant == Variant::Matrix { form.chunk } else { rows::chunk(spec) };
    // What a chunk holds by key beside its rows.
    let key_room = if spec.variant == Variant::Matrix { 6 } else { 1024 / (4 * chunk.max(1)) };
    let alone = !resumes && !hands_over && !plan.is_dynamic();
    let mut maker = Maker {
        plan,
        attend,
        spec,
        names: Names::new(&plan.program, key_room),
        resumes,
        hands_over,
        cuts: alone && matches!(attend.view, View::Given | View::Walk(_)),
        residues: residues::modulus(&plan.program, attend),
        threads: rows::THREADS,
        chunk,
        tile: attend.tile.q,
        form,
        functions: String::new(),
        entries: Vec::new(),
        nulls: Vec::new(),
        scale: String::new(),
    };
    maker.pattern();
    if spec.variant == Variant::Matrix {
        let longest = maker.entries.iter().map(|e| e.keep).max().unwrap_or(0);
        // By their residues queries share keys whatever the tile.
        if maker.residues == 1 {
            maker.form = form.for_stage(&plan.program, attend, longest);
        }
        (maker.threads, maker.tile) = (maker.form.threads(), maker.form.rows());
    }
    let main = match spec.variant {
        Variant::Matrix => matrix::main(&mut maker),
        _ => rows::main(&mut maker),
    };
    maker.finish(index, &main)
}

impl Maker<'_> {
    /// Functions of every entry.
    fn pattern(&mut self) {
        let mut b = Body::new(&mut self.names, Home::Here, 1);
        self.scale = b.value(self.attend.scale);
        // A constant or a module variable; what else is not known once for a launch.
        if !b.text.is_empty() {
            self.names.refuse("a scale that is not the same for a launch");
        }
        for (n, entry) in self.attend.entries.iter().enumerate() {
            match entry {
                Entry::Tokens { set, rows, tiles, bias } => {
                    let search = Search::of(&self.plan.program, self.attend.view, tiles);
                    let found = match search {
                        Search::Tile => sets::next(&mut self.names, n, tiles, self.residues > 1),
                        Search::Rows => sets::row_next(&mut self.names, n, rows),
                    };
                    self.functions.push_str(&found);
                    if search == Search::Rows {
                        self.functions.push_str(&nearest(n));
                    }
                    let keep = sets::keep(&mut self.names, n, *set, rows);
                    self.functions.push_str(&keep);
                    let logit = self.attend.score.is_some() || bias.is_some();
                    if logit {
                        self.functions.push_str(&sets::logit(&mut self.names, n, self.attend.score, *bias));
                    }
                    self.entries.push(TokenEntry { number: n, search, logit, keep: keep.len() });
                }
                Entry::Null { slots, bias } => {
                    let mut b = Body::new(&mut self.names, Home::Here, 1);
                    let logit = bias.map_or_else(|| "0.0".to_owned(), |bias| b.value(bias));
                    b.line(format!("return {logit};"));
                    let body = b.text;
                    let _ = write!(
                        self.functions,
                        "/// Entry {n}: the logit of a null slot.\nfn null{n}(null_slot: i32) -> f32 {{\n{body}}}\n"
                    );
                    self.nulls.push((n, *slots));
                }
            }
        }
    }

    /// Whether some entry finds its keys query by query.
    fn by_rows(&self) -> bool {
        self.entries.iter().any(|e| e.search == Search::Rows)
    }

    /// The modulus of the stage's classes; 1 without them.
    fn modulus(&self) -> i64 {
        match self.attend.view {
            View::Classes(modulus) => self.plan.program.exprs.as_int(modulus).unwrap_or(1).max(1),
            _ => 1,
        }
    }

    /// Puts the module together.
    fn finish(mut self, index: usize, main: &str) -> Result<Stage, EmitError> {
        // Values of an inner place may ask for those of an outer one.
        let keys = self.assignments(Home::Key);
        let row = self.assignments(Home::Row);
        let tile = self.assignments(Home::Tile);
        let launch = self.assignments(Home::Launch);
        let walk = match self.attend.view {
            View::Walk(_) => Some(self.names.field(Field::Walk)),
            _ => None,
        };
        if let Some(level) = attend_level(self.attend) {
            self.names.field(Field::Slots(level));
            self.names.field(Field::VRow);
        }
        if self.attend.view == View::Rows {
            self.names.field(Field::Stand);
            self.names.field(Field::StandRoom);
        }
        for field in [Field::NQ, Field::NK, Field::QStart, Field::KStart, Field::QRow, Field::KRow, Field::ORow] {
            self.names.field(field);
        }
        if let Some(what) = self.names.refused {
            return Err(EmitError::Unsupported(what));
        }
        let modulus = self.modulus();
        let Maker { plan, attend, spec, names, .. } = &self;
        let mut t = String::new();
        let order = match attend.view {
            View::Given if self.residues > 1 => {
                format!("queries of each residue modulo {} one after the other", self.residues)
            }
            View::Given => "as given".to_owned(),
            View::Classes(_) => format!("the positions of each residue modulo {modulus} as a sequence of their own"),
            View::Walk(o) => format!("queries by {}", plan.program.order(o).name),
            View::Rows => "rows in place of queries".to_owned(),
            View::Ordered { .. } => unreachable!("refused by `beyond`"),
        };
        let _ = writeln!(t, "// Attention `{}`, stage {}: {order}.", plan.name, index + 1);
        let _ = writeln!(
            t,
            "// Variant {}: {} in, {} out, {} elements of a key, {} of a value.\n",
            spec.variant.name(),
            spec.input.name(),
            spec.output.name(),
            spec.d,
            spec.dv
        );
        if spec.variant != Variant::Portable {
            t.push_str("enable f16;\n");
        }
        if spec.variant == Variant::Matrix {
            t.push_str("enable wgpu_cooperative_matrix;\n");
        }
        let (d4, v4) = (spec.pitch() / 4, spec.value_pitch() / 4);
        let _ = write!(
            t,
            "\n/// Queries of a workgroup.\nconst TILE: i32 = {};\n/// Keys of a chunk.\nconst CHUNK: i32 = {};\n\
             const THREADS: i32 = {};\n/// Vectors of four elements in a row of Q and K, and of V.\n\
             const D4: i32 = {d4};\nconst V4: i32 = {v4};\n/// The logit of a key that is not held.\n\
             const NONE: f32 = -3.0e38;\n/// Any logit is greater.\nconst LEAST: f32 = -1.5e38;\n\
             const LOG2_E: f32 = 1.4426950408889634;\nconst LN_2: f32 = 0.6931471805599453;\n\n",
            self.tile, self.chunk, self.threads
        );
        t.push_str(
            "struct Dispatch {\n  first_job: u32,\n  jobs: u32,\n  /// Tiles of queries of a job, and of one class of it.\n  \
             tiles: u32,\n  class_tiles: u32,\n  width: u32,\n",
        );
        if self.cuts {
            t.push_str(
                "  /// First and last tiles of a job that are cut, and into how many parts by keys.\n  head: u32,\n  tail: u32,\n  \
                 parts: u32,\n  /// Parts to join.\n  joined: u32,\n",
            );
        }
        if self.stands() {
            t.push_str("  /// Where tiles that have rows are listed; 0: they are not.\n  tasks: u32,\n");
        }
        t.push_str("}\n\n");
        let uses_data = names.fields.iter().any(|f| is_data(*f));
        self.bindings(&mut t, uses_data);
        t.push_str("\n// The job.\n");
        for field in &names.fields {
            let _ = writeln!(t, "var<private> {}: i32;", field.name());
        }
        t.push_str(
            "\n// Positions as this stage numbers them, and the rows of the job that they stand for.\n\
             var<private> n_q: i32;\nvar<private> n_k: i32;\nvar<private> q_start: i32;\nvar<private> k_start: i32;\n\
             /// The keys that are visited.\nvar<private> k_from: i32;\nvar<private> k_end: i32;\nvar<private> residue: i32;\nvar<private> first_q: i32;\n\
             var<private> first_k: i32;\nvar<private> stride: i32;\n\n// The tile of queries, and this thread's query.\n\
             var<private> tile_first: i32;\nvar<private> tile_rows: i32;\nvar<private> q_lo: i32;\n\
             var<private> q_hi: i32;\nvar<private> q: i32;\nvar<private> number: i32;\n",
        );
        if self.stands() || names.reads_branch {
            t.push_str("/// The branch.\nvar<private> branch: i32;\n");
        }
        if self.stands() {
            t.push_str("/// The number of the first row of the branch, and of this thread's row.\nvar<private> first_row: i32;\nvar<private> row_number: i32;\n");
        }
        if self.residues > 1 {
            t.push_str("/// Positions of the least and greatest residue of the tile.\nvar<private> class_lo: i32;\nvar<private> class_hi: i32;\n");
        }
        if self.cuts {
            t.push_str("/// The number of this part of a tile, or -1 for a whole one, and which part of its tile it is.\nvar<private> partial: i32;\nvar<private> part: i32;\n");
        }
        for home in [Home::Launch, Home::Tile, Home::Row] {
            for (id, name) in names.hoisted(home) {
                let _ = writeln!(t, "var<private> {name}: {};", names.ty(id));
            }
        }
        t.push_str("\n/// Positions of the keys of the chunk.\nvar<workgroup> keys: array<i32, CHUNK>;\n");
        for (id, name) in names.hoisted(Home::Key) {
            let ty = if names.ty(id) == "bool" { "i32" } else { names.ty(id) };
            let _ = writeln!(t, "var<workgroup> {name}: array<{ty}, CHUNK>;");
        }
        if self.by_rows() {
            t.push_str("var<workgroup> near: atomic<i32>;\nvar<workgroup> far: atomic<i32>;\n");
        }
        t.push('\n');
        let mut helpers = names.helpers.clone();
        if matches!(attend.view, View::Classes(_)) {
            helpers.insert("floor_mod");
            helpers.insert("floor_div");
        }
        for name in &helpers {
            t.push_str(expr::helper(name));
            t.push('\n');
        }
        self.begin(&mut t, (&launch, &tile, &row, &keys), walk);
        t.push_str(&self.functions);
        t.push('\n');
        t.push_str(main);
        if self.cuts {
            t.push_str(JOIN);
        }
        Ok(Stage {
            text: t,
            tile: self.tile,
            chunk: self.chunk,
            variant: self.spec.variant,
            view: attend.view,
            reads: attend.reads,
            modulus,
            fields: names.fields.iter().copied().collect(),
            data: uses_data,
            resumes: self.resumes,
            hands_over: self.hands_over,
            cuts: self.cuts,
        })
    }

    /// Lines that set the hoisted values of a home.
    fn assignments(&mut self, home: Home) -> String {
        let list = self.names.hoisted(home);
        let mut b = Body::new(&mut self.names, home, 1);
        for (id, name) in list {
            let value = b.value(id);
            b.line(match home {
                Home::Key if b.names.ty(id) == "bool" => format!("{name}[slot] = select(0, 1, {value});"),
                Home::Key => format!("{name}[slot] = {value};"),
                _ => format!("{name} = {value};"),
            });
        }
        b.text
    }

    /// Whether a binding has rows of a level.
    fn is_level(&self, binding: u32) -> bool {
        let Reads { q, kv } = self.attend.reads;
        let (level, of) = match binding {
            3 => (q, passes::Of::Q),
            4 => (kv, passes::Of::K),
            5 => (kv, passes::Of::V),
            _ => return false,
        };
        level.is_some_and(|l| passes::pooled_in(self.plan, l, of).is_some())
    }

    /// Whether rows stand in place of queries.
    fn stands(&self) -> bool {
        self.attend.view == View::Rows
    }

    /// The table of the channels by which keys are scored, if not by all.
    fn channels(&self) -> Option<attnc_pattern::expr::DrawId> {
        match self.plan.program.level(self.attend.reads.q?).pool {
            attnc_pattern::program::Pool::Channels(draw) => Some(draw),
            _ => None,
        }
    }

    fn bindings(&self, t: &mut String, data: bool) {
        let Maker { spec, .. } = self;
        let input = match (spec.variant, spec.input) {
            (_, Element::F32) => "vec4<f32>",
            (Variant::Portable, _) => "vec2<u32>",
            _ => "vec4<f16>",
        };
        let output = if spec.output == Element::F32 { "vec4<f32>" } else { "vec2<u32>" };
        t.push_str("@group(0) @binding(0) var<uniform> dispatch: Dispatch;\n");
        t.push_str("@group(0) @binding(1) var<storage, read> jobs: array<i32>;\n");
        if data {
            t.push_str("@group(0) @binding(2) var<storage, read> data: array<u32>;\n");
        }
        for (binding, name) in [(3, "queries"), (4, "key_rows"), (5, "value_rows")] {
            let input = if self.is_level(binding) { "vec4<f32>" } else { input };
            let _ = writeln!(t, "@group(0) @binding({binding}) var<storage, read> {name}: array<{input}>;");
        }
        if !self.hands_over {
            let _ = writeln!(t, "@group(0) @binding(6) var<storage, read_write> output: array<{output}>;");
            t.push_str("@group(0) @binding(7) var<storage, read_write> log_sums: array<u32>;\n");
        }
        if self.hands_over || self.resumes {
            t.push_str("/// Output and log-sum-exp of the stages so far.\n");
            t.push_str("@group(0) @binding(8) var<storage, read_write> between: array<vec4<f32>>;\n");
        }
        if self.cuts {
            t.push_str("/// Output and log-sum-exp of parts of tiles.\n");
            t.push_str("@group(0) @binding(8) var<storage, read_write> partials: array<vec4<f32>>;\n");
        }
    }

    /// Functions that set the module's variables.
    fn begin(&self, t: &mut String, (launch, tile, row, keys): (&str, &str, &str, &str), walk: Option<String>) {
        let Maker { spec, attend, names, .. } = self;
        let words = names.fields.len();
        t.push_str(
            "/// Sets the job and the tile of queries of a workgroup; false if there is none.\n\
             fn begin(group: vec3<u32>) -> bool {\n",
        );
        t.push_str(&task(self.cuts, self.stands()));
        let _ = writeln!(t, "  let at = (dispatch.first_job + job) * {words}u;");
        for (i, field) in names.fields.iter().enumerate() {
            let _ = writeln!(t, "  {} = jobs[at + {i}u];", field.name());
        }
        match attend.view {
            View::Classes(_) => {
                let modulus = self.modulus();
                let _ = write!(
                    t,
                    "  // The class of query `first_q`.\n  first_q = i32(turn / dispatch.class_tiles);\n  stride = {modulus};\n  \
                     if (first_q >= min(given_n_q, stride)) {{ return false; }}\n  \
                     residue = (given_q_start + first_q) % stride;\n  first_k = floor_mod(residue - given_k_start, stride);\n  \
                     q_start = floor_div(given_q_start - residue + stride - 1, stride);\n  \
                     n_q = max(floor_div(given_q_start + given_n_q - residue + stride - 1, stride) - q_start, 0);\n  \
                     k_start = floor_div(given_k_start - residue + stride - 1, stride);\n  \
                     n_k = max(floor_div(given_k_start + given_n_k - residue + stride - 1, stride) - k_start, 0);\n  \
                     tile_first = i32(turn % dispatch.class_tiles) * TILE;\n"
                );
            }
            _ => {
                let (count, first) = match attend_level(attend) {
                    Some(level) => (Field::Slots(level).name(), "0"),
                    None => ("given_n_k".to_owned(), "given_k_start"),
                };
                let _ = write!(
                    t,
                    "  n_q = given_n_q;\n  n_k = {count};\n  q_start = given_q_start;\n  k_start = {first};\n  stride = 1;\n"
                );
                t.push_str(if self.stands() {
                    "  branch = i32(turn / dispatch.class_tiles);\n  first_row = branch * stand_room;\n  \
                     tile_first = i32(turn % dispatch.class_tiles) * TILE;\n"
                } else {
                    "  tile_first = i32(turn) * TILE;\n"
                });
            }
        }
        let rows = if self.stands() { "bitcast<i32>(data[stand + branch * (stand_room + 1)])" } else { "n_q" };
        let _ = write!(
            t,
            "  tile_rows = min(TILE, {rows} - tile_first);\n  if (tile_rows <= 0) {{ return false; }}\n  \
             k_from = k_start;\n  k_end = k_start + n_k;\n",
        );
        if self.cuts {
            t.push_str(
                "  if (partial >= 0) {\n    let share = (n_k / i32(dispatch.parts) / CHUNK + 1) * CHUNK;\n    \
                 k_from = min(k_start + part * share, k_end);\n    k_end = min(k_from + share, k_end);\n  }\n",
            );
        }
        t.push_str(if self.residues > 1 {
            residues::TILE
        } else {
            "  q_lo = q_start + tile_first;\n  q_hi = q_lo + tile_rows - 1;\n"
        });
        t.push_str(launch);
        t.push_str(tile);
        t.push_str("  return true;\n}\n\n");
        let listed = match walk {
            Some(walk) => format!("bitcast<i32>(data[{walk} + at])"),
            None if self.stands() => "bitcast<i32>(data[stand + branch * (stand_room + 1) + 1 + at])".to_owned(),
            None if self.residues > 1 => "query_at(at)".to_owned(),
            None => "at".to_owned(),
        };
        if self.residues > 1 {
            t.push_str(&residues::query_at(self.residues));
        }
        let stood = if self.stands() { "  row_number = at;\n" } else { "" };
        let _ = write!(
            t,
            "/// Sets this thread's query: row `row` of the tile, or the last one.\n\
             fn set_query(row: i32) {{\n  let at = tile_first + min(row, tile_rows - 1);\n  number = {listed};\n{stood}  \
             q = q_start + number;\n{row}}}\n\n"
        );
        if !keys.is_empty() {
            let _ = write!(
                t,
                "/// Values of key `slot` of the chunk.\nfn set_key(slot: i32) {{\n  let k = keys[slot];\n{keys}}}\n\n"
            );
        }
        t.push_str("/// The row of a key in K and V, and of query number `number` in Q and in the output.\n");
        t.push_str("fn key_row(k: i32) -> i32 { return k_row + first_k + (k - k_start) * stride; }\n");
        if attend.reads.kv.is_some() {
            t.push_str("fn value_row(k: i32) -> i32 { return v_row + (k - k_start); }\n");
        }
        t.push_str(match (self.stands(), attend.reads.q) {
            (true, Some(_)) => "fn query_row() -> i32 { return q_row + row_number; }\n",
            _ => "fn query_row() -> i32 { return q_row + first_q + number * stride; }\n",
        });
        t.push_str(if self.stands() {
            "fn output_row() -> i32 { return o_row + first_row + row_number; }\n\n"
        } else {
            "fn output_row() -> i32 { return o_row + first_q + number * stride; }\n\n"
        });
        // Reading elements.
        let load = |name: &str, input: Element| match (spec.variant, input) {
            (_, Element::F32) => format!("{name}[at]"),
            (Variant::Portable, Element::F16) => {
                format!("vec4<f32>(unpack2x16float({name}[at].x), unpack2x16float({name}[at].y))")
            }
            (Variant::Portable, Element::Bf16) => {
                format!(
                    "bitcast<vec4<f32>>(vec4<u32>({name}[at].x << 16u, {name}[at].x & 0xffff0000u, {name}[at].y << 16u, {name}[at].y & 0xffff0000u))"
                )
            }
            _ => format!("{name}[at]"),
        };
        let held = if spec.variant == Variant::Portable { "vec4<f32>" } else { "vec4<f16>" };
        for (binding, function, name) in
            [(3, "read_q", "queries"), (4, "read_k", "key_rows"), (5, "read_v", "value_rows")]
        {
            let input = if self.is_level(binding) { Element::F32 } else { spec.input };
            let _ = writeln!(t, "fn {function}(at: u32) -> {held} {{ return {}; }}", load(name, input));
        }
        if self.hands_over {
            t.push_str(PUT_BETWEEN);
        } else {
            t.push_str(writer(spec.output));
            t.push_str(if self.cuts { PUT_PART } else { PUT });
        }
        t.push('\n');
    }

    /// Lines that fill the next chunk, `filled` keys of which `whole` says that every query has them all.
    fn fill(&self, entry: &TokenEntry) -> String {
        let n = entry.number;
        let (next, whole) = match entry.search {
            Search::Tile => (format!("next{n}(run_from)"), "run.z != 0"),
            Search::Rows => (format!("nearest{n}(run_from, lane)"), "false"),
        };
        format!(
            "    var filled = 0;\n    var whole = true;\n    while (filled < CHUNK) {{\n      if (run_from >= run_end) {{\n        \
             let run = {next};\n        if (run.x >= run.y) {{ break; }}\n        run_from = run.x;\n        run_end = run.y;\n        \
             run_whole = {whole};\n      }}\n      let count = min(run_end - run_from, CHUNK - filled);\n      \
             if ((lane >= filled) & (lane < filled + count)) {{ keys[lane] = run_from + lane - filled; }}\n      \
             whole = whole & run_whole;\n      filled += count;\n      run_from += count;\n    }}\n    \
             if (filled == 0) {{ break; }}\n"
        )
    }

    /// How many null slots are added: those of a tile that is cut with its first part.
    fn null_slots(&mut self, slots: i64) -> String {
        let slots = self.names.int(slots);
        if self.cuts { format!("select(0, {slots}, part == 0)") } else { slots }
    }

    /// Whether values by key are kept.
    fn keeps_keys(&self) -> bool {
        !self.names.hoisted(Home::Key).is_empty()
    }
}

/// The nearest run of all queries of the tile.
fn nearest(n: usize) -> String {
    format!(
        "/// Entry {n}: the next run of keys from position `least` on that some query of the tile may have. The end is that of\n\
         /// queries whose own run begins close by.\nfn nearest{n}(least: i32, lane: i32) -> vec2<i32> {{\n  \
         let own = next{n}(least);\n  workgroupBarrier();\n  if (lane == 0) {{\n    atomicStore(&near, k_end);\n    \
         atomicStore(&far, least);\n  }}\n  workgroupBarrier();\n  atomicMin(&near, own.x);\n  workgroupBarrier();\n  \
         let first = atomicLoad(&near);\n  if (own.x < first + 16) {{ atomicMax(&far, min(own.y, first + 64)); }}\n  \
         workgroupBarrier();\n  return vec2<i32>(first, atomicLoad(&far));\n}}\n"
    )
}

/// The number of the level whose slots are keys.
fn attend_level(attend: &Attend) -> Option<u32> {
    attend.reads.kv.map(|level| level.0)
}

/// Whether a field says where run-time data stand.
fn is_data(field: Field) -> bool {
    matches!(
        field,
        Field::DocsData
            | Field::Walk
            | Field::Stand
            | Field::Tensor(_)
            | Field::MapData(_)
            | Field::DrawData(_)
            | Field::Order(_)
            | Field::Position(_)
            | Field::Last(_)
            | Field::Table(_)
    )
}

/// Writes four elements of the output, rounded to nearest, ties to even.
fn writer(output: Element) -> &'static str {
    match output {
        Element::F32 => "fn write_o(at: u32, o: vec4<f32>) { output[at] = o; }\n",
        Element::F16 => {
            "/// f16 nearest to each of two reals, ties to even.\n\
             fn half_bits(x: vec2<f32>) -> vec2<u32> {\n  let bits = bitcast<vec2<u32>>(x);\n  let sign = (bits >> vec2(16u)) & vec2(0x8000u);\n  \
             let magnitude = bits & vec2(0x7fffffffu);\n  \
             let normal = (magnitude - vec2(0x38000000u) + vec2(0xfffu) + ((magnitude >> vec2(13u)) & vec2(1u))) >> vec2(13u);\n  \
             // Subnormal ones by adding a number whose unit is theirs.\n  \
             let small = bitcast<vec2<u32>>(abs(x) + vec2(0.5)) - vec2(0x3f000000u);\n  \
             let large = select(vec2(0x7c00u), vec2(0x7e00u), magnitude > vec2(0x7f800000u));\n  \
             let finite = select(normal, small, magnitude < vec2(0x38800000u));\n  \
             return sign | select(finite, large, magnitude >= vec2(0x477ff000u));\n}\n\
             fn write_o(at: u32, o: vec4<f32>) {\n  let low = half_bits(o.xz);\n  let high = half_bits(o.yw);\n  \
             output[at] = low | (high << vec2(16u));\n}\n"
        }
        Element::Bf16 => {
            "/// bf16 nearest to each of two reals, ties to even.\n\
             fn bf16_bits(x: vec2<f32>) -> vec2<u32> {\n  let bits = bitcast<vec2<u32>>(x);\n  \
             let rounded = (bits + vec2(0x7fffu) + ((bits >> vec2(16u)) & vec2(1u))) >> vec2(16u);\n  \
             return select(rounded, vec2(0x7fc0u), (bits & vec2(0x7fffffffu)) > vec2(0x7f800000u));\n}\n\
             fn write_o(at: u32, o: vec4<f32>) {\n  let low = bf16_bits(o.xz);\n  let high = bf16_bits(o.yw);\n  \
             output[at] = low | (high << vec2(16u));\n}\n"
        }
    }
}

/// Which job and tile of queries a workgroup has: lines that set `job` and `turn`.
fn task(cuts: bool, stands: bool) -> String {
    if stands {
        return "  var task = group.x + group.y * dispatch.width;\n  \
             if (dispatch.tasks != 0u) {\n    // Which tiles have rows was found out before.\n    \
             if (task >= data[dispatch.tasks]) { return false; }\n    task = data[dispatch.tasks + 1u + task];\n  }\n  \
             if (task >= dispatch.jobs * dispatch.tiles) { return false; }\n  \
             let job = task / dispatch.tiles;\n  let turn = task % dispatch.tiles;\n"
            .to_owned();
    }
    if !cuts {
        return format!(
            "  let task = group.x + group.y * dispatch.width;\n  \
             if (task >= dispatch.jobs * dispatch.tiles) {{ return false; }}\n{}",
            dealt("  ", "var job", "let turn")
        );
    }
    let whole = dealt("    ", "job", "turn");
    format!(
        "  let number_of = group.x + group.y * dispatch.width;
  let long = dispatch.head + dispatch.tail;
  let cut = dispatch.jobs * long * dispatch.parts;
  if (number_of >= cut + dispatch.jobs * dispatch.tiles) {{ return false; }}
  var job = 0u;
  var turn = 0u;
  partial = -1;
  part = 0;
  if (number_of < cut) {{
    // Parts of long tiles.
    partial = i32(number_of);
    part = i32(number_of % dispatch.parts);
    job = number_of / dispatch.parts % dispatch.jobs;
    let which = number_of / dispatch.parts / dispatch.jobs;
    turn = select(dispatch.tiles - long + which, which, which < dispatch.head);
  }} else {{
    let task = number_of - cut;
{whole}    if ((turn < dispatch.head) | (turn >= dispatch.tiles - dispatch.tail)) {{ return false; }}
  }}
"
    )
}

/// The job and the tile of a whole one, `task`; `job` and `turn` as they are set.
fn dealt(indent: &str, job: &str, turn: &str) -> String {
    let lines = [
        "// The first and last tiles of all jobs come first: they may be the longest.".to_owned(),
        "let ends = min(dispatch.tiles, 2u);".to_owned(),
        format!("{job} = task % dispatch.jobs;"),
        "var rank = task / dispatch.jobs;".to_owned(),
        "if (rank >= ends) {".to_owned(),
        "  let rest = task - ends * dispatch.jobs;".to_owned(),
        "  let inner = dispatch.tiles - ends;".to_owned(),
        "  job = rest / inner;".to_owned(),
        "  rank = ends + rest % inner;".to_owned(),
        "}".to_owned(),
        format!("{turn} = select(rank >> 1u, dispatch.tiles - 1u - (rank >> 1u), (rank & 1u) == 0u);"),
    ];
    lines.iter().map(|line| format!("{indent}{line}\n")).collect()
}

/// Writes of a stage's results.
const PUT: &str = "
/// Writes four elements of the output of query `q`, row `row` of the tile; its log-sum-exp.
fn put(row: i32, column: u32, o: vec4<f32>) { write_o(u32(output_row()) * u32(V4) + column, o); }
fn put_sum(row: i32, log_sum: f32, some: bool) { log_sums[output_row()] = select(0xff800000u, bitcast<u32>(log_sum), some); }
";

/// As [`PUT`], for other stages.
const PUT_BETWEEN: &str = "
/// Writes four elements of the output of query `q`, row `row` of the tile; its log-sum-exp, and whether it has a key.
fn put(row: i32, column: u32, o: vec4<f32>) { between[u32(output_row() * (V4 + 1)) + column] = o; }
fn put_sum(row: i32, log_sum: f32, some: bool) {
  between[output_row() * (V4 + 1) + V4] = vec4<f32>(log_sum, select(0.0, 1.0, some), 0.0, 0.0);
}
";

/// As [`PUT`], where tiles may be cut.
const PUT_PART: &str = "
/// Writes four elements of the output of query `q`, row `row` of the tile, or of what a part of its keys gives; its
/// log-sum-exp, and whether it has a key.
fn put(row: i32, column: u32, o: vec4<f32>) {
  if (partial >= 0) {
    partials[u32((partial * TILE + row) * (V4 + 1)) + column] = o;
  } else {
    write_o(u32(output_row()) * u32(V4) + column, o);
  }
}
fn put_sum(row: i32, log_sum: f32, some: bool) {
  if (partial >= 0) {
    partials[(partial * TILE + row) * (V4 + 1) + V4] = vec4<f32>(log_sum, select(0.0, 1.0, some), 0.0, 0.0);
  } else {
    log_sums[output_row()] = select(0xff800000u, bitcast<u32>(log_sum), some);
  }
}
";

/// The entry point that joins parts.
const JOIN: &str = "
/// Joins the parts of a tile, always in the same order.
@compute @workgroup_size(THREADS)
fn join(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  if (!begin(group)) { return; }
  let parts = i32(dispatch.joined);
  let apart = TILE * (V4 + 1);
  let first = partial * parts * apart;
  partial = -1;
  for (var i = i32(thread); i < tile_rows * V4; i += THREADS) {
    let row = i / V4;
    let column = i % V4;
    let own = first + row * (V4 + 1);
    var most = NONE;
    for (var p = 0; p < parts; p++) {
      let state = partials[own + p * apart + V4];
      most = select(most, max(most, state.x), state.y > 0.0);
    }
    var total = 0.0;
    var o = vec4<f32>();
    for (var p = 0; p < parts; p++) {
      let state = partials[own + p * apart + V4];
      let weight = select(0.0, exp(state.x - most), state.y > 0.0);
      total += weight;
      o += weight * partials[own + p * apart + column];
    }
    let some = total > 0.0;
    set_query(row);
    put(row, u32(column), o * select(0.0, 1.0 / total, some));
    if (column == 0) { put_sum(row, most + log(total), some); }
  }
}
";
