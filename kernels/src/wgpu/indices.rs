//! Labels and indices are data on the device. A kernel leaves out one that is outside its range, and
//! `indices.wgsl` notes it; the host learns of it when it next waits for the device, without a wait of its own.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use super::pipelines::INDICES;
use super::{Grid, Kernel, Params, Read, Wgpu, WgpuMemory, Write, memory};
use crate::{Dtype, Error, Result};

/// Kinds of checks (an op with its bound) that can wait for an answer at once.
const SLOTS: usize = 256;

/// Position, index.
const WORDS: usize = 2;

/// What is left where nothing was found.
const NONE: u32 = u32::MAX;

/// What kernels recorded since the last check may have noted.
#[derive(Default)]
struct Pending {
    words: Option<WgpuMemory>,
    /// The slot of each op and bound.
    slots: HashMap<(&'static str, usize), usize>,
}

/// The checks of one backend.
#[derive(Default)]
pub struct Indices {
    pending: Mutex<Pending>,
}

impl Indices {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        // A panic while the lock is held leaves at worst a slot that nobody writes.
        self.pending.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Records a check that `count` indices are in `0..bound`.
    pub fn watch(
        &self,
        wgpu: &Wgpu,
        op: &'static str,
        indices: &WgpuMemory,
        count: usize,
        bound: usize,
    ) -> Result<()> {
        let mut pending = self.pending();
        if pending.slots.len() == SLOTS && !pending.slots.contains_key(&(op, bound)) {
            self.look(wgpu, op, &mut pending, None)?;
        }
        let next = pending.slots.len();
        let slot = *pending.slots.entry((op, bound)).or_insert(next);
        if pending.words.is_none() {
            let words = wgpu.pool.alloc(op, Dtype::I32, WORDS * SLOTS)?;
            memory::fill_bytes(wgpu, op, &words, 0xFF)?;
            pending.words = Some(words);
        }
        let words = pending.words.as_ref().expect("allocated above");
        let kernel = Kernel::new(&INDICES, "check_indices", Dtype::F32);
        let params = Params::new().sizes(&[count, bound, slot]);
        wgpu.launch(op, kernel, Grid::Line(1), params, &[Read(indices), Write(words)])
    }

    /// Reports the first bad index since the last call; waits for the device if there may be one.
    pub fn check(&self, wgpu: &Wgpu, op: &'static str) -> Result<()> {
        self.look(wgpu, op, &mut self.pending(), None).map(|_| ())
    }

    /// The first `bytes` of a buffer, if no index was bad.
    pub fn download(
        &self,
        wgpu: &Wgpu,
        op: &'static str,
        x: &WgpuMemory,
        bytes: usize,
    ) -> Result<Vec<u8>> {
        self.look(wgpu, op, &mut self.pending(), Some((x, bytes)))
    }

    /// Downloads `also` together with the notes: one wait for both.
    fn look(
        &self,
        wgpu: &Wgpu,
        op: &'static str,
        pending: &mut Pending,
        also: Option<(&WgpuMemory, usize)>,
    ) -> Result<Vec<u8>> {
        let Pending { words, slots } = std::mem::take(pending);
        let notes = words.as_ref().map(|words| (words.block(), WORDS * SLOTS * size_of::<u32>()));
        let also = also.map(|(memory, bytes)| (memory.block(), bytes));
        let wanted: Vec<_> = also.into_iter().chain(notes).collect();
        let mut all = wgpu.recorder.download(op, &wanted)?;
        let notes = notes.and_then(|_| all.pop()).unwrap_or_default();
        let notes: Vec<u32> = bytemuck::pod_collect_to_vec(&notes);
        let mut slots: Vec<_> = slots.into_iter().collect();
        slots.sort_by_key(|&(_, slot)| slot); // the op that was recorded first
        for ((op, bound), slot) in slots {
            let (position, index) = (notes[WORDS * slot], notes[WORDS * slot + 1]);
            if position != NONE {
                let (index, position) = (i64::from(index as i32), position as usize);
                return Err(Error::Index { op, index, position, bound });
            }
        }
        Ok(all.pop().unwrap_or_default())
    }
}
