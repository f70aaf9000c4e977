//! Softmax and log-softmax over rows `[count, len]`.

use super::Cpu;
use super::reduce::{Max, Sum, fold_row};
use super::simd::{Kernel, Vector, math};
use super::threads::TASK_ELEMENTS;
use crate::*;

/// Elements that are computed into a block before they are summed: two simple loops, which the
/// compiler turns into SIMD, where one with both would stay scalar.
const BLOCK: usize = 256;

/// Σ f(a[i], b[i]) over two rows of equal length.
#[inline(always)]
pub fn sum_of<V: Vector>(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut block = [0.0f32; BLOCK];
    let mut sum = 0.0;
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let block = &mut block[..a.len()];
        for (value, (&a, &b)) in block.iter_mut().zip(a.iter().zip(b)) {
            *value = f(a, b);
        }
        sum += fold_row::<V, Sum>(block);
    }
    sum
}

/// m = max x and Σ exp(x - m) of one row: -inf and 0 of an empty one.
#[inline(always)]
pub fn max_and_sum_exp<V: Vector>(x: &[f32]) -> (f32, f32) {
    let max = fold_row::<V, Max>(x);
    (max, sum_of::<V>(x, x, |x, _| math::exp::<V>(x - max)))
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
                    let sum = fold_row::<V, Sum>(y);
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
                    let dot = sum_of::<V>(x, dy, |y, dy| y * dy);
                    for ((y, &x), &dy) in y.iter_mut().zip(x).zip(dy) {
                        *y = x * (dy - dot);
                    }
                }
                Pass::LogBackward => {
                    let dy = &dy[start..start + len];
                    let total = fold_row::<V, Sum>(dy);
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
