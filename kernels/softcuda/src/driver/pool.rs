//! Memory pools. Memory goes back to the device at once, so a pool only counts what was taken from it.

use std::ffi::{c_int, c_uint, c_void};

use super::call::{export, invalid, no_such, put, unsupported, with};
use super::device::check_device;
use super::state::{self, Pool, Session};
use super::status::{Failure, Outcome, Status};

/// `CUmemPoolProps` up to the fields that matter: allocation type (1: pinned), handle types (0: none to share),
/// location (type 1: a device; its number).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PoolProperties {
    kind: c_uint,
    handles: c_uint,
    location: c_uint,
    device: c_int,
}

impl Session {
    /// The pool behind a handle.
    pub fn pool(&mut self, handle: usize) -> Outcome<&mut Pool> {
        self.pools.get_mut(&handle).ok_or_else(|| no_such("memory pool", handle))
    }

    /// An allocation is gone.
    pub fn forget(&mut self, pointer: u64) {
        if let Some(gone) = self.allocations.remove(&pointer)
            && let Some(pool) = self.pools.get_mut(&gone.pool)
        {
            pool.used = pool.used.saturating_sub(gone.bytes as u64);
        }
    }
}

export! {
    /// The pool that always exists.
    fn cuDeviceGetDefaultMemPool(pool: *mut usize, device: c_int) in_context {
        check_device(device)?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(pool, with(|s| Ok(s.default_pool))?) }
    }
    /// The pool that `cuMemAllocAsync` takes from.
    fn cuDeviceGetMemPool(pool: *mut usize, device: c_int) in_context {
        check_device(device)?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(pool, with(|s| Ok(s.current_pool))?) }
    }
    /// Makes a pool the one that `cuMemAllocAsync` takes from.
    fn cuDeviceSetMemPool(device: c_int, pool: usize) in_context {
        check_device(device)?;
        with(|s| {
            s.pool(pool)?;
            s.current_pool = pool;
            Ok(())
        })
    }
    /// A pool of device 0 that is not shared with other processes.
    fn cuMemPoolCreate(pool: *mut usize, properties: *const PoolProperties) in_context {
        if properties.is_null() {
            return Err(invalid("the properties are null"));
        }
        // SAFETY: not null, and the caller vouches for the pointer.
        let properties = unsafe { properties.read_unaligned() };
        if properties.kind != 1 || properties.location != 1 {
            return Err(invalid("a pool must be of pinned memory on a device"));
        }
        check_device(properties.device)?;
        if properties.handles != 0 {
            return Err(unsupported("memory pools shared between processes"));
        }
        let handle = state::handle();
        with(|s| {
            s.pools.insert(handle, Pool { reuse: [1; 3], ..Pool::default() });
            Ok(())
        })?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(pool, handle) }
    }
    /// Forgets a pool; its memory stays until it is freed.
    fn cuMemPoolDestroy(pool: usize) in_context {
        with(|s| {
            s.pool(pool)?;
            if pool == s.default_pool {
                return Err(invalid("the default pool cannot be destroyed"));
            }
            s.pools.remove(&pool);
            if s.current_pool == pool {
                s.current_pool = s.default_pool;
            }
            Ok(())
        })
    }
    /// It keeps nothing back.
    fn cuMemPoolTrimTo(pool: usize, _keep: usize) in_context {
        with(|s| s.pool(pool).map(|_| ()))
    }
    /// Reuse switches (1 to 3, int), release threshold (4), reserved and used memory with their peaks (5 to 8).
    fn cuMemPoolGetAttribute(pool: usize, attribute: c_uint, value: *mut c_void) in_context {
        let own = with(|s| s.pool(pool).map(|p| *p))?;
        let number = match attribute {
            // SAFETY: the caller vouches for an int there.
            1..=3 => return unsafe { put(value.cast(), own.reuse[attribute as usize - 1]) },
            4 => own.threshold,
            5 | 7 => own.used,
            6 | 8 => own.high,
            _ => return Err(invalid(format!("{attribute} is no attribute of a pool"))),
        };
        // SAFETY: the caller vouches for a 64-bit number there.
        unsafe { put(value.cast(), number) }
    }
    /// Sets reuse switches and threshold, resets peaks (to 0, which is the only value they take).
    fn cuMemPoolSetAttribute(pool: usize, attribute: c_uint, value: *mut c_void) in_context {
        if value.is_null() {
            return Err(invalid("the value is null"));
        }
        // SAFETY: not null, and the caller vouches for an int there, or for a 64-bit number (read only then).
        let word = || unsafe { value.cast::<u64>().read_unaligned() };
        with(|s| {
            let own = s.pool(pool)?;
            match attribute {
                // SAFETY: as above.
                1..=3 => own.reuse[attribute as usize - 1] = unsafe { value.cast::<i32>().read_unaligned() },
                4 => own.threshold = word(),
                6 | 8 if word() == 0 => own.high = own.used,
                _ => return Err(invalid(format!("attribute {attribute} of a pool cannot be set so"))),
            }
            Ok(())
        })
    }
    /// Device 0 reads and writes (3).
    fn cuMemPoolGetAccess(flags: *mut c_uint, pool: usize, _location: *mut c_void) in_context {
        with(|s| s.pool(pool).map(|_| ()))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(flags, 3) }
    }
    /// There is no other device to give access to.
    fn cuMemPoolSetAccess(pool: usize, _access: *const c_void, count: usize) in_context {
        with(|s| s.pool(pool).map(|_| ()))?;
        match count {
            0 => Ok(()),
            _ => Err(Failure::new(Status::ERROR_NOT_SUPPORTED, "there is no other device")),
        }
    }
}
