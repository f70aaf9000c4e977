//! Launches the kernels of `pool2d.wgsl`.

use super::elementwise::singles;
use super::pipelines::POOL2D;
use super::{Kernel, Params, Read, Wgpu, Write};
use crate::{Buffer, Dtype, Pool2dArgs, Result};

/// `Params` of the kernels.
fn sizes(args: &Pool2dArgs) -> Params {
    let Pool2dArgs { n, h, w, c, kernel, stride, padding, oh, ow } = *args;
    let ([ky, kx], [sy, sx], [py, px]) = (kernel, stride, padding);
    Params::new().sizes(&[n, h, w, c, oh, ow, ky, kx, sy, sx, py, px])
}

/// y, and the position of each y in its image, i32.
pub fn max_forward(wgpu: &Wgpu, args: &Pool2dArgs, x: &Buffer) -> Result<(Buffer, Buffer)> {
    const OP: &str = "max_pool2d";
    let (dtype, n) = (wgpu.float(OP, x)?, args.y_elements());
    let x = wgpu.input(OP, x, dtype, args.x_elements())?;
    let (y, positions) = (wgpu.output(OP, dtype, n)?, wgpu.output(OP, Dtype::I32, n)?);
    let kernel = Kernel::new(&POOL2D, "max_pool2d_forward", dtype);
    let buffers = [Read(x), Write(&y.memory), Write(&positions.memory)];
    wgpu.launch(OP, kernel, singles(n), sizes(args), &buffers)?;
    Ok((y.done(), positions.done()))
}

/// dx from dy and the positions. A position outside its window gets nothing: no window would look there.
pub fn max_backward(
    wgpu: &Wgpu,
    args: &Pool2dArgs,
    positions: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    const OP: &str = "max_pool2d";
    let (dtype, n) = (wgpu.float(OP, dy)?, args.x_elements());
    let positions = wgpu.input(OP, positions, Dtype::I32, args.y_elements())?;
    let dy = wgpu.input(OP, dy, dtype, args.y_elements())?;
    let dx = wgpu.output(OP, dtype, n)?;
    let kernel = Kernel::new(&POOL2D, "max_pool2d_backward", dtype);
    let buffers = [Read(dy), Write(&dx.memory), Read(positions)];
    wgpu.launch(OP, kernel, singles(n), sizes(args), &buffers)?;
    Ok(dx.done())
}

/// Mean over each window.
pub fn avg_forward(wgpu: &Wgpu, args: &Pool2dArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "avg_pool2d";
    let (dtype, n) = (wgpu.float(OP, x)?, args.y_elements());
    let x = wgpu.input(OP, x, dtype, args.x_elements())?;
    let y = wgpu.output(OP, dtype, n)?;
    let kernel = Kernel::new(&POOL2D, "avg_pool2d_forward", dtype);
    wgpu.launch(OP, kernel, singles(n), sizes(args), &[Read(x), Write(&y.memory)])?;
    Ok(y.done())
}

/// dx from dy.
pub fn avg_backward(wgpu: &Wgpu, args: &Pool2dArgs, dy: &Buffer) -> Result<Buffer> {
    const OP: &str = "avg_pool2d";
    let (dtype, n) = (wgpu.float(OP, dy)?, args.x_elements());
    let dy = wgpu.input(OP, dy, dtype, args.y_elements())?;
    let dx = wgpu.output(OP, dtype, n)?;
    let kernel = Kernel::new(&POOL2D, "avg_pool2d_backward", dtype);
    wgpu.launch(OP, kernel, singles(n), sizes(args), &[Read(dy), Write(&dx.memory)])?;
    Ok(dx.done())
}
