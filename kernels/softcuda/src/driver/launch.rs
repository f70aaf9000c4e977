//! Launches of kernels: arguments are collected and everything is checked before anything runs.

use std::ffi::{c_uint, c_void};

use super::call::{export, invalid, unsupported, with};
use super::device::{BLOCKS_MULTIPROCESSOR, MULTIPROCESSORS};
use super::occupancy;
use super::status::{Failure, Outcome, Status};
use super::work::{Work, enqueue};
use crate::{Function, Launch};

/// `CUlaunchConfig`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfig {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared_bytes: c_uint,
    pub stream: usize,
    pub attributes: *const LaunchAttribute,
    pub count: c_uint,
}

/// `CUlaunchAttribute`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchAttribute {
    id: c_uint,
    padding: [u8; 4],
    value: [u32; 16],
}

/// Ends the list of `extra` arguments.
const EXTRA_END: usize = 0;
/// Next in that list: a buffer with all arguments at their offsets.
const EXTRA_BUFFER: usize = 1;
/// Next in that list: a pointer to the buffer's size.
const EXTRA_SIZE: usize = 2;

export! {
    /// Runs a kernel.
    fn cuLaunchKernel(
        function: usize, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared_bytes: c_uint, stream: usize, params: *const *const c_void,
        extra: *const *const c_void
    ) in_context {
        let launch = Launch { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared_bytes };
        start(function, launch, stream, params, extra)
    }
    /// Runs a kernel all of whose blocks fit on the device at once. What such a kernel is made for, barriers across
    /// the grid, is not supported by the executor, which reports it.
    fn cuLaunchCooperativeKernel(
        function: usize, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared_bytes: c_uint, stream: usize, params: *const *const c_void
    ) in_context {
        let launch = Launch { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared_bytes };
        let threads = launch.block.iter().fold(1u32, |all, &n| all.saturating_mul(n));
        let resident = with(|s| {
            let kernel = s.kernel(function)?;
            occupancy::blocks(&kernel.function, threads as i32, shared_bytes as usize)
        })?;
        let blocks = launch.grid.iter().fold(1u64, |all, &n| all.saturating_mul(u64::from(n)));
        let most = (resident.min(BLOCKS_MULTIPROCESSOR) * MULTIPROCESSORS) as u64;
        if blocks > most {
            let text = format!("a cooperative launch of {blocks} blocks: {most} fit on the device at once");
            return Err(Failure::shown(Status::ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, text));
        }
        start(function, launch, stream, params, std::ptr::null())
    }
    /// As `cuLaunchKernel`. Attributes: those without effect on results are accepted, clusters of more than one block
    /// are not supported.
    fn cuLaunchKernelEx(
        config: *const LaunchConfig, function: usize, params: *const *const c_void, extra: *const *const c_void
    ) in_context {
        // SAFETY: the caller vouches for the pointer.
        let config = unsafe { read_config(config)? };
        let launch = Launch { grid: config.grid, block: config.block, shared_bytes: config.shared_bytes };
        start(function, launch, config.stream, params, extra)
    }
}

/// Reads a configuration and refuses attributes that ask for what does not exist.
///
/// # Safety
///
/// `config` must be null, or valid with its attributes.
pub unsafe fn read_config(config: *const LaunchConfig) -> Outcome<LaunchConfig> {
    if config.is_null() {
        return Err(invalid("the launch configuration is null"));
    }
    // SAFETY: not null, and the caller vouches for the rest.
    let config = unsafe { config.read_unaligned() };
    if config.count > 0 && config.attributes.is_null() {
        return Err(invalid("the launch attributes are null"));
    }
    for i in 0..config.count as usize {
        // SAFETY: the caller vouches for `count` of them.
        let attribute = unsafe { config.attributes.add(i).read_unaligned() };
        match attribute.id {
            // Ignore; access policy; synchronisation policy; cluster scheduling; priority; memory domain.
            0 | 1 | 3 | 5 | 8 | 9 | 10 => {}
            // Cooperative: not asked for.
            2 if attribute.value[0] == 0 => {}
            // Clusters of one block.
            4 if attribute.value[..3] == [1, 1, 1] => {}
            4 => return Err(unsupported("clusters of blocks: they need sm_90")),
            // Programmatic serialisation: allowed to begin early, not made to.
            6 => {}
            other => return Err(unsupported(format!("launch attribute {other}"))),
        }
    }
    Ok(config)
}

/// Offset and bytes of each parameter in the buffer of arguments.
pub fn layout(function: &Function) -> impl Iterator<Item = (usize, usize)> + '_ {
    function.params().iter().scan(0usize, |end, param| {
        let at = end.next_multiple_of(param.align.max(1));
        *end = at + param.bytes;
        Some((at, param.bytes))
    })
}

fn start(
    function: usize,
    launch: Launch,
    stream: usize,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> Outcome {
    let kernel = with(|s| Ok(s.kernel(function)?.clone()))?;
    let name = kernel.function.name();
    if launch.shared_bytes as usize > kernel.dynamic_limit {
        return Err(Failure::shown(
            Status::ERROR_INVALID_VALUE,
            format!(
                "launch of {name}: {} bytes of dynamic shared memory, but its limit is {} \
                 (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES raises it)",
                launch.shared_bytes, kernel.dynamic_limit
            ),
        ));
    }
    let refused = |text: String| {
        Failure::shown(Status::ERROR_INVALID_VALUE, format!("launch of {name}: {text}"))
    };
    let params = match (params.is_null(), extra.is_null()) {
        (true, false) => from_buffer(&kernel.function, extra).map_err(refused)?,
        (false, true) => from_pointers(&kernel.function, params).map_err(refused)?,
        (true, true) if kernel.function.params().is_empty() => Vec::new(),
        (true, true) => {
            let count = kernel.function.params().len();
            return Err(refused(format!("no arguments, but it has {count} parameters")));
        }
        (false, false) => return Err(refused("arguments are given twice".into())),
    };
    enqueue(stream, Work::Kernel { function: kernel.function, launch, params })
}

/// Arguments that are given one pointer each. How many there are, C does not say: too few are noticed where what lies
/// behind them is no readable address.
fn from_pointers(function: &Function, list: *const *const c_void) -> Result<Vec<Vec<u8>>, String> {
    let wanted = function.params().len();
    let read = |(i, param): (usize, &crate::Param)| {
        let few = |what: &str| format!("argument {i} {what}; it has {wanted} parameters");
        let mut word = [0; 8];
        peek(list as usize + 8 * i, &mut word).ok_or_else(|| few("is missing"))?;
        let address = usize::from_ne_bytes(word);
        if address == 0 {
            return Err(few("is a null pointer"));
        }
        let mut bytes = vec![0; param.bytes];
        peek(address, &mut bytes).ok_or_else(|| few("points to no readable memory"))?;
        Ok(bytes)
    };
    function.params().iter().enumerate().map(read).collect()
}

/// Arguments that are given as one buffer, whose size must be right.
fn from_buffer(function: &Function, extra: *const *const c_void) -> Result<Vec<Vec<u8>>, String> {
    let word = |address: usize| {
        let mut word = [0; 8];
        peek(address, &mut word).map(|()| usize::from_ne_bytes(word))
    };
    let broken = || "the list of extra arguments cannot be read".to_string();
    let (mut buffer, mut size) = (None, None);
    for i in 0.. {
        let entry = |i: usize| word(extra as usize + 8 * i).ok_or_else(broken);
        match entry(2 * i)? {
            EXTRA_END => break,
            EXTRA_BUFFER => buffer = Some(entry(2 * i + 1)?),
            EXTRA_SIZE => size = Some(word(entry(2 * i + 1)?).ok_or_else(broken)?),
            other => return Err(format!("{other} stands for no extra argument")),
        }
    }
    let (Some(buffer), Some(size)) = (buffer, size) else {
        return Err("extra arguments need a buffer and its size".into());
    };
    let end = layout(function).last().map_or(0, |(at, bytes)| at + bytes);
    // A C struct of the arguments is padded to its alignment.
    if size < end || size >= end + 16 {
        return Err(format!("{size} bytes of arguments, but its parameters have {end}"));
    }
    let read = |(at, bytes)| {
        let mut value = vec![0; bytes];
        peek(buffer + at, &mut value).ok_or_else(broken)?;
        Ok(value)
    };
    layout(function).map(read).collect()
}

/// Reads memory of this process if it is readable at all: the system says so instead of ending the process.
#[cfg(target_os = "linux")]
fn peek(address: usize, bytes: &mut [u8]) -> Option<()> {
    if bytes.is_empty() {
        return Some(());
    }
    let to = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let from = libc::iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
    // SAFETY: both lists have one element; `to` is a live slice, and the system checks `from`.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &to, 1, &from, 1, 0) };
    if read >= 0 {
        return (read as usize == bytes.len()).then_some(());
    }
    match std::io::Error::last_os_error().raw_os_error() {
        // Not allowed here (a sandbox): trust the caller, as CUDA does.
        Some(libc::ENOSYS | libc::EPERM) => copy(address, bytes),
        _ => None,
    }
}

/// Without a way to ask the system, the caller is trusted, as CUDA does.
#[cfg(not(target_os = "linux"))]
fn peek(address: usize, bytes: &mut [u8]) -> Option<()> {
    copy(address, bytes)
}

fn copy(address: usize, bytes: &mut [u8]) -> Option<()> {
    if address == 0 {
        return None;
    }
    // SAFETY: not null, and the API's caller vouches for the arguments of a launch.
    unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
    Some(())
}
