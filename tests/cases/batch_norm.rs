//! Batch normalisation, training and inference, with residual and activation.

use tilegrad_engine::{Activation, Tensor, ops};
use tilegrad_kernels::BatchNormArgs;

use crate::{Case, ErrorCase, Input, Special, Tolerance, normal, positive, uniform};

const EPSILON: f64 = 1e-5;

/// More and fewer rows than a task, one channel, odd channels, a few vectors of them.
const SHAPES: [&[usize]; 10] = [
    &[2, 1],
    &[5, 3],
    &[4, 16],
    &[7, 33],
    &[2, 3, 3, 5],
    &[2, 4, 4, 64],
    &[3, 17, 17, 19],
    &[2, 32, 32, 16],
    &[5000, 1],
    &[3, 1031],
];

const ACTIVATIONS: [Activation; 2] = [Activation::Identity, Activation::Relu];

fn inputs(shape: &[usize], residual: bool, statistics: bool) -> Vec<Input> {
    let channels = &shape[shape.len() - 1..];
    let mut inputs = vec![normal(shape), uniform(channels, 0.5, 1.5), normal(channels)];
    if statistics {
        inputs.push(normal(channels).untracked());
        inputs.push(positive(channels).untracked());
    }
    if residual {
        inputs.push(normal(shape));
    }
    inputs
}

/// What must work.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        let rows: usize = shape[..shape.len() - 1].iter().product();
        for activation in ACTIVATIONS {
            for residual in [false, true] {
                let note = format!("{activation:?}");
                let training = Case::many("batch_norm", inputs(shape, residual, false), move |x| {
                    let out = ops::batch_norm(&x[0], &x[1], &x[2], x.get(3), EPSILON, activation)?;
                    Ok(vec![out.y, out.mean, out.var])
                })
                .note(&note)
                // With few rows, 1/σ³ amplifies rounding where they nearly agree.
                .tolerance(Tolerance::sum(rows).times(if rows < 8 { 64.0 } else { 4.0 }));
                let inference =
                    Case::new("batch_norm_inference", inputs(shape, residual, true), move |x| {
                        let [x, gamma, beta, mean, var] = std::array::from_fn(|i| &x[i]);
                        ops::batch_norm_inference(
                            x, gamma, beta, mean, var, None, EPSILON, activation,
                        )
                    });
                let inference = match residual {
                    false => inference,
                    true => {
                        Case::new("batch_norm_inference", inputs(shape, true, true), move |x| {
                            let r = Some(&x[5]);
                            let [x, gamma, beta, mean, var] = std::array::from_fn(|i| &x[i]);
                            ops::batch_norm_inference(
                                x, gamma, beta, mean, var, r, EPSILON, activation,
                            )
                        })
                    }
                };
                let inference = inference.note(&note).tolerance(Tolerance::sum(rows).times(4.0));
                if shape == [5, 3] {
                    let specials = [Special::AllEqual, Special::OneNan];
                    cases.extend(training.with(&specials[..]));
                    cases.extend(inference.with(&Special::ALL));
                }
                cases.push(training);
                cases.push(inference);
            }
        }
    }
    // A mean far from 0: Σx² - n mean² would cancel catastrophically.
    let far =
        Input { values: crate::Values::Normal { mean: 1000.0, std: 1.0 }, ..normal(&[4096, 3]) };
    cases.push(
        Case::many("batch_norm", [far, normal(&[3]), normal(&[3])], |x| {
            let out = ops::batch_norm(&x[0], &x[1], &x[2], None, EPSILON, Activation::Identity)?;
            Ok(vec![out.y, out.mean, out.var])
        })
        .note("far from 0")
        // x itself is known to 1000 u only, σ is 1.
        .tolerance(Tolerance::sum(4096).times(16.0)),
    );
    for c in [1, 3, 16, 33] {
        let inputs = [normal(&[c]), positive(&[c]), normal(&[c]), positive(&[c])];
        cases.push(
            Case::many("batch_norm_update_running", inputs, move |x| {
                let args = BatchNormArgs::new(&[10, c], EPSILON, Activation::Identity, true)?;
                let (mut mean, mut var) = (x[0].detach(), x[1].detach());
                let be = x[0].backend().clone();
                let (m, v) = (mean.buffer_mut(), var.buffer_mut());
                be.batch_norm_update_running(&args, 0.1, m, v, x[2].buffer(), x[3].buffer())?;
                // The originals share their memory with what was updated, and must not have
                // changed.
                Ok(vec![mean, var, x[0].detach(), x[1].detach()])
            })
            .forward_only(),
        );
    }
    cases
}

/// What must be refused.
pub fn errors() -> Vec<ErrorCase> {
    fn run(x: &[Tensor]) -> tilegrad_engine::Result<Tensor> {
        Ok(ops::batch_norm(&x[0], &x[1], &x[2], x.get(3), EPSILON, Activation::Relu)?.y)
    }
    let refuse = |inputs: Vec<Input>, message: &str| {
        ErrorCase::new("batch_norm", inputs, run, format!("batch_norm: {message}"))
    };
    let inference = |inputs: Vec<Input>, message: &str| {
        let run = |x: &[Tensor]| {
            let [x, gamma, beta, mean, var] = std::array::from_fn(|i| &x[i]);
            ops::batch_norm_inference(
                x,
                gamma,
                beta,
                mean,
                var,
                None,
                EPSILON,
                Activation::Identity,
            )
        };
        ErrorCase::new("batch_norm_inference", inputs, run, format!("batch_norm: {message}"))
    };
    vec![
        refuse(
            inputs(&[3], false, false),
            "needs more than 1 value a channel when training, got x: [3]",
        ),
        refuse(
            inputs(&[1, 1, 1, 3], false, false),
            "needs more than 1 value a channel when training, got x: [1, 1, 1, 3]",
        ),
        refuse(vec![normal(&[4, 3]), normal(&[2]), normal(&[3])], "gamma must be [3], got [2]"),
        refuse(
            vec![normal(&[4, 3]), normal(&[3]), normal(&[3, 1])],
            "beta must be [3], got [3, 1]",
        ),
        refuse(
            vec![normal(&[4, 3]), normal(&[3]), normal(&[3]), normal(&[1, 3])],
            "residual must be [4, 3], got [1, 3]",
        ),
        refuse(vec![normal(&[]), normal(&[1]), normal(&[1])], "needs at least 1 axis, got []"),
        inference(
            vec![
                normal(&[4, 3]),
                normal(&[3]),
                normal(&[3]),
                normal(&[2]).untracked(),
                positive(&[3]).untracked(),
            ],
            "mean must be [3], got [2]",
        ),
        inference(
            vec![
                normal(&[4, 3]),
                normal(&[3]),
                normal(&[3]),
                normal(&[3]).untracked(),
                positive(&[3]),
            ],
            "no gradient reaches var, so a tracked tensor must be detached first",
        ),
    ]
}
