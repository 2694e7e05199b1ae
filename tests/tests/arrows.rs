//! Arrows between crates point down only, and each outside library is named by the crates that may.

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

/// Libraries that few crates may name: imports and plans are graphs, all else has one owner.
const OWNED: &[(&str, &[&str])] = &[
    ("cranelift", &["attnc-cpu"]),
    ("logos", &["attnc-syntax"]),
    ("lalrpop", &["attnc-syntax"]),
    ("petgraph", &["attnc", "attnc-plan"]),
    ("miette", &["attnc-host"]),
    ("wgpu", &["attnc-gpu"]),
    ("naga", &["attnc-gpu"]),
    ("pyo3", &["attnc-py"]),
    ("clap", &["attnc-cli"]),
    ("indicatif", &["attnc-cli"]),
    ("png", &["attnc-host"]),
    ("etcetera", &["attnc-host"]),
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
fn libraries_have_owners() {
    for (krate, deps) in dependencies() {
        for dep in deps {
            for (prefix, owners) in OWNED {
                let fine = !dep.starts_with(prefix) || owners.contains(&krate.as_str());
                assert!(fine, "{krate} names {dep}, which belongs to {owners:?}");
            }
        }
    }
}
