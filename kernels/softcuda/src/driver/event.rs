//! Events: points in streams, with the time at which they were reached.

use std::ffi::c_uint;
use std::time::Instant;

use super::call::{export, invalid, no_such, put, with};
use super::state::{self, Event, Recorded};
use super::status::{Failure, Outcome, Status};

/// `CU_EVENT_DISABLE_TIMING`
const DISABLE_TIMING: c_uint = 2;
/// `CU_EVENT_INTERPROCESS`
const INTERPROCESS: c_uint = 4;

export! {
    /// An event that stands for nothing yet.
    fn cuEventCreate(event: *mut usize, flags: c_uint) in_context {
        if flags > 7 || (flags & INTERPROCESS != 0 && flags & DISABLE_TIMING == 0) {
            return Err(invalid(format!("{flags:#x} are no flags of an event")));
        }
        let handle = state::handle();
        with(|s| {
            s.events.insert(handle, Event { flags, recorded: Recorded::Never });
            Ok(())
        })?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(event, handle) }
    }
    /// Forgets an event.
    fn cuEventDestroy_v2(event: usize) in_context {
        with(|s| s.events.remove(&event).map(|_| ()).ok_or_else(|| no_such("event", event)))
    }
    /// From now on the event stands for all work that the stream got so far.
    fn cuEventRecord(event: usize, stream: usize) in_context {
        record(event, stream)
    }
    /// As `cuEventRecord`; recording by a graph's launch (flag 1) is not supported.
    fn cuEventRecordWithFlags(event: usize, stream: usize, flags: c_uint) in_context {
        match flags {
            0 => record(event, stream),
            1 => Err(super::call::unsupported("events that a graph records")),
            _ => Err(invalid(format!("{flags:#x} are no flags of a record"))),
        }
    }
    /// The work that it stands for is done already: never `CUDA_ERROR_NOT_READY`.
    fn cuEventQuery(event: usize) in_context {
        reached(event)
    }
    /// As `cuEventQuery`.
    fn cuEventSynchronize(event: usize) in_context {
        reached(event)
    }
    /// Milliseconds between two events.
    fn cuEventElapsedTime(milliseconds: *mut f32, start: usize, end: usize) in_context {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(milliseconds, elapsed(start, end)?) }
    }
    /// As `cuEventElapsedTime`.
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: usize, end: usize) in_context {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(milliseconds, elapsed(start, end)?) }
    }
}

fn record(event: usize, stream: usize) -> Outcome {
    with(|s| {
        let recorded = match s.capture_of(stream)? {
            Some(capture) => s.point(capture, stream),
            None => Recorded::At(Instant::now()),
        };
        s.event(event)?.recorded = recorded;
        Ok(())
    })
}

fn reached(event: usize) -> Outcome {
    with(|s| {
        s.forbid_in_capture()?;
        match s.event(event)?.recorded {
            Recorded::InCapture(capture, _) => {
                let text = "the event was recorded in a capture: nothing to wait for before the graph is launched";
                Err(s.break_capture(capture, Status::ERROR_CAPTURED_EVENT, text))
            }
            _ => Ok(()),
        }
    })
}

fn elapsed(start: usize, end: usize) -> Outcome<f32> {
    with(|s| {
        let mut time = |handle| {
            let event = s.event(handle)?;
            match event.recorded {
                _ if event.flags & DISABLE_TIMING != 0 => Err(Failure::new(
                    Status::ERROR_INVALID_HANDLE,
                    "the event was made without timing (CU_EVENT_DISABLE_TIMING)",
                )),
                Recorded::At(time) => Ok(time),
                _ => Err(Failure::new(Status::ERROR_INVALID_HANDLE, "the event was not recorded")),
            }
        };
        let (start, end) = (time(start)?, time(end)?);
        let seconds = match end.checked_duration_since(start) {
            Some(later) => later.as_secs_f64(),
            None => -start.duration_since(end).as_secs_f64(),
        };
        Ok((seconds * 1e3) as f32)
    })
}
