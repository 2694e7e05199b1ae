//! Diagnostics as text for people and as JSON for programs.
//!
//! One idea: a diagnostic is plain data of the library, and every host draws it alike: miette draws labels below the
//! lines that they are about. Nothing here decides what is wrong or where it is written.

use std::borrow::Cow;
use std::fmt;

use attnc::{Diagnostic, Diagnostics, Label, Severity, Source, Sources, Span};
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode, SourceSpan};
use serde_json::{Value, json};

/// Longest line, in bytes, that is drawn with its label below.
const LONGEST: usize = 1000;

/// How diagnostics are drawn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drawing {
    /// With colours of a terminal.
    pub color: bool,
}

impl Drawing {
    /// One diagnostic as text.
    #[must_use]
    pub fn diagnostic(self, diagnostic: &Diagnostic, sources: &Sources) -> String {
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

    /// All of them, one after another.
    #[must_use]
    pub fn all(self, said: &Diagnostics) -> String {
        said.list.iter().map(|d| self.diagnostic(d, &said.sources)).collect()
    }
}

/// Diagnostics as JSON, of schema `attnc.diagnostics/1`: a list with code, severity, message, help, and places by file,
/// line and column (from 1, in characters) and by bytes (from 0).
#[must_use]
pub fn json(said: &Diagnostics) -> Value {
    let label = |label: &Label| {
        let source = said.sources.get(label.span.file);
        let (line, column) = source.and_then(|s| place(s, label.span)).unwrap_or((0, 0));
        json!({
            "file": source.map(|s| s.name.as_str()),
            "line": line,
            "column": column,
            "start": label.span.start,
            "end": label.span.end,
            "text": label.text,
        })
    };
    let list = said.list.iter().map(|d| {
        json!({
            "code": d.code,
            "severity": if d.severity == Severity::Error { "error" } else { "warning" },
            "message": d.message,
            "help": d.help,
            "labels": d.labels.iter().map(label).collect::<Vec<_>>(),
        })
    });
    json!({ "schema": "attnc.diagnostics/1", "diagnostics": list.collect::<Vec<_>>() })
}

/// Line and column of the beginning of a span, from 1.
fn place(source: &Source, span: Span) -> Option<(usize, usize)> {
    let before = source.text.get(..span.start as usize)?;
    let begins = before.rfind('\n').map_or(0, |at| at + 1);
    Some((before.matches('\n').count() + 1, before[begins..].chars().count() + 1))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Diagnostics {
        attnc::Compiler::default().source(text).expect_err("refused")
    }

    #[test]
    fn a_line_that_no_screen_holds_is_named() {
        let drawn = |text: &str| Drawing::default().all(&said(text));
        assert!(drawn("pattern p = windw\n").contains("pattern p = windw"));
        let long = drawn(&format!("\npattern p = windw | {}\n", "causal | ".repeat(200) + "all"));
        assert!(long.contains("source:2:13") && long.len() < 500, "{long}");
    }

    #[test]
    fn places_are_counted_in_characters() {
        let json = json(&said("// é\npattern p = /* é */ windw\n".replace("/* é */ ", "").as_str()));
        let label = &json["diagnostics"][0]["labels"][0];
        assert_eq!((&label["line"], &label["column"], &label["file"]), (&2.into(), &13.into(), &"source".into()));
        assert_eq!(json["diagnostics"][0]["code"], "E0201");
    }
}
