//! Device memory: a pool that gives freed blocks out again.
//!
//! All work goes through one queue, in order. A block may thus be given out as soon as its buffer is dropped,
//! while the device still works on it: whatever kernel gets it next comes later. Only uploads overtake what is
//! recorded and not yet submitted, which [`Block::is_used_in`] is for.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::context::Context;
use crate::{Buffer, Device, Dtype, Error, MemoryStats, Result, Storage};

/// Smallest block. Kernels may read and write whole vectors of 4 elements: what lies behind the last element
/// of a tensor is nobody's.
const ALIGN: usize = 256;

/// A buffer of wgpu's.
pub struct Block {
    /// The buffer.
    pub buffer: wgpu::Buffer,
    capacity: usize,
    /// Number of the last batch in which it was used.
    batch: AtomicU64,
}

impl Block {
    /// Notes that work of that batch uses it.
    pub fn used_in(&self, batch: u64) {
        self.batch.store(batch, Ordering::Relaxed);
    }

    /// Whether work of that batch uses it.
    pub fn is_used_in(&self, batch: u64) -> bool {
        self.batch.load(Ordering::Relaxed) == batch
    }

    /// Its bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

#[derive(Default)]
struct State {
    free: BTreeMap<usize, Vec<Block>>,
    stats: MemoryStats,
}

/// The memory of one backend.
pub struct Pool {
    state: Mutex<State>,
    context: Arc<Context>,
}

impl Pool {
    /// An empty pool.
    pub fn new(context: Arc<Context>) -> Arc<Pool> {
        Arc::new(Pool { context, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held cannot leave the lists half-changed: every update is one push or
        // pop.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Counters.
    pub fn stats(&self) -> MemoryStats {
        self.state().stats
    }

    /// Starts a new peak from what is in use now.
    pub fn reset_peak(&self) {
        let mut state = self.state();
        state.stats.peak = state.stats.in_use;
    }

    /// Gives the cached blocks back to the driver, which frees them when the work that uses them is done.
    pub fn trim(&self) {
        let mut state = self.state();
        state.stats.cached = 0;
        state.free.clear();
    }

    /// Block sizes: multiples of 1/8 of a power of two, at most 25 % above the request, so that nearly
    /// equal sizes share a list.
    fn round_up(bytes: usize) -> usize {
        let bytes = bytes.max(ALIGN);
        let step = (bytes.next_power_of_two() / 8).max(ALIGN);
        bytes.div_ceil(step) * step
    }

    fn out_of_memory(&self, requested: usize) -> Error {
        let in_use = self.stats().in_use;
        Error::OutOfMemory { device: self.context.device, requested, in_use }
    }

    /// Memory for `len` elements with stale contents.
    pub fn alloc(
        self: &Arc<Self>,
        op: &'static str,
        dtype: Dtype,
        len: usize,
    ) -> Result<WgpuMemory> {
        let bytes = len.checked_mul(dtype.size()).filter(|&bytes| bytes < isize::MAX as usize / 2);
        let bytes = bytes.ok_or_else(|| self.out_of_memory(usize::MAX))?;
        let limits = &self.context.limits;
        let limit = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        // Shaders count bytes and elements in 32 bits, and use whole blocks of ALIGN bytes.
        let limit = limit.min(i32::MAX as u64) as usize / ALIGN * ALIGN;
        // A block that is rounded up beyond the limit is as large as that instead.
        let capacity = Self::round_up(bytes).min(limit);
        if bytes > capacity {
            let device = self.context.device;
            let detail = format!(
                "a tensor of {len} {dtype} takes {bytes} bytes, but {device} binds at most {limit} bytes \
                 (max_storage_buffer_binding_size of {}): use a smaller batch or a shorter dtype",
                self.context.info.name
            );
            return Err(Error::argument(op, detail));
        }
        let cached = {
            let mut state = self.state();
            // The smallest free block that fits and is at most twice the request.
            let mut lists = state.free.range_mut(capacity..=2 * capacity);
            let block = lists.find_map(|(_, blocks)| blocks.pop());
            state.stats.cached -= block.as_ref().map_or(0, |b| b.capacity);
            block
        };
        let block = match cached {
            Some(block) => block,
            None => self.ask_driver(op, capacity)?,
        };
        let mut state = self.state();
        state.stats.in_use += block.capacity;
        state.stats.peak = state.stats.peak.max(state.stats.in_use);
        Ok(WgpuMemory { block: Some(block), pool: self.clone() })
    }

    fn ask_driver(&self, op: &'static str, capacity: usize) -> Result<Block> {
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let ask = || self.context.create_buffer(capacity as u64, usage);
        let mut buffer = ask();
        if buffer.is_none() {
            self.trim();
            self.context.wait(op, None)?; // what was in use is free only then
            buffer = ask();
        }
        self.state().stats.system_allocations += 1;
        self.context.check(op)?;
        let buffer = buffer.ok_or_else(|| self.out_of_memory(capacity))?;
        Ok(Block { buffer, capacity, batch: AtomicU64::new(0) })
    }
}

/// One block of a [`Pool`]; returns to it when dropped.
pub struct WgpuMemory {
    block: Option<Block>,
    pool: Arc<Pool>,
}

impl WgpuMemory {
    /// The block.
    pub fn block(&self) -> &Block {
        self.block.as_ref().expect("taken only in drop")
    }

    /// Wraps it as a buffer of `len` elements.
    pub fn into_buffer(self, dtype: Dtype, len: usize) -> Buffer {
        assert!(len <= self.block().capacity / dtype.size());
        Buffer::new(dtype, len, Arc::new(self))
    }

    /// The memory behind a buffer; `None` if it is of another kind of device.
    pub fn of(x: &Buffer) -> Option<&WgpuMemory> {
        x.storage().as_any().downcast_ref::<WgpuMemory>()
    }

    /// Whether this memory belongs to `pool`.
    pub fn is_of(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }
}

impl Storage for WgpuMemory {
    fn device(&self) -> Device {
        self.pool.context.device
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Drop for WgpuMemory {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            let mut state = self.pool.state();
            state.stats.in_use -= block.capacity;
            state.stats.cached += block.capacity;
            state.free.entry(block.capacity).or_default().push(block);
        }
    }
}
