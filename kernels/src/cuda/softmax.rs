//! Launches the kernels of `softmax.cu`: softmax and log-softmax over rows.

use super::elementwise::singles;
use super::modules::SOFTMAX;
use super::{Cuda, Grid, Params};
use crate::{Buffer, Result, Rows};

/// Rows, and so warps, of a block.
const ROWS: usize = 4;

/// A warp for each row.
pub fn warps(rows: usize) -> Grid {
    Grid::blocks([rows.div_ceil(ROWS), 1, 1], [32, ROWS as u32, 1])
}

/// The rung of the ladder to take, and its grid.
fn rung(cuda: &Cuda, rows: usize) -> (&'static str, Grid) {
    if cuda.first_rung { ("thread", singles(rows)) } else { ("warp", warps(rows)) }
}

fn run_forward(cuda: &Cuda, op: &'static str, rows: Rows, x: &Buffer) -> Result<Buffer> {
    let dtype = cuda.float(op, x)?;
    let px = cuda.input(op, x, dtype, rows.elements())?;
    let y = cuda.output(dtype, rows.elements())?;
    let params = Params::new().size(rows.count).size(rows.len).value(px).value(y.pointer());
    let (rung, grid) = rung(cuda, rows.count);
    cuda.launch(op, &SOFTMAX, &format!("{op}_forward_{dtype}_{rung}"), grid, params)?;
    Ok(y.done())
}

fn run_backward(
    cuda: &Cuda,
    op: &'static str,
    rows: Rows,
    y: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    let (dtype, n) = (cuda.float(op, dy)?, rows.elements());
    let (y, dy) = (cuda.input(op, y, dtype, n)?, cuda.input(op, dy, dtype, n)?);
    let dx = cuda.output(dtype, n)?;
    let params = Params::new().size(rows.count).size(rows.len);
    let params = params.value(y).value(dy).value(dx.pointer());
    let (rung, grid) = rung(cuda, rows.count);
    cuda.launch(op, &SOFTMAX, &format!("{op}_backward_{dtype}_{rung}"), grid, params)?;
    Ok(dx.done())
}

/// y = softmax(x) over each row.
pub fn forward(cuda: &Cuda, rows: Rows, x: &Buffer) -> Result<Buffer> {
    run_forward(cuda, "softmax", rows, x)
}

/// dx from y and dy.
pub fn backward(cuda: &Cuda, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
    run_backward(cuda, "softmax", rows, y, dy)
}

/// y = log softmax(x) over each row.
pub fn log_forward(cuda: &Cuda, rows: Rows, x: &Buffer) -> Result<Buffer> {
    run_forward(cuda, "log_softmax", rows, x)
}

/// dx from y and dy.
pub fn log_backward(cuda: &Cuda, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
    run_backward(cuda, "log_softmax", rows, y, dy)
}
