//! Launches the kernels of `reduce.cu`: reductions over axes.

use super::elementwise::singles;
use super::modules::REDUCE;
use super::{Cuda, Grid, Params};
use crate::reduce_layout::{Layout, results};
use crate::{Buffer, Dtype, Error, Reduce, ReduceArgs, Result, elements};

/// Warps of a block of `rows` kernels, and rows of threads of a block of `columns` kernels.
const WARPS: usize = 8;

/// The kernels called `kernel` on x, launched until one result is left for each output; it is divided by
/// `divisor` and stored as `to`. Partial results are f32.
pub fn reduce(
    cuda: &Cuda,
    op: &'static str,
    kernel: &str,
    layout: &Layout,
    x: &Buffer,
    to: Dtype,
    divisor: f64,
) -> Result<Buffer> {
    let &Layout { outputs, count, rows, .. } = layout;
    let chunk = layout.chunk();
    let splits = count.div_ceil(chunk).max(1);
    let is_last = splits == 1;
    let (out, divisor_now) = if is_last { (to, divisor) } else { (Dtype::F32, 1.0) };
    let from = x.dtype();
    let px = cuda.input(op, x, from, x.len())?;
    let y = cuda.output(out, splits * outputs)?;
    let (way, blocks) = match rows {
        true => ("rows", (splits * outputs).div_ceil(WARPS)),
        false => ("columns", splits * outputs.div_ceil(32)),
    };
    let params = Params::new().size(outputs).size(splits).size(count).size(chunk);
    let params = params.axes(&layout.kept).axes(&layout.reduced);
    let params = params.value(px).value(y.pointer()).float(divisor_now);
    let name = format!("{kernel}_{from}_{out}_{way}");
    cuda.launch(op, &REDUCE, &name, Grid::blocks([blocks, 1, 1], [32, WARPS as u32, 1]), params)?;
    let y = y.done();
    if is_last {
        return Ok(y);
    }
    // Squares are squared once.
    let kernel = if kernel == "sum_squares" { "sum" } else { kernel };
    reduce(cuda, op, kernel, &Layout::of_partials(outputs, splits), &y, to, divisor)
}

/// Sum, mean or maximum over axes.
pub fn forward(cuda: &Cuda, op: Reduce, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
    let (name, dtype) = (op.name(), cuda.float(op.name(), x)?);
    cuda.input(name, x, dtype, elements(&args.shape))?;
    let layout = Layout::of(name, args)?;
    let (kernel, divisor) = match op {
        Reduce::Sum => ("sum", 1.0),
        Reduce::Mean => ("sum", layout.count as f64), // 0 / 0 over nothing: NaN
        Reduce::Max => ("amax", 1.0),
    };
    reduce(cuda, name, kernel, &layout, x, dtype, divisor)
}

/// Σ x² over all elements, f32.
pub fn sum_squares(cuda: &Cuda, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "sum_squares";
    let dtype = cuda.float(OP, x)?;
    cuda.input(OP, x, dtype, x.len())?;
    let layout = Layout::new(OP, &[x.len()], &[true])?;
    reduce(cuda, OP, "sum_squares", &layout, x, Dtype::F32, 1.0)
}

/// A block for each output: a warp where there is little to do.
fn block_an_output(layout: &Layout) -> Grid {
    let threads = if layout.count <= 1024 { 32 } else { 256 };
    Grid::blocks([layout.outputs, 1, 1], [threads, 1, 1])
}

/// Position of the first maximum among the reduced axes, row-major, i32.
pub fn argmax(cuda: &Cuda, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "argmax";
    let layout = Layout::of(OP, args)?;
    if layout.count == 0 {
        let (shape, reduced) = (&args.shape, &args.reduced);
        let detail = format!("nothing has no maximum (x: {shape:?}, reduced axes: {reduced:?})");
        return Err(Error::shape(OP, detail));
    }
    let dtype = cuda.float(OP, x)?;
    let x = cuda.input(OP, x, dtype, elements(&args.shape))?;
    let y = cuda.output(Dtype::I32, layout.outputs)?;
    let params = Params::new().size(layout.count).axes(&layout.kept).axes(&layout.reduced);
    let params = params.value(x).value(y.pointer());
    let kernel = format!("argmax_{dtype}_block");
    cuda.launch(OP, &REDUCE, &kernel, block_an_output(&layout), params)?;
    Ok(y.done())
}

/// dx from dy; `saved` is (x, y), for the maximum.
pub fn backward(
    cuda: &Cuda,
    op: Reduce,
    args: &ReduceArgs,
    saved: Option<(&Buffer, &Buffer)>,
    dy: &Buffer,
) -> Result<Buffer> {
    let (name, dtype) = (op.name(), cuda.float(op.name(), dy)?);
    let (n, layout) = (elements(&args.shape), Layout::of(name, args)?);
    let pdy = cuda.input(name, dy, dtype, layout.outputs)?;
    let results = results(name, args)?;
    if op != Reduce::Max {
        let divisor = if op == Reduce::Mean { layout.count as f64 } else { 1.0 };
        let dx = cuda.output(dtype, n)?;
        let params = Params::new().size(n).axes(&results).value(pdy).value(dx.pointer());
        let kernel = format!("sum_backward_{dtype}_broadcast");
        cuda.launch(name, &REDUCE, &kernel, singles(n), params.float(divisor))?;
        return Ok(dx.done());
    }
    let Some((x, y)) = saved else {
        return Err(Error::argument(name, "the backward pass needs (x, y), got none"));
    };
    let x = cuda.input(name, x, dtype, n)?;
    let y = cuda.input(name, y, dtype, layout.outputs)?;
    let ties = cuda.output(Dtype::F32, layout.outputs)?;
    let params = Params::new().size(layout.count).axes(&layout.kept).axes(&layout.reduced);
    let params = params.value(x).value(y).value(ties.pointer());
    let kernel = format!("amax_ties_{dtype}_block");
    cuda.launch(name, &REDUCE, &kernel, block_an_output(&layout), params)?;
    let dx = cuda.output(dtype, n)?;
    let params = Params::new().size(n).axes(&results).value(x).value(y);
    let params = params.value(ties.pointer()).value(pdy).value(dx.pointer());
    cuda.launch(name, &REDUCE, &format!("amax_backward_{dtype}_broadcast"), singles(n), params)?;
    Ok(dx.done())
}
