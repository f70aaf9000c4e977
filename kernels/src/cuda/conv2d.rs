//! Launches the kernels of `conv2d_forward.cu`, `conv2d_backward_data.cu` and `conv2d_backward_filter.cu`:
//! which rung of the ladder computes which convolution. The shapes of the implicit products are in
//! `kernels/cuda/conv2d.cuh`.

use std::fmt;
use std::str::FromStr;

use super::gemm::{Gemm, Tile, divisor, narrow, packed, vector};
use super::modules::{CONV2D_BACKWARD_DATA, CONV2D_BACKWARD_FILTER, CONV2D_FORWARD};
use super::{Cuda, Grid, Params};
use crate::walk::{Axis, Walk};
use crate::*;

const OP: &str = "conv2d";

/// A rung of the ladder, to be forced by [`super::CudaOptions::conv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvAlgorithm {
    /// One thread a result; any dtype.
    Naive,
    /// Implicit GEMM with 8 x 8 or 8 x 4 sums a thread; f32.
    RegisterTile,
    /// Implicit GEMM by `mma.sync`; f16 and bf16.
    TensorCore,
}

use ConvAlgorithm::*;

impl ConvAlgorithm {
    /// Every rung.
    pub const ALL: [ConvAlgorithm; 3] = [Naive, RegisterTile, TensorCore];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Naive => "naive",
            RegisterTile => "register_tile",
            TensorCore => "tensor_core",
        }
    }

    /// Whether it has kernels for `dtype`.
    pub fn is_for(self, dtype: Dtype) -> bool {
        match self {
            Naive => true,
            RegisterTile => dtype == Dtype::F32,
            TensorCore => dtype != Dtype::F32,
        }
    }

    /// The rung for a convolution whose implicit products, `products` of them, have `columns` columns: the forced
    /// one, or else the best of the dtype, but not for groups so narrow that a tile would be mostly empty
    /// (depthwise).
    fn choose(
        cuda: &Cuda,
        args: &Conv2dArgs,
        products: usize,
        columns: usize,
        dtype: Dtype,
    ) -> ConvAlgorithm {
        match cuda.conv.filter(|algorithm| algorithm.is_for(dtype)) {
            _ if products > MAX_PRODUCTS => Naive,
            Some(algorithm) => algorithm,
            None if args.options.groups > 1 && columns <= NARROW => Naive,
            None if dtype == Dtype::F32 => RegisterTile,
            None => TensorCore,
        }
    }
}

impl fmt::Display for ConvAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ConvAlgorithm {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        super::by_name(OP, s, &ConvAlgorithm::ALL, ConvAlgorithm::name)
    }
}

/// Columns of a group up to which a tile of 32 is not worth filling: an eighth of it.
const NARROW: usize = 4;

/// `MAX_PHASES` of the kernels: strides beyond it are left to the naive kernel.
const MAX_PHASES: usize = 4;

/// Groups (and phases) of one launch: the limit of a grid's third axis.
const MAX_PRODUCTS: usize = 65535;

/// Pixels of a sum that are worth a block of their own.
const LEAST_PIXELS: usize = 512;

/// Threads of a block of the naive kernels.
const THREADS: u32 = 256;

/// Everything that the kernels keep in 32 bits fits. Positions stay below 2^29, so that the kernels can add
/// `NOWHERE` of `conv2d.cuh` to one and be outside of every image.
fn check(args: &Conv2dArgs) -> Result<()> {
    let Conv2dArgs { n, h, w, c_in, c_out, kh, kw, oh, ow, options } = *args;
    let reach = |i: usize, kernel: usize| (kernel - 1).saturating_mul(options.dilation[i]);
    let padded = |i: usize, size: usize| size.saturating_add(options.padding[i].saturating_mul(2));
    let taps = elements(&[kh, kw, c_in.max(c_out)]);
    narrow(OP, [elements(&[n, h, w]), elements(&[n, oh, ow]), taps, elements(&[c_out, kh])])?;
    let positions = [padded(0, h), padded(1, w), reach(0, kh), reach(1, kw)];
    let strides = options.stride;
    match positions.into_iter().chain(strides).find(|&position| position >= 1 << 29) {
        None => Ok(()),
        Some(position) => {
            let detail = format!(
                "{position} is too large for the CUDA kernels: images with their padding, strides and \
                 the reach of the filter must be below 2^29"
            );
            Err(Error::argument(OP, detail))
        }
    }
}

/// `ConvAxis` of the kernels, given that all numbers are below 2^31 in size.
fn axis_words(walk: &Walk) -> Vec<u32> {
    let &Walk { first, spread, scale, offset, step, size, tap_first, tap_step, .. } = walk;
    let signed = [first as isize, spread as isize, scale as isize, offset, step, size as isize];
    let words = signed.map(|v| v as i32 as u32).into_iter();
    let words = words.chain([tap_first as u32, tap_step as u32]);
    words.chain(divisor(walk.positions as u32)).chain(divisor(walk.taps as u32)).collect()
}

/// `Gathered` of the kernels: a pass over `walks`, from `channels` channels of the source a group to a result of
/// `[h, w, channels a group]`.
fn gathered(args: &Conv2dArgs, walks: [&[Walk]; 2], channels: usize, result: [usize; 3]) -> Params {
    let (groups, [h, w, result_channels]) = (args.options.groups, result);
    let sizes = [args.n, channels, channels * groups, h, w, result_channels * groups].into_iter();
    let sizes = sizes.chain([walks[0].len(), walks[1].len(), args.kh, args.kw]);
    let mut words: Vec<u32> = sizes.map(|size| size as u32).collect();
    words.extend(divisor(channels as u32));
    for phases in walks {
        for i in 0..MAX_PHASES {
            words.extend(axis_words(&phases.get(i).copied().unwrap_or_default()));
        }
    }
    Params::new().words32(&words)
}

/// `Conv` of the kernels.
fn sizes(args: &Conv2dArgs) -> Vec<u64> {
    let Conv2dArgs { n, h, w, oh, ow, kh, kw, options, .. } = *args;
    let Conv2dOptions { stride, padding, dilation, groups } = options;
    let (group_in, group_out) = (args.c_in / groups, args.c_out / groups);
    let sizes = [n, h, w, oh, ow, kh, kw, groups, group_in, group_out].into_iter();
    let sizes = sizes.chain(stride).chain(padding).chain(dilation);
    let mut words: Vec<u32> = sizes.map(|size| size as u32).collect();
    words.extend([ow, oh, group_in, kw].into_iter().flat_map(|d| divisor(d as u32)));
    packed(&words)
}

/// The kernel of a rung without its pass and dtype, the tile of a block, and results it writes at once.
struct Rung {
    name: String,
    tile: Tile,
    width: usize,
}

impl Rung {
    /// `tile`, or `any` if channels must be read one by one.
    fn new(algorithm: ConvAlgorithm, tile: Tile, any: Tile, vectors: bool) -> Rung {
        let width = if algorithm == RegisterTile { 4 } else { 8 };
        match vectors {
            true => Rung { name: format!("{algorithm}_{tile}"), tile, width },
            false => Rung { name: format!("{algorithm}_{any}_any"), tile: any, width },
        }
    }

    /// For a product whose rows are pixels: 128 of them and the columns that waste least. f32 has no tile of 128
    /// columns: what a thread must remember of its pixels does not fit beside 64 sums at two blocks a
    /// multiprocessor.
    fn of_pixels(algorithm: ConvAlgorithm, columns: usize, vectors: bool) -> Rung {
        let narrow = Tile::new(128, 32, 128);
        let tile = match columns {
            0..=32 => narrow,
            65.. if algorithm == TensorCore && columns.next_multiple_of(128) - columns < 64 => {
                Tile::new(128, 128, 256)
            }
            _ => Tile::new(128, 64, 128),
        };
        Rung::new(algorithm, tile, narrow, vectors)
    }

    /// For a product whose rows are filters.
    fn of_filters(algorithm: ConvAlgorithm, filters: usize, columns: usize, vectors: bool) -> Rung {
        let narrow = Tile::new(32, 128, 128);
        let tile = match filters {
            0..=32 => narrow,
            65.. if filters.next_multiple_of(128) - filters < 64 && columns >= 128 => {
                Tile::new(128, 128, 256)
            }
            _ => Tile::new(64, 64, 128),
        };
        Rung::new(algorithm, tile, narrow, vectors)
    }
}

/// Whether channels of x and of y can be read 16 bytes at a time.
fn vectors(dtype: Dtype, channels: &[usize]) -> bool {
    channels.iter().all(|channels| channels % vector(dtype) == 0)
}

/// [`Backend::conv2d_forward`]
pub fn forward(
    cuda: &Cuda,
    args: &Conv2dArgs,
    activation: Activation,
    x: &Buffer,
    filter: &Buffer,
    bias: Option<&Buffer>,
) -> Result<Buffer> {
    run_forward(cuda, OP, args, activation, x, filter, bias, None)
}

/// [`Backend::conv2d_inference`]: the kernels of the forward pass. They read filters as they lie, so there is
/// nothing to keep.
pub fn inference(
    cuda: &Cuda,
    args: &Conv2dArgs,
    activation: Activation,
    x: &Buffer,
    filter: &Buffer,
    bias: Option<&Buffer>,
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    run_forward(cuda, "conv2d_inference", args, activation, x, filter, bias, residual)
}

fn run_forward(
    cuda: &Cuda,
    op: &'static str,
    args: &Conv2dArgs,
    activation: Activation,
    x: &Buffer,
    filter: &Buffer,
    bias: Option<&Buffer>,
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    let dtype = cuda.float(op, x)?;
    let x = cuda.input(op, x, dtype, args.x_elements())?;
    let filter = cuda.input(op, filter, dtype, args.filter_elements())?;
    let bias = cuda.input_if(op, bias, dtype, args.c_out)?;
    let residual = cuda.input_if(op, residual, dtype, args.y_elements())?;
    check(args)?;
    let y = cuda.output(dtype, args.y_elements())?;
    let groups = args.options.groups;
    let (channels, columns) = (args.c_in / groups, args.c_out / groups);
    let relu = u32::from(activation == Activation::Relu);
    let buffers = |params: Params| {
        let params = params.value(x).value(filter).value(bias).value(residual);
        params.value(y.pointer())
    };
    let algorithm = ConvAlgorithm::choose(cuda, args, groups, columns, dtype);
    if algorithm == Naive {
        let params = Params::new().words(&sizes(args)).value(relu).size(args.y_elements());
        let kernel = format!("conv2d_forward_{dtype}_naive");
        let grid = Grid::linear(args.y_elements(), THREADS);
        cuda.launch(op, &CONV2D_FORWARD, &kernel, grid, buffers(params))?;
        return Ok(y.done());
    }
    let rung = Rung::of_pixels(algorithm, columns, vectors(dtype, &[channels]));
    let pixels = args.n * args.oh * args.ow;
    let gemm = Gemm::whole(pixels, columns, args.kh * args.kw * channels, groups);
    let [walk_y, walk_x] = Axis::of(args).map(|axis| [axis.forward()]);
    let result = [args.oh, args.ow, columns];
    let params = gemm.params(op, rung.width)?;
    let params = params.and(gathered(args, [&walk_y, &walk_x], channels, result)).value(relu);
    let kernel = format!("conv2d_forward_{dtype}_{}", rung.name);
    cuda.launch(op, &CONV2D_FORWARD, &kernel, gemm.grid(rung.tile), buffers(params))?;
    Ok(y.done())
}

/// [`Backend::conv2d_backward_data`]
pub fn backward_data(
    cuda: &Cuda,
    args: &Conv2dArgs,
    filter: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    let dtype = cuda.float(OP, dy)?;
    let filter = cuda.input(OP, filter, dtype, args.filter_elements())?;
    let dy = cuda.input(OP, dy, dtype, args.y_elements())?;
    check(args)?;
    let dx = cuda.output(dtype, args.x_elements())?;
    let Conv2dOptions { groups, stride, .. } = args.options;
    let (channels, columns) = (args.c_out / groups, args.c_in / groups);
    let buffers = |params: Params| params.value(filter).value(dy).value(dx.pointer());
    let products = stride[0].saturating_mul(stride[1]).saturating_mul(groups);
    let algorithm = ConvAlgorithm::choose(cuda, args, products, columns, dtype);
    if algorithm == Naive || stride.iter().any(|&stride| stride > MAX_PHASES) {
        let params = Params::new().words(&sizes(args)).size(args.x_elements());
        let kernel = format!("conv2d_backward_data_{dtype}_naive");
        let grid = Grid::linear(args.x_elements(), THREADS);
        cuda.launch(OP, &CONV2D_BACKWARD_DATA, &kernel, grid, buffers(params))?;
        return Ok(dx.done());
    }
    let rung = Rung::of_pixels(algorithm, columns, vectors(dtype, &[channels, columns]));
    let walks = Axis::of(args).map(|axis| axis.phases().collect::<Vec<_>>());
    // The grid is as large as the largest phase needs, the first: a block beyond its phase's pixels has nothing to do.
    let largest = args.n * args.h.div_ceil(stride[0]) * args.w.div_ceil(stride[1]);
    let gemm = Gemm::whole(largest, columns, args.kh * args.kw * channels, products);
    let result = [args.h, args.w, columns];
    let params = gemm.params(OP, rung.width)?;
    let params = params.and(gathered(args, [&walks[0], &walks[1]], channels, result));
    let kernel = format!("conv2d_backward_data_{dtype}_{}", rung.name);
    cuda.launch(OP, &CONV2D_BACKWARD_DATA, &kernel, gemm.grid(rung.tile), buffers(params))?;
    Ok(dx.done())
}

/// [`Backend::conv2d_backward_filter`]
pub fn backward_filter(cuda: &Cuda, args: &Conv2dArgs, x: &Buffer, dy: &Buffer) -> Result<Buffer> {
    let dtype = cuda.float(OP, x)?;
    let x = cuda.input(OP, x, dtype, args.x_elements())?;
    let dy = cuda.input(OP, dy, dtype, args.y_elements())?;
    check(args)?;
    let dfilter = cuda.output(dtype, args.filter_elements())?;
    let groups = args.options.groups;
    let (channels, filters) = (args.c_in / groups, args.c_out / groups);
    let (columns, pixels) = (args.kh * args.kw * channels, args.n * args.oh * args.ow);
    let algorithm = ConvAlgorithm::choose(cuda, args, groups, filters, dtype);
    let whole = Gemm::whole(filters, columns, pixels, groups);
    let (kernel, gemm, grid, params) = if algorithm == Naive {
        // A thread an element: as if a tile were one block of threads.
        let tile = Tile::new(1, THREADS as usize, THREADS);
        let all = Gemm::whole(1, args.filter_elements(), pixels, 1).split(tile, LEAST_PIXELS);
        let params = Params::new().words(&sizes(args)).value(all.split_terms(OP)?);
        ("naive".to_string(), all, all.grid(tile), params.size(args.filter_elements()))
    } else {
        let both = vectors(dtype, &[channels, filters]);
        let rung = Rung::of_filters(algorithm, filters, columns, both);
        let gemm = whole.split(rung.tile, LEAST_PIXELS);
        let params = gemm.params(OP, rung.width)?.words(&sizes(args));
        (rung.name, gemm, gemm.grid(rung.tile), params)
    };
    let partials = gemm.partials(cuda)?;
    let sums = partials.as_ref().map_or(0, |partials| partials.pointer());
    let params = params.value(x).value(dy).value(dfilter.pointer()).value(sums);
    let kernel = format!("conv2d_backward_filter_{dtype}_{kernel}");
    cuda.launch(OP, &CONV2D_BACKWARD_FILTER, &kernel, grid, params)?;
    if let Some(partials) = partials {
        let kernel = format!("conv2d_backward_filter_{dtype}_split_sum");
        gemm.sum_splits(
            cuda,
            OP,
            &CONV2D_BACKWARD_FILTER,
            &kernel,
            &partials,
            0,
            dfilter.pointer(),
        )?;
    }
    Ok(dfilter.done())
}
