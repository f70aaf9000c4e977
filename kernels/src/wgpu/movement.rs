//! Launches the kernels of `movement.wgsl`. All but gather are copies between two buffers with different
//! strides.

use super::elementwise::singles;
use super::pipelines::MOVEMENT;
use super::{Kernel, Params, Read, Wgpu, WgpuMemory, Write, memory};
use crate::axes::{Axes, row_major};
use crate::{
    Buffer, ConcatArgs, Dtype, Error, GatherArgs, PadArgs, PermuteArgs, Result, SliceArgs, elements,
};

/// Where a box begins and how it is walked: its first element, and a stride for each axis.
struct Side<'a> {
    memory: &'a WgpuMemory,
    first: usize,
    strides: &'a [usize],
}

/// Copies the elements of a box of `sizes`; both sides lie inside buffers that were checked.
fn copy(
    wgpu: &Wgpu,
    op: &'static str,
    dtype: Dtype,
    sizes: &[usize],
    from: Side<'_>,
    to: Side<'_>,
) -> Result<()> {
    let n = elements(sizes);
    let [from_axes, to_axes] = Axes::joint(op, sizes, [from.strides, to.strides])?;
    let params = Params::new().sizes(&[n, from.first, to.first]);
    let params = params.axes(&from_axes).axes(&to_axes);
    let kernel = Kernel::new(&MOVEMENT, "copy_strided", dtype);
    wgpu.launch(op, kernel, singles(n), params, &[Read(from.memory), Write(to.memory)])
}

/// Elements from the begin of a buffer to the one at `starts`.
fn first(starts: &[usize], strides: &[usize]) -> usize {
    starts.iter().zip(strides).map(|(start, stride)| start * stride).sum()
}

/// The dtype of x, which must have 4 bytes, or be f16 where the adapter has it: a GPU writes no single bytes.
fn movable(wgpu: &Wgpu, op: &'static str, x: &Buffer) -> Result<Dtype> {
    match x.dtype() {
        dtype @ (Dtype::F32 | Dtype::I32) => Ok(dtype),
        dtype @ Dtype::F16 if wgpu.has_f16() => Ok(dtype),
        dtype => Err(Error::Unsupported { op, device: wgpu.context.device, dtype }),
    }
}

/// Permutes axes.
pub fn permute(wgpu: &Wgpu, args: &PermuteArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "permute";
    let (dtype, out) = (movable(wgpu, OP, x)?, args.out_shape());
    let memory = wgpu.input(OP, x, dtype, elements(&args.shape))?;
    let y = wgpu.output(OP, dtype, x.len())?;
    let of_x = row_major(&args.shape);
    let strides: Vec<usize> = args.permutation.iter().map(|&axis| of_x[axis]).collect();
    let from = Side { memory, first: 0, strides: &strides };
    let to = Side { memory: &y.memory, first: 0, strides: &row_major(&out) };
    copy(wgpu, OP, dtype, &out, from, to)?;
    Ok(y.done())
}

/// Joins along an axis.
pub fn concat(wgpu: &Wgpu, args: &ConcatArgs, xs: &[&Buffer]) -> Result<Buffer> {
    const OP: &str = "concat";
    let Some(first) = xs.first() else {
        return Err(Error::argument(OP, "needs at least 1 input, got none"));
    };
    if xs.len() != args.sizes.len() {
        let detail = format!("expected {} inputs, got {}", args.sizes.len(), xs.len());
        return Err(Error::argument(OP, detail));
    }
    let dtype = movable(wgpu, OP, first)?;
    let row = args.sizes.iter().map(|size| size * args.inner).sum();
    let y = wgpu.output(OP, dtype, args.outer * row)?;
    let mut column = 0;
    for (x, size) in xs.iter().zip(&args.sizes) {
        let width = size * args.inner;
        let memory = wgpu.input(OP, x, dtype, args.outer * width)?;
        let from = Side { memory, first: 0, strides: &[width, 1] };
        let to = Side { memory: &y.memory, first: column, strides: &[row, 1] };
        copy(wgpu, OP, dtype, &[args.outer, width], from, to)?;
        column += width;
    }
    Ok(y.done())
}

/// Cuts out a box.
pub fn slice(wgpu: &Wgpu, args: &SliceArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "slice";
    let dtype = movable(wgpu, OP, x)?;
    let memory = wgpu.input(OP, x, dtype, elements(&args.shape))?;
    let y = wgpu.output(OP, dtype, elements(&args.sizes))?;
    let strides = row_major(&args.shape);
    let from = Side { memory, first: first(&args.starts, &strides), strides: &strides };
    let to = Side { memory: &y.memory, first: 0, strides: &row_major(&args.sizes) };
    copy(wgpu, OP, dtype, &args.sizes, from, to)?;
    Ok(y.done())
}

/// Surrounds with a constant.
pub fn pad(wgpu: &Wgpu, args: &PadArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "pad";
    let (dtype, out) = (movable(wgpu, OP, x)?, args.out_shape());
    let memory = wgpu.input(OP, x, dtype, elements(&args.shape))?;
    let mut y = memory::fill(wgpu, dtype, elements(&out), args.value)?;
    let (len, strides) = (y.len(), row_major(&out));
    let from = Side { memory, first: 0, strides: &row_major(&args.shape) };
    let padded = wgpu.update(OP, &mut y, dtype, len)?;
    let to = Side { memory: padded, first: first(&args.before, &strides), strides: &strides };
    copy(wgpu, OP, dtype, &args.shape, from, to)?;
    Ok(y)
}

/// y[o, i, :] = x[o, indices[i], :]. A bad index is reported when the host next waits.
pub fn gather_forward(
    wgpu: &Wgpu,
    args: &GatherArgs,
    x: &Buffer,
    indices: &Buffer,
) -> Result<Buffer> {
    const OP: &str = "gather";
    let GatherArgs { outer, axis, inner, count, .. } = *args;
    let (dtype, n) = (movable(wgpu, OP, x)?, outer * count * inner);
    let x = wgpu.input(OP, x, dtype, outer * axis * inner)?;
    let indices = wgpu.input(OP, indices, Dtype::I32, count)?;
    let y = wgpu.output(OP, dtype, n)?;
    let params = Params::new().sizes(&[outer, axis, inner, count]);
    let kernel = Kernel::new(&MOVEMENT, "gather_forward", dtype);
    let buffers = [Read(x), Write(&y.memory), Read(indices)];
    wgpu.launch(OP, kernel, singles(n), params, &buffers)?;
    if count > 0 {
        wgpu.indices.watch(wgpu, OP, indices, count, axis)?;
    }
    Ok(y.done())
}

/// dx: the rows of dy added up at their indices, in order. Bad indices were reported by the forward pass.
pub fn gather_backward(
    wgpu: &Wgpu,
    args: &GatherArgs,
    indices: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    const OP: &str = "gather";
    let GatherArgs { outer, axis, inner, count, .. } = *args;
    let (dtype, n) = (wgpu.float(OP, dy)?, outer * axis * inner);
    let dy = wgpu.input(OP, dy, dtype, outer * count * inner)?;
    let indices = wgpu.input(OP, indices, Dtype::I32, count)?;
    let dx = wgpu.output(OP, dtype, n)?;
    let params = Params::new().sizes(&[outer, axis, inner, count]);
    let kernel = Kernel::new(&MOVEMENT, "gather_backward", dtype);
    let buffers = [Read(dy), Write(&dx.memory), Read(indices)];
    wgpu.launch(OP, kernel, singles(n), params, &buffers)?;
    Ok(dx.done())
}
