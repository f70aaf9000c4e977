//! From the tree to the decoded form: done once, when a module is loaded.
//!
//! - [`flatten`] makes one list of instructions of a kernel, with device functions put in where
//!   they are called, and variables given their addresses;
//! - this module cuts the list into basic blocks;
//! - [`registers`] finds which virtual registers may share a row;
//! - [`table`] knows the instructions, [`emit`] holds what it makes of them.

pub mod arithmetic;
pub mod atomic;
pub mod compare;
pub mod convert;
pub mod emit;
pub mod flatten;
pub mod half;
pub mod integer;
pub mod matrix;
pub mod memory;
pub mod modifiers;
pub mod registers;
pub mod table;
pub mod warp;

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Instruction, Module, Operand};
use crate::code::{Block, Code, End};
use crate::error::{Error, Result};
use emit::{Emit, Made};
use flatten::{Flat, Item};

/// Decodes all kernels of a module. `globals` has the addresses and sizes of its variables.
pub fn module(
    file: &str,
    tree: &Module,
    globals: &HashMap<String, (u64, usize)>,
) -> Result<Vec<Arc<Code>>> {
    let kernels = tree.functions.iter().filter(|f| f.is_entry && f.body.is_some());
    kernels.map(|f| kernel(file, tree, f, globals).map(Arc::new)).collect()
}

/// A stretch of instructions without a way in or out, and how it ends.
pub struct Stretch<'a> {
    label: Option<u32>,
    insns: Vec<&'a Flat>,
    /// The instruction that ends it, if it is one that decides where to go.
    end: Option<&'a Flat>,
}

/// Whether an instruction ends its block.
fn ends_block(insn: &Instruction) -> bool {
    let has = |m: &str| insn.modifiers.iter().any(|x| x == m);
    match insn.opcode.as_str() {
        "bra" | "brx" | "ret" | "exit" | "trap" => true,
        "bar" | "barrier" => true,
        "shfl" | "vote" | "match" | "redux" | "mma" | "ldmatrix" | "stmatrix" | "wmma" => {
            has("sync") || insn.opcode == "wmma"
        }
        _ => false,
    }
}

fn stretches(items: &[Item]) -> Vec<Stretch<'_>> {
    let mut list = vec![Stretch { label: None, insns: Vec::new(), end: None }];
    for item in items {
        let last = list.last_mut().expect("never empty");
        match item {
            // A label always begins a stretch, so that each label has one of its own.
            Item::Label(label) => {
                list.push(Stretch { label: Some(*label), insns: Vec::new(), end: None });
            }
            Item::Insn(flat) => {
                if ends_block(&flat.insn) {
                    last.end = Some(flat);
                    list.push(Stretch { label: None, insns: Vec::new(), end: None });
                } else {
                    last.insns.push(flat);
                }
            }
        }
    }
    list
}

fn kernel(
    file: &str,
    tree: &Module,
    function: &crate::ast::Function,
    globals: &HashMap<String, (u64, usize)>,
) -> Result<Code> {
    let flat = flatten::flatten(file, tree, function, globals)?;
    let refuse = |insn: &Instruction, message: String| Error::Instruction {
        file: file.into(),
        line: insn.line,
        opcode: insn.full_opcode(),
        message,
    };
    let list = stretches(&flat.items);
    let mut of_label = vec![u32::MAX; flat.labels];
    for (i, stretch) in list.iter().enumerate() {
        if let Some(label) = stretch.label {
            of_label[label as usize] = i as u32;
        }
    }
    let graph = registers::Graph::new(&list, &of_label);
    let mut emit = Emit::new(&flat, registers::assign(&flat, &list, &graph));
    let mut blocks = Vec::with_capacity(list.len() + 1);
    for stretch in &list {
        let first = emit.insns.len() as u32;
        let mut line = stretch.insns.last().map_or(function.line, |f| f.insn.line);
        for f in &stretch.insns {
            emit.line = f.insn.line;
            let made = table::decode(&mut emit, &f.insn).map_err(|m| refuse(&f.insn, m))?;
            if !matches!(made, Made::Plain) {
                return Err(refuse(&f.insn, "this form must be .sync".into()));
            }
        }
        let mut last = emit.insns.len() as u32;
        let mut end = End::Next;
        if let Some(f) = stretch.end {
            line = f.insn.line;
            emit.line = line;
            end = match control(&mut emit, f, &of_label).map_err(|m| refuse(&f.insn, m))? {
                Some(end) => end,
                None => match table::decode(&mut emit, &f.insn).map_err(|m| refuse(&f.insn, m))? {
                    Made::Plain => {
                        last = emit.insns.len() as u32;
                        End::Next
                    }
                    Made::Converge(members) => {
                        let guard = emit.insns.last().map_or(0, |i| i.guard);
                        let aligned = f.insn.modifiers.iter().any(|m| m == "aligned");
                        End::Converge { members, guard, aligned }
                    }
                    Made::Barrier(barrier) => End::Barrier(barrier),
                },
            };
        }
        blocks.push(Block { first, last, end, line });
    }
    // Whoever runs past the last instruction is done.
    let end = emit.insns.len() as u32;
    blocks.push(Block { first: end, last: end, end: End::Exit { guard: 0 }, line: function.line });
    let registers = emit.row_words.div_ceil(crate::code::LANES);
    Ok(Code {
        name: function.name.clone(),
        file: file.into(),
        sources: tree.sources.clone(),
        blocks,
        presets: emit.presets(),
        words: emit.words(),
        insns: emit.insns,
        lists: emit.lists,
        registers,
        local_bytes: flat.local_bytes.next_multiple_of(16),
        shared_bytes: flat.shared_bytes,
        dynamic_align: flat.dynamic_align,
        param_bytes: flat.param_bytes,
        params: flat.params.clone(),
        max_threads: function.max_threads.map(|t| (t, function.exact_threads)),
        shared_grain: emit.shared_grain,
    })
}

/// Branches and exits; `None` for all else.
fn control(
    emit: &mut Emit<'_>,
    f: &Flat,
    of_label: &[u32],
) -> std::result::Result<Option<End>, String> {
    let insn = &f.insn;
    let mut m = modifiers::Modifiers::new(insn);
    let guard = emit.guard(insn)?;
    let end = match insn.opcode.as_str() {
        "bra" => {
            m.take("uni");
            let [_] = &insn.operands[..] else { return Err("it takes one label".into()) };
            let target = of_label[f.targets[0] as usize];
            match guard {
                0 => End::Jump(target),
                _ => End::Branch { word: guard >> 1, negated: guard & 1 != 0, target },
            }
        }
        "brx" => {
            m.need("idx")?;
            m.take("uni");
            let [index, _] = &insn.operands[..] else {
                return Err("it takes an index and a table of labels".into());
            };
            let row = emit.source(index, crate::types::Type::U32)?;
            let targets = f.targets.iter().map(|&l| of_label[l as usize]).collect();
            End::Index { row, guard, targets }
        }
        "ret" => {
            m.take("uni");
            End::Exit { guard }
        }
        "exit" => End::Exit { guard },
        "trap" => End::Trap { guard },
        _ => return Ok(None),
    };
    m.finish()?;
    if matches!(end, End::Exit { .. } | End::Trap { .. }) && !insn.operands.is_empty() {
        return Err("it takes no operands".into());
    }
    Ok(Some(end))
}

/// The operand's address, if it is one.
pub(crate) fn as_address(operand: &Operand) -> Option<(&Operand, i64)> {
    match operand {
        Operand::Address(base, offset) => Some((base, *offset)),
        _ => None,
    }
}
