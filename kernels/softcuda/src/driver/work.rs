//! Work of a stream: done at once, or collected by a capture and done each time its graph is launched.

use std::ffi::c_void;
use std::slice;

use super::call::{invalid, with};
use super::report;
use super::status::{Failure, Outcome};
use crate::error::Access;
use crate::{Device, Function, Launch};

/// `CUhostFn`
pub type HostFunction = unsafe extern "C" fn(*mut c_void);

/// One thing to do. Host memory is held as an address: whoever enqueues it vouches for it until it is done, and for a
/// graph until the last launch, as CUDA asks.
#[derive(Clone)]
pub enum Work {
    /// Launch a kernel with copies of its arguments.
    Kernel { function: Function, launch: Launch, params: Vec<Vec<u8>> },
    /// Copy from the host.
    Upload { to: u64, from: usize, bytes: usize },
    /// Copy to the host.
    Download { to: usize, from: u64, bytes: usize },
    /// Copy within the device.
    Copy { to: u64, from: u64, bytes: usize },
    /// Fill rows of `count` elements of `width` bytes, `pitch` bytes from row to row.
    Fill { to: u64, pattern: [u8; 4], width: usize, count: usize, rows: usize, pitch: usize },
    /// Call the host.
    Host { function: HostFunction, data: usize },
    /// Forget what memory held: an allocation inside of a graph.
    Nothing,
}

impl Work {
    /// What is wrong with it before it is done, so that a capture refuses it too.
    fn check(&self, device: &Device) -> Outcome {
        match *self {
            Work::Upload { to, from, bytes } => {
                host(from, bytes)?;
                device.check(Access::Write, to, bytes)?;
            }
            Work::Download { to, from, bytes } => {
                host(to, bytes)?;
                device.check(Access::Read, from, bytes)?;
            }
            Work::Copy { to, from, bytes } => {
                device.check(Access::Read, from, bytes)?;
                device.check(Access::Write, to, bytes)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether there is nothing to do: an empty copy is right whatever its pointers.
    fn is_empty(&self) -> bool {
        match *self {
            Work::Upload { bytes, .. }
            | Work::Download { bytes, .. }
            | Work::Copy { bytes, .. } => bytes == 0,
            Work::Fill { count, rows, .. } => count == 0 || rows == 0,
            _ => false,
        }
    }

    /// Does it.
    pub fn perform(&self, device: &Device) -> Outcome {
        if self.is_empty() {
            return Ok(());
        }
        self.check(device)?;
        match self {
            Work::Kernel { function, launch, params } => {
                let params: Vec<&[u8]> = params.iter().map(Vec::as_slice).collect();
                let profile = device.launch(function, *launch, &params)?;
                if device.options().count {
                    report::count(function.name(), &profile);
                }
            }
            &Work::Upload { to, from, bytes } => {
                // SAFETY: not null (checked), and the caller vouches for `bytes` bytes there.
                let source = unsafe { slice::from_raw_parts(from as *const u8, bytes) };
                device.write(to, source)?;
            }
            &Work::Download { to, from, bytes } => {
                // SAFETY: as above, and for writing; bytes have no invalid values.
                let target = unsafe { slice::from_raw_parts_mut(to as *mut u8, bytes) };
                device.read(from, target)?;
            }
            &Work::Copy { to, from, bytes } => device.copy(to, from, bytes)?,
            &Work::Fill { to, ref pattern, width, count, rows, pitch } => {
                for row in 0..rows {
                    device.fill(to + (row * pitch) as u64, &pattern[..width], count)?;
                }
            }
            &Work::Host { function, data } => {
                // SAFETY: the caller handed in a function to be called with this argument.
                unsafe { function(data as *mut c_void) };
            }
            Work::Nothing => {}
        }
        Ok(())
    }
}

fn host(address: usize, bytes: usize) -> Outcome {
    match address {
        0 => Err(invalid(format!("copy of {bytes} bytes: the host pointer is null"))),
        _ => Ok(()),
    }
}

/// Hands work to a stream: it is done when this returns, or stands in the stream's capture.
pub fn enqueue(stream: usize, work: Work) -> Outcome {
    let device = with(|s| match s.capture_of(stream)? {
        Some(capture) => {
            work.check(&s.device)?;
            s.captured(capture, stream, work.clone());
            Ok(None)
        }
        None => Ok(Some(s.device.clone())),
    })?;
    // Not under the lock: kernels take long, and a host function may wait for another thread.
    device.map_or(Ok(()), |device| work.perform(&device))
}

/// As [`enqueue`] for functions that wait for their work: they use the legacy stream, and no capture may go on that
/// they would disturb.
pub fn perform_now(work: Work) -> Outcome {
    with(|s| {
        s.forbid_in_capture()?;
        s.capture_of(0).map(|_| ())
    })?;
    let device = with(|s| Ok(s.device.clone()))?;
    work.perform(&device)
}

/// Device memory that a graph allocated: given back when the graph and all that was made of it are gone.
pub struct GraphMemory {
    device: Device,
    pointers: Vec<u64>,
}

impl GraphMemory {
    /// Takes over allocations.
    pub fn new(device: Device, pointers: Vec<u64>) -> GraphMemory {
        GraphMemory { device, pointers }
    }

    /// Its allocations.
    pub fn pointers(&self) -> &[u64] {
        &self.pointers
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        for &pointer in &self.pointers {
            // It was allocated for this graph, and the driver lets nobody else free it.
            let _: Result<(), Failure> = self.device.free(pointer).map_err(Failure::from);
        }
    }
}
