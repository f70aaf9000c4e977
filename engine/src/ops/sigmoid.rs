//! Logistic sigmoid σ, elementwise:   y = 1 / (1 + e^−x).
//!
//! Derivative. With u = 1 + e^−x and y = 1/u:   dy/dx = e^−x / u² = (1/u) (1 − 1/u), so
//!   dx = dy y (1 − y).
//! It needs only y.

use tilegrad_kernels::Unary;

use super::unary::unary;
use crate::{Result, Tensor};

/// y = 1 / (1 + e^−x).
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    unary(Unary::Sigmoid, x)
}
