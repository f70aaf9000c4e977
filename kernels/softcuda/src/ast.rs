//! What the parser makes of a module: names are resolved, opcodes are not yet understood.

use std::sync::Arc;

use crate::source::SourceLines;
use crate::types::{Space, Type};

/// A whole PTX file.
#[derive(Debug, Default)]
pub struct Module {
    /// `.global` and `.const` variables, and `.shared` ones outside of functions.
    pub variables: Vec<Variable>,
    /// Kernels and device functions.
    pub functions: Vec<Function>,
    /// Where the text comes from.
    pub sources: Arc<SourceLines>,
}

/// A variable in memory.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Its alignment in bytes: a power of two.
    pub align: usize,
    /// Its size in bytes; 0 for `extern .shared x[]`, which is the dynamic shared memory.
    pub bytes: usize,
    /// Initial bytes (the rest is zero).
    pub init: Vec<u8>,
    /// Addresses to be put into `init`: byte offset, name, addend, and whether the generic address
    /// is meant.
    pub addresses: Vec<(usize, String, i64)>,
    /// Declared here, defined elsewhere (or dynamic shared memory).
    pub is_extern: bool,
    /// Line of its declaration.
    pub line: u32,
}

/// A virtual register.
#[derive(Clone, Debug)]
pub struct Register {
    /// Its type.
    pub ty: Type,
}

/// A formal parameter.
#[derive(Clone, Debug)]
pub enum Formal {
    /// `.param`: index into the function's variables.
    Memory(usize),
    /// `.reg`: index into the function's registers.
    Register(usize),
}

/// A kernel or a device function.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Whether it can be launched.
    pub is_entry: bool,
    /// Line of its declaration.
    pub line: u32,
    /// Return values.
    pub returns: Vec<Formal>,
    /// Parameters.
    pub params: Vec<Formal>,
    /// All virtual registers of all its scopes.
    pub registers: Vec<Register>,
    /// All variables declared in it, parameters included.
    pub variables: Vec<Variable>,
    /// Labels and instructions; `None` for a mere declaration.
    pub body: Option<Vec<Statement>>,
    /// `.maxntid` or `.reqntid`.
    pub max_threads: Option<[u32; 3]>,
    /// Whether `max_threads` is exact (`.reqntid`).
    pub exact_threads: bool,
    /// `.branchtargets` tables: name and labels.
    pub branch_targets: Vec<(String, Vec<String>)>,
}

/// A line of a function.
#[derive(Debug)]
pub enum Statement {
    /// Target of branches.
    Label(String),
    /// To be executed.
    Instruction(Instruction),
}

/// An instruction, not yet understood.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// Line, from 1.
    pub line: u32,
    /// Predicate register that guards it, and whether it is negated.
    pub guard: Option<(usize, bool)>,
    /// `ld`, `add`, ...
    pub opcode: String,
    /// `global`, `v4`, `f32`, ...
    pub modifiers: Vec<String>,
    /// Operands in order.
    pub operands: Vec<Operand>,
}

impl Instruction {
    /// Opcode and modifiers as they were written.
    pub fn full_opcode(&self) -> String {
        let mut name = self.opcode.clone();
        for modifier in &self.modifiers {
            name.push('.');
            name.push_str(modifier);
        }
        name
    }
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// Index into the function's registers.
    Register(usize),
    /// `!%p`
    Not(usize),
    /// `%tid.x`, `%laneid`, ...
    Special(Special),
    /// An integer, as two's complement.
    Integer(u64),
    /// Bits of an f32.
    Float32(u32),
    /// Bits of an f64.
    Float64(u64),
    /// Address of a variable of the function.
    Variable(usize),
    /// A label, a function or a variable of the module.
    Name(String),
    /// An address in a state space: what the decoder makes of variables.
    Place(Space, u64),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `[base+offset]`
    Address(Box<Operand>, i64),
    /// `a|b`: two results.
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)`: arguments of a call.
    List(Vec<Operand>),
    /// `_`: a result that nobody wants.
    Sink,
}

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "they are called as PTX calls them")]
pub enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Laneid,
    Warpid,
    Nwarpid,
    Smid,
    Nsmid,
    Gridid,
    LanemaskEq,
    LanemaskLt,
    LanemaskLe,
    LanemaskGt,
    LanemaskGe,
    Clock,
    Clock64,
    Globaltimer,
    DynamicSmemSize,
    TotalSmemSize,
}

impl Special {
    /// From the name; those with axes are followed by `.x`, `.y` or `.z`.
    pub fn parse(name: &str, axis: Option<usize>) -> Option<Special> {
        Some(match (name, axis) {
            ("%tid", Some(axis)) => Special::Tid(axis),
            ("%ntid", Some(axis)) => Special::Ntid(axis),
            ("%ctaid", Some(axis)) => Special::Ctaid(axis),
            ("%nctaid", Some(axis)) => Special::Nctaid(axis),
            ("%laneid", None) => Special::Laneid,
            ("%warpid", None) => Special::Warpid,
            ("%nwarpid", None) => Special::Nwarpid,
            ("%smid", None) => Special::Smid,
            ("%nsmid", None) => Special::Nsmid,
            ("%gridid", None) => Special::Gridid,
            ("%lanemask_eq", None) => Special::LanemaskEq,
            ("%lanemask_lt", None) => Special::LanemaskLt,
            ("%lanemask_le", None) => Special::LanemaskLe,
            ("%lanemask_gt", None) => Special::LanemaskGt,
            ("%lanemask_ge", None) => Special::LanemaskGe,
            ("%clock", None) => Special::Clock,
            ("%clock64", None) => Special::Clock64,
            ("%globaltimer", None) => Special::Globaltimer,
            ("%dynamic_smem_size", None) => Special::DynamicSmemSize,
            ("%total_smem_size", None) => Special::TotalSmemSize,
            _ => return None,
        })
    }

    /// Whether it is a special register that takes an axis.
    pub fn has_axis(name: &str) -> bool {
        matches!(name, "%tid" | "%ntid" | "%ctaid" | "%nctaid")
    }

    /// Bytes of its value.
    pub fn bytes(self) -> usize {
        match self {
            Special::Clock64 | Special::Globaltimer | Special::Gridid => 8,
            _ => 4,
        }
    }
}
