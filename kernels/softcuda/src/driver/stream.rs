//! Streams, and captures in them.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::sync::Arc;

use super::call::{export, invalid, no_such, offer, put, unsupported, with};
use super::capture::{self, NON_BLOCKING};
use super::state::{self, Graph, Stream};
use super::status::{Failure, Outcome, Status};
use super::work::{GraphMemory, HostFunction, Work, enqueue};

export! {
    /// A stream of work that is done in its order.
    fn cuStreamCreate(stream: *mut usize, flags: c_uint) in_context {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(stream, create(flags, 0)?) }
    }
    /// As `cuStreamCreate`; the priority (clamped to 0 to -5) has no effect.
    fn cuStreamCreateWithPriority(stream: *mut usize, flags: c_uint, priority: c_int) in_context {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(stream, create(flags, priority.clamp(-5, 0))?) }
    }
    /// Its work is done already. A capture that began in it is lost.
    fn cuStreamDestroy_v2(stream: usize) in_context {
        with(|s| {
            if stream <= 2 {
                return Err(no_such("stream that can be destroyed", stream));
            }
            let gone = s.streams.remove(&stream).ok_or_else(|| no_such("stream", stream))?;
            if let Some(capture) = gone.capture {
                let text = "a stream of the capture was destroyed";
                s.break_capture(capture, Status::ERROR_STREAM_CAPTURE_INVALIDATED, text);
            }
            Ok(())
        })
    }
    /// All work is done already; an error in a capture.
    fn cuStreamSynchronize(stream: usize) in_context {
        idle(stream)
    }
    /// As `cuStreamSynchronize`: never `CUDA_ERROR_NOT_READY`.
    fn cuStreamQuery(stream: usize) in_context {
        idle(stream)
    }
    /// What the event stands for is done already; in a capture, the stream joins it.
    fn cuStreamWaitEvent(stream: usize, event: usize, _flags: c_uint) in_context {
        with(|s| s.wait(stream, event))
    }
    /// The stream's flags.
    fn cuStreamGetFlags(stream: usize, flags: *mut c_uint) in_context {
        let own = with(|s| {
            s.check_stream(stream)?;
            Ok(s.streams.get(&stream).map_or(0, |s| s.flags))
        })?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(flags, own) }
    }
    /// The stream's priority.
    fn cuStreamGetPriority(stream: usize, priority: *mut c_int) in_context {
        let own = with(|s| {
            s.check_stream(stream)?;
            Ok(s.streams.get(&stream).map_or(0, |s| s.priority))
        })?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(priority, own) }
    }
    /// The thread's context: all share their streams.
    fn cuStreamGetCtx(stream: usize, context: *mut usize) in_context {
        with(|s| s.check_stream(stream))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(context, state::current()) }
    }
    /// A number of its own for each stream.
    fn cuStreamGetId(stream: usize, id: *mut c_ulonglong) in_context {
        with(|s| s.check_stream(stream))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(id, stream as c_ulonglong) }
    }
    /// Calls the host when the work before is done: now, on this thread.
    fn cuLaunchHostFunc(stream: usize, function: Option<HostFunction>, data: *mut c_void) in_context {
        let function = function.ok_or_else(|| invalid("the host function is null"))?;
        enqueue(stream, Work::Host { function, data: data as usize })
    }
    /// As `cuLaunchHostFunc`, with the stream and its status as arguments; not in a capture.
    fn cuStreamAddCallback(
        stream: usize,
        callback: Option<unsafe extern "C" fn(usize, Status, *mut c_void)>,
        data: *mut c_void,
        flags: c_uint
    ) in_context {
        let callback = callback.ok_or_else(|| invalid("the callback is null"))?;
        if flags != 0 {
            return Err(invalid("the flags of a callback must be 0"));
        }
        with(|s| match s.capture_of(stream)? {
            Some(capture) => {
                let text = "callbacks cannot be captured (host functions can)";
                Err(s.break_capture(capture, Status::ERROR_STREAM_CAPTURE_UNSUPPORTED, text))
            }
            None => Ok(()),
        })?;
        // SAFETY: the caller handed it in to be called so.
        unsafe { callback(stream, Status::SUCCESS, data) };
        Ok(())
    }
    /// There is no managed memory.
    fn cuStreamAttachMemAsync(_stream: usize, _pointer: u64, _bytes: usize, _flags: c_uint) in_context {
        Err(unsupported("managed memory"))
    }
    /// From now on the stream collects its work into a graph.
    fn cuStreamBeginCapture_v2(stream: usize, mode: c_uint) in_context {
        let handle = state::handle();
        with(|s| s.begin_capture(handle, stream, mode))
    }
    /// The graph of what was collected. Null and an error if the capture became invalid.
    fn cuStreamEndCapture(stream: usize, graph: *mut usize) in_context {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(graph, 0)? };
        let handle = state::handle();
        with(|s| {
            let capture = s.end_capture(stream)?;
            let memory = Arc::new(GraphMemory::new(s.device.clone(), capture.memory));
            let graph = Graph { nodes: Arc::new(capture.nodes), memory, flags: 0 };
            s.graphs.insert(handle, graph);
            Ok(())
        })?;
        // SAFETY: as above.
        unsafe { put(graph, handle) }
    }
    /// 0: no capture, 1: in capture, 2: in one that is invalid.
    fn cuStreamIsCapturing(stream: usize, status: *mut c_uint) in_context {
        let (now, _) = capture_status(stream)?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(status, now) }
    }
    /// As `cuStreamIsCapturing`, with the capture's number.
    fn cuStreamGetCaptureInfo(stream: usize, status: *mut c_uint, id: *mut c_ulonglong) in_context {
        let (now, capture) = capture_status(stream)?;
        // SAFETY: the caller vouches for both pointers.
        unsafe { put(status, now)?; offer(id, capture as c_ulonglong) }
    }
    /// As `cuStreamGetCaptureInfo`; the graph in the making is not shown.
    fn cuStreamGetCaptureInfo_v2(
        stream: usize, status: *mut c_uint, id: *mut c_ulonglong, graph: *mut usize,
        dependencies: *mut *const usize, count: *mut usize
    ) in_context {
        let (now, capture) = capture_status(stream)?;
        if now != 0 && !(graph.is_null() && dependencies.is_null() && count.is_null()) {
            return Err(unsupported("access to a graph while it is captured"));
        }
        // SAFETY: the caller vouches for the pointers.
        unsafe { put(status, now)?; offer(id, capture as c_ulonglong) }
    }
    /// How strict this thread is about captures: exchanged with `mode`.
    fn cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) initialised {
        if mode.is_null() {
            return Err(invalid("the mode is null"));
        }
        // SAFETY: not null, and the caller vouches for the pointer.
        let new = unsafe { mode.read_unaligned() };
        if new > capture::RELAXED {
            return Err(invalid(format!("{new} is no capture mode")));
        }
        // SAFETY: as above.
        unsafe { put(mode, capture::exchange_mode(new)) }
    }
}

fn create(flags: c_uint, priority: c_int) -> Outcome<usize> {
    if flags & !NON_BLOCKING != 0 {
        return Err(invalid(format!("{flags:#x} are no flags of a stream")));
    }
    let handle = state::handle();
    with(|s| {
        s.streams.insert(handle, Stream { flags, priority, capture: None });
        Ok(handle)
    })
}

fn idle(stream: usize) -> Outcome {
    with(|s| match s.capture_of(stream)? {
        Some(capture) => {
            let text = "a stream in capture was waited for";
            Err(s.break_capture(capture, Status::ERROR_STREAM_CAPTURE_UNSUPPORTED, text))
        }
        None => Ok(()),
    })
}

fn capture_status(stream: usize) -> Outcome<(c_uint, usize)> {
    with(|s| {
        s.check_stream(stream)?;
        let capture = s.streams.get(&stream).and_then(|s| s.capture);
        let Some(handle) = capture else { return Ok((0, 0)) };
        let broken = s.captures.get(&handle).is_none_or(|c| c.broken.is_some());
        Ok::<_, Failure>((if broken { 2 } else { 1 }, handle))
    })
}
