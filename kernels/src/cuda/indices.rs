//! Labels and indices are data on the device. A kernel that meets one outside its range leaves it out and
//! notes it; the host learns of it when it next waits for the device, without a wait of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use super::pool::{CudaMemory, Pool};
use crate::{Dtype, Error, Result};

/// Kinds of checks (an op with its bound) that can wait for an answer at once.
const SLOTS: usize = 256;

/// What a kernel leaves where it found nothing.
const NONE: u64 = u64::MAX;

#[derive(Default)]
struct Pending {
    /// The slot of each op and bound that were launched since the last check.
    slots: HashMap<(&'static str, usize), usize>,
}

/// One 64-bit word a slot, in device memory: the position of the first bad index in its upper half, the index in
/// its lower; kernels keep the smallest with an integer `atomicMin`, so that the report does not depend on
/// the order of the threads (`note_bad_index` in kernels/cuda/args.cuh).
pub struct Indices {
    words: OnceLock<CudaMemory>,
    pending: Mutex<Pending>,
    pool: Arc<Pool>,
}

impl Indices {
    /// Nothing is allocated before the first check.
    pub fn new(pool: Arc<Pool>) -> Indices {
        Indices { words: OnceLock::new(), pending: Mutex::default(), pool }
    }

    /// Address of the word into which a kernel of `op` notes an index outside `0..bound`.
    pub fn word(&self, op: &'static str, bound: usize) -> Result<u64> {
        let slot = {
            let mut pending = self.pending.lock().unwrap_or_else(|e| e.into_inner());
            let next = pending.slots.len();
            *pending.slots.entry((op, bound)).or_insert(next)
        };
        if slot >= SLOTS {
            self.check()?;
            return self.word(op, bound);
        }
        let words = match self.words.get() {
            Some(words) => words,
            None => {
                let words = self.pool.alloc(Dtype::F64, SLOTS)?;
                self.pool.set_bytes(&words, 0xFF)?;
                self.words.get_or_init(|| words)
            }
        };
        Ok(words.pointer() + (slot * size_of::<u64>()) as u64)
    }

    /// Waits for the device, and reports the first bad index since the last call.
    pub fn check(&self) -> Result<()> {
        let mut pending = self.pending.lock().unwrap_or_else(|e| e.into_inner());
        let Some(words) = self.words.get().filter(|_| !pending.slots.is_empty()) else {
            return Ok(());
        };
        let bytes = self.pool.download(words, SLOTS * size_of::<u64>())?;
        let words_now: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        let mut slots: Vec<_> = pending.slots.drain().collect();
        slots.sort_by_key(|&(_, slot)| slot);
        let found = slots.into_iter().find(|&(_, slot)| slot < SLOTS && words_now[slot] != NONE);
        let Some(((op, bound), slot)) = found else { return Ok(()) };
        self.pool.set_bytes(words, 0xFF)?;
        let word = words_now[slot];
        let index = i64::from(word as u32 as i32);
        Err(Error::Index { op, index, position: (word >> 32) as usize, bound })
    }
}
