//! What the documents and pattern files say is what the tool does: every block of code is checked, every picture drawn again.
//!
//! The form of both is in `docs/testing.md`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project")
}

fn attnc(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_attnc")).args(args).current_dir(dir).output().expect("attnc runs")
}

/// Every pattern file of the project, relative to its root.
fn patterns() -> Vec<String> {
    let mut all = patterns_in(&["patterns", "patterns/models"]);
    all.extend(patterns_in(&["patterns/papers"]));
    all
}

fn patterns_in(dirs: &[&str]) -> Vec<String> {
    let mut found = vec![];
    for dir in dirs {
        for entry in fs::read_dir(root().join(dir)).expect("patterns") {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            if name.ends_with(".attn") {
                found.push(format!("{dir}/{name}"));
            }
        }
    }
    found.sort();
    assert!(found.len() > 10, "patterns are found in {dirs:?}");
    found
}

/// A picture without trailing spaces and empty lines.
fn trimmed(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_string()
}

fn compare(place: &str, args: &[&str], dir: &Path, picture: &str, wrong: &mut Vec<String>) {
    let out = attnc(args, dir);
    let drawn = String::from_utf8_lossy(&out.stdout);
    if trimmed(&drawn) != trimmed(picture) {
        wrong.push(format!("{place}: {args:?}\n{drawn}{}", String::from_utf8_lossy(&out.stderr)));
    }
}

#[test]
fn patterns_are_fine_and_laid_out() {
    let mut wrong = vec![];
    for file in patterns() {
        for args in [&["check", &file][..], &["fmt", "--check", &file]] {
            let out = attnc(args, &root());
            if !out.status.success() {
                wrong.push(format!("{args:?}\n{}", String::from_utf8_lossy(&out.stderr)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn patterns_show_their_pictures() {
    let (mut wrong, mut seen) = (vec![], 0);
    for file in patterns() {
        let text = fs::read_to_string(root().join(&file)).expect("a pattern");
        let mut lines = text.lines().peekable();
        let mut subjects = vec![];
        while let Some(line) = lines.next() {
            let Some(command) = line.trim_start_matches('/').trim_start().strip_prefix("$ attnc ") else { continue };
            let mut picture = String::new();
            while let Some(next) = lines.peek().filter(|l| l.starts_with("//") && !l.contains("$ attnc ")) {
                picture.push_str(next.trim_start_matches('/').strip_prefix("     ").unwrap_or(""));
                picture.push('\n');
                let blank = next.trim_start_matches('/').trim().is_empty();
                lines.next();
                if blank && !trimmed(&picture).is_empty() {
                    break;
                }
            }
            let args: Vec<&str> = command.split_whitespace().collect();
            compare(&file, &args, &root(), &picture, &mut wrong);
            subjects.push(args[1].to_owned());
            seen += 1;
        }
        // Those of the standard library are on the language page.
        if file != "patterns/std.attn" {
            let drawn = |name: &str| subjects.iter().any(|s| *s == file || *s == format!("{file}:{name}"));
            let not_drawn = shown_alone(&text).into_iter().filter(|name| !drawn(name));
            wrong.extend(not_drawn.map(|name| format!("{file}: `{name}` has no picture")));
        }
    }
    assert!(seen > 30, "pictures are found: {seen}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Text without its comments.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or("")).collect();
    lines.join("\n")
}

/// Words of a text: names, keywords, numbers.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Patterns without arguments, attentions and merges of a file that are no part of another one.
fn shown_alone(text: &str) -> Vec<String> {
    let code = code(text);
    let items: Vec<&str> = code.split("\n\n").map(str::trim).collect();
    let declared = |item: &&str| {
        let (kind, rest) = item.split_once(' ')?;
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
        let has_arguments = rest[end..].starts_with('(');
        (matches!(kind, "pattern" | "attention" | "merge") && !has_arguments).then(|| rest[..end].to_owned())
    };
    // Models give each what they name to heads: that makes it no part.
    let others: Vec<&str> = items.iter().copied().filter(|item| !item.starts_with("model ")).collect();
    let part = |name: &String| {
        others.iter().any(|item| declared(item).as_ref() != Some(name) && words(item).any(|word| word == name))
    };
    items.iter().filter_map(declared).filter(|name| !part(name)).collect()
}

/// A block of code of a page: its line, its info string and its lines.
struct Block<'a> {
    line: usize,
    info: &'a str,
    body: Vec<&'a str>,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let (mut found, mut lines) = (vec![], text.lines().enumerate());
    while let Some((number, line)) = lines.next() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            let body = lines.by_ref().map(|l| l.1).take_while(|l| l.trim() != "```").collect();
            found.push(Block { line: number + 1, info, body });
        }
    }
    found
}

const LANGUAGE: &str = "docs/language.md";

#[test]
fn documents_are_true() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("documents");
    fs::create_dir_all(&dir).expect("a directory");
    let (mut wrong, mut examples, mut pictures) = (vec![], 0, 0);
    for document in [LANGUAGE, "README.md"] {
        let text = fs::read_to_string(root().join(document)).expect("a document");
        // The example that has no picture yet.
        let mut bare: Option<usize> = None;
        // Ends the last.
        let end = Block { line: 0, info: "attn", body: vec![] };
        for block in blocks(&text).iter().chain([&end]) {
            let place = format!("{document}:{}", block.line);
            if let Some(rest) = block.info.strip_prefix("text show ") {
                let mut words = rest.split_whitespace();
                let subject = format!("block.attn:{}", words.next().unwrap_or(""));
                let args: Vec<&str> = ["show", subject.as_str()].into_iter().chain(words).collect();
                compare(&place, &args, &dir, &block.body.join("\n"), &mut wrong);
                pictures += 1;
                bare = None;
            } else if block.info == "attn" {
                if let Some(line) = bare.replace(block.line) {
                    wrong.push(format!("{document}:{line}: an example without a picture"));
                }
                if block.line == 0 {
                    break;
                }
                fs::write(dir.join("block.attn"), block.body.join("\n") + "\n").expect("a file");
                for args in [&["check", "block.attn"][..], &["fmt", "--check", "block.attn"]] {
                    let out = attnc(args, &dir);
                    if !out.status.success() {
                        wrong.push(format!("{place}: {args:?}\n{}", String::from_utf8_lossy(&out.stderr)));
                    }
                }
                examples += 1;
            } else if let Some(file) = block.info.strip_prefix("attn ") {
                // What the next example imports.
                fs::write(dir.join(file), block.body.join("\n") + "\n").expect("a file");
            } else if document == LANGUAGE && block.info != "text grammar" {
                wrong.push(format!("{place}: no test knows a block of the kind `{}`", block.info));
            }
        }
    }
    assert!(examples > 20 && pictures > 10, "{examples} examples, {pictures} pictures");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the language page says in examples, without comments.
fn examples() -> String {
    let text = fs::read_to_string(root().join(LANGUAGE)).expect("a document");
    let of_language = blocks(&text).into_iter().filter(|block| block.info == "attn");
    of_language.map(|block| code(&block.body.join("\n"))).collect::<Vec<_>>().join("\n")
}

/// Sources with one unknown word each, in whose place the compiler knows words of its own, and names them.
const UNKNOWN: &[&str] = &[
    "space image(h, w)\norder z = zzzzzzzz(h, w)",
    "level g = zzzzzzzz(4) of k, v",
    "select s = zzzzzzzz 4 of dot(q, k) per q",
    "select s = top 4 of dot(q, k) per zzzzzzzz",
    "select s = bands zzzzzzzz { a = 0.5 } of dot(q, k) per q",
    "score a = dot(q, k) then zzzzzzzz",
    "score a = dot(q, k) then minmax per zzzzzzzz",
    "pattern p = causal\nmerge m = zzzzzzzz of p, p",
    "pattern p = k in zzzzzzzz(1, 2, 3)",
    "pattern p = random 2 of causal per zzzzzzzz seed 7",
    "attention a {\n  align = zzzzzzzz\n  attend all\n}",
    "attention a {\n  empty = zzzzzzzz\n  attend all\n}",
    "level g = mean(2) of q, k, v\nattention a {\n  queries = g zzzzzzzz\n  attend all\n}",
];

#[test]
fn the_language_page_uses_every_word() {
    let examples = examples();
    let used: Vec<&str> = words(&examples).collect();
    let mut wrong = vec![];
    // Words and signs of the grammar. Some have two tokens, `step-arm` and `step-by`, and some stand for many words.
    let grammar = fs::read_to_string(root().join("grammar/attn.lalrpop")).expect("the grammar");
    let tokens =
        grammar.split("enum Token").nth(1).and_then(|rest| rest.split("// ---- items").next()).expect("tokens");
    let tokens: Vec<&str> =
        tokens.lines().filter_map(|l| l.trim().strip_prefix('"')?.split_once("\" =>")).map(|t| t.0).collect();
    assert!(tokens.len() > 80, "{tokens:?}");
    for token in tokens {
        let word = token.split('-').next().filter(|word| !word.is_empty()).unwrap_or(token);
        let word = if word.len() > 2 { word.trim_end_matches('=') } else { word };
        let many = ["name", "integer", "real", "string", "clause", "axis,"].contains(&word);
        let is_word = word.starts_with(|c: char| c.is_ascii_alphabetic());
        if !many && !(if is_word { used.contains(&word) } else { examples.contains(word) }) {
            wrong.push(format!("`{word}` of the grammar"));
        }
    }
    let cutter = fs::read_to_string(root().join("crates/attnc-syntax/src/items.rs")).expect("the item cutter");
    let clauses: Vec<&str> =
        cutter.split("Token::Clause(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(clauses.contains(&"at least"), "{clauses:?}");
    wrong.extend(clauses.iter().filter(|word| !examples.contains(**word)).map(|word| format!("the clause `{word}`")));
    // Words of the checker.
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("words");
    fs::create_dir_all(&dir).expect("a directory");
    for source in UNKNOWN {
        fs::write(dir.join("unknown.attn"), format!("{source}\n")).expect("a file");
        let said = String::from_utf8(attnc(&["check", "--color", "never", "unknown.attn"], &dir).stderr).expect("text");
        let help = said.split("help: write ").nth(1).unwrap_or_else(|| panic!("{source}\n{said}"));
        let known: Vec<&str> = help.split('`').skip(1).step_by(2).collect();
        assert!(!known.is_empty(), "{source}\n{said}");
        wrong.extend(known.iter().filter(|word| !examples.contains(**word)).map(|word| format!("`{word}`: {source}")));
    }
    // Words of the page itself: what cannot be declared, kinds of maps, what a score and a merge may say.
    let text = fs::read_to_string(root().join(LANGUAGE)).expect("a document");
    let reserved =
        text.split("## Reserved names").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let reserved = reserved.split('`').skip(1).step_by(2);
    let others = ["bool", "blocks", "csr", "offsets", "dot", "energy", "unit", "over_group", "over_heads"];
    wrong.extend(
        reserved.chain(others).filter(|word| !examples.contains(word)).map(|word| format!("`{word}` of the page")),
    );
    assert!(wrong.is_empty(), "no example of docs/language.md uses:\n{}", wrong.join("\n"));
}

#[test]
fn the_language_page_lists_the_standard_library() {
    let text = fs::read_to_string(root().join(LANGUAGE)).expect("a document");
    let section =
        text.split("## Standard library").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let library = fs::read_to_string(root().join("patterns/std.attn")).expect("the library");
    let mut seen = 0;
    for head in library.lines().filter_map(|line| line.strip_prefix("pattern ")?.split(" =").next()) {
        let name = head.split('(').next().unwrap_or(head);
        assert!(section.contains(&format!("| `{head}` | ")), "docs/language.md: no row for `{head}`");
        assert!(section.contains(&format!("```text show of_{name} ")), "docs/language.md: no picture of `{name}`");
        seen += 1;
    }
    assert!(seen > 10);
}

#[test]
fn real_queries_keys_and_values_run() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let input = root().join("examples/minilm.safetensors");
    let sizes: &[&str] = &["--set", "width=64", "--set", "radius=32"];
    for (pattern, layer, sizes) in
        [("window.attn:sliding", 0, sizes), ("window.attn:window", 5, sizes), ("papers/clinical_bigbird.attn", 2, &[])]
    {
        let [q, k, v] = ["q", "k", "v"].map(|n| format!("layer{layer}.{n}"));
        let subject = root().join("patterns").join(pattern).display().to_string();
        let run = |target: &str| {
            let out = dir.join(format!("minilm-{target}.safetensors"));
            let (input, out) = (input.to_string_lossy(), out.to_string_lossy());
            let given = ["run", &subject, "--input", &input, "--q", &q, "--k", &k, "--v", &v, "--target", target];
            let run = attnc(&[&given[..], sizes, &["-o", &out]].concat(), dir);
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            let bytes = fs::read(&*out).expect("an output");
            let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
            let (out, lse) = (tensors.tensor("out").expect("out"), tensors.tensor("lse").expect("lse"));
            assert_eq!((out.shape(), lse.shape()), (&[12, 512, 32][..], &[12, 512][..]));
            assert_eq!((out.dtype(), lse.dtype()), (safetensors::Dtype::F16, safetensors::Dtype::F32));
            let out = out.data().chunks(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32());
            let lse = lse.data().chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            (out.collect::<Vec<f32>>(), lse.collect::<Vec<f32>>())
        };
        let (cpu, oracle) = (run("cpu"), run("oracle"));
        // Two roundings to the nearest number of 11 bits, and sums in another order.
        let far = |bits: i32| {
            move |(a, b): (&f32, &f32)| !a.is_finite() || (a - b).abs() > 2_f32.powi(-bits) * b.abs().max(0.25)
        };
        assert_eq!(cpu.0.iter().zip(&oracle.0).filter(|&p| far(9)(p)).count(), 0, "{subject}: outputs");
        assert_eq!(cpu.1.iter().zip(&oracle.1).filter(|&p| far(16)(p)).count(), 0, "{subject}: log-sum-exps");
    }
}

#[test]
fn patterns_agree_with_the_oracle() {
    let root = root();
    let mut files = patterns_in(&["patterns", "patterns/models"]);
    // Papers are compared at small sizes by a filetest of their own, but for those that import other files.
    let small = |file: &str| {
        let name = file.rsplit('/').next().expect("a name");
        root.join("tests/filetests/run").join(format!("paper_{name}")).exists()
    };
    let papers = patterns_in(&["patterns/papers"]);
    let (small, others): (Vec<_>, Vec<_>) = papers.into_iter().partition(|file| small(file));
    assert!(small.len() > 15, "filetests of papers are found");
    files.extend(others);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let wrong = std::sync::Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let out = attnc(&["verify", file, "--all-passes"], &root);
                    if !out.status.success() {
                        let said = [out.stdout, out.stderr].concat();
                        wrong.lock().expect("no panic").push(format!("{file}\n{}", String::from_utf8_lossy(&said)));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
