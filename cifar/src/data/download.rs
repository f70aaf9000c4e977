//! The official archives: fetched with resume, checked, unpacked.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::archive::for_each_entry;
use super::manifest::sha256_file;
use super::{Dataset, Split};

/// An archive that can be had from the web.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Where it is.
    pub url: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The folder inside that holds the data.
    pub folder: String,
}

impl Archive {
    /// CIFAR-10, binary version.
    pub fn cifar10() -> Self {
        Archive {
            url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz".into(),
            sha256: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd".into(),
            bytes: 170_052_171,
            folder: "cifar-10-batches-bin".into(),
        }
    }

    /// CIFAR-100, binary version.
    pub fn cifar100() -> Self {
        Archive {
            url: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz".into(),
            sha256: "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec".into(),
            bytes: 168_513_733,
            folder: "cifar-100-binary".into(),
        }
    }

    /// Name of the file in a directory of downloads.
    pub fn file_name(&self) -> String {
        format!("{}.tar.gz", self.folder)
    }
}

/// Attempts in a row that bring no byte before a connection is given up. Each goes on where the
/// last one stopped.
const ATTEMPTS: u32 = 4;

/// Largest file that is unpacked.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;

/// Downloads an archive into `out`, checks and unpacks it, and returns the data set's directory,
/// `out/<archive's folder>`. A directory already there is kept if it loads.
///
/// What was received of an interrupted download stays in a `.part` file, from which the next one
/// goes on.
pub fn download(archive: &Archive, out: &Path) -> Result<PathBuf> {
    let folder = out.join(&archive.folder);
    if folder.exists() {
        verify(&folder).context("already there, but broken; remove it to download it again")?;
        return Ok(folder);
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let file = out.join(archive.file_name());
    fetch(archive, &file)?;
    unpack(archive, &file, out)?;
    std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    Ok(folder)
}

fn verify(folder: &Path) -> Result<()> {
    Dataset::load(folder, Split::Train)?;
    Dataset::load(folder, Split::Test)?;
    Ok(())
}

/// Downloads to `file`, by way of `file.part`, and checks the SHA-256. Does nothing if `file` is
/// there and right.
pub fn fetch(archive: &Archive, file: &Path) -> Result<()> {
    if file.exists() {
        let got = sha256_file(file)?;
        ensure!(got == archive.sha256, "{}: {}", file.display(), wrong_digest(archive, &got));
        return Ok(());
    }
    let mut part_name = file.as_os_str().to_owned();
    part_name.push(".part");
    let part = PathBuf::from(part_name);
    let context = || format!("cannot write {}", part.display());
    let mut output = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&part)
        .with_context(context)?;
    let progress = ProgressBar::new(archive.bytes);
    let style = "{bar:32} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta}";
    progress.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
    let length = |output: &File| output.metadata().map(|m| m.len()).with_context(context);
    let mut attempt = 1;
    let failure = loop {
        let before = length(&output)?;
        match receive(archive, &mut output, &progress) {
            Ok(()) => break None,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Connection(error)) => {
                attempt = if length(&output)? > before { 1 } else { attempt + 1 };
                if attempt > ATTEMPTS {
                    break Some(error);
                }
                std::thread::sleep(Duration::from_millis(50 << attempt));
            }
        }
    };
    progress.finish_and_clear();
    output.sync_all().with_context(context)?;
    let received = length(&output)?;
    drop(output);
    if let Some(error) = failure {
        bail!(
            "{}: {error:#}; {received} of {} bytes are in {}; run the same command again to go on \
             from there",
            archive.url,
            archive.bytes,
            part.display()
        );
    }
    let got = sha256_file(&part)?;
    if got != archive.sha256 {
        std::fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
        bail!("{}: {}; removed", archive.url, wrong_digest(archive, &got));
    }
    std::fs::rename(&part, file).with_context(|| format!("cannot write {}", file.display()))
}

fn wrong_digest(archive: &Archive, got: &str) -> String {
    format!("not the right file: SHA-256 expected {}, got {got}", archive.sha256)
}

/// Why receiving stopped.
enum Failure {
    /// It would fail again.
    Final(anyhow::Error),
    /// Another attempt may go on.
    Connection(anyhow::Error),
}

/// One request, for what `output` lacks.
fn receive(
    archive: &Archive,
    output: &mut File,
    progress: &ProgressBar,
) -> std::result::Result<(), Failure> {
    let disk = |error: std::io::Error| Failure::Final(anyhow!(error).context("cannot write"));
    let connection = |error: anyhow::Error| Failure::Connection(error);
    let mut have = output.seek(SeekFrom::End(0)).map_err(disk)?;
    if have > archive.bytes {
        // More than the whole: of another file.
        output.set_len(0).map_err(disk)?;
        have = 0;
    }
    if have == archive.bytes {
        return Ok(());
    }
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        // What has come by then is kept, and the next try goes on from there.
        .timeout_recv_body(Some(Duration::from_secs(1800)))
        .build()
        .into();
    let mut request = agent.get(&archive.url);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let response = request.call().map_err(|error| connection(error.into()))?;
    let status = response.status().as_u16();
    let starts_at = |value: &str| -> Option<u64> {
        value.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
    };
    let range = response.headers().get("content-range").and_then(|v| v.to_str().ok());
    match status {
        // What was asked for.
        206 if have > 0 && range.and_then(starts_at) == Some(have) => {}
        // The whole file, by a server that does not know ranges.
        200 => have = 0,
        206 | 416 => {
            output.set_len(0).map_err(disk)?;
            return Err(connection(anyhow!("the server cannot go on from byte {have}")));
        }
        500.. => return Err(connection(anyhow!("HTTP status {status}"))),
        _ => {
            let error = anyhow!("{}: HTTP status {status}; --url names another place", archive.url);
            return Err(Failure::Final(error));
        }
    }
    output.set_len(have).map_err(disk)?;
    output.seek(SeekFrom::Start(have)).map_err(disk)?;
    progress.set_position(have);
    // One byte more than expected is enough to know that it is the wrong file.
    let mut body = response.into_body().into_reader().take(archive.bytes + 1 - have);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(connection(anyhow!(error).context("interrupted"))),
        };
        output.write_all(&buffer[..n]).map_err(disk)?;
        have += n as u64;
        progress.inc(n as u64);
    }
    if have < archive.bytes {
        return Err(connection(anyhow!("the connection ended early")));
    }
    Ok(())
}

/// Unpacks the files in the archive's folder into `out/<folder>`: first into a temporary
/// directory, which is renamed once the data in it has been read successfully.
pub fn unpack(archive: &Archive, file: &Path, out: &Path) -> Result<()> {
    let context = || format!("cannot write into {}", out.display());
    let temporary =
        tempfile::Builder::new().prefix(".unpack-").tempdir_in(out).with_context(context)?;
    let inner = temporary.path().join(&archive.folder);
    std::fs::create_dir(&inner).with_context(context)?;
    for_each_entry(file, &mut |path, entry| {
        // Only plain files directly in the folder: nothing else is part of the data sets.
        let Some((folder, name)) = path.split_once('/') else { return Ok(()) };
        let wanted = folder == archive.folder && !name.contains('/');
        if !wanted || !entry.header().entry_type().is_file() {
            return Ok(());
        }
        let size = entry.size();
        ensure!(size <= MAX_UNPACKED_BYTES, "'{path}' is {size} bytes long: refused");
        let mut target = File::create(inner.join(name)).with_context(context)?;
        std::io::copy(entry, &mut target).with_context(context)?;
        target.sync_all().with_context(context)
    })?;
    verify(&inner).with_context(|| format!("{}: unexpected contents", file.display()))?;
    std::fs::rename(&inner, out.join(&archive.folder)).with_context(context)
}
