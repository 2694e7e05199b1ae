//! The text form of a plan: what `--emit plan` prints, tests pin and the plan hash covers.

use std::fmt::Write as _;

use attnc_pattern::analysis::print::{expr_text, rows_text, tiles_text};

use crate::choose::{Stage, about, step_text};
use crate::inplace::InPlace;
use crate::plan::{Entry, Plan, Role, View};

impl Plan {
    /// The plan as text, stable for equal plans.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let expr = |id| expr_text(&self.program, id);
        let _ = writeln!(out, "plan {}", self.name);
        let _ = writeln!(out, "  require {}", expr(self.require));
        if let Some(align) = self.align {
            let _ = writeln!(out, "  align {align:?}");
        }
        if let Some(empty) = self.empty {
            let _ = writeln!(out, "  empty {empty:?}");
        }
        for i in 0..self.pools.len() {
            let _ = writeln!(out, "  {}", self.title(Stage::Pool(i)));
            let level = self.program.level(self.pools[i].level);
            let _ = writeln!(out, "    {:?} of {:?}, {} slots", level.pool, level.partition, expr(level.slots));
        }
        for (i, c) in self.chooses.iter().enumerate() {
            let select = self.program.select(c.select);
            let _ = writeln!(out, "  {}", self.title(Stage::Choose(i)));
            let _ = writeln!(out, "    {}", about(&self.program, select));
            for (word, set) in [("within", select.within), ("besides", select.besides), ("including", select.including)]
            {
                if let Some(set) = set {
                    let _ = writeln!(out, "    {word} {}", expr(set));
                }
            }
            let Some(scored) = &c.scored else { continue };
            if let Some((a, b)) = &scored.dot {
                let _ = writeln!(out, "    product {a:?} {b:?}");
            }
            if let Some(value) = scored.walk.score {
                let _ = writeln!(out, "    value {}", expr(value));
            }
            if let Some(sampled) = &scored.sampled {
                indented(&mut out, "sampled", &rows_text(&self.program, &sampled.rows));
            }
            if let Some(listed) = &scored.listed {
                indented(&mut out, "items", &rows_text(&self.program, &listed.rows));
            }
            for entry in &scored.walk.entries {
                if let Entry::Tokens { rows, .. } = entry {
                    indented(&mut out, "rows", &rows_text(&self.program, rows));
                }
            }
            for step in &scored.steps {
                let _ = writeln!(out, "    then {}", step_text(&self.program, step));
            }
        }
        match &self.rows {
            None => {}
            Some(InPlace::Slots(pooled)) => {
                let between = if pooled.bilinear { ", bilinear" } else { "" };
                let _ = writeln!(out, "  queries: slots of {}{between}", self.program.level(pooled.level).name);
            }
            Some(InPlace::Branches { count, takes }) => {
                let _ = writeln!(out, "  queries: those of {} branches, mean", expr(*count));
                if let Some(takes) = takes {
                    indented(&mut out, "taken", &rows_text(&self.program, &takes.rows));
                }
            }
        }
        for s in &self.stages {
            let role = match s.role {
                Role::RowWalk => "row walk",
                Role::ColumnWalk => "column walk",
            };
            let view = match s.view {
                View::Given => "order given".to_owned(),
                View::Classes(modulus) => format!("classes modulo {}", expr(modulus)),
                View::Walk(order) => format!("queries by {}", self.program.order(order).name),
                View::Ordered { queries, keys } if queries == keys => {
                    format!("numbered by {}", self.program.order(keys).name)
                }
                View::Ordered { queries, keys } => {
                    let [queries, keys] = [queries, keys].map(|o| &self.program.order(o).name);
                    format!("queries numbered by {queries}, keys by {keys}")
                }
                View::Rows => "rows as listed".to_owned(),
            };
            let view = match s.reads.kv {
                Some(level) => format!("{view}, keys {}", self.program.level(level).name),
                None => view,
            };
            let view = if s.own { format!("{view}, queries one by one") } else { view };
            let _ = writeln!(out, "  attend {role}, tile {} x {}, {view}", s.tile.q, s.tile.k);
            let _ = writeln!(out, "    scale {}", expr(s.scale));
            if let Some(score) = s.score {
                let _ = writeln!(out, "    score {}", expr(score));
            }
            for entry in &s.entries {
                match entry {
                    Entry::Null { slots, bias } => {
                        let _ = writeln!(out, "    null {slots}");
                        if let Some(b) = bias {
                            let _ = writeln!(out, "      bias {}", expr(*b));
                        }
                    }
                    Entry::Tokens { rows, tiles, bias, .. } => {
                        let _ = writeln!(out, "    tokens");
                        if let Some(b) = bias {
                            let _ = writeln!(out, "      bias {}", expr(*b));
                        }
                        indented(&mut out, "rows", &rows_text(&self.program, rows));
                        indented(&mut out, "tiles", &tiles_text(&self.program, tiles));
                    }
                }
            }
        }
        out
    }
}

fn indented(out: &mut String, title: &str, text: &str) {
    let _ = writeln!(out, "      {title}");
    for line in text.lines() {
        let _ = writeln!(out, "        {line}");
    }
}
