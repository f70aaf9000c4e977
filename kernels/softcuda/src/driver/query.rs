//! What a pointer is.

use std::ffi::{c_int, c_uint, c_void};

use super::call::{export, invalid, put, unsupported, with};
use super::state;
use super::status::Outcome;

export! {
    /// Context (1), kind of memory (2: device), address (3), managed (8), device (9), start and bytes (11, 12), pool
    /// (17) of device memory; anything else is no pointer that CUDA knows.
    fn cuPointerGetAttribute(value: *mut c_void, attribute: c_uint, pointer: u64) in_context {
        let (start, bytes) = allocation(pointer)?;
        // SAFETY: the caller vouches for a place of the attribute's type.
        unsafe {
            match attribute {
                1 => put(value.cast(), state::current()),
                2 => put(value.cast::<c_uint>(), 2),
                3 => put(value.cast(), pointer),
                8 => put(value.cast::<c_uint>(), 0),
                9 => put(value.cast::<c_int>(), 0),
                11 => put(value.cast(), start),
                12 => put(value.cast(), bytes),
                17 => put(value.cast(), with(|s| {
                    Ok(s.allocations.get(&start).map_or(0, |a| a.pool))
                })?),
                _ => Err(unsupported(format!("attribute {attribute} of a pointer"))),
            }
        }
    }
}

fn allocation(pointer: u64) -> Outcome<(u64, usize)> {
    let found = with(|s| Ok(s.device.allocation(pointer)))?;
    found.ok_or_else(|| invalid(format!("{pointer:#x} lies in no allocation of device memory")))
}
