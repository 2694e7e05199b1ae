//! Random patterns as source text, for property tests: small, readable, and shrinking to something a person can read.

use std::fmt;

use proptest::prelude::*;

/// A random set. `Display` prints it in the language.
#[derive(Clone, Debug)]
pub enum Set {
    /// A set without parts, as text.
    Leaf(String),
    /// `(a) & (b)`
    And(Box<Set>, Box<Set>),
    /// `(a) | (b)`
    Or(Box<Set>, Box<Set>),
    /// `(a) except (b)`
    Except(Box<Set>, Box<Set>),
    /// `!(a)`
    Not(Box<Set>),
    /// `block B { a }`
    Block(i64, Box<Set>),
    /// `each doc { a }`
    EachDoc(Box<Set>),
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Set::Leaf(text) => f.write_str(text),
            Set::And(a, b) => write!(f, "({a}) & ({b})"),
            Set::Or(a, b) => write!(f, "({a}) | ({b})"),
            Set::Except(a, b) => write!(f, "({a}) except ({b})"),
            Set::Not(a) => write!(f, "!({a})"),
            Set::Block(size, a) => write!(f, "block {size} {{ {a} }}"),
            Set::EachDoc(a) => write!(f, "each doc {{ {a} }}"),
        }
    }
}

/// Which forms a pattern may use beside the plain ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forms {
    /// Coordinates of `grid(h, w)`, and its orders `curve` and `columns`.
    pub grid: bool,
    /// Documents.
    pub docs: bool,
}

/// Comparisons over positions in many spellings.
fn plain() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("causal".to_string()),
        Just("all".to_string()),
        Just("pow2".to_string()),
        (-40i64..40, 1i64..60).prop_map(|(lo, len)| format!("q - k in {lo} .. {}", lo + len)),
        (0i64..90, 1i64..60).prop_map(|(lo, len)| format!("k in {lo} .. {}", lo + len)),
        (0i64..90, 1i64..60).prop_map(|(lo, len)| format!("q in {lo} .. {}", lo + len)),
        (1i64..70).prop_map(|n| format!("k in -{n} ..")),
        (2i64..40, 0i64..6).prop_map(|(m, r)| format!("(q - k) % {m} == {r}")),
        (2i64..90, 1i64..20).prop_map(|(m, w)| format!("k % {m} < {w}")),
        (2i64..90, 1i64..20).prop_map(|(m, w)| format!("(q - k) % {m} < {w}")),
        (1i64..70).prop_map(|b| format!("same block {b}")),
        (1i64..40, -3i64..4).prop_map(|(b, d)| format!("q / {b} - k / {b} == {d}")),
        (1i64..4, -20i64..20, 1i64..4).prop_map(|(a, b, c)| format!("{a} * q + {b} <= {c} * k")),
        (1i64..6, 0i64..30).prop_map(|(a, b)| format!("k * {a} - {b} < q")),
        (2i64..30).prop_map(|m| format!("(q / {m}) % 3 == k % 3")),
        (0i64..60, 0i64..60, 0i64..60).prop_map(|(a, b, c)| format!("k in {{{a}, {b}, {c}}}")),
        (1i64..5, 0i64..9, 2i64..9)
            .prop_map(|(n, s, w)| format!("random {n} of q - k in 0 .. {} per q seed {s}", w * 5)),
        (2i64..20).prop_map(|s| format!("q - k in 0 .. 200 step {s}")),
        (0i64..40).prop_map(|h| format!("q - k < {h} + 20 * head & causal")),
    ]
}

/// Sets along orders of `grid(h, w)`.
fn along() -> impl Strategy<Value = String> {
    let order = prop_oneof![Just("curve"), Just("columns"), Just("(columns, curve)")];
    let set = prop_oneof![
        (-20i64..20, 1i64..40).prop_map(|(lo, len)| format!("q - k in {lo} .. {}", lo + len)),
        (1i64..30).prop_map(|b| format!("same block {b}")),
        (2i64..20, -2i64..2).prop_map(|(b, lo)| format!("block {b} {{ q - k in {lo} ..= 1 }}")),
        (0i64..60, 1i64..40).prop_map(|(lo, len)| format!("k in {lo} .. {}", lo + len)),
        (1i64..30).prop_map(|b| format!("same block {b} & causal | q == k")),
    ];
    (order, set).prop_map(|(order, set)| format!("along {order} {{ {set} }}"))
}

/// Comparisons over the axes of `grid(h, w)`.
fn grid() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("same h".to_string()),
        Just("same w".to_string()),
        (1i64..6, 1i64..6, 1i64..3, 1i64..3).prop_map(|(h, w, s, t)| format!(
            "near(h = {h} by {}, w = {w} by {})",
            s.min(h),
            t.min(w)
        )),
        (1i64..4, 1i64..3).prop_map(|(w, d)| format!("near(h = {w} dilate {d}, w = 2 causal)")),
        (1i64..5).prop_map(|r| format!("disc(h, w, {r})")),
        (-3i64..3, 1i64..5).prop_map(|(lo, len)| format!("q.h - k.h in {lo} .. {}", lo + len)),
        (-3i64..3, 1i64..5).prop_map(|(lo, len)| format!("k.w - q.w in {lo} .. {}", lo + len)),
        (0i64..5).prop_map(|c| format!("k.w == {c}")),
        (2i64..4).prop_map(|m| format!("(q.h + k.w) % {m} == 0")),
        (-3i64..3, 1i64..9).prop_map(|(lo, len)| format!("q.w == k.w & q.h - k.h in {lo} .. {}", lo + len)),
        Just("(q - k) % grid.w == 0".to_string()),
        along(),
    ]
}

/// Random sets over `forms`, up to three operators deep.
pub fn set(forms: Forms) -> BoxedStrategy<Set> {
    let leaf = if forms.grid {
        prop_oneof![2 => plain(), 3 => grid()].boxed()
    } else if forms.docs {
        prop_oneof![3 => plain(), 1 => Just("same doc".to_string())].boxed()
    } else {
        plain().boxed()
    };
    let leaf = leaf.prop_map(Set::Leaf);
    leaf.prop_recursive(3, 8, 2, move |inner| {
        let two = (inner.clone(), inner.clone()).prop_map(|(a, b)| (Box::new(a), Box::new(b)));
        let base = prop_oneof![
            3 => two.clone().prop_map(|(a, b)| Set::And(a, b)),
            3 => two.clone().prop_map(|(a, b)| Set::Or(a, b)),
            1 => two.prop_map(|(a, b)| Set::Except(a, b)),
            1 => inner.clone().prop_map(|a| Set::Not(Box::new(a))),
        ];
        if forms.docs {
            // Random choices and documents have no meaning inside a document.
            let local = inner.prop_filter_map("no draws or documents inside a document", |a| {
                let text = a.to_string();
                (!text.contains("random") && !text.contains("doc")).then(|| Set::EachDoc(Box::new(a)))
            });
            prop_oneof![3 => base, 1 => local].boxed()
        } else if forms.grid {
            base.boxed()
        } else {
            let lifted = (2i64..20, inner).prop_map(|(b, a)| Set::Block(b, Box::new(a)));
            prop_oneof![4 => base, 1 => lifted].boxed()
        }
    })
    .boxed()
}
