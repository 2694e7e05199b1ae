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
//! % tensors f q=f32[2,16,8] ..        a safetensors file of small numbers
//! % header f LENGTH BYTES JSON        a safetensors file that says its header has LENGTH bytes (`-`: as many as it
//!                                     has), with that header and BYTES zero bytes of data
//! % equal f g                         both files hold the same bytes
//! % absent NAME                       no file here has this in its name
//! % memory MIB                        the commands that follow may map so much memory, where the system can tell
//! $ attnc show window.attn            a command, in that directory
//! < text                              a line of its standard input
//! > text                              a line of its standard output: all of them, if one is given
//! ~ text                              its standard output holds this
//! ! text                              its standard error holds this
//! = CODE                              its standard error draws this code like the snapshot
//! ? N                                 its exit code; 0 if not given
//! ```
//!
//! A command without `!` and `=` lines writes nothing to standard error. No command may panic, or take longer than [`PATIENCE`].

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod common;

/// A command that takes longer hangs; those of the sessions take a second at most on an idle machine.
const PATIENCE: Duration = Duration::from_secs(100);

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
    draws: Vec<&'a str>,
    exit: i32,
    /// Memory that it may map, in MiB.
    memory: Option<u64>,
}

fn session(name: &str, text: &str, dir: &Path, wrong: &mut Vec<String>) {
    let (mut pending, mut file, mut memory): (Option<Expected<'_>>, Option<PathBuf>, Option<u64>) = (None, None, None);
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
            "|" => append(file.as_deref().expect("`@` before `|`"), &format!("{rest}\n")),
            "%" => match rest.split_once(' ') {
                Some(("memory", mib)) => memory = Some(mib.parse().expect("% memory MIB")),
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
                _ => prepare(dir, rest),
            },
            "$" => {
                let words: Vec<&str> = rest.split_whitespace().collect();
                assert_eq!(words.first(), Some(&"attnc"), "{name}:{}", n + 1);
                pending = Some(Expected { line: n + 1, args: words[1..].to_vec(), memory, ..Expected::default() });
            }
            "<" | ">" | "~" | "!" | "=" | "?" => {
                let Some(expected) = &mut pending else { return of(&mut pending) };
                match mark {
                    "<" => expected.input.push_str(&format!("{rest}\n")),
                    ">" => expected.lines.get_or_insert_default().push_str(&format!("{rest}\n")),
                    "~" => expected.holds.push(rest),
                    "!" => expected.says.push(rest),
                    "=" => expected.draws.push(rest),
                    _ => expected.exit = rest.parse().expect("an exit code"),
                }
            }
            _ => panic!("{name}:{}: no such mark: {line}", n + 1),
        }
    }
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
}

/// Runs a `%` line.
fn prepare(dir: &Path, line: &str) {
    let (word, rest) = line.split_once(' ').expect("% WORD FILE ..");
    let (file, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let path = dir.join(file);
    match word {
        "dir" => fs::create_dir_all(path).expect("a directory"),
        "zeros" => fs::File::create(path).and_then(|f| f.set_len(rest.parse().expect("a size"))).expect("a file"),
        "repeat" => {
            let (count, unit) = rest.split_once(' ').expect("% repeat FILE N UNIT");
            let unit = unit.replace("\\n", "\n");
            let count: usize = count.parse().expect("a count");
            append(&path, &(0..count).map(|i| unit.replace('#', &i.to_string())).collect::<String>());
        }
        "chain" => {
            for i in 0..rest.parse().expect("a count") {
                let text = format!("import p from \"{file}{}.attn\"\n", i + 1);
                fs::write(dir.join(format!("{file}{i}.attn")), text).expect("written");
            }
        }
        "bytes" => {
            let digits = |i: usize| u8::from_str_radix(&rest[2 * i..2 * i + 2], 16).expect("two digits");
            let bytes: Vec<u8> = (0..rest.len() / 2).map(digits).collect();
            let mut file = fs::OpenOptions::new().append(true).create(true).open(&path).expect("a file");
            file.write_all(&bytes).expect("written");
        }
        "header" => {
            let mut words = rest.splitn(3, ' ');
            let mut next = || words.next().expect("% header FILE LENGTH BYTES JSON");
            let (length, data, json) = (next(), next().parse().expect("a count"), next());
            let length: u64 = if length == "-" { json.len() as u64 } else { length.parse().expect("a length") };
            fs::write(path, [&length.to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat()).expect("written");
        }
        "append" => append(&path, &rest.replace("\\n", "\n")),
        "cut" => {
            let bytes = fs::read(&path).expect("a file");
            fs::write(path, &bytes[..rest.parse().expect("a size")]).expect("written");
        }
        "tensors" => fs::write(path, tensors(rest)).expect("written"),
        _ => panic!("no such preparation: {line}"),
    }
}

/// A safetensors file; elements are small multiples of 1/8.
fn tensors(line: &str) -> Vec<u8> {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for tensor in line.split_whitespace() {
        let (name, rest) = tensor.split_once('=').expect("NAME=TYPE[..]");
        let (kind, shape) = rest.trim_end_matches(']').split_once('[').expect("TYPE[..]");
        let extents: Vec<usize> = shape.split(',').map(|n| n.parse().expect("an extent")).collect();
        let begin = data.len();
        for i in 0..extents.iter().product::<usize>() {
            let value = (i * 7 % 19) as f32 / 8.0 - 1.0;
            match kind {
                "f32" => data.extend(value.to_le_bytes()),
                "f16" => data.extend(half::f16::from_f32(value).to_le_bytes()),
                "bf16" => data.extend(half::bf16::from_f32(value).to_le_bytes()),
                "i64" => data.extend((i as i64).to_le_bytes()),
                "i32" => data.extend((i as i32).to_le_bytes()),
                "u8" => data.push(u8::from(i % 3 != 1)),
                _ => panic!("no such type: {kind}"),
            }
        }
        header.push(format!(
            "\"{name}\":{{\"dtype\":\"{}\",\"shape\":[{shape}],\"data_offsets\":[{begin},{}]}}",
            kind.to_uppercase(),
            data.len()
        ));
    }
    let header = format!("{{{}}}", header.join(","));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// What a command wrote; one that hangs is killed, and so ends without a code.
fn end(mut child: Child) -> Output {
    fn read(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("a pipe is read");
            bytes
        })
    }
    let out = read(child.stdout.take().expect("a pipe"));
    let err = read(child.stderr.take().expect("a pipe"));
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("attnc ends") {
            break status;
        }
        if begin.elapsed() > PATIENCE {
            child.kill().expect("attnc ends");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Output { status, stdout: out.join().expect("no panic"), stderr: err.join().expect("no panic") }
}

fn check(name: &str, expected: &Expected<'_>, dir: &Path, wrong: &mut Vec<String>) {
    let attnc = env!("CARGO_BIN_EXE_attnc");
    let mut command = match expected.memory {
        Some(mib) if cfg!(target_os = "linux") => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -v {}; exec \"$0\" \"$@\"", mib << 10), attnc]);
            shell
        }
        _ => Command::new(attnc),
    };
    command.args(&expected.args).current_dir(dir).env("NO_COLOR", "1");
    // Mesa's software Vulkan asks for it on standard error.
    command.env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR"));
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("attnc runs");
    // A command that does not read its input has gone before this is written.
    let _ = child.stdin.take().expect("a pipe").write_all(expected.input.as_bytes());
    let output = end(child);
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
    for code in &expected.draws {
        match common::drawing(&err, code) {
            Some(drawing) => {
                insta::with_settings!({ description => expected.args.join(" "), omit_expression => true }, {
                    insta::assert_snapshot!(*code, drawing);
                })
            }
            None => faults.push(format!("standard error lacks: {code}")),
        }
    }
    if expected.says.is_empty() && expected.draws.is_empty() && !err.is_empty() {
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
