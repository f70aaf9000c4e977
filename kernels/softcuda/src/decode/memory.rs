//! Loads, stores, asynchronous copies.

use super::as_address;
use super::emit::{Emit, Made, Parts};
use super::modifiers::Modifiers;
use super::table::{Decoded, operands};
use crate::ast::{Instruction, Operand};
use crate::code::{Class, Handler};
use crate::exec::transfer::{self, load, load_param, place, store};
use crate::types::{Space, Type};

/// Decodes an instruction of this family.
pub fn decode(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    match insn.opcode.as_str() {
        "ld" | "ldu" => load_or_store(e, insn, m, true),
        "st" => load_or_store(e, insn, m, false),
        "cp" => copy(e, insn, m),
        _ => prefetch(e, insn, m),
    }
}

/// Caching, ordering and scope of an access. All accesses here are as strong as the strongest: they
/// are executed in the order of a thread's program.
fn ignore_hints(m: &mut Modifiers<'_>) {
    const HINTS: [&str; 16] = [
        "ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "weak", "relaxed", "acquire", "release",
        "cta", "gpu", "sys", "volatile",
    ];
    m.ignore(&HINTS, &["L1::", "L2::"]);
}

/// Takes `.v2` or `.v4`.
fn vector(m: &mut Modifiers<'_>) -> usize {
    match m.one_of(&["v2", "v4"]) {
        Some("v2") => 2,
        Some(_) => 4,
        None => 1,
    }
}

/// An address as handlers want it: row, offset, and [`place`].
pub(super) struct Address {
    pub row: u32,
    pub offset: u64,
    pub x: u32,
    /// The address itself, if it is known.
    pub known: Option<u64>,
}

/// Decodes `[base+offset]`.
pub(super) fn address(
    e: &mut Emit<'_>,
    operand: &Operand,
    space: Space,
) -> Result<Address, String> {
    let (base, offset) = as_address(operand).ok_or("it needs an address in brackets")?;
    let fits = |s: Space| s == space || matches!((s, space), (Space::Global, Space::Const));
    Ok(match base {
        Operand::Register(_) => {
            let bytes = e.type_of(base).map_or(0, Type::bytes);
            let row = match bytes {
                8 => e.source(base, Type::U64)?,
                4 if matches!(space, Space::Shared | Space::Local) => e.source(base, Type::U32)?,
                _ => return Err(format!("an address of {bytes} bytes")),
            };
            let x = place(space, bytes == 8);
            Address { row, offset: offset as u64, x, known: None }
        }
        Operand::Place(s, at) if fits(*s) => {
            let row = e.constant(*at, true);
            let known = Some(at.wrapping_add(offset as u64));
            Address { row, offset: offset as u64, x: place(space, true), known }
        }
        Operand::Place(s, _) => {
            return Err(format!("a variable in {} memory, not {}", s.name(), space.name()));
        }
        Operand::Integer(at) => {
            let row = e.constant(*at, true);
            let known = Some(at.wrapping_add(offset as u64));
            Address { row, offset: offset as u64, x: place(space, true), known }
        }
        _ => return Err("an address needs a register, a variable or a number".into()),
    })
}

macro_rules! by_vector {
    ($f:ident, $a:ty, $b:ty, $n:expr) => {
        match $n {
            1 => $f::<$a, $b, 1>(),
            2 => $f::<$a, $b, 2>(),
            _ => $f::<$a, $b, 4>(),
        }
    };
}

fn loader(ty: Type, bytes: usize, n: usize) -> Handler {
    use Type::*;
    match (ty, bytes) {
        (S8, 2) => by_vector!(load, i8, u16, n),
        (S8, 4) => by_vector!(load, i8, u32, n),
        (S8, 8) => by_vector!(load, i8, u64, n),
        (S16, 4) => by_vector!(load, i16, u32, n),
        (S16, 8) => by_vector!(load, i16, u64, n),
        (S32, 8) => by_vector!(load, i32, u64, n),
        (B8 | U8, 8) => by_vector!(load, u8, u64, n),
        (B8 | U8 | S8, _) => by_vector!(load, u8, u32, n),
        (B16 | U16 | F16 | Bf16, 8) => by_vector!(load, u16, u64, n),
        (B16 | U16 | S16 | F16 | Bf16, _) => by_vector!(load, u16, u32, n),
        (B64 | U64 | S64 | F64, _) => by_vector!(load, u64, u64, n),
        (_, 8) => by_vector!(load, u32, u64, n),
        _ => by_vector!(load, u32, u32, n),
    }
}

fn param_loader(ty: Type, bytes: usize) -> Handler {
    use Type::*;
    match (ty, bytes) {
        (S8, 2) => load_param::<i8, u16>(),
        (S8, 4) => load_param::<i8, u32>(),
        (S8, 8) => load_param::<i8, u64>(),
        (S16, 4) => load_param::<i16, u32>(),
        (S16, 8) => load_param::<i16, u64>(),
        (S32, 8) => load_param::<i32, u64>(),
        (B8 | U8, 8) => load_param::<u8, u64>(),
        (B8 | U8 | S8, _) => load_param::<u8, u32>(),
        (B16 | U16 | F16 | Bf16, 8) => load_param::<u16, u64>(),
        (B16 | U16 | S16 | F16 | Bf16, _) => load_param::<u16, u32>(),
        (B64 | U64 | S64 | F64, _) => load_param::<u64, u64>(),
        (_, 8) => load_param::<u32, u64>(),
        _ => load_param::<u32, u32>(),
    }
}

fn storer(size: usize, wide: bool, n: usize) -> Handler {
    match (size, wide) {
        (1, false) => by_vector!(store, u32, u8, n),
        (2, false) => by_vector!(store, u32, u16, n),
        (4, false) => by_vector!(store, u32, u32, n),
        (1, true) => by_vector!(store, u64, u8, n),
        (2, true) => by_vector!(store, u64, u16, n),
        (4, true) => by_vector!(store, u64, u32, n),
        _ => by_vector!(store, u64, u64, n),
    }
}

fn class(space: Space, loads: bool) -> Class {
    match (space, loads) {
        (Space::Shared, true) => Class::LoadShared,
        (Space::Shared, false) => Class::StoreShared,
        (Space::Local | Space::Param | Space::Const, _) => Class::LocalOrParam,
        (_, true) => Class::LoadGlobal,
        (_, false) => Class::StoreGlobal,
    }
}

fn load_or_store(
    e: &mut Emit<'_>,
    insn: &Instruction,
    m: &mut Modifiers<'_>,
    loads: bool,
) -> Decoded {
    ignore_hints(m);
    let space = m.space().unwrap_or(Space::Generic);
    let n = vector(m);
    let ty = m.ty()?;
    if ty.bytes() * n > 16
        || ty == Type::Pred
        || matches!(ty, Type::F16x2 | Type::Bf16x2 | Type::Tf32)
    {
        return Err(format!("{n} elements of type {ty:?}"));
    }
    if !loads && matches!(space, Space::Const | Space::Param) {
        return Err(format!("{} memory cannot be written", space.name()));
    }
    let [first, second] = operands::<2>(insn)?;
    let (at, value) = if loads { (second, first) } else { (first, second) };
    let address = address(e, at, space)?;
    if matches!(space, Space::Shared | Space::Generic) {
        e.shared_grain = e.shared_grain.min(ty.bytes());
    }
    let values = match value {
        Operand::Vector(values) if values.len() == n => &values[..],
        value if n == 1 => std::slice::from_ref(value),
        _ => return Err(format!("it needs a vector of {n} registers")),
    };
    let (mut rows, mut bytes) = (Vec::new(), None);
    for value in values {
        let (row, has) = if loads {
            let (row, has) = e.wide_target(value, ty)?;
            // `_` takes what its neighbours have.
            (row, (*value != Operand::Sink).then_some(has))
        } else {
            let (row, wide) = e.wide_source(value, ty)?;
            (row, Some(if wide { 8 } else { 4 }))
        };
        let same = |has: usize| bytes.is_none_or(|b| b == has);
        if let Some(has) = has {
            if !same(has) {
                return Err("registers of different sizes in one vector".into());
            }
            bytes = Some(has);
        }
        rows.push(row);
    }
    let bytes = bytes.unwrap_or(ty.bytes());
    let rows = if n == 1 { rows[0] } else { e.list(&rows) };
    let mut p =
        Parts::new(if loads { loader(ty, bytes, n) } else { storer(ty.bytes(), bytes == 8, n) });
    (p.a, p.imm, p.x) = (address.row, address.offset, address.x);
    if loads {
        p.d = rows;
    } else {
        p.b = rows;
    }
    if let (true, Space::Param, 1, Some(known)) = (loads, space, n, address.known) {
        let size = ty.bytes() as u64;
        if !known.is_multiple_of(size) || known.saturating_add(size) > e.param_bytes {
            return Err(format!(
                "parameters end at byte {}; this reads byte {known}",
                e.param_bytes
            ));
        }
        p.run = param_loader(ty, bytes);
        p.imm = known;
    }
    e.push(class(space, loads), 0, p);
    Ok(Made::Plain)
}

/// `cp.async.ca.shared.global [d], [a], bytes{, source bytes}`, `.commit_group`, `.wait_group n`,
/// `.wait_all`.
fn copy(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    m.need("async")?;
    if m.take("commit_group") {
        let [] = operands::<0>(insn)?;
        e.push(Class::AsyncCopy, 0, Parts::new(transfer::commit_group));
        return Ok(Made::Plain);
    }
    if m.take("wait_all") || insn.modifiers.iter().any(|x| x == "wait_group") {
        let mut p = Parts::new(transfer::wait_group);
        if m.take("wait_group") {
            let [Operand::Integer(n)] = operands::<1>(insn)? else {
                return Err("the number of groups has to be a number".into());
            };
            p.imm = *n;
        } else {
            let [] = operands::<0>(insn)?;
            p.x = 1;
        }
        e.push(Class::AsyncCopy, 0, p);
        return Ok(Made::Plain);
    }
    let cached = m.one_of(&["ca", "cg"]).ok_or("it needs .ca or .cg")?;
    m.ignore(&[], &["L2::"]);
    if !m.take("shared") && !m.take("shared::cta") {
        return Err("it needs .shared".into());
    }
    m.need("global")?;
    let (to, from, bytes, source_bytes) = match &insn.operands[..] {
        [to, from, Operand::Integer(bytes)] => (to, from, *bytes, None),
        [to, from, Operand::Integer(bytes), size] => (to, from, *bytes, Some(size)),
        _ => {
            return Err(
                "it takes two addresses, a number of bytes, and perhaps the source's".into()
            );
        }
    };
    if !matches!((cached, bytes), ("ca", 4 | 8 | 16) | ("cg", 16)) {
        return Err(format!("{bytes} bytes: .ca copies 4, 8 or 16, .cg copies 16"));
    }
    let to = address(e, to, Space::Shared)?;
    let from = address(e, from, Space::Global)?;
    let mut p = Parts::new(transfer::copy_async);
    (p.a, p.b) = (to.row, from.row);
    if let Some(size) = source_bytes {
        if e.type_of(size) == Some(Type::Pred) {
            return Err("ignore-src is not supported: give the source's bytes".into());
        }
        (p.c, p.d) = (e.source(size, Type::U32)?, 1);
    }
    let offset =
        |a: &Address| i32::try_from(a.offset as i64).map_err(|_| "offset too large".to_string());
    p.imm = u64::from(offset(&to)? as u32) | u64::from(offset(&from)? as u32) << 32;
    p.x = (to.x & 15) | (from.x & 8) << 1 | (bytes as u32) << 8;
    e.push(Class::AsyncCopy, 0, p);
    Ok(Made::Plain)
}

/// A hint that changes nothing; its address is not looked at.
fn prefetch(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    let space = m.space().unwrap_or(Space::Generic);
    m.ignore(&["L1", "L2"], &["L2::"]);
    let [at] = operands::<1>(insn)?;
    address(e, at, space)?;
    Ok(Made::Plain)
}
