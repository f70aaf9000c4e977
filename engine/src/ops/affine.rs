//! Scaling and shifting by constants, elementwise:   y = scale x + shift.
//!
//! Negation, subtraction from a constant and division by a constant are all of this form.
//!
//! Derivative. dx = scale dy. It needs neither x nor y.

use tilegrad_kernels::Unary;

use super::unary::unary;
use crate::{Result, Tensor};

/// y = scale x + shift.
pub fn affine(x: &Tensor, scale: f64, shift: f64) -> Result<Tensor> {
    unary(Unary::Affine { scale, shift }, x)
}

/// y = −x.
pub fn neg(x: &Tensor) -> Result<Tensor> {
    affine(x, -1.0, 0.0)
}
