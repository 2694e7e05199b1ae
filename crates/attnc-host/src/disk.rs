//! Source files of the file system: the loader that hosts share, and files that are whole or absent.
//!
//! One idea: a file is named by the shortest path that a person can read again, and made canonical only to see that two
//! paths are one file. Nothing here knows what the bytes mean.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use attnc::{LoadError, Loader, MAX_SOURCE};

/// Loads source files from disk. Imports are relative to the file that imports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Loader for Disk {
    fn load(&self, from: Option<&str>, path: &str) -> Result<(String, Vec<u8>), LoadError> {
        let place = match from {
            Some(from) => Path::new(from).parent().unwrap_or(Path::new("")).join(path),
            None => PathBuf::from(path),
        };
        let bytes = read_at_most(&place, MAX_SOURCE)?;
        let name = match from {
            None => path.to_owned(),
            Some(_) => place.to_string_lossy().into_owned(),
        };
        Ok((fs::canonicalize(&place).map_or(name, |p| shortest(&p)), bytes))
    }
}

/// A canonical path, as seen from the working directory where it lies below it.
fn shortest(path: &Path) -> String {
    let below = std::env::current_dir().and_then(fs::canonicalize).ok();
    let short = below.as_deref().and_then(|dir| path.strip_prefix(dir).ok()).unwrap_or(path);
    short.to_string_lossy().into_owned()
}

/// The bytes of a regular file of at most `most` bytes; its size is looked at before it is read.
///
/// # Errors
/// Why it cannot be read.
pub fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>, LoadError> {
    let of = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => LoadError::NotFound,
        io::ErrorKind::IsADirectory => LoadError::Directory,
        _ => LoadError::Other(reason(&e)),
    };
    let meta = fs::metadata(path).map_err(of)?;
    if meta.is_dir() {
        return Err(LoadError::Directory);
    }
    if meta.len() > most {
        return Err(LoadError::TooLarge { bytes: meta.len() });
    }
    // A pipe or a file that grows has no size to trust: one byte too many is read to see that.
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    File::open(path).map_err(of)?.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(of)?;
    if bytes.len() as u64 > most { Err(LoadError::TooLarge { bytes: bytes.len() as u64 }) } else { Ok(bytes) }
}

/// The system's reason, without its number.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// Writes a file under a name of this process's own beside its place and renames it, so that no reader ever sees half
/// of it, whoever else writes the same file.
///
/// # Errors
/// What the system says; nothing is left behind then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_beside(path, bytes, true)
}

/// As [`write_whole`]; whether the bytes are on the disk before the name is, and so outlive a crash of the machine, is for
/// the caller to say.
pub(crate) fn write_beside(path: &Path, bytes: &[u8], lasting: bool) -> io::Result<()> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    // Another machine that shares the directory may have a process of this number.
    let (mut file, temporary) = loop {
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.{}.tmp", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        let temporary = path.with_file_name(hidden);
        match File::create_new(&temporary) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            created => break (created?, temporary),
        }
    };
    let written = file.write_all(bytes).and_then(|()| if lasting { file.sync_all() } else { Ok(()) });
    let done = written.and_then(|()| fs::rename(&temporary, path));
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done
}

/// `FILE` or `FILE:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The file.
    pub path: String,
    /// The pattern, attention or model in it.
    pub name: Option<String>,
}

impl Subject {
    /// Splits at the last colon when a name follows it, so that `C:/a.attn` and `dir:x/a.attn` stay paths.
    #[must_use]
    pub fn parse(text: &str) -> Subject {
        if let Some((path, name)) = text.rsplit_once(':') {
            let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if is_name && !path.is_empty() {
                return Subject { path: path.to_owned(), name: Some(name.to_owned()) };
            }
        }
        Subject { path: text.to_owned(), name: None }
    }

    /// The file's name without directories and extension: what the use of the same name is the default of.
    #[must_use]
    pub fn stem(&self) -> String {
        Path::new(&self.path).file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("attnc-disk-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory for the test");
        dir
    }

    #[test]
    fn sizes_are_looked_at_first() {
        let dir = scratch("large");
        let path = dir.join("large");
        let file = File::create(&path).expect("creates");
        file.set_len(1 << 40).expect("a sparse file");
        assert_eq!(read_at_most(&path, 100), Err(LoadError::TooLarge { bytes: 1 << 40 }));
        assert_eq!(read_at_most(&dir, 100), Err(LoadError::Directory));
        assert_eq!(read_at_most(&dir.join("none"), 100), Err(LoadError::NotFound));
        fs::remove_dir_all(dir).expect("cleans up");
    }

    #[test]
    fn nothing_is_left_of_a_write_that_fails() {
        let dir = scratch("whole");
        let path = dir.join("taken");
        fs::create_dir_all(path.join("below")).expect("a directory in the way");
        assert!(write_whole(&path, b"whole").is_err());
        assert_eq!(fs::read_dir(&dir).expect("lists").count(), 1);
        write_whole(&dir.join("free"), b"whole").expect("writes");
        assert_eq!(fs::read(dir.join("free")).expect("reads"), b"whole");
        fs::remove_dir_all(dir).expect("cleans up");
    }

    #[test]
    fn readers_see_whole_files_while_many_write() {
        let dir = scratch("many");
        let path = dir.join("file");
        write_whole(&path, &[0; 40_000]).expect("writes");
        std::thread::scope(|scope| {
            for writer in 0..8_u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..10 {
                        write_whole(path, &vec![writer; 30_000 + 1_000 * usize::from(writer)]).expect("writes");
                        let seen = fs::read(path).expect("reads");
                        assert!(seen.len() >= 30_000 && seen.iter().all(|&b| b == seen[0]), "a torn file");
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(&dir).expect("lists").count(), 1);
        fs::remove_dir_all(dir).expect("cleans up");
    }

    #[test]
    fn names_follow_the_last_colon() {
        let of = |text: &str| {
            let Subject { path, name } = Subject::parse(text);
            (path, name.unwrap_or_default())
        };
        assert_eq!(of("a/b.attn:far"), ("a/b.attn".into(), "far".into()));
        assert_eq!(of("C:/a.attn"), ("C:/a.attn".into(), String::new()));
        assert_eq!(of(":x"), (":x".into(), String::new()));
        assert_eq!(Subject::parse("a/sparse-x.attn:far").stem(), "sparse-x");
    }
}
