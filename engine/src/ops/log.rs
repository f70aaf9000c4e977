//! Natural logarithm, elementwise:   y = ln x.   −∞ at 0, NaN below.
//!
//! Derivative. dx = dy / x. It needs x.

use tilegrad_kernels::Unary;

use super::unary::unary;
use crate::{Result, Tensor};

/// y = ln x.
pub fn log(x: &Tensor) -> Result<Tensor> {
    unary(Unary::Log, x)
}
