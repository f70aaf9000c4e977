//! Every derivative against central differences: element by element in f64 on the reference backend, and along one
//! random direction in f32 on the CUDA device, whose kernels know nothing of f64.

use tilegrad::{Case, Failures, Family, TestBackend, cuda_backends, oracle};
use tilegrad_engine::{Tensor, gradcheck, no_grad};
use tilegrad_kernels::philox::{Purpose, Stream};

/// Two forward passes an element: small cases only.
const LARGEST: usize = 400;

fn check(family: &Family) {
    let mut failures = Failures::default();
    for case in family.sample() {
        let small = case.inputs.iter().map(|i| i.elements()).sum::<usize>() <= LARGEST;
        if case.differentiable && case.smooth && small {
            failures.check(|| case.label.clone(), check_case(&case));
            if let Some(cuda) = cuda_backends().first() {
                let outcome = check_direction(&case, cuda);
                failures.check(|| format!("{} on {}", case.label, cuda.name), outcome);
            }
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

/// Half the distance over which a difference is taken in f32: its rounding, 2^-24 / STEP, and what the second
/// derivative of the slope adds, STEP^2, are both small beside [`CLOSE`].
const STEP: f64 = 1.0 / 128.0;

/// Of the length of the gradient, by which a random direction sees a slope of about that length.
const CLOSE: f64 = 0.02;

/// With all inputs moved along a direction v of normal numbers, L = Σ w y must rise by the product of its gradient and
/// v. A gradient that is wrong in any one input, or in a share of its elements, misses that.
fn check_direction(case: &Case, on: &TestBackend) -> Result<(), String> {
    let inner = || -> tilegrad_engine::Result<(f64, f64, f64)> {
        let all = case.tensors(&on.backend, on.dtype)?;
        let numbers = |index: u32, n: usize| {
            let stream = Stream::new(11, Purpose::Test, 0, index);
            (0..n as u64).map(|i| stream.normal(i)).collect::<Vec<f64>>()
        };
        let y = (case.run)(&all)?.swap_remove(0);
        let weights = numbers(1000, y.to_f64_vec()?.len());
        let narrow = |x: &[f64]| x.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let dy = Tensor::from_slice(&on.backend, &narrow(&weights), y.shape())?;
        let gradients = y.backward_from(&dy)?;
        let (mut slope, mut length) = (0.0, 0.0);
        let (mut above, mut below) = (all.clone(), all.clone());
        // What f32 makes of x + h v and x - h v lies a little off: the slope is taken along the way it really is.
        for (i, x) in all.iter().enumerate().filter(|(_, x)| x.is_tracked()) {
            let centre = x.to_f64_vec()?;
            let v = numbers(i as u32, centre.len());
            let moved =
                |h: f64| narrow(&centre.iter().zip(&v).map(|(c, v)| c + h * v).collect::<Vec<_>>());
            let (upper, lower) = (moved(STEP), moved(-STEP));
            let gradient = gradients.get(x).expect("tests/parity.rs checks").to_f64_vec()?;
            for ((g, u), l) in gradient.iter().zip(&upper).zip(&lower) {
                slope += g * (f64::from(*u) - f64::from(*l)) / (2.0 * STEP);
                length += g * g;
            }
            above[i] = Tensor::from_slice(&on.backend, &upper, x.shape())?;
            below[i] = Tensor::from_slice(&on.backend, &lower, x.shape())?;
        }
        let run = |inputs: &[Tensor]| no_grad(|| (case.run)(inputs))?.swap_remove(0).to_f64_vec();
        let (upper, lower) = (run(&above)?, run(&below)?);
        let rise: f64 =
            weights.iter().zip(upper.iter().zip(&lower)).map(|(w, (u, l))| w * (u - l)).sum();
        Ok((slope, rise / (2.0 * STEP), length.sqrt()))
    };
    let (slope, numeric, length) = inner().map_err(|e| e.to_string())?;
    // Written so that NaN fails.
    let close = (slope - numeric).abs() <= CLOSE * length + 1e-5;
    match close {
        true => Ok(()),
        false => Err(format!(
            "slope {slope:e} by the gradient, {numeric:e} by differences, of {length:e}"
        )),
    }
}

tilegrad::test_each_family!(check);
