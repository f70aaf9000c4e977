//! Convolution.

use super::elements;
use crate::{Error, Result};

/// Activation that a fused kernel applies to its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// None.
    #[default]
    Identity,
    /// max(x, 0)
    Relu,
}

/// Options of a convolution, for both axes `[vertical, horizontal]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dOptions {
    /// Distance between output positions; at least 1.
    pub stride: [usize; 2],
    /// Zeros added on both sides.
    pub padding: [usize; 2],
    /// Distance between filter taps; at least 1.
    pub dilation: [usize; 2],
    /// Groups of channels that do not mix; divides both channel counts.
    pub groups: usize,
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Conv2dOptions { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

/// Sizes of a convolution: x `[n, h, w, c_in]`, filter `[c_out, kh, kw, c_in / groups]`, y `[n, oh,
/// ow, c_out]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dArgs {
    /// Images.
    pub n: usize,
    /// Input rows.
    pub h: usize,
    /// Input columns.
    pub w: usize,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Filter rows.
    pub kh: usize,
    /// Filter columns.
    pub kw: usize,
    /// Output rows.
    pub oh: usize,
    /// Output columns.
    pub ow: usize,
    /// Stride, padding, dilation, groups.
    pub options: Conv2dOptions,
}

/// Output positions of a sliding window along one axis, or what is wrong.
pub(super) fn windows(
    size: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
) -> std::result::Result<usize, String> {
    if kernel == 0 || stride == 0 || dilation == 0 {
        return Err(format!(
            "kernel, stride and dilation must be at least 1, got {kernel}, {stride}, {dilation}"
        ));
    }
    let reach = dilation.checked_mul(kernel - 1).and_then(|r| r.checked_add(1));
    let padded = padding.checked_mul(2).and_then(|p| p.checked_add(size));
    match (reach, padded) {
        (Some(reach), Some(padded)) if padded >= reach => Ok((padded - reach) / stride + 1),
        (Some(reach), Some(padded)) => Err(format!(
            "the window reaches over {reach} positions, but there are {padded} with padding"
        )),
        _ => Err("kernel, dilation or padding is too large".to_string()),
    }
}

impl Conv2dArgs {
    /// From the shapes of x and the filter.
    pub fn new(x: &[usize], filter: &[usize], options: Conv2dOptions) -> Result<Self> {
        const OP: &str = "conv2d";
        let groups = options.groups;
        let shapes = format!("(x: {x:?}, filter: {filter:?}, groups {groups})");
        let (&[n, h, w, c_in], &[c_out, kh, kw, c_group]) = (x, filter) else {
            return Err(Error::shape(
                OP,
                format!("x must be [N, H, W, C] and filter [Cout, KH, KW, Cin / groups] {shapes}"),
            ));
        };
        if groups == 0 || c_in % groups != 0 || c_out % groups != 0 {
            return Err(Error::argument(
                OP,
                format!("groups must divide {c_in} input and {c_out} output channels {shapes}"),
            ));
        }
        if c_group * groups != c_in {
            return Err(Error::shape(
                OP,
                format!(
                    "filter expects {} input channels, but x has {c_in} {shapes}",
                    c_group * groups
                ),
            ));
        }
        let axis = |i: usize, size, kernel| {
            windows(size, kernel, options.stride[i], options.padding[i], options.dilation[i])
                .map_err(|what| Error::argument(OP, format!("{what} {shapes}")))
        };
        let (oh, ow) = (axis(0, h, kh)?, axis(1, w, kw)?);
        // Kernels walk padded images: their sizes must stay far from overflow too.
        let padded = |size: usize, i: usize| size.saturating_add(2 * options.padding[i]);
        let channels = c_in.max(c_out);
        for shape in [
            [n.max(1), padded(h, 0).max(oh), padded(w, 1).max(ow), channels],
            [c_out, kh, kw, c_in],
        ] {
            let bytes =
                shape.iter().try_fold(64usize, |bytes, &size| bytes.checked_mul(size.max(1)));
            if bytes.is_none_or(|bytes| bytes > isize::MAX as usize) {
                return Err(Error::shape(OP, format!("sizes are too large {shapes}")));
            }
        }
        Ok(Conv2dArgs { n, h, w, c_in, c_out, kh, kw, oh, ow, options })
    }

    /// Shape of y.
    pub fn y_shape(&self) -> [usize; 4] {
        [self.n, self.oh, self.ow, self.c_out]
    }

    /// Shape of x.
    pub fn x_shape(&self) -> [usize; 4] {
        [self.n, self.h, self.w, self.c_in]
    }

    /// Shape of the filter.
    pub fn filter_shape(&self) -> [usize; 4] {
        [self.c_out, self.kh, self.kw, self.c_in / self.options.groups]
    }

    /// Elements of x.
    pub fn x_elements(&self) -> usize {
        elements(&self.x_shape())
    }

    /// Elements of the filter.
    pub fn filter_elements(&self) -> usize {
        elements(&self.filter_shape())
    }

    /// Elements of y.
    pub fn y_elements(&self) -> usize {
        elements(&self.y_shape())
    }

    /// Floating-point operations of any of the three passes done directly.
    pub fn flops(&self) -> u64 {
        let taps = (self.kh * self.kw * self.c_in / self.options.groups) as u64;
        2 * self.y_elements() as u64 * taps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes whose products wrap around must not become small sizes.
    #[test]
    fn sizes_beyond_memory_are_an_error() {
        let plain = Conv2dOptions::default();
        assert!(Conv2dArgs::new(&[1, (1 << 54) + 1, 1024, 1], &[1, 1, 1, 1], plain).is_err());
        let far = 1 << 40;
        let wide = Conv2dOptions { padding: [far, far], stride: [far, far], ..plain };
        assert!(Conv2dArgs::new(&[1, 8, 8, 1], &[1, 1, 1, 1], wide).is_err());
        assert!(Conv2dArgs::new(&[1, 8, 8, 1], &[1, 1, 1, 1], plain).is_ok());
    }
}
