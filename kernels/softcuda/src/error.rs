//! Everything that can go wrong, each cause with its own variant.
//!
//! Three families: PTX that is refused when it is loaded (file, line, opcode), requests of the host
//! that cannot be met, and faults of a running kernel. A fault carries a [`Place`]: the kernel, the
//! line of its PTX, the block and the thread, so that a message alone is enough to find the
//! instruction.

use std::fmt;

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Where in a running grid something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the kernel (the `.entry`).
    pub kernel: String,
    /// Name under which its module was loaded.
    pub file: String,
    /// Line of the PTX, from 1.
    pub line: u32,
    /// File and line that the PTX was compiled from, if it says so (`-lineinfo`).
    pub source: Option<(String, u32)>,
    /// Index of the block in the grid.
    pub block: [u32; 3],
    /// Index of the thread in its block.
    pub thread: [u32; 3],
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { kernel, file, line, source, block: [bx, by, bz], thread: [x, y, z] } = self;
        write!(f, "kernel {kernel} ({file}:{line}")?;
        if let Some((file, line)) = source {
            write!(f, ", {file}:{line}")?;
        }
        write!(f, "), block ({bx},{by},{bz}), thread ({x},{y},{z})")
    }
}

/// Whether memory was to be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// A read-modify-write that no other thread can interrupt.
    Atomic,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Atomic => "atomic",
        })
    }
}

/// A cause of failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not PTX.
    #[error("{file}:{line}: {message}")]
    Syntax {
        /// Name given to `load`.
        file: String,
        /// Line, from 1.
        line: u32,
        /// What was found, and what would have been right.
        message: String,
    },
    /// PTX that is too new for the device's driver, or of no version that ever was.
    #[error(
        "{file}:{line}: .version {found}: a driver of CUDA 12.0 reads 1.0 to {:?}",
        crate::limits::PTX_VERSION
    )]
    PtxVersion {
        /// Name given to `load`.
        file: String,
        /// Line, from 1.
        line: u32,
        /// The file's version.
        found: String,
    },
    /// PTX, but of an instruction (or form of it) that softcuda does not execute.
    #[error("{file}:{line}: {opcode}: {message}")]
    Instruction {
        /// Name given to `load`.
        file: String,
        /// Line, from 1.
        line: u32,
        /// The whole opcode with its modifiers.
        opcode: String,
        /// Why it is refused.
        message: String,
    },
    /// `function` was asked for a kernel that the module does not have.
    #[error("module {module} has no kernel {name}; it has {known}")]
    NoFunction {
        /// Name of the module.
        module: String,
        /// Name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// `global` was asked for a variable that the module does not have.
    #[error("module {module} has no variable {name}")]
    NoGlobal {
        /// Name of the module.
        module: String,
        /// Name asked for.
        name: String,
    },
    /// The launch cannot be: too large, empty, or with the wrong arguments.
    #[error("launch of {kernel}: {message}")]
    Launch {
        /// Name of the kernel.
        kernel: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// The device's memory is used up.
    #[error("out of device memory: {asked} bytes asked for, {free} of {total} free")]
    OutOfMemory {
        /// Bytes asked for.
        asked: usize,
        /// Bytes free (perhaps not in one piece).
        free: usize,
        /// Bytes of the device.
        total: usize,
    },
    /// An allocation of no bytes.
    #[error("an allocation of 0 bytes")]
    EmptyAllocation,
    /// `free` of something that is not the start of a live allocation.
    #[error("free of {pointer:#x}: {nearby}")]
    BadFree {
        /// The pointer.
        pointer: u64,
        /// What lies there.
        nearby: String,
    },
    /// The host reads or writes outside of an allocation.
    #[error("host {access} of {bytes} bytes at {pointer:#x}: {nearby}")]
    HostAccess {
        /// Read or write, as seen from the host.
        access: Access,
        /// The pointer.
        pointer: u64,
        /// Bytes asked for.
        bytes: usize,
        /// What lies there.
        nearby: String,
    },
    /// A fill pattern that is not 1, 2 or 4 bytes, or a destination that is not aligned to it.
    #[error(
        "fill at {pointer:#x} with a pattern of {bytes} bytes: 1, 2 or 4 are possible, aligned to itself"
    )]
    BadPattern {
        /// The pointer.
        pointer: u64,
        /// Bytes of the pattern.
        bytes: usize,
    },
    /// A kernel touches memory that belongs to no allocation.
    #[error(
        "out of bounds: {access} of {bytes} bytes of {space} memory at {address:#x}: {nearby}; {place}"
    )]
    OutOfBounds {
        /// Where.
        place: Box<Place>,
        /// How.
        access: Access,
        /// State space: global, shared, local, param.
        space: &'static str,
        /// Address in that space.
        address: u64,
        /// Bytes of the access.
        bytes: usize,
        /// The allocation nearby.
        nearby: String,
    },
    /// A kernel touches memory that was freed.
    #[error("use after free: {access} of {bytes} bytes at {address:#x}: {nearby}; {place}")]
    UseAfterFree {
        /// Where.
        place: Box<Place>,
        /// How.
        access: Access,
        /// Address.
        address: u64,
        /// Bytes of the access.
        bytes: usize,
        /// The freed allocation.
        nearby: String,
    },
    /// An address that is no multiple of the access's size.
    #[error("misaligned: {access} of {bytes} bytes of {space} memory at {address:#x}; {place}")]
    Misaligned {
        /// Where.
        place: Box<Place>,
        /// How.
        access: Access,
        /// State space.
        space: &'static str,
        /// Address in that space.
        address: u64,
        /// Bytes of the access.
        bytes: usize,
    },
    /// A read of memory that nobody has written.
    #[error(
        "uninitialised: read of {bytes} bytes of {space} memory at {address:#x}: {nearby}; {place}"
    )]
    Uninitialised {
        /// Where.
        place: Box<Place>,
        /// State space.
        space: &'static str,
        /// Address in that space.
        address: u64,
        /// Bytes of the access.
        bytes: usize,
        /// The allocation.
        nearby: String,
    },
    /// Two threads touch the same shared memory without a barrier between them, one of them
    /// writing.
    #[error(
        "shared memory race at {address:#x}: {access} after a {other_access} by {other}; {place}"
    )]
    SharedRace {
        /// The later access.
        place: Box<Place>,
        /// How.
        access: Access,
        /// Address in shared memory.
        address: u64,
        /// How the other thread touched it.
        other_access: Access,
        /// The other thread (or threads) and line.
        other: String,
    },
    /// A barrier that not all threads of the block reach.
    #[error("barrier divergence: {message}; {place}")]
    Barrier {
        /// One of the threads that wait.
        place: Box<Place>,
        /// Who waits, and who will never come.
        message: String,
    },
    /// No thread of the block can go on.
    #[error("deadlock: {message}; {place}")]
    Deadlock {
        /// One of the threads that wait.
        place: Box<Place>,
        /// Who waits for whom.
        message: String,
    },
    /// An instruction that cannot be executed with the values it got (`trap`, a lane mask without
    /// its own lane).
    #[error("{message}; {place}")]
    Fault {
        /// Where.
        place: Box<Place>,
        /// What happened.
        message: String,
    },
}

/// An allocation that was never freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Its start.
    pub pointer: u64,
    /// Its size.
    pub bytes: usize,
    /// It was the n-th allocation of the device, from 1.
    pub serial: u64,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Leak { pointer, bytes, serial } = self;
        write!(f, "leak: {bytes} bytes at {pointer:#x}, allocation number {serial} of the device")
    }
}
