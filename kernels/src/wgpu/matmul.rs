//! Launches the kernels of `matmul.wgsl` and `matmul_subgroup.wgsl`, a ladder: which rung computes which product.

use std::fmt;
use std::str::FromStr;

use super::pipelines::{Family, MATMUL, MATMUL_SUBGROUP};
use super::{Grid, Kernel, Params, Read, Wgpu, Write};
use crate::*;

const OP: &str = "matmul";

/// A rung of the ladder, to be forced by [`super::WgpuOptions::matmul`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatmulAlgorithm {
    /// One thread a result.
    Naive,
    /// 16 x 16 tiles in workgroup memory.
    WorkgroupTile,
    /// 8 x 8 results a thread.
    RegisterTile,
    /// 32 x 32 results by a subgroup of 8 threads: only on adapters whose subgroups all have that size, and only
    /// for sizes that are multiples of 4. Else it is [`MatmulAlgorithm::RegisterTile`].
    SubgroupTile,
}

use MatmulAlgorithm::*;

impl MatmulAlgorithm {
    /// Every rung.
    pub const ALL: [MatmulAlgorithm; 4] = [Naive, WorkgroupTile, RegisterTile, SubgroupTile];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Naive => "naive",
            WorkgroupTile => "workgroup_tile",
            RegisterTile => "register_tile",
            SubgroupTile => "subgroup_tile",
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
        MatmulAlgorithm::ALL.into_iter().find(|a| a.name() == s).ok_or_else(|| {
            let names = MatmulAlgorithm::ALL.map(MatmulAlgorithm::name).join(", ");
            Error::argument(OP, format!("unknown algorithm '{s}': expected one of {names}"))
        })
    }
}

/// Threads of a workgroup of the kernels of products and convolution: `WORKGROUP` in the shaders.
pub const WORKGROUP: usize = 64;

/// Rows and columns of a register tile, in all families.
pub const REGISTER_TILE: usize = 8;

/// Terms of a sum that are worth a thread of their own, and a second pass over its results.
const LEAST_TERMS: usize = 256;

/// The kernel of a rung: rows and columns of its tile, tiles of a workgroup, and tiles that are enough work for
/// many devices (measured on lavapipe only). That is a constant, not what the device at hand has: how a sum is split
/// decides its rounding.
struct Rung {
    family: &'static Family,
    entry: &'static str,
    tile: usize,
    tiles_a_workgroup: usize,
    wanted_tiles: usize,
}

/// Whether all subgroups of the adapter have 8 threads, as on a CPU whose vectors have 256 bits.
pub fn has_subgroups_of_8(wgpu: &Wgpu) -> bool {
    let info = &wgpu.context.info;
    wgpu.context.features.contains(::wgpu::Features::SUBGROUP)
        && (info.subgroup_min_size, info.subgroup_max_size) == (8, 8)
}

impl Rung {
    fn choose(wgpu: &Wgpu, args: &MatmulArgs) -> Rung {
        let &MatmulArgs { m, n, k, transpose_a, .. } = args;
        // Rows of both operands and of y can be read and written by 4.
        let vectors = k % 4 == 0 && n % 4 == 0 && (!transpose_a || m % 4 == 0);
        let is_large = m.min(n) >= 16;
        let algorithm = match wgpu.options {
            super::WgpuOptions { matmul: Some(forced), .. } => forced,
            super::WgpuOptions { first_rung: true, .. } => Naive,
            _ if is_large => SubgroupTile,
            _ => RegisterTile,
        };
        let simple = |entry, tile, tiles_a_workgroup| Rung {
            family: &MATMUL,
            entry,
            tile,
            tiles_a_workgroup,
            wanted_tiles: 0,
        };
        match algorithm {
            Naive => simple("matmul_naive", 1, WORKGROUP),
            WorkgroupTile => simple("matmul_workgroup_tile", 16, 1),
            SubgroupTile if vectors && has_subgroups_of_8(wgpu) => Rung {
                family: &MATMUL_SUBGROUP,
                entry: "matmul_subgroup_tile",
                tile: 32,
                tiles_a_workgroup: 1,
                wanted_tiles: 64,
            },
            RegisterTile | SubgroupTile => Rung {
                family: &MATMUL,
                entry: if vectors {
                    "matmul_register_tile"
                } else {
                    "matmul_register_tile_strided"
                },
                tile: REGISTER_TILE,
                tiles_a_workgroup: WORKGROUP,
                wanted_tiles: 4096,
            },
        }
    }
}

/// Parts of a sum of `terms` terms whose results make `tiles` tiles, and the terms of one: a multiple of `step`, and
/// `least` or more.
pub fn split(terms: usize, tiles: usize, wanted: usize, least: usize, step: usize) -> [usize; 2] {
    let parts = (wanted / tiles.max(1)).clamp(1, terms.div_ceil(least).max(1));
    let part = terms.div_ceil(parts).next_multiple_of(step).max(step);
    [terms.div_ceil(part).max(1), part]
}

/// [`Backend::matmul`]
pub fn matmul(
    wgpu: &Wgpu,
    args: &MatmulArgs,
    a: &Buffer,
    b: &Buffer,
    bias: Option<&Buffer>,
) -> Result<Buffer> {
    let dtype = wgpu.float(OP, a)?;
    let &MatmulArgs { batch, m, n, k, .. } = args;
    let a = wgpu.input(OP, a, dtype, args.a_elements())?;
    let b = wgpu.input(OP, b, dtype, args.b_elements())?;
    let has_bias = bias.is_some();
    let bias = wgpu.input_if(OP, bias, dtype, n)?;
    let results = args.y_elements();
    let y = wgpu.output(OP, dtype, results)?;
    if results == 0 {
        return Ok(y.done());
    }
    let rung = Rung::choose(wgpu, args);
    let tiles = [m, n].map(|size| size.div_ceil(rung.tile));
    let count = batch * tiles[0] * tiles[1];
    let [splits, split_k] = split(k, count, rung.wanted_tiles, LEAST_TERMS, 4);
    let partials = match splits {
        1 => None,
        _ => Some(wgpu.output(OP, Dtype::F32, splits * results)?),
    };
    let sums = partials.as_ref().map_or(&wgpu.nothing, |partials| &partials.memory);
    // Strides from product to product, along m or n, along k.
    let operand = |rows: usize, transpose: bool, shared: bool| {
        let [along_rows, along_k] = if transpose { [1, rows] } else { [k, 1] };
        [if shared { 0 } else { rows * k }, along_rows, along_k]
    };
    let params = || {
        Params::new()
            .sizes(&[m, n, k, batch, splits, split_k, tiles[0], tiles[1]])
            .sizes(&operand(m, args.transpose_a, args.shared_a))
            .sizes(&operand(n, !args.transpose_b, args.shared_b))
            .word(u32::from(has_bias))
    };
    let layouts =
        [("A_BY_K", u32::from(!args.transpose_a)), ("B_BY_K", u32::from(args.transpose_b))];
    let kernel = Kernel::new(rung.family, rung.entry, dtype).with(&layouts);
    let grid = Grid::threads(count * splits, rung.tiles_a_workgroup);
    let buffers = [Read(a), Read(b), Read(bias), Write(&y.memory), Write(sums)];
    wgpu.launch(OP, kernel, grid, params(), &buffers)?;
    if splits > 1 {
        let kernel = Kernel::new(&MATMUL, "matmul_split_sum", dtype);
        wgpu.launch(OP, kernel, Grid::threads(results, WORKGROUP), params(), &buffers)?;
    }
    Ok(y.done())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_sum_and_have_work() {
        for (terms, tiles, wanted) in
            [(1, 1, 4096), (4096, 16, 4096), (8192, 36, 4096), (10, 0, 64), (0, 4, 64), (9, 9, 0)]
        {
            let [parts, part] = split(terms, tiles, wanted, 256, 4);
            assert!(parts >= 1 && parts * part >= terms, "{terms}: {parts} x {part}");
            assert!(parts == 1 || (parts - 1) * part < terms, "{terms}: {parts} x {part}");
            assert!(part % 4 == 0 && part > 0);
        }
    }
}
