//! Reductions over axes. x has the shape `args.shape`, y one element for every position along the
//! axes kept.

use super::Reference;
use super::float::{Float, sum};
use super::index::{broadcast_strides, offset};
use crate::{Buffer, Error, Reduce, ReduceArgs, Result, elements};

/// For each element of x in order, which element of y it belongs to.
fn results(args: &ReduceArgs) -> impl Fn(usize) -> usize + '_ {
    let strides = broadcast_strides(&args.kept_shape());
    move |i| offset(i, &args.shape, &strides)
}

/// y = Σ x, Σ x / n or max x.
pub fn reduce_forward<F: Float>(op: Reduce, args: &ReduceArgs, x: &[F], y: &mut [F]) {
    let result = results(args);
    y.fill(if op == Reduce::Max { F::NEG_INFINITY } else { F::ZERO });
    for (i, &x) in x.iter().enumerate() {
        let y = &mut y[result(i)];
        *y = if op == Reduce::Max { y.nan_max(x) } else { *y + x };
    }
    if op == Reduce::Mean {
        for y in y {
            *y = *y / F::from_usize(args.reduced_elements()); // 0 / 0 over nothing: NaN
        }
    }
}

/// Sum and mean: each x gets the dy of its result (over n).
pub fn reduce_backward_linear<F: Float>(op: Reduce, args: &ReduceArgs, dy: &[F], dx: &mut [F]) {
    let result = results(args);
    for (i, dx) in dx.iter_mut().enumerate() {
        *dx = match op {
            Reduce::Mean => dy[result(i)] / F::from_usize(args.reduced_elements()),
            _ => dy[result(i)],
        };
    }
}

/// Maximum: those x that are equal to their y (NaN to NaN) share its dy.
pub fn reduce_backward_max<F: Float>(args: &ReduceArgs, x: &[F], y: &[F], dy: &[F], dx: &mut [F]) {
    let result = results(args);
    let is_maximum = |x: F, y: F| !x.larger(y) && !y.larger(x);
    let mut ties = vec![0; y.len()];
    for (i, &x) in x.iter().enumerate() {
        if is_maximum(x, y[result(i)]) {
            ties[result(i)] += 1;
        }
    }
    for (i, dx) in dx.iter_mut().enumerate() {
        let r = result(i);
        *dx = if is_maximum(x[i], y[r]) { dy[r] / F::from_usize(ties[r]) } else { F::ZERO };
    }
}

/// Position of the first maximum of each result, counted row-major along the reduced axes (of at
/// least 1 element).
pub fn argmax<F: Float>(args: &ReduceArgs, x: &[F], y: &mut [i32]) {
    let result = results(args);
    // The elements of one result come in the order of their positions.
    let mut position = vec![0; y.len()];
    let mut largest = vec![F::NEG_INFINITY; y.len()];
    y.fill(0);
    for (i, &x) in x.iter().enumerate() {
        let r = result(i);
        if x.larger(largest[r]) {
            (largest[r], y[r]) = (x, position[r]);
        }
        position[r] += 1;
    }
}

/// Σ x²
pub fn sum_squares<F: Float>(x: &[F]) -> F {
    sum(x.iter().map(|&x| x * x))
}

/// There is no maximum to point to if nothing is reduced.
pub fn check_not_empty(args: &ReduceArgs) -> Result<()> {
    if args.reduced_elements() > 0 {
        return Ok(());
    }
    let (shape, reduced) = (&args.shape, &args.reduced);
    let detail = format!("nothing has no maximum (x: {shape:?}, reduced axes: {reduced:?})");
    Err(Error::shape("argmax", detail))
}

impl Reference {
    /// [`crate::Backend::reduce_backward`]
    pub(super) fn reduce_gradient<F: Float>(
        &self,
        op: Reduce,
        args: &ReduceArgs,
        saved: Option<(&Buffer, &Buffer)>,
        dy: &Buffer,
    ) -> Result<Buffer> {
        let (len, out_len) = (elements(&args.shape), args.out_elements());
        let dy = self.read::<F>(op.name(), dy, out_len)?;
        if op != Reduce::Max {
            return self.output(len, |dx| reduce_backward_linear(op, args, dy, dx));
        }
        let Some((x, y)) = saved else {
            return Err(Error::argument(op.name(), "the backward pass needs (x, y), got none"));
        };
        let x = self.read::<F>(op.name(), x, len)?;
        let y = self.read::<F>(op.name(), y, out_len)?;
        self.output(len, |dx| reduce_backward_max(args, x, y, dy, dx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_counts_along_the_reduced_axes_and_takes_the_first() {
        let args = ReduceArgs::new("argmax", &[2, 2, 2], &[0, 2]).unwrap();
        // Results are the middle axis: 0 sees 1, 7, 7, 0 and 1 sees 2, NaN, 9, NaN.
        let x = [1.0, 7.0, 2.0, f64::NAN, 7.0, 0.0, 9.0, f64::NAN];
        let mut y = [-1; 2];
        argmax(&args, &x, &mut y);
        assert_eq!(y, [1, 1]);
    }

    #[test]
    fn ties_of_the_maximum_share_its_gradient() {
        let args = ReduceArgs::new("amax", &[2, 4], &[1]).unwrap();
        let x = [3.0, 1.0, 3.0, 3.0, f64::NAN, 1.0, f64::NAN, 0.0];
        let (mut y, mut dx) = ([0.0; 2], [9.0; 8]);
        reduce_forward(Reduce::Max, &args, &x, &mut y);
        reduce_backward_max(&args, &x, &y, &[6.0, 4.0], &mut dx);
        assert_eq!(dx, [2.0, 0.0, 2.0, 2.0, 2.0, 0.0, 2.0, 0.0]);
    }
}
