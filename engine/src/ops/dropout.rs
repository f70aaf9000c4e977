//! Dropout, in the inverted form (Srivastava et al. 2014): while training, each element is zeroed
//! with probability p.
//!
//!   y_i = k_i x_i / (1 − p),   k_i = 0 with probability p, else 1.
//! The factor keeps the expected value, so that evaluation needs no dropout and no scaling. k_i
//! depends only on the stream of random words and on i, so that the same step drops the same
//! elements on every device.
//!
//! Derivative. dx_i = k_i dy_i / (1 − p): the same dropout, of dy. The mask is drawn again instead
//! of being kept.

use tilegrad_kernels::DropoutArgs;
use tilegrad_kernels::philox::Stream;

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct Dropout(DropoutArgs);

/// Zeroes each element of x with probability `p` in [0, 1), and scales the others by 1 / (1 − p).
pub fn dropout(x: &Tensor, p: f64, stream: Stream) -> Result<Tensor> {
    apply(Dropout(DropoutArgs::new(x.elements(), p, stream)?), &[x])
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let x = inputs[0];
        Ok((x.like(be.dropout(&self.0, x.buffer())?), Saved::none()))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        _saved: Saved,
        dy: Tensor,
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(dy.like(be.dropout(&self.0, dy.buffer())?))])
    }
}
