//! Softmax over the last axis.
//!
//! With x of shape [.., C]:   y_i = exp(x_i - m) / Σ_j exp(x_j - m),   m = max_j x_j. Subtracting
//! m changes nothing mathematically and keeps exp in range (Goodfellow et al. 2016, §4.1).
//!
//! Derivative. ∂y_i/∂x_j = y_i (δ_ij − y_j), so for an incoming gradient g:
//!   dx_i = y_i (g_i − Σ_j g_j y_j).
//! It needs only y, so that x can be freed as soon as forward returns.

use tilegrad_kernels::Rows;

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct Softmax(Rows);

/// y = softmax(x) over the last axis.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    // The error: "softmax: needs at least 1 axis, got []".
    apply(Softmax(Rows::over_last_axis("softmax", x.shape())?), &[x])
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let x = inputs[0];
        let y = x.like(be.softmax_forward(self.0, x.buffer())?);
        let saved = Saved::new([&y]);
        Ok((y, saved))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let [y] = saved.take();
        Ok(vec![Some(y.like(be.softmax_backward(self.0, y.buffer(), dy.buffer())?))])
    }
}
