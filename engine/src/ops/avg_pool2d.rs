//! Mean over windows of an image, and over whole images.
//!
//! x is `[N, H, W, C]`, y `[N, OH, OW, C]`. With window K, stride s and padding p along an axis, a
//! window covers positions o s − p to o s − p + K − 1, of which those inside the image count; let
//! m(oy, ox) be their number:
//!   y[n, oy, ox, c] = Σ over the window of x[n, iy, ix, c] / m(oy, ox),
//!   OH = ⌊(H + 2p − K) / s⌋ + 1.
//!
//! Derivative. Windows may overlap, and each gives its elements an equal share:
//!   dx[n, iy, ix, c] = Σ dy[n, oy, ox, c] / m(oy, ox) over the windows that cover (iy, ix).

use tilegrad_kernels::{Pool2dArgs, Reduce};

use super::reduce::reduce;
use crate::{Backend, Error, Op, Result, Saved, Tensor, apply};

struct AvgPool2d(Pool2dArgs);

/// y = mean x of each window, padding left out. Sizes are `[vertical, horizontal]`; padding is at
/// most half of the window.
pub fn avg_pool2d(
    x: &Tensor,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> Result<Tensor> {
    let args = Pool2dArgs::new("avg_pool2d", x.shape(), kernel, stride, padding)?;
    apply(AvgPool2d(args), &[x])
}

/// y = mean over each image, `[N, H, W, C]` to `[N, C]`.
pub fn global_avg_pool2d(x: &Tensor) -> Result<Tensor> {
    const OP: &str = "global_avg_pool2d";
    if x.rank() != 4 {
        return Err(Error::shape(OP, format!("x must be [N, H, W, C], got {:?}", x.shape())));
    }
    reduce(OP, Reduce::Mean, x, &[1, 2])
}

impl Op for AvgPool2d {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let Pool2dArgs { n, oh, ow, c, .. } = self.0;
        let x = inputs[0];
        let y = be.avg_pool2d_forward(&self.0, x.buffer())?;
        Ok((x.wrap(y, &[n, oh, ow, c]), Saved::none()))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        _saved: Saved,
        dy: Tensor,
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Pool2dArgs { n, h, w, c, .. } = self.0;
        let dx = be.avg_pool2d_backward(&self.0, dy.buffer())?;
        Ok(vec![Some(dy.wrap(dx, &[n, h, w, c]))])
    }
}
