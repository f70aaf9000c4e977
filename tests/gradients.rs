//! Every derivative against central differences, in f64 on the reference backend.

use tilegrad::{Case, Failures, Family, oracle};
use tilegrad_engine::gradcheck;

/// Two forward passes an element: small cases only.
const LARGEST: usize = 400;

fn check(family: &Family) {
    let mut failures = Failures::default();
    for case in (family.cases)() {
        let small = case.inputs.iter().map(|i| i.elements()).sum::<usize>() <= LARGEST;
        if case.differentiable && case.smooth && small {
            failures.check(|| case.label.clone(), check_case(&case));
        }
    }
    if ["optimizer", "device"].contains(&family.name) {
        return; // in-place updates: nothing to differentiate
    }
    failures.finish(family.name);
}

fn check_case(case: &Case) -> Result<(), String> {
    let all = case.tensors(&oracle().backend, oracle().dtype).map_err(|e| e.to_string())?;
    let is_tracked: Vec<bool> = all.iter().map(|x| x.is_tracked()).collect();
    let tracked: Vec<_> = all.iter().filter(|x| x.is_tracked()).map(|x| x.detach()).collect();
    let run = |moved: &[tilegrad_engine::Tensor]| {
        // Constants, such as labels and running statistics, stay what they are.
        let mut moved = moved.iter();
        let inputs: Vec<_> = all
            .iter()
            .zip(&is_tracked)
            .map(
                |(x, &t)| {
                    if t { moved.next().expect("one a tracked input").clone() } else { x.clone() }
                },
            )
            .collect();
        Ok((case.run)(&inputs)?.swap_remove(0))
    };
    gradcheck::check(&tracked, run).map_err(|e| e.to_string())
}

tilegrad::test_each_family!(check);
