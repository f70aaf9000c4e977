//! Integer-valued inputs, on which sums have no rounding: every backend must agree bit for bit,
//! forward and backward.

use tilegrad::{Failures, Family, default_backends, exact_backends, same_values};

fn check(family: &Family) {
    let mut failures = Failures::default();
    for case in (family.cases)().iter().filter(|c| c.exact_on_integers) {
        let case = case.on_integers();
        let list = if case.op == "conv2d" { exact_backends() } else { default_backends() };
        let expected = case.outputs(&list[0]);
        for on in &list[1..] {
            let outcome = expected.as_ref().map_err(Clone::clone).and_then(|expected| {
                let got = case.outputs(on)?;
                for ((what, got), (_, expected)) in got.arrays().zip(expected.arrays()) {
                    same_values(got, expected).map_err(|e| format!("{what}: {e}"))?;
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
