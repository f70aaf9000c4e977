//! Selects along one axis by a list of indices, as an embedding table is read:
//!   y[.., i, ..] = x[.., t_i, ..].
//!
//! Derivative. An element that was selected several times gets the sum of its gradients, one that
//! was not gets 0:
//!   dx[.., j, ..] = Σ dy[.., i, ..] over the i with t_i = j, added in the order of i.
//! It needs the indices only, which are constants.

use tilegrad_kernels::GatherArgs;

use super::expect_constant;
use crate::{Backend, Error, Op, Result, Saved, Tensor, apply};

const OP: &str = "gather";

struct Gather {
    args: GatherArgs,
    shape: Vec<usize>,
}

/// The slices of x at `indices` (i32 `[count]`, each below the size of `axis`), in their order.
pub fn gather(x: &Tensor, axis: usize, indices: &Tensor) -> Result<Tensor> {
    let &[count] = indices.shape() else {
        return Err(Error::shape(
            OP,
            format!("indices must be [count], got {:?}", indices.shape()),
        ));
    };
    expect_constant(OP, "indices", indices)?;
    let args = GatherArgs::new(x.shape(), axis, count)?;
    apply(Gather { args, shape: x.shape().to_vec() }, &[x, indices])
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let (x, indices) = (inputs[0], inputs[1]);
        let y = be.gather_forward(&self.args, x.buffer(), indices.buffer())?;
        Ok((x.wrap(y, &self.args.out_shape), Saved::new([indices])))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let [indices] = saved.take();
        let dx = be.gather_backward(&self.args, indices.buffer(), dy.buffer())?;
        Ok(vec![Some(dy.wrap(dx, &self.shape)), None])
    }
}
