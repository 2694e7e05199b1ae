//! What is kept on disk: where, what of it is used, and that it is removed.

use std::path::Path;
use std::process::Command;

fn cache(home: &Path, command: &str) -> String {
    let mut attnc = Command::new(env!("CARGO_BIN_EXE_attnc"));
    attnc.args(["cache", command]).env("XDG_CACHE_HOME", home).env("HOME", home);
    let output = attnc.output().expect("runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
#[cfg(target_os = "linux")]
fn what_is_kept_is_shown_and_removed() {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kept");
    let _ = std::fs::remove_dir_all(&home);
    let dir = home.join("attnc");
    assert_eq!(cache(&home, "path"), format!("{}\n", dir.display()));
    assert_eq!(cache(&home, "status"), "nothing is kept\n");
    assert_eq!(cache(&home, "clear"), "0 files removed\n");

    std::fs::create_dir_all(&dir).expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("writes");
    // Half a file, one of another machine, one of another schema, one that was begun, and one that is not ours.
    write("calibration-scalar.json", "{\"schema\": \"attnc.cal");
    let other = "{\"schema\": \"attnc.calibration/2\", \"cpu\": \"another\", \"cores\": 3, \"version\": \"0.0.1\", \
                 \"isa\": \"avx2\", \"threads\": 3, \"alone\": 1, \"peak_gflops\": 1, \"cache_bytes\": 1, \"rates\": {}}";
    write("calibration-avx2.json", other);
    write("calibration-avx512.json", &other.replace("calibration/2", "calibration/1"));
    write(".calibration-avx2.json.7.0.tmp", "{");
    write("notes", "mine");
    let status = cache(&home, "status");
    let lines: Vec<&str> = status.lines().collect();
    assert_eq!(lines.len(), 4, "{status}");
    assert_eq!(lines[0], ".calibration-avx2.json.7.0.tmp: unfinished");
    assert_eq!(lines[1], "calibration-avx2.json: stale: of attnc 0.0.1 on another, 3 cores");
    assert!(lines[2].starts_with("calibration-avx512.json: unreadable: its schema is"), "{status}");
    assert!(lines[3].starts_with("calibration-scalar.json: unreadable: "), "{status}");
    assert_eq!(cache(&home, "clear"), "4 files removed\n");
    assert_eq!(cache(&home, "status"), "nothing is kept\n");
    assert!(dir.join("notes").exists());
}

#[test]
#[cfg(target_os = "linux")]
fn kernels_are_kept_used_and_refused() {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let home = tmp.join("kept-kernels");
    let _ = std::fs::remove_dir_all(&home);
    let run = |out: &str, kept: &str| {
        let (pattern, input) = ("../../patterns/window.attn", "../../examples/minilm.safetensors");
        let mut attnc = Command::new(env!("CARGO_BIN_EXE_attnc"));
        attnc.args(["run", pattern, "--input", input, "--q", "layer0.q", "--k", "layer0.k", "--v", "layer0.v", "-o"]);
        attnc.arg(tmp.join(out)).env("XDG_CACHE_HOME", &home).env("HOME", &home).env("ATTNC_CACHE", kept);
        let output = attnc.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("runs");
        assert!(output.status.success(), "{output:?}");
        std::fs::read(tmp.join(out)).expect("an output")
    };
    let status = || {
        let text = cache(&home, "status");
        text.rsplit_once(" KiB: ").map_or(text.clone(), |(_, states)| states.trim_end().to_owned())
    };
    let first = run("kept-first", "off");
    assert_eq!(cache(&home, "status"), "nothing is kept\n");
    assert_eq!(run("kept-made", ""), first);
    assert_eq!(status(), "1 of this program, 0 stale");
    let dir = home.join("attnc/kernels");
    let kernel = || {
        let mut files = std::fs::read_dir(&dir).expect("a directory").flatten().map(|entry| entry.path());
        files.find(|path| path.extension().is_some_and(|e| e == "kernel")).expect("a kernel")
    };
    let whole = std::fs::read(kernel()).expect("reads");
    assert_eq!(run("kept-used", ""), first);
    assert_eq!(std::fs::read(kernel()).expect("reads"), whole);

    // Half of it, another byte in it, that of another version, and something else: each is said, and made anew.
    let mut wrong = whole.clone();
    *wrong.last_mut().expect("bytes") ^= 1;
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let at = whole.windows(version.len()).position(|w| w == version).expect("a version");
    let mut older = whole.clone();
    older[at] = b'9';
    for (bytes, said) in [
        (&whole[..whole.len() / 2], "0 of this program, 0 stale, 1 broken"),
        (&wrong, "0 of this program, 0 stale, 1 broken"),
        (&older, "0 of this program, 1 stale"),
        (b"notes", "0 of this program, 0 stale, 1 broken"),
    ] {
        std::fs::write(kernel(), bytes).expect("writes");
        assert_eq!(status(), said);
        assert_eq!(run("kept-anew", ""), first);
        assert_eq!(std::fs::read(kernel()).expect("reads"), whole);
    }
    assert_eq!(cache(&home, "clear"), "1 file removed\n");
    assert_eq!(cache(&home, "status"), "nothing is kept\n");
}
