//! Batch normalisation (Ioffe and Szegedy 2015). x, y and the residual `[rows, c]`; all else
//! `[c]`.
//!
//! x̂ = (x - mean) / sqrt(var + epsilon), y = activation(gamma x̂ + beta + residual), with the
//! biased variance.

use super::Reference;
use super::elementwise::{relu, relu_backward};
use super::float::{Float, sum};
use crate::{Activation, BatchNormArgs, BatchNormGradients, Buffer, Error, Result};

/// Mean and biased variance of each channel, in two passes.
pub fn batch_norm_statistics<F: Float>(
    args: &BatchNormArgs,
    x: &[F],
    mean: &mut [F],
    var: &mut [F],
) {
    let n = F::from_usize(args.rows);
    for ch in 0..args.c {
        let channel = || (0..args.rows).map(|r| x[r * args.c + ch]);
        mean[ch] = sum(channel()) / n;
        var[ch] = sum(channel().map(|x| (x - mean[ch]) * (x - mean[ch]))) / n;
    }
}

/// 1 / sqrt(var + epsilon)
fn inverse_deviation<F: Float>(args: &BatchNormArgs, var: F) -> F {
    F::ONE / (var + F::from_f64(args.epsilon)).sqrt()
}

/// y from x and the statistics.
pub fn batch_norm_apply<F: Float>(
    args: &BatchNormArgs,
    x: &[F],
    gamma: &[F],
    beta: &[F],
    mean: &[F],
    var: &[F],
    residual: Option<&[F]>,
    y: &mut [F],
) {
    for r in 0..args.rows {
        for ch in 0..args.c {
            let i = r * args.c + ch;
            let normalised = (x[i] - mean[ch]) * inverse_deviation(args, var[ch]);
            let sum = gamma[ch] * normalised + beta[ch] + residual.map_or(F::ZERO, |res| res[i]);
            y[i] = match args.activation {
                Activation::Identity => sum,
                Activation::Relu => relu(sum),
            };
        }
    }
}

/// What [`batch_norm_backward`] writes.
pub struct Gradients<'a, F> {
    /// `[rows, c]`
    pub dx: &'a mut [F],
    /// `[c]`
    pub dgamma: &'a mut [F],
    /// `[c]`
    pub dbeta: &'a mut [F],
    /// `[rows, c]`
    pub dresidual: Option<&'a mut [F]>,
}

/// All gradients. With g the gradient before the activation (taken from y's sign, so y must be
/// given for one):
///
/// dresidual = g, dbeta = Σ g, dgamma = Σ g x̂, and dx = gamma / sqrt(var + epsilon) (g - dbeta /
/// rows - x̂ dgamma / rows), since mean and variance depend on x too. With given statistics
/// (`args.training` is false) only the first term is left.
pub fn batch_norm_backward<F: Float>(
    args: &BatchNormArgs,
    x: &[F],
    y: Option<&[F]>,
    gamma: &[F],
    mean: &[F],
    var: &[F],
    dy: &[F],
    gradients: Gradients<'_, F>,
) {
    let Gradients { dx, dgamma, dbeta, dresidual } = gradients;
    let before_activation = |i: usize| match y {
        Some(y) if args.activation == Activation::Relu => relu_backward(y[i], dy[i]),
        _ => dy[i],
    };
    if let Some(dresidual) = dresidual {
        for (i, dresidual) in dresidual.iter_mut().enumerate() {
            *dresidual = before_activation(i);
        }
    }
    let n = F::from_usize(args.rows);
    for ch in 0..args.c {
        let inverse = inverse_deviation(args, var[ch]);
        let normalised = |i: usize| (x[i] - mean[ch]) * inverse;
        let channel = || (0..args.rows).map(|r| r * args.c + ch);
        dbeta[ch] = sum(channel().map(before_activation));
        dgamma[ch] = sum(channel().map(|i| before_activation(i) * normalised(i)));
        for i in channel() {
            let g = before_activation(i);
            let through_statistics =
                if args.training { (dbeta[ch] + normalised(i) * dgamma[ch]) / n } else { F::ZERO };
            dx[i] = gamma[ch] * inverse * (g - through_statistics);
        }
    }
}

/// running = (1 - momentum) running + momentum batch, the variance times rows / (rows - 1).
pub fn batch_norm_update_running<F: Float>(
    args: &BatchNormArgs,
    momentum: f64,
    running_mean: &mut [F],
    running_var: &mut [F],
    mean: &[F],
    var: &[F],
) {
    let unbiased = F::from_f64(args.rows as f64 / (args.rows as f64 - 1.0));
    let (keep, take) = (F::from_f64(1.0 - momentum), F::from_f64(momentum));
    for ch in 0..args.c {
        running_mean[ch] = keep * running_mean[ch] + take * mean[ch];
        running_var[ch] = keep * running_var[ch] + take * (unbiased * var[ch]);
    }
}

impl Reference {
    /// [`crate::Backend::batch_norm_backward`]
    pub(super) fn batch_norm_gradients<F: Float>(
        &self,
        args: &BatchNormArgs,
        x: &Buffer,
        y: Option<&Buffer>,
        gamma: &Buffer,
        mean: &Buffer,
        var: &Buffer,
        dy: &Buffer,
        residual: bool,
    ) -> Result<BatchNormGradients> {
        const OP: &str = "batch_norm";
        let (len, c) = (args.elements(), args.c);
        if args.activation != Activation::Identity && y.is_none() {
            let what = format!("the backward pass of {:?} needs y, got none", args.activation);
            return Err(Error::argument(OP, what));
        }
        let (x, dy) = (self.read::<F>(OP, x, len)?, self.read::<F>(OP, dy, len)?);
        let y = self.read_if::<F>(OP, y, len)?;
        let channel = |x| self.read::<F>(OP, x, c);
        let (gamma, mean, var) = (channel(gamma)?, channel(mean)?, channel(var)?);
        let mut dresidual = residual.then(|| self.alloc::<F>(len)).transpose()?;
        let mut dx = self.alloc::<F>(len)?;
        let (dgamma, dbeta) = self.outputs([c; 2], |dgamma, dbeta| {
            let dresidual = dresidual.as_mut().map(|d| d.slice_mut(len));
            let gradients = Gradients { dx: dx.slice_mut(len), dgamma, dbeta, dresidual };
            batch_norm_backward(args, x, y, gamma, mean, var, dy, gradients);
        })?;
        let dx = dx.into_buffer::<F>(len);
        let dresidual = dresidual.map(|d| d.into_buffer::<F>(len));
        Ok(BatchNormGradients { dx, dgamma, dbeta, dresidual })
    }
}
