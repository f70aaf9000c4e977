//! The same bits twice, and with 1, 2 and 5 threads: forward and backward of every case.

use tilegrad::{Failures, Family, cuda_backends, same_bits, thread_counts, wgpu_backends};

fn check(family: &Family) {
    let mut failures = Failures::default();
    let cpus = thread_counts().iter().map(|[one, two, five]| {
        (one, vec![(two, "2 threads"), (five, "5 threads"), (two, "2 threads, again")])
    });
    // Blocks of a grid run in any order.
    let gpus = cuda_backends().iter().chain(wgpu_backends());
    let gpus = gpus.map(|on| (on, vec![(on, "a second run")]));
    let all: Vec<_> = cpus.chain(gpus).collect();
    for case in family.sample() {
        for (first, others) in &all {
            let expected = case.outputs(first);
            for (on, what) in others {
                let outcome = expected.as_ref().map_err(Clone::clone).and_then(|expected| {
                    let got = case.outputs(on)?;
                    for ((what, got), (_, expected)) in got.arrays().zip(expected.arrays()) {
                        same_bits(got, expected).map_err(|e| format!("{what}: {e}"))?;
                    }
                    Ok(())
                });
                failures.check(|| format!("{} on {} with {what}", case.label, on.name), outcome);
            }
        }
    }
    failures.finish(family.name);
}

tilegrad::test_each_family!(check);
