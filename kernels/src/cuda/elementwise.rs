//! Launches the kernels of `elementwise.cu`: functions of one input.

use super::modules::ELEMENTWISE;
use super::{Cuda, Grid, Params};
use crate::{Buffer, Result, Saves, Unary};

/// Threads a block of kernels without shared memory.
const BLOCK: u32 = 256;

/// Elements a thread.
const VECTOR: usize = 4;

/// A thread for every 4 of `n` elements.
pub fn vectors(n: usize) -> Grid {
    Grid::linear(n.div_ceil(VECTOR), BLOCK)
}

/// A thread for each of `n` elements.
pub fn singles(n: usize) -> Grid {
    Grid::linear(n, BLOCK)
}

/// a and b of the kernels: the constants of an op.
fn constants(op: Unary) -> (f64, f64) {
    match op {
        Unary::Affine { scale, shift } => (scale, shift),
        Unary::LeakyRelu { slope } => (slope, 0.0),
        _ => (0.0, 0.0),
    }
}

/// y = op(x); x, y `[n]`.
pub fn unary_forward(cuda: &Cuda, op: Unary, x: &Buffer) -> Result<Buffer> {
    let (name, dtype, n) = (op.name(), cuda.float(op.name(), x)?, x.len());
    let (a, b) = constants(op);
    let px = cuda.input(name, x, dtype, n)?;
    let y = cuda.output(dtype, n)?;
    let params = Params::new().size(n).value(px).value(y.pointer()).float(a).float(b);
    let kernel = format!("{name}_forward_{dtype}_vector4");
    cuda.launch(name, &ELEMENTWISE, &kernel, vectors(n), params)?;
    Ok(y.done())
}

/// dx = dy op'(x); saved, dy, dx `[n]`.
pub fn unary_backward(cuda: &Cuda, op: Unary, saved: &Buffer, dy: &Buffer) -> Result<Buffer> {
    let (name, dtype, n) = (op.name(), cuda.float(op.name(), dy)?, dy.len());
    let saved = if op.saves() == Saves::Nothing { dy } else { saved };
    let (saved, dy) = (cuda.input(name, saved, dtype, n)?, cuda.input(name, dy, dtype, n)?);
    let dx = cuda.output(dtype, n)?;
    let params = Params::new().size(n).value(saved).value(dy).value(dx.pointer());
    let params = params.float(constants(op).0);
    let kernel = format!("{name}_backward_{dtype}_vector4");
    cuda.launch(name, &ELEMENTWISE, &kernel, vectors(n), params)?;
    Ok(dx.done())
}

/// into += x; both `[n]`.
pub fn accumulate(cuda: &Cuda, into: &mut Buffer, x: &Buffer) -> Result<()> {
    const OP: &str = "accumulate";
    let (dtype, n) = (cuda.float(OP, into)?, into.len());
    let x = cuda.input(OP, x, dtype, n)?;
    let into = cuda.update(OP, into, dtype, n)?;
    let params = Params::new().size(n).value(into).value(x);
    let kernel = format!("accumulate_{dtype}_vector4");
    cuda.launch(OP, &ELEMENTWISE, &kernel, vectors(n), params)
}
