//! A launch runs on the pool of its host. Alone in a process: a pool that was started once is there for good.

#![cfg(all(feature = "cpu", target_os = "linux"))]

use attnc::{Compiler, Inputs, Problem, Resources, Select, Tensor, TensorMut};

/// Threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("a list of threads").count()
}

#[test]
fn a_launch_starts_no_threads_beside_the_hosts() {
    let module = Compiler::default().source("pattern local = q - k in 0 .. 64\n").expect("checks");
    let host = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    // All of them have begun.
    host.broadcast(|_| ());
    let before = threads();
    let shape = [2, 4, 500, 32];
    let (x, mut out) = (vec![0.5; shape.iter().product()], vec![0.0; shape.iter().product()]);
    let t = Tensor::of_f32(&x, shape).expect("fits");
    host.install(|| {
        let kernel = module.kernel(&Select::named("local")).expect("compiles");
        let out = TensorMut::of_f32(&mut out, shape).expect("fits");
        let mut problem = Problem { q: t, k: t, v: t, out, lse: None, inputs: Inputs::default() };
        kernel.run(&mut problem, Resources::default()).expect("runs");
    });
    assert!(out.iter().all(|o| (o - 0.5).abs() < 1e-6));
    // The pool of all cores, which rayon starts when nothing else is there, would be more.
    assert_eq!(threads(), before);
}
