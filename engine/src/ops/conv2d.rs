//! Two-dimensional convolution (cross-correlation, as is usual), with bias and activation fused.
//!
//! x is `[N, H, W, Cin]`, the filter F `[Cout, KH, KW, Cin / groups]`, b `[Cout]`, y `[N, OH, OW,
//! Cout]`. With stride s, padding p and dilation d, tap (ky, kx) of output (oy, ox) reads the input
//! at
//!   iy = oy s + ky d − p,   ix = ox s + kx d − p,
//! where x = 0 outside the image:
//!   y[n, oy, ox, o] = act(b_o + Σ_{ky, kx, c} x[n, iy, ix, c] F[o, ky, kx, c]).
//! OH = ⌊(H + 2p − d (KH − 1) − 1) / s⌋ + 1, and likewise OW. With G groups, output channels are
//! split into G equal runs, and each sees only its own run of Cin / G input channels.
//!
//! Derivative. First through the activation: g = dy act'(y), which for relu is dy where y > 0. Then
//! each x and each tap of F gets g from every output in which it had a part, times its partner in
//! the product:
//!   dx[n, iy, ix, c] = Σ g[n, oy, ox, o] F[o, ky, kx, c] over all o and taps that read (iy, ix)
//!   dF[o, ky, kx, c] = Σ_{n, oy, ox} g[n, oy, ox, o] x[n, iy, ix, c]
//!   db_o             = Σ_{n, oy, ox} g[n, oy, ox, o]
//! For inference, a residual r of y's shape is added before the activation (dr = g), and F and b are
//! constants.

use tilegrad_kernels::{Conv2dArgs, Reduce, ReduceArgs, Unary};

use super::{expect_constant, expect_shape};
use crate::{Activation, Backend, Conv2dOptions, Op, Result, Saved, Tensor, apply};

const OP: &str = "conv2d";

struct Conv2d {
    args: Conv2dArgs,
    activation: Activation,
}

/// y = activation(x * filter + bias), with x `[N, H, W, Cin]`, `filter` `[Cout, KH, KW, Cin /
/// groups]` and `bias` `[Cout]`.
pub fn conv2d(
    x: &Tensor,
    filter: &Tensor,
    bias: Option<&Tensor>,
    options: Conv2dOptions,
    activation: Activation,
) -> Result<Tensor> {
    let args = Conv2dArgs::new(x.shape(), filter.shape(), options)?;
    let op = Conv2d { args, activation };
    match bias {
        None => apply(op, &[x, filter]),
        Some(bias) => {
            expect_shape(OP, "bias", bias, &[args.c_out])?;
            apply(op, &[x, filter, bias])
        }
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let (x, filter, bias) = (inputs[0], inputs[1], inputs.get(2).map(|b| b.buffer()));
        let y =
            be.conv2d_forward(&self.args, self.activation, x.buffer(), filter.buffer(), bias)?;
        let y = x.wrap(y, &self.args.y_shape());
        let saved = match self.activation {
            Activation::Identity => Saved::new([x, filter]),
            Activation::Relu => Saved::new([x, filter, &y]),
        };
        Ok((y, saved))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (x, filter, g) = match self.activation {
            Activation::Identity => {
                let [x, filter] = saved.take();
                (x, filter, dy)
            }
            Activation::Relu => {
                let [x, filter, y] = saved.take();
                let g = be.unary_backward(Unary::Relu, y.buffer(), dy.buffer())?;
                drop(dy);
                (x, filter, y.like(g))
            }
        };
        let mut gradients = vec![None; needs.len()];
        if needs.get(2) == Some(&true) {
            let args = ReduceArgs::new(OP, g.shape(), &[0, 1, 2])?;
            let db = be.reduce_forward(Reduce::Sum, &args, g.buffer())?;
            gradients[2] = Some(g.wrap(db, &[self.args.c_out]));
        }
        if needs[1] {
            let df = be.conv2d_backward_filter(&self.args, x.buffer(), g.buffer())?;
            gradients[1] = Some(filter.like(df));
        }
        drop(x); // If nothing else needs x, dx can have its memory.
        if needs[0] {
            let dx = be.conv2d_backward_data(&self.args, filter.buffer(), g.buffer())?;
            gradients[0] = Some(g.wrap(dx, &self.args.x_shape()));
        }
        Ok(gradients)
    }
}

const INFERENCE: &str = "conv2d_inference";

/// Inputs x, filter, perhaps bias, perhaps residual.
struct Conv2dInference {
    args: Conv2dArgs,
    activation: Activation,
    has_residual: bool,
}

/// y = activation(x * filter + bias + residual), with `residual` of y's shape, the rest as in
/// [`conv2d()`](conv2d). The filter and the bias are constants: untracked. What the device derives
/// from the filter may be kept with it, so that the next call with the same tensor is faster.
pub fn conv2d_inference(
    x: &Tensor,
    filter: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    options: Conv2dOptions,
    activation: Activation,
) -> Result<Tensor> {
    let args = Conv2dArgs::new(x.shape(), filter.shape(), options)?;
    expect_constant(INFERENCE, "the filter", filter)?;
    let mut inputs = vec![x, filter];
    if let Some(bias) = bias {
        expect_shape(INFERENCE, "bias", bias, &[args.c_out])?;
        expect_constant(INFERENCE, "the bias", bias)?;
        inputs.push(bias);
    }
    if let Some(residual) = residual {
        expect_shape(INFERENCE, "residual", residual, &args.y_shape())?;
        inputs.push(residual);
    }
    apply(Conv2dInference { args, activation, has_residual: residual.is_some() }, &inputs)
}

impl Op for Conv2dInference {
    fn name(&self) -> &'static str {
        INFERENCE
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let (x, filter) = (inputs[0], inputs[1]);
        let (bias, residual) = match inputs[2..] {
            [residual] if self.has_residual => (None, Some(residual)),
            [bias, residual] => (Some(bias), Some(residual)),
            [bias] => (Some(bias), None),
            _ => (None, None),
        };
        let y = be.conv2d_inference(
            &self.args,
            self.activation,
            x.buffer(),
            filter.buffer(),
            bias.map(Tensor::buffer),
            residual.map(Tensor::buffer),
        )?;
        let y = x.wrap(y, &self.args.y_shape());
        let saved = match self.activation {
            Activation::Identity => Saved::new([filter]),
            Activation::Relu => Saved::new([filter, &y]),
        };
        Ok((y, saved))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (filter, g) = match self.activation {
            Activation::Identity => {
                let [filter] = saved.take();
                (filter, dy)
            }
            Activation::Relu => {
                let [filter, y] = saved.take();
                let g = be.unary_backward(Unary::Relu, y.buffer(), dy.buffer())?;
                (filter, y.like(g))
            }
        };
        let mut gradients = vec![None; needs.len()];
        if needs[0] {
            let dx = be.conv2d_backward_data(&self.args, filter.buffer(), g.buffer())?;
            gradients[0] = Some(g.wrap(dx, &self.args.x_shape()));
        }
        if self.has_residual && needs.last() == Some(&true) {
            gradients[needs.len() - 1] = Some(g);
        }
        Ok(gradients)
    }
}
