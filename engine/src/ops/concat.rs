//! Joins tensors along one axis. All their other axes must be equal.
//!
//! Derivative. Each input is a box of y, so its gradient is that box of dy.

use tilegrad_kernels::{ConcatArgs, SliceArgs};

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct Concat {
    args: ConcatArgs,
    axis: usize,
}

/// `xs` one after another along `axis`: `[2, 3]` and `[2, 5]` along axis 1 make `[2, 8]`.
pub fn concat(xs: &[&Tensor], axis: usize) -> Result<Tensor> {
    let shapes: Vec<&[usize]> = xs.iter().map(|x| x.shape()).collect();
    let args = ConcatArgs::new(&shapes, axis)?;
    apply(Concat { args, axis }, xs)
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let buffers: Vec<_> = inputs.iter().map(|x| x.buffer()).collect();
        let y = be.concat(&self.args, &buffers)?;
        Ok((inputs[0].wrap(y, &self.args.out_shape), Saved::none()))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        _saved: Saved,
        dy: Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let mut starts = vec![0; dy.rank()];
        let mut gradients = Vec::with_capacity(needs.len());
        for (&size, &needed) in self.args.sizes.iter().zip(needs) {
            let mut sizes = dy.shape().to_vec();
            sizes[self.axis] = size;
            gradients.push(if needed {
                let args = SliceArgs::new(dy.shape(), &starts, &sizes)?;
                Some(dy.wrap(be.slice(&args, dy.buffer())?, &sizes))
            } else {
                None
            });
            starts[self.axis] += size;
        }
        Ok(gradients)
    }
}
