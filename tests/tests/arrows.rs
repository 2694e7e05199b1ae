//! Arrows between crates point down only, and each outside library is named by the one crate that may.

use std::collections::BTreeMap;
use std::process::Command;

/// What each crate may depend on inside the project.
const ALLOWED: &[(&str, &[&str])] = &[
    ("attnc-syntax", &[]),
    ("attnc-kernels", &[]),
    ("attnc-pattern", &["attnc-syntax"]),
    ("attnc-plan", &["attnc-pattern", "attnc-syntax"]),
    ("attnc-cpu", &["attnc-kernels", "attnc-plan", "attnc-pattern", "attnc-syntax"]),
    ("attnc-gpu", &["attnc-plan", "attnc-pattern"]),
    ("attnc", &["attnc-cpu", "attnc-gpu", "attnc-kernels", "attnc-plan", "attnc-pattern", "attnc-syntax"]),
    ("attnc-host", &["attnc"]),
    ("attnc-cli", &["attnc", "attnc-host"]),
    ("attnc-c", &["attnc", "attnc-host"]),
    ("attnc-py", &["attnc", "attnc-host"]),
    ("attnc-tests", &["attnc"]),
];

/// Libraries that one crate alone may name.
const OWNED: &[(&str, &str)] = &[
    ("cranelift", "attnc-cpu"),
    ("wgpu", "attnc-gpu"),
    ("naga", "attnc-gpu"),
    ("logos", "attnc-syntax"),
    ("lalrpop", "attnc-syntax"),
    ("petgraph", "attnc"),
    ("miette", "attnc-host"),
    ("clap", "attnc-cli"),
    ("pyo3", "attnc-py"),
    ("indicatif", "attnc-cli"),
    ("png", "attnc-host"),
    ("etcetera", "attnc-cli"),
];

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("cargo prints JSON");
    let packages = json["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|p| {
            let deps = p["dependencies"].as_array().expect("dependencies");
            // Tests of a crate may look around; what ships may not.
            let names =
                deps.iter().filter(|d| d["kind"] != "dev").map(|d| d["name"].as_str().unwrap_or("").to_string());
            (p["name"].as_str().unwrap_or("").to_string(), names.collect())
        })
        .collect()
}

#[test]
fn arrows_point_down() {
    let found = dependencies();
    assert_eq!(found.len(), ALLOWED.len(), "every crate is listed: {:?}", found.keys());
    for (name, allowed) in ALLOWED {
        let deps = found.get(*name).unwrap_or_else(|| panic!("{name} is gone"));
        for dep in deps.iter().filter(|d| found.contains_key(*d)) {
            assert!(allowed.contains(&dep.as_str()), "{name} may not depend on {dep}");
        }
    }
}

#[test]
fn libraries_have_one_owner() {
    for (krate, deps) in dependencies() {
        for dep in deps {
            for (prefix, owner) in OWNED {
                assert!(!dep.starts_with(prefix) || krate == *owner, "{krate} names {dep}, which is {owner}'s");
            }
        }
    }
}
