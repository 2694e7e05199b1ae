//! How each diagnostic looks: one snapshot for every code that has an example.
//!
//! `INSTA_UPDATE=always cargo test -p attnc-cli --test diagnostics` writes them anew; read the difference.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn every_diagnostic_is_drawn() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("diagnostics");
    fs::create_dir_all(&dir).expect("a directory");
    let mut drawn = 0;
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
        let own = drawing(&said, info.code).unwrap_or_else(|| panic!("{}: its example says\n{said}", info.code));
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
        drawn += 1;
    }
    assert!(drawn > 30, "{drawn} codes have an example");
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
