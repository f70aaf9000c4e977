//! Logarithm of the softmax over the last axis.
//!
//! With x of shape [.., C]:   y_i = x_i − m − log Σ_j exp(x_j − m),   m = max_j x_j.
//! Taken in one piece, because log(softmax(x)) is −∞ as soon as a probability underflows to 0.
//!
//! Derivative. ∂y_i/∂x_j = δ_ij − exp(y_j), so for an incoming gradient g:
//!   dx_i = g_i − exp(y_i) Σ_j g_j.
//! It needs only y.

use tilegrad_kernels::Rows;

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct LogSoftmax(Rows);

/// y = log softmax(x) over the last axis.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    apply(LogSoftmax(Rows::over_last_axis("log_softmax", x.shape())?), &[x])
}

impl Op for LogSoftmax {
    fn name(&self) -> &'static str {
        "log_softmax"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let x = inputs[0];
        let y = x.like(be.log_softmax_forward(self.0, x.buffer())?);
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
        Ok(vec![Some(y.like(be.log_softmax_backward(self.0, y.buffer(), dy.buffer())?))])
    }
}
