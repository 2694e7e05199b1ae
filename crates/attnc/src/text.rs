//! A checked program as text, for people who ask what a file means.

use std::fmt::Write as _;

use attnc_pattern::analysis::print::expr_text;
use attnc_pattern::program::{Empty, Program, Source};

/// Sizes, space, attentions and models, with every name resolved.
pub(crate) fn program(program: &Program) -> String {
    let mut out = String::new();
    let expr = |id| expr_text(program, id);
    // Writing to a string does not fail.
    for size in &program.sizes {
        let _ = writeln!(out, "size {}", size.name);
    }
    for tensor in program.tensors.iter().filter(|t| t.of.is_none()) {
        let dims: Vec<String> = tensor.dims.iter().map(|&d| expr(d)).collect();
        let _ = writeln!(out, "tensor {}[{}]", tensor.name, dims.join(", "));
    }
    for map in &program.maps {
        let _ = writeln!(out, "map {} : {:?}{}", map.name, map.kind, if map.per_head { "[heads]" } else { "" });
    }
    for (i, segment) in program.space.segments.iter().enumerate() {
        let _ = writeln!(out, "segment {} {} .. + {}", segment.name, expr(segment.begin), expr(segment.len));
        for axis in program.space.axes.iter().filter(|a| a.segment == i) {
            let _ = writeln!(out, "  axis {} extent {} stride {}", axis.name, expr(axis.extent), expr(axis.stride));
        }
    }
    for order in &program.orders {
        let _ = writeln!(out, "order {} {:?}", order.name, order.kind);
    }
    for draw in &program.draws {
        let _ = writeln!(
            out,
            "draw {} of {} per {:?} in units of {}, seed {}",
            draw.count,
            expr(draw.of),
            draw.scope,
            draw.unit,
            draw.seed
        );
    }
    for attention in &program.attentions {
        let _ = writeln!(out, "\nattention {}", attention.name);
        let _ = writeln!(out, "  require {}", expr(attention.require));
        let _ = writeln!(out, "  scale {}", expr(attention.scale));
        if let Some(score) = attention.score {
            let _ = writeln!(out, "  score {}", expr(score));
        }
        if let Some(align) = attention.align {
            let _ = writeln!(out, "  align {}", format!("{align:?}").to_lowercase());
        }
        if let Some(empty) = attention.empty {
            let _ = writeln!(out, "  empty {}", if empty == Empty::Zero { "zero" } else { "error" });
        }
        for entry in &attention.entries {
            let _ = match entry.source {
                Source::Tokens(set) => writeln!(out, "  attend {}", expr(set)),
                Source::Null(slots) => writeln!(out, "  attend null {slots}"),
            };
            if let Some(bias) = entry.bias {
                let _ = writeln!(out, "    bias {}", expr(bias));
            }
        }
    }
    for model in &program.models {
        let _ = writeln!(
            out,
            "\nmodel {}: {} steps, {} layers, {} heads on {}",
            model.name, model.steps, model.layers, model.heads, model.kv_heads
        );
        for arm in &model.arms {
            let what = arm.attention.map_or("skip", |a| program.attentions[a].name.as_str());
            let _ = writeln!(out, "  when {} => {what}", expr(arm.when));
        }
    }
    out
}
