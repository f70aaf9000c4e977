//! `dataset.json`: what the CIFAR binary layout leaves open, and checksums.
//!
//! Files written by this program have it beside them. Without it the official sets' shape is
//! assumed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Split, hex};

/// Name of the manifest inside a data set's directory.
pub const FILE_NAME: &str = "dataset.json";

/// Largest width and height that a data set may state.
pub const MAX_SIZE: usize = 4096;

/// A data set as its directory describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Width and height of every image, in pixels.
    pub size: usize,
    /// The name of each label.
    pub classes: Vec<String>,
    /// Bytes of a label before the pixels: 1, or 2 (little-endian) for more than 256 classes.
    pub label_bytes: usize,
    /// The files, in order.
    pub files: Vec<FileEntry>,
}

/// One file of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// A plain file name.
    pub name: String,
    /// Which split it is part of.
    pub split: Split,
    /// How many records it has.
    pub records: usize,
    /// SHA-256 of the whole file, in hex.
    pub sha256: String,
}

impl Manifest {
    /// Reads and checks the manifest at `path`.
    pub fn read(path: &Path) -> Result<Manifest> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let manifest: Manifest = match serde_json::from_str(&text) {
            Ok(manifest) => manifest,
            Err(error) => bail!("{}: not a data set manifest: {error}", path.display()),
        };
        manifest.check().with_context(|| format!("{}", path.display()))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        let (size, classes) = (self.size, self.classes.len());
        ensure!((1..=MAX_SIZE).contains(&size), "size is {size}, but must lie in 1..={MAX_SIZE}");
        ensure!((1..=65536).contains(&classes), "{classes} classes, but there must be 1 to 65536");
        let needed = label_bytes(classes);
        ensure!(
            self.label_bytes == needed,
            "label_bytes is {}, but {classes} classes need {needed}",
            self.label_bytes
        );
        for file in &self.files {
            let plain = Path::new(&file.name).file_name().is_some_and(|n| n == file.name.as_str());
            ensure!(plain, "file name '{}' is not a plain name", file.name);
        }
        Ok(())
    }

    /// The manifest as text.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain data serialises");
        text.push('\n');
        text
    }
}

/// Bytes that a label of `classes` classes needs.
pub fn label_bytes(classes: usize) -> usize {
    if classes <= 256 { 1 } else { 2 }
}

/// SHA-256 of a file, in hex.
pub fn sha256_file(path: &Path) -> Result<String> {
    let context = || format!("cannot read {}", PathBuf::from(path).display());
    let mut file = File::open(path).with_context(context)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).with_context(context)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}
