//! Merges: attentions that are made of others.

use attnc_syntax::ast::{Clause, Expr, ItemKind, Name};
use attnc_syntax::diag::{Diagnostic, Span};

use super::Checker;
use super::facts::Reads;
use super::names::{ItemRef, Named};
use super::scope::{AMOUNT, GATE, TAKES};
use crate::expr::{Un, Var};
use crate::program::{Attention, Branches, Empty, Merge, MergeKind};

impl<'a> Checker<'a> {
    /// The attention that a merge is.
    pub(super) fn merge(&mut self, item: ItemRef) -> Option<usize> {
        if self.making.contains(&item) {
            let ItemKind::Merge { name, .. } = &self.item(item).kind else { return None };
            let message = format!("a merge needs itself: `{}`", name.text);
            self.report(
                Diagnostic::error("E0205", name.span, message, "is made of itself").help("merge other attentions"),
            );
            return None;
        }
        self.making.push(item);
        let made = self.make_merge(item);
        self.making.retain(|&made| made != item);
        made
    }

    fn make_merge(&mut self, item: ItemRef) -> Option<usize> {
        let node = self.item(item);
        let ItemKind::Merge { name, kind, gates, arms, clauses } = &node.kind else { return None };
        let attentions: Vec<Option<usize>> = arms.iter().map(|arm| self.arm_named(item.module, arm)).collect();
        let attentions = attentions.into_iter().collect::<Option<Vec<usize>>>()?;
        let cx = self.top(item.module, GATE);
        self.launch.clear();
        let kind = match kind.text.as_str() {
            "gate" => self.gates(item.module, gates, arms, clauses, kind.span)?,
            "mean" => self.mean(item.module, gates, arms, clauses)?,
            _ => return self.unknown_word(&cx, kind, "merge", &["gate", "mean"]),
        };
        let first = self.program.attentions[attentions[0]].clone();
        let mut demands = std::mem::take(&mut self.launch);
        let mut depends = false;
        for (&a, arm) in attentions.iter().zip(arms) {
            let of = &self.program.attentions[a];
            if of.align != first.align {
                let message = "the merged attentions are aligned in two ways".to_owned();
                let help = "give all of them the same `align`";
                return self.fail(&cx, bad_merge(arm.span, message, help));
            }
            demands.extend_from_slice(&of.demands);
            depends |= of.depends_on_alignment;
        }
        let require = self.exprs.and(demands.iter().map(|d| d.holds).collect::<Vec<_>>());
        let d = self.exprs.var(Var::Dim);
        let d = self.exprs.to_real(d);
        let (one, root) = (self.exprs.real(1.0), self.exprs.un(Un::Sqrt, d));
        self.program.attentions.push(Attention {
            name: name.text.clone(),
            docs: node.docs.clone(),
            scale: self.exprs.div(one, root),
            score: None,
            align: first.align,
            // Rows without keys are the business of the arms.
            empty: Some(Empty::Zero),
            merge: Some(Merge { kind, arms: attentions }),
            pooled: None,
            require,
            demands,
            depends_on_alignment: depends,
            entries: vec![],
            span: node.span,
        });
        Some(self.program.attentions.len() - 1)
    }

    fn arm_named(&mut self, module: usize, name: &'a Name) -> Option<usize> {
        if let Some((Named::Item(item), _)) = self.names[module].get(&name.text) {
            match &self.item(item).kind {
                ItemKind::Attention { .. } | ItemKind::Merge { .. } => return self.attention(item),
                ItemKind::Pattern { args, .. } if args.is_empty() => return self.attention(item),
                _ => {}
            }
        }
        let cx = self.top(module, GATE);
        let help = "name attentions of this file, or patterns without arguments";
        self.fail(&cx, bad_merge(name.span, format!("`{}` is no attention", name.text), help))
    }

    fn gates(
        &mut self,
        module: usize,
        gates: &'a [Expr],
        arms: &'a [Name],
        clauses: &'a [Clause],
        span: Span,
    ) -> Option<MergeKind> {
        let cx = self.top(module, GATE);
        if let Some(clause) = clauses.first() {
            let help = "branches are those of a mean";
            return self.fail(&cx, bad_merge(clause.word.span, "a gate weighs what it names".to_owned(), help));
        }
        let mut weights = Vec::new();
        for gate in gates {
            weights.push(self.real(&cx, gate)?);
        }
        if let ([gate], [_, _]) = (weights.as_slice(), arms) {
            let one = self.exprs.real(1.0);
            weights.push(self.exprs.sub(one, *gate));
        }
        if weights.len() != arms.len() {
            let message = format!("{} gates for {} attentions", gates.len(), arms.len());
            let help = "write one gate for each, or one for two: `gate(g[head]) of a, b`";
            return self.fail(&cx, bad_merge(span, message, help));
        }
        Some(MergeKind::Gate(weights))
    }

    fn mean(&mut self, module: usize, gates: &'a [Expr], arms: &'a [Name], clauses: &'a [Clause]) -> Option<MergeKind> {
        let cx = self.top(module, TAKES);
        if let Some(gate) = gates.first() {
            let help = "weigh with `gate(..)`";
            return self.fail(&cx, bad_merge(gate.span, "a mean has no weights".to_owned(), help));
        }
        let (mut count, mut takes) = (None, None);
        for (i, clause) in clauses.iter().enumerate() {
            let word = clause.word.text.as_str();
            if clauses[..i].iter().any(|c| c.word.text == word) {
                let message = format!("`{word}` is given twice");
                let error = Diagnostic::error("E0403", clause.word.span, message, "given again here");
                return self.fail(&cx, error.help("keep one of them"));
            }
            if word == "over" {
                count = Some(self.extent(&self.top(module, AMOUNT), &clause.value)?);
            } else {
                let set = self.set(&cx, &clause.value)?;
                if self.facts.reads(&self.exprs, set).has(Reads::K) {
                    let help = "say which queries take part: a selection of queries, or `q in ..`";
                    let message = "a branch takes queries, whatever their keys".to_owned();
                    return self.fail(&cx, bad_merge(clause.value.span, message, help));
                }
                takes = Some(set);
            }
        }
        let branches = match (count, takes) {
            (Some(count), takes) => Some(Branches { count, takes }),
            (None, None) => None,
            (None, Some(_)) => {
                let span = clauses[0].word.span;
                let help = "write `over N` with the number of branches";
                return self.fail(&cx, bad_merge(span, "how many branches?".to_owned(), help));
            }
        };
        if branches.is_some() && arms.len() > 1 {
            let help = "name one attention, whose sets read the branch";
            return self.fail(&cx, bad_merge(arms[1].span, "branches of two attentions".to_owned(), help));
        }
        Some(MergeKind::Mean { branches })
    }
}

/// The error of a merge that cannot be.
fn bad_merge(span: Span, message: String, help: &str) -> Diagnostic {
    Diagnostic::error("E0415", span, message, "of this merge").help(help)
}
