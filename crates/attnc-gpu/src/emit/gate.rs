//! Merges: the output of an arm, weighed channel by channel, added to those of the arms before it.
//!
//! The one idea: a merge of merges is one sum over attentions, each with the product of the gates on its way, so that
//! every arm has one module that reads its output in f32. Nothing here knows how arms are computed.

use std::fmt::Write as _;

use attnc_pattern::expr::ExprId;
use attnc_pattern::program::Program;

use super::expr::{self, Body, Home, Names};
use super::passes::{THREADS, set_fields};
use super::{Element, EmitError, Spec, writer};
use crate::layout::Field;

/// What an arm of a merge is weighed by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Weight {
    /// Gates, whose product it is.
    pub(crate) factors: Vec<ExprId>,
    /// A share beside them.
    pub(crate) share: f32,
}

/// Bindings of the module, and whether each is written: dispatch, jobs, run-time data, the arm's output, the output, its
/// log-sum-exp, and sums.
pub(crate) const BINDINGS: [(u32, bool); 7] =
    [(0, false), (1, false), (2, false), (3, false), (6, true), (7, true), (8, true)];

/// The module that adds an arm, and the fields of its jobs.
///
/// # Errors
/// A gate that has no shader.
pub(crate) fn gate(
    program: &Program,
    name: &str,
    spec: &Spec,
    weight: &Weight,
) -> Result<(String, Vec<Field>), EmitError> {
    let mut names = Names::new(program, 0);
    let mut b = Body::new(&mut names, Home::Here, 1);
    let mut product = format!("{:?}f", weight.share);
    for &factor in &weight.factors {
        let value = b.value(factor);
        product = format!("{product} * {value}");
    }
    b.line(format!("return {product};"));
    let body = b.text;
    for field in [Field::NQ, Field::NK, Field::QStart, Field::KStart, Field::ORow] {
        names.field(field);
    }
    // Values of an inner place may ask for those of an outer one.
    let [row, launch] = [Home::Row, Home::Launch].map(|home| {
        let list = names.hoisted(home);
        let mut b = Body::new(&mut names, home, 1);
        for (id, name) in list {
            let value = b.value(id);
            b.line(format!("{name} = {value};"));
        }
        b.text
    });
    if let Some(what) = names.refused {
        return Err(EmitError::Unsupported(what));
    }
    let fields: Vec<Field> = names.fields.iter().copied().collect();
    let output = if spec.output == Element::F32 { "vec4<f32>" } else { "vec2<u32>" };
    let mut t = format!(
        "// An arm of merge `{name}`.\n\nstruct Dispatch {{\n  first_job: i32,\n  jobs: i32,\n  /// Most rows of a job.\n  rows: i32,\n  \
         /// Workgroups.\n  groups: i32,\n  /// Whether it is the first arm, and the last.\n  first: i32,\n  last: i32,\n}}\n\
         /// Vectors of four elements in a row.\nconst V4: i32 = {};\n\n",
        spec.value_pitch() / 4
    );
    t.push_str("@group(0) @binding(0) var<uniform> dispatch: Dispatch;\n@group(0) @binding(1) var<storage, read> jobs: array<i32>;\n");
    t.push_str("@group(0) @binding(2) var<storage, read> data: array<u32>;\n");
    t.push_str("@group(0) @binding(3) var<storage, read> arm: array<vec4<f32>>;\n");
    let _ = writeln!(t, "@group(0) @binding(6) var<storage, read_write> output: array<{output}>;");
    t.push_str("@group(0) @binding(7) var<storage, read_write> log_sums: array<u32>;\n");
    t.push_str("/// What the arms so far add up to.\n@group(0) @binding(8) var<storage, read_write> sums: array<vec4<f32>>;\n\n");
    t.push_str(&set_fields(&fields));
    t.push_str(
        "\nvar<private> n_q: i32;\nvar<private> n_k: i32;\nvar<private> q_start: i32;\nvar<private> k_start: i32;\n\
         var<private> q: i32;\nconst residue: i32 = 0;\nconst stride: i32 = 1;\n",
    );
    if names.reads_branch {
        t.push_str("var<private> branch: i32;\n");
    }
    for home in [Home::Launch, Home::Row] {
        for (id, name) in names.hoisted(home) {
            let _ = writeln!(t, "var<private> {name}: {};", names.ty(id));
        }
    }
    t.push('\n');
    for name in &names.helpers {
        t.push_str(expr::helper(name));
        t.push('\n');
    }
    t.push_str(writer(spec.output));
    let _ = write!(
        t,
        "fn set_query(position: i32) {{\n  n_q = given_n_q;\n  n_k = given_n_k;\n  q_start = given_q_start;\n  \
         k_start = given_k_start;\n  q = position;\n{launch}{row}}}\n\
         /// What a channel of the arm is weighed by.\nfn weight(channel: i32) -> f32 {{\n{body}}}\n\n\
         /// A thread for each vector of each query.\n@compute @workgroup_size({THREADS})\n\
         fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
         let total = dispatch.jobs * dispatch.rows * V4;\n  \
         for (var task = i32(group.x) * {THREADS} + i32(thread); task < total; task += dispatch.groups * {THREADS}) {{\n    \
         let c = task % V4;\n    read_job(dispatch.first_job + task / V4 / dispatch.rows);\n    \
         let row = (task / V4) % dispatch.rows;\n    if (row >= given_n_q) {{ continue; }}\n    \
         set_query(given_q_start + row);\n    let at = u32(o_row + row) * u32(V4) + u32(c);\n    \
         let weights = vec4<f32>(weight(4 * c), weight(4 * c + 1), weight(4 * c + 2), weight(4 * c + 3));\n    \
         var sum = weights * arm[at];\n    if (dispatch.first == 0) {{ sum += sums[at]; }}\n    \
         if (dispatch.last == 0) {{\n      sums[at] = sum;\n      continue;\n    }}\n    write_o(at, sum);\n    \
         // A merge has no log-sum-exp.\n    if (c == 0) {{ log_sums[o_row + row] = 0x7fc00000u; }}\n  }}\n}}\n"
    );
    Ok((t, fields))
}
