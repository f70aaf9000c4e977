//! Launches the kernels of `dropout.cu`.

use super::elementwise::vectors;
use super::modules::DROPOUT;
use super::{Cuda, Params};
use crate::{Buffer, DropoutArgs, Result};

/// y[i] = x[i] / (1 - p) where word i of the stream reaches the threshold, else 0.
pub fn dropout(cuda: &Cuda, args: &DropoutArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "dropout";
    let (dtype, n) = (cuda.float(OP, x)?, args.len);
    let x = cuda.input(OP, x, dtype, n)?;
    let y = cuda.output(dtype, n)?;
    let ([k0, k1], [c1, c2, c3]) = (args.stream.key, args.stream.counter);
    let params = Params::new().size(n).value([k0, k1, c1, c2, c3]).value(args.threshold());
    let params = params.float(args.scale()).value(cuda.pool.recorded_steps());
    let params = params.value(x).value(y.pointer());
    cuda.launch(OP, &DROPOUT, &format!("dropout_{dtype}_vector4"), vectors(n), params)?;
    Ok(y.done())
}
