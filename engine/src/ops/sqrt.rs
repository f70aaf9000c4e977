//! Square root, elementwise:   y = √x.   NaN below 0.
//!
//! Derivative. dx = dy / (2 √x) = dy / (2 y). It needs only y. At x = 0 it is infinite: add a
//! small constant first where x can be 0.

use tilegrad_kernels::Unary;

use super::unary::unary;
use crate::{Result, Tensor};

/// y = √x.
pub fn sqrt(x: &Tensor) -> Result<Tensor> {
    unary(Unary::Sqrt, x)
}
