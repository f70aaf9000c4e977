//! Tensor-core instructions.

use super::emit::{Emit, Made, Parts};
use super::memory;
use super::modifiers::Modifiers;
use super::table::{Decoded, operands};
use crate::ast::{Instruction, Operand};
use crate::code::{ALL, Class, Handler};
use crate::exec::matrix::{
    self, Bytes, Halves, Packed, Single, load_matrix, multiply, multiply_bytes,
};
use crate::lanes;
use crate::types::{Space, Type};

/// Decodes `mma` or `ldmatrix`.
pub fn decode(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    m.need("sync")?;
    m.need("aligned")?;
    if insn.opcode == "ldmatrix" { load(e, insn, m) } else { mma(e, insn, m) }
}

/// `ldmatrix.sync.aligned.m8n8.xN{.trans}.shared.b16 {d, ..}, [a]`
fn load(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    m.need("m8n8")?;
    let count = match m.one_of(&["x1", "x2", "x4"]) {
        Some("x1") => 1,
        Some("x2") => 2,
        Some(_) => 4,
        None => return Err("it needs .x1, .x2 or .x4".into()),
    };
    let transposed = m.take("trans");
    if m.space() != Some(Space::Shared) || m.ty()? != Type::B16 {
        return Err("it loads b16 from shared memory".into());
    }
    let [d, at] = operands::<2>(insn)?;
    let rows = registers(e, d, Type::B32, count, true)?;
    let at = memory::address(e, at, Space::Shared)?;
    let mut p = Parts::new(load_matrix);
    p.d = e.list(&rows);
    (p.a, p.imm) = (at.row, at.offset);
    p.x = count as u32 | u32::from(transposed) << 4 | at.x << 8;
    e.push(Class::LoadShared, 0, p);
    Ok(Made::Converge(e.constant(ALL.into(), false)))
}

/// The rows of a fragment.
fn registers(
    e: &mut Emit<'_>,
    operand: &Operand,
    ty: Type,
    count: usize,
    written: bool,
) -> Result<Vec<u32>, String> {
    let list = match operand {
        Operand::Vector(list) => &list[..],
        one => std::slice::from_ref(one),
    };
    if list.len() != count {
        return Err(format!("a fragment of {} registers instead of {count}", list.len()));
    }
    list.iter().map(|o| if written { e.target(o, ty) } else { e.source(o, ty) }).collect()
}

/// `mma.sync.aligned.shape.row.col{.satfinite}.dtype.atype.btype.ctype d, a, b, c`
fn mma(e: &mut Emit<'_>, insn: &Instruction, m: &mut Modifiers<'_>) -> Decoded {
    const SHAPES: [&str; 6] = ["m16n8k16", "m16n8k8", "m16n8k4", "m16n8k32", "m8n8k16", "m8n8k4"];
    let shape = m.one_of(&SHAPES).ok_or("this shape is not supported")?;
    m.need("row")?;
    m.need("col")?;
    let saturates = m.take("satfinite");
    let types = [m.ty()?, m.ty()?, m.ty()?, m.ty()?];
    use Type::*;
    // Handler, and registers of d (and c), a, b.
    let (run, [nd, na, nb], k): (Handler, [usize; 3], u32) = match (shape, types) {
        ("m16n8k16", [F32, F16, F16, F32]) => {
            (multiply::<Halves<lanes::F16>, Single, 16>(), [4, 4, 2], 16)
        }
        ("m16n8k16", [F16, F16, F16, F16]) => {
            (multiply::<Halves<lanes::F16>, Packed, 16>(), [2, 4, 2], 16)
        }
        ("m16n8k16", [F32, Bf16, Bf16, F32]) => {
            (multiply::<Halves<lanes::Bf16>, Single, 16>(), [4, 4, 2], 16)
        }
        ("m16n8k8", [F32, F16, F16, F32]) => {
            (multiply::<Halves<lanes::F16>, Single, 8>(), [4, 2, 1], 8)
        }
        ("m16n8k8", [F16, F16, F16, F16]) => {
            (multiply::<Halves<lanes::F16>, Packed, 8>(), [2, 2, 1], 8)
        }
        ("m16n8k8", [F32, Bf16, Bf16, F32]) => {
            (multiply::<Halves<lanes::Bf16>, Single, 8>(), [4, 2, 1], 8)
        }
        ("m16n8k8", [F32, Tf32, Tf32, F32]) => {
            (multiply::<matrix::Tf32, Single, 8>(), [4, 4, 2], 8)
        }
        ("m16n8k4", [F32, Tf32, Tf32, F32]) => {
            (multiply::<matrix::Tf32, Single, 4>(), [4, 2, 1], 4)
        }
        ("m8n8k4", [F64, F64, F64, F64]) => (matrix::multiply_f64, [2, 1, 1], 4),
        (_, [S32, a @ (S8 | U8), b @ (S8 | U8), S32]) => {
            let run = match (a, b) {
                (S8, S8) => multiply_bytes::<Bytes<true>, Bytes<true>>(),
                (S8, _) => multiply_bytes::<Bytes<true>, Bytes<false>>(),
                (_, S8) => multiply_bytes::<Bytes<false>, Bytes<true>>(),
                _ => multiply_bytes::<Bytes<false>, Bytes<false>>(),
            };
            match shape {
                "m16n8k32" => (run, [4, 4, 2], 32),
                "m16n8k16" => (run, [4, 2, 1], 16),
                "m8n8k16" => (run, [2, 1, 1], 16),
                _ => return Err(format!("{shape} of {a:?} and {b:?}")),
            }
        }
        _ => return Err(format!("{shape} of {types:?}")),
    };
    let bytes = matches!(types[1], S8 | U8);
    if saturates && !bytes {
        return Err("modifier .satfinite is for integers".into());
    }
    let [d, a, b, c] = operands::<4>(insn)?;
    let (wide, packed) = (types[1] == F64, types[0] == F16);
    let sum = match (wide, packed) {
        (true, _) => F64,
        (_, true) => F16x2,
        _ if bytes => S32,
        _ => F32,
    };
    let part = if wide { F64 } else { B32 };
    let mut rows = registers(e, d, sum, nd, true)?;
    rows.extend(registers(e, a, part, na, false)?);
    rows.extend(registers(e, b, part, nb, false)?);
    rows.extend(registers(e, c, sum, nd, false)?);
    let mut p = Parts::new(run);
    p.x = e.list(&rows);
    p.imm = [nd, na, nb, nd].iter().rev().fold(0, |imm, &n| imm << 8 | n as u64);
    p.c = u32::from(saturates);
    let rows_of_d = if shape.starts_with("m16") { 16 } else { 8 };
    // Two operations for each product, of all lanes together.
    e.push(Class::Matrix, 2 * rows_of_d * 8 * k / 32, p);
    Ok(Made::Converge(e.constant(ALL.into(), false)))
}
