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
            seen += 1;
        }
    }
    assert!(seen > 30, "pictures are found: {seen}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn documents_are_true() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("documents");
    fs::create_dir_all(&dir).expect("a directory");
    let (mut wrong, mut blocks, mut pictures) = (vec![], 0, 0);
    for document in ["docs/language.md", "README.md"] {
        let text = fs::read_to_string(root().join(document)).expect("a document");
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let Some(info) = line.trim_start().strip_prefix("```").filter(|info| !info.is_empty()) else { continue };
            let body: Vec<&str> = lines.by_ref().map(|l| l.1).take_while(|l| l.trim() != "```").collect();
            let place = format!("{document}:{}", number + 1);
            if info == "attn" {
                fs::write(dir.join("block.attn"), body.join("\n") + "\n").expect("a file");
                let out = attnc(&["check", "block.attn"], &dir);
                if !out.status.success() {
                    wrong.push(format!("{place}\n{}", String::from_utf8_lossy(&out.stderr)));
                }
                blocks += 1;
            } else if let Some(rest) = info.strip_prefix("text show ") {
                let mut words = rest.split_whitespace();
                let subject = format!("block.attn:{}", words.next().unwrap_or(""));
                let args: Vec<&str> = ["show", subject.as_str()].into_iter().chain(words).collect();
                compare(&place, &args, &dir, &body.join("\n"), &mut wrong);
                pictures += 1;
            }
        }
    }
    assert!(blocks > 20 && pictures > 10, "{blocks} blocks, {pictures} pictures");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn real_queries_keys_and_values_run() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let input = root().join("examples/minilm.safetensors");
    let window = root().join("patterns/window.attn");
    for (pattern, layer) in [("sliding", 0), ("window", 5)] {
        let [q, k, v] = ["q", "k", "v"].map(|n| format!("layer{layer}.{n}"));
        let subject = format!("{}:{pattern}", window.display());
        let run = |target: &str| {
            let out = dir.join(format!("minilm-{target}.safetensors"));
            let (input, out) = (input.to_string_lossy(), out.to_string_lossy());
            let given = ["run", &subject, "--input", &input, "--q", &q, "--k", &k, "--v", &v, "--target", target];
            let sizes = ["--set", "width=64", "--set", "radius=32", "-o", &out];
            let run = attnc(&[&given[..], &sizes].concat(), dir);
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
    let files = patterns_in(&["patterns", "patterns/models"]);
    let root = root();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let wrong = std::sync::Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let out = attnc(&["verify", file], &root);
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
