//! Which virtual registers may share a row.
//!
//! PTX has as many registers as the compiler liked, thousands in an unrolled kernel; a row each
//! would fill the CPU's caches with values that nobody reads again. So: find where each register is
//! *live* (a later instruction may read it) by the usual backward flow over basic blocks, take the
//! interval from its first to its last live place, and give rows to intervals in order of their
//! beginning, each the first row that is free again (linear scan, Poletto and Sarkar 1999). An
//! instruction under a guard keeps what it does not write, so it does not end a live range.
//!
//! Rows are shared lane by lane: lanes that have diverged are at different places, but each lane
//! follows the graph for itself, and writes touch its own lanes only.

use super::Stretch;
use super::flatten::{Flat, Flattened};
use crate::ast::{Instruction, Operand};
use crate::code::{FIRST_PREDICATE, LANES};
use crate::types::Type;

/// Where registers are.
pub struct Rows {
    /// Of each register its row, or its word if it is a predicate.
    pub of: Vec<u32>,
    /// One past the last row.
    pub end: u32,
    /// Words that rows take.
    pub words: usize,
}

/// Successors of each stretch.
pub struct Graph {
    successors: Vec<Vec<u32>>,
}

impl Graph {
    /// Of a list of stretches.
    pub fn new(list: &[Stretch<'_>], of_label: &[u32]) -> Graph {
        let successors = list.iter().enumerate().map(|(i, stretch)| {
            let next = (i + 1 < list.len()).then_some(i as u32 + 1);
            let Some(f) = stretch.end else { return next.into_iter().collect() };
            let targets = f.targets.iter().map(|&l| of_label[l as usize]);
            let falls = f.insn.guard.is_some()
                || !matches!(f.insn.opcode.as_str(), "bra" | "brx" | "ret" | "exit" | "trap");
            targets.chain(next.filter(|_| falls)).collect()
        });
        Graph { successors: successors.collect() }
    }
}

/// Calls `see` with each register of an operand, and whether it is written.
fn visit(operand: &Operand, written: bool, see: &mut impl FnMut(usize, bool)) {
    match operand {
        Operand::Register(r) | Operand::Not(r) => see(*r, written),
        Operand::Vector(list) | Operand::List(list) => {
            list.iter().for_each(|o| visit(o, written, see));
        }
        Operand::Address(base, _) => visit(base, false, see),
        Operand::Pair(a, b) => {
            visit(a, written, see);
            visit(b, written, see);
        }
        _ => {}
    }
}

/// Whether the first operand is a source.
fn writes_nothing(insn: &Instruction) -> bool {
    match insn.opcode.as_str() {
        "st" | "red" | "bra" | "brx" | "ret" | "exit" | "trap" | "membar" | "fence"
        | "prefetch" | "nanosleep" | "cp" | "stmatrix" | "call" | "prefetchu" | "discard"
        | "applypriority" | "pmevent" | "brkpt" => true,
        "bar" | "barrier" => !insn.modifiers.iter().any(|m| m == "red"),
        _ => false,
    }
}

/// Calls `see` with each register that an instruction reads (false) or writes (true); reads first.
fn registers(insn: &Instruction, mut see: impl FnMut(usize, bool)) {
    if let Some((guard, _)) = insn.guard {
        see(guard, false);
    }
    let first = usize::from(!writes_nothing(insn));
    for operand in insn.operands.iter().skip(first) {
        visit(operand, false, &mut see);
    }
    for operand in insn.operands.iter().take(first) {
        visit(operand, true, &mut see);
    }
}

/// A set of registers.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn has(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 != 0
    }

    fn put(&mut self, i: usize, is_in: bool) {
        let bit = 1 << (i % 64);
        if is_in { self.0[i / 64] |= bit } else { self.0[i / 64] &= !bit }
    }
}

fn all<'a>(stretch: &'a Stretch<'a>) -> impl DoubleEndedIterator<Item = &'a Flat> {
    stretch.insns.iter().copied().chain(stretch.end)
}

/// Gives each register its row.
pub fn assign(flat: &Flattened, list: &[Stretch<'_>], graph: &Graph) -> Rows {
    let n = flat.types.len();
    let empty = Set(vec![0; n.div_ceil(64)]);
    // Of each stretch: what is read before it is written, and what is written for certain.
    let (mut needs, mut kills) = (Vec::new(), Vec::new());
    for stretch in list {
        let (mut need, mut kill) = (empty.clone(), empty.clone());
        for f in all(stretch).rev() {
            let certain = f.insn.guard.is_none();
            registers(&f.insn, |r, written| {
                if written && certain {
                    need.put(r, false);
                    kill.put(r, true);
                }
            });
            registers(&f.insn, |r, written| {
                if !written || !certain {
                    need.put(r, true);
                }
            });
        }
        needs.push(need);
        kills.push(kill);
    }
    let mut live_in = needs.clone();
    let mut changed = true;
    while changed {
        changed = false;
        for i in (0..list.len()).rev() {
            for &next in &graph.successors[i] {
                for w in 0..empty.0.len() {
                    let more = live_in[next as usize].0[w] & !kills[i].0[w];
                    changed |= more & !live_in[i].0[w] != 0;
                    live_in[i].0[w] |= more;
                }
            }
        }
    }
    intervals(flat, list, graph, &live_in)
}

fn intervals(flat: &Flattened, list: &[Stretch<'_>], graph: &Graph, live_in: &[Set]) -> Rows {
    let n = flat.types.len();
    let mut range: Vec<Option<(u32, u32)>> = vec![None; n];
    let mut extend = |r: usize, at: u32| {
        range[r] = Some(range[r].map_or((at, at), |(from, to)| (from.min(at), to.max(at))));
    };
    let mut at = 0;
    for (i, stretch) in list.iter().enumerate() {
        let begin = at;
        for f in all(stretch) {
            at += 1;
            registers(&f.insn, |r, _| extend(r, at));
        }
        at += 1;
        for r in 0..n {
            if live_in[i].has(r) {
                extend(r, begin);
            }
            if graph.successors[i].iter().any(|&s| live_in[s as usize].has(r)) {
                extend(r, at);
            }
        }
    }
    let mut order: Vec<(u32, u32, usize)> =
        range.iter().enumerate().filter_map(|(r, x)| x.map(|(from, to)| (from, to, r))).collect();
    order.sort_unstable();
    // Predicates, 32-bit rows and 64-bit rows each have their own supply.
    let mut of = vec![0u32; n];
    let mut used = [0u32; 3];
    let mut free: [Vec<u32>; 3] = Default::default();
    let mut active: Vec<(u32, usize, u32)> = Vec::new();
    let kind = |r: usize| match flat.types[r] {
        Type::Pred => 0,
        t if t.bytes() == 8 => 2,
        _ => 1,
    };
    for (from, to, r) in order {
        active.retain(|&(end, kind, slot)| {
            if end < from {
                free[kind].push(slot);
            }
            end >= from
        });
        let kind = kind(r);
        let slot = free[kind].pop().unwrap_or_else(|| {
            used[kind] += 1;
            used[kind] - 1
        });
        of[r] = slot;
        active.push((to, kind, slot));
    }
    let lanes = LANES as u32;
    // Rows begin at a multiple of 64 words, so that each lies in as few cache lines as possible.
    let first32 = (FIRST_PREDICATE + used[0]).next_multiple_of(2 * lanes);
    let first64 = (first32 + used[1] * lanes).next_multiple_of(2 * lanes);
    for r in 0..n {
        of[r] = match kind(r) {
            0 => FIRST_PREDICATE + of[r],
            1 => first32 + of[r] * lanes,
            _ => first64 + of[r] * 2 * lanes,
        };
    }
    let end = first64 + used[2] * 2 * lanes;
    // A register that is never named has no place; nothing can refer to it, but slot 0 must exist
    // all the same.
    Rows { of, end: end.max(first64 + 2 * lanes), words: (end - first32) as usize }
}
