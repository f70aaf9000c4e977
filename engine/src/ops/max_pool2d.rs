//! Maximum over windows of an image.
//!
//! x is `[N, H, W, C]`, y `[N, OH, OW, C]`. With window K, stride s and padding p along an axis, a
//! window covers positions o s − p to o s − p + K − 1; padding counts as −∞, so that only x can
//! win:
//!   y[n, oy, ox, c] = max over the window of x[n, iy, ix, c],   OH = ⌊(H + 2p − K) / s⌋ + 1.
//! NaN counts as largest.
//!
//! Derivative. The first maximum of each window (row-major) gets its dy, and windows may overlap:
//!   dx[n, iy, ix, c] = Σ dy[n, oy, ox, c] over the windows whose maximum is at (iy, ix).
//! Forward keeps the positions of the maxima, so that neither x nor y is needed.

use tilegrad_kernels::Pool2dArgs;

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct MaxPool2d(Pool2dArgs);

/// y = largest x of each window. Sizes are `[vertical, horizontal]`; padding is at most half of
/// the window.
pub fn max_pool2d(
    x: &Tensor,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> Result<Tensor> {
    let args = Pool2dArgs::new("max_pool2d", x.shape(), kernel, stride, padding)?;
    apply(MaxPool2d(args), &[x])
}

impl Op for MaxPool2d {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let Pool2dArgs { n, oh, ow, c, .. } = self.0;
        let x = inputs[0];
        let (y, positions) = be.max_pool2d_forward(&self.0, x.buffer())?;
        let (y, positions) = (x.wrap(y, &[n, oh, ow, c]), x.wrap(positions, &[n, oh, ow, c]));
        Ok((y, Saved::new([&positions])))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Pool2dArgs { n, h, w, c, .. } = self.0;
        let [positions] = saved.take();
        let dx = be.max_pool2d_backward(&self.0, positions.buffer(), dy.buffer())?;
        Ok(vec![Some(dy.wrap(dx, &[n, h, w, c]))])
    }
}
