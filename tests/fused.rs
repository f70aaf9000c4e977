//! Each fused form against the composition that it replaces, forward and backward, in f64.

use tilegrad::{
    Case, Failures, Input, Tolerance, compare, normal, oracle, positive, probabilities,
};
use tilegrad_engine::{Activation, Conv2dOptions, Result, Tensor, ops};

type Form = fn(&[Tensor]) -> Result<Tensor>;

/// `fused` and `composed` must give the same result and gradients.
fn check(
    failures: &mut Failures,
    name: &'static str,
    inputs: Vec<Input>,
    fused: Form,
    composed: Form,
) {
    let outcome = (|| {
        let fused = Case::new(name, inputs.clone(), fused).outputs(oracle())?;
        let composed = Case::new(name, inputs, composed).outputs(oracle())?;
        for ((what, a), (_, b)) in fused.arrays().zip(composed.arrays()) {
            compare(a, b, Tolerance::sum(100).times(100.0), oracle().dtype)
                .map_err(|e| format!("{what} {e}"))?;
        }
        Ok(())
    })();
    failures.check(|| name.to_string(), outcome);
}

const OPTIONS: Conv2dOptions =
    Conv2dOptions { stride: [1, 2], padding: [1, 1], dilation: [1, 1], groups: 1 };

const EPSILON: f64 = 1e-3;

/// gamma (x - mean) / sqrt(var + epsilon) + beta, from elementary ops.
fn normalised(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    mean: &Tensor,
    var: &Tensor,
) -> Result<Tensor> {
    let sigma = ops::sqrt(&ops::affine(var, 1.0, EPSILON)?)?;
    ops::add(&ops::mul(gamma, &ops::div(&ops::sub(x, mean)?, &sigma)?)?, beta)
}

fn batch_norm(x: &[Tensor]) -> Result<Tensor> {
    let mean = ops::mean(&x[0], &[0, 1, 2])?;
    let centred = ops::sub(&x[0], &mean)?;
    let var = ops::mean(&ops::mul(&centred, &centred)?, &[0, 1, 2])?;
    normalised(&x[0], &x[1], &x[2], &mean, &var)
}

#[test]
fn fused_forms_equal_their_compositions() {
    let mut failures = Failures::default();
    let f = &mut failures;
    let conv = || vec![normal(&[2, 6, 5, 3]), normal(&[4, 3, 3, 3]), normal(&[4])];
    check(
        f,
        "conv2d + bias + relu",
        conv(),
        |x| ops::conv2d(&x[0], &x[1], Some(&x[2]), OPTIONS, Activation::Relu),
        |x| {
            let y = ops::conv2d(&x[0], &x[1], None, OPTIONS, Activation::Identity)?;
            ops::relu(&ops::add(&y, &x[2])?)
        },
    );
    check(
        f,
        "linear",
        vec![normal(&[5, 7]), normal(&[3, 7]), normal(&[3])],
        |x| ops::linear(&x[0], &x[1], Some(&x[2])),
        |x| ops::add(&ops::matmul(&x[0], &x[1], false, true)?, &x[2]),
    );
    check(
        f,
        "conv2d 1x1 as a matmul",
        vec![normal(&[2, 3, 4, 5]), normal(&[6, 1, 1, 5])],
        |x| ops::conv2d(&x[0], &x[1], None, Conv2dOptions::default(), Activation::Identity),
        |x| {
            let (rows, filter) = (ops::reshape(&x[0], &[24, 5])?, ops::reshape(&x[1], &[6, 5])?);
            ops::reshape(&ops::matmul(&rows, &filter, false, true)?, &[2, 3, 4, 6])
        },
    );
    let bn = || vec![normal(&[3, 4, 2, 5]), normal(&[5]), normal(&[5])];
    let with_residual = |mut inputs: Vec<Input>| {
        inputs.push(normal(&[3, 4, 2, 5]));
        inputs
    };
    check(
        f,
        "batch_norm",
        bn(),
        |x| Ok(ops::batch_norm(&x[0], &x[1], &x[2], None, EPSILON, Activation::Identity)?.y),
        batch_norm,
    );
    check(
        f,
        "batch_norm + residual + relu",
        with_residual(bn()),
        |x| Ok(ops::batch_norm(&x[0], &x[1], &x[2], Some(&x[3]), EPSILON, Activation::Relu)?.y),
        |x| ops::relu(&ops::add(&batch_norm(x)?, &x[3])?),
    );
    let mut constants = bn();
    constants.extend([normal(&[5]).untracked(), positive(&[5]).untracked()]);
    check(
        f,
        "batch_norm_inference + residual + relu",
        with_residual(constants),
        |x| {
            let [a, gamma, beta, mean, var, r] = std::array::from_fn(|i| &x[i]);
            ops::batch_norm_inference(a, gamma, beta, mean, var, Some(r), EPSILON, Activation::Relu)
        },
        |x| ops::relu(&ops::add(&normalised(&x[0], &x[1], &x[2], &x[3], &x[4])?, &x[5])?),
    );
    check(
        f,
        "log_softmax",
        vec![normal(&[4, 7])],
        |x| ops::log_softmax(&x[0]),
        |x| ops::log(&ops::softmax(&x[0])?),
    );
    check(
        f,
        "cross_entropy with smoothing and soft targets",
        vec![normal(&[4, 7]), probabilities(&[4, 7])],
        |x| ops::cross_entropy(&x[0], &x[1], 0.2),
        |x| {
            let q = ops::affine(&x[1], 0.8, 0.2 / 7.0)?;
            ops::neg(&ops::sum(&ops::mul(&q, &ops::log_softmax(&x[0])?)?, &[1])?)
        },
    );
    check(
        f,
        "global_avg_pool2d",
        vec![normal(&[2, 3, 5, 4])],
        |x| ops::global_avg_pool2d(&x[0]),
        |x| ops::mean(&x[0], &[1, 2]),
    );
    check(
        f,
        "silu",
        vec![normal(&[13])],
        |x| ops::silu(&x[0]),
        |x| ops::mul(&x[0], &ops::sigmoid(&x[0])?),
    );
    failures.finish("fused forms");
}
