//! Every rung of the CUDA ladders, whatever a shape would choose: against the reference in f64, exact on integers, and
//! with the same bits twice. What a shape chooses runs in the other tests of the table.

use std::collections::HashMap;

use tilegrad::{
    Case, Failures, Outputs, TestBackend, Tolerance, compare, cuda_with, family, oracle_of,
    rounded, same_bits, same_values,
};
use tilegrad_engine::Dtype;
use tilegrad_kernels::cuda::{ConvAlgorithm, CudaOptions, MatmulAlgorithm};

/// Elements of the inputs of a case beyond which the first rungs, which no tile's edge can surprise, are not run:
/// on softcuda the largest cases would take them minutes.
const LARGE: usize = 40_000;

/// A rung and the dtypes that it has kernels for.
struct Rung {
    backends: Vec<TestBackend>,
    is_first: bool,
    /// Its products are those of f32 rounded to 10 bits of fraction.
    is_tf32: bool,
}

fn rung(name: &str, options: CudaOptions, is_for: impl Fn(Dtype) -> bool) -> Rung {
    let mut backends = cuda_with(&format!("/{name}"), options);
    backends.retain(|on| is_for(on.dtype));
    let is_first = ["naive", "shared_tile"].contains(&name);
    Rung { backends, is_first, is_tf32: name == MatmulAlgorithm::TensorCoreTf32.name() }
}

fn outputs_agree(
    got: &Outputs,
    expected: &Outputs,
    agree: impl Fn(&[f64], &[f64]) -> Result<(), String>,
) -> Result<(), String> {
    for ((what, got), (_, expected)) in got.arrays().zip(expected.arrays()) {
        agree(got, expected).map_err(|e| format!("{what}: {e}"))?;
    }
    Ok(())
}

/// The error that a rung may make.
fn tolerance(case: &Case, rung: &Rung, on: &TestBackend) -> Tolerance {
    match on.dtype {
        // An operand is rounded by up to 2^-11, half as much as one of f16 may be off: 2^13 roundings of f32.
        Dtype::F32 if rung.is_tf32 => case.tolerance.stored().times(8192.0),
        Dtype::F32 => case.tolerance,
        _ => case.tolerance.stored(),
    }
}

fn check(name: &str, cases: &[Case], rungs: &[Rung]) {
    if rungs.iter().all(|rung| rung.backends.is_empty()) {
        tilegrad::default_backends(); // fails if TILEGRAD_REQUIRE names softcuda
        return;
    }
    let mut failures = Failures::default();
    for case in cases {
        let is_large =
            case.inputs.iter().map(|i| i.shape.iter().product::<usize>()).sum::<usize>() > LARGE;
        let mut expected = HashMap::new();
        for rung in rungs.iter().filter(|rung| !(rung.is_first && is_large)) {
            for on in &rung.backends {
                let expected =
                    expected.entry(on.rounding).or_insert_with(|| case.outputs(&oracle_of(on)));
                let outcome = expected.as_ref().map_err(Clone::clone).and_then(|expected| {
                    let (got, again) = (case.outputs(on)?, case.outputs(on)?);
                    let tolerance = tolerance(case, rung, on);
                    outputs_agree(&got, expected, |a, b| compare(a, b, tolerance, on.dtype))?;
                    outputs_agree(&again, &got, same_bits).map_err(|e| format!("a second run: {e}"))
                });
                failures.check(|| format!("{} on {}", case.label, on.name), outcome);
            }
        }
        if !case.exact_on_integers {
            continue;
        }
        let integers = case.on_integers();
        let mut exact = None;
        for rung in rungs.iter().filter(|rung| !(rung.is_first && is_large)) {
            for on in &rung.backends {
                let exact = exact.get_or_insert_with(|| integers.outputs(&oracle_of(on)));
                let outcome = exact.as_ref().map_err(Clone::clone).and_then(|exact| {
                    outputs_agree(&integers.outputs(on)?, exact, |got, exact| {
                        let exact: Vec<f64> = exact.iter().map(|&v| rounded(v, on.dtype)).collect();
                        same_values(got, &exact)
                    })
                });
                failures.check(|| format!("{} on {}", integers.label, on.name), outcome);
            }
        }
    }
    failures.finish(name);
}

#[test]
fn matmul() {
    let rungs = MatmulAlgorithm::ALL.map(|algorithm| {
        let options = CudaOptions { matmul: Some(algorithm), ..Default::default() };
        rung(algorithm.name(), options, |dtype| algorithm.is_for(dtype))
    });
    check("matmul", &(family("matmul").cases)(), &rungs);
}

#[test]
fn conv2d() {
    let rungs = ConvAlgorithm::ALL.map(|algorithm| {
        let options = CudaOptions { conv: Some(algorithm), ..Default::default() };
        rung(algorithm.name(), options, |dtype| algorithm.is_for(dtype))
    });
    check("conv2d", &(family("conv2d").cases)(), &rungs);
}
