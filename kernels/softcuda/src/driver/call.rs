//! The border to C: what each exported function does before and after its own work.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::report;
use super::state::{self, Session};
use super::status::{Failure, Outcome, Status};

/// Defines functions that are exported under their C names. What stands after the parameters says what must hold
/// first: `anytime`, `initialised` (cuInit was called), or `in_context` (the thread has a context, and no kernel has
/// faulted).
macro_rules! export {
    ($($(#[$note:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $when:ident $body:block)*) => {
        $(
            $(#[$note])*
            ///
            /// # Safety
            ///
            /// Pointers must be null, or valid as the CUDA Driver API asks for.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> $crate::driver::status::Status {
                $crate::driver::call::$when(stringify!($name), move || $body)
            }
        )*
    };
}
pub(super) use export;

/// Runs a function that needs nothing.
pub fn anytime(name: &str, body: impl FnOnce() -> Outcome) -> Status {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        let text = format!("softcuda itself failed: {words}");
        Err(Failure::shown(Status::ERROR_UNKNOWN, text))
    });
    match outcome {
        Ok(()) => Status::SUCCESS,
        Err(failure) => {
            let status = failure.status;
            report::remember(name, failure);
            status
        }
    }
}

/// Runs a function that needs cuInit.
pub fn initialised(name: &str, body: impl FnOnce() -> Outcome) -> Status {
    anytime(name, || {
        state::initialised()?;
        body()
    })
}

/// Runs a function that needs a context without a fault.
pub fn in_context(name: &str, body: impl FnOnce() -> Outcome) -> Status {
    anytime(name, || {
        state::with(|_| Ok(()))?;
        body()
    })
}

/// Runs a function on the state of the thread's context, under its lock.
pub fn with<T>(body: impl FnOnce(&mut Session) -> Outcome<T>) -> Outcome<T> {
    state::with(body)
}

/// Stores a result where the caller wants it.
///
/// # Safety
///
/// `to` must be null, or valid for a write of a `T`.
pub unsafe fn put<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(Failure::new(
            Status::ERROR_INVALID_VALUE,
            "a result has no place: null pointer",
        ));
    }
    // SAFETY: not null, and the caller vouches for the rest; C promises no alignment beyond the type's own, and
    // none is relied on.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// As [`put`], but nothing happens where the caller does not want the result.
///
/// # Safety
///
/// As for [`put`].
pub unsafe fn offer<T>(to: *mut T, value: T) -> Outcome {
    // SAFETY: the caller's promise, passed on.
    if to.is_null() { Ok(()) } else { unsafe { put(to, value) } }
}

/// `CUDA_ERROR_INVALID_VALUE`.
pub fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(Status::ERROR_INVALID_VALUE, text)
}

/// `CUDA_ERROR_INVALID_HANDLE`.
pub fn no_such(what: &str, handle: usize) -> Failure {
    Failure::new(Status::ERROR_INVALID_HANDLE, format!("{handle:#x} is no live {what}"))
}

/// `CUDA_ERROR_NOT_SUPPORTED`.
pub fn unsupported(text: impl Into<String>) -> Failure {
    Failure::shown(Status::ERROR_NOT_SUPPORTED, text)
}
