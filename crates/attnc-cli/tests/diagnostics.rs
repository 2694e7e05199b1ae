//! How each diagnostic looks: one snapshot for every code that `attnc explain` knows.
//!
//! Codes with an example are drawn here from the example; those that need files, tensors or options are drawn by the
//! sessions of `cli.rs`, which mark them with `= CODE`. `INSTA_UPDATE=always cargo test --release -p attnc-cli` writes the
//! snapshots anew; read the difference.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

mod common;

/// Codes that no file and no command gives on a machine in order.
const OUT_OF_REACH: &[(&str, &str)] = &[
    ("E0105", "the command line refuses a file of that size before it is read, with E0803"),
    ("E0610", "needs a machine that lacks a target"),
    ("E0611", "what a target lacks is told by its own sentence, and a session shows one"),
    ("E0613", "a program builds trees, and files hold text"),
    ("E0620", "needs a GPU"),
    ("E0621", "needs a GPU"),
    ("E0622", "needs a GPU that fails"),
    ("E0699", "a mistake of the compiler"),
    ("E0708", "the checker proves that every expression has a value, and indices are clamped"),
    ("E0738", "it tells measured times"),
    ("E0739", "programs of Python and C hand over memory"),
    ("E0740", "programs of C hand over arguments"),
    ("E0710", "the library refuses such tensors before the oracle sees them, with E0721"),
];

#[test]
fn every_example_is_drawn() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("diagnostics");
    fs::create_dir_all(&dir).expect("a directory");
    for info in attnc::codes().into_iter().filter(|info| !info.example.is_empty()) {
        fs::write(dir.join("example.attn"), info.example).expect("a file");
        // These two are about values given to params, which no file holds.
        let set: &[&str] = match info.code {
            "E0308" => &["--set", "windw=512"],
            "E0309" => &["--set", "window=wide"],
            _ => &[],
        };
        let output = Command::new(env!("CARGO_BIN_EXE_attnc"))
            .args(["check", "--color", "never", "example.attn"])
            .args(set)
            .current_dir(&dir)
            .output()
            .expect("attnc runs");
        let said = String::from_utf8_lossy(&output.stderr);
        let own =
            common::drawing(&said, info.code).unwrap_or_else(|| panic!("{}: its example says\n{said}", info.code));
        let exit = if info.code.starts_with('W') {
            0
        } else if set.is_empty() {
            1
        } else {
            2
        };
        assert_eq!(output.status.code(), Some(exit), "{}", info.code);
        insta::with_settings!({ description => info.title, omit_expression => true }, {
            insta::assert_snapshot!(info.code, own);
        });
    }
}

#[test]
fn every_code_is_drawn_somewhere() {
    let mut drawn: BTreeSet<String> =
        attnc::codes().iter().filter(|info| !info.example.is_empty()).map(|info| info.code.to_owned()).collect();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")).expect("sessions") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a session");
        drawn.extend(text.lines().filter_map(|line| line.strip_prefix("= ")).map(str::to_owned));
    }
    let known = known();
    assert!(
        known.contains("E0701") && known.contains("E0809"),
        "codes of the library and of the command line: {known:?}"
    );
    let out_of_reach: BTreeSet<String> = OUT_OF_REACH.iter().map(|(code, _)| (*code).to_owned()).collect();
    assert!(drawn.is_disjoint(&out_of_reach), "within reach after all");
    let lack: Vec<_> = known.iter().filter(|code| !drawn.contains(*code) && !out_of_reach.contains(*code)).collect();
    assert!(lack.is_empty(), "no session of `tests/cases` draws {lack:?} with `= CODE`");
    let gone: Vec<_> = drawn.union(&out_of_reach).filter(|code| !known.contains(*code)).collect();
    assert!(gone.is_empty(), "`attnc explain` does not know {gone:?}");
}

/// Every code that `attnc explain` knows: it lists them when asked for another.
fn known() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_attnc")).args(["explain", "none"]).output().expect("attnc runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let words = said.split_whitespace().map(|word| word.trim_end_matches(','));
    let code =
        |word: &&str| word.len() == 5 && word.starts_with(['E', 'W']) && word[1..].bytes().all(|b| b.is_ascii_digit());
    words.filter(code).map(str::to_owned).collect()
}
