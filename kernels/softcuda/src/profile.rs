//! Counters of a launch, in the terms of a profiler.
//!
//! Instructions are counted a basic block at a time: a block's executions times what stands in it.
//! Memory is counted where it is accessed: a *request* is one instruction of one warp; a request to
//! global memory touches *sectors* of 32 bytes, and one to shared memory takes as many *wavefronts*
//! as the most loaded of the 32 banks has different words.

use crate::code::{Class, End, Insn};
use crate::exec::Grid;

/// Requests of one kind to memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Instructions of warps.
    pub requests: u64,
    /// Bytes that the lanes asked for.
    pub bytes: u64,
    /// Global memory: sectors of 32 bytes; shared memory: wavefronts.
    pub units: u64,
    /// Units that would have been enough for these bytes.
    pub ideal: u64,
}

impl Traffic {
    fn add(&mut self, other: &Traffic) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.units += other.units;
        self.ideal += other.ideal;
    }

    /// Sectors, or wavefronts, a request.
    pub fn units_a_request(&self) -> f64 {
        self.units as f64 / self.requests.max(1) as f64
    }

    /// Wavefronts of shared memory beyond the ideal: bank conflicts.
    pub fn conflicts(&self) -> u64 {
        self.units.saturating_sub(self.ideal)
    }
}

/// Executions of one kind of instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// By warps.
    pub warps: u64,
    /// By lanes.
    pub lanes: u64,
}

/// What a launch did. Empty unless the device counts (`Options::count`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Executions by kind; kinds that do not occur are left out.
    pub instructions: Vec<(Class, Executed)>,
    /// Floating-point operations of all lanes; a fused multiply-add has two, `mma` those of its
    /// whole tile.
    pub flops: u64,
    /// Loads of global memory, asynchronous copies too.
    pub global_load: Traffic,
    /// Stores to global memory.
    pub global_store: Traffic,
    /// Atomics on global memory.
    pub global_atomic: Traffic,
    /// Loads of shared memory.
    pub shared_load: Traffic,
    /// Stores to shared memory.
    pub shared_store: Traffic,
    /// Branches that lanes could have disagreed on.
    pub branches: u64,
    /// Those that they did disagree on.
    pub divergent_branches: u64,
    /// Threads of the launch.
    pub threads: u64,
    /// Blocks of the launch.
    pub blocks: u64,
}

impl Profile {
    /// Executions of all kinds.
    pub fn total(&self) -> Executed {
        self.instructions.iter().fold(Executed::default(), |sum, (_, e)| Executed {
            warps: sum.warps + e.warps,
            lanes: sum.lanes + e.lanes,
        })
    }

    /// Bytes moved between the device's memory and its cores: whole sectors, as no cache would.
    pub fn global_bytes(&self) -> u64 {
        32 * (self.global_load.units + self.global_store.units + self.global_atomic.units)
    }

    /// Floating-point operations a byte of global memory.
    pub fn arithmetic_intensity(&self) -> f64 {
        self.flops as f64 / self.global_bytes().max(1) as f64
    }

    /// Share of the lanes that worked, of those that the executed instructions of warps had.
    pub fn lane_utilisation(&self) -> f64 {
        let total = self.total();
        total.lanes as f64 / (32 * total.warps).max(1) as f64
    }
}

/// Where traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of Profile")]
pub enum Way {
    GlobalLoad,
    GlobalStore,
    GlobalAtomic,
    SharedLoad,
    SharedStore,
}

/// The counters of a worker.
pub struct Counters {
    /// Of each basic block: entries, lanes that entered.
    blocks: Vec<(u64, u64)>,
    /// Of each kind: executions to be added to what the blocks say (lanes held back by guards are
    /// negative).
    executed: [(i64, i64); Class::EVERY.len()],
    flops: i64,
    traffic: [Traffic; 5],
    branches: u64,
    divergent: u64,
}

impl Counters {
    /// All zero.
    pub fn new(grid: &Grid<'_>) -> Counters {
        let blocks = if grid.count { grid.code.blocks.len() } else { 0 };
        Counters {
            blocks: vec![(0, 0); blocks],
            executed: [(0, 0); Class::EVERY.len()],
            flops: 0,
            traffic: [Traffic::default(); 5],
            branches: 0,
            divergent: 0,
        }
    }

    /// A basic block is entered.
    #[inline]
    pub fn enter(&mut self, block: u32, mask: u32) {
        let (entries, lanes) = &mut self.blocks[block as usize];
        *entries += 1;
        *lanes += u64::from(mask.count_ones());
    }

    /// A guard held lanes back.
    pub fn held_back(&mut self, insn: &Insn, mask: u32) {
        let lanes = i64::from(mask.count_ones());
        self.executed[insn.class as usize].1 -= lanes;
        self.flops -= lanes * i64::from(insn.flops);
    }

    /// The last instruction of a block, which is not counted with it.
    pub fn converged(&mut self, insn: &Insn, mask: u32) {
        let lanes = i64::from(mask.count_ones());
        let executed = &mut self.executed[insn.class as usize];
        *executed = (executed.0 + 1, executed.1 + lanes);
        self.flops += lanes * i64::from(insn.flops);
    }

    /// A branch with a condition.
    pub fn branch(&mut self, diverges: bool) {
        self.branches += 1;
        self.divergent += u64::from(diverges);
    }

    /// A request to memory.
    pub fn request(&mut self, way: Way, bytes: u64, units: u64, ideal: u64) {
        self.traffic[way as usize].add(&Traffic { requests: 1, bytes, units, ideal });
    }

    /// Sums two workers'.
    pub fn add(&mut self, other: &Counters) {
        for (a, b) in self.blocks.iter_mut().zip(&other.blocks) {
            *a = (a.0 + b.0, a.1 + b.1);
        }
        for (a, b) in self.executed.iter_mut().zip(&other.executed) {
            *a = (a.0 + b.0, a.1 + b.1);
        }
        for (a, b) in self.traffic.iter_mut().zip(&other.traffic) {
            a.add(b);
        }
        self.flops += other.flops;
        self.branches += other.branches;
        self.divergent += other.divergent;
    }

    /// The profile of a launch.
    pub fn profile(&self, grid: &Grid<'_>) -> Profile {
        let code = grid.code;
        let (mut executed, mut flops) = (self.executed, self.flops);
        for (block, &(entries, lanes)) in code.blocks.iter().zip(&self.blocks) {
            let (entries, lanes) = (entries as i64, lanes as i64);
            let mut count = |class: Class| {
                let e = &mut executed[class as usize];
                *e = (e.0 + entries, e.1 + lanes);
            };
            for insn in &code.insns[block.first as usize..block.last as usize] {
                count(insn.class);
                flops += lanes * i64::from(insn.flops);
            }
            match &block.end {
                End::Next | End::Converge { .. } => {}
                End::Barrier(_) => count(Class::Barrier),
                _ => count(Class::Branch),
            }
        }
        let instructions = Class::EVERY.iter().filter_map(|&class| {
            let (warps, lanes) = executed[class as usize];
            (warps > 0).then_some((class, Executed { warps: warps as u64, lanes: lanes as u64 }))
        });
        let blocks: u64 = grid.blocks.iter().map(|&n| u64::from(n)).product();
        Profile {
            instructions: instructions.collect(),
            flops: flops as u64,
            global_load: self.traffic[Way::GlobalLoad as usize],
            global_store: self.traffic[Way::GlobalStore as usize],
            global_atomic: self.traffic[Way::GlobalAtomic as usize],
            shared_load: self.traffic[Way::SharedLoad as usize],
            shared_store: self.traffic[Way::SharedStore as usize],
            branches: self.branches,
            divergent_branches: self.divergent,
            threads: blocks * grid.block_threads() as u64,
            blocks,
        }
    }
}
