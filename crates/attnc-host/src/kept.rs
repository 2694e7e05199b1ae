//! Compiled kernels on disk: a directory that processes share.
//!
//! One idea: a file is written beside its place and renamed, so that no reader sees half of it, and nobody waits for
//! anybody to read or to write. Only who removes files that others may count on keeps the rest out, by a lock. A file
//! that is lost costs a compilation, so nothing is forced to the disk. Nothing here knows what is in a kernel.

#![allow(unsafe_code, reason = "what the directory holds is run")]

use std::fs::{self, DirBuilder, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use attnc::Store;
use attnc::stored::{self, Unusable};
use etcetera::BaseStrategy as _;

use crate::disk;

/// Most kernels that are kept; the older half of them goes when there are more.
pub const MOST_KERNELS: usize = 1024;

/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 24;

/// What turns keeping off, or names another directory.
pub const VARIABLE: &str = "ATTNC_CACHE";

const SUFFIX: &str = ".kernel";

/// The directory of what is kept for this user: `$ATTNC_CACHE`, else `attnc` below the user's directory for caches.
/// `None` if there is no such directory, or `$ATTNC_CACHE` is `off`.
#[must_use]
pub fn directory() -> Option<PathBuf> {
    match std::env::var_os(VARIABLE) {
        Some(value) if value == "off" => None,
        Some(value) if !value.is_empty() => Some(PathBuf::from(value)),
        _ => Some(etcetera::choose_base_strategy().ok()?.cache_dir().join("attnc")),
    }
}

/// Compiled kernels in a directory.
#[derive(Clone, Debug)]
pub struct Kernels {
    dir: PathBuf,
}

/// What a directory of kernels holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Those that this build can use.
    pub usable: usize,
    /// Those of other builds.
    pub stale: usize,
    /// Those that are torn, or no kernels.
    pub broken: usize,
}

impl Kernels {
    /// Those of a directory for everything that is kept. Nothing is made until there is a kernel to keep.
    #[must_use]
    pub fn below(dir: &Path) -> Kernels {
        Kernels { dir: dir.join("kernels") }
    }

    /// Those of this user; `None` as for [`directory`].
    #[must_use]
    pub fn of_user() -> Option<Arc<Kernels>> {
        directory().map(|dir| Arc::new(Kernels::below(&dir)))
    }

    /// What is there.
    #[must_use]
    pub fn holds(&self) -> Holds {
        let mut holds = Holds::default();
        for path in self.paths() {
            // Somebody may be removing it.
            let Ok(bytes) = disk::read_at_most(&path, MAX_BYTES) else { continue };
            holds.files += 1;
            holds.bytes += bytes.len() as u64;
            match stored::about(&bytes) {
                Ok(_) => holds.usable += 1,
                Err(Unusable::Build(_)) => holds.stale += 1,
                Err(_) => holds.broken += 1,
            }
        }
        holds
    }

    /// Removes all of it, and says how many kernels there were.
    ///
    /// # Errors
    /// What the system says of a file that cannot be removed.
    pub fn clear(&self) -> io::Result<usize> {
        if !self.dir.is_dir() {
            return Ok(0);
        }
        let lock = self.lock()?;
        lock.lock()?;
        let mut count = 0;
        // What a process that was killed had begun to write goes too.
        for entry in fs::read_dir(&self.dir)?.flatten() {
            let name = entry.file_name();
            if name == LOCK {
                continue;
            }
            match fs::remove_file(entry.path()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => count += usize::from(name.to_string_lossy().ends_with(SUFFIX)),
            }
        }
        Ok(count)
    }

    /// The file of all locks, opened.
    fn lock(&self) -> io::Result<File> {
        File::options().create(true).truncate(false).write(true).open(self.dir.join(LOCK))
    }

    /// The files of kernels, in no order.
    fn paths(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let kernel = |path: &PathBuf| path.to_string_lossy().ends_with(SUFFIX);
        entries.map(|entry| entry.path()).filter(kernel).collect()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if !self.dir.is_dir() {
            let mut builder = DirBuilder::new();
            builder.recursive(true);
            // Whoever may write here runs code in every process that reads.
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(&self.dir)?;
        }
        let lock = self.lock()?;
        lock.lock_shared()?;
        disk::write_beside(&self.dir.join(format!("{name}{SUFFIX}")), bytes, false)?;
        drop(lock);
        if self.paths().len() > MOST_KERNELS { self.shrink() } else { Ok(()) }
    }

    /// Removes the older half, unless somebody else is at it.
    fn shrink(&self) -> io::Result<()> {
        let lock = self.lock()?;
        if lock.try_lock().is_err() {
            return Ok(());
        }
        let written = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut all: Vec<(SystemTime, PathBuf)> = self.paths().into_iter().map(|path| (written(&path), path)).collect();
        all.sort();
        for (_, path) in &all[..all.len().saturating_sub(MOST_KERNELS / 2)] {
            // What cannot be removed stays.
            let _ = fs::remove_file(path);
        }
        Ok(())
    }
}

const LOCK: &str = "lock";

// SAFETY: files are written by `put` alone, in a directory that is made for this user alone.
unsafe impl Store for Kernels {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        disk::read_at_most(&self.dir.join(format!("{name}{SUFFIX}")), MAX_BYTES).ok()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        // A kernel that cannot be kept is compiled again next time.
        let _ = self.write(name, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> Kernels {
        let dir = std::env::temp_dir().join(format!("attnc-kept-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Kernels::below(&dir)
    }

    fn gone(kernels: &Kernels) {
        fs::remove_dir_all(kernels.dir.parent().expect("a directory")).expect("cleans up");
    }

    #[test]
    fn the_older_half_goes_when_there_are_too_many() {
        let kernels = scratch("many");
        for i in 0..=MOST_KERNELS {
            kernels.put(&format!("{i:04}"), b"bytes");
        }
        assert_eq!(kernels.holds().files, MOST_KERNELS / 2);
        assert_eq!(kernels.get("0000"), None);
        assert_eq!(kernels.get(&format!("{MOST_KERNELS:04}")).as_deref(), Some(&b"bytes"[..]));
        assert_eq!(kernels.clear().expect("clears"), MOST_KERNELS / 2);
        gone(&kernels);
    }

    #[test]
    fn readers_see_whole_kernels_while_others_write_and_clear() {
        let kernels = scratch("torn");
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let kernels = &kernels;
                scope.spawn(move || {
                    for round in 0..50 {
                        kernels.put("one", &vec![writer; 10_000 + 100 * usize::from(writer)]);
                        if let Some(seen) = kernels.get("one") {
                            assert_eq!(seen, vec![seen[0]; 10_000 + 100 * usize::from(seen[0])], "a torn file");
                        }
                        if round % 10 == 9 {
                            kernels.clear().expect("clears");
                        }
                    }
                });
            }
        });
        gone(&kernels);
    }

    #[test]
    fn a_directory_that_cannot_be_made_keeps_nothing() {
        let kernels = scratch("file");
        let parent = kernels.dir.parent().expect("a directory");
        fs::write(parent, b"in the way").expect("writes");
        kernels.put("one", b"bytes");
        assert_eq!((kernels.get("one"), kernels.holds()), (None, Holds::default()));
        assert_eq!(kernels.clear().expect("nothing to clear"), 0);
        fs::remove_file(parent).expect("cleans up");
    }
}
