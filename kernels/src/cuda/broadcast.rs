//! Launches the kernels of `broadcast.cu`: functions of two inputs, and their gradients.

use super::elementwise::{singles, vectors};
use super::modules::BROADCAST;
use super::reduce;
use super::{Cuda, Params};
use crate::axes::{Axes, repeating};
use crate::reduce_layout::Layout;
use crate::{Binary, BroadcastArgs, Buffer, Dtype, Result, elements};

/// The axes of both inputs, walked together in the shape of the result.
fn axes(op: &'static str, args: &BroadcastArgs) -> Result<[Axes; 2]> {
    Axes::joint(op, &args.out, [&repeating(&args.a), &repeating(&args.b)])
}

/// y = a op b, broadcast.
pub fn binary_forward(
    cuda: &Cuda,
    op: Binary,
    args: &BroadcastArgs,
    a: &Buffer,
    b: &Buffer,
) -> Result<Buffer> {
    let (name, dtype, n) = (op.name(), cuda.float(op.name(), a)?, elements(&args.out));
    let a = cuda.input(name, a, dtype, elements(&args.a))?;
    let b = cuda.input(name, b, dtype, elements(&args.b))?;
    let y = cuda.output(dtype, n)?;
    if args.a == args.b {
        let params = Params::new().size(n).value(a).value(b).value(y.pointer());
        let kernel = format!("{name}_forward_{dtype}_vector4");
        cuda.launch(name, &BROADCAST, &kernel, vectors(n), params)?;
    } else {
        let [a_axes, b_axes] = axes(name, args)?;
        let params = Params::new().size(n).axes(&a_axes).axes(&b_axes);
        let params = params.value(a).value(b).value(y.pointer());
        let kernel = format!("{name}_forward_{dtype}_broadcast");
        cuda.launch(name, &BROADCAST, &kernel, singles(n), params)?;
    }
    Ok(y.done())
}

/// Gradients of a and b, each summed over the axes along which it repeats.
pub fn binary_backward(
    cuda: &Cuda,
    op: Binary,
    args: &BroadcastArgs,
    a: &Buffer,
    b: &Buffer,
    dy: &Buffer,
    needs: [bool; 2],
) -> Result<[Option<Buffer>; 2]> {
    let (name, dtype, n) = (op.name(), cuda.float(op.name(), dy)?, elements(&args.out));
    cuda.input(name, a, dtype, elements(&args.a))?;
    cuda.input(name, b, dtype, elements(&args.b))?;
    cuda.input(name, dy, dtype, n)?;
    let side = |is_b: bool| {
        let shape = if is_b { &args.b } else { &args.a };
        let repeated: Vec<bool> =
            shape.iter().zip(&args.out).map(|(&size, &out)| size != out).collect();
        let is_dy = op == Binary::Add || (op == Binary::Sub && !is_b);
        let sums = repeated.contains(&true);
        let whole = match (is_dy, sums) {
            (true, _) => dy.clone(),
            (false, true) => every_element(cuda, op, args, [a, b, dy], is_b, Dtype::F32)?,
            (false, false) => every_element(cuda, op, args, [a, b, dy], is_b, dtype)?,
        };
        if !sums {
            return Ok(whole);
        }
        let layout = Layout::new(name, &args.out, &repeated)?;
        reduce::reduce(cuda, name, "sum", &layout, &whole, dtype, 1.0)
    };
    Ok([needs[0].then(|| side(false)).transpose()?, needs[1].then(|| side(true)).transpose()?])
}

/// dy times the derivative by a or b for every element of the result, `[args.out]`; buffers were checked.
fn every_element(
    cuda: &Cuda,
    op: Binary,
    args: &BroadcastArgs,
    [a, b, dy]: [&Buffer; 3],
    is_b: bool,
    out: Dtype,
) -> Result<Buffer> {
    let (name, dtype, n) = (op.name(), dy.dtype(), dy.len());
    let [a_axes, b_axes] = axes(name, args)?;
    let d = cuda.output(out, n)?;
    let mut params = Params::new().size(n).axes(&a_axes).axes(&b_axes);
    for x in [a, b, dy] {
        params = params.value(cuda.input(name, x, dtype, x.len())?);
    }
    let side = if is_b { "b" } else { "a" };
    let kernel = format!("{name}_backward_{side}_{dtype}_{out}_broadcast");
    cuda.launch(name, &BROADCAST, &kernel, singles(n), params.value(d.pointer()))?;
    Ok(d.done())
}
