//! Maximum over axes:   y = max x.   NaN if any element is NaN, −∞ over no elements.
//!
//! Derivative. The largest element gets dy and the others 0. Where t elements tie, each gets dy /
//! t: the gradient then does not depend on their order. It needs x and y, to find them again.

use tilegrad_kernels::Reduce;

use super::reduce::reduce;
use crate::{Result, Tensor};

/// y = largest x over `axes`, which are removed; no axes means all: `[]` is left.
pub fn amax(x: &Tensor, axes: &[usize]) -> Result<Tensor> {
    reduce("amax", Reduce::Max, x, axes)
}
