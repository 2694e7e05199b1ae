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

/// Most vectors of a row that are written out one by one. A loop over them would keep the arrays out of registers.
const UNROLLED: usize = 32;

/// One statement for each vector of a row, in which `{}` is its number; a loop where there are many.
fn each(indent: usize, vectors: usize, statement: impl Fn(&str) -> String) -> String {
    let mut t = String::new();
    if vectors > UNROLLED {
        let _ = writeln!(t, "{:indent$}for (var c = 0; c < {vectors}; c++) {{ {} }}", "", statement("c"));
        return t;
    }
    for c in 0..vectors {
        let _ = writeln!(t, "{:indent$}{}", "", statement(&c.to_string()));
    }
    t
}

/// The rest of the module.
pub(super) fn main(maker: &mut Maker<'_>) -> String {
    let half = maker.spec.variant == Variant::Half;
    let held = if half { "vec4<f16>" } else { "vec4<f32>" };
    let (d4, v4) = (maker.spec.pitch() / 4, maker.spec.value_pitch() / 4);
    let mut t = format!(
        "var<workgroup> key_tile: array<{held}, CHUNK * D4>;\nvar<workgroup> value_tile: array<{held}, CHUNK * V4>;\n\n\
         var<private> query: array<vec4<f32>, D4>;\nvar<private> acc: array<vec4<f32>, V4>;\n\
         /// The greatest logit so far, and the sum of exponentials relative to it.\nvar<private> top: f32;\n\
         var<private> sum: f32;\n\n\
         /// Makes `logit` the greatest logit if it is.\nfn raise(logit: f32) {{\n  if (logit > top) {{\n    \
         let shrink = exp(top - logit);\n    sum *= shrink;\n{}    top = logit;\n  }}\n}}\n\n",
        each(4, v4, |c| format!("acc[{c}] *= shrink;"))
    );
    let wide = |text: String| if half { format!("vec4<f32>({text})") } else { text };
    for entry in &maker.entries {
        let n = entry.number;
        let logit = if entry.logit {
            format!("logit{n}({} * product, k, slot)", maker.scale)
        } else {
            format!("{} * product", maker.scale)
        };
        let some = if half {
            "    // No query of the subgroup has a key of this chunk.\n    let some = subgroupAny(most > LEAST);\n"
        } else {
            "    let some = most > LEAST;\n"
        };
        let _ = write!(
            t,
            "/// Entry {n}.\nfn attend{n}(lane: i32) {{\n  var run_from = k_from;\n  var run_end = k_from;\n  \
             var run_whole = false;\n  loop {{\n{fill}    workgroupBarrier();\n    \
             for (var i = lane; i < filled * D4; i += THREADS) {{\n      \
             key_tile[i] = read_k(u32(key_row(keys[i / D4])) * u32(D4) + u32(i % D4));\n    }}\n    \
             for (var i = lane; i < filled * V4; i += THREADS) {{\n      \
             value_tile[i] = read_v(u32({value_row}(keys[i / V4])) * u32(V4) + u32(i % V4));\n    }}\n{set_key}    \
             workgroupBarrier();\n    var logits: array<f32, CHUNK>;\n    var most = NONE;\n    \
             for (var slot = 0; slot < filled; slot++) {{\n      let k = keys[slot];\n      var logit = NONE;\n      \
             if (whole || keep{n}(k, slot)) {{\n        let at = slot * D4;\n        var four = vec4<f32>();\n{dot}        \
             let product = (four.x + four.y) + (four.z + four.w);\n        logit = {logit};\n      }}\n      \
             logits[slot] = logit;\n      most = max(most, logit);\n    }}\n{some}    if (some) {{\n      raise(most);\n      \
             var part = 0.0;\n      for (var slot = 0; slot < filled; slot++) {{\n        if (logits[slot] > LEAST) {{\n          \
             let weight = exp(logits[slot] - top);\n          part += weight;\n          let at = slot * V4;\n{weigh}        }}\n      \
             }}\n      sum += part;\n    }}\n    workgroupBarrier();\n  }}\n}}\n\n",
            fill = maker.fill(entry),
            value_row = if maker.attend.reads.kv.is_some() { "value_row" } else { "key_row" },
            set_key = if maker.keeps_keys() { "    if (lane < filled) { set_key(lane); }\n" } else { "" },
            dot = each(8, d4, |c| format!("four += query[{c}] * {};", wide(format!("key_tile[at + {c}]")))),
            weigh = each(10, v4, |c| format!("acc[{c}] += weight * {};", wide(format!("value_tile[at + {c}]")))),
        );
    }
    let channels = maker.channels().map(|draw| maker.names.chosen_channel(draw));
    if let Some(chosen) = &channels {
        let _ = write!(
            t,
            "/// By channel 1 if keys are scored by it, else 0.\nvar<workgroup> channels: array<vec4<f32>, D4>;\n\
             fn channel(channel: i32) -> f32 {{ return select(0.0, 1.0, {chosen}); }}\n\
             fn find_channels(lane: i32) {{\n  for (var c = lane; c < D4; c += THREADS) {{\n    \
             channels[c] = vec4<f32>(channel(4 * c), channel(4 * c + 1), channel(4 * c + 2), channel(4 * c + 3));\n  }}\n  \
             workgroupBarrier();\n}}\n\n"
        );
    }
    let find = if channels.is_some() { "  find_channels(lane);\n" } else { "" };
    let of_channels = |c: &str| if channels.is_some() { format!(" * channels[{c}]") } else { String::new() };
    let _ = write!(
        t,
        "@compute @workgroup_size({THREADS})\nfn attend(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {{\n  \
         if (!begin(group)) {{ return; }}\n  let lane = i32(thread);\n  set_query(lane);\n{find}  \
         let own = u32(query_row()) * u32(D4);\n{}  top = NONE;\n  sum = 0.0;\n",
        each(2, d4, |c| format!("query[{c}] = {}{};", wide(format!("read_q(own + u32({c}))")), of_channels(c))),
    );
    if maker.resumes {
        let _ = write!(
            t,
            "  // Goes on from the stages before.\n  let given = output_row() * (V4 + 1);\n  if (between[given + V4].y > 0.0) {{\n    \
             top = between[given + V4].x;\n    sum = 1.0;\n{}  }}\n",
            each(4, v4, |c| format!("acc[{c}] = between[given + {c}];"))
        );
    }
    for entry in &maker.entries {
        let _ = writeln!(t, "  attend{}(lane);", entry.number);
    }
    for (n, slots) in maker.nulls.clone() {
        let slots = maker.null_slots(slots);
        let _ = write!(
            t,
            "  for (var null_slot = 0; null_slot < {slots}; null_slot++) {{\n    let logit = null{n}(null_slot);\n    \
             raise(logit);\n    sum += exp(logit - top);\n  }}\n"
        );
    }
    t.push_str(
        "  if (lane >= tile_rows) { return; }\n  let some = sum > 0.0;\n  let share = select(0.0, 1.0 / sum, some);\n",
    );
    let _ = writeln!(
        t,
        "{}  put_sum(lane, top + log(sum), some);",
        each(2, v4, |c| format!("put(lane, u32({c}), share * acc[{c}]);"))
    );
    t.push_str("}\n");
    t
}
