//! Matrix products and linear layers.

use tilegrad_engine::ops;

use crate::{Case, ErrorCase, Special, Tolerance, normal};

/// [m, k, n]: nothing, one, prime, less than a register tile, one more than one, larger than every
/// cache block, rows 4 KiB apart (which the CPU copies), more of b than is packed at a time.
const SIZES: [[usize; 3]; 19] = [
    [1, 1, 1],
    [2, 3, 4],
    [1, 7, 1],
    [7, 1, 5],
    [1, 64, 33],
    [33, 64, 1],
    [13, 17, 31],
    [14, 16, 32],
    [15, 33, 33],
    [0, 3, 4],
    [3, 0, 4],
    [3, 4, 0],
    [65, 129, 257],
    [200, 300, 70],
    [64, 4096, 10],
    [5, 1031, 48],
    [300, 520, 530],
    [45, 1024, 40],
    [3, 1300, 900],
];

/// What must work.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for [m, k, n] in SIZES {
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let a = if ta { [k, m] } else { [m, k] };
            let b = if tb { [n, k] } else { [k, n] };
            let case = Case::new("matmul", [normal(&a), normal(&b)], move |x| {
                ops::matmul(&x[0], &x[1], ta, tb)
            })
            .note(format!("transposed: {ta}, {tb}"))
            .tolerance(Tolerance::sum(k.max(m).max(n)))
            .exact();
            if [m, k, n] == [13, 17, 31] {
                cases.extend(case.with(&Special::ALL));
            }
            cases.push(case);
        }
    }
    // Batches, and one side shared by all of a batch: its gradient is a sum over the batch.
    let batched: [(&[usize], &[usize]); 7] = [
        (&[3, 4, 5], &[3, 5, 6]),
        (&[2, 3, 4, 5], &[2, 3, 5, 2]),
        (&[3, 4, 5], &[5, 6]),
        (&[4, 5], &[3, 5, 6]),
        (&[0, 4, 5], &[5, 6]),
        (&[5, 33, 65], &[5, 65, 17]),
        (&[5, 33, 65], &[65, 17]),
    ];
    for (a, b) in batched {
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let swap = |s: &[usize], t: bool| {
                let mut s = s.to_vec();
                let r = s.len();
                if t {
                    s.swap(r - 1, r - 2);
                }
                s
            };
            let inputs = [normal(&swap(a, ta)), normal(&swap(b, tb))];
            let run = move |x: &[tilegrad_engine::Tensor]| ops::matmul(&x[0], &x[1], ta, tb);
            cases.push(
                Case::new("matmul", inputs, run)
                    .note(format!("transposed: {ta}, {tb}"))
                    .tolerance(Tolerance::sum(350))
                    .exact(),
            );
        }
    }
    for ([rows, inputs, outputs], lead) in [
        ([1, 1, 1], 1),
        ([5, 7, 3], 1),
        ([0, 4, 3], 1),
        ([6, 64, 10], 2),
        ([128, 256, 10], 1),
        ([3, 1031, 129], 1),
    ] {
        let x = if lead == 1 { vec![rows, inputs] } else { vec![lead, rows / lead, inputs] };
        let k = rows.max(inputs).max(outputs);
        let run = |x: &[tilegrad_engine::Tensor]| ops::linear(&x[0], &x[1], x.get(2));
        for bias in [true, false] {
            let mut tensors = vec![normal(&x), normal(&[outputs, inputs])];
            if bias {
                tensors.push(normal(&[outputs]));
            }
            let case = Case::new("linear", tensors, run).tolerance(Tolerance::sum(k)).exact();
            if rows == 5 {
                cases.extend(case.with(&Special::ALL));
            }
            cases.push(case);
        }
    }
    cases
}

/// What must be refused.
pub fn errors() -> Vec<ErrorCase> {
    let product = |a: &[usize], b: &[usize], message: &str| {
        ErrorCase::new(
            "matmul",
            [normal(a), normal(b)],
            |x| ops::matmul(&x[0], &x[1], false, true),
            format!(
                "matmul: {message} (a: {a:?}, b: {b:?}, transpose_a: false, transpose_b: true)"
            ),
        )
    };
    let linear = |shapes: &[&[usize]], message: &str| {
        let inputs: Vec<_> = shapes.iter().map(|s| normal(s)).collect();
        let shapes = format!("(x: {:?}, weight: {:?})", shapes[0], shapes[1]);
        let message = if message.starts_with("bias") {
            message.to_string()
        } else {
            format!("{message} {shapes}")
        };
        ErrorCase::new(
            "linear",
            inputs,
            |x| ops::linear(&x[0], &x[1], x.get(2)),
            format!("linear: {message}"),
        )
    };
    vec![
        linear(&[&[2, 3], &[5, 4]], "weight expects 4 inputs, but x has 3"),
        linear(&[&[2, 3], &[3]], "weight must be [Out, In]"),
        linear(&[&[], &[5, 4]], "x must be [.., In]"),
        linear(&[&[2, 3], &[5, 3], &[4]], "bias must be [5], got [4]"),
        product(&[2, 3], &[4, 5], "inner sizes 3 and 5 differ"),
        product(&[3], &[4, 3], "needs at least 2 axes on both sides"),
        product(&[2, 2, 3], &[3, 4, 3], "leading axes must be equal, or absent on one side"),
    ]
}
