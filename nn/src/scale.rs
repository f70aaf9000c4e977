//! Multiplication by a constant.

use tilegrad_engine::{Result, Tensor, ops};

use crate::module::{Context, LayerRow, Module, Parameter};
use crate::pooling::free_row;

/// y = factor x.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The constant.
    pub factor: f64,
}

impl Module for Scale {
    fn kind(&self) -> &'static str {
        "Scale"
    }

    fn forward(&self, x: &Tensor, _ctx: &mut Context) -> Result<Tensor> {
        ops::affine(x, self.factor, 0.0)
    }

    fn visit<'a>(&'a self, _prefix: &str, _f: &mut dyn FnMut(String, &'a Parameter)) {}

    fn describe(&self, name: &str, x: &[usize], rows: &mut Vec<LayerRow>) -> Result<Vec<usize>> {
        rows.push(free_row(name, format!("Scale({})", self.factor), x));
        Ok(x.to_vec())
    }
}
