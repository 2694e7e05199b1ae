//! Compilers, modules and kernels give their memory back. A process of its own, so that nothing else moves the figure.

#![cfg(target_os = "linux")]

use attnc::{Compiler, Inputs, Problem, Resources, Select, Tensor, TensorMut};

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4096
}

/// From text to machine code that has run.
fn compile_and_drop(text: &str) {
    let module = Compiler::default().source(text).expect("checks");
    let kernel = module.kernel(&Select::named("p")).expect("compiles");
    let (shape, x, mut out) = ([1, 1, 3, 4], [0.5; 12], [0.0; 12]);
    let t = Tensor::of_f32(&x, shape).expect("fits");
    let out = TensorMut::of_f32(&mut out, shape).expect("fits");
    let mut problem = Problem { q: t, k: t, v: t, out, lse: None, inputs: Inputs::default() };
    kernel.run(&mut problem, Resources::default()).expect("runs");
}

#[test]
fn ten_thousand_kernels_leave_nothing() {
    let texts = [
        "pattern p = causal\n",
        "pattern p = q - k in 0 .. 4\n",
        "pattern p = causal & (same block 2 | k in 0 .. 1)\n",
    ];
    let many = |n| texts.iter().cycle().take(n).for_each(|text| compile_and_drop(text));
    many(1_000);
    let before = resident();
    many(10_000);
    // A kernel holds several pages: one in a hundred left behind would be seen.
    let grown = resident().saturating_sub(before);
    assert!(grown < 2 << 20, "{grown} bytes");
}
