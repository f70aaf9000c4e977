//! PyTorch state dicts, as safetensors.
//!
//! Names are equal; two things differ, and [`convert`] is the one place that knows them. PyTorch's
//! images are channels first (NCHW), ours are channels last (NHWC). So
//!
//! - a filter is `[c_out, c_in, kh, kw]` there and `[c_out, kh, kw, c_in]` here;
//! - a linear layer that reads a flattened image has its inputs in the order (c, h, w) there and
//!   (h, w, c) here. With its weight seen as `[outputs, h, w, c]`, this is the same permutation.
//!
//! `num_batches_tracked`, which PyTorch keeps beside running statistics, is ignored on the way in
//! and written as 0.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::module::Module;
use crate::state;
use crate::tensor_file::{FileDtype, TensorData, TensorFile};

/// Which way to convert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From channels last to channels first.
    ToTorch,
    /// From channels first to channels last.
    FromTorch,
}

const COUNTER: &str = "num_batches_tracked";

/// The parameters of `model` as PyTorch has them: `load_state_dict(.., strict=True)` takes them.
pub fn state_dict(model: &dyn Module) -> Result<BTreeMap<String, TensorData>> {
    let mut dict = BTreeMap::new();
    let flattened = model.flattened();
    for (name, data) in state::tensors(model)? {
        if let Some(prefix) = name.strip_suffix("running_mean") {
            let bytes = 0i64.to_le_bytes().to_vec();
            let counter = TensorData { dtype: FileDtype::I64, shape: Vec::new(), bytes };
            dict.insert(format!("{prefix}{COUNTER}"), counter);
        }
        dict.insert(name.clone(), convert(&name, data, &flattened, Direction::ToTorch));
    }
    Ok(dict)
}

/// Sets the parameters of `model` from a PyTorch state dict, as strictly as [`state::load`].
pub fn load_state_dict(
    model: &dyn Module,
    dict: BTreeMap<String, TensorData>,
    origin: &str,
) -> Result<()> {
    let flattened = model.flattened();
    // Shapes are checked before the conversion, so that errors show PyTorch's shapes, as the file
    // has them.
    for (name, parameter) in model.parameters() {
        if let Some(data) = dict.get(&name) {
            let expected = torch_shape(&name, &parameter.shape(), &flattened);
            if data.shape != expected {
                let (origin, got) = (origin.to_string(), data.shape.clone());
                return Err(Error::TensorShape { origin, name, expected, got });
            }
        }
    }
    let ours = dict
        .into_iter()
        .filter(|(name, _)| name.rsplit('.').next() != Some(COUNTER))
        .map(|(name, data)| {
            let data = convert(&name, data, &flattened, Direction::FromTorch);
            (name, data)
        })
        .collect();
    state::load(model, &ours, origin)
}

/// Writes a PyTorch state dict: `model.load_state_dict(safetensors.torch.load_file(path))`.
/// `metadata` goes beside the tensors; PyTorch passes over it.
pub fn save(
    model: &dyn Module,
    path: impl AsRef<Path>,
    mut metadata: BTreeMap<String, String>,
) -> Result<()> {
    metadata.insert("format".to_string(), "pt".to_string());
    TensorFile { metadata, tensors: state_dict(model)? }.save(path.as_ref())
}

/// Reads a PyTorch state dict: `safetensors.torch.save_file(model.state_dict(), path)`.
pub fn load(model: &dyn Module, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    load_state_dict(model, TensorFile::load(path)?.tensors, &path.display().to_string())
}

/// PyTorch's shape of the tensor that has shape `ours` here.
fn torch_shape(name: &str, ours: &[usize], flattened: &[(String, [usize; 3])]) -> Vec<usize> {
    match ours {
        &[o, h, w, c] if !flattened.iter().any(|(n, _)| n == name) => vec![o, c, h, w],
        _ => ours.to_vec(),
    }
}

/// Converts one tensor between the two layouts. Tensors that are neither filters nor in `flattened`
/// (see [`Module::flattened`]) stay as they are.
pub fn convert(
    name: &str,
    data: TensorData,
    flattened: &[(String, [usize; 3])],
    direction: Direction,
) -> TensorData {
    let image = flattened.iter().find(|(n, _)| n == name).map(|&(_, hwc)| hwc);
    // The tensor seen with 4 axes in its present layout, and the shape that it gets.
    let (view, shape) = match (direction, image, data.shape.as_slice()) {
        (Direction::ToTorch, Some([h, w, c]), &[o, inputs]) if inputs == h * w * c => {
            ([o, h, w, c], data.shape.clone())
        }
        (Direction::FromTorch, Some([h, w, c]), &[o, inputs]) if inputs == h * w * c => {
            ([o, c, h, w], data.shape.clone())
        }
        (Direction::ToTorch, None, &[o, h, w, c]) => ([o, h, w, c], vec![o, c, h, w]),
        (Direction::FromTorch, None, &[o, c, h, w]) => ([o, c, h, w], vec![o, h, w, c]),
        _ => return data,
    };
    let permutation = match direction {
        Direction::ToTorch => [0, 3, 1, 2],
        Direction::FromTorch => [0, 2, 3, 1],
    };
    let bytes = permute4(&data.bytes, view, permutation, data.dtype.bitsize() / 8);
    TensorData { dtype: data.dtype, shape, bytes }
}

/// Axis i of the result is axis `permutation[i]` of `x`, whose elements are `size` bytes.
fn permute4(x: &[u8], shape: [usize; 4], permutation: [usize; 4], size: usize) -> Vec<u8> {
    let strides = [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1];
    let [s0, s1, s2, s3] = permutation.map(|p| strides[p]);
    let [n0, n1, n2, n3] = permutation.map(|p| shape[p]);
    let mut y = Vec::with_capacity(x.len());
    for i0 in 0..n0 {
        for i1 in 0..n1 {
            for i2 in 0..n2 {
                for i3 in 0..n3 {
                    let at = size * (i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3);
                    y.extend_from_slice(&x[at..at + size]);
                }
            }
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(shape: &[usize], elements: &[u8]) -> TensorData {
        TensorData { dtype: FileDtype::U8, shape: shape.to_vec(), bytes: elements.to_vec() }
    }

    #[test]
    fn a_filter_moves_its_channels_and_back() {
        // [c_out 1, kh 1, kw 2, c_in 3]: taps (0, 1), channels a b c
        let ours = bytes(
            &[1, 1, 2, 3],
            b"a0b0c0a1b1c1".chunks(2).map(|p| p[0] + p[1] - b'0').collect::<Vec<_>>().as_slice(),
        );
        let theirs = convert("w", ours.clone(), &[], Direction::ToTorch);
        assert_eq!(theirs.shape, [1, 3, 1, 2]);
        assert_eq!(theirs.bytes, b"abbccd"); // channel a: taps a, a+1; b: b, b+1; c: c, c+1
        assert_eq!(convert("w", theirs, &[], Direction::FromTorch), ours);
    }

    #[test]
    fn the_linear_layer_after_a_flatten_is_permuted_and_others_are_not() {
        let flattened = [("fc.weight".to_string(), [1, 2, 2])]; // h 1, w 2, c 2
        let ours = bytes(&[2, 4], b"abcdefgh"); // (w0 c0) (w0 c1) (w1 c0) (w1 c1)
        let theirs = convert("fc.weight", ours.clone(), &flattened, Direction::ToTorch);
        assert_eq!(
            (theirs.shape.as_slice(), theirs.bytes.as_slice()),
            (&[2, 4][..], &b"acbdegfh"[..])
        );
        assert_eq!(convert("fc.weight", theirs, &flattened, Direction::FromTorch), ours);
        assert_eq!(convert("other.weight", ours.clone(), &flattened, Direction::ToTorch), ours);
    }
}
