//! Softmax and log-softmax over rows. x, y, dy, dx `[count, len]`.
//!
//! The largest of a row is subtracted first, which changes nothing but keeps exp in range.

use super::float::{Float, sum};
use crate::Rows;

/// m = max x and Σ exp(x - m) of one row: -inf and 0 of an empty one. The logarithm of Σ exp(x) is
/// m + ln of the sum.
pub fn max_and_sum_exp<F: Float>(row: &[F]) -> (F, F) {
    let max = row.iter().copied().fold(F::NEG_INFINITY, F::nan_max);
    (max, sum(row.iter().map(|&x| (x - max).exp())))
}

/// y = exp(x - m) / Σ exp(x - m)
pub fn softmax_forward<F: Float>(rows: Rows, x: &[F], y: &mut [F]) {
    for r in 0..rows.count {
        let row = r * rows.len..(r + 1) * rows.len;
        let (max, sum_exp) = max_and_sum_exp(&x[row.clone()]);
        for i in row {
            y[i] = (x[i] - max).exp() / sum_exp;
        }
    }
}

/// dx = y (dy - Σ dy y)
pub fn softmax_backward<F: Float>(rows: Rows, y: &[F], dy: &[F], dx: &mut [F]) {
    for r in 0..rows.count {
        let row = r * rows.len..(r + 1) * rows.len;
        let dot = sum(row.clone().map(|i| dy[i] * y[i]));
        for i in row {
            dx[i] = y[i] * (dy[i] - dot);
        }
    }
}

/// y = x - m - ln Σ exp(x - m)
pub fn log_softmax_forward<F: Float>(rows: Rows, x: &[F], y: &mut [F]) {
    for r in 0..rows.count {
        let row = r * rows.len..(r + 1) * rows.len;
        let (max, sum_exp) = max_and_sum_exp(&x[row.clone()]);
        for i in row {
            y[i] = (x[i] - max) - sum_exp.ln();
        }
    }
}

/// dx = dy - exp(y) Σ dy
pub fn log_softmax_backward<F: Float>(rows: Rows, y: &[F], dy: &[F], dx: &mut [F]) {
    for r in 0..rows.count {
        let row = r * rows.len..(r + 1) * rows.len;
        let total = sum(row.clone().map(|i| dy[i]));
        for i in row {
            dx[i] = dy[i] - y[i].exp() * total;
        }
    }
}
