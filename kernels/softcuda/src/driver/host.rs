//! Pinned memory of the host: ordinary memory, aligned to pages, whose pieces are known.

use std::alloc::{self, Layout};
use std::collections::BTreeMap;
use std::ffi::{c_uint, c_void};
use std::sync::{Mutex, PoisonError};

use super::call::{export, invalid, put, unsupported, with};
use super::status::{Failure, Outcome, Status};

/// `CU_MEMHOSTALLOC_PORTABLE`, `_DEVICEMAP`, `_WRITECOMBINED`
const FLAGS: c_uint = 7;
const PAGE: usize = 4096;

#[derive(Clone, Copy)]
struct Piece {
    bytes: usize,
    flags: c_uint,
    /// Allocated here, not only registered.
    owned: bool,
}

/// By address. Beside the session: its memory must stay valid for a host that outlives its context.
static PIECES: Mutex<BTreeMap<usize, Piece>> = Mutex::new(BTreeMap::new());

export! {
    /// Memory that the device can copy from and to while the host goes on.
    fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, flags: c_uint) in_context {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(pointer, allocate(bytes, flags)?) }
    }
    /// As `cuMemHostAlloc` without flags.
    fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) in_context {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(pointer, allocate(bytes, 0)?) }
    }
    /// Gives it back; null is nothing.
    fn cuMemFreeHost(pointer: *mut c_void) in_context {
        if pointer.is_null() {
            return Ok(());
        }
        with(|s| s.forbid_in_capture())?;
        let piece = remove(pointer, true)?;
        // SAFETY: it was allocated with this layout in `allocate`, and is forgotten now.
        unsafe { alloc::dealloc(pointer.cast(), layout(piece.bytes)?) };
        Ok(())
    }
    /// The flags that it was allocated with.
    fn cuMemHostGetFlags(flags: *mut c_uint, pointer: *mut c_void) in_context {
        let pieces = PIECES.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = pieces.get(&(pointer as usize)).ok_or_else(|| unknown(pointer))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(flags, piece.flags) }
    }
    /// Declares memory as pinned, without effect.
    fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, flags: c_uint) in_context {
        if pointer.is_null() || bytes == 0 {
            return Err(invalid("there is no memory to register"));
        }
        let mut pieces = PIECES.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, end) = (pointer as usize, pointer as usize + bytes);
        if pieces.range(..end).next_back().is_some_and(|(at, piece)| at + piece.bytes > start) {
            let text = "part of the memory is registered or pinned already";
            return Err(Failure::new(Status::ERROR_HOST_MEMORY_ALREADY_REGISTERED, text));
        }
        pieces.insert(start, Piece { bytes, flags, owned: false });
        Ok(())
    }
    /// Undoes `cuMemHostRegister`.
    fn cuMemHostUnregister(pointer: *mut c_void) in_context {
        remove(pointer, false).map(|_| ())
    }
    /// A kernel cannot reach memory of the host.
    fn cuMemHostGetDevicePointer_v2(_to: *mut u64, _pointer: *mut c_void, _flags: c_uint) in_context {
        Err(unsupported("kernels that read or write memory of the host"))
    }
}

fn layout(bytes: usize) -> Outcome<Layout> {
    Layout::from_size_align(bytes, PAGE).map_err(|_| invalid(format!("{bytes} bytes are too many")))
}

fn allocate(bytes: usize, flags: c_uint) -> Outcome<*mut c_void> {
    if bytes == 0 || flags & !FLAGS != 0 {
        return Err(invalid(format!("{bytes} bytes of pinned memory with flags {flags:#x}")));
    }
    with(|s| s.forbid_in_capture())?;
    // SAFETY: the size is not 0.
    let pointer = unsafe { alloc::alloc_zeroed(layout(bytes)?) };
    if pointer.is_null() {
        let text = format!("the host has no {bytes} bytes of memory");
        return Err(Failure::shown(Status::ERROR_OUT_OF_MEMORY, text));
    }
    let mut pieces = PIECES.lock().unwrap_or_else(PoisonError::into_inner);
    pieces.insert(pointer as usize, Piece { bytes, flags, owned: true });
    Ok(pointer.cast())
}

fn unknown(pointer: *mut c_void) -> Failure {
    let text = format!("{pointer:p} is not the start of pinned memory");
    Failure::new(Status::ERROR_INVALID_VALUE, text)
}

fn remove(pointer: *mut c_void, owned: bool) -> Outcome<Piece> {
    let mut pieces = PIECES.lock().unwrap_or_else(PoisonError::into_inner);
    match pieces.get(&(pointer as usize)) {
        Some(piece) if piece.owned == owned => {}
        None if !owned => {
            let text = format!("{pointer:p} is not registered");
            return Err(Failure::new(Status::ERROR_HOST_MEMORY_NOT_REGISTERED, text));
        }
        _ => return Err(unknown(pointer)),
    }
    pieces.remove(&(pointer as usize)).ok_or_else(|| unknown(pointer))
}
