//! What the launchers of matmul and convolution share: sizes of products, tiles, splits of long sums.
//! The kernels' side is `kernels/cuda/gemm.cuh`.

use super::modules::Family;
use super::{Cuda, Grid, Output, Params};
use crate::{Dtype, Error, Result};

/// Blocks that a launch should have: two on each of an A100's or H100's 108 to 132 multiprocessors. A
/// constant, not the number that the device at hand has: how a sum is split decides its rounding.
const WANTED_BLOCKS: usize = 256;

/// Terms of a slice of k, in every kernel at most: splits begin at multiples of it.
const SLICE: usize = 32;

/// Words of 32 bits as the kernels' structs hold them.
pub fn packed(words: &[u32]) -> Vec<u64> {
    let pair = |pair: &[u32]| u64::from(pair[0]) | u64::from(*pair.get(1).unwrap_or(&0)) << 32;
    words.chunks(2).map(pair).collect()
}

/// Sizes as the kernels hold them: below 2^31.
pub fn narrow<const N: usize>(op: &'static str, sizes: [usize; N]) -> Result<[u32; N]> {
    if let Some(size) = sizes.iter().find(|&&size| size > i32::MAX as usize) {
        let detail = format!(
            "{size} is too large for the CUDA kernels: sizes along an axis of a product must be below 2^31"
        );
        return Err(Error::argument(op, detail));
    }
    Ok(sizes.map(|size| size as u32))
}

/// `Divisor` of the kernels: n / divisor = n magic >> shift for n < 2^31.
///
/// magic = ceil(2^shift / divisor) exceeds 2^shift / divisor by e / divisor with e < divisor <= 2^(shift - 31),
/// so n magic / 2^shift exceeds n / divisor by less than 1 / divisor, which changes no quotient.
pub fn divisor(divisor: u32) -> [u32; 3] {
    if divisor == 0 {
        return [0, 0, 31]; // of nothing: never divided by
    }
    let shift = 31 + divisor.next_power_of_two().trailing_zeros();
    let magic = (1u64 << shift).div_ceil(u64::from(divisor));
    [divisor, magic as u32, shift]
}

/// Rows and columns of y that a block computes, and its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    pub rows: usize,
    pub columns: usize,
    pub threads: u32,
}

impl Tile {
    pub const fn new(rows: usize, columns: usize, threads: u32) -> Tile {
        Tile { rows, columns, threads }
    }

    /// Tiles of an m x n result.
    pub fn count(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.rows) * n.div_ceil(self.columns)
    }
}

impl std::fmt::Display for Tile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.rows, self.columns)
    }
}

/// Elements that the kernels of a dtype move at once: 16 bytes.
pub fn vector(dtype: Dtype) -> usize {
    16 / dtype.size()
}

/// `products` products [m, k] x [k, n].
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub products: usize,
    /// Parts of k, and the terms of one.
    splits: usize,
    split_k: usize,
}

impl Gemm {
    /// With k in one piece.
    pub fn whole(m: usize, n: usize, k: usize, products: usize) -> Gemm {
        Gemm { m, n, k, products, splits: 1, split_k: k }
    }

    /// The same with k split so that there are blocks for every multiprocessor, but `least` terms a block.
    pub fn split(self, tile: Tile, least: usize) -> Gemm {
        let tiles = tile.count(self.m, self.n) * self.products;
        if tiles == 0 || self.k == 0 {
            return self;
        }
        let wanted = (WANTED_BLOCKS / tiles).clamp(1, self.k.div_ceil(least));
        let split_k = self.k.div_ceil(wanted).next_multiple_of(SLICE);
        Gemm { splits: self.k.div_ceil(split_k), split_k, ..self }
    }

    /// Results of all products.
    fn results(&self) -> usize {
        self.m * self.n * self.products
    }

    /// Terms of a split, as a kernel's parameter.
    pub fn split_terms(&self, op: &'static str) -> Result<u32> {
        narrow(op, [self.split_k]).map(|[terms]| terms)
    }

    /// Room for the sums of the splits, if there are several.
    pub fn partials(&self, cuda: &Cuda) -> Result<Option<Output>> {
        match self.splits {
            1 => Ok(None),
            splits => Ok(Some(cuda.output(Dtype::F32, splits * self.results())?)),
        }
    }

    /// `Gemm` of the kernels; they write `width` results at once where the rows allow it.
    pub fn params(&self, op: &'static str, width: usize) -> Result<Params> {
        let Gemm { m, n, k, splits, split_k, .. } = *self;
        let vector_y = usize::from(n % width == 0);
        let sizes = narrow(op, [m, n, k, splits, split_k, vector_y])?;
        narrow(op, [m.next_multiple_of(128), n.next_multiple_of(128), k + 256])?; // tiles may end there
        Ok(Params::new().words32(&sizes))
    }

    /// A block a tile, split and product.
    pub fn grid(&self, tile: Tile) -> Grid {
        let blocks = [tile.count(self.m, self.n), self.splits, self.products];
        Grid::blocks(blocks, [tile.threads, 1, 1])
    }

    /// Adds the splits up into `y`, with the bias at an address, 0 for none.
    pub fn sum_splits(
        &self,
        cuda: &Cuda,
        op: &'static str,
        family: &Family,
        kernel: &str,
        partials: &Output,
        bias: u64,
        y: u64,
    ) -> Result<()> {
        let [splits, n] = narrow(op, [self.splits, self.n])?;
        let params = Params::new().size(self.results()).value(splits).value(n);
        let params = params.value(partials.pointer()).value(bias).value(y);
        cuda.launch(op, family, kernel, Grid::linear(self.results(), 256), params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_by_multiplication_is_exact() {
        let largest = i32::MAX as u64;
        for d in (1..300).chain([1023, 1024, 1025, 65537, 1 << 30, largest - 1, largest]) {
            let [_, magic, shift] = divisor(d as u32);
            let multiples = [1, 2, 3, 1000, largest / d].map(|i| i * d);
            let near = multiples.into_iter().flat_map(|n| [n - 1, n, n + 1]);
            for n in (0..300).chain(near).filter(|&n| n <= largest) {
                assert_eq!((n * u64::from(magic)) >> shift, n / d, "{n} / {d}");
            }
        }
    }

    #[test]
    fn splits_cover_k_and_have_work() {
        let tile = Tile::new(64, 64, 128);
        for (m, n, k) in
            [(1, 1, 1), (64, 10, 4096), (16, 144, 131072), (512, 4608, 8192), (3, 4, 0)]
        {
            let g = Gemm::whole(m, n, k, 1).split(tile, 256);
            assert!(g.splits >= 1 && g.splits * g.split_k >= k, "{g:?}");
            assert!(g.splits == 1 || (g.splits - 1) * g.split_k < k, "{g:?}");
            assert!(g.splits * tile.count(m, n) <= WANTED_BLOCKS.max(tile.count(m, n)), "{g:?}");
        }
    }
}
