//! Tensors in a file: safetensors, with a checksum, written atomically.
//!
//! The format is 8 bytes of header length, a JSON header, and the elements of all tensors one after
//! the other. The header is written here, not by the `safetensors` crate, which keeps metadata in a
//! hash map: equal contents must make equal bytes. Reading, and with it the validation of untrusted
//! headers, is the crate's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

pub use safetensors::Dtype as FileDtype;
use safetensors::SafeTensors;
use serde::Serialize;
use tilegrad_engine::{Backend, Dtype, Tensor};

use crate::atomic_file::write_atomic;
use crate::error::{Error, Result};

/// Metadata entry that holds the checksum; present only in the file itself.
const CHECKSUM: &str = "checksum";

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
        let dtype = match x.dtype() {
            Dtype::F64 => FileDtype::F64,
            Dtype::F32 => FileDtype::F32,
            Dtype::F16 => FileDtype::F16,
            Dtype::BF16 => FileDtype::BF16,
            Dtype::I32 => FileDtype::I32,
            Dtype::I8 => FileDtype::I8,
            Dtype::U8 => FileDtype::U8,
        };
        let bytes = x.backend().download(x.buffer())?;
        Ok(TensorData { dtype, shape: x.shape().to_vec(), bytes })
    }

    /// Copies it to a device. `None` if its element type is not one of ours.
    pub fn to_tensor(&self, backend: &Arc<dyn Backend>) -> Option<tilegrad_engine::Result<Tensor>> {
        let dtype = match self.dtype {
            FileDtype::F64 => Dtype::F64,
            FileDtype::F32 => Dtype::F32,
            FileDtype::F16 => Dtype::F16,
            FileDtype::BF16 => Dtype::BF16,
            FileDtype::I32 => Dtype::I32,
            FileDtype::I8 => Dtype::I8,
            FileDtype::U8 => Dtype::U8,
            _ => return None,
        };
        let upload = || Tensor::new(backend, backend.upload(dtype, &self.bytes)?, &self.shape);
        Some(upload())
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

impl TensorFile {
    /// Writes the file; see [`write_atomic`] for what happens when that fails.
    pub fn save(&self, path: &Path) -> Result<()> {
        let order = self.order();
        let header = self.header(&order).map_err(|e| Error::Save {
            path: path.to_path_buf(),
            source: std::io::Error::other(e),
        })?;
        write_atomic(path, |writer| {
            writer.write_all(&(header.len() as u64).to_le_bytes())?;
            writer.write_all(&header)?;
            for name in &order {
                writer.write_all(&self.tensors[*name].bytes)?;
            }
            Ok(())
        })
    }

    /// Reads a file, and compares its checksum where it has one (a file from elsewhere has none).
    pub fn load(path: &Path) -> Result<Self> {
        let bytes =
            fs::read(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
        Self::parse(&bytes).map_err(|detail| Error::Corrupt { path: path.to_path_buf(), detail })
    }

    /// Names in the order of the file: wide elements first, so that all are aligned, then by name.
    fn order(&self) -> Vec<&str> {
        let mut order: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        order.sort_by_key(|name| std::cmp::Reverse(self.tensors[*name].dtype.bitsize()));
        order
    }

    fn header(&self, order: &[&str]) -> serde_json::Result<Vec<u8>> {
        let mut metadata = self.metadata.clone();
        metadata.insert(CHECKSUM.to_string(), self.checksum());
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".to_string(), serde_json::to_value(metadata)?);
        let mut offset = 0;
        for &name in order {
            let tensor = &self.tensors[name];
            let data_offsets = [offset, offset + tensor.bytes.len()];
            let entry = Entry { dtype: tensor.dtype, shape: &tensor.shape, data_offsets };
            header.insert(name.to_string(), serde_json::to_value(entry)?);
            offset = data_offsets[1];
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok(header)
    }

    /// The error is what is wrong, without the path.
    fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        if bytes.starts_with(b"PK\x03\x04") {
            return Err(
                "is a zip archive, as torch.save writes it, not a safetensors file; in Python, \
                        safetensors.torch.save_file(model.state_dict(), path) makes one"
                    .to_string(),
            );
        }
        let damaged = |e| format!("is not a whole safetensors file ({} bytes): {e}", bytes.len());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let mut file = TensorFile {
            metadata: header.metadata().clone().into_iter().flatten().collect(),
            tensors: tensors
                .iter()
                .map(|(name, view)| {
                    let (dtype, shape) = (view.dtype(), view.shape().to_vec());
                    (name.to_string(), TensorData { dtype, shape, bytes: view.data().to_vec() })
                })
                .collect(),
        };
        if let Some(expected) = file.metadata.remove(CHECKSUM) {
            let got = file.checksum();
            if got != expected {
                return Err(format!(
                    "is damaged: its contents have checksum {got}, but {expected} was saved"
                ));
            }
        }
        Ok(file)
    }

    /// FNV-1a (64 bits) of metadata, names, types, shapes and elements. It finds damage, not
    /// forgery.
    fn checksum(&self) -> String {
        let mut hash = Fnv1a::new();
        for (key, value) in self.metadata.iter().filter(|(key, _)| *key != CHECKSUM) {
            hash.text(key);
            hash.text(value);
        }
        for (name, tensor) in &self.tensors {
            hash.text(name);
            hash.text(&tensor.dtype.to_string());
            hash.text(&format!("{:?}", tensor.shape));
            hash.write(&tensor.bytes);
        }
        format!("fnv1a64:{:016x}", hash.0)
    }
}

/// Fowler, Noll and Vo's hash, 64 bits, variant 1a.
struct Fnv1a(u64);

impl Fnv1a {
    fn new() -> Self {
        Fnv1a(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// With an end mark, so that "ab" + "c" differs from "a" + "bc".
    fn text(&mut self, text: &str) {
        self.write(text.as_bytes());
        self.write(&[0xFF]);
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
    fn the_hash_is_fnv1a() {
        // Published with the algorithm: FNV-1a of "foobar".
        let mut hash = Fnv1a::new();
        hash.write(b"foobar");
        assert_eq!(hash.0, 0x8594_4171_f739_67e8);
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
            assert!(TensorFile::parse(&good[..length]).is_err(), "cut to {length} bytes");
        }
        for bit in 0..8 * good.len() {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A flip may turn one blank of the header's padding into another, or rename the
            // checksum's own key (then it reads as metadata): neither changes a tensor or another
            // entry.
            if let Ok(mut read) = TensorFile::parse(&bad) {
                let own = |(_, v): (&String, &String)| !v.starts_with("fnv1a64:");
                let kept: Vec<_> = read.metadata.iter().filter(|e| own(*e)).collect();
                assert_eq!(kept, example().metadata.iter().collect::<Vec<_>>(), "bit {bit}");
                read.metadata.clear();
                assert_eq!(read.tensors, example().tensors, "bit {bit}");
            }
        }
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        let error = TensorFile::load(&path).unwrap_err().to_string();
        assert!(error.contains("x.safetensors: is not a whole safetensors file"), "{error}");
    }

    #[test]
    fn a_torch_zip_is_named_as_such() {
        let error = TensorFile::parse(b"PK\x03\x04....").unwrap_err();
        assert!(error.contains("torch.save"), "{error}");
    }
}
