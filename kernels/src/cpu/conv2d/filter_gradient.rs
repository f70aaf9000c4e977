//! Direct backward-filter for every geometry.
//!
//! For each tap, dfilter[tap, ci, co] = Σ over output pixels of x[pixel + tap, ci] dy[pixel, co]:
//! outer products of the channels of two pixels, summed in registers along a row of the image. As
//! in [`super::direct`], a whole row of taps (KW * C contiguous elements) counts as one when
//! dilation is 1.
//!
//! For bf16 a word holds two neighbouring output pixels: of dy, and of the frame those that one tap
//! sees of them,
//!
//! ```text
//!   dy words  [row][pixel / 2][co]    dy[pixel], dy[pixel + 1]      zero behind the last pixel
//!   x words   [row][column][ci]       x[column], x[column + stride]
//! ```
//!
//! so that the loops are the same, at half as many steps.
//!
//! The batch is cut into a fixed number of groups with a partial sum each, added in order at the
//! end: the same bits for any number of threads.

use std::marker::PhantomData;
use std::sync::Mutex;

use super::padding::Frame;
use crate::cpu::Cpu;
use crate::cpu::gemm::{Tiles, load_tile, outer_products, store_tile, sweep};
use crate::cpu::scalar::Scalar;
use crate::cpu::simd::{Kernel, Vector};
use crate::{Conv2dArgs, Result};

/// Partial sums, at most; fewer where they would take more than this many elements.
const GROUPS: usize = 16;
const PARTIAL_ELEMENTS: usize = 8 << 20;
/// Frames and gradients of the images that a tile sums over at a time.
const FRAME_BYTES: usize = 384 * 1024;

/// dfilter from x and dy.
pub fn direct<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    x: &[T],
    dy: &[T],
    dw: &mut [T],
) -> Result<()> {
    let size = dw.len();
    if size == 0 {
        return Ok(());
    }
    let most = (PARTIAL_ELEMENTS / size).clamp(2, GROUPS);
    let images = args.n.div_ceil(most).max(1);
    let groups = args.n.div_ceil(images).max(1);
    // partial[group]: [groups of channels][taps][run][kg]
    let mut partial = cpu.alloc::<f32>(groups * size)?;
    let partial = partial.slice_mut::<f32>(groups * size);
    let failed = Mutex::new(None);
    cpu.threads.chunks(partial, size, |group, sum| {
        let first = group * images;
        let count = images.min(args.n - first.min(args.n));
        if let Err(e) = partial_sum(cpu, args, x, dy, first, count, sum) {
            *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(e);
        }
    });
    if let Some(e) = failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(e);
    }
    // Add the groups in order, and turn [g][k][co] into [g][co][k].
    let (sum, others) = partial.split_at_mut(size);
    for other in others.chunks_exact(size) {
        cpu.isa.run(Add { sum, other });
    }
    let (kg, k) = (args.c_out / args.options.groups, size / args.c_out);
    for (dw, sum) in dw.chunks_exact_mut(k * kg).zip(sum.chunks_exact(k * kg)) {
        for (co, dw) in dw.chunks_exact_mut(k).enumerate() {
            for (dw, line) in dw.iter_mut().zip(sum.chunks_exact(kg)) {
                *dw = T::narrow(line[co]);
            }
        }
    }
    Ok(())
}

/// sum += other
pub struct Add<'a> {
    /// Updated.
    pub sum: &'a mut [f32],
    /// Added.
    pub other: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for (sum, other) in self.sum.iter_mut().zip(self.other) {
            *sum += other;
        }
    }
}

/// The gradient from images `first..first + count`.
fn partial_sum<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    x: &[T],
    dy: &[T],
    first: usize,
    count: usize,
    sum: &mut [f32],
) -> Result<()> {
    let o = &args.options;
    let (cg, kg) = (args.c_in / o.groups, args.c_out / o.groups);
    let width = args.w + 2 * o.padding[1];
    let mut frame = Frame {
        h: args.h,
        w: args.w,
        channels: args.c_in,
        first: 0,
        c: cg,
        pixel: cg,
        top: o.padding[0],
        left: o.padding[1],
        height: args.h + 2 * o.padding[0],
        width,
    };
    // As many images at a time as fit L2 with their share of dy: the sums stay in registers over
    // all of them. As words where an element is less than one.
    let (x_image, y_image) = (args.h * args.w * args.c_in, args.oh * args.ow * args.c_out);
    let pairs = T::TERMS == 2;
    let dy_words = args.oh * args.ow.div_ceil(T::TERMS) * args.c_out;
    let batch = (FRAME_BYTES / (4 * (frame.elements() + dy_words).max(1))).clamp(1, count.max(1));
    let mut memory = cpu.alloc::<f32>(batch * frame.elements())?;
    let framed = memory.slice_mut::<f32>(batch * frame.elements());
    let mut paired = cpu.alloc::<f32>(if pairs { batch * dy_words } else { 0 })?;
    let mut plain = cpu.alloc::<T>(if pairs { frame.elements() } else { 0 })?;
    sum.fill(0.0);
    if x_image == 0 {
        return Ok(()); // An image without pixels: only padding was seen.
    }
    let group_size = args.kh * args.kw * cg * kg;
    for start in (first..first + count).step_by(batch) {
        let images = batch.min(first + count - start);
        let x = &x[start * x_image..(start + images) * x_image];
        let dy = &dy[start * y_image..(start + images) * y_image];
        let dy = if pairs {
            let words = paired.slice_mut::<f32>(batch * dy_words);
            pair_pixels(dy, args.ow, args.c_out, &mut words[..images * dy_words]);
            &*words
        } else {
            bytemuck::cast_slice(dy)
        };
        for (g, sum) in sum.chunks_exact_mut(group_size.max(1)).enumerate() {
            frame.first = g * cg;
            let frames = if pairs {
                let plain = plain.slice_mut::<T>(frame.elements());
                let frames = framed.chunks_exact_mut(frame.elements());
                for (image, out) in x.chunks_exact(x_image).zip(frames) {
                    frame.fill(image, plain);
                    let line = width * cg;
                    pair_columns(plain, line, args.options.stride[1] * cg, out);
                }
                &*framed
            } else if frame.is_identity() {
                bytemuck::cast_slice(x)
            } else {
                let x: &[f32] = bytemuck::cast_slice(x);
                let frames = framed.chunks_exact_mut(frame.elements());
                x.chunks_exact(x_image).zip(frames).for_each(|(image, out)| frame.fill(image, out));
                &*framed
            };
            let dy_row = args.ow.div_ceil(T::TERMS);
            let kernel = ImageGradients::<T> {
                args,
                images,
                frames,
                width,
                dy: &dy[..images * args.oh * dy_row * args.c_out],
                dy_row,
                co: g * kg,
                sum,
                storage: PhantomData,
            };
            cpu.isa.run(kernel);
        }
    }
    Ok(())
}

/// Words of neighbouring pixels in rows of `width` pixels of `c` channels: the last pixel of a row
/// of odd width with zeros.
fn pair_pixels<T: Scalar>(x: &[T], width: usize, c: usize, out: &mut [f32]) {
    let rows = x.chunks_exact((width * c).max(1));
    for (row, out) in rows.zip(out.chunks_exact_mut((width.div_ceil(2) * c).max(1))) {
        for (pixels, out) in row.chunks(2 * c).zip(out.chunks_exact_mut(c)) {
            let (low, high) = pixels.split_at(c);
            if high.is_empty() {
                out.iter_mut().zip(low).for_each(|(o, &l)| *o = T::word([l, T::narrow(0.0)]));
            }
            let terms = low.iter().zip(high);
            out.iter_mut().zip(terms).for_each(|(o, (&l, &h))| *o = T::word([l, h]));
        }
    }
}

/// Words of the elements of each line with those `step` further on, zeros behind its end.
fn pair_columns<T: Scalar>(x: &[T], line: usize, step: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(line.max(1)).zip(out.chunks_exact_mut(line.max(1))) {
        let high = &x[step.min(line)..];
        for (o, (&l, &h)) in out.iter_mut().zip(x.iter().zip(high)) {
            *o = T::word([l, h]);
        }
        for (o, &l) in out.iter_mut().zip(x).skip(high.len()) {
            *o = T::word([l, T::narrow(0.0)]);
        }
    }
}

/// Adds the share of some images to `sum`, `[taps][run][kg]`.
struct ImageGradients<'a, T> {
    args: &'a Conv2dArgs,
    images: usize,
    /// Words.
    frames: &'a [f32],
    width: usize,
    /// Words, `dy_row` pixels a row.
    dy: &'a [f32],
    dy_row: usize,
    co: usize,
    sum: &'a mut [f32],
    storage: PhantomData<T>,
}

impl<T: Scalar> Kernel for ImageGradients<'_, T> {
    type Output = ();
    const BF16: bool = T::TERMS == 2;

    #[inline(always)]
    fn run<V: Vector>(self) {
        let kg = self.args.c_out / self.args.options.groups;
        if kg <= V::LANES {
            self.columns::<V, 1>(kg);
        } else {
            self.columns::<V, 2>(kg);
        }
    }
}

impl<T: Scalar> ImageGradients<'_, T> {
    #[inline(always)]
    fn columns<V: Vector, const NV: usize>(self, kg: usize) {
        let (a, o) = (self.args, &self.args.options);
        let cg = a.c_in / o.groups;
        let merged = o.dilation[1] == 1;
        let (across, run) = if merged { (1, a.kw * cg) } else { (a.kw, cg) };
        let row_step = o.stride[0] * self.width * cg;
        let pixel_step = o.stride[1] * cg;
        let reach = ((a.kh - 1) * o.dilation[0] * self.width + (a.kw - 1) * o.dilation[1] + 1) * cg;
        let frame = (a.h + 2 * o.padding[0]) * self.width * cg;
        let dy_image = a.oh * self.dy_row * a.c_out;
        assert!((a.oh - 1) * row_step + (a.ow - 1) * pixel_step + reach <= frame);
        assert!(self.frames.len() >= self.images * frame);
        assert!(self.dy.len() == self.images * dy_image && self.co + kg <= a.c_out);
        assert!(self.sum.len() == a.kh * across * run * kg);
        for tap in 0..a.kh * across {
            let offset =
                (tap / across * o.dilation[0] * self.width + tap % across * o.dilation[1]) * cg;
            for j in (0..kg).step_by(NV * V::LANES) {
                let columns = (kg - j).min(NV * V::LANES);
                let tiles = TapTiles::<T> {
                    a: self.frames[offset..].as_ptr(),
                    b: self.dy[self.co + j..].as_ptr(),
                    c: self.sum[tap * run * kg + j..].as_mut_ptr(),
                    c_row: kg,
                    columns,
                    images: self.images,
                    frame,
                    dy_image,
                    rows: a.oh,
                    pixels: self.dy_row,
                    row_step,
                    pixel_step: T::TERMS * pixel_step,
                    dy_row: self.dy_row * a.c_out,
                    dy_pixel: a.c_out,
                    storage: PhantomData,
                };
                // SAFETY: the assertions bound the frame, dy and the sum for every tap, pixel and
                // channel.
                unsafe { sweep::<V, NV>(run, &tiles) };
            }
        }
    }
}

/// The channels of one tap. Distances are in words.
struct TapTiles<T> {
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    c_row: usize,
    columns: usize,
    images: usize,
    frame: usize,
    dy_image: usize,
    rows: usize,
    pixels: usize,
    row_step: usize,
    pixel_step: usize,
    dy_row: usize,
    dy_pixel: usize,
    storage: PhantomData<T>,
}

impl<V: Vector, T: Scalar, const NV: usize> Tiles<V, NV> for TapTiles<T> {
    #[inline(always)]
    unsafe fn tile<const MR: usize>(&self, row: usize) {
        // SAFETY: as the caller of `sweep` states; `row..row + MR` are channels of the tap.
        unsafe {
            let c = self.c.add(row * self.c_row);
            let mut acc = load_tile::<V, MR, NV>(c, self.c_row, self.columns);
            for line in 0..self.images * self.rows {
                let (image, y) = (line / self.rows, line % self.rows);
                let a = self.a.add(image * self.frame + y * self.row_step + row).cast::<T>();
                let a = (a, T::TERMS, T::TERMS * self.pixel_step);
                let b = (self.b.add(image * self.dy_image + y * self.dy_row), self.dy_pixel);
                acc = if self.columns == NV * V::LANES {
                    outer_products::<V, T, MR, NV, false>(acc, self.pixels, a, b, self.columns)
                } else {
                    outer_products::<V, T, MR, NV, true>(acc, self.pixels, a, b, self.columns)
                };
            }
            store_tile(acc, c, self.c_row, self.columns);
        }
    }
}
