//! Launches the kernels of `reduce.wgsl`: reductions over axes.

use super::elementwise::singles;
use super::pipelines::REDUCE;
use super::{Grid, Kernel, Params, Read, Wgpu, Write, memory};
use crate::reduce_layout::{Layout, results};
use crate::{Buffer, Dtype, Error, Reduce, ReduceArgs, Result, elements};

/// Threads that share an output, and rows of those a workgroup.
const LANES: usize = 32;
const ROWS: usize = 8;

/// `OP` of the kernels.
pub const SUM: u32 = 0;
const SUM_SQUARES: u32 = 1;
const AMAX: u32 = 2;

/// `Params` of the kernels.
fn layout_params(layout: &Layout, splits: usize, chunk: usize, divisor: f64) -> Params {
    let params = Params::new().sizes(&[layout.outputs, splits, layout.count, chunk]);
    params.float(divisor).axes(&layout.kept).axes(&layout.reduced)
}

/// 32 lanes for each of `tasks`.
fn lanes(tasks: usize) -> Grid {
    Grid::Line(tasks.div_ceil(ROWS))
}

/// Reduces x by `kernel`, launched until one result is left for each output; it is divided by `divisor` and
/// stored as `to`. Partial results are f32.
pub fn reduce(
    wgpu: &Wgpu,
    op: &'static str,
    kernel: u32,
    layout: &Layout,
    x: &Buffer,
    to: Dtype,
    divisor: f64,
) -> Result<Buffer> {
    let &Layout { outputs, count, rows, .. } = layout;
    let chunk = layout.chunk();
    let splits = count.div_ceil(chunk).max(1);
    let is_last = splits == 1;
    let memory = wgpu.input(op, x, x.dtype(), x.len())?;
    let y = wgpu.output(op, Dtype::F32, splits * outputs)?;
    let (entry, grid) = match rows {
        true => ("reduce_rows", lanes(splits * outputs)),
        false => ("reduce_columns", Grid::Line(splits * outputs.div_ceil(LANES))),
    };
    let constants = [("OP", kernel)];
    let params = layout_params(layout, splits, chunk, if is_last { divisor } else { 1.0 });
    let buffers = [Read(memory), Write(&y.memory)];
    let reduced = Kernel::new(&REDUCE, entry, x.dtype()).with(&constants);
    wgpu.launch(op, reduced, grid, params, &buffers)?;
    let y = y.done();
    if is_last {
        return memory::cast(wgpu, &y, to);
    }
    let kernel = if kernel == SUM_SQUARES { SUM } else { kernel }; // squares are squared once
    reduce(wgpu, op, kernel, &Layout::of_partials(outputs, splits), &y, to, divisor)
}

/// Sum, mean or maximum over axes.
pub fn forward(wgpu: &Wgpu, op: Reduce, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
    let (name, dtype) = (op.name(), wgpu.float(op.name(), x)?);
    wgpu.input(name, x, dtype, elements(&args.shape))?;
    let layout = Layout::of(name, args)?;
    if layout.count == 0 {
        let of_nothing = match op {
            Reduce::Sum => 0.0,
            Reduce::Mean => f64::NAN,
            Reduce::Max => f64::NEG_INFINITY,
        };
        return memory::fill(wgpu, dtype, layout.outputs, of_nothing);
    }
    let (kernel, divisor) = match op {
        Reduce::Sum => (SUM, 1.0),
        Reduce::Mean => (SUM, layout.count as f64),
        Reduce::Max => (AMAX, 1.0),
    };
    reduce(wgpu, name, kernel, &layout, x, dtype, divisor)
}

/// Σ x² over all elements, f32.
pub fn sum_squares(wgpu: &Wgpu, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "sum_squares";
    let dtype = wgpu.float(OP, x)?;
    wgpu.input(OP, x, dtype, x.len())?;
    let layout = Layout::new(OP, &[x.len()], &[true])?;
    reduce(wgpu, OP, SUM_SQUARES, &layout, x, Dtype::F32, 1.0)
}

/// Position of the first maximum among the reduced axes, row-major, i32.
pub fn argmax(wgpu: &Wgpu, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "argmax";
    let layout = Layout::of(OP, args)?;
    if layout.count == 0 {
        let (shape, reduced) = (&args.shape, &args.reduced);
        let detail = format!("nothing has no maximum (x: {shape:?}, reduced axes: {reduced:?})");
        return Err(Error::shape(OP, detail));
    }
    let dtype = wgpu.float(OP, x)?;
    let x = wgpu.input(OP, x, dtype, elements(&args.shape))?;
    let y = wgpu.output(OP, Dtype::I32, layout.outputs)?;
    let kernel = Kernel::new(&REDUCE, "argmax_rows", dtype);
    let params = layout_params(&layout, 1, layout.count, 1.0);
    let grid = lanes(layout.outputs);
    wgpu.launch(OP, kernel, grid, params, &[Read(x), Write(&y.memory)])?;
    Ok(y.done())
}

/// dx from dy; `saved` is (x, y), for the maximum.
pub fn backward(
    wgpu: &Wgpu,
    op: Reduce,
    args: &ReduceArgs,
    saved: Option<(&Buffer, &Buffer)>,
    dy: &Buffer,
) -> Result<Buffer> {
    let (name, dtype) = (op.name(), wgpu.float(op.name(), dy)?);
    let (n, layout) = (elements(&args.shape), Layout::of(name, args)?);
    let dy = wgpu.input(name, dy, dtype, layout.outputs)?;
    let divisor = if op == Reduce::Mean { layout.count as f64 } else { 1.0 };
    let params = Params::new().size(n).float(divisor).axes(&results(name, args)?);
    if op != Reduce::Max {
        let dx = wgpu.output(name, dtype, n)?;
        let kernel = Kernel::new(&REDUCE, "sum_backward_broadcast", dtype);
        // Bindings 1 to 3 are of other kernels.
        let [a, b, c] = [(); 3].map(|()| Read(&wgpu.nothing));
        let buffers = [a, b, c, Read(dy), Write(&dx.memory)];
        wgpu.launch(name, kernel, singles(n), params, &buffers)?;
        return Ok(dx.done());
    }
    let Some((x, y)) = saved else {
        return Err(Error::argument(name, "the backward pass needs (x, y), got none"));
    };
    let x = wgpu.input(name, x, dtype, n)?;
    let y = wgpu.input(name, y, dtype, layout.outputs)?;
    let ties = wgpu.output(name, Dtype::F32, layout.outputs)?;
    let kernel = Kernel::new(&REDUCE, "amax_ties_rows", dtype);
    let buffers = [Read(x), Read(y), Write(&ties.memory)];
    let counts = layout_params(&layout, 1, layout.count, 1.0);
    wgpu.launch(name, kernel, lanes(layout.outputs), counts, &buffers)?;
    let dx = wgpu.output(name, dtype, n)?;
    let kernel = Kernel::new(&REDUCE, "amax_backward_broadcast", dtype);
    let buffers = [Read(x), Read(y), Read(&ties.memory), Read(dy), Write(&dx.memory)];
    wgpu.launch(name, kernel, singles(n), params, &buffers)?;
    Ok(dx.done())
}
