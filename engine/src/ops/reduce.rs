//! What sum, mean and amax share: which axes are reduced, and the shape that is left.
//!
//! `axes` are reduced and removed: `[8, 5, 3]` over axes `[0, 2]` gives `[5]`. No axes means all,
//! which gives `[]`.

use tilegrad_kernels::{Reduce, ReduceArgs};

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct ReduceOp {
    name: &'static str,
    f: Reduce,
    args: ReduceArgs,
}

/// y = f(x) over `axes`, on the tape. `name` is the op's, for errors.
pub(super) fn reduce(name: &'static str, f: Reduce, x: &Tensor, axes: &[usize]) -> Result<Tensor> {
    let args = ReduceArgs::new(name, x.shape(), axes)?;
    apply(ReduceOp { name, f, args }, &[x])
}

impl Op for ReduceOp {
    fn name(&self) -> &'static str {
        self.name
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let x = inputs[0];
        let y = be.reduce_forward(self.f, &self.args, x.buffer())?;
        let y = x.wrap(y, &self.args.out_shape());
        let saved = match self.f {
            Reduce::Sum | Reduce::Mean => Saved::none(),
            Reduce::Max => Saved::new([x, &y]),
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
        let dx = match self.f {
            Reduce::Sum | Reduce::Mean => {
                be.reduce_backward(self.f, &self.args, None, dy.buffer())?
            }
            Reduce::Max => {
                let [x, y] = saved.take();
                let saved = Some((x.buffer(), y.buffer()));
                be.reduce_backward(self.f, &self.args, saved, dy.buffer())?
            }
        };
        Ok(vec![Some(dy.wrap(dx, &self.args.shape))])
    }
}
