//! Functions of one and of two inputs, element by element. All buffers `[len]`, or the shapes of a
//! broadcast.

use std::f64::consts::{PI, SQRT_2};

use super::float::Float;
use super::index::{broadcast_strides, offset};
use crate::{Binary, BroadcastArgs, Unary, elements};

/// 1 / (1 + e^-x)
fn sigmoid<F: Float>(x: F) -> F {
    F::ONE / (F::ONE + (-x).exp())
}

/// Φ(x) = (1 + erf(x / √2)) / 2, written with erfc so that the left tail keeps its digits.
fn normal_cdf<F: Float>(x: F) -> F {
    F::from_f64(0.5) * (-x / F::from_f64(SQRT_2)).erfc()
}

/// φ(x) = e^(-x²/2) / √(2π)
fn normal_density<F: Float>(x: F) -> F {
    (-x * x * F::from_f64(0.5)).exp() / F::from_f64((2.0 * PI).sqrt())
}

/// y = op(x)
pub fn unary_forward<F: Float>(op: Unary, x: &[F], y: &mut [F]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = match op {
            Unary::Affine { scale, shift } => F::from_f64(scale) * x + F::from_f64(shift),
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Sqrt => x.sqrt(),
            Unary::Tanh => x.tanh(),
            Unary::Sigmoid => sigmoid(x),
            Unary::Relu => relu(x),
            Unary::LeakyRelu { slope } => {
                if x <= F::ZERO {
                    F::from_f64(slope) * x
                } else {
                    x
                }
            }
            Unary::Gelu => x * normal_cdf(x),
            Unary::Silu => x * sigmoid(x),
        };
    }
}

/// max(x, 0), NaN for NaN.
pub fn relu<F: Float>(x: F) -> F {
    if x <= F::ZERO { F::ZERO } else { x }
}

/// Gradient of relu from its output (or its input, which has the same sign): none at 0.
pub fn relu_backward<F: Float>(y: F, dy: F) -> F {
    if y <= F::ZERO { F::ZERO } else { dy }
}

/// dx = dy op'(x), where `saved` is x, y or dy as [`Unary::saves`] says.
pub fn unary_backward<F: Float>(op: Unary, saved: &[F], dy: &[F], dx: &mut [F]) {
    for ((dx, &saved), &dy) in dx.iter_mut().zip(saved).zip(dy) {
        let (x, y) = (saved, saved); // named as the op means it
        *dx = match op {
            Unary::Affine { scale, .. } => F::from_f64(scale) * dy,
            Unary::Exp => dy * y,
            Unary::Log => dy / x,
            Unary::Sqrt => dy / (y + y),
            Unary::Tanh => dy * (F::ONE - y * y),
            Unary::Sigmoid => dy * y * (F::ONE - y),
            Unary::Relu => relu_backward(y, dy),
            Unary::LeakyRelu { slope } => {
                if x <= F::ZERO {
                    F::from_f64(slope) * dy
                } else {
                    dy
                }
            }
            // (x Φ)' = Φ + x φ
            Unary::Gelu => dy * (normal_cdf(x) + x * normal_density(x)),
            // s' = s (1 - s), so (x s)' = s + x s (1 - s)
            Unary::Silu => {
                let s = sigmoid(x);
                dy * s * (F::ONE + x * (F::ONE - s))
            }
        };
    }
}

/// y = a op b; y has the shape `args.out`, a and b repeat along their axes of size 1.
pub fn binary_forward<F: Float>(op: Binary, args: &BroadcastArgs, a: &[F], b: &[F], y: &mut [F]) {
    let (a_strides, b_strides) = (broadcast_strides(&args.a), broadcast_strides(&args.b));
    for (i, y) in y.iter_mut().enumerate() {
        let a = a[offset(i, &args.out, &a_strides)];
        let b = b[offset(i, &args.out, &b_strides)];
        *y = match op {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Max => a.nan_max(b),
        };
    }
}

/// One of the two inputs of a [`Binary`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

/// Gradient of the input on one side, `[args.a]` or `[args.b]`: summed over the elements that it
/// was repeated for.
pub fn binary_backward<F: Float>(
    op: Binary,
    args: &BroadcastArgs,
    side: Side,
    a: &[F],
    b: &[F],
    dy: &[F],
    gradient: &mut [F],
) {
    let (a_strides, b_strides) = (broadcast_strides(&args.a), broadcast_strides(&args.b));
    gradient.fill(F::ZERO);
    for i in 0..elements(&args.out) {
        let at_a = offset(i, &args.out, &a_strides);
        let at_b = offset(i, &args.out, &b_strides);
        let (a, b, dy) = (a[at_a], b[at_b], dy[i]);
        match side {
            Side::A => {
                gradient[at_a] += match op {
                    Binary::Add | Binary::Sub => dy,
                    Binary::Mul => dy * b,
                    Binary::Div => dy / b,
                    Binary::Max => max_backward(a, b, dy),
                }
            }
            Side::B => {
                gradient[at_b] += match op {
                    Binary::Add => dy,
                    Binary::Sub => -dy,
                    Binary::Mul => dy * a,
                    Binary::Div => -dy * (a / b) / b,
                    Binary::Max => max_backward(b, a, dy),
                }
            }
        }
    }
}

/// Gradient that reaches `this` through max(this, other): all, none, or half at a tie.
fn max_backward<F: Float>(this: F, other: F, dy: F) -> F {
    if this.larger(other) {
        dy
    } else if other.larger(this) {
        F::ZERO
    } else {
        dy * F::from_f64(0.5)
    }
}

/// into += x
pub fn accumulate<F: Float>(into: &mut [F], x: &[F]) {
    for (into, &x) in into.iter_mut().zip(x) {
        *into += x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mills' ratio: Φ(-x) is φ(x) / x (1 - 1/x² + 3/x⁴ - ..) for large x. A form with 1 + erf
    /// would answer 0.
    #[test]
    fn gelu_keeps_its_left_tail() {
        let mut y = [0.0f64];
        unary_forward(Unary::Gelu, &[-12.0], &mut y);
        let x2 = 144.0f64;
        let series = 1.0 - 1.0 / x2 + 3.0 / x2.powi(2) - 15.0 / x2.powi(3) + 105.0 / x2.powi(4);
        let expected = -normal_density(12.0) * series;
        assert!((y[0] / expected - 1.0).abs() < 1e-7, "{} {expected}", y[0]);
    }

    #[test]
    fn at_a_maximum_nan_counts_as_largest_and_takes_the_gradient() {
        let args = BroadcastArgs::new("max", &[4], &[4]).unwrap();
        let (a, b) = ([f64::NAN, 1.0, f64::NAN, 2.0], [1.0, f64::NAN, f64::NAN, 2.0]);
        let mut y = [0.0; 4];
        binary_forward(Binary::Max, &args, &a, &b, &mut y);
        assert!(y[..3].iter().all(|v| v.is_nan()) && y[3] == 2.0);
        let (mut da, mut db) = ([9.0; 4], [9.0; 4]);
        binary_backward(Binary::Max, &args, Side::A, &a, &b, &[1.0; 4], &mut da);
        binary_backward(Binary::Max, &args, Side::B, &a, &b, &[1.0; 4], &mut db);
        assert_eq!((da, db), ([1.0, 0.0, 0.5, 0.5], [0.0, 1.0, 0.5, 0.5]));
    }
}
