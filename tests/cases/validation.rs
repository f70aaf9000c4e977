//! What the graphics API's validation layer says while kernels run through wgpu: an error there fails the test.
//!
//! wgpu hands the layer's messages to the `log` crate.

use std::sync::{Mutex, Once};

static ERRORS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Listener;

impl log::Log for Listener {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() == log::Level::Error && metadata.target().starts_with("wgpu_hal")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut errors = ERRORS.lock().unwrap_or_else(|e| e.into_inner());
            errors.push(format!("{}: {}", record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// From now on errors are noted.
pub fn listen() {
    static LISTENER: Listener = Listener;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LISTENER).expect("the tests have no other logger");
        log::set_max_level(log::LevelFilter::Error);
    });
}

/// The errors so far, of all tests of this process.
pub fn validation_errors() -> Vec<String> {
    ERRORS.lock().unwrap_or_else(|e| e.into_inner()).clone()
}
