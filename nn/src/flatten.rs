//! From images to rows.

use tilegrad_engine::{Error, Result, Tensor, ops};
use tilegrad_kernels::elements;

use crate::module::{Context, LayerRow, Module, Parameter};
use crate::pooling::free_row;

/// `[N, H, W, C]` to `[N, H * W * C]`, in the order of memory: nothing is moved.
///
/// PyTorch's images are channels first, so its flattened rows have another order;
/// [`Module::flattened`] says which weights must be permuted on the way.
#[derive(Clone, Copy, Debug)]
pub struct Flatten;

impl Flatten {
    fn out_shape(x: &[usize]) -> Result<[usize; 2]> {
        match x {
            [n, rest @ ..] => Ok([*n, elements(rest)]),
            [] => Err(Error::shape("flatten", "needs at least 1 axis, got []")),
        }
    }
}

impl Module for Flatten {
    fn kind(&self) -> &'static str {
        "Flatten"
    }

    fn forward(&self, x: &Tensor, _ctx: &mut Context) -> Result<Tensor> {
        ops::reshape(x, &Self::out_shape(x.shape())?)
    }

    fn visit<'a>(&'a self, _prefix: &str, _f: &mut dyn FnMut(String, &'a Parameter)) {}

    fn describe(&self, name: &str, x: &[usize], rows: &mut Vec<LayerRow>) -> Result<Vec<usize>> {
        let out_shape = Self::out_shape(x)?;
        rows.push(free_row(name, self.kind().to_string(), &out_shape));
        Ok(out_shape.to_vec())
    }
}
