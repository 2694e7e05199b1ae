//! A checked program as text, for people who ask what a file means.

use std::fmt::Write as _;

use attnc_pattern::analysis::print::expr_text;
use attnc_pattern::expr::ExprId;
use attnc_pattern::program::{Budget, Chooser, Empty, Hash, Index, Made, Program, Source};

/// Sizes, space, attentions and models, with every name resolved.
pub(crate) fn program(program: &Program) -> String {
    let mut out = String::new();
    let expr = |id| expr_text(program, id);
    // Writing to a string does not fail.
    for size in &program.sizes {
        let _ = writeln!(out, "size {}", size.name);
    }
    for tensor in &program.tensors {
        let of = match tensor.of {
            Some(Made::Weight(_)) => continue,
            Some(Made::Formula(value)) => format!(" = {}", expr(value)),
            Some(Made::Hash(Hash { queries, planes, gray })) => {
                let (word, rows) = (if gray { "gray_hash" } else { "hash" }, if queries { "q" } else { "k" });
                format!(" = {word}({rows}, {})", program.tensor(planes).name)
            }
            None => String::new(),
        };
        let dims: Vec<String> = tensor.dims.iter().map(|&d| expr(d)).collect();
        let _ = writeln!(out, "tensor {}[{}]{of}", tensor.name, dims.join(", "));
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
        let Chooser::Random { count, seed } = draw.chooser else { continue };
        let (of, scope, unit) = (expr(draw.of), draw.scope, draw.unit);
        let _ = writeln!(out, "draw {count} of {of} per {scope:?} in units of {unit}, seed {seed}");
    }
    selections(program, &mut out);
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
                Source::Slots(level, set) => {
                    writeln!(out, "  attend {} @ {}", expr(set), program.level(level).name)
                }
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

/// Levels, scores and selections.
fn selections(program: &Program, out: &mut String) {
    let expr = |id| expr_text(program, id);
    let some = |what: &str, id: Option<ExprId>| id.map_or(String::new(), |id| format!(" {what} {}", expr(id)));
    let index = |index: Index| match index {
        Index::One => "one".to_owned(),
        Index::Queries => "queries".to_owned(),
        Index::Keys => "keys".to_owned(),
        Index::Slots(level) => format!("slots of {}", program.level(level).name),
        Index::Branches(count) => format!("branches, {}", expr(count)),
        Index::Channels => "channels".to_owned(),
    };
    for level in &program.levels {
        let parent = level.parent.map_or("tokens", |p| program.level(p).name.as_str());
        let along = level.order.map_or(String::new(), |o| format!(" along {}", program.order(o).name));
        let (partition, pool) = (&level.partition, &level.pool);
        let _ = writeln!(out, "level {} of {parent}{along}: {partition:?} {pool:?}", level.name);
        let _ = writeln!(out, "  slots {}, key {}, last {}", expr(level.slots), expr(level.slot_k), expr(level.last));
    }
    for score in &program.scores {
        let _ = writeln!(out, "score {} = {}{}", score.name, expr(score.value), some("where", score.only));
        if let Some((q, k)) = &score.dot {
            let _ = writeln!(out, "  product of {q:?} and {k:?}");
        }
        for step in &score.steps {
            let _ = writeln!(out, "  then {step:?}");
        }
    }
    for select in &program.selects {
        let score = select.score.map_or("position", |s| program.score(s).name.as_str());
        let budget = match &select.budget {
            Budget::Top(count) => format!("top {}", expr(*count)),
            other => format!("{other:?}"),
        };
        let (rows, slots) = (index(select.rows), index(select.slots));
        let _ = writeln!(out, "select {}: {budget} of {score}, {slots}, for {rows}, {:?}", select.name, select.pool);
        let sets = [("within", select.within), ("besides", select.besides), ("including", select.including)];
        let sets: String = sets.into_iter().map(|(word, set)| some(word, set)).collect();
        let _ = writeln!(out, "  capacity {}, at least {}{sets}", expr(select.capacity), select.at_least);
    }
}
