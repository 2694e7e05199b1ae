//! What goes to standard error, and with which exit code a command ends.
//!
//! One idea: every way to fail is a [`Failure`], a list of diagnostics with an exit code, and this is the only
//! place that writes one. Diagnostics are plain data of the library; `attnc-host` draws them.
//! Nothing here decides what is wrong.

use std::io::{IsTerminal, Write};

use attnc::{Diagnostic, Diagnostics, Severity, Sources};

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

    /// A file of data cannot be read: the run is refused.
    pub(crate) fn file(diagnostic: Diagnostic) -> Self {
        Failure { exit: exit::RUN, diagnostics: diagnostic.into() }
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
        attnc_host::Drawing { color: self.color }.diagnostic(diagnostic, sources)
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
}
