//! The reference backend: plain loops, one file a kernel family, generic over f32 and f64. It is
//! the oracle that every other backend is compared with, so it is written to be read and is never
//! optimised.
//!
//! **NaN.** NaN in a sum or a function gives NaN. Where the larger of values is picked (max, amax,
//! argmax, max pooling, relu), NaN counts as largest: it is the result, and it takes the gradient.
//!
//! **Order.** A sum starts at +0 and goes in the order of the elements in memory.

mod backend;
mod batch_norm;
mod conv2d;
mod cross_entropy;
mod dropout;
mod elementwise;
mod float;
mod index;
mod matmul;
mod memory;
mod movement;
mod optimizer;
mod pool2d;
mod reduce;
mod softmax;

use std::sync::Arc;

use crate::Device;
use crate::host::Pool;

/// The reference backend. One thread; f32 and f64.
pub struct Reference {
    memory: Arc<Pool>,
}

impl Default for Reference {
    fn default() -> Self {
        Self::new()
    }
}

impl Reference {
    /// A backend with its own memory pool.
    pub fn new() -> Self {
        Reference { memory: Pool::new(Device::Reference) }
    }

    /// The same, but every new buffer is filled with NaN before a kernel writes it. For tests.
    pub fn poisoned() -> Self {
        let reference = Self::new();
        reference.memory.set_poison(true);
        reference
    }
}
