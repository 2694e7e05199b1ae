//! Sources that are compiled more than once: read once, and with parts replaced.
//!
//! One idea: what a change of a program does is found by compiling its text with that part replaced; files stay as they
//! are. Nothing here knows what the text means.

use std::sync::{Mutex, PoisonError};

use attnc::{LoadError, Loader, Span};

use crate::files::Disk;

/// What a loader answers: a canonical name and bytes, or why not.
type Loaded = Result<(String, Vec<u8>), LoadError>;

/// Reads each file once, so that compile times hold no time of a disk.
#[derive(Default)]
pub(crate) struct Remembering(Mutex<Vec<(Option<String>, String, Loaded)>>);

impl Loader for Remembering {
    fn load(&self, from: Option<&str>, path: &str) -> Loaded {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((.., loaded)) = known.iter().find(|(f, p, _)| (f.as_deref(), p.as_str()) == (from, path)) {
            return loaded.clone();
        }
        let loaded = Disk.load(from, path);
        known.push((from.map(str::to_owned), path.to_owned(), loaded.clone()));
        loaded
    }
}

/// A part of the named file, replaced.
pub(crate) struct Edit {
    bytes: std::ops::Range<usize>,
    text: String,
}

impl Edit {
    pub(crate) fn of((span, text): &(Span, String)) -> Edit {
        Edit { bytes: span.start as usize..span.end as usize, text: text.clone() }
    }
}

/// Files with parts of the first one changed.
pub(crate) struct Edited<'a> {
    pub(crate) disk: &'a Remembering,
    pub(crate) edits: &'a [Edit],
}

impl Loader for Edited<'_> {
    fn load(&self, from: Option<&str>, path: &str) -> Loaded {
        let (name, mut bytes) = self.disk.load(from, path)?;
        if from.is_none() {
            let mut edits: Vec<&Edit> = self.edits.iter().collect();
            // From the end, so that those before stay where they are.
            edits.sort_by_key(|edit| std::cmp::Reverse(edit.bytes.start));
            for edit in edits {
                if bytes.get(edit.bytes.clone()).is_some() {
                    bytes.splice(edit.bytes.clone(), edit.text.bytes());
                }
            }
        }
        Ok((name, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_replaced_from_the_end() {
        let disk = Remembering::default();
        let text = b"k in 0 .. 100".to_vec();
        let known = (None, "a".to_owned(), Ok(("a".to_owned(), text)));
        disk.0.lock().unwrap_or_else(PoisonError::into_inner).push(known);
        let edit = |bytes, text: &str| Edit { bytes, text: text.to_owned() };
        let load = |edits: &[Edit]| {
            let loaded = Edited { disk: &disk, edits }.load(None, "a");
            String::from_utf8(loaded.expect("is known").1).expect("is text")
        };
        assert_eq!(load(&[edit(5..6, "-30"), edit(10..13, "64")]), "k in -30 .. 64");
        assert_eq!(load(&[]), "k in 0 .. 100");
        assert_eq!(load(&[edit(90..91, "1")]), "k in 0 .. 100");
    }
}
