//! The functions for score modifiers, over sampled floats of every magnitude.

use attnc_kernels::Isa;
use attnc_kernels::abi::Math;

/// Distance of `y` from `exact` in units in the last place of `exact` rounded; subnormal ones have the smallest unit.
fn ulps(y: f32, exact: f64) -> f64 {
    if f64::from(y) == exact || (y.is_nan() && exact.is_nan()) {
        return 0.0;
    }
    let rounded = exact as f32;
    if rounded.is_infinite() || y.is_infinite() || y.is_nan() || exact.is_nan() {
        return if y == rounded { 0.0 } else { f64::INFINITY };
    }
    let size = rounded.abs();
    let ulp = f64::from(f32::from_bits(size.to_bits() + 1)) - f64::from(size);
    (f64::from(y) - exact).abs() / ulp
}

type Function = (&'static str, unsafe extern "C" fn(f32) -> f32, fn(f64) -> f64, f64);

fn functions(math: &Math) -> [Function; 3] {
    [("exp", math.exp, f64::exp, 2.0), ("log", math.log, f64::ln, 2.0), ("tanh", math.tanh, f64::tanh, 4.0)]
}

#[test]
fn errors_are_within_the_stated_bounds() {
    for (math, isa) in Isa::available().into_iter().filter_map(|(isa, _)| Some((Math::of(isa)?, isa))) {
        for (name, f, exact, bound) in functions(&math) {
            let (mut worst, mut at) = (0.0, 0.0);
            for bits in (0..=u32::MAX).step_by(997) {
                let x = f32::from_bits(bits);
                // SAFETY: the table is made for this machine.
                let error = ulps(unsafe { f(x) }, exact(f64::from(x)));
                if error > worst {
                    (worst, at) = (error, x);
                }
            }
            assert!(worst <= bound, "{}: {name}({at:e}) is {worst} ulp off", isa.name());
            assert!(worst > 0.3, "the comparison must see rounding");
        }
    }
}

#[test]
fn special_values() {
    const INF: f32 = f32::INFINITY;
    for math in Isa::available().into_iter().filter_map(|(isa, _)| Math::of(isa)) {
        let [exp, log, tanh] = functions(&math).map(|(_, f, ..)| {
            // SAFETY: the table is made for this machine.
            move |x| unsafe { f(x) }
        });
        assert_eq!([exp(0.0), exp(-0.0), exp(INF), exp(-INF), exp(100.0), exp(-200.0)], [1.0, 1.0, INF, 0.0, INF, 0.0]);
        assert_eq!([log(1.0), log(0.0), log(-0.0), log(INF)], [0.0, -INF, -INF, INF]);
        assert!(log(-1.0).is_nan() && log(-INF).is_nan());
        assert_eq!([tanh(0.0), tanh(INF), tanh(-INF), tanh(20.0)], [0.0, 1.0, -1.0, 1.0]);
        assert!(tanh(-0.0).is_sign_negative());
        for bits in [0x7fc0_0000, 0x7fc0_0001, 0xffff_ffff] {
            let nan = f32::from_bits(bits);
            assert!(exp(nan).is_nan() && log(nan).is_nan() && tanh(nan).is_nan());
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn four_lanes_give_the_bits_of_one() {
    use attnc_kernels::abi::Math4;
    use std::arch::x86_64::{_mm_loadu_ps, _mm_storeu_ps};

    for isa in Isa::available().into_iter().filter_map(|(isa, result)| result.ok().map(|()| isa)) {
        let (one, four) = (Math::of(isa).unwrap(), Math4::of(isa).unwrap());
        let pairs = [(one.exp, four.exp), (one.log, four.log), (one.tanh, four.tanh)];
        for bits in (0..u32::MAX - 3 * 65_537).step_by(1_000_003) {
            let x = [0, 1, 2, 3].map(|i| f32::from_bits(bits + i * 65_537));
            for (one, four) in pairs {
                let mut y = [0.0f32; 4];
                // SAFETY: the tables are made for this machine; both arrays are 16 bytes.
                let expected = unsafe {
                    _mm_storeu_ps(y.as_mut_ptr(), four(_mm_loadu_ps(x.as_ptr())));
                    x.map(|x| one(x))
                };
                assert!(y.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())));
            }
        }
    }
}
