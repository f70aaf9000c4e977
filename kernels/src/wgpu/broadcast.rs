//! Launches the kernels of `broadcast.wgsl`: functions of two inputs, and their gradients.

use super::elementwise::{singles, vectors};
use super::pipelines::BROADCAST;
use super::reduce;
use super::{Kernel, Params, Read, Wgpu, Write, memory};
use crate::axes::{Axes, repeating};
use crate::reduce_layout::Layout;
use crate::{Binary, BroadcastArgs, Buffer, Dtype, Result, elements};

/// `OP` of the kernels.
fn code(op: Binary) -> u32 {
    match op {
        Binary::Add => 0,
        Binary::Sub => 1,
        Binary::Mul => 2,
        Binary::Div => 3,
        Binary::Max => 4,
    }
}

/// `Params` of the kernels: n, and the axes of both inputs, walked together in the shape of the result.
fn params(op: &'static str, args: &BroadcastArgs, n: usize) -> Result<Params> {
    let [a, b] = Axes::joint(op, &args.out, [&repeating(&args.a), &repeating(&args.b)])?;
    Ok(Params::new().size(n).axes(&a).axes(&b))
}

/// y = a op b, broadcast.
pub fn binary_forward(
    wgpu: &Wgpu,
    op: Binary,
    args: &BroadcastArgs,
    a: &Buffer,
    b: &Buffer,
) -> Result<Buffer> {
    let (name, dtype, n) = (op.name(), wgpu.float(op.name(), a)?, elements(&args.out));
    let a = wgpu.input(name, a, dtype, elements(&args.a))?;
    let b = wgpu.input(name, b, dtype, elements(&args.b))?;
    let y = wgpu.output(name, dtype, n)?;
    let (entry, grid, count) = match args.a == args.b {
        true => ("binary_forward_vector4", vectors(n), n.div_ceil(4)),
        false => ("binary_forward_broadcast", singles(n), n),
    };
    let constants = [("OP", code(op))];
    let kernel = Kernel::new(&BROADCAST, entry, dtype).with(&constants);
    let buffers = [Read(a), Read(b), Write(&y.memory)];
    wgpu.launch(name, kernel, grid, params(name, args, count)?, &buffers)?;
    Ok(y.done())
}

/// Gradients of a and b, each summed over the axes along which it repeats.
pub fn binary_backward(
    wgpu: &Wgpu,
    op: Binary,
    args: &BroadcastArgs,
    a: &Buffer,
    b: &Buffer,
    dy: &Buffer,
    needs: [bool; 2],
) -> Result<[Option<Buffer>; 2]> {
    let (name, dtype, n) = (op.name(), wgpu.float(op.name(), dy)?, elements(&args.out));
    wgpu.input(name, a, dtype, elements(&args.a))?;
    wgpu.input(name, b, dtype, elements(&args.b))?;
    wgpu.input(name, dy, dtype, n)?;
    let side = |is_b: bool| {
        let shape = if is_b { &args.b } else { &args.a };
        let repeated: Vec<bool> =
            shape.iter().zip(&args.out).map(|(&size, &out)| size != out).collect();
        let is_dy = op == Binary::Add || (op == Binary::Sub && !is_b);
        let whole = match is_dy {
            true => dy.clone(),
            false => every_element(wgpu, op, args, [a, b, dy], is_b)?,
        };
        if !repeated.contains(&true) {
            return memory::cast(wgpu, &whole, dtype);
        }
        let layout = Layout::new(name, &args.out, &repeated)?;
        reduce::reduce(wgpu, name, reduce::SUM, &layout, &whole, dtype, 1.0)
    };
    Ok([needs[0].then(|| side(false)).transpose()?, needs[1].then(|| side(true)).transpose()?])
}

/// dy times the derivative by a or b for every element of the result, `[args.out]`, in f32; buffers were
/// checked.
fn every_element(
    wgpu: &Wgpu,
    op: Binary,
    args: &BroadcastArgs,
    [a, b, dy]: [&Buffer; 3],
    is_b: bool,
) -> Result<Buffer> {
    let (name, dtype, n) = (op.name(), dy.dtype(), dy.len());
    let d = wgpu.output(name, Dtype::F32, n)?;
    let [a, b, dy] = [wgpu.own(name, a)?, wgpu.own(name, b)?, wgpu.own(name, dy)?];
    let constants = [("OP", code(op)), ("SIDE", u32::from(is_b))];
    let kernel = Kernel::new(&BROADCAST, "binary_backward_broadcast", dtype).with(&constants);
    let buffers = [Read(a), Read(b), Read(dy), Write(&d.memory)];
    wgpu.launch(name, kernel, singles(n), params(name, args, n)?, &buffers)?;
    Ok(d.done())
}
