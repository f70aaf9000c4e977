//! Arithmetic of f32 and f64; f16 and bf16 are handed on to [`super::half`].

use super::emit::{Emit, Made, Parts};
use super::half;
use super::modifiers::Modifiers;
use super::table::{Decoded, operands};
use crate::ast::Instruction;
use crate::code::{Class, Handler};
use crate::lanes::approx;
use crate::lanes::float::{self, Round, flush, saturate};
use crate::lanes::{binary, compare, ternary, unary};
use crate::types::Type;

/// `.ftz` and `.sat` around a function of one f32.
fn unary32<F: Fn(f32) -> f32 + Copy + 'static>(f: F, ftz: bool, sat: bool) -> Handler {
    match (ftz, sat) {
        (false, false) => unary(f),
        (true, false) => unary(move |a| flush(f(flush(a)))),
        (false, true) => unary(move |a| saturate(f(a))),
        (true, true) => unary(move |a| saturate(flush(f(flush(a))))),
    }
}

/// `.ftz` and `.sat` around a function of two f32.
fn binary32<F: Fn(f32, f32) -> f32 + Copy + 'static>(f: F, ftz: bool, sat: bool) -> Handler {
    match (ftz, sat) {
        (false, false) => binary(f),
        (true, false) => binary(move |a, b| flush(f(flush(a), flush(b)))),
        (false, true) => binary(move |a, b| saturate(f(a, b))),
        (true, true) => binary(move |a, b| saturate(flush(f(flush(a), flush(b))))),
    }
}

/// `.ftz` and `.sat` around a function of three f32.
fn ternary32<F: Fn(f32, f32, f32) -> f32 + Copy + 'static>(f: F, ftz: bool, sat: bool) -> Handler {
    match (ftz, sat) {
        (false, false) => ternary(f),
        (true, false) => ternary(move |a, b, c| flush(f(flush(a), flush(b), flush(c)))),
        (false, true) => ternary(move |a, b, c| saturate(f(a, b, c))),
        (true, true) => ternary(move |a, b, c| saturate(flush(f(flush(a), flush(b), flush(c))))),
    }
}

/// Takes the rounding, if there is one.
pub(super) fn rounding(m: &mut Modifiers<'_>) -> Option<Round> {
    Some(match m.one_of(&["rn", "rz", "rm", "rp"])? {
        "rn" => Round::Near,
        "rz" => Round::Zero,
        "rm" => Round::Down,
        _ => Round::Up,
    })
}

/// One handler of four by rounding: the host's own for nearest.
macro_rules! by_rounding {
    ($wrap:ident, $round:expr, $near:expr, $f:ident, $ftz:expr, $sat:expr) => {
        match $round {
            Round::Near => $wrap($near, $ftz, $sat),
            Round::Zero => $wrap(float::$f::<1>, $ftz, $sat),
            Round::Down => $wrap(float::$f::<2>, $ftz, $sat),
            Round::Up => $wrap(float::$f::<3>, $ftz, $sat),
        }
    };
}

/// Decodes an instruction of this family.
pub fn decode(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    let ty = m.ty()?;
    match ty {
        Type::F32 => single(e, insn, m),
        Type::F64 => double(e, insn, m),
        Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 => half::decode(e, insn, m, ty),
        _ => Err(format!("not for type {ty:?}")),
    }
}

/// Pushes a function of `n` sources of one type.
pub(super) fn push(
    e: &mut Emit<'_>,
    insn: &Instruction,
    ty: Type,
    n: usize,
    (class, flops): (Class, u32),
    run: Handler,
) -> Decoded {
    if insn.operands.len() != n + 1 {
        return Err(format!("it takes {} operands, not {}", n + 1, insn.operands.len()));
    }
    let mut p = Parts::new(run);
    p.d = e.target(&insn.operands[0], ty)?;
    p.a = e.source(&insn.operands[1], ty)?;
    if n > 1 {
        p.b = e.source(&insn.operands[2], ty)?;
    }
    if n > 2 {
        p.c = e.source(&insn.operands[3], ty)?;
    }
    e.push(class, flops, p);
    Ok(Made::Plain)
}

fn single(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    let round = rounding(m);
    let (approximate, full) = (m.take("approx"), m.take("full"));
    let (ftz, sat) = (m.take("ftz"), m.take("sat"));
    let near = round.unwrap_or(Round::Near);
    let arithmetic = (Class::Float32, 1);
    let special = (Class::Special, 1);
    let exact = |what: Option<Round>| match what {
        Some(_) if approximate || full => Err("either approximate or rounded".to_string()),
        Some(round) => Ok(Some(round)),
        None if approximate || full => Ok(None),
        None => Err("it needs a rounding or .approx".to_string()),
    };
    let (n, class, run) = match insn.opcode.as_str() {
        "add" => (2, arithmetic, by_rounding!(binary32, near, |a, b| a + b, add, ftz, sat)),
        "sub" => {
            let run = match near {
                Round::Near => binary32(|a, b| a - b, ftz, sat),
                Round::Zero => binary32(|a, b| float::add::<1>(a, -b), ftz, sat),
                Round::Down => binary32(|a, b| float::add::<2>(a, -b), ftz, sat),
                Round::Up => binary32(|a, b| float::add::<3>(a, -b), ftz, sat),
            };
            (2, arithmetic, run)
        }
        "mul" => (2, arithmetic, by_rounding!(binary32, near, |a, b| a * b, mul, ftz, sat)),
        "fma" | "mad" => {
            let near = round.ok_or("it needs a rounding")?;
            let run = by_rounding!(ternary32, near, f32::mul_add, fma, ftz, sat);
            (3, (Class::Float32, 2), run)
        }
        "div" => match exact(round)? {
            None => (2, special, binary32(|a, b| a / b, ftz, false)),
            Some(r) => (2, special, by_rounding!(binary32, r, |a, b| a / b, div, ftz, false)),
        },
        "rcp" => match exact(round)? {
            None => (1, special, unary32(approx::rcp, ftz, false)),
            Some(Round::Near) => (1, special, unary32(approx::rcp, ftz, false)),
            Some(Round::Zero) => (1, special, unary32(|a| float::div::<1>(1.0, a), ftz, false)),
            Some(Round::Down) => (1, special, unary32(|a| float::div::<2>(1.0, a), ftz, false)),
            Some(Round::Up) => (1, special, unary32(|a| float::div::<3>(1.0, a), ftz, false)),
        },
        "sqrt" => match exact(round)? {
            None => (1, special, unary32(f32::sqrt, ftz, false)),
            Some(r) => (1, special, by_rounding!(unary32, r, f32::sqrt, sqrt, ftz, false)),
        },
        "rsqrt" if approximate => (1, special, unary32(approx::rsqrt, ftz, false)),
        "ex2" if approximate => (1, special, unary32(approx::ex2, ftz, false)),
        "lg2" if approximate => (1, special, unary32(approx::lg2, ftz, false)),
        "sin" if approximate => (1, special, unary32(approx::sin, ftz, false)),
        "cos" if approximate => (1, special, unary32(approx::cos, ftz, false)),
        "tanh" if approximate => (1, special, unary32(approx::tanh, ftz, false)),
        "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => return Err("it needs .approx".into()),
        "abs" => (1, arithmetic, unary32(f32::abs, ftz, false)),
        "neg" => (1, arithmetic, unary32(|a| -a, ftz, false)),
        "min" | "max" => {
            let run = match (insn.opcode == "min", m.take("NaN")) {
                (true, false) => binary32(float::min32, ftz, false),
                (true, true) => binary32(float::min32_nan, ftz, false),
                (false, false) => binary32(float::max32, ftz, false),
                (false, true) => binary32(float::max32_nan, ftz, false),
            };
            (2, arithmetic, run)
        }
        // The ISA's order: the sign of a, the magnitude of b.
        "copysign" => (2, arithmetic, binary(|a: f32, b: f32| b.copysign(a))),
        "testp" => return testp(e, insn, m, Type::F32),
        _ => return Err("not for f32".into()),
    };
    if sat && !matches!(insn.opcode.as_str(), "add" | "sub" | "mul" | "fma" | "mad") {
        return Err("modifier .sat is not supported here".into());
    }
    if round.is_some() && matches!(insn.opcode.as_str(), "abs" | "neg" | "min" | "max" | "copysign")
    {
        return Err("a rounding of an exact result".into());
    }
    push(e, insn, Type::F32, n, class, run)
}

fn double(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    let round = rounding(m);
    let needs_near = || match round {
        Some(Round::Near) => Ok(()),
        Some(_) => Err("f64 is rounded to nearest only".to_string()),
        None => Err("it needs a rounding".to_string()),
    };
    let arithmetic = (Class::Float64, 1);
    let (n, class, run) = match insn.opcode.as_str() {
        "add" | "sub" | "mul" => {
            if round.is_some() {
                needs_near()?;
            }
            let run = match insn.opcode.as_str() {
                "add" => binary(|a: f64, b: f64| a + b),
                "sub" => binary(|a: f64, b: f64| a - b),
                _ => binary(|a: f64, b: f64| a * b),
            };
            (2, arithmetic, run)
        }
        "fma" | "mad" => {
            needs_near()?;
            (3, (Class::Float64, 2), ternary(|a: f64, b: f64, c: f64| a.mul_add(b, c)))
        }
        "div" => {
            needs_near()?;
            (2, arithmetic, binary(|a: f64, b: f64| a / b))
        }
        "rcp" | "rsqrt" if m.take("approx") => {
            m.need("ftz")?;
            let run =
                if insn.opcode == "rcp" { unary(approx::rcp64) } else { unary(approx::rsqrt64) };
            (1, (Class::Special, 1), run)
        }
        "rcp" => {
            needs_near()?;
            (1, arithmetic, unary(|a: f64| 1.0 / a))
        }
        "sqrt" => {
            needs_near()?;
            (1, arithmetic, unary(f64::sqrt))
        }
        "abs" => (1, arithmetic, unary(f64::abs)),
        "neg" => (1, arithmetic, unary(|a: f64| -a)),
        "min" => (2, arithmetic, binary(float::min64)),
        "max" => (2, arithmetic, binary(float::max64)),
        "copysign" => (2, arithmetic, binary(|a: f64, b: f64| b.copysign(a))),
        "testp" => return testp(e, insn, m, Type::F64),
        _ => return Err("not for f64".into()),
    };
    if round.is_some() && matches!(insn.opcode.as_str(), "abs" | "neg" | "min" | "max" | "copysign")
    {
        return Err("a rounding of an exact result".into());
    }
    push(e, insn, Type::F64, n, class, run)
}

fn testp(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>, ty: Type) -> Decoded {
    const TESTS: [&str; 6] = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
    let test = m.one_of(&TESTS).ok_or("it needs a test such as .finite")?;
    macro_rules! test {
        ($ty:ty) => {
            match test {
                "finite" => compare(|a: $ty, _: $ty| a.is_finite()),
                "infinite" => compare(|a: $ty, _: $ty| a.is_infinite()),
                "number" => compare(|a: $ty, _: $ty| !a.is_nan()),
                "notanumber" => compare(|a: $ty, _: $ty| a.is_nan()),
                "normal" => compare(|a: $ty, _: $ty| a.is_normal()),
                _ => compare(|a: $ty, _: $ty| a.is_subnormal()),
            }
        };
    }
    let [d, a] = operands::<2>(insn)?;
    let mut p = Parts::new(if ty == Type::F32 { test!(f32) } else { test!(f64) });
    p.d = e.target_predicate(d)?;
    p.a = e.source(a, ty)?;
    p.b = p.a;
    p.imm = crate::code::NOWHERE.into();
    e.push(Class::Predicate, 0, p);
    Ok(Made::Plain)
}
