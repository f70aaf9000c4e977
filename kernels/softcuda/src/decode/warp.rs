//! Barriers, fences and what lanes do together.

use super::emit::{Emit, Made, Parts};
use super::matrix;
use super::modifiers::Modifiers;
use super::table::{Decoded, operands};
use crate::ast::{Instruction, Operand};
use crate::code::{Barrier, Class, Handler, NOWHERE, Reduce, ReduceOp};
use crate::exec::collective::{self, SHUFFLES, VOTES, find_matches, reducer};
use crate::types::Type;

/// Decodes an instruction of this family.
pub fn decode(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    match insn.opcode.as_str() {
        "bar" | "barrier" => barrier(e, insn, m),
        "shfl" => shuffle(e, insn, m),
        "vote" => vote(e, insn, m),
        "match" => find(e, insn, m),
        "redux" => reduce(e, insn, m),
        "mma" | "ldmatrix" => matrix::decode(e, insn, m),
        "activemask" => {
            if m.ty()? != Type::B32 {
                return Err("for b32 only".into());
            }
            let [d] = operands::<1>(insn)?;
            let mut p = Parts::new(collective::active_mask);
            p.d = e.target(d, Type::B32)?;
            e.push(Class::Warp, 0, p);
            Ok(Made::Plain)
        }
        "membar" | "fence" => {
            const WHAT: [&str; 8] =
                ["sc", "acq_rel", "acquire", "release", "cta", "gl", "gpu", "sys"];
            m.ignore(&WHAT, &[]);
            let [] = operands::<0>(insn)?;
            e.push(Class::Barrier, 0, Parts::new(collective::nothing));
            Ok(Made::Plain)
        }
        "nanosleep" => {
            if m.ty()? != Type::U32 {
                return Err("it takes a u32".into());
            }
            let [time] = operands::<1>(insn)?;
            e.source(time, Type::U32)?;
            e.push(Class::Barrier, 0, Parts::new(collective::nothing));
            Ok(Made::Plain)
        }
        _ => Err("unknown instruction".into()),
    }
}

/// `bar.sync a{, b}`, `bar.arrive a, b`, `bar.red.op d, a{, b}, p`, `bar.warp.sync mask`, and the
/// same as `barrier`.
fn barrier(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    m.ignore(&["cta"], &[]);
    // `bar` is short for `barrier` with `.aligned`.
    let aligned = m.take("aligned") || insn.opcode == "bar";
    if m.take("warp") {
        m.need("sync")?;
        let [members] = operands::<1>(insn)?;
        let row = e.source(members, Type::B32)?;
        e.push(Class::Barrier, 0, Parts::new(collective::warp_barrier));
        return Ok(Made::Converge(row));
    }
    let kind = m.one_of(&["sync", "arrive", "red"]).ok_or("it needs .sync, .arrive or .red")?;
    let guard = e.current_guard();
    let waits = kind != "arrive";
    let mut made = Barrier { id: 0, threads: None, waits, reduce: None, guard, aligned };
    let rest = match (kind, &insn.operands[..]) {
        ("red", [d, rest @ .., p]) => {
            let how = m.one_of(&["popc", "and", "or"]).ok_or("it needs .popc, .and or .or")?;
            let ty = m.ty()?;
            let (op, to) = match (how, ty) {
                ("popc", Type::U32) => (ReduceOp::Popc, e.target(d, Type::U32)?),
                ("and", Type::Pred) => (ReduceOp::And, e.target_predicate(d)?),
                ("or", Type::Pred) => (ReduceOp::Or, e.target_predicate(d)?),
                _ => return Err(format!("{how} of {ty:?}")),
            };
            made.reduce = Some(Reduce { op, word: e.predicate(p)?, to });
            rest
        }
        ("red", _) => return Err("it takes at least 3 operands".into()),
        (_, rest) => rest,
    };
    match (kind, rest) {
        ("sync" | "red", [id]) => made.id = e.source(id, Type::U32)?,
        (_, [id, threads]) => {
            made.id = e.source(id, Type::U32)?;
            made.threads = Some(e.source(threads, Type::U32)?);
        }
        _ => return Err("it takes a barrier and perhaps a number of threads".into()),
    }
    Ok(Made::Barrier(made))
}

/// `shfl.sync.mode.b32 d{|p}, a, b, c, members`
fn shuffle(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    m.need("sync")?;
    let mode = m.one_of(&SHUFFLES).ok_or("it needs .up, .down, .bfly or .idx")?;
    if m.ty()? != Type::B32 {
        return Err("for b32 only".into());
    }
    let [d, a, b, c, members] = operands::<5>(insn)?;
    let mut p = Parts::new(collective::shuffle);
    let (d, inside) = match d {
        Operand::Pair(d, inside) => (&**d, e.target_predicate(inside)?),
        d => (d, NOWHERE),
    };
    p.d = e.target(d, Type::B32)?;
    p.a = e.source(a, Type::B32)?;
    p.b = e.source(b, Type::B32)?;
    p.c = e.source(c, Type::B32)?;
    p.imm = inside.into();
    p.x = SHUFFLES.iter().position(|&s| s == mode).unwrap_or(0) as u32;
    let members = e.source(members, Type::B32)?;
    e.push(Class::Warp, 0, p);
    Ok(Made::Converge(members))
}

/// `vote.sync.mode.pred d, a, members`, `vote.sync.ballot.b32 d, a, members`
fn vote(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    m.need("sync")?;
    let mode = m.one_of(&VOTES).ok_or("it needs .all, .any, .uni or .ballot")?;
    let ty = m.ty()?;
    let [d, a, members] = operands::<3>(insn)?;
    let mut p = Parts::new(collective::vote);
    p.d = match (mode, ty) {
        ("ballot", Type::B32) => e.target(d, ty)?,
        ("all" | "any" | "uni", Type::Pred) => e.target_predicate(d)?,
        _ => return Err(format!("{mode} of {ty:?}")),
    };
    let (word, negated) = e.predicate(a)?;
    p.a = word;
    p.imm = if negated { u64::MAX } else { 0 };
    p.c = e.source(members, Type::B32)?;
    p.x = VOTES.iter().position(|&s| s == mode).unwrap_or(0) as u32;
    e.push(Class::Warp, 0, p);
    Ok(Made::Converge(p.c))
}

/// `match.any.sync.type d, a, members`, `match.all.sync.type d{|p}, a, members`
fn find(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    let all = m.one_of(&["any", "all"]).ok_or("it needs .any or .all")? == "all";
    m.need("sync")?;
    let ty = m.ty()?;
    let [d, a, members] = operands::<3>(insn)?;
    let mut p = Parts::new(match ty {
        Type::B32 => find_matches::<u32>,
        Type::B64 => find_matches::<u64>,
        _ => return Err("for b32 and b64 only".into()),
    });
    let (d, agree) = match d {
        Operand::Pair(d, agree) if all => (&**d, e.target_predicate(agree)?),
        d => (d, NOWHERE),
    };
    p.d = e.target(d, Type::B32)?;
    p.a = e.source(a, ty)?;
    p.c = e.source(members, Type::B32)?;
    p.imm = agree.into();
    p.x = u32::from(all);
    e.push(Class::Warp, 0, p);
    Ok(Made::Converge(p.c))
}

/// `redux.sync.op.type d, a, members`
fn reduce(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    m.need("sync")?;
    const OPERATIONS: [&str; 6] = ["add", "min", "max", "and", "or", "xor"];
    let how = m.one_of(&OPERATIONS).ok_or("it needs an operation such as .add")?;
    let ty = m.ty()?;
    let run: Handler = match (how, ty) {
        ("add", Type::U32 | Type::S32) => reducer(u32::wrapping_add),
        ("min", Type::U32) => reducer(|a: u32, b: u32| a.min(b)),
        ("min", Type::S32) => reducer(|a: i32, b: i32| a.min(b)),
        ("max", Type::U32) => reducer(|a: u32, b: u32| a.max(b)),
        ("max", Type::S32) => reducer(|a: i32, b: i32| a.max(b)),
        ("and", Type::B32) => reducer(|a: u32, b: u32| a & b),
        ("or", Type::B32) => reducer(|a: u32, b: u32| a | b),
        ("xor", Type::B32) => reducer(|a: u32, b: u32| a ^ b),
        _ => return Err(format!("{how} of {ty:?}")),
    };
    let [d, a, members] = operands::<3>(insn)?;
    let mut p = Parts::new(run);
    p.d = e.target(d, ty)?;
    p.a = e.source(a, ty)?;
    p.c = e.source(members, Type::B32)?;
    e.push(Class::Warp, 0, p);
    Ok(Made::Converge(p.c))
}
