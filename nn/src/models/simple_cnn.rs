//! The guide's light CNN (§2.1) and the two variants that it suggests.

use std::sync::Arc;

use tilegrad_engine::{Activation, Backend, Result};

use super::{ModelConfig, ModelKind};
use crate::activation::Relu;
use crate::batch_norm2d::BatchNorm2d;
use crate::conv2d::{Conv2d, Conv2dConfig};
use crate::dropout::Dropout;
use crate::flatten::Flatten;
use crate::init::Rng;
use crate::linear::Linear;
use crate::pooling::{GlobalAvgPool2d, MaxPool2d};
use crate::sequential::Sequential;

/// Channels of the two convolutions.
const WIDTHS: [usize; 2] = [32, 64];
/// Units of the hidden linear layer.
const HIDDEN: usize = 512;

/// Shape of the image that the classifier reads: two poolings by 2 have halved it twice.
fn features_shape(config: &ModelConfig) -> [usize; 3] {
    let side = config.image_size / 2 / 2;
    [side, side, WIDTHS[1]]
}

/// The linear layer that reads a flattened image.
pub(super) fn flattened(config: &ModelConfig) -> (String, [usize; 3]) {
    ("classifier.0.weight".to_string(), features_shape(config))
}

/// conv 3x3, relu, max pooling by 2; twice. PyTorch's indices 1 and 4 are the relus, which run
/// inside the convolutions.
fn features(backend: &Arc<dyn Backend>, channels: usize, rng: &mut Rng) -> Result<Sequential> {
    let conv =
        |c_in, c_out| Conv2dConfig::new(c_in, c_out, 3).padding(1).activation(Activation::Relu);
    Ok(Sequential::new()
        .with("0", Conv2d::new(backend, conv(channels, WIDTHS[0]), rng)?)
        .with("2", MaxPool2d::new(2))
        .with("3", Conv2d::new(backend, conv(WIDTHS[0], WIDTHS[1]), rng)?)
        .with("5", MaxPool2d::new(2)))
}

/// conv 3x3, batch norm, relu, max pooling by 2; twice. Indices 2 and 6 are the relus, inside the
/// batch norms.
fn features_bn(backend: &Arc<dyn Backend>, channels: usize, rng: &mut Rng) -> Result<Sequential> {
    let dtype = rng.dtype();
    let bn = |c| Ok(BatchNorm2d::new(backend, dtype, c)?.with_activation(Activation::Relu));
    let conv = |c_in, c_out| Conv2dConfig::new(c_in, c_out, 3).padding(1);
    Ok(Sequential::new()
        .with("0", Conv2d::new(backend, conv(channels, WIDTHS[0]), rng)?)
        .with("1", bn(WIDTHS[0])?)
        .with("3", MaxPool2d::new(2))
        .with("4", Conv2d::new(backend, conv(WIDTHS[0], WIDTHS[1]), rng)?)
        .with("5", bn(WIDTHS[1])?)
        .with("7", MaxPool2d::new(2)))
}

/// `simple-cnn` and `simple-cnn-bn`.
pub(super) fn simple_cnn(
    backend: &Arc<dyn Backend>,
    config: &ModelConfig,
    rng: &mut Rng,
) -> Result<Sequential> {
    let features = match config.kind {
        ModelKind::SimpleCnn => features(backend, config.channels, rng)?,
        _ => features_bn(backend, config.channels, rng)?,
    };
    let inputs = features_shape(config).iter().product();
    let classifier = Sequential::new()
        .with("0", Linear::new(backend, inputs, HIDDEN, true, rng)?)
        .with("1", Relu)
        .with("2", Dropout::new(config.dropout))
        .with("3", Linear::new(backend, HIDDEN, config.classes, true, rng)?);
    Ok(Sequential::new()
        .with("features", features)
        .with("flatten", Flatten)
        .with("classifier", classifier))
}

/// `simple-cnn-gap`: global average pooling leaves 64 numbers an image, so one small linear layer
/// is enough.
pub(super) fn simple_cnn_gap(
    backend: &Arc<dyn Backend>,
    config: &ModelConfig,
    rng: &mut Rng,
) -> Result<Sequential> {
    let mut network = Sequential::new()
        .with("features", features_bn(backend, config.channels, rng)?)
        .with("pool", GlobalAvgPool2d);
    if config.dropout > 0.0 {
        network = network.with("dropout", Dropout::new(config.dropout));
    }
    Ok(network.with("classifier", Linear::new(backend, WIDTHS[1], config.classes, true, rng)?))
}
