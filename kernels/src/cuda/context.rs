//! A device with its two streams, and the driver's errors as ours.

use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, sys};

use super::softcuda::{self, Driver};
use crate::{Device, Error, Result};

/// The driver's answer as ours; `op` was running.
pub fn checked<T>(
    op: &'static str,
    device: Device,
    answer: std::result::Result<T, DriverError>,
) -> Result<T> {
    answer.map_err(|e| Error::Driver { op, device, detail: describe(e) })
}

fn describe(error: DriverError) -> String {
    let text = |text: std::result::Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| "unknown error".to_string(), |s| s.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

/// One device: its context, a stream for kernels and one for uploads.
///
/// Kernels run in the order in which they are handed in, on `compute`. Uploads run on `copy`, beside
/// them; events order the two where one needs the other's bytes.
pub struct Context {
    /// What our errors call it.
    pub device: Device,
    /// cudarc's context: the device's primary one, retained.
    pub cuda: Arc<CudaContext>,
    /// Kernels, fills, downloads.
    pub compute: sys::CUstream,
    /// Uploads.
    pub copy: sys::CUstream,
}

// SAFETY: streams are handles that the driver allows any thread to use; the context is Send and Sync.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Opens a CUDA device, or says in one line why there is none.
    pub fn open(device: Device) -> Result<Context> {
        let (driver, index) = match device {
            Device::Cuda(index) => (Driver::System, index),
            Device::SoftCuda => (Driver::Soft, 0),
            _ => return Err(unavailable(device, "it is no CUDA device".to_string())),
        };
        softcuda::choose(driver).map_err(|reason| unavailable(device, reason))?;
        let absent = |e| unavailable(device, describe(e));
        let count = CudaContext::device_count().map_err(absent)?;
        if index >= count as usize {
            let reason = format!("the driver has {count} devices, counted from 0");
            return Err(unavailable(device, reason));
        }
        let cuda = CudaContext::new(index).map_err(absent)?;
        let stream =
            || result::stream::create(result::stream::StreamKind::NonBlocking).map_err(absent);
        let (compute, copy) = (stream()?, stream()?);
        let context = Context { device, cuda, compute, copy };
        let capability = context.cuda.compute_capability().map_err(absent)?;
        if capability < (8, 0) {
            let (major, minor) = capability;
            let reason = format!("needs compute capability 8.0 or more, got {major}.{minor}");
            return Err(unavailable(device, reason));
        }
        Ok(context)
    }

    /// The driver's answer as ours.
    pub fn checked<T>(
        &self,
        op: &'static str,
        answer: std::result::Result<T, DriverError>,
    ) -> Result<T> {
        checked(op, self.device, answer)
    }

    /// Makes this context the calling thread's: any thread may call a backend.
    pub fn bind(&self, op: &'static str) -> Result<()> {
        self.checked(op, self.cuda.bind_to_thread())
    }

    /// Waits until all work handed in so far is done.
    pub fn synchronize(&self, op: &'static str) -> Result<()> {
        self.bind(op)?;
        for stream in [self.copy, self.compute] {
            // SAFETY: the stream lives as long as this context.
            self.checked(op, unsafe { result::stream::synchronize(stream) })?;
        }
        Ok(())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.cuda.bind_to_thread().is_ok() {
            for stream in [self.copy, self.compute] {
                // SAFETY: made in `open` and destroyed only here; what is still enqueued is finished first by
                // the driver. An error leaves nothing to do.
                let _ = unsafe { result::stream::destroy(stream) };
            }
        }
    }
}

fn unavailable(device: Device, reason: String) -> Error {
    Error::Unavailable { device, reason }
}

/// A point in a stream that another stream or the host can wait for.
pub struct Event(sys::CUevent);

// SAFETY: an event is a handle that the driver allows any thread to use.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Not recorded yet: waiting for it returns at once.
    pub fn new(op: &'static str, context: &Context) -> Result<Event> {
        context.bind(op)?;
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        Ok(Event(context.checked(op, result::event::create(flags))?))
    }

    /// Now stands for all that was handed to `stream` so far.
    pub fn record(&self, op: &'static str, context: &Context, stream: sys::CUstream) -> Result<()> {
        // SAFETY: event and stream are alive: the caller's context owns the one, `self` the other.
        context.checked(op, unsafe { result::event::record(self.0, stream) })
    }

    /// Makes what is handed to `stream` from now on wait for this event.
    pub fn make_wait(
        &self,
        op: &'static str,
        context: &Context,
        stream: sys::CUstream,
    ) -> Result<()> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: as in `record`.
        context.checked(op, unsafe { result::stream::wait_event(stream, self.0, flags) })
    }

    /// Makes the host wait for this event.
    pub fn synchronize(&self, op: &'static str, context: &Context) -> Result<()> {
        // SAFETY: as in `record`.
        context.checked(op, unsafe { result::event::synchronize(self.0) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made in `new` and destroyed only here; the driver keeps what still waits for it alive.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}
