//! Launches the kernels of `softmax.wgsl`: softmax and log-softmax over rows.

use super::elementwise::singles;
use super::pipelines::SOFTMAX;
use super::{Grid, Kernel, Params, Read, Wgpu, Write};
use crate::{Buffer, Result, Rows};

/// Rows of a workgroup with 32 threads each.
const ROWS: usize = 4;

/// Up to this many elements, a row is left to one thread.
const SHORT: usize = 32;

/// 32 threads for each row.
pub fn lanes(rows: usize) -> Grid {
    Grid::Line(rows.div_ceil(ROWS))
}

/// Whether to take the first rung of the ladder.
fn is_thread(wgpu: &Wgpu, rows: Rows) -> bool {
    wgpu.options.first_rung || rows.len <= SHORT
}

/// `LOG` of the kernels.
fn constants(log: bool) -> [(&'static str, u32); 1] {
    [("LOG", u32::from(log))]
}

fn run_forward(wgpu: &Wgpu, op: &'static str, log: bool, rows: Rows, x: &Buffer) -> Result<Buffer> {
    let dtype = wgpu.float(op, x)?;
    let x = wgpu.input(op, x, dtype, rows.elements())?;
    let y = wgpu.output(op, dtype, rows.elements())?;
    let (entry, grid) = match is_thread(wgpu, rows) {
        true => ("softmax_forward_thread", singles(rows.count)),
        false => ("softmax_forward_lanes", lanes(rows.count)),
    };
    let constants = constants(log);
    let kernel = Kernel::new(&SOFTMAX, entry, dtype).with(&constants);
    let params = Params::new().sizes(&[rows.count, rows.len]);
    wgpu.launch(op, kernel, grid, params, &[Read(x), Write(&y.memory)])?;
    Ok(y.done())
}

fn run_backward(
    wgpu: &Wgpu,
    op: &'static str,
    log: bool,
    rows: Rows,
    y: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    let (dtype, n) = (wgpu.float(op, dy)?, rows.elements());
    let (y, dy) = (wgpu.input(op, y, dtype, n)?, wgpu.input(op, dy, dtype, n)?);
    let dx = wgpu.output(op, dtype, n)?;
    let (entry, grid) = match is_thread(wgpu, rows) {
        true => ("softmax_backward_thread", singles(rows.count)),
        false => ("softmax_backward_lanes", lanes(rows.count)),
    };
    let constants = constants(log);
    let kernel = Kernel::new(&SOFTMAX, entry, dtype).with(&constants);
    let params = Params::new().sizes(&[rows.count, rows.len]);
    wgpu.launch(op, kernel, grid, params, &[Read(y), Read(dy), Write(&dx.memory)])?;
    Ok(dx.done())
}

/// y = softmax(x) over each row.
pub fn forward(wgpu: &Wgpu, rows: Rows, x: &Buffer) -> Result<Buffer> {
    run_forward(wgpu, "softmax", false, rows, x)
}

/// dx from y and dy.
pub fn backward(wgpu: &Wgpu, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
    run_backward(wgpu, "softmax", false, rows, y, dy)
}

/// y = log softmax(x) over each row.
pub fn log_forward(wgpu: &Wgpu, rows: Rows, x: &Buffer) -> Result<Buffer> {
    run_forward(wgpu, "log_softmax", true, rows, x)
}

/// dx from y and dy.
pub fn log_backward(wgpu: &Wgpu, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
    run_backward(wgpu, "log_softmax", true, rows, y, dy)
}
