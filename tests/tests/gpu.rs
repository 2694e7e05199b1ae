//! Shaders of every pattern: valid for every variant without a device, and equal to the oracle on the GPU that is there.

use std::path::{Path, PathBuf};

use attnc::gpu::{Shader, Variant, validate};
use attnc::{Compiler, DType, Loader, Memory, Module, Options, Select};
use attnc_tests::compare::{Case, against_oracle_on_gpu, has_gpu};
use rayon::prelude::*;

fn patterns() -> Vec<(PathBuf, String)> {
    let found = of_folders(&["", "models"]);
    assert!(found.len() > 30, "patterns are found");
    found
}

fn of_folders(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../patterns");
    let mut found = Vec::new();
    for dir in folders.iter().map(|folder| root.join(folder)) {
        for entry in std::fs::read_dir(dir).expect("folder of patterns") {
            let path = entry.expect("entry").path();
            if path.extension().is_some_and(|e| e == "attn") {
                let text = std::fs::read_to_string(&path).expect("reads");
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

fn module(text: &str, options: Options) -> Module {
    let loader: &dyn Loader = &Memory::file("pattern.attn", text);
    Compiler::new(options).compile(loader, "pattern.attn").unwrap_or_else(|e| panic!("{e}"))
}

/// Everything of a module that can be run, models left out: their attentions are among it.
fn names(module: &Module) -> Vec<String> {
    let models: Vec<&str> = module.program().models.iter().map(|m| m.name.as_str()).collect();
    module.uses().into_iter().map(|(name, _)| name.to_owned()).filter(|n| !models.contains(&n.as_str())).collect()
}

#[test]
fn every_shader_is_valid() {
    let shaders = |variant| {
        let of = Shader::of(variant);
        let dtypes: &[DType] =
            if variant == Variant::Portable { &[DType::F32, DType::F16, DType::Bf16] } else { &[DType::F16] };
        let dims: &[(usize, usize)] = &[(64, 64), (24, 80), (128, 96)];
        let all = dims.iter().flat_map(move |&d| dtypes.iter().map(move |&t| (d, t)));
        all.map(|((dim, value_dim), dtype)| Shader { dim, value_dim, dtype, ..of }).collect::<Vec<_>>()
    };
    let count: usize = patterns()
        .par_iter()
        .map(|(path, text)| {
            let mut count = 0;
            for without in [vec![], attnc::PASSES.iter().map(|p| p.name.to_owned()).collect()] {
                let plan = attnc::PlanOptions { without, ..attnc::PlanOptions::default() };
                let module = module(text, Options { target: attnc::Target::Oracle, plan, ..Options::default() });
                for name in names(&module) {
                    let kernel = module.kernel(&Select::named(&name)).unwrap_or_else(|e| panic!("{e}"));
                    for shader in Variant::ALL.into_iter().flat_map(shaders) {
                        for (_, of, text) in kernel.wgsl(&shader).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
                        {
                            let valid = validate(&text, of);
                            let wrong = valid.as_ref().err();
                            assert!(wrong.is_none(), "{} `{name}` {shader:?}: {wrong:?}", path.display());
                            count += 1;
                        }
                    }
                }
            }
            count
        })
        .sum();
    assert!(count > 1000, "{count} shaders");
}

#[test]
fn every_shader_of_a_paper_is_valid() {
    let papers = of_folders(&["papers"]);
    assert!(papers.len() > 20, "papers are found");
    // Papers import each other, and patterns.
    let name_of = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut files = Memory::new();
    for (path, text) in patterns() {
        files = files.with(format!("../{}", name_of(&path)), text);
    }
    for (path, text) in &papers {
        files = files.with(name_of(path), text);
    }
    let count: usize = papers
        .par_iter()
        .map(|(path, _)| {
            let compiler = Compiler::new(Options { target: attnc::Target::Oracle, ..Options::default() });
            let module = compiler.compile(&files, &name_of(path)).unwrap_or_else(|e| panic!("{e}"));
            let mut count = 0;
            for name in names(&module) {
                let kernel = module.kernel(&Select::named(&name)).unwrap_or_else(|e| panic!("{e}"));
                for variant in Variant::ALL {
                    let modules = kernel.wgsl(&Shader::of(variant));
                    for (_, of, text) in modules.unwrap_or_else(|e| panic!("{} `{name}`: {e}", path.display())) {
                        let valid = validate(&text, of);
                        assert!(valid.is_ok(), "{} `{name}` {variant:?}: {:?}", path.display(), valid.err());
                        count += 1;
                    }
                }
            }
            count
        })
        .sum();
    assert!(count > 100, "{count} shaders");
}

#[test]
fn every_pattern_equals_the_oracle() {
    if !has_gpu() {
        return;
    }
    // Sizes that most programs are for; what `require` refuses is not counted.
    let sizes = |module: &Module, text: &str, name: &str| -> Vec<(String, i64)> {
        let kernel = module.kernel(&Select::named(name)).unwrap_or_else(|e| panic!("{e}"));
        let large = text.contains("freeswim") || text.contains("neighbourhood_3d");
        let value = |i: usize| if large { [2, 40, 64, 9][i % 4] } else { [5, 16, 15, 6][i % 4] };
        kernel.sizes().into_iter().enumerate().map(|(i, n)| (n, value(i))).collect()
    };
    let patterns = patterns();
    let cases: Vec<(usize, DType)> = (0..patterns.len()).flat_map(|i| [(i, DType::F32), (i, DType::F16)]).collect();
    let results: Vec<(usize, String)> = cases
        .par_iter()
        .map(|&(i, dtype)| {
            let (path, text) = &patterns[i];
            let module = module(text, Options { target: attnc::Target::Oracle, ..Options::default() });
            let (mut ran, mut failures) = (0, String::new());
            for name in names(&module) {
                let sizes = sizes(&module, text, &name);
                let of: Vec<(&str, i64)> = sizes.iter().map(|(n, v)| (n.as_str(), *v)).collect();
                let total = module.tokens(&of).unwrap_or_else(|e| panic!("{e}"));
                let (n_q, n_k, q_start) = match total {
                    Some(total) if total > 1000 => (48, total, Some(total / 2)),
                    Some(total) => (total, total, None),
                    None => (97, 200, Some(103)),
                };
                for seed in [2, 3] {
                    let case = Case {
                        name: &name,
                        lengths: (n_q as usize, n_k as usize),
                        dtype,
                        dims: (24, 20),
                        sizes: sizes.clone(),
                        starts: (q_start, Some(0)),
                        seed,
                        ..Case::default()
                    };
                    match against_oracle_on_gpu(text, &case) {
                        Ok(()) => ran += 1,
                        // Sizes that the program is not for.
                        Err(why) if why.contains("E0707") => {}
                        Err(why) => {
                            let why: String = why.chars().take(900).collect();
                            failures.push_str(&format!("{} `{name}`: {why}\n", path.display()));
                        }
                    }
                }
            }
            (ran, failures)
        })
        .collect();
    let failures: String = results.iter().map(|(_, f)| f.as_str()).collect();
    assert!(failures.is_empty(), "{failures}");
    let ran: usize = results.iter().map(|(ran, _)| ran).sum();
    assert!(ran > 150, "{ran} cases");
}
