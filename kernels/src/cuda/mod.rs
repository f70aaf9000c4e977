//! The CUDA backend: hand-written kernels as PTX, on an NVIDIA GPU or on softcuda. One launcher file a
//! kernel family; the kernels are in `kernels/cuda/<family>.cu`, what they compile to in
//! `kernels/ptx/<family>.ptx`.
//!
//! A method of [`Cuda`] checks its buffers, allocates its result, hands a kernel to the compute stream and
//! returns; only downloads and [`Backend::synchronize`] wait for the device.
//!
//! **Determinism.** Every sum has a shape that depends on sizes alone and is added without float atomics,
//! so results have the same bits on every run on one GPU and driver. GPUs differ: in the order in which tensor
//! cores add, in the last bit of approximate instructions, and in what a driver fuses.

mod backend;
mod batch_norm;
mod broadcast;
mod context;
mod conv2d;
mod cross_entropy;
mod dropout;
mod elementwise;
mod gemm;
mod graph;
mod indices;
mod matmul;
mod memory;
mod modules;
mod movement;
mod optimizer;
mod pool;
mod pool2d;
mod reduce;
mod softcuda;
mod softmax;
mod staging;

use std::sync::Arc;

use context::Context;
pub use conv2d::ConvAlgorithm;
use indices::Indices;
pub use matmul::MatmulAlgorithm;
use modules::{Family, Grid, Modules, Params};
use pool::{CudaMemory, Pool, PoolOptions};

use crate::*;

/// How a [`Cuda`] is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct CudaOptions {
    /// Fill every new buffer with NaN before a kernel writes it, so that an element it forgets shows. For
    /// tests.
    pub poison: bool,
    /// No pool: every buffer is an allocation of its own, so that a checker of the device's memory
    /// (softcuda, compute-sanitizer) sees every overrun. For tests.
    pub exact_allocations: bool,
    /// Take the first, plainest kernel of each ladder, instead of the fastest: for tests and comparisons.
    pub first_rung: bool,
    /// Rung of the ladder of matrix products to use wherever it applies (or the one that
    /// `TILEGRAD_CUDA_MATMUL` names); by default the fastest for the shape.
    pub matmul: Option<MatmulAlgorithm>,
    /// The same for convolutions (`TILEGRAD_CUDA_CONV`).
    pub conv: Option<ConvAlgorithm>,
}

/// The CUDA backend, on one device.
pub struct Cuda {
    // In the order in which they must go: modules and memory before the context.
    modules: Arc<Modules>,
    indices: Indices,
    pool: Arc<Pool>,
    context: Arc<Context>,
    first_rung: bool,
    matmul: Option<MatmulAlgorithm>,
    conv: Option<ConvAlgorithm>,
}

/// Whether `device` can be opened, at little cost: what it is, or in one line why it cannot. A process that
/// uses one CUDA driver need not give it up to learn of the other.
pub fn probe(device: Device) -> std::result::Result<String, String> {
    let reason = |e: Error| match e {
        Error::Unavailable { reason, .. } => reason,
        other => other.to_string(),
    };
    match device {
        Device::SoftCuda => softcuda::find()
            .map(|path| format!("the CUDA kernels, interpreted by {}", path.display())),
        Device::Cuda(_) if !softcuda::system_driver_is_present() => {
            Err(softcuda::NO_DRIVER.to_string())
        }
        Device::Cuda(_) => Context::open(device).map(|context| describe(&context)).map_err(reason),
        _ => Err("it is no CUDA device".to_string()),
    }
}

/// Name, memory and compute capability of a device.
fn describe(context: &Context) -> String {
    let cuda = &context.cuda;
    let name = cuda.name().unwrap_or_else(|_| "unnamed".to_string());
    let (major, minor) = cuda.compute_capability().unwrap_or_default();
    let gib = cuda.total_mem().unwrap_or_default() as f64 / f64::from(1 << 30);
    format!("{}, {name}, {gib:.1} GiB, compute capability {major}.{minor}", context.device)
}

/// A buffer that a kernel is about to write.
struct Output {
    memory: CudaMemory,
    dtype: Dtype,
    len: usize,
}

impl Output {
    /// Its address, as a kernel's parameter.
    fn pointer(&self) -> u64 {
        self.memory.pointer()
    }

    /// The buffer, once the kernel that writes it was handed over.
    fn done(self) -> Buffer {
        self.memory.into_buffer(self.dtype, self.len)
    }
}

/// The algorithm called `name`, of `all`.
fn by_name<A: Copy>(
    op: &'static str,
    name: &str,
    all: &[A],
    name_of: fn(A) -> &'static str,
) -> Result<A> {
    all.iter().copied().find(|&a| name_of(a) == name).ok_or_else(|| {
        let names: Vec<_> = all.iter().copied().map(name_of).collect();
        let names = names.join(", ");
        Error::argument(op, format!("unknown algorithm '{name}': expected one of {names}"))
    })
}

/// An algorithm by option, or else by the environment.
fn forced<A: std::str::FromStr<Err = Error>>(
    option: Option<A>,
    variable: &str,
) -> Result<Option<A>> {
    match (option, std::env::var(variable)) {
        (None, Ok(name)) => name.parse().map(Some),
        (option, _) => Ok(option),
    }
}

impl Cuda {
    /// Opens [`Device::Cuda`] or [`Device::SoftCuda`]; the error says in one line why that cannot be.
    pub fn new(device: Device, options: CudaOptions) -> Result<Cuda> {
        let context = Arc::new(Context::open(device)?);
        let pool = PoolOptions { poison: options.poison, exact: options.exact_allocations };
        let pool = Pool::new(context.clone(), pool);
        let modules = Arc::new(Modules::new(context.clone()));
        let indices = Indices::new(modules.clone(), pool.clone());
        let first_rung = options.first_rung;
        let matmul = forced(options.matmul, "TILEGRAD_CUDA_MATMUL")?;
        let matmul = matmul.or(first_rung.then_some(MatmulAlgorithm::Naive));
        let conv = forced(options.conv, "TILEGRAD_CUDA_CONV")?;
        let conv = conv.or(first_rung.then_some(ConvAlgorithm::Naive));
        Ok(Cuda { modules, indices, pool, context, first_rung, matmul, conv })
    }

    /// Loads every kernel that this backend has, instead of each family when it is first needed, and says how
    /// many there are: to learn whether a driver takes them all.
    pub fn load_all_kernels(&self) -> Result<usize> {
        self.modules.load_all("load_all_kernels")
    }

    /// Names of all kernels that there are.
    pub fn kernels() -> impl Iterator<Item = &'static str> {
        modules::FAMILIES.iter().flat_map(|family| family.kernels())
    }

    /// Names of the kernels that were used so far (or loaded by [`Cuda::load_all_kernels`]).
    pub fn loaded_kernels(&self) -> Vec<String> {
        self.modules.loaded()
    }

    /// The address of `x`, which must be a buffer of this backend with `len` elements of `dtype`.
    fn input(&self, op: &'static str, x: &Buffer, dtype: Dtype, len: usize) -> Result<u64> {
        self.memory_of(op, x, dtype, len).map(CudaMemory::pointer)
    }

    /// The same for a buffer that may be missing: the address is then 0, which the kernel must expect.
    fn input_if(
        &self,
        op: &'static str,
        x: Option<&Buffer>,
        dtype: Dtype,
        len: usize,
    ) -> Result<u64> {
        x.map_or(Ok(0), |x| self.input(op, x, dtype, len))
    }

    /// The checked memory of `x`, with what was derived from it.
    fn memory_of<'a>(
        &self,
        op: &'static str,
        x: &'a Buffer,
        dtype: Dtype,
        len: usize,
    ) -> Result<&'a CudaMemory> {
        let memory = self.own(op, x)?;
        if x.dtype() != dtype {
            return Err(Error::Dtype { op, expected: dtype.to_string(), got: x.dtype() });
        }
        if x.len() != len {
            let detail = format!("expected a buffer of {len} elements, got {}", x.len());
            return Err(Error::shape(op, detail));
        }
        Ok(memory)
    }

    fn own<'a>(&self, op: &'static str, x: &'a Buffer) -> Result<&'a CudaMemory> {
        let expected = self.context.device;
        let memory = CudaMemory::of(x).filter(|_| x.device() == expected);
        let memory = memory.ok_or(Error::Device { op, expected, got: x.device() })?;
        if !memory.is_of(&self.pool) {
            let detail = format!("the buffer belongs to another backend of device {expected}");
            return Err(Error::argument(op, detail));
        }
        Ok(memory)
    }

    /// The dtype of `x`, if the float kernels can compute with it: f32, bf16 or f16.
    fn float(&self, op: &'static str, x: &Buffer) -> Result<Dtype> {
        let device = self.context.device;
        match x.dtype() {
            dtype @ (Dtype::F32 | Dtype::BF16 | Dtype::F16) => Ok(dtype),
            dtype @ Dtype::F64 => Err(Error::Unsupported { op, device, dtype }),
            got => Err(Error::Dtype { op, expected: Dtype::F32.to_string(), got }),
        }
    }

    /// The address of `x` to change in place, checked as [`Cuda::input`] does.
    fn update(&self, op: &'static str, x: &mut Buffer, dtype: Dtype, len: usize) -> Result<u64> {
        self.input(op, x, dtype, len)?;
        CudaMemory::update(op, &self.pool, x)
    }

    /// Room for `len` elements of `dtype`.
    fn output(&self, dtype: Dtype, len: usize) -> Result<Output> {
        Ok(Output { memory: self.pool.alloc(dtype, len)?, dtype, len })
    }

    /// Hands a kernel to the device, see [`Modules::launch`].
    fn launch(
        &self,
        op: &'static str,
        family: &Family,
        kernel: &str,
        grid: Grid,
        params: Params,
    ) -> Result<()> {
        self.modules.launch(op, family, kernel, grid, params)
    }
}
