//! Direct convolution, forward and backward-data, for every geometry.
//!
//! An image is copied into a zero frame once; then a register tile of up to 16 neighbouring output
//! pixels by 2 vectors of output channels walks over the filter's taps, reading the frame where it
//! lies (no im2col):
//!
//! ```text
//!   y[pixel i, channels j] += frame[start + i * step + tap + r] * filter[tap, r, channels j]
//!
//!   step = stride * C;  r runs over the C channels of a tap, or, when dilation is 1, over the whole
//!   row of taps: KW * C elements, contiguous in NHWC
//! ```
//!
//! Backward-data is the same loop with dy in the frame and flipped taps. With stride s, input rows
//! y = s q + r of equal r see the same taps, so each of the s * s phases is a dense convolution of
//! its own: no multiplication by inserted zeros.

use std::borrow::Cow;
use std::sync::Mutex;

use super::Epilogue;
use super::padding::Frame;
use crate::cpu::Cpu;
use crate::cpu::gemm::{Matrix, PackColumns, Tiles, outer_products, store_tile, sweep, zero_tile};
use crate::cpu::scalar::Scalar;
use crate::cpu::simd::{Isa, Kernel, Vector};
use crate::cpu::threads::SharedMut;
use crate::{Conv2dArgs, Result};

/// Frames that a task fills before it runs: with the filters of one column block they should fit
/// L2.
const FRAME_BYTES: usize = 256 * 1024;

/// A dense convolution from frames to (a phase of) an output image.
struct Plan {
    frame: Frame,
    /// Offset in the frame of each tap, relative to the output pixel's own place.
    taps: Vec<usize>,
    /// Contiguous elements a tap covers: whole words.
    run: usize,
    /// Distance in the frame between neighbouring output pixels, and rows.
    pixel_step: usize,
    row_step: usize,
    /// Filters as panels `[columns / NR][words of taps * run][NR]`.
    panels: Vec<f32>,
    out: OutLayout,
}

/// Where a phase's results lie in the output image.
#[derive(Clone, Copy)]
struct OutLayout {
    /// Rows and columns of the phase.
    rows: usize,
    columns: usize,
    /// First element, and distances between pixels and rows.
    start: usize,
    pixel: usize,
    row: usize,
    /// Channels written.
    channels: usize,
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
    let o = &args.options;
    let (cg, kg) = (args.c_in / o.groups, args.c_out / o.groups);
    // Channels of a pixel in the frame, and of a tap of the packed filters: whole words.
    let pixel = cg.next_multiple_of(T::TERMS);
    let mut filter = Cow::Borrowed(filter);
    if pixel != cg {
        let mut padded = vec![T::narrow(0.0); filter.len() / cg * pixel];
        for (out, tap) in padded.chunks_exact_mut(pixel).zip(filter.chunks_exact(cg)) {
            out[..cg].copy_from_slice(tap);
        }
        filter = Cow::Owned(padded);
    }
    let plans: Vec<Plan> = (0..o.groups)
        .map(|g| {
            let width = args.w + 2 * o.padding[1];
            let frame = Frame {
                h: args.h,
                w: args.w,
                channels: args.c_in,
                first: g * cg,
                c: cg,
                pixel,
                top: o.padding[0],
                left: o.padding[1],
                height: args.h + 2 * o.padding[0],
                width,
            };
            // A row of taps is contiguous in the frame and in the filter alike.
            let merged = o.dilation[1] == 1;
            let (across, run) = if merged { (1, args.kw * pixel) } else { (args.kw, pixel) };
            let taps = (0..args.kh * across)
                .map(|t| (t / across * o.dilation[0] * width + t % across * o.dilation[1]) * pixel)
                .collect();
            // Filters of the group: [kg][KH * KW * pixel], to be read as its transpose.
            let k = args.kh * args.kw * pixel;
            let b = Matrix { data: &filter[g * kg * k..(g + 1) * kg * k], row: 1, column: k };
            Plan {
                frame,
                taps,
                run,
                pixel_step: o.stride[1] * pixel,
                row_step: o.stride[0] * width * pixel,
                panels: pack(cpu.isa, b, k, kg),
                out: OutLayout {
                    rows: args.oh,
                    columns: args.ow,
                    start: g * kg,
                    pixel: args.c_out,
                    row: args.ow * args.c_out,
                    channels: kg,
                },
            }
        })
        .collect();
    let image = args.h * args.w * args.c_in;
    let out_image = args.oh * args.ow * args.c_out;
    run(cpu, args.n, &plans, x, image, epilogue, y, out_image)
}

/// dx from dy: a convolution of dy for each phase of the stride.
pub fn backward_data<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    filter: &[T],
    dy: &[T],
    dx: &mut [T],
) -> Result<()> {
    let o = &args.options;
    let (cg, kg) = (args.c_in / o.groups, args.c_out / o.groups);
    let pixel = kg.next_multiple_of(T::TERMS);
    let vertical = Axis::new(args.h, args.oh, args.kh, o.stride[0], o.padding[0], o.dilation[0]);
    let horizontal = Axis::new(args.w, args.ow, args.kw, o.stride[1], o.padding[1], o.dilation[1]);
    // With stride and dilation 1 the taps of a row lie side by side in the frame, last tap first.
    let merged = o.stride[1] == 1 && o.dilation[1] == 1;
    let mut plans = Vec::new();
    for g in 0..o.groups {
        let frame = Frame {
            h: args.oh,
            w: args.ow,
            channels: args.c_out,
            first: g * kg,
            c: kg,
            pixel,
            top: vertical.before,
            left: horizontal.before,
            height: vertical.extent,
            width: horizontal.extent,
        };
        for (ry, rows) in vertical.phases.iter().enumerate() {
            for (rx, columns) in horizontal.phases.iter().enumerate() {
                // Terms of the sum, in the order in which a tile meets them: (tap row, tap column),
                // each with the channels of a pixel.
                let pairs: Vec<_> =
                    rows.iter().flat_map(|&r| columns.iter().map(move |&c| (r, c))).collect();
                let mut terms = vec![T::narrow(0.0); pairs.len() * pixel * cg];
                for (term, ((ky, _), (kx, _))) in
                    terms.chunks_exact_mut((pixel * cg).max(1)).zip(&pairs)
                {
                    for (co, line) in term.chunks_exact_mut(cg).take(kg).enumerate() {
                        let start = (((g * kg + co) * args.kh + ky) * args.kw + kx) * cg;
                        line.copy_from_slice(&filter[start..start + cg]);
                    }
                }
                let offset = |row: usize, column: usize| (row * horizontal.extent + column) * pixel;
                let (taps, run) = if merged {
                    let taps = rows.iter().filter_map(|&(_, place)| {
                        columns.first().map(|&(_, first)| offset(place, first))
                    });
                    (taps.collect::<Vec<_>>(), columns.len() * pixel)
                } else {
                    (pairs.iter().map(|&((_, r), (_, c))| offset(r, c)).collect(), pixel)
                };
                let b = Matrix { data: &terms, row: cg, column: 1 };
                plans.push(Plan {
                    frame,
                    taps,
                    run,
                    pixel_step: pixel,
                    row_step: horizontal.extent * pixel,
                    panels: pack(cpu.isa, b, pairs.len() * pixel, cg),
                    out: OutLayout {
                        rows: (args.h - ry.min(args.h)).div_ceil(o.stride[0]),
                        columns: (args.w - rx.min(args.w)).div_ceil(o.stride[1]),
                        start: (ry * args.w + rx) * args.c_in + g * cg,
                        pixel: o.stride[1] * args.c_in,
                        row: o.stride[0] * args.w * args.c_in,
                        channels: cg,
                    },
                });
            }
        }
    }
    let image = args.oh * args.ow * args.c_out;
    let out_image = args.h * args.w * args.c_in;
    run(cpu, args.n, &plans, dy, image, Epilogue::none(), dx, out_image)
}

/// One axis of backward-data: which taps reach the inputs of each phase, and where in dy's frame.
struct Axis {
    /// For phase r (inputs s q + r): pairs of a tap and the frame position that it reads for q = 0,
    /// in rising positions.
    phases: Vec<Vec<(usize, usize)>>,
    /// Zeros in front of dy.
    before: usize,
    /// Size of the frame.
    extent: usize,
}

impl Axis {
    fn new(
        size: usize,
        out: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
        dilation: usize,
    ) -> Axis {
        // Input position s q + r is read by output o through tap k when s o = s q + r + padding - k
        // dilation.
        let shift = |r: usize, k: usize| {
            let d = (r + padding) as isize - (k * dilation) as isize;
            (d.rem_euclid(stride as isize) == 0).then(|| d.div_euclid(stride as isize))
        };
        let shifts: Vec<Vec<(usize, isize)>> = (0..stride.min(size.max(1)))
            .map(|r| {
                let mut taps: Vec<_> =
                    (0..kernel).filter_map(|k| shift(r, k).map(|d| (k, d))).collect();
                taps.reverse();
                taps
            })
            .collect();
        let all = || shifts.iter().flatten().map(|&(_, d)| d);
        let before = (-all().min().unwrap_or(0)).max(0);
        let last = size.div_ceil(stride) as isize - 1 + all().max().unwrap_or(0);
        let extent = before + (last + 1).max(out as isize);
        let place = |&(k, d): &(usize, isize)| (k, (d + before) as usize);
        Axis {
            phases: shifts.iter().map(|taps| taps.iter().map(place).collect()).collect(),
            before: before as usize,
            extent: extent as usize,
        }
    }
}

/// Panels `[columns / NR][words][NR]` of `b`, a matrix of `k` rows.
fn pack<T: Scalar>(isa: Isa, b: Matrix<'_, T>, k: usize, columns: usize) -> Vec<f32> {
    let nr = isa.panel_width(columns);
    let words = k.div_ceil(T::TERMS);
    let mut panels = vec![0.0; columns.div_ceil(nr) * nr * words];
    if k > 0 {
        for (j, out) in panels.chunks_exact_mut(nr * words).enumerate() {
            let width = (columns - j * nr).min(nr);
            isa.run(PackColumns { b, k0: 0, k, j0: j * nr, width, panel: nr, out });
        }
    }
    panels
}

/// Runs all plans on all images. A task is a group of images.
fn run<T: Scalar>(
    cpu: &Cpu,
    images: usize,
    plans: &[Plan],
    x: &[T],
    x_image: usize,
    epilogue: Epilogue<'_, T>,
    y: &mut [T],
    y_image: usize,
) -> Result<()> {
    if y.is_empty() {
        return Ok(());
    }
    let frame = plans.iter().map(|p| p.frame.elements()).max().unwrap_or(0);
    let group = (FRAME_BYTES / (size_of::<T>() * frame.max(1)))
        .clamp(1, images.div_ceil(2 * cpu.threads.count()).max(1));
    // Rows are shared out too where there are fewer images than threads.
    let tasks = images.div_ceil(group);
    let bands = if tasks >= cpu.threads.count() { 1 } else { 2 * cpu.threads.count() };
    let failed = Mutex::new(None);
    let out = SharedMut::new(y);
    cpu.threads.run(tasks * bands, |task| {
        let (first, band) = (task / bands * group, task % bands);
        let count = group.min(images - first);
        let mut memory = match cpu.alloc::<T>(group * frame) {
            Ok(memory) => memory,
            Err(e) => {
                *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(e);
                return;
            }
        };
        let frames = memory.slice_mut::<T>(group * frame);
        for (index, plan) in plans.iter().enumerate() {
            let size = plan.frame.elements();
            let images = &x[first * x_image..(first + count) * x_image];
            // Phases of a stride share their frame.
            let same_frame = index > 0 && plans[index - 1].frame.first == plan.frame.first;
            if !plan.frame.is_identity() && !same_frame {
                for i in 0..count {
                    let image = &images[i * x_image..(i + 1) * x_image];
                    plan.frame.fill(image, &mut frames[i * size..(i + 1) * size]);
                }
            }
            let rows = plan.out.rows;
            let rows = rows * band / bands..rows * (band + 1) / bands;
            if rows.is_empty() || plan.out.columns == 0 {
                continue;
            }
            cpu.isa.run(Sweep {
                plan,
                frames: if plan.frame.is_identity() { images } else { &frames[..count * size] },
                rows,
                epilogue: Epilogue {
                    bias: epilogue
                        .bias
                        .map(|b| &b[plan.out.start..plan.out.start + plan.out.channels]),
                    residual: epilogue
                        .residual
                        .map(|r| &r[first * y_image..(first + count) * y_image]),
                    relu: epilogue.relu,
                },
                // SAFETY: the task writes the rows of its band in images `first..first + count`
                // alone.
                y: unsafe { out.pointer(first * y_image) },
                y_image,
                y_len: count * y_image,
            });
        }
    });
    failed.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

/// One plan over some frames.
struct Sweep<'a, T> {
    plan: &'a Plan,
    frames: &'a [T],
    rows: std::ops::Range<usize>,
    /// Of the plan's channels and of the images.
    epilogue: Epilogue<'a, T>,
    y: *mut T,
    y_image: usize,
    y_len: usize,
}

impl<T: Scalar> Kernel for Sweep<'_, T> {
    type Output = ();
    const BF16: bool = T::TERMS == 2;

    #[inline(always)]
    fn run<V: Vector>(self) {
        if self.plan.out.channels <= V::LANES {
            self.panels::<V, 1>();
        } else {
            self.panels::<V, 2>();
        }
    }
}

impl<T: Scalar> Sweep<'_, T> {
    #[inline(always)]
    fn panels<V: Vector, const NV: usize>(&self) {
        let p = self.plan;
        let nr = NV * V::LANES;
        assert!(p.run.is_multiple_of(T::TERMS));
        let k = p.taps.len() * p.run / T::TERMS;
        let size = p.frame.elements();
        let count = self.y_len / self.y_image.max(1);
        let reach = p.taps.iter().max().map_or(0, |t| t + p.run);
        let last = (p.out.rows - 1) * p.row_step + (p.out.columns - 1) * p.pixel_step;
        assert!(last + reach <= size && self.frames.len() >= count * size);
        assert!(p.panels.len() >= p.out.channels.div_ceil(nr) * nr * k);
        let Epilogue { bias, residual, relu } = self.epilogue;
        assert!(residual.is_none_or(|r| r.len() == self.y_len));
        // Columns outermost: their panel of filters stays in L2 (or L1) for all images of the task.
        for j in (0..p.out.channels).step_by(nr) {
            let columns = (p.out.channels - j).min(nr);
            for image in 0..count {
                for row in self.rows.clone() {
                    let at = image * self.y_image + p.out.start + row * p.out.row + j;
                    let tiles = RowTiles {
                        taps: &p.taps,
                        run: p.run,
                        pixel_step: p.pixel_step,
                        a: self.frames[image * size + row * p.row_step..].as_ptr(),
                        b: p.panels[j * k..].as_ptr(),
                        bias: bias.map(|b| b[j..].as_ptr()),
                        residual: residual.map(|r| r[at..].as_ptr()),
                        relu,
                        columns,
                        // SAFETY: the row's pixels lie inside the image; see OutLayout.
                        y: unsafe { self.y.add(at) },
                        y_pixel: p.out.pixel,
                    };
                    // SAFETY: pixels below out.columns read inside the frame by the first
                    // assertion, and the panels by the second.
                    unsafe { sweep::<V, NV>(p.out.columns, &tiles) };
                }
            }
        }
    }
}

/// The pixels of one output row, for one panel of channels.
struct RowTiles<'a, T> {
    taps: &'a [usize],
    run: usize,
    pixel_step: usize,
    a: *const T,
    b: *const f32,
    bias: Option<*const T>,
    /// As y.
    residual: Option<*const T>,
    relu: bool,
    columns: usize,
    y: *mut T,
    y_pixel: usize,
}

impl<V: Vector, T: Scalar, const NV: usize> Tiles<V, NV> for RowTiles<'_, T> {
    #[inline(always)]
    unsafe fn tile<const MR: usize>(&self, row: usize) {
        let nr = NV * V::LANES;
        // SAFETY: the caller keeps `row..row + MR` inside the output row; frame and panels were
        // checked by `panels`.
        unsafe {
            let a = self.a.add(row * self.pixel_step);
            let mut b = self.b;
            let mut acc = zero_tile::<V, MR, NV>();
            for &tap in self.taps {
                let words = self.run / T::TERMS;
                acc = outer_products::<V, T, MR, NV, false>(
                    acc,
                    words,
                    (a.add(tap), self.pixel_step, T::TERMS),
                    (b, nr),
                    nr,
                );
                b = b.add(words * nr);
            }
            if let Some(bias) = self.bias {
                for j in 0..NV {
                    let start = j * V::LANES;
                    let bias =
                        T::load_partial::<V>(bias.add(start), self.columns.saturating_sub(start));
                    for row in &mut acc {
                        row[j] = row[j].add(bias);
                    }
                }
            }
            if let Some(residual) = self.residual {
                for r in 0..MR {
                    for j in 0..NV {
                        let start = j * V::LANES;
                        let at = residual.wrapping_add((row + r) * self.y_pixel + start);
                        let n = self.columns.saturating_sub(start);
                        acc[r][j] = acc[r][j].add(T::load_partial(at, n));
                    }
                }
            }
            if self.relu {
                for row in &mut acc {
                    *row = row.map(V::relu);
                }
            }
            store_tile(acc, self.y.add(row * self.y_pixel), self.y_pixel, self.columns);
        }
    }
}
