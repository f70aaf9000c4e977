//! Batch normalisation.

use super::{Activation, Rows};
use crate::{Error, Result};

/// Batch normalisation over rows: x `[rows, c]`, statistics a channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormArgs {
    /// N * H * W.
    pub rows: usize,
    /// Channels.
    pub c: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// Applied to the normalised value (after the residual is added).
    pub activation: Activation,
    /// True: mean and variance are those of x (and depend on it). False: they are given constants.
    pub training: bool,
}

impl BatchNormArgs {
    /// Over the last axis of `x`.
    pub fn new(x: &[usize], epsilon: f64, activation: Activation, training: bool) -> Result<Self> {
        const OP: &str = "batch_norm";
        let Rows { count: rows, len: c } = Rows::over_last_axis(OP, x)?;
        if training && rows == 1 && c > 0 {
            return Err(Error::shape(
                OP,
                format!("needs more than 1 value a channel when training, got x: {x:?}"),
            ));
        }
        Ok(BatchNormArgs { rows, c, epsilon, activation, training })
    }

    /// Elements of x.
    pub fn elements(&self) -> usize {
        self.rows * self.c
    }
}
