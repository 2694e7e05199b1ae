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
        (1i64..9).prop_map(|m| format!("(q - k) % (head + {m}) == 0")),
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

/// A random attention over what a selection chooses, as a whole file.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Tokens of a slot of the level, and of a row of block rows.
    blocks: (i64, i64),
    budget: String,
    /// What it ranks by; nothing for the nearest.
    score: Option<&'static str>,
    rows: &'static str,
    within: Option<String>,
    more: String,
    attend: &'static str,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Chosen { blocks: (slot, row), budget, score, rows, within, more, attend } = self;
        writeln!(f, "tensor x[n_k]\n\nlevel g = mean({slot}) of q, k, v\n\nlevel rows = blocks({row})\n")?;
        if let Some(score) = score {
            writeln!(f, "score a = {score}\n")?;
        }
        let of = if score.is_some() { " of a" } else { "" };
        write!(f, "select s = {budget}{of} per {rows}")?;
        if let Some(within) = within {
            write!(f, " within {within}")?;
        }
        writeln!(f, "{more}\n\nattention any {{\n  empty = zero\n  attend {attend}\n}}")
    }
}

/// What candidates are, which rows choose, and by which score.
const SCORES: [(bool, &str, Option<&str>); 9] = [
    (false, "q", None),
    (false, "q", Some("dot(q, k) / sqrt(d)")),
    (false, "q", Some("x[k]")),
    (false, "head", Some("x[k]")),
    (false, "q.rows", Some("dot(q, k) then max q in rows")),
    (true, "q", Some("dot(q, g.k)")),
    (true, "q", Some("dot(q, k) / sqrt(d) where causal then softmax then max k in g")),
    (true, "q.rows", Some("dot(q, k) where k % 3 < 2 then max k in g then exp then max q in rows then rowsum")),
    (true, "q.g", Some("dot(g.q, g.k)")),
];

/// Random attentions over selections of tokens and of slots of a level.
pub fn chosen() -> BoxedStrategy<Chosen> {
    let of_tokens = prop_oneof![
        Just("s"),
        Just("s & causal"),
        Just("s | q - k in 0 .. 9"),
        Just("(s & causal) ++ q == k @ tokens")
    ];
    let of_slots = prop_oneof![
        Just("s"),
        Just("s & causal | same block 16"),
        Just("q - k in 0 .. 5 ++ s @ g bias log(3)"),
        Just("(s & causal) except q - k in 3 .. 30 ++ causal @ g"),
    ];
    let budget = prop_oneof![
        (1i64..40).prop_map(|n| format!("top {n}")),
        (1i64..9).prop_map(|n| format!("frac 0.{n}")),
        (-1i64..2).prop_map(|t| format!("above {t}.25")),
    ];
    let within = prop_oneof![
        Just("causal".to_string()),
        (-20i64..20, 1i64..80).prop_map(|(lo, len)| format!("q - k in {lo} .. {}", lo + len)),
        (0i64..60, 1i64..90).prop_map(|(lo, len)| format!("k in {lo} .. {}", lo + len)),
        (2i64..9).prop_map(|m| format!("causal & x[q] * {m}.0 > x[k]")),
    ];
    let more = prop_oneof![
        3 => Just(String::new()),
        1 => (1i64..9).prop_map(|n| format!(" at least {n}")),
        1 => (1i64..30).prop_map(|n| format!(" including q - k in 0 .. {n}")),
        1 => (1i64..30).prop_map(|n| format!(" besides q - k in 0 .. {n}")),
    ];
    let parts = (0..SCORES.len(), budget, 1i64..40, proptest::option::of(within), more, of_tokens, of_slots);
    (parts, 2i64..20, 2i64..40)
        .prop_map(|((which, budget, nearest, within, more, of_tokens, of_slots), slot, row)| {
            let (slots, rows, score) = SCORES[which];
            let budget = if score.is_some() { budget } else { format!("nearest {nearest}") };
            // One set for a head is of no query.
            let of_head = rows == "head";
            let (within, more) = if of_head { (None, String::new()) } else { (within, more) };
            let attend = if slots { of_slots } else { of_tokens };
            Chosen { blocks: (slot, row), budget, score, rows, within, more, attend }
        })
        .boxed()
}
