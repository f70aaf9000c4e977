//! Launches the kernels of `softmax.cu`.

use super::Cuda;
use crate::*;

/// [`Backend::softmax_forward`]
pub fn forward(cuda: &Cuda, rows: Rows, x: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "softmax", device: cuda.context.device, dtype: x.dtype() };
    let _ = (rows, x);
    Err(unsupported)
}

/// [`Backend::softmax_backward`]
pub fn backward(cuda: &Cuda, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "softmax", device: cuda.context.device, dtype: y.dtype() };
    let _ = (rows, y, dy);
    Err(unsupported)
}

/// [`Backend::log_softmax_forward`]
pub fn log_forward(cuda: &Cuda, rows: Rows, x: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "softmax", device: cuda.context.device, dtype: x.dtype() };
    let _ = (rows, x);
    Err(unsupported)
}

/// [`Backend::log_softmax_backward`]
pub fn log_backward(cuda: &Cuda, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "softmax", device: cuda.context.device, dtype: y.dtype() };
    let _ = (rows, y, dy);
    Err(unsupported)
}
