//! The wgpu backend: hand-written WGSL kernels on any GPU with Vulkan, Metal or DX12. One launcher file a
//! kernel family; the kernels are in `shaders/<family>.wgsl`.
//!
//! A method of [`Wgpu`] checks its buffers, takes memory for its result from the pool, records a kernel and
//! returns; only downloads and [`Backend::synchronize`] wait for the device.
//!
//! **Determinism.** Every sum has a shape that depends on sizes alone and is added without float atomics,
//! so results have the same bits on every run of one adapter.

mod backend;
mod batch_norm;
mod broadcast;
mod clock;
mod context;
mod conv2d;
mod cross_entropy;
mod dropout;
mod elementwise;
mod indices;
mod matmul;
mod memory;
mod movement;
mod optimizer;
mod params;
mod pipelines;
mod pool;
mod pool2d;
mod recorder;
mod reduce;
mod softmax;

use std::sync::Arc;

pub use matmul::MatmulAlgorithm;
pub use pipelines::text as shader_text;

use context::Context;
use indices::Indices;
use params::{Grid, Params};
use pipelines::{Access, Constants, Family, Pipelines};
use pool::{Block, Pool, WgpuMemory};
use recorder::Recorder;

use crate::*;

/// How a [`Wgpu`] is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct WgpuOptions {
    /// Fill every new buffer with NaN before a kernel writes it, so that an element it forgets shows. For
    /// tests.
    pub poison: bool,
    /// Take the first, plainest kernel of each ladder, instead of the fastest: for tests and comparisons.
    pub first_rung: bool,
    /// Have the graphics API check every call (Vulkan's validation layer, where it is installed). For tests.
    pub validation: bool,
    /// Run every matrix product by this rung of its ladder, where it has a kernel for it. For tests and
    /// comparisons.
    pub matmul: Option<MatmulAlgorithm>,
}

/// The wgpu backend, on one adapter.
pub struct Wgpu {
    recorder: Recorder,
    pipelines: Pipelines,
    indices: Indices,
    /// Bound where a kernel has a buffer that this call lacks, and never looked at.
    nothing: WgpuMemory,
    /// The same where the kernel could write it: one dispatch may not bind a buffer both ways.
    nothing_to_write: WgpuMemory,
    pool: Arc<Pool>,
    context: Arc<Context>,
    options: WgpuOptions,
}

/// How many adapters there are: `wgpu:0` and so on.
pub fn count() -> usize {
    context::count()
}

/// Whether `device` can be opened, at little cost: what it is, or in one line why it cannot.
pub fn probe(device: Device) -> std::result::Result<String, String> {
    context::probe(device).map_err(|e| match e {
        Error::Unavailable { reason, .. } => reason,
        other => other.to_string(),
    })
}

/// A buffer that a kernel is about to write.
struct Output {
    memory: WgpuMemory,
    dtype: Dtype,
    len: usize,
}

impl Output {
    /// The buffer, once the kernel that writes it was recorded.
    fn done(self) -> Buffer {
        self.memory.into_buffer(self.dtype, self.len)
    }
}

/// A buffer of a kernel, in the order of its bindings (from 1 on), and what it does with it.
#[derive(Clone, Copy)]
enum Bound<'a> {
    /// `var<storage, read>`
    Read(&'a WgpuMemory),
    /// `var<storage, read_write>`
    Write(&'a WgpuMemory),
}

use Bound::{Read, Write};

/// A kernel: `entry` of `shaders/<family>.wgsl`, for buffers of `dtype`, with the values of its `override`
/// constants.
struct Kernel<'a> {
    family: &'a Family,
    entry: &'static str,
    dtype: Dtype,
    constants: Constants<'a>,
}

impl<'a> Kernel<'a> {
    /// With the constants that the file gives.
    fn new(family: &'a Family, entry: &'static str, dtype: Dtype) -> Kernel<'a> {
        Kernel { family, entry, dtype, constants: &[] }
    }

    /// With constants of the host's choice.
    fn with(self, constants: Constants<'a>) -> Kernel<'a> {
        Kernel { constants, ..self }
    }
}

impl Wgpu {
    /// Opens [`Device::Wgpu`]; the error says in one line why that cannot be.
    pub fn new(device: Device, options: WgpuOptions) -> Result<Wgpu> {
        let context = Arc::new(Context::open(device, options.validation)?);
        let pool = Pool::new(context.clone());
        let nothing = pool.alloc("memory", Dtype::F32, 1)?;
        let nothing_to_write = pool.alloc("memory", Dtype::F32, 1)?;
        let recorder = Recorder::new(context.clone())?;
        let (pipelines, indices) = (Pipelines::default(), Indices::default());
        Ok(Wgpu { recorder, pipelines, indices, nothing, nothing_to_write, pool, context, options })
    }

    /// Whether the adapter can store f16.
    pub fn has_f16(&self) -> bool {
        self.context.features.contains(::wgpu::Features::SHADER_F16)
    }

    /// Names of all kernels that there are.
    pub fn kernels() -> impl Iterator<Item = &'static str> {
        pipelines::FAMILIES.iter().flat_map(Family::kernels)
    }

    /// Names of the kernels that were used so far.
    pub fn loaded_kernels(&self) -> Vec<&'static str> {
        self.pipelines.loaded()
    }

    /// Whether the adapter takes the rung [`MatmulAlgorithm::SubgroupTile`], which is for subgroups of 8 threads.
    pub fn has_subgroup_tile(&self) -> bool {
        matmul::has_subgroups_of_8(self)
    }

    /// The memory of `x`, which must be a buffer of this backend with `len` elements of `dtype`.
    fn input<'a>(
        &self,
        op: &'static str,
        x: &'a Buffer,
        dtype: Dtype,
        len: usize,
    ) -> Result<&'a WgpuMemory> {
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

    /// The same for a buffer that may be missing: memory that the kernel must not look at stands in for it.
    fn input_if<'a>(
        &'a self,
        op: &'static str,
        x: Option<&'a Buffer>,
        dtype: Dtype,
        len: usize,
    ) -> Result<&'a WgpuMemory> {
        x.map_or(Ok(&self.nothing), |x| self.input(op, x, dtype, len))
    }

    fn own<'a>(&self, op: &'static str, x: &'a Buffer) -> Result<&'a WgpuMemory> {
        let expected = self.context.device;
        let memory = WgpuMemory::of(x).filter(|_| x.device() == expected);
        let memory = memory.ok_or(Error::Device { op, expected, got: x.device() })?;
        if !memory.is_of(&self.pool) {
            let detail = format!("the buffer belongs to another backend of device {expected}");
            return Err(Error::argument(op, detail));
        }
        Ok(memory)
    }

    /// The dtype of `x`, if the float kernels can compute with it: f32, and f16 where the adapter has it.
    fn float(&self, op: &'static str, x: &Buffer) -> Result<Dtype> {
        self.check_float(op, x.dtype())
    }

    fn check_float(&self, op: &'static str, dtype: Dtype) -> Result<Dtype> {
        let device = self.context.device;
        match dtype {
            Dtype::F32 => Ok(dtype),
            Dtype::F16 if self.has_f16() => Ok(dtype),
            Dtype::F16 | Dtype::BF16 | Dtype::F64 => Err(Error::Unsupported { op, device, dtype }),
            got => Err(Error::Dtype { op, expected: Dtype::F32.to_string(), got }),
        }
    }

    /// The memory of `x` to change in place, checked as [`Wgpu::input`] does. When others hold it too, it is
    /// copied first: they keep the old value.
    fn update<'a>(
        &self,
        op: &'static str,
        x: &'a mut Buffer,
        dtype: Dtype,
        len: usize,
    ) -> Result<&'a WgpuMemory> {
        self.input(op, x, dtype, len)?;
        if x.storage_mut().is_none() {
            let new = self.pool.alloc(op, dtype, len)?;
            let bytes = (len * dtype.size()).next_multiple_of(4);
            if bytes > 0 {
                self.recorder.copy(self.own(op, x)?.block(), new.block(), bytes as u64);
            }
            *x = new.into_buffer(dtype, len);
        }
        self.own(op, x)
    }

    /// Room for `len` elements of `dtype`.
    fn output(&self, op: &'static str, dtype: Dtype, len: usize) -> Result<Output> {
        let memory = self.pool.alloc(op, dtype, len)?;
        if self.options.poison {
            memory::fill_bytes(self, op, &memory, 0xFF)?;
        }
        Ok(Output { memory, dtype, len })
    }

    /// Records a kernel, unless its grid is empty.
    fn launch<'a>(
        &'a self,
        op: &'static str,
        kernel: Kernel<'_>,
        grid: Grid,
        params: Params,
        buffers: &[Bound<'a>],
    ) -> Result<()> {
        let limit = self.context.limits.max_compute_workgroups_per_dimension;
        let Some(workgroups) = grid.workgroups(limit) else {
            let detail =
                format!("needs {grid:?} workgroups, but the adapter takes {limit} along an axis");
            return Err(Error::argument(op, detail));
        };
        if workgroups.contains(&0) {
            return Ok(());
        }
        if params.is_too_large() {
            let detail =
                "a size, stride or padding is 2^32 or more, which the WGSL kernels do not take";
            return Err(Error::argument(op, detail.to_string()));
        }
        let access = |b: &Bound<'_>| match b {
            Read(_) => Access::Read,
            Write(_) => Access::Write,
        };
        let access: Vec<Access> = buffers.iter().map(access).collect();
        let Kernel { family, entry, dtype, constants } = kernel;
        let pipeline =
            self.pipelines.get(&self.context, op, family, entry, dtype, constants, &access)?;
        let block = |bound: &Bound<'a>| match *bound {
            Write(memory) if std::ptr::eq(memory, &self.nothing) => self.nothing_to_write.block(),
            Read(memory) | Write(memory) => memory.block(),
        };
        let blocks: Vec<&Block> = buffers.iter().map(block).collect();
        self.recorder.dispatch(op, &pipeline, &params.bytes(), &blocks, workgroups)
    }
}
