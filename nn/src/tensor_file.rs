//! Tensors in a file: safetensors, with a checksum, written atomically.
//!
//! The format is 8 bytes of header length, a JSON header, and the elements of all tensors one after
//! the other. The header is written here, not by the `safetensors` crate, which keeps metadata in a
//! hash map: equal contents must make equal bytes. Reading, and with it the validation of untrusted
//! headers, is the crate's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::hash::Hasher;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub use safetensors::Dtype as FileDtype;
use safetensors::SafeTensors;
use safetensors::tensor::TensorInfo;
use serde::Serialize;
use tilegrad_engine::{Backend, Dtype, Tensor};
use twox_hash::XxHash3_64;

use crate::atomic_file::write_atomic;
use crate::error::{Error, Result};

/// Metadata entry that holds the checksum; present only in the file itself.
const CHECKSUM: &str = "checksum";
/// How checksums begin that are not XXH3.
const OLD: &str = "fnv1a64:";

/// One tensor on the host, little-endian and row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorData {
    /// Element type.
    pub dtype: FileDtype,
    /// Sizes of the axes.
    pub shape: Vec<usize>,
    /// The elements.
    pub bytes: Vec<u8>,
}

impl TensorData {
    /// Copies a tensor from its device.
    pub fn from_tensor(x: &Tensor) -> tilegrad_engine::Result<Self> {
        let bytes = x.backend().download(x.buffer())?;
        Ok(TensorData { dtype: file_dtype(x.dtype()), shape: x.shape().to_vec(), bytes })
    }

    /// Copies it to a device. `None` if its element type is not one of ours.
    pub fn to_tensor(&self, backend: &Arc<dyn Backend>) -> Option<tilegrad_engine::Result<Tensor>> {
        to_tensor(self, backend)
    }
}

fn file_dtype(dtype: Dtype) -> FileDtype {
    match dtype {
        Dtype::F64 => FileDtype::F64,
        Dtype::F32 => FileDtype::F32,
        Dtype::F16 => FileDtype::F16,
        Dtype::BF16 => FileDtype::BF16,
        Dtype::I32 => FileDtype::I32,
        Dtype::I8 => FileDtype::I8,
        Dtype::U8 => FileDtype::U8,
    }
}

/// What can be written as a tensor.
pub(crate) trait Content {
    fn dtype(&self) -> FileDtype;
    fn shape(&self) -> &[usize];
    /// The elements, little-endian and row-major. It is asked for twice.
    fn bytes(&self) -> tilegrad_engine::Result<Cow<'_, [u8]>>;
}

impl Content for TensorData {
    fn dtype(&self) -> FileDtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn bytes(&self) -> tilegrad_engine::Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(&self.bytes))
    }
}

/// Copies a tensor to a device. `None` if its element type is not one of ours.
pub(crate) fn to_tensor(
    x: &impl Content,
    backend: &Arc<dyn Backend>,
) -> Option<tilegrad_engine::Result<Tensor>> {
    let dtype = match x.dtype() {
        FileDtype::F64 => Dtype::F64,
        FileDtype::F32 => Dtype::F32,
        FileDtype::F16 => Dtype::F16,
        FileDtype::BF16 => Dtype::BF16,
        FileDtype::I32 => Dtype::I32,
        FileDtype::I8 => Dtype::I8,
        FileDtype::U8 => Dtype::U8,
        _ => return None,
    };
    let upload = || Tensor::new(backend, backend.upload(dtype, &x.bytes()?)?, x.shape());
    Some(upload())
}

/// A tensor inside a file that was read as a whole.
#[derive(Clone)]
pub(crate) struct Slice {
    file: Arc<Vec<u8>>,
    range: Range<usize>,
    dtype: FileDtype,
    shape: Vec<usize>,
}

impl Content for Slice {
    fn dtype(&self) -> FileDtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn bytes(&self) -> tilegrad_engine::Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(&self.file[self.range.clone()]))
    }
}

/// A tensor on its device is copied when it is written: a file never lies in memory as a whole.
impl Content for Tensor {
    fn dtype(&self) -> FileDtype {
        file_dtype(Tensor::dtype(self))
    }

    fn shape(&self) -> &[usize] {
        Tensor::shape(self)
    }

    fn bytes(&self) -> tilegrad_engine::Result<Cow<'_, [u8]>> {
        Ok(Cow::Owned(self.backend().download(self.buffer())?))
    }
}

/// Contents of a safetensors file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorFile {
    /// Text by key.
    pub metadata: BTreeMap<String, String>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorData>,
}

/// A tensor's entry in the header.
#[derive(Serialize)]
struct Entry<'a> {
    dtype: FileDtype,
    shape: &'a [usize],
    data_offsets: [usize; 2],
}

/// Writes a file; see [`write_atomic`] for what happens when that fails.
pub(crate) fn save<T: Content>(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, T>,
) -> Result<()> {
    let order = order(tensors);
    let header = header(metadata, tensors, &order)?
        .map_err(|e| Error::Save { path: path.to_path_buf(), source: std::io::Error::other(e) })?;
    write_atomic(path, |writer| {
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(&header)?;
        for name in &order {
            writer.write_all(&tensors[*name].bytes().map_err(std::io::Error::other)?)?;
        }
        Ok(())
    })
}

/// Names in the order of the file: wide elements first, so that all are aligned, then by name.
fn order<T: Content>(tensors: &BTreeMap<String, T>) -> Vec<&str> {
    let mut order: Vec<&str> = tensors.keys().map(String::as_str).collect();
    order.sort_by_key(|name| std::cmp::Reverse(tensors[*name].dtype().bitsize()));
    order
}

/// The errors are those of copying a tensor, and of writing JSON.
fn header<T: Content>(
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, T>,
    order: &[&str],
) -> Result<serde_json::Result<Vec<u8>>> {
    let mut metadata = metadata.clone();
    metadata.insert(CHECKSUM.to_string(), checksum(&metadata, tensors)?);
    let write = || {
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".to_string(), serde_json::to_value(metadata)?);
        let mut offset = 0;
        for &name in order {
            let (dtype, shape) = (tensors[name].dtype(), tensors[name].shape());
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            let data_offsets = [offset, offset + bytes];
            let entry = Entry { dtype, shape, data_offsets };
            header.insert(name.to_string(), serde_json::to_value(entry)?);
            offset = data_offsets[1];
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok(header)
    };
    Ok(write())
}

/// XXH3 (64 bits) of metadata, names, types, shapes and elements. It finds damage, not forgery.
fn checksum<T: Content>(
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, T>,
) -> tilegrad_engine::Result<String> {
    Ok(format!("xxh3:{:016x}", hash(XxHash3_64::new(), metadata, tensors)?))
}

/// The checksum of files that were written before XXH3 was used.
fn old_checksum<T: Content>(
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, T>,
) -> tilegrad_engine::Result<String> {
    Ok(format!("{OLD}{:016x}", hash(Fnv1a(0xcbf2_9ce4_8422_2325), metadata, tensors)?))
}

fn hash<T: Content>(
    mut hash: impl Hasher,
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, T>,
) -> tilegrad_engine::Result<u64> {
    for (key, value) in metadata.iter().filter(|(key, _)| *key != CHECKSUM) {
        hash_text(&mut hash, key);
        hash_text(&mut hash, value);
    }
    for (name, tensor) in tensors {
        hash_text(&mut hash, name);
        hash_text(&mut hash, &tensor.dtype().to_string());
        hash_text(&mut hash, &format!("{:?}", tensor.shape()));
        hash.write(&tensor.bytes()?);
    }
    Ok(hash.finish())
}

impl TensorFile {
    /// Writes the file; see [`write_atomic`] for what happens when that fails.
    pub fn save(&self, path: &Path) -> Result<()> {
        save(path, &self.metadata, &self.tensors)
    }

    /// Reads a file, and compares its checksum where it has one (a file from elsewhere has none).
    pub fn load(path: &Path) -> Result<Self> {
        let (metadata, tensors) = read(path)?;
        let copy = |x: Slice| {
            let bytes = x.file[x.range.clone()].to_vec();
            TensorData { dtype: x.dtype, shape: x.shape, bytes }
        };
        let tensors = tensors.into_iter().map(|(name, x)| (name, copy(x))).collect();
        Ok(TensorFile { metadata, tensors })
    }
}

/// What a file holds: text by key, and tensors by name.
type Parts = (BTreeMap<String, String>, BTreeMap<String, Slice>);

/// As [`TensorFile::load`], without a copy of each tensor.
pub(crate) fn read(path: &Path) -> Result<Parts> {
    let bytes =
        fs::read(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    parse(bytes).map_err(|detail| Error::Corrupt { path: path.to_path_buf(), detail })
}

/// The error is what is wrong, without the path.
fn parse(bytes: Vec<u8>) -> std::result::Result<Parts, String> {
    if bytes.starts_with(b"PK\x03\x04") {
        return Err(
            "is a zip archive, as torch.save writes it, not a safetensors file; in Python, \
                    safetensors.torch.save_file(model.state_dict(), path) makes one"
                .to_string(),
        );
    }
    let file = Arc::new(bytes);
    let damaged = |e| format!("is not a whole safetensors file ({} bytes): {e}", file.len());
    let (header_len, header) = SafeTensors::read_metadata(&file).map_err(damaged)?;
    SafeTensors::deserialize(&file).map_err(damaged)?;
    let mut metadata: BTreeMap<String, String> =
        header.metadata().clone().into_iter().flatten().collect();
    // Elements begin after the header and the 8 bytes with its length.
    let start = size_of::<u64>() + header_len;
    let slice = |info: &TensorInfo| Slice {
        file: file.clone(),
        range: start + info.data_offsets.0..start + info.data_offsets.1,
        dtype: info.dtype,
        shape: info.shape.clone(),
    };
    let tensors = header.tensors().into_iter().map(|(name, info)| (name, slice(info))).collect();
    if let Some(expected) = metadata.remove(CHECKSUM) {
        let checksum = if expected.starts_with(OLD) { old_checksum } else { checksum };
        let got = checksum(&metadata, &tensors).map_err(|e| e.to_string())?;
        if got != expected {
            return Err(format!(
                "is damaged: its contents have checksum {got}, but {expected} was saved"
            ));
        }
    }
    Ok((metadata, tensors))
}

/// A text with an end mark, so that "ab" + "c" differs from "a" + "bc".
fn hash_text(hash: &mut impl Hasher, text: &str) {
    hash.write(text.as_bytes());
    hash.write(&[0xFF]);
}

/// Fowler, Noll and Vo's hash, 64 bits, variant 1a.
struct Fnv1a(u64);

impl Hasher for Fnv1a {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> TensorFile {
        let tensor = |dtype, shape: &[usize], bytes: &[u8]| TensorData {
            dtype,
            shape: shape.to_vec(),
            bytes: bytes.to_vec(),
        };
        TensorFile {
            metadata: BTreeMap::from([
                ("mean".into(), "0.49 \"q\"".into()),
                ("a".into(), "".into()),
            ]),
            tensors: BTreeMap::from([
                ("a.bytes".into(), tensor(FileDtype::U8, &[3], &[1, 2, 3])),
                ("b.empty".into(), tensor(FileDtype::F32, &[0, 4], &[])),
                ("c.count".into(), tensor(FileDtype::I64, &[], &7i64.to_le_bytes())),
                ("d.weight".into(), tensor(FileDtype::F32, &[1, 2], &[0, 0, 128, 63, 0, 0, 0, 64])),
            ]),
        }
    }

    #[test]
    fn files_with_the_old_checksum_are_read_and_verified() {
        // Published with the algorithm: FNV-1a of "foobar".
        let mut hash = Fnv1a(0xcbf2_9ce4_8422_2325);
        hash.write(b"foobar");
        assert_eq!(hash.finish(), 0x8594_4171_f739_67e8);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        example().save(&path).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let good = fs::read(&path).unwrap();
        let new = checksum(&example().metadata, &example().tensors).unwrap();
        let old = old_checksum(&example().metadata, &example().tensors).unwrap();
        let start = text(&good).find(&new).unwrap();
        let mut bytes = good.clone();
        bytes.splice(start..start + new.len(), old.bytes());
        let header =
            u64::from_le_bytes(bytes[..8].try_into().unwrap()) + (old.len() - new.len()) as u64;
        bytes[..8].copy_from_slice(&header.to_le_bytes());
        assert!(parse(bytes.clone()).is_ok());
        *bytes.last_mut().unwrap() ^= 1;
        assert!(parse(bytes).is_err());
    }

    #[test]
    fn a_file_round_trips_and_has_the_same_bytes_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        example().save(&a).unwrap();
        TensorFile::load(&a).unwrap().save(&b).unwrap();
        assert_eq!(TensorFile::load(&b).unwrap(), example());
        assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_of_the_contents_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        example().save(&path).unwrap();
        let good = fs::read(&path).unwrap();
        for length in 0..good.len() {
            assert!(parse(good[..length].to_vec()).is_err(), "cut to {length} bytes");
        }
        for bit in 0..8 * good.len() {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A flip may turn one blank of the header's padding into another, or rename the
            // checksum's own key (then it reads as metadata): neither changes a tensor or another
            // entry.
            fs::write(&path, &bad).unwrap();
            if let Ok(read) = TensorFile::load(&path) {
                let own = |(_, v): (&String, &String)| !v.starts_with("xxh3:");
                let kept: Vec<_> = read.metadata.iter().filter(|e| own(*e)).collect();
                assert_eq!(kept, example().metadata.iter().collect::<Vec<_>>(), "bit {bit}");
                assert_eq!(read.tensors, example().tensors, "bit {bit}");
            }
        }
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        let error = TensorFile::load(&path).unwrap_err().to_string();
        assert!(error.contains("x.safetensors: is not a whole safetensors file"), "{error}");
    }

    #[test]
    fn a_torch_zip_is_named_as_such() {
        let error = parse(b"PK\x03\x04....".to_vec()).err().unwrap();
        assert!(error.contains("torch.save"), "{error}");
    }
}
