//! Batch normalisation of images, with running statistics.

use std::sync::Arc;

use tilegrad_engine::{Activation, Backend, Dtype, Result, Tensor, ops};
use tilegrad_kernels::BatchNormArgs;

use crate::fold::ChannelAffine;
use crate::module::{Context, LayerRow, Module, Parameter, Role};

/// y = activation(weight (x - mean) / √(var + ε) + bias), statistics a channel (Ioffe and Szegedy
/// 2015).
///
/// Training uses the batch's own mean and biased variance, and moves the running statistics towards
/// them: running = (1 - momentum) running + momentum batch, with the unbiased variance. Evaluation
/// uses the running ones.
pub struct BatchNorm2d {
    weight: Parameter,
    bias: Parameter,
    running_mean: Parameter,
    running_var: Parameter,
    channels: usize,
    momentum: f64,
    epsilon: f64,
    activation: Activation,
}

impl BatchNorm2d {
    /// PyTorch's defaults: momentum 0.1, ε 1e-5, weight 1, bias 0, running mean 0 and variance 1.
    pub fn new(backend: &Arc<dyn Backend>, dtype: Dtype, channels: usize) -> Result<Self> {
        let full = |role, value| {
            Ok(Parameter::new(role, Tensor::full(backend, dtype, &[channels], value)?))
        };
        Ok(BatchNorm2d {
            weight: full(Role::Norm, 1.0)?,
            bias: full(Role::Norm, 0.0)?,
            running_mean: full(Role::State, 0.0)?,
            running_var: full(Role::State, 1.0)?,
            channels,
            momentum: 0.1,
            epsilon: 1e-5,
            activation: Activation::Identity,
        })
    }

    /// Keeps the weight at 1, untrained: a scale changes nothing that the layers behind it cannot
    /// undo.
    pub fn without_scale(self) -> Self {
        BatchNorm2d { weight: Parameter::new(Role::State, self.weight.get()), ..self }
    }

    /// Other constants: how far the running statistics move each step, and ε.
    pub fn with_constants(self, momentum: f64, epsilon: f64) -> Self {
        BatchNorm2d { momentum, epsilon, ..self }
    }

    /// Applies `activation` inside the kernel.
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// activation(batch_norm(x) + residual), in one kernel.
    pub fn forward_fused(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        activation: Activation,
        ctx: &Context,
    ) -> Result<Tensor> {
        let (weight, bias) = (self.weight.get(), self.bias.get());
        if !ctx.is_training() {
            let (mean, var) = (self.running_mean.get(), self.running_var.get());
            return ops::batch_norm_inference(
                x,
                &weight,
                &bias,
                &mean,
                &var,
                residual,
                self.epsilon,
                activation,
            );
        }
        let batch = ops::batch_norm(x, &weight, &bias, residual, self.epsilon, activation)?;
        let args = BatchNormArgs::new(x.shape(), self.epsilon, activation, true)?;
        self.running_mean.update(|mean| {
            self.running_var.update(|var| {
                x.backend().batch_norm_update_running(
                    &args,
                    self.momentum,
                    mean.buffer_mut(),
                    var.buffer_mut(),
                    batch.mean.buffer(),
                    batch.var.buffer(),
                )
            })
        })?;
        Ok(batch.y)
    }

    /// What it does in evaluation: scale = weight / √(var + ε), shift = bias - mean scale.
    pub(crate) fn affine(&self, activation: Activation) -> Result<ChannelAffine> {
        let values = |p: &Parameter| p.get().to_f64_vec();
        let (weight, bias) = (values(&self.weight)?, values(&self.bias)?);
        let (mean, var) = (values(&self.running_mean)?, values(&self.running_var)?);
        let scale: Vec<f64> =
            weight.iter().zip(&var).map(|(w, v)| w / (v + self.epsilon).sqrt()).collect();
        let shift = (bias.iter().zip(&mean).zip(&scale)).map(|((b, m), s)| b - m * s).collect();
        Ok(ChannelAffine { scale, shift, activation })
    }

    /// The row of a summary, when the layer is used with this fused `extra`.
    pub(crate) fn row(&self, name: &str, extra: &str, x: &[usize]) -> LayerRow {
        LayerRow {
            name: name.to_string(),
            kind: format!("BatchNorm2d({}){extra}", self.channels),
            out_shape: x.to_vec(),
            parameters: self.channels * if self.weight.role() == Role::State { 1 } else { 2 },
            multiply_adds: 0,
        }
    }
}

impl Module for BatchNorm2d {
    fn kind(&self) -> &'static str {
        "BatchNorm2d"
    }

    fn forward(&self, x: &Tensor, ctx: &mut Context) -> Result<Tensor> {
        self.forward_fused(x, None, self.activation, ctx)
    }

    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Parameter)) {
        f(format!("{prefix}weight"), &self.weight);
        f(format!("{prefix}bias"), &self.bias);
        f(format!("{prefix}running_mean"), &self.running_mean);
        f(format!("{prefix}running_var"), &self.running_var);
    }

    fn channel_affine(&self) -> Result<Option<ChannelAffine>> {
        self.affine(self.activation).map(Some)
    }

    fn describe(&self, name: &str, x: &[usize], rows: &mut Vec<LayerRow>) -> Result<Vec<usize>> {
        BatchNormArgs::new(x, self.epsilon, self.activation, false)?;
        let extra = if self.activation == Activation::Relu { " + ReLU" } else { "" };
        rows.push(self.row(name, extra, x));
        Ok(x.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilegrad_engine::reference;

    #[test]
    fn training_moves_the_running_statistics_and_evaluation_uses_them() {
        let be = reference();
        let bn = BatchNorm2d::new(&be, Dtype::F64, 1).unwrap();
        let x = Tensor::from_slice(&be, &[1.0, 2.0, 3.0, 6.0], &[1, 2, 2, 1]).unwrap();
        bn.forward(&x, &mut Context::train(0, 0)).unwrap();
        // mean 3, unbiased variance 14 / 3
        let state = |p: &Parameter| p.get().item().unwrap();
        assert!((state(&bn.running_mean) - 0.3).abs() < 1e-12);
        assert!((state(&bn.running_var) - (0.9 + 0.1 * 14.0 / 3.0)).abs() < 1e-12);
        let y = bn.forward(&x, &mut Context::eval()).unwrap().to_vec::<f64>().unwrap();
        let expected = (6.0 - 0.3) / (0.9 + 1.4 / 3.0 + 1e-5f64).sqrt();
        assert!((y[3] - expected).abs() < 1e-12, "{} {expected}", y[3]);
        assert!((state(&bn.running_mean) - 0.3).abs() < 1e-12, "evaluation must not change state");
    }
}
