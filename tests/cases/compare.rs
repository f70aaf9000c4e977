//! How results are compared: `err <= tol`, so that NaN fails.

use tilegrad_engine::Dtype;

/// Allowed error of one element y against r, in units of the dtype's rounding u:
/// |y − r| ≤ u (relative |r| + rms · rms(r) + absolute), with rms(r) over the finite elements of r.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Of the element itself.
    pub relative: f64,
    /// Of the result's root mean square: for sums, whose error does not shrink when they cancel.
    pub rms: f64,
    /// For inputs of order 1.
    pub absolute: f64,
}

impl Tolerance {
    /// No rounding at all: the op only moves, selects or compares.
    pub const EXACT: Tolerance = Tolerance { relative: 0.0, rms: 0.0, absolute: 0.0 };

    /// `n` roundings of values of order 1.
    pub const fn elementwise(n: f64) -> Tolerance {
        Tolerance { relative: n, rms: 0.0, absolute: n }
    }

    /// A relative error alone: tiny results must be right too.
    pub const fn relative(n: f64) -> Tolerance {
        Tolerance { relative: n, rms: 0.0, absolute: 0.0 }
    }

    /// Sums of `k` terms of order 1 in any order: rounding errors of the partial sums add up like a
    /// random walk, to about u √k times the size of the result.
    pub fn sum(k: usize) -> Tolerance {
        let root = (k.max(1) as f64).sqrt();
        Tolerance { relative: 4.0, rms: 4.0 * root, absolute: 4.0 * root }
    }

    /// The same for storage of 16 bits, whose unit counts only where something is stored: sums are
    /// kept in f32, whose roundings are far smaller.
    pub fn stored(self) -> Tolerance {
        Tolerance {
            relative: self.relative.min(4.0),
            rms: self.rms.min(2.0),
            absolute: self.absolute.min(4.0),
        }
    }

    /// `factor` times as much.
    pub fn times(self, factor: f64) -> Tolerance {
        Tolerance {
            relative: self.relative * factor,
            rms: self.rms * factor,
            absolute: self.absolute * factor,
        }
    }
}

/// Unit roundoff of a dtype: half the distance from 1 to the next number.
pub fn unit_roundoff(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F64 => 2f64.powi(-53),
        Dtype::F32 => 2f64.powi(-24),
        Dtype::F16 => 2f64.powi(-11),
        Dtype::BF16 => 2f64.powi(-8),
        Dtype::I32 | Dtype::I8 | Dtype::U8 => 0.0,
    }
}

/// The first element of `got` that is further from `expected` than allowed, described.
pub fn compare(
    got: &[f64],
    expected: &[f64],
    tolerance: Tolerance,
    dtype: Dtype,
) -> Result<(), String> {
    if got.len() != expected.len() {
        return Err(format!("has {} elements, expected {}", got.len(), expected.len()));
    }
    let (mut squares, mut count) = (0.0, 0.0);
    for v in expected.iter().filter(|v| v.is_finite()) {
        squares += v * v;
        count += 1.0;
    }
    let rms = if count > 0.0 { (squares / count).sqrt() } else { 0.0 };
    let u = unit_roundoff(dtype);
    let mut wrong = 0;
    let mut worst: Option<(usize, f64, f64)> = None;
    for (i, (&y, &r)) in got.iter().zip(expected).enumerate() {
        let tol = u * (tolerance.relative * r.abs() + tolerance.rms * rms + tolerance.absolute);
        let tol = tol + smallest(dtype);
        let fine = match r.is_finite() {
            // Beyond the largest f16 there is infinity.
            true if dtype == Dtype::F16 && r.abs() >= 65520.0 && y.is_infinite() => {
                y.signum() == r.signum()
            }
            true => (y - r).abs() <= tol,
            // A NaN must be NaN, an infinity the same infinity.
            false => y == r || (y.is_nan() && r.is_nan()),
        };
        if !fine {
            wrong += 1;
            let excess = (y - r).abs() / tol;
            if worst.is_none_or(|(_, _, w)| excess > w || excess.is_nan()) {
                worst = Some((i, tol, excess));
            }
        }
    }
    match worst {
        None => Ok(()),
        Some((i, tol, _)) => Err(format!(
            "{wrong} of {} elements are wrong; element {i} is {:e}, expected {:e} ± {tol:.1e}",
            got.len(),
            got[i],
            expected[i]
        )),
    }
}

/// The most that rounding to 16 bits can move a number near 0: the bf16 instructions flush denormals.
fn smallest(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => 2f64.powi(-25),
        Dtype::BF16 => 2f64.powi(-126),
        _ => 0.0,
    }
}

/// ‖got − expected‖ / ‖expected‖.
pub fn relative_norm(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let difference: f64 = got.iter().zip(expected).map(|(a, b)| (a - b) * (a - b)).sum();
    let norm: f64 = expected.iter().map(|v| v * v).sum();
    (difference / norm).sqrt()
}

/// The first element whose bits differ. (f64 holds every f32 exactly, with its sign of zero; NaNs
/// count as one.)
pub fn same_bits(got: &[f64], expected: &[f64]) -> Result<(), String> {
    first_difference(got, expected, |a, b| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
}

/// The first element whose value differs: as [`same_bits`], but 0 equals -0, whose sign depends on
/// the order in which zeros are added.
pub fn same_values(got: &[f64], expected: &[f64]) -> Result<(), String> {
    first_difference(got, expected, |a, b| a == b || (a.is_nan() && b.is_nan()))
}

fn first_difference(
    got: &[f64],
    expected: &[f64],
    same: impl Fn(f64, f64) -> bool,
) -> Result<(), String> {
    if got.len() != expected.len() {
        return Err(format!("has {} elements, expected {}", got.len(), expected.len()));
    }
    match (0..got.len()).find(|&i| !same(got[i], expected[i])) {
        Some(i) => Err(format!("element {i} is {:e}, expected exactly {:e}", got[i], expected[i])),
        None => Ok(()),
    }
}

/// Collects what is wrong over a whole family, so that one run shows everything.
#[derive(Default)]
pub struct Failures {
    messages: Vec<String>,
    checks: usize,
}

impl Failures {
    /// Notes the outcome of one check.
    pub fn check(&mut self, what: impl FnOnce() -> String, outcome: Result<(), String>) {
        self.checks += 1;
        if let Err(message) = outcome {
            self.messages.push(format!("{}: {message}", what()));
        }
    }
}

impl Failures {
    /// Panics with all failures, or because nothing was checked.
    pub fn finish(self, name: &str) {
        let n = self.messages.len();
        if n > 0 {
            let shown = self.messages.iter().take(40).map(|m| format!("\n  {m}"));
            panic!("{name}: {n} of {} checks failed{}", self.checks, shown.collect::<String>());
        }
        assert!(self.checks > 0, "{name}: nothing was checked");
        let heard = crate::validation_errors();
        assert!(heard.is_empty(), "{name}: the validation layer says {heard:#?}");
    }
}
