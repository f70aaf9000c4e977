//! Stream capture: which streams take part, what they collected, and what is forbidden meanwhile.
//!
//! A capture begins in its origin stream and spreads to each stream that waits for an event recorded in it. When it
//! ends, the origin must have waited for all of them. Which work a stream has waited for is a vector clock: for each
//! stream of the capture, how many of its steps have happened before.

use std::cell::Cell;
use std::collections::HashMap;
use std::thread::{self, ThreadId};

use super::state::{Recorded, Session};
use super::status::{Failure, Outcome, Status};
use super::work::Work;

/// For each stream of a capture, the steps of it that happened before.
pub type Clock = HashMap<usize, u64>;

/// `CU_STREAM_CAPTURE_MODE_GLOBAL`
pub const GLOBAL: u32 = 0;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`
pub const RELAXED: u32 = 2;

/// `CU_STREAM_NON_BLOCKING`
pub const NON_BLOCKING: u32 = 1;

thread_local! {
    /// The thread's own mode (`cuThreadExchangeStreamCaptureMode`).
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

/// Changes the thread's mode, returns the earlier one.
pub fn exchange_mode(mode: u32) -> u32 {
    MODE.replace(mode)
}

/// A capture that goes on.
pub struct Capture {
    pub origin: usize,
    pub mode: u32,
    pub thread: ThreadId,
    /// Why it cannot become a graph any more.
    pub broken: Option<String>,
    pub nodes: Vec<Work>,
    pub clocks: HashMap<usize, Clock>,
    /// Device memory allocated in it.
    pub memory: Vec<u64>,
}

fn error(status: Status, text: impl Into<String>) -> Failure {
    Failure::new(status, text)
}

impl Session {
    /// The capture that a stream takes part in, if it does. An error where using the stream at all is one.
    pub fn capture_of(&mut self, stream: usize) -> Outcome<Option<usize>> {
        self.check_stream(stream)?;
        if stream <= 1 {
            // The legacy stream waits for all blocking streams, so for the captured one too.
            let blocking = |s: &super::state::Stream| s.flags & NON_BLOCKING == 0;
            let found = self.streams.values().find(|s| s.capture.is_some() && blocking(s));
            if let Some(capture) = found.and_then(|s| s.capture) {
                let text = "the legacy stream was used while a blocking stream is in capture";
                return Err(self.break_capture(
                    capture,
                    Status::ERROR_STREAM_CAPTURE_IMPLICIT,
                    text,
                ));
            }
            return Ok(None);
        }
        let Some(capture) = self.streams.get(&stream).and_then(|s| s.capture) else {
            return Ok(None);
        };
        match &self.captures[&capture].broken {
            Some(why) => {
                let text = format!("the capture is invalid: {why}");
                Err(error(Status::ERROR_STREAM_CAPTURE_INVALIDATED, text))
            }
            None => Ok(Some(capture)),
        }
    }

    /// Makes a capture invalid, and the error that says why.
    pub fn break_capture(&mut self, capture: usize, status: Status, text: &str) -> Failure {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.broken.get_or_insert_with(|| text.into());
        }
        error(status, text)
    }

    /// An error where the thread may not do what could wait for the device: it captures itself, or another thread does
    /// in the global mode.
    pub fn forbid_in_capture(&mut self) -> Outcome {
        let (mode, me) = (MODE.get(), thread::current().id());
        let own = |c: &Capture| c.thread == me && c.mode != RELAXED;
        let others = |c: &Capture| mode == GLOBAL && c.mode == GLOBAL;
        let forbids = |c: &&usize| {
            let capture = &self.captures[*c];
            mode != RELAXED && (own(capture) || others(capture))
        };
        match self.captures.keys().find(forbids).copied() {
            Some(capture) => {
                let text = "a stream is in capture: this call could wait for it (allocate before the capture begins)";
                Err(self.break_capture(capture, Status::ERROR_STREAM_CAPTURE_UNSUPPORTED, text))
            }
            None => Ok(()),
        }
    }

    /// Adds work of a stream to its capture.
    pub fn captured(&mut self, capture: usize, stream: usize, work: Work) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.nodes.push(work);
            let clock = capture.clocks.entry(stream).or_default();
            *clock.entry(stream).or_default() += 1;
        }
    }

    /// What an event recorded in a capturing stream stands for.
    pub fn point(&self, capture: usize, stream: usize) -> Recorded {
        let clock = self.captures.get(&capture).and_then(|c| c.clocks.get(&stream));
        Recorded::InCapture(capture, clock.cloned().unwrap_or_default())
    }

    /// Begins a capture in a stream.
    pub fn begin_capture(&mut self, handle: usize, stream: usize, mode: u32) -> Outcome {
        if mode > RELAXED {
            return Err(super::call::invalid(format!("{mode} is no capture mode")));
        }
        if stream <= 2 {
            let text = "a capture needs a stream of its own, not a default stream";
            return Err(error(Status::ERROR_STREAM_CAPTURE_UNSUPPORTED, text));
        }
        let found = self.streams.get_mut(&stream);
        let found = found.ok_or_else(|| super::call::no_such("stream", stream))?;
        if found.capture.is_some() {
            return Err(error(Status::ERROR_ILLEGAL_STATE, "the stream is in capture already"));
        }
        found.capture = Some(handle);
        let capture = Capture {
            origin: stream,
            mode,
            thread: thread::current().id(),
            broken: None,
            nodes: Vec::new(),
            clocks: HashMap::from([(stream, Clock::new())]),
            memory: Vec::new(),
        };
        self.captures.insert(handle, capture);
        Ok(())
    }

    /// Makes a stream wait for an event; joins it to the event's capture.
    pub fn wait(&mut self, stream: usize, event: usize) -> Outcome {
        let own = self.capture_of(stream)?;
        let (capture, clock) = match (&self.event(event)?.recorded, own) {
            (Recorded::InCapture(capture, clock), _) => (*capture, clock.clone()),
            (Recorded::At(_), Some(own)) => {
                let text = "a stream in capture waits for an event that was recorded outside of the capture";
                return Err(self.break_capture(own, Status::ERROR_STREAM_CAPTURE_ISOLATION, text));
            }
            _ => return Ok(()),
        };
        if !self.captures.contains_key(&capture) {
            let text = "the event was recorded in a capture that has ended";
            return Err(error(Status::ERROR_INVALID_VALUE, text));
        }
        if own.is_some_and(|own| own != capture) {
            let text = "the wait would join two captures";
            return Err(error(Status::ERROR_STREAM_CAPTURE_MERGE, text));
        }
        if stream <= 2 {
            let text = "a default stream cannot take part in a capture";
            return Err(self.break_capture(
                capture,
                Status::ERROR_STREAM_CAPTURE_UNSUPPORTED,
                text,
            ));
        }
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.capture = Some(capture);
        }
        if let Some(capture) = self.captures.get_mut(&capture) {
            let own = capture.clocks.entry(stream).or_default();
            for (other, steps) in clock {
                let known = own.entry(other).or_default();
                *known = (*known).max(steps);
            }
            // Joining is a step too: a stream that only waited must be waited for as well.
            if stream != capture.origin {
                *own.entry(stream).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Ends the capture that began in `stream`.
    pub fn end_capture(&mut self, stream: usize) -> Outcome<Capture> {
        self.check_stream(stream)?;
        let handle = self.streams.get(&stream).and_then(|s| s.capture);
        let none = || error(Status::ERROR_ILLEGAL_STATE, "the stream is not in capture");
        let handle = handle.ok_or_else(none)?;
        let capture = &self.captures[&handle];
        if capture.origin != stream {
            let text = "the capture began in another stream, and must end there";
            return Err(error(Status::ERROR_STREAM_CAPTURE_UNMATCHED, text));
        }
        if capture.mode != RELAXED && capture.thread != thread::current().id() {
            let text = "the capture began in another thread, and must end there";
            return Err(error(Status::ERROR_STREAM_CAPTURE_WRONG_THREAD, text));
        }
        self.streams
            .values_mut()
            .filter(|s| s.capture == Some(handle))
            .for_each(|s| s.capture = None);
        let Some(capture) = self.captures.remove(&handle) else { return Err(none()) };
        let known = &capture.clocks[&stream];
        let steps = |s: &usize, clock: &Clock| clock.get(s).copied().unwrap_or(0);
        let unjoined = capture.clocks.iter().any(|(s, clock)| steps(s, clock) > steps(s, known));
        let failure = match &capture.broken {
            Some(why) => {
                let text = format!("the capture is invalid: {why}");
                error(Status::ERROR_STREAM_CAPTURE_INVALIDATED, text)
            }
            None if unjoined => {
                let text =
                    "the origin stream has not waited for all streams that joined the capture";
                error(Status::ERROR_STREAM_CAPTURE_UNJOINED, text)
            }
            None => return Ok(capture),
        };
        for pointer in &capture.memory {
            self.allocations.remove(pointer);
            self.device.free(*pointer)?;
        }
        Err(failure)
    }
}
