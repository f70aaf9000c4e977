//! Batch normalisation folded into the convolution before it, for inference.
//!
//! In evaluation batch normalisation is y = s x + t a channel, with s = γ / √(σ² + ε) and
//! t = β - μ s from the running statistics (Jacob et al. 2018, §3.2). After a convolution with
//! filter F and bias b that is a convolution with another filter and bias:
//!
//! ```text
//!   s (x * F + b) + t  =  x * (s F) + (s b + t)          s and t an output channel
//! ```
//!
//! ```
//! use tilegrad_nn::{Context, Model, ModelConfig, ModelKind, Module, fold_batch_norm};
//! use tilegrad_engine::{Dtype, Tensor, cpu};
//!
//! let device = cpu()?;
//! let model = Model::new(&device, ModelConfig::new(ModelKind::Resnet20, 10), 42)?;
//! let x = Tensor::full(&device, Dtype::F32, &[1, 32, 32, 3], 0.5)?;
//! let folded = fold_batch_norm(&model)?;
//! let (a, b) = (model.forward(&x, &mut Context::eval())?, folded.forward(&x, &mut Context::eval())?);
//! for (a, b) in a.to_vec::<f32>()?.into_iter().zip(b.to_vec::<f32>()?) {
//!     assert!((a - b).abs() < 1e-4);
//! }
//! # Ok::<(), tilegrad_nn::Error>(())
//! ```

use tilegrad_engine::{Activation, Result, Tensor, ops};

use crate::conv2d::{Conv2d, Conv2dConfig};
use crate::models::Model;
use crate::module::{Context, LayerRow, Module, Parameter, Role};

/// The model for inference, with its parameters as they are now: later training does not change it.
/// It computes what the model computes in evaluation, up to rounding, without batch normalisation
/// as layers of their own, and keeps what the device derives from its filters (packed or
/// transformed copies). Its parameters are constants; it has other ones than the model (a bias for
/// each convolution), so it cannot be saved as a checkpoint of the model.
pub fn fold_batch_norm(model: &Model) -> Result<Model> {
    model.fold()
}

/// y = activation(scale x + shift), a channel.
#[derive(Clone, Debug)]
pub struct ChannelAffine {
    /// A factor a channel.
    pub scale: Vec<f64>,
    /// Added a channel.
    pub shift: Vec<f64>,
    /// Applied last.
    pub activation: Activation,
}

/// A convolution with a constant filter and bias: y = activation(x * filter + bias + residual).
pub struct FoldedConv2d(Conv2d);

impl FoldedConv2d {
    /// `conv` as it is now.
    pub fn new(conv: &Conv2d) -> Result<Self> {
        let constant = |p: &Parameter| Parameter::new(Role::State, p.get());
        let (weight, bias) = (constant(&conv.weight), conv.bias.as_ref().map(constant));
        Ok(FoldedConv2d(Conv2d { weight, bias, config: conv.config }))
    }

    /// `conv`, which has no activation, and then `affine`.
    pub fn with(conv: &Conv2d, affine: &ChannelAffine) -> Result<Self> {
        let weight = conv.weight.get().detach();
        let c_out = conv.config.c_out;
        let constant = |values: &[f64], shape: &[usize]| {
            Tensor::from_slice(weight.backend(), values, shape)?.to_dtype(weight.dtype())
        };
        let scale = constant(&affine.scale, &[c_out, 1, 1, 1])?;
        let old = match &conv.bias {
            Some(bias) => bias.get().to_f64_vec()?,
            None => vec![0.0; c_out],
        };
        let bias: Vec<f64> = (old.iter().zip(&affine.scale).zip(&affine.shift))
            .map(|((b, scale), shift)| b * scale + shift)
            .collect();
        Ok(FoldedConv2d(Conv2d {
            bias: Some(Parameter::new(Role::State, constant(&bias, &[c_out])?)),
            weight: Parameter::new(Role::State, ops::mul(&weight, &scale)?),
            config: Conv2dConfig { bias: true, activation: affine.activation, ..conv.config },
        }))
    }

    /// activation(x * filter + bias + residual), in one kernel.
    pub fn forward_add(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let Conv2d { weight, bias, config: Conv2dConfig { options, activation, .. } } = &self.0;
        let weight = weight.get().to_dtype(x.dtype())?;
        let bias = bias.as_ref().map(|bias| bias.get().to_dtype(x.dtype())).transpose()?;
        ops::conv2d_inference(x, &weight, bias.as_ref(), residual, *options, *activation)
    }
}

impl Module for FoldedConv2d {
    fn kind(&self) -> &'static str {
        "FoldedConv2d"
    }

    fn forward(&self, x: &Tensor, _ctx: &mut Context) -> Result<Tensor> {
        self.forward_add(x, None)
    }

    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Parameter)) {
        self.0.visit(prefix, f);
    }

    fn describe(&self, name: &str, x: &[usize], rows: &mut Vec<LayerRow>) -> Result<Vec<usize>> {
        self.0.describe(name, x, rows)
    }
}

#[cfg(test)]
mod tests {
    use tilegrad_engine::{Dtype, cpu, no_grad};

    use super::*;
    use crate::models::{ModelConfig, ModelKind};

    #[test]
    fn every_model_computes_the_same_when_folded_and_is_not_changed() -> Result<()> {
        let device = cpu()?;
        let pixels: Vec<f32> =
            (0..2 * 32 * 32 * 3).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
        let x = Tensor::from_slice(&device, &pixels, &[2, 32, 32, 3])?;
        for kind in ModelKind::ALL {
            let model = Model::new(&device, ModelConfig::new(kind, 10), 7).unwrap();
            // Statistics that are not those of a fresh model.
            model.forward(&x, &mut Context::train(1, 0))?;
            let logits = |model: &Model, dtype: Dtype| {
                let mut context = Context::eval().with_precision(dtype);
                no_grad(|| model.forward(&x, &mut context))?.to_f64_vec()
            };
            let before = logits(&model, Dtype::F32)?;
            let folded = fold_batch_norm(&model)?;
            let largest = before.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            for (dtype, tolerance) in [(Dtype::F32, 1e-4), (Dtype::BF16, 0.1)] {
                // Twice: the second time with what was derived from the filters.
                for _ in 0..2 {
                    for (a, b) in logits(&folded, dtype)?.iter().zip(&before) {
                        let error = (a - b).abs() / largest;
                        assert!(error <= tolerance, "{kind} {dtype:?}: {a} and {b}");
                    }
                }
            }
            assert_eq!(logits(&model, Dtype::F32)?, before, "{kind}");
        }
        Ok(())
    }
}
