//! Host memory for the `reference` and `cpu` backends: a pool that gives freed blocks out again.
//!
//! A training step asks for the same sizes again and again, so after a few steps every request is
//! served from the free lists, and nothing is allocated from or zeroed by the system.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::derived::Derived;
use crate::{Buffer, Device, Dtype, Element, Error, Result, Storage};

/// Bytes held by a backend's pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes of live buffers, rounded up to their blocks.
    pub in_use: usize,
    /// The most that `in_use` has been since the pool was made or [`crate::Backend::reset_peak`]
    /// was called.
    pub peak: usize,
    /// Bytes of freed blocks that wait to be used again.
    pub cached: usize,
    /// How often memory was asked from the system.
    pub system_allocations: usize,
}

/// Blocks of at least this size are aligned to it and offered to the kernel as huge pages: a 4 KiB
/// page costs a fault and a TLB entry each, and activations are tens of MiB.
const HUGE_PAGE: usize = 2 << 20;

/// Cache line, and width of a zmm register.
const ALIGN: usize = 64;

struct Block {
    ptr: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a block is plain memory owned by exactly one holder at a time (a free list or a
// HostMemory).
unsafe impl Send for Block {}

impl Block {
    fn layout(capacity: usize) -> Option<Layout> {
        Layout::from_size_align(capacity, if capacity >= HUGE_PAGE { HUGE_PAGE } else { ALIGN })
            .ok()
    }

    /// Whether blocks of this size are mapped by this module. The allocator would keep some of them
    /// when they are freed, and would write its zeros to every page at once.
    fn is_mapped(capacity: usize) -> bool {
        cfg!(target_os = "linux") && capacity >= HUGE_PAGE
    }

    /// Zeroed by the system (lazily, for large blocks), so that memory is never uninitialised to
    /// Rust.
    fn from_system(capacity: usize) -> Option<Block> {
        let ptr = if Self::is_mapped(capacity) {
            map(capacity)?
        } else {
            let layout = Self::layout(capacity)?;
            // SAFETY: capacity is at least ALIGN, so the layout is not zero-sized.
            NonNull::new(unsafe { alloc_zeroed(layout) })?
        };
        Some(Block { ptr, capacity })
    }

    fn release(self) {
        if Self::is_mapped(self.capacity) {
            unmap(self.ptr, self.capacity);
        } else if let Some(layout) = Self::layout(self.capacity) {
            // SAFETY: allocated in from_system with the layout of the same capacity.
            unsafe { dealloc(self.ptr.as_ptr(), layout) };
        }
    }
}

/// `capacity` bytes of fresh pages, aligned to [`HUGE_PAGE`]. Capacities of this size are multiples
/// of 256 KiB ([`Pool::round_up`]), and so of every page size that Linux has.
#[cfg(target_os = "linux")]
fn map(capacity: usize) -> Option<NonNull<u8>> {
    // Room for one huge page more, of which the parts before and after the block are given back.
    let len = capacity.checked_add(HUGE_PAGE)?;
    let (rights, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: new private memory at an address that the system chooses: nothing else is touched.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, rights, kind, -1, 0) };
    if start == libc::MAP_FAILED {
        return None;
    }
    let start = NonNull::new(start.cast::<u8>())?;
    let head = start.as_ptr().align_offset(HUGE_PAGE);
    // SAFETY: head < HUGE_PAGE (it is 0 to HUGE_PAGE - 1 bytes to the next aligned address), so
    // head + capacity <= len: the block lies within the mapping.
    let block = unsafe { start.add(head) };
    unmap(start, head);
    // SAFETY: as above; one past the block's end is at most one past the mapping's end.
    unmap(unsafe { block.add(capacity) }, HUGE_PAGE - head);
    // SAFETY: the range is the block just mapped; the call is advice and its failure harmless.
    unsafe { libc::madvise(block.as_ptr().cast(), capacity, libc::MADV_HUGEPAGE) };
    Some(block)
}

/// Gives whole pages that [`map`] mapped back to the system; nobody may use them any more.
#[cfg(target_os = "linux")]
fn unmap(start: NonNull<u8>, len: usize) {
    if len > 0 {
        // SAFETY: called only with parts of a mapping that `map` made and that have no other owner:
        // the slack around a block, or a block that is being released.
        unsafe { libc::munmap(start.as_ptr().cast(), len) };
    }
}

/// Only Linux maps blocks.
#[cfg(not(target_os = "linux"))]
fn map(_capacity: usize) -> Option<NonNull<u8>> {
    None
}

/// Only Linux maps blocks.
#[cfg(not(target_os = "linux"))]
fn unmap(_start: NonNull<u8>, _len: usize) {}

#[derive(Default)]
struct PoolState {
    free: BTreeMap<usize, Vec<Block>>,
    stats: MemoryStats,
    limit: Option<usize>,
}

/// Free lists by block size, shared by all buffers of one backend.
pub struct Pool {
    device: Device,
    state: Mutex<PoolState>,
    poison: AtomicBool,
}

impl Pool {
    /// An empty pool for `device`.
    pub fn new(device: Device) -> Arc<Self> {
        Arc::new(Pool { device, state: Mutex::default(), poison: AtomicBool::new(false) })
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        // A panic while the lock is held cannot leave the lists half-changed: every update is one
        // push or pop.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// When on, every block is filled with 0xFF (NaN in every float type) before a kernel writes
    /// it: an element that the kernel forgets then shows in tests.
    pub fn set_poison(&self, on: bool) {
        self.poison.store(on, Ordering::Relaxed);
    }

    /// Makes requests that would take `in_use` beyond `bytes` fail.
    pub fn set_limit(&self, bytes: Option<usize>) {
        self.state().limit = bytes;
    }

    /// Counters.
    pub fn stats(&self) -> MemoryStats {
        self.state().stats
    }

    /// Starts a new peak from what is in use now.
    pub fn reset_peak(&self) {
        let mut s = self.state();
        s.stats.peak = s.stats.in_use;
    }

    /// Gives the cached blocks back to the system.
    pub fn trim(&self) {
        let mut s = self.state();
        s.stats.cached = 0;
        for (_, blocks) in std::mem::take(&mut s.free) {
            blocks.into_iter().for_each(Block::release);
        }
    }

    /// Block sizes: multiples of 1/8 of a power of two, at most 25 % above the request, so that
    /// nearly equal sizes share a list.
    fn round_up(bytes: usize) -> usize {
        let bytes = bytes.max(ALIGN);
        let step = (bytes.next_power_of_two() / 8).max(ALIGN);
        bytes.div_ceil(step) * step
    }

    /// `len` elements of stale contents (or NaN, see [`Pool::set_poison`]).
    pub fn alloc<T: Element>(self: &Arc<Self>, len: usize) -> Result<HostMemory> {
        let bytes = len.checked_mul(size_of::<T>()).filter(|&b| b < isize::MAX as usize / 2);
        let failure = |in_use| Error::OutOfMemory {
            device: self.device,
            requested: bytes.unwrap_or(usize::MAX),
            in_use,
        };
        let capacity = Self::round_up(bytes.ok_or_else(|| failure(0))?);
        let (block, fresh) = {
            let mut s = self.state();
            let room = s.limit.map_or(usize::MAX, |limit| limit.saturating_sub(s.stats.in_use));
            if capacity > room {
                return Err(failure(s.stats.in_use));
            }
            // The smallest free block that fits and is at most twice the request: without this, blocks
            // of sizes that another part of the step needs would lie idle.
            let fits = capacity..=room.min(2 * capacity);
            let cached = s.free.range_mut(fits).find_map(|(_, blocks)| blocks.pop());
            let (block, fresh) = match cached {
                Some(block) => {
                    s.stats.cached -= block.capacity;
                    (block, false)
                }
                None => {
                    s.stats.system_allocations += 1;
                    let block = Block::from_system(capacity);
                    (block.ok_or_else(|| failure(s.stats.in_use))?, true)
                }
            };
            s.stats.in_use += block.capacity;
            s.stats.peak = s.stats.peak.max(s.stats.in_use);
            (block, fresh)
        };
        let poison = self.poison.load(Ordering::Relaxed);
        if poison {
            // SAFETY: the block holds that many bytes and is ours alone.
            unsafe { block.ptr.as_ptr().write_bytes(0xFF, block.capacity) };
        }
        let (zeros, derived) = (fresh && !poison, Derived::default());
        Ok(HostMemory { block: Some(block), pool: self.clone(), zeros, derived })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
    }
}

/// One block of a [`Pool`]; returns to it when dropped.
pub struct HostMemory {
    block: Option<Block>,
    pool: Arc<Pool>,
    /// Whether nobody has written to it since it came from the system.
    zeros: bool,
    derived: Derived,
}

// SAFETY: shared references give only shared slices; the memory is owned by this value alone.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    fn block(&self) -> &Block {
        self.block.as_ref().expect("taken only in drop")
    }

    /// The first `len` elements.
    pub fn slice<T: Element>(&self, len: usize) -> &[T] {
        let block = self.block();
        assert!(align_of::<T>() <= ALIGN && len <= block.capacity / size_of::<T>());
        // SAFETY: in bounds by the assertion, initialised since allocation, aligned to 64 bytes;
        // any bits are a valid T.
        unsafe { std::slice::from_raw_parts(block.ptr.as_ptr().cast(), len) }
    }

    /// Whether all bytes are known to be zero, though the system may not have made the pages yet.
    pub fn is_zeros(&self) -> bool {
        self.zeros
    }

    /// The first `len` elements, to write. What was derived from them is forgotten.
    pub fn slice_mut<T: Element>(&mut self, len: usize) -> &mut [T] {
        self.zeros = false;
        self.derived.clear();
        let block = self.block();
        assert!(align_of::<T>() <= ALIGN && len <= block.capacity / size_of::<T>());
        // SAFETY: as in `slice`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(block.ptr.as_ptr().cast(), len) }
    }

    /// Wraps it as a buffer of `len` elements.
    pub fn into_buffer<T: Element>(self, len: usize) -> Buffer {
        assert!(len <= self.block().capacity / size_of::<T>());
        Buffer::new(T::DTYPE, len, Arc::new(self))
    }
}

impl Storage for HostMemory {
    fn device(&self) -> Device {
        self.pool.device
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            let mut s = self.pool.state();
            s.stats.in_use -= block.capacity;
            s.stats.cached += block.capacity;
            s.free.entry(block.capacity).or_default().push(block);
        }
    }
}

/// The elements of `x`, after checking its dtype, device and length against what `op` expects.
pub fn read<'a, T: Element>(
    op: &'static str,
    device: Device,
    x: &'a Buffer,
    len: usize,
) -> Result<&'a [T]> {
    check::<T>(op, device, x, len)?;
    Ok(memory(x).slice(len))
}

/// What is derived from the elements of `x`, which must be in host memory.
pub(crate) fn derived(x: &Buffer) -> &Derived {
    &memory(x).derived
}

/// The elements of `x` to update in place. When `x` is shared it is copied first: others keep the
/// old value.
pub fn update<'a, T: Element>(
    op: &'static str,
    pool: &Arc<Pool>,
    x: &'a mut Buffer,
    len: usize,
) -> Result<&'a mut [T]> {
    check::<T>(op, pool.device, x, len)?;
    if x.storage_mut().is_none() {
        let mut copy = pool.alloc::<T>(len)?;
        copy.slice_mut::<T>(len).copy_from_slice(memory(x).slice(len));
        *x = copy.into_buffer::<T>(len);
    }
    let storage = x.storage_mut().expect("unique: just copied if it was not");
    let memory =
        storage.as_any_mut().downcast_mut::<HostMemory>().expect("host devices use HostMemory");
    Ok(memory.slice_mut(len))
}

fn memory(x: &Buffer) -> &HostMemory {
    x.storage().as_any().downcast_ref::<HostMemory>().expect("host devices use HostMemory")
}

fn check<T: Element>(op: &'static str, device: Device, x: &Buffer, len: usize) -> Result<()> {
    if x.device() != device {
        return Err(Error::Device { op, expected: device, got: x.device() });
    }
    if x.dtype() != T::DTYPE {
        return Err(Error::Dtype { op, expected: T::DTYPE.to_string(), got: x.dtype() });
    }
    if x.len() != len {
        return Err(Error::shape(
            op,
            format!("expected a buffer of {len} elements, got {}", x.len()),
        ));
    }
    Ok(())
}

/// A number whose every value is exact in f64.
trait Number: Element {
    fn widen(self) -> f64;
    fn narrow(value: f64) -> Self;
}

macro_rules! number {
    ($($t:ty: $widen:expr, $narrow:expr;)*) => {
        $(impl Number for $t {
            fn widen(self) -> f64 {
                $widen(self)
            }
            fn narrow(value: f64) -> Self {
                $narrow(value)
            }
        })*
    };
}
number! {
    f64: |x| x, |v| v;
    f32: f64::from, |v| v as f32;
    half::f16: half::f16::to_f64, |v| half::f16::from_f32(round_to_odd(v));
    half::bf16: half::bf16::to_f64, |v| half::bf16::from_f32(round_to_odd(v));
    i32: f64::from, |v: f64| v.round_ties_even() as i32;
    i8: f64::from, |v: f64| v.round_ties_even() as i8;
    u8: f64::from, |v: f64| v.round_ties_even() as u8;
}

/// f64 to f32 such that rounding the result again, to 16 bits, rounds only once in all: where the
/// value lies between two f32, the one with an odd mantissa, which is never halfway between two
/// shorter floats (Boldo and Melquiond 2008).
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let distance = f64::from(nearest).abs() - value.abs();
    if distance == 0.0 || value.is_infinite() || value.is_nan() {
        return nearest;
    }
    let towards_zero = nearest.to_bits() - (distance > 0.0) as u32;
    f32::from_bits(towards_zero | 1)
}

/// Converts the elements in `bytes` from one dtype to another: floats round to nearest even;
/// integers too, then saturate, with 0 for NaN. Bytes after the last whole element are left out.
pub fn cast_bytes(from: Dtype, to: Dtype, bytes: &[u8]) -> Vec<u8> {
    fn convert<A: Number, B: Number>(bytes: &[u8]) -> Vec<u8> {
        let elements = bytes.chunks_exact(size_of::<A>());
        let mut out = vec![0; elements.len() * size_of::<B>()];
        for (out, element) in out.chunks_exact_mut(size_of::<B>()).zip(elements) {
            let value = bytemuck::pod_read_unaligned::<A>(element).widen();
            out.copy_from_slice(bytemuck::bytes_of(&B::narrow(value)));
        }
        out
    }
    fn convert_from<A: Number>(to: Dtype, bytes: &[u8]) -> Vec<u8> {
        match to {
            Dtype::F64 => convert::<A, f64>(bytes),
            Dtype::F32 => convert::<A, f32>(bytes),
            Dtype::F16 => convert::<A, half::f16>(bytes),
            Dtype::BF16 => convert::<A, half::bf16>(bytes),
            Dtype::I32 => convert::<A, i32>(bytes),
            Dtype::I8 => convert::<A, i8>(bytes),
            Dtype::U8 => convert::<A, u8>(bytes),
        }
    }
    match from {
        Dtype::F64 => convert_from::<f64>(to, bytes),
        Dtype::F32 => convert_from::<f32>(to, bytes),
        Dtype::F16 => convert_from::<half::f16>(to, bytes),
        Dtype::BF16 => convert_from::<half::bf16>(to, bytes),
        Dtype::I32 => convert_from::<i32>(to, bytes),
        Dtype::I8 => convert_from::<i8>(to, bytes),
        Dtype::U8 => convert_from::<u8>(to, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_blocks_are_given_out_again() {
        let pool = Pool::new(Device::Cpu);
        let first = pool.alloc::<f32>(1000).unwrap();
        let address = first.slice::<f32>(1).as_ptr();
        drop(first);
        let second = pool.alloc::<f32>(1001).unwrap();
        assert_eq!(second.slice::<f32>(1).as_ptr(), address);
        assert_eq!(pool.stats().system_allocations, 1);
    }

    #[test]
    fn a_request_beyond_the_limit_is_an_error_with_its_size() {
        let pool = Pool::new(Device::Cpu);
        pool.set_limit(Some(1 << 20));
        let held = pool.alloc::<f32>(1000).unwrap();
        let error = pool.alloc::<f32>(1 << 20).err().unwrap();
        assert!(matches!(error, Error::OutOfMemory { requested: 4194304, .. }), "{error}");
        assert!(pool.alloc::<f64>(usize::MAX / 4).is_err());
        drop(held);
    }

    #[test]
    fn a_larger_free_block_serves_a_request_of_half_its_size_within_the_limit() {
        let pool = Pool::new(Device::Cpu);
        let held = pool.alloc::<f32>(1024).unwrap();
        drop(pool.alloc::<f32>(1024).unwrap());
        assert_eq!(pool.stats().system_allocations, 2);
        drop(pool.alloc::<f32>(512).unwrap());
        assert_eq!(pool.stats().system_allocations, 2, "the free block was not used");
        // 3072 bytes are left: the free block of 4096 must not be given out.
        pool.set_limit(Some(4096 + 3072));
        let small = pool.alloc::<f32>(512).unwrap();
        assert!(pool.stats().in_use <= 4096 + 3072);
        drop((held, small));
    }

    #[test]
    fn an_update_of_a_shared_buffer_leaves_the_other_holder_alone() {
        let pool = Pool::new(Device::Cpu);
        let mut memory = pool.alloc::<f32>(2).unwrap();
        memory.slice_mut::<f32>(2).copy_from_slice(&[1.0, 2.0]);
        let mut a = memory.into_buffer::<f32>(2);
        let b = a.clone();
        update::<f32>("test", &pool, &mut a, 2).unwrap()[0] = 5.0;
        assert_eq!(read::<f32>("test", Device::Cpu, &b, 2).unwrap(), &[1.0, 2.0]);
        assert_eq!(read::<f32>("test", Device::Cpu, &a, 2).unwrap(), &[5.0, 2.0]);
    }

    fn cast<A: Element, B: Element>(x: &[A]) -> Vec<B> {
        let bytes = cast_bytes(A::DTYPE, B::DTYPE, bytemuck::cast_slice(x));
        bytemuck::pod_collect_to_vec(&bytes)
    }

    #[test]
    fn casts_round_once_to_even_and_saturate() {
        let x = [0.5, 1.5, -2.5, 300.0, -300.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        assert_eq!(cast::<_, i8>(&x), [0, 2, -2, 127, -128, 0, 127, -128]);
        assert_eq!(cast::<_, u8>(&x), [0, 2, 0, 255, 0, 0, 255, 0]);
        assert_eq!(cast::<_, i32>(&[1e10f32, -1e10, 3.5]), [i32::MAX, i32::MIN, 4]);
        assert_eq!(cast::<_, f32>(&[16777217, 16777219]), [16777216.0, 16777220.0]);

        // 1 + 2^-11 is halfway between two f16; a trifle more must go up, but f32 cannot see it.
        let half_ulp = 1.0 + 2f64.powi(-11);
        let above = half_ulp + 2f64.powi(-40);
        let below = -(half_ulp - 2f64.powi(-40));
        let f16 = |x: f32| half::f16::from_f32(x);
        let next = f16(1.0 + 2f32.powi(-10));
        assert_eq!(cast::<_, half::f16>(&[half_ulp, above, below]), [f16(1.0), next, f16(-1.0)]);
        let limits = cast::<_, half::f16>(&[65519.999999f64, 65520.0, -1e300, 1e-300]);
        assert_eq!(limits, [65504.0, f32::INFINITY, f32::NEG_INFINITY, 0.0].map(f16));
        let bf16 = cast::<_, half::bf16>(&[1.0 + 2f64.powi(-8), 1.0 + 2f64.powi(-8) + 1e-12]);
        assert_eq!(cast::<_, f32>(&bf16), [1.0, 1.0078125]);
    }
}
