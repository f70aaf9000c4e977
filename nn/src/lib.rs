//! Layers, models, losses, optimizers, schedules and checkpoints on [`tilegrad_engine`].
//!
//! A layer a file; each is a [`Module`], and a model is modules inside modules. Names of parameters
//! are those that PyTorch gives the same model, so that weights move both ways (see [`torch`]).
//!
//! ```
//! use tilegrad_nn::{Context, Model, ModelConfig, ModelKind, Module, loss};
//! use tilegrad_nn::{Optimizer, ParamGroup, Setting, Sgd, SgdConfig};
//! use tilegrad_engine::{Dtype, Tensor, cpu};
//!
//! let device = cpu()?;
//! let model = Model::new(&device, ModelConfig::new(ModelKind::SimpleCnnGap, 10), 42)?;
//! let mut sgd = Sgd::new(SgdConfig::default(), ParamGroup::decay_all(5e-4));
//! let x = Tensor::full(&device, Dtype::F32, &[4, 32, 32, 3], 0.5)?; //  [N, H, W, C]
//! let labels = Tensor::from_slice(&device, &[3, 1, 4, 1], &[4])?;
//! let logits = model.forward(&x, &mut Context::train(42, 0))?; //  [4, 10]
//! let gradients = loss::cross_entropy(&logits, &labels, 0.1)?.backward()?;
//! sgd.step(&model, &gradients, Setting::lr(0.1), None)?;
//! # Ok::<(), tilegrad_nn::Error>(())
//! ```

pub mod activation;
mod atomic_file;
mod batch_norm2d;
pub mod checkpoint;
pub mod clip;
mod conv2d;
mod dropout;
mod error;
mod flatten;
mod fold;
pub mod init;
mod linear;
pub mod loss;
mod loss_scale;
pub mod models;
pub mod module;
pub mod optim;
mod pooling;
mod residual;
mod scale;
pub mod schedule;
mod sequential;
pub mod state;
pub mod summary;
pub mod tensor_file;
pub mod torch;
pub mod whitening;

pub use activation::{Gelu, LeakyRelu, Relu, Sigmoid, Silu, Tanh};
pub use atomic_file::write_atomic;
pub use batch_norm2d::BatchNorm2d;
pub use checkpoint::Checkpoint;
pub use conv2d::{Conv2d, Conv2dConfig};
pub use dropout::Dropout;
pub use error::{Error, Result};
pub use flatten::Flatten;
pub use fold::{ChannelAffine, FoldedConv2d, fold_batch_norm};
pub use init::Rng;
pub use linear::Linear;
pub use loss_scale::LossScale;
pub use models::{Model, ModelConfig, ModelKind};
pub use module::{Context, LayerRow, Module, Parameter, Role};
pub use optim::{
    AdamW, AdamWConfig, Combined, Muon, MuonConfig, Optimizer, OptimizerState, ParamGroup, Sgd,
    SgdConfig,
};
pub use pooling::{AvgPool2d, GlobalAvgPool2d, MaxPool2d};
pub use residual::BasicBlock;
pub use scale::Scale;
pub use schedule::{Schedule, Setting};
pub use sequential::Sequential;
pub use summary::Summary;
