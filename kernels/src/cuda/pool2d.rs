//! Launches the kernels of `pool2d.cu`.

use super::elementwise::singles;
use super::modules::POOL2D;
use super::{Cuda, Params};
use crate::{Buffer, Dtype, Pool2dArgs, Result};

/// `Pool2d` of the kernels.
fn sizes(args: &Pool2dArgs) -> Params {
    let Pool2dArgs { n, h, w, c, kernel, stride, padding, oh, ow } = *args;
    let ([ky, kx], [sy, sx], [py, px]) = (kernel, stride, padding);
    Params::new().words(&[n, h, w, c, oh, ow, ky, kx, sy, sx, py, px].map(|size| size as u64))
}

/// y, and the position of each y in its image, i32.
pub fn max_forward(cuda: &Cuda, args: &Pool2dArgs, x: &Buffer) -> Result<(Buffer, Buffer)> {
    const OP: &str = "max_pool2d";
    let (dtype, n) = (cuda.float(OP, x)?, args.y_elements());
    let x = cuda.input(OP, x, dtype, args.x_elements())?;
    let (y, positions) = (cuda.output(dtype, n)?, cuda.output(Dtype::I32, n)?);
    let params = sizes(args).value(x).value(y.pointer()).value(positions.pointer());
    let kernel = format!("max_pool2d_forward_{dtype}_gather");
    cuda.launch(OP, &POOL2D, &kernel, singles(n), params)?;
    Ok((y.done(), positions.done()))
}

/// dx from dy and the positions. A position outside its window gets nothing: no window would look there.
pub fn max_backward(
    cuda: &Cuda,
    args: &Pool2dArgs,
    positions: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    const OP: &str = "max_pool2d";
    let (dtype, n) = (cuda.float(OP, dy)?, args.x_elements());
    let positions = cuda.input(OP, positions, Dtype::I32, args.y_elements())?;
    let dy = cuda.input(OP, dy, dtype, args.y_elements())?;
    let dx = cuda.output(dtype, n)?;
    let params = sizes(args).value(positions).value(dy).value(dx.pointer());
    let kernel = format!("max_pool2d_backward_{dtype}_gather");
    cuda.launch(OP, &POOL2D, &kernel, singles(n), params)?;
    Ok(dx.done())
}

/// Mean over each window.
pub fn avg_forward(cuda: &Cuda, args: &Pool2dArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "avg_pool2d";
    let (dtype, n) = (cuda.float(OP, x)?, args.y_elements());
    let x = cuda.input(OP, x, dtype, args.x_elements())?;
    let y = cuda.output(dtype, n)?;
    let params = sizes(args).value(x).value(y.pointer());
    let kernel = format!("avg_pool2d_forward_{dtype}_gather");
    cuda.launch(OP, &POOL2D, &kernel, singles(n), params)?;
    Ok(y.done())
}

/// dx from dy.
pub fn avg_backward(cuda: &Cuda, args: &Pool2dArgs, dy: &Buffer) -> Result<Buffer> {
    const OP: &str = "avg_pool2d";
    let (dtype, n) = (cuda.float(OP, dy)?, args.x_elements());
    let dy = cuda.input(OP, dy, dtype, args.y_elements())?;
    let dx = cuda.output(dtype, n)?;
    let params = sizes(args).value(dy).value(dx.pointer());
    let kernel = format!("avg_pool2d_backward_{dtype}_gather");
    cuda.launch(OP, &POOL2D, &kernel, singles(n), params)?;
    Ok(dx.done())
}
