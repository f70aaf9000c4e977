//! What can go wrong in a kernel call, as values.

use crate::{Device, Dtype};

/// Result of a kernel call.
pub type Result<T> = std::result::Result<T, Error>;

/// Every message names the op, what it got, and what would have been right.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes that do not fit each other or the op.
    #[error("{op}: {detail}")]
    Shape {
        /// Name of the op.
        op: &'static str,
        /// What it got and what would have been right.
        detail: String,
    },
    /// An argument out of its range, such as a stride of 0.
    #[error("{op}: {detail}")]
    Argument {
        /// Name of the op.
        op: &'static str,
        /// What it got and what would have been right.
        detail: String,
    },
    /// A buffer of another element type than the op takes.
    #[error("{op}: expected {expected}, got {got}")]
    Dtype {
        /// Name of the op.
        op: &'static str,
        /// What the op takes.
        expected: String,
        /// What it was given.
        got: Dtype,
    },
    /// A buffer that lives on another device than the kernel runs on.
    #[error("{op}: buffer is on {got}, but the kernel runs on {expected}; copy it there first")]
    Device {
        /// Name of the op.
        op: &'static str,
        /// Where the kernel runs.
        expected: Device,
        /// Where the buffer is.
        got: Device,
    },
    /// The backend has no kernel for this op and dtype. There is no silent fallback.
    #[error("{op}: not supported on {device} for {dtype}")]
    Unsupported {
        /// Name of the op.
        op: &'static str,
        /// The device that was asked.
        device: Device,
        /// The dtype that was asked for.
        dtype: Dtype,
    },
    /// A label or index outside its range.
    #[error("{op}: index {index} at position {position} is outside 0..{bound}")]
    Index {
        /// Name of the op.
        op: &'static str,
        /// The offending value.
        index: i64,
        /// Where it stands.
        position: usize,
        /// One past the largest valid value.
        bound: usize,
    },
    /// The device has no room for a buffer.
    #[error("out of memory on {device}: {requested} bytes asked for, {in_use} in use")]
    OutOfMemory {
        /// The device.
        device: Device,
        /// Bytes of the failed request.
        requested: usize,
        /// Bytes in use at that time.
        in_use: usize,
    },
    /// The device's driver refused a call, or reports that a kernel failed.
    #[error("{op}: the driver of {device} says: {detail}")]
    Driver {
        /// What was running.
        op: &'static str,
        /// The device.
        device: Device,
        /// The driver's words.
        detail: String,
    },
    /// A device name that is not one of ours.
    #[error("unknown device '{name}': expected cpu, cuda[:i], wgpu[:i], softcuda or reference")]
    UnknownDevice {
        /// What was written.
        name: String,
    },
    /// A device that this machine or this build does not have.
    #[error("device {device} is not available: {reason}")]
    Unavailable {
        /// The device.
        device: Device,
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// A [`Error::Shape`] for `op`.
    pub fn shape(op: &'static str, detail: impl Into<String>) -> Self {
        Error::Shape { op, detail: detail.into() }
    }

    /// An [`Error::Argument`] for `op`.
    pub fn argument(op: &'static str, detail: impl Into<String>) -> Self {
        Error::Argument { op, detail: detail.into() }
    }
}
