//! Sum of two tensors, elementwise with broadcasting:   y = a + b.
//!
//! Derivative. da = dy and db = dy, each summed over the axes along which its input was repeated
//! (`binary.rs`). Neither input is kept for it.

use tilegrad_kernels::Binary;

use super::binary::binary;
use crate::{Result, Tensor};

/// y = a + b.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    binary(Binary::Add, a, b)
}
