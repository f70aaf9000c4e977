//! Rows of classes: softmax, log-softmax, cross-entropy; and dropout.

use tilegrad_engine::{Result, Tensor, ops};
use tilegrad_kernels::philox::{Purpose, Stream};

use crate::{
    Case, ErrorCase, Input, Special, Tolerance, Values, labels, list, normal, probabilities,
    uniform,
};

fn spread(shape: &[usize]) -> Input {
    Input { values: Values::Normal { mean: 0.0, std: 4.0 }, ..normal(shape) }
}

type RowOp = fn(&Tensor) -> Result<Tensor>;

const ROW_OPS: [(&str, RowOp); 2] = [("softmax", ops::softmax), ("log_softmax", ops::log_softmax)];

/// What must work.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, op) in ROW_OPS {
        let shapes: [&[usize]; 10] = [
            &[1, 1],
            &[5],
            &[3, 10],
            &[7, 33],
            &[2, 3, 17],
            &[2, 1025],
            &[0, 10],
            &[3, 0],
            &[513, 10],
            &[2000, 100],
        ];
        for shape in shapes {
            let len = *shape.last().expect("has an axis");
            let case = Case::new(name, [spread(shape)], move |x| op(&x[0]))
                .tolerance(Tolerance::sum(len).times(4.0));
            if shape == [3, 10] {
                cases.extend(case.with(&Special::ALL));
            }
            cases.push(case);
        }
        let far = [1e4, 1e4 - 1.0, -1e4, 1e-3, 1e38, -1e38, 0.0, 1.0];
        cases.push(
            Case::new(name, [list(&[2, 4], &far)], move |x| op(&x[0]))
                .note("far from 0")
                .not_smooth(),
        );
        cases.push(
            Case::new(name, [list(&[1, 3], &[f64::NEG_INFINITY; 3])], move |x| op(&x[0]))
                .note("all -inf")
                .not_smooth(),
        );
    }
    for [n, c] in [[1, 1], [1, 10], [5, 10], [3, 33], [128, 10], [2, 1000], [0, 10], [1500, 100]] {
        for smoothing in [0.0, 0.1, 1.0] {
            let note = format!("smoothing {smoothing}");
            let run = move |x: &[Tensor]| ops::cross_entropy(&x[0], &x[1], smoothing);
            let tolerance = Tolerance::sum(c).times(4.0);
            let hard = Case::new("cross_entropy", [spread(&[n, c]), labels(&[n], c)], run)
                .note(&note)
                .tolerance(tolerance);
            let soft = Case::new("cross_entropy", [spread(&[n, c]), probabilities(&[n, c])], run)
                .note(&note)
                .tolerance(tolerance);
            if [n, c] == [5, 10] {
                cases.extend(hard.with(&Special::ALL));
                cases.extend(soft.with(&[Special::AllEqual, Special::OneNan]));
            }
            cases.extend([hard, soft]);
        }
    }
    // A confident and wrong model: e^-200 underflows, the loss must be 200 and not infinite.
    let confident = [200.0, 0.0, -200.0, 0.0, 1e4, -1e4];
    cases.push(
        Case::new(
            "cross_entropy",
            [list(&[2, 3], &confident), list(&[2], &[2.0, 0.0]).as_i32()],
            |x| ops::cross_entropy(&x[0], &x[1], 0.0),
        )
        .note("far from 0"),
    );
    for (shape, p) in [
        (vec![], 0.5),
        (vec![0], 0.5),
        (vec![7], 0.5),
        (vec![3, 5], 0.0),
        (vec![33, 65], 0.3),
        (vec![40013], 0.9),
    ] {
        let stream = Stream::new(42, Purpose::Dropout, 3, 1);
        let case = Case::new("dropout", [normal(&shape)], move |x| ops::dropout(&x[0], p, stream))
            .note(format!("p {p}"));
        cases.push(if p == 0.5 || p == 0.0 { case.exact() } else { case });
    }
    cases
}

/// What must be refused.
pub fn errors() -> Vec<ErrorCase> {
    let mut errors: Vec<ErrorCase> = ROW_OPS
        .into_iter()
        .map(|(name, op)| {
            let message = format!("{name}: needs at least 1 axis, got []");
            ErrorCase::new(name, [normal(&[])], move |x| op(&x[0]), message)
        })
        .collect();
    let mut refuse = |logits: Input, targets: Input, smoothing: f64, message: &str| {
        errors.push(ErrorCase::new(
            "cross_entropy",
            [logits, targets],
            move |x| ops::cross_entropy(&x[0], &x[1], smoothing),
            format!("cross_entropy: {message}"),
        ));
    };
    refuse(normal(&[5]), labels(&[5], 3), 0.0, "logits must be [batch, classes], got [5]");
    refuse(
        normal(&[5, 3]),
        labels(&[4], 3),
        0.0,
        "targets must be labels [5] or probabilities [5, 3], got [4]",
    );
    refuse(normal(&[5, 3]), labels(&[5], 3), 1.5, "label smoothing must be in [0, 1], got 1.5");
    refuse(
        normal(&[3, 3]),
        list(&[3], &[0.0, 3.0, 1.0]).as_i32(),
        0.1,
        "index 3 at position 1 is outside 0..3",
    );
    refuse(
        normal(&[3, 3]),
        list(&[3], &[0.0, 2.0, -1.0]).as_i32(),
        0.0,
        "index -1 at position 2 is outside 0..3",
    );
    for p in [1.0, -0.1] {
        let stream = Stream::new(1, Purpose::Dropout, 0, 0);
        errors.push(ErrorCase::new(
            "dropout",
            [uniform(&[3], 0.0, 1.0)],
            move |x| ops::dropout(&x[0], p, stream),
            format!("dropout: p must be in [0, 1), got {p}"),
        ));
    }
    errors
}
