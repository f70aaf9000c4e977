//! Exponential, elementwise:   y = e^x.
//!
//! Derivative. dx = dy e^x = dy y. It needs only y.

use tilegrad_kernels::Unary;

use super::unary::unary;
use crate::{Result, Tensor};

/// y = e^x.
pub fn exp(x: &Tensor) -> Result<Tensor> {
    unary(Unary::Exp, x)
}
