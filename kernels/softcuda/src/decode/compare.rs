//! `setp`, `set`, `selp`, `slct`.

use super::emit::{Emit, Made, Parts};
use super::modifiers::Modifiers;
use super::table::{Decoded, operands};
use crate::ast::{Instruction, Operand};
use crate::code::{ALL, Class, Handler, NOWHERE};
use crate::lanes::float::flush;
use crate::lanes::half::Half;
use crate::lanes::{Bf16, Combine, F16, Lane, binary, compare, select};
use crate::types::Type;

const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];

fn integers<A: Lane + Ord>(how: &str) -> Option<Handler> {
    Some(match how {
        "eq" => compare(|a: A, b: A| a == b),
        "ne" => compare(|a: A, b: A| a != b),
        "lt" | "lo" => compare(|a: A, b: A| a < b),
        "le" | "ls" => compare(|a: A, b: A| a <= b),
        "gt" | "hi" => compare(|a: A, b: A| a > b),
        "ge" | "hs" => compare(|a: A, b: A| a >= b),
        _ => return None,
    })
}

/// What is compared: numbers with a NaN, given by `get`.
#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "that NaN is neither is the point")]
fn floats<A: Lane, T: PartialOrd + Copy, G>(how: &str, get: G) -> Option<Handler>
where
    G: Fn(A) -> T + Copy + 'static,
{
    Some(match how {
        "eq" => compare(move |a, b| get(a) == get(b)),
        "lt" => compare(move |a, b| get(a) < get(b)),
        "le" => compare(move |a, b| get(a) <= get(b)),
        "gt" => compare(move |a, b| get(a) > get(b)),
        "ge" => compare(move |a, b| get(a) >= get(b)),
        // Ordered and different.
        "ne" => compare(move |a, b| (get(a) < get(b)) | (get(a) > get(b))),
        // Those with u hold for NaN too: the opposite does not.
        "equ" => compare(move |a, b| !((get(a) < get(b)) | (get(a) > get(b)))),
        "neu" => compare(move |a, b| get(a) != get(b)),
        "ltu" => compare(move |a, b| !(get(a) >= get(b))),
        "leu" => compare(move |a, b| !(get(a) > get(b))),
        "gtu" => compare(move |a, b| !(get(a) <= get(b))),
        "geu" => compare(move |a, b| !(get(a) < get(b))),
        "num" => compare(move |a, b| (get(a) == get(a)) & (get(b) == get(b))),
        "nan" => compare(move |a, b| (get(a) != get(a)) | (get(b) != get(b))),
        _ => return None,
    })
}

fn comparison(how: &str, ty: Type, ftz: bool) -> Result<Handler, String> {
    if ftz && ty != Type::F32 && ty != Type::F16 {
        return Err("modifier .ftz is not supported here".into());
    }
    let sign_matters = matches!(how, "lo" | "ls" | "hi" | "hs") && ty.is_signed();
    let order_matters = !matches!(how, "eq" | "ne");
    let run = match ty {
        _ if sign_matters => None,
        Type::B16 | Type::B32 | Type::B64 if order_matters => None,
        Type::U16 | Type::B16 => integers::<u16>(how),
        Type::S16 => integers::<i16>(how),
        Type::U32 | Type::B32 => integers::<u32>(how),
        Type::S32 => integers::<i32>(how),
        Type::U64 | Type::B64 => integers::<u64>(how),
        Type::S64 => integers::<i64>(how),
        Type::F32 if ftz => floats::<f32, f32, _>(how, flush),
        Type::F32 => floats::<f32, f32, _>(how, |a| a),
        Type::F64 => floats::<f64, f64, _>(how, |a| a),
        Type::F16 if ftz => None,
        Type::F16 => floats::<F16, f32, _>(how, |a: F16| a.wide()),
        Type::Bf16 => floats::<Bf16, f32, _>(how, |a: Bf16| a.wide()),
        _ => None,
    };
    run.ok_or_else(|| format!("comparison {how} of {ty:?}"))
}

/// Decodes an instruction of this family.
pub fn decode(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    match insn.opcode.as_str() {
        "selp" => selp(e, insn, m),
        "slct" => slct(e, insn, m),
        opcode => {
            let how = m.one_of(&COMPARISONS).ok_or("it needs a comparison such as .lt")?;
            let combine = match m.one_of(&["and", "or", "xor"]) {
                None => Combine::Alone,
                Some("and") => Combine::And,
                Some("or") => Combine::Or,
                Some(_) => Combine::Xor,
            };
            let ftz = m.take("ftz");
            // `set` has the type of its result first.
            let result = if opcode == "set" { Some(m.ty()?) } else { None };
            let ty = m.ty()?;
            let mut p = Parts::new(comparison(how, ty, ftz)?);
            let (d, rest) = insn.operands.split_first().ok_or("it takes operands")?;
            let (sources, other) = match (combine, rest) {
                (Combine::Alone, [a, b]) => ([a, b], None),
                (_, [a, b, c]) if combine != Combine::Alone => ([a, b], Some(c)),
                _ => return Err("wrong number of operands".into()),
            };
            p.a = e.source(sources[0], ty)?;
            p.b = e.source(sources[1], ty)?;
            p.x = combine as u32;
            if let Some(other) = other {
                let (word, negated) = e.predicate(other)?;
                p.c = word;
                p.x |= u32::from(negated) << 2;
            }
            p.imm = NOWHERE.into();
            match (result, d) {
                (Some(result), _) => return set(e, d, result, p),
                (None, Operand::Pair(d, q)) => {
                    p.d = e.target_predicate(d)?;
                    p.imm = e.target_predicate(q)?.into();
                }
                (None, d) => p.d = e.target_predicate(d)?,
            }
            e.push(Class::Predicate, 0, p);
            Ok(Made::Plain)
        }
    }
}

/// `set`: all ones or zero, or 1.0 or 0.0, instead of a predicate.
fn set(e: &mut Emit<'_>, d: &Operand, result: Type, mut p: Parts) -> Decoded {
    p.d = NOWHERE;
    let yes = match result {
        Type::U32 | Type::S32 => u64::from(ALL),
        Type::F32 => u64::from(1f32.to_bits()),
        _ => return Err(format!("a result of type {result:?}")),
    };
    e.push(Class::Predicate, 0, p);
    let mut choose = Parts::new(select::<u32>());
    choose.d = e.target(d, result)?;
    choose.a = e.constant(yes, false);
    choose.b = e.constant(0, false);
    choose.c = NOWHERE;
    e.push(Class::Predicate, 0, choose);
    Ok(Made::Plain)
}

fn selp(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    let ty = m.ty()?;
    let [d, a, b, c] = operands::<4>(insn)?;
    let mut p = Parts::new(if ty.bytes() == 8 { select::<u64>() } else { select::<u32>() });
    p.d = e.target(d, ty)?;
    p.a = e.source(a, ty)?;
    p.b = e.source(b, ty)?;
    let (word, negated) = e.predicate(c)?;
    p.c = word;
    p.x = if negated { ALL } else { 0 };
    e.push(Class::Move, 0, p);
    Ok(Made::Plain)
}

/// `slct.ty.s32|f32 d, a, b, c`: a where c >= 0, else b (NaN chooses b).
fn slct(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    let ftz = m.take("ftz");
    let (ty, by) = (m.ty()?, m.ty()?);
    let [d, a, b, c] = operands::<4>(insn)?;
    let mut test = Parts::new(match by {
        Type::S32 => binary(|c: i32, _: i32| u32::from(c >= 0)),
        Type::F32 if ftz => binary(|c: f32, _: f32| u32::from(flush(c) >= 0.0)),
        Type::F32 => binary(|c: f32, _: f32| u32::from(c >= 0.0)),
        _ => return Err("it selects by s32 or f32".into()),
    });
    test.d = e.scratch();
    test.a = e.source(c, by)?;
    test.b = test.a;
    e.push(Class::Predicate, 0, test);
    let mut is = Parts::new(compare(|a: u32, b: u32| a != b));
    (is.d, is.a, is.b, is.imm) = (NOWHERE, test.d, e.constant(0, false), NOWHERE.into());
    e.push(Class::Predicate, 0, is);
    let mut p = Parts::new(if ty.bytes() == 8 { select::<u64>() } else { select::<u32>() });
    p.d = e.target(d, ty)?;
    p.a = e.source(a, ty)?;
    p.b = e.source(b, ty)?;
    p.c = NOWHERE;
    e.push(Class::Move, 0, p);
    Ok(Made::Plain)
}
