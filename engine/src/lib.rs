//! What is computed, and its derivative: tensors, the tape, and one file an op under [`ops`].
//!
//! ```
//! use tilegrad_engine::{Tensor, cpu, ops};
//!
//! let device = cpu()?;
//! let w = Tensor::from_slice(&device, &[2.0f32, -1.0], &[2])?.tracked();
//! let x = Tensor::from_slice(&device, &[3.0f32, 4.0], &[2])?;
//! let loss = ops::sum(&ops::mul(&w, &x)?, &[])?; //  loss = Σ w_i x_i
//! let gradients = loss.backward()?;
//! assert_eq!(gradients.get(&w).unwrap().to_vec::<f32>()?, [3.0, 4.0]); //  ∂loss/∂w = x
//! # Ok::<(), tilegrad_engine::Error>(())
//! ```

pub mod gradcheck;
mod op;
pub mod ops;
pub mod profile;
mod recorded;
mod tape;
mod tensor;

use std::sync::Arc;

pub use op::{Op, Saved, apply};
pub use recorded::Recorded;
pub use tape::{Gradients, no_grad};
pub use tensor::Tensor;
pub use tilegrad_kernels::{Activation, Backend, Conv2dOptions, Device, Dtype, Error, Result};

use tilegrad_kernels::cpu::{Cpu, CpuOptions};
use tilegrad_kernels::reference::Reference;

/// The CPU backend with its defaults.
pub fn cpu() -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(Cpu::new(CpuOptions::default())?))
}

/// The reference backend.
pub fn reference() -> Arc<dyn Backend> {
    Arc::new(Reference::new())
}
