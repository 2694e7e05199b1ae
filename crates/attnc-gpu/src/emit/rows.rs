//! A thread for each query: the variants `portable` and `f16`.
//!
//! The one idea: a thread holds its query, its output and its sums in registers, and reads the keys of a chunk from
//! workgroup memory, where all threads read the same word at once. A chunk is as many keys as 14 KiB hold.
//! Nothing here knows which keys a chunk holds.

use std::fmt::Write as _;

use super::{Maker, Spec, Variant};

/// Threads of a workgroup; a tile has at most as many queries.
pub(super) const THREADS: usize = 64;

/// Bytes of workgroup memory for rows of K and V; 16 KiB less what stands beside them.
const ROOM: usize = 14 * 1024;

/// Keys of a chunk.
pub(super) fn chunk(spec: &Spec) -> usize {
    let element = if spec.variant == Variant::Portable { 4 } else { 2 };
    let row = (spec.pitch() + spec.value_pitch()) * element;
    (ROOM / row / 4 * 4).clamp(4, 32)
}

/// The rest of the module.
pub(super) fn main(maker: &mut Maker<'_>) -> String {
    let half = maker.spec.variant == Variant::Half;
    let held = if half { "vec4<f16>" } else { "vec4<f32>" };
    let mut t = format!(
        "var<workgroup> key_tile: array<{held}, CHUNK * D4>;\nvar<workgroup> value_tile: array<{held}, CHUNK * V4>;\n\n\
         var<private> query: array<vec4<f32>, D4>;\nvar<private> acc: array<vec4<f32>, V4>;\n\
         /// The greatest logit so far, and the sum of exponentials relative to it.\nvar<private> top: f32;\n\
         var<private> sum: f32;\n\n\
         /// Makes `logit` the greatest logit if it is.\nfn raise(logit: f32) {{\n  if (logit > top) {{\n    \
         let shrink = exp(top - logit);\n    sum *= shrink;\n    for (var c = 0; c < V4; c++) {{ acc[c] *= shrink; }}\n    \
         top = logit;\n  }}\n}}\n\n"
    );
    for entry in &maker.entries {
        let n = entry.number;
        let logit = if entry.logit {
            format!("logit{n}({} * product, k, slot)", maker.scale)
        } else {
            format!("{} * product", maker.scale)
        };
        let wide = |text: &str| if half { format!("vec4<f32>({text})") } else { text.to_owned() };
        let nobody = if half {
            "    // No query of the subgroup has a key of this chunk.\n    let some = subgroupAny(most > LEAST);\n"
        } else {
            "    let some = most > LEAST;\n"
        };
        let _ = write!(
            t,
            "/// Entry {n}.\nfn attend{n}(lane: i32) {{\n  var run_from = k_start;\n  var run_end = k_start;\n  \
             var run_whole = false;\n  loop {{\n{fill}    workgroupBarrier();\n    \
             for (var i = lane; i < filled * D4; i += THREADS) {{\n      \
             key_tile[i] = read_k(u32(key_row(keys[i / D4])) * u32(D4) + u32(i % D4));\n    }}\n    \
             for (var i = lane; i < filled * V4; i += THREADS) {{\n      \
             value_tile[i] = read_v(u32(key_row(keys[i / V4])) * u32(V4) + u32(i % V4));\n    }}\n{set_key}    \
             workgroupBarrier();\n    var logits: array<f32, CHUNK>;\n    var most = NONE;\n    \
             for (var slot = 0; slot < filled; slot++) {{\n      let k = keys[slot];\n      var logit = NONE;\n      \
             if (whole || keep{n}(k, slot)) {{\n        var four = vec4<f32>();\n        \
             for (var c = 0; c < D4; c++) {{ four += query[c] * {key}; }}\n        \
             let product = (four.x + four.y) + (four.z + four.w);\n        logit = {logit};\n      }}\n      \
             logits[slot] = logit;\n      most = max(most, logit);\n    }}\n{nobody}    if (some) {{\n      raise(most);\n      \
             var part = 0.0;\n      for (var slot = 0; slot < filled; slot++) {{\n        if (logits[slot] > LEAST) {{\n          \
             let weight = exp(logits[slot] - top);\n          part += weight;\n          \
             for (var c = 0; c < V4; c++) {{ acc[c] += weight * {value}; }}\n        }}\n      }}\n      sum += part;\n    }}\n    \
             workgroupBarrier();\n  }}\n}}\n\n",
            fill = maker.fill(entry),
            set_key = if maker.keeps_keys() { "    if (lane < filled) { set_key(lane); }\n" } else { "" },
            key = wide("key_tile[slot * D4 + c]"),
            value = wide("value_tile[slot * V4 + c]"),
        );
    }
    let query = if half { "vec4<f32>(read_q(u32(query_row()) * u32(D4) + u32(c)))" } else { "read_q(u32(query_row()) * u32(D4) + u32(c))" };
    let _ = write!(
        t,
        "@compute @workgroup_size({THREADS})\nfn attend(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
         if (!begin(group)) {{ return; }}\n  let lane = i32(thread);\n  set_query(lane);\n  \
         for (var c = 0; c < D4; c++) {{ query[c] = {query}; }}\n  top = NONE;\n  sum = 0.0;\n"
    );
    if maker.resumes {
        t.push_str(
            "  // Goes on from the stages before.\n  let given = output_row() * (V4 + 1);\n  if (between[given + V4].y > 0.0) {\n    \
             top = between[given + V4].x;\n    sum = 1.0;\n    for (var c = 0; c < V4; c++) { acc[c] = between[given + c]; }\n  }\n",
        );
    }
    for entry in &maker.entries {
        let _ = writeln!(t, "  attend{}(lane);", entry.number);
    }
    for (n, slots) in maker.nulls.clone() {
        let slots = maker.names.int(slots);
        let _ = write!(
            t,
            "  for (var null_slot = 0; null_slot < {slots}; null_slot++) {{\n    let logit = null{n}(null_slot);\n    \
             raise(logit);\n    sum += exp(logit - top);\n  }}\n"
        );
    }
    t.push_str("  if (lane >= tile_rows) { return; }\n  let some = sum > 0.0;\n  let share = select(0.0, 1.0 / sum, some);\n");
    if maker.hands_over {
        t.push_str(
            "  let at = output_row() * (V4 + 1);\n  for (var c = 0; c < V4; c++) { between[at + c] = share * acc[c]; }\n  \
             between[at + V4] = vec4<f32>(top + log(sum), select(0.0, 1.0, some), 0.0, 0.0);\n",
        );
    } else {
        t.push_str(
            "  let at = u32(output_row()) * u32(V4);\n  for (var c = 0; c < V4; c++) { write_o(at + u32(c), share * acc[c]); }\n  \
             log_sums[output_row()] = select(0xff800000u, bitcast<u32>(top + log(sum)), some);\n",
        );
    }
    t.push_str("}\n");
    t
}
