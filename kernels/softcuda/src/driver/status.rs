//! CUDA's result codes, and how this crate's errors become them.

use std::ffi::CStr;

use crate::error::Error;

/// A `CUresult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub i32);

/// A failed call: its code and its cause in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code.
    pub status: Status,
    /// The cause.
    pub text: String,
    /// Whether a person should see the text at once.
    pub shown: bool,
    /// Whether a kernel faulted: the context is lost.
    pub sticky: bool,
}

/// What the functions behind the C border return.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// An error that the caller may expect: not printed.
    pub fn new(status: Status, text: impl Into<String>) -> Failure {
        Failure { status, text: text.into(), shown: false, sticky: false }
    }

    /// An error that is printed.
    pub fn shown(status: Status, text: impl Into<String>) -> Failure {
        Failure { shown: true, ..Failure::new(status, text) }
    }
}

macro_rules! statuses {
    ($($code:literal $name:ident $text:literal;)*) => {
        #[allow(missing_docs)]
        impl Status {
            $(#[allow(dead_code)] pub const $name: Status = Status($code);)*

            /// Its name in C, and a sentence; `None` for a number that is no `CUresult`.
            pub fn words(self) -> Option<(&'static CStr, &'static CStr)> {
                match self.0 {
                    $($code => {
                        let name = concat!("CUDA_", stringify!($name), "\0");
                        let text = concat!($text, "\0");
                        Some((c_str(name), c_str(text)))
                    })*
                    _ => None,
                }
            }
        }
    };
}

fn c_str(text: &'static str) -> &'static CStr {
    CStr::from_bytes_until_nul(text.as_bytes()).unwrap_or(c"unknown")
}

statuses! {
    0 SUCCESS "no error";
    1 ERROR_INVALID_VALUE "invalid argument";
    2 ERROR_OUT_OF_MEMORY "out of memory";
    3 ERROR_NOT_INITIALIZED "cuInit was not called";
    4 ERROR_DEINITIALIZED "driver shutting down";
    5 ERROR_PROFILER_DISABLED "profiler disabled";
    34 ERROR_STUB_LIBRARY "the CUDA driver is a stub library";
    46 ERROR_DEVICE_UNAVAILABLE "device busy or unavailable";
    100 ERROR_NO_DEVICE "no CUDA-capable device";
    101 ERROR_INVALID_DEVICE "invalid device ordinal";
    200 ERROR_INVALID_IMAGE "device kernel image is invalid";
    201 ERROR_INVALID_CONTEXT "invalid device context";
    209 ERROR_NO_BINARY_FOR_GPU "no kernel image for this device";
    214 ERROR_ECC_UNCORRECTABLE "uncorrectable ECC error";
    215 ERROR_UNSUPPORTED_LIMIT "limit is not supported";
    217 ERROR_PEER_ACCESS_UNSUPPORTED "peer access is not supported";
    218 ERROR_INVALID_PTX "the PTX was refused";
    221 ERROR_JIT_COMPILER_NOT_FOUND "PTX compiler library not found";
    222 ERROR_UNSUPPORTED_PTX_VERSION "the PTX has an unsupported version";
    224 ERROR_UNSUPPORTED_EXEC_AFFINITY "execution affinity is not supported";
    300 ERROR_INVALID_SOURCE "device kernel source is invalid";
    301 ERROR_FILE_NOT_FOUND "file not found";
    302 ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND "shared object symbol not found";
    303 ERROR_SHARED_OBJECT_INIT_FAILED "shared object initialization failed";
    304 ERROR_OPERATING_SYSTEM "a call of the operating system failed";
    400 ERROR_INVALID_HANDLE "invalid resource handle";
    401 ERROR_ILLEGAL_STATE "the operation cannot be performed in the present state";
    500 ERROR_NOT_FOUND "named symbol not found";
    600 ERROR_NOT_READY "device not ready";
    700 ERROR_ILLEGAL_ADDRESS "an illegal memory access was encountered";
    701 ERROR_LAUNCH_OUT_OF_RESOURCES "too many resources requested for launch";
    702 ERROR_LAUNCH_TIMEOUT "the launch timed out and was terminated";
    704 ERROR_PEER_ACCESS_ALREADY_ENABLED "peer access is already enabled";
    705 ERROR_PEER_ACCESS_NOT_ENABLED "peer access has not been enabled";
    708 ERROR_PRIMARY_CONTEXT_ACTIVE "the primary context is active";
    709 ERROR_CONTEXT_IS_DESTROYED "context is destroyed";
    710 ERROR_ASSERT "device-side assert triggered";
    712 ERROR_HOST_MEMORY_ALREADY_REGISTERED "part or all of the memory is already registered";
    713 ERROR_HOST_MEMORY_NOT_REGISTERED "pointer does not belong to registered memory";
    714 ERROR_HARDWARE_STACK_ERROR "hardware stack error";
    715 ERROR_ILLEGAL_INSTRUCTION "an illegal instruction was encountered";
    716 ERROR_MISALIGNED_ADDRESS "misaligned address";
    717 ERROR_INVALID_ADDRESS_SPACE "operation not supported on this address space";
    718 ERROR_INVALID_PC "invalid program counter";
    719 ERROR_LAUNCH_FAILED "launch failed: the kernel faulted";
    720 ERROR_COOPERATIVE_LAUNCH_TOO_LARGE "too many blocks in cooperative launch";
    800 ERROR_NOT_PERMITTED "operation not permitted";
    801 ERROR_NOT_SUPPORTED "operation not supported";
    802 ERROR_SYSTEM_NOT_READY "system not yet initialized";
    900 ERROR_STREAM_CAPTURE_UNSUPPORTED "operation not permitted when a stream is capturing";
    901 ERROR_STREAM_CAPTURE_INVALIDATED "operation failed due to an earlier error during capture";
    902 ERROR_STREAM_CAPTURE_MERGE "operation would merge two separate captures";
    903 ERROR_STREAM_CAPTURE_UNMATCHED "capture was not initiated in this stream";
    904 ERROR_STREAM_CAPTURE_UNJOINED "a capturing stream was not joined to the origin stream";
    905 ERROR_STREAM_CAPTURE_ISOLATION "dependency on uncaptured work in another stream";
    906 ERROR_STREAM_CAPTURE_IMPLICIT "operation would make the legacy stream depend on a capturing stream";
    907 ERROR_CAPTURED_EVENT "operation not permitted on an event last recorded in a capturing stream";
    908 ERROR_STREAM_CAPTURE_WRONG_THREAD "attempt to end a capture of another thread";
    909 ERROR_TIMEOUT "wait operation timed out";
    910 ERROR_GRAPH_EXEC_UPDATE_FAILURE "the graph update was not performed";
    912 ERROR_INVALID_CLUSTER_SIZE "a cluster has too many blocks";
    999 ERROR_UNKNOWN "unknown error";
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let text = error.to_string();
        let fault = |status| Failure { sticky: true, ..Failure::shown(status, text.clone()) };
        match error {
            Error::Syntax { .. } | Error::Instruction { .. } => {
                Failure::shown(Status::ERROR_INVALID_PTX, text)
            }
            Error::PtxVersion { .. } => Failure::shown(Status::ERROR_UNSUPPORTED_PTX_VERSION, text),
            Error::NoFunction { .. } | Error::NoGlobal { .. } => {
                Failure::shown(Status::ERROR_NOT_FOUND, text)
            }
            Error::OutOfMemory { .. } => Failure::shown(Status::ERROR_OUT_OF_MEMORY, text),
            Error::EmptyAllocation => Failure::new(Status::ERROR_INVALID_VALUE, text),
            Error::Launch { .. }
            | Error::BadFree { .. }
            | Error::HostAccess { .. }
            | Error::BadPattern { .. } => Failure::shown(Status::ERROR_INVALID_VALUE, text),
            Error::OutOfBounds { .. } | Error::UseAfterFree { .. } => {
                fault(Status::ERROR_ILLEGAL_ADDRESS)
            }
            Error::Misaligned { .. } => fault(Status::ERROR_MISALIGNED_ADDRESS),
            Error::Uninitialised { .. }
            | Error::SharedRace { .. }
            | Error::Barrier { .. }
            | Error::Deadlock { .. }
            | Error::Fault { .. } => fault(Status::ERROR_LAUNCH_FAILED),
        }
    }
}
