//! Where a data set's pixels are: in memory, or in its files, read whenever they are needed.
//!
//! A training step wants some hundred images out of tens of thousands. Kept in memory CIFAR-10
//! takes 184 MB; read by position from files that the system caches anyway, a batch costs well
//! under a millisecond of a loader's thread.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

/// The pixels of a data set.
#[derive(Debug)]
pub enum Images {
    /// `[n, size, size, 3]`, channels last.
    Memory(Vec<u8>),
    /// In the CIFAR binary layout.
    Files(RecordFiles),
}

/// What reading one image needs; worth keeping between images.
#[derive(Clone, Debug, Default)]
pub struct ImageBuffer {
    /// A record as its file has it: label, then planes.
    record: Vec<u8>,
    /// `[size, size, 3]`
    pixels: Vec<u8>,
}

/// How the label stands at the start of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LabelFormat {
    /// One byte.
    Byte,
    /// CIFAR-100: the coarse label, which is skipped, then the fine one.
    CoarseFine,
    /// Two bytes, little-endian.
    Word,
}

impl LabelFormat {
    pub(super) fn bytes(self) -> usize {
        if self == LabelFormat::Byte { 1 } else { 2 }
    }

    pub(super) fn read(self, record: &[u8]) -> u16 {
        match self {
            LabelFormat::Byte => record[0] as u16,
            LabelFormat::CoarseFine => record[1] as u16,
            LabelFormat::Word => u16::from_le_bytes([record[0], record[1]]),
        }
    }
}

/// Open files of records. They stay open, so that a set which is replaced by renaming, as
/// `cifar data import --replace` does, is read to its end as it was.
#[derive(Debug)]
pub struct RecordFiles {
    labels: LabelFormat,
    record_len: usize,
    files: Vec<RecordFile>,
}

#[derive(Debug)]
struct RecordFile {
    path: PathBuf,
    file: File,
    /// Number of its first record in the whole set.
    first: usize,
}

impl RecordFiles {
    /// No file yet, for images of `image_len` bytes.
    pub(super) fn new(labels: LabelFormat, image_len: usize) -> Self {
        RecordFiles { labels, record_len: labels.bytes() + image_len, files: Vec::new() }
    }

    /// Adds a file whose first record is number `first` of the set.
    pub(super) fn push(&mut self, path: PathBuf, file: File, first: usize) {
        self.files.push(RecordFile { path, file, first });
    }

    /// Image `i`, `[size, size, 3]`, whose label was `label` when the set was loaded.
    ///
    /// Errors name the file: it cannot be read, it has become shorter, or the record has another
    /// label, so that it is not the file that was checked.
    pub(super) fn image<'a>(
        &self,
        i: usize,
        label: u16,
        buffer: &'a mut ImageBuffer,
    ) -> Result<&'a [u8]> {
        let RecordFile { path, file, first } =
            &self.files[self.files.partition_point(|file| file.first <= i) - 1];
        let (path, number) = (path.display(), i - first);
        let start = (number * self.record_len) as u64;
        buffer.record.resize(self.record_len, 0);
        match read_exact_at(file, &mut buffer.record, start) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => bail!(
                "{path}: was cut short while in use: record {number} ends at byte {}, but the \
                 file has {}",
                start + self.record_len as u64,
                file.metadata().map_or(0, |m| m.len())
            ),
            other => other.with_context(|| format!("{path}: cannot read record {number}"))?,
        }
        let got = self.labels.read(&buffer.record);
        ensure!(
            got == label,
            "{path}: was changed while in use: record {number} had label {label}, and now {got}"
        );
        let planes = &buffer.record[self.labels.bytes()..];
        buffer.pixels.resize(planes.len(), 0);
        interleave(planes, &mut buffer.pixels);
        Ok(&buffer.pixels)
    }
}

/// Reads at a position, whatever else reads the file.
#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

/// Reads at a position, whatever else reads the file: each read says where it begins, so that the
/// file's own position, which it moves, does not matter.
#[cfg(windows)]
fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let at = start + done as u64;
        match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[done..], at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Planes `[3, pixels]` to pixels `[pixels, 3]`.
fn interleave(planes: &[u8], pixels: &mut [u8]) {
    let n = pixels.len() / 3;
    let (r, rest) = planes.split_at(n);
    let (g, b) = rest.split_at(n);
    let planes = r.iter().zip(g).zip(b);
    for (pixel, ((&r, &g), &b)) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(planes) {
        *pixel = [r, g, b];
    }
}
