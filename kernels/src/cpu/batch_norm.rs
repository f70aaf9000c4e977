//! Batch normalisation. x, y and the residual `[rows, c]`; all else `[c]`. The formulas are in the
//! reference's file of the same name.
//!
//! ```text
//!   forward    pass 1  sums of a task's rows      reads x
//!              pass 2  y                          reads x (residual), writes y
//!   backward   pass 1  sums of a task's rows      reads x, dy (y), writes the residual's gradient
//!              pass 2  dx                         reads x and g, writes dx
//! ```
//!
//! where g is the gradient before the activation. Rows are walked in runs, see [`super::tiles`].
//! x, y and the residual may be bf16; statistics and partial sums are f32 whatever they are.

use std::borrow::Cow;

use super::Cpu;
use super::scalar::Scalar;
use super::simd::{Kernel, Vector};
use super::threads::SharedMut;
use super::tiles::{RowSums, TILE, fold_repeats, piece, repeat, run_width};
use crate::host::HostMemory;
use crate::*;

const OP: &str = "batch_norm";

/// Partial sums of a task, a value a column each.
const STATISTICS: usize = 3;
const GRADIENTS: usize = 2;

/// Sums of d = x - shift and of d² over a block of rows, and the shift: the block's first row, so
/// that the squares do not cancel where the mean is large against the deviation. `out` is
/// `[STATISTICS, sums.width()]`.
struct StatisticsKernel<'a, T> {
    sums: RowSums,
    task: usize,
    x: &'a [T],
    out: &'a mut [f32],
}

impl<T: Scalar> Kernel for StatisticsKernel<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let StatisticsKernel { sums, task, x, out } = self;
        let block = sums.block(task);
        let (c, width) = (block.columns.len(), block.width);
        let mut shift = [0.0f32; TILE];
        for repeat in shift[..width].chunks_exact_mut(c) {
            repeat.iter_mut().zip(&x[block.start..][..c]).for_each(|(s, x)| *s = x.widen());
        }
        let (mut first, mut second) = ([0.0f32; TILE], [0.0f32; TILE]);
        for run in block.runs() {
            let x = &x[run];
            let n = x.len();
            let sums = first[..n].iter_mut().zip(&mut second[..n]);
            for ((first, second), (&x, &shift)) in sums.zip(x.iter().zip(&shift[..n])) {
                let d = x.widen() - shift;
                *first += d;
                *second = V::scalar_mul_add(d, d, *second);
            }
        }
        fold_repeats(&mut first[..width], c, |a, b| a + b);
        fold_repeats(&mut second[..width], c, |a, b| a + b);
        let mut out = out.chunks_exact_mut(sums.width());
        for values in [&first, &second, &shift] {
            if let Some(out) = out.next() {
                out[..c].copy_from_slice(&values[..c]);
            }
        }
    }
}

/// mean = Σ x / rows and var = Σ (x - mean)² / rows, in f64 from the sums of the row blocks: block
/// t with n_t rows and mean m_t contributes Σ d² - (Σ d)² / n_t + n_t (m_t - mean)² to the sum of
/// squares (Chan, Golub and LeVeque 1983).
fn combine_statistics(
    sums: RowSums,
    partials: &[f32],
    rows: usize,
    mean: &mut [f32],
    var: &mut [f32],
) {
    let width = sums.width();
    // (n_t, Σ d, Σ d², shift) of a column in each row block.
    let blocks = |column: usize| {
        (0..sums.row_blocks).map(move |i| {
            let task = &partials[sums.task(i, column) * STATISTICS * width..][..STATISTICS * width];
            let at = |which: usize| f64::from(task[which * width + column % TILE]);
            (sums.block_rows(i) as f64, at(0), at(1), at(2))
        })
    };
    let n = rows as f64;
    for (column, (mean, var)) in mean.iter_mut().zip(var).enumerate() {
        let total: f64 = blocks(column).map(|(n, first, _, shift)| first + n * shift).sum();
        let m = total / n;
        let squares: f64 = blocks(column)
            .map(|(n, first, second, shift)| {
                let off = shift + first / n - m;
                // Rounding must not make it negative; NaN stays.
                let own = second - first * first / n;
                (if own < 0.0 { 0.0 } else { own }) + n * off * off
            })
            .sum();
        *mean = m as f32;
        *var = (squares / n) as f32;
    }
}

/// 1 / sqrt(var + epsilon)
fn inverse_deviation(args: &BatchNormArgs, var: f32) -> f32 {
    1.0 / (var + args.epsilon as f32).sqrt()
}

/// y = activation((x - mean) scale + beta + residual), the per-channel values repeated.
struct Apply<'a, T> {
    relu: bool,
    x: &'a [T],
    residual: Option<&'a [T]>,
    mean: &'a [f32],
    scale: &'a [f32],
    beta: &'a [f32],
    y: &'a mut [T],
}

impl<T: Scalar> Kernel for Apply<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Apply { relu, x, residual, mean, scale, beta, y } = self;
        let width = mean.len();
        for (i, (y, x)) in y.chunks_mut(width).zip(x.chunks(width)).enumerate() {
            let n = y.len();
            let channels = mean[..n].iter().zip(&scale[..n]).zip(&beta[..n]);
            // The activation is decided outside of the loops, which then become SIMD.
            let store = |y: &mut T, v: f32| *y = T::narrow(v);
            let store_relu = |y: &mut T, v: f32| *y = T::narrow(if v <= 0.0 { 0.0 } else { v });
            match residual {
                None => {
                    let all = y.iter_mut().zip(x).zip(channels);
                    let value =
                        |x: T, mean, scale, beta| V::scalar_mul_add(x.widen() - mean, scale, beta);
                    match relu {
                        false => {
                            all.for_each(|((y, &x), ((&m, &s), &b))| store(y, value(x, m, s, b)))
                        }
                        true => {
                            all.for_each(|((y, &x), ((&m, &s), &b))| {
                                store_relu(y, value(x, m, s, b))
                            });
                        }
                    }
                }
                Some(residual) => {
                    let inputs = x.iter().zip(&residual[i * width..][..n]);
                    let all = y.iter_mut().zip(inputs).zip(channels);
                    let value = |x: T, r: T, mean, scale, beta| {
                        V::scalar_mul_add(x.widen() - mean, scale, beta) + r.widen()
                    };
                    match relu {
                        false => all.for_each(|((y, (&x, &r)), ((&m, &s), &b))| {
                            store(y, value(x, r, m, s, b));
                        }),
                        true => all.for_each(|((y, (&x, &r)), ((&m, &s), &b))| {
                            store_relu(y, value(x, r, m, s, b));
                        }),
                    }
                }
            }
        }
    }
}

/// y from x and the statistics.
fn apply<T: Scalar>(
    cpu: &Cpu,
    args: &BatchNormArgs,
    x: &[T],
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    var: &[f32],
    residual: Option<&[T]>,
) -> Result<Buffer> {
    let len = args.elements();
    let mut memory = cpu.alloc::<T>(len)?;
    let scale = gamma.iter().zip(var).map(|(gamma, &var)| gamma * inverse_deviation(args, var));
    let scale = repeat(&scale.collect::<Vec<f32>>());
    let (mean, beta) = (repeat(mean), repeat(beta));
    let piece = piece(args.c);
    let relu = args.activation == Activation::Relu;
    cpu.threads.chunks(memory.slice_mut(len), piece, |i, y| {
        let part = i * piece..i * piece + y.len();
        let (x, residual) = (&x[part.clone()], residual.map(|residual| &residual[part]));
        cpu.isa.run(Apply { relu, x, residual, mean: &mean, scale: &scale, beta: &beta, y })
    });
    Ok(memory.into_buffer::<T>(len))
}

/// A value a channel, as f32: f32 always fits, and T too.
fn per_channel<'a, T: Scalar>(cpu: &Cpu, x: &'a Buffer, c: usize) -> Result<Cow<'a, [f32]>> {
    if x.dtype() == Dtype::F32 {
        return Ok(Cow::Borrowed(cpu.read::<f32>(OP, x, c)?));
    }
    Ok(cpu.read::<T>(OP, x, c)?.iter().map(|v| v.widen()).collect())
}

/// f32 values of a channel each as a buffer of the dtype of `like`: f32 or T.
fn like<T: Scalar>(cpu: &Cpu, values: HostMemory, c: usize, like: &Buffer) -> Result<Buffer> {
    if like.dtype() == Dtype::F32 {
        return Ok(values.into_buffer::<f32>(c));
    }
    let mut memory = cpu.alloc::<T>(c)?;
    let out = memory.slice_mut::<T>(c).iter_mut();
    out.zip(values.slice::<f32>(c)).for_each(|(out, &v)| *out = T::narrow(v));
    Ok(memory.into_buffer::<T>(c))
}

/// Statistics of x, and y.
pub fn forward<T: Scalar>(
    cpu: &Cpu,
    args: &BatchNormArgs,
    x: &Buffer,
    gamma: &Buffer,
    beta: &Buffer,
    residual: Option<&Buffer>,
) -> Result<BatchNormOutput> {
    let &BatchNormArgs { rows, c, .. } = args;
    let x = cpu.read::<T>(OP, x, args.elements())?;
    let (gamma, beta) = (per_channel::<T>(cpu, gamma, c)?, per_channel::<T>(cpu, beta, c)?);
    let residual = residual.map(|r| cpu.read::<T>(OP, r, args.elements())).transpose()?;
    let (mut mean, mut var) = (cpu.alloc::<f32>(c)?, cpu.alloc::<f32>(c)?);
    {
        let sums = RowSums::new(rows, c);
        let stride = STATISTICS * sums.width();
        let mut partials = cpu.alloc::<f32>(sums.tasks() * stride)?;
        let partials = partials.slice_mut::<f32>(sums.tasks() * stride);
        cpu.threads.chunks(partials, stride, |task, out| {
            cpu.isa.run(StatisticsKernel { sums, task, x, out })
        });
        combine_statistics(sums, partials, rows, mean.slice_mut(c), var.slice_mut(c));
    }
    let y = apply(cpu, args, x, &gamma, &beta, mean.slice(c), var.slice(c), residual)?;
    Ok(BatchNormOutput { y, mean: mean.into_buffer::<f32>(c), var: var.into_buffer::<f32>(c) })
}

/// y from given statistics.
pub fn inference<T: Scalar>(
    cpu: &Cpu,
    args: &BatchNormArgs,
    x: &Buffer,
    gamma: &Buffer,
    beta: &Buffer,
    mean: &Buffer,
    var: &Buffer,
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    let c = args.c;
    let x = cpu.read::<T>(OP, x, args.elements())?;
    let (gamma, beta) = (per_channel::<T>(cpu, gamma, c)?, per_channel::<T>(cpu, beta, c)?);
    let (mean, var) = (per_channel::<T>(cpu, mean, c)?, per_channel::<T>(cpu, var, c)?);
    let residual = residual.map(|r| cpu.read::<T>(OP, r, args.elements())).transpose()?;
    apply(cpu, args, x, &gamma, &beta, &mean, &var, residual)
}

/// Σ g and Σ g (x - mean) over a block of rows, with g = dy where y is positive (everywhere without
/// an activation); g is also written where it is wanted. `out` is `[GRADIENTS, sums.width()]`,
/// `mean` is repeated.
struct SumsKernel<'a, T> {
    sums: RowSums,
    task: usize,
    x: &'a [T],
    y: Option<&'a [T]>,
    dy: &'a [T],
    mean: &'a [f32],
    g: Option<&'a SharedMut<T>>,
    out: &'a mut [f32],
}

impl<T: Scalar> Kernel for SumsKernel<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let SumsKernel { sums, task, x, y, dy, mean, g, out } = self;
        let block = sums.block(task);
        let (c, width) = (block.columns.len(), block.width);
        // Rows longer than a tile are cut into blocks of columns, and then the mean is not
        // repeated.
        let mean = if mean.len() > TILE { &mean[block.columns.clone()] } else { mean };
        let (mut first, mut second) = ([0.0f32; TILE], [0.0f32; TILE]);
        for run in block.runs() {
            let n = run.len();
            let (x, dy) = (&x[run.clone()], &dy[run.clone()]);
            let accumulators = first[..n].iter_mut().zip(&mut second[..n]);
            let inputs = x.iter().zip(&mean[..n]).zip(dy);
            match y {
                None => {
                    for ((first, second), ((&x, &mean), &g)) in accumulators.zip(inputs) {
                        let g = g.widen();
                        *first += g;
                        *second = V::scalar_mul_add(g, x.widen() - mean, *second);
                    }
                }
                Some(y) => {
                    let inputs = inputs.zip(&y[run.clone()]);
                    for ((first, second), (((&x, &mean), &dy), &y)) in accumulators.zip(inputs) {
                        let g = if y.widen() <= 0.0 { 0.0 } else { dy.widen() };
                        *first += g;
                        *second = V::scalar_mul_add(g, x.widen() - mean, *second);
                    }
                    if let Some(g) = g {
                        // SAFETY: the runs of different tasks are disjoint, and each is borrowed
                        // once.
                        let g = unsafe { g.slice(run.start, n) };
                        for ((g, &dy), &y) in g.iter_mut().zip(dy).zip(&y[run]) {
                            *g = if y.widen() <= 0.0 { T::narrow(0.0) } else { dy };
                        }
                    }
                }
            }
        }
        fold_repeats(&mut first[..width], c, |a, b| a + b);
        fold_repeats(&mut second[..width], c, |a, b| a + b);
        let (out_first, out_second) = out.split_at_mut(sums.width());
        out_first[..c].copy_from_slice(&first[..c]);
        out_second[..c].copy_from_slice(&second[..c]);
    }
}

/// dx = a g + b (x - mean) + d, the per-channel values repeated; without statistics only a g.
struct DxKernel<'a, T> {
    x: &'a [T],
    y: Option<&'a [T]>,
    dy: &'a [T],
    statistics: bool,
    channels: &'a Channels,
    dx: &'a mut [T],
}

/// Per-channel values of [`DxKernel`].
struct Channels {
    mean: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    d: Vec<f32>,
}

impl<T: Scalar> Kernel for DxKernel<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let DxKernel { x, y, dy, statistics, channels, dx } = self;
        let width = channels.mean.len();
        for (i, dx) in dx.chunks_mut(width).enumerate() {
            let n = dx.len();
            let run = i * width..i * width + n;
            let (x, dy) = (&x[run.clone()], &dy[run.clone()]);
            let (mean, a) = (&channels.mean[..n], &channels.a[..n]);
            let (b, d) = (&channels.b[..n], &channels.d[..n]);
            let constants = mean.iter().zip(a).zip(b.iter().zip(d));
            match y {
                _ if !statistics => {
                    for ((dx, &dy), &a) in dx.iter_mut().zip(dy).zip(a) {
                        *dx = T::narrow(a * dy.widen());
                    }
                    for (dx, &y) in dx.iter_mut().zip(y.map_or(&[][..], |y| &y[run])) {
                        *dx = if y.widen() <= 0.0 { T::narrow(0.0) } else { *dx };
                    }
                }
                None => {
                    let inputs = x.iter().zip(dy).zip(constants);
                    for (dx, ((&x, &g), ((&mean, &a), (&b, &d)))) in dx.iter_mut().zip(inputs) {
                        let rest = V::scalar_mul_add(b, x.widen() - mean, d);
                        *dx = T::narrow(V::scalar_mul_add(a, g.widen(), rest));
                    }
                }
                Some(y) => {
                    let inputs = x.iter().zip(dy).zip(&y[run]).zip(constants);
                    for (dx, (((&x, &dy), &y), ((&mean, &a), (&b, &d)))) in
                        dx.iter_mut().zip(inputs)
                    {
                        let g = if y.widen() <= 0.0 { 0.0 } else { dy.widen() };
                        let rest = V::scalar_mul_add(b, x.widen() - mean, d);
                        *dx = T::narrow(V::scalar_mul_add(a, g, rest));
                    }
                }
            }
        }
    }
}

/// All gradients.
pub fn backward<T: Scalar>(
    cpu: &Cpu,
    args: &BatchNormArgs,
    x: &Buffer,
    y: Option<&Buffer>,
    gamma: &Buffer,
    mean: &Buffer,
    var: &Buffer,
    dy: &Buffer,
    residual: bool,
) -> Result<BatchNormGradients> {
    let &BatchNormArgs { rows, c, .. } = args;
    let len = args.elements();
    let x = cpu.read::<T>(OP, x, len)?;
    let y = match (args.activation, y) {
        (Activation::Identity, _) => None,
        (Activation::Relu, Some(y)) => Some(cpu.read::<T>(OP, y, len)?),
        (Activation::Relu, None) => {
            let detail = format!("the backward pass of {:?} needs y, got none", args.activation);
            return Err(Error::argument(OP, detail));
        }
    };
    let gamma_data = per_channel::<T>(cpu, gamma, c)?;
    let (mean, var) = (per_channel::<T>(cpu, mean, c)?, per_channel::<T>(cpu, var, c)?);
    let dy_data = cpu.read::<T>(OP, dy, len)?;

    // Pass 1. Without an activation the residual's gradient is dy itself, shared.
    let mut g_memory = (residual && y.is_some()).then(|| cpu.alloc::<T>(len)).transpose()?;
    let g = g_memory.as_mut().map(|memory| SharedMut::new(memory.slice_mut::<T>(len)));
    let sums = RowSums::new(rows, c);
    let stride = GRADIENTS * sums.width();
    let mut partials = cpu.alloc::<f32>(sums.tasks() * stride)?;
    let partials = partials.slice_mut::<f32>(sums.tasks() * stride);
    let repeated_mean = repeat(&mean);
    cpu.threads.chunks(partials, stride, |task, out| {
        let (dy, mean, g) = (dy_data, &repeated_mean, g.as_ref());
        cpu.isa.run(SumsKernel { sums, task, x, y, dy, mean, g, out })
    });
    let (mut dgamma, mut dbeta) = (cpu.alloc::<f32>(c)?, cpu.alloc::<f32>(c)?);
    let mut channels = Channels {
        mean: repeated_mean,
        a: Vec::with_capacity(c),
        b: Vec::with_capacity(c),
        d: Vec::with_capacity(c),
    };
    let n = rows as f64;
    let outputs = dgamma.slice_mut::<f32>(c).iter_mut().zip(dbeta.slice_mut::<f32>(c));
    for (column, (dgamma, dbeta)) in outputs.enumerate() {
        let total = |which: usize| -> f64 {
            let at = which * sums.width() + column % TILE;
            let tasks = (0..sums.row_blocks).map(|i| sums.task(i, column));
            tasks.map(|task| f64::from(partials[task * stride + at])).sum()
        };
        let inverse = f64::from(inverse_deviation(args, var[column]));
        let (sum, sum_normalised) = (total(0), total(1) * inverse);
        let a = f64::from(gamma_data[column]) * inverse;
        channels.a.push(a as f32);
        channels.b.push((-a * inverse * sum_normalised / n) as f32);
        channels.d.push((-a * sum / n) as f32);
        (*dgamma, *dbeta) = (sum_normalised as f32, sum as f32);
    }
    for values in [&mut channels.a, &mut channels.b, &mut channels.d] {
        *values = repeat(values);
    }

    // Pass 2, from g where pass 1 has written it.
    let mut dx = cpu.alloc::<T>(len)?;
    let (g, mask) = match &g_memory {
        Some(memory) => (memory.slice::<T>(len), None),
        None => (dy_data, y),
    };
    let (piece, statistics) = (piece(c), args.training);
    debug_assert!(len == 0 || piece.is_multiple_of(run_width(c)));
    cpu.threads.chunks(dx.slice_mut(len), piece, |i, dx| {
        let part = i * piece..i * piece + dx.len();
        let (x, dy) = (&x[part.clone()], &g[part.clone()]);
        let (y, channels) = (mask.map(|y| &y[part]), &channels);
        cpu.isa.run(DxKernel { x, y, dy, statistics, channels, dx })
    });
    Ok(BatchNormGradients {
        dx: dx.into_buffer::<T>(len),
        dgamma: like::<T>(cpu, dgamma, c, gamma)?,
        dbeta: like::<T>(cpu, dbeta, c, gamma)?,
        dresidual: match g_memory {
            Some(memory) => Some(memory.into_buffer::<T>(len)),
            None => residual.then(|| dy.clone()),
        },
    })
}

/// running = (1 - momentum) running + momentum batch, the variance times rows / (rows - 1).
pub fn update_running(
    cpu: &Cpu,
    args: &BatchNormArgs,
    momentum: f64,
    running_mean: &mut Buffer,
    running_var: &mut Buffer,
    mean: &Buffer,
    var: &Buffer,
) -> Result<()> {
    let (rows, c) = (args.rows as f64, args.c);
    let (mean, var) = (cpu.read::<f32>(OP, mean, c)?, cpu.read::<f32>(OP, var, c)?);
    let (keep, take) = ((1.0 - momentum) as f32, momentum as f32);
    let unbiased = (rows / (rows - 1.0)) as f32;
    // Both are checked before either is changed.
    let running_mean = cpu.update::<f32>(OP, running_mean, c)?;
    let running_var = cpu.update::<f32>(OP, running_var, c)?;
    for (running, &mean) in running_mean.iter_mut().zip(mean) {
        *running = keep * *running + take * mean;
    }
    for (running, &var) in running_var.iter_mut().zip(var) {
        *running = keep * *running + take * (unbiased * var);
    }
    Ok(())
}
