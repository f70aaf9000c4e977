//! The network of Jordan 2024 ("94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498,
//! §3.1 to 3.3), in the form of its author's `airbench94_muon`: a frozen whitening convolution,
//! three groups of two convolutions, and a linear head whose small logits make up for its large
//! weights.

use std::sync::Arc;

use tilegrad_engine::{Backend, Result};

use super::ModelConfig;
use crate::activation::Gelu;
use crate::batch_norm2d::BatchNorm2d;
use crate::conv2d::{Conv2d, Conv2dConfig};
use crate::dropout::Dropout;
use crate::flatten::Flatten;
use crate::init::{Fan, Init, Rng};
use crate::linear::Linear;
use crate::pooling::MaxPool2d;
use crate::scale::Scale;
use crate::sequential::Sequential;

/// Output channels of the three groups.
const WIDTHS: [usize; 3] = [64, 256, 256];
/// Window of the whitening convolution.
pub(super) const WHITENING_KERNEL: usize = 2;
/// Smallest image that the four poolings leave something of.
pub(super) const LEAST_SIZE: usize = 25;
/// Share of the batch's statistics that enters the running ones each step. It is large, since a run
/// has few steps.
const MOMENTUM: f64 = 0.4;
/// ε of the batch normalisations.
const EPSILON: f64 = 1e-12;

/// Shape of the image that the head reads.
fn features_shape(config: &ModelConfig) -> [usize; 3] {
    let whitened = config.image_size + 1 - WHITENING_KERNEL;
    let side = whitened / 2 / 2 / 2 / 3;
    [side, side, WIDTHS[2]]
}

/// The linear layer that reads a flattened image.
pub(super) fn flattened(config: &ModelConfig) -> (String, [usize; 3]) {
    ("head.weight".to_string(), features_shape(config))
}

/// conv 3x3, max pooling by 2, batch norm, gelu; conv 3x3, batch norm, gelu. Convolutions have no
/// bias and batch norms no scale.
fn group(
    backend: &Arc<dyn Backend>,
    c_in: usize,
    c_out: usize,
    rng: &mut Rng,
) -> Result<Sequential> {
    let dtype = rng.dtype();
    let mut conv = |c_in| {
        let config = Conv2dConfig::new(c_in, c_out, 3).padding(1).bias(false);
        Conv2d::new(backend, config.init(Init::PartialIdentity), rng)
    };
    let norm = || {
        let norm = BatchNorm2d::new(backend, dtype, c_out)?;
        Ok(norm.without_scale().with_constants(MOMENTUM, EPSILON))
    };
    Ok(Sequential::new()
        .with("conv1", conv(c_in)?)
        .with("pool", MaxPool2d::new(2))
        .with("norm1", norm()?)
        .with("activ1", Gelu)
        .with("conv2", conv(c_out)?)
        .with("norm2", norm()?)
        .with("activ2", Gelu))
}

/// The network. Its whitening filters start as any convolution's: they are to be set from images
/// ([`super::Model::whiten`]) or loaded.
pub(super) fn airbench94(
    backend: &Arc<dyn Backend>,
    config: &ModelConfig,
    rng: &mut Rng,
) -> Result<Sequential> {
    let whitened = 2 * WHITENING_KERNEL * WHITENING_KERNEL * config.channels;
    let whiten = Conv2dConfig::new(config.channels, whitened, WHITENING_KERNEL).frozen();
    let mut network = Sequential::new().with("whiten", Conv2d::new(backend, whiten, rng)?);
    let mut layers = Sequential::new().with("0", Gelu);
    let mut c_in = whitened;
    for (i, c_out) in WIDTHS.into_iter().enumerate() {
        layers = layers.with((i + 1).to_string(), group(backend, c_in, c_out, rng)?);
        c_in = c_out;
    }
    network = network.with("layers", layers.with("4", MaxPool2d::new(3))).with("flatten", Flatten);
    if config.dropout > 0.0 {
        network = network.with("dropout", Dropout::new(config.dropout));
    }
    let inputs: usize = features_shape(config).iter().product();
    // Weights of variance 1.
    let init = Init::KaimingUniform(Fan::In, (inputs as f64).sqrt());
    let head = Linear::with_init(backend, inputs, config.classes, false, init, rng)?;
    Ok(network.with("head", head).with("scale", Scale { factor: 1.0 / inputs as f64 }))
}
