//! Integer and bit instructions.

use super::arithmetic::push;
use super::emit::{Emit, Made, Parts};
use super::modifiers::Modifiers;
use super::table::{Decoded, operands};
use crate::ast::{Instruction, Operand};
use crate::code::{Class, Handler};
use crate::lanes::integer as int;
use crate::lanes::{binary, predicate_logic, ternary, unary, with_immediate};
use crate::types::Type;

/// A handler for each integer type, the closure's parameters being of that type.
macro_rules! by_type {
    ($ty:expr, $make:ident, |$($v:ident),*| $body:expr) => {
        match $ty {
            Type::U16 => $make(|$($v: u16),*| $body),
            Type::S16 => $make(|$($v: i16),*| $body),
            Type::U32 => $make(|$($v: u32),*| $body),
            Type::S32 => $make(|$($v: i32),*| $body),
            Type::U64 => $make(|$($v: u64),*| $body),
            Type::S64 => $make(|$($v: i64),*| $body),
            other => return Err(format!("not for type {other:?}")),
        }
    };
}

/// The same for types without a sign or meaning.
macro_rules! by_bits {
    ($ty:expr, $make:ident, |$($v:ident),*| $body:expr) => {
        match $ty.bytes() {
            2 => $make(|$($v: u16),*| $body),
            4 => $make(|$($v: u32),*| $body),
            8 => $make(|$($v: u64),*| $body),
            _ => return Err(format!("not for type {:?}", $ty)),
        }
    };
}

const INTEGER: (Class, u32) = (Class::Integer, 0);

/// Decodes an instruction of this family.
pub fn decode(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    if matches!(insn.opcode.as_str(), "dp4a" | "dp2a") {
        return dot(e, insn, m);
    }
    let ty = m.ty()?;
    let opcode = insn.opcode.as_str();
    if matches!(opcode, "and" | "or" | "xor" | "not") {
        return logic(e, insn, ty);
    }
    if matches!(opcode, "addc" | "subc" | "madc") || m.take("cc") {
        return Err("carries are not supported: use 64-bit integers or mul.hi".into());
    }
    let (n, run): (usize, Handler) = match opcode {
        "add" if m.take("sat") => match ty {
            Type::S32 => (2, binary(i32::saturating_add)),
            _ => return Err("saturation is for s32".into()),
        },
        "sub" if m.take("sat") => match ty {
            Type::S32 => (2, binary(i32::saturating_sub)),
            _ => return Err("saturation is for s32".into()),
        },
        "add" => (2, by_type!(ty, binary, |a, b| a.wrapping_add(b))),
        "sub" => (2, by_type!(ty, binary, |a, b| a.wrapping_sub(b))),
        "mul" | "mad" => return multiply(e, insn, m, ty),
        "mul24" | "mad24" => return multiply24(e, insn, m, ty),
        // Division by zero: all ones, as the hardware's instruction sequence gives; the remainder
        // is the dividend.
        "div" => (2, by_type!(ty, binary, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) })),
        "rem" => (2, by_type!(ty, binary, |a, b| if b == 0 { a } else { a.wrapping_rem(b) })),
        "min" => (2, by_type!(ty, binary, |a, b| a.min(b))),
        "max" => (2, by_type!(ty, binary, |a, b| a.max(b))),
        "abs" => match ty {
            Type::S16 => (1, unary(i16::wrapping_abs)),
            Type::S32 => (1, unary(i32::wrapping_abs)),
            Type::S64 => (1, unary(i64::wrapping_abs)),
            _ => return Err("it needs a signed type".into()),
        },
        "neg" => match ty {
            Type::S16 => (1, unary(i16::wrapping_neg)),
            Type::S32 => (1, unary(i32::wrapping_neg)),
            Type::S64 => (1, unary(i64::wrapping_neg)),
            _ => return Err("it needs a signed type".into()),
        },
        "sad" => {
            (3, by_type!(ty, ternary, |a, b, c| a.max(b).wrapping_sub(a.min(b)).wrapping_add(c)))
        }
        "cnot" => (1, by_bits!(ty, unary, |a| if a == 0 { 1 } else { 0 })),
        "brev" => match ty {
            Type::B32 => (1, unary(u32::reverse_bits)),
            Type::B64 => (1, unary(u64::reverse_bits)),
            _ => return Err("for b32 and b64 only".into()),
        },
        "shl" | "shr" => return shift(e, insn, ty),
        "shf" => return funnel(e, insn, m, ty),
        "popc" | "clz" | "bfind" => return count(e, insn, m, ty),
        "bfe" | "bfi" => return field(e, insn, ty),
        "prmt" => {
            if ty != Type::B32 {
                return Err("for b32 only".into());
            }
            (3, ternary(int::prmt))
        }
        "lop3" => return lop3(e, insn, ty),
        _ => return Err("unknown instruction".into()),
    };
    push(e, insn, ty, n, INTEGER, run)
}

/// `and`, `or`, `xor`, `not` of bits or of predicates.
fn logic(e: &mut Emit<'_>, insn: &Instruction, ty: Type) -> Decoded {
    if ty == Type::Pred {
        let (first, table) = match insn.opcode.as_str() {
            "and" => (2, 0b1000),
            "or" => (2, 0b1110),
            "xor" => (2, 0b0110),
            _ => (1, 0b0011),
        };
        if insn.operands.len() != first + 1 {
            return Err(format!("it takes {} operands", first + 1));
        }
        let (a, a_negated) = e.predicate(&insn.operands[1])?;
        let (b, b_negated) = e.predicate(&insn.operands[first])?;
        let mut p = Parts::new(predicate_logic);
        p.d = e.target_predicate(&insn.operands[0])?;
        (p.a, p.b) = (a, b);
        // For `not`, both sources are the same predicate, and the table looks at the first only.
        p.x = table | u32::from(a_negated) << 4 | u32::from(b_negated) << 5;
        e.push(Class::Predicate, 0, p);
        return Ok(Made::Plain);
    }
    if !matches!(ty, Type::B16 | Type::B32 | Type::B64) {
        return Err("for .pred and .bN only".into());
    }
    let (n, run) = match insn.opcode.as_str() {
        "and" => (2, by_bits!(ty, binary, |a, b| a & b)),
        "or" => (2, by_bits!(ty, binary, |a, b| a | b)),
        "xor" => (2, by_bits!(ty, binary, |a, b| a ^ b)),
        _ => (1, by_bits!(ty, unary, |a| !a)),
    };
    push(e, insn, ty, n, INTEGER, run)
}

fn multiply(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>, ty: Type) -> Decoded {
    let mad = insn.opcode == "mad";
    let which = m.one_of(&["lo", "hi", "wide"]).ok_or("it needs .lo, .hi or .wide")?;
    if m.take("sat") {
        if !(mad && which == "hi" && ty == Type::S32) {
            return Err("saturation is for mad.hi.s32".into());
        }
        let f = |a: i32, b: i32, c: i32| {
            (((i64::from(a) * i64::from(b)) >> 32) as i32).saturating_add(c)
        };
        return push(e, insn, ty, 3, INTEGER, ternary(f));
    }
    if which == "wide" {
        let (wide, run): (Type, Handler) = match (ty, mad) {
            (Type::U16, false) => (Type::U32, binary(|a: u16, b: u16| u32::from(a) * u32::from(b))),
            (Type::S16, false) => (Type::S32, binary(|a: i16, b: i16| i32::from(a) * i32::from(b))),
            (Type::U32, false) => (Type::U64, binary(|a: u32, b: u32| u64::from(a) * u64::from(b))),
            (Type::S32, false) => (Type::S64, binary(|a: i32, b: i32| i64::from(a) * i64::from(b))),
            (Type::U16, true) => (
                Type::U32,
                ternary(|a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c)),
            ),
            (Type::S16, true) => (
                Type::S32,
                ternary(|a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c)),
            ),
            (Type::U32, true) => (
                Type::U64,
                ternary(|a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c)),
            ),
            (Type::S32, true) => (
                Type::S64,
                ternary(|a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c)),
            ),
            _ => return Err(format!(".wide is not for {ty:?}")),
        };
        let mut p = Parts::new(run);
        let n = if mad { 4 } else { 3 };
        if insn.operands.len() != n {
            return Err(format!("it takes {n} operands"));
        }
        p.d = e.target(&insn.operands[0], wide)?;
        p.a = e.source(&insn.operands[1], ty)?;
        p.b = e.source(&insn.operands[2], ty)?;
        if mad {
            p.c = e.source(&insn.operands[3], wide)?;
        }
        e.push(Class::Integer, 0, p);
        return Ok(Made::Plain);
    }
    if which == "lo" {
        return if mad {
            let run = by_type!(ty, ternary, |a, b, c| a.wrapping_mul(b).wrapping_add(c));
            push(e, insn, ty, 3, INTEGER, run)
        } else {
            push(e, insn, ty, 2, INTEGER, by_type!(ty, binary, |a, b| a.wrapping_mul(b)))
        };
    }
    macro_rules! high {
        ($small:ty, $wide:ty) => {{
            fn high(a: $small, b: $small) -> $small {
                ((a as $wide * b as $wide) >> <$small>::BITS) as $small
            }
            if mad {
                (3, ternary(|a: $small, b: $small, c: $small| high(a, b).wrapping_add(c)))
            } else {
                (2, binary(high))
            }
        }};
    }
    let (n, run): (usize, Handler) = match ty {
        Type::U16 => high!(u16, u32),
        Type::S16 => high!(i16, i32),
        Type::U32 => high!(u32, u64),
        Type::S32 => high!(i32, i64),
        Type::U64 => high!(u64, u128),
        Type::S64 => high!(i64, i128),
        _ => return Err(format!("not for {ty:?}")),
    };
    push(e, insn, ty, n, INTEGER, run)
}

/// Products of 24-bit numbers: the low or the high 32 of their 48 bits.
fn multiply24(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>, ty: Type) -> Decoded {
    m.need("lo")?;
    fn u24(a: u32) -> u32 {
        a & 0xff_ffff
    }
    fn s24(a: i32) -> i32 {
        a << 8 >> 8
    }
    let (n, run): (usize, Handler) = match (ty, insn.opcode == "mad24") {
        (Type::U32, false) => (2, binary(|a, b| u24(a).wrapping_mul(u24(b)))),
        (Type::S32, false) => (2, binary(|a, b| s24(a).wrapping_mul(s24(b)))),
        (Type::U32, true) => {
            (3, ternary(|a, b, c: u32| u24(a).wrapping_mul(u24(b)).wrapping_add(c)))
        }
        (Type::S32, true) => {
            (3, ternary(|a, b, c: i32| s24(a).wrapping_mul(s24(b)).wrapping_add(c)))
        }
        _ => return Err("for u32 and s32 only".into()),
    };
    push(e, insn, ty, n, INTEGER, run)
}

/// The amount is 32 bits wide, and more than the width shifts everything out.
fn shift(e: &mut Emit<'_>, insn: &Instruction, ty: Type) -> Decoded {
    let [d, a, n] = operands::<3>(insn)?;
    macro_rules! shift {
        ($ty:ty, <<) => {
            binary(|a: $ty, n: u32| if n < <$ty>::BITS { a << n } else { 0 })
        };
        ($ty:ty, >>) => {
            binary(|a: $ty, n: u32| if n < <$ty>::BITS { a >> n } else { 0 })
        };
        ($ty:ty, signed) => {
            binary(|a: $ty, n: u32| a >> n.min(<$ty>::BITS - 1))
        };
    }
    let run = match (insn.opcode.as_str(), ty) {
        ("shl", Type::B16) => shift!(u16, <<),
        ("shl", Type::B32) => shift!(u32, <<),
        ("shl", Type::B64) => shift!(u64, <<),
        ("shr", Type::B16 | Type::U16) => shift!(u16, >>),
        ("shr", Type::B32 | Type::U32) => shift!(u32, >>),
        ("shr", Type::B64 | Type::U64) => shift!(u64, >>),
        ("shr", Type::S16) => shift!(i16, signed),
        ("shr", Type::S32) => shift!(i32, signed),
        ("shr", Type::S64) => shift!(i64, signed),
        _ => return Err(format!("not for {ty:?}")),
    };
    let mut p = Parts::new(run);
    p.d = e.target(d, ty)?;
    p.a = e.source(a, ty)?;
    p.b = e.source(n, Type::U32)?;
    e.push(Class::Integer, 0, p);
    Ok(Made::Plain)
}

fn funnel(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>, ty: Type) -> Decoded {
    if ty != Type::B32 {
        return Err("for b32 only".into());
    }
    let left = match m.one_of(&["l", "r"]) {
        Some(which) => which == "l",
        None => return Err("it needs .l or .r".into()),
    };
    let clamp = match m.one_of(&["clamp", "wrap"]) {
        Some(which) => which == "clamp",
        None => return Err("it needs .clamp or .wrap".into()),
    };
    let run = match (left, clamp) {
        (true, true) => ternary(|a, b, n: u32| int::shf_left(a, b, n.min(32))),
        (true, false) => ternary(|a, b, n: u32| int::shf_left(a, b, n & 31)),
        (false, true) => ternary(|a, b, n: u32| int::shf_right(a, b, n.min(32))),
        (false, false) => ternary(|a, b, n: u32| int::shf_right(a, b, n & 31)),
    };
    push(e, insn, ty, 3, INTEGER, run)
}

fn count(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>, ty: Type) -> Decoded {
    let [d, a] = operands::<2>(insn)?;
    let shift = insn.opcode == "bfind" && m.take("shiftamt");
    let run: Handler = match (insn.opcode.as_str(), ty) {
        ("popc", Type::B32) => unary(|a: u32| a.count_ones()),
        ("popc", Type::B64) => unary(|a: u64| a.count_ones()),
        ("clz", Type::B32) => unary(|a: u32| a.leading_zeros()),
        ("clz", Type::B64) => unary(|a: u64| a.leading_zeros()),
        ("bfind", Type::U32) => unary(|a: u32| int::bfind(a.into(), 32, false)),
        ("bfind", Type::S32) => unary(|a: u32| int::bfind(a.into(), 32, true)),
        ("bfind", Type::U64) => unary(|a: u64| int::bfind(a, 64, false)),
        ("bfind", Type::S64) => unary(|a: u64| int::bfind(a, 64, true)),
        _ => return Err(format!("not for {ty:?}")),
    };
    let mut p = Parts::new(run);
    p.d = e.target(d, Type::U32)?;
    p.a = e.source(a, ty)?;
    e.push(Class::Integer, 0, p);
    if shift {
        // The distance to the highest bit instead of the position; none stays none.
        let bits = 8 * ty.bytes() as u64 - 1;
        let f = |a: u32, _: u32, _: u32, imm: u64| {
            if a == u32::MAX { a } else { (imm as u32).wrapping_sub(a) }
        };
        let mut q = Parts::new(with_immediate(f));
        (q.d, q.a, q.b, q.c, q.imm) = (p.d, p.d, p.d, p.d, bits);
        e.push(Class::Integer, 0, q);
    }
    Ok(Made::Plain)
}

fn field(e: &mut Emit<'_>, insn: &Instruction, ty: Type) -> Decoded {
    if insn.opcode == "bfe" {
        let [d, a, pos, len] = operands::<4>(insn)?;
        let run = match ty {
            Type::U32 => ternary(int::bfe_u32),
            Type::S32 => ternary(int::bfe_s32),
            Type::U64 => ternary(int::bfe_u64),
            Type::S64 => ternary(int::bfe_s64),
            _ => return Err(format!("not for {ty:?}")),
        };
        let mut p = Parts::new(run);
        p.d = e.target(d, ty)?;
        p.a = e.source(a, ty)?;
        p.b = e.source(pos, Type::U32)?;
        p.c = e.source(len, Type::U32)?;
        e.push(Class::Integer, 0, p);
        return Ok(Made::Plain);
    }
    let [d, a, b, pos, len] = operands::<5>(insn)?;
    // Position and length come in one word: there is no handler of four rows.
    let mut pack = Parts::new(binary(|pos: u32, len: u32| (pos & 0xff) | (len & 0xff) << 8));
    pack.d = e.scratch();
    pack.a = e.source(pos, Type::U32)?;
    pack.b = e.source(len, Type::U32)?;
    e.push(Class::Integer, 0, pack);
    let run = match ty {
        Type::B32 => {
            ternary(|a: u32, b: u32, at: u32| int::bfi(a.into(), b.into(), at, at >> 8, 32) as u32)
        }
        Type::B64 => ternary(|a: u64, b: u64, at: u32| int::bfi(a, b, at, at >> 8, 64)),
        _ => return Err(format!("not for {ty:?}")),
    };
    let mut p = Parts::new(run);
    p.d = e.target(d, ty)?;
    p.a = e.source(a, ty)?;
    p.b = e.source(b, ty)?;
    p.c = pack.d;
    e.push(Class::Integer, 0, p);
    Ok(Made::Plain)
}

fn lop3(e: &mut Emit<'_>, insn: &Instruction, ty: Type) -> Decoded {
    let [d, a, b, c, Operand::Integer(table)] = operands::<5>(insn)? else {
        return Err("the table has to be a number".into());
    };
    if ty != Type::B32 {
        return Err("for b32 only".into());
    }
    if *table > 255 {
        return Err(format!("table {table}: 0 to 255 are possible"));
    }
    let run = match table {
        // What compilers make most often, written out.
        0x80 => ternary(|a: u32, b: u32, c: u32| a & b & c),
        0xfe => ternary(|a: u32, b: u32, c: u32| a | b | c),
        0x96 => ternary(|a: u32, b: u32, c: u32| a ^ b ^ c),
        0xea => ternary(|a: u32, b: u32, c: u32| a & b | c),
        0xf8 => ternary(|a: u32, b: u32, c: u32| a | b & c),
        _ => with_immediate(int::lop3),
    };
    let mut p = Parts::new(run);
    p.d = e.target(d, ty)?;
    p.a = e.source(a, ty)?;
    p.b = e.source(b, ty)?;
    p.c = e.source(c, ty)?;
    p.imm = *table;
    e.push(Class::Integer, 0, p);
    Ok(Made::Plain)
}

fn dot(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    let half = if insn.opcode == "dp2a" {
        Some(m.one_of(&["lo", "hi"]).ok_or("it needs .lo or .hi")? == "hi")
    } else {
        None
    };
    let (a_type, b_type) = (m.ty()?, m.ty()?);
    let signed = |t: Type| match t {
        Type::S32 => Ok(true),
        Type::U32 => Ok(false),
        _ => Err("for u32 and s32 only".to_string()),
    };
    let run = match (half, signed(a_type)?, signed(b_type)?) {
        (None, false, false) => ternary(int::dp4a::<false, false>),
        (None, false, true) => ternary(int::dp4a::<false, true>),
        (None, true, false) => ternary(int::dp4a::<true, false>),
        (None, true, true) => ternary(int::dp4a::<true, true>),
        (Some(false), false, false) => ternary(int::dp2a::<false, false, false>),
        (Some(false), false, true) => ternary(int::dp2a::<false, true, false>),
        (Some(false), true, false) => ternary(int::dp2a::<true, false, false>),
        (Some(false), true, true) => ternary(int::dp2a::<true, true, false>),
        (Some(true), false, false) => ternary(int::dp2a::<false, false, true>),
        (Some(true), false, true) => ternary(int::dp2a::<false, true, true>),
        (Some(true), true, false) => ternary(int::dp2a::<true, false, true>),
        (Some(true), true, true) => ternary(int::dp2a::<true, true, true>),
    };
    push(e, insn, Type::U32, 3, INTEGER, run)
}
