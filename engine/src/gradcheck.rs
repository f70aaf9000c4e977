//! Checks the derivative of any function of tensors against central differences.
//!
//! For a function f of some tensors, with weights w drawn once, L = Σ w · f(..) is a scalar.
//! [`check`] compares ∂L/∂x as the tape gives it with (L(x + h) − L(x − h)) / 2h, whose error is
//! of order h² plus rounding / h, for every element x of every float input. Everything is f64, so
//! put the inputs on the [reference](crate::reference) backend.
//!
//! ```
//! use tilegrad_engine::{Tensor, gradcheck, ops, reference};
//!
//! let device = reference();
//! let x = Tensor::from_slice(&device, &[0.3f64, -1.2, 2.0, 0.1, 0.7, -0.4], &[2, 3])?;
//! let b = Tensor::from_slice(&device, &[0.5f64, 0.1, -0.6], &[3])?;
//! gradcheck::check(&[x, b], |t| ops::tanh(&ops::add(&t[0], &t[1])?))?;
//! # Ok::<(), gradcheck::Failure>(())
//! ```
//!
//! A function with a kink (relu at 0, the maximum of equal elements) has no derivative there: keep
//! inputs away from it by more than [`Tolerance::step`].

use std::fmt;

use tilegrad_kernels::philox::{Purpose, Stream};

use crate::{Dtype, Error, Gradients, Tensor, no_grad};

/// How central differences are taken, and how far they may lie from the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// h, for elements up to 1; larger ones are moved in proportion.
    pub step: f64,
    /// Largest absolute error, whatever the size of the gradient.
    pub absolute: f64,
    /// Error allowed beyond it, relative to the numeric gradient.
    pub relative: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Tolerance { step: 1e-6, absolute: 1e-5, relative: 1e-3 }
    }
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The gradient of one element is wrong.
    Mismatch {
        /// Which input.
        input: usize,
        /// Position in it, row-major.
        element: usize,
        /// The gradient by the tape; 0 where it has none.
        analytic: f64,
        /// The gradient by differences.
        numeric: f64,
        /// The largest difference that would have passed.
        tolerance: f64,
    },
    /// A gradient has another shape or dtype than its input.
    Form {
        /// Which input.
        input: usize,
        /// Shape of the input.
        expected: Vec<usize>,
        /// Shape of its gradient.
        got: Vec<usize>,
        /// Dtype of its gradient; should be f64.
        dtype: Dtype,
    },
    /// The gradient of an input depends on which other inputs are tracked.
    Inconsistent {
        /// Which input.
        input: usize,
    },
    /// The function, its backward pass or the preparation of the check failed.
    Error(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Mismatch { input, element, analytic, numeric, tolerance } => write!(
                f,
                "gradient of input {input}, element {element}: {analytic:e} by the tape, {numeric:e} by \
                 central differences, {:e} apart; {tolerance:e} is allowed",
                (analytic - numeric).abs()
            ),
            Failure::Form { input, expected, got, dtype } => write!(
                f,
                "gradient of input {input} is {dtype} {got:?}; the input is f64 {expected:?}"
            ),
            Failure::Inconsistent { input } => {
                write!(f, "gradient of input {input} is another when it is the only tracked input")
            }
            Failure::Error(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Failure::Error(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

/// Checks the gradient of `f` by each element of each float input (f64), with the default
/// [`Tolerance`]. Inputs of other dtypes are passed on as they are. `f` must give the same result
/// whenever it is called.
pub fn check(
    inputs: &[Tensor],
    f: impl Fn(&[Tensor]) -> Result<Tensor, Error>,
) -> Result<(), Failure> {
    check_within(Tolerance::default(), inputs, f)
}

/// [`check`] with another tolerance.
pub fn check_within(
    tolerance: Tolerance,
    inputs: &[Tensor],
    f: impl Fn(&[Tensor]) -> Result<Tensor, Error>,
) -> Result<(), Failure> {
    let floats: Vec<usize> = (0..inputs.len()).filter(|&i| inputs[i].dtype().is_float()).collect();
    for &i in &floats {
        expect_f64("an input", &inputs[i])?;
    }
    let together = gradients(inputs, &floats, &f)?;
    for (&i, gradient) in floats.iter().zip(&together) {
        if floats.len() > 1 {
            // Backward passes skip what is not needed: nothing else may change.
            let alone = gradients(inputs, &[i], &f)?;
            if !same_bits(gradient, &alone[0]) {
                return Err(Failure::Inconsistent { input: i });
            }
        }
        compare(tolerance, inputs, i, gradient, &f)?;
    }
    Ok(())
}

/// Compares the gradient of input `i` with differences, element by element.
fn compare(
    tolerance: Tolerance,
    inputs: &[Tensor],
    i: usize,
    gradient: &[f64],
    f: &impl Fn(&[Tensor]) -> Result<Tensor, Error>,
) -> Result<(), Failure> {
    let mut moved = inputs.to_vec();
    let mut x = inputs[i].to_vec::<f64>()?;
    for (element, &analytic) in gradient.iter().enumerate() {
        let centre = x[element];
        let h = tolerance.step * centre.abs().max(1.0);
        let mut y_at = |value: f64| -> Result<Vec<f64>, Failure> {
            x[element] = value;
            moved[i] = Tensor::from_slice(inputs[i].backend(), &x, inputs[i].shape())?;
            Ok(no_grad(|| f(&moved))?.to_vec::<f64>()?)
        };
        let (above, below) = (centre + h, centre - h);
        let (upper, lower) = (y_at(above)?, y_at(below)?);
        y_at(centre)?;
        // Differences first, then the sum: L itself may be large.
        let rise: f64 =
            weights(upper.len()).zip(upper.iter().zip(&lower)).map(|(w, (u, l))| w * (u - l)).sum();
        let numeric = rise / (above - below);
        let allowed = tolerance.absolute + tolerance.relative * numeric.abs();
        // Written so that NaN fails; and an infinite difference would allow anything.
        let close = numeric.is_finite() && (analytic - numeric).abs() <= allowed;
        if !close {
            return Err(Failure::Mismatch {
                input: i,
                element,
                analytic,
                numeric,
                tolerance: allowed,
            });
        }
    }
    Ok(())
}

/// ∂L/∂x by the tape for each of the inputs `tracked`, those alone being tracked. Zeros where L
/// does not depend on it.
fn gradients(
    inputs: &[Tensor],
    tracked: &[usize],
    f: &impl Fn(&[Tensor]) -> Result<Tensor, Error>,
) -> Result<Vec<Vec<f64>>, Failure> {
    let mut leaves: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
    for &i in tracked {
        leaves[i] = leaves[i].tracked();
    }
    let y = f(&leaves)?;
    expect_f64("the result", &y)?;
    let mut found = Gradients::default();
    if y.is_tracked() {
        let w: Vec<f64> = weights(y.elements()).collect();
        found = y.backward_from(&Tensor::from_slice(y.backend(), &w, y.shape())?)?;
    }
    let mut result = Vec::with_capacity(tracked.len());
    for &i in tracked {
        let leaf = &leaves[i];
        result.push(match found.get(leaf) {
            None => vec![0.0; leaf.elements()],
            Some(g) if g.shape() == leaf.shape() && g.dtype() == Dtype::F64 => g.to_vec()?,
            Some(g) => {
                return Err(Failure::Form {
                    input: i,
                    expected: leaf.shape().to_vec(),
                    got: g.shape().to_vec(),
                    dtype: g.dtype(),
                });
            }
        });
    }
    Ok(result)
}

/// The weights w: no two alike, none near 0, so that no error can cancel or hide.
fn weights(count: usize) -> impl Iterator<Item = f64> {
    let stream = Stream::new(0, Purpose::Test, 0, 0);
    (0..count as u64).map(move |i| {
        let u = f64::from(stream.uniform(i)) * 2.0 - 1.0;
        u + 0.5f64.copysign(u)
    })
}

fn expect_f64(what: &str, x: &Tensor) -> Result<(), Error> {
    if x.dtype() == Dtype::F64 {
        return Ok(());
    }
    Err(Error::Dtype {
        op: "gradcheck",
        expected: format!("f64 for {what}, on the reference backend"),
        got: x.dtype(),
    })
}

/// Equality that holds for NaN and tells −0 from 0.
fn same_bits(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
