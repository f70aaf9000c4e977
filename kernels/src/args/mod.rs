//! What a kernel is told besides its buffers: sizes and options, validated once, the same for every
//! backend.
//!
//! A constructor checks shapes and answers with an error that says what would have been right; a
//! backend may rely on every relation that is documented here.

mod batch_norm;
mod conv2d;
mod cross_entropy;
mod dropout;
mod elementwise;
mod matmul;
mod movement;
mod optimizer;
mod pool2d;
mod reduce;

pub use batch_norm::*;
pub use conv2d::*;
pub use cross_entropy::*;
pub use dropout::*;
pub use elementwise::*;
pub use matmul::*;
pub use movement::*;
pub use optimizer::*;
pub use pool2d::*;
pub use reduce::*;

use crate::{Error, Result};

/// Product of the sizes of a shape; 1 for a scalar. A product beyond `usize` is `usize::MAX`, which no
/// buffer has and no device can allocate: an error follows, never a small number.
pub fn elements(shape: &[usize]) -> usize {
    if shape.contains(&0) {
        return 0; // whatever the other sizes are
    }
    shape.iter().fold(1, |product, &size| product.saturating_mul(size))
}

/// `count` rows of `len` elements each, contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Number of rows.
    pub count: usize,
    /// Elements in a row.
    pub len: usize,
}

impl Rows {
    /// The rows over the last axis of `shape`.
    pub fn over_last_axis(op: &'static str, shape: &[usize]) -> Result<Self> {
        match shape.split_last() {
            Some((&len, rest)) => Ok(Rows { count: elements(rest), len }),
            None => Err(Error::shape(op, "needs at least 1 axis, got []")),
        }
    }

    /// Elements in all rows.
    pub fn elements(&self) -> usize {
        self.count * self.len
    }
}
