//! Cross-entropy of logits `[count, classes]` with labels `[count]` or probabilities `[count,
//! classes]`; the formulas are in the reference's file of the same name.
//!
//! With t' the smoothed targets, z = x - max x and L = ln Σ exp(z), the loss of a row is Σ t'_j (L
//! - z_j).

use super::Cpu;
use super::simd::{Kernel, Vector, math};
use super::softmax::{max_and_sum_exp, sum_of};
use super::threads::TASK_ELEMENTS;
use crate::*;

const OP: &str = "cross_entropy";

/// What the logits are compared with.
#[derive(Clone, Copy)]
enum Targets<'a> {
    /// `[count]`, each below the number of classes.
    Labels(&'a [i32]),
    /// `[count, classes]`
    Probabilities(&'a [f32]),
}

impl<'a> Targets<'a> {
    fn read(cpu: &Cpu, rows: Rows, targets: &'a Buffer) -> Result<Self> {
        match targets.dtype() {
            Dtype::I32 => {
                let labels = cpu.read::<i32>(OP, targets, rows.count)?;
                let outside = |&l: &i32| usize::try_from(l).map_or(true, |l| l >= rows.len);
                match labels.iter().position(outside) {
                    None => Ok(Targets::Labels(labels)),
                    Some(position) => Err(Error::Index {
                        op: OP,
                        index: labels[position].into(),
                        position,
                        bound: rows.len,
                    }),
                }
            }
            _ => Ok(Targets::Probabilities(cpu.read::<f32>(OP, targets, rows.elements())?)),
        }
    }

    /// Those of the rows from `first` on.
    #[inline(always)]
    fn skip_rows(self, first: usize, len: usize) -> Self {
        match self {
            Targets::Labels(labels) => Targets::Labels(&labels[first..]),
            Targets::Probabilities(p) => Targets::Probabilities(&p[first * len..]),
        }
    }
}

/// Loss and log-sum-exp of some rows.
struct Forward<'a> {
    len: usize,
    smoothing: f64,
    x: &'a [f32],
    targets: Targets<'a>,
    loss: &'a mut [f32],
    log_sum_exp: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Forward { len, smoothing, x, targets, loss, log_sum_exp } = self;
        let (keep, floor) = ((1.0 - smoothing) as f32, (smoothing / len as f64) as f32);
        for (row, (loss, log_sum_exp)) in loss.iter_mut().zip(log_sum_exp).enumerate() {
            let x = &x[row * len..(row + 1) * len];
            let (max, sum) = max_and_sum_exp::<V>(x);
            let log_sum = math::log::<V>(sum);
            *log_sum_exp = max + log_sum;
            // -log p, left out (not 0 times infinity) where the target is 0.
            let term = |target: f32, x: f32| {
                if target == 0.0 { 0.0 } else { target * (log_sum - (x - max)) }
            };
            *loss = match targets {
                Targets::Labels(labels) => {
                    let at_label = term(keep, x[labels[row] as usize]);
                    let even =
                        if floor == 0.0 { 0.0 } else { sum_of::<V>(x, x, |x, _| term(floor, x)) };
                    at_label + even
                }
                Targets::Probabilities(p) => {
                    let p = &p[row * len..(row + 1) * len];
                    sum_of::<V>(x, p, |x, p| term(V::scalar_mul_add(keep, p, floor), x))
                }
            };
        }
    }
}

/// Loss and log Σ exp(logits) of each row.
pub fn forward(
    cpu: &Cpu,
    args: &CrossEntropyArgs,
    logits: &Buffer,
    targets: &Buffer,
) -> Result<(Buffer, Buffer)> {
    let &CrossEntropyArgs { rows: Rows { count, len }, smoothing } = args;
    let x = cpu.read::<f32>(OP, logits, args.rows.elements())?;
    let targets = Targets::read(cpu, args.rows, targets)?;
    let (mut loss, mut log_sum_exp) = (cpu.alloc::<f32>(count)?, cpu.alloc::<f32>(count)?);
    let per_task = rows_of_task(len);
    cpu.threads.chunks2(
        (loss.slice_mut::<f32>(count), per_task),
        (log_sum_exp.slice_mut::<f32>(count), per_task),
        |i, loss, log_sum_exp| {
            let first = i * per_task;
            let (x, targets) = (&x[first * len..], targets.skip_rows(first, len));
            cpu.isa.run(Forward { len, smoothing, x, targets, loss, log_sum_exp })
        },
    );
    Ok((loss.into_buffer::<f32>(count), log_sum_exp.into_buffer::<f32>(count)))
}

/// Rows of a task: exponentials cost more than memory does, so tasks are smaller than elsewhere.
fn rows_of_task(len: usize) -> usize {
    (TASK_ELEMENTS / 8 / len.max(1)).max(1)
}

/// dlogits = (p Σ t' - t') dloss of some rows.
struct Backward<'a> {
    len: usize,
    smoothing: f64,
    x: &'a [f32],
    targets: Targets<'a>,
    log_sum_exp: &'a [f32],
    dloss: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Backward { len, smoothing, x, targets, log_sum_exp, dloss, dx } = self;
        let (keep, floor) = ((1.0 - smoothing) as f32, (smoothing / len as f64) as f32);
        for (row, dx) in dx.chunks_exact_mut(len).enumerate() {
            let range = row * len..(row + 1) * len;
            let (x, log_sum_exp, dloss) = (&x[range.clone()], log_sum_exp[row], dloss[row]);
            match targets {
                Targets::Labels(labels) => {
                    for (dx, &x) in dx.iter_mut().zip(x) {
                        *dx = (math::exp::<V>(x - log_sum_exp) - floor) * dloss;
                    }
                    let label = labels[row] as usize;
                    let p = math::exp::<V>(x[label] - log_sum_exp);
                    dx[label] = (p - (keep + floor)) * dloss;
                }
                Targets::Probabilities(p) => {
                    let t = &p[range];
                    let smoothed = |t: f32| V::scalar_mul_add(keep, t, floor);
                    let total = sum_of::<V>(t, t, |t, _| smoothed(t));
                    for ((dx, &x), &t) in dx.iter_mut().zip(x).zip(t) {
                        let p = math::exp::<V>(x - log_sum_exp);
                        *dx = V::scalar_mul_add(p, total, -smoothed(t)) * dloss;
                    }
                }
            }
        }
    }
}

/// dlogits from the gradient of each row's loss.
pub fn backward(
    cpu: &Cpu,
    args: &CrossEntropyArgs,
    logits: &Buffer,
    targets: &Buffer,
    log_sum_exp: &Buffer,
    dloss: &Buffer,
) -> Result<Buffer> {
    let &CrossEntropyArgs { rows: Rows { count, len }, smoothing } = args;
    let x = cpu.read::<f32>(OP, logits, count * len)?;
    let targets = Targets::read(cpu, args.rows, targets)?;
    let log_sum_exp = cpu.read::<f32>(OP, log_sum_exp, count)?;
    let dloss = cpu.read::<f32>(OP, dloss, count)?;
    let mut memory = cpu.alloc::<f32>(count * len)?;
    let per_task = rows_of_task(len);
    cpu.threads.chunks(memory.slice_mut(count * len), per_task * len, |i, dx| {
        let first = i * per_task;
        let (x, targets) = (&x[first * len..], targets.skip_rows(first, len));
        let (log_sum_exp, dloss) = (&log_sum_exp[first..], &dloss[first..]);
        cpu.isa.run(Backward { len, smoothing, x, targets, log_sum_exp, dloss, dx })
    });
    Ok(memory.into_buffer::<f32>(count * len))
}
