//! Sums, means, maxima over axes.

use tilegrad_engine::{Result, Tensor, ops};

use crate::{Case, ErrorCase, Input, Special, Tolerance, distinct, list, normal};

type Reduction = fn(&Tensor, &[usize]) -> Result<Tensor>;

const OPS: &[(&str, Reduction, fn(&[usize]) -> Input)] =
    &[("sum", ops::sum, normal), ("mean", ops::mean, normal), ("amax", ops::amax, distinct)];

/// Shapes and axes: all, first, last, middle, several, each layout that a kernel may treat apart;
/// powers of two for exact means; more than a task of 16384 elements in the rows, in the columns
/// and in one sum.
const LINES: &[(&[usize], &[usize])] = &[
    (&[], &[]),
    (&[1], &[0]),
    (&[7], &[]),
    (&[3, 5], &[0]),
    (&[3, 5], &[1]),
    (&[3, 5], &[1, 0]),
    (&[3, 5], &[]),
    (&[2, 3, 4], &[1]),
    (&[2, 3, 4], &[0, 2]),
    (&[1, 1, 4], &[0, 1]),
    (&[4, 8, 16], &[0, 1]),
    (&[2, 5, 7, 3], &[1, 2]),
    (&[2, 5, 7, 3], &[0, 1, 2]),
    (&[2, 5, 7, 3], &[0, 3]),
    (&[0, 3], &[1]),
    (&[3, 0, 2], &[0]),
    (&[40013], &[0]),
    (&[300, 131], &[0]),
    (&[300, 131], &[1]),
    (&[17, 1000, 3], &[1]),
    (&[131, 5, 67], &[0, 2]),
    (&[2, 16385], &[1]),
    (&[16385, 2], &[0]),
];

fn index(op: Reduction, axes: &'static [usize]) -> impl Fn(&[Tensor]) -> Result<Tensor> {
    move |x| op(&x[0], axes)
}

/// What must work.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(shape, axes) in LINES {
        let elements: usize = shape.iter().product();
        for &(name, op, input) in OPS {
            let mut case =
                Case::new(name, [input(shape)], index(op, axes)).note(format!("axes {axes:?}"));
            case.tolerance = match name {
                "amax" => Tolerance::EXACT,
                _ => Tolerance::sum(elements),
            };
            // A mean is exact where it divides by a power of two.
            case.exact_on_integers = name != "mean" || shape == [4, 8, 16] || shape == [1, 1, 4];
            if shape == [3, 5] && axes == [1] || shape == [2, 3, 4] {
                // Shares of a tie are quotients.
                let ties = case.clone().tolerance(Tolerance::sum(elements));
                cases.extend(ties.with(&Special::ALL));
            }
            cases.push(case);
        }
        let argmax = Case::new("argmax", [distinct(shape)], index(ops::argmax, axes))
            .note(format!("axes {axes:?}"))
            .tolerance(Tolerance::EXACT)
            .forward_only();
        if !shape.contains(&0) {
            if shape == [3, 5] || shape == [2, 3, 4] {
                cases.extend(argmax.with(&Special::ALL));
            }
            cases.push(argmax.exact());
        }
    }
    // Reductions over nothing: 0, NaN, -inf.
    for &(name, op, input) in OPS {
        cases.push(
            Case::new(name, [input(&[2, 0, 3])], index(op, &[1])).note("over nothing").not_smooth(),
        );
    }
    // Ties: the first position, and equal shares of the gradient.
    let tied = [1.0, 3.0, 3.0, 2.0, 2.0, 2.0, -1.0, -2.0];
    cases.push(
        Case::new("argmax", [list(&[2, 4], &tied)], index(ops::argmax, &[1]))
            .note("ties")
            .forward_only(),
    );
    cases.push(
        Case::new("amax", [list(&[2, 4], &tied)], index(ops::amax, &[1])).note("ties").not_smooth(),
    );
    for n in [1, 1000, 40013] {
        cases.push(
            Case::many("sum_squares", [normal(&[n])], |x| {
                let y = x[0].backend().sum_squares(x[0].buffer())?;
                Ok(vec![x[0].wrap(y, &[])])
            })
            .tolerance(Tolerance::relative(8.0))
            .forward_only()
            .exact(),
        );
    }
    cases.push(
        Case::many("sum_squares", [normal(&[0])], |x| {
            Ok(vec![x[0].wrap(x[0].backend().sum_squares(x[0].buffer())?, &[])])
        })
        .forward_only(),
    );
    cases
}

/// What must be refused.
pub fn errors() -> Vec<ErrorCase> {
    let mut errors = Vec::new();
    for &(name, op, input) in
        OPS.iter().chain(&[("argmax", ops::argmax as Reduction, distinct as _)])
    {
        let mut refuse = |axes: &'static [usize], message: &str| {
            errors.push(ErrorCase::new(
                name,
                [input(&[2, 3])],
                index(op, axes),
                format!("{name}: {message}"),
            ));
        };
        refuse(&[2], "axis 2 is outside 0..2 (x: [2, 3])");
        refuse(&[0, 0], "axis 0 is named twice");
    }
    errors
}
