//! Launches the kernels of `batch_norm.cu`.

use super::Cuda;
use crate::*;

/// [`Backend::batch_norm_forward`]
pub fn forward(
    cuda: &Cuda,
    args: &BatchNormArgs,
    x: &Buffer,
    gamma: &Buffer,
    beta: &Buffer,
    residual: Option<&Buffer>,
) -> Result<BatchNormOutput> {
    let unsupported =
        Error::Unsupported { op: "batch_norm", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, x, gamma, beta, residual);
    Err(unsupported)
}

/// [`Backend::batch_norm_inference`]
pub fn inference(
    cuda: &Cuda,
    args: &BatchNormArgs,
    x: &Buffer,
    gamma: &Buffer,
    beta: &Buffer,
    mean: &Buffer,
    var: &Buffer,
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "batch_norm", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, x, gamma, beta, mean, var, residual);
    Err(unsupported)
}

/// [`Backend::batch_norm_backward`]
pub fn backward(
    cuda: &Cuda,
    args: &BatchNormArgs,
    x: &Buffer,
    y: Option<&Buffer>,
    gamma: &Buffer,
    mean: &Buffer,
    var: &Buffer,
    dy: &Buffer,
    residual: bool,
) -> Result<BatchNormGradients> {
    let unsupported =
        Error::Unsupported { op: "batch_norm", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, x, y, gamma, mean, var, dy, residual);
    Err(unsupported)
}

/// [`Backend::batch_norm_update_running`]
pub fn update_running(
    cuda: &Cuda,
    args: &BatchNormArgs,
    momentum: f64,
    running_mean: &mut Buffer,
    running_var: &mut Buffer,
    mean: &Buffer,
    var: &Buffer,
) -> Result<()> {
    let unsupported = Error::Unsupported {
        op: "batch_norm",
        device: cuda.context.device,
        dtype: running_mean.dtype(),
    };
    let _ = (args, momentum, running_mean, running_var, mean, var);
    Err(unsupported)
}
