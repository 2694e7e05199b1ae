//! Cooperative matrices: the variant `matrix`, f16 in and f32 accumulated.
//!
//! The one idea: four subgroups own 16 queries each, for which they hold Q and the output as 16 x 16 matrices. Such
//! matrices have no elements that a shader can name, so that a chunk of scores goes through workgroup memory: stored by
//! the subgroup, read back by its lanes, two to a query, masked, exponentiated and written as f16 for the second product.
//! The output is rescaled only when a maximum grows by more than [`SLACK`] powers of two: until then weights are
//! greater than 1, which f16 bears. Nothing here knows which keys a chunk holds.

use std::fmt::Write as _;

use super::{Maker, Spec};

/// The longest text of a predicate that is written out for every key of a lane.
const SHORT: usize = 800;

/// Threads of a workgroup: four subgroups of 32.
pub(super) const THREADS: usize = 128;

/// Powers of two by which a weight may exceed 1 before the output is rescaled; 15 is the most that f16 holds.
const SLACK: &str = "8.0";

/// Keys of a chunk: as many as leave the workgroup's memory below 48 KiB.
pub(super) fn chunk(spec: &Spec) -> usize {
    if spec.pitch() + spec.value_pitch() <= 128 { 64 } else { 32 }
}

/// The rest of the module.
pub(super) fn main(maker: &mut Maker<'_>) -> String {
    let chunk = maker.chunk;
    let (d, dv) = (maker.spec.pitch(), maker.spec.value_pitch());
    // Blocks of 16: of a key, of a value, of a chunk.
    let (kb, vb, cb) = (d / 16, dv / 16, chunk / 16);
    // Vectors of four from row to row, with as many elements more that rows begin in other banks.
    let (kp, vp, sp, pp) = ((d + 8) / 4, (dv + 8) / 4, (chunk + 8) / 4, (chunk + 8) / 4);
    // Vectors of a row of scores that a lane holds.
    let width = chunk / 8;
    let mut t = format!(
        "/// Vectors from row to row.\nconst KEY_PITCH: u32 = {kp}u;\nconst VALUE_PITCH: u32 = {vp}u;\n\
         const SCORE_PITCH: u32 = {sp}u;\nconst WEIGHT_PITCH: u32 = {pp}u;\n\n\
         var<workgroup> key_tile: array<vec4<f16>, {}>;\nvar<workgroup> value_tile: array<vec4<f16>, {}>;\n\
         /// Scores of the chunk, and blocks of the output while they are rescaled; each subgroup has its rows.\n\
         var<workgroup> score_tile: array<vec4<f32>, {}>;\nvar<workgroup> weight_tile: array<vec4<f16>, {}>;\n\n\
         /// The greatest logit so far, times log2(e), or up to {SLACK} less; and the sum of powers relative to it.\n\
         var<private> top: f32;\nvar<private> sum: f32;\n\n",
        chunk * kp,
        chunk * vp,
        64 * sp,
        64 * pp
    );
    for entry in maker.entries.iter().filter(|e| e.keep > SHORT) {
        let n = entry.number;
        let _ = write!(
            t,
            "/// Entry {n}: which of this lane's keys its query has, a bit each.\nfn held{n}(part: i32, filled: i32) -> u32 {{\n  \
             var bits = 0u;\n  for (var i = 0; i < {count}; i++) {{\n    let slot = 8 * (i >> 2u) + 4 * part + (i & 3);\n    \
             if ((slot < filled) && keep{n}(keys[slot], slot)) {{ bits |= 1u << u32(i); }}\n  }}\n  return bits;\n}}\n\n",
            count = 4 * width
        );
    }
    t.push_str(
        "// Matrices are only touched where all threads of a subgroup are. A condition that is the same for all of them is left\n\
         // by `break`: within an `if` it would not be known to be.\n\
         @compute @workgroup_size(128)\nfn attend(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32, \
         @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) member: u32) {\n  loop {\n  \
         if (!begin(group)) { break; }\n  let lane = i32(thread);\n  \
         // Two lanes share a query: vectors of even and of odd number.\n  let first_row = 16u * subgroup;\n  \
         let own_row = first_row + (member >> 1u);\n  let part = i32(member & 1u);\n  \
         let own_scores = own_row * SCORE_PITCH + (member & 1u);\n  let own_weights = own_row * WEIGHT_PITCH + (member & 1u);\n",
    );
    // Q, staged through the tile of keys.
    for b in 0..kb {
        let _ = writeln!(t, "  var query{b} = coop_mat16x16<f16,A>();");
    }
    for pass in 0..(64 / chunk) {
        let from = pass * chunk;
        let _ = write!(
            t,
            "  for (var i = lane; i < CHUNK * D4; i += THREADS) {{\n    set_query(i / D4 + {from});\n    \
             key_tile[u32(i / D4) * KEY_PITCH + u32(i % D4)] = read_q(u32(query_row()) * u32(D4) + u32(i % D4));\n  }}\n  \
             workgroupBarrier();\n"
        );
        if chunk < 64 {
            let _ = write!(
                t,
                "  loop {{\n    if ((first_row < {from}u) | (first_row >= {}u)) {{ break; }}\n",
                from + chunk
            );
        }
        for b in 0..kb {
            let _ = writeln!(
                t,
                "    query{b} = coopLoadT<coop_mat16x16<f16,A>>(&key_tile[(first_row - {from}u) * KEY_PITCH + {}u], KEY_PITCH);",
                4 * b
            );
        }
        t.push_str(if chunk < 64 { "    break;\n  }\n  workgroupBarrier();\n" } else { "  workgroupBarrier();\n" });
    }
    t.push_str("  set_query(i32(own_row));\n");
    for b in 0..vb {
        let _ = writeln!(t, "  var out{b} = coop_mat16x16<f32,C>();");
    }
    t.push_str("  top = NONE;\n  sum = 0.0;\n");
    if maker.resumes {
        t.push_str(
            "  // Goes on from the stages before.\n  let given = u32(output_row() * (V4 + 1));\n  let state = between[given + u32(V4)];\n  \
             if (state.y > 0.0) {\n    top = state.x * LOG2_E;\n    sum = select(0.0, 1.0, part == 0);\n  }\n",
        );
        for b in 0..vb {
            let _ = write!(
                t,
                "  for (var c = 0u; c < 2u; c++) {{\n    let o = between[given + {}u + 2u * c + (member & 1u)];\n    \
                 score_tile[own_scores + 2u * c] = select(vec4<f32>(), o, state.y > 0.0);\n  }}\n  subgroupBarrier();\n  \
                 out{b} = coopLoadT<coop_mat16x16<f32,C>>(&score_tile[first_row * SCORE_PITCH], SCORE_PITCH);\n  subgroupBarrier();\n",
                4 * b
            );
        }
    }
    for i in 0..maker.entries.len() {
        visit(maker, &mut t, i, (kb, vb, cb, width));
    }
    for (n, slots) in maker.nulls.clone() {
        let slots = maker.names.int(slots);
        let _ = write!(
            t,
            "  for (var null_slot = 0; null_slot < {slots}; null_slot++) {{\n    let logit = null{n}(null_slot) * LOG2_E;\n"
        );
        grow(&mut t, "logit", vb);
        t.push_str("    sum += select(0.0, exp2(logit - top), part == 0);\n  }\n");
    }
    t.push_str(
        "  sum += subgroupShuffleXor(sum, 1u);\n  let some = sum > 0.0;\n  let share = select(0.0, 1.0 / sum, some);\n  \
         let log_sum = top * LN_2 + log(sum);\n  let valid = i32(own_row) < tile_rows;\n",
    );
    if maker.hands_over {
        t.push_str("  let at = u32(output_row() * (V4 + 1));\n");
    } else {
        t.push_str("  let at = u32(output_row()) * u32(V4);\n");
    }
    for b in 0..vb {
        let write = if maker.hands_over {
            format!("between[at + {}u + 2u * c + (member & 1u)] = o;", 4 * b)
        } else {
            format!("write_o(at + {}u + 2u * c + (member & 1u), o);", 4 * b)
        };
        let _ = write!(
            t,
            "  coopStoreT(out{b}, &score_tile[first_row * SCORE_PITCH], SCORE_PITCH);\n  subgroupBarrier();\n  \
             for (var c = 0u; c < 2u; c++) {{\n    let o = share * score_tile[own_scores + 2u * c];\n    if (valid) {{ {write} }}\n  }}\n  \
             subgroupBarrier();\n"
        );
    }
    t.push_str("  if (valid & (part == 0)) {\n");
    t.push_str(if maker.hands_over {
        "    between[at + u32(V4)] = vec4<f32>(log_sum, select(0.0, 1.0, some), 0.0, 0.0);\n"
    } else {
        "    log_sums[output_row()] = select(0xff800000u, bitcast<u32>(log_sum), some);\n"
    });
    t.push_str("  }\n  break;\n  }\n}\n");
    t
}

/// Makes room for a logit: raises `top`, and rescales what was summed if it had a value and grows by much.
fn grow(t: &mut String, logit: &str, vb: usize) {
    let _ = write!(
        t,
        "    let fresh = top < LEAST;\n    let grows = ({logit} > top + {SLACK}) & !fresh;\n    loop {{\n      if (!subgroupAny(grows)) {{ break; }}\n      \
         let shrink = select(1.0, exp2(top - {logit}), grows);\n      sum *= shrink;\n      top = select(top, {logit}, grows);\n      \
         subgroupBarrier();\n"
    );
    for b in 0..vb {
        let _ = write!(
            t,
            "      coopStoreT(out{b}, &score_tile[first_row * SCORE_PITCH], SCORE_PITCH);\n      subgroupBarrier();\n      \
             score_tile[own_scores] *= shrink;\n      score_tile[own_scores + 2u] *= shrink;\n      subgroupBarrier();\n      \
             out{b} = coopLoadT<coop_mat16x16<f32,C>>(&score_tile[first_row * SCORE_PITCH], SCORE_PITCH);\n      subgroupBarrier();\n"
        );
    }
    let _ = write!(t, "      break;\n    }}\n    top = select(top, {logit}, fresh);\n");
}

/// Lines that copy the rows of a chunk to workgroup memory: those that read, and those that store what was read, so that
/// all reads are under way together. Rows beyond the chunk's keys repeat the last one, and are 0 among the values: their
/// weights are 0.
fn stage(maker: &Maker<'_>) -> (String, String) {
    let (mut t, mut stores) = (String::new(), String::new());
    let tensors = [("k", "key", maker.spec.pitch() / 4), ("v", "value", maker.spec.value_pitch() / 4)];
    for (letter, tensor, vectors) in tensors {
        let all = maker.chunk * vectors;
        for i in 0..all.div_ceil(THREADS) {
            let at = format!("(thread + {}u)", i * THREADS);
            let (slot, column) = (format!("({at} / {vectors}u)"), format!("{at} % {vectors}u"));
            let _ = writeln!(
                t,
                "    let {letter}{i} = read_{letter}(u32(key_row(keys[min({slot}, last)])) * {vectors}u + {column});"
            );
            let value = if letter == "v" {
                format!("select(vec4<f16>(), {letter}{i}, {slot} <= last)")
            } else {
                format!("{letter}{i}")
            };
            let pitch = tensor.to_uppercase();
            let store = format!("{tensor}_tile[{slot} * {pitch}_PITCH + {column}] = {value};");
            let _ = if (i + 1) * THREADS > all {
                writeln!(stores, "    if ({at} < {all}u) {{ {store} }}")
            } else {
                writeln!(stores, "    {store}")
            };
        }
    }
    (t, stores)
}

/// One entry of tokens.
fn visit(maker: &Maker<'_>, t: &mut String, i: usize, (kb, vb, cb, width): (usize, usize, usize, usize)) {
    let entry = &maker.entries[i];
    let n = entry.number;
    let (reads, stores) = stage(maker);
    let _ = write!(
        t,
        "  // Entry {n}.\n  {{\n  var run_from = k_start;\n  var run_end = k_start;\n  var run_whole = false;\n  loop {{\n{fill}    \
         workgroupBarrier();\n    let last = u32(filled - 1);\n{reads}{stores}{set_key}    workgroupBarrier();\n",
        fill = maker.fill(entry),
        set_key = if maker.keeps_keys() { "    if (lane < filled) { set_key(lane); }\n" } else { "" },
    );
    // Scores.
    for c in 0..cb {
        let _ = writeln!(t, "    var score{c} = coop_mat16x16<f32,C>();");
    }
    for k in 0..kb {
        for c in 0..cb {
            let _ = writeln!(
                t,
                "    score{c} = coopMultiplyAdd(query{k}, coopLoad<coop_mat16x16<f16,B>>(&key_tile[{}u * KEY_PITCH + {}u], KEY_PITCH), score{c});",
                16 * c,
                4 * k
            );
        }
    }
    for c in 0..cb {
        let _ =
            writeln!(t, "    coopStoreT(score{c}, &score_tile[first_row * SCORE_PITCH + {}u], SCORE_PITCH);", 4 * c);
    }
    t.push_str("    subgroupBarrier();\n");
    let scale = &maker.scale;
    for w in 0..width {
        let raw = format!("score_tile[own_scores + {}u]", 2 * w);
        if entry.logit {
            let slot = |c: usize| format!("{} + 4 * part", 8 * w + c);
            let one = |c: usize| format!("logit{n}(raw{w}[{c}], keys[{s}], {s})", s = slot(c));
            let _ = writeln!(t, "    let raw{w} = {scale} * {raw};");
            let _ = writeln!(t, "    var x{w} = LOG2_E * vec4<f32>({}, {}, {}, {});", one(0), one(1), one(2), one(3));
        } else {
            let _ = writeln!(t, "    var x{w} = ({scale} * LOG2_E) * {raw};");
        }
    }
    t.push_str("    if (!whole || filled < CHUNK) {\n");
    if entry.keep > SHORT {
        let _ = writeln!(t, "      let bits = held{n}(part, filled);");
    } else {
        let _ = writeln!(t, "      let slot = 4 * part;");
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
         most = max(most, subgroupShuffleXor(most, 1u));\n"
    );
    grow(t, "most", vb);
    t.push_str("    let base = max(top, LEAST);\n    var parts = vec4<f32>();\n");
    for w in 0..width {
        let _ = writeln!(
            t,
            "    x{w} = exp2(x{w} - vec4<f32>(base));\n    parts += x{w};\n    weight_tile[own_weights + {}u] = vec4<f16>(x{w});",
            2 * w
        );
    }
    t.push_str("    sum += (parts.x + parts.y) + (parts.z + parts.w);\n    subgroupBarrier();\n");
    for c in 0..cb {
        let _ = writeln!(
            t,
            "    let weight{c} = coopLoadT<coop_mat16x16<f16,A>>(&weight_tile[first_row * WEIGHT_PITCH + {}u], WEIGHT_PITCH);",
            4 * c
        );
        for b in 0..vb {
            let _ = writeln!(
                t,
                "    out{b} = coopMultiplyAdd(weight{c}, coopLoadT<coop_mat16x16<f16,B>>(&value_tile[{}u * VALUE_PITCH + {}u], VALUE_PITCH), out{b});",
                16 * c,
                4 * b
            );
        }
    }
    t.push_str("    workgroupBarrier();\n  }\n  }\n");
}
