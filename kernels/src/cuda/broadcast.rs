//! Launches the kernels of `broadcast.cu`.

use super::Cuda;
use crate::*;

/// [`Backend::binary_forward`]
pub fn binary_forward(
    cuda: &Cuda,
    op: Binary,
    args: &BroadcastArgs,
    a: &Buffer,
    b: &Buffer,
) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "broadcast", device: cuda.context.device, dtype: a.dtype() };
    let _ = (op, args, a, b);
    Err(unsupported)
}

/// [`Backend::binary_backward`]
pub fn binary_backward(
    cuda: &Cuda,
    op: Binary,
    args: &BroadcastArgs,
    a: &Buffer,
    b: &Buffer,
    dy: &Buffer,
    needs: [bool; 2],
) -> Result<[Option<Buffer>; 2]> {
    let unsupported =
        Error::Unsupported { op: "broadcast", device: cuda.context.device, dtype: dy.dtype() };
    let _ = (op, args, a, b, needs);
    Err(unsupported)
}
