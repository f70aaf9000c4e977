//! Runs a decoded kernel: grids, blocks, warps.
//!
//! - [`grid`]: the blocks of a grid, taken in order by as many workers as there are threads;
//! - [`block`]: the warps of a block in turn, its barriers;
//! - [`warp`]: the lanes of a warp, their branches and where they meet again;
//! - [`access`]: addresses to host pointers, with every check of memory; [`transfer`]: loads and
//!   stores on top of it;
//! - [`race`]: who touched which word of shared memory since the last barrier.
//!
//! A block never leaves its worker, so that shared and local memory are plain memory of one thread.
//! Global memory is shared by all workers and touched by relaxed atomics only: kernels may race on
//! it as they may on a GPU.

pub mod access;
pub mod atomic;
pub mod block;
pub mod collective;
pub mod grid;
pub mod matrix;
pub mod race;
pub mod transfer;
pub mod warp;

pub use grid::{Grid, run};

use crate::code::{Insn, LANES};
use crate::error::{Error, Place};
use crate::profile::Counters;
use race::SharedShadow;

/// Generic address of the first byte of shared memory.
pub const SHARED_BASE: u64 = 1 << 48;
/// Generic address of the first byte of a thread's local memory.
pub const LOCAL_BASE: u64 = (1 << 48) + (1 << 44);
/// Generic address of the first byte of the kernel's parameters.
pub const PARAM_BASE: u64 = (1 << 48) + (2 << 44);
/// Bytes of each of these windows.
pub const WINDOW: u64 = 1 << 32;

/// What a worker holds while it runs a block: all that a handler can reach.
pub struct Context<'g> {
    /// The register file of the running warp.
    pub regs: *mut u32,
    /// The launch.
    pub grid: &'g Grid<'g>,
    /// Number of the running warp in its block.
    pub warp: usize,
    /// Lanes of the running warp that have not exited.
    pub live: u32,
    /// Index of the block.
    pub block: [u32; 3],
    /// Shared memory of the block, in units that align it.
    pub shared: Box<[u128]>,
    /// Its size in bytes.
    pub shared_bytes: usize,
    /// Shadow of the shared memory.
    pub shadow: SharedShadow,
    /// Local memory: of each warp, of each lane.
    pub local: Box<[u128]>,
    /// Asynchronous copies that were begun: one queue a warp.
    pub copies: Vec<crate::exec::transfer::Copies>,
    /// The first fault of the block; the warp stops at the end of its basic block.
    pub fault: Option<Box<Error>>,
    /// What was counted.
    pub counters: Counters,
}

impl Context<'_> {
    /// The index of a lane of the running warp in its block.
    pub fn thread(&self, lane: usize) -> [u32; 3] {
        self.grid.thread((self.warp * LANES + lane) as u32)
    }

    /// Where a lane of the running warp is.
    pub fn place(&self, line: u32, lane: usize) -> Box<Place> {
        Box::new(Place {
            kernel: self.grid.code.name.clone(),
            file: self.grid.code.file.clone(),
            line,
            source: self.grid.code.sources.find(line),
            block: self.block,
            thread: self.thread(lane),
        })
    }

    /// Keeps a fault, if it is the first.
    #[cold]
    pub fn set_fault(&mut self, error: Error) {
        if self.fault.is_none() {
            self.fault = Some(Box::new(error));
        }
    }

    /// A fault that is nothing but a message.
    #[cold]
    pub fn fail(&mut self, insn: &Insn, mask: u32, message: impl Into<String>) {
        let lane = mask.trailing_zeros().min(31) as usize;
        let place = self.place(insn.line, lane);
        self.set_fault(Error::Fault { place, message: message.into() });
    }
}
