//! Pooling.

use super::conv2d::windows;
use super::elements;
use crate::{Error, Result};

/// Sizes of a pooling: x `[n, h, w, c]`, y `[n, oh, ow, c]`. Padding counts as -inf for max, and is
/// left out of averages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2dArgs {
    /// Images.
    pub n: usize,
    /// Input rows.
    pub h: usize,
    /// Input columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Window `[rows, columns]`.
    pub kernel: [usize; 2],
    /// Distance between windows.
    pub stride: [usize; 2],
    /// Positions added on both sides; at most half the window, so that no window is empty.
    pub padding: [usize; 2],
    /// Output rows.
    pub oh: usize,
    /// Output columns.
    pub ow: usize,
}

impl Pool2dArgs {
    /// From the shape of x.
    pub fn new(
        op: &'static str,
        x: &[usize],
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> Result<Self> {
        let &[n, h, w, c] = x else {
            return Err(Error::shape(op, format!("x must be [N, H, W, C], got {x:?}")));
        };
        let axis = |i: usize, size| {
            // Padding could be wide enough for windows that see nothing else.
            if size == 0 {
                return Err(Error::argument(op, format!("needs at least 1 position, got {x:?}")));
            }
            if padding[i] * 2 > kernel[i] {
                return Err(Error::argument(
                    op,
                    format!("padding {padding:?} must be at most half of the window {kernel:?}"),
                ));
            }
            windows(size, kernel[i], stride[i], padding[i], 1)
                .map_err(|what| Error::argument(op, format!("{what} (x: {x:?})")))
        };
        let (oh, ow) = (axis(0, h)?, axis(1, w)?);
        Ok(Pool2dArgs { n, h, w, c, kernel, stride, padding, oh, ow })
    }

    /// Elements of x.
    pub fn x_elements(&self) -> usize {
        elements(&[self.n, self.h, self.w, self.c])
    }

    /// Elements of y.
    pub fn y_elements(&self) -> usize {
        elements(&[self.n, self.oh, self.ow, self.c])
    }

    /// The input rows and columns that output position `(oy, ox)` covers, padding left out.
    #[inline]
    pub fn window(&self, oy: usize, ox: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let axis = |o: usize, i: usize, size: usize| {
            let start = o * self.stride[i];
            let end = (start + self.kernel[i]).saturating_sub(self.padding[i]).min(size);
            start.saturating_sub(self.padding[i]).min(end)..end
        };
        (axis(oy, 0, self.h), axis(ox, 1, self.w))
    }
}
