//! A thread block: its warps in turn, and the barriers at which they wait for each other.

use super::grid::Registers;
use super::warp::{Split, Wait, Warp, first_lanes};
use super::{Context, Grid};
use crate::code::{Barrier, End, LANES, ReduceOp};
use crate::error::Error;
use crate::lanes;

/// Barriers that a block has.
const BARRIERS: usize = 16;

#[derive(Clone, Default)]
struct State {
    /// Threads that are here.
    arrived: usize,
    /// Threads that it waits for.
    expected: usize,
    /// The block whose end the first of them waits at.
    block: u32,
    /// Threads whose predicate is true, for `bar.red`.
    count: usize,
}

/// The barriers of a block.
#[derive(Default)]
pub struct Barriers {
    states: Vec<State>,
    /// One that is complete and not yet opened.
    open: Option<u32>,
    threads: usize,
}

impl Barriers {
    /// Whether one is complete.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Lanes come to a barrier. Its number, or `None` after a fault.
    pub fn arrive(
        &mut self,
        ctx: &mut Context<'_>,
        barrier: &Barrier,
        now: &Split,
        line: u32,
    ) -> Option<u32> {
        let lane = now.mask.trailing_zeros() as usize;
        // SAFETY: decoded rows of 32-bit registers, a decoded word.
        let (id, asked, ayes) = unsafe {
            let id = lanes::row::<u32>(ctx, barrier.id)[lane];
            let asked = barrier.threads.map(|row| lanes::row::<u32>(ctx, row)[lane] as usize);
            let ayes = barrier.reduce.as_ref().map_or(0, |r| {
                let (word, negated) = r.word;
                let word = lanes::predicate(ctx, word);
                now.mask & if negated { !word } else { word }
            });
            (id, asked, ayes)
        };
        let fault = |ctx: &mut Context<'_>, message: String| {
            let place = ctx.place(line, lane);
            ctx.set_fault(Error::Barrier { place, message });
            None
        };
        if id as usize >= BARRIERS {
            return fault(ctx, format!("barrier {id}: there are 0 to 15"));
        }
        if let Some(n) = asked
            && (n == 0 || n % LANES != 0)
        {
            return fault(ctx, format!("{n} threads: barriers count in warps of 32"));
        }
        let expected = asked.unwrap_or(self.threads);
        let state = &mut self.states[id as usize];
        if state.arrived == 0 {
            *state = State { arrived: 0, expected, block: now.block, count: 0 };
        } else if state.expected != expected {
            let message =
                format!("barrier {id} waits for {} threads and {expected}", state.expected);
            return fault(ctx, message);
        } else if state.block != now.block && ctx.grid.checks.barriers && asked.is_none() {
            let other = ctx.grid.code.blocks[state.block as usize].line;
            let other = ctx.grid.code.sources.describe(other);
            let message = format!("other threads wait at another barrier, on {other}");
            return fault(ctx, message);
        }
        let state = &mut self.states[id as usize];
        state.arrived += now.mask.count_ones() as usize;
        state.count += ayes.count_ones() as usize;
        // Whole warps count, also where the last one has not all its lanes.
        if state.arrived >= state.expected.min(self.threads) {
            self.open = Some(id);
        }
        Some(id)
    }
}

/// The warps of the block that a worker runs; reused from block to block.
pub struct BlockRun {
    warps: Vec<Warp>,
    barriers: Barriers,
}

impl BlockRun {
    /// For blocks of a grid.
    pub fn new(grid: &Grid<'_>) -> BlockRun {
        BlockRun {
            warps: (0..grid.warps()).map(|_| Warp::default()).collect(),
            barriers: Barriers {
                states: vec![State::default(); BARRIERS],
                open: None,
                threads: grid.block_threads(),
            },
        }
    }

    /// Runs the block that the context names to its end, or to its first fault.
    pub fn run(&mut self, ctx: &mut Context<'_>, registers: &mut Registers) {
        let threads = ctx.grid.block_threads();
        for (i, warp) in self.warps.iter_mut().enumerate() {
            warp.start(first_lanes(threads - i * LANES));
        }
        self.barriers.states.fill(State::default());
        self.barriers.open = None;
        ctx.shadow.begin_block();
        for copies in &mut ctx.copies {
            copies.clear();
        }
        loop {
            let mut moved = false;
            for i in 0..self.warps.len() {
                while self.warps[i].is_ready() {
                    moved = true;
                    ctx.warp = i;
                    ctx.regs = registers.of(i);
                    self.warps[i].run(ctx, &mut self.barriers);
                    if ctx.fault.is_some() {
                        return;
                    }
                    match self.barriers.open.take() {
                        Some(id) => self.open(ctx, registers, id),
                        None => break,
                    }
                }
            }
            if self.warps.iter().all(|w| w.live == 0) {
                return;
            }
            if !moved {
                self.stuck(ctx, registers);
                if ctx.fault.is_some() {
                    return;
                }
            }
        }
    }

    /// Lets all go that wait at a barrier.
    fn open(&mut self, ctx: &mut Context<'_>, registers: &mut Registers, id: u32) {
        let state = std::mem::take(&mut self.barriers.states[id as usize]);
        ctx.shadow.next_epoch();
        for (i, warp) in self.warps.iter_mut().enumerate() {
            for split in warp.splits.iter_mut().filter(|s| s.wait == Wait::Barrier(id)) {
                if let End::Barrier(Barrier { reduce: Some(r), .. }) =
                    &ctx.grid.code.blocks[split.block as usize].end
                {
                    ctx.regs = registers.of(i);
                    let all = if state.count == state.arrived { u32::MAX } else { 0 };
                    let any = if state.count > 0 { u32::MAX } else { 0 };
                    // SAFETY: a decoded row of 32-bit registers, or a decoded word.
                    unsafe {
                        match r.op {
                            ReduceOp::Popc => {
                                let count = [state.count as u32; LANES];
                                lanes::set_row(ctx, r.to, split.mask, &count);
                            }
                            ReduceOp::And => lanes::set_predicate(ctx, r.to, split.mask, all),
                            ReduceOp::Or => lanes::set_predicate(ctx, r.to, split.mask, any),
                        }
                    }
                }
                split.wait = Wait::No;
                split.block += 1;
            }
        }
    }

    /// No lane can run: threads have exited that a barrier waits for, or the threads wait for each
    /// other.
    fn stuck(&mut self, ctx: &mut Context<'_>, registers: &mut Registers) {
        let live: usize = self.warps.iter().map(|w| w.live.count_ones() as usize).sum();
        let total = ctx.grid.block_threads();
        let complete = (0..BARRIERS).find(|&id| self.barriers.states[id].arrived == live);
        let exited = self.warps.iter().enumerate().find_map(|(i, w)| {
            let gone = first_lanes(total - i * LANES) & !w.live;
            (gone != 0).then(|| ctx.grid.thread((i * LANES) as u32 + gone.trailing_zeros()))
        });
        match (complete, exited) {
            (Some(id), Some(thread)) => {
                if !ctx.grid.checks.barriers {
                    // As the hardware has it: threads that have exited are not waited for.
                    return self.open(ctx, registers, id as u32);
                }
                let message = format!(
                    "{live} of {total} threads wait at barrier {id}; thread {thread:?} has exited"
                );
                self.blame(ctx, |place| Error::Barrier { place, message });
            }
            _ => {
                let mut lines: Vec<(u32, u32)> = Vec::new();
                for split in self.warps.iter().flat_map(Warp::waiting) {
                    let line = ctx.grid.code.blocks[split.block as usize].line;
                    match lines.iter_mut().find(|(l, _)| *l == line) {
                        Some((_, n)) => *n += split.mask.count_ones(),
                        None => lines.push((line, split.mask.count_ones())),
                    }
                }
                let who: Vec<String> = lines
                    .iter()
                    .map(|&(line, n)| {
                        format!("{n} threads on {}", ctx.grid.code.sources.describe(line))
                    })
                    .collect();
                let message = format!("no thread can go on; {} wait", who.join(", "));
                let barrier = self
                    .warps
                    .iter()
                    .flat_map(Warp::waiting)
                    .any(|s| matches!(s.wait, Wait::Barrier(_)));
                if barrier {
                    self.blame(ctx, |place| Error::Barrier { place, message });
                } else {
                    self.blame(ctx, |place| Error::Deadlock { place, message });
                }
            }
        }
    }

    /// Makes a fault of the first thread that waits.
    fn blame(&self, ctx: &mut Context<'_>, error: impl FnOnce(Box<crate::error::Place>) -> Error) {
        let waiting = self
            .warps
            .iter()
            .enumerate()
            .find_map(|(i, w)| w.waiting().next().map(|split| (i, *split)));
        let (warp, split) =
            waiting.unwrap_or((0, Split { block: 0, mask: 1, wait: Wait::No, stamp: 0 }));
        ctx.warp = warp;
        let line = ctx.grid.code.blocks[split.block as usize].line;
        let place = ctx.place(line, split.mask.trailing_zeros() as usize);
        ctx.set_fault(error(place));
    }
}
