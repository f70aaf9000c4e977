//! Launches the kernels of `elementwise.wgsl`: functions of one input.

use super::pipelines::ELEMENTWISE;
use super::{Grid, Kernel, Params, Read, Wgpu, Write};
use crate::{Buffer, Result, Saves, Unary};

/// Threads of a workgroup of kernels without workgroup memory: `WORKGROUP` in the shaders.
pub const WORKGROUP: usize = 256;

/// Elements a thread.
const VECTOR: usize = 4;

/// A thread for every 4 of `n` elements.
pub fn vectors(n: usize) -> Grid {
    Grid::threads(n.div_ceil(VECTOR), WORKGROUP)
}

/// A thread for each of `n` elements.
pub fn singles(n: usize) -> Grid {
    Grid::threads(n, WORKGROUP)
}

/// a and b of the kernels: the constants of an op.
fn constants(op: Unary) -> (f64, f64) {
    match op {
        Unary::Affine { scale, shift } => (scale, shift),
        Unary::LeakyRelu { slope } => (slope, 0.0),
        _ => (0.0, 0.0),
    }
}

/// `OP` of the kernels.
fn code(op: Unary) -> u32 {
    match op {
        Unary::Affine { .. } => 0,
        Unary::Exp => 1,
        Unary::Log => 2,
        Unary::Sqrt => 3,
        Unary::Tanh => 4,
        Unary::Sigmoid => 5,
        Unary::Relu => 6,
        Unary::LeakyRelu { .. } => 7,
        Unary::Gelu => 8,
        Unary::Silu => 9,
    }
}

/// `Params` of the kernels: vectors of 4 elements, a, b.
fn params(op: Unary, n: usize) -> Params {
    let (a, b) = constants(op);
    Params::new().size(n.div_ceil(VECTOR)).float(a).float(b)
}

/// y = op(x); x, y `[n]`.
pub fn unary_forward(wgpu: &Wgpu, op: Unary, x: &Buffer) -> Result<Buffer> {
    let (name, dtype, n) = (op.name(), wgpu.float(op.name(), x)?, x.len());
    let x = wgpu.input(name, x, dtype, n)?;
    let y = wgpu.output(name, dtype, n)?;
    let constants = [("OP", code(op))];
    let kernel = Kernel::new(&ELEMENTWISE, "unary_forward", dtype).with(&constants);
    wgpu.launch(name, kernel, vectors(n), params(op, n), &[Read(x), Write(&y.memory)])?;
    Ok(y.done())
}

/// dx = dy op'(x); saved, dy, dx `[n]`.
pub fn unary_backward(wgpu: &Wgpu, op: Unary, saved: &Buffer, dy: &Buffer) -> Result<Buffer> {
    let (name, dtype, n) = (op.name(), wgpu.float(op.name(), dy)?, dy.len());
    let saved = if op.saves() == Saves::Nothing { dy } else { saved };
    let (saved, dy) = (wgpu.input(name, saved, dtype, n)?, wgpu.input(name, dy, dtype, n)?);
    let dx = wgpu.output(name, dtype, n)?;
    let constants = [("OP", code(op))];
    let kernel = Kernel::new(&ELEMENTWISE, "unary_backward", dtype).with(&constants);
    let buffers = [Read(saved), Read(dy), Write(&dx.memory)];
    wgpu.launch(name, kernel, vectors(n), params(op, n), &buffers)?;
    Ok(dx.done())
}

/// into += x; both `[n]`.
pub fn accumulate(wgpu: &Wgpu, into: &mut Buffer, x: &Buffer) -> Result<()> {
    const OP: &str = "accumulate";
    let (dtype, n) = (wgpu.float(OP, into)?, into.len());
    let x = wgpu.input(OP, x, dtype, n)?;
    let into = wgpu.update(OP, into, dtype, n)?;
    let kernel = Kernel::new(&ELEMENTWISE, "accumulate", dtype);
    let params = Params::new().size(n.div_ceil(VECTOR));
    wgpu.launch(OP, kernel, vectors(n), params, &[Read(x), Write(into)])
}
