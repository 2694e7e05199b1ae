//! Every diagnostic code of the compiler, in one list.

use attnc_syntax::diag::CodeInfo;

/// All codes that the library gives, ascending, each once.
#[must_use]
pub fn codes() -> Vec<&'static CodeInfo> {
    let tables = [
        attnc_syntax::codes::CODES,
        attnc_pattern::check::codes::CODES,
        attnc_pattern::analysis::CODES,
        attnc_pattern::prepare::CODES,
        attnc_plan::codes::CODES,
        crate::compiler::CODES,
        crate::export::CODES,
        crate::problem::CODES,
        crate::exchange::CODES,
        crate::loader::CODES,
    ];
    let mut all: Vec<&CodeInfo> = tables.into_iter().flatten().collect();
    all.sort_by_key(|info| info.code);
    all
}

#[cfg(test)]
mod tests {
    use super::codes;

    #[test]
    fn every_code_is_listed_once_and_explained() {
        let all = codes();
        for pair in all.windows(2) {
            assert!(pair[0].code < pair[1].code, "{} is listed twice", pair[1].code);
        }
        for info in all {
            assert!(info.code.len() == 5 && info.code.starts_with(['E', 'W']), "{}", info.code);
            assert!(!info.title.is_empty() && !info.explain.is_empty(), "{}", info.code);
        }
    }
}
