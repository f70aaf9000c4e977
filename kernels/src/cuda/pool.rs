//! Device memory: a pool that gives freed blocks out again, in the order of the streams.
//!
//! Kernels run one after the other on the compute stream. A block may thus be given out as soon as its
//! buffer is dropped, while the device still works on it: whatever kernel gets it next comes later. Only
//! uploads run beside the kernels, on the copy stream; their blocks have free lists of their own, with an
//! event each that says when the last kernel that could use the block is done.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::result;
use cudarc::driver::sys::CUresult;

use super::context::{Context, Event};
use super::staging::Staging;
use crate::{Buffer, Device, Dtype, Error, MemoryStats, Result, Storage};

const OP: &str = "memory";

/// Smallest block, and what the driver aligns to: vector loads of 16 bytes need no check.
const ALIGN: usize = 256;

struct Block {
    pointer: u64,
    capacity: usize,
}

/// Free blocks by capacity.
type Free = BTreeMap<usize, Vec<Block>>;

/// The smallest free block that fits and is at most twice the request.
fn take(free: &mut Free, capacity: usize) -> Option<Block> {
    free.range_mut(capacity..=2 * capacity).find_map(|(_, blocks)| blocks.pop())
}

#[derive(Default)]
struct State {
    free: Free,
    free_uploads: BTreeMap<usize, Vec<(Block, Event)>>,
    /// Whose memory is handed out while a graph is recorded.
    recording: Option<Arc<Arena>>,
    stats: MemoryStats,
}

/// How a [`Pool`] behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolOptions {
    /// Fill every new buffer with 0xFF, NaN in every float type, before a kernel writes it.
    pub poison: bool,
    /// Give every buffer an allocation of its own of exactly its bytes, and free it when dropped: a
    /// checker of the device's memory then sees every overrun.
    pub exact: bool,
}

/// The memory of one backend.
pub struct Pool {
    // Before the context: events and pinned memory go while that still exists.
    state: Mutex<State>,
    staging: Staging,
    options: PoolOptions,
    context: Arc<Context>,
}

impl Pool {
    /// An empty pool.
    pub fn new(context: Arc<Context>, options: PoolOptions) -> Arc<Pool> {
        let staging = Staging::new(context.clone());
        Arc::new(Pool { context, options, state: Mutex::default(), staging })
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

    /// Gives the cached blocks back to the driver; not while recording, when that would become a part of the
    /// graph.
    pub fn trim(&self) {
        let (free, uploads) = {
            let mut state = self.state();
            if state.recording.is_some() {
                return;
            }
            state.stats.cached = 0;
            (std::mem::take(&mut state.free), std::mem::take(&mut state.free_uploads))
        };
        let uploads = uploads.into_values().flatten().map(|(block, _)| block);
        for block in free.into_values().flatten().chain(uploads) {
            self.free(block);
        }
    }

    /// Block sizes: multiples of 1/8 of a power of two, at most 25 % above the request, so that nearly
    /// equal sizes share a list.
    fn round_up(&self, bytes: usize) -> usize {
        if self.options.exact {
            return bytes.max(1);
        }
        let bytes = bytes.max(ALIGN);
        let step = (bytes.next_power_of_two() / 8).max(ALIGN);
        bytes.div_ceil(step) * step
    }

    fn bytes(&self, dtype: Dtype, len: usize) -> Result<usize> {
        let bytes = len.checked_mul(dtype.size()).filter(|&b| b < isize::MAX as usize / 2);
        bytes.ok_or_else(|| self.out_of_memory(usize::MAX))
    }

    fn out_of_memory(&self, requested: usize) -> Error {
        let in_use = self.stats().in_use;
        Error::OutOfMemory { device: self.context.device, requested, in_use }
    }

    /// Memory for a kernel to write: stale contents (or NaN, see [`PoolOptions::poison`]).
    pub fn alloc(self: &Arc<Self>, dtype: Dtype, len: usize) -> Result<CudaMemory> {
        let capacity = self.round_up(self.bytes(dtype, len)?);
        self.context.bind(OP)?;
        let arena = self.state().recording.clone();
        let again = arena.as_ref().and_then(|arena| take(&mut arena.kept().free, capacity));
        let block = match again {
            Some(block) => block,
            None => self.block(capacity)?,
        };
        let owner = arena.map_or(Owner::Kernels, Owner::Graph);
        let memory = CudaMemory::new(block, owner, self.clone());
        if self.options.poison {
            self.set_bytes(memory.pointer(), 0xFF, memory.block().capacity)?;
        }
        Ok(memory)
    }

    /// A block from the free list or else from the driver, counted as in use.
    fn block(&self, capacity: usize) -> Result<Block> {
        let cached = {
            let mut state = self.state();
            let block = take(&mut state.free, capacity);
            state.stats.cached -= block.as_ref().map_or(0, |b| b.capacity);
            block
        };
        let block = match cached {
            Some(block) => block,
            None => self.ask_driver(capacity)?,
        };
        self.count(block.capacity);
        Ok(block)
    }

    /// From now on until [`Pool::end_recording`], memory is the arena's. One graph at a time.
    pub fn begin_recording(self: &Arc<Self>) -> Result<Arc<Arena>> {
        let steps = self.block(self.round_up(size_of::<u32>()))?;
        let arena =
            Arc::new(Arena { steps: Some(steps), kept: Mutex::default(), pool: self.clone() });
        let mut state = self.state();
        if state.recording.is_some() {
            drop(state); // the arena gives its word back
            let detail = "another graph is being recorded on this device; finish that first";
            return Err(Error::argument("record", detail));
        }
        state.recording = Some(arena.clone());
        Ok(arena)
    }

    /// See [`Pool::begin_recording`].
    pub fn end_recording(&self) {
        // Dropped after the lock: the last holder gives blocks back.
        let _arena = self.state().recording.take();
    }

    /// Where the graph that is being recorded finds how many steps later it is replayed; 0 outside a recording.
    pub fn recorded_steps(&self) -> u64 {
        self.state().recording.as_ref().map_or(0, |arena| arena.steps())
    }

    /// Refuses what a graph cannot hold, while one is recorded.
    pub fn refuse_in_recording(&self, op: &'static str, why: &str) -> Result<()> {
        match self.state().recording {
            Some(_) => Err(Error::argument(op, format!("cannot be recorded: {why}"))),
            None => Ok(()),
        }
    }

    /// Sets `bytes` bytes of the device's memory, in the order of the kernels; all must be the caller's.
    fn set_bytes(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        self.context.bind(OP)?;
        // SAFETY: the callers pass blocks that they hold, with their sizes.
        let answer = unsafe { result::memset_d8_async(address, byte, bytes, self.context.compute) };
        self.context.checked(OP, answer)
    }

    /// Copies host bytes to new memory, beside the kernels that run; those handed in later see them.
    pub fn upload(self: &Arc<Self>, dtype: Dtype, bytes: &[u8]) -> Result<Buffer> {
        const OP: &str = "upload";
        if !bytes.len().is_multiple_of(dtype.size()) {
            let (got, size) = (bytes.len(), dtype.size());
            let detail =
                format!("{got} bytes are not a whole number of {dtype} ({size} bytes each)");
            return Err(Error::shape(OP, detail));
        }
        self.refuse_in_recording(OP, "the bytes would be those of this moment; upload before")?;
        let len = bytes.len() / dtype.size();
        let capacity = self.round_up(bytes.len());
        let context = &self.context;
        context.bind(OP)?;
        let cached = {
            let mut state = self.state();
            let mut lists = state.free_uploads.range_mut(capacity..=2 * capacity);
            let found = lists.find_map(|(_, blocks)| blocks.pop());
            state.stats.cached -= found.as_ref().map_or(0, |(block, _)| block.capacity);
            found
        };
        let (block, event) = match cached {
            Some(found) => found,
            None => {
                let block = self.ask_driver(capacity)?;
                // The allocation is in the order of the compute stream.
                let event = Event::new(OP, context)?;
                event.record(OP, context, context.compute)?;
                (block, event)
            }
        };
        event.make_wait(OP, context, context.copy)?;
        self.count(block.capacity);
        let memory = CudaMemory::new(block, Owner::Uploads(event), self.clone());
        self.staging.upload(memory.pointer(), bytes)?;
        Ok(memory.into_buffer(dtype, len))
    }

    /// Copies host bytes over the first of `memory`, after the kernels handed in so far; those handed in later
    /// see them.
    pub fn overwrite(&self, memory: &CudaMemory, bytes: &[u8]) -> Result<()> {
        const OP: &str = "write";
        assert!(bytes.len() <= memory.block().capacity, "a buffer is not larger than its memory");
        self.refuse_in_recording(OP, "the bytes would be those of this moment; write before")?;
        let context = &self.context;
        let event = Event::new(OP, context)?;
        event.record(OP, context, context.compute)?;
        event.make_wait(OP, context, context.copy)?;
        self.staging.upload(memory.pointer(), bytes)
    }

    /// Copies bytes of the device's memory, all of them the caller's, to the host, after all that was handed in
    /// so far.
    pub fn download(&self, address: u64, bytes: usize) -> Result<Vec<u8>> {
        self.refuse_in_recording("download", "the host would wait for what does not run yet")?;
        let mut out = vec![0; bytes];
        self.staging.download(address, &mut out)?;
        Ok(out)
    }

    fn ask_driver(&self, capacity: usize) -> Result<Block> {
        let recording = self.state().recording.is_some();
        let ask = || {
            let context = &self.context;
            match context.cuda.has_async_alloc() {
                // The compute stream would note the allocation in the graph; the other one has it made now.
                // SAFETY: capacity is at least 1; the block's only owner frees it. The host waits for the
                // stream, so that the memory is there for all streams.
                true if recording => unsafe {
                    let made = result::malloc_async(context.copy, capacity)?;
                    result::stream::synchronize(context.copy)?;
                    Ok(made)
                },
                // SAFETY: capacity is at least 1; the block's only owner frees it, on the same stream.
                true => unsafe { result::malloc_async(context.compute, capacity) },
                // SAFETY: as above.
                false => unsafe { result::malloc_sync(capacity) },
            }
        };
        let mut answer = ask();
        if answer.is_err_and(|e| e.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY) && !recording {
            self.trim();
            self.context.synchronize(OP)?; // the driver has it back only then
            answer = ask();
        }
        self.state().stats.system_allocations += 1;
        match answer {
            Ok(pointer) => Ok(Block { pointer, capacity }),
            Err(e) if e.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Err(self.out_of_memory(capacity))
            }
            Err(e) => self.context.checked(OP, Err(e)),
        }
    }

    fn count(&self, capacity: usize) {
        let mut state = self.state();
        state.stats.in_use += capacity;
        state.stats.peak = state.stats.peak.max(state.stats.in_use);
    }

    fn free(&self, block: Block) {
        if self.context.bind(OP).is_err() {
            return; // the context is lost, and its memory with it
        }
        let _ = match self.context.cuda.has_async_alloc() {
            // SAFETY: from `ask_driver`, by the same choice; the caller gave up the only handle. Kernels that
            // use the block were handed to the same stream before.
            true => unsafe { result::free_async(block.pointer, self.context.compute) },
            // SAFETY: as above; the driver waits for the kernels.
            false => unsafe { result::free_sync(block.pointer) },
        };
    }

    /// Takes a block back whose buffer was dropped, and that no graph holds.
    fn give_back(self: &Arc<Self>, block: Block, owner: Owner) {
        let recording = match &owner {
            Owner::Graph(arena) => {
                return arena.kept().free.entry(block.capacity).or_default().push(block);
            }
            _ => self.state().recording.clone(),
        };
        if let Some(arena) = recording {
            // Not now, when an event on the compute stream would become a part of the graph.
            let held = Held { block: Some(block), owner, pool: self.clone() };
            return arena.kept().held.push(Arc::new(held));
        }
        let capacity = block.capacity;
        self.state().stats.in_use -= capacity;
        if self.options.exact {
            return self.free(block);
        }
        match owner {
            Owner::Uploads(event) => {
                let context = &self.context;
                // If the event cannot be recorded, nobody could know when the block is free.
                let recorded =
                    context.bind(OP).and_then(|_| event.record(OP, context, context.compute));
                if recorded.is_err() {
                    return self.free(block);
                }
                let mut state = self.state();
                state.free_uploads.entry(capacity).or_default().push((block, event));
                state.stats.cached += capacity;
            }
            _ => {
                let mut state = self.state();
                state.free.entry(capacity).or_default().push(block);
                state.stats.cached += capacity;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
    }
}

/// The memory of one recorded graph: blocks allocated while it was recorded, used again within it in the order
/// of its kernels, and older blocks that its kernels use. None is given to anybody else until the graph and
/// all buffers in these blocks are gone, so that a replay touches no memory that is another's.
pub struct Arena {
    /// A u32: how many steps after the recording the graph runs.
    steps: Option<Block>,
    kept: Mutex<Kept>,
    pool: Arc<Pool>,
}

#[derive(Default)]
struct Kept {
    free: Free,
    /// Older than the recording.
    held: Vec<Arc<Held>>,
}

impl Arena {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Address of the number of steps.
    pub fn steps(&self) -> u64 {
        self.steps.as_ref().expect("taken only in drop").pointer
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let kept = std::mem::take(self.kept.get_mut().unwrap_or_else(|e| e.into_inner()));
        for block in kept.free.into_values().flatten().chain(self.steps.take()) {
            self.pool.give_back(block, Owner::Kernels);
        }
    }
}

/// Who writes to a block, hence when it may be given out again.
enum Owner {
    /// Kernels, in the order of the compute stream.
    Kernels,
    /// Uploads, beside the kernels; the event says when the last kernel that could use it is done.
    Uploads(Event),
    /// The kernels of a graph.
    Graph(Arc<Arena>),
}

/// A block that is in use; returns to its pool when dropped.
struct Held {
    block: Option<Block>,
    owner: Owner,
    pool: Arc<Pool>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.pool.give_back(block, std::mem::replace(&mut self.owner, Owner::Kernels));
        }
    }
}

/// The memory of one buffer. A graph may hold its block for longer.
pub struct CudaMemory {
    held: Arc<Held>,
}

impl CudaMemory {
    fn new(block: Block, owner: Owner, pool: Arc<Pool>) -> CudaMemory {
        CudaMemory { held: Arc::new(Held { block: Some(block), owner, pool }) }
    }

    fn block(&self) -> &Block {
        self.held.block.as_ref().expect("taken only in drop")
    }

    /// Address on the device, for a kernel that is about to be handed over: if a graph is being recorded, the
    /// block is kept as long as that.
    pub fn pointer(&self) -> u64 {
        let recording = self.held.pool.state().recording.clone();
        if let (Some(arena), false) = (recording, matches!(self.held.owner, Owner::Graph(_))) {
            let mut kept = arena.kept();
            if !kept.held.iter().any(|held| Arc::ptr_eq(held, &self.held)) {
                kept.held.push(self.held.clone());
            }
        }
        self.block().pointer
    }

    /// Wraps it as a buffer of `len` elements.
    pub fn into_buffer(self, dtype: Dtype, len: usize) -> Buffer {
        assert!(len <= self.block().capacity / dtype.size());
        Buffer::new(dtype, len, Arc::new(self))
    }

    /// The memory behind a buffer; `None` if it is of another kind of device.
    pub fn of(x: &Buffer) -> Option<&CudaMemory> {
        x.storage().as_any().downcast_ref::<CudaMemory>()
    }

    /// Whether this memory belongs to `pool`.
    pub fn is_of(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.held.pool, pool)
    }

    /// The address of a buffer that a kernel will change in place. When others hold it too, it is copied
    /// first: they keep the old value.
    pub fn update(op: &'static str, pool: &Arc<Pool>, x: &mut Buffer) -> Result<u64> {
        if x.storage_mut().is_none() {
            let old = CudaMemory::of(x).expect("checked by the caller");
            if !matches!(old.held.owner, Owner::Graph(_)) {
                let why = "the buffer that it changes is held by others, so it would change a copy";
                pool.refuse_in_recording(op, why)?;
            }
            let new = pool.alloc(x.dtype(), x.len())?;
            let (bytes, context) = (x.len() * x.dtype().size(), &pool.context);
            context.bind(op)?;
            if bytes > 0 {
                // SAFETY: both blocks hold x.len() elements, and the copy is in the order of the kernels.
                let answer = unsafe {
                    result::memcpy_dtod_async(new.pointer(), old.pointer(), bytes, context.compute)
                };
                context.checked(op, answer)?;
            }
            *x = new.into_buffer(x.dtype(), x.len());
        }
        let storage = x.storage_mut().expect("unique: just copied if it was not");
        let memory = storage.as_any_mut().downcast_mut::<CudaMemory>();
        Ok(memory.expect("checked by the caller").pointer())
    }
}

impl Storage for CudaMemory {
    fn device(&self) -> Device {
        self.held.pool.context.device
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
