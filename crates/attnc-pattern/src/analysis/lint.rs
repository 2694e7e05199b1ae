//! What the analysis has to say to the writer of a program.

use attnc_syntax::diag::{CodeInfo, Diagnostic};

use super::empty::{Emptiness, check_empty, dead_arms};
use super::{Reason, Role, row_set};
use crate::program::{Program, Source};

/// Diagnostics of the analysis of all attentions. The program gains expressions and changes in nothing else.
pub fn lint(program: &mut Program) -> Vec<Diagnostic> {
    let all: Vec<Diagnostic> = (0..program.attentions.len()).flat_map(|i| lint_attention(program, i)).collect();
    // Attentions share sets: each thing is said once.
    let mut said = Vec::with_capacity(all.len());
    for d in all {
        if !said.contains(&d) {
            said.push(d);
        }
    }
    said
}

/// Diagnostics of the analysis of one attention.
pub fn lint_attention(program: &mut Program, attention: usize) -> Vec<Diagnostic> {
    let mut all: Vec<Diagnostic> = empty_rows(program, attention).into_iter().collect();
    for arm in dead_arms(program, attention) {
        all.push(if arm.hits_nothing {
            Diagnostic::warning("W0504", arm.span, "a part of the set holds no key of any launch", "hits nothing")
                .help("take it out, or check its range against the space")
        } else {
            Diagnostic::warning("W0503", arm.span, "an arm of a union adds nothing", "its keys are all in another arm")
                .help("take it out")
        });
    }
    for entry in program.attentions[attention].entries.clone() {
        let Source::Tokens(set) = entry.source else { continue };
        for note in row_set(program, set, Role::Row).notes {
            if note.reason == Reason::Form {
                let span = note.span.unwrap_or(entry.span);
                let message = "a condition has no closed form and is tested key by key";
                all.push(Diagnostic::warning("W0505", span, message, note.why).help(
                    "the result is the same; rows cost as much as they have keys. Comparisons that are linear in `k`, \
                     its blocks, remainders and coordinates are solved",
                ));
            }
        }
    }
    all
}

/// The error of an attention some row of which is, or may be, empty without a policy. The program gains expressions.
pub fn empty_rows(program: &mut Program, attention: usize) -> Option<Diagnostic> {
    if program.attentions[attention].empty.is_some() {
        return None;
    }
    let help = "say what an empty row is: `empty = zero` (output 0) or `empty = error` (refused when run)";
    let found = check_empty(program, attention);
    let a = &program.attentions[attention];
    match found {
        Emptiness::Never => None,
        Emptiness::Counterexample(c) => {
            let mut launch = format!("n_q = {}, n_k = {}", c.n_q, c.n_k);
            for (name, value) in &c.sizes {
                launch += &format!(", {name} = {value}");
            }
            if !c.docs.is_empty() {
                let offsets: Vec<String> = c.docs.iter().map(i64::to_string).collect();
                launch += &format!(", documents at {}", offsets.join(", "));
            }
            let message = format!("query {} of {launch} attends to no key", c.query);
            let label = format!("leaves a row of `{}` empty", a.name);
            Some(Diagnostic::error("E0501", c.span, message, label).help(help))
        }
        Emptiness::Unknown { why } => {
            let message = format!("rows of `{}` may be empty: {why}", a.name);
            let span = a.entries.first().map_or(a.span, |e| e.span);
            Some(Diagnostic::error("E0502", span, message, "not proved to hold a key for every query").help(help))
        }
    }
}

/// The diagnostics of the analysis, for `attnc explain` and `docs/errors.md`.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: "E0501",
        title: "a row without a key",
        explain: "Softmax over no key has no value. The message names the smallest launch that `require` admits and the \
                  query that attends to nothing. Decide what such a row is: `empty = zero` gives output 0 and log-sum-exp \
                  minus infinity, `empty = error` refuses the launch before anything is written. Or change the set, for \
                  example by adding the query's own key, or `require` larger sizes.",
        example: "pattern p = causal & q - k in 1 .. 8\n",
    },
    CodeInfo {
        code: "E0502",
        title: "a row that may be without a key",
        explain: "For some sets no proof is possible before the run: those that read maps, documents or random choices. \
                  Others are beyond the prover. State the policy: `empty = zero` or `empty = error`.",
        example: "map keep : bool\npattern p = map keep\n",
    },
    CodeInfo {
        code: "W0503",
        title: "an arm of a union that adds nothing",
        explain: "Every key of this arm is in another arm of the same union for every query and size, so the set is the \
                  same without it. Often one of two windows was meant to be wider.",
        example: "pattern p = causal & (q - k in 0 .. 8 | q - k in 0 .. 4)\n",
    },
    CodeInfo {
        code: "W0504",
        title: "a part of a set that hits nothing",
        explain: "No launch has a key in this part: it lies before the first key, after the last one of a closed space, or \
                  contradicts what it is intersected with.",
        example: "pattern p = causal & (q - k in 0 .. 8 | q < k)\n",
    },
    CodeInfo {
        code: "W0505",
        title: "a condition that is tested key by key",
        explain: "The analysis solves comparisons for the key: sums, multiples, floors, remainders, absolute values, \
                  squares, coordinates and documents. This condition has another form. The result is right all the same, \
                  but each row tests every key of its range.",
        example: "pattern p = causal & (k * k % 7 < 3 | q == k)\n",
    },
];
