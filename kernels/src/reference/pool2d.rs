//! Pooling. x `[n, h, w, c]`, y `[n, oh, ow, c]`.

use super::float::{Float, sum};
use crate::{Error, Pool2dArgs, Result};

/// An element of x in a window.
struct Tap {
    /// `iy * w + ix`, its position in the image.
    position: usize,
    /// Where it is in x.
    at_x: usize,
}

/// Calls `visit` for every element of y, with its position and the elements of x in its window,
/// row by row.
fn for_each_window(args: &Pool2dArgs, mut visit: impl FnMut(usize, &[Tap])) {
    let Pool2dArgs { n, h, w, c, oh, ow, .. } = *args;
    for image in 0..n {
        for oy in 0..oh {
            for ox in 0..ow {
                for channel in 0..c {
                    let (rows, columns) = args.window(oy, ox);
                    let mut taps = Vec::new();
                    for iy in rows {
                        for ix in columns.clone() {
                            let position = iy * w + ix;
                            let at_x = (image * h * w + position) * c + channel;
                            taps.push(Tap { position, at_x });
                        }
                    }
                    visit(((image * oh + oy) * ow + ox) * c + channel, &taps);
                }
            }
        }
    }
}

/// y and the position of its first maximum in the image.
pub fn max_pool2d_forward<F: Float>(
    args: &Pool2dArgs,
    x: &[F],
    y: &mut [F],
    positions: &mut [i32],
) {
    for_each_window(args, |at_y, taps| {
        y[at_y] = F::NEG_INFINITY;
        positions[at_y] = taps.first().map_or(0, |first| first.position as i32);
        for tap in taps {
            if x[tap.at_x].larger(y[at_y]) {
                y[at_y] = x[tap.at_x];
                positions[at_y] = tap.position as i32;
            }
        }
    });
}

/// Every position must lie in the image.
pub fn check_positions(args: &Pool2dArgs, positions: &[i32]) -> Result<()> {
    let bound = args.h * args.w;
    for (position, &index) in positions.iter().enumerate() {
        if !usize::try_from(index).is_ok_and(|index| index < bound) {
            return Err(Error::Index { op: "max_pool2d", index: index.into(), position, bound });
        }
    }
    Ok(())
}

/// dx: each dy goes to the position that its maximum came from. Positions must have been checked.
pub fn max_pool2d_backward<F: Float>(args: &Pool2dArgs, positions: &[i32], dy: &[F], dx: &mut [F]) {
    let Pool2dArgs { h, w, c, oh, ow, .. } = *args;
    dx.fill(F::ZERO);
    for (at_y, (&position, &dy)) in positions.iter().zip(dy).enumerate() {
        let (image, channel) = (at_y / (oh * ow * c), at_y % c);
        dx[(image * h * w + position as usize) * c + channel] += dy;
    }
}

/// y = mean of the window.
pub fn avg_pool2d_forward<F: Float>(args: &Pool2dArgs, x: &[F], y: &mut [F]) {
    for_each_window(args, |at_y, taps| {
        y[at_y] = sum(taps.iter().map(|tap| x[tap.at_x])) / F::from_usize(taps.len());
    });
}

/// dx: each element of a window gets the same part of its dy.
pub fn avg_pool2d_backward<F: Float>(args: &Pool2dArgs, dy: &[F], dx: &mut [F]) {
    dx.fill(F::ZERO);
    for_each_window(args, |at_y, taps| {
        for tap in taps {
            dx[tap.at_x] += dy[at_y] / F::from_usize(taps.len());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_minus_infinity_points_into_itself_and_nan_is_largest() {
        let args = Pool2dArgs::new("max_pool2d", &[1, 1, 6, 1], [1, 2], [1, 2], [0, 0]).unwrap();
        let x = [5.0, 5.0, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
        let (mut y, mut positions) = ([0.0; 3], [-1; 3]);
        max_pool2d_forward(&args, &x, &mut y, &mut positions);
        assert!(y[0] == 5.0 && y[1] == f32::NEG_INFINITY && y[2].is_nan());
        assert_eq!(positions, [0, 2, 5]);
        let bad = check_positions(&args, &[0, 6, 0]);
        assert!(
            matches!(bad, Err(Error::Index { index: 6, position: 1, bound: 6, .. })),
            "{bad:?}"
        );
    }
}
