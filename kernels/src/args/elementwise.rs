//! Elementwise functions and broadcasting.

use crate::{Error, Result};

/// Elementwise functions of one input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// `scale * x + shift`: negation, scaling and shifting by constants.
    Affine {
        /// Factor.
        scale: f64,
        /// Summand.
        shift: f64,
    },
    /// e^x
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// max(x, 0); its derivative at 0 is 0.
    Relu,
    /// x where positive, `slope * x` elsewhere.
    LeakyRelu {
        /// Slope for x <= 0.
        slope: f64,
    },
    /// x Φ(x), with Φ the normal distribution function (Hendrycks and Gimpel 2016, exact form).
    Gelu,
    /// x sigmoid(x) (Elfwing et al. 2018).
    Silu,
}

/// What the derivative of a [`Unary`] is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saves {
    /// Nothing: the derivative is a constant.
    Nothing,
    /// The input x.
    Input,
    /// The output y, so that x can be freed.
    Output,
}

impl Unary {
    /// The op's name in errors and in the case table.
    pub const fn name(self) -> &'static str {
        match self {
            Unary::Affine { .. } => "affine",
            Unary::Exp => "exp",
            Unary::Log => "log",
            Unary::Sqrt => "sqrt",
            Unary::Tanh => "tanh",
            Unary::Sigmoid => "sigmoid",
            Unary::Relu => "relu",
            Unary::LeakyRelu { .. } => "leaky_relu",
            Unary::Gelu => "gelu",
            Unary::Silu => "silu",
        }
    }

    /// What `unary_backward` must be given as `saved`.
    pub const fn saves(self) -> Saves {
        match self {
            Unary::Affine { .. } => Saves::Nothing,
            Unary::Exp | Unary::Sqrt | Unary::Tanh | Unary::Sigmoid | Unary::Relu => Saves::Output,
            Unary::Log | Unary::LeakyRelu { .. } | Unary::Gelu | Unary::Silu => Saves::Input,
        }
    }
}

/// Elementwise functions of two inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a b
    Mul,
    /// a / b
    Div,
    /// The larger; NaN if either is NaN. At a tie each input gets half of the gradient.
    Max,
}

impl Binary {
    /// The op's name in errors and in the case table.
    pub const fn name(self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Max => "max",
        }
    }
}

/// Two shapes that broadcast to one, by NumPy's rule: aligned at the last axis, a size of 1
/// repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroadcastArgs {
    /// Shape of the result.
    pub out: Vec<usize>,
    /// Shape of the first input, padded with leading 1s to the rank of `out`.
    pub a: Vec<usize>,
    /// Shape of the second input, padded likewise.
    pub b: Vec<usize>,
}

impl BroadcastArgs {
    /// Shapes need not have the same rank.
    pub fn new(op: &'static str, a: &[usize], b: &[usize]) -> Result<Self> {
        let rank = a.len().max(b.len());
        let pad = |s: &[usize]| {
            let mut padded = vec![1; rank - s.len()];
            padded.extend_from_slice(s);
            padded
        };
        let (pa, pb) = (pad(a), pad(b));
        let mut out = Vec::with_capacity(rank);
        for (&x, &y) in pa.iter().zip(&pb) {
            out.push(match (x, y) {
                (x, y) if x == y => x,
                (1, y) => y,
                (x, 1) => x,
                _ => {
                    return Err(Error::shape(
                        op,
                        format!(
                            "shapes {a:?} and {b:?} do not broadcast: sizes {x} and {y} differ and neither is 1"
                        ),
                    ));
                }
            });
        }
        Ok(BroadcastArgs { out, a: pa, b: pb })
    }
}
