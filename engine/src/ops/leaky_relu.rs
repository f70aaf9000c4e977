//! Leaky rectified linear unit, elementwise:   y = x where x > 0, else slope x   (Maas et al.
//! 2013).
//!
//! Derivative. dx = dy where x > 0, else slope dy. It needs x: with a negative slope the sign of y
//! would not tell.

use tilegrad_kernels::Unary;

use super::unary::unary;
use crate::{Result, Tensor};

/// y = x where x > 0, else slope x.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    unary(Unary::LeakyRelu { slope }, x)
}
