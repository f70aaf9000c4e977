//! Softmax and log-softmax over rows `[count, len]`.

use super::Cpu;
use super::reduce::{Max, fold_row};
use super::simd::{Kernel, Vector, math};
use super::threads::TASK_ELEMENTS;
use crate::*;

/// Accumulators along a row.
const LANES: usize = 32;

/// Σ f(i) for i in 0..len, over lanes, each element of a row once.
#[inline(always)]
pub fn sum_lanes(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = len / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += f(start + i);
        }
    }
    for (i, lane) in lanes.iter_mut().enumerate().take(len - whole) {
        *lane += f(whole + i);
    }
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
}

/// m = max x and Σ exp(x - m) of one row: -inf and 0 of an empty one.
#[inline(always)]
pub fn max_and_sum_exp<V: Vector>(x: &[f32]) -> (f32, f32) {
    let max = fold_row::<V, Max>(x);
    (max, sum_lanes(x.len(), |i| math::exp::<V>(x[i] - max)))
}

/// Which function of the rows.
#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Forward,
    Backward,
    LogForward,
    LogBackward,
}

/// Some rows: x and dy are the inputs (a forward pass has no dy), y what is written.
struct RowsKernel<'a> {
    pass: Pass,
    len: usize,
    x: &'a [f32],
    dy: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for RowsKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let RowsKernel { pass, len, x, dy, y } = self;
        for (row, (y, x)) in y.chunks_exact_mut(len).zip(x.chunks_exact(len)).enumerate() {
            let start = row * len;
            match pass {
                Pass::Forward => {
                    let max = fold_row::<V, Max>(x);
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = math::exp::<V>(x - max);
                    }
                    let sum = sum_lanes(len, |i| y[i]);
                    for y in y {
                        *y /= sum;
                    }
                }
                Pass::LogForward => {
                    let (max, sum) = max_and_sum_exp::<V>(x);
                    let log_sum = math::log::<V>(sum);
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = (x - max) - log_sum;
                    }
                }
                Pass::Backward => {
                    let dy = &dy[start..start + len];
                    let dot = sum_lanes(len, |i| x[i] * dy[i]);
                    for ((y, &x), &dy) in y.iter_mut().zip(x).zip(dy) {
                        *y = x * (dy - dot);
                    }
                }
                Pass::LogBackward => {
                    let dy = &dy[start..start + len];
                    let total = sum_lanes(len, |i| dy[i]);
                    for ((y, &x), &dy) in y.iter_mut().zip(x).zip(dy) {
                        *y = V::scalar_mul_add(-math::exp::<V>(x), total, dy);
                    }
                }
            }
        }
    }
}

/// Runs `pass` over all rows.
fn over_rows(cpu: &Cpu, rows: Rows, pass: Pass, x: &Buffer, dy: Option<&Buffer>) -> Result<Buffer> {
    let log = matches!(pass, Pass::LogForward | Pass::LogBackward);
    let op = if log { "log_softmax" } else { "softmax" };
    let (len, count) = (rows.len, rows.elements());
    let x = cpu.read::<f32>(op, x, count)?;
    let dy = dy.map(|dy| cpu.read::<f32>(op, dy, count)).transpose()?;
    let mut memory = cpu.alloc::<f32>(count)?;
    let piece = (TASK_ELEMENTS / len.max(1)).max(1) * len;
    cpu.threads.chunks(memory.slice_mut(count), piece, |i, y| {
        let part = i * piece..i * piece + y.len();
        let (x, dy) = (&x[part.clone()], dy.map_or(&[][..], |dy| &dy[part]));
        cpu.isa.run(RowsKernel { pass, len, x, dy, y })
    });
    Ok(memory.into_buffer::<f32>(count))
}

/// y = softmax(x)
pub fn forward(cpu: &Cpu, rows: Rows, x: &Buffer) -> Result<Buffer> {
    over_rows(cpu, rows, Pass::Forward, x, None)
}

/// dx = y (dy - Σ dy y)
pub fn backward(cpu: &Cpu, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
    over_rows(cpu, rows, Pass::Backward, y, Some(dy))
}

/// y = log softmax(x)
pub fn log_forward(cpu: &Cpu, rows: Rows, x: &Buffer) -> Result<Buffer> {
    over_rows(cpu, rows, Pass::LogForward, x, None)
}

/// dx = dy - exp(y) Σ dy
pub fn log_backward(cpu: &Cpu, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
    over_rows(cpu, rows, Pass::LogBackward, y, Some(dy))
}
