//! Row sets as WGSL: which keys a tile of queries visits, and which pairs are held.
//!
//! The one idea: keys are *found*, not marked. A function of the module says, from a position on, where the next run of
//! keys begins and ends that some query may attend to, from closed forms alone; runs fill a chunk of keys one after
//! the other, so that the union of any pieces visits each key once, and stripes, teeth and rows of a grid share a chunk.
//! Where the tile set has closed ends without loops, the run is that of the tile ([`next`]) and is known to be held by
//! every query or not; elsewhere each query finds its own run ([`row_next`]) and the workgroup takes the nearest.
//! [`keep`] decides pairs. Nothing here knows how a chunk is computed.

use attnc_pattern::expr::{ExprId, Node, Un, Var};
use attnc_pattern::program::Program;
use attnc_pattern::rowset::{Comb, Piece, RowSet, TileLoop, TilePiece, TileSet};
use attnc_plan::View;

use super::expr::{Body, Home, Names};
use super::residues;

/// How the keys of an entry are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// By the tile set.
    Tile,
    /// Query by query.
    Rows,
}

impl Search {
    /// Loops of a tile are few if they count: powers, say. Those over stored entries or over rows of a grid are shorter
    /// for a query than for all of a tile.
    pub(crate) fn of(program: &Program, view: View, tiles: &TileSet) -> Search {
        let counts = |l: &TileLoop| {
            let stored = |e: &ExprId| {
                matches!(
                    program.exprs.node(*e),
                    Node::Load(..)
                        | Node::MapAt(..)
                        | Node::Drawn(..)
                        | Node::DrawAt(..)
                        | Node::Un(Un::CsrBegin(_) | Un::CsrIndex(_) | Un::OrderIndex(_), _)
                )
            };
            l.span.is_none() && !program.exprs.reachable(&[l.lo, l.hi]).iter().any(stored)
        };
        let drawn = |p: &TilePiece| {
            program
                .exprs
                .reachable(&[p.start, p.end])
                .iter()
                .any(|e| matches!(program.exprs.node(*e), Node::DrawAt(..)))
        };
        let closed = !view.is_listed()
            && tiles.pieces.iter().all(|p| p.loops.is_empty() || (p.loops.iter().all(counts) && !drawn(p)));
        if closed { Search::Tile } else { Search::Rows }
    }
}

/// `fn nextN(from)`: the next run of keys of the tile from position `least` on: first, end, and whether every query has
/// every key of it. `turned`: queries are taken by their residues, see [`super::residues`].
pub(crate) fn next(names: &mut Names<'_>, n: usize, tiles: &TileSet, turned: bool) -> String {
    let mut b = Body::new(names, Home::Here, 1);
    b.line("var a = k_end;");
    b.line("var b = k_end;");
    for piece in &tiles.pieces {
        may(&mut b, piece, 0, turned);
    }
    b.line("if (a >= b) { return vec3<i32>(k_end, k_end, 0); }");
    let alone = tiles.pieces.len() == 1;
    if alone && turned && residues::whole(&b.names.program.exprs, &tiles.pieces[0]) {
        b.line("// Queries of one residue have the same keys.");
        b.line("return vec3<i32>(a, b, select(0, 1, class_lo == class_hi));");
        return next_function(n, &b.text);
    }
    let musts: Vec<_> = tiles.pieces.iter().filter_map(|p| Some((p, must_of(p, alone)?))).collect();
    if musts.is_empty() {
        b.line("return vec3<i32>(a, b, 0);");
    } else {
        b.line("// What every query has: up to where, and where it begins if not here.");
        b.line("var whole = a;");
        b.line("var later = b;");
        for (piece, must) in musts {
            for l in &piece.loops {
                let (lo, hi) = (b.value(l.must_lo), b.value(l.must_hi));
                tile_loop(&mut b, l, &lo, &hi);
            }
            let (start, end) = (b.value(must.0), b.value(must.1));
            let guard = must.2.map(|g| b.value(g));
            let mut lines = vec![
                format!("if ({start} <= a) {{ whole = max(whole, {end}); }}"),
                format!("else if ({start} < {end}) {{ later = min(later, {start}); }}"),
            ];
            if let Some(guard) = guard {
                lines = vec![format!("if ({guard}) {{ {} }}", lines.join(" "))];
            }
            for line in lines {
                b.line(line);
            }
            piece.loops.iter().for_each(|_| b.close());
        }
        b.line("if (whole > a) { return vec3<i32>(a, min(b, whole), 1); }");
        b.line("return vec3<i32>(a, min(b, later), 0);");
    }
    next_function(n, &b.text)
}

fn next_function(n: usize, body: &str) -> String {
    format!(
        "/// Entry {n}: the next run of keys from position `least` on that some query of the tile may have: first key, end, and\n\
         /// whether every query has all of them.\nfn next{n}(least: i32) -> vec3<i32> {{\n{body}}}\n"
    )
}

/// Keys that every query has: start, end, guard. Of a piece with a comb, within its teeth: runs lie in them only if there
/// is no other piece.
fn must_of(piece: &TilePiece, alone: bool) -> Option<(ExprId, ExprId, Option<ExprId>)> {
    let must = piece.must.as_ref()?;
    let one_phase =
        alone && piece.loops.is_empty() && piece.combs.len() == 1 && piece.combs[0].phase_lo == piece.combs[0].phase_hi;
    (piece.combs.is_empty() || one_phase).then_some((must.start, must.end, must.guard))
}

/// Opens a loop of a tile piece.
fn tile_loop(b: &mut Body<'_, '_>, l: &TileLoop, lo: &str, hi: &str) {
    let (v, step) = (format!("i{}", l.var), b.names.int(l.step));
    let first = if l.step > 1 {
        let phase = b.value(l.phase);
        b.names.helper("floor_mod");
        format!("{lo} + floor_mod({phase} - {lo}, {step})")
    } else {
        lo.to_owned()
    };
    b.open(format!("for (var {v} = {first}; {v} < {hi}; {v} += {step})"));
}

/// The next run of one piece, taken into the run found so far; from loop `depth` inwards.
fn may(b: &mut Body<'_, '_>, piece: &TilePiece, depth: usize, turned: bool) {
    if let Some(l) = piece.loops.get(depth) {
        let (lo, hi) = (b.value(l.lo), b.value(l.hi));
        tile_loop(b, l, &lo, &hi);
        may(b, piece, depth + 1, turned);
        b.close();
        return;
    }
    let guarded = piece.guard.map(|g| b.value(g));
    if let Some(guard) = &guarded {
        b.open(format!("if ({guard})"));
    } else {
        b.open("");
    }
    let (start, end) = (b.value(piece.start), b.value(piece.end));
    b.line(format!("var s = max({start}, least);"));
    b.line(format!("var e = min({end}, k_end);"));
    if let Some(comb) = piece.combs.first() {
        let (period, width) = (b.value(comb.period), b.value(comb.width));
        let (mut lo, mut hi) = (b.value(comb.phase_lo), b.value(comb.phase_hi));
        if turned {
            (lo, hi) = residues::phases(&b.names.program.exprs, comb, (lo, hi));
        }
        let mut width = if comb.phase_lo == comb.phase_hi { width } else { format!("({width} + {hi} - {lo})") };
        if turned {
            b.line(format!("let phase = {lo};"));
            b.line(format!("let width = {width};"));
            (lo, width) = ("phase".to_owned(), "width".to_owned());
        }
        teeth(b, &period, &width, &lo);
    }
    take(b);
    b.close();
}

/// Narrows `s .. e` to its first tooth.
fn teeth(b: &mut Body<'_, '_>, period: &str, width: &str, phase: &str) {
    b.names.helper("floor_mod");
    b.open(format!("if ({width} < {period})"));
    b.line(format!("let into = floor_mod(s - {phase}, {period});"));
    b.line(format!("if (into >= {width}) {{ s = s + {period} - into; e = min(e, s + {width}); }}"));
    b.line(format!("else {{ e = min(e, s + {width} - into); }}"));
    b.close();
}

/// Takes the run `s .. e` into the nearest run `a .. b`.
fn take(b: &mut Body<'_, '_>) {
    b.open("if (s < e)");
    b.line("if (s < a) { a = s; b = e; } else if (s == a) { b = max(b, e); }");
    b.close();
}

/// `fn nextN(from)`: the next run of keys of this thread's query from position `least` on.
pub(crate) fn row_next(names: &mut Names<'_>, n: usize, rows: &RowSet) -> String {
    let mut b = Body::new(names, Home::Here, 1);
    b.line("var a = k_end;");
    b.line("var b = k_end;");
    for piece in &rows.pieces {
        b.open("");
        row_loops(&mut b, piece, 0);
        b.close();
    }
    b.line("return vec2<i32>(a, b);");
    let body = b.text;
    format!(
        "/// Entry {n}: the next run of keys from position `least` on that query `q` may have.\n\
         fn next{n}(least: i32) -> vec2<i32> {{\n{body}}}\n"
    )
}

fn row_loops(b: &mut Body<'_, '_>, piece: &Piece, depth: usize) {
    let Some(l) = piece.loops.get(depth) else {
        let guarded = piece.guard.map(|g| b.value(g));
        if let Some(guard) = &guarded {
            b.open(format!("if ({guard})"));
        }
        let (start, end) = (b.value(piece.start), b.value(piece.end));
        b.line(format!("var s = max(max({start}, k_start), least);"));
        b.line(format!("var e = min({end}, k_end);"));
        if let Some(Comb { period, width, phase }) = piece.combs.first() {
            let [period, width, phase] = [period, width, phase].map(|e| b.value(*e));
            teeth(b, &period, &width, &phase);
        }
        take(b);
        if guarded.is_some() {
            b.close();
        }
        return;
    };
    let (lo, hi) = (b.value(l.lo), b.value(l.hi));
    let v = format!("i{}", l.var);
    let span = l.span.map(|(base, stride)| (b.value(base), b.value(stride)));
    let first = match &span {
        // Keys of iteration i lie within base + i * stride .. base + (i + 1) * stride.
        Some((base, stride)) => {
            b.names.helper("floor_div");
            format!("max({lo}, floor_div(least - {base}, max({stride}, 1)))")
        }
        None => lo,
    };
    let first = if l.step > 1 {
        let (step, phase) = (b.names.int(l.step), b.value(l.phase));
        b.names.helper("floor_mod");
        b.line(format!("let v{depth} = {first};"));
        format!("v{depth} + floor_mod({phase} - v{depth}, {step})")
    } else {
        first
    };
    let step = b.names.int(l.step);
    let chosen = depth + 1 == piece.loops.len() && is_chosen(b, piece, l.var) && l.step == 1 && span.is_none();
    let first = if chosen {
        // Slots ascend: the first whose keys do not all come before.
        let (low, high) = (format!("low{}", l.var), format!("high{}", l.var));
        b.line(format!("var {low} = {first};"));
        b.line(format!("var {high} = {hi};"));
        b.open(format!("while ({low} < {high})"));
        for _ in 0..HALVINGS {
            b.open(format!("if ({low} < {high})"));
            b.line(format!("let {v} = ({low} + {high}) >> 1u;"));
            // Behind those of a row that has fewer there are none.
            let there = piece.guard.map(|g| format!("{} & ", b.value(g))).unwrap_or_default();
            let end = b.value(piece.end);
            b.line(format!("if ({there}({end} <= least)) {{ {low} = {v} + 1; }} else {{ {high} = {v}; }}"));
            b.close();
        }
        b.close();
        low
    } else {
        first
    };
    b.open(format!("for (var {v} = {first}; {v} < {hi}; {v} += {step})"));
    if chosen {
        let start = b.value(piece.start);
        b.line("// Later ones begin later.");
        let limits: Vec<String> = limits(b, piece.end, l.var).into_iter().map(|e| b.value(e)).collect();
        let limits: String = limits.iter().map(|limit| format!(" | ({start} >= {limit})")).collect();
        b.line(format!("if (({start} >= a){limits}) {{ break; }}"));
    }
    row_loops(b, piece, depth + 1);
    if let Some((base, stride)) = span {
        b.line("// Later iterations hold later keys.");
        b.line(format!("if (a < {base} + ({v} + 1) * {stride}) {{ break; }}"));
    }
    b.close();
}

/// Halvings that are written out: a loop costs more than what is in it, and llvmpipe ends one after so many iterations.
const HALVINGS: usize = 4;

/// Whether a loop goes over what was chosen for a row, in such a way that keys of later iterations come later.
fn is_chosen(b: &mut Body<'_, '_>, piece: &Piece, var: u32) -> bool {
    let exprs = &b.names.program.exprs;
    let by_place =
        |e: &ExprId| matches!(exprs.node(*e), Node::DrawAt(_, _, j) if *exprs.node(*j) == Node::Var(Var::Loop(var)));
    let chosen = exprs.reachable(&[piece.start]).iter().any(by_place);
    chosen && ascends(b, piece.start, var) && ascends(b, piece.end, var)
}

/// Whether an integer does not fall as a loop variable grows, by its form. What was chosen for a row ascends.
fn ascends(b: &mut Body<'_, '_>, e: ExprId, var: u32) -> bool {
    use attnc_pattern::expr::Bin;
    let exprs = &b.names.program.exprs;
    if !exprs.reads(e, |v| v == Var::Loop(var)) {
        return true;
    }
    let free = |x: ExprId| !exprs.reads(x, |v| v == Var::Loop(var));
    match *exprs.node(e) {
        Node::Var(_) => true,
        Node::DrawAt(_, row, j) => free(row) && ascends(b, j, var),
        Node::Bin(Bin::Add | Bin::Min | Bin::Max, x, y) => ascends(b, x, var) && ascends(b, y, var),
        Node::Bin(Bin::Sub, x, y) => free(y) && ascends(b, x, var),
        Node::Bin(Bin::Mul, x, y) => {
            let (by, x) = if free(x) { (x, y) } else { (y, x) };
            free(by) && b.names.nonnegative(by) && ascends(b, x, var)
        }
        Node::Bin(Bin::Div, x, y) => exprs.as_int(y).is_some_and(|y| y > 0) && ascends(b, x, var),
        _ => false,
    }
}

/// What an end does not exceed, whatever the loop variable.
fn limits(b: &Body<'_, '_>, end: ExprId, var: u32) -> Vec<ExprId> {
    use attnc_pattern::expr::Bin;
    let exprs = &b.names.program.exprs;
    let (mut found, mut pending) = (Vec::new(), vec![end]);
    while let Some(e) = pending.pop() {
        if !exprs.reads(e, |v| v == Var::Loop(var)) {
            found.push(e);
        } else if let Node::Bin(Bin::Min, x, y) = *exprs.node(e) {
            pending.extend([x, y]);
        }
    }
    found
}

/// `fn keepN(k, slot)`: whether query `q` has the key at position `k`, which is number `slot` of its chunk.
pub(crate) fn keep(names: &mut Names<'_>, n: usize, set: ExprId, rows: &RowSet) -> String {
    let mut b = Body::new(names, Home::Here, 1);
    let held = if rows.pieces.iter().all(|p| p.loops.is_empty()) {
        let all: Vec<String> = rows.pieces.iter().map(|p| in_piece(&mut b, p)).collect();
        if all.is_empty() { "false".to_owned() } else { all.join(" | ") }
    } else {
        // Ranges of pieces with loops are for finding keys; the predicate is shorter.
        b.value(set)
    };
    b.line(format!("return {held};"));
    let body = b.text;
    format!(
        "/// Entry {n}: whether query `q` has the key at position `k`, number `slot` of the chunk.\n\
         fn keep{n}(k: i32, slot: i32) -> bool {{\n{body}}}\n"
    )
}

fn in_piece(b: &mut Body<'_, '_>, piece: &Piece) -> String {
    let exprs = &b.names.program.exprs;
    let is = |e: ExprId, v: Var| *exprs.node(e) == Node::Var(v);
    // Every key of a chunk lies among those of the launch.
    let begins = is(piece.start, Var::KStart);
    let ends = match exprs.node(piece.end) {
        Node::Bin(attnc_pattern::expr::Bin::Add, x, y) => {
            (is(*x, Var::KStart) && is(*y, Var::NK)) || (is(*y, Var::KStart) && is(*x, Var::NK))
        }
        _ => false,
    };
    let mut all = Vec::new();
    if let Some(guard) = piece.guard {
        all.push(b.value(guard));
    }
    if !begins {
        let start = b.value(piece.start);
        all.push(format!("(k >= {start})"));
    }
    if !ends {
        let end = b.value(piece.end);
        all.push(format!("(k < {end})"));
    }
    for comb in &piece.combs {
        let (width, phase) = (b.value(comb.width), b.value(comb.phase));
        let period = b.names.program.exprs.as_int(comb.period);
        let into = match period {
            Some(p) if p > 0 && p & (p - 1) == 0 => format!("((k - {phase}) & {})", p - 1),
            _ => {
                let period = b.value(comb.period);
                b.names.helper("floor_mod");
                format!("floor_mod(k - {phase}, {period})")
            }
        };
        all.push(format!("({into} < {width})"));
    }
    if let Some(filter) = piece.filter {
        all.push(b.value(filter));
    }
    if all.is_empty() { "true".to_owned() } else { format!("({})", all.join(" & ")) }
}

/// `fn logitN(score, k, slot)`: a score modified, and the bias of the entry added.
pub(crate) fn logit(names: &mut Names<'_>, n: usize, score: Option<ExprId>, bias: Option<ExprId>) -> String {
    let mut b = Body::new(names, Home::Here, 1);
    let score = score.map_or_else(|| "score".to_owned(), |s| b.value(s));
    let bias = bias.map(|e| b.value(e));
    b.line(match bias {
        Some(bias) => format!("return {score} + {bias};"),
        None => format!("return {score};"),
    });
    let body = b.text;
    format!(
        "/// Entry {n}: the logit of a pair of which `score` is the scaled product.\n\
         fn logit{n}(score: f32, k: i32, slot: i32) -> f32 {{\n{body}}}\n"
    )
}
