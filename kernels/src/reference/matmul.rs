//! Matrix products.

use super::float::{Float, sum};
use crate::MatmulArgs;

/// y[i] = op(a[i]) op(b[i]) + bias: op(a) is `[m, k]`, op(b) is `[k, n]`, y is `[batch, m, n]`,
/// bias is `[n]`.
pub fn matmul<F: Float>(args: &MatmulArgs, a: &[F], b: &[F], bias: Option<&[F]>, y: &mut [F]) {
    let MatmulArgs { batch, m, n, k, .. } = *args;
    let at_a = |i, row, p| {
        let start = if args.shared_a { 0 } else { i * m * k };
        start + if args.transpose_a { p * m + row } else { row * k + p }
    };
    let at_b = |i, p, column| {
        let start = if args.shared_b { 0 } else { i * k * n };
        start + if args.transpose_b { column * k + p } else { p * n + column }
    };
    for i in 0..batch {
        for row in 0..m {
            for column in 0..n {
                let dot = sum((0..k).map(|p| a[at_a(i, row, p)] * b[at_b(i, p, column)]));
                y[(i * m + row) * n + column] = dot + bias.map_or(F::ZERO, |bias| bias[column]);
            }
        }
    }
}
