//! The CPU backend: SIMD chosen at run time, threads, pooled memory. One file a kernel family.
//!
//! **Determinism.** Work is cut into tasks by sizes alone, never by the number of threads, wherever a
//! cut splits a sum; partial sums are added in the order of the tasks. So every result has the same
//! bits with 1, 2 or 64 threads.

mod backend;
mod batch_norm;
mod broadcast;
mod conv2d;
mod cross_entropy;
mod dropout;
mod elementwise;
mod gemm;
mod matmul;
mod memory;
mod movement;
mod optimizer;
mod pool2d;
mod reduce;
mod scalar;
pub mod simd;
mod softmax;
mod threads;
mod tiles;

mod widened;

use std::sync::Arc;

use crate::host::{self, HostMemory, Pool};
use crate::*;
pub use conv2d::ConvAlgorithm;
use conv2d::choice::Choices;
pub use conv2d::choice::ConvPass;
use simd::Isa;
use threads::Threads;

/// How a [`Cpu`] is made.
#[derive(Clone, Debug, Default)]
pub struct CpuOptions {
    /// Worker threads; by default one a core that this process may use.
    pub threads: Option<usize>,
    /// Instruction set; by default the strongest that the machine has (or that `TILEGRAD_CPU_ISA`
    /// names).
    pub isa: Option<Isa>,
    /// Convolution algorithm to use wherever it applies; by default that of the table
    /// `conv2d/choice.txt` (or the one that `TILEGRAD_CPU_CONV` names).
    pub conv: Option<ConvAlgorithm>,
    /// Fill every new buffer with NaN before a kernel writes it, so that an element it forgets
    /// shows. For tests.
    pub poison: bool,
}

/// The CPU backend.
pub struct Cpu {
    memory: Arc<Pool>,
    threads: Threads,
    isa: Isa,
    conv: Option<ConvAlgorithm>,
    choices: Choices,
}

impl Cpu {
    /// A backend with its own threads and memory pool.
    pub fn new(options: CpuOptions) -> Result<Self> {
        let isa = match (options.isa, std::env::var("TILEGRAD_CPU_ISA")) {
            (Some(isa), _) => isa,
            (None, Ok(name)) => name.parse()?,
            (None, Err(_)) => Isa::detect(),
        };
        if !isa.is_available() {
            return Err(Error::Unavailable {
                device: Device::Cpu,
                reason: format!("this processor has no {isa}; it has {}", Isa::detect()),
            });
        }
        let memory = Pool::new(Device::Cpu);
        memory.set_poison(options.poison);
        let conv = match (options.conv, std::env::var("TILEGRAD_CPU_CONV")) {
            (None, Ok(name)) => Some(name.parse()?),
            (conv, _) => conv,
        };
        let threads = Threads::new(options.threads)?;
        Ok(Cpu { memory, threads, isa, conv, choices: Choices::default() })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of worker threads.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// Runs `f` on a worker thread. Kernels called from there start without a switch of threads.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.threads.enter(f)
    }

    /// Elements of `x`, checked.
    fn read<'a, T: Element>(&self, op: &'static str, x: &'a Buffer, len: usize) -> Result<&'a [T]> {
        // The float type that this backend has no kernels for is "unsupported", not "wrong".
        let here = x.device() == Device::Cpu;
        if here && T::DTYPE == Dtype::F32 && x.dtype() == Dtype::F64 {
            return Err(Error::Unsupported { op, device: Device::Cpu, dtype: x.dtype() });
        }
        host::read(op, Device::Cpu, x, len)
    }

    /// Elements of `x` to update in place.
    fn update<'a, T: Element>(
        &self,
        op: &'static str,
        x: &'a mut Buffer,
        len: usize,
    ) -> Result<&'a mut [T]> {
        host::update(op, &self.memory, x, len)
    }

    /// Room for `len` elements, contents undefined.
    fn alloc<T: Element>(&self, len: usize) -> Result<HostMemory> {
        self.memory.alloc::<T>(len)
    }
}
