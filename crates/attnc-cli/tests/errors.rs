//! `docs/errors.md` is the list of codes, each with a failing example that is a test.
//!
//! Title and explanation of a section are those of `attnc explain`; an `attn` example of the code tables follows them.
//! What a source alone cannot show is a `console` block, run here; `rust` blocks are doc tests of `attnc`, and `c` blocks
//! are run by the tests of `attnc-c`. `docs/testing.md` has the form. `ATTNC_BLESS=1` writes what can be written: titles,
//! explanations, examples of the tables, and what commands say.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "common/commands.rs"]
mod commands;
use commands::Limits;

const FENCE: &str = "```";

#[test]
fn every_code_has_an_example_that_gives_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    let have = fs::read_to_string(&path).expect("docs/errors.md");
    let (head, sections) = split(&have);
    let known = known();
    let mut wrong: Vec<String> = sections
        .keys()
        .filter(|code| !known.contains_key(**code))
        .map(|code| format!("{code}: `attnc explain` does not know it"))
        .collect();
    let mut want = head.to_owned();
    for (code, explained) in &known {
        let section = sections.get(code.as_str()).copied().unwrap_or("");
        let example = attnc::codes().into_iter().find(|info| info.code == code).map_or("", |info| info.example);
        let _ = write!(want, "## {code}\n\n{explained}");
        let mut blocks = blocks(section);
        // An example of a hundred errors says little on a page.
        if !example.is_empty() && example.len() < 2000 {
            if blocks.first().is_none_or(|block| block.info != "attn") {
                blocks.insert(0, Block { before: String::new(), info: "attn".to_owned(), lines: vec![] });
            }
            blocks[0].lines = example.trim_end().lines().map(str::to_owned).collect();
        }
        let gives = run(code, &mut blocks, &mut wrong) || !example.is_empty();
        if !gives {
            wrong.push(format!("{code}: has no example"));
        }
        for Block { before, info, lines } in &blocks {
            let _ = write!(want, "{before}\n{FENCE}{info}\n{}\n{FENCE}\n", lines.join("\n"));
        }
        want.push('\n');
    }
    want.truncate(want.trim_end().len());
    want.push('\n');
    if std::env::var_os("ATTNC_BLESS").is_some() {
        fs::write(&path, &want).expect("writes the page");
    } else if let Some((line, (is, ought))) =
        have.lines().chain(["(the end)"]).zip(want.lines().chain(["(the end)"])).enumerate().find(|(_, (a, b))| a != b)
    {
        let place = format!("docs/errors.md:{}", line + 1);
        wrong.push(format!("{place} is\n    {is}\nand should be\n    {ought}\nATTNC_BLESS=1 writes the page"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Every code that `attnc explain` knows, with what it says: it lists them when asked for another.
fn known() -> BTreeMap<String, String> {
    let explain = |code: &str| commands::run(&["explain", code], "", Limits::default(), Path::new("."));
    let said = String::from_utf8(explain("none").stderr).expect("text");
    let code =
        |word: &&str| word.len() == 5 && word.starts_with(['E', 'W']) && word[1..].bytes().all(|b| b.is_ascii_digit());
    let codes: Vec<&str> = said.split_whitespace().filter(code).collect();
    assert!(codes.contains(&"E0701") && codes.contains(&"E0809"), "codes of the library and of the command line");
    let text = |code: &str| {
        let said = String::from_utf8(explain(code).stdout).expect("text");
        let (title, rest) = said.split_once("\n\n").expect("a title and an explanation");
        let title = title.split_once(": ").expect("CODE: TITLE").1.trim_end_matches('.');
        let explained = rest.split("\n\nFor example:\n").next().unwrap_or_default().trim_end();
        format!("{title}.\n\n{explained}\n")
    };
    codes.into_iter().map(|code| (code.to_owned(), text(code))).collect()
}

/// What stands before the first section, and the sections without their headings.
fn split(page: &str) -> (&str, BTreeMap<&str, &str>) {
    let mut parts = page.split("\n## ");
    let head = parts.next().expect("a head");
    let sections = parts.map(|part| part.split_once('\n').expect("a heading")).collect();
    (&page[..head.len() + 1], sections)
}

/// A block of code, and the text before it.
struct Block {
    before: String,
    info: String,
    lines: Vec<String>,
}

/// The blocks of a section. The text before the first is the explanation, which is known.
fn blocks(section: &str) -> Vec<Block> {
    let (mut found, mut text, mut lines) = (vec![], String::new(), section.lines());
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix(FENCE) else {
            text = if line.is_empty() && text.is_empty() { text } else { format!("{text}{line}\n") };
            continue;
        };
        let body = lines.by_ref().take_while(|line| *line != FENCE).map(str::to_owned).collect();
        let text = std::mem::take(&mut text);
        let text = text.trim_end();
        let before = if found.is_empty() || text.is_empty() { String::new() } else { format!("\n{text}\n") };
        found.push(Block { before, info: info.to_owned(), lines: body });
    }
    found
}

/// Runs the `console` blocks of a section, and writes down what the commands say. Is there a block that gives the code?
fn run(code: &str, blocks: &mut [Block], wrong: &mut Vec<String>) -> bool {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("errors").join(code);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a directory for the example");
    let mut gives = false;
    for block in blocks {
        match block.info.as_str() {
            "attn" => write(dir.join("example.attn"), &block.lines),
            "console gpu" if !gpu() => gives = true,
            "console" | "console gpu" => {
                let said = console(&block.lines, &dir);
                gives |= said.iter().any(|line| line == code);
                block.lines = said;
            }
            // They compare a code with the one that they are given, and are run elsewhere.
            "rust" | "c" => gives |= block.lines.iter().any(|line| line.contains(code)),
            info => match info.strip_prefix("attn ").or_else(|| info.strip_prefix("json ")) {
                Some(file) => write(dir.join(file), &block.lines),
                None => wrong.push(format!("{code}: a block of the kind `{info}`")),
            },
        }
    }
    fs::remove_dir_all(&dir).expect("cleans up");
    gives
}

/// Whether there is a GPU; what is not tested without it is said.
#[expect(clippy::print_stderr, reason = "a test that says what it skips")]
fn gpu() -> bool {
    let said = commands::run(&["targets"], "", Limits::default(), Path::new("."));
    let found = String::from_utf8_lossy(&said.stdout).lines().any(|l| l.starts_with("gpu:") && l.contains(" yes "));
    if !found {
        eprintln!("skipped: no GPU adapter can serve");
    }
    found
}

fn write(path: PathBuf, lines: &[String]) {
    fs::write(path, lines.join("\n") + "\n").expect("a file");
}

/// The lines of a block as they are if its commands are run: `# ` makes a file, `$ ` is a command, and what it says on
/// standard error and its exit code follow. What says `..` on the page is left as it is, if it is true.
fn console(lines: &[String], dir: &Path) -> Vec<String> {
    let (mut out, mut lines, mut limits) = (vec![], lines.iter().peekable(), Limits::default());
    while let Some(line) = lines.next() {
        out.push(line.clone());
        if let Some(rest) = line.strip_prefix("# ") {
            if !limits.read(rest) {
                commands::prepare(dir, rest);
            }
        } else if let Some(args) = line.strip_prefix("$ attnc ") {
            let args: Vec<&str> = args.split_whitespace().collect();
            let ended = commands::run(&args, "", limits, dir);
            let mut printed = vec![];
            while let Some(line) = lines.next_if(|line| !line.starts_with("$ attnc ") && !line.starts_with("# ")) {
                printed.push(line.clone());
            }
            let mut said: Vec<String> = String::from_utf8_lossy(&ended.stderr)
                .trim_end()
                .lines()
                .map(|line| line.trim_end().to_owned())
                .collect();
            said.extend([
                "$ echo $?".to_owned(),
                ended.status.code().map_or("none".to_owned(), |code| code.to_string()),
            ]);
            out.extend(if alike(&printed, &said) { printed } else { said });
        }
    }
    out
}

/// Is what is printed what was said, where `..` stands for any number of lines?
fn alike(printed: &[String], said: &[String]) -> bool {
    match printed.split_first() {
        None => said.is_empty(),
        Some((line, rest)) if line.trim() == ".." => (0..=said.len()).any(|n| alike(rest, &said[n..])),
        Some((line, rest)) => said.first() == Some(line) && alike(rest, &said[1..]),
    }
}
