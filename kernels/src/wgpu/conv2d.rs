//! Launches the kernels of `conv2d_forward.wgsl`, `conv2d_backward_data.wgsl` and `conv2d_backward_filter.wgsl`.

use super::matmul::{REGISTER_TILE, WORKGROUP, split};
use super::pipelines::{CONV2D_BACKWARD_DATA, CONV2D_BACKWARD_FILTER, CONV2D_FORWARD};
use super::{Grid, Kernel, Params, Read, Wgpu, WgpuMemory, Write};
use crate::walk::{Axis, Walk};
use crate::*;

const OP: &str = "conv2d";

/// Columns of a group up to which a tile is not worth filling.
const NARROW: usize = 4;

/// Tiles of a filter's gradient that are enough work for many devices; a constant, since how a sum is split decides its
/// rounding.
const WANTED_TILES: usize = 4096;

/// Output positions of a sum that are worth a thread of their own.
const LEAST_PIXELS: usize = 256;

/// Which of the three kernels of a pass runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rung {
    Naive,
    Vectors,
    Any,
}

impl Rung {
    /// For `columns` columns a group, and channels a group that are read and written together.
    fn choose(wgpu: &Wgpu, args: &Conv2dArgs, columns: usize, channels: [usize; 2]) -> Rung {
        if wgpu.options.first_rung || (args.options.groups > 1 && columns <= NARROW) {
            Rung::Naive
        } else if channels.iter().all(|channels| channels % 4 == 0) {
            Rung::Vectors
        } else {
            Rung::Any
        }
    }

    /// Its entry point among those of a pass.
    fn entry(self, [naive, vectors, any]: [&'static str; 3]) -> &'static str {
        match self {
            Rung::Naive => naive,
            Rung::Vectors => vectors,
            Rung::Any => any,
        }
    }

    /// Rows and columns of a thread's tile.
    fn tile(self) -> usize {
        if self == Rung::Naive { 1 } else { REGISTER_TILE }
    }
}

/// Positions stay below 2^29, so that the kernels can add them up as 32-bit integers.
fn check(op: &'static str, args: &Conv2dArgs) -> Result<()> {
    let Conv2dArgs { h, w, kh, kw, oh, ow, options, .. } = *args;
    let reach = |i: usize, kernel: usize| (kernel - 1).saturating_mul(options.dilation[i]);
    let padded = |i: usize, size: usize| size.saturating_add(options.padding[i].saturating_mul(2));
    let positions = [padded(0, h), padded(1, w), reach(0, kh), reach(1, kw), kh, kw, oh, ow];
    // With one tap the dilation is never multiplied by anything, but the kernels are told it.
    let options = options.stride.into_iter().chain(options.dilation);
    match positions.into_iter().chain(options).find(|&position| position >= 1 << 29) {
        None => Ok(()),
        Some(position) => {
            let detail = format!(
                "{position} is too large for the WGSL kernels: images with their padding, strides, dilations and \
                 the reach of the filter must be below 2^29"
            );
            Err(Error::argument(op, detail))
        }
    }
}

/// `Axis` of the kernels.
fn axis(params: Params, walk: &Walk) -> Params {
    let &Walk { positions, first, spread, scale, offset, step, size, taps, tap_first, tap_step } =
        walk;
    params
        .sizes(&[positions, first, spread, scale])
        .word(offset as i32 as u32)
        .word(step as i32 as u32)
        .sizes(&[size, taps, tap_first, tap_step, 0, 0])
}

/// A pass over `walks`, from `channels` channels of the source a group to a result of `[h, w, columns a group]`: the
/// fields of `Params` that forward and backward data share, and the grid.
fn gathered(
    args: &Conv2dArgs,
    rung: Rung,
    walks: [&Walk; 2],
    channels: usize,
    [h, w, columns]: [usize; 3],
) -> (Params, Grid) {
    let groups = args.options.groups;
    let pixels = args.n * walks[0].positions * walks[1].positions;
    let tiles = [pixels, columns].map(|size| size.div_ceil(rung.tile()));
    let params = axis(axis(Params::new(), walks[0]), walks[1])
        .sizes(&[pixels, groups, channels, columns, h, w, args.kh, args.kw])
        .sizes(&tiles);
    (params, Grid::threads(groups * tiles[0] * tiles[1], WORKGROUP))
}

/// [`Backend::conv2d_forward`]
pub fn forward(
    wgpu: &Wgpu,
    args: &Conv2dArgs,
    activation: Activation,
    x: &Buffer,
    filter: &Buffer,
    bias: Option<&Buffer>,
) -> Result<Buffer> {
    run_forward(wgpu, OP, args, activation, x, filter, bias, None)
}

/// [`Backend::conv2d_inference`]: the kernels of the forward pass. They read filters as they lie, so there is
/// nothing to keep.
pub fn inference(
    wgpu: &Wgpu,
    args: &Conv2dArgs,
    activation: Activation,
    x: &Buffer,
    filter: &Buffer,
    bias: Option<&Buffer>,
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    run_forward(wgpu, "conv2d_inference", args, activation, x, filter, bias, residual)
}

fn run_forward(
    wgpu: &Wgpu,
    op: &'static str,
    args: &Conv2dArgs,
    activation: Activation,
    x: &Buffer,
    filter: &Buffer,
    bias: Option<&Buffer>,
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    let dtype = wgpu.float(op, x)?;
    let flags = [bias.is_some(), residual.is_some(), activation == Activation::Relu];
    let blank = blank_pixel(wgpu, args, dtype)?;
    let x = wgpu.input(op, x, dtype, args.x_elements())?;
    let x = blank.as_ref().map_or(Ok(x), |blank| wgpu.own(op, blank))?;
    let filter = wgpu.input(op, filter, dtype, args.filter_elements())?;
    let bias = wgpu.input_if(op, bias, dtype, args.c_out)?;
    let residual = wgpu.input_if(op, residual, dtype, args.y_elements())?;
    check(op, args)?;
    let y = wgpu.output(op, dtype, args.y_elements())?;
    if args.y_elements() == 0 {
        return Ok(y.done());
    }
    let groups = args.options.groups;
    let (channels, columns) = (args.c_in / groups, args.c_out / groups);
    let rung = Rung::choose(wgpu, args, columns, [channels, columns]);
    let [walk_y, walk_x] = Axis::of(args).map(|axis| axis.forward());
    let result = [args.oh, args.ow, columns];
    let (params, grid) = gathered(args, rung, [&walk_y, &walk_x], channels, result);
    let params = flags.iter().fold(params, |params, &flag| params.word(u32::from(flag)));
    let entry = rung.entry([
        "conv2d_forward_naive",
        "conv2d_forward_register_tile",
        "conv2d_forward_register_tile_any",
    ]);
    let kernel = Kernel::new(&CONV2D_FORWARD, entry, dtype);
    let buffers = [Read(x), Read(filter), Read(bias), Read(residual), Write(&y.memory)];
    wgpu.launch(op, kernel, grid, params, &buffers)?;
    Ok(y.done())
}

/// [`Backend::conv2d_backward_data`]: a launch for each phase of dx.
pub fn backward_data(
    wgpu: &Wgpu,
    args: &Conv2dArgs,
    filter: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    let dtype = wgpu.float(OP, dy)?;
    let filter = wgpu.input(OP, filter, dtype, args.filter_elements())?;
    let dy = wgpu.input(OP, dy, dtype, args.y_elements())?;
    check(OP, args)?;
    let dx = wgpu.output(OP, dtype, args.x_elements())?;
    if args.x_elements() == 0 {
        return Ok(dx.done());
    }
    let groups = args.options.groups;
    let (channels, columns) = (args.c_out / groups, args.c_in / groups);
    let rung = Rung::choose(wgpu, args, columns, [channels, columns]);
    let entry = rung.entry([
        "conv2d_backward_data_naive",
        "conv2d_backward_data_register_tile",
        "conv2d_backward_data_register_tile_any",
    ]);
    let [axis_y, axis_x] = Axis::of(args);
    // Phases beyond the image have no positions.
    for walk_y in axis_y.phases().take(args.h) {
        for walk_x in axis_x.phases().take(args.w) {
            let result = [args.h, args.w, columns];
            let (params, grid) = gathered(args, rung, [&walk_y, &walk_x], channels, result);
            let kernel = Kernel::new(&CONV2D_BACKWARD_DATA, entry, dtype);
            let buffers = [Read(dy), Read(filter), Write(&dx.memory)];
            wgpu.launch(OP, kernel, grid, params, &buffers)?;
        }
    }
    Ok(dx.done())
}

/// For images without pixels, which padding can make large enough: the pixel that kernels read, and do not use, where a
/// tap is outside.
fn blank_pixel(wgpu: &Wgpu, args: &Conv2dArgs, dtype: Dtype) -> Result<Option<Buffer>> {
    let is_empty = args.x_elements() == 0 && args.y_elements() > 0;
    is_empty.then(|| wgpu.fill(dtype, args.c_in, 0.0)).transpose()
}

/// [`Backend::conv2d_backward_filter`]
pub fn backward_filter(wgpu: &Wgpu, args: &Conv2dArgs, x: &Buffer, dy: &Buffer) -> Result<Buffer> {
    let dtype = wgpu.float(OP, x)?;
    let blank = blank_pixel(wgpu, args, dtype)?;
    let x = wgpu.input(OP, x, dtype, args.x_elements())?;
    let x = blank.as_ref().map_or(Ok(x), |blank| wgpu.own(OP, blank))?;
    let dy = wgpu.input(OP, dy, dtype, args.y_elements())?;
    check(OP, args)?;
    let elements = args.filter_elements();
    let dfilter = wgpu.output(OP, dtype, elements)?;
    if elements == 0 {
        return Ok(dfilter.done());
    }
    let Conv2dArgs { n, h, w, kh, kw, oh, ow, options, .. } = *args;
    let groups = options.groups;
    let (channels, filters) = (args.c_in / groups, args.c_out / groups);
    let rung = Rung::choose(wgpu, args, filters, [channels, filters]);
    let tiles = [filters, kh * kw * channels].map(|size| size.div_ceil(rung.tile()));
    let count = groups * tiles[0] * tiles[1];
    let lines = n * oh;
    let [splits, split_lines] =
        split(lines, count, WANTED_TILES, LEAST_PIXELS.div_ceil(ow.max(1)), 1);
    let partials = match splits {
        1 => None,
        _ => Some(wgpu.output(OP, Dtype::F32, splits * elements)?),
    };
    let sums: &WgpuMemory = partials.as_ref().map_or(&wgpu.nothing, |partials| &partials.memory);
    let params = || {
        Params::new()
            .sizes(&[groups, filters, channels, kh, kw, h, w, oh, ow])
            .sizes(&options.stride)
            .sizes(&options.padding)
            .sizes(&options.dilation)
            .sizes(&[lines, splits, split_lines, tiles[0], tiles[1]])
    };
    let entry = rung.entry([
        "conv2d_backward_filter_naive",
        "conv2d_backward_filter_register_tile",
        "conv2d_backward_filter_register_tile_any",
    ]);
    let buffers = [Read(x), Read(dy), Write(&dfilter.memory), Write(sums)];
    let kernel = Kernel::new(&CONV2D_BACKWARD_FILTER, entry, dtype);
    wgpu.launch(OP, kernel, Grid::threads(count * splits, WORKGROUP), params(), &buffers)?;
    if splits > 1 {
        let kernel =
            Kernel::new(&CONV2D_BACKWARD_FILTER, "conv2d_backward_filter_split_sum", dtype);
        wgpu.launch(OP, kernel, Grid::threads(elements, WORKGROUP), params(), &buffers)?;
    }
    Ok(dfilter.done())
}
