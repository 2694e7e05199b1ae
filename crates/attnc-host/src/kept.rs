//! Compiled kernels on disk: a directory that processes share.
//!
//! One idea: a file is written beside its place and renamed, so that no reader sees half of it, and nobody who compiles
//! waits for anybody. Who removes files keeps writers out by a lock, and they keep nothing then. A file that is lost
//! costs a compilation, so nothing is forced to the disk. Nothing here knows what is in a kernel.

#![allow(unsafe_code, reason = "what the directory holds is run")]

use std::fs::{self, DirBuilder, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use attnc::stored::{self, Unusable};
use attnc::{Compiler, Store};
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

/// A compiler that keeps machine code where this user keeps it, if anywhere.
#[must_use]
pub fn keeping(compiler: Compiler) -> Compiler {
    match directory() {
        Some(dir) => compiler.kept_in(Arc::new(Kernels::below(&dir))),
        None => compiler,
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

    /// What is there.
    #[must_use]
    pub fn holds(&self) -> Holds {
        let mut holds = Holds::default();
        for path in self.paths() {
            // Somebody may be removing it.
            let Ok(bytes) = disk::read_at_most(&path, MAX_BYTES) else { continue };
            holds.files += 1;
            holds.bytes += bytes.len() as u64;
            match stored::usable(&bytes) {
                Ok(()) => holds.usable += 1,
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
        let file = self.lock_file()?;
        file.lock()?;
        let _lock = Lock(file);
        self.remove_begun();
        let mut count = 0;
        for path in self.paths() {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => count += 1,
            }
        }
        Ok(count)
    }

    /// The file of all locks, opened.
    fn lock_file(&self) -> io::Result<File> {
        File::options().create(true).truncate(false).write(true).open(self.dir.join(LOCK))
    }

    /// The files of kernels, in no order.
    fn paths(&self) -> Vec<PathBuf> {
        self.files(|name| name.ends_with(SUFFIX) && !name.starts_with('.'))
    }

    /// Removes what processes that were killed had begun to write; for who keeps writers out.
    fn remove_begun(&self) {
        for path in self.files(|name| name.starts_with('.') && name.contains(SUFFIX) && name.ends_with(".tmp")) {
            let _ = fs::remove_file(path);
        }
    }

    fn files(&self, ours: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(&ours)).map(|entry| entry.path()).collect()
    }

    /// Whether the directory is there and nobody else can have written to it.
    fn is_ours(&self) -> bool {
        let Ok(meta) = fs::metadata(&self.dir) else { return false };
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            // SAFETY: it reads a number of the process, and does not fail.
            let own = [0, unsafe { libc::geteuid() }];
            meta.is_dir() && own.contains(&meta.uid()) && meta.mode() & 0o022 == 0
        }
        #[cfg(not(unix))]
        meta.is_dir()
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
        if !self.is_ours() || bytes.len() as u64 > MAX_BYTES {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let file = self.lock_file()?;
        if file.try_lock_shared().is_err() {
            return Ok(());
        }
        let lock = Lock(file);
        disk::write_beside(&self.dir.join(format!("{name}{SUFFIX}")), bytes, false)?;
        drop(lock);
        if self.paths().len() > MOST_KERNELS { self.shrink() } else { Ok(()) }
    }

    /// Removes the older half, unless somebody else is at it.
    fn shrink(&self) -> io::Result<()> {
        let file = self.lock_file()?;
        if file.try_lock().is_err() {
            return Ok(());
        }
        let _lock = Lock(file);
        self.remove_begun();
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

/// A lock that ends with this value. That its file is closed would not end it: a process that was forked meanwhile has
/// the same file open.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // What fails here ends with the process.
        let _ = self.0.unlock();
    }
}

// SAFETY: what is got comes from a directory to which this user, or who administers the machine, alone can write, and
// there files of this name are written by `put`.
unsafe impl Store for Kernels {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        if !self.is_ours() {
            return None;
        }
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
    #[cfg(unix)]
    fn a_directory_that_others_can_write_to_is_not_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let kernels = scratch("open");
        kernels.put("one", b"bytes");
        let allow =
            |mode| fs::set_permissions(&kernels.dir, fs::Permissions::from_mode(mode)).expect("changes the mode");
        allow(0o722);
        assert_eq!(kernels.get("one"), None);
        kernels.put("two", b"bytes");
        allow(0o700);
        assert_eq!((kernels.get("one").as_deref(), kernels.get("two")), (Some(&b"bytes"[..]), None));
        gone(&kernels);
    }

    #[test]
    fn nobody_waits_for_who_clears() {
        let kernels = scratch("busy");
        kernels.put("one", b"bytes");
        fs::write(kernels.dir.join("notes"), b"mine").expect("writes");
        fs::write(kernels.dir.join(".two.kernel.1.0.tmp"), b"byt").expect("writes");
        let file = kernels.lock_file().expect("opens");
        file.lock().expect("locks");
        let lock = Lock(file);
        // As a process that was forked meanwhile has it.
        let forked = lock.0.try_clone().expect("duplicates");
        kernels.put("two", b"bytes");
        assert_eq!((kernels.get("one").is_some(), kernels.get("two")), (true, None));
        drop(lock);
        kernels.put("two", b"bytes");
        assert!(kernels.get("two").is_some());
        assert_eq!(kernels.clear().expect("clears"), 2);
        assert_eq!(fs::read_dir(&kernels.dir).expect("lists").count(), 2, "the lock and the notes");
        drop(forked);
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
