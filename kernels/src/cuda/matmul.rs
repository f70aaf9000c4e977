//! Launches the kernels of `matmul.cu`, a ladder: which rung computes which product.

use std::fmt;
use std::str::FromStr;

use super::gemm::{Gemm, Tile, vector};
use super::modules::MATMUL;
use super::{Cuda, Grid, Params};
use crate::*;

const OP: &str = "matmul";

/// A rung of the ladder, to be forced by [`super::CudaOptions::matmul`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatmulAlgorithm {
    /// One thread a result; any dtype.
    Naive,
    /// 32 x 32 tiles in shared memory; any dtype.
    SharedTile,
    /// 64 x 64 results a block, 8 x 4 a thread; f32.
    RegisterTile64,
    /// 128 x 128 results a block, 8 x 8 a thread; f32.
    RegisterTile128,
    /// 64 x 64 results a block by `mma.sync`; f16 and bf16.
    TensorCore64,
    /// 128 x 128 results a block by `mma.sync`; f16 and bf16.
    TensorCore128,
    /// f32 rounded to 10 bits of fraction, by `mma.sync`. Only by this name, since it is less exact than f32.
    TensorCoreTf32,
}

use MatmulAlgorithm::*;

impl MatmulAlgorithm {
    /// Every rung.
    pub const ALL: [MatmulAlgorithm; 7] = [
        Naive,
        SharedTile,
        RegisterTile64,
        RegisterTile128,
        TensorCore64,
        TensorCore128,
        TensorCoreTf32,
    ];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Naive => "naive",
            SharedTile => "shared_tile",
            RegisterTile64 => "register_tile_64x64",
            RegisterTile128 => "register_tile_128x128",
            TensorCore64 => "tensor_core_64x64",
            TensorCore128 => "tensor_core_128x128",
            TensorCoreTf32 => "tensor_core_tf32",
        }
    }

    /// Whether it has kernels for `dtype`.
    pub fn is_for(self, dtype: Dtype) -> bool {
        match self {
            Naive | SharedTile => true,
            RegisterTile64 | RegisterTile128 | TensorCoreTf32 => dtype == Dtype::F32,
            TensorCore64 | TensorCore128 => dtype != Dtype::F32,
        }
    }

    /// What is taken when none is forced: the larger tile where it leaves blocks for most multiprocessors,
    /// since it reads each operand half as often.
    fn by_shape(args: &MatmulArgs, dtype: Dtype) -> MatmulAlgorithm {
        let is_large = LARGE.count(args.m, args.n) * args.batch >= 64;
        match (dtype, is_large) {
            (Dtype::F32, false) => RegisterTile64,
            (Dtype::F32, true) => RegisterTile128,
            (_, false) => TensorCore64,
            (_, true) => TensorCore128,
        }
    }
}

impl fmt::Display for MatmulAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MatmulAlgorithm {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        super::by_name(OP, s, &MatmulAlgorithm::ALL, MatmulAlgorithm::name)
    }
}

/// Tiles of the kernels that both dtypes have, and their threads.
const SMALL: Tile = Tile::new(64, 64, 128);
const LARGE: Tile = Tile::new(128, 128, 256);

/// Terms of a sum that are worth a block of their own, and a second pass over its results.
const LEAST_TERMS: usize = 256;

/// Products of one launch: the limit of a grid's third axis.
const MAX_PRODUCTS: usize = 65535;

/// Strides of an operand: from product to product, along m or n, along k. `Operand` in the kernels.
#[derive(Clone, Copy)]
struct Operand {
    address: u64,
    product: usize,
    mn: usize,
    k: usize,
}

impl Operand {
    /// Of a matrix with `rows` rows or columns of `k` terms, those contiguous or the others.
    fn new(address: u64, rows: usize, k: usize, k_contiguous: bool, shared: bool) -> Operand {
        let (mn, step) = if k_contiguous { (k, 1) } else { (1, rows) };
        Operand { address, product: if shared { 0 } else { rows * k }, mn, k: step }
    }

    fn words(&self) -> [u64; 3] {
        [self.product, self.mn, self.k].map(|stride| stride as u64)
    }

    /// The same, `products` products further on.
    fn skip(self, products: usize, size: usize) -> Operand {
        Operand { address: self.address + (products * self.product * size) as u64, ..self }
    }
}

/// The kernel of a rung: its name, the tile of a block, whether it can split k, results it writes at once.
struct Rung {
    kernel: String,
    tile: Tile,
    splits: bool,
    width: usize,
}

impl Rung {
    fn new(algorithm: MatmulAlgorithm, args: &MatmulArgs, dtype: Dtype) -> Rung {
        let MatmulArgs { m, n, k, transpose_a, transpose_b, .. } = *args;
        let contiguous = [if transpose_a { m } else { k }, if transpose_b { k } else { n }];
        let vectors = contiguous.iter().all(|length| length % vector(dtype) == 0);
        let name = |tile: Tile, kind: &str| {
            let (a, b) = (if transpose_a { 'm' } else { 'k' }, if transpose_b { 'k' } else { 'n' });
            match vectors {
                true => format!("{dtype}_{kind}_{tile}_{a}{b}"),
                false => format!("{dtype}_{kind}_{SMALL}_strided"),
            }
        };
        let tile = match algorithm {
            RegisterTile128 | TensorCore128 if vectors => LARGE,
            _ => SMALL,
        };
        let tiled = |name, tile, width| Rung { kernel: name, tile, splits: true, width };
        let simple = |name: &str, tile| Rung {
            kernel: format!("{dtype}_{name}"),
            tile,
            splits: false,
            width: 1,
        };
        match algorithm {
            Naive => simple("naive", Tile::new(8, 32, 256)),
            SharedTile => simple("shared_tile", Tile::new(32, 32, 1024)),
            RegisterTile64 | RegisterTile128 => tiled(name(tile, "register_tile"), tile, 4),
            TensorCore64 | TensorCore128 => tiled(name(tile, "tensor_core"), tile, 8),
            TensorCoreTf32 => tiled(format!("tf32_tensor_core_{SMALL}_strided"), SMALL, 8),
        }
    }

    fn grid(&self, gemm: &Gemm) -> Grid {
        let mut grid = gemm.grid(self.tile);
        if !self.splits {
            grid.threads = [32, self.tile.threads / 32, 1];
        }
        grid
    }
}

/// [`Backend::matmul`]
pub fn matmul(
    cuda: &Cuda,
    args: &MatmulArgs,
    a: &Buffer,
    b: &Buffer,
    bias: Option<&Buffer>,
) -> Result<Buffer> {
    let dtype = cuda.float(OP, a)?;
    let &MatmulArgs { batch, m, n, k, .. } = args;
    let a = cuda.input(OP, a, dtype, args.a_elements())?;
    let b = cuda.input(OP, b, dtype, args.b_elements())?;
    let bias = cuda.input_if(OP, bias, dtype, n)?;
    let y = cuda.output(dtype, args.y_elements())?;
    let a = Operand::new(a, m, k, !args.transpose_a, args.shared_a);
    let b = Operand::new(b, n, k, args.transpose_b, args.shared_b);
    let forced = cuda.matmul.filter(|algorithm| algorithm.is_for(dtype));
    let algorithm = forced.unwrap_or_else(|| MatmulAlgorithm::by_shape(args, dtype));
    let rung = Rung::new(algorithm, args, dtype);
    for first in (0..batch).step_by(MAX_PRODUCTS) {
        let products = (batch - first).min(MAX_PRODUCTS);
        let whole = Gemm::whole(m, n, k, products);
        let gemm = if rung.splits { whole.split(rung.tile, LEAST_TERMS) } else { whole };
        let partials = gemm.partials(cuda)?;
        let address = y.pointer() + (first * m * n * dtype.size()) as u64;
        let (a, b) = (a.skip(first, dtype.size()), b.skip(first, dtype.size()));
        let params: Params = gemm.params(OP, rung.width)?.words(&a.words()).words(&b.words());
        let params = params.value(a.address).value(b.address).value(bias).value(address);
        let params = params.value(partials.as_ref().map_or(0, |partials| partials.pointer()));
        let kernel = format!("matmul_forward_{}", rung.kernel);
        cuda.launch(OP, &MATMUL, &kernel, rung.grid(&gemm), params)?;
        if let Some(partials) = partials {
            let kernel = format!("matmul_forward_{dtype}_split_sum");
            gemm.sum_splits(cuda, OP, &MATMUL, &kernel, &partials, bias, address)?;
        }
    }
    Ok(y.done())
}
