//! Batch normalisation (Ioffe and Szegedy 2015), with a residual and an activation fused.
//!
//! x is `[.., C]`; its leading axes count n rows, over which each channel has its own statistics.
//! With mean μ and (biased) variance σ² of the channel, and r the residual, of x's shape:
//!   x̂ = (x − μ) / √(σ² + ε),   y = act(γ x̂ + β + r).
//! In training μ and σ² are those of x; in inference they are given.
//!
//! Derivative. First through the activation: g = dy act'(y), which for relu is dy where y > 0.
//! Then, a channel:
//!   dr = g,   dβ = Σ g,   dγ = Σ g x̂,
//!   dx = γ / √(σ² + ε) · (g − dβ / n − x̂ dγ / n)    training
//!   dx = γ / √(σ² + ε) · g                          inference
//! In training x acts on y also through μ and σ². Their parts come from ∂x̂_i/∂x_j = (δ_ij − 1/n −
//! x̂_i x̂_j / n) / √(σ² + ε), summed with g_i over i: they take from g its mean and its component
//! along x̂.

use tilegrad_kernels::BatchNormArgs;

use super::{expect_constant, expect_shape};
use crate::op::{forward, record};
use crate::{Activation, Backend, Op, Result, Saved, Tensor, apply};

const OP: &str = "batch_norm";

/// The result of [`batch_norm()`](batch_norm) with the statistics that it used.
pub struct BatchNorm {
    /// act(γ x̂ + β + residual), of x's shape.
    pub y: Tensor,
    /// Mean of each channel `[C]`; untracked.
    pub mean: Tensor,
    /// Biased variance of each channel `[C]`; untracked.
    pub var: Tensor,
}

/// y with the statistics of x itself, for training. x and `residual` are `[.., C]`, `gamma` and
/// `beta` `[C]`.
pub fn batch_norm(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    residual: Option<&Tensor>,
    epsilon: f64,
    activation: Activation,
) -> Result<BatchNorm> {
    let args = BatchNormArgs::new(x.shape(), epsilon, activation, true)?;
    let inputs = inputs(&args, x, gamma, beta, residual)?;
    let op = Training(args);
    let (y, saved) = forward(&op, &inputs)?;
    // Forward made the statistics, and saved them in these places.
    let (mean, var) = (saved.get(2).clone(), saved.get(3).clone());
    Ok(BatchNorm { y: record(op, &inputs, y, saved), mean, var })
}

/// y with given statistics, `mean` and `var` `[C]`, which are constants: untracked. The rest as in
/// [`batch_norm()`](batch_norm).
pub fn batch_norm_inference(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    residual: Option<&Tensor>,
    epsilon: f64,
    activation: Activation,
) -> Result<Tensor> {
    let args = BatchNormArgs::new(x.shape(), epsilon, activation, false)?;
    let mut inputs = inputs(&args, x, gamma, beta, residual)?;
    for (name, statistic) in [("mean", mean), ("var", var)] {
        expect_shape(OP, name, statistic, &[args.c])?;
        expect_constant(OP, name, statistic)?;
        inputs.push(statistic);
    }
    apply(Inference(args), &inputs)
}

/// The tracked inputs, in the order of their gradients.
fn inputs<'a>(
    args: &BatchNormArgs,
    x: &'a Tensor,
    gamma: &'a Tensor,
    beta: &'a Tensor,
    residual: Option<&'a Tensor>,
) -> Result<Vec<&'a Tensor>> {
    expect_shape(OP, "gamma", gamma, &[args.c])?;
    expect_shape(OP, "beta", beta, &[args.c])?;
    let mut inputs = vec![x, gamma, beta];
    if let Some(residual) = residual {
        expect_shape(OP, "residual", residual, x.shape())?;
        inputs.push(residual);
    }
    Ok(inputs)
}

/// Inputs x, gamma, beta and perhaps the residual.
struct Training(BatchNormArgs);

/// Inputs x, gamma, beta, perhaps the residual, mean and var.
struct Inference(BatchNormArgs);

impl Op for Training {
    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let (x, gamma, beta) = (inputs[0], inputs[1], inputs[2]);
        let residual = inputs.get(3).map(|r| r.buffer());
        let out =
            be.batch_norm_forward(&self.0, x.buffer(), gamma.buffer(), beta.buffer(), residual)?;
        let y = x.like(out.y);
        let (mean, var) = (gamma.like(out.mean), gamma.like(out.var));
        let saved = save(self.0.activation, x, gamma, &mean, &var, &y);
        Ok((y, saved))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        backward(&self.0, be, saved, dy, needs, needs.len() == 4)
    }
}

impl Op for Inference {
    fn name(&self) -> &'static str {
        "batch_norm_inference"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let (x, gamma, beta) = (inputs[0], inputs[1], inputs[2]);
        let (residual, mean, var) = match inputs {
            [.., residual, mean, var] if inputs.len() == 6 => (Some(residual.buffer()), mean, var),
            _ => (None, &inputs[3], &inputs[4]),
        };
        let y = be.batch_norm_inference(
            &self.0,
            x.buffer(),
            gamma.buffer(),
            beta.buffer(),
            mean.buffer(),
            var.buffer(),
            residual,
        )?;
        let y = x.like(y);
        let saved = save(self.0.activation, x, gamma, mean, var, &y);
        Ok((y, saved))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let mut gradients = backward(&self.0, be, saved, dy, needs, needs.len() == 6)?;
        gradients.extend([None, None]); // mean and var are constants.
        Ok(gradients)
    }
}

/// y is kept only where there is an activation to go back through.
fn save(
    activation: Activation,
    x: &Tensor,
    gamma: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    y: &Tensor,
) -> Saved {
    match activation {
        Activation::Identity => Saved::new([x, gamma, mean, var]),
        Activation::Relu => Saved::new([x, gamma, mean, var, y]),
    }
}

/// Gradients of x, gamma, beta and, if there was one, the residual.
fn backward(
    args: &BatchNormArgs,
    be: &dyn Backend,
    saved: Saved,
    dy: Tensor,
    needs: &[bool],
    has_residual: bool,
) -> Result<Vec<Option<Tensor>>> {
    let ([x, gamma, mean, var], y) = match args.activation {
        Activation::Identity => (saved.take(), None),
        Activation::Relu => {
            let [x, gamma, mean, var, y] = saved.take();
            ([x, gamma, mean, var], Some(y))
        }
    };
    let needs_residual = has_residual && needs[3];
    let out = be.batch_norm_backward(
        args,
        x.buffer(),
        y.as_ref().map(|y| y.buffer()),
        gamma.buffer(),
        mean.buffer(),
        var.buffer(),
        dy.buffer(),
        // Without an activation dr is dy itself, which need not be copied.
        needs_residual && y.is_some(),
    )?;
    let mut gradients =
        vec![Some(x.like(out.dx)), Some(gamma.like(out.dgamma)), Some(gamma.like(out.dbeta))];
    if has_residual {
        gradients.push(match out.dresidual {
            Some(dr) => Some(x.like(dr)),
            None => needs_residual.then_some(dy),
        });
    }
    Ok(gradients)
}
