//! Parameter updates. The inputs are parameter, gradient and state; the results what they become.

use tilegrad_engine::Tensor;
use tilegrad_kernels::{AdamWArgs, AdamWParameter, SgdArgs, SgdParameter};

use crate::{Case, ErrorCase, Tolerance, list, normal, positive};

const SIZES: [usize; 5] = [0, 1, 7, 1031, 40013];

/// Two parameters of `n` and 3 elements in one call, with and without a gradient scale.
fn sgd(args: SgdArgs, n: usize, scaled: bool) -> Case {
    let mut inputs: Vec<_> = (0..3).map(|_| normal(&[n])).collect();
    inputs.extend((0..3).map(|_| normal(&[3])));
    if scaled {
        inputs.push(list(&[1], &[0.5]));
    }
    Case::many("sgd_step", inputs, move |x| {
        let [mut p, mut v, mut q, mut w] = [0, 2, 3, 5].map(|i| x[i].detach());
        let be = p.backend().clone();
        be.sgd_step(
            &args,
            x.get(6).map(Tensor::buffer),
            &mut [
                SgdParameter {
                    parameter: p.buffer_mut(),
                    gradient: x[1].buffer(),
                    velocity: v.buffer_mut(),
                },
                SgdParameter {
                    parameter: q.buffer_mut(),
                    gradient: x[4].buffer(),
                    velocity: w.buffer_mut(),
                },
            ],
        )?;
        // x[0] shares its memory with p and must not have changed.
        Ok(vec![p, v, q, w, x[0].detach()])
    })
    .note(format!("{args:?} scaled: {scaled}"))
    .forward_only()
}

fn adamw(args: AdamWArgs, n: usize, scaled: bool) -> Case {
    let mut inputs = vec![normal(&[n]), normal(&[n]), normal(&[n]), positive(&[n])];
    inputs.extend([normal(&[3]), normal(&[3]), normal(&[3]), positive(&[3])]);
    if scaled {
        inputs.push(list(&[1], &[0.5]));
    }
    Case::many("adamw_step", inputs, move |x| {
        let [mut p, mut m, mut v, mut q, mut mq, mut vq] =
            [0, 2, 3, 4, 6, 7].map(|i| x[i].detach());
        let be = p.backend().clone();
        be.adamw_step(
            &args,
            x.get(8).map(Tensor::buffer),
            &mut [
                AdamWParameter {
                    parameter: p.buffer_mut(),
                    gradient: x[1].buffer(),
                    m: m.buffer_mut(),
                    v: v.buffer_mut(),
                },
                AdamWParameter {
                    parameter: q.buffer_mut(),
                    gradient: x[5].buffer(),
                    m: mq.buffer_mut(),
                    v: vq.buffer_mut(),
                },
            ],
        )?;
        Ok(vec![p, m, v, q, mq, vq, x[0].detach()])
    })
    .note(format!("{args:?} scaled: {scaled}"))
    .forward_only()
    .tolerance(Tolerance::elementwise(16.0))
}

/// What must work.
pub fn cases() -> Vec<Case> {
    let plain =
        SgdArgs { lr: 0.1, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false };
    let momentum = SgdArgs { momentum: 0.9, weight_decay: 5e-4, ..plain };
    let variants = [
        plain,
        momentum,
        SgdArgs { nesterov: true, ..momentum },
        SgdArgs { dampening: 0.25, ..momentum },
    ];
    let mut cases = Vec::new();
    for n in SIZES {
        for args in variants {
            cases.push(sgd(args, n, false));
        }
        cases.push(sgd(momentum, n, true));
        for (step, scaled) in [(1, false), (2, true), (1000, false)] {
            let args = AdamWArgs {
                lr: 1e-3,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.01,
                step,
            };
            cases.push(adamw(args, n, scaled));
        }
    }
    cases
}

/// What must be refused.
pub fn errors() -> Vec<ErrorCase> {
    let args =
        SgdArgs { lr: 0.1, momentum: 0.9, dampening: 0.0, weight_decay: 0.0, nesterov: false };
    vec![ErrorCase::new(
        "sgd_step",
        [normal(&[5]), normal(&[4]), normal(&[5])],
        move |x| {
            let (mut p, mut v) = (x[0].detach(), x[2].detach());
            let be = p.backend().clone();
            be.sgd_step(
                &args,
                None,
                &mut [SgdParameter {
                    parameter: p.buffer_mut(),
                    gradient: x[1].buffer(),
                    velocity: v.buffer_mut(),
                }],
            )
        },
        "sgd: expected a buffer of 5 elements, got 4",
    )]
}
