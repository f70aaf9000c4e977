//! Convolution. x `[n, h, w, c_in]`, filter `[c_out, kh, kw, c_in / groups]`, y `[n, oh, ow,
//! c_out]`.
//!
//! It is a sum of products over triples (element of x, element of filter, element of y), so all
//! three passes walk the same triples: forward adds x filter to y, and each backward pass adds dy
//! times the other factor to its gradient.

use super::elementwise::relu;
use super::float::Float;
use crate::{Activation, Conv2dArgs};

/// Calls `visit` with the positions in x, filter and y of every product.
fn for_each_product(args: &Conv2dArgs, mut visit: impl FnMut(usize, usize, usize)) {
    let Conv2dArgs { n, h, w, c_in, c_out, kh, kw, oh, ow, options } = *args;
    // Channels of x that one filter sees, and filters that see them.
    let (group_in, group_out) = (c_in / options.groups, c_out / options.groups);
    // Row or column of x under tap k of output position o, unless it lies in the padding.
    let tap = |axis: usize, o: usize, k: usize, size: usize| {
        (o * options.stride[axis] + k * options.dilation[axis])
            .checked_sub(options.padding[axis])
            .filter(|&i| i < size)
    };
    for image in 0..n {
        for oy in 0..oh {
            for ox in 0..ow {
                for co in 0..c_out {
                    let at_y = ((image * oh + oy) * ow + ox) * c_out + co;
                    for ky in 0..kh {
                        let Some(iy) = tap(0, oy, ky, h) else { continue };
                        for kx in 0..kw {
                            let Some(ix) = tap(1, ox, kx, w) else { continue };
                            for c in 0..group_in {
                                let ci = co / group_out * group_in + c;
                                let at_x = ((image * h + iy) * w + ix) * c_in + ci;
                                let at_filter = ((co * kh + ky) * kw + kx) * group_in + c;
                                visit(at_x, at_filter, at_y);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// y = activation(x * filter + bias), bias `[c_out]`.
pub fn conv2d_forward<F: Float>(
    args: &Conv2dArgs,
    activation: Activation,
    x: &[F],
    filter: &[F],
    bias: Option<&[F]>,
    y: &mut [F],
) {
    conv2d_inference(args, activation, x, filter, bias, None, y);
}

/// y = activation(x * filter + bias + residual), residual like y.
pub fn conv2d_inference<F: Float>(
    args: &Conv2dArgs,
    activation: Activation,
    x: &[F],
    filter: &[F],
    bias: Option<&[F]>,
    residual: Option<&[F]>,
    y: &mut [F],
) {
    for (i, y) in y.iter_mut().enumerate() {
        *y = bias.map_or(F::ZERO, |bias| bias[i % args.c_out]);
    }
    for_each_product(args, |at_x, at_filter, at_y| y[at_y] += x[at_x] * filter[at_filter]);
    if let Some(residual) = residual {
        y.iter_mut().zip(residual).for_each(|(y, &r)| *y += r);
    }
    if activation == Activation::Relu {
        y.iter_mut().for_each(|y| *y = relu(*y));
    }
}

/// dx from dy, the gradient before the activation.
pub fn conv2d_backward_data<F: Float>(args: &Conv2dArgs, filter: &[F], dy: &[F], dx: &mut [F]) {
    dx.fill(F::ZERO);
    for_each_product(args, |at_x, at_filter, at_y| dx[at_x] += filter[at_filter] * dy[at_y]);
}

/// dfilter from x and dy, the gradient before the activation.
pub fn conv2d_backward_filter<F: Float>(args: &Conv2dArgs, x: &[F], dy: &[F], dfilter: &mut [F]) {
    dfilter.fill(F::ZERO);
    for_each_product(args, |at_x, at_filter, at_y| dfilter[at_filter] += x[at_x] * dy[at_y]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Conv2dOptions;

    /// The three passes share their indices, so agreement among them proves nothing: numbers
    /// worked out by hand.
    #[test]
    fn strides_paddings_and_dilations_belong_to_their_axes() {
        // x is 3 x 4 with 10 y + x in it; the filter has 2 x 2 taps, two rows and one column
        // apart.
        let x: Vec<f64> = (0..12).map(|i| (i / 4 * 10 + i % 4) as f64).collect();
        let options =
            Conv2dOptions { stride: [1, 2], padding: [1, 0], dilation: [2, 1], groups: 1 };
        let args = Conv2dArgs::new(&[1, 3, 4, 1], &[1, 2, 2, 1], options).unwrap();
        let mut y = [0.0; 6];
        conv2d_forward(&args, Activation::Identity, &x, &[1.0, 2.0, 3.0, 4.0], None, &mut y);
        // Row 0 sees padding and x's row 1; row 1 sees x's rows 0 and 2; row 2 sees x's row 1 and
        // padding.
        assert_eq!(y, [74.0, 88.0, 2.0 + 144.0, 8.0 + 158.0, 32.0, 38.0]);
    }

    #[test]
    fn groups_do_not_mix() {
        let options = Conv2dOptions { groups: 2, ..Default::default() };
        let args = Conv2dArgs::new(&[1, 1, 1, 4], &[2, 1, 1, 2], options).unwrap();
        let mut y = [0.0; 2];
        let x = [1.0, 2.0, 3.0, 4.0];
        conv2d_forward(&args, Activation::Relu, &x, &[1.0, 10.0, 100.0, 1000.0], None, &mut y);
        assert_eq!(y, [21.0, 4300.0]);
    }
}
