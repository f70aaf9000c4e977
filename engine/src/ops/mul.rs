//! Product of two tensors, elementwise with broadcasting:   y = a b.
//!
//! Derivative. da = dy b and db = dy a, each summed over the axes along which its input was
//! repeated (`binary.rs`).

use tilegrad_kernels::Binary;

use super::binary::binary;
use crate::{Result, Tensor};

/// y = a b.
pub fn mul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    binary(Binary::Mul, a, b)
}
