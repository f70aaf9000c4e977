//! Launches the kernel of `dropout.wgsl`.

use super::elementwise::vectors;
use super::pipelines::DROPOUT;
use super::{Kernel, Params, Read, Wgpu, Write};
use crate::{Buffer, DropoutArgs, Result};

/// y[i] = x[i] / (1 - p) where word i of the stream reaches the threshold, else 0.
pub fn dropout(wgpu: &Wgpu, args: &DropoutArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "dropout";
    let (dtype, n) = (wgpu.float(OP, x)?, args.len);
    let x = wgpu.input(OP, x, dtype, n)?;
    let y = wgpu.output(OP, dtype, n)?;
    let ([k0, k1], [c1, c2, c3]) = (args.stream.key, args.stream.counter);
    let words = [k0, k1, c1, c2, c3, args.threshold()];
    let params = words.into_iter().fold(Params::new().size(n.div_ceil(4)), Params::word);
    let kernel = Kernel::new(&DROPOUT, "dropout", dtype);
    let buffers = [Read(x), Write(&y.memory)];
    wgpu.launch(OP, kernel, vectors(n), params.float(args.scale()), &buffers)?;
    Ok(y.done())
}
