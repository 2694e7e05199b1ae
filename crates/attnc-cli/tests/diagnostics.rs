//! How the diagnostic of each example of a code table looks: one snapshot for each.
//!
//! Those that need files, tensors or options are drawn on `docs/errors.md`, which `errors.rs` holds against the tool.
//! `INSTA_UPDATE=always cargo test --release -p attnc-cli` writes the snapshots anew; read the difference.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn every_example_is_drawn() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("diagnostics");
    fs::create_dir_all(&dir).expect("a directory");
    for info in attnc::codes().into_iter().filter(|info| !info.example.is_empty()) {
        fs::write(dir.join("example.attn"), info.example).expect("a file");
        let output = Command::new(env!("CARGO_BIN_EXE_attnc"))
            .args(["check", "--color", "never", "example.attn"])
            .current_dir(&dir)
            .output()
            .expect("attnc runs");
        let said = String::from_utf8_lossy(&output.stderr);
        let own = drawing(&said, info.code).unwrap_or_else(|| panic!("{}: its example says\n{said}", info.code));
        let exit = i32::from(!info.code.starts_with('W'));
        assert_eq!(output.status.code(), Some(exit), "{}", info.code);
        insta::with_settings!({ description => info.title, omit_expression => true }, {
            insta::assert_snapshot!(info.code, own);
        });
    }
}

/// The first drawing of a code among all that was said; each begins with a line that is its code.
fn drawing(said: &str, code: &str) -> Option<String> {
    let begins =
        |line: &str| line.len() == 5 && line.starts_with(['E', 'W']) && line[1..].bytes().all(|b| b.is_ascii_digit());
    let mut lines = said.lines().skip_while(|line| *line != code);
    let first = lines.next()?;
    let rest: Vec<&str> = lines.take_while(|line| !begins(line)).collect();
    Some(format!("{first}\n{}", rest.join("\n")))
}
