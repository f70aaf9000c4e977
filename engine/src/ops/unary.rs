//! What the elementwise functions of one input share: y_i = f(x_i), and so dx_i = dy_i f'(x_i).

use tilegrad_kernels::{Saves, Unary};

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct UnaryOp(Unary);

/// y = f(x), elementwise, on the tape.
pub(super) fn unary(f: Unary, x: &Tensor) -> Result<Tensor> {
    apply(UnaryOp(f), &[x])
}

impl Op for UnaryOp {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let x = inputs[0];
        let y = x.like(be.unary_forward(self.0, x.buffer())?);
        let saved = match self.0.saves() {
            Saves::Nothing => Saved::none(),
            Saves::Input => Saved::new([x]),
            Saves::Output => Saved::new([&y]),
        };
        Ok((y, saved))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dx = if self.0.saves() == Saves::Nothing {
            be.unary_backward(self.0, dy.buffer(), dy.buffer())?
        } else {
            let [saved] = saved.take();
            be.unary_backward(self.0, saved.buffer(), dy.buffer())?
        };
        Ok(vec![Some(dy.like(dx))])
    }
}
