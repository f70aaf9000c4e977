//! Launches the kernels of `matmul.cu`.

use super::Cuda;
use crate::*;

/// [`Backend::matmul`]
pub fn matmul(
    cuda: &Cuda,
    args: &MatmulArgs,
    a: &Buffer,
    b: &Buffer,
    bias: Option<&Buffer>,
) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "matmul", device: cuda.context.device, dtype: a.dtype() };
    let _ = (args, a, b, bias);
    Err(unsupported)
}
