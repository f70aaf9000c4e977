//! Ctrl-C and SIGTERM: the first is a request to save and stop after the step, the second ends the
//! process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether, and by which signal, this process was asked to stop.
#[derive(Clone, Default)]
pub struct Stop {
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Starts to listen.
    pub fn listen() -> Result<Stop> {
        let stop = Stop::default();
        let second = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Handlers run in this order: the first signal finds `second` unset, sets it, and notes
            // its number.
            flag::register_conditional_default(signal, second.clone())
                .and_then(|_| flag::register(signal, second.clone()))
                .and_then(|_| flag::register_usize(signal, stop.signal.clone(), signal as usize))
                .context("cannot listen for Ctrl-C")?;
        }
        Ok(stop)
    }

    /// The exit code to stop with, if asked to: 128 + the signal's number.
    pub fn exit_code(&self) -> Option<u8> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(128 + signal as u8),
        }
    }

    /// As if this signal had come.
    #[cfg(test)]
    pub fn raise(&self, signal: i32) {
        self.signal.store(signal as usize, Ordering::Relaxed);
    }
}
