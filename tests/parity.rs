//! Every case, forward and backward, on every backend, against the reference in f64.
//!
//! Outputs start filled with NaN and errors are compared as `err <= tol`, so an element that a
//! kernel forgets to write fails.

use std::collections::HashMap;

use tilegrad::{
    Failures, Family, TestBackend, Tolerance, backends, compare, cuda_backends, cuda_rungs,
    half_backends, oracle, oracle_of, wgpu_backends, wgpu_rungs,
};
use tilegrad_engine::{Device, Dtype};

fn check(family: &Family) {
    let mut failures = Failures::default();
    for case in (family.cases)() {
        // What the oracle answers, for each rounding of the inputs.
        let mut expected = HashMap::new();
        let cuda = cuda_backends().iter().chain(cuda_rungs(case.op));
        let wgpu = wgpu_backends().iter().chain(wgpu_rungs(case.op));
        for on in backends().chain(half_backends()).chain(cuda).chain(wgpu) {
            let expected =
                expected.entry(on.rounding).or_insert_with(|| case.outputs(&oracle_of(on)));
            let expected = match expected {
                Ok(outputs) => outputs,
                Err(e) => {
                    failures
                        .check(|| format!("{} on {}", case.label, oracle().name), Err(e.clone()));
                    break;
                }
            };
            // A default backend may take Winograd's algorithm, which spreads a NaN over its tile;
            // the same instruction set without it is in the list too.
            if case.op.starts_with("conv2d") && on.approximate_convolution && case.has_special() {
                continue;
            }
            // The other ops do not depend on the convolution algorithm.
            if !case.op.starts_with("conv2d") && on.forced_convolution {
                continue;
            }
            // f16 ends earlier: e^12 is infinite, and so is the gradient that is made from it.
            if on.dtype == Dtype::F16 && case.label.contains("ends of its range") {
                continue;
            }
            let tolerance = tolerance(case.op, case.tolerance, on);
            // Winograd's noise in bf16 decides the sign of values near 0, and a ReLU the rest: then
            // only its result can be compared, and its gradient with the algorithm without noise.
            let noisy = on.dtype == Dtype::BF16 && on.approximate_convolution;
            let masked = noisy && case.op.starts_with("conv2d") && case.label.contains("Relu");
            let compared = if masked { 1 } else { usize::MAX };
            let outcome = case.outputs(on).and_then(|got| {
                let pairs = got.arrays().zip(expected.arrays());
                for ((what, got), (_, expected)) in pairs.take(compared) {
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

/// What a backend may add to a case's error.
fn tolerance(op: &str, of_case: Tolerance, on: &TestBackend) -> Tolerance {
    match (on.backend.device(), op) {
        // It adds one term after the other, and its error grows accordingly.
        (Device::Reference, _) => of_case.times(16.0),
        // bf16 rounds the transformed tiles: an error in proportion to the whole result, whose norm
        // tests/winograd.rs checks. Sums over a single tile have the longest tails.
        (_, "conv2d" | "conv2d_inference")
            if on.dtype == Dtype::BF16 && on.approximate_convolution =>
        {
            Tolerance { relative: 4.0, rms: 64.0, absolute: 64.0 }
        }
        // Ties are common among 16-bit numbers, and share the gradient.
        (_, "amax") if on.dtype != Dtype::F32 => Tolerance::relative(1.0),
        _ if on.dtype != Dtype::F32 => of_case.stored(),
        // The transforms of F(4x4, 3x3) lose some 4 bits more than a plain sum.
        (_, "conv2d" | "conv2d_inference") if on.approximate_convolution => of_case.times(16.0),
        _ => of_case,
    }
}

tilegrad::test_each_family!(check);
