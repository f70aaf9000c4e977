//! The arithmetic that the loops need, for f32 and f64.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub, SubAssign};

use crate::Element;

/// f32 or f64.
pub trait Float:
    Element
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
{
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// -inf, the maximum of nothing.
    const NEG_INFINITY: Self;

    /// Rounded to nearest: constants are computed in f64 and converted once.
    fn from_f64(value: f64) -> Self;
    /// e^self
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// 1 - erf(self), exact to the last bits where erf is near 1.
    fn erfc(self) -> Self;
    /// True for NaN.
    fn is_nan(self) -> bool;

    /// A count; exact below 2^24.
    fn from_usize(value: usize) -> Self {
        Self::from_f64(value as f64)
    }

    /// self > other, where NaN counts as largest (and equal to another NaN).
    fn larger(self, other: Self) -> bool {
        !other.is_nan() && (self.is_nan() || self > other)
    }

    /// The larger of two; NaN if either is.
    fn nan_max(self, other: Self) -> Self {
        if other.larger(self) { other } else { self }
    }
}

/// Σ values, from +0 on (the standard library's sum of no floats is -0).
pub fn sum<F: Float>(values: impl IntoIterator<Item = F>) -> F {
    values.into_iter().fold(F::ZERO, |sum, value| sum + value)
}

macro_rules! float {
    ($float:ident, $erfc:path) => {
        impl Float for $float {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = $float::NEG_INFINITY;

            fn from_f64(value: f64) -> Self {
                value as $float
            }
            fn exp(self) -> Self {
                self.exp()
            }
            fn ln(self) -> Self {
                self.ln()
            }
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            fn tanh(self) -> Self {
                self.tanh()
            }
            fn erfc(self) -> Self {
                $erfc(self)
            }
            fn is_nan(self) -> bool {
                self.is_nan()
            }
        }
    };
}
float!(f32, libm::erfcf);
float!(f64, libm::erfc);
