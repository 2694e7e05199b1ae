//! The library without the feature `cpu`: everything but machine code.
#![cfg(not(feature = "cpu"))]

use attnc::{
    Compiler, ExportOptions, Format, Inputs, NO_TARGET, Options, Problem, Resources, Select, Shape, Target, Tensor,
    TensorMut,
};

#[test]
fn files_are_checked_planned_counted_exported_and_run_by_the_oracle() {
    let text = "pattern local = q - k in 0 .. 3\n";
    let module = Compiler::default().source(text).expect("checks");
    assert!(module.check().list.is_empty());
    let kernel = module.kernel(&Select::named("local")).expect("plans");
    assert!(kernel.plan_text().contains("local") && kernel.isa().is_none());
    let (shape, inputs) = (Shape { n_q: 5, n_k: 5, heads: 1, dim: 8 }, Inputs::default());
    assert_eq!(kernel.cost(shape, 8, 4, &inputs).expect("counts").entries, 1 + 2 + 3 + 3 + 3);
    let options = ExportOptions::new(Format::Csr);
    assert_eq!(kernel.export(shape, &inputs, &options).expect("exports").arrays[0].name, "indptr");

    let (x, mut out) = (vec![0.5; 5 * 8], vec![0.0; 5 * 8]);
    let t = Tensor::of_f32(&x, [1, 1, 5, 8]).expect("fits");
    let out_t = TensorMut::of_f32(&mut out, [1, 1, 5, 8]).expect("fits");
    let mut problem = Problem { q: t, k: t, v: t, out: out_t, lse: None, inputs };
    kernel.run(&mut problem, Resources::default()).expect("runs");
    assert!(out.iter().all(|o| (o - 0.5).abs() < 1e-6));

    let cpu = Compiler::new(Options { target: Target::Cpu(None), ..Options::default() });
    let said = cpu.source(text).expect("checks").kernel(&Select::named("local")).expect_err("left out");
    assert_eq!(said.list[0].code, NO_TARGET);
}
