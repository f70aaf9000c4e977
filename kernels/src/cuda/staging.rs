//! Pinned host memory, through which everything goes to and from the device: only copies from pinned
//! memory run beside the host and the kernels.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use cudarc::driver::result;

use super::context::{Context, Event};
use crate::Result;

/// Bytes of one transfer: larger copies are cut, so that the host fills one slot while another is
/// on its way.
const SLOT: usize = 8 << 20;

/// Transfers on their way at once.
const SLOTS: usize = 4;

/// Pinned memory with the event of the last copy that used it.
struct Slot {
    memory: NonNull<u8>,
    event: Event,
}

// SAFETY: the memory is owned by the slot alone, and used under a lock.
unsafe impl Send for Slot {}

impl Slot {
    fn new(op: &'static str, context: &Context) -> Result<Slot> {
        let event = Event::new(op, context)?;
        // SAFETY: SLOT is not 0; freed in drop.
        let memory = context.checked(op, unsafe { result::malloc_host(SLOT, 0) })?;
        let memory = NonNull::new(memory.cast()).expect("the driver reported success");
        Ok(Slot { memory, event })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: from malloc_host in `new`, freed only here; `Staging` has waited for the last copy.
        let _ = unsafe { result::free_host(self.memory.as_ptr().cast()) };
    }
}

#[derive(Default)]
struct Slots {
    uploads: Vec<Slot>,
    next: usize,
    download: Option<Slot>,
}

/// The slots of one device.
pub struct Staging {
    // Before the context: what is pinned is freed while that still exists.
    slots: Mutex<Slots>,
    context: Arc<Context>,
}

impl Staging {
    /// Nothing is pinned before the first copy.
    pub fn new(context: Arc<Context>) -> Staging {
        Staging { context, slots: Mutex::default() }
    }

    /// Copies `bytes` to the device on the copy stream; kernels handed in from now on wait for that.
    /// Returns when `bytes` may change again.
    pub fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        const OP: &str = "upload";
        let context = &*self.context;
        let mut slots = self.slots.lock().unwrap_or_else(|e| e.into_inner());
        for (i, chunk) in bytes.chunks(SLOT).enumerate() {
            if slots.uploads.len() < SLOTS {
                let slot = Slot::new(OP, context)?;
                slots.next = slots.uploads.len();
                slots.uploads.push(slot);
            }
            let slot = &slots.uploads[slots.next];
            slot.event.synchronize(OP, context)?; // the copy before last from this slot
            // SAFETY: a chunk has at most SLOT bytes, and no copy reads the slot any more.
            let staged = unsafe {
                std::ptr::copy_nonoverlapping(chunk.as_ptr(), slot.memory.as_ptr(), chunk.len());
                std::slice::from_raw_parts(slot.memory.as_ptr(), chunk.len())
            };
            let to = to + (i * SLOT) as u64;
            // SAFETY: the caller's block holds `bytes.len()` bytes from `to` on; the slot is left alone until
            // its event has come.
            let answer = unsafe { result::memcpy_htod_async(to, staged, context.copy) };
            context.checked(OP, answer)?;
            slot.event.record(OP, context, context.copy)?;
            slot.event.make_wait(OP, context, context.compute)?;
            slots.next = (slots.next + 1) % SLOTS;
        }
        Ok(())
    }

    /// Fills `out` from the device after all kernels handed in so far.
    pub fn download(&self, from: u64, out: &mut [u8]) -> Result<()> {
        const OP: &str = "download";
        let context = &*self.context;
        context.bind(OP)?;
        let mut slots = self.slots.lock().unwrap_or_else(|e| e.into_inner());
        if slots.download.is_none() && !out.is_empty() {
            slots.download = Some(Slot::new(OP, context)?);
        }
        for (i, chunk) in out.chunks_mut(SLOT).enumerate() {
            let slot = slots.download.as_ref().expect("made above");
            // SAFETY: a chunk has at most SLOT bytes; the lock keeps others from the slot until the copy is
            // done. Pinned memory may hold any bytes.
            let staged = unsafe {
                std::ptr::write_bytes(slot.memory.as_ptr(), 0, chunk.len());
                std::slice::from_raw_parts_mut(slot.memory.as_ptr(), chunk.len())
            };
            let from = from + (i * SLOT) as u64;
            // SAFETY: the caller's block holds `out.len()` bytes from `from` on.
            let answer = unsafe { result::memcpy_dtoh_async(staged, from, context.compute) };
            context.checked(OP, answer)?;
            slot.event.record(OP, context, context.compute)?;
            slot.event.synchronize(OP, context)?;
            chunk.copy_from_slice(staged);
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Copies from the slots must be done before their memory goes; if the device is lost, they are.
        let _ = self.context.synchronize("memory");
    }
}
