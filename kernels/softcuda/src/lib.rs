//! softcuda: a CUDA device in software. It loads PTX, runs its kernels on the CPU, checks them as
//! compute-sanitizer does, and counts what a profiler counts.
//!
//! The way of a kernel through the crate:
//!
//! 1. [`mod@lexer`] cuts the text into tokens, [`mod@parser`] makes [`mod@ast`] of them: names are
//!    resolved;
//! 2. [`mod@decode`] inlines device functions, cuts the code into basic blocks, gives virtual
//!    registers their rows, and looks each instruction up in a table that knows every form it may
//!    have. What the table does not know is an error of `load`. The result is [`mod@code`];
//! 3. [`mod@exec`] runs it: blocks on threads, warps as loops over 32 lanes ([`mod@lanes`]), memory
//!    through [`mod@memory`] and its shadow;
//! 4. [`mod@profile`] sums up.
//!
//! ```
//! use tilegrad_softcuda::{Device, Launch, Options};
//!
//! let ptx = ".version 8.0 .target sm_80 .address_size 64
//! .visible .entry twice(.param .u64 x) {
//!     .reg .u64 %rd<3>; .reg .u32 %r<3>;
//!     ld.param.u64 %rd0, [x];
//!     mov.u32 %r0, %tid.x;
//!     mul.wide.u32 %rd1, %r0, 4;
//!     add.u64 %rd2, %rd0, %rd1;
//!     ld.global.u32 %r1, [%rd2];
//!     add.u32 %r2, %r1, %r1;
//!     st.global.u32 [%rd2], %r2;
//!     ret;
//! }";
//! let device = Device::new(Options::default())?;
//! let module = device.load("twice.ptx", ptx)?;
//! let x = device.alloc(4 * 64)?;
//! device.fill(x, &21u32.to_le_bytes(), 64)?;
//! let launch = Launch { grid: [1, 1, 1], block: [64, 1, 1], shared_bytes: 0 };
//! device.launch(&module.function("twice")?, launch, &[&x.to_le_bytes()])?;
//! let mut last = [0; 4];
//! device.read(x + 4 * 63, &mut last)?;
//! assert_eq!(u32::from_le_bytes(last), 42);
//! # Ok::<(), tilegrad_softcuda::Error>(())
//! ```

mod ast;
mod code;
mod decode;
mod device;
pub mod driver;
mod error;
mod exec;
mod lanes;
mod lexer;
mod limits;
mod memory;
mod parser;
mod profile;
mod source;
mod types;

pub use code::Class;
pub use device::{Checks, Device, Function, Launch, Module, Options, Param};
pub use error::{Access, Error, Leak, Place, Result};
pub use profile::{Executed, Profile, Traffic};
