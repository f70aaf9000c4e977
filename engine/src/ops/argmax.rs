//! Position of the maximum over axes, as i32.
//!
//! The position counts the reduced axes only, row-major: of `[8, 5, 3]` over axes `[1, 2]`, a
//! result of 7 stands for `[2, 1]`. The first of equal elements wins, and NaN counts as largest.
//!
//! It has no derivative: the result jumps between integers, and is never tracked.

use tilegrad_kernels::ReduceArgs;

use crate::{Error, Result, Tensor};

/// Position of the largest x over `axes`, which are removed; no axes means all: `[]` is left. i32,
/// untracked.
pub fn argmax(x: &Tensor, axes: &[usize]) -> Result<Tensor> {
    const OP: &str = "argmax";
    let args = ReduceArgs::new(OP, x.shape(), axes)?;
    if args.reduced_elements() == 0 && args.out_elements() > 0 {
        return Err(Error::shape(
            OP,
            format!(
                "needs at least 1 element to choose from, got x: {:?}, axes {axes:?}",
                x.shape()
            ),
        ));
    }
    Ok(x.wrap(x.backend().argmax(&args, x.buffer())?, &args.out_shape()))
}
