//! Files that are either wholly written or not at all.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes `path` through `write`: into a temporary file beside it, which is synced and then renamed
/// over it.
///
/// Whatever fails (a full disk, a crash, a lost power supply), `path` holds its old contents or the
/// new ones. Temporary files that an earlier process left behind for the same path are removed.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    attempt(path, write).map_err(|source| Error::Save { path: path.to_path_buf(), source })
}

fn attempt(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    remove_stale(directory, name);
    let temporary = directory.join(temporary_name(name));
    let result = write_and_rename(&temporary, path, write);
    if result.is_err() {
        // Whether or not it was created; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
        return result;
    }
    sync_directory(directory)
}

fn write_and_rename(
    temporary: &Path,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(temporary)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    write(&mut writer)?;
    let file: File = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    // A full disk may show only here.
    file.sync_all()?;
    drop(file);
    fs::rename(temporary, path)
}

/// `.NAME.PID.tmp`: hidden, and one a process.
fn temporary_name(name: &OsStr) -> PathBuf {
    let mut temporary = OsStr::new(".").to_os_string();
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    PathBuf::from(temporary)
}

/// Removes `.NAME.*.tmp`. Best effort: a directory that cannot be read will fail in a better place.
fn remove_stale(directory: &Path, name: &OsStr) {
    let prefix = format!(".{}.", name.to_string_lossy());
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let pid = found.to_str().and_then(|s| s.strip_prefix(&prefix)?.strip_suffix(".tmp"));
        if pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit())) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The rename itself must reach the disk.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails with "no space left" after some bytes.
    struct Full<'a> {
        inner: &'a mut dyn Write,
        room: usize,
    }

    impl Write for Full<'_> {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let n = self.inner.write(&data[..data.len().min(self.room)])?;
            self.room -= n;
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.inner.flush()
        }
    }

    fn files(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<String> = names.map(|n| n.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_disk_that_fills_up_at_any_byte_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("best.safetensors");
        write_atomic(&path, |w| w.write_all(b"old")).unwrap();
        let new = b"the new contents";
        for room in 0..new.len() {
            let error =
                write_atomic(&path, |w| Full { inner: w, room }.write_all(new)).unwrap_err();
            assert!(error.to_string().contains("best.safetensors"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(files(dir.path()), ["best.safetensors"]);
        }
        write_atomic(&path, |w| w.write_all(new)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), new);
    }

    #[test]
    fn leftovers_of_a_killed_process_are_removed_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last.safetensors");
        for name in [".last.safetensors.123.tmp", ".last.safetensors.x.tmp", "other.tmp"] {
            fs::write(dir.path().join(name), b"half").unwrap();
        }
        write_atomic(&path, |w| w.write_all(b"whole")).unwrap();
        assert_eq!(files(dir.path()), [".last.safetensors.x.tmp", "last.safetensors", "other.tmp"]);
    }

    #[test]
    fn a_missing_directory_is_an_error_with_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nowhere").join("last.safetensors");
        let error = write_atomic(&path, |w| w.write_all(b"x")).unwrap_err().to_string();
        assert!(error.contains("nowhere/last.safetensors") && error.contains("No such"), "{error}");
    }
}
