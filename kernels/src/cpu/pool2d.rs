//! Pooling of `[n, h, w, c]` to `[n, oh, ow, c]`: along the channels, which are contiguous.
//!
//! A forward task is a few rows of y, a backward task an image, so that windows which overlap are
//! added in one order.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Cpu;
use super::broadcast::larger;
use super::scalar::Scalar;
use super::simd::{Kernel, Vector};
use super::threads::TASK_ELEMENTS;
use crate::*;

/// Elements of a whole number of rows of y `[ow, c]`, about a task's worth.
fn piece(args: &Pool2dArgs) -> usize {
    let row = args.ow * args.c;
    let window = args.kernel[0] * args.kernel[1];
    (TASK_ELEMENTS / (row * window).max(1)).max(1) * row
}

/// Where in x the channels at a position begin.
#[derive(Clone, Copy)]
struct Image {
    start: usize,
    w: usize,
    c: usize,
}

impl Image {
    #[inline(always)]
    fn at(&self, iy: usize, ix: usize) -> Range<usize> {
        let start = self.start + (iy * self.w + ix) * self.c;
        start..start + self.c
    }
}

/// Whether every window is 2 x 2, lies inside and shares nothing with the others.
pub fn is_2x2(args: &Pool2dArgs) -> bool {
    args.kernel == [2, 2] && args.stride == [2, 2] && args.padding == [0, 0]
}

/// Calls `visit(index of the window in this piece, image, oy, ox)` for the windows of a piece of
/// `len` elements of y from row `first_row` (of all images) on.
#[inline(always)]
fn for_each_window(
    args: &Pool2dArgs,
    first_row: usize,
    len: usize,
    mut visit: impl FnMut(usize, Image, usize, usize),
) {
    let &Pool2dArgs { h, w, c, oh, ow, .. } = args;
    for i in 0..len / (ow * c) {
        let (n, oy) = ((first_row + i) / oh, (first_row + i) % oh);
        let image = Image { start: n * h * w * c, w, c };
        for ox in 0..ow {
            visit(i * ow + ox, image, oy, ox);
        }
    }
}

struct MaxForward<'a, T> {
    args: &'a Pool2dArgs,
    first_row: usize,
    x: &'a [T],
    y: &'a mut [T],
    positions: &'a mut [i32],
}

impl<T: Scalar> Kernel for MaxForward<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let MaxForward { args, first_row, x, y, positions } = self;
        let (c, w, len) = (args.c, args.w, y.len());
        let is_2x2 = is_2x2(args);
        for_each_window(args, first_row, len, |i, image, oy, ox| {
            let y = &mut y[i * c..(i + 1) * c];
            let positions = &mut positions[i * c..(i + 1) * c];
            if is_2x2 {
                let (iy, ix) = (2 * oy, 2 * ox);
                let (x0, x1) = (&x[image.at(iy, ix)], &x[image.at(iy, ix + 1)]);
                let (x2, x3) = (&x[image.at(iy + 1, ix)], &x[image.at(iy + 1, ix + 1)]);
                let at = (iy * w + ix) as i32;
                let below = at + w as i32;
                let taps = x0.iter().zip(x1).zip(x2.iter().zip(x3));
                for ((y, position), ((&x0, &x1), (&x2, &x3))) in
                    y.iter_mut().zip(positions).zip(taps)
                {
                    let (mut best, mut best_at) = (x0, at);
                    for (x, at) in [(x1, at + 1), (x2, below), (x3, below + 1)] {
                        let take = larger(x.widen(), best.widen());
                        best_at = if take { at } else { best_at };
                        best = if take { x } else { best };
                    }
                    *y = best;
                    *position = best_at;
                }
                return;
            }
            let (rows, columns) = args.window(oy, ox);
            // The first position wins unless another is larger.
            y.copy_from_slice(&x[image.at(rows.start, columns.start)]);
            positions.fill((rows.start * w + columns.start) as i32);
            for iy in rows {
                for ix in columns.clone() {
                    let at = (iy * w + ix) as i32;
                    let x = &x[image.at(iy, ix)];
                    for ((y, position), &x) in y.iter_mut().zip(&mut *positions).zip(x) {
                        let take = larger(x.widen(), y.widen());
                        *position = if take { at } else { *position };
                        *y = if take { x } else { *y };
                    }
                }
            }
        });
    }
}

/// y and the positions of its maxima.
pub fn max_forward<T: Scalar>(
    cpu: &Cpu,
    args: &Pool2dArgs,
    x: &Buffer,
) -> Result<(Buffer, Buffer)> {
    let x = cpu.read::<T>("max_pool2d", x, args.x_elements())?;
    let len = args.y_elements();
    let (mut y, mut positions) = (cpu.alloc::<T>(len)?, cpu.alloc::<i32>(len)?);
    let piece = piece(args);
    let rows = piece / (args.ow * args.c).max(1);
    cpu.threads.chunks2(
        (y.slice_mut::<T>(len), piece),
        (positions.slice_mut(len), piece),
        |i, y, positions| cpu.isa.run(MaxForward { args, first_row: i * rows, x, y, positions }),
    );
    Ok((y.into_buffer::<T>(len), positions.into_buffer::<i32>(len)))
}

/// One image: returns the first place in `positions` that does not point into it.
struct MaxBackward<'a, T> {
    args: &'a Pool2dArgs,
    positions: &'a [i32],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Scalar> Kernel for MaxBackward<'_, T> {
    type Output = Option<usize>;
    #[inline(always)]
    fn run<V: Vector>(self) -> Option<usize> {
        let MaxBackward { args, positions, dy, dx } = self;
        let (c, w, bound) = (args.c, args.w, (args.h * args.w) as u32);
        let largest = positions.iter().fold(0, |largest, &p| (p as u32).max(largest));
        if largest >= bound {
            return positions.iter().position(|&p| p as u32 >= bound);
        }
        let image = Image { start: 0, w, c };
        if is_2x2(args) {
            // The windows tile x, but for a last row and column of odd sizes: every dx is written
            // once.
            let row = w * c;
            for iy in 0..args.h {
                let covered = if iy < 2 * args.oh { 2 * args.ow * c } else { 0 };
                dx[iy * row + covered..(iy + 1) * row].fill(T::narrow(0.0));
            }
            for_each_window(args, 0, dy.len(), |i, image, oy, ox| {
                let (iy, ix) = (2 * oy, 2 * ox);
                for (iy, ix) in [(iy, ix), (iy, ix + 1), (iy + 1, ix), (iy + 1, ix + 1)] {
                    let at = (iy * w + ix) as i32;
                    let dx = &mut dx[image.at(iy, ix)];
                    let inputs = positions[i * c..(i + 1) * c].iter().zip(&dy[i * c..(i + 1) * c]);
                    for (dx, (&position, &dy)) in dx.iter_mut().zip(inputs) {
                        *dx = if position == at { dy } else { T::narrow(0.0) };
                    }
                }
            });
            return None;
        }
        dx.fill(T::narrow(0.0));
        for (i, (&position, &dy)) in positions.iter().zip(dy).enumerate() {
            let dx = &mut dx[image.at(0, position as usize).start + i % c];
            *dx = T::narrow(dx.widen() + dy.widen());
        }
        None
    }
}

/// dx: each dy goes to the position of its maximum.
pub fn max_backward<T: Scalar>(
    cpu: &Cpu,
    args: &Pool2dArgs,
    positions: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    const OP: &str = "max_pool2d";
    let positions = cpu.read::<i32>(OP, positions, args.y_elements())?;
    let dy = cpu.read::<T>(OP, dy, args.y_elements())?;
    let len = args.x_elements();
    let mut memory = cpu.alloc::<T>(len)?;
    let (x_image, y_image) = (args.h * args.w * args.c, args.oh * args.ow * args.c);
    let first_wrong = AtomicUsize::new(usize::MAX);
    cpu.threads.chunks(memory.slice_mut(len), x_image, |i, dx| {
        let of_image = i * y_image..(i + 1) * y_image;
        let (positions, dy) = (&positions[of_image.clone()], &dy[of_image]);
        if let Some(at) = cpu.isa.run(MaxBackward { args, positions, dy, dx }) {
            first_wrong.fetch_min(i * y_image + at, Ordering::Relaxed);
        }
    });
    let position = first_wrong.into_inner();
    match positions.get(position) {
        None => Ok(memory.into_buffer::<T>(len)),
        Some(&index) => {
            Err(Error::Index { op: OP, index: index.into(), position, bound: args.h * args.w })
        }
    }
}

struct AvgForward<'a> {
    args: &'a Pool2dArgs,
    first_row: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for AvgForward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let AvgForward { args, first_row, x, y } = self;
        let (c, len) = (args.c, y.len());
        let is_2x2 = is_2x2(args);
        for_each_window(args, first_row, len, |i, image, oy, ox| {
            let y = &mut y[i * c..(i + 1) * c];
            if is_2x2 {
                let (iy, ix) = (2 * oy, 2 * ox);
                let (x0, x1) = (&x[image.at(iy, ix)], &x[image.at(iy, ix + 1)]);
                let (x2, x3) = (&x[image.at(iy + 1, ix)], &x[image.at(iy + 1, ix + 1)]);
                let taps = x0.iter().zip(x1).zip(x2.iter().zip(x3));
                for (y, ((&x0, &x1), (&x2, &x3))) in y.iter_mut().zip(taps) {
                    *y = (x0 + x1 + x2 + x3) / 4.0;
                }
                return;
            }
            let (rows, columns) = args.window(oy, ox);
            let count = (rows.len() * columns.len()) as f32;
            y.fill(0.0);
            for iy in rows {
                for ix in columns.clone() {
                    for (y, &x) in y.iter_mut().zip(&x[image.at(iy, ix)]) {
                        *y += x;
                    }
                }
            }
            for y in y {
                *y /= count;
            }
        });
    }
}

/// Mean over each window, padding left out.
pub fn avg_forward(cpu: &Cpu, args: &Pool2dArgs, x: &Buffer) -> Result<Buffer> {
    let x = cpu.read::<f32>("avg_pool2d", x, args.x_elements())?;
    let len = args.y_elements();
    let mut memory = cpu.alloc::<f32>(len)?;
    let piece = piece(args);
    let rows = piece / (args.ow * args.c).max(1);
    cpu.threads.chunks(memory.slice_mut(len), piece, |i, y| {
        cpu.isa.run(AvgForward { args, first_row: i * rows, x, y })
    });
    Ok(memory.into_buffer::<f32>(len))
}

/// One image.
struct AvgBackward<'a> {
    args: &'a Pool2dArgs,
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for AvgBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let AvgBackward { args, dy, dx } = self;
        let c = args.c;
        dx.fill(0.0);
        for_each_window(args, 0, dy.len(), |i, image, oy, ox| {
            let dy = &dy[i * c..(i + 1) * c];
            let (rows, columns) = args.window(oy, ox);
            let count = (rows.len() * columns.len()) as f32;
            for iy in rows {
                for ix in columns.clone() {
                    for (dx, &dy) in dx[image.at(iy, ix)].iter_mut().zip(dy) {
                        *dx += dy / count;
                    }
                }
            }
        });
    }
}

/// dx from dy.
pub fn avg_backward(cpu: &Cpu, args: &Pool2dArgs, dy: &Buffer) -> Result<Buffer> {
    let dy = cpu.read::<f32>("avg_pool2d", dy, args.y_elements())?;
    let len = args.x_elements();
    let mut memory = cpu.alloc::<f32>(len)?;
    let (x_image, y_image) = (args.h * args.w * args.c, args.oh * args.ow * args.c);
    cpu.threads.chunks(memory.slice_mut(len), x_image, |i, dx| {
        cpu.isa.run(AvgBackward { args, dy: &dy[i * y_image..][..y_image], dx })
    });
    Ok(memory.into_buffer::<f32>(len))
}
