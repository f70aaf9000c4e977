//! A launch: its shape, and the workers that take its blocks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::block::BlockRun;
use super::race::SharedShadow;
use super::{Context, transfer::Copies};
use crate::Checks;
use crate::ast::Special;
use crate::code::{Code, LANES, Preset};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::profile::Counters;

/// What all blocks of a launch share.
pub struct Grid<'g> {
    /// The kernel.
    pub code: &'g Code,
    /// Device memory.
    pub memory: &'g Memory,
    /// What is checked.
    pub checks: Checks,
    /// Whether is counted.
    pub count: bool,
    /// Blocks along each axis.
    pub blocks: [u32; 3],
    /// Threads of a block along each axis.
    pub threads: [u32; 3],
    /// Bytes of static and dynamic shared memory.
    pub shared_bytes: usize,
    /// Bytes of dynamic shared memory.
    pub dynamic_bytes: usize,
    /// The parameters, in units that align them.
    pub params: Vec<u64>,
}

impl Grid<'_> {
    /// Threads of a block.
    pub fn block_threads(&self) -> usize {
        self.threads.iter().map(|&n| n as usize).product()
    }

    /// Warps of a block.
    pub fn warps(&self) -> usize {
        self.block_threads().div_ceil(LANES)
    }

    /// Index in the block of its n-th thread.
    pub fn thread(&self, n: u32) -> [u32; 3] {
        let [x, y, _] = self.threads;
        [n % x, n / x % y, n / x / y]
    }

    fn block(&self, n: u64) -> [u32; 3] {
        let [x, y, _] = self.blocks.map(u64::from);
        [(n % x) as u32, (n / x % y) as u32, (n / x / y) as u32]
    }
}

/// A cache line of a register file.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u32; 16]);

/// The registers of all warps of a block.
pub struct Registers {
    lines: Vec<Line>,
    lines_a_warp: usize,
}

impl Registers {
    fn new(code: &Code, warps: usize) -> Registers {
        // An odd number of cache lines, so that the rows of different warps do not fall into the
        // same cache sets.
        let lines_a_warp = code.words.div_ceil(16) | 1;
        Registers { lines: vec![Line([0; 16]); lines_a_warp * warps], lines_a_warp }
    }

    /// The register file of a warp: valid as long as `self` is, and 64-byte aligned.
    pub fn of(&mut self, warp: usize) -> *mut u32 {
        self.lines[warp * self.lines_a_warp..][..self.lines_a_warp].as_mut_ptr().cast()
    }

    /// Fills the presets that stay for a whole launch, or those that change with the block.
    fn preset(&mut self, grid: &Grid<'_>, warps: usize, block: Option<[u32; 3]>) {
        for warp in 0..warps {
            let file = &mut self.lines[warp * self.lines_a_warp..][..self.lines_a_warp];
            let mut set = |offset: usize, wide: bool, lane: usize, value: u64| {
                let word = if wide { offset + 2 * lane } else { offset + lane };
                file[word / 16].0[word % 16] = value as u32;
                if wide {
                    file[(word + 1) / 16].0[(word + 1) % 16] = (value >> 32) as u32;
                }
            };
            if block.is_none() {
                set(crate::code::TRUE as usize, false, 0, u64::from(u32::MAX));
            }
            for &(offset, preset) in &grid.code.presets {
                let changes = matches!(preset, Preset::Special(Special::Ctaid(_) | Special::Smid));
                if changes != block.is_some() {
                    continue;
                }
                for lane in 0..LANES {
                    let (wide, value) = match preset {
                        Preset::Word(v) => (false, u64::from(v)),
                        Preset::Double(v) => (true, v),
                        Preset::Special(s) => {
                            (s.bytes() == 8, special(grid, s, warp, lane, block.unwrap_or([0; 3])))
                        }
                    };
                    set(offset as usize, wide, lane, value);
                }
            }
        }
    }
}

fn special(grid: &Grid<'_>, special: Special, warp: usize, lane: usize, block: [u32; 3]) -> u64 {
    let thread = grid.thread((warp * LANES + lane) as u32);
    let below = (1u64 << lane) - 1;
    let all = u64::from(u32::MAX);
    match special {
        Special::Tid(axis) => thread[axis].into(),
        Special::Ntid(axis) => grid.threads[axis].into(),
        Special::Ctaid(axis) => block[axis].into(),
        Special::Nctaid(axis) => grid.blocks[axis].into(),
        Special::Laneid => lane as u64,
        Special::Warpid => warp as u64,
        Special::Nwarpid => 32,
        Special::Smid => (block[0] % 108).into(),
        Special::Nsmid => 108,
        Special::Gridid => 1,
        Special::LanemaskEq => 1 << lane,
        Special::LanemaskLt => below,
        Special::LanemaskLe => below | 1 << lane,
        Special::LanemaskGt => all & !(below | 1 << lane),
        Special::LanemaskGe => all & !below,
        Special::DynamicSmemSize => grid.dynamic_bytes as u64,
        Special::TotalSmemSize => grid.shared_bytes as u64,
        // Read when they are needed.
        Special::Clock | Special::Clock64 | Special::Globaltimer => 0,
    }
}

/// What the workers share.
struct Progress {
    next: AtomicU64,
    stop: AtomicBool,
    /// Number of the block with the first fault, and the fault.
    fault: Mutex<Option<(u64, Box<Error>)>>,
    counters: Mutex<Counters>,
}

/// Runs all blocks, on `workers` threads at most. Of several faults the one of the lowest block is
/// returned.
pub fn run(grid: &Grid<'_>, workers: usize) -> Result<Counters> {
    let total: u64 = grid.blocks.iter().map(|&n| u64::from(n)).product();
    let progress = Progress {
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        fault: Mutex::new(None),
        counters: Mutex::new(Counters::new(grid)),
    };
    let workers = (workers.max(1) as u64).min(total);
    if workers == 1 {
        work(grid, total, &progress);
    } else {
        rayon::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|_| work(grid, total, &progress));
            }
        });
    }
    match progress.fault.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some((_, error)) => Err(*error),
        None => Ok(progress.counters.into_inner().unwrap_or_else(|e| e.into_inner())),
    }
}

fn work(grid: &Grid<'_>, total: u64, progress: &Progress) {
    let warps = grid.warps();
    let mut registers = Registers::new(grid.code, warps);
    registers.preset(grid, warps, None);
    let local_units = (grid.code.local_bytes * LANES * warps).div_ceil(16);
    let mut ctx = Context {
        regs: registers.of(0),
        grid,
        warp: 0,
        live: 0,
        block: [0; 3],
        shared: vec![0; grid.shared_bytes.div_ceil(16)].into(),
        shared_bytes: grid.shared_bytes,
        shadow: SharedShadow::new(grid),
        local: vec![0; local_units].into(),
        copies: (0..warps).map(|_| Copies::default()).collect(),
        fault: None,
        counters: Counters::new(grid),
    };
    let mut block_run = BlockRun::new(grid);
    // Several blocks at once, where there are plenty: the counter is shared.
    let batch = (total / 256).clamp(1, 16);
    while !progress.stop.load(Relaxed) {
        let first = progress.next.fetch_add(batch, Relaxed);
        if first >= total {
            break;
        }
        for n in first..(first + batch).min(total) {
            ctx.block = grid.block(n);
            registers.preset(grid, warps, Some(ctx.block));
            block_run.run(&mut ctx, &mut registers);
            if let Some(error) = ctx.fault.take() {
                progress.stop.store(true, Relaxed);
                let mut fault = progress.fault.lock().unwrap_or_else(|e| e.into_inner());
                if fault.as_ref().is_none_or(|&(other, _)| n < other) {
                    *fault = Some((n, error));
                }
                return;
            }
        }
    }
    if grid.count {
        progress.counters.lock().unwrap_or_else(|e| e.into_inner()).add(&ctx.counters);
    }
}
