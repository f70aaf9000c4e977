//! `mov`, `cvt`, `cvta`, `isspacep`.

use super::arithmetic::rounding;
use super::emit::{Emit, Made, Parts};
use super::modifiers::Modifiers;
use super::table::{Decoded, operands};
use crate::ast::{Instruction, Operand, Special};
use crate::code::{Class, Handler, Insn, LANES, NOWHERE};
use crate::exec::{Context, LOCAL_BASE, PARAM_BASE, SHARED_BASE, WINDOW};
use crate::lanes::convert::{Spec, convert, to_tf32};
use crate::lanes::float::Round;
use crate::lanes::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::lanes::{self, binary, compare, unary, with_immediate};
use crate::memory::GLOBAL_BASE;
use crate::types::{Space, Type};

/// Decodes an instruction of this family.
pub fn decode(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    match insn.opcode.as_str() {
        "mov" => mov(e, insn, m),
        "cvt" => cvt(e, insn, m),
        "cvta" => cvta(e, insn, m),
        _ => isspacep(e, insn, m),
    }
}

/// `d = a` by the width of rows.
fn copy(wide: bool) -> Handler {
    if wide { unary(|a: u64| a) } else { unary(|a: u32| a) }
}

fn mov(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    let ty = m.ty()?;
    let [d, a] = operands::<2>(insn)?;
    if ty == Type::Pred {
        let (word, negated) = e.predicate(a)?;
        let mut p = Parts::new(lanes::predicate_logic);
        (p.d, p.a, p.b) = (e.target_predicate(d)?, word, word);
        p.x = 0b1100 | u32::from(negated) << 4;
        e.push(Class::Predicate, 0, p);
        return Ok(Made::Plain);
    }
    match (d, a) {
        (Operand::Vector(parts), a) => return unpack(e, parts, a, ty),
        (d, Operand::Vector(parts)) => return pack(e, d, parts, ty),
        _ => {}
    }
    if let Operand::Special(s @ (Special::Clock | Special::Clock64 | Special::Globaltimer)) = a {
        if s.bytes() != ty.bytes() {
            return Err(format!("a clock as {ty:?}"));
        }
        let mut p = Parts::new(clock);
        p.d = e.target(d, ty)?;
        p.x = s.bytes() as u32;
        e.push(Class::Move, 0, p);
        return Ok(Made::Plain);
    }
    let mut p = Parts::new(copy(ty.bytes() == 8));
    p.d = e.target(d, ty)?;
    p.a = e.source(a, ty)?;
    e.push(Class::Move, 0, p);
    Ok(Made::Plain)
}

/// Nanoseconds since the first reading.
unsafe fn clock(ctx: &mut Context<'_>, insn: &Insn, mask: u32) {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let now = START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as u64;
    // SAFETY: decoded rows, see `Handler`.
    unsafe {
        if insn.x == 8 {
            lanes::set_row(ctx, insn.d, mask, &[now; LANES]);
        } else {
            lanes::set_row(ctx, insn.d, mask, &[now as u32; LANES]);
        }
    }
}

/// Bytes of each of the registers that a value of `ty` falls into.
fn part_type(parts: usize, ty: Type) -> Result<Type, String> {
    match (ty.bytes(), parts) {
        (2, 2) => Err("registers of 8 bits are not supported".into()),
        (4, 2) => Ok(Type::B16),
        (8, 2) => Ok(Type::B32),
        (8, 4) => Ok(Type::B16),
        _ => Err(format!("{parts} parts of {ty:?}")),
    }
}

/// `mov.b64 {a, b}, c`
fn unpack(e: &mut Emit<'_>, parts: &[Operand], a: &Operand, ty: Type) -> Decoded {
    let part = part_type(parts.len(), ty)?;
    let mut source = e.source(a, ty)?;
    // The source may be one of the targets' rows only if it is read first: rows of live registers
    // never overlap, but the same register may be named twice.
    if parts.len() > 1 && matches!(a, Operand::Register(_)) && parts.contains(a) {
        let mut keep = Parts::new(copy(ty.bytes() == 8));
        keep.d = if ty.bytes() == 8 { e.wide_scratch() } else { e.scratch() };
        keep.a = source;
        source = keep.d;
        e.push(Class::Move, 0, keep);
    }
    for (i, to) in parts.iter().enumerate() {
        if *to == Operand::Sink {
            continue;
        }
        let mut p = Parts::new(match (ty.bytes(), part) {
            (4, _) => with_immediate(|a: u32, _, _, n| (a >> n) as u16),
            (_, Type::B32) => with_immediate(|a: u64, _, _, n| (a >> n) as u32),
            _ => with_immediate(|a: u64, _, _, n| (a >> n) as u16),
        });
        p.d = e.target(to, part)?;
        (p.a, p.b, p.c) = (source, source, source);
        p.imm = (8 * part.bytes() * i) as u64;
        e.push(Class::Move, 0, p);
    }
    Ok(Made::Plain)
}

/// `mov.b64 d, {a, b}`
fn pack(e: &mut Emit<'_>, d: &Operand, parts: &[Operand], ty: Type) -> Decoded {
    let part = part_type(parts.len(), ty)?;
    let rows: Result<Vec<u32>, String> = parts.iter().map(|p| e.source(p, part)).collect();
    let rows = rows?;
    let to = e.target(d, ty)?;
    if part == Type::B16 && rows.len() == 4 {
        let mut halves = [0; 2];
        for i in 0..2 {
            let mut p = Parts::new(binary(|a: u16, b: u16| u32::from(a) | u32::from(b) << 16));
            p.d = e.scratch();
            (p.a, p.b) = (rows[2 * i], rows[2 * i + 1]);
            halves[i] = p.d;
            e.push(Class::Move, 0, p);
        }
        let mut p = Parts::new(binary(|a: u32, b: u32| u64::from(a) | u64::from(b) << 32));
        (p.d, p.a, p.b) = (to, halves[0], halves[1]);
        e.push(Class::Move, 0, p);
        return Ok(Made::Plain);
    }
    let mut p = Parts::new(match part {
        Type::B16 => binary(|a: u16, b: u16| u32::from(a) | u32::from(b) << 16),
        _ => binary(|a: u32, b: u32| u64::from(a) | u64::from(b) << 32),
    });
    (p.d, p.a, p.b) = (to, rows[0], rows[1]);
    e.push(Class::Move, 0, p);
    Ok(Made::Plain)
}

/// The form of a `cvt`: how it is rounded, and its types.
fn cvt(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    let integral = m.one_of(&["rni", "rzi", "rmi", "rpi"]);
    let away = m.take("rna");
    let round = rounding(m);
    let (ftz, sat, relu) = (m.take("ftz"), m.take("sat"), m.take("relu"));
    let (to, from) = (m.ty()?, m.ty()?);
    if to == Type::Tf32 {
        if !away || from != Type::F32 || sat || relu || ftz {
            return Err("only cvt.rna.tf32.f32 is supported".into());
        }
        let [d, a] = operands::<2>(insn)?;
        let mut p = Parts::new(unary(to_tf32));
        p.d = e.target(d, Type::B32)?;
        p.a = e.source(a, Type::F32)?;
        e.push(Class::Convert, 0, p);
        return Ok(Made::Plain);
    }
    if away {
        return Err("modifier .rna is for tf32".into());
    }
    if matches!(to, Type::F16x2 | Type::Bf16x2) {
        return pair(e, insn, (to, from), round, relu, sat || ftz || integral.is_some());
    }
    let float_to_integer = from.is_float() && !to.is_float();
    let narrows = to.is_float()
        && (!from.is_float()
            || to.bytes() < from.bytes()
            || (to != from && to.bytes() == from.bytes()));
    let rounds = match (integral, round) {
        (Some(how), None) if from.is_float() && (float_to_integer || to == from) => match how {
            "rni" => Round::Near,
            "rzi" => Round::Zero,
            "rmi" => Round::Down,
            _ => Round::Up,
        },
        (None, Some(round)) if narrows => round,
        (None, None) if !narrows && !float_to_integer => Round::Near,
        _ => return Err(format!("this rounding does not fit {from:?} to {to:?}")),
    };
    if matches!(to, Type::Pred)
        || matches!(from, Type::Pred | Type::F16x2 | Type::Bf16x2 | Type::Tf32)
    {
        return Err(format!("{from:?} to {to:?}"));
    }
    if ftz && from != Type::F32 && to != Type::F32 {
        return Err("modifier .ftz is for f32".into());
    }
    if relu && !matches!(to, Type::F16 | Type::Bf16) {
        return Err("modifier .relu is for f16 and bf16".into());
    }
    if matches!(to, Type::B8 | Type::B16 | Type::B32 | Type::B64)
        || matches!(from, Type::B8 | Type::B16 | Type::B32 | Type::B64)
    {
        return Err("bits have no value to be converted".into());
    }
    let spec = Spec { from, to, round: rounds, integral: integral.is_some(), ftz, sat, relu };
    let [d, a] = operands::<2>(insn)?;
    // Integers may be in larger registers than they need; the result is extended to the register's
    // size.
    let (source, source_wide) = if from.is_float() {
        (e.source(a, from)?, from.bytes() == 8)
    } else {
        e.wide_source(a, from)?
    };
    let (target, bytes) =
        if to.is_float() { (e.target(d, to)?, to.bytes()) } else { e.wide_target(d, to)? };
    let mut p = Parts::new(match fast(&spec, source_wide, bytes) {
        Some(run) => run,
        None => slow,
    });
    (p.d, p.a) = (target, source);
    p.x = pack_spec(&spec) | u32::from(source_wide) << 24 | (bytes as u32) << 25;
    e.push(Class::Convert, 0, p);
    Ok(Made::Plain)
}

/// Handlers of what kernels convert most.
fn fast(spec: &Spec, source_wide: bool, bytes: usize) -> Option<Handler> {
    use Type::*;
    if spec.ftz || spec.sat || spec.relu {
        return match (spec.to, spec.from, spec.integral) {
            (F32, F32, false) if spec.sat && !spec.ftz => Some(unary(lanes::float::saturate)),
            _ => None,
        };
    }
    let near = spec.round == Round::Near;
    Some(match (spec.to, spec.from) {
        (U64 | S64, U32) if !source_wide => unary(|a: u32| u64::from(a)),
        (U64 | S64, S32) if !source_wide => unary(|a: i32| i64::from(a)),
        (U32 | S32, U64 | S64) if bytes == 4 => unary(|a: u64| a as u32),
        (U32 | S32, U32 | S32) if bytes == 4 && !source_wide => unary(|a: u32| a),
        (U64 | S64, U64 | S64) => unary(|a: u64| a),
        (U16 | S16, U32 | S32) if bytes == 2 && !source_wide => unary(|a: u32| a as u16),
        (U32 | S32, U16) if bytes == 4 && !source_wide => unary(|a: u16| u32::from(a)),
        (U32 | S32, S16) if bytes == 4 && !source_wide => unary(|a: i16| i32::from(a)),
        (U32 | S32, U8) if bytes == 4 && !source_wide => unary(|a: u8| u32::from(a)),
        (U32 | S32, S8) if bytes == 4 && !source_wide => unary(|a: i8| i32::from(a)),
        (S16, S8) if bytes == 2 && !source_wide => unary(|a: i8| i16::from(a)),
        (U16, U8) if bytes == 2 && !source_wide => unary(|a: u8| u16::from(a)),
        (F32, F16) => unary(|a: lanes::F16| f16_to_f32(a.0)),
        (F32, Bf16) => unary(|a: lanes::Bf16| bf16_to_f32(a.0)),
        (F16, F32) if near => unary(|a: f32| lanes::F16(f32_to_f16(a))),
        (Bf16, F32) if near => unary(|a: f32| lanes::Bf16(f32_to_bf16(a))),
        (F32, S32) if near && !source_wide => unary(|a: i32| a as f32),
        (F32, U32) if near && !source_wide => unary(|a: u32| a as f32),
        (F64, S32) if near && !source_wide => unary(|a: i32| f64::from(a)),
        (F64, U32) if near && !source_wide => unary(|a: u32| f64::from(a)),
        (F64, F32) if !spec.integral => unary(|a: f32| f64::from(a)),
        (F32, F64) if near => unary(|a: f64| a as f32),
        (S32, F32) if near && bytes == 4 => unary(|a: f32| a.round_ties_even() as i32),
        (S32, F32) if spec.round == Round::Zero && bytes == 4 => unary(|a: f32| a as i32),
        (F32, F32) if spec.integral && near => unary(f32::round_ties_even),
        (F32, F32) if spec.integral && spec.round == Round::Zero => unary(f32::trunc),
        (F32, F32) if spec.integral && spec.round == Round::Down => unary(f32::floor),
        (F32, F32) if spec.integral && spec.round == Round::Up => unary(f32::ceil),
        _ => return None,
    })
}

const TYPES: [Type; 12] = {
    use Type::*;
    [U8, S8, U16, S16, U32, S32, U64, S64, F16, Bf16, F32, F64]
};

fn pack_spec(spec: &Spec) -> u32 {
    let code = |t: Type| TYPES.iter().position(|&x| x == t).unwrap_or(0) as u32;
    let flag = |b: bool, bit: u32| u32::from(b) << bit;
    let flags =
        flag(spec.integral, 10) | flag(spec.ftz, 11) | flag(spec.sat, 12) | flag(spec.relu, 13);
    code(spec.from) | code(spec.to) << 4 | (spec.round as u32) << 8 | flags
}

fn unpack_spec(x: u32) -> Spec {
    Spec {
        from: TYPES[(x & 15) as usize],
        to: TYPES[(x >> 4 & 15) as usize],
        round: Round::from_code((x >> 8 & 3) as u8),
        integral: x >> 10 & 1 != 0,
        ftz: x >> 11 & 1 != 0,
        sat: x >> 12 & 1 != 0,
        relu: x >> 13 & 1 != 0,
    }
}

/// Any conversion.
unsafe fn slow(ctx: &mut Context<'_>, insn: &Insn, mask: u32) {
    let spec = unpack_spec(insn.x);
    let (wide, bytes) = (insn.x >> 24 & 1 != 0, insn.x >> 25);
    // SAFETY: decoded rows, see `Handler`.
    let source: [u64; LANES] = unsafe {
        if wide {
            lanes::row::<u64>(ctx, insn.a)
        } else {
            lanes::row::<u32>(ctx, insn.a).map(u64::from)
        }
    };
    let extend = |v: u64| -> u64 {
        if !spec.to.is_signed() {
            return v;
        }
        let unused = 64 - 8 * spec.to.bytes() as u32;
        let signed = ((v << unused) as i64 >> unused) as u64;
        if bytes == 2 { signed & 0xffff } else { signed }
    };
    let result = source.map(|v| extend(convert(v, &spec)));
    // SAFETY: as above.
    unsafe {
        if bytes == 8 {
            lanes::set_row(ctx, insn.d, mask, &result);
        } else {
            lanes::set_row(ctx, insn.d, mask, &result.map(|v| v as u32));
        }
    }
}

/// `cvt.rn.f16x2.f32 d, a, b`: a into the high half, b into the low.
fn pair(
    e: &mut Emit<'_>,
    insn: &Instruction,
    (to, from): (Type, Type),
    round: Option<Round>,
    relu: bool,
    other: bool,
) -> Decoded {
    if from != Type::F32 || other || !matches!(round, Some(Round::Near | Round::Zero)) {
        return Err("only .rn or .rz with two f32 is supported".into());
    }
    let [d, a, b] = operands::<3>(insn)?;
    let half = if to == Type::F16x2 { Type::F16 } else { Type::Bf16 };
    let round = round.unwrap_or(Round::Near);
    let target = e.target(d, to)?;
    let rows = [e.source(a, Type::F32)?, e.source(b, Type::F32)?];
    if round == Round::Near && !relu {
        let mut p = Parts::new(if half == Type::F16 {
            binary(|a: f32, b: f32| u32::from(f32_to_f16(a)) << 16 | u32::from(f32_to_f16(b)))
        } else {
            binary(|a: f32, b: f32| u32::from(f32_to_bf16(a)) << 16 | u32::from(f32_to_bf16(b)))
        });
        (p.d, p.a, p.b) = (target, rows[0], rows[1]);
        e.push(Class::Convert, 0, p);
        return Ok(Made::Plain);
    }
    let spec = Spec { from, to: half, round, integral: false, ftz: false, sat: false, relu };
    let mut halves = [0; 2];
    for i in 0..2 {
        let mut p = Parts::new(slow);
        (p.d, p.a, p.x) = (e.scratch(), rows[i], pack_spec(&spec) | 2 << 25);
        halves[i] = p.d;
        e.push(Class::Convert, 0, p);
    }
    let mut p = Parts::new(binary(|a: u16, b: u16| u32::from(a) << 16 | u32::from(b)));
    (p.d, p.a, p.b) = (target, halves[0], halves[1]);
    e.push(Class::Move, 0, p);
    Ok(Made::Plain)
}

/// Generic address of the first byte of a state space.
fn base(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_BASE,
        Space::Local => LOCAL_BASE,
        Space::Param => PARAM_BASE,
        // Global and constant addresses are generic ones.
        Space::Global | Space::Const | Space::Generic => 0,
    }
}

/// `cvta.shared.u64 d, a` makes a generic address; `cvta.to.shared` the other way round.
fn cvta(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    let to = m.take("to");
    let space = m.space().ok_or("it needs a state space")?;
    if m.ty()? != Type::U64 {
        return Err("addresses are u64".into());
    }
    let [d, a] = operands::<2>(insn)?;
    let mut p = Parts::new(with_immediate(|a: u64, _, _, base| a.wrapping_add(base)));
    p.d = e.target(d, Type::U64)?;
    p.a = e.source(a, Type::U64)?;
    (p.b, p.c) = (p.a, p.a);
    let base = base(space);
    p.imm = if to { base.wrapping_neg() } else { base };
    if base == 0 {
        p.run = copy(true);
    }
    e.push(Class::Move, 0, p);
    Ok(Made::Plain)
}

fn isspacep(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    let space = m.space().ok_or("it needs a state space")?;
    let [d, a] = operands::<2>(insn)?;
    let mut p = Parts::new(match space {
        Space::Shared => compare(|a: u64, _| a.wrapping_sub(SHARED_BASE) < WINDOW),
        Space::Local => compare(|a: u64, _| a.wrapping_sub(LOCAL_BASE) < WINDOW),
        Space::Param => compare(|a: u64, _| a.wrapping_sub(PARAM_BASE) < WINDOW),
        Space::Global => compare(|a: u64, _| a >= GLOBAL_BASE),
        _ => return Err("not for this space".into()),
    });
    p.d = e.target_predicate(d)?;
    p.a = e.source(a, Type::U64)?;
    (p.b, p.imm) = (p.a, NOWHERE.into());
    e.push(Class::Predicate, 0, p);
    Ok(Made::Plain)
}
