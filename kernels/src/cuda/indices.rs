//! Labels and indices are data on the device. A kernel that meets one outside its range leaves it out and
//! notes it; the host learns of it when it next waits for the device, without a wait of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::modules::{Grid, MEMORY, Modules, Params};
use super::pool::Pool;
use crate::{Error, Result};

/// Kinds of checks (an op with its bound) that can wait for an answer at once.
const SLOTS: usize = 256;

/// Of all their words.
const BYTES: usize = SLOTS * size_of::<u64>();

const OP: &str = "indices";

/// What a kernel leaves where it found nothing.
const NONE: u64 = u64::MAX;

/// What kernels may have noted. Words and slots stay for good, because recorded graphs go on using them.
#[derive(Default)]
struct Pending {
    /// Address of one 64-bit word a slot, a global of memory.cu: the position of the first bad index in its upper
    /// half, the index in its lower. Kernels keep the smallest with an integer `atomicMin` (`note_bad_index`
    /// in kernels/cuda/args.cuh), so that the report does not depend on the order of the threads.
    words: Option<u64>,
    /// The slot of each op and bound.
    slots: HashMap<(&'static str, usize), usize>,
}

/// The checks of one backend.
pub struct Indices {
    pending: Mutex<Pending>,
    modules: Arc<Modules>,
    pool: Arc<Pool>,
}

/// A word for a kernel to note a bad index in. Until this is dropped, when the kernel has been handed over, no
/// other thread can look at the words.
pub struct Watch<'a> {
    /// Its address, a parameter of the kernel.
    pub address: u64,
    _pending: MutexGuard<'a, Pending>,
}

impl Indices {
    /// Nothing is loaded before it is needed.
    pub fn new(modules: Arc<Modules>, pool: Arc<Pool>) -> Indices {
        Indices { pending: Mutex::default(), modules, pool }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // A panic while the lock is held leaves at worst a slot that nobody writes.
        self.pending.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// For a kernel of `op` that is about to be launched and takes indices in `0..bound`.
    pub fn watch(&self, op: &'static str, bound: usize) -> Result<Watch<'_>> {
        let mut pending = self.pending();
        if pending.slots.len() == SLOTS && !pending.slots.contains_key(&(op, bound)) {
            self.look(&mut pending)?;
        }
        let next = pending.slots.len();
        let slot = *pending.slots.entry((op, bound)).or_insert(next);
        let words = self.words(&mut pending)?;
        let address = words + (slot * size_of::<u64>()) as u64;
        Ok(Watch { address, _pending: pending })
    }

    /// Makes the words ready before a graph is recorded: its kernels go on writing to them.
    pub fn prepare(&self) -> Result<()> {
        self.words(&mut self.pending()).map(|_| ())
    }

    /// Address of the words.
    fn words(&self, pending: &mut Pending) -> Result<u64> {
        const NAME: &str = "bad_indices";
        if let Some(words) = pending.words {
            return Ok(words);
        }
        let words = self.modules.global(OP, &MEMORY, NAME, BYTES)?;
        self.reset()?;
        Ok(*pending.words.insert(words))
    }

    /// Nothing is noted, for the kernels from here on.
    fn reset(&self) -> Result<()> {
        let grid = Grid::linear(SLOTS, SLOTS as u32);
        self.modules.launch(OP, &MEMORY, "fill_bad_indices", grid, Params::new())
    }

    /// Waits for the device if any kernel may have noted something, and reports the first bad index since the
    /// last call.
    pub fn check(&self) -> Result<()> {
        self.look(&mut self.pending())
    }

    fn look(&self, pending: &mut Pending) -> Result<()> {
        let Pending { words: Some(address), slots } = pending else { return Ok(()) };
        if slots.is_empty() {
            return Ok(());
        }
        let bytes = self.pool.download(*address, BYTES)?;
        let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        // The op that was launched first.
        let bad =
            slots.iter().filter(|&(_, &slot)| words[slot] != NONE).min_by_key(|&(_, &slot)| slot);
        let bad = bad.map(|(&(op, bound), &slot)| (op, bound, words[slot]));
        if bad.is_some() || slots.len() == SLOTS {
            self.reset()?;
        }
        if slots.len() == SLOTS {
            slots.clear();
        }
        let Some((op, bound, word)) = bad else { return Ok(()) };
        let index = i64::from(word as u32 as i32);
        Err(Error::Index { op, index, position: (word >> 32) as usize, bound })
    }
}
