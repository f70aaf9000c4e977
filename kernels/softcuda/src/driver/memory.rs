//! Device memory: allocation, copies, fills.

use std::ffi::{c_uchar, c_uint, c_ushort, c_void};

use super::call::{export, invalid, offer, put, unsupported, with};
use super::state::Allocation;
use super::status::{Outcome, Status};
use super::work::{Work, enqueue, perform_now};

/// Rows of a pitched allocation begin at multiples of this.
const PITCH: usize = 512;

export! {
    /// Memory, aligned to 256 bytes, uninitialised.
    fn cuMemAlloc_v2(pointer: *mut u64, bytes: usize) in_context {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(pointer, allocate_now(bytes)?) }
    }
    /// Rows that begin at multiples of 512 bytes.
    fn cuMemAllocPitch_v2(
        pointer: *mut u64, pitch: *mut usize, width: usize, height: usize, element: c_uint
    ) in_context {
        if ![4, 8, 16].contains(&element) {
            return Err(invalid(format!("elements have 4, 8 or 16 bytes, not {element}")));
        }
        let row = width.checked_next_multiple_of(PITCH).unwrap_or(usize::MAX);
        let bytes = row.checked_mul(height).ok_or_else(|| invalid("width * height overflows"))?;
        // SAFETY: the caller vouches for both pointers.
        unsafe { put(pitch, row)?; put(pointer, allocate_now(bytes)?) }
    }
    /// Managed memory: the host cannot reach softcuda's memory by address.
    fn cuMemAllocManaged(_pointer: *mut u64, _bytes: usize, _flags: c_uint) in_context {
        Err(unsupported("managed memory"))
    }
    /// Gives memory back; null is nothing.
    fn cuMemFree_v2(pointer: u64) in_context {
        if pointer == 0 {
            return Ok(());
        }
        with(|s| {
            s.forbid_in_capture()?;
            free(s, pointer)
        })
    }
    /// Memory from the current pool, in the order of the stream. 0 bytes are null.
    fn cuMemAllocAsync(pointer: *mut u64, bytes: usize, stream: usize) in_context {
        let pool = with(|s| Ok(s.current_pool))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(pointer, allocate(bytes, pool, stream)?) }
    }
    /// As `cuMemAllocAsync`, from a pool of one's own.
    fn cuMemAllocFromPoolAsync(pointer: *mut u64, bytes: usize, pool: usize, stream: usize) in_context {
        with(|s| s.pool(pool).map(|_| ()))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(pointer, allocate(bytes, pool, stream)?) }
    }
    /// Gives memory back in the order of the stream. In a capture: only what it allocated.
    fn cuMemFreeAsync(pointer: u64, stream: usize) in_context {
        with(|s| {
            let capture = s.capture_of(stream)?;
            if pointer == 0 {
                return Ok(());
            }
            let of_graph = s.allocations.get(&pointer).is_some_and(|a| a.of_graph);
            match capture {
                Some(capture) if of_graph => {
                    s.captured(capture, stream, Work::Nothing);
                    Ok(())
                }
                Some(_) => Err(invalid("memory from outside of a capture cannot be freed in it")),
                // It goes with its graph.
                None if of_graph => Ok(()),
                None => free(s, pointer),
            }
        })
    }
    /// Free and total bytes.
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) in_context {
        let (unused, all) = with(|s| Ok(s.device.memory_info()))?;
        // SAFETY: the caller vouches for both pointers, which may be null.
        unsafe { offer(free, unused)?; offer(total, all) }
    }
    /// Start and bytes of the allocation around an address.
    fn cuMemGetAddressRange_v2(base: *mut u64, bytes: *mut usize, pointer: u64) in_context {
        let found = with(|s| Ok(s.device.allocation(pointer)))?;
        let none = || super::status::Failure::new(
            Status::ERROR_NOT_FOUND, format!("{pointer:#x} lies in no allocation"));
        let (start, size) = found.ok_or_else(none)?;
        // SAFETY: the caller vouches for both pointers, which may be null.
        unsafe { offer(base, start)?; offer(bytes, size) }
    }
    /// Host to device.
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) in_context {
        perform_now(Work::Upload { to, from: from as usize, bytes })
    }
    /// Host to device, in the order of the stream.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize) in_context {
        enqueue(stream, Work::Upload { to, from: from as usize, bytes })
    }
    /// Device to host.
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) in_context {
        perform_now(Work::Download { to: to as usize, from, bytes })
    }
    /// Device to host, in the order of the stream.
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize) in_context {
        enqueue(stream, Work::Download { to: to as usize, from, bytes })
    }
    /// Within the device.
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) in_context {
        perform_now(Work::Copy { to, from, bytes })
    }
    /// Within the device, in the order of the stream.
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) in_context {
        enqueue(stream, Work::Copy { to, from, bytes })
    }
    /// Between contexts, which share their memory.
    fn cuMemcpyPeer(to: u64, _to_context: usize, from: u64, _from_context: usize, bytes: usize) in_context {
        perform_now(Work::Copy { to, from, bytes })
    }
    /// Between contexts, which share their memory.
    fn cuMemcpyPeerAsync(
        to: u64, _to_context: usize, from: u64, _from_context: usize, bytes: usize, stream: usize
    ) in_context {
        enqueue(stream, Work::Copy { to, from, bytes })
    }
    /// Fills with a byte.
    fn cuMemsetD8_v2(to: u64, value: c_uchar, count: usize) in_context {
        perform_now(fill(to, value.into(), 1, count))
    }
    /// Fills with 2 bytes.
    fn cuMemsetD16_v2(to: u64, value: c_ushort, count: usize) in_context {
        perform_now(fill(to, value.into(), 2, count))
    }
    /// Fills with 4 bytes.
    fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) in_context {
        perform_now(fill(to, value, 4, count))
    }
    /// Fills with a byte, in the order of the stream.
    fn cuMemsetD8Async(to: u64, value: c_uchar, count: usize, stream: usize) in_context {
        enqueue(stream, fill(to, value.into(), 1, count))
    }
    /// Fills with 2 bytes, in the order of the stream.
    fn cuMemsetD16Async(to: u64, value: c_ushort, count: usize, stream: usize) in_context {
        enqueue(stream, fill(to, value.into(), 2, count))
    }
    /// Fills with 4 bytes, in the order of the stream.
    fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: usize) in_context {
        enqueue(stream, fill(to, value, 4, count))
    }
    /// Fills rows with a byte.
    fn cuMemsetD2D8_v2(to: u64, pitch: usize, value: c_uchar, width: usize, rows: usize) in_context {
        perform_now(fill_rows(to, pitch, value.into(), 1, width, rows))
    }
    /// Fills rows with 2 bytes.
    fn cuMemsetD2D16_v2(to: u64, pitch: usize, value: c_ushort, width: usize, rows: usize) in_context {
        perform_now(fill_rows(to, pitch, value.into(), 2, width, rows))
    }
    /// Fills rows with 4 bytes.
    fn cuMemsetD2D32_v2(to: u64, pitch: usize, value: c_uint, width: usize, rows: usize) in_context {
        perform_now(fill_rows(to, pitch, value, 4, width, rows))
    }
    /// Fills rows with a byte, in the order of the stream.
    fn cuMemsetD2D8Async(
        to: u64, pitch: usize, value: c_uchar, width: usize, rows: usize, stream: usize
    ) in_context {
        enqueue(stream, fill_rows(to, pitch, value.into(), 1, width, rows))
    }
    /// Fills rows with 2 bytes, in the order of the stream.
    fn cuMemsetD2D16Async(
        to: u64, pitch: usize, value: c_ushort, width: usize, rows: usize, stream: usize
    ) in_context {
        enqueue(stream, fill_rows(to, pitch, value.into(), 2, width, rows))
    }
    /// Fills rows with 4 bytes, in the order of the stream.
    fn cuMemsetD2D32Async(
        to: u64, pitch: usize, value: c_uint, width: usize, rows: usize, stream: usize
    ) in_context {
        enqueue(stream, fill_rows(to, pitch, value, 4, width, rows))
    }
}

fn fill(to: u64, value: u32, width: usize, count: usize) -> Work {
    fill_rows(to, 0, value, width, count, 1)
}

fn fill_rows(to: u64, pitch: usize, value: u32, width: usize, count: usize, rows: usize) -> Work {
    Work::Fill { to, pattern: value.to_le_bytes(), width, count, rows, pitch }
}

fn allocate_now(bytes: usize) -> Outcome<u64> {
    with(|s| {
        s.forbid_in_capture()?;
        let pointer = s.device.alloc(bytes)?;
        s.allocations.insert(pointer, Allocation { bytes, pool: 0, of_graph: false });
        Ok(pointer)
    })
}

/// In a capture, the memory is taken at once and belongs to the graph: its address must not change from launch to
/// launch.
fn allocate(bytes: usize, pool: usize, stream: usize) -> Outcome<u64> {
    with(|s| {
        let capture = s.capture_of(stream)?;
        if bytes == 0 {
            return Ok(0);
        }
        let pointer = s.device.alloc(bytes)?;
        s.allocations.insert(pointer, Allocation { bytes, pool, of_graph: capture.is_some() });
        if let Some(pool) = s.pools.get_mut(&pool) {
            pool.used += bytes as u64;
            pool.high = pool.high.max(pool.used);
        }
        if let Some(capture) = capture {
            s.captured(capture, stream, Work::Nothing);
            if let Some(capture) = s.captures.get_mut(&capture) {
                capture.memory.push(pointer);
            }
        }
        Ok(pointer)
    })
}

fn free(s: &mut super::state::Session, pointer: u64) -> Outcome {
    if s.allocations.get(&pointer).is_some_and(|a| a.of_graph) {
        return Err(invalid("this memory belongs to a graph: destroy that"));
    }
    s.device.free(pointer)?;
    s.forget(pointer);
    Ok(())
}
