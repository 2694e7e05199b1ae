//! Cuts the tokens of a file into items and settles all that needs more than one token in sight.
//!
//! One idea: a single walk that knows the open brackets and the neighbours of each token. It finds where
//! items begin (so that each is parsed by itself and one error never hides the next item), checks and limits
//! brackets (so that the parser builds no tree too deep for a stack), and gives words that mean something
//! only in one place their tokens (so that the grammar has no conflict). The rules:
//!
//! - An item begins at an item word that is the first on its line, outside brackets. `map` also occurs in
//!   expressions: there it begins an item if `NAME :` follows or the operand before it is complete.
//!   Inside brackets an item word at the start of a line (not `map`, `require`) means that a bracket was left open.
//! - `level`, `score`, `select`, `merge` begin an item where `NAME =` follows.
//! - `scale`, `score`, `align`, `empty`, `queries` are statements where `=` follows, directly inside an attention.
//! - In a score, selection or merge, outside brackets, `where`, `within`, `besides`, `including`, `among`, `at least`,
//!   `by`, `over` are words behind a complete operand, and so is `then` in a score.
//! - `bias` belongs to an entry after a complete operand, `null` where an entry begins.
//! - `near`, `disc`, `halves` are forms where `(` follows; `doc` after `same` and `each`; `seed` after `per NAME`.
//! - `step` is the step of a range after a complete operand or `..`, where an operand follows.
//! - `step`, `layer`, `head` select where an arm of a model begins.
//! - Arms of a model may leave out the comma: it is written here where the target of an arm is complete
//!   and the next token is `_`, `when`, a name or a number. On the line of a range `step` belongs to the range.
//! - The list of `same h, w` goes on at each comma, except directly inside the brackets of a call, an index,
//!   a list or a model, where the comma separates: there `(same h, w)` is written.
//! - `;` stands directly inside the braces of `halves`, and nowhere else.
//! - After `.` every word is a name.
//!
//! Nothing here builds a tree.

use crate::diag::{Diagnostic, FileId, Span};
use crate::token::{Lexeme, Token, foreign_characters};

/// Deepest nesting of brackets and prefix operators together.
pub const MAX_NESTING: u32 = 200;

/// The tokens of one item, in the form that the generated parser reads.
pub(crate) struct RawItem<'s> {
    pub(crate) tokens: Vec<(u32, Token<'s>, u32)>,
    /// An error in it was reported already: it is not parsed.
    pub(crate) broken: bool,
}

/// What an open bracket is about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// `( a )`
    Group,
    /// `f( .. )`
    Call,
    /// `a[ .. ]`
    Index,
    /// `in { .. }`
    List,
    /// `block 64 { .. }`
    Set,
    /// The body of an attention.
    Stmts,
    /// The arms of a model.
    Arms(Phase),
    /// The brackets of `halves(min 64)`: its first word is no name of a call.
    Least,
    /// The braces of `halves(..) { diagonal P; below Q }`, likewise.
    Parts,
    /// From `random` or `draw` to `per`: nests like a bracket.
    Random,
}

/// How far an arm of a model has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Before its `=>` or its block.
    Select,
    /// The same, behind a `block`, `along`, `each` that still lacks its brace.
    Form,
    /// Behind `=>`.
    Target,
    /// The same, behind a `..`.
    Ranged,
    /// Behind its block.
    Block,
}

struct Frame<'s> {
    kind: Kind,
    open: Token<'s>,
    span: Span,
    /// Depth outside.
    depth: u32,
}

struct Cutter<'s, 'd> {
    source: &'s str,
    file: FileId,
    items: Vec<RawItem<'s>>,
    frames: Vec<Frame<'s>>,
    /// Open brackets, `random`s and the prefix operators before them.
    depth: u32,
    /// Prefix operators right before this token.
    prefixes: u32,
    /// The bracket closed last was a [`Kind::Least`].
    halves: bool,
    diagnostics: &'d mut Vec<Diagnostic>,
}

/// Cuts `lexemes` into items; bracket errors and too deep nesting go to `diagnostics`.
pub(crate) fn cut<'s>(
    source: &'s str,
    file: FileId,
    lexemes: &[Lexeme<'s>],
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<RawItem<'s>> {
    let mut cutter =
        Cutter { source, file, items: vec![], frames: vec![], depth: 0, prefixes: 0, halves: false, diagnostics };
    for (i, lexeme) in lexemes.iter().enumerate() {
        let ahead = |n: usize| lexemes.get(i + n).map(|l| l.token);
        cutter.token(lexeme, ahead(1), ahead(2));
    }
    cutter.close_item();
    cutter.items
}

fn begins_item(token: Token<'_>) -> bool {
    use Token::*;
    matches!(token, Import | Size | Param | Tensor | Map | Space | Order | Pattern | Attention | Require | Model)
}

/// The item that a word begins where a definition follows.
fn defined(token: Token<'_>) -> Option<Token<'_>> {
    match token {
        Token::Ident("level") => Some(Token::Level),
        Token::Ident("score") => Some(Token::ScoreItem),
        Token::Ident("select") => Some(Token::SelectItem),
        Token::Ident("merge") => Some(Token::Merge),
        _ => None,
    }
}

fn closer(open: Token<'_>) -> Token<'_> {
    match open {
        Token::LParen => Token::RParen,
        Token::LBracket => Token::RBracket,
        _ => Token::RBrace,
    }
}

impl<'s> Cutter<'s, '_> {
    /// The `n`-th token before the present one in this item, as it was handed on.
    fn before(&self, n: usize) -> Option<Token<'s>> {
        let tokens = &self.items.last()?.tokens;
        tokens.len().checked_sub(n).map(|i| tokens[i].1)
    }

    /// This item has had a token.
    fn seen(&self, token: Token<'s>) -> bool {
        self.items.last().is_some_and(|item| item.tokens.iter().any(|t| t.1 == token))
    }

    fn kind(&self) -> Option<Kind> {
        self.frames.last().map(|f| f.kind)
    }

    fn token(&mut self, lexeme: &Lexeme<'s>, next: Option<Token<'s>>, after: Option<Token<'s>>) {
        let complete = self.before(1).is_none_or(Token::ends_operand);
        let named_map = next.is_some_and(Token::is_name) && after == Some(Token::Colon);
        let defines = self.frames.is_empty()
            && defined(lexeme.token).is_some()
            && next.is_some_and(Token::is_name)
            && after == Some(Token::Assign);
        let begins = lexeme.first
            && (begins_item(lexeme.token) || defines)
            && match lexeme.token {
                Token::Map => self.frames.is_empty() && (complete || named_map),
                Token::Require => self.frames.is_empty(),
                _ => true,
            };
        if begins || self.items.is_empty() {
            self.close_item();
            self.items.push(RawItem { tokens: vec![], broken: false });
        }
        if lexeme.token == Token::Bad {
            self.fail();
        }
        if lexeme.token == Token::Semicolon && self.kind() != Some(Kind::Parts) {
            self.report(foreign_characters(self.source, self.file, lexeme.start as usize, lexeme.end as usize));
        }
        // `at least` is one word.
        if lexeme.token == Token::Ident("least")
            && let Some(last) = self.items.last_mut().and_then(|item| item.tokens.last_mut())
            && last.1 == Token::Clause("at least")
            && last.2 - last.0 == "at".len() as u32
        {
            last.2 = lexeme.end;
            return;
        }
        let token = self.in_context(lexeme, next);
        self.nest(token, lexeme);
        self.push(token, lexeme.start, lexeme.end);
    }

    fn push(&mut self, token: Token<'s>, start: u32, end: u32) {
        if let Some(item) = self.items.last_mut() {
            item.tokens.push((start, token, end));
        }
    }

    fn fail(&mut self) {
        if let Some(item) = self.items.last_mut() {
            item.broken = true;
        }
    }

    /// The token that a word has in this place; writes the comma that an arm has left out.
    fn in_context(&mut self, lexeme: &Lexeme<'s>, next: Option<Token<'s>>) -> Token<'s> {
        let token = lexeme.token;
        let last = self.before(1);
        if last == Some(Token::Dot) && token.is_keyword() {
            return Token::Ident(&self.source[lexeme.start as usize..lexeme.end as usize]);
        }
        if last.is_none()
            && next.is_some_and(Token::is_name)
            && let Some(token) = defined(token)
        {
            return token;
        }
        let complete = last.is_some_and(Token::ends_operand);
        let word = match token {
            Token::Ident(word) => word,
            _ => "",
        };
        let indexed = matches!(next, Some(Token::LBracket | Token::Dot));
        let operand_follows = next.is_some_and(|t| t.begins_operand() || t == Token::LParen);

        let item = self.items.last().and_then(|item| item.tokens.first()).map(|t| t.1);
        if self.frames.is_empty() && (complete || last == Some(Token::DotDot) && !indexed) {
            match (item, word) {
                (Some(Token::ScoreItem), "then") => return Token::Then,
                (Some(Token::ScoreItem | Token::Merge), "where") => return Token::Clause("where"),
                (Some(Token::Merge), "over") => return Token::Clause("over"),
                (Some(Token::SelectItem), "within") => return Token::Clause("within"),
                (Some(Token::SelectItem), "besides") => return Token::Clause("besides"),
                (Some(Token::SelectItem), "including") => return Token::Clause("including"),
                (Some(Token::SelectItem), "among") => return Token::Clause("among"),
                (Some(Token::SelectItem), "at") if next == Some(Token::Ident("least")) => {
                    return Token::Clause("at least");
                }
                (Some(Token::SelectItem), _) if token == Token::By => return Token::Clause("by"),
                _ => {}
            }
        }
        if word == "seed" && complete && self.before(2) == Some(Token::Per) {
            return Token::Seed;
        }
        if let Some(Kind::Arms(phase)) = self.kind() {
            let may_end = !matches!(phase, Phase::Select | Phase::Form);
            let ends = match token {
                Token::Underscore | Token::When => last != Some(Token::Comma),
                // On the line of a range it is the step of the range.
                Token::Ident("step") => complete && (lexeme.first || !operand_follows || phase != Phase::Ranged),
                _ => complete && token.begins_operand(),
            };
            if may_end && ends {
                self.push(Token::Comma, lexeme.start, lexeme.start);
                self.enter(Phase::Select);
            }
            if matches!(self.before(1), Some(Token::Comma | Token::LBrace)) {
                match word {
                    "step" => return Token::SelectStep,
                    "layer" => return Token::SelectLayer,
                    "head" => return Token::SelectHead,
                    _ => {}
                }
            }
        }
        match token {
            Token::Arrow => self.enter(Phase::Target),
            Token::DotDot | Token::DotDotEq if self.kind() == Some(Kind::Arms(Phase::Target)) => {
                self.enter(Phase::Ranged)
            }
            Token::Comma => {
                let listed = self.before(1).is_some_and(Token::is_name)
                    && matches!(self.before(2), Some(Token::Same | Token::AxisComma))
                    && next.is_some_and(Token::is_name)
                    && !matches!(self.kind(), Some(Kind::Call | Kind::Index | Kind::List | Kind::Arms(_)));
                if listed {
                    return Token::AxisComma;
                }
                self.enter(Phase::Select);
            }
            _ => {}
        }
        let statement = self.kind() == Some(Kind::Stmts);
        match word {
            "scale" if statement && next == Some(Token::Assign) => Token::Scale,
            "score" if statement && next == Some(Token::Assign) => Token::Score,
            "align" if statement && next == Some(Token::Assign) => Token::Align,
            "empty" if statement && next == Some(Token::Assign) => Token::Empty,
            "queries" if statement && next == Some(Token::Assign) => Token::Queries,
            "bias" if statement && (complete || last == Some(Token::DotDot) && !indexed) => Token::Bias,
            "null" if statement && matches!(last, Some(Token::Attend | Token::PlusPlus)) => Token::Null,
            "near" if next == Some(Token::LParen) => Token::Near,
            "disc" if next == Some(Token::LParen) => Token::Disc,
            "halves" if next == Some(Token::LParen) => Token::Halves,
            "doc" if matches!(last, Some(Token::Same | Token::Each)) => Token::Doc,
            "step" if (complete || matches!(last, Some(Token::DotDot))) && operand_follows => Token::StepBy,
            _ => token,
        }
    }

    /// The arm at hand, if one is, has come so far.
    fn enter(&mut self, new: Phase) {
        if let Some(Frame { kind: Kind::Arms(phase), .. }) = self.frames.last_mut() {
            *phase = new;
        }
    }

    /// Opens and closes brackets, counts depth.
    fn nest(&mut self, token: Token<'s>, lexeme: &Lexeme<'s>) {
        let span = self.span(lexeme.start, lexeme.end);
        let last = self.before(1);
        match token {
            Token::Not | Token::Minus => {
                self.prefixes += 1;
                self.limit(span);
                return;
            }
            Token::LParen => {
                let call = last.is_some_and(|t| t.begins_operand() || matches!(t, Token::Near | Token::Disc));
                // The amount of a selection: `top (8)` is no call.
                let amount = self
                    .items
                    .last()
                    .is_some_and(|item| item.tokens.len() == 4 && item.tokens[0].1 == Token::SelectItem);
                let word = matches!(self.kind(), Some(Kind::Least | Kind::Parts))
                    && matches!(self.before(2), Some(Token::LParen | Token::LBrace | Token::Semicolon));
                // The floor of a band: `at least (0.1)` is no call.
                let floor = self.kind() == Some(Kind::List)
                    && last == Some(Token::Ident("least"))
                    && self.before(2) == Some(Token::Ident("at"));
                self.open(
                    match last {
                        Some(Token::Halves) => Kind::Least,
                        _ if call && !word && !amount && !floor => Kind::Call,
                        _ => Kind::Group,
                    },
                    token,
                    span,
                );
            }
            Token::LBracket => self.open(Kind::Index, token, span),
            Token::LBrace => {
                let item = self.items.last().and_then(|item| item.tokens.first()).map(|t| t.1);
                let kind = match (item, self.kind()) {
                    _ if last == Some(Token::In) => Kind::List,
                    (_, Some(Kind::Arms(Phase::Form))) if last == Some(Token::RParen) && self.halves => {
                        self.enter(Phase::Select);
                        Kind::Parts
                    }
                    _ if last == Some(Token::RParen) && self.halves => Kind::Parts,
                    (Some(Token::SelectItem), None) if !self.seen(Token::Of) && !self.seen(Token::Per) => Kind::List,
                    (Some(Token::Attention), None) => Kind::Stmts,
                    (Some(Token::Model), None) => Kind::Arms(Phase::Select),
                    (_, Some(Kind::Arms(Phase::Select))) => {
                        self.enter(Phase::Block);
                        Kind::Arms(Phase::Select)
                    }
                    (_, Some(Kind::Arms(Phase::Form))) => {
                        self.enter(Phase::Select);
                        Kind::Set
                    }
                    _ => Kind::Set,
                };
                self.open(kind, token, span);
            }
            Token::Along | Token::Each | Token::Block | Token::Halves
                if last != Some(Token::Same) && self.kind() == Some(Kind::Arms(Phase::Select)) =>
            {
                self.enter(Phase::Form);
            }
            Token::Random | Token::Draw => self.open(Kind::Random, token, span),
            Token::Per if self.kind() == Some(Kind::Random) => self.pop(),
            Token::RParen | Token::RBracket | Token::RBrace => self.close(token, span),
            _ => {}
        }
        self.prefixes = 0;
    }

    fn open(&mut self, kind: Kind, open: Token<'s>, span: Span) {
        // Of an item that is too deep only the end is still wanted.
        if self.depth > MAX_NESTING {
            return;
        }
        self.frames.push(Frame { kind, open, span, depth: self.depth });
        self.depth += self.prefixes + 1;
        self.prefixes = 0;
        self.limit(span);
    }

    /// Reports the first place of an item that is too deep.
    fn limit(&mut self, span: Span) {
        if self.depth + self.prefixes > MAX_NESTING && self.items.last().is_some_and(|item| !item.broken) {
            self.fail();
            self.diagnostics.push(
                Diagnostic::error(
                    "E0106",
                    span,
                    format!("brackets and prefix operators nest more than {MAX_NESTING} deep"),
                    "too deep here",
                )
                .help("give inner parts names of their own: `pattern part = ..`"),
            );
        }
    }

    fn pop(&mut self) {
        if let Some(frame) = self.frames.pop() {
            self.depth = frame.depth;
        }
    }

    fn close(&mut self, token: Token<'s>, span: Span) {
        while self.kind() == Some(Kind::Random) {
            self.pop();
        }
        match self.frames.last() {
            Some(frame) if closer(frame.open) == token => {
                self.halves = frame.kind == Kind::Least;
                self.pop();
            }
            Some(frame) => {
                let (kind_wanted, open_span) = (closer(frame.open), frame.span);
                // The item ends somewhere behind; where exactly its brackets went wrong was said.
                if self.items.last().is_none_or(|item| item.broken) {
                    return;
                }
                let wanted = match kind_wanted {
                    Token::RParen => ")",
                    Token::RBracket => "]",
                    _ => "}",
                };
                let (found, open) = (self.text(span), self.text(open_span));
                let diagnostic = Diagnostic::error(
                    "E0108",
                    span,
                    format!("`{found}` does not close `{open}`"),
                    format!("`{wanted}` expected"),
                )
                .label(open_span, "opened here");
                self.report(diagnostic);
                // Of two readings, take the one in which this bracket closes something.
                if let Some(i) = self.frames.iter().rposition(|f| f.kind != Kind::Random && closer(f.open) == token) {
                    self.depth = self.frames[i].depth;
                    self.frames.truncate(i);
                }
            }
            None => {
                let found = self.text(span);
                let diagnostic =
                    Diagnostic::error("E0108", span, format!("`{found}` closes nothing"), "no bracket is open here");
                self.report(diagnostic);
            }
        }
    }

    /// Reports the first bracket error of an item; those behind it may be its echoes.
    fn report(&mut self, diagnostic: Diagnostic) {
        if self.items.last().is_some_and(|item| !item.broken) {
            self.diagnostics.push(diagnostic);
        }
        self.fail();
    }

    /// Ends an item; brackets still open are an error.
    fn close_item(&mut self) {
        let open = self.frames.iter().rev().find(|f| f.kind != Kind::Random).map(|f| f.span);
        if let Some(span) = open {
            let text = self.text(span);
            let diagnostic = Diagnostic::error("E0107", span, format!("`{text}` is never closed"), "opened here");
            self.report(diagnostic);
        }
        self.frames.clear();
        self.depth = 0;
        self.prefixes = 0;
    }

    fn text(&self, span: Span) -> &'s str {
        &self.source[span.start as usize..span.end as usize]
    }

    fn span(&self, start: u32, end: u32) -> Span {
        Span { file: self.file, start, end }
    }
}
