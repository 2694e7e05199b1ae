//! Every diagnostic code has an example that gives it, and `docs/errors.md` is the list of them.
//!
//! `ATTNC_BLESS=1` writes the page.

use std::fmt::Write as _;
use std::path::Path;

use attnc::{CodeInfo, Compiler, Loader, Memory, Module, Options, Select, codes};

/// All codes that come out of compiling `source`, as far as one can get with it.
fn given(source: &str, set: &[(&str, &str)]) -> Vec<&'static str> {
    let loader: &dyn Loader = &Memory::file("example.attn", source);
    let set = set.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    let compiler = Compiler::new(Options { set, ..Options::default() });
    let said = match compiler.compile(loader, "example.attn") {
        Err(e) => e.list,
        Ok(module) => {
            let mut list = module.warnings().list;
            list.extend(module.check().list);
            list.extend(kernels(&module));
            list
        }
    };
    said.into_iter().map(|d| d.code).collect()
}

fn kernels(module: &Module) -> Vec<attnc::Diagnostic> {
    let names: Vec<String> = module.uses().iter().map(|u| u.0.to_string()).collect();
    names.into_iter().filter_map(|n| module.kernel(&Select::named(n)).err()).flat_map(|e| e.list).collect()
}

fn page(all: &[&CodeInfo]) -> String {
    let mut out = String::from(
        "# Errors\n\nEvery diagnostic has a stable code; `attnc explain CODE` prints its entry. `E` is an error, `W` a warning.\n\
         An entry with an example is a test: compiling the example gives the code.\n\n\
         | codes | about |\n| --- | --- |\n\
         | `E01xx` | text and grammar |\n| `E02xx` | names and kinds |\n| `E03xx` | sizes and ranges |\n\
         | `E04xx` | attentions and models |\n| `E05xx`, `W05xx` | analysis: empty rows, dead arms, costly forms |\n\
         | `E06xx` | plans and targets |\n| `E07xx` | inputs of a run |\n| `E08xx` | files |\n",
    );
    for info in all {
        let _ = write!(out, "\n## {}\n\n{}.\n\n{}\n", info.code, info.title.trim_end_matches('.'), info.explain);
        // Long examples (a hundred errors, a flood of items) say little on a page.
        if !info.example.is_empty() && info.example.len() < 2000 {
            let _ = write!(out, "\n```attn\n{}\n```\n", info.example.trim_end());
        }
    }
    out
}

#[test]
fn every_example_gives_its_code() {
    let mut wrong = vec![];
    for info in codes().iter().filter(|i| !i.example.is_empty()) {
        // These two are about values given to params, which no file holds.
        let set: &[(&str, &str)] = match info.code {
            "E0308" => &[("windw", "512")],
            "E0309" => &[("window", "wide")],
            _ => &[],
        };
        let found = given(info.example, set);
        if !found.contains(&info.code) {
            wrong.push(format!("{}: gives {found:?}\n{}", info.code, info.example));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_page_is_the_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let want = page(&codes());
    if std::env::var_os("ATTNC_BLESS").is_some() {
        std::fs::write(&path, &want).expect("writes the page");
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(have == want, "docs/errors.md is not the list of codes: run this test with ATTNC_BLESS=1");
}
