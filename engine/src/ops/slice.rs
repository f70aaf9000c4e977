//! Cuts a box out of a tensor:   y[i, j, ..] = x[s_0 + i, s_1 + j, ..].
//!
//! Derivative. What lies inside the box gets dy, what lies outside had no part in y: dx is dy
//! padded with zeros.

use tilegrad_kernels::SliceArgs;

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct Slice(SliceArgs);

/// `sizes[i]` elements from `starts[i]` on along every axis i.
pub fn slice(x: &Tensor, starts: &[usize], sizes: &[usize]) -> Result<Tensor> {
    apply(Slice(SliceArgs::new(x.shape(), starts, sizes)?), &[x])
}

impl Op for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let x = inputs[0];
        Ok((x.wrap(be.slice(&self.0, x.buffer())?, &self.0.sizes), Saved::none()))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        _saved: Saved,
        dy: Tensor,
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dx = be.pad(&self.0.transpose(), dy.buffer())?;
        Ok(vec![Some(dy.wrap(dx, &self.0.shape))])
    }
}
