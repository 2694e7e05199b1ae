//! The operations that kernels execute are those that the cost foretells, for every pattern of the project.
//!
//! The counter is global to the process, and this file holds one test.

mod common;

use std::path::PathBuf;

use attnc::{Isa, Kernel, Options, Problem, Resources, Select, Target, Tensor, TensorMut};
use common::{Held, compile, each_case, patterns_dir, selections};

#[test]
fn executed_operations_are_foretold() {
    let (mut cases, mut wrong) = (0, Vec::new());
    for file in patterns() {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let module = compile(&file, counting(Target::default()));
        for (use_of, _) in module.uses() {
            let before = cases;
            for select in selections(&module, use_of) {
                let kernel = module.kernel(&select).unwrap_or_else(|said| panic!("{name}: {said}"));
                each_case(&module, &kernel, |sizes, lengths| {
                    cases += 1;
                    wrong
                        .extend(differs(&kernel, sizes, lengths).map(|d| format!("{name}:{use_of}, {lengths:?}: {d}")));
                });
            }
            assert!(cases > before, "{name}:{use_of} was run at no size");
        }
    }
    // What is executed does not depend on the instruction set.
    let module = compile(&patterns_dir().join("window.attn"), counting(Target::Cpu(Some(Isa::Scalar))));
    let kernel = module.kernel(&Select::named("window")).expect("compiles");
    wrong.extend(differs(&kernel, &[], (333, 333, None)));
    assert!(cases > 300, "{cases} cases");
    assert!(wrong.is_empty(), "{} of {cases} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn counting(target: Target) -> Options {
    Options { target, counting: true, ..Options::default() }
}

/// Every pattern file of the project.
fn patterns() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in [patterns_dir(), patterns_dir().join("models")] {
        let entries = std::fs::read_dir(dir).expect("patterns").map(|entry| entry.expect("an entry").path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|e| e == "attn")));
    }
    files.sort();
    assert!(files.len() > 30, "patterns are found");
    files
}

/// Runs a case; how the operations executed differ from those foretold.
fn differs(kernel: &Kernel, sizes: &[(&str, i64)], lengths: (i64, i64, Option<i64>)) -> Option<String> {
    let held = Held::new(kernel, sizes, lengths);
    let inputs = held.inputs(sizes);
    let dv = 10;
    let [q_shape, k_shape, v_shape, out_shape] = held.shapes(kernel, dv);
    let forecast = kernel.forecast(held.shape, k_shape[1] as i64, dv, 4, 1, &inputs);
    let cost = forecast.unwrap_or_else(|said| panic!("{said}")).cost;
    let of = |shape: [usize; 4]| vec![0.5; shape.iter().product()];
    let (q, k, v, mut out) = (of(q_shape), of(k_shape), of(v_shape), of(out_shape));
    let mut problem = Problem {
        q: Tensor::of_f32(&q, q_shape).expect("q"),
        k: Tensor::of_f32(&k, k_shape).expect("k"),
        v: Tensor::of_f32(&v, v_shape).expect("v"),
        out: TensorMut::of_f32(&mut out, out_shape).expect("out"),
        lse: None,
        inputs,
    };
    attnc::measure::flops_reset();
    kernel.run(&mut problem, Resources::default()).unwrap_or_else(|said| panic!("{said}"));
    let executed = attnc::measure::flops_executed();
    (executed != cost.executed_flops).then(|| format!("executed {executed}, foretold {}", cost.executed_flops))
}
