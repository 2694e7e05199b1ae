//! The diagnostics of the checker, for `attnc explain` and `docs/errors.md`.

use attnc_syntax::diag::CodeInfo;

/// 101 unknown names: one more than errors are shown.
macro_rules! many {
    ($($part:literal)*) => { concat!("pattern all_wrong = z0", $(" | a", $part, " | b", $part, " | c", $part, " | d", $part,)* "\n") };
}

/// Every code that [`check`](super::check) reports, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: "E0201",
        title: "an unknown name",
        explain: "Every name is a word of the language, an item of the file, or imported by name: \
                  `import window from \"std\"`. Coordinates are written with the token they belong to, `q.h`, and \
                  extents with their segment, `video.h`.",
        example: "pattern edge = k in 0 .. 4\npattern both = causal & egde\n",
    },
    CodeInfo {
        code: "E0202",
        title: "a name that is given twice",
        explain: "Items, imported names and segments of a file have names of their own, and so have all axes of a \
                  space. Run-time data (sizes, tensors, maps) is found by name, so no two files of a program declare \
                  data of one name.",
        example: "param window = 4\npattern window = causal\n",
    },
    CodeInfo {
        code: "E0203",
        title: "a word of the language as a name",
        explain: "Words such as `q`, `causal`, `head`, `score` or `min` mean the same in every file and cannot be \
                  declared. Axes cannot be called `pos`, `doc` or `len`.",
        example: "param head = 4\npattern p = causal\n",
    },
    CodeInfo {
        code: "E0204",
        title: "a kind that does not fit",
        explain: "Sets are joined with `&`, `|`, `except` and `!`; integers and reals with `+ - * / %`; a comparison \
                  of integers makes a set. `/` and `%` of integers floor, inside scores too: write `1.0 * a / b` for \
                  a real quotient. Sets compare integers, not reals.",
        example: "pattern p = causal - (k in 0 .. 4)\n",
    },
    CodeInfo {
        code: "E0205",
        title: "a definition that needs itself",
        explain: "A pattern is expanded where it is used and a param is computed once, so neither can contain itself, \
                  directly or through others.",
        example: "pattern p = causal | p\n",
    },
    CodeInfo {
        code: "E0206",
        title: "a wrong number of arguments",
        explain: "A pattern is used with as many arguments as it declares; one without arguments is used by name \
                  alone. `min` and `max` take two or more, other functions one.",
        example: "import window from \"std\"\npattern p = window(4, 8)\n",
    },
    CodeInfo {
        code: "E0208",
        title: "an import of a name that is not there",
        explain: "A file gives what it declares itself: params, sizes, tensors, maps, orders, patterns, attentions and \
                  models. What it imports is imported from where it was declared.",
        example: "import windwo from \"std\"\npattern p = causal\n",
    },
    CodeInfo {
        code: "E0209",
        title: "something that has no meaning here",
        explain: "`score` is read in scores only, `slot` in biases of null slots, tensors in scores and biases; \
                  sets cannot read `d`, and sizes cannot read `q` or `k`. Inside `block` there are only blocks: \
                  documents, segments, axes and maps are joined from outside. `along`, `each doc` and `halves` rename \
                  tokens and stand outermost. A random choice for a head does not depend on `q`.",
        example: "pattern p = block 64 { same doc }\n",
    },
    CodeInfo {
        code: "E0210",
        title: "more than one space",
        explain: "All files of a program speak of one space, since there is one sequence. A file without a space uses \
                  the axes of the file that is compiled.",
        example: "space text[]\nspace image(h = 4, w = 4)\npattern p = causal\n",
    },
    CodeInfo {
        code: "E0211",
        title: "coordinates of two segments in one comparison",
        explain: "A comparison that names axes holds only for tokens of the segment that has them, and no token is in \
                  two segments. Compare positions (`q.pos`), or join comparisons with `|`.",
        example: "space image(h = 4, w = 4) ++ depth(y = 4, x = 4)\npattern p = q.h == k.y\n",
    },
    CodeInfo {
        code: "E0212",
        title: "a wrong number of indices",
        explain: "A tensor is indexed with one integer for each of its axes. An index outside the tensor reads the \
                  nearest element.",
        example: "tensor slopes[heads]\nattention a {\n  attend causal bias slopes[head, q]\n}\n",
    },
    CodeInfo {
        code: "E0213",
        title: "patterns that expand too far",
        explain: "Patterns are expanded where they are used, at most 64 inside one another and to at most 1,000,000 \
                  different expressions.",
        example: "pattern a(n) = q - k == n | q - k == -n | k == n | q == n\npattern b(n) = a(n) | a(n + 1) | a(n + 2) | a(n + 3)\n\
                  pattern c(n) = b(n) | b(n + 4) | b(n + 8) | b(n + 12)\n\
                  pattern e(n) = c(n) | c(n + 16) | c(n + 32) | c(n + 48)\n\
                  pattern f(n) = e(n) | e(n + 64) | e(n + 128) | e(n + 192)\n\
                  pattern g(n) = f(n) | f(n + 256) | f(n + 512) | f(n + 768)\n\
                  pattern h(n) = g(n) | g(n + 1024) | g(n + 2048) | g(n + 3072)\n\
                  pattern i(n) = h(n) | h(n + 4096) | h(n + 8192) | h(n + 12288)\n\
                  pattern p = i(0) | i(16384) | i(32768) | i(49152)\n",
    },
    CodeInfo {
        code: "E0214",
        title: "an unknown word where there is a choice",
        explain: "`align` is `start` or `end`, `empty` is `zero` or `error`, an order is `raster`, `tile`, `morton`, \
                  `hilbert` or `sort`, and a random choice is made per `q` or per `head`.",
        example: "attention a {\n  empty = nothing\n  attend causal\n}\n",
    },
    CodeInfo {
        code: "E0215",
        title: "too many errors",
        explain: "After 100 errors the others are not shown: most follow from the first ones.",
        example: many!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24),
    },
    CodeInfo {
        code: "E0301",
        title: "a constant that is too large",
        explain: "Constants are integers of 64 bits, and finite reals. A space has at most 536870912 positions, and no \
                  window, block or other size is larger.",
        example: "param window = 9_000_000_000_000_000_000 * 2\npattern p = causal\n",
    },
    CodeInfo {
        code: "E0302",
        title: "an integer that may not fit into 64 bits",
        explain: "Positions, lengths and sizes go up to 536870912; an expression of them must fit into 64 bits for all \
                  of these, so that no target can wrap around.",
        example: "pattern p = q * q * q == k\n",
    },
    CodeInfo {
        code: "E0303",
        title: "a division by zero",
        explain: "The divisor is a constant and is 0.",
        example: "pattern p = q / 0 == k\n",
    },
    CodeInfo {
        code: "E0304",
        title: "a size that is not positive",
        explain: "Windows, blocks, strides, dilations, steps, extents, counts, layers and heads are at least 1.",
        example: "param block_size = 0\npattern p = same block block_size\n",
    },
    CodeInfo {
        code: "E0305",
        title: "something that must be known when compiling",
        explain: "Params, blocks, windows, counts and seeds are made of numbers and params. Sizes given when run can \
                  bound ranges, be extents and be divided by.",
        example: "size b\npattern p = same block b\n",
    },
    CodeInfo {
        code: "E0306",
        title: "an empty range",
        explain: "`lo .. hi` holds the numbers from `lo` up to but not `hi`, `lo ..= hi` includes `hi`, and `step m` \
                  keeps the multiples of `m`. A range that holds no number is a mistake; the empty set is `none`.",
        example: "pattern p = k in 8 .. 4\n",
    },
    CodeInfo {
        code: "E0307",
        title: "a range that is out of reach",
        explain: "No position or coordinate lies in the range: it is outside a space of fixed length, or negative. For \
                  plain `q` and `k` a bound with a leading minus counts from the end, in ranges (`k in -32 ..`) and \
                  not in lists.",
        example: "space video(t = 11, h = 48, w = 85)\npattern p = k.t in 20 .. 30\n",
    },
    CodeInfo {
        code: "E0308",
        title: "a setting of an unknown param",
        explain: "`--set NAME=VALUE` sets a param of the compiled file: its own, or one that it imports by name.",
        example: "",
    },
    CodeInfo {
        code: "E0309",
        title: "a setting that is no value",
        explain: "A param whose default is an integer is set to an integer, one whose default is a real to a finite \
                  real.",
        example: "",
    },
    CodeInfo {
        code: "E0310",
        title: "an open segment that is not the last",
        explain: "A segment without length (`text[]`) takes what is left of the sequence, so nothing can follow it.",
        example: "space text[] ++ image(h = 4, w = 4)\npattern p = causal\n",
    },
    CodeInfo {
        code: "E0311",
        title: "axes that do not make an order",
        explain: "An order is of axes of one segment, each at most once. `raster` names all of them, outermost first; \
                  `tile` gives each a size; `hilbert` has two; axes that are left out stay outermost. `sort` names a tensor \
                  of one value a position, `[n]` or `[heads, n]`, and a segment if only that is sorted.",
        example: "space video(t = 11, h = 48, w = 85)\norder z = raster(h, w)\npattern p = causal\n",
    },
    CodeInfo {
        code: "E0312",
        title: "a neighbourhood that does not fit",
        explain: "On each axis of `near` the stride is at most the window, and the window times the dilation is at most \
                  the extent: the window is clamped at the edges, never cut off.",
        example: "space image(h = 8, w = 8)\npattern p = near(h = 13, w = 3)\n",
    },
    CodeInfo {
        code: "E0313",
        title: "a divisor that may be zero",
        explain: "A divisor is positive or negative for every token and head, or made of sizes alone, which are then \
                  checked at launch.",
        example: "pattern p = q % k == 0\n",
    },
    CodeInfo {
        code: "E0314",
        title: "a tensor that cannot be made so",
        explain: "`tensor t[heads, n_k] = E` has an element for each position of each head; without the axis `heads` where \
                  heads do not differ. `hash(q, P)` and `hash(k, P)` are buckets of rows by planes `tensor P[d, bits]` or \
                  `[heads, d, bits]`, of at most 24 bits; they stand in E alone.",
        example: "tensor planes[d, 8]\ntensor bucket[n_k] = hash(k, planes)\npattern p = causal\n",
    },
    CodeInfo {
        code: "E0401",
        title: "an unknown level",
        explain: "An entry attends to the keys and values themselves, `SET @ tokens`, to slots of a level that the file \
                  declares, or to null slots, `null N`.",
        example: "attention a {\n  attend causal @ pooled\n}\n",
    },
    CodeInfo {
        code: "E0402",
        title: "an attention without entries",
        explain: "An attention says what it attends to: `attend SET`, with more entries after `++`.",
        example: "attention a {\n  scale = 1\n}\n",
    },
    CodeInfo {
        code: "E0403",
        title: "a statement that is given twice",
        explain: "`scale`, `score`, `align`, `empty`, `queries` and `attend` are written at most once in an attention; \
                  `require` may be repeated, and all of them hold.",
        example: "attention a {\n  align = end\n  align = start\n  attend causal\n}\n",
    },
    CodeInfo {
        code: "E0405",
        title: "heads that are assigned twice",
        explain: "No two arms of a block claim the same step, layer and head; `_` takes those that no other arm claims.",
        example: "model m(layers = 4, heads = 8) {\n  layer 0 .. 2 => causal\n  head 3 => all\n  _ => skip\n}\n",
    },
    CodeInfo {
        code: "E0406",
        title: "heads that are not assigned",
        explain: "Every step, layer and head of a model has an attention or `skip`, within each block of arms.",
        example: "model m(layers = 4, heads = 8) {\n  layer 0 .. 3 => causal\n}\n",
    },
    CodeInfo {
        code: "E0407",
        title: "heads that do not map to KV heads",
        explain: "Query heads and KV heads divide one another, or the map is written: \
                  `heads = 6 on 4 by head * 4 / 6`, an expression over `head` that gives a KV head.",
        example: "model m(layers = 1, heads = 6 on 4) {\n  _ => causal\n}\n",
    },
    CodeInfo {
        code: "E0408",
        title: "an arm outside its model",
        explain: "Steps, layers and heads count from 0; ranges of arms lie within the numbers that the model states.",
        example: "model m(layers = 4, heads = 8) {\n  layer 4 => all\n  _ => causal\n}\n",
    },
    CodeInfo {
        code: "E0409",
        title: "a model that is too large",
        explain: "Every place of a model is counted, so that steps times layers times heads is at most 4,000,000.",
        example: "model m(layers = 100_000, heads = 100) {\n  _ => causal\n}\n",
    },
    CodeInfo {
        code: "E0410",
        title: "`_` twice in one block",
        explain: "`_` takes what the other arms of its block leave, so there is one.",
        example: "model m(layers = 4, heads = 8) {\n  _ => causal\n  _ => all\n}\n",
    },
    CodeInfo {
        code: "E0411",
        title: "a draw with replacement inside another set",
        explain: "`draw N of S per head seed X` counts a key as often as it was drawn. `&` and `except` restrict it, but under \
                  `|`, `!`, to the right of `except` or beside a second draw it is not clear how often a key counts. Entries \
                  joined by `++` add up: give the draw one of its own.",
        example: "pattern p = causal | draw 8 of all per head seed 7\n",
    },
    CodeInfo {
        code: "E0412",
        title: "a level that cannot be made",
        explain: "A level cuts tokens into slots, in blocks of positions (`mean(16)`), boxes of a grid (`mean(h = 4, w = 4)`), \
                  equal parts (`mean(into = 8)`) or parts of an `offsets` map, or slots of another level into blocks; and says \
                  which of q, k and v it derives. What is attended to has keys and values.",
        example: "level g = mean(16) of q, q\n",
    },
    CodeInfo {
        code: "E0413",
        title: "a score that cannot be",
        explain: "A score has at most one product, of queries and then keys, `dot(g.q, g.k)`; steps that reduce rows (`then max \
                  q in g`) or candidates (`then max k in g`) to slots of a level made of theirs; and scales.",
        example: "score a = dot(k, q)\n",
    },
    CodeInfo {
        code: "E0414",
        title: "a selection that cannot be",
        explain: "A selection takes a budget of the candidates of a score for each row. Rows and candidates are those of the \
                  score, or tokens of its slots; a share lies in (0, 1], and one of the mass is of a score that is never negative.",
        example: "select s = mass 0.9 of dot(q, k) per q\n",
    },
    CodeInfo {
        code: "E0415",
        title: "a merge that cannot be",
        explain: "A merge joins the outputs of other attentions of the file: `gate(E) of a, b` weighs them, `mean of a over N \
                  where S` takes the mean over the branches that a query takes part in.",
        example: "pattern p = causal\nmerge m = gate(0.5) of p, p, p\n",
    },
];
