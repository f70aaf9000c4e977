//! Launches the kernels of `reduce.cu`.

use super::Cuda;
use crate::*;

/// [`Backend::reduce_forward`]
pub fn forward(cuda: &Cuda, op: Reduce, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "reduce", device: cuda.context.device, dtype: x.dtype() };
    let _ = (op, args, x);
    Err(unsupported)
}

/// [`Backend::reduce_backward`]
pub fn backward(
    cuda: &Cuda,
    op: Reduce,
    args: &ReduceArgs,
    saved: Option<(&Buffer, &Buffer)>,
    dy: &Buffer,
) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "reduce", device: cuda.context.device, dtype: dy.dtype() };
    let _ = (op, args, saved, dy);
    Err(unsupported)
}

/// [`Backend::argmax`]
pub fn argmax(cuda: &Cuda, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "reduce", device: cuda.context.device, dtype: x.dtype() };
    let _ = (args, x);
    Err(unsupported)
}

/// [`Backend::sum_squares`]
pub fn sum_squares(cuda: &Cuda, x: &Buffer) -> Result<Buffer> {
    let unsupported =
        Error::Unsupported { op: "reduce", device: cuda.context.device, dtype: x.dtype() };
    let _ = (x,);
    Err(unsupported)
}
