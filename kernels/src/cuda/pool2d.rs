//! Launches the kernels of `pool2d.cu`.

use super::Cuda;
use crate::*;

/// [`Backend::max_pool2d_forward`]
pub fn max_forward(cuda: &Cuda, args: &Pool2dArgs, x: &Buffer) -> Result<(Buffer, Buffer)> {
    let unsupported =
        Error::Unsupported { op: "pool2d", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, x);
    Err(unsupported)
}

/// [`Backend::max_pool2d_backward`]
pub fn max_backward(
    cuda: &Cuda,
    args: &Pool2dArgs,
    positions: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "pool2d", device: cuda.context.device, dtype: positions.dtype() };
    let _ = (args, positions, dy);
    Err(unsupported)
}

/// [`Backend::avg_pool2d_forward`]
pub fn avg_forward(cuda: &Cuda, args: &Pool2dArgs, x: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "pool2d", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, x);
    Err(unsupported)
}

/// [`Backend::avg_pool2d_backward`]
pub fn avg_backward(cuda: &Cuda, args: &Pool2dArgs, dy: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "pool2d", device: cuda.context.device, dtype: dy.dtype() };
    let _ = (args, dy);
    Err(unsupported)
}
