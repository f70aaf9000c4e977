//! The residual block of ResNet-18, -20 and -34.

use std::sync::Arc;

use tilegrad_engine::{Activation, Backend, Error, Result, Tensor};

use crate::batch_norm2d::BatchNorm2d;
use crate::conv2d::{Conv2d, Conv2dConfig};
use crate::fold::FoldedConv2d;
use crate::init::{Init, Rng};
use crate::module::{Context, LayerRow, Module, Parameter};
use crate::sequential::join;

/// y = relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))   (He et al. 2016, post-activation).
///
/// Both convolutions are 3x3; the first has the block's stride. The shortcut is the identity where
/// shapes agree, else a 1x1 convolution with batch normalisation. Each batch normalisation takes
/// the relu (and the second also the addition) into its kernel: those would otherwise read and
/// write every activation again.
pub struct BasicBlock {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    shortcut: Option<(Conv2d, BatchNorm2d)>,
}

impl BasicBlock {
    /// `conv_bias` gives the convolutions biases, which the batch normalisation after them makes
    /// redundant.
    pub fn new(
        backend: &Arc<dyn Backend>,
        c_in: usize,
        c_out: usize,
        stride: usize,
        conv_bias: bool,
        init: Init,
        rng: &mut Rng,
    ) -> Result<Self> {
        let conv = |config: Conv2dConfig, rng: &mut Rng| {
            Conv2d::new(backend, config.bias(conv_bias).init(init), rng)
        };
        let dtype = rng.dtype();
        let bn = || BatchNorm2d::new(backend, dtype, c_out);
        let conv1 = conv(Conv2dConfig::new(c_in, c_out, 3).stride(stride).padding(1), rng)?;
        let conv2 = conv(Conv2dConfig::new(c_out, c_out, 3).padding(1), rng)?;
        let shortcut = match stride != 1 || c_in != c_out {
            true => Some((conv(Conv2dConfig::new(c_in, c_out, 1).stride(stride), rng)?, bn()?)),
            false => None,
        };
        Ok(BasicBlock { conv1, bn1: bn()?, conv2, bn2: bn()?, shortcut })
    }
}

impl Module for BasicBlock {
    fn kind(&self) -> &'static str {
        "BasicBlock"
    }

    fn forward(&self, x: &Tensor, ctx: &mut Context) -> Result<Tensor> {
        let mut y = ctx.run("conv1", &self.conv1, x)?;
        y = ctx.within("bn1", |ctx| self.bn1.forward_fused(&y, None, Activation::Relu, ctx))?;
        y = ctx.run("conv2", &self.conv2, &y)?;
        let residual = match &self.shortcut {
            Some((conv, bn)) => {
                let r = ctx.run("shortcut.0", conv, x)?;
                ctx.run("shortcut.1", bn, &r)?
            }
            None => x.clone(),
        };
        ctx.within("bn2", |ctx| self.bn2.forward_fused(&y, Some(&residual), Activation::Relu, ctx))
    }

    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Parameter)) {
        self.conv1.visit(&format!("{prefix}conv1."), f);
        self.bn1.visit(&format!("{prefix}bn1."), f);
        self.conv2.visit(&format!("{prefix}conv2."), f);
        self.bn2.visit(&format!("{prefix}bn2."), f);
        if let Some((conv, bn)) = &self.shortcut {
            conv.visit(&format!("{prefix}shortcut.0."), f);
            bn.visit(&format!("{prefix}shortcut.1."), f);
        }
    }

    fn folded(&self) -> Result<Option<Arc<dyn Module>>> {
        let shortcut = match &self.shortcut {
            Some((conv, bn)) => Some(FoldedConv2d::with(conv, &bn.affine(Activation::Identity)?)?),
            None => None,
        };
        Ok(Some(Arc::new(FoldedBlock {
            conv1: FoldedConv2d::with(&self.conv1, &self.bn1.affine(Activation::Relu)?)?,
            conv2: FoldedConv2d::with(&self.conv2, &self.bn2.affine(Activation::Relu)?)?,
            shortcut,
        })))
    }

    fn describe(&self, name: &str, x: &[usize], rows: &mut Vec<LayerRow>) -> Result<Vec<usize>> {
        let y = self.conv1.describe(&join(name, "conv1"), x, rows)?;
        rows.push(self.bn1.row(&join(name, "bn1"), " + ReLU", &y));
        let y = self.conv2.describe(&join(name, "conv2"), &y, rows)?;
        let residual = match &self.shortcut {
            Some((conv, bn)) => {
                let r = conv.describe(&join(name, "shortcut.0"), x, rows)?;
                bn.describe(&join(name, "shortcut.1"), &r, rows)?
            }
            None => x.to_vec(),
        };
        if residual != y {
            let detail =
                format!("shortcut has shape {residual:?}, but the block's result is {y:?}");
            return Err(Error::shape("basic_block", detail));
        }
        rows.push(self.bn2.row(&join(name, "bn2"), " + residual + ReLU", &y));
        Ok(y)
    }
}

/// A [`BasicBlock`] with its batch normalisations folded:
/// y = relu(conv2(relu(conv1(x))) + shortcut(x)), the sum inside the second convolution.
struct FoldedBlock {
    conv1: FoldedConv2d,
    conv2: FoldedConv2d,
    shortcut: Option<FoldedConv2d>,
}

impl Module for FoldedBlock {
    fn kind(&self) -> &'static str {
        "FoldedBlock"
    }

    fn forward(&self, x: &Tensor, ctx: &mut Context) -> Result<Tensor> {
        let y = self.conv1.forward(x, ctx)?;
        match &self.shortcut {
            Some(shortcut) => self.conv2.forward_add(&y, Some(&shortcut.forward(x, ctx)?)),
            None => self.conv2.forward_add(&y, Some(x)),
        }
    }

    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Parameter)) {
        self.conv1.visit(&format!("{prefix}conv1."), f);
        self.conv2.visit(&format!("{prefix}conv2."), f);
        if let Some(shortcut) = &self.shortcut {
            shortcut.visit(&format!("{prefix}shortcut.0."), f);
        }
    }

    fn describe(&self, name: &str, x: &[usize], rows: &mut Vec<LayerRow>) -> Result<Vec<usize>> {
        let y = self.conv1.describe(&join(name, "conv1"), x, rows)?;
        if let Some(shortcut) = &self.shortcut {
            shortcut.describe(&join(name, "shortcut.0"), x, rows)?;
        }
        self.conv2.describe(&join(name, "conv2"), &y, rows)
    }
}
