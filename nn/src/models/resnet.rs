//! Residual networks for small images (He et al. 2016): a 3x3 stem, stages of basic blocks, each
//! stage but the first at half the resolution of the one before, global average pooling, one linear
//! layer.

use std::sync::Arc;

use tilegrad_engine::{Activation, Backend, Result};

use super::ModelConfig;
use crate::batch_norm2d::BatchNorm2d;
use crate::conv2d::{Conv2d, Conv2dConfig};
use crate::dropout::Dropout;
use crate::init::{Fan, GAIN_RELU, Init, Rng};
use crate::linear::Linear;
use crate::pooling::GlobalAvgPool2d;
use crate::residual::BasicBlock;
use crate::sequential::Sequential;

/// One stage a width, `blocks` blocks in each; the stem has the first width. Convolutions have no
/// bias: batch normalisation follows each of them and would subtract it again.
pub(super) fn resnet(
    backend: &Arc<dyn Backend>,
    config: &ModelConfig,
    widths: &[usize],
    blocks: usize,
    rng: &mut Rng,
) -> Result<Sequential> {
    let init = Init::KaimingNormal(Fan::Out, GAIN_RELU);
    let stem = Conv2dConfig::new(config.channels, widths[0], 3).padding(1).bias(false).init(init);
    let stem_norm = BatchNorm2d::new(backend, rng.dtype(), widths[0])?;
    // Index 2 is the stem's relu, which runs inside its batch normalisation.
    let mut body = Sequential::new()
        .with("0", Conv2d::new(backend, stem, rng)?)
        .with("1", stem_norm.with_activation(Activation::Relu));
    let (mut index, mut c_in) = (3, widths[0]);
    for (stage, &width) in widths.iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let block = BasicBlock::new(backend, c_in, width, stride, false, init, rng)?;
            body = body.with(index.to_string(), block);
            (index, c_in) = (index + 1, width);
        }
    }
    let mut network = Sequential::new().with("body", body).with("pool", GlobalAvgPool2d);
    if config.dropout > 0.0 {
        network = network.with("dropout", Dropout::new(config.dropout));
    }
    Ok(network.with("head", Linear::new(backend, c_in, config.classes, true, rng)?))
}
