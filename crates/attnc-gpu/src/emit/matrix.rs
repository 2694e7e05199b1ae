//! Cooperative matrices: the variant `matrix`, f16 in and f32 accumulated.
//!
//! The one idea: subgroups own rows of queries and a part of each chunk's keys ([`Form`]), for which they hold Q and the
//! output as 16 x 16 matrices. Such matrices have no elements that a shader can name, so that scores go through workgroup
//! memory: stored by the subgroup, read back by its lanes, two to a query, masked, exponentiated and written as f16 for
//! the second product. The output is rescaled only when a maximum grows by more than [`SLACK`] powers of two: until then
//! weights are greater than 1, which f16 bears. Subgroups that share rows keep sums of their own, which are joined at the
//! end. Nothing here knows which keys a chunk holds.

use std::fmt::Write as _;

use attnc_pattern::program::Program;
use attnc_plan::{Attend, choice};

use super::sets::Search;
use super::{Maker, Spec};

/// The longest text of a predicate that is written out for every key of a lane.
const SHORT: usize = 800;

/// Powers of two by which a weight may exceed 1 before the output is rescaled; 15 is the most that f16 holds.
const SLACK: &str = "8.0";

/// How a workgroup shares its work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// Blocks of 16 queries that a subgroup has.
    pub(super) blocks: usize,
    /// Subgroups with different queries.
    pub(super) groups: usize,
    /// Subgroups with the same queries, each with its part of the keys of a chunk.
    pub(super) parts: usize,
    /// Keys of a chunk.
    pub(super) chunk: usize,
    /// As little workgroup memory as lets three workgroups share a multiprocessor: scores go through it 16 keys at a time,
    /// and weights stand where the keys were.
    pub(super) tight: bool,
}

impl Form {
    /// That of a shader.
    pub(super) fn of(spec: &Spec) -> Form {
        let small = spec.pitch() + spec.value_pitch() <= 128;
        // As much workgroup memory as lets two workgroups share a multiprocessor.
        if small {
            Form { blocks: 2, groups: 4, parts: 1, chunk: 32, tight: false }
        } else {
            Form { blocks: 1, groups: 4, parts: 2, chunk: 32, tight: false }
        }
    }

    /// That of a stage, whose longest predicate has so many characters: tiles of half as many queries where these share
    /// few keys, or where that is not known. A chunk of them takes a little more than half of the time, and either takes
    /// more where pairs have to be decided.
    pub(super) fn for_stage(self, program: &Program, attend: &Attend, longest: usize) -> Form {
        const HALF: f64 = 0.54;
        if self.blocks == 1 {
            return self;
        }
        let half = Form { blocks: 1, tight: true, ..self };
        let Some(keys) = choice::keys(program, attend, &[self.rows(), half.rows()]) else { return half };
        let decided = (longest as f64 / 700.0 - 0.25).clamp(0.0, 0.5);
        let time = |k: &choice::Keys| k.some as f64 + decided * (k.some - k.all) as f64;
        if HALF * time(&keys[1]) < 0.98 * time(&keys[0]) { half } else { self }
    }

    /// Queries of a workgroup.
    pub(super) fn rows(self) -> usize {
        16 * self.blocks * self.groups
    }

    /// Threads of a workgroup.
    pub(super) fn threads(self) -> usize {
        32 * self.groups * self.parts
    }

    /// Keys of a chunk that a subgroup has.
    fn keys(self) -> usize {
        self.chunk / self.parts
    }

    /// Blocks of 16 keys whose scores are in workgroup memory at a time.
    fn wide(self) -> usize {
        if self.tight { 1 } else { self.keys() / 16 }
    }

    /// Whether the lanes of a query are next to each other: what keeps reads of scores in different banks depends on
    /// the pitch.
    fn adjacent(self) -> bool {
        self.keys() != 32
    }

    /// Vectors from row to row of scores.
    fn score_pitch(self) -> usize {
        4 * self.wide() + if self.adjacent() { 2 } else { 1 }
    }
}

/// Names of the matrices and sums of block `r`.
fn out(r: usize, b: usize) -> String {
    format!("out{r}_{b}")
}

/// The rest of the module.
pub(super) fn main(maker: &mut Maker<'_>) -> String {
    let form = maker.form;
    let chunk = maker.chunk;
    let (d, dv) = (maker.spec.pitch(), maker.spec.value_pitch());
    // Blocks of 16: of a key, of a value.
    let (kb, vb) = (d / 16, dv / 16);
    let keys = form.keys();
    // Vectors of four from row to row, with as many elements more that rows begin in other banks.
    let (kp, vp, sp, pp) =
        ((d + 8) / 4, (dv + 8) / 4, form.score_pitch(), if form.tight { keys / 4 + 1 } else { (keys + 8) / 4 });
    let subgroups = form.groups * form.parts;
    let mut t = format!(
        "/// Vectors from row to row.\nconst KEY_PITCH: u32 = {kp}u;\nconst VALUE_PITCH: u32 = {vp}u;\n\
         const SCORE_PITCH: u32 = {sp}u;\nconst WEIGHT_PITCH: u32 = {pp}u;\n\n\
         var<workgroup> key_tile: array<vec4<f16>, {}>;\nvar<workgroup> value_tile: array<vec4<f16>, {}>;\n\
         /// Scores of 16 queries, and blocks of the output while they are rescaled; each subgroup has its rows.\n\
         var<workgroup> score_tile: array<vec4<f32>, {}>;\n{}\n",
        if form.tight { (chunk * kp).max(subgroups * 16 * pp) } else { chunk * kp },
        chunk * vp,
        subgroups * 16 * sp,
        if form.tight {
            String::new()
        } else {
            format!("var<workgroup> weight_tile: array<vec4<f16>, {}>;\n", subgroups * 16 * pp)
        }
    );
    t.push_str("/// The greatest logit so far, times log2(e), or up to a slack less; and the sum of powers relative to it. Of each block.\n");
    for r in 0..form.blocks {
        let _ = writeln!(t, "var<private> top{r}: f32;\nvar<private> sum{r}: f32;");
    }
    for entry in maker.entries.iter().filter(|e| e.keep > SHORT) {
        let n = entry.number;
        let _ = write!(
            t,
            "/// Entry {n}: which of this lane's keys its query has, a bit each.\nfn held{n}(first: i32, filled: i32) -> u32 {{\n  \
             var bits = 0u;\n  for (var i = 0; i < {count}; i++) {{\n    let slot = first + 8 * (i >> 2u) + (i & 3);\n    \
             if ((slot < filled) && keep{n}(keys[slot], slot)) {{ bits |= 1u << u32(i); }}\n  }}\n  return bits;\n}}\n\n",
            count = keys / 2
        );
    }
    let (row, side, other) = if form.adjacent() {
        ("(member >> 1u)", "(member & 1u)", "1u")
    } else {
        ("(member & 15u)", "(member >> 4u)", "16u")
    };
    let _ = write!(
        t,
        "// Matrices are only touched where all threads of a subgroup are. A condition that is the same for all of them is left\n\
         // by `break`: within an `if` it would not be known to be.\n\
         @compute @workgroup_size({})\nfn attend(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32, \
         @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) member: u32) {{\n  loop {{\n  \
         if (!begin(group)) {{ break; }}\n  let lane = i32(thread);\n  \
         // The first query of the subgroup, and which part of the keys it has.\n  \
         let first_row = {}u * (subgroup / {parts}u);\n  let share = subgroup % {parts}u;\n  \
         // Two lanes share a query: vectors of even and of odd number.\n  \
         let side = {side};\n  let own_row = first_row + {row};\n  \
         let first_slot = {keys} * i32(share) + 4 * i32(side);\n  \
         let scores = 16u * subgroup * SCORE_PITCH;\n  let weights = 16u * subgroup * WEIGHT_PITCH;\n  \
         let own_scores = scores + {row} * SCORE_PITCH + side;\n  let own_weights = weights + {row} * WEIGHT_PITCH + side;\n",
        form.threads(),
        16 * form.blocks,
        parts = form.parts,
    );
    queries(&mut t, form, (kb, d / 8));
    for r in 0..form.blocks {
        for b in 0..vb {
            let _ = writeln!(t, "  var {} = coop_mat16x16<f32,C>();", out(r, b));
        }
        let _ = write!(t, "  top{r} = NONE;\n  sum{r} = 0.0;\n");
    }
    t.push_str("  set_query(i32(own_row));\n");
    if maker.resumes {
        t.push_str("  // Goes on from the stages before.\n");
        for r in 0..form.blocks {
            let _ = write!(
                t,
                "  {{\n  set_query(i32(own_row) + {});\n  let given = u32(output_row() * (V4 + 1));\n  let state = between[given + u32(V4)];\n  \
                 let some = (state.y > 0.0) & (share == 0u);\n  if (some) {{\n    top{r} = state.x * LOG2_E;\n    \
                 sum{r} = select(0.0, 1.0, side == 0u);\n  }}\n",
                16 * r
            );
            for b in 0..vb {
                let _ = write!(
                    t,
                    "  score_tile[own_scores] = select(vec4<f32>(), between[given + {}u + side], some);\n  \
                     score_tile[own_scores + 2u] = select(vec4<f32>(), between[given + {}u + side], some);\n  subgroupBarrier();\n  \
                     {} = coopLoadT<coop_mat16x16<f32,C>>(&score_tile[scores], SCORE_PITCH);\n  subgroupBarrier();\n",
                    4 * b,
                    4 * b + 2,
                    out(r, b)
                );
            }
            t.push_str("  }\n");
        }
        if form.blocks > 1 {
            t.push_str("  set_query(i32(own_row));\n");
        }
    }
    for i in 0..maker.entries.len() {
        visit(maker, &mut t, i, (kb, vb), other);
    }
    for (n, slots) in maker.nulls.clone() {
        let slots = maker.null_slots(slots);
        for r in 0..form.blocks {
            if form.blocks > 1 {
                let _ = writeln!(t, "  set_query(i32(own_row) + {});", 16 * r);
            }
            let _ = write!(
                t,
                "  for (var null_slot = 0; null_slot < select(0, {slots}, share == 0u); null_slot++) {{\n    let logit = null{n}(null_slot) * LOG2_E;\n"
            );
            grow(&mut t, "logit", r, vb);
            let _ = write!(t, "    sum{r} += select(0.0, exp2(logit - top{r}), side == 0u);\n  }}\n");
        }
    }
    for r in 0..form.blocks {
        finish(maker, &mut t, r, vb, other);
    }
    t.push_str("  break;\n  }\n}\n");
    t
}

/// Q, staged through the tile of keys.
fn queries(t: &mut String, form: Form, (kb, d8): (usize, usize)) {
    for r in 0..form.blocks {
        for b in 0..kb {
            let _ = writeln!(t, "  var query{r}_{b} = coop_mat16x16<f16,A>();");
        }
    }
    let (rows, threads) = (form.rows(), form.threads());
    let at_once = form.chunk.min(rows);
    for from in (0..rows).step_by(at_once) {
        let all = at_once * d8;
        let mut stores = String::new();
        for i in 0..all.div_ceil(threads) {
            let at = format!("(thread + {}u)", i * threads);
            let _ = write!(
                t,
                "  set_query(i32({at} / {d8}u) + {from});\n  \
                 let q{from}_{i} = u32(query_row()) * {d4}u + 2u * ({at} % {d8}u);\n  \
                 let q{from}_{i}a = read_q(q{from}_{i});\n  let q{from}_{i}b = read_q(q{from}_{i} + 1u);\n",
                d4 = 2 * d8
            );
            let place = format!("({at} / {d8}u) * KEY_PITCH + 2u * ({at} % {d8}u)");
            let store = format!("key_tile[{place}] = q{from}_{i}a; key_tile[{place} + 1u] = q{from}_{i}b;");
            let _ = if (i + 1) * threads > all {
                writeln!(stores, "  if ({at} < {all}u) {{ {store} }}")
            } else {
                writeln!(stores, "  {store}")
            };
        }
        let _ = writeln!(t, "{stores}  workgroupBarrier();");
        if at_once < rows {
            let _ = write!(
                t,
                "  loop {{\n    if ((first_row < {from}u) | (first_row >= {}u)) {{ break; }}\n",
                from + at_once
            );
        }
        for r in 0..form.blocks {
            for b in 0..kb {
                let _ = writeln!(
                    t,
                    "    query{r}_{b} = coopLoadT<coop_mat16x16<f16,A>>(&key_tile[(first_row - {from}u + {}u) * KEY_PITCH + {}u], KEY_PITCH);",
                    16 * r,
                    4 * b
                );
            }
        }
        t.push_str(if at_once < rows { "    break;\n  }\n  workgroupBarrier();\n" } else { "  workgroupBarrier();\n" });
    }
}

/// Writes the rows of block `r`, joined from all subgroups that have a part of them.
fn finish(maker: &Maker<'_>, t: &mut String, r: usize, vb: usize, other: &str) {
    let form = maker.form;
    // Blocks of the output, and vectors, that a row of scores holds; how many vectors a lane has.
    let (wide, vectors) = (form.wide(), 4 * form.wide());
    let all = 16 * vectors;
    let threads = 32 * form.parts;
    let sp = form.score_pitch();
    let barrier = if form.parts > 1 { "workgroupBarrier" } else { "subgroupBarrier" };
    let _ = write!(
        t,
        "  // Block {r}.\n  {{\n  sum{r} += subgroupShuffleXor(sum{r}, {other});\n  {barrier}();\n  \
         let first = {parts}u * (subgroup / {parts}u) * 16u * SCORE_PITCH;\n  \
         let turn = 32u * share + member;\n  \
         // Beyond a row's scores.\n  if (side == 0u) {{ score_tile[own_scores + {vectors}u] = vec4<f32>(top{r}, sum{r}, 0.0, 0.0); }}\n",
        parts = form.parts,
    );
    for pass in 0..vb.div_ceil(wide) {
        let blocks = wide.min(vb - pass * wide);
        for j in 0..blocks {
            let _ = writeln!(
                t,
                "  coopStoreT({}, &score_tile[scores + {}u], SCORE_PITCH);",
                out(r, pass * wide + j),
                4 * j
            );
        }
        let _ = writeln!(t, "  {barrier}();");
        for i in 0..all.div_ceil(threads) {
            // Rows of a pass are as long as its blocks.
            let here = 4 * blocks;
            let total = 16 * here;
            if i * threads >= total {
                continue;
            }
            let at = format!("(turn + {}u)", i * threads);
            let guard = if (i + 1) * threads > total { format!("if ({at} < {total}u) ") } else { String::new() };
            let _ = write!(
                t,
                "  {guard}{{\n    let row = {at} / {here}u;\n    let rows = first + row * SCORE_PITCH;\n    let column = {at} % {here}u;\n"
            );
            let tops: Vec<String> = (0..form.parts).map(|p| format!("s{p}.x")).collect();
            for p in 0..form.parts {
                let _ = writeln!(t, "    let s{p} = score_tile[rows + {}u];", p * 16 * sp + vectors);
            }
            let most = tops.iter().skip(1).fold(tops[0].clone(), |m, x| format!("max({m}, {x})"));
            let _ = write!(t, "    let most = {most};\n    var total = 0.0;\n    var o = vec4<f32>();\n");
            for p in 0..form.parts {
                let _ = write!(
                    t,
                    "    let f{p} = exp2(s{p}.x - most);\n    total += f{p} * s{p}.y;\n    o += f{p} * score_tile[rows + {}u + column];\n",
                    p * 16 * sp
                );
            }
            let _ = write!(
                t,
                "    let some = total > 0.0;\n    o *= select(0.0, 1.0 / total, some);\n    let log_sum = most * LN_2 + log(total);\n    \
                 let place = i32(first_row + row) + {};\n    set_query(place);\n    if (place < tile_rows) {{\n",
                16 * r
            );
            let vector = 4 * pass * wide;
            let _ = writeln!(t, "      put(place, {vector}u + column, o);");
            if pass == 0 {
                t.push_str("      if (column == 0u) { put_sum(place, log_sum, some); }\n");
            }
            t.push_str("    }\n  }\n");
        }
        let _ = writeln!(t, "  {barrier}();");
    }
    t.push_str("  }\n");
}

/// Makes room for a logit: raises `top`, and rescales what was summed if it had a value and grows by much.
fn grow(t: &mut String, logit: &str, r: usize, vb: usize) {
    let _ = write!(
        t,
        "    let fresh = top{r} < LEAST;\n    let grows = ({logit} > top{r} + {SLACK}) & !fresh;\n    loop {{\n      if (!subgroupAny(grows)) {{ break; }}\n      \
         let shrink = select(1.0, exp2(top{r} - {logit}), grows);\n      sum{r} *= shrink;\n      top{r} = select(top{r}, {logit}, grows);\n      \
         subgroupBarrier();\n"
    );
    for b in 0..vb {
        let o = out(r, b);
        let _ = write!(
            t,
            "      coopStoreT({o}, &score_tile[scores], SCORE_PITCH);\n      subgroupBarrier();\n      \
             score_tile[own_scores] *= shrink;\n      score_tile[own_scores + 2u] *= shrink;\n      subgroupBarrier();\n      \
             {o} = coopLoadT<coop_mat16x16<f32,C>>(&score_tile[scores], SCORE_PITCH);\n      subgroupBarrier();\n"
        );
    }
    let _ = write!(t, "      break;\n    }}\n    top{r} = select(top{r}, {logit}, fresh);\n");
}

/// Lines that copy the rows of a chunk to workgroup memory: those that read, and those that store what was read, so that
/// all reads are under way together. Rows beyond the chunk's keys repeat the last one, and are 0 among the values: their
/// weights are 0.
fn stage(maker: &Maker<'_>) -> (String, String) {
    let (mut t, mut stores) = (String::new(), String::new());
    let tensors = [("k", "key", maker.spec.pitch() / 4), ("v", "value", maker.spec.value_pitch() / 4)];
    let threads = maker.threads;
    for (letter, tensor, vectors) in tensors {
        let all = maker.chunk * vectors;
        for i in 0..all.div_ceil(threads) {
            let at = format!("(thread + {}u)", i * threads);
            let (slot, column) = (format!("({at} / {vectors}u)"), format!("{at} % {vectors}u"));
            let _ = writeln!(
                t,
                "    let {letter}{i} = read_{letter}(u32(key_row(keys[min({slot}, last)])) * {vectors}u + {column});"
            );
            let value = match letter {
                "v" => format!("select(vec4<f16>(), v{i}, {slot} <= last)"),
                _ => format!("k{i}"),
            };
            let pitch = tensor.to_uppercase();
            let store = format!("{tensor}_tile[{slot} * {pitch}_PITCH + {column}] = {value};");
            let _ = if (i + 1) * threads > all {
                writeln!(stores, "    if ({at} < {all}u) {{ {store} }}")
            } else {
                writeln!(stores, "    {store}")
            };
        }
    }
    (t, stores)
}

/// One entry of tokens.
fn visit(maker: &Maker<'_>, t: &mut String, i: usize, (kb, vb): (usize, usize), other: &str) {
    let entry = &maker.entries[i];
    let n = entry.number;
    let form = maker.form;
    let (cb, width) = (form.keys() / 16, form.keys() / 8);
    let (reads, stores) = stage(maker);
    // With several blocks a lane has several queries: for finding keys it takes one of all.
    let search = if form.blocks > 1 && entry.search == Search::Rows {
        format!("    set_query(lane % {});\n", form.rows())
    } else {
        String::new()
    };
    let _ = write!(
        t,
        "  // Entry {n}.\n  {{\n  var run_from = k_from;\n  var run_end = k_from;\n  var run_whole = false;\n  loop {{\n{search}{fill}    \
         workgroupBarrier();\n    let last = u32(filled - 1);\n{reads}{stores}{set_key}    workgroupBarrier();\n",
        fill = maker.fill(entry),
        set_key = if maker.keeps_keys() { "    if (lane < filled) { set_key(lane); }\n" } else { "" },
    );
    t.push_str("    loop {\n");
    if form.parts > 1 {
        let _ = writeln!(t, "    if ({} * i32(share) >= filled) {{ break; }}", form.keys());
    }
    // Scores.
    for r in 0..form.blocks {
        for c in 0..cb {
            let _ = writeln!(t, "    var score{r}_{c} = coop_mat16x16<f32,C>();");
        }
    }
    for k in 0..kb {
        for c in 0..cb {
            let _ = writeln!(
                t,
                "    let key{k}_{c} = coopLoad<coop_mat16x16<f16,B>>(&key_tile[({}u * share + {}u) * KEY_PITCH + {}u], KEY_PITCH);",
                form.keys(),
                16 * c,
                4 * k
            );
            for r in 0..form.blocks {
                let _ = writeln!(t, "    score{r}_{c} = coopMultiplyAdd(query{r}_{k}, key{k}_{c}, score{r}_{c});");
            }
        }
    }
    for r in 0..form.blocks {
        for c in 0..cb {
            let _ = writeln!(t, "    var weight{r}_{c} = coop_mat16x16<f16,A>();");
        }
    }
    if form.tight {
        t.push_str("    // Weights take the place of keys.\n    workgroupBarrier();\n");
    }
    for r in 0..form.blocks {
        t.push_str("    {\n");
        weigh(maker, t, (i, r), (vb, cb, width), other);
        t.push_str("    }\n");
    }
    for c in 0..cb {
        for b in 0..vb {
            let _ = writeln!(
                t,
                "    let value{c}_{b} = coopLoadT<coop_mat16x16<f16,B>>(&value_tile[({}u * share + {}u) * VALUE_PITCH + {}u], VALUE_PITCH);",
                form.keys(),
                16 * c,
                4 * b
            );
            for r in 0..form.blocks {
                let o = out(r, b);
                let _ = writeln!(t, "    {o} = coopMultiplyAdd(weight{r}_{c}, value{c}_{b}, {o});");
            }
        }
    }
    t.push_str("    break;\n    }\n    workgroupBarrier();\n  }\n  }\n");
}

/// From the scores of block `r` to its weights.
fn weigh(
    maker: &Maker<'_>,
    t: &mut String,
    (i, r): (usize, usize),
    (vb, cb, width): (usize, usize, usize),
    other: &str,
) {
    let entry = &maker.entries[i];
    let n = entry.number;
    let form = maker.form;
    let weight_tile = if form.tight { "key_tile" } else { "weight_tile" };
    let several = form.blocks > 1;
    let set_query = format!("set_query(i32(own_row) + {});\n", 16 * r);
    if several && entry.logit {
        let _ = write!(t, "    {set_query}");
    }
    let scale = &maker.scale;
    for c in 0..cb {
        // Scores of as many blocks of keys as there is room for.
        if c % form.wide() == 0 {
            if r + c > 0 {
                t.push_str("    subgroupBarrier();\n");
            }
            for c in c..c + form.wide() {
                let _ = writeln!(
                    t,
                    "    coopStoreT(score{r}_{c}, &score_tile[scores + {}u], SCORE_PITCH);",
                    4 * (c % form.wide())
                );
            }
            t.push_str("    subgroupBarrier();\n");
        }
        for w in 2 * c..2 * c + 2 {
            let raw = format!("score_tile[own_scores + {}u]", 2 * (w % (2 * form.wide())));
            if entry.logit {
                let slot = |c: usize| format!("first_slot + {}", 8 * w + c);
                let one = |c: usize| format!("logit{n}(raw{w}[{c}], keys[{s}], {s})", s = slot(c));
                let _ = writeln!(t, "    let raw{w} = {scale} * {raw};");
                let _ =
                    writeln!(t, "    var x{w} = LOG2_E * vec4<f32>({}, {}, {}, {});", one(0), one(1), one(2), one(3));
            } else {
                let _ = writeln!(t, "    var x{w} = ({scale} * LOG2_E) * {raw};");
            }
        }
    }
    t.push_str("    if (!whole || filled < CHUNK) {\n");
    if several && !entry.logit {
        let _ = write!(t, "      {set_query}");
    }
    if entry.keep > SHORT {
        let _ = writeln!(t, "      let bits = held{n}(first_slot, filled);");
    } else {
        let _ = writeln!(t, "      let slot = first_slot;");
    }
    for w in 0..width {
        if entry.keep <= SHORT {
            let one =
                |c: usize| format!("(slot + {i} < filled) & keep{n}(keys[slot + {i}], slot + {i})", i = 8 * w + c);
            let _ = writeln!(
                t,
                "      x{w} = select(vec4<f32>(NONE), x{w}, vec4<bool>({}, {}, {}, {}));",
                one(0),
                one(1),
                one(2),
                one(3)
            );
            continue;
        }
        let _ = writeln!(
            t,
            "      x{w} = select(vec4<f32>(NONE), x{w}, ((vec4<u32>(bits) >> vec4<u32>({}u, {}u, {}u, {}u)) & vec4<u32>(1u)) != vec4<u32>());",
            4 * w,
            4 * w + 1,
            4 * w + 2,
            4 * w + 3
        );
    }
    t.push_str("    }\n");
    let all: Vec<String> = (0..width).map(|w| format!("x{w}")).collect();
    let most = all.iter().skip(1).fold(all[0].clone(), |m, x| format!("max({m}, {x})"));
    let _ = write!(
        t,
        "    let highest = {most};\n    var most = max(max(highest.x, highest.y), max(highest.z, highest.w));\n    \
         most = max(most, subgroupShuffleXor(most, {other}));\n"
    );
    grow(t, "most", r, vb);
    let _ = write!(t, "    let base = max(top{r}, LEAST);\n    var parts = vec4<f32>();\n");
    for w in 0..width {
        let _ = writeln!(
            t,
            "    x{w} = exp2(x{w} - vec4<f32>(base));\n    parts += x{w};\n    {weight_tile}[own_weights + {}u] = vec4<f16>(x{w});",
            2 * w
        );
    }
    let _ = write!(t, "    sum{r} += (parts.x + parts.y) + (parts.z + parts.w);\n    subgroupBarrier();\n");
    for c in 0..cb {
        let _ = writeln!(
            t,
            "    weight{r}_{c} = coopLoadT<coop_mat16x16<f16,A>>(&{weight_tile}[weights + {}u], WEIGHT_PITCH);",
            4 * c
        );
    }
}
