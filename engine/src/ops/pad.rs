//! Surrounds a tensor with a constant.
//!
//! Derivative. The constant depends on nothing, so dx is the box of dy in which x lies.

use tilegrad_kernels::PadArgs;

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct Pad(PadArgs);

/// x with `before[i]` and `after[i]` elements of `value` added along every axis i.
pub fn pad(x: &Tensor, before: &[usize], after: &[usize], value: f64) -> Result<Tensor> {
    apply(Pad(PadArgs::new(x.shape(), before, after, value)?), &[x])
}

impl Op for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let x = inputs[0];
        Ok((x.wrap(be.pad(&self.0, x.buffer())?, &self.0.out_shape()), Saved::none()))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        _saved: Saved,
        dy: Tensor,
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dx = be.slice(&self.0.transpose(), dy.buffer())?;
        Ok(vec![Some(dy.wrap(dx, &self.0.shape))])
    }
}
