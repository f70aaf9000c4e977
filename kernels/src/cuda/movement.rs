//! Launches the kernels of `movement.cu`. All but gather are copies between two buffers with different
//! strides.

use super::elementwise::singles;
use super::modules::MOVEMENT;
use super::{Cuda, Params, memory};
use crate::axes::{Axes, row_major};
use crate::{
    Buffer, ConcatArgs, Dtype, Error, GatherArgs, PadArgs, PermuteArgs, Result, SliceArgs, elements,
};

/// Where a box begins and how it is walked: an address, and a stride for each axis.
struct Side<'a> {
    address: u64,
    strides: &'a [usize],
}

/// Copies the elements of a box of `sizes`; both sides lie inside buffers that were checked.
fn copy(
    cuda: &Cuda,
    op: &'static str,
    dtype: Dtype,
    sizes: &[usize],
    from: Side<'_>,
    to: Side<'_>,
) -> Result<()> {
    let n = elements(sizes);
    let [from_axes, to_axes] = Axes::joint(op, sizes, [from.strides, to.strides])?;
    let params = Params::new().size(n).axes(&from_axes).axes(&to_axes);
    let params = params.value(from.address).value(to.address);
    let kernel = format!("copy_b{}_strided", 8 * dtype.size());
    cuda.launch(op, &MOVEMENT, &kernel, singles(n), params)
}

/// Bytes from the begin of a buffer to the element at `starts`.
fn bytes_to(dtype: Dtype, starts: &[usize], strides: &[usize]) -> u64 {
    let offset: usize = starts.iter().zip(strides).map(|(start, stride)| start * stride).sum();
    (offset * dtype.size()) as u64
}

/// The dtype of x, which may be any but f64: that is for the reference only.
fn movable(cuda: &Cuda, op: &'static str, x: &Buffer) -> Result<Dtype> {
    match x.dtype() {
        dtype @ Dtype::F64 => Err(Error::Unsupported { op, device: cuda.context.device, dtype }),
        dtype => Ok(dtype),
    }
}

/// Permutes axes.
pub fn permute(cuda: &Cuda, args: &PermuteArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "permute";
    let (dtype, out) = (movable(cuda, OP, x)?, args.out_shape());
    let address = cuda.input(OP, x, dtype, elements(&args.shape))?;
    let y = cuda.output(dtype, x.len())?;
    let of_x = row_major(&args.shape);
    let strides: Vec<usize> = args.permutation.iter().map(|&axis| of_x[axis]).collect();
    let to = Side { address: y.pointer(), strides: &row_major(&out) };
    copy(cuda, OP, dtype, &out, Side { address, strides: &strides }, to)?;
    Ok(y.done())
}

/// Joins along an axis.
pub fn concat(cuda: &Cuda, args: &ConcatArgs, xs: &[&Buffer]) -> Result<Buffer> {
    const OP: &str = "concat";
    let Some(first) = xs.first() else {
        return Err(Error::argument(OP, "needs at least 1 input, got none"));
    };
    if xs.len() != args.sizes.len() {
        let detail = format!("expected {} inputs, got {}", args.sizes.len(), xs.len());
        return Err(Error::argument(OP, detail));
    }
    let dtype = movable(cuda, OP, first)?;
    let row = args.sizes.iter().map(|size| size * args.inner).sum();
    let y = cuda.output(dtype, args.outer * row)?;
    let mut column = 0;
    for (x, size) in xs.iter().zip(&args.sizes) {
        let width = size * args.inner;
        let address = cuda.input(OP, x, dtype, args.outer * width)?;
        let to = y.pointer() + (column * dtype.size()) as u64;
        let to = Side { address: to, strides: &[row, 1] };
        let from = Side { address, strides: &[width, 1] };
        copy(cuda, OP, dtype, &[args.outer, width], from, to)?;
        column += width;
    }
    Ok(y.done())
}

/// Cuts out a box.
pub fn slice(cuda: &Cuda, args: &SliceArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "slice";
    let dtype = movable(cuda, OP, x)?;
    let address = cuda.input(OP, x, dtype, elements(&args.shape))?;
    let y = cuda.output(dtype, elements(&args.sizes))?;
    let strides = row_major(&args.shape);
    let address = address + bytes_to(dtype, &args.starts, &strides);
    let to = Side { address: y.pointer(), strides: &row_major(&args.sizes) };
    copy(cuda, OP, dtype, &args.sizes, Side { address, strides: &strides }, to)?;
    Ok(y.done())
}

/// Surrounds with a constant.
pub fn pad(cuda: &Cuda, args: &PadArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "pad";
    let (dtype, out) = (movable(cuda, OP, x)?, args.out_shape());
    let address = cuda.input(OP, x, dtype, elements(&args.shape))?;
    let mut y = memory::fill(cuda, dtype, elements(&out), args.value)?;
    let len = y.len();
    let strides = row_major(&out);
    let to = cuda.update(OP, &mut y, dtype, len)? + bytes_to(dtype, &args.before, &strides);
    let from = Side { address, strides: &row_major(&args.shape) };
    copy(cuda, OP, dtype, &args.shape, from, Side { address: to, strides: &strides })?;
    Ok(y)
}

/// y[o, i, :] = x[o, indices[i], :]. A bad index is reported when the host next waits.
pub fn gather_forward(
    cuda: &Cuda,
    args: &GatherArgs,
    x: &Buffer,
    indices: &Buffer,
) -> Result<Buffer> {
    const OP: &str = "gather";
    let GatherArgs { outer, axis, inner, count, .. } = *args;
    let (dtype, n) = (movable(cuda, OP, x)?, outer * count * inner);
    let x = cuda.input(OP, x, dtype, outer * axis * inner)?;
    let indices = cuda.input(OP, indices, Dtype::I32, count)?;
    let y = cuda.output(dtype, n)?;
    let params = Params::new().size(outer).size(axis).size(inner).size(count);
    let params = params.value(x).value(indices).value(y.pointer());
    let watch = cuda.indices.watch(OP, axis)?;
    let params = params.value(watch.address);
    let kernel = format!("gather_forward_b{}_strided", 8 * dtype.size());
    cuda.launch(OP, &MOVEMENT, &kernel, singles(n), params)?;
    Ok(y.done())
}

/// dx: the rows of dy added up at their indices, in order. Bad indices were reported by the forward pass.
pub fn gather_backward(
    cuda: &Cuda,
    args: &GatherArgs,
    indices: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    const OP: &str = "gather";
    let GatherArgs { outer, axis, inner, count, .. } = *args;
    let (dtype, n) = (cuda.float(OP, dy)?, outer * axis * inner);
    let dy = cuda.input(OP, dy, dtype, outer * count * inner)?;
    let indices = cuda.input(OP, indices, Dtype::I32, count)?;
    let dx = cuda.output(dtype, n)?;
    let params = Params::new().size(outer).size(axis).size(inner).size(count);
    let params = params.value(indices).value(dy).value(dx.pointer());
    let kernel = format!("gather_backward_{dtype}_scan");
    cuda.launch(OP, &MOVEMENT, &kernel, singles(n), params)?;
    Ok(dx.done())
}
