//! The decoded form of a kernel: what the executor runs.
//!
//! A warp's *register file* is one array of 32-bit words. Its first words are the predicates, one
//! word each: bit i belongs to lane i. Then come *rows*: a 32-bit register is a row of 32 words, a
//! 64-bit register one of 32 double words, so that an instruction is a loop over neighbouring
//! lanes, which the compiler turns into vector instructions. Immediates and special registers are
//! rows as well, filled in before a warp starts; hence an operand is always the offset of a row,
//! and an instruction is a function pointer with a few offsets.
//!
//! Instructions stand in *basic blocks*: control enters at the first one only, and leaves at the
//! end only. All that concerns which lanes run (branches, barriers, instructions that wait for
//! other lanes) is the block's [`End`].

use std::sync::Arc;

use crate::ast::Special;
use crate::exec::Context;
use crate::source::SourceLines;

/// Lanes of a warp.
pub const LANES: usize = 32;
/// The mask of all lanes.
pub const ALL: u32 = u32::MAX;

/// Executes an instruction for the lanes of a mask.
///
/// # Safety
/// The instruction must come from the decoder for the code that the context runs: its offsets then
/// lie inside of the register file, and rows have the width that the handler expects. The CPU must
/// have the features that the handler was chosen for (see [`crate::lanes::wide`]).
pub type Handler = unsafe fn(&mut Context<'_>, &Insn, u32);

/// Predicate word that is always false.
pub const FALSE: u32 = 0;
/// Predicate word that is always true.
pub const TRUE: u32 = 1;
/// Predicate word for results that nobody wants.
pub const NOWHERE: u32 = 2;
/// First predicate word that is free for registers.
pub const FIRST_PREDICATE: u32 = 3;

/// What an instruction counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Integer and bit arithmetic.
    Integer,
    /// f32 arithmetic.
    Float32,
    /// f16 and bf16 arithmetic.
    Half,
    /// f64 arithmetic.
    Float64,
    /// exp2, log2, sin, rcp, rsqrt, ...: the special function unit.
    Special,
    /// Conversions.
    Convert,
    /// mov, selp, cvta, packing.
    Move,
    /// Comparisons and predicate logic.
    Predicate,
    /// Loads of global memory (generic ones too).
    LoadGlobal,
    /// Stores to global memory.
    StoreGlobal,
    /// Loads of shared memory, ldmatrix too.
    LoadShared,
    /// Stores to shared memory.
    StoreShared,
    /// Local memory and parameters.
    LocalOrParam,
    /// Asynchronous copies global to shared.
    AsyncCopy,
    /// Atomics and reductions.
    Atomic,
    /// Tensor core.
    Matrix,
    /// shfl, vote, match, redux.
    Warp,
    /// Barriers and fences.
    Barrier,
    /// Branches and exits.
    Branch,
}

impl Class {
    /// All classes in the order of their numbers.
    pub const EVERY: [Class; 19] = {
        use Class::*;
        [
            Integer,
            Float32,
            Half,
            Float64,
            Special,
            Convert,
            Move,
            Predicate,
            LoadGlobal,
            StoreGlobal,
            LoadShared,
            StoreShared,
            LocalOrParam,
            AsyncCopy,
            Atomic,
            Matrix,
            Warp,
            Barrier,
            Branch,
        ]
    };

    /// Name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Class::Integer => "integer",
            Class::Float32 => "f32",
            Class::Half => "f16/bf16",
            Class::Float64 => "f64",
            Class::Special => "special function",
            Class::Convert => "convert",
            Class::Move => "move/select",
            Class::Predicate => "compare",
            Class::LoadGlobal => "load global",
            Class::StoreGlobal => "store global",
            Class::LoadShared => "load shared",
            Class::StoreShared => "store shared",
            Class::LocalOrParam => "local/param",
            Class::AsyncCopy => "async copy",
            Class::Atomic => "atomic",
            Class::Matrix => "tensor core",
            Class::Warp => "shuffle/vote",
            Class::Barrier => "barrier/fence",
            Class::Branch => "branch",
        }
    }
}

/// A decoded instruction. What the fields mean is the handler's affair; most read rows `a`, `b`,
/// `c` and write row `d`.
#[derive(Clone, Copy)]
pub struct Insn {
    /// Executes it.
    pub run: Handler,
    /// Destination row.
    pub d: u32,
    /// First source row.
    pub a: u32,
    /// Second source row.
    pub b: u32,
    /// Third source row.
    pub c: u32,
    /// A small parameter or an index into [`Code::lists`].
    pub x: u32,
    /// 0, or `word << 1 | negated` of the predicate that guards it (word 0 guards nothing, so 0 is
    /// free).
    pub guard: u32,
    /// An immediate.
    pub imm: u64,
    /// Line in the PTX.
    pub line: u32,
    /// Floating-point operations of a lane (a fused multiply-add has two).
    pub flops: u32,
    /// What it counts as.
    pub class: Class,
}

/// How a basic block ends.
#[derive(Clone, Debug)]
pub enum End {
    /// Control falls into the next block.
    Next,
    /// To another block.
    Jump(u32),
    /// To another block where the predicate word (xor the mask) says so, else to the next one.
    Branch { word: u32, negated: bool, target: u32 },
    /// To the block that a table has for the lane's value: `brx.idx`.
    Index { row: u32, guard: u32, targets: Box<[u32]> },
    /// The lanes are done (those that the guard lets through).
    Exit { guard: u32 },
    /// The block's last instruction waits until all lanes of its member mask are here; `aligned`:
    /// its lanes must agree on the guard.
    Converge { members: u32, guard: u32, aligned: bool },
    /// The last instruction is a barrier of the thread block.
    Barrier(Barrier),
    /// `trap`
    Trap { guard: u32 },
}

/// A barrier instruction.
#[derive(Clone, Debug)]
pub struct Barrier {
    /// Row with the number of the barrier.
    pub id: u32,
    /// Row with the number of threads that it waits for, if not all.
    pub threads: Option<u32>,
    /// Whether the threads wait, or only say that they have been here.
    pub waits: bool,
    /// `bar.red`: what is computed of which predicate, into which row or word.
    pub reduce: Option<Reduce>,
    /// Guard as in [`Insn::guard`].
    pub guard: u32,
    /// Whether the lanes of a warp must agree on the guard.
    pub aligned: bool,
}

/// `bar.red`
#[derive(Clone, Debug)]
pub struct Reduce {
    /// How.
    pub op: ReduceOp,
    /// Predicate word that is reduced, and whether it is negated.
    pub word: (u32, bool),
    /// Row (count) or word (and, or) of the result.
    pub to: u32,
}

/// What `bar.red` computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are called as PTX calls them")]
pub enum ReduceOp {
    Popc,
    And,
    Or,
}

/// A basic block.
#[derive(Clone, Debug)]
pub struct Block {
    /// First instruction.
    pub first: u32,
    /// One past the last instruction (the one of [`End::Converge`] excluded).
    pub last: u32,
    /// How it ends.
    pub end: End,
    /// Line of its end.
    pub line: u32,
}

/// A row that has to be filled before a warp starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preset {
    /// The same 32-bit value in each lane.
    Word(u32),
    /// The same 64-bit value in each lane.
    Double(u64),
    /// A special register that does not change while a warp runs.
    Special(Special),
}

/// A decoded kernel.
pub struct Code {
    /// Name of the kernel.
    pub name: String,
    /// Name of the module.
    pub file: String,
    /// Where its text comes from.
    pub sources: Arc<SourceLines>,
    /// Basic blocks; execution begins at the first.
    pub blocks: Vec<Block>,
    /// Instructions of all blocks.
    pub insns: Vec<Insn>,
    /// Operand lists of instructions with many operands.
    pub lists: Vec<u32>,
    /// Rows to be filled in.
    pub presets: Vec<(u32, Preset)>,
    /// Words of the register file of a warp.
    pub words: usize,
    /// Registers of a thread, in 32-bit units, as they were allocated.
    pub registers: usize,
    /// Bytes of local memory of a thread.
    pub local_bytes: usize,
    /// Bytes of static shared memory.
    pub shared_bytes: usize,
    /// Alignment of the dynamic shared memory, which follows the static.
    pub dynamic_align: usize,
    /// Bytes of the parameters.
    pub param_bytes: usize,
    /// The parameters: offset, bytes, alignment.
    pub params: Vec<(usize, usize, usize)>,
    /// `.maxntid` / `.reqntid` and whether it is exact.
    pub max_threads: Option<([u32; 3], bool)>,
    /// Smallest access to shared memory in bytes: the grain of the race check.
    pub shared_grain: usize,
}
