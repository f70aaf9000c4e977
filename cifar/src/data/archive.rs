//! Image files out of a folder or a tar (plain, gzip or xz), one after another.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path};

use anyhow::{Context, Result, bail, ensure};

/// Largest image file that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Folders deeper than this below the given one are not searched, which also ends loops of links.
const MAX_DEPTH: usize = 6;

/// An entry of a tar, whatever it was compressed with.
pub(crate) type TarEntry<'a> = tar::Entry<'a, Box<dyn Read>>;

/// One image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Path inside the folder or archive, its parts joined by '/'.
    pub path: String,
    /// The undecoded file, or why it cannot be had.
    pub bytes: Result<Vec<u8>, String>,
}

/// Calls `visit` for each JPEG or PNG file (by its name) of a folder or tar. Returns how many
/// other files it passed over; hidden ones are not counted.
///
/// Errors: a source that is neither; a damaged archive; an archive with an entry that would lie
/// outside it.
pub fn visit_images(
    source: &Path,
    visit: &mut dyn FnMut(ImageFile) -> Result<()>,
) -> Result<usize> {
    let metadata =
        std::fs::metadata(source).with_context(|| format!("cannot read {}", source.display()))?;
    if metadata.is_dir() {
        let mut others = 0;
        visit_folder(source, "", 0, &mut others, visit)?;
        return Ok(others);
    }
    visit_entries(source, &mut |path, entry| {
        let size = entry.size();
        let bytes = if size > MAX_FILE_BYTES {
            Err(format!("{size} bytes are more than the limit of {MAX_FILE_BYTES}"))
        } else {
            let mut bytes = Vec::with_capacity(size as usize);
            entry.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        visit(ImageFile { path: path.to_string(), bytes })
    })
}

fn visit_folder(
    folder: &Path,
    prefix: &str,
    depth: usize,
    others: &mut usize,
    visit: &mut dyn FnMut(ImageFile) -> Result<()>,
) -> Result<()> {
    let context = || format!("cannot read {}", folder.display());
    let mut entries = folder
        .read_dir()
        .and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>())
        .with_context(context)?;
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            bail!("{}: the name is not valid UTF-8", entry.path().display());
        };
        if name.starts_with('.') {
            continue;
        }
        let path = format!("{prefix}{name}");
        // A link to a folder or file counts as what it points to.
        let metadata = std::fs::metadata(entry.path());
        match metadata {
            Ok(m) if m.is_dir() => {
                if depth < MAX_DEPTH {
                    visit_folder(&entry.path(), &format!("{path}/"), depth + 1, others, visit)?;
                }
            }
            Ok(m) if is_image_name(name) => {
                let bytes = if m.len() > MAX_FILE_BYTES {
                    Err(format!("{} bytes are more than the limit of {MAX_FILE_BYTES}", m.len()))
                } else {
                    std::fs::read(entry.path()).map_err(|e| e.to_string())
                };
                visit(ImageFile { path, bytes })?;
            }
            Err(error) if is_image_name(name) => {
                visit(ImageFile { path, bytes: Err(error.to_string()) })?;
            }
            _ => *others += 1,
        }
    }
    Ok(())
}

/// Calls `visit` for each regular image file in a tar; returns how many other files there are.
fn visit_entries(
    tar: &Path,
    visit: &mut dyn FnMut(&str, &mut TarEntry<'_>) -> Result<()>,
) -> Result<usize> {
    let mut others = 0;
    for_each_entry(tar, &mut |path, entry| {
        let name = path.rsplit('/').next().unwrap_or(path);
        if !name.starts_with('.') {
            if entry.header().entry_type().is_file() && is_image_name(name) {
                return visit(path, entry);
            }
            others += 1;
        }
        Ok(())
    })?;
    Ok(others)
}

/// Calls `visit` with path and entry for everything but folders in a tar that may be compressed.
pub(crate) fn for_each_entry(
    tar: &Path,
    visit: &mut dyn FnMut(&str, &mut TarEntry<'_>) -> Result<()>,
) -> Result<()> {
    let mut archive = tar::Archive::new(open(tar)?);
    let damaged = || format!("{}: damaged archive", tar.display());
    for entry in archive.entries().with_context(damaged)? {
        let mut entry = entry.with_context(damaged)?;
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            continue;
        }
        let path = entry.path().with_context(damaged)?;
        let path = inner_path(&path).with_context(|| format!("{}", tar.display()))?;
        visit(&path, &mut entry).with_context(damaged)?;
    }
    Ok(())
}

/// The parts of an entry's path joined by '/'; refused if it leaves the archive.
fn inner_path(path: &Path) -> Result<String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => match part.to_str() {
                Some(part) => parts.push(part),
                None => bail!("entry '{}': the name is not valid UTF-8", path.display()),
            },
            _ => bail!("entry '{}' lies outside the archive: refused", path.display()),
        }
    }
    Ok(parts.join("/"))
}

/// Opens a tar, decompressing by what its first bytes say.
fn open(path: &Path) -> Result<Box<dyn Read>> {
    let context = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(context)?;
    let mut head = Vec::new();
    (&mut file).take(512).read_to_end(&mut head).with_context(context)?;
    file.seek(SeekFrom::Start(0)).with_context(context)?;
    let file = BufReader::with_capacity(1 << 18, file);
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file))));
    }
    if head.starts_with(b"\xfd7zXZ\0") {
        return Ok(Box::new(BufReader::new(lzma_rust2::XzReader::new(file, true))));
    }
    let is_tar = head.len() == 512 && (&head[257..262] == b"ustar" || plausible_old_tar(&head));
    ensure!(is_tar, "{}: neither a folder nor a tar (plain, .gz or .xz)", path.display());
    Ok(Box::new(file))
}

/// A header without the magic of later tars has at least the right checksum.
fn plausible_old_tar(head: &[u8]) -> bool {
    let stored = std::str::from_utf8(&head[148..156]).unwrap_or("");
    let stored = stored.trim_matches(|c: char| c == '\0' || c == ' ');
    let sum: u32 =
        (0..512).map(|i| if (148..156).contains(&i) { 32 } else { head[i] as u32 }).sum();
    u32::from_str_radix(stored, 8) == Ok(sum)
}

/// Whether a file's name ends like a JPEG's or a PNG's.
fn is_image_name(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase());
    matches!(extension.as_deref(), Some("jpg" | "jpeg" | "png"))
}
