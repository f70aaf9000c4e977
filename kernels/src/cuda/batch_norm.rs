//! Launches the kernels of `batch_norm.cu`: two passes over the tensor forward, two backward.

use super::gemm::{packed, vector};
use super::modules::BATCH_NORM;
use super::{Cuda, Grid, Output, Params};
use crate::*;

const OP: &str = "batch_norm";

/// Threads of a block that walks over rows, and partial sums that it leaves for each channel.
const THREADS: usize = 256;
const STATISTICS: usize = 3;
const GRADIENTS: usize = 2;

/// Blocks of a pass: enough for every multiprocessor several times over, and few enough that adding up their
/// partial sums costs little. A constant, so that sums have the same shape on every device.
const WANTED_BLOCKS: usize = 1024;

/// Rows that are worth a thread of their own.
const LEAST_ROWS: usize = 8;

/// Bits of `f32_channels` in the kernels' `Norm`.
const GAMMA: u32 = 1;
const BETA: u32 = 2;
const MEAN: u32 = 4;
const VAR: u32 = 8;

/// How a tensor is cut into blocks.
struct Layout {
    args: BatchNormArgs,
    dtype: Dtype,
    /// Channels of a thread, threads side by side, tiles of channels.
    width: usize,
    side_by_side: usize,
    tiles: usize,
    /// Rows of a block, and blocks of rows.
    block_rows: usize,
    blocks: usize,
}

impl Layout {
    fn new(args: &BatchNormArgs, dtype: Dtype) -> Layout {
        let &BatchNormArgs { rows, c, .. } = args;
        let width = if c % vector(dtype) == 0 { vector(dtype) } else { 1 };
        let side_by_side = (c / width).next_power_of_two().min(32);
        let tiles = (c / width).div_ceil(side_by_side);
        let least = THREADS / side_by_side * LEAST_ROWS;
        let wanted = (WANTED_BLOCKS / tiles.max(1)).clamp(1, rows.div_ceil(least).max(1));
        let block_rows = rows.div_ceil(wanted).max(1);
        let blocks = rows.div_ceil(block_rows);
        Layout { args: *args, dtype, width, side_by_side, tiles, block_rows, blocks }
    }

    /// `Norm` of the kernels.
    fn params(&self, f32_channels: u32) -> Params {
        let BatchNormArgs { rows, c, epsilon, activation, training } = self.args;
        let relu = u32::from(activation == Activation::Relu);
        let mut words = [rows, c, self.block_rows, self.blocks].map(|size| size as u64).to_vec();
        let epsilon = (epsilon as f32).to_bits();
        words.extend(packed(&[f32_channels, relu, epsilon, u32::from(training)]));
        Params::new().words(&words)
    }

    /// A kernel that walks over rows.
    fn launch(&self, cuda: &Cuda, kernel: &str, params: Params) -> Result<()> {
        let width = if self.width == 1 { "scalar" } else { "vector" };
        let threads = [self.side_by_side, THREADS / self.side_by_side].map(|n| n as u32);
        let grid = Grid::blocks([self.tiles, self.blocks, 1], [threads[0], threads[1], 1]);
        cuda.launch(
            OP,
            &BATCH_NORM,
            &format!("batch_norm_{kernel}_{}_{width}", self.dtype),
            grid,
            params,
        )
    }

    /// A kernel that adds up what the blocks of rows left: 32 channels a block, 32 threads each.
    fn combine(&self, cuda: &Cuda, kernel: &str, params: Params) -> Result<()> {
        let grid = Grid::blocks([self.args.c.div_ceil(32), 1, 1], [32, 32, 1]);
        cuda.launch(OP, &BATCH_NORM, &format!("batch_norm_combine_{kernel}"), grid, params)
    }

    /// Partial sums: `each` a channel and block.
    fn partials(&self, cuda: &Cuda, each: usize) -> Result<Output> {
        cuda.output(Dtype::F32, self.blocks * each * self.args.c)
    }
}

/// A value a channel, f32 or of `dtype`: its address, and `bit` if it is f32.
fn channel(cuda: &Cuda, x: &Buffer, dtype: Dtype, c: usize, bit: u32) -> Result<(u64, u32)> {
    match x.dtype() {
        Dtype::F32 => Ok((cuda.input(OP, x, Dtype::F32, c)?, bit)),
        _ => Ok((cuda.input(OP, x, dtype, c)?, 0)),
    }
}

/// y from x and the statistics.
fn apply(
    cuda: &Cuda,
    layout: &Layout,
    x: u64,
    channels: [(u64, u32); 4],
    residual: u64,
) -> Result<Buffer> {
    let y = cuda.output(layout.dtype, layout.args.elements())?;
    let bits = channels.iter().fold(0, |bits, (_, bit)| bits | bit);
    let params =
        channels.iter().fold(layout.params(bits).value(x), |params, (x, _)| params.value(*x));
    layout.launch(cuda, "apply", params.value(residual).value(y.pointer()))?;
    Ok(y.done())
}

/// [`Backend::batch_norm_forward`]
pub fn forward(
    cuda: &Cuda,
    args: &BatchNormArgs,
    x: &Buffer,
    gamma: &Buffer,
    beta: &Buffer,
    residual: Option<&Buffer>,
) -> Result<BatchNormOutput> {
    let (dtype, c) = (cuda.float(OP, x)?, args.c);
    let x = cuda.input(OP, x, dtype, args.elements())?;
    let gamma = channel(cuda, gamma, dtype, c, GAMMA)?;
    let beta = channel(cuda, beta, dtype, c, BETA)?;
    let residual = cuda.input_if(OP, residual, dtype, args.elements())?;
    let (mean, var) = (cuda.output(Dtype::F32, c)?, cuda.output(Dtype::F32, c)?);
    let layout = Layout::new(args, dtype);
    let partials = layout.partials(cuda, STATISTICS)?;
    let params = layout.params(0).value(x).value(partials.pointer());
    layout.launch(cuda, "statistics", params)?;
    let params = layout.params(0).value(partials.pointer());
    let params = params.value(mean.pointer()).value(var.pointer());
    layout.combine(cuda, "statistics_f32", params)?;
    let channels = [gamma, beta, (mean.pointer(), MEAN), (var.pointer(), VAR)];
    let y = apply(cuda, &layout, x, channels, residual)?;
    Ok(BatchNormOutput { y, mean: mean.done(), var: var.done() })
}

/// [`Backend::batch_norm_inference`]
pub fn inference(
    cuda: &Cuda,
    args: &BatchNormArgs,
    x: &Buffer,
    gamma: &Buffer,
    beta: &Buffer,
    mean: &Buffer,
    var: &Buffer,
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    let (dtype, c) = (cuda.float(OP, x)?, args.c);
    let x = cuda.input(OP, x, dtype, args.elements())?;
    let channels = [
        channel(cuda, gamma, dtype, c, GAMMA)?,
        channel(cuda, beta, dtype, c, BETA)?,
        channel(cuda, mean, dtype, c, MEAN)?,
        channel(cuda, var, dtype, c, VAR)?,
    ];
    let residual = cuda.input_if(OP, residual, dtype, args.elements())?;
    apply(cuda, &Layout::new(args, dtype), x, channels, residual)
}

/// [`Backend::batch_norm_backward`]
pub fn backward(
    cuda: &Cuda,
    args: &BatchNormArgs,
    x: &Buffer,
    y: Option<&Buffer>,
    gamma: &Buffer,
    mean: &Buffer,
    var: &Buffer,
    dy: &Buffer,
    residual: bool,
) -> Result<BatchNormGradients> {
    let (dtype, c, len) = (cuda.float(OP, x)?, args.c, args.elements());
    let y = match args.activation {
        Activation::Identity => None,
        activation if y.is_none() => {
            let what = format!("the backward pass of {activation:?} needs y, got none");
            return Err(Error::argument(OP, what));
        }
        Activation::Relu => y,
    };
    let (x, dy) = (cuda.input(OP, x, dtype, len)?, cuda.input(OP, dy, dtype, len)?);
    let y = cuda.input_if(OP, y, dtype, len)?;
    let parameters = gamma.dtype();
    let (gamma, gamma_bit) = channel(cuda, gamma, dtype, c, GAMMA)?;
    let (mean, mean_bit) = channel(cuda, mean, dtype, c, MEAN)?;
    let (var, var_bit) = channel(cuda, var, dtype, c, VAR)?;
    let bits = gamma_bit | mean_bit | var_bit;
    let dresidual = residual.then(|| cuda.output(dtype, len)).transpose()?;
    let (dgamma, dbeta) = (cuda.output(parameters, c)?, cuda.output(parameters, c)?);
    let (dx, sums) = (cuda.output(dtype, len)?, cuda.output(Dtype::F32, GRADIENTS * c)?);
    let layout = Layout::new(args, dtype);
    let partials = layout.partials(cuda, GRADIENTS)?;

    let g = dresidual.as_ref().map_or(0, |g| g.pointer());
    let params = layout.params(bits).value(x).value(y).value(mean).value(dy).value(g);
    layout.launch(cuda, "gradient_sums", params.value(partials.pointer()))?;
    let params = layout.params(bits).value(partials.pointer()).value(var);
    let params = params.value(dgamma.pointer()).value(dbeta.pointer()).value(sums.pointer());
    layout.combine(cuda, &format!("gradients_{dtype}"), params)?;
    // The residual's gradient is the one before the activation: one tensor to read instead of two.
    let (y, g) = if g == 0 { (y, dy) } else { (0, g) };
    let params = layout.params(bits).value(x).value(y).value(gamma).value(mean).value(var);
    layout.launch(cuda, "dx", params.value(g).value(sums.pointer()).value(dx.pointer()))?;
    Ok(BatchNormGradients {
        dx: dx.done(),
        dgamma: dgamma.done(),
        dbeta: dbeta.done(),
        dresidual: dresidual.map(Output::done),
    })
}

/// [`Backend::batch_norm_update_running`]
pub fn update_running(
    cuda: &Cuda,
    args: &BatchNormArgs,
    momentum: f64,
    running_mean: &mut Buffer,
    running_var: &mut Buffer,
    mean: &Buffer,
    var: &Buffer,
) -> Result<()> {
    let c = args.c;
    let dtypes = [&*running_mean, &*running_var, mean, var].map(Buffer::dtype);
    // One kernel for f32 and one 16-bit dtype: `channel` refuses the other.
    let dtype = dtypes.into_iter().find(|&dtype| dtype != Dtype::F32).unwrap_or(Dtype::F32);
    for x in [&*running_mean, &*running_var, mean, var] {
        cuda.float(OP, x)?;
    }
    let channels = [
        channel(cuda, running_mean, dtype, c, GAMMA)?,
        channel(cuda, running_var, dtype, c, BETA)?,
        channel(cuda, mean, dtype, c, MEAN)?,
        channel(cuda, var, dtype, c, VAR)?,
    ];
    let bits = channels.iter().fold(0, |bits, (_, bit)| bits | bit);
    // Memory that is shared with a copy of the buffer is copied before it is changed.
    let running_mean = cuda.update(OP, running_mean, dtypes[0], c)?;
    let running_var = cuda.update(OP, running_var, dtypes[1], c)?;
    let unbiased = args.rows as f64 / (args.rows as f64 - 1.0);
    let params = Layout::new(args, dtype).params(bits);
    let params = params.float(1.0 - momentum).float(momentum).float(unbiased);
    let params =
        params.value(running_mean).value(running_var).value(channels[2].0).value(channels[3].0);
    let kernel = format!("batch_norm_update_running_{dtype}");
    cuda.launch(OP, &BATCH_NORM, &kernel, Grid::linear(c, 256), params)
}
