//! Permutation of axes: axis i of y is axis p_i of x. Elements are copied.
//!
//!   y[j_0, j_1, ..] = x[i_0, i_1, ..],   i_(p_k) = j_k.
//!
//! Derivative. Each element of x stands in one place of y, so dx is dy under the inverse
//! permutation.

use tilegrad_kernels::PermuteArgs;

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct Permute(PermuteArgs);

/// x with its axes in the order of `permutation`: `[0, 3, 1, 2]` makes NCHW of NHWC.
pub fn permute(x: &Tensor, permutation: &[usize]) -> Result<Tensor> {
    apply(Permute(PermuteArgs::new(x.shape(), permutation)?), &[x])
}

impl Op for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let x = inputs[0];
        Ok((x.wrap(be.permute(&self.0, x.buffer())?, &self.0.out_shape()), Saved::none()))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        _saved: Saved,
        dy: Tensor,
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dx = be.permute(&self.0.inverse(), dy.buffer())?;
        Ok(vec![Some(dy.wrap(dx, &self.0.shape))])
    }
}
