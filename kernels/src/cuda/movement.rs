//! Launches the kernels of `movement.cu`.

use super::Cuda;
use crate::*;

/// [`Backend::permute`]
pub fn permute(cuda: &Cuda, args: &PermuteArgs, x: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "movement", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, x);
    Err(unsupported)
}

/// [`Backend::concat`]
pub fn concat(cuda: &Cuda, args: &ConcatArgs, xs: &[&Buffer]) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "movement", device: cuda.context.device, dtype: Dtype::F32 };
    let _ = (args, xs);
    Err(unsupported)
}

/// [`Backend::slice`]
pub fn slice(cuda: &Cuda, args: &SliceArgs, x: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "movement", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, x);
    Err(unsupported)
}

/// [`Backend::pad`]
pub fn pad(cuda: &Cuda, args: &PadArgs, x: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "movement", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, x);
    Err(unsupported)
}

/// [`Backend::gather_forward`]
pub fn gather_forward(
    cuda: &Cuda,
    args: &GatherArgs,
    x: &Buffer,
    indices: &Buffer,
) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "movement", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, x, indices);
    Err(unsupported)
}

/// [`Backend::gather_backward`]
pub fn gather_backward(
    cuda: &Cuda,
    args: &GatherArgs,
    indices: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "movement", device: cuda.context.device, dtype: indices.dtype() };
    let _ = (args, indices, dy);
    Err(unsupported)
}
