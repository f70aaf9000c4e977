//! Elements moved, not changed.

use super::Reference;
use super::float::Float;
use super::index::{offset, strides};
use crate::*;

/// y has the shape `args.out_shape()`: its axis i is axis `permutation[i]` of x.
pub fn permute<T: Element>(args: &PermuteArgs, x: &[T], y: &mut [T]) {
    let out_shape = args.out_shape();
    let x_strides = strides(&args.shape);
    let x_strides: Vec<usize> = args.permutation.iter().map(|&axis| x_strides[axis]).collect();
    for (i, y) in y.iter_mut().enumerate() {
        *y = x[offset(i, &out_shape, &x_strides)];
    }
}

/// y `[outer, Σ sizes, inner]` from each x `[outer, sizes[i], inner]`.
pub fn concat<T: Element>(args: &ConcatArgs, xs: &[&[T]], y: &mut [T]) {
    let mut at_y = 0;
    for outer in 0..args.outer {
        for (x, size) in xs.iter().zip(&args.sizes) {
            let row = size * args.inner;
            y[at_y..at_y + row].copy_from_slice(&x[outer * row..(outer + 1) * row]);
            at_y += row;
        }
    }
}

/// y has the shape `args.sizes`: the box of x at `args.starts`.
pub fn slice<T: Element>(args: &SliceArgs, x: &[T], y: &mut [T]) {
    let x_strides = strides(&args.shape);
    let start: usize = args.starts.iter().zip(&x_strides).map(|(start, s)| start * s).sum();
    for (i, y) in y.iter_mut().enumerate() {
        *y = x[start + offset(i, &args.sizes, &x_strides)];
    }
}

/// y has the shape `args.out_shape()`: `value`, and x in the box at `args.before`.
pub fn pad<T: Element>(args: &PadArgs, value: T, x: &[T], y: &mut [T]) {
    let y_strides = strides(&args.out_shape());
    let start: usize = args.before.iter().zip(&y_strides).map(|(before, s)| before * s).sum();
    y.fill(value);
    for (i, &x) in x.iter().enumerate() {
        y[start + offset(i, &args.shape, &y_strides)] = x;
    }
}

/// Every index must lie on the axis.
pub fn check_indices(args: &GatherArgs, indices: &[i32]) -> Result<()> {
    for (position, &index) in indices.iter().enumerate() {
        if !usize::try_from(index).is_ok_and(|index| index < args.axis) {
            let (index, bound) = (index.into(), args.axis);
            return Err(Error::Index { op: "gather", index, position, bound });
        }
    }
    Ok(())
}

/// y[o, i, :] = x[o, indices[i], :] of x `[outer, axis, inner]`. Indices must have been checked.
pub fn gather_forward<T: Element>(args: &GatherArgs, x: &[T], indices: &[i32], y: &mut [T]) {
    for o in 0..args.outer {
        for (i, &index) in indices.iter().enumerate() {
            for j in 0..args.inner {
                let at_x = (o * args.axis + index as usize) * args.inner + j;
                y[(o * args.count + i) * args.inner + j] = x[at_x];
            }
        }
    }
}

/// dx[o, indices[i], :] += dy[o, i, :], in the order of i. Indices must have been checked.
pub fn gather_backward<F: Float>(args: &GatherArgs, indices: &[i32], dy: &[F], dx: &mut [F]) {
    dx.fill(F::ZERO);
    for o in 0..args.outer {
        for (i, &index) in indices.iter().enumerate() {
            for j in 0..args.inner {
                let at_x = (o * args.axis + index as usize) * args.inner + j;
                dx[at_x] += dy[(o * args.count + i) * args.inner + j];
            }
        }
    }
}

impl Reference {
    /// The inputs of a concatenation, checked.
    pub(super) fn concat_inputs<'a, T: Element>(
        &self,
        args: &ConcatArgs,
        xs: &[&'a Buffer],
    ) -> Result<Vec<&'a [T]>> {
        const OP: &str = "concat";
        if xs.len() != args.sizes.len() {
            let detail = format!("expected {} inputs, got {}", args.sizes.len(), xs.len());
            return Err(Error::argument(OP, detail));
        }
        let inputs = xs.iter().zip(&args.sizes);
        inputs.map(|(x, size)| self.read(OP, x, args.outer * size * args.inner)).collect()
    }
}
