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
//! Backward-data is the same with dy for x and flipped filters.

pub mod filter;
mod transform;

use std::sync::Mutex;

use transform::{FilterSource, TransformFilters, TransformInput, TransformOutput};

use crate::cpu::Cpu;
use crate::cpu::gemm::{Matrix, PackColumns, Tiles, outer_products, store_tile, sweep, zero_tile};
use crate::cpu::simd::{Isa, Kernel, Vector};
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

/// Lanes of a vector.
pub fn lanes(isa: Isa) -> usize {
    if isa == Isa::Avx512 { 16 } else { 8 }
}

/// Columns of a panel of `channels`: one vector or two.
pub fn panel_width(isa: Isa, channels: usize) -> usize {
    if channels <= lanes(isa) { lanes(isa) } else { 2 * lanes(isa) }
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

/// y = relu?(x * filter + bias)
pub fn forward(
    cpu: &Cpu,
    args: &Conv2dArgs,
    x: &[f32],
    filter: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
    y: &mut [f32],
) -> Result<()> {
    let (c, k) = (args.c_in, args.c_out);
    let nr = panel_width(cpu.isa, k);
    // Panels of filters with output channels in the lanes: [panel][tap][ci][NR], the transpose of
    // [co][tap][ci].
    let panels = k.div_ceil(nr);
    let mut taps = cpu.alloc::<f32>(panels * 9 * c * nr)?;
    let taps = taps.slice_mut::<f32>(panels * 9 * c * nr);
    let b = Matrix { data: filter, row: 1, column: 9 * c };
    cpu.threads.chunks(taps, 9 * c * nr, |j, out| {
        let width = (k - j * nr).min(nr);
        cpu.isa.run(PackColumns { b, k0: 0, k: 9 * c, j0: j * nr, width, panel: nr, out });
    });
    let source = FilterSource { data: taps, tap: c * nr, row: nr, panel: 9 * c * nr, flip: false };
    let grid = Grid::new(args.h, args.w, args.oh, args.ow, args.options.padding);
    Convolution { grid, c, k, source, x, bias, relu }.run(cpu, y)
}

/// dx from dy: the filters flipped, input and output channels swapped.
pub fn backward_data(
    cpu: &Cpu,
    args: &Conv2dArgs,
    filter: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) -> Result<()> {
    let c = args.c_in;
    let nr = panel_width(cpu.isa, c);
    let source = FilterSource { data: filter, tap: c, row: 9 * c, panel: nr, flip: true };
    let padding = args.options.padding.map(|p| 2 - p);
    let grid = Grid::new(args.oh, args.ow, args.h, args.w, padding);
    let (c, k) = (args.c_out, c);
    Convolution { grid, c, k, source, x: dy, bias: None, relu: false }.run(cpu, dx)
}

/// Above this many bytes of transformed filters, they are not kept: each thread transforms a panel
/// of them when it needs it.
const LARGE_FILTERS: usize = 12 << 20;

/// Tiles that a task transforms and multiplies at a time: V and M of a chunk should stay in L2, and
/// where U is larger than L2 a chunk must be worth reading U from L3.
fn chunk_tiles(c: usize, k: usize, total: usize, threads: usize) -> usize {
    let bytes = 4 * POSITIONS * (c + k);
    let u_bytes = 4 * POSITIONS * c * k;
    let fit = if u_bytes > 1 << 20 { 128 } else { (640 << 10) / bytes };
    let share = total.div_ceil(2 * threads);
    fit.clamp(16, 256).min(share.max(8)).next_multiple_of(8)
}

/// One convolution of `images` of `grid`.
struct Convolution<'a> {
    grid: Grid,
    /// Input and output channels.
    c: usize,
    k: usize,
    source: FilterSource<'a>,
    x: &'a [f32],
    bias: Option<&'a [f32]>,
    relu: bool,
}

impl Convolution<'_> {
    fn run(&self, cpu: &Cpu, y: &mut [f32]) -> Result<()> {
        match 4 * POSITIONS * self.c * self.k > LARGE_FILTERS {
            true => self.filters_once(cpu, y),
            false => self.tiles_once(cpu, y),
        }
    }

    fn tiles(&self) -> usize {
        self.x.len() / (self.grid.h * self.grid.w * self.c) * self.grid.tiles()
    }

    /// All filters are transformed first; then each task takes a chunk of tiles through all three
    /// steps in its L2.
    fn tiles_once(&self, cpu: &Cpu, y: &mut [f32]) -> Result<()> {
        let &Convolution { grid, c, k, source, x, bias, relu } = self;
        let nr = panel_width(cpu.isa, k);
        let panels = k.div_ceil(nr);
        let position = panels * c * nr;
        let mut u = cpu.alloc::<f32>(POSITIONS * position)?;
        let u = u.slice_mut::<f32>(POSITIONS * position);
        let shared = SharedMut::new(u);
        let rows_a_task = 64;
        let row_tasks = c.div_ceil(rows_a_task);
        cpu.threads.run(panels * row_tasks, |task| {
            let (panel, row) = (task / row_tasks, task % row_tasks * rows_a_task);
            cpu.isa.run(TransformFilters {
                source,
                panel,
                columns: (k - panel * nr).min(nr),
                nr,
                rows: row..(row + rows_a_task).min(c),
                // SAFETY: the task writes its rows of its panel, of every position, alone.
                out: unsafe { shared.pointer(panel * c * nr) },
                position,
            });
        });
        let u = &*u;
        let total = self.tiles();
        let tiles = chunk_tiles(c, k, total, cpu.threads.count());
        let (cp, kp) = (c.next_multiple_of(lanes(cpu.isa)), panels * nr);
        // A line of padding a position keeps the 36 streams of a transform out of one cache set.
        let (v_step, m_step) = (tiles * cp + 16, tiles * kp + 16);
        let zeros = vec![0.0; cp];
        let failed = Mutex::new(None);
        let (out, y_len) = (SharedMut::new(y), y.len());
        cpu.threads.run(total.div_ceil(tiles), |task| {
            let mut memory = match cpu.alloc::<f32>(POSITIONS * (v_step + m_step)) {
                Ok(memory) => memory,
                Err(e) => return keep(&failed, e),
            };
            let scratch = memory.slice_mut::<f32>(POSITIONS * (v_step + m_step));
            let (v, m) = scratch.split_at_mut(POSITIONS * v_step);
            let first = task * tiles;
            let count = tiles.min(total - first);
            let (v_start, v_len) = (v.as_mut_ptr(), v.len());
            cpu.isa.run(TransformInput {
                grid,
                c,
                cp,
                x,
                zeros: &zeros,
                first,
                tiles: 0..count,
                v: v_start,
                v_len,
                v_step,
            });
            cpu.isa.run(Multiply { u, u_step: position, v, m, v_step, m_step, c, cp, kp, count });
            cpu.isa.run(TransformOutput {
                grid,
                k,
                channels: 0..k,
                m,
                m_row: kp,
                m_step,
                first,
                count,
                bias,
                relu,
                // SAFETY: the task writes the pixels of its own tiles alone.
                y: unsafe { out.pointer(0) },
                y_len,
            });
        });
        failed.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
    }

    /// Few tiles, many filters (512 x 512 channels take 38 MB transformed): a chunk of tiles is
    /// transformed by all threads; then each task transforms one panel of filters, which never
    /// leaves its caches, and finishes the panel's channels.
    fn filters_once(&self, cpu: &Cpu, y: &mut [f32]) -> Result<()> {
        let &Convolution { grid, c, k, source, x, bias, relu } = self;
        let nr = panel_width(cpu.isa, k);
        let cp = c.next_multiple_of(lanes(cpu.isa));
        let total = self.tiles();
        let tiles = 256.min(total.next_multiple_of(8));
        let (v_step, m_step, u_step) = (tiles * cp + 16, tiles * nr + 16, c * nr + 16);
        let mut v = cpu.alloc::<f32>(POSITIONS * v_step)?;
        let v = v.slice_mut::<f32>(POSITIONS * v_step);
        let zeros = vec![0.0; cp];
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
                    rows: 0..c,
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
struct Multiply<'a> {
    u: &'a [f32],
    u_step: usize,
    v: &'a [f32],
    m: &'a mut [f32],
    v_step: usize,
    m_step: usize,
    c: usize,
    cp: usize,
    kp: usize,
    count: usize,
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        if self.kp == V::LANES {
            self.positions::<V, 1>();
        } else {
            self.positions::<V, 2>();
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    fn positions<V: Vector, const NV: usize>(self) {
        let nr = NV * V::LANES;
        let u_step = self.u_step;
        assert!(self.kp.is_multiple_of(nr) && u_step >= self.kp * self.c);
        assert!(self.u.len() >= POSITIONS * u_step);
        assert!(self.v.len() >= POSITIONS * self.v_step && self.v_step >= self.count * self.cp);
        assert!(self.m.len() >= POSITIONS * self.m_step && self.m_step >= self.count * self.kp);
        for position in 0..POSITIONS {
            for j in (0..self.kp).step_by(nr) {
                let tiles = TileRows {
                    a: self.v[position * self.v_step..].as_ptr(),
                    a_row: self.cp,
                    b: self.u[position * u_step + j * self.c..].as_ptr(),
                    k: self.c,
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

/// Rows of V times one panel of U.
struct TileRows {
    a: *const f32,
    a_row: usize,
    b: *const f32,
    k: usize,
    out: *mut f32,
    out_row: usize,
}

impl<V: Vector, const NV: usize> Tiles<V, NV> for TileRows {
    #[inline(always)]
    unsafe fn tile<const MR: usize>(&self, row: usize) {
        let nr = NV * V::LANES;
        // SAFETY: as the caller of `sweep` states.
        unsafe {
            let acc = outer_products::<V, MR, NV, false>(
                zero_tile(),
                self.k,
                (self.a.add(row * self.a_row), self.a_row, 1),
                (self.b, nr),
                nr,
            );
            store_tile(acc, self.out.add(row * self.out_row), self.out_row, nr);
        }
    }
}
