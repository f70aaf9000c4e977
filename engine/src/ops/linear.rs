//! Fully connected layer:   y = x Wᵀ + b.
//!
//! x is `[.., In]`, W `[Out, In]`, b `[Out]`, y `[.., Out]`. The leading axes of x only count rows
//! r:
//!   y_ro = Σ_i x_ri W_oi + b_o.
//!
//! Derivative.
//!   dx = dy W,    dx_ri = Σ_o dy_ro W_oi
//!   dW = dyᵀ x,   dW_oi = Σ_r dy_ro x_ri
//!   db_o = Σ_r dy_ro

use tilegrad_kernels::{MatmulArgs, Reduce, ReduceArgs, elements};

use super::expect_shape;
use crate::{Backend, Error, Op, Result, Saved, Tensor, apply};

const OP: &str = "linear";

struct Linear {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

/// y = x Wᵀ + b, with x `[.., In]`, `weight` `[Out, In]` and `bias` `[Out]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let shapes = || format!("(x: {:?}, weight: {:?})", x.shape(), weight.shape());
    let &[outputs, inputs] = weight.shape() else {
        return Err(Error::shape(OP, format!("weight must be [Out, In] {}", shapes())));
    };
    let Some((&last, lead)) = x.shape().split_last() else {
        return Err(Error::shape(OP, format!("x must be [.., In] {}", shapes())));
    };
    if last != inputs {
        let what = format!("weight expects {inputs} inputs, but x has {last} {}", shapes());
        return Err(Error::shape(OP, what));
    }
    let op = Linear { rows: elements(lead), inputs, outputs };
    match bias {
        None => apply(op, &[x, weight]),
        Some(bias) => {
            expect_shape(OP, "bias", bias, &[outputs])?;
            apply(op, &[x, weight, bias])
        }
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let (x, weight, bias) = (inputs[0], inputs[1], inputs.get(2));
        let args = MatmulArgs::new(&[self.rows, self.inputs], weight.shape(), false, true)?;
        let y = be.matmul(&args, x.buffer(), weight.buffer(), bias.map(|b| b.buffer()))?;
        let mut shape = x.shape().to_vec();
        shape[x.rank() - 1] = self.outputs;
        Ok((x.wrap(y, &shape), Saved::new([x, weight])))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let [x, weight] = saved.take();
        let x_rows = [self.rows, self.inputs];
        let y_rows = [self.rows, self.outputs];
        let mut gradients = vec![None; needs.len()];
        if needs[0] {
            let args = MatmulArgs::new(&y_rows, weight.shape(), false, false)?;
            gradients[0] = Some(x.like(be.matmul(&args, dy.buffer(), weight.buffer(), None)?));
        }
        if needs[1] {
            let args = MatmulArgs::new(&y_rows, &x_rows, true, false)?;
            gradients[1] = Some(weight.like(be.matmul(&args, dy.buffer(), x.buffer(), None)?));
        }
        if needs.get(2) == Some(&true) {
            let args = ReduceArgs::new(OP, &y_rows, &[0])?;
            let db = be.reduce_forward(Reduce::Sum, &args, dy.buffer())?;
            gradients[2] = Some(dy.wrap(db, &[self.outputs]));
        }
        Ok(gradients)
    }
}
