//! Sum over axes:   y = Σ x.   0 over no elements.
//!
//! Derivative. Every element has its part in one sum, with factor 1: dx = dy, repeated along the
//! reduced axes.

use tilegrad_kernels::Reduce;

use super::reduce::reduce;
use crate::{Result, Tensor};

/// y = Σ x over `axes`, which are removed; no axes means all: `[]` is left.
pub fn sum(x: &Tensor, axes: &[usize]) -> Result<Tensor> {
    reduce("sum", Reduce::Sum, x, axes)
}
