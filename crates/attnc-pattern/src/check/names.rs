//! Which names exist: the tables of modules, words of the language, and the nearest name to a misspelt one.
//!
//! A table says *what kind of thing* a name is, never what it is worth. Nothing here lowers anything.

use std::collections::HashMap;

use attnc_syntax::ast::{File, ItemKind, Name};
use attnc_syntax::diag::{Diagnostic, FileId, Span};

use super::Module;
use crate::expr::SizeId;

/// An item: its module and its place in the module's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ItemRef {
    pub(super) module: usize,
    pub(super) item: usize,
}

/// What a name of a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// An item of this or of an imported module.
    Item(ItemRef),
    /// A size that a space declares by naming it as an extent.
    Size(SizeId),
    /// A segment of the space.
    Segment,
    /// Imported, but the import failed and was reported: nothing more is said of it.
    Broken,
}

/// Names of one module.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    table: HashMap<String, (Named, Span)>,
}

/// Words that are names of the language; an item or argument cannot have them.
pub(super) const WORDS: &[&str] = &[
    "all", "none", "causal", "q", "k", "n_q", "n_k", "head", "heads", "layer", "step", "d", "docs", "score", "slot",
    "branch", "channel", "pow2", "tokens", "min", "max", "abs", "sqrt", "log", "exp", "tanh",
];

/// Patterns of the standard library (`patterns/std.attn`), so that the lack of an import can be told from a typo.
pub const STANDARD: &[&str] = &[
    "band",
    "window",
    "sliding",
    "sinks",
    "recent",
    "globals",
    "dilated",
    "dilated_sliding",
    "streaming",
    "strided",
    "fixed",
    "local_blocks",
    "chunked",
    "causal_blocks",
    "block_band",
    "prefix",
    "causal_docs",
    "power",
];

/// Functions of numbers.
pub(super) const FUNCTIONS: &[&str] = &["min", "max", "abs", "sqrt", "log", "exp", "tanh", "hash", "gray_hash"];

/// Coordinates that every token has.
pub(super) const COORDINATES: &[&str] = &["pos", "doc"];

impl Names {
    /// What a name is, and where it was introduced.
    pub(super) fn get(&self, name: &str) -> Option<(Named, Span)> {
        self.table.get(name).copied()
    }

    /// Adds a name, or says why it cannot be.
    pub(super) fn add(&mut self, name: &Name, named: Named) -> Result<(), Diagnostic> {
        reserved(name)?;
        if let Some(&(_, first)) = self.table.get(&name.text) {
            return Err(Diagnostic::error(
                "E0202",
                name.span,
                format!("the name `{}` is given twice", name.text),
                "given again here",
            )
            .label(first, "first given here")
            .help(format!("choose another name, for example `{}_2`", name.text)));
        }
        self.table.insert(name.text.clone(), (named, name.span));
        Ok(())
    }

    /// All names, sorted.
    pub(super) fn all(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.table.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

/// An error if the name is a word of the language.
pub(super) fn reserved(name: &Name) -> Result<(), Diagnostic> {
    if WORDS.contains(&name.text.as_str()) {
        return Err(Diagnostic::error(
            "E0203",
            name.span,
            format!("`{}` is a word of the language and cannot be declared", name.text),
            "this name is taken",
        )
        .help(format!("choose another name, for example `my_{}`", name.text)));
    }
    Ok(())
}

/// The name an item declares; `None` for imports, spaces and requirements.
pub(super) fn declared(kind: &ItemKind) -> Option<&Name> {
    match kind {
        ItemKind::Size(name)
        | ItemKind::Param { name, .. }
        | ItemKind::Tensor { name, .. }
        | ItemKind::Map { name, .. }
        | ItemKind::Order { name, .. }
        | ItemKind::Pattern { name, .. }
        | ItemKind::Level { name, .. }
        | ItemKind::Score { name, .. }
        | ItemKind::Select { name, .. }
        | ItemKind::Merge { name, .. }
        | ItemKind::Attention { name, .. } => Some(name),
        ItemKind::Model(model) => Some(&model.name),
        ItemKind::Import { .. } | ItemKind::Space(_) | ItemKind::Require(_) => None,
    }
}

/// What an item is, in words.
pub(super) fn noun(kind: &ItemKind) -> &'static str {
    match kind {
        ItemKind::Import { .. } => "an import",
        ItemKind::Size(_) => "a size",
        ItemKind::Param { .. } => "a param",
        ItemKind::Tensor { .. } => "a tensor",
        ItemKind::Map { .. } => "a map",
        ItemKind::Space(_) => "a space",
        ItemKind::Order { .. } => "an order",
        ItemKind::Pattern { .. } => "a pattern",
        ItemKind::Attention { .. } => "an attention",
        ItemKind::Require(_) => "a requirement",
        ItemKind::Model(_) => "a model",
        ItemKind::Level { .. } => "a level",
        ItemKind::Score { .. } => "a score",
        ItemKind::Select { .. } => "a selection",
        ItemKind::Merge { .. } => "a merge",
    }
}

/// The tables of all modules, in their order, and what was wrong with them.
pub(super) fn tables(modules: &[Module]) -> (Vec<Names>, Vec<Diagnostic>) {
    let by_file: HashMap<FileId, usize> = modules.iter().enumerate().map(|(i, m)| (m.file, i)).collect();
    let mut errors = Vec::new();
    let mut tables = Vec::with_capacity(modules.len());
    for (module, unit) in modules.iter().enumerate() {
        let mut names = Names::default();
        let mut imports = unit.imports.iter();
        for (item, node) in unit.ast.items.iter().enumerate() {
            match &node.kind {
                ItemKind::Import { names: wanted, from, .. } => {
                    let source = imports.next().and_then(|file| by_file.get(file)).copied();
                    for name in wanted {
                        let found = source.map(|m| (m, find(&modules[m].ast, &name.text)));
                        let named = match found {
                            Some((module, Some(item))) => Named::Item(ItemRef { module, item }),
                            Some((module, None)) => {
                                errors.push(missing_import(&modules[module].ast, name, from));
                                Named::Broken
                            }
                            None => Named::Broken,
                        };
                        errors.extend(names.add(name, named).err());
                    }
                }
                ItemKind::Space(segments) => {
                    for segment in segments {
                        errors.extend(names.add(&segment.name, Named::Segment).err());
                    }
                }
                kind => {
                    if let Some(name) = declared(kind) {
                        errors.extend(names.add(name, Named::Item(ItemRef { module, item })).err());
                    }
                }
            }
        }
        tables.push(names);
    }
    (tables, errors)
}

/// The item of a file that declares a name.
fn find(file: &File, name: &str) -> Option<usize> {
    file.items.iter().position(|item| declared(&item.kind).is_some_and(|n| n.text == name))
}

fn missing_import(file: &File, name: &Name, from: &str) -> Diagnostic {
    let names: Vec<&str> = file.items.iter().filter_map(|i| declared(&i.kind)).map(|n| n.text.as_str()).collect();
    let error = Diagnostic::error(
        "E0208",
        name.span,
        format!("`{}` is not declared in \"{from}\"", name.text),
        "no such name there",
    );
    match nearest(&name.text, names.iter().copied()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None if names.is_empty() => error.help("that file declares no names"),
        None => error.help(format!("it declares {}", listed(&names))),
    }
}

/// `a`, `b` and `c`; the first eight.
pub(super) fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().take(8).map(|n| format!("`{n}`")).collect();
    let more = if names.len() > 8 { ", .." } else { "" };
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() && more.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => format!("{}{more}", quoted.join(", ")),
    }
}

/// The candidate that a name was most likely meant to be: the fewest edits, at most a third of its length.
pub(super) fn nearest<'n>(name: &str, candidates: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let most = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter(|c| c.len().abs_diff(name.len()) <= most * 4)
        .map(|c| (distance(name, c), c))
        .filter(|&(edits, _)| edits <= most)
        .min()
        .map(|(_, c)| c)
}

/// Edits (insert, delete, replace, exchange neighbours) that turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replace = last[j] + usize::from(a[i] != b[j]);
            let mut edits = replace.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                edits = edits.min(before[j - 1] + 1);
            }
            row.push(edits);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_a_few_edits_away() {
        let names = ["window", "sinks", "streaming", "q"];
        assert_eq!(nearest("windwo", names), Some("window"));
        assert_eq!(nearest("sink", names), Some("sinks"));
        assert_eq!(nearest("streeming", names), Some("streaming"));
        assert_eq!(nearest("band", names), None);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abcd", "abdc"), 1);
    }
}
