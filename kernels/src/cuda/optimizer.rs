//! Launches the kernels of `optimizer.cu`.

use super::Cuda;
use crate::*;

/// [`Backend::sgd_step`]
pub fn sgd_step(
    cuda: &Cuda,
    args: &SgdArgs,
    gradient_scale: Option<&Buffer>,
    parameters: &mut [SgdParameter<'_>],
) -> Result<()> {
    let unsupported =
        Error::Unsupported { op: "optimizer", device: cuda.context.device, dtype: Dtype::F32 };
    let _ = (args, gradient_scale, parameters);
    Err(unsupported)
}

/// [`Backend::adamw_step`]
pub fn adamw_step(
    cuda: &Cuda,
    args: &AdamWArgs,
    gradient_scale: Option<&Buffer>,
    parameters: &mut [AdamWParameter<'_>],
) -> Result<()> {
    let unsupported =
        Error::Unsupported { op: "optimizer", device: cuda.context.device, dtype: Dtype::F32 };
    let _ = (args, gradient_scale, parameters);
    Err(unsupported)
}
