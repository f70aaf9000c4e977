//! What the device that softcuda stands for can do: an sm_80 under a driver of CUDA 12.0.
//!
//! Sources: "CUDA C++ Programming Guide", Technical Specifications per Compute Capability; the PTX
//! ISA for its versions and for parameters; `ptxas` for what it refuses to assemble.

/// The newest PTX that a driver of CUDA 12.0 reads ("PTX ISA Release History").
pub const PTX_VERSION: f64 = 8.0;
/// Compute capability, without the point.
pub const TARGET: u32 = 80;
/// Bytes of a kernel's static shared memory (`ptxas`: 0xc000 max); beyond it, memory must be
/// dynamic and be asked for.
pub const STATIC_SHARED_BYTES: usize = 48 << 10;
/// Bytes of a kernel's parameters up to PTX 8.0 (`ptxas`: 0x1100 max); 8.1 has more on sm_70 and
/// up.
pub const PARAM_BYTES: usize = 0x1100;
/// Shared memory of a block, static and dynamic.
pub const SHARED_BYTES: usize = 163 << 10;
/// Threads of a block.
pub const BLOCK_THREADS: u64 = 1024;
/// Threads along each axis of a block.
pub const BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks along each axis of a grid.
pub const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
