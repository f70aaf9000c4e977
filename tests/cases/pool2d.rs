//! Max, average and global average pooling.

use tilegrad_engine::ops;

use crate::{Case, ErrorCase, Special, Tolerance, distinct, list, normal};

/// x, kernel, stride, padding.
type Line = ([usize; 4], [usize; 2], [usize; 2], [usize; 2]);

/// The common 2x2; overlapping, gapped, oblong and padded windows; windows that miss the last rows;
/// one channel, odd channels, more than a vector of them; nothing; batch 1.
const LINES: &[Line] = &[
    ([1, 2, 2, 1], [2, 2], [2, 2], [0, 0]),
    ([2, 4, 4, 3], [2, 2], [2, 2], [0, 0]),
    ([1, 5, 5, 1], [2, 2], [2, 2], [0, 0]),
    ([2, 7, 9, 33], [2, 2], [2, 2], [0, 0]),
    ([2, 7, 5, 3], [3, 3], [2, 2], [1, 1]),
    ([2, 7, 5, 17], [3, 3], [1, 1], [1, 1]),
    ([1, 6, 9, 2], [2, 3], [1, 2], [1, 0]),
    ([1, 6, 9, 2], [2, 3], [2, 1], [0, 1]),
    ([1, 9, 9, 2], [2, 2], [3, 3], [0, 0]),
    ([2, 8, 8, 33], [2, 2], [2, 2], [0, 0]),
    ([1, 1, 1, 5], [1, 1], [1, 1], [0, 0]),
    ([1, 3, 3, 16], [3, 3], [3, 3], [0, 0]),
    ([1, 7, 7, 4], [5, 5], [2, 2], [2, 2]),
    ([1, 4, 5, 2], [4, 4], [1, 1], [2, 2]),
    ([0, 4, 4, 3], [2, 2], [2, 2], [0, 0]),
    ([2, 4, 4, 0], [2, 2], [2, 2], [0, 0]),
    ([2, 32, 32, 32], [2, 2], [2, 2], [0, 0]),
    ([2, 31, 33, 19], [3, 2], [2, 3], [1, 1]),
];

/// What must work.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(x, k, s, p) in LINES {
        let note = format!("kernel {k:?} stride {s:?} padding {p:?}");
        let max = Case::new("max_pool2d", [distinct(&x)], move |x| ops::max_pool2d(&x[0], k, s, p))
            .note(&note)
            .tolerance(Tolerance::sum(1))
            .exact();
        let avg = Case::new("avg_pool2d", [normal(&x)], move |x| ops::avg_pool2d(&x[0], k, s, p))
            .note(&note)
            .tolerance(Tolerance::sum(k[0] * k[1]));
        if x == [2, 7, 5, 3] || x == [2, 4, 4, 3] {
            cases.extend(max.with(&Special::ALL));
            cases.extend(avg.with(&Special::ALL));
        }
        cases.push(max);
        // Windows of a power of two, without padding (which changes the divisor).
        let exact = (k[0] * k[1]).is_power_of_two() && p == [0, 0];
        cases.push(if exact { avg.exact() } else { avg });
    }
    // The first of equal maxima gets the gradient.
    let tied = [2.0, 2.0, 1.0, 2.0];
    cases.push(
        Case::new("max_pool2d", [list(&[1, 2, 2, 1], &tied)], |x| {
            ops::max_pool2d(&x[0], [2, 2], [2, 2], [0, 0])
        })
        .note("ties")
        .not_smooth(),
    );
    for shape in
        [[1, 1, 1, 1], [2, 3, 5, 7], [3, 8, 8, 64], [1, 4, 4, 513], [0, 2, 2, 3], [2, 33, 31, 5]]
    {
        let case =
            Case::new("global_avg_pool2d", [normal(&shape)], |x| ops::global_avg_pool2d(&x[0]))
                .tolerance(Tolerance::sum(shape[1] * shape[2]));
        if shape == [2, 3, 5, 7] {
            cases.extend(case.with(&Special::ALL));
        }
        cases.push(if shape[1] * shape[2] == 64 { case.exact() } else { case });
    }
    cases
}

/// What must be refused.
pub fn errors() -> Vec<ErrorCase> {
    let max = |x: &[usize], k, s, p, message: &str| {
        let run = move |x: &[tilegrad_engine::Tensor]| ops::max_pool2d(&x[0], k, s, p);
        ErrorCase::new("max_pool2d", [normal(x)], run, format!("max_pool2d: {message}"))
    };
    let avg = |x: &[usize], k, s, p, message: &str| {
        let run = move |x: &[tilegrad_engine::Tensor]| ops::avg_pool2d(&x[0], k, s, p);
        ErrorCase::new("avg_pool2d", [normal(x)], run, format!("avg_pool2d: {message}"))
    };
    vec![
        ErrorCase::new(
            "global_avg_pool2d",
            [normal(&[4, 4, 3])],
            |x| ops::global_avg_pool2d(&x[0]),
            "global_avg_pool2d: x must be [N, H, W, C], got [4, 4, 3]",
        ),
        max(&[4, 4, 3], [2, 2], [2, 2], [0, 0], "x must be [N, H, W, C], got [4, 4, 3]"),
        max(
            &[1, 4, 4, 3],
            [2, 2],
            [2, 2],
            [2, 0],
            "padding [2, 0] must be at most half of the window [2, 2]",
        ),
        max(
            &[1, 4, 4, 3],
            [0, 2],
            [2, 2],
            [0, 0],
            "kernel, stride and dilation must be at least 1, got 0, 2, 1 (x: [1, 4, 4, 3])",
        ),
        avg(&[4, 4, 3], [2, 2], [2, 2], [0, 0], "x must be [N, H, W, C], got [4, 4, 3]"),
        avg(
            &[1, 4, 4, 3],
            [5, 5],
            [1, 1],
            [0, 0],
            "the window reaches over 5 positions, but there are 4 with padding (x: [1, 4, 4, 3])",
        ),
        avg(
            &[1, 4, 4, 3],
            [2, 2],
            [0, 1],
            [0, 0],
            "kernel, stride and dilation must be at least 1, got 2, 0, 1 (x: [1, 4, 4, 3])",
        ),
    ]
}
