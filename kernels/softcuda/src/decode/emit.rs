//! What the decoder makes of a kernel, and how operands become rows.
//!
//! Here is where the executor's safety is decided: an offset leaves this module only as the row of
//! a register, constant or special register of the width that was asked for.

use std::collections::HashMap;

use super::flatten::Flattened;
use super::registers::Rows;
use crate::ast::{Instruction, Operand, Special};
use crate::code::{Barrier, Class, FALSE, Handler, Insn, LANES, NOWHERE, Preset, TRUE};
use crate::types::{Space, Type};

/// What became of an instruction.
pub enum Made {
    /// Instructions of the block.
    Plain,
    /// The last instruction, which waits for the lanes that a row names.
    Converge(u32),
    /// A barrier.
    Barrier(Barrier),
}

/// The rows and handler of an instruction; [`Emit::push`] adds the rest.
#[derive(Clone, Copy)]
pub struct Parts {
    /// See [`Insn`].
    pub run: Handler,
    /// See [`Insn`].
    pub d: u32,
    /// See [`Insn`].
    pub a: u32,
    /// See [`Insn`].
    pub b: u32,
    /// See [`Insn`].
    pub c: u32,
    /// See [`Insn`].
    pub x: u32,
    /// See [`Insn`].
    pub imm: u64,
}

impl Parts {
    /// With a handler, and zeros elsewhere.
    pub fn new(run: Handler) -> Parts {
        Parts { run, d: 0, a: 0, b: 0, c: 0, x: 0, imm: 0 }
    }
}

/// The kernel that is being made.
pub struct Emit<'a> {
    types: &'a [Type],
    rows: Rows,
    /// Words that registers have (without predicates, constants and special registers).
    pub row_words: usize,
    next: u32,
    constants: HashMap<Preset, u32>,
    sink: Option<u32>,
    /// Instructions so far.
    pub insns: Vec<Insn>,
    /// Lists so far.
    pub lists: Vec<u32>,
    /// Line of the instruction at hand.
    pub line: u32,
    guard: u32,
    /// Smallest access to shared memory so far.
    pub shared_grain: usize,
    /// Bytes of the kernel's parameters.
    pub param_bytes: u64,
}

impl<'a> Emit<'a> {
    /// Nothing yet.
    pub fn new(flat: &'a Flattened, rows: Rows) -> Emit<'a> {
        Emit {
            types: &flat.types,
            row_words: rows.words,
            next: rows.end,
            rows,
            constants: HashMap::new(),
            sink: None,
            insns: Vec::new(),
            lists: Vec::new(),
            line: 0,
            guard: 0,
            shared_grain: 4,
            param_bytes: flat.param_bytes as u64,
        }
    }

    fn new_row(&mut self, wide: bool) -> u32 {
        let row = self.next;
        self.next += LANES as u32 * if wide { 2 } else { 1 };
        row
    }

    /// Rows to be filled in, and with what.
    pub fn presets(&self) -> Vec<(u32, Preset)> {
        let mut list: Vec<_> = self.constants.iter().map(|(&p, &row)| (row, p)).collect();
        list.sort_by_key(|&(row, _)| row);
        list
    }

    /// Words of the register file.
    pub fn words(&self) -> usize {
        self.next as usize
    }

    fn preset(&mut self, preset: Preset) -> u32 {
        if let Some(&row) = self.constants.get(&preset) {
            return row;
        }
        let wide = match preset {
            Preset::Word(_) => false,
            Preset::Double(_) => true,
            Preset::Special(s) => s.bytes() == 8,
        };
        let row = self.new_row(wide);
        self.constants.insert(preset, row);
        row
    }

    /// The row of a constant.
    pub fn constant(&mut self, value: u64, wide: bool) -> u32 {
        self.preset(if wide { Preset::Double(value) } else { Preset::Word(value as u32) })
    }

    /// The guard of an instruction, as [`Insn::guard`] has it; later instructions of `push` have it
    /// too.
    pub fn guard(&mut self, insn: &Instruction) -> Result<u32, String> {
        self.guard = match insn.guard {
            None => 0,
            Some((register, negated)) => {
                let (word, _) = self.predicate(&Operand::Register(register))?;
                word << 1 | u32::from(negated)
            }
        };
        Ok(self.guard)
    }

    /// The guard of the instruction at hand.
    pub fn current_guard(&self) -> u32 {
        self.guard
    }

    /// Adds an instruction with the guard and the line of the one at hand.
    pub fn push(&mut self, class: Class, flops: u32, p: Parts) {
        self.insns.push(Insn {
            run: p.run,
            d: p.d,
            a: p.a,
            b: p.b,
            c: p.c,
            x: p.x,
            guard: self.guard,
            imm: p.imm,
            line: self.line,
            flops,
            class,
        });
    }

    /// Adds a list of operands; its index.
    pub fn list(&mut self, rows: &[u32]) -> u32 {
        let index = self.lists.len() as u32;
        self.lists.extend(rows);
        index
    }

    /// The type of a register.
    pub fn type_of(&self, operand: &Operand) -> Option<Type> {
        match operand {
            Operand::Register(r) => Some(self.types[*r]),
            _ => None,
        }
    }

    /// The row of a source of a type; registers have to have its size.
    pub fn source(&mut self, operand: &Operand, ty: Type) -> Result<u32, String> {
        self.any_source(operand, ty, |has| has == ty.bytes())
    }

    /// The row of a source of which the low bytes are used: the register may be larger. Its width:
    /// whether 64-bit.
    pub fn wide_source(&mut self, operand: &Operand, ty: Type) -> Result<(u32, bool), String> {
        let row = self.any_source(operand, ty, |has| has >= ty.bytes())?;
        let bytes = self.type_of(operand).map_or(ty.bytes(), Type::bytes);
        Ok((row, bytes == 8))
    }

    fn any_source(
        &mut self,
        operand: &Operand,
        ty: Type,
        fits: impl Fn(usize) -> bool,
    ) -> Result<u32, String> {
        let bytes = ty.bytes();
        if bytes == 0 {
            return Err("a predicate cannot be used here".into());
        }
        let value = match operand {
            Operand::Register(r) => {
                let has = self.types[*r];
                if has == Type::Pred || !fits(has.bytes()) {
                    return Err(format!(
                        "a register of type {has:?} for an operand of type {ty:?}"
                    ));
                }
                return Ok(self.rows.of[*r]);
            }
            Operand::Special(Special::Clock | Special::Clock64 | Special::Globaltimer) => {
                return Err("clocks can be read by mov only".into());
            }
            Operand::Special(s) if s.bytes() == bytes && !ty.is_float() => {
                return Ok(self.preset(Preset::Special(*s)));
            }
            Operand::Special(_) => return Err(format!("a special register as {ty:?}")),
            Operand::Integer(_) if ty.is_float() => {
                return Err(format!("an integer for an operand of type {ty:?}"));
            }
            Operand::Integer(value) => *value,
            Operand::Float32(bits) if bytes == 4 => u64::from(*bits),
            Operand::Float32(bits) if ty == Type::F64 => f64::from(f32::from_bits(*bits)).to_bits(),
            Operand::Float64(bits) if bytes == 8 => *bits,
            Operand::Float64(bits) if ty == Type::F32 => {
                u64::from((f64::from_bits(*bits) as f32).to_bits())
            }
            Operand::Place(Space::Shared | Space::Local, address)
                if bytes >= 4 && !ty.is_float() =>
            {
                *address
            }
            Operand::Place(_, address) if bytes == 8 && !ty.is_float() => *address,
            other => return Err(format!("{other:?} for an operand of type {ty:?}")),
        };
        let value = match bytes {
            1 => value & 0xff,
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
        Ok(self.constant(value, bytes == 8))
    }

    /// The row of a destination of a type.
    pub fn target(&mut self, operand: &Operand, ty: Type) -> Result<u32, String> {
        match operand {
            Operand::Register(r) => {
                let has = self.types[*r];
                if has == Type::Pred || has.bytes() != ty.bytes() {
                    return Err(format!("a register of type {has:?} for a result of type {ty:?}"));
                }
                Ok(self.rows.of[*r])
            }
            Operand::Sink => Ok(self.sink()),
            _ => Err("the result needs a register".into()),
        }
    }

    /// The row of a destination that may be larger than the type; the register's bytes.
    pub fn wide_target(&mut self, operand: &Operand, ty: Type) -> Result<(u32, usize), String> {
        match operand {
            Operand::Register(r) => {
                let has = self.types[*r];
                if has == Type::Pred || has.bytes() < ty.bytes() {
                    return Err(format!("a register of type {has:?} for a result of type {ty:?}"));
                }
                Ok((self.rows.of[*r], has.bytes()))
            }
            Operand::Sink => Ok((self.sink(), ty.bytes())),
            _ => Err("the result needs a register".into()),
        }
    }

    /// A new row of 32-bit values, for what an instruction needs between two steps.
    pub fn scratch(&mut self) -> u32 {
        self.new_row(false)
    }

    /// The same for 64-bit values.
    pub fn wide_scratch(&mut self) -> u32 {
        self.new_row(true)
    }

    /// A row for results that nobody wants, wide enough for all.
    pub fn sink(&mut self) -> u32 {
        if let Some(row) = self.sink {
            return row;
        }
        let row = self.new_row(true);
        self.sink = Some(row);
        row
    }

    /// The word of a predicate, and whether it is negated.
    pub fn predicate(&self, operand: &Operand) -> Result<(u32, bool), String> {
        match operand {
            Operand::Register(r) if self.types[*r] == Type::Pred => Ok((self.rows.of[*r], false)),
            Operand::Not(r) if self.types[*r] == Type::Pred => Ok((self.rows.of[*r], true)),
            Operand::Integer(0) => Ok((FALSE, false)),
            Operand::Integer(_) => Ok((TRUE, false)),
            _ => Err("a predicate is needed here".into()),
        }
    }

    /// The word of a predicate that is written.
    pub fn target_predicate(&self, operand: &Operand) -> Result<u32, String> {
        match operand {
            Operand::Register(r) if self.types[*r] == Type::Pred => Ok(self.rows.of[*r]),
            Operand::Sink => Ok(NOWHERE),
            _ => Err("the result needs a predicate".into()),
        }
    }
}
