//! `runs/NAME/`: where a run's configuration, log, metrics, pictures and weights lie.
//!
//! ```text
//! config.toml                 every setting; can be given to --config
//! log.txt                     what was printed
//! metrics.csv, metrics.jsonl  a row an epoch
//! curves.png, confusion.png
//! weights/best.safetensors    the epoch with the best test accuracy
//! weights/last.safetensors    the last save
//! state.safetensors           everything that --resume needs, parameters included
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::metrics::Row;

/// A run's directory.
pub struct RunDir {
    root: PathBuf,
    log: File,
}

impl RunDir {
    /// Makes a new directory: `path`, or the first of `runs/train-1`, `runs/train-2`, ... that does
    /// not exist.
    pub fn create(path: Option<&Path>) -> Result<RunDir> {
        let root = match path {
            Some(path) => {
                ensure!(
                    !path.join("state.safetensors").exists() && !path.join("config.toml").exists(),
                    "{} already holds a run: continue it with --resume, or give another --out",
                    path.display()
                );
                fs::create_dir_all(path)
                    .with_context(|| format!("cannot create the directory {}", path.display()))?;
                path.to_path_buf()
            }
            None => next_free(Path::new("runs"))?,
        };
        let weights = root.join("weights");
        fs::create_dir_all(&weights)
            .with_context(|| format!("cannot create the directory {}", weights.display()))?;
        Self::open_log(root)
    }

    /// Opens an existing run.
    pub fn open(path: &Path) -> Result<RunDir> {
        ensure!(
            path.join("state.safetensors").is_file(),
            "{} holds no run to resume: it has no state.safetensors",
            path.display()
        );
        Self::open_log(path.to_path_buf())
    }

    fn open_log(root: PathBuf) -> Result<RunDir> {
        let path = root.join("log.txt");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        // Held as long as the log is open: two processes would destroy each other's saves.
        match log.try_lock() {
            Err(TryLockError::WouldBlock) => {
                bail!("another process is training in {}", root.display())
            }
            // A file system without locks.
            Err(TryLockError::Error(_)) | Ok(()) => Ok(RunDir { root, log }),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Everything that `--resume` needs.
    pub fn state(&self) -> PathBuf {
        self.root.join("state.safetensors")
    }

    /// Weights of the best epoch.
    pub fn best(&self) -> PathBuf {
        self.root.join("weights/best.safetensors")
    }

    /// Weights of the last save.
    pub fn last(&self) -> PathBuf {
        self.root.join("weights/last.safetensors")
    }

    /// The picture of losses and accuracies.
    pub fn curves(&self) -> PathBuf {
        self.root.join("curves.png")
    }

    /// The picture of the confusion matrix.
    pub fn confusion(&self) -> PathBuf {
        self.root.join("confusion.png")
    }

    /// Appends a line to `log.txt`. A log that cannot be written does not stop a training run.
    pub fn log(&mut self, line: &str) {
        let _ = writeln!(self.log, "{line}");
    }

    /// Writes `metrics.csv` and `metrics.jsonl` anew from all rows, so that a row is never lost or
    /// doubled.
    pub fn write_metrics(&self, rows: &[Row]) -> Result<()> {
        let mut csv = format!("{}\n", Row::HEADER);
        let mut jsonl = String::new();
        for row in rows {
            csv += &row.to_csv();
            csv.push('\n');
            jsonl += &serde_json::to_string(row)?;
            jsonl.push('\n');
        }
        write_atomically(&self.root.join("metrics.csv"), csv.as_bytes())?;
        write_atomically(&self.root.join("metrics.jsonl"), jsonl.as_bytes())
    }
}

/// Makes the first of `runs/train-1`, `runs/train-2`, ... that does not exist.
fn next_free(runs: &Path) -> Result<PathBuf> {
    fs::create_dir_all(runs)
        .with_context(|| format!("cannot create the directory {}", runs.display()))?;
    for n in 1..1_000_000 {
        let path = runs.join(format!("train-{n}"));
        // create_dir, not a test for existence: two runs that start at once get two directories.
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                return Err(e)
                    .with_context(|| format!("cannot create the directory {}", path.display()));
            }
        }
    }
    bail!("{} holds a million runs; give --out", runs.display())
}

/// Replaces a file as a whole; on failure the old file stays.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(tilegrad_nn::write_atomic(path, |file| file.write_all(bytes))?)
}

/// The newest `runs/*/weights/best.safetensors` under the current directory.
pub fn newest_checkpoint() -> Option<PathBuf> {
    fs::read_dir("runs")
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path().join("weights/best.safetensors");
            Some((fs::metadata(&path).ok()?.modified().ok()?, path))
        })
        .max()
        .map(|(_, path)| path)
}

/// The weights that `path` stands for: itself, or of a run's directory the best, or the last if no
/// epoch is done.
pub fn checkpoint_in(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    ["weights/best.safetensors", "weights/last.safetensors"]
        .iter()
        .map(|name| path.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{} holds no weights/best.safetensors", path.display()))
}
