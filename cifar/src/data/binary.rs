//! The CIFAR binary layout: files of records, each a label and three colour planes.
//!
//! - CIFAR-10: `data_batch_1.bin` .. `data_batch_5.bin`, `test_batch.bin`; 1 label byte, 3 x 32 x
//!   32 bytes; names of the classes in `batches.meta.txt`.
//! - CIFAR-100: `train.bin`, `test.bin`; 2 label bytes (coarse, fine), of which the fine one is
//!   used; `fine_label_names.txt`.
//! - Ours: CIFAR-10's files with a `dataset.json` beside them, which gives image size, classes,
//!   counts and checksums.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::images::{ImageBuffer, Images, LabelFormat, RecordFiles};
use super::manifest::{self, FileEntry, Manifest};
use super::{CIFAR10_CLASSES, Dataset, Split, hex};

/// Directories below the given one in which the official archives keep their files.
const SUBDIRECTORIES: [&str; 2] = ["cifar-10-batches-bin", "cifar-100-binary"];

/// The file of CIFAR-10's class names.
const CLASS_NAMES: &str = "batches.meta.txt";

/// What is known of a split before its files are read.
struct Layout {
    size: usize,
    classes: Vec<String>,
    labels: LabelFormat,
    files: Vec<ExpectedFile>,
}

/// A file, and what the manifest (if any) says of it.
struct ExpectedFile {
    path: PathBuf,
    records: Option<usize>,
    sha256: Option<String>,
}

impl ExpectedFile {
    fn unchecked(path: PathBuf) -> Self {
        ExpectedFile { path, records: None, sha256: None }
    }
}

/// Opens one split of the data set in `dir`, and checks all of it: see [`Dataset::load`].
pub fn load(dir: &Path, split: Split) -> Result<Dataset> {
    let layout = find(dir, split)?;
    let image_len = layout.size * layout.size * 3;
    let record_len = layout.labels.bytes() + image_len;
    let counts = layout.files.iter().map(|f| count_records(f, record_len));
    let counts = counts.collect::<Result<Vec<usize>>>()?;
    let n: usize = counts.iter().sum();
    ensure!(n > 0, "{}: the {} split has no records", dir.display(), name(split));
    let mut labels = Vec::with_capacity(n);
    let mut records = RecordFiles::new(layout.labels, image_len);
    for (expected, &count) in layout.files.iter().zip(&counts) {
        let first = labels.len();
        let read = |record: &[u8]| layout.labels.read(record);
        let file = check_file(expected, count, record_len, |record| labels.push(read(record)))?;
        let classes = layout.classes.len();
        if let Some(i) = labels[first..].iter().position(|&label| label as usize >= classes) {
            bail!(
                "{}: record {i}: label {} is outside 0..{classes}",
                expected.path.display(),
                labels[first + i]
            );
        }
        records.push(expected.path.clone(), file, first);
    }
    Ok(Dataset {
        images: Images::Files(records),
        labels,
        classes: layout.classes,
        size: layout.size,
    })
}

/// Reads a file of `count` records through once, calling `visit` for each, and compares its
/// checksum. Returns the open file.
fn check_file(
    expected: &ExpectedFile,
    count: usize,
    record_len: usize,
    mut visit: impl FnMut(&[u8]),
) -> Result<File> {
    let path = expected.path.display();
    let cannot = || format!("cannot read {path}");
    let mut file = File::open(&expected.path).with_context(cannot)?;
    let mut hash = Sha256::new();
    // About a quarter of a megabyte at a time.
    let mut buffer = vec![0; (1usize << 18).div_ceil(record_len).min(count) * record_len];
    let mut left = count * record_len;
    while left > 0 {
        let part = buffer.len().min(left);
        let part = &mut buffer[..part];
        match file.read_exact(part) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                bail!("{path}: changed while it was read")
            }
            other => other.with_context(cannot)?,
        }
        hash.update(&*part);
        part.chunks_exact(record_len).for_each(&mut visit);
        left -= part.len();
    }
    ensure!(file.read(&mut [0]).with_context(cannot)? == 0, "{path}: changed while it was read");
    if let Some(expected) = &expected.sha256 {
        let got = hex(&hash.finalize());
        ensure!(
            got == *expected,
            "{path}: contents differ from {}: SHA-256 expected {expected}, got {got}",
            manifest::FILE_NAME
        );
    }
    Ok(file)
}

fn name(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Test => "test",
    }
}

/// Finds the files of a split.
fn find(dir: &Path, split: Split) -> Result<Layout> {
    ensure!(dir.exists(), "{}: no such directory{}", dir.display(), how_to_make(dir));
    ensure!(dir.is_dir(), "{}: not a directory, but a data set is one", dir.display());
    let inside = SUBDIRECTORIES.iter().map(|sub| dir.join(sub));
    for dir in std::iter::once(dir.to_path_buf()).chain(inside) {
        if dir.join(manifest::FILE_NAME).is_file() {
            return with_manifest(&dir, split);
        }
        if (1..=5).any(|i| dir.join(batch_name(i)).is_file())
            || dir.join("test_batch.bin").is_file()
        {
            return cifar10(&dir, split);
        }
        if dir.join("train.bin").is_file() || dir.join("test.bin").is_file() {
            return cifar100(&dir, split);
        }
    }
    let folders = if dir.join("train").is_dir() { " (but a folder 'train')" } else { "" };
    bail!(
        "{}: no data set here: looked for {}, data_batch_1.bin and train.bin, here and in \
         {}{folders}{}",
        dir.display(),
        manifest::FILE_NAME,
        SUBDIRECTORIES.join(" and "),
        how_to_make(dir)
    );
}

fn how_to_make(dir: &Path) -> String {
    format!(
        "; `cifar data import IMAGES --out {0}` or `cifar data download cifar10 --out {0}` makes \
         one",
        dir.display()
    )
}

fn batch_name(i: usize) -> String {
    format!("data_batch_{i}.bin")
}

fn with_manifest(dir: &Path, split: Split) -> Result<Layout> {
    let manifest = Manifest::read(&dir.join(manifest::FILE_NAME))?;
    let files = manifest.files.into_iter().filter(|f| f.split == split);
    let files = files
        .map(|f| ExpectedFile {
            path: dir.join(f.name),
            records: Some(f.records),
            sha256: Some(f.sha256),
        })
        .collect();
    let labels = if manifest.label_bytes == 1 { LabelFormat::Byte } else { LabelFormat::Word };
    Ok(Layout { size: manifest.size, classes: manifest.classes, labels, files })
}

fn cifar10(dir: &Path, split: Split) -> Result<Layout> {
    let meta = dir.join(CLASS_NAMES);
    let classes = if meta.is_file() {
        read_names(&meta)?
    } else {
        CIFAR10_CLASSES.map(String::from).to_vec()
    };
    let batches: Vec<PathBuf> = (1..=5).map(|i| dir.join(batch_name(i))).collect();
    let test = dir.join("test_batch.bin");
    let record_len = 1 + 32 * 32 * 3;
    let files = match split {
        Split::Train => {
            let counts = batches
                .iter()
                .map(|path| count_records(&ExpectedFile::unchecked(path.clone()), record_len));
            let counts = counts.collect::<Result<Vec<usize>>>()?;
            // Without a manifest a file cut between two records shows only beside the others.
            for (path, &count) in batches.iter().zip(&counts) {
                let most = *counts.iter().max().expect("five batches");
                ensure!(
                    count == most,
                    "{}: {count} records, where the largest of the five batches has {most}",
                    path.display()
                );
            }
            check_official(&batches[0], &test, 10_000, 10_000, record_len, split)?;
            batches
        }
        Split::Test => {
            check_official(&batches[0], &test, 10_000, 10_000, record_len, split)?;
            vec![test]
        }
    };
    let files = files.into_iter().map(ExpectedFile::unchecked).collect();
    Ok(Layout { size: 32, classes, labels: LabelFormat::Byte, files })
}

fn cifar100(dir: &Path, split: Split) -> Result<Layout> {
    let classes = read_names(&dir.join("fine_label_names.txt"))?;
    let (train, test) = (dir.join("train.bin"), dir.join("test.bin"));
    check_official(&train, &test, 50_000, 10_000, 2 + 32 * 32 * 3, split)?;
    let file = if split == Split::Train { train } else { test };
    let files = vec![ExpectedFile::unchecked(file)];
    Ok(Layout { size: 32, classes, labels: LabelFormat::CoarseFine, files })
}

/// If one split has the official count, the other must have it too.
fn check_official(
    train: &Path,
    test: &Path,
    train_records: usize,
    test_records: usize,
    record_len: usize,
    split: Split,
) -> Result<()> {
    let bytes = |path: &Path| path.metadata().map(|m| m.len()).ok();
    let (wanted, expected, other, official) = match split {
        Split::Train => (train, train_records, test, test_records),
        Split::Test => (test, test_records, train, train_records),
    };
    if bytes(other) == Some((official * record_len) as u64) {
        let file =
            ExpectedFile { records: Some(expected), ..ExpectedFile::unchecked(wanted.into()) };
        count_records(&file, record_len)?;
    }
    Ok(())
}

/// Class names, one a line.
fn read_names(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the class names in {}", path.display()))?;
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect();
    ensure!(!names.is_empty(), "{}: no class names", path.display());
    Ok(names)
}

/// Records in a file, by its size; refused when cut short or not of the expected count.
fn count_records(file: &ExpectedFile, record_len: usize) -> Result<usize> {
    let path = file.path.display();
    let bytes = match file.path.metadata() {
        Ok(metadata) => metadata.len() as usize,
        Err(error) => bail!("{path}: part of the data set, but cannot be read: {error}"),
    };
    if let Some(records) = file.records {
        let expected = records.saturating_mul(record_len);
        ensure!(
            bytes >= expected,
            "{path}: truncated: expected {expected} bytes ({records} records of {record_len}), got \
             {bytes}"
        );
        ensure!(
            bytes == expected,
            "{path}: too long: expected {expected} bytes ({records} records of {record_len}), got \
             {bytes}"
        );
    }
    ensure!(
        bytes.is_multiple_of(record_len),
        "{path}: truncated: expected a multiple of {record_len} bytes (one record), got {bytes}, \
         which is {} records and {} bytes",
        bytes / record_len,
        bytes % record_len
    );
    Ok(bytes / record_len)
}

/// Writes a data set into an existing directory: up to five training files, a test file,
/// `batches.meta.txt` and `dataset.json`.
pub fn write(dir: &Path, train: &Dataset, test: &Dataset) -> Result<()> {
    assert_eq!((train.size, &train.classes), (test.size, &test.classes), "splits of two data sets");
    let mut files = Vec::new();
    let parts = train.len().min(5);
    for part in 0..parts {
        let range = part * train.len() / parts..(part + 1) * train.len() / parts;
        files.push(write_records(dir, batch_name(part + 1), Split::Train, train, range)?);
    }
    if !test.is_empty() {
        let range = 0..test.len();
        files.push(write_records(dir, "test_batch.bin".into(), Split::Test, test, range)?);
    }
    let manifest = Manifest {
        size: train.size,
        classes: train.classes.clone(),
        label_bytes: manifest::label_bytes(train.classes.len()),
        files,
    };
    let mut names = train.classes.join("\n");
    names.push('\n');
    write_synced(&dir.join(CLASS_NAMES), names.as_bytes())?;
    write_synced(&dir.join(manifest::FILE_NAME), manifest.to_json().as_bytes())
}

fn write_records(
    dir: &Path,
    name: String,
    split: Split,
    set: &Dataset,
    range: std::ops::Range<usize>,
) -> Result<FileEntry> {
    let records = range.len();
    let label_bytes = manifest::label_bytes(set.classes.len());
    let mut bytes = Vec::with_capacity(records * (label_bytes + set.image_bytes()));
    let mut buffer = ImageBuffer::default();
    for i in range {
        bytes.extend_from_slice(&set.labels[i].to_le_bytes()[..label_bytes]);
        let image = set.image(i, &mut buffer)?;
        for channel in 0..3 {
            bytes.extend(image.iter().skip(channel).step_by(3));
        }
    }
    write_synced(&dir.join(&name), &bytes)?;
    Ok(FileEntry { name, split, records, sha256: hex(&Sha256::digest(&bytes)) })
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a data set as the new directory `out`: first beside it under another name, then renamed,
/// so that a half written one is never seen. A non-empty `out` is refused, unless `replace` is set
/// and it holds a data set of ours.
pub fn save(out: &Path, train: &Dataset, test: &Dataset, replace: bool) -> Result<()> {
    check_output(out, replace)?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let context = || format!("cannot write {}", out.display());
    let new =
        tempfile::Builder::new().prefix(".import-").tempdir_in(parent).with_context(context)?;
    let inner = new.path().join("new");
    std::fs::create_dir(&inner).with_context(context)?;
    write(&inner, train, test)?;
    if out.exists() {
        // The old set leaves together with the temporary directory, once the new one is in place.
        let old = new.path().join("old");
        std::fs::rename(out, &old).with_context(context)?;
        if let Err(error) = std::fs::rename(&inner, out) {
            std::fs::rename(&old, out).with_context(context)?;
            return Err(error).with_context(context);
        }
        return Ok(());
    }
    std::fs::rename(&inner, out).with_context(context)
}

/// Refuses an output directory that has something in it which may not be replaced. Worth calling
/// before the work.
pub fn check_output(out: &Path, replace: bool) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    ensure!(out.is_dir(), "{}: exists and is not a directory", out.display());
    let empty =
        out.read_dir().with_context(|| format!("cannot read {}", out.display()))?.next().is_none();
    if empty {
        return Ok(());
    }
    ensure!(replace, "{}: exists and is not empty; name another, or --replace it", out.display());
    let path = out.join(manifest::FILE_NAME);
    ensure!(path.is_file(), "{}: holds no data set of ours, so it is not replaced", out.display());
    let manifest = Manifest::read(&path)?;
    // Replacing removes everything in the directory: only what an import wrote may go.
    for entry in out.read_dir().with_context(|| format!("cannot read {}", out.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", out.display()))?.file_name();
        let known = entry == manifest::FILE_NAME
            || entry == CLASS_NAMES
            || manifest.files.iter().any(|f| entry == f.name.as_str());
        let entry = entry.display();
        ensure!(known, "{}: also holds '{entry}', so it is not replaced", out.display());
    }
    Ok(())
}
