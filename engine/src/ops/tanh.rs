//! Hyperbolic tangent, elementwise:   y = (e^x − e^−x) / (e^x + e^−x).
//!
//! Derivative. dx = dy (1 − tanh² x) = dy (1 − y²). It needs only y.

use tilegrad_kernels::Unary;

use super::unary::unary;
use crate::{Result, Tensor};

/// y = tanh x.
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    unary(Unary::Tanh, x)
}
