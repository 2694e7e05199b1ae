//! Diagnostics as plain data: a code, spans, what was expected, what to write instead.
//!
//! Rendering belongs to the edges; nothing here knows of terminals or colours.

/// A file of one compilation, in the order in which the loader met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FileId(pub u32);

/// A byte range of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The smallest span that covers both; the file is that of `self`.
    #[must_use]
    pub fn to(self, other: Span) -> Span {
        Span { file: self.file, start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Compiles; probably not what was meant.
    Warning,
    /// Does not compile.
    Error,
}

/// One place and what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What is there, in lower case and without a full stop; may be empty.
    pub text: String,
}

/// One diagnostic. Codes are stable: `E0101` and so on (`docs/errors.md` lists them).
///
/// `E01xx` text and grammar, `E02xx` names and kinds, `E03xx` sizes and ranges,
/// `E04xx` attentions and models, `E05xx` analysis (empty rows, dead arms: `W05xx` where it warns),
/// `E06xx` plans and targets, `E07xx` inputs of a run (tensors, lengths), `E08xx` files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The stable code.
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// One sentence in lower case, without a full stop.
    pub message: String,
    /// The places; the first is the main one. May be empty (a missing file).
    pub labels: Vec<Label>,
    /// What to write instead, ready to paste where that is possible.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error with one place.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>, label: impl Into<String>) -> Self {
        Diagnostic {
            code,
            severity: Severity::Error,
            message: message.into(),
            labels: vec![Label { span, text: label.into() }],
            help: None,
        }
    }

    /// A warning with one place.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>, label: impl Into<String>) -> Self {
        Diagnostic { severity: Severity::Warning, ..Self::error(code, span, message, label) }
    }

    /// An error that has no place in a source file.
    pub fn global(code: &'static str, message: impl Into<String>) -> Self {
        Diagnostic { code, severity: Severity::Error, message: message.into(), labels: vec![], help: None }
    }

    /// Adds a help text.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds another place.
    #[must_use]
    pub fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }
}

/// What is to be said of a diagnostic code apart from any program: for `attnc explain` and `docs/errors.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeInfo {
    /// `E0101`
    pub code: &'static str,
    /// A phrase in lower case without a full stop.
    pub title: &'static str,
    /// What the rule is and what to do, in full sentences (Markdown).
    pub explain: &'static str,
    /// A source, as small as can be, that gives this code; empty where none is small enough to show.
    pub example: &'static str,
}
