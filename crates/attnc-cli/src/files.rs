//! Files and standard streams: the loader of sources, and outputs that are whole or absent.
//!
//! One idea: what a command writes is written to a temporary name beside its place and renamed when it is
//! complete, so that no reader ever sees half of it; devices and pipes are written to as they are. A reader of standard
//! output that has gone ends a long picture, and changes the exit code of nothing.
//! Nothing here knows what the bytes mean.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use attnc::{LoadError, Loader, MAX_SOURCE};
pub(crate) use attnc_host::disk::read_at_most;
use attnc_host::disk::reason;

use crate::report::{Failure, Outcome};

/// Name of standard input where a file is expected.
pub(crate) const STDIN: &str = "-";

/// Loads source files from disk; `-` is standard input, which is named `stdin`.
#[derive(Debug, Default)]
pub(crate) struct Disk;

impl Loader for Disk {
    fn load(&self, from: Option<&str>, path: &str) -> Result<(String, Vec<u8>), LoadError> {
        if from.is_none() && path == STDIN {
            // What was read once is there no more, and a command may compile one source for several targets.
            static READ: OnceLock<Result<Vec<u8>, LoadError>> = OnceLock::new();
            let read = READ.get_or_init(|| {
                let mut bytes = Vec::new();
                let mut input = io::stdin().lock().take(MAX_SOURCE + 1);
                input.read_to_end(&mut bytes).map_err(|e| LoadError::Other(reason(&e)))?;
                Ok(bytes)
            });
            return Ok(("stdin".to_owned(), read.clone()?));
        }
        // Standard input imports from the working directory.
        attnc_host::Disk.load(from.filter(|from| *from != "stdin"), path)
    }
}

/// Where a command's data goes: standard output, or a file that appears when it is complete.
pub(crate) enum Output {
    /// Standard output.
    Stdout(BufWriter<io::Stdout>),
    /// A temporary file, and the name it will have.
    File { writer: BufWriter<File>, temporary: Temporary, path: PathBuf },
    /// A device or pipe, which is written to and never replaced.
    Stream(BufWriter<File>),
}

/// A file that is removed unless it was renamed.
pub(crate) struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Output {
    /// Opens standard output, or a temporary file beside `path`.
    pub(crate) fn open(path: Option<&Path>) -> Outcome<Output> {
        let Some(path) = path.filter(|p| *p != Path::new(STDIN)) else {
            return Ok(Output::Stdout(BufWriter::with_capacity(1 << 16, io::stdout())));
        };
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(unwritable(path, "it is a directory")),
            Ok(meta) if !meta.is_file() => {
                let file = File::options().write(true).open(path).map_err(|e| unwritable(path, &reason(&e)))?;
                return Ok(Output::Stream(BufWriter::with_capacity(1 << 16, file)));
            }
            _ => {}
        }
        // The file that a link names is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let name = path.file_name().ok_or_else(|| unwritable(&path, "it names no file"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(hidden);
        let file = File::create(&temporary).map_err(|e| unwritable(&path, &reason(&e)))?;
        if let Ok(meta) = fs::metadata(&path) {
            let _ = fs::set_permissions(&temporary, meta.permissions());
        }
        Ok(Output::File { writer: BufWriter::with_capacity(1 << 16, file), temporary: Temporary(temporary), path })
    }

    /// Writes what is still held back and gives a file its name.
    pub(crate) fn finish(self) -> Outcome {
        match self {
            Output::Stdout(mut writer) => writer.flush().map_err(|e| write_failure(&e)),
            Output::Stream(mut writer) => writer.flush().map_err(|e| write_failure(&e)),
            Output::File { writer, temporary, path } => {
                let end = |e: &io::Error| unwritable(&path, &reason(e));
                let file = writer.into_inner().map_err(|e| end(e.error()))?;
                file.sync_all().map_err(|e| end(&e))?;
                drop(file);
                fs::rename(&temporary.0, &path).map_err(|e| end(&e))
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(writer) => writer.write(bytes),
            Output::Stream(writer) | Output::File { writer, .. } => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(writer) => writer.flush(),
            Output::Stream(writer) | Output::File { writer, .. } => writer.flush(),
        }
    }
}

/// Writes text to standard output.
pub(crate) fn print(text: &str) -> Outcome {
    write_all(None, text.as_bytes())
}

/// Writes bytes to standard output or a file. If nobody reads them any more, the command goes on to its own end.
pub(crate) fn write_all(path: Option<&Path>, bytes: &[u8]) -> Outcome {
    let mut output = Output::open(path)?;
    match output.write_all(bytes).map_err(|e| write_failure(&e)).and_then(|()| output.finish()) {
        Err(failure) if failure.exit == 0 => Ok(()),
        ended => ended,
    }
}

/// What a failed write ends with: a reader that has gone is no error worth a word.
pub(crate) fn write_failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::silent(0);
    }
    Failure::run(
        "E0809",
        format!("the output cannot be written: {}", reason(error)),
        "check the space left on the device",
    )
}

fn unwritable(path: &Path, why: &str) -> Failure {
    Failure::run(
        "E0809",
        format!("`{}` cannot be written: {why}", path.display()),
        "name a file in a directory that exists",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("attnc-files-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory for the test");
        dir
    }

    #[test]
    fn a_file_appears_only_when_complete() {
        let dir = scratch("whole");
        let path = dir.join("out.txt");
        let mut output = Output::open(Some(&path)).expect("opens");
        output.write_all(b"half").expect("writes");
        assert!(!path.exists());
        drop(output);
        assert_eq!(fs::read_dir(&dir).expect("lists").count(), 0, "nothing is left behind");
        write_all(Some(&path), b"whole").expect("writes");
        assert_eq!(fs::read(&path).expect("reads"), b"whole");
        fs::remove_dir_all(dir).expect("cleans up");
    }

    #[test]
    #[cfg(unix)]
    fn pipes_and_devices_are_never_replaced() {
        use std::os::unix::fs::FileTypeExt;
        let dir = scratch("pipe");
        let path = dir.join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        let reader = std::thread::spawn({
            let path = path.clone();
            move || fs::read(path)
        });
        write_all(Some(&path), b"whole").expect("writes");
        assert_eq!(reader.join().expect("no panic").expect("reads"), b"whole");
        assert!(fs::metadata(&path).expect("is there").file_type().is_fifo());
        fs::remove_dir_all(dir).expect("cleans up");
    }
}
