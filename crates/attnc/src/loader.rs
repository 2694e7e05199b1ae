//! Files of a compilation: the loader trait, the import graph, and the texts that spans point into.
//!
//! One idea: the compiler asks for files by the paths that stand in imports and knows them by the canonical
//! names that the loader answers with, so that a file reached by two ways is one module. The standard
//! library, `"std"`, is built in. Nothing here opens a file or knows what an item means.

use std::collections::HashMap;
use std::sync::Arc;

use attnc_pattern::check::Module as Unit;
use attnc_syntax::ast::ItemKind;
use attnc_syntax::diag::{CodeInfo, Diagnostic, FileId, Severity, Span};
use attnc_syntax::parse;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::compiler::Diagnostics;

/// The standard library, written in the language; `import .. from "std"`.
pub const STD: &str = include_str!("../../../patterns/std.attn");

/// Most bytes of a source file: a loader may refuse a larger one before it reads it.
pub const MAX_SOURCE: u64 = attnc_syntax::MAX_SOURCE as u64;

/// Most files of one compilation.
pub const MAX_FILES: usize = 1024;

/// Where source files come from.
pub trait Loader {
    /// The file that `path` names, seen from the file `from` (a canonical name; `None` for the file to compile):
    /// its canonical name, the same by whichever path it is reached, and its bytes.
    ///
    /// # Errors
    /// Why there is none.
    fn load(&self, from: Option<&str>, path: &str) -> Result<(String, Vec<u8>), LoadError>;
}

/// Why a file could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// There is no such file.
    NotFound,
    /// It is a directory.
    Directory,
    /// It is larger than [`MAX_SOURCE`].
    TooLarge {
        /// Its size in bytes.
        bytes: u64,
    },
    /// Anything else, in a sentence.
    Other(String),
}

impl LoadError {
    /// As a diagnostic (`E0801` to `E0804`); `span` is the import, `None` for the file to compile.
    #[must_use]
    pub fn diagnostic(&self, path: &str, span: Option<Span>) -> Diagnostic {
        let (code, message, help) = match self {
            LoadError::NotFound => ("E0801", format!("the file `{path}` does not exist"), "check the path"),
            LoadError::Directory => {
                ("E0802", format!("`{path}` is a directory, not a file"), "name a file in it, such as `window.attn`")
            }
            LoadError::TooLarge { bytes } => (
                "E0803",
                format!("`{path}` holds {bytes} bytes, and a source file at most {MAX_SOURCE}"),
                "a large set belongs in a tensor: `map NAME : csr`",
            ),
            LoadError::Other(why) => {
                ("E0804", format!("`{path}` cannot be read: {why}"), "check the file and its permissions")
            }
        };
        let diagnostic = match span {
            Some(span) => Diagnostic::error(code, span, message, "imported here"),
            None => Diagnostic::global(code, message),
        };
        diagnostic.help(help)
    }
}

/// Files by name, held in memory: for programs that carry their patterns with them, and for tests.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    files: HashMap<String, String>,
}

impl Memory {
    /// No files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One file.
    pub fn file(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new().with(name, text)
    }

    /// With one file more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.files.insert(name.into(), text.into());
        self
    }
}

impl Loader for Memory {
    fn load(&self, _from: Option<&str>, path: &str) -> Result<(String, Vec<u8>), LoadError> {
        let text = self.files.get(path).ok_or(LoadError::NotFound)?;
        Ok((path.to_owned(), text.clone().into_bytes()))
    }
}

/// A source file as it was loaded.
#[derive(Clone, Debug)]
pub struct Source {
    /// Canonical name; `std` for the standard library.
    pub name: String,
    /// Its text.
    pub text: Arc<str>,
}

/// The files of a compilation, by [`FileId`].
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
}

impl Sources {
    /// The file, if it was loaded.
    #[must_use]
    pub fn get(&self, file: FileId) -> Option<&Source> {
        self.files.get(file.0 as usize)
    }

    /// All files; the first is the one to compile.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.files.iter()
    }

    pub(crate) fn add(&mut self, name: String, text: &str) -> FileId {
        self.files.push(Source { name, text: text.into() });
        FileId(u32::try_from(self.files.len() - 1).expect("at most MAX_FILES files"))
    }
}

/// Parsed files, imported ones before those that import them.
pub(crate) struct Loaded {
    pub(crate) units: Vec<Unit>,
    pub(crate) sources: Sources,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Stands for a file that could not be loaded; an error was reported.
const MISSING: FileId = FileId(u32::MAX);

/// Loads `path` and everything it imports.
pub(crate) fn load(loader: &dyn Loader, path: &str) -> Loaded {
    let mut graph = Graph {
        loader,
        sources: Sources::default(),
        known: HashMap::new(),
        units: Vec::new(),
        edges: Vec::new(),
        diagnostics: Vec::new(),
    };
    graph.file(None, path, None);
    // A queue, not recursion: a chain of a thousand imports is no deeper than one.
    let mut next = 0;
    while next < graph.units.len() {
        graph.imports_of(next);
        next += 1;
    }
    graph.finish()
}

struct Graph<'a> {
    loader: &'a dyn Loader,
    sources: Sources,
    known: HashMap<String, FileId>,
    /// By file id.
    units: Vec<Unit>,
    /// (importing file, imported file, the path in the import).
    edges: Vec<(FileId, FileId, Span)>,
    diagnostics: Vec<Diagnostic>,
}

impl Graph<'_> {
    /// The file that `path` names, loaded and parsed if it is new.
    fn file(&mut self, from: Option<&str>, path: &str, span: Option<Span>) -> FileId {
        let found = if path == "std" && from.is_some() {
            Ok(("std".to_owned(), STD.as_bytes().to_vec()))
        } else {
            self.loader.load(from, path)
        };
        let (name, bytes) = match found {
            Ok(found) => found,
            Err(error) => return self.refuse(error.diagnostic(path, span)),
        };
        if let Some(&id) = self.known.get(&name) {
            return id;
        }
        if self.units.len() == MAX_FILES {
            let message = format!("more than {MAX_FILES} files are imported");
            return self.refuse(located("E0806", span, message, "one too many").help("join some of the files"));
        }
        let text = match text(bytes, path, span) {
            Ok(text) => text,
            Err(diagnostic) => return self.refuse(diagnostic),
        };
        let id = self.sources.add(name.clone(), &text);
        self.known.insert(name, id);
        let parsed = parse(&text, id);
        self.diagnostics.extend(parsed.diagnostics);
        self.units.push(Unit { file: id, ast: parsed.file, imports: Vec::new() });
        id
    }

    fn refuse(&mut self, diagnostic: Diagnostic) -> FileId {
        self.diagnostics.push(diagnostic);
        MISSING
    }

    fn imports_of(&mut self, unit: usize) {
        let imports: Vec<(String, Span)> = self.units[unit]
            .ast
            .items
            .iter()
            .filter_map(|item| match &item.kind {
                ItemKind::Import { from, from_span, .. } => Some((from.clone(), *from_span)),
                _ => None,
            })
            .collect();
        let file = self.units[unit].file;
        let name = self.sources.files[file.0 as usize].name.clone();
        for (path, span) in imports {
            let imported = self.file(Some(&name), &path, Some(span));
            self.units[unit].imports.push(imported);
            if imported != MISSING {
                self.edges.push((file, imported, span));
            }
        }
    }

    fn finish(mut self) -> Loaded {
        let mut graph: DiGraph<FileId, Span> = DiGraph::new();
        let nodes: Vec<NodeIndex> = self.units.iter().map(|unit| graph.add_node(unit.file)).collect();
        for &(from, to, span) in &self.edges {
            graph.add_edge(nodes[from.0 as usize], nodes[to.0 as usize], span);
        }
        // Components come in reverse topological order: imported files first.
        let mut order = Vec::with_capacity(self.units.len());
        for component in tarjan_scc(&graph) {
            if component.len() > 1 || graph.contains_edge(component[0], component[0]) {
                self.diagnostics.push(self.cycle(&graph, &component));
            }
            order.extend(component.into_iter().map(|node| graph[node].0 as usize));
        }
        let mut units: Vec<Option<Unit>> = self.units.into_iter().map(Some).collect();
        let units = order.into_iter().filter_map(|i| units[i].take()).collect();
        Loaded { units, sources: self.sources, diagnostics: self.diagnostics }
    }

    /// The error for files that import each other: walks the component until a file comes again.
    fn cycle(&self, graph: &DiGraph<FileId, Span>, component: &[NodeIndex]) -> Diagnostic {
        // Begin with the file met first, so that the message does not depend on the order of the graph.
        let start = component.iter().copied().min_by_key(|&n| graph[n].0).unwrap_or(component[0]);
        let (mut path, mut spans) = (vec![start], Vec::new());
        loop {
            let last = path[path.len() - 1];
            let mut edges: Vec<_> = self.edges.iter().filter(|e| e.0 == graph[last]).collect();
            edges.retain(|e| component.iter().any(|&n| graph[n] == e.1));
            // In a component every file imports one of the component.
            let Some(&&(_, to, span)) = edges.first() else { break };
            spans.push(span);
            let Some(&next) = component.iter().find(|&&n| graph[n] == to) else { break };
            if let Some(at) = path.iter().position(|&n| n == next) {
                path.drain(..at);
                spans.drain(..at);
                path.push(next);
                break;
            }
            path.push(next);
        }
        let name = |n: NodeIndex| format!("`{}`", self.sources.files[graph[n].0 as usize].name);
        let names: Vec<String> = path.iter().map(|&n| name(n)).collect();
        let message = format!("files import each other: {}", names.join(" -> "));
        let mut diagnostic = located("E0805", spans.first().copied(), message, "this import begins the cycle");
        for &span in spans.iter().skip(1) {
            diagnostic = diagnostic.label(span, "and this one goes on");
        }
        diagnostic.help("move what both need into a third file")
    }
}

/// The bytes of a source file as text.
fn text(bytes: Vec<u8>, path: &str, span: Option<Span>) -> Result<String, Diagnostic> {
    if bytes.len() as u64 > MAX_SOURCE {
        return Err(LoadError::TooLarge { bytes: bytes.len() as u64 }.diagnostic(path, span));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("`{path}` is not UTF-8 text: byte {at} begins no character");
        let help = "save it as UTF-8, or check that it is a source file";
        located("E0807", span, message, "imported here").help(help)
    })
}

/// A file and its one layout.
#[derive(Clone, Debug)]
pub struct Formatted {
    /// The text as it was.
    pub before: String,
    /// The text in the one layout.
    pub after: String,
}

/// Lays out the file that `path` names. What it imports is not looked at.
///
/// # Errors
/// A file that cannot be loaded or does not parse.
pub fn format(loader: &dyn Loader, path: &str) -> Result<Formatted, Diagnostics> {
    let loaded = loader.load(None, path).map_err(|e| e.diagnostic(path, None))?;
    let (name, bytes) = loaded;
    let before = text(bytes, path, None)?;
    match attnc_syntax::format(&before) {
        Ok(after) => Ok(Formatted { before, after }),
        Err(list) => {
            let mut sources = Sources::default();
            sources.add(name, &before);
            Err(Diagnostics { list, sources })
        }
    }
}

fn located(code: &'static str, span: Option<Span>, message: String, label: &str) -> Diagnostic {
    match span {
        Some(span) => Diagnostic::error(code, span, message, label),
        None => Diagnostic::global(code, message),
    }
}

/// Whether any of these is an error.
pub(crate) fn any_error(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}

/// Diagnostics of files.
pub(crate) const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: "E0801",
        title: "a file does not exist",
        explain: "A path on the command line is seen from the working directory, a path in an import from the \
                  directory of the file that imports. `\"std\"` is built in.",
        example: "import band from \"no_such_file.attn\"\n\npattern p = causal\n",
    },
    CodeInfo {
        code: "E0802",
        title: "a directory stands where a file should",
        explain: "Commands take files. A shell expands `patterns/*.attn` to all files of a directory.",
        example: "",
    },
    CodeInfo {
        code: "E0803",
        title: "a source file is too large",
        explain: "A source file holds at most 1 MiB. A set of that many ranges is data: write `map NAME : blocks 64` \
                  or `map NAME : csr` and give it when run.",
        example: "",
    },
    CodeInfo {
        code: "E0804",
        title: "a file cannot be read",
        explain: "The system refused; the message holds its reason.",
        example: "",
    },
    CodeInfo {
        code: "E0805",
        title: "files import each other",
        explain: "Imports form no cycle: what a name means is settled before it is used. Move what both files need \
                  into a third one.",
        example: "",
    },
    CodeInfo {
        code: "E0806",
        title: "too many files are imported",
        explain: "One compilation reads at most 1024 files.",
        example: "",
    },
    CodeInfo {
        code: "E0807",
        title: "a source file is not UTF-8",
        explain: "Source files are UTF-8 text. The message names the first byte that is not.",
        example: "",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(loaded: &Loaded) -> Vec<&str> {
        loaded.diagnostics.iter().map(|d| d.code).collect()
    }

    #[test]
    fn imported_files_come_first_and_once() {
        let files = Memory::new()
            .with("a", "import x from \"b\"\nimport y from \"c\"\npattern p = x | y\n")
            .with("b", "import y from \"c\"\npattern x = y\n")
            .with("c", "pattern y = causal\n");
        let loaded = load(&files, "a");
        assert!(loaded.diagnostics.is_empty(), "{:?}", loaded.diagnostics);
        let names: Vec<_> =
            loaded.units.iter().map(|u| loaded.sources.get(u.file).map(|s| s.name.as_str()).unwrap_or("")).collect();
        assert_eq!(names, ["c", "b", "a"]);
        assert_eq!(loaded.units[2].imports, [FileId(1), FileId(2)]);
    }

    #[test]
    fn a_cycle_is_named_whole() {
        let files = Memory::new()
            .with("main", "import x from \"a\"\npattern p = x\n")
            .with("a", "import y from \"b\"\npattern x = y\n")
            .with("b", "import x from \"a\"\npattern y = x\n");
        let loaded = load(&files, "main");
        assert_eq!(codes(&loaded), ["E0805"]);
        assert_eq!(loaded.diagnostics[0].message, "files import each other: `a` -> `b` -> `a`");
        let itself = load(&Memory::file("a", "import x from \"a\"\npattern x = causal\n"), "a");
        assert_eq!(itself.diagnostics[0].message, "files import each other: `a` -> `a`");
    }

    #[test]
    fn files_that_are_not_text_are_refused() {
        struct Bytes;
        impl Loader for Bytes {
            fn load(&self, _: Option<&str>, path: &str) -> Result<(String, Vec<u8>), LoadError> {
                Ok((path.to_owned(), b"pattern p = \xff".to_vec()))
            }
        }
        let loaded = load(&Bytes, "a");
        assert_eq!(codes(&loaded), ["E0807"]);
        assert!(loaded.diagnostics[0].message.contains("byte 12"));
    }

    #[test]
    fn a_missing_import_is_reported_at_the_import() {
        let loaded = load(&Memory::file("a", "import x from \"nowhere\"\npattern p = causal\n"), "a");
        assert_eq!(codes(&loaded), ["E0801"]);
        assert_eq!(loaded.diagnostics[0].labels[0].span.start, 14);
        assert_eq!(loaded.units[0].imports, [MISSING]);
        assert_eq!(codes(&load(&Memory::new(), "a")), ["E0801"]);
    }
}
