//! `attnc bench --compare`: results beside older ones of the same work.
//!
//! One idea: two results are of the same work if pattern, shape, element type and threads agree; everything else
//! (machine, plan, version) may differ and is what the ratio tells of. Nothing here measures.

use std::fmt::Write as _;
use std::path::Path;

use attnc::Diagnostic;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::machine;
use crate::report::{Failure, Outcome, exit};

/// Schema of the results of `bench`.
pub(crate) const SCHEMA: &str = "attnc.bench/1";

/// What results are matched by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) pattern: String,
    pub(crate) tokens: i64,
    pub(crate) keys: i64,
    pub(crate) batch: i64,
    pub(crate) heads: i64,
    pub(crate) kv_heads: i64,
    pub(crate) head_dim: i64,
    pub(crate) value_dim: i64,
    pub(crate) dtype: String,
    pub(crate) threads: usize,
}

/// Results of another time.
#[derive(Debug, Deserialize)]
pub(crate) struct Older {
    schema: String,
    results: Vec<Result>,
}

#[derive(Debug, Deserialize)]
struct Result {
    #[serde(flatten)]
    key: Key,
    run_ns: Times,
}

#[derive(Debug, Deserialize)]
struct Times {
    median: u64,
}

/// A result beside its older one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Compared {
    #[serde(flatten)]
    pub(crate) key: Key,
    /// Median then; `None` if that was not measured.
    pub(crate) old_ns: Option<u64>,
    /// Median now.
    pub(crate) new_ns: u64,
    /// How many times as fast it is now.
    pub(crate) ratio: Option<f64>,
}

impl Older {
    /// Reads what `bench --format json` printed.
    pub(crate) fn read(path: &Path) -> Outcome<Older> {
        let unreadable = |why: String| {
            let message = format!("results {} cannot be read: {why}", path.display());
            Failure::run("E0737", message, "make them anew: `attnc bench .. --format json`")
        };
        let bytes = files::read_at_most(path, 1 << 26).map_err(|e| match e {
            attnc::LoadError::NotFound => unreadable("the file does not exist".to_owned()),
            attnc::LoadError::Directory => unreadable("it is a directory".to_owned()),
            attnc::LoadError::TooLarge { bytes } => unreadable(format!("the file has {bytes} bytes")),
            attnc::LoadError::Other(why) => unreadable(why),
        })?;
        let older: Older = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        if older.schema != SCHEMA {
            return Err(unreadable(format!("the schema is `{}`, not `{SCHEMA}`", older.schema)));
        }
        Ok(older)
    }

    /// A result beside the last older one of the same work.
    pub(crate) fn compare(&self, key: Key, new_ns: u64) -> Compared {
        let old_ns = self.results.iter().rfind(|r| r.key == key).map(|r| r.run_ns.median);
        let ratio = old_ns.map(|old| old as f64 / new_ns.max(1) as f64);
        Compared { key, old_ns, new_ns, ratio }
    }
}

/// For people: a line a result.
pub(crate) fn table(compared: &[Compared]) -> String {
    let mut text = String::from("\ncompared\n");
    for c in compared {
        let Key { pattern, tokens, keys, heads, head_dim, dtype, threads, .. } = &c.key;
        let keys = if keys == tokens { String::new() } else { format!(" on {keys} keys") };
        let shape = format!("{tokens} tokens{keys}, {heads} heads, dim {head_dim}, {dtype}, {threads} threads");
        let new = machine::time(c.new_ns);
        // Writing to a string does not fail.
        let _ = match (c.old_ns, c.ratio) {
            (Some(old), Some(ratio)) => {
                writeln!(text, "  {pattern}, {shape}: {} to {new}, {ratio:.3} x as fast", machine::time(old))
            }
            _ => writeln!(text, "  {pattern}, {shape}: {new}, not among the older results"),
        };
    }
    text
}

/// Fails if a result takes longer than before by more than `allowed`, a share, or if nothing is known of any before.
pub(crate) fn judge(compared: &[Compared], allowed: f64) -> Outcome {
    if compared.iter().all(|c| c.old_ns.is_none()) {
        let why = "--fail-if-slower has nothing to judge: none of the results is among the older ones";
        return Err(Failure::run("E0737", why, "--compare results of the same pattern, shape, type and threads"));
    }
    let slower = |c: &&Compared| c.old_ns.is_some_and(|old| c.new_ns as f64 > old as f64 * (1.0 + allowed));
    let list: Vec<Diagnostic> = compared
        .iter()
        .filter(slower)
        .map(|c| {
            let more = 100.0 * (c.new_ns as f64 / c.old_ns.unwrap_or(1).max(1) as f64 - 1.0);
            let allowed = 100.0 * allowed;
            let message = format!("`{}` is {more:.1} % slower; {allowed} % are allowed", c.key.pattern);
            Diagnostic::global("E0738", message).help("other work on the machine slows results too: measure again")
        })
        .collect();
    if list.is_empty() {
        return Ok(());
    }
    Err(Failure { exit: exit::SLOWER, diagnostics: attnc::Diagnostics { list, ..attnc::Diagnostics::default() } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pattern: &str, threads: usize) -> Key {
        Key {
            pattern: pattern.to_owned(),
            tokens: 64,
            keys: 64,
            batch: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 32,
            value_dim: 32,
            dtype: "f16".to_owned(),
            threads,
        }
    }

    fn older() -> Older {
        let of = |key, median| Result { key, run_ns: Times { median } };
        let results = vec![of(key("a", 2), 900), of(key("a", 2), 1000), of(key("b", 2), 1000)];
        Older { schema: SCHEMA.to_owned(), results }
    }

    #[test]
    fn the_last_of_the_same_work_counts() {
        let compared = older().compare(key("a", 2), 500);
        assert_eq!((compared.old_ns, compared.ratio), (Some(1000), Some(2.0)));
        assert_eq!(older().compare(key("a", 1), 500).old_ns, None);
        assert!(table(&[compared]).contains("2.000 x as fast"));
    }

    #[test]
    fn slower_by_more_than_allowed_fails() {
        let of = |new| [older().compare(key("b", 2), new), older().compare(key("c", 2), new)];
        assert!(judge(&of(1050), 0.05).is_ok());
        assert!(judge(&of(1051), 0.05).is_err_and(|f| f.exit == exit::SLOWER && f.diagnostics.list.len() == 1));
    }
}
