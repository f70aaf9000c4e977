//! Gaussian error linear unit, elementwise, in its exact form (Hendrycks and Gimpel 2016):
//!   y = x Φ(x),   Φ(x) = (1 + erf(x / √2)) / 2, the distribution function of the standard normal.
//!
//! Derivative. Φ' is the density φ(x) = exp(−x² / 2) / √(2π), so by the product rule
//!   dx = dy (Φ(x) + x φ(x)).
//! It needs x: the function falls before it rises, so y does not tell which x it came from.

use tilegrad_kernels::Unary;

use super::unary::unary;
use crate::{Result, Tensor};

/// y = x Φ(x).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    unary(Unary::Gelu, x)
}
