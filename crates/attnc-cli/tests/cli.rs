//! The command line as its users see it: every file of `tests/cases` is a session, run in a directory of its own.
//!
//! ```text
//! # a comment
//! @ window.attn                       a file, from the lines that follow and begin with `|`
//! | pattern window = q - k in 0 .. 3
//! % dir d                             a directory
//! % zeros f N                         a file of N zero bytes
//! % repeat f N UNIT                   a file of the unit N times; `@` lines before it are kept, `\n` ends lines;
//!                                     `#` is the number of the repetition, from 0
//! % chain f N                         files f0.attn, f1.attn, .. of which each imports the next
//! % append f TEXT                     text at the end of a file
//! % bytes f HEX                       bytes at the end of a file
//! % cut f N                           the first N bytes of a file
//! % tensors f q=f32[2,16,8] ..        a safetensors file of small numbers; `n=i64(0,3,5)` are these
//! % header f LENGTH BYTES JSON        a safetensors file that says its header has LENGTH bytes (`-`: as many as it
//!                                     has), with that header and BYTES zero bytes of data
//! % equal f g                         both files hold the same bytes
//! % absent NAME                       no file here has this in its name
//! % memory MIB                        the commands that follow may map so much memory, where the system can tell
//! % stacks MIB                        each of their threads takes so much for its stack
//! $ attnc show window.attn            a command, in that directory
//! < text                              a line of its standard input
//! > text                              a line of its standard output: all of them, if one is given
//! ~ text                              its standard output holds this
//! ! text                              its standard error holds this
//! ? N                                 its exit code; 0 if not given
//! ```
//!
//! A command without `!` lines writes nothing to standard error. No command may panic or hang.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "common/commands.rs"]
mod commands;
use commands::Limits;

#[test]
fn sessions() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&cases).expect("tests/cases").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let mut wrong = Vec::new();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "txt")) {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory for the session");
        let text = fs::read_to_string(file).expect("a session");
        session(&name, &text, &dir, &mut wrong);
        fs::remove_dir_all(&dir).expect("cleans up");
    }
    assert!(wrong.is_empty(), "{} wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

/// A command and what is expected of it.
#[derive(Default)]
struct Expected<'a> {
    line: usize,
    args: Vec<&'a str>,
    input: String,
    lines: Option<String>,
    holds: Vec<&'a str>,
    says: Vec<&'a str>,
    exit: i32,
    limits: Limits,
}

fn session(name: &str, text: &str, dir: &Path, wrong: &mut Vec<String>) {
    let (mut pending, mut file): (Option<Expected<'_>>, Option<PathBuf>) = (None, None);
    let mut limits = Limits::default();
    for (n, line) in text.lines().enumerate().chain([(0, "end")]) {
        let (mark, rest) = line.split_at(line.len().min(1));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        if matches!(mark, "@" | "%" | "$" | "e")
            && let Some(expected) = pending.take()
        {
            check(name, &expected, dir, wrong);
        }
        let of = |pending: &mut Option<Expected<'_>>| {
            panic!("{name}:{}: no command before this: {}", n + 1, pending.is_some())
        };
        match mark {
            "" | "#" => {}
            "e" if n == 0 => {}
            "@" => {
                let path = dir.join(rest);
                fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
                fs::write(&path, "").expect("a file");
                file = Some(path);
            }
            "|" => commands::append(file.as_deref().expect("`@` before `|`"), &format!("{rest}\n")),
            "%" if limits.read(rest) => {}
            "%" => match rest.split_once(' ') {
                Some(("absent", part)) => {
                    let names = fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").file_name());
                    let found: Vec<_> = names.filter(|n| n.to_string_lossy().contains(part)).collect();
                    if !found.is_empty() {
                        wrong.push(format!("{name}:{}: there should be no {part}: {found:?}", n + 1));
                    }
                }
                Some(("equal", both)) => {
                    let (a, b) = both.split_once(' ').expect("% equal FILE FILE");
                    if fs::read(dir.join(a)).expect("a file") != fs::read(dir.join(b)).expect("a file") {
                        wrong.push(format!("{name}:{}: {a} and {b} differ", n + 1));
                    }
                }
                _ => commands::prepare(dir, rest),
            },
            "$" => {
                let words: Vec<&str> = rest.split_whitespace().collect();
                assert_eq!(words.first(), Some(&"attnc"), "{name}:{}", n + 1);
                pending = Some(Expected { line: n + 1, args: words[1..].to_vec(), limits, ..Expected::default() });
            }
            "<" | ">" | "~" | "!" | "?" => {
                let Some(expected) = &mut pending else { return of(&mut pending) };
                match mark {
                    "<" => expected.input.push_str(&format!("{rest}\n")),
                    ">" => expected.lines.get_or_insert_default().push_str(&format!("{rest}\n")),
                    "~" => expected.holds.push(rest),
                    "!" => expected.says.push(rest),
                    _ => expected.exit = rest.parse().expect("an exit code"),
                }
            }
            _ => panic!("{name}:{}: no such mark: {line}", n + 1),
        }
    }
}

fn check(name: &str, expected: &Expected<'_>, dir: &Path, wrong: &mut Vec<String>) {
    let output = commands::run(&expected.args, &expected.input, expected.limits, dir);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let mut faults = Vec::new();
    if output.status.code() != Some(expected.exit) {
        faults.push(format!("exit {:?}, expected {}", output.status.code(), expected.exit));
    }
    if let Some(lines) = &expected.lines
        && *lines != out
    {
        faults.push(format!("standard output should be:\n{lines}"));
    }
    faults.extend(expected.holds.iter().filter(|h| !out.contains(**h)).map(|h| format!("standard output lacks: {h}")));
    // Rendered messages are wrapped: words are compared, not lines.
    let flat =
        err.split(|c: char| c.is_whitespace() || c == '│').filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
    faults.extend(expected.says.iter().filter(|s| !flat.contains(**s)).map(|s| format!("standard error lacks: {s}")));
    if expected.says.is_empty() && !err.is_empty() {
        faults.push("standard error should be empty".to_owned());
    }
    if err.contains("internal error") || err.contains("panicked") {
        faults.push("it panicked".to_owned());
    }
    if !faults.is_empty() {
        let command = expected.args.join(" ");
        wrong.push(format!(
            "{name}:{}: attnc {command}\n{}\nstandard output:\n{out}\nstandard error:\n{err}",
            expected.line,
            faults.join("\n")
        ));
    }
}
