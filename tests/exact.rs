//! Integer-valued inputs, on which sums have no rounding: every backend must agree bit for bit,
//! forward and backward. In 16 bits, each must give the exact sum, rounded once.

use tilegrad::{
    Failures, Family, Values, cuda_backends, cuda_rungs, default_backends, exact_backends,
    half_backends, rounded, same_values, wgpu_backends, wgpu_rungs,
};
use tilegrad_engine::Dtype;

fn check(family: &Family) {
    let mut failures = Failures::default();
    for case in family.sample().iter().filter(|c| c.exact_on_integers) {
        let case = case.on_integers();
        let list =
            if case.op.starts_with("conv2d") { exact_backends() } else { default_backends() };
        let expected = case.outputs(&list[0]);
        let gpu = cuda_backends().iter().chain(cuda_rungs(case.op));
        let gpu = gpu.chain(wgpu_backends()).chain(wgpu_rungs(case.op));
        let (wide, half): (Vec<_>, Vec<_>) = gpu.partition(|on| on.dtype == Dtype::F32);
        for on in list[1..].iter().chain(wide) {
            let outcome = expected.as_ref().map_err(Clone::clone).and_then(|expected| {
                let got = case.outputs(on)?;
                for ((what, got), (_, expected)) in got.arrays().zip(expected.arrays()) {
                    same_values(got, expected).map_err(|e| format!("{what}: {e}"))?;
                }
                Ok(())
            });
            failures.check(|| format!("{} on {}", case.label, on.name), outcome);
        }
        // Numbers that all differ do not fit 16 bits.
        let fits = case.inputs.iter().all(|i| i.values != Values::Distinct);
        for on in
            half_backends().iter().chain(half).filter(|on| fits && !on.approximate_convolution)
        {
            let outcome = expected.as_ref().map_err(Clone::clone).and_then(|expected| {
                let got = case.outputs(on)?;
                for ((what, got), (_, expected)) in got.arrays().zip(expected.arrays()) {
                    let round = |v: &f64| rounded(*v, on.dtype);
                    let got: Vec<f64> = got.iter().map(round).collect();
                    let expected: Vec<f64> = expected.iter().map(round).collect();
                    same_values(&got, &expected).map_err(|e| format!("{what}: {e}"))?;
                }
                Ok(())
            });
            failures.check(|| format!("{} on {}", case.label, on.name), outcome);
        }
    }
    if ["batch_norm", "optimizer"].contains(&family.name) {
        return; // divisions and roots round whatever the input
    }
    failures.finish(family.name);
}

tilegrad::test_each_family!(check);
