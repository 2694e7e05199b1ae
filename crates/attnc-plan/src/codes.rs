//! Diagnostics of planning, with an example of each.

use attnc_pattern::expr::ExprId;
use attnc_pattern::program::Program;
use attnc_syntax::diag::{CodeInfo, Diagnostic};

use crate::passes::PlanError;

/// Every code of this crate.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: "E0601",
        title: "an integer of the pattern may not fit 64 bits",
        explain: "Compiled code computes with 64-bit integers. For sequences of up to 2^29 positions every integer of a \
                  pattern must be proved to fit. This one may not: a product of several positions, or a very large constant.",
        example: "",
    },
    CodeInfo {
        code: "E0602",
        title: "the pattern has too many pieces for one kernel",
        explain: "A set becomes a union of ranges with closed-form ends, and a kernel holds at most 512 of them. A set of many \
                  unrelated columns or pairs is data: give it when run, as a map.",
        example: "",
    },
    CodeInfo {
        code: "E0699",
        title: "internal error: a pass broke a rule of plans",
        explain: "The verifier runs after every pass and found a plan that no back end may compile. This is a mistake of the \
                  compiler: please report it with the pattern. No pattern is known to cause it; the example breaks a plan by hand.",
        example: "",
    },
];

/// The diagnostic of a planning error.
#[must_use]
pub fn diagnostic(program: &Program, attention: usize, error: &PlanError) -> Diagnostic {
    let span = program.attentions[attention].span;
    let at =
        |e: ExprId| if (e.0 as usize) < program.exprs.len() { program.exprs.span(e).unwrap_or(span) } else { span };
    match error {
        PlanError::Range { expr } => Diagnostic::error(
            "E0601",
            at(*expr),
            "an integer of this pattern may not fit 64 bits",
            "may leave -2^62 .. 2^62 for sequences of up to 2^29 positions",
        )
        .help("use fewer products of positions, or smaller constants"),
        PlanError::Missing(missing) => {
            Diagnostic::error("E0611", missing.span, format!("this target has no {}", missing.what), "asked for here")
                .help("the oracle runs it: `--target oracle`")
        }
        PlanError::TooLarge { pieces } => Diagnostic::error(
            "E0602",
            span,
            format!("this pattern has {pieces} pieces, more than {} in one kernel", crate::passes::MAX_PIECES),
            "a union of this many ranges",
        )
        .help("give the set when run: `map NAME : csr` and `map NAME` in the pattern"),
        PlanError::Pass { pass, refusal, dump } => Diagnostic::error(
            "E0699",
            span,
            format!("internal error: pass `{pass}` broke a rule of plans: {}", refusal.rule),
            "while planning this",
        )
        .help(format!("please report this with the plan:\n{dump}")),
    }
}
