//! A CUDA host program in small, over cudarc's thin layer: what the driver's tests are written with.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::ffi::{CStr, CString, c_void};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, sys};

/// Kernels that the tests launch.
pub const PTX: &str = include_str!("kernels.ptx");
/// Memory of the device in these tests.
pub const MEMORY: usize = 64 << 20;

/// The library as cargo built it for the tests.
pub fn library() -> PathBuf {
    let deps = std::env::current_exe().expect("an executable");
    let path = deps.parent().expect("a folder").join("libtilegrad_softcuda.so");
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

/// Loads softcuda in the place of libcuda, once a process, with 64 MiB of memory.
fn load() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: set before the library reads it, by the one thread that gets here; the test harness reads no
        // variables meanwhile.
        unsafe { std::env::set_var("SOFTCUDA_MEMORY", MEMORY.to_string()) };
        let name = CString::new(library().to_str().expect("UTF-8")).expect("no 0");
        // SAFETY: `name` is a C string; the library has no constructors.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "dlopen failed");
    });
}

/// A context that no other test has at the same time: a fault takes it from all.
pub struct Host {
    pub cuda: Arc<CudaContext>,
    pub stream: sys::CUstream,
    pub alone: MutexGuard<'static, ()>,
}

impl Host {
    pub fn new() -> Host {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        load();
        let cuda = CudaContext::new(0).expect("softcuda's device");
        let stream = stream();
        Host { cuda, stream, alone }
    }

    pub fn module(&self) -> sys::CUmodule {
        load_ptx(PTX).expect("valid PTX")
    }

    pub fn function(&self, name: &str) -> sys::CUfunction {
        function(self.module(), name).expect("a kernel of this name")
    }

    pub fn buffer<T: Copy>(&self, values: &[T]) -> u64 {
        // SAFETY: the sizes agree, and the slice outlives the copy, which is done at once.
        unsafe {
            let pointer = result::malloc_sync(size_of_val(values)).expect("memory");
            result::memcpy_htod_sync(pointer, values).expect("a copy");
            pointer
        }
    }

    pub fn read<T: Copy + Default>(&self, pointer: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        // SAFETY: as in `buffer`.
        unsafe { result::memcpy_dtoh_sync(&mut values, pointer).expect("a copy") };
        values
    }
}

pub fn stream() -> sys::CUstream {
    result::stream::create(result::stream::StreamKind::NonBlocking).expect("a stream")
}

pub fn load_ptx(text: &str) -> Result<sys::CUmodule, DriverError> {
    let text = CString::new(text).expect("no 0");
    // SAFETY: the text ends with a 0.
    unsafe { result::module::load_data(text.as_ptr().cast()) }
}

pub fn function(module: sys::CUmodule, name: &str) -> Result<sys::CUfunction, DriverError> {
    // SAFETY: a wrong module would be looked up and not found.
    unsafe { result::module::get_function(module, CString::new(name).expect("no 0")) }
}

/// A pointer to an argument, as `cuLaunchKernel` wants it.
pub fn arg<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// Launches `grid` blocks of `block` threads.
pub fn launch(
    function: sys::CUfunction,
    (grid, block, shared): (u32, u32, u32),
    stream: sys::CUstream,
    args: &mut [*mut c_void],
) -> Result<(), DriverError> {
    // SAFETY: each argument points to a value that lives in the caller.
    unsafe { result::launch_kernel(function, (grid, 1, 1), (block, 1, 1), shared, stream, args) }
}

/// The code of an error; panics where there is none.
pub fn code<T>(outcome: Result<T, DriverError>) -> sys::CUresult {
    match outcome {
        Ok(_) => panic!("this should have failed"),
        Err(DriverError(code)) => code,
    }
}

/// softcuda's own words for this thread's last error.
pub fn last_error() -> String {
    type LastError = unsafe extern "C" fn(*mut i8, usize, *mut usize) -> i32;
    let mut buffer = vec![0i8; 4096];
    // SAFETY: the symbol has this signature; the buffer has as many bytes as told, and gets text that ends with a 0.
    unsafe {
        let last = sys::culib().get::<LastError>(b"softcudaLastError").expect("softcuda");
        assert_eq!(last(buffer.as_mut_ptr(), buffer.len(), std::ptr::null_mut()), 0);
        CStr::from_ptr(buffer.as_ptr().cast()).to_string_lossy().into_owned()
    }
}

/// Faults and leaks that softcuda has found in this process.
pub fn findings() -> u64 {
    let mut count = 0u64;
    // SAFETY: the symbol has this signature, and stores one number.
    unsafe {
        let find = sys::culib().get::<unsafe extern "C" fn(*mut u64) -> i32>(b"softcudaFindings");
        assert_eq!(find.expect("softcuda")(&raw mut count), 0);
    }
    count
}
