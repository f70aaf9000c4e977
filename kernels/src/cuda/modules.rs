//! The PTX of each kernel family, loaded when its first kernel is launched.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex};

use bytemuck::Pod;
use cudarc::driver::{result, sys};

use super::context::Context;
use crate::axes::Axes;
use crate::{Error, Result};

/// The kernels of one file `kernels/cuda/<name>.cu`, compiled by scripts/make-ptx.py.
pub struct Family {
    /// Stem of the file.
    pub name: &'static str,
    /// Its PTX.
    pub ptx: &'static str,
}

macro_rules! families {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        $(
            $(#[$doc])*
            pub const $constant: Family = Family {
                name: $name,
                ptx: include_str!(concat!("../../ptx/", $name, ".ptx")),
            };
        )*
        /// Every family.
        pub const FAMILIES: &[Family] = &[$($constant),*];
    };
}

families! {
    /// Batch normalisation.
    BATCH_NORM = "batch_norm";
    /// Functions of two inputs.
    BROADCAST = "broadcast";
    /// Convolution, the gradient of x.
    CONV2D_BACKWARD_DATA = "conv2d_backward_data";
    /// Convolution, the gradient of the filter.
    CONV2D_BACKWARD_FILTER = "conv2d_backward_filter";
    /// Convolution.
    CONV2D_FORWARD = "conv2d_forward";
    /// Cross-entropy.
    CROSS_ENTROPY = "cross_entropy";
    /// Dropout.
    DROPOUT = "dropout";
    /// Functions of one input.
    ELEMENTWISE = "elementwise";
    /// Matrix products.
    MATMUL = "matmul";
    /// Filling and converting.
    MEMORY = "memory";
    /// Movement of elements.
    MOVEMENT = "movement";
    /// Parameter updates.
    OPTIMIZER = "optimizer";
    /// Pooling.
    POOL2D = "pool2d";
    /// Reductions over axes.
    REDUCE = "reduce";
    /// Softmax and log-softmax.
    SOFTMAX = "softmax";
}

impl Family {
    /// Names of the kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &'static str> {
        let entries = self.ptx.split(".entry ").skip(1);
        entries.filter_map(|rest| rest.split(['(', '\n']).next()).map(str::trim)
    }
}

/// Blocks, threads a block, and dynamic shared memory a block in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y, z. A kernel is not launched at all when one of them is 0.
    pub blocks: [u64; 3],
    /// Threads along x, y, z.
    pub threads: [u32; 3],
    /// Dynamic shared memory, in bytes.
    pub shared: u32,
}

impl Grid {
    /// `threads` threads in all, in blocks of `block`.
    pub fn linear(threads: usize, block: u32) -> Grid {
        let blocks = (threads as u64).div_ceil(u64::from(block));
        Grid { blocks: [blocks, 1, 1], threads: [block, 1, 1], shared: 0 }
    }

    /// A grid of `blocks` blocks of `threads` threads, each along x, y and z.
    pub fn blocks(blocks: [usize; 3], threads: [u32; 3]) -> Grid {
        Grid { blocks: blocks.map(|b| b as u64), threads, shared: 0 }
    }
}

/// What a kernel is given, in the order of its parameters.
#[derive(Default)]
pub struct Params {
    /// 8-byte words, so that every parameter is aligned.
    words: Vec<u64>,
    starts: Vec<usize>,
}

impl Params {
    /// None yet.
    pub fn new() -> Params {
        Params::default()
    }

    /// A plain value of any size: a number, a struct that is laid out as the kernel's.
    pub fn value<T: Pod>(mut self, value: T) -> Params {
        const { assert!(align_of::<T>() <= 8) };
        self.starts.push(self.words.len());
        let start = self.words.len();
        self.words.resize(start + size_of::<T>().div_ceil(8), 0);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words[start..]);
        bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&value));
        self
    }

    /// A struct of 64-bit words.
    pub fn words(mut self, words: &[u64]) -> Params {
        self.starts.push(self.words.len());
        self.words.extend_from_slice(words);
        self
    }

    /// These, and then `more`.
    pub fn and(mut self, more: Params) -> Params {
        let at = self.words.len();
        self.starts.extend(more.starts.iter().map(|start| at + start));
        self.words.extend(more.words);
        self
    }

    /// The axes of a buffer: `Axes` in the kernel.
    pub fn axes(self, axes: &Axes) -> Params {
        self.words(&axes.words())
    }

    /// A size or an offset: `u64` in the kernel.
    pub fn size(self, value: usize) -> Params {
        self.value(value as u64)
    }

    /// A float, rounded to f32.
    pub fn float(self, value: f64) -> Params {
        self.value(value as f32)
    }

    /// Addresses of the values, as the driver wants them.
    fn addresses(&mut self) -> Vec<*mut c_void> {
        let words = self.words.as_mut_ptr();
        // SAFETY: each start is an index into `words` (values have at least one byte), which is not resized
        // while the addresses are in use.
        self.starts.iter().map(|&start| unsafe { words.add(start) }.cast()).collect()
    }
}

/// A kernel's handle; valid as long as its module, which is never unloaded.
#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: a handle that the driver allows any thread to use.
unsafe impl Send for Function {}

#[derive(Clone, Copy)]
struct Module(sys::CUmodule);

// SAFETY: a handle that the driver allows any thread to use.
unsafe impl Send for Module {}

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, Module>,
    functions: HashMap<String, Function>,
}

/// The modules of one device.
pub struct Modules {
    loaded: Mutex<Loaded>,
    context: Arc<Context>,
}

impl Modules {
    /// Nothing is loaded yet.
    pub fn new(context: Arc<Context>) -> Modules {
        Modules { loaded: Mutex::default(), context }
    }

    fn function(&self, op: &'static str, family: &Family, kernel: &str) -> Result<Function> {
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(&function) = loaded.functions.get(kernel) {
            return Ok(function);
        }
        let named = |e: Error, what: String| match e {
            Error::Driver { op, device, detail } => {
                Error::Driver { op, device, detail: format!("{what}: {detail}") }
            }
            other => other,
        };
        let module = match loaded.modules.get(family.name) {
            Some(&module) => module,
            None => {
                let ptx = CString::new(family.ptx).expect("PTX is text");
                // SAFETY: a C string of PTX, which the driver reads before it returns.
                let answer = unsafe { result::module::load_data(ptx.as_ptr().cast()) };
                let module = self.context.checked(op, answer);
                let module = Module(module.map_err(|e| named(e, format!("{}.ptx", family.name)))?);
                loaded.modules.insert(family.name, module);
                module
            }
        };
        let name = CString::new(kernel).expect("a name has no NUL");
        // SAFETY: the module was loaded above and is never unloaded while `self` lives.
        let answer = unsafe { result::module::get_function(module.0, name) };
        let function = self.context.checked(op, answer);
        let function =
            Function(function.map_err(|e| named(e, format!("{}.ptx, {kernel}", family.name)))?);
        loaded.functions.insert(kernel.to_string(), function);
        Ok(function)
    }

    /// Hands a kernel to the compute stream. `op` is named in errors.
    ///
    /// The launchers of this crate are the only callers. Each passes addresses of buffers whose lengths and
    /// dtypes it has checked ([`super::Cuda::input`]) against the sizes that it passes with them, or that
    /// it has allocated for those sizes, and a kernel touches nothing beyond those sizes.
    pub fn launch(
        &self,
        op: &'static str,
        family: &Family,
        kernel: &str,
        grid: Grid,
        mut params: Params,
    ) -> Result<()> {
        if grid.blocks.contains(&0) {
            return Ok(()); // nothing to do; the driver refuses empty grids
        }
        let limits = [i32::MAX as u64, 65535, 65535];
        if grid.blocks.iter().zip(limits).any(|(&blocks, limit)| blocks > limit) {
            let detail =
                format!("{kernel} would need {:?} blocks; {limits:?} are possible", grid.blocks);
            return Err(Error::Driver { op, device: self.context.device, detail });
        }
        self.context.bind(op)?;
        let function = self.function(op, family, kernel)?;
        let [x, y, z] = grid.blocks.map(|b| b as u32);
        let [tx, ty, tz] = grid.threads;
        let mut addresses = params.addresses();
        let stream = self.context.compute;
        // SAFETY: the function's module stays loaded; the driver copies the parameters before it returns; what
        // the kernel may touch is the callers' promise above.
        let answer = unsafe {
            result::launch_kernel(
                function.0,
                (x, y, z),
                (tx, ty, tz),
                grid.shared,
                stream,
                &mut addresses,
            )
        };
        self.context.checked(op, answer).map_err(|e| match e {
            Error::Driver { op, device, detail } => {
                Error::Driver { op, device, detail: format!("{kernel}: {detail}") }
            }
            other => other,
        })
    }

    /// Loads every kernel of every family now, and says how many there are.
    pub fn load_all(&self, op: &'static str) -> Result<usize> {
        self.context.bind(op)?;
        let mut loaded = 0;
        for family in FAMILIES {
            for kernel in family.kernels() {
                self.function(op, family, kernel)?;
                loaded += 1;
            }
        }
        Ok(loaded)
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        // Kernels may still run; unloading waits for nothing.
        if self.context.synchronize("module").is_err() {
            return; // the context is lost, and its modules with it
        }
        let loaded = self.loaded.get_mut().unwrap_or_else(|e| e.into_inner());
        for module in loaded.modules.values() {
            // SAFETY: loaded by `function`, unloaded only here, and no kernel of it runs any more.
            let _ = unsafe { result::module::unload(module.0) };
        }
    }
}
