//! Operations of score modifiers: every instruction set beside plain code, for rows of every length up to two vectors.

use attnc_kernels::Isa;
use attnc_kernels::abi::{BK, Next, Rows};

/// Numbers that operations treat apart, and ordinary ones between them.
const REALS: [f32; 16] = [
    0.0,
    -0.0,
    1.5,
    -2.25,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1e-40,
    3.0,
    3.0,
    -7.75,
    0.3,
    88.0,
    -0.6,
    f32::MAX,
    -1e-3,
];
const INTS: [i32; 16] = [0, 1, -1, i32::MAX, i32::MIN, 7, 7, -300, 65, 2, 3, 4, -5, 100_000, 12, -12];
const MOST: usize = 32;

/// Numbers of `of`, from place `ahead` on.
fn row<T: Copy>(of: &[T; 16], ahead: usize) -> [T; MOST] {
    std::array::from_fn(|i| of[(i + ahead) % 16])
}

fn tables() -> impl Iterator<Item = (Isa, Rows)> {
    Isa::available().into_iter().filter_map(|(isa, _)| Some((isa, Rows::of(isa)?)))
}

/// That `f` makes of two rows what `plain` makes of two elements, and writes nothing else.
fn check<T: Copy, U: Copy + PartialEq + std::fmt::Debug>(
    name: &str,
    of: &[T; 16],
    none: U,
    plain: impl Fn(T, T) -> U,
    same: impl Fn(U, U) -> bool,
    f: impl Fn(*mut U, *const T, *const T, i64),
) {
    for lanes in 0..=MOST {
        for ahead in 0..16 {
            let (a, b) = (row(of, 0), row(of, ahead));
            let mut to = [none; MOST + 1];
            f(to.as_mut_ptr(), a.as_ptr(), b.as_ptr(), lanes as i64);
            for i in 0..lanes {
                let expected = plain(a[i], b[i]);
                assert!(same(to[i], expected), "{name}, {lanes} lanes: {:?} for {expected:?}", to[i]);
            }
            assert!(same(to[lanes], none), "{name} of {lanes} lanes writes more");
        }
    }
}

fn same_real(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// Minimum by the contract: NaN if either is, the zero with the sign `sign` first.
fn extreme(a: f32, b: f32, greater: bool) -> f32 {
    match a.partial_cmp(&b) {
        None => f32::NAN,
        Some(std::cmp::Ordering::Equal) => {
            if a.is_sign_negative() != greater {
                a
            } else {
                b
            }
        }
        Some(order) => {
            if (order == std::cmp::Ordering::Greater) == greater {
                a
            } else {
                b
            }
        }
    }
}

#[test]
fn reals_and_integers_are_those_of_one_element() {
    type Reals = unsafe extern "C" fn(*mut f32, *const f32, *const f32, i64);
    type Ints = unsafe extern "C" fn(*mut i32, *const i32, *const i32, i64);
    type Tests = unsafe extern "C" fn(*mut i32, *const f32, *const f32, i64);
    type Real = unsafe extern "C" fn(*mut f32, *const f32, i64);
    type Int = unsafe extern "C" fn(*mut i32, *const i32, i64);
    type OfReals<T> = fn(f32, f32) -> T;
    type OfInts = fn(i32, i32) -> i32;
    type OfReal = fn(f32) -> f32;
    type OfInt = fn(i32) -> i32;
    for (isa, t) in tables() {
        let reals: [(&str, Reals, OfReals<f32>); 6] = [
            ("add", t.add, |a, b| a + b),
            ("sub", t.sub, |a, b| a - b),
            ("mul", t.mul, |a, b| a * b),
            ("div", t.div, |a, b| a / b),
            ("min", t.min, |a, b| extreme(a, b, false)),
            ("max", t.max, |a, b| extreme(a, b, true)),
        ];
        for (name, f, plain) in reals {
            // SAFETY: the table is made for this machine; rows have as many elements.
            check(&format!("{} {name}", isa.name()), &REALS, 9.0, plain, same_real, |to, a, b, n| unsafe {
                f(to, a, b, n)
            });
        }
        let ints: [(&str, Ints, OfInts); 10] = [
            ("add", t.add_int, i32::wrapping_add),
            ("sub", t.sub_int, i32::wrapping_sub),
            ("mul", t.mul_int, i32::wrapping_mul),
            ("min", t.min_int, i32::min),
            ("max", t.max_int, i32::max),
            ("less", t.less_int, |a, b| -i32::from(a < b)),
            ("at most", t.at_most_int, |a, b| -i32::from(a <= b)),
            ("equal", t.equal_int, |a, b| -i32::from(a == b)),
            ("and", t.and, |a, b| a & b),
            ("or", t.or, |a, b| a | b),
        ];
        for (name, f, plain) in ints {
            // SAFETY: as above.
            check(
                &format!("{} {name}", isa.name()),
                &INTS,
                9,
                plain,
                |a, b| a == b,
                |to, a, b, n| unsafe { f(to, a, b, n) },
            );
        }
        let tests: [(&str, Tests, OfReals<i32>); 3] = [
            ("less", t.less, |a, b| -i32::from(a < b)),
            ("at most", t.at_most, |a, b| -i32::from(a <= b)),
            ("equal", t.equal, |a, b| -i32::from(a == b)),
        ];
        for (name, f, plain) in tests {
            // SAFETY: as above.
            check(
                &format!("{} {name}", isa.name()),
                &REALS,
                9,
                plain,
                |a, b| a == b,
                |to, a, b, n| unsafe { f(to, a, b, n) },
            );
        }
        let one: [(&str, Real, OfReal); 4] =
            [("neg", t.neg, |a| -a), ("abs", t.abs, f32::abs), ("sqrt", t.sqrt, f32::sqrt), ("copy", t.copy, |a| a)];
        for (name, f, plain) in one {
            // SAFETY: as above.
            check(
                &format!("{} {name}", isa.name()),
                &REALS,
                9.0,
                |a, _| plain(a),
                same_real,
                |to, a, _, n| unsafe { f(to, a, n) },
            );
        }
        let one: [(&str, Int, OfInt); 3] =
            [("neg", t.neg_int, i32::wrapping_neg), ("abs", t.abs_int, i32::wrapping_abs), ("not", t.not, |a| !a)];
        for (name, f, plain) in one {
            // SAFETY: as above.
            check(
                &format!("{} {name}", isa.name()),
                &INTS,
                9,
                |a, _| plain(a),
                |a, b| a == b,
                |to, a, _, n| unsafe { f(to, a, n) },
            );
        }
        // SAFETY: as above.
        check("to real", &INTS, 9.0, |a, _| a as f32, same_real, |to, a, _, n| unsafe { (t.to_real)(to, a, n) });
        // SAFETY: as above; truth values are all ones or zeros.
        check(
            "select",
            &INTS,
            9,
            |a, b| if a < b { a } else { b },
            |a, b| a == b,
            |to, a, b, n| unsafe {
                let mut which = [0; MOST];
                (t.less_int)(which.as_mut_ptr(), a, b, n);
                (t.select)(to, which.as_ptr(), a, b, n);
            },
        );
    }
}

#[test]
fn functions_are_within_the_stated_bounds() {
    for (isa, t) in tables() {
        type Named = (&'static str, unsafe extern "C" fn(*mut f32, *const f32, i64), fn(f64) -> f64);
        let functions: [(Named, f64); 3] =
            [(("exp", t.exp, f64::exp), 2.0), (("log", t.log, f64::ln), 2.0), (("tanh", t.tanh, f64::tanh), 4.0)];
        for ((name, f, exact), bound) in functions {
            let (mut worst, mut at) = (0.0f64, 0.0);
            for bits in (0..=u32::MAX - 16 * 61).step_by(997 * 16) {
                let x: [f32; 16] = std::array::from_fn(|i| f32::from_bits(bits + 61 * i as u32));
                let mut y = [0.0f32; 16];
                // SAFETY: the table is made for this machine; rows have 16 elements.
                unsafe { f(y.as_mut_ptr(), x.as_ptr(), 16) };
                for (x, y) in x.into_iter().zip(y) {
                    let exact = exact(f64::from(x));
                    let rounded = exact as f32;
                    if same_real(y, rounded) {
                        continue;
                    }
                    assert!(y.is_finite() && rounded.is_finite(), "{} {name}({x:e}) = {y}, not {rounded}", isa.name());
                    let ulp = f64::from(f32::from_bits(rounded.abs().to_bits() + 1)) - f64::from(rounded.abs());
                    let error = (f64::from(y) - exact).abs() / ulp;
                    if error > worst {
                        (worst, at) = (error, x);
                    }
                }
            }
            assert!(worst <= bound, "{}: {name}({at:e}) is {worst} ulp off", isa.name());
        }
        let (x, mut y) = ([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 20.0, -20.0], [9.0; 6]);
        // SAFETY: as above.
        unsafe { (t.tanh)(y.as_mut_ptr(), x.as_ptr(), 6) };
        assert_eq!(y.map(f32::to_bits), [0.0, -0.0, 1.0, -1.0, 1.0, -1.0].map(f32::to_bits), "{}", isa.name());
    }
}

/// Elements from one row of scores to the next.
const PITCH: usize = 80;

#[test]
fn rows_are_filled_with_elements() {
    let from: Vec<f32> = (0..3).map(|i| 1.0 + i as f32).collect();
    for (isa, t) in tables() {
        for lanes in [64, 48, 16, 5, 1] {
            let mut to: Vec<f32> = (0..3 * PITCH).map(|i| 1000.0 * i as f32).collect();
            // SAFETY: the table is made for this machine; rows of both are within the slices.
            unsafe { (t.set_columns)(to.as_mut_ptr(), PITCH as i64, from.as_ptr(), lanes, 3) };
            for (i, &x) in to.iter().enumerate() {
                let expected = if (i % PITCH) < lanes as usize { from[i / PITCH] } else { 1000.0 * i as f32 };
                assert_eq!(x, expected, "{}: key {}, lane {}", isa.name(), i / PITCH, i % PITCH);
            }
        }
    }
}

#[test]
fn numbers_are_repeated_and_places_found() {
    let (list, b) = ([3_u32, 40, 7], [5, -1, 9, 10, 0, i32::MAX, i32::MIN]);
    for (isa, t) in tables() {
        for pitch in [8, 24, 64] {
            let mut to = vec![-1; 3 * pitch + 1];
            // SAFETY: the table is made for this machine; there is room for three rows.
            unsafe { (t.repeated)(to.as_mut_ptr(), list.as_ptr(), 100, pitch as i64, 3) };
            let expected: Vec<i32> = list.iter().flat_map(|&n| vec![100 + n as i32; pitch]).chain([-1]).collect();
            assert_eq!(to, expected, "{}: {pitch} elements", isa.name());
        }
        for n in 0..=b.len() {
            let (a, mut to) = ([0, 1, 2, 3, 4, 5, 6], [-1; 8]);
            // SAFETY: as above, for rows of at most seven elements.
            unsafe { (t.within)(to.as_mut_ptr(), a.as_ptr(), b.as_ptr(), 10, n as i64) };
            let expected: Vec<i32> = [5, 10, 29, 39, 40, 59, 60][..n].iter().copied().chain(vec![-1; 8 - n]).collect();
            assert_eq!(to[..], expected, "{}: {n} elements", isa.name());
        }
    }
}

#[test]
fn loads_clamp_and_find_every_element() {
    let data: Vec<f32> = (0..40 * 100).map(|i| i as f32).collect();
    let at = |i: i64, extent: i64, stride: i64| (i.clamp(0, extent - 1) * stride) as f32;
    let rows: [fn(i32) -> i32; 5] = [|i| i + 3, |_| 7, |i| 90 - i, |i| i - 8, |i| (i * 37) % 101 - 1];
    for (isa, t) in tables() {
        for (lanes, index) in (1..=64).flat_map(|n| rows.map(|f| (n, f))) {
            let indices: Vec<i32> = (0..lanes).map(index).collect();
            for (extent, stride) in [(100, 1), (40, 100), (5, 1)] {
                let mut to = vec![-1.0f32; lanes as usize];
                let data = data.as_ptr().cast();
                // SAFETY: the table is made for this machine; the data have all elements within the extent.
                unsafe { (t.load)(to.as_mut_ptr(), data, indices.as_ptr(), extent, stride * 4, i64::from(lanes)) };
                let expected: Vec<f32> = indices.iter().map(|&i| at(i64::from(i), extent, stride)).collect();
                assert_eq!(to, expected, "{}, stride {stride}", isa.name());
            }
            // Keys that follow one another, beyond the last, and apart.
            let lists: [Vec<u32>; 3] =
                [(5..5 + lanes as u32).collect(), (80..144).collect(), (0..20).map(|i| i * 3).collect()];
            for (list, start) in lists.iter().flat_map(|list| [(list, 0), (list, 2), (list, -6)]) {
                let mut to = vec![-1.0f32; BK * PITCH];
                let (keys, n) = (list.len() as i64, i64::from(lanes));
                let (to_ptr, data, i) = (to.as_mut_ptr(), data.as_ptr().cast(), indices.as_ptr());
                let mut asked = [std::ptr::null::<u8>(); BK];
                let mut next = Next { elements: asked.as_mut_ptr(), ..Next::NOTHING };
                let pitch = PITCH as i64;
                // SAFETY: as above, of 40 rows of 100 elements, and of room for addresses.
                unsafe {
                    (t.load_keys)(to_ptr, pitch, data, i, 40, 400, n, list.as_ptr(), keys, start, 100, &mut next)
                };
                // What is read next lies behind what was read, for every lane: the first line that holds nothing else.
                for (lane, &row) in indices.iter().enumerate().filter(|_| next.elements_bytes > 0) {
                    let after = at(row.into(), 40, 100) as i64 + start + i64::from(list[0]) + keys;
                    let after = (data.addr() as i64 + 4 * after).unsigned_abs().next_multiple_of(64);
                    assert_eq!(asked[lane].addr() as u64, after, "{}", isa.name());
                }
                for (key, lane) in (0..BK).flat_map(|key| (0..PITCH).map(move |lane| (key, lane))) {
                    let expected = match (list.get(key), indices.get(lane)) {
                        (Some(&number), Some(&row)) => at(row.into(), 40, 100) + at(start + i64::from(number), 100, 1),
                        _ => -1.0,
                    };
                    assert_eq!(to[key * PITCH + lane], expected, "{}: key {key}, lane {lane}", isa.name());
                }
            }
        }
    }
}
