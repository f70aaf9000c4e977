//! Occupancy: how many blocks of a kernel a multiprocessor of an sm_80 holds, by threads and shared memory.
//!
//! Registers do not count: softcuda knows PTX's virtual ones only, and the real ones are ptxas' choice.

use std::ffi::{c_int, c_uint};

use super::call::{export, invalid, put, unsupported, with};
use super::device::{
    BLOCKS_MULTIPROCESSOR, MULTIPROCESSORS, SHARED_MULTIPROCESSOR, SHARED_RESERVED,
    THREADS_MULTIPROCESSOR,
};
use super::launch::LaunchConfig;
use super::status::Outcome;
use crate::Function;

/// `CUoccupancyB2DSize`: dynamic shared memory that a block of so many threads needs.
type SharedOfBlock = Option<unsafe extern "C" fn(c_int) -> usize>;

/// Blocks of `threads` threads with `dynamic` bytes of dynamic shared memory that a multiprocessor holds.
pub fn blocks(function: &Function, threads: i32, dynamic: usize) -> Outcome<i32> {
    if threads <= 0 {
        return Err(invalid(format!("blocks of {threads} threads")));
    }
    if threads as usize > function.max_threads() {
        return Ok(0);
    }
    let warps = (threads + 31) / 32;
    let by_threads = THREADS_MULTIPROCESSOR / 32 / warps;
    let shared = function.shared_bytes() + dynamic + SHARED_RESERVED;
    let by_shared = (SHARED_MULTIPROCESSOR / shared) as i32;
    Ok(by_threads.min(by_shared).min(BLOCKS_MULTIPROCESSOR))
}

export! {
    /// Blocks a multiprocessor.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks_out: *mut c_int, function: usize, threads: c_int, dynamic: usize
    ) in_context {
        let number = with(|s| blocks(&s.kernel(function)?.function, threads, dynamic))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(blocks_out, number) }
    }
    /// Blocks a multiprocessor; the flags (about caches) have no effect.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks_out: *mut c_int, function: usize, threads: c_int, dynamic: usize, _flags: c_uint
    ) in_context {
        let number = with(|s| blocks(&s.kernel(function)?.function, threads, dynamic))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(blocks_out, number) }
    }
    /// Dynamic shared memory that each of so many blocks of a multiprocessor can have.
    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: *mut usize, function: usize, blocks_in: c_int, threads: c_int
    ) in_context {
        let room = with(|s| {
            let function = &s.kernel(function)?.function;
            if blocks_in <= 0 || blocks_in > blocks(function, threads, 0)? {
                return Err(invalid(format!("{blocks_in} blocks of {threads} threads do not fit")));
            }
            let each = SHARED_MULTIPROCESSOR / blocks_in as usize;
            let most = super::device::SHARED_OPT_IN.min(each.saturating_sub(SHARED_RESERVED));
            Ok(most.saturating_sub(function.shared_bytes()))
        })?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(bytes, room) }
    }
    /// The block size with the most resident threads, and the blocks that fill the device then.
    fn cuOccupancyMaxPotentialBlockSize(
        grid: *mut c_int, block: *mut c_int, function: usize, shared: SharedOfBlock, dynamic: usize, limit: c_int
    ) in_context {
        // SAFETY: the caller vouches for the pointers and the function.
        unsafe { best(grid, block, function, shared, dynamic, limit) }
    }
    /// As `cuOccupancyMaxPotentialBlockSize`; the flags (about caches) have no effect.
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: *mut c_int, block: *mut c_int, function: usize, shared: SharedOfBlock, dynamic: usize, limit: c_int,
        _flags: c_uint
    ) in_context {
        // SAFETY: the caller vouches for the pointers and the function.
        unsafe { best(grid, block, function, shared, dynamic, limit) }
    }
    /// Clusters need sm_90.
    fn cuOccupancyMaxActiveClusters(
        _clusters: *mut c_int, _function: usize, _config: *const LaunchConfig
    ) in_context {
        Err(unsupported("clusters of blocks: they need sm_90"))
    }
    /// Clusters need sm_90.
    fn cuOccupancyMaxPotentialClusterSize(
        _size: *mut c_int, _function: usize, _config: *const LaunchConfig
    ) in_context {
        Err(unsupported("clusters of blocks: they need sm_90"))
    }
}

/// # Safety
///
/// The pointers must be null or valid; `shared` must be a function that takes a number of threads.
unsafe fn best(
    grid: *mut c_int,
    block: *mut c_int,
    function: usize,
    shared: SharedOfBlock,
    dynamic: usize,
    limit: c_int,
) -> Outcome {
    let function = with(|s| Ok(s.kernel(function)?.function.clone()))?;
    let most = function.max_threads() as i32;
    let limit = if limit > 0 { limit.min(most) } else { most };
    let (mut threads, mut resident) = (0, 0);
    let mut size = limit;
    while size > 0 {
        // SAFETY: the caller vouches for the function.
        let dynamic = shared.map_or(dynamic, |shared| unsafe { shared(size) });
        let fits = blocks(&function, size, dynamic)?;
        if fits * size > threads * resident {
            (threads, resident) = (size, fits);
        }
        // Whole warps below the limit.
        size = (size - 1) / 32 * 32;
    }
    // SAFETY: the caller vouches for both pointers.
    unsafe {
        put(grid, resident * MULTIPROCESSORS)?;
        put(block, threads)
    }
}
