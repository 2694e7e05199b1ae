//! The diagnostics of this crate, for `attnc explain` and `docs/errors.md`.

use crate::diag::CodeInfo;

/// 201 prefix operators: one more than the limit.
macro_rules! deep {
    ($($part:literal)*) => { concat!("pattern deep = ", $($part, $part, $part,)* "causal\n") };
}

/// 101 errors: one more than are shown.
macro_rules! many {
    ($($_part:literal)*) => { concat!($("pattern\npattern\npattern\npattern\npattern\npattern\n", $_part,)*) };
}

/// Every code that [`parse`](crate::parse) reports, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: "E0101",
        title: "a character that is not of the language",
        explain: "Outside of comments and strings a file holds names of ASCII letters, digits and `_`, numbers, and \
                  the signs of the language. Set operators are `&`, `|`, `except` and `!`; statements end without `;`.",
        example: "pattern both = causal ∧ all\n",
    },
    CodeInfo {
        code: "E0102",
        title: "a number that runs into a name",
        explain: "Integers are `42` or `1_024`, reals `0.5` or `1e-3`. A product is written with `*`, and a name \
                  does not begin with a digit.",
        example: "pattern near_diagonal = q - k in 0 .. 2n\n",
    },
    CodeInfo {
        code: "E0103",
        title: "a number that is too large",
        explain: "Integers are 64-bit and signed, reals are finite numbers of double precision.",
        example: "param window = 9223372036854775808\n",
    },
    CodeInfo {
        code: "E0104",
        title: "a string without an end",
        explain: "The path of an import stands in double quotes on one line.",
        example: "import window from \"std\n",
    },
    CodeInfo {
        code: "E0105",
        title: "a file that is too large",
        explain: "A source file holds at most 1 MiB. Sets that are data and not a rule are tensors given when run: \
                  see `map`. The command line refuses such a file before it is read, with E0803.",
        example: "",
    },
    CodeInfo {
        code: "E0106",
        title: "nesting that is too deep",
        explain: "Brackets, `random .. of` and the prefix operators before them may nest 200 deep. Give an inner part \
                  a name of its own. Chains such as `a | b | c` may have any length.",
        example: deep!("!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!"
            "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!"
            "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!" "!"),
    },
    CodeInfo {
        code: "E0107",
        title: "a bracket that is never closed",
        explain: "The bracket is still open where the file ends or the next item begins.",
        example: "pattern first = causal & (k in 0 .. 4\npattern second = all\n",
    },
    CodeInfo {
        code: "E0108",
        title: "a bracket that closes nothing, or another kind of bracket",
        explain: "Brackets close in the reverse of the order in which they were opened.",
        example: "pattern first = causal & (k in 0 .. 4]\n",
    },
    CodeInfo {
        code: "E0109",
        title: "something else is expected here",
        explain: "The text does not follow the grammar. The message says what was found and what could stand there; \
                  items with such an error are left out, the others are still checked.",
        example: "pattern diagonal = q = k\n",
    },
    CodeInfo {
        code: "E0110",
        title: "not the beginning of an item",
        explain: "A file is a list of items, and each begins with its word: `pattern`, `attention`, `model`, `param`, \
                  `size`, `tensor`, `map`, `space`, `order`, `level`, `score`, `select`, `merge`, `require` or `import`.",
        example: "window = 1024\n",
    },
    CodeInfo {
        code: "E0111",
        title: "`except` beside `|` without parentheses",
        explain: "`a except b | c` could mean `(a except b) | c` or `a except (b | c)`: write the one that is meant. \
                  (`&` binds tighter than both and needs no parentheses.)",
        example: "pattern unclear = causal except k in 0 .. 4 | same block 64\n",
    },
    CodeInfo {
        code: "E0112",
        title: "the head of a model is wrong",
        explain: "A model says its `layers` and its `heads`, and its `steps` if it has steps, each once. KV heads are \
                  given with the heads: `heads = 32 on 8`, and `by E` where a written map is needed.",
        example: "model small(layers = 4) { _ => causal }\n",
    },
    CodeInfo {
        code: "E0113",
        title: "a range that does not say of what",
        explain: "Directly inside `layer N { .. }` a range without a word is about heads. Everywhere else an arm says \
                  `step`, `layer` or `head`.",
        example: "model small(layers = 4, heads = 8) { 0 .. 4 => causal, _ => all }\n",
    },
    CodeInfo {
        code: "E0114",
        title: "not a way to store a map",
        explain: "A map is `bool` (a byte for each pair), `blocks N` (a byte for each pair of blocks) or `csr` (row \
                  pointers and indices), with `[heads]` where each head has its own, or `offsets` (where the slots of a \
                  level begin).",
        example: "map tree : bits\n",
    },
    CodeInfo {
        code: "E0115",
        title: "too many errors",
        explain: "Only the first 100 errors of a file are shown.",
        example: many!("" "" "" "" "" "" "" "" "" "" "" "" "" "" "" "" ""),
    },
];
