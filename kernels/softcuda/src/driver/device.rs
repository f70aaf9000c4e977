//! The one device: an sm_80 of sixteen multiprocessors.

use std::ffi::{c_char, c_int, c_uchar, c_uint};

use super::call::{export, invalid, put, unsupported};
use super::report::write_text;
use super::state;
use super::status::{Failure, Outcome, Status};
use crate::limits;

/// Enough for a grid-stride loop to have more than one block, few enough to be interpreted quickly.
pub const MULTIPROCESSORS: i32 = 16;
/// Shared memory that a block may have without asking, with asking, and that a multiprocessor has (sm_80).
pub const SHARED_DEFAULT: usize = limits::STATIC_SHARED_BYTES;
/// See [`SHARED_DEFAULT`].
pub const SHARED_OPT_IN: usize = limits::SHARED_BYTES;
/// See [`SHARED_DEFAULT`].
pub const SHARED_MULTIPROCESSOR: usize = 164 << 10;
/// Of each block, taken by the system (sm_80).
pub const SHARED_RESERVED: usize = 1 << 10;
/// Threads and blocks that a multiprocessor holds (sm_80).
pub const THREADS_MULTIPROCESSOR: i32 = 2048;
/// See [`THREADS_MULTIPROCESSOR`].
pub const BLOCKS_MULTIPROCESSOR: i32 = 32;

const NAME: &str = "softcuda (sm_80 in software)";
/// "softcuda", "tilegrad" in ASCII.
const UUID: [u8; 16] = *b"softcudatilegrad";

/// The device's attributes: those that a program decides by. What is missing here is 0: a texture, a surface, a
/// feature that does not exist.
fn attribute(number: c_int) -> i32 {
    match number {
        1 => 1024,                  // threads a block
        2 | 3 => 1024,              // along x, y
        4 => 64,                    // along z
        5 => i32::MAX,              // blocks along x
        6 | 7 => 65535,             // along y, z
        8 => SHARED_DEFAULT as i32, // shared memory a block
        9 => 64 << 10,              // constant memory
        10 => 32,                   // lanes of a warp
        11 => i32::MAX,             // pitch of a copy
        12 | 82 => 65536,           // registers a block, a multiprocessor
        13 => 1_000_000,            // clock in kHz: no clock, so 1 GHz
        14 => 512,                  // alignment of textures
        23..=29 => 0,               // textures
        16 => MULTIPROCESSORS,
        18 => 0,         // not integrated
        31 => 1,         // concurrent kernels
        36 => 1_000_000, // memory clock in kHz
        37 => 512,       // memory bus in bits
        39 => THREADS_MULTIPROCESSOR,
        40 => 1, // copies beside kernels: the streams' order allows it
        41 => 1, // one address space for all contexts
        75 => 8, // compute capability 8.0
        76 => 0,
        78 => 1,      // stream priorities
        79 | 80 => 1, // L1 caches global and local memory
        81 => SHARED_MULTIPROCESSOR as i32,
        87 => 2, // f32 to f64 throughput, as on the A100
        97 => SHARED_OPT_IN as i32,
        106 => BLOCKS_MULTIPROCESSOR,
        111 => SHARED_RESERVED as i32,
        115 => 1, // memory pools
        _ => 0,
    }
}

/// One past the last attribute of CUDA 13.
const ATTRIBUTES: c_int = 162;

/// Device 0 is the only one.
pub fn check_device(device: c_int) -> Outcome {
    match device {
        0 => Ok(()),
        _ => Err(Failure::new(
            Status::ERROR_INVALID_DEVICE,
            format!("there is no device {device}: softcuda has one, number 0"),
        )),
    }
}

export! {
    /// The handle of device `ordinal`: 0 of 0.
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) initialised {
        check_device(ordinal)?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(device, 0) }
    }
    /// 1.
    fn cuDeviceGetCount(count: *mut c_int) initialised {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(count, 1) }
    }
    /// "softcuda (sm_80 in software)".
    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) initialised {
        check_device(device)?;
        if name.is_null() || length <= 0 {
            return Err(invalid("the name has no place"));
        }
        // SAFETY: not null, and the caller vouches for `length` bytes.
        unsafe { write_text(NAME, name, length as usize) }
    }
    /// The same for all processes.
    fn cuDeviceGetUuid(uuid: *mut [c_uchar; 16], device: c_int) initialised {
        check_device(device)?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(uuid, UUID) }
    }
    /// The same for all processes.
    fn cuDeviceGetUuid_v2(uuid: *mut [c_uchar; 16], device: c_int) initialised {
        check_device(device)?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(uuid, UUID) }
    }
    /// `SOFTCUDA_MEMORY`, else 4 GiB.
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) initialised {
        check_device(device)?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(bytes, state::initialised()?.options.memory_bytes) }
    }
    /// Those of an sm_80 with sixteen multiprocessors, without textures, surfaces and managed memory.
    fn cuDeviceGetAttribute(value: *mut c_int, number: c_int, device: c_int) initialised {
        check_device(device)?;
        if !(1..ATTRIBUTES).contains(&number) {
            return Err(invalid(format!("{number} is no attribute of a device")));
        }
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(value, attribute(number)) }
    }
    /// 8.0.
    fn cuDeviceComputeCapability(major: *mut c_int, minor: *mut c_int, device: c_int) initialised {
        check_device(device)?;
        // SAFETY: the caller vouches for both pointers.
        unsafe { put(major, attribute(75))?; put(minor, attribute(76)) }
    }
    /// It has no bus; this one is nobody's.
    fn cuDeviceGetPCIBusId(id: *mut c_char, length: c_int, device: c_int) initialised {
        check_device(device)?;
        if id.is_null() || length <= 0 {
            return Err(invalid("the identifier has no place"));
        }
        // SAFETY: not null, and the caller vouches for `length` bytes.
        unsafe { write_text("0000:00:00.0", id, length as usize) }
    }
    /// A device does not reach itself as a peer.
    fn cuDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) initialised {
        check_device(device)?;
        check_device(peer)?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(can, 0) }
    }
    /// No execution affinity is supported.
    fn cuDeviceGetExecAffinitySupport(supported: *mut c_int, _kind: c_uint, device: c_int) initialised {
        check_device(device)?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(supported, 0) }
    }
    /// There is one device only.
    fn cuDeviceGetP2PAttribute(_value: *mut c_int, _attribute: c_uint, from: c_int, to: c_int) initialised {
        check_device(from)?;
        check_device(to)?;
        Err(unsupported("attributes between devices: softcuda has one"))
    }
}
