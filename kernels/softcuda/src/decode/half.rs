//! Arithmetic of f16 and bf16, alone and in pairs.

use super::arithmetic::{push, rounding};
use super::emit::Emit;
use super::modifiers::Modifiers;
use super::table::Decoded;
use crate::ast::Instruction;
use crate::code::{Class, Handler};
use crate::lanes::approx;
use crate::lanes::float::Round;
use crate::lanes::half::{self, Half, both, both2, both3};
use crate::lanes::{Bf16, F16, binary, ternary, unary};
use crate::types::Type;

/// A function of one number for f16 or bf16, alone or in pairs.
fn one<H: Half, F: Fn(H) -> H + Copy + 'static>(pair: bool, f: F) -> Handler {
    if pair { unary(move |a: u32| both(a, f)) } else { unary(f) }
}

fn two<H: Half, F: Fn(H, H) -> H + Copy + 'static>(pair: bool, f: F) -> Handler {
    if pair { binary(move |a: u32, b: u32| both2(a, b, f)) } else { binary(f) }
}

fn three<H: Half, F: Fn(H, H, H) -> H + Copy + 'static>(pair: bool, f: F) -> Handler {
    if pair { ternary(move |a: u32, b: u32, c: u32| both3(a, b, c, f)) } else { ternary(f) }
}

/// Decodes an instruction whose type is `ty`.
pub fn decode(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>, ty: Type) -> Decoded {
    match ty {
        Type::F16 | Type::F16x2 => typed::<F16>(e, insn, m, ty),
        _ => typed::<Bf16>(e, insn, m, ty),
    }
}

fn typed<H: Half>(
    e: &mut Emit<'_>,
    insn: &Instruction,
    m: &mut Modifiers<'_>,
    ty: Type,
) -> Decoded {
    let pair = matches!(ty, Type::F16x2 | Type::Bf16x2);
    if rounding(m).is_some_and(|r| r != Round::Near) {
        return Err("f16 and bf16 are rounded to nearest only".into());
    }
    let relu = m.take("relu");
    let (n, flops, run) = match insn.opcode.as_str() {
        "fma" if relu => (3, 2, three::<H, _>(pair, half::fma_relu)),
        _ if relu => return Err("modifier .relu is not supported here".into()),
        "fma" => (3, 2, three::<H, _>(pair, half::fma)),
        "add" => (2, 1, two::<H, _>(pair, half::add)),
        "sub" => (2, 1, two::<H, _>(pair, half::sub)),
        "mul" => (2, 1, two::<H, _>(pair, half::mul)),
        "min" if m.take("NaN") => (2, 1, two::<H, _>(pair, half::min_nan)),
        "min" => (2, 1, two::<H, _>(pair, half::min)),
        "max" if m.take("NaN") => (2, 1, two::<H, _>(pair, half::max_nan)),
        "max" => (2, 1, two::<H, _>(pair, half::max)),
        "neg" => (1, 1, one::<H, _>(pair, |a: H| H::from_bits(a.bits() ^ 0x8000))),
        "abs" => (1, 1, one::<H, _>(pair, |a: H| H::from_bits(a.bits() & 0x7fff))),
        "ex2" if m.take("approx") => {
            m.take("ftz");
            (1, 1, one::<H, _>(pair, |a: H| H::near(approx::ex2(a.wide()))))
        }
        "tanh" if m.take("approx") => {
            (1, 1, one::<H, _>(pair, |a: H| H::near(approx::tanh(a.wide()))))
        }
        _ => return Err(format!("not for {ty:?}")),
    };
    let flops = if pair { 2 * flops } else { flops };
    push(e, insn, ty, n, (Class::Half, flops), run)
}
