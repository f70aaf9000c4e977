//! `atom` and `red`.

use super::emit::{Emit, Made, Parts};
use super::memory;
use super::modifiers::Modifiers;
use super::table::Decoded;
use crate::ast::{Instruction, Operand};
use crate::code::{Class, Handler};
use crate::exec::atomic::{update, update_by_space};
use crate::lanes;
use crate::lanes::float::flush;
use crate::lanes::half::{self, both2};
use crate::types::{Space, Type};

const OPERATIONS: [&str; 10] =
    ["add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"];

fn handler(how: &str, ty: Type) -> Option<Handler> {
    use Type::*;
    Some(match (how, ty) {
        ("add", U32 | S32) => update::<u32, u32, _>(|old, b, _| old.wrapping_add(b)),
        ("add", U64 | S64) => update::<u64, u64, _>(|old, b, _| old.wrapping_add(b)),
        // PTX ISA, `atom`: on global memory subnormal inputs and results become zeros.
        ("add", F32) => update_by_space::<f32, u32, _, _>(
            |old, b, _| old + b,
            |old, b, _| flush(flush(old) + flush(b)),
        ),
        ("add", F64) => update::<f64, u64, _>(|old, b, _| old + b),
        ("add", F16) => update::<lanes::F16, u16, _>(|old, b, _| half::add(old, b)),
        ("add", Bf16) => update::<lanes::Bf16, u16, _>(|old, b, _| half::add(old, b)),
        ("add", F16x2) => update::<u32, u32, _>(|old, b, _| both2(old, b, half::add::<lanes::F16>)),
        ("add", Bf16x2) => {
            update::<u32, u32, _>(|old, b, _| both2(old, b, half::add::<lanes::Bf16>))
        }
        ("min", U32) => update::<u32, u32, _>(|old, b, _| old.min(b)),
        ("min", S32) => update::<i32, u32, _>(|old, b, _| old.min(b)),
        ("min", U64) => update::<u64, u64, _>(|old, b, _| old.min(b)),
        ("min", S64) => update::<i64, u64, _>(|old, b, _| old.min(b)),
        ("max", U32) => update::<u32, u32, _>(|old, b, _| old.max(b)),
        ("max", S32) => update::<i32, u32, _>(|old, b, _| old.max(b)),
        ("max", U64) => update::<u64, u64, _>(|old, b, _| old.max(b)),
        ("max", S64) => update::<i64, u64, _>(|old, b, _| old.max(b)),
        ("inc", U32) => update::<u32, u32, _>(|old, b, _| if old >= b { 0 } else { old + 1 }),
        ("dec", U32) => {
            update::<u32, u32, _>(|old, b, _| if old == 0 || old > b { b } else { old - 1 })
        }
        ("and", B32) => update::<u32, u32, _>(|old, b, _| old & b),
        ("or", B32) => update::<u32, u32, _>(|old, b, _| old | b),
        ("xor", B32) => update::<u32, u32, _>(|old, b, _| old ^ b),
        ("and", B64) => update::<u64, u64, _>(|old, b, _| old & b),
        ("or", B64) => update::<u64, u64, _>(|old, b, _| old | b),
        ("xor", B64) => update::<u64, u64, _>(|old, b, _| old ^ b),
        ("exch", B32 | U32 | S32 | F32) => update::<u32, u32, _>(|_, b, _| b),
        ("exch", B64 | U64 | S64 | F64) => update::<u64, u64, _>(|_, b, _| b),
        ("cas", B16 | U16) => update::<u16, u16, _>(|old, b, c| if old == b { c } else { old }),
        ("cas", B32 | U32 | S32) => {
            update::<u32, u32, _>(|old, b, c| if old == b { c } else { old })
        }
        ("cas", B64 | U64 | S64) => {
            update::<u64, u64, _>(|old, b, c| if old == b { c } else { old })
        }
        _ => return None,
    })
}

/// Decodes `atom` or `red`.
pub fn decode(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    m.ignore(&["relaxed", "acquire", "release", "acq_rel", "cta", "gpu", "sys"], &["L2::"]);
    let space = m.space().unwrap_or(Space::Generic);
    if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
        return Err(format!("not in {} memory", space.name()));
    }
    let how = m.one_of(&OPERATIONS).ok_or("it needs an operation such as .add")?;
    let half = m.take("noftz");
    let rounded = m.take("rn");
    let ty = m.ty()?;
    if half != matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2) {
        return Err("modifier .noftz belongs to f16 and bf16, and they need it".into());
    }
    if rounded && !ty.is_float() {
        return Err("modifier .rn is for floating-point types".into());
    }
    let run = handler(how, ty).ok_or_else(|| format!("{how} of {ty:?}"))?;
    let returns = insn.opcode == "atom";
    let (d, rest) = match (returns, &insn.operands[..]) {
        (true, [d, rest @ ..]) => (e.target(d, ty)?, rest),
        (_, rest) => (e.sink(), rest),
    };
    let (at, b, c): (&Operand, &Operand, Option<&Operand>) = match (how, rest) {
        ("cas", [at, b, c]) if returns => (at, b, Some(c)),
        (how, [at, b]) if how != "cas" && (returns || how != "exch") => (at, b, None),
        _ => return Err("wrong number of operands".into()),
    };
    let at = memory::address(e, at, space)?;
    let mut p = Parts::new(run);
    (p.d, p.a, p.imm, p.x) = (d, at.row, at.offset, at.x);
    p.b = e.source(b, ty)?;
    p.c = match c {
        Some(c) => e.source(c, ty)?,
        None => p.b,
    };
    if space != Space::Global {
        e.shared_grain = e.shared_grain.min(ty.bytes());
    }
    let flops = u32::from(ty.is_float());
    e.push(Class::Atomic, flops, p);
    Ok(Made::Plain)
}
