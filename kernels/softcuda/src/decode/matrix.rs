//! Tensor-core instructions.

use super::emit::Emit;
use super::modifiers::Modifiers;
use super::table::Decoded;
use crate::ast::Instruction;

/// Decodes `mma` or `ldmatrix`.
pub fn decode(_: &mut Emit<'_>, _: &Instruction, _: &mut Modifiers<'_>) -> Decoded {
    Err("not yet".into())
}
