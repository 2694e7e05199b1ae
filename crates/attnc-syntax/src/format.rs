//! The one layout of a file: two spaces a level, 100 columns, long chains one operand a line.
//!
//! One idea: the printer walks the tree and, before each leaf, hands out the comments that stand before it in the
//! source. So no comment is lost, none changes its place among the names and numbers, and a second run sees the
//! same order and prints the same text. Where a comment may stand nicely (between items, statements, arms,
//! operands of a chain) it is handed out before the break. Nothing here knows what a name means.

use crate::ast::*;
use crate::diag::{Diagnostic, FileId};
use crate::parse::{doc_text, parse};
use crate::pretty::Pretty;
use crate::token::Comment;

/// Columns of a line.
const WIDTH: usize = 100;

/// Lays out a source text. Comments, docs, the spelling of numbers and single empty lines stay.
///
/// # Errors
///
/// What [`parse`] reports: a text that does not parse is not laid out.
pub fn format(source: &str) -> Result<String, Vec<Diagnostic>> {
    let parsed = parse(source, FileId::default());
    if !parsed.diagnostics.is_empty() {
        return Err(parsed.diagnostics);
    }
    let mut printer = Printer { source: Some(source), comments: &parsed.comments, ..Printer::default() };
    printer.file(&parsed.file);
    Ok(printer.finish())
}

/// The text of a tree, in the same layout; for trees that were built and not parsed.
#[must_use]
pub fn print_file(file: &File) -> String {
    let mut printer = Printer::default();
    printer.file(file);
    printer.finish()
}

/// An expression on one line, for messages.
#[must_use]
pub fn print_expr(expr: &Expr) -> String {
    let mut printer = Printer::default();
    printer.expr(expr);
    printer.out.render(usize::MAX)
}

#[derive(Default)]
struct Printer<'a> {
    out: Pretty,
    /// The text that the tree was parsed from; spans mean nothing without it.
    source: Option<&'a str>,
    /// Comments not yet printed.
    comments: &'a [Comment],
    /// End of what was printed last, in the source.
    reached: u32,
    /// An opening brace was printed since.
    opened: bool,
}

impl Printer<'_> {
    fn finish(self) -> String {
        let mut text = self.out.render(WIDTH);
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }

    // ---- comments and empty lines ----

    /// An empty line stands in the source behind what was printed last; one behind an opening brace does not count.
    fn blank(&self) -> bool {
        let Some(source) = self.source.filter(|_| !self.opened) else { return false };
        let behind = source[self.reached as usize..].trim_start_matches([',', ' ', '\t']);
        let space = &behind[..behind.len() - behind.trim_start().len()];
        space.bytes().filter(|&b| b == b'\n').count() > 1
    }

    /// Prints the comments before `position`; with the empty lines before them if `lines`.
    fn comments_before(&mut self, position: u32, lines: bool) {
        while let Some((comment, rest)) = self.comments.split_first()
            && comment.span.start < position
        {
            if comment.own_line && lines && self.blank() {
                self.out.hard(true);
            }
            match doc_text(&comment.text) {
                // A `///` line that stands above no item must not come to stand above one.
                Some(text) => self.out.comment(format!("// {text}").trim_end(), comment.own_line),
                None => self.out.comment(&comment.text, comment.own_line),
            }
            self.comments = rest;
            self.reach(comment.span);
        }
    }

    /// Begins the line of the next element of a body, which begins at `position`.
    fn next_line(&mut self, position: u32) {
        self.comments_before(position, true);
        self.out.hard(self.blank());
    }

    /// Marks the source up to the end of `span` as printed.
    fn reach(&mut self, span: Span) {
        if self.source.is_some() {
            self.reached = self.reached.max(span.end);
        }
        self.opened = false;
    }

    /// A text that stands at `span`.
    fn leaf(&mut self, span: Span, text: &str) {
        self.comments_before(span.start, false);
        self.out.text(text);
        self.reach(span);
    }

    fn name(&mut self, name: &Name) {
        self.leaf(name.span, &name.text);
    }

    /// A number as the source spells it; where there is none, `text`.
    fn number(&mut self, span: Span, text: &str) {
        self.leaf(span, self.source.map_or(text, |source| &source[span.start as usize..span.end as usize]));
    }

    // ---- lists ----

    /// `(a, b)`: on one line, or each element on its own.
    fn elements<T: Placed>(&mut self, open: &str, list: &[T], close: &str, element: impl Fn(&mut Self, &T)) {
        self.out.begin(1);
        self.out.text(open);
        for (i, item) in list.iter().enumerate() {
            self.out.text(if i > 0 { "," } else { "" });
            self.comments_before(item.start(), false);
            match i {
                0 => self.out.cut(),
                _ => self.out.space(),
            }
            element(self, item);
        }
        self.out.close("");
        self.out.text(close);
        self.out.end();
    }

    /// `a, b, c`, as many on a line as fit.
    fn fill<T: Placed>(&mut self, list: &[T], element: impl Fn(&mut Self, &T)) {
        self.out.begin(1);
        for (i, item) in list.iter().enumerate() {
            self.out.begin(0);
            if i > 0 {
                self.out.text(",");
                self.out.space();
            }
            element(self, item);
            self.out.end();
        }
        self.out.end();
    }

    /// `a ++ b`: on one line, or broken before each `++`.
    fn joined<T: Placed>(&mut self, list: &[T], element: impl Fn(&mut Self, &T)) {
        self.out.begin(1);
        for (i, item) in list.iter().enumerate() {
            if i > 0 {
                self.comments_before(item.start(), false);
                self.out.space();
                self.out.text("++ ");
            }
            element(self, item);
        }
        self.out.end();
    }

    /// ` = E`, with E on the next line if it does not fit and has no brackets to break at.
    fn definition(&mut self, value: &Expr) {
        use ExprKind::{Along, Block, Call, EachDoc, Halves, Near, Paren};
        let bracketed =
            matches!(value.kind, Along(..) | Block(..) | Call(..) | EachDoc(_) | Halves { .. } | Near(_) | Paren(_));
        let commented = self.comments.first().is_some_and(|c| c.span.start < value.span.start);
        if bracketed && !commented {
            self.out.text(" = ");
            return self.body(value);
        }
        self.out.text(" =");
        self.out.begin(1);
        self.comments_before(value.span.start, false);
        self.out.space();
        self.body(value);
        self.out.end();
    }

    fn axis(&mut self, (name, extent): &(Name, Option<Expr>)) {
        self.name(name);
        if let Some(extent) = extent {
            self.out.text(" = ");
            self.expr(extent);
        }
    }

    // ---- items ----

    fn file(&mut self, file: &File) {
        for item in &file.items {
            self.next_line(self.docs_start(item));
            for line in &item.docs {
                self.out.text(format!("/// {line}").trim_end());
                self.out.hard(false);
            }
            self.item(item);
            self.reach(item.span);
        }
        self.comments_before(u32::MAX, true);
    }

    /// Where the docs of an item begin, or the item if it has none. No comment stands between.
    fn docs_start(&self, item: &Item) -> u32 {
        let Some(source) = self.source else { return 0 };
        let mut start = item.span.start as usize;
        for _ in &item.docs {
            let above = source[..start].trim_end();
            let line = above.rfind('\n').map_or(0, |i| i + 1);
            start = line + above[line..].find("///").unwrap_or(0);
        }
        start as u32
    }

    fn item(&mut self, item: &Item) {
        match &item.kind {
            ItemKind::Import { names, from, from_span } => {
                self.out.text("import ");
                self.fill(names, Self::name);
                self.out.text(" from ");
                self.leaf(*from_span, &format!("\"{from}\""));
            }
            ItemKind::Size(name) => {
                self.out.text("size ");
                self.name(name);
            }
            ItemKind::Param { name, value } => {
                self.out.text("param ");
                self.name(name);
                self.definition(value);
            }
            ItemKind::Tensor { name, dims, value } => {
                self.out.text("tensor ");
                self.name(name);
                self.elements("[", dims, "]", Self::body);
                if let Some(value) = value {
                    self.definition(value);
                }
            }
            ItemKind::Map { name, kind, per_head } => {
                self.out.text("map ");
                self.name(name);
                self.out.text(" : ");
                match kind {
                    MapKind::Bool => self.out.text("bool"),
                    MapKind::Csr => self.out.text("csr"),
                    MapKind::Offsets => self.out.text("offsets"),
                    MapKind::Blocks(size) => {
                        self.out.text("blocks ");
                        self.expr(size);
                    }
                }
                if *per_head {
                    self.out.text("[heads]");
                }
            }
            ItemKind::Space(segments) => {
                self.out.text("space ");
                self.joined(segments, Self::segment);
            }
            ItemKind::Order { name, curve, axes } => {
                self.out.text("order ");
                self.name(name);
                self.out.text(" = ");
                self.name(curve);
                self.elements("(", axes, ")", Self::axis);
            }
            ItemKind::Pattern { name, args, body } => {
                self.out.text("pattern ");
                self.name(name);
                if !args.is_empty() {
                    self.elements("(", args, ")", Self::name);
                }
                self.definition(body);
            }
            ItemKind::Attention { name, stmts } => {
                self.out.text("attention ");
                self.name(name);
                self.braces(item.span, stmts, |p, stmt, _| p.stmt(stmt));
            }
            ItemKind::Require(condition) => {
                self.out.text("require ");
                self.expr(condition);
            }
            ItemKind::Level { name, pool, args, of, along } => {
                self.out.text("level ");
                self.name(name);
                self.out.text(" = ");
                self.name(pool);
                self.elements("(", args, ")", Self::level_arg);
                if !of.is_empty() {
                    self.out.text(" of ");
                    self.fill(of, Self::name);
                }
                if let Some(order) = along {
                    self.out.text(" along ");
                    self.name(order);
                }
            }
            ItemKind::Score { name, value, clauses, steps } => {
                self.out.text("score ");
                self.name(name);
                self.out.text(" = ");
                self.out.begin(1);
                self.expr(value);
                self.clauses(clauses);
                for step in steps {
                    self.comments_before(step.op.span.start, false);
                    self.out.space();
                    self.out.text("then ");
                    self.name(&step.op);
                    for (word, name) in [(" ", &step.side), (" in ", &step.into), (" per ", &step.per)] {
                        if let Some(name) = name {
                            self.out.text(word);
                            self.name(name);
                        }
                    }
                }
                self.out.end();
            }
            ItemKind::Select { name, budget, of, per, clauses } => {
                self.out.text("select ");
                self.name(name);
                self.out.text(" = ");
                self.out.begin(1);
                self.budget(budget);
                if let Some(score) = of {
                    self.out.text(" of ");
                    self.expr(score);
                }
                self.out.text(" per ");
                self.name(&per.0);
                if let Some(level) = &per.1 {
                    self.out.text(".");
                    self.name(level);
                }
                self.clauses(clauses);
                self.out.end();
            }
            ItemKind::Merge { name, kind, gates, arms, clauses } => {
                self.out.text("merge ");
                self.name(name);
                self.out.text(" = ");
                self.out.begin(1);
                self.name(kind);
                if !gates.is_empty() {
                    self.elements("(", gates, ")", Self::body);
                }
                self.out.text(" of ");
                self.fill(arms, Self::name);
                self.clauses(clauses);
                self.out.end();
            }
            ItemKind::Model(model) => {
                self.model_head(model);
                self.braces(item.span, &model.arms, |p, arm, next| p.arm(arm, next, false));
            }
        }
        self.comments_before(item.span.end, false);
    }

    /// ` { .. }` with one element a line, up to the end of `span`. An element sees the next one.
    fn braces<T: Placed>(&mut self, span: Span, list: &[T], element: impl Fn(&mut Self, &T, Option<&T>)) {
        self.out.text(" {");
        self.opened = true;
        self.out.begin(1);
        for (i, item) in list.iter().enumerate() {
            self.next_line(item.start());
            element(self, item, list.get(i + 1));
        }
        let commented = self.comments.first().is_some_and(|c| c.span.start < span.end);
        self.comments_before(span.end, true);
        self.out.end();
        if commented || !list.is_empty() {
            self.out.hard(false);
        }
        self.out.text("}");
    }

    fn segment(&mut self, segment: &Segment) {
        self.name(&segment.name);
        match &segment.shape {
            SegmentShape::Line(extent) => self.elements("[", extent.as_slice(), "]", Self::body),
            SegmentShape::Grid(axes) => self.elements("(", axes, ")", Self::axis),
        }
    }

    // ---- levels, scores, selections ----

    fn level_arg(&mut self, arg: &LevelArg) {
        if let Some(name) = &arg.name {
            self.name(name);
            self.out.text(" = ");
        }
        self.body(&arg.value);
    }

    fn budget(&mut self, budget: &Budget) {
        self.name(&budget.word);
        if let Some(amount) = &budget.amount {
            self.out.text(" ");
            self.expr(amount);
        }
        if let Some(kind) = &budget.kind {
            self.out.text(" ");
            self.name(kind);
        }
        if !budget.bands.is_empty() {
            self.out.text(" { ");
            self.fill(&budget.bands, |p, band| {
                p.name(&band.name);
                p.out.text(" = ");
                p.expr(&band.upto);
                if let Some(least) = &band.least {
                    p.out.text(format!(" {} ", least.word.text));
                    p.expr(&least.value);
                }
                if let Some(align) = &band.align {
                    p.out.text(" by ");
                    p.expr(align);
                }
            });
            self.out.text(" }");
        }
    }

    /// Clauses of the present group, with a break before each.
    fn clauses(&mut self, clauses: &[Clause]) {
        for clause in clauses {
            self.comments_before(clause.word.span.start, false);
            self.out.space();
            self.name(&clause.word);
            self.out.text(" ");
            self.expr(&clause.value);
        }
    }

    // ---- attentions ----

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Scale(value) => {
                self.out.text("scale");
                self.definition(value);
            }
            Stmt::Score(value) => {
                self.out.text("score");
                self.definition(value);
            }
            Stmt::Align(name) => {
                self.out.text("align = ");
                self.name(name);
            }
            Stmt::Empty(name) => {
                self.out.text("empty = ");
                self.name(name);
            }
            Stmt::Require(condition) => {
                self.out.text("require ");
                self.expr(condition);
            }
            Stmt::Queries(level, how) => {
                self.out.text("queries = ");
                self.name(level);
                if let Some(how) = how {
                    self.out.text(" ");
                    self.name(how);
                }
            }
            Stmt::Attend(entries, span) => {
                self.out.text("attend ");
                self.joined(entries, Self::entry);
                self.reach(*span);
            }
        }
    }

    fn entry(&mut self, entry: &Entry) {
        self.out.begin(1);
        if let Some(set) = &entry.set {
            self.expr(set);
        }
        if let Some(slots) = &entry.null {
            self.out.text("null ");
            self.expr(slots);
        }
        if let Some(level) = &entry.level {
            self.comments_before(level.span.start, false);
            self.out.space();
            self.out.text("@ ");
            self.name(level);
        }
        if let Some(bias) = &entry.bias {
            self.comments_before(bias.span.start, false);
            self.out.space();
            self.out.text("bias ");
            self.expr(bias);
        }
        self.out.end();
    }

    // ---- models ----

    fn model_head(&mut self, model: &Model) {
        self.out.text("model ");
        self.name(&model.name);
        let mut args = vec![("layers", &model.layers), ("heads", &model.heads)];
        args.extend(model.steps.as_ref().map(|steps| ("steps", steps)));
        // As written, so that comments keep their places.
        args.sort_by_key(|(_, value)| value.span.start);
        self.elements("(", &args, ")", |p, (name, value)| {
            p.out.text(format!("{name} = "));
            p.expr(value);
            if *name == "heads" {
                for (word, value) in [(" on ", &model.kv_heads), (" by ", &model.head_map)] {
                    if let Some(value) = value {
                        p.out.text(word);
                        p.expr(value);
                    }
                }
            }
        });
    }

    /// An arm and the comma before the next one. In a `layer` block ranges of heads stand bare.
    fn arm(&mut self, arm: &Arm, next: Option<&Arm>, in_layer: bool) {
        let mut layer = false;
        match &arm.select {
            Selector::Rest => self.out.text("_"),
            Selector::When(condition) => {
                self.out.text("when ");
                self.expr(condition);
            }
            Selector::Ranges { axis, ranges } => {
                layer = *axis == Coord::Layer;
                match axis {
                    Coord::Step => self.out.text("step "),
                    Coord::Layer => self.out.text("layer "),
                    Coord::Head if in_layer => {}
                    Coord::Head => self.out.text("head "),
                }
                self.out.begin(1);
                for (i, range) in ranges.iter().enumerate() {
                    if i > 0 {
                        self.comments_before(range.span.start, false);
                        self.out.space();
                        self.out.text("| ");
                    }
                    self.range(range);
                }
                self.out.end();
            }
        }
        match &arm.target {
            Target::Attention(value) => {
                self.out.text(" => ");
                self.expr(value);
            }
            Target::Skip(span) => {
                self.out.text(" => ");
                self.leaf(*span, "skip");
            }
            Target::Block(arms) => self.arms(arm.span, arms, layer),
        }
        self.comments_before(arm.span.end, false);
        self.reach(arm.span);
        // On lines of their own arms need no comma, except where the next would be read as a part of this one.
        let Some(next) = next else { return };
        let open = matches!(&arm.target, Target::Attention(value) if ends_open(value));
        let needed = match &next.select {
            Selector::Rest | Selector::When(_) => false,
            Selector::Ranges { axis: Coord::Head, ranges } if in_layer => {
                open || !ranges.first().is_some_and(begins_plain)
            }
            Selector::Ranges { .. } => open,
        };
        match (&arm.target, needed) {
            (_, true) => self.out.text(","),
            (Target::Block(_), false) => {}
            (Target::Attention(_) | Target::Skip(_), false) => self.out.flat(","),
        }
    }

    /// ` { a, b }` on one line, or an arm a line, up to the end of `span`.
    fn arms(&mut self, span: Span, arms: &[Arm], in_layer: bool) {
        self.out.text(" {");
        self.opened = true;
        self.out.begin(1);
        for (i, arm) in arms.iter().enumerate() {
            self.comments_before(arm.span.start, true);
            match self.blank() {
                true => self.out.hard(true),
                false => self.out.space(),
            }
            self.arm(arm, arms.get(i + 1), in_layer);
        }
        self.comments_before(span.end, true);
        self.out.close(if arms.is_empty() { "" } else { " " });
        self.out.text("}");
        self.out.end();
    }

    // ---- expressions ----

    /// An expression that stands alone on its lines: the operands of a chain are not indented.
    fn body(&mut self, expr: &Expr) {
        self.nested(expr, 0);
    }

    /// An expression inside another: the operands of a chain but the first are indented.
    fn expr(&mut self, expr: &Expr) {
        self.nested(expr, 1);
    }

    fn nested(&mut self, expr: &Expr, levels: usize) {
        use ExprKind::{And, Except, Or, Product, Sum};
        let chain = matches!(expr.kind, Sum(..) | Product(..) | And(_) | Except(..) | Or(_));
        self.out.begin(if chain { levels } else { 0 });
        let span = expr.span;
        match &expr.kind {
            ExprKind::Int(value) => self.number(span, &value.to_string()),
            ExprKind::Float(value) => self.number(span, &format!("{value:?}")),
            ExprKind::Name(name) => self.leaf(span, name),
            ExprKind::Field(of, field) => {
                self.name(of);
                self.out.text(".");
                self.name(field);
            }
            ExprKind::Call(name, args) => {
                self.name(name);
                self.elements("(", args, ")", Self::body);
            }
            ExprKind::Index(name, indices) => {
                self.name(name);
                self.elements("[", indices, "]", Self::body);
            }
            ExprKind::Neg(operand) => {
                self.out.text("-");
                self.expr(operand);
            }
            ExprKind::Not(operand) => {
                self.out.text("!");
                self.expr(operand);
            }
            ExprKind::Sum(first, rest) => {
                self.chain(first, rest.iter().map(|(minus, e)| (if *minus { "-" } else { "+" }, e)));
            }
            ExprKind::Product(first, rest) => self.chain(first, rest.iter().map(|(op, e)| (op.symbol(), e))),
            ExprKind::Compare(first, rest) => {
                self.expr(first);
                for (op, operand) in rest {
                    self.out.text(format!(" {} ", op.symbol()));
                    self.expr(operand);
                }
            }
            ExprKind::In(operand, set) => {
                self.expr(operand);
                self.out.text(" in ");
                match set {
                    InSet::Range(range) => self.range(range),
                    InSet::Segment(name) => self.name(name),
                    InSet::Call(name, args) => {
                        self.name(name);
                        self.elements("(", args, ")", Self::body);
                    }
                    InSet::List(list) => {
                        self.out.text("{");
                        self.fill(list, Self::body);
                        self.out.text("}");
                    }
                }
            }
            ExprKind::And(list) => self.list("&", list),
            ExprKind::Or(list) => self.list("|", list),
            ExprKind::Except(first, rest) => self.chain(first, rest.iter().map(|e| ("except", e))),
            ExprKind::Paren(inner) => self.elements("(", std::slice::from_ref(&**inner), ")", Self::body),
            ExprKind::SameBlock(size) => {
                self.out.text("same block ");
                self.expr(size);
            }
            ExprKind::SameDoc => self.leaf(span, "same doc"),
            ExprKind::SameAxes(axes) => {
                self.out.text("same ");
                self.fill(axes, Self::name);
            }
            ExprKind::Block(size, set) => {
                self.out.text("block ");
                self.expr(size);
                self.set(set);
            }
            ExprKind::Along(q, k, set) => {
                self.out.text("along ");
                match k {
                    None => self.name(q),
                    Some(k) => {
                        self.out.text("(");
                        self.name(q);
                        self.out.text(", ");
                        self.name(k);
                        self.out.text(")");
                    }
                }
                self.set(set);
            }
            ExprKind::EachDoc(set) => {
                self.out.text("each doc");
                self.set(set);
            }
            ExprKind::Near(axes) => {
                self.out.text("near");
                self.elements("(", axes, ")", Self::near_axis);
            }
            ExprKind::Disc(axes, radius) => {
                self.out.text("disc(");
                for axis in axes {
                    self.name(axis);
                    self.out.text(", ");
                }
                self.expr(radius);
                self.out.text(")");
            }
            ExprKind::Pow2 => self.leaf(span, "pow2"),
            ExprKind::Halves { min, diagonal, below } => {
                self.out.text("halves(min ");
                self.expr(min);
                self.out.text(") {");
                self.out.begin(1);
                for (word, set, end) in [("diagonal ", diagonal, ";"), ("below ", below, "")] {
                    self.comments_before(set.span.start, false);
                    self.out.space();
                    self.out.text(word);
                    self.expr(set);
                    self.out.text(end);
                }
                self.out.close(" ");
                self.out.text("}");
                self.out.end();
            }
            ExprKind::Random { replace, count, of, per, seed } => {
                self.out.text(if *replace { "draw " } else { "random " });
                self.expr(count);
                self.out.text(" of ");
                self.expr(of);
                self.out.text(" per ");
                self.name(per);
                self.out.text(" seed ");
                self.expr(seed);
            }
            ExprKind::Map(name) => {
                self.out.text("map ");
                self.name(name);
            }
        }
        self.reach(span);
        self.out.end();
    }

    fn list(&mut self, op: &'static str, list: &[Expr]) {
        if let Some((first, rest)) = list.split_first() {
            self.chain(first, rest.iter().map(|e| (op, e)));
        }
    }

    /// Operands of the present group, with a break before each operator.
    fn chain<'e>(&mut self, first: &Expr, rest: impl Iterator<Item = (&'static str, &'e Expr)>) {
        self.expr(first);
        for (op, operand) in rest {
            self.comments_before(operand.span.start, false);
            self.out.space();
            self.out.text(op);
            self.out.text(" ");
            self.expr(operand);
        }
    }

    /// ` { P }`
    fn set(&mut self, set: &Expr) {
        self.out.text(" {");
        self.out.begin(1);
        self.comments_before(set.span.start, false);
        self.out.space();
        self.body(set);
        self.out.close(" ");
        self.out.text("}");
        self.out.end();
    }

    fn near_axis(&mut self, axis: &NearAxis) {
        self.name(&axis.axis);
        self.out.text(" = ");
        self.expr(&axis.window);
        for (word, value) in [(" by ", &axis.stride), (" dilate ", &axis.dilate)] {
            if let Some(value) = value {
                self.out.text(word);
                self.expr(value);
            }
        }
        if axis.causal {
            self.out.text(" causal");
        }
    }

    fn range(&mut self, range: &RangeExpr) {
        if let Some(lo) = &range.lo {
            self.expr(lo);
        }
        if !range.single {
            if range.lo.is_some() {
                self.out.text(" ");
            }
            self.out.text(if range.inclusive { "..=" } else { ".." });
        }
        for (word, value) in [(" ", &range.hi), (" step ", &range.step)] {
            if let Some(value) = value {
                self.out.text(word);
                self.expr(value);
            }
        }
        self.reach(range.span);
    }
}

/// The last token is the `..` of a range without an end.
fn ends_open(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::In(_, InSet::Range(range)) => range.hi.is_none() && range.step.is_none(),
        ExprKind::Not(inner) => ends_open(inner),
        ExprKind::And(list) | ExprKind::Or(list) | ExprKind::Except(_, list) => list.last().is_some_and(ends_open),
        _ => false,
    }
}

/// The first token is a name or a number, which continues no expression before it.
fn begins_plain(range: &RangeExpr) -> bool {
    let mut first = range.lo.as_deref();
    while let Some(Expr { kind: ExprKind::Sum(inner, _) | ExprKind::Product(inner, _), .. }) = first {
        first = Some(inner);
    }
    use ExprKind::{Call, Field, Float, Index, Int, Name};
    matches!(first.map(|e| &e.kind), Some(Int(_) | Float(_) | Name(_) | Field(..) | Call(..) | Index(..)))
}

/// What has a place in the source: comments before `start` are printed before it.
trait Placed {
    /// Where its first leaf begins.
    fn start(&self) -> u32;
}

impl Placed for Expr {
    fn start(&self) -> u32 {
        self.span.start
    }
}

impl Placed for Name {
    fn start(&self) -> u32 {
        self.span.start
    }
}

impl Placed for (Name, Option<Expr>) {
    fn start(&self) -> u32 {
        self.0.span.start
    }
}

impl Placed for (&str, &Expr) {
    fn start(&self) -> u32 {
        self.1.span.start
    }
}

impl Placed for Segment {
    fn start(&self) -> u32 {
        self.name.span.start
    }
}

impl Placed for LevelArg {
    fn start(&self) -> u32 {
        self.name.as_ref().map_or(self.value.span.start, |name| name.span.start)
    }
}

impl Placed for Band {
    fn start(&self) -> u32 {
        self.name.span.start
    }
}

impl Placed for NearAxis {
    fn start(&self) -> u32 {
        self.axis.span.start
    }
}

impl Placed for Entry {
    fn start(&self) -> u32 {
        self.span.start
    }
}

impl Placed for Arm {
    fn start(&self) -> u32 {
        self.span.start
    }
}

impl Placed for Stmt {
    fn start(&self) -> u32 {
        match self {
            Stmt::Scale(value) | Stmt::Score(value) | Stmt::Require(value) => value.span.start,
            Stmt::Align(name) | Stmt::Empty(name) | Stmt::Queries(name, _) => name.span.start,
            Stmt::Attend(_, span) => span.start,
        }
    }
}
