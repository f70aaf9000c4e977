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
    let (slope, numeric, length) = slopes(case, on).map_err(|e| e.to_string())?;
    // Written so that NaN fails.
    let close = (slope - numeric).abs() <= CLOSE * length + 1e-5;
    match close {
        true => Ok(()),
        false => Err(format!(
            "slope {slope:e} by the gradient, {numeric:e} by differences; the gradient is {length:e} long"
        )),
    }
}

/// The slope of L along v by the gradient and by a difference, and the gradient's length.
fn slopes(case: &Case, on: &TestBackend) -> tilegrad_engine::Result<(f64, f64, f64)> {
    let all = case.tensors(&on.backend, on.dtype)?;
    let numbers = |index: usize, n: usize| {
        let stream = Stream::new(11, Purpose::Test, 0, index as u32);
        (0..n as u64).map(|i| stream.normal(i)).collect::<Vec<f64>>()
    };
    let narrow = |x: &[f64]| x.iter().map(|&v| v as f32).collect::<Vec<f32>>();
    let (mut above, mut below) = (all.clone(), all.clone());
    let mut ways = Vec::new();
    for (i, x) in all.iter().enumerate().filter(|(_, x)| x.is_tracked()) {
        let centre = x.to_f64_vec()?;
        let v = numbers(i, centre.len());
        let moved =
            |h: f64| narrow(&centre.iter().zip(&v).map(|(c, v)| c + h * v).collect::<Vec<_>>());
        let (upper, lower) = (moved(STEP), moved(-STEP));
        above[i] = Tensor::from_slice(&on.backend, &upper, x.shape())?;
        below[i] = Tensor::from_slice(&on.backend, &lower, x.shape())?;
        // What f32 makes of x + h v lies a little off, so v is the way that it really went.
        let way =
            upper.iter().zip(&lower).map(|(&u, &l)| (f64::from(u) - f64::from(l)) / (2.0 * STEP));
        ways.push((x, way.collect::<Vec<f64>>()));
    }
    let run = |inputs: &[Tensor]| no_grad(|| (case.run)(inputs))?.swap_remove(0).to_f64_vec();
    let (upper, lower) = (run(&above)?, run(&below)?);
    // An output that a ReLU cuts on one side only has its kink in between, and no slope: it does not count.
    let mut weights = numbers(1000, upper.len());
    for (w, (u, l)) in weights.iter_mut().zip(upper.iter().zip(&lower)) {
        if (*u == 0.0) != (*l == 0.0) {
            *w = 0.0;
        }
    }
    let rise: f64 =
        weights.iter().zip(upper.iter().zip(&lower)).map(|(w, (u, l))| w * (u - l)).sum();
    let y = (case.run)(&all)?.swap_remove(0);
    let gradients =
        y.backward_from(&Tensor::from_slice(&on.backend, &narrow(&weights), y.shape())?)?;
    let (mut slope, mut squares) = (0.0, 0.0);
    for (x, way) in &ways {
        let gradient = gradients.get(x).expect("tests/parity.rs checks that").to_f64_vec()?;
        slope += gradient.iter().zip(way).map(|(g, v)| g * v).sum::<f64>();
        squares += gradient.iter().map(|g| g * g).sum::<f64>();
    }
    Ok((slope, rise / (2.0 * STEP), squares.sqrt()))
}

tilegrad::test_each_family!(check);
