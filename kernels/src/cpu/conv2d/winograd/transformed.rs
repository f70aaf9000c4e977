//! Winograd convolution with filters that are transformed already.
//!
//! With many tiles a task takes a chunk of them through all steps. With few, as for one image, the
//! filters are most of the traffic and there may be fewer chunks than threads: then the tiles are
//! transformed first, by all threads, and each task multiplies them with some panels of filters and
//! finishes those channels. So a filter is read by one thread only.

use std::ops::Range;
use std::sync::Mutex;

use super::transform::{FilterSource, TransformFilters, TransformInput, TransformOutput};
use super::{Grid, Multiply, POSITIONS, TransposeFilters, chunk_tiles, keep};
use crate::cpu::Cpu;
use crate::cpu::conv2d::Epilogue;
use crate::cpu::scalar::Scalar;
use crate::cpu::threads::SharedMut;
use crate::host::HostMemory;
use crate::{Conv2dArgs, Result};

/// Bytes of transformed filters above which a task takes panels of them and not chunks of tiles: as
/// much as L2 holds beside a chunk.
const SHARED_FILTERS: usize = 640 << 10;

/// Words of U.
pub fn words<T: Scalar>(cpu: &Cpu, args: &Conv2dArgs) -> usize {
    let nr = cpu.isa.panel_width(args.c_out);
    POSITIONS * args.c_out.next_multiple_of(nr) * args.c_in.div_ceil(T::TERMS)
}

/// U `[36][C_out / NR][words of C_in][NR]`.
pub fn transform_filters<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    filter: &[T],
) -> Result<HostMemory> {
    let (c, k) = (args.c_in, args.c_out);
    let nr = cpu.isa.panel_width(k);
    let panels = k.div_ceil(nr);
    let rows = c.div_ceil(T::TERMS);
    let position = panels * rows * nr;
    let mut memory = cpu.alloc::<f32>(POSITIONS * position)?;
    let u = SharedMut::new(memory.slice_mut::<f32>(POSITIONS * position));
    let failed = Mutex::new(None);
    cpu.threads.run(panels, |panel| {
        // The panel's filters with output channels in the lanes: [tap][ci][NR].
        let mut taps = match cpu.alloc::<T>(9 * c * nr) {
            Ok(taps) => taps,
            Err(e) => return keep(&failed, e),
        };
        let out = taps.slice_mut::<T>(9 * c * nr);
        let channels = panel * nr..((panel + 1) * nr).min(k);
        let columns = channels.len();
        let filters = &filter[channels.start * 9 * c..channels.end * 9 * c];
        cpu.isa.run(TransposeFilters { filters, len: 9 * c, nr, out });
        let source = FilterSource { data: out, tap: c * nr, row: nr, panel: 0, flip: false };
        // SAFETY: the task writes its panel of every position alone.
        let out = unsafe { u.pointer(panel * rows * nr) };
        let rows = 0..rows;
        cpu.isa.run(TransformFilters { source, panel: 0, columns, nr, rows, c, out, position });
    });
    failed.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(memory), Err)
}

/// y = relu?(x * filter + bias + residual), the filter as U.
pub fn forward<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    x: &[T],
    u: &[f32],
    epilogue: Epilogue<'_, T>,
    y: &mut [T],
) -> Result<()> {
    let grid = Grid::new(args.h, args.w, args.oh, args.ow, args.options.padding);
    let convolution = Transformed { cpu, grid, c: args.c_in, k: args.c_out, x, u, epilogue };
    let (total, threads) = (convolution.tiles(), cpu.threads.count());
    let few_tiles = total < 8 * threads;
    let large_filters = 4 * u.len() > SHARED_FILTERS && total < 64 * threads;
    match args.c_out > cpu.isa.panel_width(args.c_out) && (few_tiles || large_filters) {
        true => convolution.panels_apart(y),
        false => convolution.chunks_of_tiles(y),
    }
}

/// A convolution of images of `grid` with transformed filters.
pub struct Transformed<'a, T> {
    /// Where it runs.
    pub cpu: &'a Cpu,
    /// Geometry.
    pub grid: Grid,
    /// Input channels.
    pub c: usize,
    /// Output channels.
    pub k: usize,
    /// The images.
    pub x: &'a [T],
    /// `[36][C_out / NR][words of C_in][NR]`
    pub u: &'a [f32],
    /// What follows the sums.
    pub epilogue: Epilogue<'a, T>,
}

impl<T: Scalar> Transformed<'_, T> {
    /// Tiles of all images.
    fn tiles(&self) -> usize {
        self.x.len() / (self.grid.h * self.grid.w * self.c) * self.grid.tiles()
    }

    /// Channels of a row of V.
    fn cp(&self) -> usize {
        self.c.next_multiple_of(self.cpu.isa.lanes())
    }

    /// M of tiles `0..count` = V U, for the panels of `kp` channels that begin at word `start` of
    /// each position.
    fn multiply(
        &self,
        start: usize,
        (v, v_step): (&[T], usize),
        (m, m_step): (&mut [f32], usize),
        kp: usize,
        count: usize,
    ) {
        let (c, cp, u, u_step) = (self.c, self.cp(), &self.u[start..], self.u.len() / POSITIONS);
        self.cpu.isa.run(Multiply { u, u_step, v, m, v_step, m_step, c, cp, kp, count });
    }

    /// V of `tiles`, counted from `first`.
    ///
    /// # Safety
    /// `v` must have room for `[36][v_step]` elements, of which nobody else may hold the rows
    /// `tiles`.
    unsafe fn input(
        &self,
        first: usize,
        tiles: Range<usize>,
        zeros: &[T],
        v: *mut T,
        v_step: usize,
    ) {
        let &Transformed { grid, c, x, .. } = self;
        let (cp, v_len, pairs) = (self.cp(), POSITIONS * v_step, false);
        let all = TransformInput { grid, c, cp, x, zeros, first, tiles, v, v_len, v_step, pairs };
        self.cpu.isa.run(all);
    }

    /// Output channels `channels` of tiles `first..first + count` from M.
    ///
    /// # Safety
    /// `y` must be all images of the result, of which nobody else may hold those channels of those
    /// tiles.
    unsafe fn output(
        &self,
        channels: Range<usize>,
        m: &[f32],
        (m_row, m_step): (usize, usize),
        (first, count): (usize, usize),
        (y, y_len): (*mut T, usize),
    ) {
        let Epilogue { bias, residual, relu } = self.epilogue;
        self.cpu.isa.run(TransformOutput {
            grid: self.grid,
            k: self.k,
            channels,
            m,
            m_row,
            m_step,
            first,
            count,
            bias,
            residual,
            relu,
            y,
            y_len,
        });
    }

    /// Each task takes a chunk of tiles through all steps in its L2.
    pub fn chunks_of_tiles(&self, y: &mut [T]) -> Result<()> {
        let &Transformed { cpu, c, k, .. } = self;
        let total = self.tiles();
        let tiles = chunk_tiles::<T>(c, k, total, cpu.threads.count());
        let (cp, kp) = (self.cp(), k.next_multiple_of(cpu.isa.panel_width(k)));
        // A line of padding a position keeps the 36 streams of a transform out of one cache set.
        let (v_step, m_step) = (tiles * cp + 16, tiles * kp + 16);
        let zeros = vec![T::narrow(0.0); cp];
        let failed = Mutex::new(None);
        let (out, y_len) = (SharedMut::new(y), y.len());
        cpu.threads.run(total.div_ceil(tiles), |task| {
            // V, of elements, and M, of f32.
            let v_words = POSITIONS * v_step / T::TERMS;
            let mut memory = match cpu.alloc::<f32>(v_words + POSITIONS * m_step) {
                Ok(memory) => memory,
                Err(e) => return keep(&failed, e),
            };
            let scratch = memory.slice_mut::<f32>(v_words + POSITIONS * m_step);
            let (v, m) = scratch.split_at_mut(v_words);
            let v: &mut [T] = bytemuck::cast_slice_mut(v);
            let first = task * tiles;
            let count = tiles.min(total - first);
            // SAFETY: V is the task's own, and of y it writes the pixels of its tiles alone.
            unsafe {
                self.input(first, 0..count, &zeros, v.as_mut_ptr(), v_step);
                self.multiply(0, (v, v_step), (m, m_step), kp, count);
                self.output(0..k, m, (kp, m_step), (first, count), (out.pointer(0), y_len));
            }
        });
        failed.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
    }

    /// All tiles are transformed, then each task multiplies them with a few panels of filters.
    fn panels_apart(&self, y: &mut [T]) -> Result<()> {
        let &Transformed { cpu, c, k, .. } = self;
        let (total, threads) = (self.tiles(), cpu.threads.count());
        let (cp, nr) = (self.cp(), cpu.isa.panel_width(k));
        let zeros = vec![T::narrow(0.0); cp];
        let v_step = total * cp + 16;
        let mut v = cpu.alloc::<T>(POSITIONS * v_step)?;
        let v = v.slice_mut::<T>(POSITIONS * v_step);
        let shared = SharedMut::new(v);
        let piece = total.div_ceil(4 * threads).max(1);
        cpu.threads.run(total.div_ceil(piece), |task| {
            let tiles = task * piece..((task + 1) * piece).min(total);
            // SAFETY: the task writes the rows of its tiles alone.
            unsafe { self.input(0, tiles, &zeros, shared.pointer(0), v_step) };
        });
        let v = &*v;
        let panels = k.div_ceil(nr);
        // Panels of a task.
        let part = panels.div_ceil(2 * threads);
        let m_step = total * part * nr + 16;
        let failed = Mutex::new(None);
        let (out, y_len) = (SharedMut::new(y), y.len());
        cpu.threads.run(panels.div_ceil(part), |task| {
            let mut memory = match cpu.alloc::<f32>(POSITIONS * m_step) {
                Ok(memory) => memory,
                Err(e) => return keep(&failed, e),
            };
            let m = memory.slice_mut::<f32>(POSITIONS * m_step);
            let first = task * part;
            let kp = part.min(panels - first) * nr;
            let start = first * nr * c.div_ceil(T::TERMS);
            self.multiply(start, (v, v_step), (m, m_step), kp, total);
            let channels = first * nr..(first * nr + kp).min(k);
            // SAFETY: the task writes its own channels alone.
            unsafe { self.output(channels, m, (kp, m_step), (0, total), (out.pointer(0), y_len)) };
        });
        failed.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
    }
}
