//! Every case, forward and backward, on every backend, against the reference in f64.
//!
//! Outputs start filled with NaN and errors are compared as `err <= tol`, so an element that a
//! kernel forgets to write fails.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex};

use tilegrad::{
    FAMILIES, Failures, Family, TestBackend, Tolerance, backends, compare, cuda_backends,
    cuda_rungs, cudas, half_backends, has_subgroup_tile, oracle, oracle_of, wgpu_backends,
    wgpu_rungs, wgpus,
};
use tilegrad_engine::{Device, Dtype};
use tilegrad_kernels::cuda::Cuda;
use tilegrad_kernels::wgpu::Wgpu;

fn check(family: &Family) {
    let _done = Done;
    let mut failures = Failures::default();
    for case in family.sample() {
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

/// Families whose cases have been run.
static DONE: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// Counts when it goes, also in a panic.
struct Done;

impl Drop for Done {
    fn drop(&mut self) {
        *DONE.0.lock().expect("no panic in between") += 1;
        DONE.1.notify_all();
    }
}

/// Waits for all cases on `device`, or says that they do not run. libtest starts the tests that do so last.
fn all_cases_ran_on(device: &[TestBackend]) -> bool {
    // libtest's own arguments; a filter is one without dashes.
    let filtered = std::env::args().skip(1).any(|arg| !arg.starts_with('-'));
    if filtered || std::env::var("TILEGRAD_SAMPLE").is_ok() || device.is_empty() {
        eprintln!("SKIPPED: needs all cases, on a device");
        return false;
    }
    let (count, changed) = &DONE;
    let done = count.lock().expect("no panic in between");
    let all = changed.wait_while(done, |done| *done < FAMILIES.len());
    drop(all.expect("no panic in between"));
    true
}

/// All kernels of the backends of a device; a rung that was forced must be among those of its backend.
fn used<K: AsRef<str>>(backends: Vec<(String, Vec<K>)>) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (name, kernels) in backends {
        let kernels: Vec<String> = kernels.iter().map(|k| k.as_ref().to_string()).collect();
        if let Some((_, rung)) = name.split_once('/').filter(|(_, rung)| *rung != "first") {
            assert!(kernels.iter().any(|k| k.contains(rung)), "{name} used only {kernels:?}");
        }
        used.extend(kernels);
    }
    used
}

/// The table reaches every WGSL kernel that is shipped, and a rung that is forced is really taken.
#[test]
fn z_every_wgsl_kernel_was_used() {
    if !all_cases_ran_on(wgpu_backends()) {
        return;
    }
    let used = used(wgpus().iter().map(|(n, wgpu)| (n.clone(), wgpu.loaded_kernels())).collect());
    let there = |k: &&str| *k != "matmul_subgroup_tile" || has_subgroup_tile();
    let missing: Vec<_> = Wgpu::kernels().filter(there).filter(|k| !used.contains(*k)).collect();
    assert!(missing.is_empty(), "kernels that no case uses: {missing:?}");
}

/// The table reaches every CUDA kernel that is shipped, and a rung that is forced is really taken.
#[test]
fn z_every_cuda_kernel_was_used() {
    if !all_cases_ran_on(cuda_backends()) {
        return;
    }
    let used = used(cudas().iter().map(|(n, cuda)| (n.clone(), cuda.loaded_kernels())).collect());
    // With tests of their own: what no op of the engine asks for (cuda.rs), tf32 (cuda_tf32.rs).
    let elsewhere = |k: &&str| {
        k.starts_with("cast_")
            || k.starts_with("sub_backward_b")
            || k.contains("_b8_")
            || k.contains("_b64_")
            || k.contains("tf32")
    };
    let missing: Vec<_> = Cuda::kernels().filter(|k| !elsewhere(k) && !used.contains(*k)).collect();
    assert!(missing.is_empty(), "kernels that no case uses: {missing:?}");
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
