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
