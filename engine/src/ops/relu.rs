//! Rectified linear unit, elementwise:   y = max(x, 0)   (Nair and Hinton 2010).
//!
//! Derivative. dx = dy where x > 0, else 0. At x = 0 there is none; 0 is the usual choice, and
//! with it x > 0 holds just where y > 0. So it needs only y, and x can be freed.

use tilegrad_kernels::Unary;

use super::unary::unary;
use crate::{Result, Tensor};

/// y = max(x, 0).
pub fn relu(x: &Tensor) -> Result<Tensor> {
    unary(Unary::Relu, x)
}
