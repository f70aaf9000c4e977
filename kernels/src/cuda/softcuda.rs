//! Which driver this process uses: the system's libcuda, or softcuda's library in its place.
//!
//! cudarc opens "libcuda.so" by name, once a process. softcuda's library bears that name as its SONAME,
//! so when it was loaded before, the dynamic linker hands it out instead. Hence one process uses one of
//! the two.

use std::env;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use cudarc::driver::sys;

/// Name of softcuda's library as cargo builds it.
const LIBRARY: &str = "libtilegrad_softcuda.so";

/// Where to find it when it lies elsewhere than beside the executable.
const VARIABLE: &str = "TILEGRAD_SOFTCUDA";

/// Why there is no CUDA device on most machines.
pub const NO_DRIVER: &str = "no NVIDIA driver is installed (libcuda.so is missing)";

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// NVIDIA's.
    System,
    /// softcuda.
    Soft,
}

static CHOSEN: Mutex<Option<Driver>> = Mutex::new(None);

/// Makes `driver` the one that cudarc uses, or says why it cannot be.
pub fn choose(driver: Driver) -> Result<(), String> {
    let mut chosen = CHOSEN.lock().unwrap_or_else(|e| e.into_inner());
    match (*chosen, driver) {
        (Some(earlier), driver) if earlier == driver => return Ok(()),
        (Some(_), Driver::System) => return Err(other("softcuda")),
        (Some(_), Driver::Soft) => return Err(other("the NVIDIA driver")),
        (None, Driver::Soft) => load(&find()?)?,
        (None, Driver::System) => {}
    }
    // SAFETY: opens and closes libraries of NVIDIA's names, whose constructors the system trusts.
    if !unsafe { sys::is_culib_present() } {
        return Err(NO_DRIVER.to_string());
    }
    // SAFETY: the library is there, as just seen.
    let library = unsafe { sys::culib() };
    for name in FUNCTIONS {
        // SAFETY: the symbol is only looked for, as a function of any kind, and not called.
        if unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err() {
            return Err(format!(
                "its driver is too old: it has no {name} (CUDA 12.0 or newer has)"
            ));
        }
    }
    let mut version = 0;
    // SAFETY: the function is there, as just seen, and writes an int.
    let _ = unsafe { sys::cuDriverGetVersion(&mut version) };
    if version < OLDEST {
        let [major, minor] = [version / 1000, version % 1000 / 10];
        return Err(format!(
            "its driver is too old: it is for CUDA {major}.{minor}, the kernels need 12.0"
        ));
    }
    *chosen = Some(driver);
    Ok(())
}

/// The CUDA whose PTX the kernels are (`.version 8.0`), as drivers write it.
const OLDEST: i32 = 12000;

/// What this backend calls. cudarc would panic where one is missing.
const FUNCTIONS: [&str; 43] = [
    "cuDriverGetVersion",
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuStreamDestroy_v2",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventDestroy_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuLaunchKernel",
    "cuModuleGetGlobal_v2",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuMemsetD32Async",
    "cuGetErrorName",
    "cuGetErrorString",
];

fn other(name: &str) -> String {
    format!("this process already uses {name}, and cannot use both that and another driver")
}

/// Whether the system has an NVIDIA driver at all, without choosing it.
pub fn system_driver_is_present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // softcuda's library would look like a driver, so the system is asked only before that is loaded.
    *PRESENT.get_or_init(|| match chosen() {
        Some(driver) => driver == Driver::System,
        // SAFETY: as in `choose`.
        None => unsafe { sys::is_culib_present() },
    })
}

/// What [`choose`] chose.
pub fn chosen() -> Option<Driver> {
    *CHOSEN.lock().unwrap_or_else(|e| e.into_inner())
}

/// The path of softcuda's library: as [`VARIABLE`] says, or near the executable.
pub fn find() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(VARIABLE).map(PathBuf::from) {
        return match path.is_file() {
            true => Ok(path),
            false => Err(format!("{VARIABLE} names {}, which is no file", path.display())),
        };
    }
    let executable = env::current_exe().map_err(|e| format!("where is this executable? {e}"))?;
    let beside = executable.parent().unwrap_or(&executable);
    // Cargo puts it into deps/, where tests lie too; a binary or an example lies beside that.
    let folders =
        [Some(beside.to_path_buf()), Some(beside.join("deps")), beside.parent().map(PathBuf::from)];
    let in_deps = beside.parent().map(|parent| parent.join("deps"));
    let candidates =
        folders.into_iter().chain([in_deps]).flatten().map(|folder| folder.join(LIBRARY));
    let found = candidates.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| {
        format!("{LIBRARY} is not beside {} and {VARIABLE} is not set", executable.display())
    })
}

/// Loads the library for the rest of the process.
#[cfg(unix)]
fn load(path: &std::path::Path) -> Result<(), String> {
    use std::ffi::{CStr, CString};
    use std::os::unix::ffi::OsStrExt;

    let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: `name` is a C string; the library is this project's own and runs no constructors.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        // SAFETY: dlopen failed on this thread just now, so dlerror returns its message, which lives until
        // the next call of the kind on this thread.
        let message = unsafe { CStr::from_ptr(libc::dlerror()) };
        return Err(message.to_string_lossy().into_owned());
    }
    Ok(())
}

/// Only systems with SONAMEs can put a library in another's place.
#[cfg(not(unix))]
fn load(path: &std::path::Path) -> Result<(), String> {
    Err(format!("softcuda needs Linux or another Unix; {} cannot be used here", path.display()))
}
