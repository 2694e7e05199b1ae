//! The operation as a model meets it: strides, types, and what it refuses.

use attnc_candle::Attention;
use candle_core::{DType, Device, Tensor, Var};

fn causal() -> Attention {
    Attention::new("pattern p = causal\n", "p", &[]).expect("compiles")
}

fn random(shape: [usize; 4]) -> Tensor {
    Tensor::randn(0.0_f32, 1.0, shape.as_slice(), &Device::Cpu).expect("drawn")
}

fn values(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).and_then(|x| x.flatten_all()?.to_vec1()).expect("values")
}

#[test]
fn strided_tensors_give_what_contiguous_ones_give() {
    let op = causal();
    // [batch, tokens, heads, dim] as a projection leaves it, and a slice that does not begin at the first element.
    let [q, k, v] =
        [1, 2, 3].map(|_| random([2, 41, 4, 16]).transpose(1, 2).and_then(|x| x.narrow(2, 1, 40)).expect("cut"));
    let there = op.attend(&q, &k, &v).expect("runs");
    let [q, k, v] = [q, k, v].map(|x| x.contiguous().expect("copied"));
    assert_eq!(there.dims(), [2, 4, 40, 16]);
    assert_eq!(values(&there), values(&op.attend(&q, &k, &v).expect("runs")));
}

#[test]
fn halves_are_taken_as_they_are() {
    let op = causal();
    let [q, k, v] = [1, 2, 3].map(|_| random([1, 2, 30, 16]));
    let exact = values(&op.attend(&q, &k, &v).expect("runs"));
    for (dtype, most) in [(DType::F16, 5e-3), (DType::BF16, 4e-2)] {
        let [q, k, v] = [&q, &k, &v].map(|x| x.to_dtype(dtype).expect("rounded"));
        let out = op.attend(&q, &k, &v).expect("runs");
        assert_eq!(out.dtype(), dtype);
        assert!(values(&out).iter().zip(&exact).all(|(a, b)| (a - b).abs() < most * (1.0 + b.abs())));
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_names_it() {
    let op = causal();
    let x = random([1, 2, 8, 4]);
    let said = |q: &Tensor, k: &Tensor, v: &Tensor| op.attend(q, k, v).expect_err("refused").to_string();
    let half = x.to_dtype(DType::F16).expect("rounded");
    assert!(said(&x, &half, &x).contains("`k`"));
    assert!(said(&x, &x, &x.squeeze(0).expect("cut")).contains("`v`"));
    assert!(said(&x.to_dtype(DType::F64).expect("widened"), &x, &x).contains("`q`"));
    assert!(said(&x, &random([1, 2, 8, 5]), &x).contains("`k`"));
    assert!(Attention::new("pattern p = causl\n", "p", &[]).expect_err("refused").to_string().contains("E0201"));
    let var = Var::from_tensor(&x).expect("a variable");
    let out = op.attend(&var, &x, &x).expect("runs");
    assert!(out.backward().is_err());
}

#[test]
fn threads_share_an_operation() {
    let op = causal();
    let inputs: Vec<_> = (0..8).map(|i| random([1, 2, 20 + i, 16])).collect();
    let alone: Vec<_> = inputs.iter().map(|x| values(&op.attend(x, x, x).expect("runs"))).collect();
    std::thread::scope(|scope| {
        for (x, alone) in inputs.iter().zip(&alone) {
            let op = &op;
            scope.spawn(move || (0..20).for_each(|_| assert_eq!(values(&op.attend(x, x, x).expect("runs")), *alone)));
        }
    });
}
