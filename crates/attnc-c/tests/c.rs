//! The C library as C programs see it: the header is the one that the crate makes, and programs are compiled by the
//! system's compiler, linked with what is installed, and run, also under valgrind where it is installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The libraries that were built with this test.
fn built() -> PathBuf {
    // Linked here, so that Cargo builds it before the test is run.
    assert!(!attnc_c::attnc_version().is_null());
    let deps = std::env::current_exe().expect("a path").parent().expect("a directory").to_path_buf();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("built");
    std::fs::create_dir_all(&dir).expect("a directory for the test");
    for (end, name) in [(".a", "libattnc_c.a"), (".so", "libattnc_c.so")] {
        let entries = std::fs::read_dir(&deps).expect("built files").map(|e| e.expect("an entry").path());
        let of = |path: &PathBuf| {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            file.starts_with("libattnc_c") && file.ends_with(end)
        };
        let age = |path: &PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).expect("a time");
        let newest = entries.filter(of).max_by_key(age).unwrap_or_else(|| panic!("no {name} in {}", deps.display()));
        std::fs::copy(&newest, dir.join(name)).expect("copies");
    }
    dir
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    output
}

/// Whether a tool is installed; what is not tested without it is said.
#[expect(clippy::print_stderr, reason = "a test that says what it skips")]
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("skipped: `{tool}` is not installed");
    }
    found
}

#[test]
fn the_header_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("a configuration");
    let builder = cbindgen::Builder::new().with_config(config).with_src(root.join("src/abi.rs"));
    let mut made = Vec::new();
    builder.generate().expect("a header").write(&mut made);
    let made = String::from_utf8(made).expect("text");
    let path = root.join("include/attnc.h");
    if std::env::var_os("ATTNC_BLESS").is_some() {
        std::fs::write(&path, &made).expect("writes");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(known == made, "include/attnc.h is not what the crate makes: run with ATTNC_BLESS=1");
}

#[test]
fn programs_of_c_run() {
    let (root, built) = (Path::new(env!("CARGO_MANIFEST_DIR")), built());
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let prefix = tmp.join("prefix");
    run(Command::new(root.join("install.sh")).arg(&prefix).arg(&built));
    let pc = std::fs::read_to_string(prefix.join("lib/pkgconfig/attnc.pc")).expect("a file for pkg-config");
    assert!(pc.contains(&format!("Version: {}\n", env!("CARGO_PKG_VERSION"))) && !pc.contains('@'), "{pc}");
    let flags = if has("pkg-config") {
        let mut command = Command::new("pkg-config");
        command.args(["--cflags", "--libs", "attnc"]).env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
        let printed = run(&mut command).stdout;
        String::from_utf8(printed).expect("text").split_whitespace().map(str::to_owned).collect()
    } else {
        let (include, lib) = (prefix.join("include"), prefix.join("lib"));
        vec![format!("-I{}", include.display()), format!("-L{}", lib.display()), "-lattnc_c".to_owned()]
    };
    let mut programs =
        vec![("embed".to_owned(), root.join("../../examples/embed.c")), ("bad".to_owned(), root.join("tests/bad.c"))];
    // Those of the page of errors as they are printed: each ends with 0 if it was given the code of its section.
    let page = std::fs::read_to_string(root.join("../../docs/errors.md")).expect("docs/errors.md");
    for section in page.split("\n## ").filter(|section| section.contains("\n```c\n")) {
        let (code, block) = section.split_once("\n```c\n").expect("a block");
        let path = tmp.join(format!("{}.c", &code[..5]));
        std::fs::write(&path, block.split("```").next().unwrap_or_default()).expect("writes");
        programs.push((code[..5].to_owned(), path));
    }
    assert!(programs.len() > 2, "programs of docs/errors.md");
    let cache = tmp.join("cache");
    let _ = std::fs::remove_dir_all(&cache);
    for (name, source) in &programs {
        for linked in ["shared", "static"] {
            let program = tmp.join(format!("{name}-{linked}"));
            let mut cc = Command::new("cc");
            cc.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-g"])
                .arg(source)
                .arg("-o")
                .arg(&program);
            if linked == "shared" {
                cc.args(&flags).arg(format!("-Wl,-rpath,{}", prefix.join("lib").display())).arg("-lm");
            } else {
                cc.arg(format!("-I{}", prefix.join("include").display())).arg(prefix.join("lib/libattnc_c.a"));
                cc.args(["-lpthread", "-ldl", "-lm"]);
            }
            run(&mut cc);
            let output = run(Command::new(&program).env("ATTNC_CACHE", &cache));
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            if name == "embed" {
                assert!(printed.contains("300 tokens: as defined") && printed.contains("40 steps"), "{printed}");
            }
        }
    }
    // Those that asked for it left a kernel, which the other build of the program found.
    let kept = || std::fs::read_dir(cache.join("kernels")).expect("a directory").flatten();
    assert_eq!(kept().filter(|entry| entry.path().extension().is_some_and(|e| e == "kernel")).count(), 1);
    // As C++ too, and without warnings.
    if has("c++") {
        let source = tmp.join("header.cpp");
        std::fs::write(&source, "#include <attnc.h>\nint main() { return attnc_version() == nullptr; }\n")
            .expect("writes");
        let mut cc = Command::new("c++");
        cc.args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]).arg(&source);
        run(cc.arg(format!("-I{}", prefix.join("include").display())));
    }
    if has("valgrind") {
        for name in ["embed-shared", "bad-shared"] {
            let mut valgrind = Command::new("valgrind");
            // Threads of a pool that lives as long as the program are no leak.
            valgrind.args(["-q", "--error-exitcode=99", "--leak-check=full"]);
            valgrind.args(["--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]);
            run(valgrind.arg(tmp.join(name)).env("ATTNC_CACHE", &cache));
        }
    }
    if has("cmake") {
        let dir = tmp.join("cmake");
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        let example = root.join("../../examples/embed.c").canonicalize().expect("the example");
        let text = format!(
            "cmake_minimum_required(VERSION 3.16)\nproject(embed C)\nfind_package(attnc REQUIRED)\n\
             add_executable(embed {0})\ntarget_link_libraries(embed attnc::attnc m)\n\
             add_executable(embed_static {0})\ntarget_link_libraries(embed_static attnc::attnc_static)\n",
            example.display()
        );
        std::fs::write(dir.join("CMakeLists.txt"), text).expect("writes");
        let prefix = format!("-DCMAKE_PREFIX_PATH={}", prefix.display());
        run(Command::new("cmake").arg("-S").arg(&dir).arg("-B").arg(dir.join("build")).arg(prefix));
        run(Command::new("cmake").arg("--build").arg(dir.join("build")));
        for program in ["embed", "embed_static"] {
            run(Command::new(dir.join("build").join(program)).env("ATTNC_CACHE", &cache));
        }
    }
}
