//! The one rung of CUDA's ladders that is less exact than its dtype, and so only reached by name: matrix products of
//! f32 on tensor cores, which round their operands to 10 bits of fraction.

use tilegrad::{
    Failures, Tolerance, compare, cuda_with, cudas, default_backends, family, oracle, same_values,
};
use tilegrad_engine::Dtype;
use tilegrad_kernels::cuda::{CudaOptions, MatmulAlgorithm};

#[test]
fn tf32_rounds_operands_and_nothing_else() {
    let options =
        CudaOptions { matmul: Some(MatmulAlgorithm::TensorCoreTf32), ..Default::default() };
    let Some(on) = cuda_with("/tensor_core_tf32", options) else {
        default_backends(); // fails if TILEGRAD_REQUIRE names the device
        return;
    };
    let mut failures = Failures::default();
    for case in family("matmul").sample() {
        // Rounding two factors changes a product by up to 2^-10, as that of one factor of f16 does twice over. Sums are
        // kept in f32, so errors of the terms add up like a random walk.
        let Tolerance { relative, rms, absolute } = case.tolerance;
        let tolerance =
            Tolerance { relative: relative * 2.0, rms: rms / 2.0, absolute: absolute / 2.0 };
        let outcome = case.outputs(oracle()).and_then(|expected| {
            let got = case.outputs(&on)?;
            for ((what, got), (_, expected)) in got.arrays().zip(expected.arrays()) {
                compare(got, expected, tolerance, Dtype::F16)
                    .map_err(|e| format!("{what}: {e}"))?;
            }
            Ok(())
        });
        failures.check(|| format!("{} on {}", case.label, on.name), outcome);
        if case.exact_on_integers {
            let case = case.on_integers(); // which 10 bits hold
            let outcome = case.outputs(oracle()).and_then(|expected| {
                for ((what, got), (_, expected)) in
                    case.outputs(&on)?.arrays().zip(expected.arrays())
                {
                    same_values(got, expected).map_err(|e| format!("{what}: {e}"))?;
                }
                Ok(())
            });
            failures.check(|| format!("{} on {}", case.label, on.name), outcome);
        }
    }
    failures.finish("tf32");
    // Or it would be the plain kernel that is so exact.
    for (name, cuda) in cudas().into_iter().filter(|(name, _)| name.contains("tf32")) {
        let kernels = cuda.loaded_kernels();
        assert!(kernels.iter().any(|k| k.contains("tf32")), "{name} used only {kernels:?}");
    }
}
