//! Dropout.

use tilegrad_engine::{Result, Tensor, ops};

use crate::module::{Context, LayerRow, Module, Parameter};
use crate::pooling::free_row;

/// Zeroes each element with probability p while training and scales the rest by 1 / (1 - p);
/// otherwise y = x (Srivastava et al. 2014). The mask depends on seed, step and position in the
/// model only.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    p: f64,
}

impl Dropout {
    /// `p` must be in [0, 1); the forward pass checks it.
    pub fn new(p: f64) -> Self {
        Dropout { p }
    }
}

impl Module for Dropout {
    fn kind(&self) -> &'static str {
        "Dropout"
    }

    fn forward(&self, x: &Tensor, ctx: &mut Context) -> Result<Tensor> {
        if ctx.is_training() && self.p != 0.0 {
            ops::dropout(x, self.p, ctx.dropout_stream())
        } else {
            Ok(x.clone())
        }
    }

    fn visit<'a>(&'a self, _prefix: &str, _f: &mut dyn FnMut(String, &'a Parameter)) {}

    fn describe(&self, name: &str, x: &[usize], rows: &mut Vec<LayerRow>) -> Result<Vec<usize>> {
        rows.push(free_row(name, format!("Dropout({})", self.p), x));
        Ok(x.to_vec())
    }
}
