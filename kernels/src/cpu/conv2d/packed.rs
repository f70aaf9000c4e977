//! Direct convolution with filters that were packed once and kept, for inference; groups 1 and
//! dilation 1.
//!
//! The loops are those of [`super::direct`]: register tiles of neighbouring output pixels over the
//! rows of taps, each KW * C contiguous elements of a frame. What differs is how work is shared out
//! for a single image:
//!
//! - where the filters are larger than the image, a task takes some output channels, so that each
//!   filter is read by one thread only; otherwise it takes some rows, and frames only those;
//! - where rows are short (4 pixels in the last stage of a ResNet) a tile takes pixels of two rows,
//!   so that a filter read from L3 is used by 8 pixels and not by 4.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Mutex;

use super::Epilogue;
use super::padding::Frame;
use crate::cpu::Cpu;
use crate::cpu::gemm::{Matrix, PackColumns};
use crate::cpu::scalar::Scalar;
use crate::cpu::simd::{Kernel, Vector};
use crate::cpu::threads::SharedMut;
use crate::host::HostMemory;
use crate::{Conv2dArgs, Result};

/// Frames that a task fills before it runs: with the filters of one panel they should fit L2.
const FRAME_BYTES: usize = 256 * 1024;

/// Whether the algorithm can compute this convolution.
pub fn applies(args: &Conv2dArgs) -> bool {
    args.options.groups == 1
        && args.options.dilation == [1, 1]
        && args.x_elements() > 0
        && args.y_elements() > 0
}

/// Channels of a pixel in a frame, and of a tap in the panels: whole words of terms.
fn pixel<T: Scalar>(args: &Conv2dArgs) -> usize {
    args.c_in.next_multiple_of(T::TERMS)
}

/// Words of a sum.
fn sum_words<T: Scalar>(args: &Conv2dArgs) -> usize {
    args.kh * args.kw * pixel::<T>(args) / T::TERMS
}

/// Words of all panels.
pub fn words<T: Scalar>(cpu: &Cpu, args: &Conv2dArgs) -> usize {
    args.c_out.next_multiple_of(cpu.isa.panel_width(args.c_out)) * sum_words::<T>(args)
}

/// Panels `[C_out / NR][words of KH KW C_in][NR]` of the filters.
pub fn pack<T: Scalar>(cpu: &Cpu, args: &Conv2dArgs, filter: &[T]) -> Result<HostMemory> {
    let nr = cpu.isa.panel_width(args.c_out);
    let (c, pixel) = (args.c_in, pixel::<T>(args));
    let mut filter = Cow::Borrowed(filter);
    if pixel != c {
        let mut padded = vec![T::narrow(0.0); filter.len() / c * pixel];
        for (out, tap) in padded.chunks_exact_mut(pixel).zip(filter.chunks_exact(c)) {
            out[..c].copy_from_slice(tap);
        }
        filter = Cow::Owned(padded);
    }
    let k = args.kh * args.kw * pixel;
    let len = words::<T>(cpu, args);
    let mut memory = cpu.alloc::<f32>(len)?;
    let b = Matrix { data: &filter, row: 1, column: k };
    cpu.threads.chunks(memory.slice_mut::<f32>(len), nr * k / T::TERMS, |j, out| {
        let width = (args.c_out - j * nr).min(nr);
        cpu.isa.run(PackColumns { b, k0: 0, k, j0: j * nr, width, panel: nr, out });
    });
    Ok(memory)
}

/// How the work of one call is cut.
struct Cut {
    /// Images of a task.
    group: usize,
    /// Bands of output rows.
    bands: usize,
    /// Parts of the panels.
    parts: usize,
}

impl Cut {
    /// `frame` and `filters` are in bytes.
    fn new(args: &Conv2dArgs, panels: usize, threads: usize, frame: usize, filters: usize) -> Cut {
        if threads == 1 || args.n >= 2 * threads {
            let fit = FRAME_BYTES / frame.max(1);
            let group = fit.clamp(1, args.n.div_ceil(2 * threads));
            return Cut { group, bands: 1, parts: 1 };
        }
        let wanted = (2 * threads).div_ceil(args.n);
        let parts = match filters > frame {
            true => panels.min(wanted),
            false => 1,
        };
        Cut { group: 1, bands: wanted.div_ceil(parts).min(args.oh), parts }
    }
}

/// Part `i` of `parts` of `0..n`.
fn share(n: usize, i: usize, parts: usize) -> Range<usize> {
    n * i / parts..n * (i + 1) / parts
}

/// y = relu?(x * filter + bias + residual), the filter as panels.
pub fn forward<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    x: &[T],
    panels: &[f32],
    epilogue: Epilogue<'_, T>,
    y: &mut [T],
) -> Result<()> {
    let &Conv2dArgs { n, h, w, c_in: c, c_out, kh, oh, ow, options: o, .. } = args;
    let nr = cpu.isa.panel_width(c_out);
    let pixel = pixel::<T>(args);
    let width = w + 2 * o.padding[1];
    let frame = (h + 2 * o.padding[0]) * width * pixel * size_of::<T>();
    let cut = Cut::new(args, c_out.div_ceil(nr), cpu.threads.count(), frame, 4 * panels.len());
    let framed = o.padding != [0, 0] || pixel != c;
    let (image, out_image) = (h * w * c, oh * ow * c_out);
    let failed = Mutex::new(None);
    let (out, y_len) = (SharedMut::new(y), y.len());
    let groups = n.div_ceil(cut.group);
    cpu.threads.run(groups * cut.bands * cut.parts, |task| {
        let (task, part) = (task / cut.parts, task % cut.parts);
        let (first, band) = (task / cut.bands * cut.group, task % cut.bands);
        let images = first..(first + cut.group).min(n);
        let rows = share(oh, band, cut.bands);
        // Rows of the (virtual) frame of a whole image that the band reads.
        let top = rows.start * o.stride[0];
        let height = (rows.len() - 1) * o.stride[0] + kh;
        let size = height * width * pixel;
        let mut memory;
        let (frames, frame_step) = if framed {
            memory = match cpu.alloc::<T>(images.len() * size) {
                Ok(memory) => memory,
                Err(e) => {
                    *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(e);
                    return;
                }
            };
            let frames = memory.slice_mut::<T>(images.len() * size);
            // Rows of the image above the band are skipped.
            let skip = top.saturating_sub(o.padding[0]).min(h);
            let frame = Frame {
                h: h - skip,
                w,
                channels: c,
                first: 0,
                c,
                pixel,
                top: o.padding[0].saturating_sub(top),
                left: o.padding[1],
                height,
                width,
            };
            for (i, out) in images.clone().zip(frames.chunks_exact_mut(size)) {
                frame.fill(&x[i * image + skip * w * c..(i + 1) * image], out);
            }
            (&*frames, size)
        } else {
            (&x[images.start * image + top * width * c..images.end * image], image)
        };
        cpu.isa.run(Sweep {
            args,
            frames,
            frame_step,
            row_step: o.stride[0] * width * pixel,
            images: images.len(),
            rows: rows.len(),
            panels,
            part: share(c_out.div_ceil(nr), part, cut.parts),
            epilogue,
            start: first * out_image + rows.start * ow * c_out,
            // SAFETY: the task writes its rows and channels of its images alone.
            y: unsafe { out.pointer(0) },
            y_len,
        });
    });
    failed.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

/// Some panels on some rows of some images.
struct Sweep<'a, T> {
    args: &'a Conv2dArgs,
    /// The rows' frames, `frame_step` apart.
    frames: &'a [T],
    frame_step: usize,
    /// Distance in a frame between output rows.
    row_step: usize,
    images: usize,
    rows: usize,
    panels: &'a [f32],
    /// Panels to use.
    part: Range<usize>,
    epilogue: Epilogue<'a, T>,
    /// First element of the rows in y.
    start: usize,
    y: *mut T,
    y_len: usize,
}

impl<T: Scalar> Kernel for Sweep<'_, T> {
    type Output = ();
    const BF16: bool = T::TERMS == 2;

    #[inline(always)]
    fn run<V: Vector>(self) {
        if self.args.c_out <= V::LANES {
            self.panels::<V, 1>();
        } else {
            self.panels::<V, 2>();
        }
    }
}

impl<T: Scalar> Sweep<'_, T> {
    #[inline(always)]
    fn panels<V: Vector, const NV: usize>(&self) {
        let &Conv2dArgs { w, c_out, kh, kw, oh, ow, options: o, .. } = self.args;
        let (nr, k) = (NV * V::LANES, sum_words::<T>(self.args));
        let c = pixel::<T>(self.args);
        let tap_row = (w + 2 * o.padding[1]) * c;
        let pixel = o.stride[1] * c;
        if self.images == 0 || self.rows == 0 {
            return;
        }
        // The last element that the last tile reads, of the last frame.
        let reach = (self.rows - 1) * self.row_step + (ow - 1) * pixel + (kh - 1) * tap_row;
        let last = (self.images - 1) * self.frame_step + reach + kw * c;
        assert!(last <= self.frames.len());
        assert!(self.panels.len() >= self.part.end * nr * k);
        let out_image = oh * ow * c_out;
        let end = self.start + (self.images - 1) * out_image + self.rows * ow * c_out;
        assert!(end <= self.y_len);
        let Epilogue { bias, residual, relu } = self.epilogue;
        assert!(bias.is_none_or(|b| b.len() == c_out));
        assert!(residual.is_none_or(|r| r.len() == self.y_len));
        // Panels outermost: one stays in L2 (or L1) for all pixels of the task.
        for panel in self.part.clone() {
            let j = panel * nr;
            for image in 0..self.images {
                let at = self.start + image * out_image + j;
                let pixels = Pixels {
                    rows_of_taps: kh,
                    tap_row,
                    run: kw * c / T::TERMS,
                    pixel,
                    row: self.row_step,
                    a: self.frames[image * self.frame_step..].as_ptr(),
                    b: self.panels[j * k..].as_ptr(),
                    bias: bias.map(|b| b[j..].as_ptr()),
                    residual: residual.map(|r| r[at..].as_ptr()),
                    relu,
                    columns: (c_out - j).min(nr),
                    // SAFETY: at < y_len by the assertion.
                    y: unsafe { self.y.add(at) },
                    y_pixel: c_out,
                    y_row: ow * c_out,
                };
                // SAFETY: tiles of rows below `rows` and pixels below `ow` read inside the frames
                // and the panels and write inside y, by the assertions.
                unsafe { pixels.cover::<V, NV>(self.rows, ow) };
            }
        }
    }
}

/// The pixels of an image's rows, for one panel of channels.
struct Pixels<T> {
    /// Rows of taps, their distance in the frame, and the contiguous words of each.
    rows_of_taps: usize,
    tap_row: usize,
    run: usize,
    /// Distances in the frame between output pixels and rows.
    pixel: usize,
    row: usize,
    a: *const T,
    b: *const f32,
    bias: Option<*const T>,
    residual: Option<*const T>,
    relu: bool,
    /// Channels of the panel that exist.
    columns: usize,
    y: *mut T,
    y_pixel: usize,
    y_row: usize,
}

impl<T: Scalar> Pixels<T> {
    /// Covers `rows` x `columns` output pixels with register tiles.
    ///
    /// # Safety
    /// Frames, panels, bias, residual and y must hold what those pixels need.
    #[inline(always)]
    unsafe fn cover<V: Vector, const NV: usize>(&self, rows: usize, columns: usize) {
        let wide = V::LANES >= 16;
        let mut y = 0;
        // SAFETY: each tile covers rows below `rows` and pixels below `columns`.
        unsafe {
            if wide && columns <= 4 {
                while rows - y >= 2 {
                    let mut x = 0;
                    while columns - x >= 4 {
                        self.tile::<V, 2, 4, NV>(y, x);
                        x += 4;
                    }
                    while columns - x >= 1 {
                        self.tile::<V, 2, 1, NV>(y, x);
                        x += 1;
                    }
                    y += 2;
                }
            }
            while y < rows {
                let mut x = 0;
                while wide && NV == 1 && columns - x >= 16 {
                    self.tile::<V, 1, 16, NV>(y, x);
                    x += 16;
                }
                while wide && columns - x >= 8 {
                    self.tile::<V, 1, 8, NV>(y, x);
                    x += 8;
                }
                while columns - x >= 4 {
                    self.tile::<V, 1, 4, NV>(y, x);
                    x += 4;
                }
                if columns - x >= 2 {
                    self.tile::<V, 1, 2, NV>(y, x);
                    x += 2;
                }
                if columns - x >= 1 {
                    self.tile::<V, 1, 1, NV>(y, x);
                }
                y += 1;
            }
        }
    }

    /// The sums of a tile: `R` rows of `C` pixels, the first of which reads its taps from `a` on.
    /// (They are returned, and not stored from here: only so are they kept in registers.)
    ///
    /// # Safety
    /// As [`Pixels::cover`], for these pixels.
    #[inline(always)]
    unsafe fn sums<V: Vector, const R: usize, const C: usize, const NV: usize>(
        &self,
        mut a: *const T,
    ) -> [[[V; NV]; C]; R] {
        let nr = NV * V::LANES;
        let mut acc = [[[V::splat(0.0); NV]; C]; R];
        let mut b = self.b;
        for _ in 0..self.rows_of_taps {
            for p in 0..self.run {
                // SAFETY: granted by the caller.
                unsafe {
                    let mut line = [V::splat(0.0); NV];
                    for j in 0..NV {
                        line[j] = V::load(b.add(p * nr + j * V::LANES));
                    }
                    for r in 0..R {
                        for c in 0..C {
                            let word = a.add(r * self.row + c * self.pixel + p * T::TERMS);
                            let v = V::splat(word.cast::<f32>().read_unaligned());
                            for j in 0..NV {
                                acc[r][c][j] = T::multiply_add(v, line[j], acc[r][c][j]);
                            }
                        }
                    }
                }
            }
            (a, b) = (a.wrapping_add(self.tap_row), b.wrapping_add(self.run * nr));
        }
        acc
    }

    /// `R` rows of `C` pixels from (y, x) on.
    ///
    /// # Safety
    /// As [`Pixels::cover`], for these pixels.
    #[inline(always)]
    unsafe fn tile<V: Vector, const R: usize, const C: usize, const NV: usize>(
        &self,
        y: usize,
        x: usize,
    ) {
        // SAFETY: granted by the caller.
        unsafe {
            let acc = self.sums::<V, R, C, NV>(self.a.add(y * self.row + x * self.pixel));
            let mut bias = [V::splat(0.0); NV];
            for j in 0..NV {
                if let Some(p) = self.bias {
                    let lane = j * V::LANES;
                    bias[j] = T::load_partial(p.add(lane), self.columns.saturating_sub(lane));
                }
            }
            for r in 0..R {
                for c in 0..C {
                    for j in 0..NV {
                        let lane = j * V::LANES;
                        let n = self.columns.saturating_sub(lane);
                        let at = (y + r) * self.y_row + (x + c) * self.y_pixel + lane;
                        let mut value = acc[r][c][j];
                        if self.bias.is_some() {
                            value = value.add(bias[j]);
                        }
                        if let Some(residual) = self.residual {
                            value = value.add(T::load_partial(residual.wrapping_add(at), n));
                        }
                        if self.relu {
                            value = value.relu();
                        }
                        if n >= V::LANES {
                            T::store(value, self.y.add(at));
                        } else if n > 0 {
                            T::store_partial(value, self.y.add(at), n);
                        }
                    }
                }
            }
        }
    }
}
