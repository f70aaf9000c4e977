//! The same elements in another dtype:   y = round(x).
//!
//! Derivative. Rounding has none that is of use; it is taken as the identity, as mixed precision
//! training does (Micikevicius et al. 2018): dx is dy in the dtype of x. So a master weight in f32
//! gets its gradient in f32, whatever dtype it was used in. Integers carry no gradient.

use tilegrad_kernels::Dtype;

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct Cast {
    from: Dtype,
    to: Dtype,
}

/// x in `dtype`: floats are rounded to nearest even; integers too, then saturate, with 0 for NaN. x
/// itself if it has that dtype. The result is tracked if x is and both are floats.
pub fn cast(x: &Tensor, dtype: Dtype) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    let op = Cast { from: x.dtype(), to: dtype };
    match dtype.is_float() {
        true => apply(op, &[x]),
        false => apply(op, &[&x.detach()]),
    }
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        Ok((inputs[0].like(be.cast(inputs[0].buffer(), self.to)?), Saved::none()))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        _saved: Saved,
        dy: Tensor,
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(dy.like(be.cast(dy.buffer(), self.from)?))])
    }
}
