//! Tokens of a `.attn` file and the comments between them.
//!
//! One idea: the lexer knows spelling alone. Words that mean something only in one place
//! (`score =` in an attention, `step` after a range) are names here; [`crate::items`], which sees
//! brackets and neighbours, gives them their tokens. Nothing here knows of items or of grammar.

use crate::diag::{Diagnostic, FileId, Span};
use logos::Logos;

/// A token. The variants after [`Token::Bad`] are never lexed: the item cutter makes them.
#[derive(Logos, Clone, Copy, Debug, PartialEq)]
#[logos(skip r"[ \t\r\n\x0c\u{feff}]+")]
#[logos(error = LexError)]
pub(crate) enum Token<'s> {
    #[regex("[A-Za-z_][A-Za-z0-9_]*", |lex| lex.slice())]
    Ident(&'s str),
    #[regex("[0-9][0-9_]*", |lex| integer(lex.slice()), priority = 20)]
    Int(i64),
    #[regex(r"[0-9][0-9_]*\.[0-9][0-9_]*([eE][+-]?[0-9]+)?", |lex| float(lex.slice()), priority = 20)]
    #[regex(r"[0-9][0-9_]*[eE][+-]?[0-9]+", |lex| float(lex.slice()), priority = 20)]
    Float(f64),
    #[regex("[0-9][0-9_]*[A-Za-z_][A-Za-z0-9_]*", |_| malformed(), priority = 10)]
    Malformed,
    #[regex("\"[^\"\n]*\"", |lex| { let s = lex.slice(); &s[1..s.len() - 1] })]
    Str(&'s str),
    #[regex("\"[^\"\n]*", |_| unclosed())]
    Unclosed,
    #[regex("//[^\n]*", allow_greedy = true)]
    Comment,

    #[token("import")]
    Import,
    #[token("from")]
    From,
    #[token("size")]
    Size,
    #[token("param")]
    Param,
    #[token("tensor")]
    Tensor,
    #[token("map")]
    Map,
    #[token("space")]
    Space,
    #[token("order")]
    Order,
    #[token("pattern")]
    Pattern,
    #[token("attention")]
    Attention,
    #[token("require")]
    Require,
    #[token("model")]
    Model,

    #[token("attend")]
    Attend,
    #[token("on")]
    On,
    #[token("by")]
    By,
    #[token("when")]
    When,
    #[token("skip")]
    Skip,
    #[token("in")]
    In,
    #[token("except")]
    Except,
    #[token("same")]
    Same,
    #[token("block")]
    Block,
    #[token("along")]
    Along,
    #[token("each")]
    Each,
    #[token("dilate")]
    Dilate,
    #[token("causal")]
    Causal,
    #[token("pow2")]
    Pow2,
    #[token("random")]
    Random,
    #[token("draw")]
    Draw,
    #[token("of")]
    Of,
    #[token("per")]
    Per,

    #[token("(")]
    LParen,
    #[token(")")]
    RParen,
    #[token("[")]
    LBracket,
    #[token("]")]
    RBracket,
    #[token("{")]
    LBrace,
    #[token("}")]
    RBrace,
    #[token(",")]
    Comma,
    #[token(";")]
    Semicolon,
    #[token(":")]
    Colon,
    #[token(".")]
    Dot,
    #[token("..")]
    DotDot,
    #[token("..=")]
    DotDotEq,
    #[token("=")]
    Assign,
    #[token("=>")]
    Arrow,
    #[token("@")]
    At,
    #[token("_", priority = 5)]
    Underscore,
    #[token("+")]
    Plus,
    #[token("++")]
    PlusPlus,
    #[token("-")]
    Minus,
    #[token("*")]
    Star,
    #[token("/")]
    Slash,
    #[token("%")]
    Percent,
    #[token("<")]
    Lt,
    #[token("<=")]
    Le,
    #[token(">")]
    Gt,
    #[token(">=")]
    Ge,
    #[token("==")]
    EqEq,
    #[token("!=")]
    Ne,
    #[token("!")]
    Not,
    #[token("&")]
    And,
    #[token("|")]
    Or,

    /// Something whose error has been reported.
    Bad,
    /// `scale` before `=` in an attention.
    Scale,
    /// `score` before `=` in an attention.
    Score,
    /// `align` before `=` in an attention.
    Align,
    /// `empty` before `=` in an attention.
    Empty,
    /// `bias` after an entry.
    Bias,
    /// `null` where an entry begins.
    Null,
    /// `near` before `(`.
    Near,
    /// `disc` before `(`.
    Disc,
    /// `halves` before `(`.
    Halves,
    /// `doc` after `same` or `each`.
    Doc,
    /// `seed` after `per NAME`.
    Seed,
    /// `step` behind a range.
    StepBy,
    /// `step` where an arm of a model begins.
    SelectStep,
    /// `layer` where an arm of a model begins.
    SelectLayer,
    /// `head` where an arm of a model begins.
    SelectHead,
    /// The comma of `same h, w`.
    AxisComma,
    /// `level` where an item begins.
    Level,
    /// `score` where an item begins.
    ScoreItem,
    /// `select` where an item begins.
    SelectItem,
    /// `merge` where an item begins.
    Merge,
    /// `queries` before `=` in an attention.
    Queries,
    /// A word of a score, selection or merge that an expression follows: `where`, `within`, ..
    Clause(&'s str),
    /// `then` in a score.
    Then,
}

/// Why a piece of text is no token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum LexError {
    #[default]
    Character,
    Number,
    Range,
    Unclosed,
}

fn malformed() -> Result<(), LexError> {
    Err(LexError::Number)
}

fn unclosed() -> Result<(), LexError> {
    Err(LexError::Unclosed)
}

fn integer(text: &str) -> Result<i64, LexError> {
    text.replace('_', "").parse().map_err(|_| LexError::Range)
}

fn float(text: &str) -> Result<f64, LexError> {
    match text.replace('_', "").parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(LexError::Range),
    }
}

/// A token with its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexeme<'s> {
    pub(crate) token: Token<'s>,
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// No other token or comment stands before it on its line.
    pub(crate) first: bool,
}

/// A comment, or a `///` line that stands above no item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// From the first slash to the end of the line.
    pub span: Span,
    /// As written, slashes included, without white space at its end.
    pub text: String,
    /// Nothing but white space stands before it on its line; else it trails a token.
    pub own_line: bool,
}

/// What [`lex`] finds.
pub(crate) struct Lexed<'s> {
    pub(crate) lexemes: Vec<Lexeme<'s>>,
    pub(crate) comments: Vec<Comment>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Cuts `source` (shorter than 4 GiB) into tokens. What is no token is reported and becomes
/// [`Token::Bad`]; a run of foreign characters is one error.
pub(crate) fn lex(source: &str, file: FileId) -> Lexed<'_> {
    let mut out = Lexed { lexemes: vec![], comments: vec![], diagnostics: vec![] };
    let mut last_end = 0;
    let mut foreign: Option<(usize, usize)> = None;
    for (token, range) in Token::lexer(source).spanned() {
        let first = out.lexemes.is_empty() && out.comments.is_empty() || source[last_end..range.start].contains('\n');
        let span = span(file, range.start, range.end);
        if let Some((start, end)) = foreign
            && (token != Err(LexError::Character) || end != range.start)
        {
            out.diagnostics.push(foreign_characters(source, file, start, end));
            foreign = None;
        }
        let token = match token {
            Ok(Token::Comment) => {
                let text = source[range.clone()].trim_end().to_owned();
                let end = span.start + text.len() as u32;
                out.comments.push(Comment { span: Span { end, ..span }, text, own_line: first });
                last_end = range.end;
                continue;
            }
            Ok(token) => token,
            Err(LexError::Character) => {
                foreign = Some((foreign.map_or(range.start, |(start, _)| start), range.end));
                Token::Bad
            }
            Err(error) => {
                out.diagnostics.push(bad_literal(error, &source[range.clone()], span));
                Token::Bad
            }
        };
        out.lexemes.push(Lexeme { token, start: span.start, end: span.end, first });
        last_end = range.end;
    }
    if let Some((start, end)) = foreign {
        out.diagnostics.push(foreign_characters(source, file, start, end));
    }
    out
}

/// The tokens of a text as they are written, with a space after each: what is left of it without comments and layout.
#[must_use]
pub fn words(source: &str) -> String {
    let mut words = String::with_capacity(source.len() / 4);
    for (token, range) in Token::lexer(source).spanned() {
        if token != Ok(Token::Comment) {
            words.push_str(&source[range]);
            words.push(' ');
        }
    }
    words
}

fn span(file: FileId, start: usize, end: usize) -> Span {
    Span { file, start: start as u32, end: end as u32 }
}

/// What cannot stand where it stands.
pub(crate) fn foreign_characters(source: &str, file: FileId, start: usize, end: usize) -> Diagnostic {
    let text: String = source[start..end].chars().take(8).collect();
    let diagnostic = Diagnostic::error(
        "E0101",
        span(file, start, end),
        format!("`{}` cannot stand here", text.escape_debug()),
        "not a character of the language",
    );
    match text.chars().next() {
        Some(';') => diagnostic.help("statements end by themselves: leave the `;` out"),
        Some('\'') => diagnostic.help("strings stand in double quotes"),
        Some('∧' | '∩') => diagnostic.help("intersection is written `&`"),
        Some('∨' | '∪') => diagnostic.help("union is written `|`"),
        Some('¬' | '~') => diagnostic.help("complement is written `!`"),
        Some('≤') => diagnostic.help("write `<=`"),
        Some('≥') => diagnostic.help("write `>=`"),
        Some('#') => diagnostic.help("comments begin with `//`"),
        Some(c) if c.is_alphabetic() => diagnostic.help("names are of ASCII letters, digits and `_`"),
        _ => diagnostic,
    }
}

fn bad_literal(error: LexError, text: &str, span: Span) -> Diagnostic {
    let short: String = text.chars().take(24).collect();
    match error {
        LexError::Range if text.contains(['.', 'e', 'E']) => {
            Diagnostic::error("E0103", span, format!("`{short}` is too large"), "not a finite f64")
        }
        LexError::Range => {
            Diagnostic::error("E0103", span, format!("`{short}` is too large"), "does not fit a 64-bit signed integer")
                .help("the largest integer is 9223372036854775807")
        }
        LexError::Unclosed => Diagnostic::error("E0104", span, "the string has no end", "begins here")
            .help("close it with `\"` on the same line"),
        LexError::Number | LexError::Character => {
            Diagnostic::error("E0102", span, format!("`{short}` is not a number"), "a number runs into a name").help(
                "integers are `42` or `1_024`, reals `0.5` or `1e-3`; a product needs its `*`, a name cannot begin with a digit",
            )
        }
    }
}

impl<'s> Token<'s> {
    /// An operand can end with it.
    pub(crate) fn ends_operand(self) -> bool {
        use Token::*;
        matches!(self, Ident(_) | Int(_) | Float(_) | Str(_) | RParen | RBracket | RBrace | Skip | Pow2 | Causal | Doc)
    }

    /// What the grammar takes for a name.
    pub(crate) fn is_name(self) -> bool {
        matches!(self, Token::Ident(_) | Token::Causal)
    }

    /// A name or number: never a continuation of the operand before it.
    pub(crate) fn begins_operand(self) -> bool {
        self.is_name() || matches!(self, Token::Int(_) | Token::Float(_))
    }

    /// A word of its own that no expression can use as a name.
    pub(crate) fn is_keyword(self) -> bool {
        use Token::*;
        matches!(
            self,
            Import
                | From
                | Size
                | Param
                | Tensor
                | Map
                | Space
                | Order
                | Pattern
                | Attention
                | Require
                | Model
                | Attend
                | On
                | By
                | When
                | Skip
                | In
                | Except
                | Same
                | Block
                | Along
                | Each
                | Dilate
                | Pow2
                | Random
                | Draw
                | Of
                | Per
                | Scale
                | Score
                | Align
                | Empty
                | Bias
                | Null
                | Near
                | Disc
                | Halves
                | Doc
                | Seed
                | StepBy
                | SelectStep
                | SelectLayer
                | SelectHead
                | Level
                | ScoreItem
                | SelectItem
                | Merge
                | Queries
                | Clause(_)
                | Then
        )
    }
}
