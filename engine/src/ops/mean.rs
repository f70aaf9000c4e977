//! Mean over axes:   y = Σ x / n, with n the number of elements behind one result.   NaN over no
//! elements.
//!
//! Derivative. dx = dy / n, repeated along the reduced axes.

use tilegrad_kernels::Reduce;

use super::reduce::reduce;
use crate::{Result, Tensor};

/// y = mean of x over `axes`, which are removed; no axes means all: `[]` is left.
pub fn mean(x: &Tensor, axes: &[usize]) -> Result<Tensor> {
    reduce("mean", Reduce::Mean, x, axes)
}
