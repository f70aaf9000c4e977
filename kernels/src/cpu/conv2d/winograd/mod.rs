//! Winograd convolution F(4x4, 3x3): Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks" (2015).
//!
//! A 4x4 tile of y comes from a 6x6 tile d of x and the 3x3 filter g by
//!
//! ```text
//!   y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A
//! ```
//!
//! 36 multiplications where the definition takes 144. Summed over input channels, each of the 36
//! positions is a matrix product `[tiles, C_in] x [C_in, C_out]` on the microkernel of `gemm`:
//!
//! ```text
//!   U [36][C_out / NR][C_in][NR]   the filters, transformed once a call
//!   V [36][tiles][C_in]            input tiles  \ of one chunk of tiles, which a task keeps in its L2
//!   M [36][tiles][C_out]           products     /
//! ```
//!
//! For bf16, U and V are rounded to bf16 (U in words of two input channels) and M is f32.
//!
//! Backward-data is the same with dy for x and flipped filters.

pub mod filter;
mod transform;
pub mod transformed;

use std::sync::Mutex;

use transform::{FilterSource, TransformFilters, TransformInput, TransformOutput};
use transformed::Transformed;

use crate::cpu::Cpu;
use crate::cpu::conv2d::Epilogue;
use crate::cpu::gemm::{Matrix, PackColumns, Tiles, outer_products, store_tile, sweep, zero_tile};
use crate::cpu::scalar::Scalar;
use crate::cpu::simd::{Kernel, Vector};
use crate::cpu::threads::SharedMut;
use crate::{Conv2dArgs, Error, Result};

/// Positions of a transformed tile.
pub const POSITIONS: usize = 36;

/// Whether the algorithm can compute this convolution.
pub fn applies(args: &Conv2dArgs) -> bool {
    let o = &args.options;
    (args.kh, args.kw) == (3, 3)
        && o.stride == [1, 1]
        && o.dilation == [1, 1]
        && o.groups == 1
        && o.padding.iter().all(|&p| p <= 2)
        && args.x_elements() > 0
        && args.y_elements() > 0
}

/// How images are cut into tiles.
#[derive(Clone, Copy)]
pub struct Grid {
    /// Input image.
    pub h: usize,
    /// Input image.
    pub w: usize,
    /// Output image.
    pub oh: usize,
    /// Output image.
    pub ow: usize,
    /// Zeros around the input, vertical and horizontal.
    pub padding: [usize; 2],
    /// Tiles down.
    pub down: usize,
    /// Tiles across.
    pub across: usize,
}

impl Grid {
    /// Tiles of 4x4 outputs; the last ones may stick out.
    pub fn new(h: usize, w: usize, oh: usize, ow: usize, padding: [usize; 2]) -> Grid {
        Grid { h, w, oh, ow, padding, down: oh.div_ceil(4), across: ow.div_ceil(4) }
    }

    /// Tiles of one image.
    pub fn tiles(&self) -> usize {
        self.down * self.across
    }

    /// Image, and first output row and column, of a tile counted over all images.
    #[inline(always)]
    pub fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (image, t) = (tile / self.tiles(), tile % self.tiles());
        (image, t / self.across * 4, t % self.across * 4)
    }
}

/// y = relu?(x * filter + bias + residual)
pub fn forward<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    x: &[T],
    filter: &[T],
    epilogue: Epilogue<'_, T>,
    y: &mut [T],
) -> Result<()> {
    let (c, k) = (args.c_in, args.c_out);
    let nr = cpu.isa.panel_width(k);
    // Panels of filters with output channels in the lanes: [panel][tap][ci][NR], the transpose of
    // [co][tap][ci].
    let panels = k.div_ceil(nr);
    let mut taps = cpu.alloc::<T>(panels * 9 * c * nr)?;
    let taps = taps.slice_mut::<T>(panels * 9 * c * nr);
    cpu.threads.chunks(taps, 9 * c * nr, |j, out| {
        let filters = &filter[j * nr * 9 * c..((j + 1) * nr).min(k) * 9 * c];
        cpu.isa.run(TransposeFilters { filters, len: 9 * c, nr, out });
    });
    let source = FilterSource { data: taps, tap: c * nr, row: nr, panel: 9 * c * nr, flip: false };
    let grid = Grid::new(args.h, args.w, args.oh, args.ow, args.options.padding);
    Convolution { grid, c, k, source, x, epilogue }.run(cpu, y)
}

/// `[nr, rounded up][len]` to `[len][nr]`, zeros for filters that do not exist.
struct TransposeFilters<'a, T> {
    filters: &'a [T],
    len: usize,
    nr: usize,
    out: &'a mut [T],
}

impl<T: Scalar> Kernel for TransposeFilters<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let TransposeFilters { filters, len, nr, out } = self;
        if T::TERMS == 1 {
            let b = Matrix { data: filters, row: 1, column: len };
            let (width, out) = (filters.len() / len, bytemuck::cast_slice_mut(out));
            return PackColumns { b, k0: 0, k: len, j0: 0, width, panel: nr, out }.run::<V>();
        }
        for (i, line) in out.chunks_exact_mut(nr).enumerate() {
            for (j, out) in line.iter_mut().enumerate() {
                *out = filters.get(j * len + i).copied().unwrap_or(T::narrow(0.0));
            }
        }
    }
}

/// dx from dy: the filters flipped, input and output channels swapped.
pub fn backward_data<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    filter: &[T],
    dy: &[T],
    dx: &mut [T],
) -> Result<()> {
    let c = args.c_in;
    let nr = cpu.isa.panel_width(c);
    let source = FilterSource { data: filter, tap: c, row: 9 * c, panel: nr, flip: true };
    let padding = args.options.padding.map(|p| 2 - p);
    let grid = Grid::new(args.oh, args.ow, args.h, args.w, padding);
    let (c, k) = (args.c_out, c);
    Convolution { grid, c, k, source, x: dy, epilogue: Epilogue::none() }.run(cpu, dx)
}

/// Above this many bytes of transformed filters, they are not kept: each thread transforms a panel
/// of them when it needs it.
const LARGE_FILTERS: usize = 12 << 20;

/// Tiles that a task transforms and multiplies at a time: V and M of a chunk should stay in L2, and
/// where U is larger than L2 a chunk must be worth reading U from L3.
fn chunk_tiles<T: Scalar>(c: usize, k: usize, total: usize, threads: usize) -> usize {
    let bytes = POSITIONS * (size_of::<T>() * c + 4 * k);
    let u_bytes = size_of::<T>() * POSITIONS * c * k;
    let fit = if u_bytes > 1 << 20 { 128 } else { (640 << 10) / bytes };
    let share = total.div_ceil(2 * threads);
    fit.clamp(16, 256).min(share.max(8)).next_multiple_of(8)
}

/// One convolution of `images` of `grid`.
struct Convolution<'a, T> {
    grid: Grid,
    /// Input and output channels.
    c: usize,
    k: usize,
    source: FilterSource<'a, T>,
    x: &'a [T],
    epilogue: Epilogue<'a, T>,
}

impl<T: Scalar> Convolution<'_, T> {
    fn run(&self, cpu: &Cpu, y: &mut [T]) -> Result<()> {
        match size_of::<T>() * POSITIONS * self.c * self.k > LARGE_FILTERS {
            true => self.filters_once(cpu, y),
            false => self.tiles_once(cpu, y),
        }
    }

    fn tiles(&self) -> usize {
        self.x.len() / (self.grid.h * self.grid.w * self.c) * self.grid.tiles()
    }

    /// All filters are transformed first; then each task takes a chunk of tiles through all three
    /// steps in its L2.
    fn tiles_once(&self, cpu: &Cpu, y: &mut [T]) -> Result<()> {
        let &Convolution { grid, c, k, source, x, epilogue } = self;
        let nr = cpu.isa.panel_width(k);
        let panels = k.div_ceil(nr);
        let words = c.div_ceil(T::TERMS);
        let position = panels * words * nr;
        let mut u = cpu.alloc::<f32>(POSITIONS * position)?;
        let u = u.slice_mut::<f32>(POSITIONS * position);
        let shared = SharedMut::new(u);
        let rows_a_task = 64;
        let row_tasks = words.div_ceil(rows_a_task);
        cpu.threads.run(panels * row_tasks, |task| {
            let (panel, row) = (task / row_tasks, task % row_tasks * rows_a_task);
            cpu.isa.run(TransformFilters {
                source,
                panel,
                columns: (k - panel * nr).min(nr),
                nr,
                rows: row..(row + rows_a_task).min(words),
                c,
                // SAFETY: the task writes its rows of its panel, of every position, alone.
                out: unsafe { shared.pointer(panel * words * nr) },
                position,
            });
        });
        Transformed { cpu, grid, c, k, x, u, epilogue }.chunks_of_tiles(y)
    }

    /// Few tiles, many filters (512 x 512 channels take 38 MB transformed): a chunk of tiles is
    /// transformed by all threads; then each task transforms one panel of filters, which never
    /// leaves its caches, and finishes the panel's channels.
    fn filters_once(&self, cpu: &Cpu, y: &mut [T]) -> Result<()> {
        let &Convolution { grid, c, k, source, x, epilogue } = self;
        let Epilogue { bias, residual, relu } = epilogue;
        let nr = cpu.isa.panel_width(k);
        let cp = c.next_multiple_of(cpu.isa.lanes());
        let total = self.tiles();
        let tiles = 256.min(total.next_multiple_of(8));
        let words = c.div_ceil(T::TERMS);
        let (v_step, m_step, u_step) = (tiles * cp + 16, tiles * nr + 16, words * nr + 16);
        let mut v = cpu.alloc::<T>(POSITIONS * v_step)?;
        let v = v.slice_mut::<T>(POSITIONS * v_step);
        let zeros = vec![T::narrow(0.0); cp];
        let failed = Mutex::new(None);
        let (out, y_len) = (SharedMut::new(y), y.len());
        for first in (0..total).step_by(tiles) {
            let count = tiles.min(total - first);
            let (v_shared, v_len) = (SharedMut::new(v), v.len());
            let piece = 8;
            cpu.threads.run(count.div_ceil(piece), |task| {
                cpu.isa.run(TransformInput {
                    grid,
                    c,
                    cp,
                    x,
                    zeros: &zeros,
                    first,
                    tiles: task * piece..((task + 1) * piece).min(count),
                    // SAFETY: the task writes the rows of its tiles alone.
                    v: unsafe { v_shared.pointer(0) },
                    v_len,
                    v_step,
                    pairs: false,
                });
            });
            let v = &*v;
            cpu.threads.run(k.div_ceil(nr), |panel| {
                let mut memory = match cpu.alloc::<f32>(POSITIONS * (u_step + m_step)) {
                    Ok(memory) => memory,
                    Err(e) => return keep(&failed, e),
                };
                let scratch = memory.slice_mut::<f32>(POSITIONS * (u_step + m_step));
                let (u, m) = scratch.split_at_mut(POSITIONS * u_step);
                let channels = panel * nr..((panel + 1) * nr).min(k);
                cpu.isa.run(TransformFilters {
                    source,
                    panel,
                    columns: channels.len(),
                    nr,
                    rows: 0..words,
                    c,
                    out: u.as_mut_ptr(),
                    position: u_step,
                });
                cpu.isa.run(Multiply { u, u_step, v, m, v_step, m_step, c, cp, kp: nr, count });
                cpu.isa.run(TransformOutput {
                    grid,
                    k,
                    channels,
                    m,
                    m_row: nr,
                    m_step,
                    first,
                    count,
                    bias,
                    residual,
                    relu,
                    // SAFETY: the task writes its channels of the chunk's pixels alone.
                    y: unsafe { out.pointer(0) },
                    y_len,
                });
            });
        }
        failed.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
    }
}

/// Remembers an error of a task.
fn keep(failed: &Mutex<Option<Error>>, error: Error) {
    *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
}

/// M = V U for each position.
struct Multiply<'a, T> {
    u: &'a [f32],
    u_step: usize,
    v: &'a [T],
    m: &'a mut [f32],
    v_step: usize,
    m_step: usize,
    c: usize,
    cp: usize,
    kp: usize,
    count: usize,
}

impl<T: Scalar> Kernel for Multiply<'_, T> {
    type Output = ();
    const BF16: bool = T::TERMS == 2;

    #[inline(always)]
    fn run<V: Vector>(self) {
        if self.kp == V::LANES {
            self.positions::<V, 1>();
        } else {
            self.positions::<V, 2>();
        }
    }
}

impl<T: Scalar> Multiply<'_, T> {
    #[inline(always)]
    fn positions<V: Vector, const NV: usize>(self) {
        let nr = NV * V::LANES;
        let (u_step, words) = (self.u_step, self.c.div_ceil(T::TERMS));
        assert!(self.kp.is_multiple_of(nr) && u_step >= self.kp * words);
        assert!(self.cp >= words * T::TERMS);
        assert!(self.u.len() >= (POSITIONS - 1) * u_step + self.kp * words);
        assert!(self.v.len() >= POSITIONS * self.v_step && self.v_step >= self.count * self.cp);
        assert!(self.m.len() >= POSITIONS * self.m_step && self.m_step >= self.count * self.kp);
        for position in 0..POSITIONS {
            for j in (0..self.kp).step_by(nr) {
                let tiles = TileRows {
                    a: self.v[position * self.v_step..].as_ptr(),
                    a_row: self.cp,
                    b: self.u[position * u_step + j * words..].as_ptr(),
                    k: words,
                    out: self.m[position * self.m_step + j..].as_mut_ptr(),
                    out_row: self.kp,
                };
                // SAFETY: rows below count of V and M, all c terms of the panel: inside by the
                // assertions.
                unsafe { sweep::<V, NV>(self.count, &tiles) };
            }
        }
    }
}

/// Rows of V times one panel of U, k words each.
struct TileRows<T> {
    a: *const T,
    a_row: usize,
    b: *const f32,
    k: usize,
    out: *mut f32,
    out_row: usize,
}

impl<V: Vector, T: Scalar, const NV: usize> Tiles<V, NV> for TileRows<T> {
    #[inline(always)]
    unsafe fn tile<const MR: usize>(&self, row: usize) {
        let nr = NV * V::LANES;
        // SAFETY: as the caller of `sweep` states.
        unsafe {
            let acc = outer_products::<V, T, MR, NV, false>(
                zero_tile(),
                self.k,
                (self.a.add(row * self.a_row), self.a_row, T::TERMS),
                (self.b, nr),
                nr,
            );
            store_tile(acc, self.out.add(row * self.out_row), self.out_row, nr);
        }
    }
}
