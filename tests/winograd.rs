//! Winograd's algorithm, forced wherever it applies: its transforms round, so it is held to an
//! error in norm.

use tilegrad::{Failures, at, cpu_with, family, oracle, oracle_of, relative_norm, same_bits};
use tilegrad_engine::Dtype;
use tilegrad_kernels::cpu::ConvAlgorithm;
use tilegrad_kernels::cpu::simd::Isa;

/// Of each result and gradient, in the Euclidean norm, against f64.
const LARGEST_ERROR: f64 = 1e-5;

/// The same in bf16, whose rounding of the result alone makes 0.0017, and of the inputs of a plain
/// sum nothing: the transformed tiles are rounded. Typically 0.009; more where one tile makes a sum.
const LARGEST_ERROR_BF16: f64 = 2e-2;

#[test]
fn its_error_in_norm_is_small_and_threads_change_no_bit() {
    let mut failures = Failures::default();
    let mut worst = 0.0f64;
    let backends = Isa::ALL.into_iter().filter_map(|isa| {
        let with = |threads| cpu_with(isa, threads, Some(ConvAlgorithm::Winograd));
        Some((with(1)?, with(2)?))
    });
    let backends: Vec<_> = backends.collect();
    for case in (family("conv2d").cases)().iter().filter(|c| !c.has_special()) {
        let expected = case.outputs(oracle());
        for (one, two) in &backends {
            let outcome = expected.as_ref().map_err(Clone::clone).and_then(|expected| {
                let (got, again) = (case.outputs(one)?, case.outputs(two)?);
                for ((what, got), (_, expected)) in got.arrays().zip(expected.arrays()) {
                    let error = relative_norm(got, expected);
                    worst = worst.max(error); // NaN of an empty result is no maximum
                    // An empty or zero result has no relative error, but must be right.
                    let fine = error <= LARGEST_ERROR || got.iter().all(|&v| v == 0.0);
                    if got.len() != expected.len() || !fine {
                        return Err(format!("{what}: relative error {error:.1e} in norm"));
                    }
                }
                for ((what, a), (_, b)) in got.arrays().zip(again.arrays()) {
                    same_bits(a, b).map_err(|e| format!("{what} with 2 threads: {e}"))?;
                }
                Ok(())
            });
            failures.check(|| format!("{} on {}", case.label, one.name), outcome);
        }
    }
    eprintln!("Winograd in f32: largest relative error in norm {worst:.1e}");
    failures.finish("Winograd");
}

#[test]
fn in_bf16_its_error_in_norm_is_bounded_too() {
    let mut failures = Failures::default();
    let forced = |isa| cpu_with(isa, 2, Some(ConvAlgorithm::Winograd));
    let Some(on) = forced(Isa::detect()).map(|on| at(on, Dtype::BF16)) else { return };
    let mut worst = 0.0f64;
    // A ReLU lets noise decide which gradients pass.
    let cases = (family("conv2d").cases)();
    let usable = |c: &&tilegrad::Case| !c.has_special() && !c.label.contains("Relu");
    for case in cases.iter().filter(usable) {
        let outcome = case.outputs(&oracle_of(&on)).and_then(|expected| {
            let got = case.outputs(&on)?;
            for ((what, got), (_, expected)) in got.arrays().zip(expected.arrays()) {
                let error = relative_norm(got, expected);
                worst = worst.max(error);
                let fine = error <= LARGEST_ERROR_BF16 || got.iter().all(|&v| v == 0.0);
                if got.len() != expected.len() || !fine {
                    return Err(format!("{what}: relative error {error:.1e} in norm"));
                }
            }
            Ok(())
        });
        failures.check(|| format!("{} on {}", case.label, on.name), outcome);
    }
    eprintln!("Winograd in bf16: largest relative error in norm {worst:.1e}");
    failures.finish("Winograd in bf16");
}
