//! The PTX of each kernel family, loaded when its first kernel is launched.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex};

use bytemuck::Pod;
use cudarc::driver::{result, sys};

use super::context::Context;
use super::gemm::packed;
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

    /// Bytes of each parameter of a kernel, as the PTX declares them (`.param .u64 x`, `.param .align 8 .b8 x[24]`).
    fn parameters(&self, kernel: &str) -> Vec<usize> {
        let (_, from) = self.ptx.split_once(&format!(".entry {kernel}(")).unwrap_or_default();
        let list = from.split(')').next().unwrap_or_default();
        let bytes = |one: &str| match one.split_once('[') {
            Some((_, size)) => size.split(']').next()?.parse().ok(),
            None => {
                let bits = one
                    .split_whitespace()
                    .next()?
                    .trim_start_matches(|c: char| !c.is_ascii_digit());
                bits.parse::<usize>().ok().map(|bits| bits / 8)
            }
        };
        list.split(".param ").skip(1).map(|one| bytes(one).unwrap_or(0)).collect()
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
    /// In bytes.
    sizes: Vec<usize>,
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
        self.sizes.push(size_of::<T>());
        self
    }

    /// A struct of 64-bit words.
    pub fn words(mut self, words: &[u64]) -> Params {
        self.starts.push(self.words.len());
        self.words.extend_from_slice(words);
        self.sizes.push(size_of_val(words));
        self
    }

    /// A struct of 32-bit words.
    pub fn words32(mut self, words: &[u32]) -> Params {
        self.starts.push(self.words.len());
        self.words.extend(packed(words));
        self.sizes.push(size_of_val(words));
        self
    }

    /// These, and then `more`.
    pub fn and(mut self, more: Params) -> Params {
        let at = self.words.len();
        self.starts.extend(more.starts.iter().map(|start| at + start));
        self.words.extend(more.words);
        self.sizes.extend(more.sizes);
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
#[derive(Clone)]
struct Function {
    handle: sys::CUfunction,
    /// Bytes of its parameters: the driver takes as many as the kernel has from wherever it is told.
    parameters: Arc<[usize]>,
}

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

/// The driver's error, with what it is about.
fn named(e: Error, what: String) -> Error {
    match e {
        Error::Driver { op, device, detail } => {
            Error::Driver { op, device, detail: format!("{what}: {detail}") }
        }
        other => other,
    }
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
        if let Some(function) = loaded.functions.get(kernel) {
            return Ok(function.clone());
        }
        let module = self.module(op, &mut loaded, family)?;
        let name = CString::new(kernel).expect("a name has no NUL");
        // SAFETY: the module was loaded above and is never unloaded while `self` lives.
        let answer = unsafe { result::module::get_function(module.0, name) };
        let function = self.context.checked(op, answer);
        let function = Function {
            handle: function.map_err(|e| named(e, format!("{}.ptx, {kernel}", family.name)))?,
            parameters: family.parameters(kernel).into(),
        };
        loaded.functions.insert(kernel.to_string(), function.clone());
        Ok(function)
    }

    /// The module of a family, which is loaded if it was not yet.
    fn module(&self, op: &'static str, loaded: &mut Loaded, family: &Family) -> Result<Module> {
        if let Some(&module) = loaded.modules.get(family.name) {
            return Ok(module);
        }
        let ptx = CString::new(family.ptx).expect("PTX is text");
        // SAFETY: a C string of PTX, which the driver reads before it returns.
        let answer = unsafe { result::module::load_data(ptx.as_ptr().cast()) };
        let module = self.context.checked(op, answer);
        let module = Module(module.map_err(|e| named(e, format!("{}.ptx", family.name)))?);
        loaded.modules.insert(family.name, module);
        Ok(module)
    }

    /// Address of a global variable of `bytes` bytes, which stays the same.
    pub fn global(
        &self,
        op: &'static str,
        family: &Family,
        name: &str,
        bytes: usize,
    ) -> Result<u64> {
        self.context.bind(op)?;
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        let module = self.module(op, &mut loaded, family)?;
        let variable = CString::new(name).expect("a name has no NUL");
        // SAFETY: the module was loaded above and is never unloaded while `self` lives.
        let answer = unsafe { result::module::get_global(module.0, variable) };
        let found = self.context.checked(op, answer);
        let (address, size) =
            found.map_err(|e| named(e, format!("{}.ptx, {name}", family.name)))?;
        assert_eq!(size, bytes, "{name} in {}.cu", family.name);
        Ok(address)
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
        if *function.parameters != params.sizes {
            let (given, expected) = (&params.sizes, &function.parameters);
            let detail = format!(
                "{kernel}: arguments of {given:?} bytes, but its parameters have {expected:?}"
            );
            return Err(Error::Driver { op, device: self.context.device, detail });
        }
        let [x, y, z] = grid.blocks.map(|b| b as u32);
        let [tx, ty, tz] = grid.threads;
        let mut addresses = params.addresses();
        let stream = self.context.compute;
        // SAFETY: the function's module stays loaded; the driver copies the parameters before it returns; what
        // the kernel may touch is the callers' promise above.
        let answer = unsafe {
            result::launch_kernel(
                function.handle,
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

    /// Names of the kernels that were loaded so far.
    pub fn loaded(&self) -> Vec<String> {
        let loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        loaded.functions.keys().cloned().collect()
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

/// What no launcher does and no shipped file is: each is an error with its cause, and the device goes on.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    const COPY: &str = "//
.version 8.0
.target sm_80
.address_size 64
.visible .entry copy(
	.param .u64 copy_param_0,
	.param .align 4 .b8 copy_param_1[12],
	.param .u16 copy_param_2
)
{
	ret;
}
";

    /// Modules on softcuda, which names each cause.
    fn modules() -> Modules {
        Modules::new(Arc::new(Context::open(Device::SoftCuda).expect("softcuda was built")))
    }

    fn family(ptx: &'static str) -> Family {
        Family { name: "copy", ptx }
    }

    fn params() -> Params {
        Params::new().size(0).value([0u32; 3]).value(7u16)
    }

    /// The message of an error, which names the device and the file or kernel.
    fn refused(
        modules: &Modules,
        family: &Family,
        kernel: &str,
        grid: Grid,
        params: Params,
    ) -> String {
        let error = modules.launch("test", family, kernel, grid, params).expect_err("cannot be");
        assert!(matches!(error, Error::Driver { op: "test", .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("softcuda") && message.contains("copy"), "{message}");
        message
    }

    #[test]
    fn a_file_that_is_no_ptx_or_cut_short_is_refused() {
        let grid = Grid::linear(1, 32);
        for ptx in [
            "this is no PTX",
            "",
            ".version 8.0\n.target sm_80\n.address_size 64\n.entry copy() { frob; }",
        ] {
            let message = refused(&modules(), &family(ptx), "copy", grid, Params::new());
            assert!(message.contains("CUDA_ERROR_INVALID_PTX"), "{message}");
        }
        // A shipped file, cut within its first kernel.
        let end = MEMORY.ptx.find("ld.param").expect("a kernel") + 4;
        let kernel = MEMORY.kernels().next().expect("a kernel");
        let cut = Family { name: "copy", ptx: &MEMORY.ptx[..end] };
        let message = refused(&modules(), &cut, kernel, grid, Params::new());
        assert!(message.contains("CUDA_ERROR_INVALID_PTX"), "{message}");
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named() {
        let modules = modules();
        let message = refused(&modules, &family(COPY), "copy_f64", Grid::linear(1, 32), params());
        assert!(message.contains("copy.ptx, copy_f64"), "{message}");
        assert!(message.contains("CUDA_ERROR_NOT_FOUND"), "{message}");
        modules
            .launch("test", &family(COPY), "copy", Grid::linear(1, 32), params())
            .expect("is there");
    }

    #[test]
    fn wrong_arguments_are_refused_before_the_driver_reads_them() {
        let (modules, grid) = (modules(), Grid::linear(1, 32));
        let few = Params::new().size(0);
        let many = params().size(0);
        let wide = Params::new().size(0).value([0u32; 3]).value(7u32);
        for wrong in [Params::new(), few, many, wide] {
            let message = refused(&modules, &family(COPY), "copy", grid, wrong);
            assert!(message.ends_with("but its parameters have [8, 12, 2]"), "{message}");
        }
        modules.launch("test", &family(COPY), "copy", grid, params()).expect("these are right");
    }

    #[test]
    fn launches_that_are_too_large_are_refused() {
        let modules = modules();
        let copy = family(COPY);
        let grid = |blocks, threads, shared| Grid { blocks, threads, shared };
        for (large, words) in [
            (grid([1 << 31, 1, 1], [32, 1, 1], 0), "2147483647, 65535, 65535"),
            (grid([1, 65536, 1], [32, 1, 1], 0), "[1, 65536, 1] blocks"),
            (grid([1, 1, 1 << 40], [32, 1, 1], 0), "65535"),
            (grid([1, 1, 1], [1025, 1, 1], 0), "CUDA_ERROR_INVALID_VALUE"),
            (grid([1, 1, 1], [32, 1, 1], 1 << 20), "CUDA_ERROR_INVALID_VALUE"),
        ] {
            let message = refused(&modules, &copy, "copy", large, params());
            assert!(message.contains(words), "{message}");
        }
        modules.launch("test", &copy, "copy", Grid::linear(100, 32), params()).expect("goes on");
        modules.context.synchronize("test").expect("goes on");
    }

    #[test]
    fn parameters_are_read_from_the_ptx() {
        assert_eq!(family(COPY).parameters("copy"), [8, 12, 2]);
        for family in FAMILIES {
            for kernel in family.kernels() {
                let sizes = family.parameters(kernel);
                let none = family.ptx.contains(&format!(".entry {kernel}()"));
                assert!(sizes.is_empty() == none && !sizes.contains(&0), "{kernel}: {sizes:?}");
            }
        }
    }
}
