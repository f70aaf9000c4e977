//! Every case, forward and backward, on every backend, against the reference in f64.
//!
//! Outputs start filled with NaN and errors are compared as `err <= tol`, so an element that a
//! kernel forgets to write fails.

use tilegrad::{Failures, Family, Tolerance, backends, compare, oracle};
use tilegrad_engine::Device;

fn check(family: &Family) {
    let mut failures = Failures::default();
    for case in (family.cases)() {
        let expected = match case.outputs(oracle()) {
            Ok(outputs) => outputs,
            Err(e) => {
                failures.check(|| format!("{} on {}", case.label, oracle().name), Err(e));
                continue;
            }
        };
        for on in backends() {
            // A default backend may take Winograd's algorithm, which spreads a NaN over its tile;
            // the same instruction set without it is in the list too.
            if case.op == "conv2d" && on.approximate_convolution && case.has_special() {
                continue;
            }
            // The other ops do not depend on the convolution algorithm.
            if case.op != "conv2d" && on.forced_convolution {
                continue;
            }
            let tolerance = match (on.backend.device(), case.op) {
                // It adds one term after the other, and its error grows accordingly.
                (Device::Reference, _) => case.tolerance.times(16.0),
                (_, "conv2d") if on.approximate_convolution => winograd(case.tolerance),
                _ => case.tolerance,
            };
            let outcome = case.outputs(on).and_then(|got| {
                for ((what, got), (_, expected)) in got.arrays().zip(expected.arrays()) {
                    compare(got, expected, tolerance, on.dtype)
                        .map_err(|e| format!("{what} {e}"))?;
                }
                for ((got, _), (expected, _)) in got.results.iter().zip(&expected.results) {
                    if got != expected {
                        return Err(format!("has shape {got:?}, expected {expected:?}"));
                    }
                }
                Ok(())
            });
            failures.check(|| format!("{} on {}", case.label, on.name), outcome);
        }
    }
    failures.finish(family.name);
}

/// The transforms of F(4x4, 3x3) multiply by up to 8 and divide by 24: they lose some 4 bits more
/// than a plain sum.
fn winograd(tolerance: Tolerance) -> Tolerance {
    tolerance.times(16.0)
}

tilegrad::test_each_family!(check);
