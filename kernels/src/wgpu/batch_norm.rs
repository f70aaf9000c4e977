//! Launches the kernels of `batch_norm.wgsl`: two passes over the tensor forward, two backward.

use super::matmul::WORKGROUP;
use super::memory::cast;
use super::pipelines::BATCH_NORM;
use super::{Bound, Grid, Kernel, Output, Params, Read, Wgpu, Write};
use crate::*;

const OP: &str = "batch_norm";

/// Strips of rows of a pass at most: few enough that adding up their sums costs little. A constant, so that sums have
/// the same shape on every device.
const MOST_STRIPS: usize = 512;

/// Rows that are worth a strip.
const LEAST_ROWS: usize = 16;

/// Sums that a strip leaves for each channel.
const STATISTICS: usize = 3;
const GRADIENTS: usize = 2;

/// How a tensor is cut among threads, and what the kernels are told.
struct Layout {
    args: BatchNormArgs,
    dtype: Dtype,
    vectors: bool,
    strips: usize,
}

impl Layout {
    fn new(args: &BatchNormArgs, dtype: Dtype) -> Layout {
        let strips = args.rows.div_ceil(LEAST_ROWS).clamp(1, MOST_STRIPS);
        Layout { args: *args, dtype, vectors: args.c.is_multiple_of(4), strips }
    }

    /// `Params` of the kernels.
    fn params(&self, has_residual: bool) -> Params {
        let BatchNormArgs { rows, c, epsilon, activation, training } = self.args;
        let flags = [activation == Activation::Relu, has_residual, training];
        let params = Params::new().sizes(&[rows, c, self.strips]);
        flags.iter().fold(params, |params, &flag| params.word(u32::from(flag))).float(epsilon)
    }

    /// A kernel that walks over rows: by 4 channels, or by one.
    fn walk(
        &self,
        wgpu: &Wgpu,
        [by_4, by_1]: [&'static str; 2],
        params: Params,
        buffers: &[Bound<'_>],
    ) -> Result<()> {
        let BatchNormArgs { rows, c, .. } = self.args;
        let (entry, channels) = if self.vectors { (by_4, c / 4) } else { (by_1, c) };
        let strips = if rows == 0 { 0 } else { self.strips };
        let grid = Grid::threads(strips * channels, WORKGROUP);
        wgpu.launch(OP, Kernel::new(&BATCH_NORM, entry, self.dtype), grid, params, buffers)
    }

    /// A kernel with one thread a channel.
    fn channels(
        &self,
        wgpu: &Wgpu,
        entry: &'static str,
        params: Params,
        buffers: &[Bound<'_>],
    ) -> Result<()> {
        let grid = Grid::threads(self.args.c, WORKGROUP);
        wgpu.launch(OP, Kernel::new(&BATCH_NORM, entry, self.dtype), grid, params, buffers)
    }

    /// Room for the sums of the strips: `each` a channel and strip.
    fn partials(&self, wgpu: &Wgpu, each: usize) -> Result<Output> {
        wgpu.output(OP, Dtype::F32, self.strips * each * self.args.c)
    }
}

/// A value a channel, in f32 for the kernels whether it is f32 or of `dtype`.
fn channel(wgpu: &Wgpu, x: &Buffer, dtype: Dtype, c: usize) -> Result<Buffer> {
    let expected = if x.dtype() == Dtype::F32 { Dtype::F32 } else { dtype };
    wgpu.input(OP, x, expected, c)?;
    cast(wgpu, x, Dtype::F32)
}

/// y from x and the statistics, all `channels` in f32: gamma, beta, mean, var.
fn apply(
    wgpu: &Wgpu,
    layout: &Layout,
    x: &Buffer,
    channels: [&Buffer; 4],
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    let (dtype, len, c) = (layout.dtype, layout.args.elements(), layout.args.c);
    let x = wgpu.input(OP, x, dtype, len)?;
    let mut buffers = vec![Read(x)];
    for of in channels {
        buffers.push(Read(wgpu.input(OP, of, Dtype::F32, c)?));
    }
    buffers.push(Read(wgpu.input_if(OP, residual, dtype, len)?));
    let y = wgpu.output(OP, dtype, len)?;
    buffers.push(Write(&y.memory));
    let entries = ["batch_norm_apply", "batch_norm_apply_any"];
    layout.walk(wgpu, entries, layout.params(residual.is_some()), &buffers)?;
    Ok(y.done())
}

/// [`Backend::batch_norm_forward`]
pub fn forward(
    wgpu: &Wgpu,
    args: &BatchNormArgs,
    x: &Buffer,
    gamma: &Buffer,
    beta: &Buffer,
    residual: Option<&Buffer>,
) -> Result<BatchNormOutput> {
    let (dtype, c) = (wgpu.float(OP, x)?, args.c);
    let memory = wgpu.input(OP, x, dtype, args.elements())?;
    wgpu.input_if(OP, residual, dtype, args.elements())?;
    let gamma = channel(wgpu, gamma, dtype, c)?;
    let beta = channel(wgpu, beta, dtype, c)?;
    let layout = Layout::new(args, dtype);
    let partials = layout.partials(wgpu, STATISTICS)?;
    let entries = ["batch_norm_statistics", "batch_norm_statistics_any"];
    let buffers = [Read(memory), Write(&partials.memory)];
    layout.walk(wgpu, entries, layout.params(false), &buffers)?;
    let (mean, var) = (wgpu.output(OP, Dtype::F32, c)?, wgpu.output(OP, Dtype::F32, c)?);
    let buffers = [Read(&partials.memory), Write(&mean.memory), Write(&var.memory)];
    layout.channels(wgpu, "batch_norm_combine_statistics", layout.params(false), &buffers)?;
    let (mean, var) = (mean.done(), var.done());
    let y = apply(wgpu, &layout, x, [&gamma, &beta, &mean, &var], residual)?;
    Ok(BatchNormOutput { y, mean, var })
}

/// [`Backend::batch_norm_inference`]
pub fn inference(
    wgpu: &Wgpu,
    args: &BatchNormArgs,
    x: &Buffer,
    gamma: &Buffer,
    beta: &Buffer,
    mean: &Buffer,
    var: &Buffer,
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    let (dtype, c) = (wgpu.float(OP, x)?, args.c);
    let gamma = channel(wgpu, gamma, dtype, c)?;
    let beta = channel(wgpu, beta, dtype, c)?;
    let mean = channel(wgpu, mean, dtype, c)?;
    let var = channel(wgpu, var, dtype, c)?;
    apply(wgpu, &Layout::new(args, dtype), x, [&gamma, &beta, &mean, &var], residual)
}

/// [`Backend::batch_norm_backward`]
pub fn backward(
    wgpu: &Wgpu,
    args: &BatchNormArgs,
    x: &Buffer,
    y: Option<&Buffer>,
    gamma: &Buffer,
    mean: &Buffer,
    var: &Buffer,
    dy: &Buffer,
    residual: bool,
) -> Result<BatchNormGradients> {
    let (dtype, c, len) = (wgpu.float(OP, x)?, args.c, args.elements());
    let y = match args.activation {
        Activation::Identity => None,
        activation if y.is_none() => {
            let what = format!("the backward pass of {activation:?} needs y, got none");
            return Err(Error::argument(OP, what));
        }
        Activation::Relu => y,
    };
    let (x, dy) = (wgpu.input(OP, x, dtype, len)?, wgpu.input(OP, dy, dtype, len)?);
    let y = wgpu.input_if(OP, y, dtype, len)?;
    let parameters = gamma.dtype();
    let gamma = channel(wgpu, gamma, dtype, c)?;
    let mean = channel(wgpu, mean, dtype, c)?;
    let var = channel(wgpu, var, dtype, c)?;
    let f32_input = |x| wgpu.input(OP, x, Dtype::F32, c);
    let layout = Layout::new(args, dtype);
    let partials = layout.partials(wgpu, GRADIENTS)?;
    let dresidual = residual.then(|| wgpu.output(OP, dtype, len)).transpose()?;
    let of_residual = dresidual.as_ref().map_or(&wgpu.nothing, |of| &of.memory);

    let entries = ["batch_norm_gradient_sums", "batch_norm_gradient_sums_any"];
    let sources = || Ok::<_, Error>([Read(x), Read(y), Read(dy), Read(f32_input(&mean)?)]);
    let mut buffers = sources()?.to_vec();
    buffers.extend([Write(of_residual), Write(&partials.memory)]);
    layout.walk(wgpu, entries, layout.params(residual), &buffers)?;

    let (dgamma, dbeta) = (wgpu.output(OP, Dtype::F32, c)?, wgpu.output(OP, Dtype::F32, c)?);
    let coefficients = wgpu.output(OP, Dtype::F32, 3 * c)?;
    let buffers = [
        Read(&partials.memory),
        Read(f32_input(&gamma)?),
        Read(f32_input(&var)?),
        Write(&dgamma.memory),
        Write(&dbeta.memory),
        Write(&coefficients.memory),
    ];
    layout.channels(wgpu, "batch_norm_combine_gradients", layout.params(residual), &buffers)?;

    let dx = wgpu.output(OP, dtype, len)?;
    let mut buffers = sources()?.to_vec();
    buffers.extend([Read(&coefficients.memory), Write(&dx.memory)]);
    let entries = ["batch_norm_dx", "batch_norm_dx_any"];
    layout.walk(wgpu, entries, layout.params(residual), &buffers)?;
    Ok(BatchNormGradients {
        dx: dx.done(),
        dgamma: cast(wgpu, &dgamma.done(), parameters)?,
        dbeta: cast(wgpu, &dbeta.done(), parameters)?,
        dresidual: dresidual.map(Output::done),
    })
}

/// [`Backend::batch_norm_update_running`]
pub fn update_running(
    wgpu: &Wgpu,
    args: &BatchNormArgs,
    momentum: f64,
    running_mean: &mut Buffer,
    running_var: &mut Buffer,
    mean: &Buffer,
    var: &Buffer,
) -> Result<()> {
    let c = args.c;
    let dtypes = [&*running_mean, &*running_var, mean, var].map(Buffer::dtype);
    for x in [&*running_mean, &*running_var, mean, var] {
        wgpu.float(OP, x)?;
        wgpu.input(OP, x, x.dtype(), c)?;
    }
    let (mean, var) = (cast(wgpu, mean, Dtype::F32)?, cast(wgpu, var, Dtype::F32)?);
    // Statistics of 16 bits are widened, updated and narrowed.
    for (running, dtype) in [(&mut *running_mean, dtypes[0]), (&mut *running_var, dtypes[1])] {
        if dtype != Dtype::F32 {
            *running = cast(wgpu, running, Dtype::F32)?;
        }
    }
    let unbiased = args.rows as f64 / (args.rows as f64 - 1.0);
    let layout = Layout::new(args, Dtype::F32);
    let params = layout.params(false).float(1.0 - momentum).float(momentum).float(unbiased);
    let buffers = [
        Write(wgpu.update(OP, running_mean, Dtype::F32, c)?),
        Write(wgpu.update(OP, running_var, Dtype::F32, c)?),
        Read(wgpu.input(OP, &mean, Dtype::F32, c)?),
        Read(wgpu.input(OP, &var, Dtype::F32, c)?),
    ];
    layout.channels(wgpu, "batch_norm_update_running", params, &buffers)?;
    for (running, dtype) in [(running_mean, dtypes[0]), (running_var, dtypes[1])] {
        if dtype != Dtype::F32 {
            *running = cast(wgpu, running, dtype)?;
        }
    }
    Ok(())
}
