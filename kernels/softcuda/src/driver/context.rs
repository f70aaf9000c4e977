//! Initialisation, contexts, limits.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

use super::call::{export, invalid, put, unsupported, with};
use super::device::check_device;
use super::state;
use super::status::{Failure, Outcome, Status};

/// CUDA 12.0: the version of the API that is implemented, and of the newest PTX (8.0) that NVIDIA's driver of that
/// version takes.
pub const DRIVER_VERSION: c_int = 12000;

/// Flags that a context may have (`CU_CTX_SCHED_*`, `CU_CTX_MAP_HOST`, ...).
const CONTEXT_FLAGS: c_uint = 0xff;

export! {
    /// Reads the environment's switches; anything else needs it to have been called.
    fn cuInit(flags: c_uint) anytime {
        match flags {
            0 => state::initialise(),
            _ => Err(invalid(format!("cuInit: flags must be 0, got {flags:#x}"))),
        }
    }
    /// 12000.
    fn cuDriverGetVersion(version: *mut c_int) anytime {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(version, DRIVER_VERSION) }
    }
    /// The C name of a result code.
    fn cuGetErrorName(error: Status, name: *mut *const c_char) anytime {
        let words = error.words().ok_or_else(|| invalid(format!("{} is no CUresult", error.0)))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(name, words.0.as_ptr()) }
    }
    /// A sentence for a result code.
    fn cuGetErrorString(error: Status, text: *mut *const c_char) anytime {
        let words = error.words().ok_or_else(|| invalid(format!("{} is no CUresult", error.0)))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(text, words.1.as_ptr()) }
    }
    /// Makes the device's primary context, or counts one more user of it.
    fn cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) initialised {
        check_device(device)?;
        let fresh = state::handle();
        let handle = state::session(true, |s| {
            let (handle, users) = s.primary.get_or_insert((fresh, 0));
            *users += 1;
            let handle = *handle;
            s.contexts.entry(handle).or_insert(s.primary_flags);
            Ok(handle)
        })?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(context, handle) }
    }
    /// One user of the primary context less; the last takes it away with all that it holds.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) initialised {
        check_device(device)?;
        release_primary(false)
    }
    /// Takes the primary context away whoever uses it. The way to go on after a fault.
    fn cuDevicePrimaryCtxReset_v2(device: c_int) initialised {
        check_device(device)?;
        release_primary(true)
    }
    /// Flags of the primary context, and whether it exists.
    fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) initialised {
        check_device(device)?;
        let state = state::session(false, |s| Ok((s.primary_flags, s.primary.is_some())));
        let (now, exists) = state.unwrap_or((0, false));
        // SAFETY: the caller vouches for both pointers.
        unsafe { put(flags, now)?; put(active, c_int::from(exists)) }
    }
    /// How the host should wait: accepted, without effect, since it never has to.
    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) initialised {
        check_device(device)?;
        check_flags(flags)?;
        // Without a session there is nothing to remember it in; it has no effect anyway.
        let _ = state::session(false, |s| { s.primary_flags = flags; Ok(()) });
        Ok(())
    }
    /// A context beside the primary one.
    fn cuCtxCreate_v2(context: *mut usize, flags: c_uint, device: c_int) initialised {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(context, create(flags, device)?) }
    }
    /// As `cuCtxCreate_v2`; affinity to some multiprocessors is not supported.
    fn cuCtxCreate_v3(context: *mut usize, affinity: *mut c_void, count: c_int, flags: c_uint, device: c_int)
        initialised
    {
        if !affinity.is_null() || count != 0 {
            return Err(unsupported("contexts with an execution affinity"));
        }
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(context, create(flags, device)?) }
    }
    /// As `cuCtxCreate_v2`; parameters are not supported.
    fn cuCtxCreate_v4(context: *mut usize, parameters: *mut c_void, flags: c_uint, device: c_int) initialised {
        if !parameters.is_null() {
            return Err(unsupported("contexts with creation parameters"));
        }
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(context, create(flags, device)?) }
    }
    /// Ends a context that `cuCtxCreate` made.
    fn cuCtxDestroy_v2(context: usize) initialised {
        state::session(false, |s| {
            if s.primary.is_some_and(|(handle, _)| handle == context) {
                return Err(invalid("the primary context is released, not destroyed"));
            }
            s.contexts.remove(&context).map(|_| ()).ok_or_else(|| no_context(context))
        })?;
        if state::current() == context {
            state::set_current(state::pushed(Vec::pop).unwrap_or(0));
        }
        state::end_session(false);
        Ok(())
    }
    /// The thread's context; null if it has none.
    fn cuCtxGetCurrent(context: *mut usize) anytime {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(context, state::current()) }
    }
    /// Makes a context the thread's; null takes it away.
    fn cuCtxSetCurrent(context: usize) initialised {
        check_context(context)?;
        state::set_current(context);
        Ok(())
    }
    /// Makes a context the thread's, above the one that it had.
    fn cuCtxPushCurrent_v2(context: usize) initialised {
        check_context(context)?;
        let below = state::current();
        state::pushed(|stack| stack.push(below));
        state::set_current(context);
        Ok(())
    }
    /// Takes the thread's context away and returns to the one below.
    fn cuCtxPopCurrent_v2(context: *mut usize) initialised {
        let top = state::current();
        if top == 0 {
            return Err(Failure::new(Status::ERROR_INVALID_CONTEXT, "the thread has no context"));
        }
        state::set_current(state::pushed(Vec::pop).unwrap_or(0));
        // SAFETY: the caller vouches for the pointer.
        unsafe { super::call::offer(context, top) }
    }
    /// Device 0.
    fn cuCtxGetDevice(device: *mut c_int) in_context {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(device, 0) }
    }
    /// The flags that the context was made with.
    fn cuCtxGetFlags(flags: *mut c_uint) in_context {
        let own = with(|s| Ok(s.contexts.get(&state::current()).copied().unwrap_or(0)))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(flags, own) }
    }
    /// Changes the context's flags; without effect.
    fn cuCtxSetFlags(flags: c_uint) in_context {
        check_flags(flags)?;
        with(|s| { s.contexts.insert(state::current(), flags); Ok(()) })
    }
    /// A number of its own for each context.
    fn cuCtxGetId(context: usize, id: *mut c_ulonglong) in_context {
        let handle = if context == 0 { state::current() } else { context };
        check_context(handle)?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(id, handle as c_ulonglong) }
    }
    /// 12000.
    fn cuCtxGetApiVersion(context: usize, version: *mut c_uint) initialised {
        check_context(context)?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(version, DRIVER_VERSION as c_uint) }
    }
    /// All work is done already; an error if that would end a capture.
    fn cuCtxSynchronize() in_context {
        with(|s| s.forbid_in_capture())
    }
    /// A limit as it was set, else CUDA's default.
    fn cuCtxGetLimit(value: *mut usize, limit: c_uint) in_context {
        let default = default_limit(limit)?;
        let now = with(|s| Ok(s.limits.get(&limit).copied().unwrap_or(default)))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(value, now) }
    }
    /// Remembered; softcuda has none of the resources that are limited here.
    fn cuCtxSetLimit(limit: c_uint, value: usize) in_context {
        default_limit(limit)?;
        with(|s| { s.limits.insert(limit, value); Ok(()) })
    }
    /// No preference between cache and shared memory.
    fn cuCtxGetCacheConfig(config: *mut c_uint) in_context {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(config, 0) }
    }
    /// A preference: accepted, without effect.
    fn cuCtxSetCacheConfig(config: c_uint) in_context {
        check_cache(config)
    }
    /// Banks of 4 bytes.
    fn cuCtxGetSharedMemConfig(config: *mut c_uint) in_context {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(config, 1) }
    }
    /// Accepted, without effect, as on devices since Maxwell.
    fn cuCtxSetSharedMemConfig(_config: c_uint) in_context {
        Ok(())
    }
    /// Priorities 0 (least) to -5, which have no effect.
    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) in_context {
        // SAFETY: the caller vouches for both pointers, which may be null.
        unsafe { super::call::offer(least, 0)?; super::call::offer(greatest, -5) }
    }
    /// There is no cache.
    fn cuCtxResetPersistingL2Cache() in_context {
        Ok(())
    }
    /// Counters are switched by `SOFTCUDA_PROFILE`: accepted, without effect.
    fn cuProfilerStart() in_context {
        Ok(())
    }
    /// As `cuProfilerStart`.
    fn cuProfilerStop() in_context {
        Ok(())
    }
}

fn release_primary(at_once: bool) -> Outcome {
    let outcome = state::session(false, |s| {
        let none = || Failure::new(Status::ERROR_INVALID_CONTEXT, "there is no primary context");
        let (handle, users) = s.primary.as_mut().ok_or_else(none)?;
        *users -= 1;
        if at_once || *users == 0 {
            let handle = *handle;
            s.contexts.remove(&handle);
            s.primary = None;
        }
        Ok(())
    });
    state::end_session(false);
    // Resetting what does not exist is right.
    if at_once { Ok(()) } else { outcome }
}

fn create(flags: c_uint, device: c_int) -> Outcome<usize> {
    check_device(device)?;
    check_flags(flags)?;
    let handle = state::handle();
    state::session(true, |s| {
        s.contexts.insert(handle, flags);
        Ok(())
    })?;
    let below = state::current();
    state::pushed(|stack| stack.push(below));
    state::set_current(handle);
    Ok(handle)
}

fn no_context(context: usize) -> Failure {
    Failure::new(Status::ERROR_INVALID_CONTEXT, format!("{context:#x} is no live context"))
}

/// Null is allowed: no context.
fn check_context(context: usize) -> Outcome {
    if context == 0 {
        return Ok(());
    }
    let exists = state::session(false, |s| Ok(s.contexts.contains_key(&context)));
    if exists.unwrap_or(false) { Ok(()) } else { Err(no_context(context)) }
}

fn check_flags(flags: c_uint) -> Outcome {
    match flags & !CONTEXT_FLAGS {
        0 => Ok(()),
        _ => Err(invalid(format!("{flags:#x} are no flags of a context"))),
    }
}

/// A preference for cache or shared memory has one of four values.
pub fn check_cache(config: c_uint) -> Outcome {
    if config < 4 { Ok(()) } else { Err(invalid(format!("{config} is no cache preference"))) }
}

/// Limits in the order of `CUlimit`: stack, printf, heap, synchronisation depth, pending launches, L2 fetch, L2 size.
fn default_limit(limit: c_uint) -> Outcome<usize> {
    const DEFAULTS: [usize; 7] = [1024, 1 << 20, 8 << 20, 2, 2048, 64, 0];
    DEFAULTS.get(limit as usize).copied().ok_or_else(|| {
        Failure::new(Status::ERROR_UNSUPPORTED_LIMIT, format!("{limit} is no limit of this device"))
    })
}
