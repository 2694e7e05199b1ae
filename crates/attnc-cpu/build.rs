//! Names this build: machine code that is kept on disk is read by none but the build that wrote it.
//!
//! A build is what decides what compiled code does, and how what it reads is laid out: sources of this crate and of those
//! beside it, the compiler, and how it was called.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let mut hasher = DefaultHasher::new();
    for name in ["TARGET", "OPT_LEVEL", "DEBUG", "CARGO_ENCODED_RUSTFLAGS"] {
        hasher.write(env::var(name).unwrap_or_default().as_bytes());
    }
    let rustc = env::var_os("RUSTC").and_then(|rustc| Command::new(rustc).arg("-vV").output().ok());
    hasher.write(&rustc.map(|output| output.stdout).unwrap_or_default());
    let beside =
        ["attnc-syntax", "attnc-kernels", "attnc-pattern", "attnc-plan"].map(|name| Path::new("..").join(name));
    for dir in beside.iter().map(PathBuf::as_path).chain([Path::new("")]) {
        let sources = dir.join("src");
        if sources.is_dir() {
            println!("cargo::rerun-if-changed={}", sources.display());
            read(&sources, &mut hasher);
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=ATTNC_BUILD={:016x}", hasher.finish());
}

/// All files below a directory, in the order of their names.
fn read(dir: &Path, hasher: &mut DefaultHasher) {
    let mut paths: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        hasher.write(path.to_string_lossy().as_bytes());
        if path.is_dir() {
            read(&path, hasher);
        } else {
            hasher.write(&fs::read(&path).unwrap_or_default());
        }
    }
}
