//! A warp: 32 lanes that run together as far as they agree.
//!
//! The lanes of a warp are held as *splits*: sets of lanes that are at the same basic block. A
//! branch on which lanes disagree makes two splits of one. The split at the lowest block runs
//! first, and splits that meet at a block become one again; since compilers lay blocks out in the
//! order of the program, that is where the branch's arms join. Nothing depends on it but speed: any
//! split may run at any time, as the independent thread scheduling of Volta has it. So that a lane
//! that waits for another one (a lock) cannot starve it, a split that has run for long gives way to
//! the one that has waited longest.

use super::Context;
use super::block::Barriers;
use crate::code::{ALL, End, LANES};
use crate::error::Error;
use crate::lanes;

/// Why a split does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It can run.
    No,
    /// For these lanes to come to the same instruction.
    Lanes(u32),
    /// At a barrier of the thread block, by its number.
    Barrier(u32),
}

/// Lanes at the same basic block.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// The block to be run next; while it waits, the one whose end it waits at.
    pub block: u32,
    /// The lanes.
    pub mask: u32,
    /// Whether it can run.
    pub wait: Wait,
    /// When it last ran.
    pub stamp: u64,
}

/// All lanes of a warp.
#[derive(Default)]
pub struct Warp {
    /// Disjoint sets of lanes.
    pub splits: Vec<Split>,
    /// Lanes that have not exited.
    pub live: u32,
    clock: u64,
    /// A lane whose split runs for now, though it is not at the lowest block; and for how many more
    /// blocks.
    favourite: Option<(u32, u32)>,
}

/// Basic blocks that a warp runs before another warp gets its turn.
const QUANTUM: u32 = 1 << 14;
/// Basic blocks that a split runs before one gets its turn that has waited longer.
const PATIENCE: u64 = 512;

/// What a guard lets through.
#[inline(always)]
unsafe fn guarded(ctx: &Context<'_>, guard: u32, mask: u32) -> u32 {
    if guard == 0 {
        return mask;
    }
    // SAFETY: a decoded word.
    let word = unsafe { lanes::predicate(ctx, guard >> 1) };
    mask & if guard & 1 != 0 { !word } else { word }
}

/// Whether the lanes of a split agree on an `.aligned` instruction: all take part, or none. If not,
/// and barriers are checked, that is a fault: the ISA leaves undefined what happens.
fn agree(ctx: &mut Context<'_>, line: u32, taken: u32, mask: u32) -> bool {
    if taken == mask || taken == 0 || !ctx.grid.checks.barriers {
        return true;
    }
    let place = ctx.place(line, taken.trailing_zeros() as usize);
    let message = format!(
        "lanes {taken:#010x} of {mask:#010x} execute it, but it is .aligned: all lanes of a warp \
         must, or none"
    );
    ctx.set_fault(Error::Barrier { place, message });
    false
}

impl Warp {
    /// At the first block, with the lanes of a mask.
    pub fn start(&mut self, mask: u32) {
        self.splits.clear();
        self.splits.push(Split { block: 0, mask, wait: Wait::No, stamp: 0 });
        self.live = mask;
        self.clock = 0;
        self.favourite = None;
    }

    fn can_run(&self, split: &Split) -> bool {
        match split.wait {
            Wait::No => true,
            Wait::Lanes(needed) => needed & self.live & !split.mask == 0,
            Wait::Barrier(_) => false,
        }
    }

    /// Whether any lane can run.
    pub fn is_ready(&self) -> bool {
        self.splits.iter().any(|s| self.can_run(s))
    }

    /// Joins splits that are at the same place.
    fn join(&mut self) {
        let mut i = 0;
        while i < self.splits.len() {
            let mut j = i + 1;
            while j < self.splits.len() {
                let (a, b) = (self.splits[i], self.splits[j]);
                let wait = match (a.wait, b.wait) {
                    (Wait::No, Wait::No) => Some(Wait::No),
                    (Wait::Lanes(x), Wait::Lanes(y)) => Some(Wait::Lanes(x | y)),
                    _ => None,
                };
                if let (Some(wait), true) = (wait, a.block == b.block) {
                    let stamp = a.stamp.max(b.stamp);
                    self.splits[i] = Split { block: a.block, mask: a.mask | b.mask, wait, stamp };
                    self.splits.swap_remove(j);
                } else {
                    j += 1;
                }
            }
            i += 1;
        }
    }

    /// Takes out the split that is to run.
    fn pick(&mut self) -> Option<Split> {
        if self.splits.len() > 1 {
            self.join();
        }
        self.clock += 1;
        let ready = |w: &Warp, i: &usize| w.can_run(&w.splits[*i]);
        let all = 0..self.splits.len();
        if let Some((lane, left)) = self.favourite {
            self.favourite = (left > 0).then_some((lane, left.saturating_sub(1)));
            let its = all.clone().find(|&i| self.splits[i].mask >> lane & 1 != 0);
            if let Some(i) = its.filter(|i| ready(self, i)) {
                return Some(self.take(i));
            }
            self.favourite = None;
        }
        let lowest =
            all.clone().filter(|i| ready(self, i)).min_by_key(|&i| self.splits[i].block)?;
        if self.splits.len() > 1 && self.clock.is_multiple_of(PATIENCE) {
            let oldest = all
                .filter(|i| ready(self, i))
                .min_by_key(|&i| self.splits[i].stamp)
                .unwrap_or(lowest);
            self.favourite = Some((self.splits[oldest].mask.trailing_zeros(), PATIENCE as u32 / 2));
            return Some(self.take(oldest));
        }
        Some(self.take(lowest))
    }

    fn take(&mut self, i: usize) -> Split {
        let mut split = self.splits.swap_remove(i);
        split.stamp = self.clock;
        split
    }

    /// Runs until no lane can go on, or another warp should have its turn. A barrier that is
    /// complete is left in `barriers` for the block to open.
    pub fn run(&mut self, ctx: &mut Context<'_>, barriers: &mut Barriers) {
        let grid = ctx.grid;
        let code = grid.code;
        let mut budget = QUANTUM;
        while let Some(mut now) = self.pick() {
            loop {
                ctx.live = self.live;
                let block = &code.blocks[now.block as usize];
                if !matches!(now.wait, Wait::Lanes(_)) {
                    if grid.count {
                        ctx.counters.enter(now.block, now.mask);
                    }
                    for insn in &code.insns[block.first as usize..block.last as usize] {
                        let mut mask = now.mask;
                        if insn.guard != 0 {
                            // SAFETY: decoded for this code.
                            mask = unsafe { guarded(ctx, insn.guard, mask) };
                            if mask != now.mask && grid.count {
                                ctx.counters.held_back(insn, now.mask & !mask);
                            }
                            if mask == 0 {
                                continue;
                            }
                        }
                        // SAFETY: the instruction was decoded for this code, on this machine.
                        unsafe { (insn.run)(ctx, insn, mask) };
                    }
                }
                self.end(ctx, barriers, &mut now);
                if ctx.fault.is_some() {
                    return;
                }
                budget -= 1;
                if now.mask == 0 {
                    break;
                }
                // An open barrier must be opened before anybody comes to it again.
                if budget == 0 || barriers.is_open() {
                    self.splits.push(now);
                    return;
                }
                if !self.splits.is_empty() {
                    self.splits.push(now);
                    break;
                }
            }
            if budget == 0 || barriers.is_open() {
                return;
            }
        }
    }

    /// Lanes that the guard holds back go on to the next block, as a split of their own.
    fn set_aside(&mut self, now: &mut Split, taken: u32) {
        let rest = now.mask & !taken;
        if rest != 0 && taken != 0 {
            self.splits.push(Split { block: now.block + 1, mask: rest, wait: Wait::No, ..*now });
        }
        now.mask = taken;
    }

    /// The end of a block: where its lanes go. `now.mask` is 0 afterwards if none of them is left
    /// in `now`.
    #[inline(always)]
    fn end(&mut self, ctx: &mut Context<'_>, barriers: &mut Barriers, now: &mut Split) {
        let code = ctx.grid.code;
        let block = &code.blocks[now.block as usize];
        match &block.end {
            End::Next => now.block += 1,
            End::Jump(target) => now.block = *target,
            End::Branch { word, negated, target } => {
                // SAFETY: a decoded word.
                let word = unsafe { lanes::predicate(ctx, *word) };
                let taken = now.mask & if *negated { !word } else { word };
                let diverges = taken != 0 && taken != now.mask;
                if ctx.grid.count {
                    ctx.counters.branch(diverges);
                }
                if diverges {
                    let (block, mask) = (now.block + 1, now.mask & !taken);
                    self.splits.push(Split { block, mask, ..*now });
                    now.mask = taken;
                }
                now.block = if taken != 0 { *target } else { now.block + 1 };
            }
            End::Index { row, guard, targets } => self.index(ctx, now, *row, *guard, targets),
            End::Exit { guard } => {
                // SAFETY: a decoded word.
                let leaving = unsafe { guarded(ctx, *guard, now.mask) };
                self.live &= !leaving;
                now.mask &= !leaving;
                now.block += 1;
            }
            End::Trap { guard } => {
                // SAFETY: a decoded word.
                let trapped = unsafe { guarded(ctx, *guard, now.mask) };
                if trapped != 0 {
                    let place = ctx.place(block.line, trapped.trailing_zeros() as usize);
                    ctx.set_fault(Error::Fault { place, message: "trap".into() });
                }
                now.block += 1;
            }
            End::Converge { members, guard, aligned } => {
                // SAFETY: a decoded word.
                let taken = unsafe { guarded(ctx, *guard, now.mask) };
                if *aligned && !agree(ctx, block.line, taken, now.mask) {
                    return;
                }
                self.converge(ctx, now, *members, taken);
            }
            End::Barrier(barrier) => {
                // SAFETY: a decoded word.
                let arriving = unsafe { guarded(ctx, barrier.guard, now.mask) };
                if arriving == 0 {
                    now.block += 1;
                    return;
                }
                if barrier.aligned && !agree(ctx, block.line, arriving, now.mask) {
                    return;
                }
                self.set_aside(now, arriving);
                if let Some(id) = barriers.arrive(ctx, barrier, now, block.line)
                    && barrier.waits
                {
                    self.splits.push(Split { wait: Wait::Barrier(id), ..*now });
                    now.mask = 0;
                } else {
                    now.block += 1;
                }
            }
        }
    }

    fn index(
        &mut self,
        ctx: &mut Context<'_>,
        now: &mut Split,
        row: u32,
        guard: u32,
        targets: &[u32],
    ) {
        // SAFETY: a decoded word and a decoded row of 32-bit registers.
        let (taken, values) =
            unsafe { (guarded(ctx, guard, now.mask), lanes::row::<u32>(ctx, row)) };
        if taken == 0 {
            now.block += 1;
            return;
        }
        self.set_aside(now, taken);
        let mut left = taken;
        let mut ways = 0;
        while left != 0 {
            let value = values[left.trailing_zeros() as usize];
            let same = (0..LANES).filter(|&i| values[i] == value).fold(0, |m, i| m | 1 << i) & left;
            left &= !same;
            let Some(&block) = targets.get(value as usize) else {
                let line = ctx.grid.code.blocks[now.block as usize].line;
                let place = ctx.place(line, same.trailing_zeros() as usize);
                let message = format!("brx.idx {value} of {} targets", targets.len());
                return ctx.set_fault(Error::Fault { place, message });
            };
            self.splits.push(Split { block, mask: same, ..*now });
            ways += 1;
        }
        if ctx.grid.count {
            ctx.counters.branch(ways > 1);
        }
        now.mask = 0;
    }

    /// Executes the instruction behind the block for the lanes `taken` of the split, when all lanes
    /// that it names are here.
    fn converge(&mut self, ctx: &mut Context<'_>, now: &mut Split, members: u32, taken: u32) {
        let code = ctx.grid.code;
        let block = &code.blocks[now.block as usize];
        let insn = &code.insns[block.last as usize];
        if taken == 0 {
            now.wait = Wait::No;
            now.block += 1;
            return;
        }
        self.set_aside(now, taken);
        // SAFETY: a decoded row of 32-bit registers.
        let masks = unsafe { lanes::row::<u32>(ctx, members) };
        let mut needed = 0;
        for (lane, &mask) in masks.iter().enumerate() {
            if taken >> lane & 1 != 0 {
                needed |= mask;
                if mask >> lane & 1 == 0 {
                    let message = format!("lane {lane} is not in its own member mask {mask:#010x}");
                    return ctx.fail(insn, 1 << lane, message);
                }
            }
        }
        if needed & self.live & !taken != 0 {
            self.splits.push(Split { wait: Wait::Lanes(needed), ..*now });
            now.mask = 0;
            return;
        }
        if ctx.grid.count {
            ctx.counters.converged(insn, now.mask);
        }
        // SAFETY: as in `run`.
        unsafe { (insn.run)(ctx, insn, now.mask) };
        now.wait = Wait::No;
        now.block += 1;
    }

    /// Lines at which lanes wait for other lanes or a barrier, for messages.
    pub fn waiting(&self) -> impl Iterator<Item = &Split> {
        self.splits.iter().filter(|s| s.wait != Wait::No)
    }
}

/// The mask of the first `n` lanes.
pub fn first_lanes(n: usize) -> u32 {
    if n >= LANES { ALL } else { (1 << n) - 1 }
}
