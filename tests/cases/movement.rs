//! Ops that only move elements: nothing may be rounded.

use tilegrad_engine::{Tensor, ops};

use crate::{Case, ErrorCase, Input, Tolerance, integers, labels, list, normal};

/// What must work.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Each op on floats, and on i32 labels, which must survive every bit.
    for float in [true, false] {
        let input = |shape: &[usize]| match float {
            true => normal(shape),
            false => integers(shape, -1_000_000_000, 1_000_000_000).as_i32(),
        };
        let mut moved = Vec::new();
        for (from, to) in [
            (vec![6], vec![2, 3]),
            (vec![2, 3], vec![]),
            (vec![0, 3], vec![5, 0]),
            (vec![4, 5, 6], vec![20, 6]),
        ] {
            let to = if to.is_empty() { vec![6, 1] } else { to };
            let run = move |x: &[Tensor]| ops::reshape(&x[0], &to);
            moved.push(Case::new("reshape", [input(&from)], run));
        }
        let permutations: [(&[usize], &[usize]); 12] = [
            (&[], &[]),
            (&[5], &[0]),
            (&[3, 4], &[0, 1]),
            (&[3, 4], &[1, 0]),
            (&[2, 0, 3], &[2, 1, 0]),
            (&[2, 3, 4], &[2, 0, 1]),
            (&[2, 3, 4, 5], &[0, 3, 1, 2]),
            (&[2, 3, 4, 5], &[0, 2, 3, 1]),
            (&[2, 3, 4, 5, 2], &[4, 1, 3, 0, 2]),
            (&[131, 67], &[1, 0]),
            (&[2, 33, 31, 17], &[0, 3, 1, 2]),
            (&[64, 16, 3, 3], &[0, 2, 3, 1]),
        ];
        for (shape, permutation) in permutations {
            let run = move |x: &[Tensor]| ops::permute(&x[0], permutation);
            moved.push(Case::new("permute", [input(shape)], run).note(format!("{permutation:?}")));
        }
        let joined: [(&[&[usize]], usize); 7] = [
            (&[&[3]], 0),
            (&[&[3], &[0], &[4]], 0),
            (&[&[2, 3], &[5, 3]], 0),
            (&[&[2, 3], &[2, 4], &[2, 1]], 1),
            (&[&[2, 3, 5], &[2, 1, 5]], 1),
            (&[&[7, 33, 65], &[7, 33, 2]], 2),
            (&[&[129, 67], &[129, 68]], 1),
        ];
        for (shapes, axis) in joined {
            let run = move |x: &[Tensor]| ops::concat(&x.iter().collect::<Vec<_>>(), axis);
            moved.push(
                Case::new("concat", shapes.iter().map(|s| input(s)), run)
                    .note(format!("axis {axis}")),
            );
        }
        let boxes: [(&[usize], &[usize], &[usize]); 7] = [
            (&[], &[], &[]),
            (&[7], &[2], &[3]),
            (&[7], &[7], &[0]),
            (&[3, 4], &[0, 0], &[3, 4]),
            (&[3, 4, 5], &[1, 0, 2], &[2, 3, 2]),
            (&[2, 9, 9, 3], &[0, 1, 2, 0], &[2, 6, 6, 3]),
            (&[130, 140], &[1, 3], &[128, 131]),
        ];
        for (shape, starts, sizes) in boxes {
            let run = move |x: &[Tensor]| ops::slice(&x[0], starts, sizes);
            moved.push(
                Case::new("slice", [input(shape)], run)
                    .note(format!("at {starts:?} of size {sizes:?}")),
            );
        }
        let paddings: [(&[usize], &[usize], &[usize], f64); 7] = [
            (&[], &[], &[], 1.0),
            (&[3], &[2], &[1], 0.0),
            (&[0], &[2], &[1], 7.0),
            (&[3, 4], &[0, 0], &[0, 0], 1.0),
            (&[3, 4, 5], &[1, 0, 2], &[0, 3, 1], -2.0),
            (&[2, 8, 8, 3], &[0, 4, 4, 0], &[0, 4, 4, 0], 0.0),
            (&[127, 129], &[1, 2], &[3, 4], 0.5),
        ];
        for (shape, before, after, value) in paddings {
            let value = if float { value } else { value.trunc() };
            let run = move |x: &[Tensor]| ops::pad(&x[0], before, after, value);
            moved.push(
                Case::new("pad", [input(shape)], run)
                    .note(format!("{before:?} and {after:?} of {value}")),
            );
        }
        for (shape, axis, count) in [
            (vec![5], 0, 3),
            (vec![4, 3], 0, 7),
            (vec![4, 3], 1, 2),
            (vec![2, 5, 3], 1, 8),
            (vec![4, 3], 0, 0),
            (vec![50, 131], 0, 300),
            (vec![7, 31, 65], 1, 40),
        ] {
            let indices = labels(&[count], shape[axis]);
            let case = Case::new("gather", [input(&shape), indices], move |x| {
                ops::gather(&x[0], axis, &x[1])
            })
            .note(format!("axis {axis}"));
            // An index that is named twice gets the sum of two gradients.
            moved.push(case.tolerance(Tolerance::sum(count)));
        }
        for case in moved {
            let gather = case.op == "gather" && float;
            let tolerance = if gather { case.tolerance } else { Tolerance::EXACT };
            let case = case.tolerance(tolerance).exact();
            cases.push(if float { case } else { as_integers(case) });
        }
    }
    cases
}

/// A case on i32: no gradient, and nothing to redo on small integers.
fn as_integers(case: Case) -> Case {
    let mut case = case.note("i32").forward_only();
    case.exact_on_integers = false;
    case
}

/// What must be refused.
pub fn errors() -> Vec<ErrorCase> {
    fn one(
        op: &'static str,
        shape: &[usize],
        run: impl Fn(&Tensor) -> tilegrad_engine::Result<Tensor> + Send + Sync + 'static,
        message: &str,
    ) -> ErrorCase {
        ErrorCase::new(op, [normal(shape)], move |x| run(&x[0]), format!("{op}: {message}"))
    }
    let join = |shapes: &[&[usize]], axis: usize, message: &str| {
        let inputs: Vec<Input> = shapes.iter().map(|s| normal(s)).collect();
        let run = move |x: &[Tensor]| ops::concat(&x.iter().collect::<Vec<_>>(), axis);
        ErrorCase::new("concat", inputs, run, format!("concat: {message}"))
    };
    vec![
        one(
            "reshape",
            &[2, 3],
            |x| ops::reshape(x, &[4, 2]),
            "[4, 2] has 8 elements, but x has 6 (x: [2, 3])",
        ),
        one(
            "permute",
            &[2, 3],
            |x| ops::permute(x, &[0, 0]),
            "[0, 0] is not a permutation of the 2 axes of [2, 3]",
        ),
        one(
            "permute",
            &[2, 3],
            |x| ops::permute(x, &[1]),
            "[1] is not a permutation of the 2 axes of [2, 3]",
        ),
        one(
            "slice",
            &[4, 5],
            |x| ops::slice(x, &[1, 3], &[3, 3]),
            "the box at [1, 3] of size [3, 3] does not lie inside [4, 5]",
        ),
        one(
            "slice",
            &[4, 5],
            |x| ops::slice(x, &[usize::MAX, 0], &[2, 3]),
            "the box at [18446744073709551615, 0] of size [2, 3] does not lie inside [4, 5]",
        ),
        one(
            "pad",
            &[4, 5],
            |x| ops::pad(x, &[1], &[1, 1], 0.0),
            "needs one pair an axis of [4, 5], got before [1], after [1, 1]",
        ),
        join(&[&[2, 3], &[2, 4]], 0, "shapes must agree outside axis 0, got [2, 3] and [2, 4]"),
        join(&[&[2, 3], &[2]], 1, "shapes must agree outside axis 1, got [2, 3] and [2]"),
        join(&[&[2, 3]], 2, "axis 2 is outside the axes of [2, 3]"),
        ErrorCase::new(
            "gather",
            [normal(&[3, 2]), list(&[2], &[1.0, 3.0]).as_i32()],
            |x| ops::gather(&x[0], 0, &x[1]),
            "gather: index 3 at position 1 is outside 0..3",
        ),
        ErrorCase::new(
            "gather",
            [normal(&[3, 2]), list(&[1], &[-1.0]).as_i32()],
            |x| ops::gather(&x[0], 0, &x[1]),
            "gather: index -1 at position 0 is outside 0..3",
        ),
        ErrorCase::new(
            "gather",
            [normal(&[3, 2]), labels(&[2, 1], 2)],
            |x| ops::gather(&x[0], 0, &x[1]),
            "gather: indices must be [count], got [2, 1]",
        ),
        ErrorCase::new(
            "gather",
            [normal(&[3, 2]), labels(&[2], 2)],
            |x| ops::gather(&x[0], 2, &x[1]),
            "gather: axis 2 is outside the axes of [3, 2]",
        ),
    ]
}
