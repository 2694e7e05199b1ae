//! What goes to standard error, and with which exit code a command ends.
//!
//! One idea: every way to fail is a [`Failure`], a list of diagnostics with an exit code, and this is the only
//! place that turns one into text. Diagnostics are plain data of the library; miette draws them.
//! Nothing here decides what is wrong.

use std::borrow::Cow;
use std::fmt;
use std::io::{IsTerminal, Write};

use attnc::{Diagnostic, Diagnostics, Label, Severity, Source, Sources, Span};
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode, SourceSpan};

use crate::args::Color;

/// Exit codes.
pub(crate) mod exit {
    /// Diagnostics, or results that do not agree.
    pub(crate) const DIAGNOSTICS: u8 = 1;
    /// The command line itself is wrong.
    pub(crate) const USAGE: u8 = 2;
    /// This machine lacks the target.
    pub(crate) const TARGET: u8 = 3;
    /// A run was refused or failed.
    pub(crate) const RUN: u8 = 4;
    /// A result is slower than it may be.
    pub(crate) const SLOWER: u8 = 5;
    /// A mistake of this program.
    pub(crate) const INTERNAL: u8 = 101;
}

/// Most diagnostics that one command prints.
const MOST: usize = 200;

/// Longest line, in bytes, that is drawn with its label below.
const LONGEST: usize = 1000;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    pub(crate) diagnostics: Diagnostics,
}

/// What a command returns; the number is the exit code of one that ran to its end.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// Ends with this code and says nothing more.
    pub(crate) fn silent(exit: u8) -> Self {
        Failure { exit, diagnostics: Diagnostics::default() }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>, help: impl Into<String>) -> Self {
        Failure { exit: exit::USAGE, diagnostics: Diagnostic::global("usage", message).help(help).into() }
    }

    /// A run failed for a reason that has no place in a source file.
    pub(crate) fn run(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Failure { exit: exit::RUN, diagnostics: Diagnostic::global(code, message).help(help).into() }
    }

    /// A file cannot be read or written.
    pub(crate) fn file(diagnostic: Diagnostic) -> Self {
        Failure { exit: exit::DIAGNOSTICS, diagnostics: diagnostic.into() }
    }
}

/// The exit code follows from the first error.
impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Self {
        let first = diagnostics.list.iter().find(|d| d.severity == Severity::Error);
        let exit = match first.map_or("", |d| d.code) {
            attnc::NO_TARGET => exit::TARGET,
            attnc::UNKNOWN_PARAM | attnc::BAD_SETTING | attnc::UNKNOWN_SIZE | attnc::UNKNOWN_NAME => exit::USAGE,
            attnc::BROKEN_PLAN => exit::INTERNAL,
            "E0621" | "E0622" => exit::RUN,
            code if code.starts_with("E07") => exit::RUN,
            _ => exit::DIAGNOSTICS,
        };
        Failure { exit, diagnostics }
    }
}

/// Draws diagnostics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reporter {
    color: bool,
}

impl Reporter {
    /// Decides about colours once.
    pub(crate) fn new(color: Color) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !no_color && !dumb && std::io::stderr().is_terminal(),
        };
        Reporter { color }
    }

    /// Writes diagnostics to standard error; one that cannot be written is lost.
    pub(crate) fn print(self, diagnostics: &Diagnostics) {
        let mut text = String::new();
        for diagnostic in diagnostics.list.iter().take(MOST) {
            text.push_str(&self.render(diagnostic, &diagnostics.sources));
        }
        if diagnostics.list.len() > MOST {
            text.push_str(&format!("and {} more\n", diagnostics.list.len() - MOST));
        }
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// One diagnostic as text.
    pub(crate) fn render(self, diagnostic: &Diagnostic, sources: &Sources) -> String {
        let theme = if self.color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(100)
            .with_links(false)
            .with_break_words(false)
            .without_syntax_highlighting();
        let mut text = String::new();
        if handler.render_report(&mut text, &Drawn::new(diagnostic, sources)).is_err() {
            text = format!("{}: {}\n", diagnostic.code, diagnostic.message);
        }
        text.push('\n');
        text
    }
}

/// A diagnostic as miette sees it: labels of the first file, and one related note for each other file.
#[derive(Debug)]
struct Drawn<'a> {
    code: Option<&'a str>,
    message: Cow<'a, str>,
    severity: Severity,
    help: Option<&'a str>,
    source: Option<NamedSource<String>>,
    labels: Vec<&'a Label>,
    elsewhere: Vec<Drawn<'a>>,
}

impl<'a> Drawn<'a> {
    fn new(diagnostic: &'a Diagnostic, sources: &Sources) -> Self {
        let mut message = Cow::Borrowed(diagnostic.message.as_str());
        let named = |label: &Label| sources.get(label.span.file).map(|s| NamedSource::new(&s.name, s.text.to_string()));
        let mut files: Vec<(u32, Vec<&'a Label>)> = Vec::new();
        for label in &diagnostic.labels {
            let file = label.span.file.0;
            match files.iter_mut().find(|(f, _)| *f == file) {
                Some((_, labels)) => labels.push(label),
                None => files.push((file, vec![label])),
            }
        }
        let mut files = files.into_iter().map(|(_, labels)| (named(labels[0]), labels));
        let (mut source, labels) = files.next().unwrap_or_default();
        // A line that no screen holds is named, not drawn.
        if let Some(label) = labels.first()
            && let Some(place) = sources.get(label.span.file).and_then(|s| far_out(s, label.span))
        {
            message.to_mut().push_str(&format!(", at {place}"));
            source = None;
        }
        let elsewhere = files.map(|(source, labels)| Drawn {
            code: None,
            message: Cow::Borrowed("see also"),
            severity: diagnostic.severity,
            help: None,
            source,
            labels,
            elsewhere: Vec::new(),
        });
        Drawn {
            code: Some(diagnostic.code),
            message,
            severity: diagnostic.severity,
            help: diagnostic.help.as_deref(),
            elsewhere: elsewhere.collect(),
            source,
            labels,
        }
    }
}

/// `file:line:column` of a span that begins or ends in a line that is too long to be drawn.
fn far_out(source: &Source, span: Span) -> Option<String> {
    let text: &str = &source.text;
    let (before, rest) = text.split_at_checked(span.start as usize)?;
    let end = (span.end as usize).saturating_sub(span.start as usize);
    let begins = before.rfind('\n').map_or(0, |at| at + 1);
    let ends = rest.get(end..)?.find('\n').map_or(rest.len(), |at| end + at);
    let longest = text[begins..before.len() + ends].lines().map(str::len).max().unwrap_or(0);
    let (line, column) = (before.matches('\n').count() + 1, before[begins..].chars().count() + 1);
    (longest > LONGEST).then(|| format!("{}:{line}:{column}", source.name))
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Drawn<'_> {}

impl miette::Diagnostic for Drawn<'_> {
    fn code<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.code.map(|code| Box::new(code) as Box<dyn fmt::Display>)
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.help.map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|s| s as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.source.as_ref()?;
        Some(Box::new(self.labels.iter().map(|label| {
            let (start, end) = (label.span.start as usize, label.span.end as usize);
            let span = SourceSpan::from((start, end.saturating_sub(start)));
            LabeledSpan::new_with_span((!label.text.is_empty()).then(|| label.text.clone()), span)
        })))
    }

    fn related<'b>(&'b self) -> Option<Box<dyn Iterator<Item = &'b dyn miette::Diagnostic> + 'b>> {
        if self.elsewhere.is_empty() {
            return None;
        }
        Some(Box::new(self.elsewhere.iter().map(|d| d as &dyn miette::Diagnostic)))
    }
}

/// Makes a panic say what to report, and nothing of threads and backtraces.
pub(crate) fn hook_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, |l| format!(" at {}:{}", l.file(), l.line()));
        let message = info.payload_as_str().unwrap_or("no message");
        let text = format!(
            "attnc {}: internal error{place}: {message}\n\
             This is a mistake of attnc, not of your input. Please report it with this message, the command and the \
             files it read.\n",
            env!("CARGO_PKG_VERSION")
        );
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_first_error() {
        let of = |codes: &[&'static str]| {
            let list = codes.iter().map(|code| Diagnostic::global(code, "said")).collect();
            Failure::from(Diagnostics { list, ..Diagnostics::default() }).exit
        };
        assert_eq!(of(&["E0201", "E0610"]), exit::DIAGNOSTICS);
        assert_eq!(of(&[attnc::UNKNOWN_PARAM]), exit::USAGE);
        assert_eq!(of(&[attnc::UNKNOWN_SIZE]), exit::USAGE);
        assert_eq!(of(&[attnc::NO_TARGET]), exit::TARGET);
        assert_eq!(of(&["E0711"]), exit::RUN);
        assert_eq!(of(&[attnc::BROKEN_PLAN]), exit::INTERNAL);
        assert_eq!((exit::DIAGNOSTICS, exit::USAGE, exit::TARGET, exit::RUN, exit::INTERNAL), (1, 2, 3, 4, 101));
    }

    #[test]
    fn a_line_that_no_screen_holds_is_named() {
        let reporter = Reporter { color: false };
        let drawn = |text: &str| {
            let said = attnc::Compiler::default().source(text).expect_err("refused");
            reporter.render(&said.list[0], &said.sources)
        };
        assert!(drawn("pattern p = windw\n").contains("pattern p = windw"));
        let long = drawn(&format!("\npattern p = windw | {}\n", "causal | ".repeat(200) + "all"));
        assert!(long.contains("source:2:13") && long.len() < 500, "{long}");
    }
}
