//! The shadow of a block's shared memory: what was written, and who touched it since the last
//! barrier.
//!
//! Two accesses to the same bytes race if they come from different threads, at least one of them
//! writes, not both are atomic, and nothing orders them. A barrier of the block orders all its
//! threads: it begins a new *epoch*. `bar.warp.sync` orders the lanes of a warp: it begins a new
//! epoch of the warp. For each *grain* of memory (as many bytes as the kernel's smallest access
//! has, at most 4) the shadow keeps the last write and a summary of the reads of the epoch, as in
//! the FastTrack algorithm (Flanagan and Freund, PLDI 2009).

use super::Grid;
use crate::error::Access;

/// State of a byte of shared memory: nobody has written it.
pub const UNWRITTEN: u8 = 0;
/// It holds a value.
pub const WRITTEN: u8 = 1;
/// An asynchronous copy is under way to it.
pub const PENDING: u8 = 2;

/// Who did something, when: one thread, or several.
#[derive(Clone, Copy, Default)]
struct Stamp {
    /// Epoch of the block; 0 is before all.
    epoch: u32,
    /// Epoch of the warp.
    warp_epoch: u32,
    thread: u16,
    line: u32,
    atomic: bool,
    /// Other threads of the warp did so too.
    others_in_warp: bool,
    /// Threads of other warps did so too.
    other_warps: bool,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    write: Stamp,
    read: Stamp,
}

/// Two accesses that nothing orders.
pub struct Race {
    /// How the earlier one was.
    pub access: Access,
    /// Its thread.
    pub thread: u16,
    /// Its line.
    pub line: u32,
}

/// Shadow of the shared memory of a block.
pub struct SharedShadow {
    /// One of [`UNWRITTEN`], [`WRITTEN`], [`PENDING`] for each byte, if that is checked.
    pub state: Vec<u8>,
    cells: Vec<Cell>,
    grain_log2: u32,
    epoch: u32,
    warp_epochs: Vec<u32>,
}

impl SharedShadow {
    /// For the blocks of a grid.
    pub fn new(grid: &Grid<'_>) -> SharedShadow {
        let grain = grid.code.shared_grain.clamp(1, 4);
        let cells = if grid.checks.races { grid.shared_bytes.div_ceil(grain) } else { 0 };
        let checks_state = grid.checks.uninitialised || grid.checks.races;
        SharedShadow {
            state: vec![0; if checks_state { grid.shared_bytes } else { 0 }],
            cells: vec![Cell::default(); cells],
            grain_log2: grain.trailing_zeros(),
            epoch: 0,
            warp_epochs: vec![0; grid.warps()],
        }
    }

    /// Forgets the block before.
    pub fn begin_block(&mut self) {
        self.state.fill(UNWRITTEN);
        self.next_epoch();
    }

    /// A barrier of the block. Epochs that wrap around after 2^32 barriers would only hide a race.
    pub fn next_epoch(&mut self) {
        self.epoch = self.epoch.wrapping_add(1).max(1);
    }

    /// `bar.warp.sync`
    pub fn next_warp_epoch(&mut self, warp: usize) {
        self.warp_epochs[warp] = self.warp_epochs[warp].wrapping_add(1);
    }

    /// Whether races are looked for.
    pub fn looks_for_races(&self) -> bool {
        !self.cells.is_empty()
    }

    /// Notes an access of a thread; `same_value` says that it wrote what was there already.
    pub fn touch(
        &mut self,
        access: Access,
        (address, bytes): (usize, usize),
        thread: u16,
        line: u32,
        same_value: bool,
    ) -> Option<Race> {
        let warp = thread as usize / 32;
        let now = Stamp {
            epoch: self.epoch,
            warp_epoch: self.warp_epochs[warp],
            thread,
            line,
            atomic: access == Access::Atomic,
            others_in_warp: false,
            other_warps: false,
        };
        let first = address >> self.grain_log2;
        let last = (address + bytes - 1) >> self.grain_log2;
        for cell in &mut self.cells[first..=last] {
            if let Some(race) = cell.touch(access, now, same_value) {
                return Some(race);
            }
        }
        None
    }
}

impl Stamp {
    /// Whether an access of `now` comes after this one by a barrier, or is by the same thread.
    fn is_before(&self, now: &Stamp) -> bool {
        if self.epoch != now.epoch {
            return true;
        }
        if self.other_warps || self.thread / 32 != now.thread / 32 {
            return false;
        }
        self.warp_epoch != now.warp_epoch || (self.thread == now.thread && !self.others_in_warp)
    }

    fn race(&self, access: Access) -> Option<Race> {
        Some(Race { access, thread: self.thread, line: self.line })
    }
}

impl Cell {
    #[inline]
    fn touch(&mut self, access: Access, now: Stamp, same_value: bool) -> Option<Race> {
        let both_atomic = access == Access::Atomic && self.write.atomic;
        if !self.write.is_before(&now) && !both_atomic {
            // Lanes of one store that write the same value to the same place do no harm.
            let harmless = same_value
                && self.write.line == now.line
                && self.write.thread / 32 == now.thread / 32;
            if !harmless {
                let how = if self.write.atomic { Access::Atomic } else { Access::Write };
                return self.write.race(how);
            }
        }
        if access == Access::Read {
            let before = self.read;
            self.read = now;
            if before.epoch == now.epoch {
                let same_warp = before.thread / 32 == now.thread / 32;
                self.read.other_warps = before.other_warps || !same_warp;
                self.read.others_in_warp = same_warp
                    && before.warp_epoch == now.warp_epoch
                    && (before.others_in_warp || before.thread != now.thread);
            }
            return None;
        }
        if !self.read.is_before(&now) {
            return self.read.race(Access::Read);
        }
        self.write = now;
        None
    }
}
