//! Element types, and where a buffer lives.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Element type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE binary64: the oracle's type, on the reference backend only.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// Labels and indices.
    I32,
    /// Quantized weights.
    I8,
    /// Image bytes, quantized activations.
    U8,
}

impl Dtype {
    /// Bytes an element.
    pub const fn size(self) -> usize {
        match self {
            Dtype::F64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::I8 | Dtype::U8 => 1,
        }
    }

    /// Lower-case name: `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F64 => "f64",
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::BF16 => "bf16",
            Dtype::I32 => "i32",
            Dtype::I8 => "i8",
            Dtype::U8 => "u8",
        }
    }

    /// True for the types that carry gradients.
    pub const fn is_float(self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that a [`Dtype`] stands for.
pub trait Element: bytemuck::Pod + PartialOrd + fmt::Debug + Send + Sync + 'static {
    /// The matching [`Dtype`].
    const DTYPE: Dtype;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),*) => { $(impl Element for $rust { const DTYPE: Dtype = Dtype::$dtype; })* };
}
element!(f64 => F64, f32 => F32, half::f16 => F16, half::bf16 => BF16, i32 => I32, i8 => I8, u8 => U8);

/// Where buffers live and kernels run. Written `cpu`, `cuda`, `cuda:1`, `wgpu`, `softcuda`,
/// `reference`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// Plain loops in f32 and f64: the oracle.
    Reference,
    /// SIMD and rayon.
    Cpu,
    /// An NVIDIA GPU.
    Cuda(usize),
    /// A GPU through Vulkan, Metal or DX12.
    Wgpu(usize),
    /// The CUDA kernels, interpreted.
    SoftCuda,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Reference => f.write_str("reference"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(0) => f.write_str("cuda"),
            Device::Cuda(i) => write!(f, "cuda:{i}"),
            Device::Wgpu(0) => f.write_str("wgpu"),
            Device::Wgpu(i) => write!(f, "wgpu:{i}"),
            Device::SoftCuda => f.write_str("softcuda"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let (kind, index) = match s.split_once(':') {
            Some((kind, index)) => (kind, index.parse::<usize>().ok()),
            None => (s, Some(0)),
        };
        match (kind, index, s.contains(':')) {
            ("reference", _, false) => Ok(Device::Reference),
            ("cpu", _, false) => Ok(Device::Cpu),
            ("softcuda", _, false) => Ok(Device::SoftCuda),
            ("cuda", Some(i), _) => Ok(Device::Cuda(i)),
            ("wgpu", Some(i), _) => Ok(Device::Wgpu(i)),
            _ => Err(Error::UnknownDevice { name: s.to_string() }),
        }
    }
}
