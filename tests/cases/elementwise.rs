//! Functions of one or two inputs, element by element.

use tilegrad_engine::{Result, Tensor, ops};

use crate::{
    Case, ErrorCase, Input, Special, Tolerance, distinct, list, normal, positive, uniform,
};

/// Nothing, one, odd, prime, a vector less and more than one, more than a task of 16384.
const SHAPES: [&[usize]; 8] = [&[0], &[], &[1], &[7], &[3, 5], &[2, 3, 17], &[63, 65], &[16411]];

type Unary = fn(&Tensor) -> Result<Tensor>;
type Binary = fn(&Tensor, &Tensor) -> Result<Tensor>;

struct UnaryLine {
    name: &'static str,
    op: Unary,
    input: fn(&[usize]) -> Input,
    tolerance: Tolerance,
    exact: bool,
}

/// One line an op: its name, what to feed it, its roundings, whether it is exact on integers.
const UNARY: &[UnaryLine] = &[
    line("affine", |x| ops::affine(x, 2.0, -3.0), normal, 2.0, true),
    line("neg", ops::neg, normal, 0.0, true),
    line("exp", ops::exp, normal, 8.0, false),
    line("log", ops::log, positive, 8.0, false),
    line("sqrt", ops::sqrt, positive, 4.0, false),
    line("tanh", ops::tanh, normal, 8.0, false),
    line("sigmoid", ops::sigmoid, wide, 8.0, false),
    line("relu", ops::relu, distinct, 0.0, true),
    line("leaky_relu", |x| ops::leaky_relu(x, 0.25), distinct, 1.0, true),
    line("gelu", ops::gelu, wide, 16.0, false),
    line("silu", ops::silu, wide, 16.0, false),
];

const fn line(
    name: &'static str,
    op: Unary,
    input: fn(&[usize]) -> Input,
    roundings: f64,
    exact: bool,
) -> UnaryLine {
    UnaryLine { name, op, input, tolerance: Tolerance::elementwise(roundings), exact }
}

fn wide(shape: &[usize]) -> Input {
    uniform(shape, -8.0, 8.0)
}

/// Where exp overflows, where it underflows to subnormal numbers, and the kinks.
const EXTREMES: [f64; 16] = [
    0.0, -0.0, 1e-30, -1e-30, 1e-6, 0.5, 1.0, -1.0, 12.0, -12.0, 85.0, -85.0, 88.5, 95.0, -95.0,
    1000.0,
];

const BINARY: &[(&str, Binary, bool, fn(&[usize]) -> Input)] = &[
    ("add", ops::add, true, normal),
    ("sub", ops::sub, true, normal),
    ("mul", ops::mul, true, normal),
    ("div", ops::div, false, positive),
    ("max", ops::max, true, distinct),
];

/// Pairs of shapes that broadcast. Gradients are summed over the axes that were repeated.
const BROADCASTS: [(&[usize], &[usize]); 17] = [
    (&[], &[]),
    (&[0], &[0]),
    (&[7], &[7]),
    (&[16411], &[16411]),
    (&[33, 65], &[]),
    (&[1], &[5, 7]),
    (&[4, 17], &[17]),
    (&[4, 17], &[4, 1]),
    (&[4, 1], &[1, 17]),
    (&[2, 5, 5, 3], &[3]),
    (&[2, 5, 5, 3], &[2, 1, 1, 3]),
    (&[2, 1, 3, 1], &[5, 1, 4]),
    (&[1, 1, 1], &[2, 3, 2]),
    (&[0, 3], &[1, 3]),
    (&[0, 3], &[1]),
    (&[513, 67], &[67]),
    (&[5, 129, 31], &[129, 1]),
];

/// What must work.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for UnaryLine { name, op, input, tolerance, exact } in UNARY {
        for shape in SHAPES {
            let mut case = Case::new(name, [input(shape)], |x| op(&x[0])).tolerance(*tolerance);
            case.exact_on_integers = *exact;
            if shape == [3, 5] {
                cases.extend(case.with(&Special::ALL));
            }
            cases.push(case);
        }
    }
    for (name, op) in [
        ("sigmoid", ops::sigmoid as Unary),
        ("tanh", ops::tanh),
        ("silu", ops::silu),
        ("gelu", ops::gelu),
    ] {
        cases.push(extremes(name, op, Tolerance::elementwise(16.0)));
    }
    // The error of e^x in f32 grows with x, which carries a relative error of one rounding only if
    // x is split exactly.
    let finite: Vec<f64> = EXTREMES.iter().copied().filter(|v| v.abs() < 87.0).collect();
    cases.push(
        Case::new("exp", [list(&[finite.len()], &finite)], |x| ops::exp(&x[0]))
            .note("at the ends of its range")
            .tolerance(Tolerance::relative(8.0)),
    );
    cases.push(
        Case::new("exp", [list(&[4], &[-1000.0, 1000.0, f64::INFINITY, f64::NEG_INFINITY])], |x| {
            ops::exp(&x[0])
        })
        .note("beyond its range")
        .not_smooth(),
    );
    cases.push(
        Case::new("log", [list(&[6], &[1e-38, 1e-20, 0.999, 1.0, 1.001, 3e38])], |x| {
            ops::log(&x[0])
        })
        .not_smooth()
        .note("at the ends of its range")
        .tolerance(Tolerance::elementwise(8.0).times(4.0)),
    );
    cases.push(
        Case::new("log", [list(&[2], &[0.0, -1.0])], |x| ops::log(&x[0]))
            .note("of 0 and of a negative number")
            .forward_only(),
    );
    for (name, op, exact, input) in BINARY {
        for (a, b) in BROADCASTS {
            let roundings = a.iter().product::<usize>().max(b.iter().product::<usize>()).max(1);
            for (a, b) in [(a, b), (b, a)] {
                let mut case = Case::new(name, [input(a), input(b)], |x| op(&x[0], &x[1]))
                    .tolerance(Tolerance::sum(roundings));
                case.exact_on_integers = *exact;
                if a == [4, 17] {
                    cases.extend(case.with(&Special::ALL));
                }
                cases.push(case);
                if a == b {
                    break;
                }
            }
        }
        // One input for both sides: its two gradients add up.
        cases.push(
            Case::new(name, [input(&[3, 7])], |x| op(&x[0], &x[0]))
                .note("with itself")
                .not_smooth(),
        );
    }
    let tie = [1.0, 2.0, 3.0, -1.0];
    cases.push(
        Case::new("max", [list(&[4], &tie), list(&[4], &[1.0, 5.0, 3.0, -2.0])], |x| {
            ops::max(&x[0], &x[1])
        })
        .note("with ties")
        .not_smooth(),
    );
    cases
}

fn extremes(name: &'static str, op: Unary, tolerance: Tolerance) -> Case {
    Case::new(name, [list(&[EXTREMES.len()], &EXTREMES)], move |x| op(&x[0]))
        .note("at the ends of its range")
        .tolerance(tolerance)
        .not_smooth()
}

/// What must be refused.
pub fn errors() -> Vec<ErrorCase> {
    let mut errors = Vec::new();
    for (name, op, _, input) in BINARY {
        errors.push(ErrorCase::new(
            name,
            [input(&[2, 3]), input(&[4, 3])],
            |x| op(&x[0], &x[1]),
            format!("{name}: shapes [2, 3] and [4, 3] do not broadcast: sizes 2 and 4 differ and neither is 1"),
        ));
        errors.push(ErrorCase::new(
            name,
            [input(&[5]), input(&[0])],
            |x| op(&x[0], &x[1]),
            format!(
                "{name}: shapes [5] and [0] do not broadcast: sizes 5 and 0 differ and neither is 1"
            ),
        ));
    }
    errors
}
