//! Masks of other engines, read back: the pairs that each format holds are those of the rows, or it is refused and says
//! which row breaks it.

use attnc::{
    Compiler, Diagnostics, ExportOptions, Exported, Format, Inputs, Kernel, MapInput, Module, Select, Shape, Values,
};

/// Queries, keys, and the position of the first query.
type Lengths = (i64, i64, Option<i64>);

/// Names, texts and lengths.
const CASES: &[(&str, &str, &[Lengths])] = &[
    ("causal", "pattern p = causal\n", &[(1, 1, None), (256, 256, None), (130, 130, None), (64, 192, Some(128))]),
    ("window", "pattern p = q - k in 0 .. 50\n", &[(256, 256, None), (300, 300, None), (128, 256, Some(100))]),
    ("both sides", "pattern p = q - k in -20 ..= 20\n", &[(256, 256, None), (77, 77, None)]),
    ("sinks", "pattern p = causal & (q - k in 0 .. 40 | k in 0 .. 4)\n", &[(256, 256, None), (150, 150, None)]),
    ("dilated", "pattern p = q - k in 0 .. 60 step 3\n", &[(128, 128, None), (90, 90, None)]),
    ("blocks", "pattern p = same block 64\n", &[(256, 256, None), (100, 100, None)]),
    ("block pattern", "pattern p = block 64 { k == q | k == q - 2 }\n", &[(512, 512, None)]),
    ("globals", "pattern p = q - k in -8 ..= 8 | k in 0 .. 3 | q in 0 .. 3\n", &[(128, 128, None), (61, 61, None)]),
    ("all", "pattern p = all\n", &[(128, 256, Some(0)), (3, 5, Some(0))]),
    (
        "one key",
        "attention p {\n  empty = zero\n  attend k in 5 .. 6 & q in 2 .. 9\n}\n",
        &[(16, 16, None), (128, 128, None)],
    ),
    ("nothing", "attention p {\n  empty = zero\n  attend q - k in 500 .. 600\n}\n", &[(64, 64, None)]),
    ("by head", "attention p {\n  attend q - k in 0 .. 8 * (head + 1)\n}\n", &[(128, 128, None), (50, 50, None)]),
];

fn module(text: &str) -> Module {
    Compiler::default().source(text).unwrap_or_else(|said| panic!("{said}"))
}

fn kernel(text: &str) -> Kernel {
    module(text).kernel(&Select::named("p")).unwrap_or_else(|said| panic!("{said}"))
}

fn code<T>(result: Result<T, Diagnostics>) -> (&'static str, String) {
    let said = result.err().expect("refused");
    (said.list[0].code, said.list[0].message.clone())
}

/// Pairs of a head.
#[derive(Clone, PartialEq)]
struct Pairs {
    width: usize,
    held: Vec<bool>,
}

impl Pairs {
    fn none(n_q: usize, n_k: usize) -> Pairs {
        Pairs { width: n_k, held: vec![false; n_q * n_k] }
    }

    /// Adds a pair, which no other part of a mask holds.
    fn add(&mut self, row: usize, col: usize) {
        let held = &mut self.held[row * self.width + col];
        assert!(!*held, "pair ({row}, {col}) is held twice");
        *held = true;
    }

    /// The first row that differs.
    fn differs(&self, other: &Pairs) -> Option<usize> {
        self.held.iter().zip(&other.held).position(|(a, b)| a != b).map(|at| at / self.width.max(1))
    }
}

fn of_rows(kernel: &Kernel, head: i64, shape: Shape, inputs: &Inputs<'_>) -> Pairs {
    let mut pairs = Pairs::none(shape.n_q as usize, shape.n_k as usize);
    let view = kernel.view(head, shape, inputs).unwrap_or_else(|said| panic!("{said}"));
    let mut walk = view.rows().expect("has values");
    for row in 0..shape.n_q {
        for run in walk.row(row).expect("has values") {
            (run.first..=run.last).for_each(|col| pairs.add(row as usize, col as usize));
        }
    }
    pairs
}

fn ints(made: &Exported, name: &str) -> Vec<i64> {
    let array = made.array(name).unwrap_or_else(|| panic!("no array `{name}`"));
    let values: Vec<i64> = match &array.values {
        Values::Bool(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Values::I8(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Values::I32(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Values::I64(v) => v.clone(),
    };
    assert_eq!(values.len(), array.shape.iter().product::<usize>(), "`{name}` fills its shape");
    values
}

fn number(made: &Exported, name: &str) -> usize {
    usize::try_from(made.number(name).unwrap_or_else(|| panic!("no number `{name}`"))).expect("a count")
}

/// The pairs of each head that a format holds.
fn read(format: Format, made: &Exported) -> Vec<Pairs> {
    let (n_q, n_k, heads) = (number(made, "queries"), number(made, "keys"), number(made, "heads"));
    let mut all = vec![Pairs::none(n_q, n_k); heads];
    match format {
        Format::Flex => {
            let block = number(made, "block");
            let (height, width) = (n_q.div_ceil(block), n_k.div_ceil(block));
            let (starts, ends) = (ints(made, "row_starts"), ints(made, "row_ends"));
            let most = starts.len() / (heads * n_q).max(1);
            let inside = |head: usize, row: usize, col: usize| {
                let at = (head * n_q + row) * most;
                (at..at + most).any(|i| (starts[i]..ends[i]).contains(&(col as i64)))
            };
            for (counts, indices, full) in
                [("kv_num_blocks", "kv_indices", false), ("full_kv_num_blocks", "full_kv_indices", true)]
            {
                let (counts, indices) = (ints(made, counts), ints(made, indices));
                for (head, pairs) in all.iter_mut().enumerate() {
                    for row in 0..height {
                        let at = head * height + row;
                        for &col in &indices[at * width..][..counts[at] as usize] {
                            let (rows, cols) = (row * block..(row + 1) * block, col as usize * block..);
                            for q in rows.filter(|&q| full || q < n_q) {
                                for k in cols.clone().take(block).filter(|&k| full || k < n_k) {
                                    // A full block is whole, and the function of the mask is not asked about it.
                                    if full || inside(head, q, k) {
                                        pairs.add(q, k);
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        Format::Cudnn => {
            let (values, functions) = (ints(made, "mask_func"), number(made, "functions"));
            assert!(functions % 2 == 1);
            for (head, pairs) in all.iter_mut().enumerate() {
                for row in 0..n_q {
                    let f: Vec<i64> = (0..functions).map(|f| values[(head * functions + f) * n_q + row]).collect();
                    assert!(f.is_sorted(), "ends never descend: {f:?}");
                    (0..f[0]).for_each(|col| pairs.add(row, col as usize));
                    for ends in f[1..].chunks(2) {
                        (ends[0]..ends[1]).for_each(|col| pairs.add(row, col as usize));
                    }
                }
            }
        }
        Format::Flashmask => {
            let (values, causal) = (ints(made, "startend_row_indices"), number(made, "causal") == 1);
            let width = values.len() / (heads * n_k).max(1);
            for (head, pairs) in all.iter_mut().enumerate() {
                for col in 0..n_k {
                    let v = &values[(head * n_k + col) * width..][..width];
                    let end = n_q as i64;
                    let excluded = match (causal, v) {
                        (true, &[a]) => [a..end, 0..0],
                        (true, &[a, b]) => [a..b, 0..0],
                        (false, &[a, b]) => [a..end, 0..b],
                        (false, &[a, b, c, d]) => [a..b, c..d],
                        _ => panic!("{width} numbers, causal {causal}"),
                    };
                    for row in 0..n_q {
                        let out = excluded.iter().any(|r| r.contains(&(row as i64))) || causal && col > row;
                        if !out {
                            pairs.add(row, col);
                        }
                    }
                }
            }
        }
        Format::Flashinfer => {
            let (block, indptr, indices) = (number(made, "block"), ints(made, "indptr"), ints(made, "indices"));
            let mask = made.array("mask").map(|_| ints(made, "mask"));
            for (row, ends) in indptr.windows(2).enumerate() {
                for at in ends[0] as usize..ends[1] as usize {
                    for cell in 0..block * block {
                        if mask.as_ref().is_none_or(|m| m[at * block * block + cell] == 1) {
                            all[0].add(row * block + cell / block, indices[at] as usize * block + cell % block);
                        }
                    }
                }
            }
        }
        Format::Splash => {
            let block = number(made, "block");
            let (kinds, data, masks) = (ints(made, "block_mask"), ints(made, "data_next"), ints(made, "mask_next"));
            let partial = ints(made, "partial_mask_blocks");
            let (height, width) = (n_q / block, n_k / block);
            for (at, &kind) in kinds.iter().enumerate() {
                let (head, row, col) = (at / (height * width), at / width % height, at % width);
                assert!((0..width as i64).contains(&data[at]));
                assert!(kind == 0 || data[at] == col as i64, "a block that is visited is what was fetched");
                for cell in 0..block * block {
                    let inside = match kind {
                        0 => false,
                        1 => partial[masks[at] as usize * block * block + cell] == 1,
                        _ => true,
                    };
                    if inside {
                        all[head].add(row * block + cell / block, col * block + cell % block);
                    }
                }
            }
        }
        Format::Magi => {
            let (q, k, kinds) = (ints(made, "q_ranges"), ints(made, "k_ranges"), ints(made, "attn_type_map"));
            for (at, &kind) in kinds.iter().enumerate() {
                let ([q0, q1], [k0, k1]) = ([q[2 * at], q[2 * at + 1]], [k[2 * at], k[2 * at + 1]]);
                for row in q0..q1 {
                    for col in k0..k1 {
                        // Causal is aligned with the last corner, inverse causal with the first.
                        let causal = col - k1 <= row - q1;
                        let inverse = col - k0 >= row - q0;
                        if (kind & 1 == 0 || causal) && (kind & 2 == 0 || inverse) {
                            all[0].add(row as usize, col as usize);
                        }
                    }
                }
            }
        }
        Format::Csr => {
            let (indptr, indices) = (ints(made, "indptr"), ints(made, "indices"));
            let mut begin = 0;
            for (pairs, own) in all.iter_mut().zip(indptr.chunks(n_q + 1)) {
                for (row, ends) in own.windows(2).enumerate() {
                    for at in ends[0]..ends[1] {
                        pairs.add(row, indices[begin + at as usize] as usize);
                    }
                }
                begin += own[n_q] as usize;
            }
        }
        Format::Coo => {
            let (rows, cols) = (ints(made, "row"), ints(made, "col"));
            let of = made.array("head").map(|_| ints(made, "head"));
            for (at, (&row, &col)) in rows.iter().zip(&cols).enumerate() {
                all[of.as_ref().map_or(0, |h| h[at] as usize)].add(row as usize, col as usize);
            }
        }
    }
    all
}

#[test]
fn what_is_exported_is_the_mask() {
    let mut held = [0; Format::ALL.len()];
    for (name, text, lengths) in CASES {
        let kernel = kernel(text);
        for &(n_q, n_k, q_start) in *lengths {
            let shape = Shape { n_q, n_k, heads: 3, dim: 16 };
            let inputs = Inputs { q_start, ..Inputs::default() };
            let expected: Vec<Pairs> = (0..3).map(|head| of_rows(&kernel, head, shape, &inputs)).collect();
            for (i, format) in Format::ALL.into_iter().enumerate() {
                for block in [None, Some(16)] {
                    let made = kernel.export(shape, &inputs, &ExportOptions { block, ..ExportOptions::new(format) });
                    let made = match made {
                        Ok(made) => made,
                        Err(said) => {
                            assert_eq!(said.list[0].code, attnc::NO_FORMAT, "{name} as {format:?}: {said}");
                            continue;
                        }
                    };
                    held[i] += 1;
                    let found = read(format, &made);
                    assert_eq!(found.len(), if *name == "by head" { 3 } else { 1 }, "{name} as {format:?}");
                    for (head, pairs) in expected.iter().enumerate() {
                        let row = pairs.differs(&found[head % found.len()]);
                        assert_eq!(row, None, "{name} {n_q} x {n_k} as {format:?}, head {head}");
                    }
                }
            }
        }
    }
    let all: usize = CASES.iter().map(|c| 2 * c.2.len()).sum();
    for (i, format) in Format::ALL.into_iter().enumerate() {
        let least = match format {
            Format::Csr | Format::Coo | Format::Flex | Format::Cudnn => all,
            _ => all / 3,
        };
        assert!(held[i] >= least, "{format:?} holds {} of {all}", held[i]);
    }
}

#[test]
fn forms_are_the_smallest() {
    let export = |text: &str, n: i64, format| {
        let shape = Shape { n_q: n, n_k: n, heads: 2, dim: 8 };
        kernel(text)
            .export(shape, &Inputs::default(), &ExportOptions::new(format))
            .unwrap_or_else(|said| panic!("{said}"))
    };
    let flashmask = |text| {
        let made = export(text, 64, Format::Flashmask);
        (number(&made, "causal"), made.array("startend_row_indices").expect("an array").shape[3])
    };
    assert_eq!(flashmask("pattern p = causal\n"), (1, 1));
    assert_eq!(flashmask("pattern p = q - k in 0 .. 9\n"), (1, 1));
    assert_eq!(flashmask("pattern p = causal & (q - k in 0 .. 9 | q in 40 .. 64)\n"), (1, 2));
    assert_eq!(flashmask("pattern p = q - k in -4 ..= 4\n"), (0, 2));
    assert_eq!(flashmask("pattern p = q - k in -4 ..= 4 | q in 0 .. 3\n"), (0, 4));
    let magi = |text| ints(&export(text, 64, Format::Magi), "attn_type_map");
    assert_eq!(magi("pattern p = causal\n"), [1]);
    assert_eq!(magi("pattern p = all\n"), [0]);
    assert_eq!(magi("pattern p = k >= q\n"), [2]);
    assert_eq!(magi("pattern p = q - k in 0 .. 9\n"), [1, 3]);
    let flex = export("pattern p = causal\n", 512, Format::Flex);
    assert_eq!(ints(&flex, "full_kv_num_blocks"), [0, 1, 2, 3]);
    assert_eq!(ints(&flex, "kv_num_blocks"), [1, 1, 1, 1]);
    let bsr = export("pattern p = block 64 { k == q }\n", 256, Format::Flashinfer);
    assert!(bsr.array("mask").is_none() || number(&bsr, "block") == 128);
}

#[test]
fn what_a_format_cannot_hold_is_named() {
    let refuse = |text: &str, (n_q, n_k): (i64, i64), options: ExportOptions| {
        let shape = Shape { n_q, n_k, heads: 2, dim: 8 };
        let (code, message) = code(kernel(text).export(shape, &Inputs::default(), &options));
        assert_eq!(code, attnc::NO_FORMAT);
        message
    };
    let of = ExportOptions::new;
    let stripes = "pattern p = q % 4 == k % 4\n";
    let said = refuse(stripes, (64, 64), of(Format::Flashmask));
    assert!(said.contains("key 1 of head 0") && said.contains("row 13"), "{said}");
    let said = refuse(stripes, (64, 64), ExportOptions { most: Some(5), ..of(Format::Cudnn) });
    assert!(said.contains("row 0 of head 0 has 16 ranges"), "{said}");
    let said = refuse("pattern p = causal\n", (100, 100), ExportOptions { block: Some(64), ..of(Format::Splash) });
    assert!(said.contains("query row 64"), "{said}");
    let by_head = "attention p {\n  attend q - k in 0 .. 4 + head\n}\n";
    for format in [Format::Flashinfer, Format::Magi] {
        let said = refuse(by_head, (64, 64), of(format));
        assert!(said.contains("row 4 of head 1"), "{said}");
    }
    let said = refuse("pattern p = causal\n", (9, 9), ExportOptions { most: Some(0), ..of(Format::Magi) });
    assert!(said.contains("row 0"), "{said}");
    let twice = "attention p {\n  attend causal ++ q - k in 0 .. 1\n}\n";
    let said = refuse(twice, (9, 9), of(Format::Csr));
    assert!(said.contains("row 0 of head 0 attends to key 0 2 times"), "{said}");
    let said = refuse("pattern p = causal\n", (9, 9), ExportOptions { block: Some(0), ..of(Format::Flex) });
    assert!(said.contains("1 to 65536"), "{said}");
    let said = refuse("pattern p = causal\n", (1 << 20, 1 << 20), of(Format::Coo));
    assert!(said.contains("up to row"), "{said}");

    for (text, what) in [
        ("attention p {\n  score = score - abs(q - k)\n  attend causal\n}\n", "score modifier"),
        ("attention p {\n  attend causal bias 1.0\n}\n", "a bias"),
        ("attention p {\n  attend causal ++ null 1\n}\n", "null slots"),
    ] {
        let said = refuse(text, (9, 9), of(Format::Csr));
        assert!(said.contains(what), "{said}");
        let shape = Shape { n_q: 9, n_k: 9, heads: 2, dim: 8 };
        let alone = ExportOptions { mask_only: true, ..of(Format::Csr) };
        let made = kernel(text).export(shape, &Inputs::default(), &alone).unwrap_or_else(|said| panic!("{said}"));
        assert_eq!(ints(&made, "indices").len(), 45);
    }
}

#[test]
fn heads_that_skip_and_data_of_the_run() {
    let text = "attention near { attend q - k in 0 .. 2 }\nmodel p(layers = 1, heads = 2) { layer 0 { 0 => near, 1 => skip } }\n";
    let kernel = kernel(text);
    let shape = Shape { n_q: 4, n_k: 4, heads: 2, dim: 8 };
    let made = kernel.export(shape, &Inputs::default(), &ExportOptions::new(Format::Csr)).expect("exports");
    assert_eq!(ints(&made, "indptr"), [0, 1, 3, 5, 7, 0, 0, 0, 0, 0]);
    let text = "map keep : csr\n\nattention p {\n  empty = zero\n  attend map keep\n}\n";
    let kernel = self::kernel(text);
    let (indptr, indices) = ([0, 2, 2, 5, 6], [0, 2, 0, 1, 3, 2]);
    let map = MapInput::Csr { indptr: &indptr, indices: &indices };
    let inputs = Inputs { maps: vec![("keep", map)], ..Inputs::default() };
    let made = kernel.export(shape, &inputs, &ExportOptions::new(Format::Csr)).unwrap_or_else(|said| panic!("{said}"));
    assert_eq!((ints(&made, "indptr"), ints(&made, "indices")), (indptr.to_vec(), indices.to_vec()));
}
