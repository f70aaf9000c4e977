//! Sigmoid-weighted linear unit, elementwise:   y = x σ(x),   σ(x) = 1 / (1 + e^−x)   (Elfwing et
//! al. 2018).
//!
//! Derivative. σ' = σ (1 − σ), so by the product rule
//!   dx = dy (σ + x σ (1 − σ)) = dy σ (1 + x (1 − σ)).
//! It needs x: the function falls before it rises, so y does not tell which x it came from.

use tilegrad_kernels::Unary;

use super::unary::unary;
use crate::{Result, Tensor};

/// y = x σ(x).
pub fn silu(x: &Tensor) -> Result<Tensor> {
    unary(Unary::Silu, x)
}
