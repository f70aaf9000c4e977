//! Launches the kernels of `conv2d.cu`.

use super::Cuda;
use crate::*;

/// [`Backend::conv2d_forward`]
pub fn forward(
    cuda: &Cuda,
    args: &Conv2dArgs,
    activation: Activation,
    x: &Buffer,
    filter: &Buffer,
    bias: Option<&Buffer>,
) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "conv2d", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, activation, x, filter, bias);
    Err(unsupported)
}

/// [`Backend::conv2d_inference`]
pub fn inference(
    cuda: &Cuda,
    args: &Conv2dArgs,
    activation: Activation,
    x: &Buffer,
    filter: &Buffer,
    bias: Option<&Buffer>,
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "conv2d", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, activation, x, filter, bias, residual);
    Err(unsupported)
}

/// [`Backend::conv2d_backward_data`]
pub fn backward_data(
    cuda: &Cuda,
    args: &Conv2dArgs,
    filter: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "conv2d", device: cuda.context.device, dtype: filter.dtype() };
    let _ = (args, filter, dy);
    Err(unsupported)
}

/// [`Backend::conv2d_backward_filter`]
pub fn backward_filter(cuda: &Cuda, args: &Conv2dArgs, x: &Buffer, dy: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "conv2d", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, x, dy);
    Err(unsupported)
}
