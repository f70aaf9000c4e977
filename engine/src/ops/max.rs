//! The larger of two tensors, elementwise with broadcasting:   y = max(a, b), NaN if either is
//! NaN.
//!
//! Derivative. The larger input gets dy and the other 0. At a tie there is none; each gets half,
//! so that max(x, x) has the derivative of x. Each is summed over the axes along which its input
//! was repeated (`binary.rs`).

use tilegrad_kernels::Binary;

use super::binary::binary;
use crate::{Result, Tensor};

/// y = max(a, b).
pub fn max(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    binary(Binary::Max, a, b)
}
