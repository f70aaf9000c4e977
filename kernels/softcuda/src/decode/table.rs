//! Which family knows an opcode.

use super::emit::{Emit, Made};
use super::modifiers::Modifiers;
use super::{arithmetic, atomic, compare, convert, integer, memory, warp};
use crate::ast::Instruction;
use crate::types::Type;

/// Result of a decoder: what was made, or why the instruction is refused.
pub type Decoded = Result<Made, String>;

/// Decodes an instruction into `e`. Exactly one instruction is pushed where [`Made::Converge`] is
/// returned.
pub fn decode(e: &mut Emit<'_>, insn: &Instruction) -> Decoded {
    let mut m = Modifiers::new(insn);
    e.guard(insn)?;
    let made = match insn.opcode.as_str() {
        "add" | "sub" | "mul" | "fma" | "mad" | "div" | "min" | "max" | "abs" | "neg" => {
            // The same names for integers and floating-point numbers; the type is the last
            // modifier.
            let last = insn.modifiers.last().and_then(|m| Type::parse(m));
            if last.is_some_and(Type::is_float) {
                arithmetic::decode(e, insn, &mut m)
            } else {
                integer::decode(e, insn, &mut m)
            }
        }
        "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign"
        | "testp" => arithmetic::decode(e, insn, &mut m),
        "rem" | "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "popc" | "clz" | "brev"
        | "bfind" | "bfe" | "bfi" | "prmt" | "lop3" | "shf" | "dp4a" | "dp2a" | "mul24"
        | "mad24" | "sad" | "addc" | "subc" | "madc" | "bmsk" | "szext" | "fns" => {
            integer::decode(e, insn, &mut m)
        }
        "setp" | "set" | "selp" | "slct" => compare::decode(e, insn, &mut m),
        "mov" | "cvt" | "cvta" | "isspacep" => convert::decode(e, insn, &mut m),
        "ld" | "ldu" | "st" | "cp" | "prefetch" | "prefetchu" => memory::decode(e, insn, &mut m),
        "atom" | "red" => atomic::decode(e, insn, &mut m),
        "bar" | "barrier" | "shfl" | "vote" | "match" | "redux" | "activemask" | "membar"
        | "fence" | "nanosleep" | "mma" | "ldmatrix" | "elect" | "griddepcontrol" | "brkpt"
        | "pmevent" => warp::decode(e, insn, &mut m),
        _ => Err("unknown instruction".into()),
    }?;
    m.finish()?;
    Ok(made)
}

/// Exactly N operands.
pub fn operands<const N: usize>(insn: &Instruction) -> Result<&[crate::ast::Operand; N], String> {
    <&[_; N]>::try_from(&insn.operands[..])
        .map_err(|_| format!("it takes {N} operands, not {}", insn.operands.len()))
}
