//! Elements in and out of the backend's memory, and between element types.

use super::Cpu;
use super::scalar::Scalar;
use super::simd::{Kernel, Vector};
use super::threads::TASK_ELEMENTS;
use crate::*;

/// Evaluates `$body` with `$T` the Rust type of `$dtype`.
macro_rules! with_type {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            Dtype::F64 => with_type!(@ $T = f64, $body),
            Dtype::F32 => with_type!(@ $T = f32, $body),
            Dtype::F16 => with_type!(@ $T = half::f16, $body),
            Dtype::BF16 => with_type!(@ $T = half::bf16, $body),
            Dtype::I32 => with_type!(@ $T = i32, $body),
            Dtype::I8 => with_type!(@ $T = i8, $body),
            Dtype::U8 => with_type!(@ $T = u8, $body),
        }
    };
    (@ $T:ident = $type:ty, $body:expr) => {{
        type $T = $type;
        $body
    }};
}

/// Copies host bytes.
pub fn upload(cpu: &Cpu, dtype: Dtype, bytes: &[u8]) -> Result<Buffer> {
    if !bytes.len().is_multiple_of(dtype.size()) {
        let (got, size) = (bytes.len(), dtype.size());
        let detail = format!("{got} bytes are not a whole number of {dtype} ({size} bytes each)");
        return Err(Error::shape("upload", detail));
    }
    let len = bytes.len() / dtype.size();
    with_type!(dtype, T => {
        let mut memory = cpu.alloc::<T>(len)?;
        let piece = TASK_ELEMENTS * size_of::<T>();
        let data: &mut [u8] = bytemuck::cast_slice_mut(memory.slice_mut::<T>(len));
        cpu.threads.chunks(data, piece, |i, data| {
            data.copy_from_slice(&bytes[i * piece..][..data.len()])
        });
        Ok(memory.into_buffer::<T>(len))
    })
}

/// Copies to host bytes.
pub fn download(x: &Buffer) -> Result<Vec<u8>> {
    with_type!(x.dtype(), T => {
        let x = host::read::<T>("download", Device::Cpu, x, x.len())?;
        Ok(bytemuck::cast_slice(x).to_vec())
    })
}

/// `len` elements of `value`.
pub fn fill(cpu: &Cpu, dtype: Dtype, len: usize, value: f64) -> Result<Buffer> {
    with_type!(dtype, T => {
        let value = host::cast_bytes(Dtype::F64, dtype, bytemuck::bytes_of(&value));
        let value: T = bytemuck::pod_read_unaligned(&value);
        let mut memory = cpu.alloc::<T>(len)?;
        // Parameters that are about to be loaded cost nothing.
        if !(memory.is_zeros() && bytemuck::bytes_of(&value).iter().all(|&b| b == 0)) {
            cpu.threads.chunks(memory.slice_mut::<T>(len), TASK_ELEMENTS, |_, y| y.fill(value));
        }
        Ok(memory.into_buffer::<T>(len))
    })
}

/// y = x as f32: image bytes and labels on their way into a model.
struct Widen<'a, T> {
    x: &'a [T],
    y: &'a mut [f32],
}

impl<T: Element + Widening> Kernel for Widen<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = x.widen();
        }
    }
}

impl Widening for half::bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        Scalar::widen(self)
    }
}

trait Widening: Copy {
    fn widen(self) -> f32;
}

impl Widening for u8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
}

impl Widening for i32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self as f32
    }
}

fn widen<T: Element + Widening>(cpu: &Cpu, x: &[T]) -> Result<Buffer> {
    let mut memory = cpu.alloc::<f32>(x.len())?;
    cpu.threads.chunks(memory.slice_mut(x.len()), TASK_ELEMENTS, |i, y| {
        cpu.isa.run(Widen { x: &x[i * TASK_ELEMENTS..][..y.len()], y })
    });
    Ok(memory.into_buffer::<f32>(x.len()))
}

/// y = x rounded to bf16. The bf16 instructions would flush denormals to zero.
struct Narrow<'a> {
    x: &'a [f32],
    y: &'a mut [half::bf16],
}

impl Kernel for Narrow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = Scalar::narrow(x);
        }
    }
}

fn narrow(cpu: &Cpu, x: &[f32]) -> Result<Buffer> {
    let mut memory = cpu.alloc::<half::bf16>(x.len())?;
    cpu.threads.chunks(memory.slice_mut(x.len()), TASK_ELEMENTS, |i, y| {
        cpu.isa.run(Narrow { x: &x[i * TASK_ELEMENTS..][..y.len()], y })
    });
    Ok(memory.into_buffer::<half::bf16>(x.len()))
}

/// Converts elements.
pub fn cast(cpu: &Cpu, x: &Buffer, dtype: Dtype) -> Result<Buffer> {
    const OP: &str = "cast";
    let (from, len) = (x.dtype(), x.len());
    with_type!(from, S => {
        let x_data = cpu.read::<S>(OP, x, len)?;
        match (from, dtype) {
            _ if from == dtype => return Ok(x.clone()),
            (Dtype::U8, Dtype::F32) => return widen::<u8>(cpu, bytemuck::cast_slice(x_data)),
            (Dtype::I32, Dtype::F32) => return widen::<i32>(cpu, bytemuck::cast_slice(x_data)),
            (Dtype::BF16, Dtype::F32) => {
                return widen::<half::bf16>(cpu, bytemuck::cast_slice(x_data));
            }
            (Dtype::F32, Dtype::BF16) => return narrow(cpu, bytemuck::cast_slice(x_data)),
            _ => {}
        }
        with_type!(dtype, T => {
            let mut memory = cpu.alloc::<T>(len)?;
            cpu.threads.chunks(memory.slice_mut::<T>(len), TASK_ELEMENTS, |i, y| {
                let x = &x_data[i * TASK_ELEMENTS..][..y.len()];
                let bytes = host::cast_bytes(from, dtype, bytemuck::cast_slice(x));
                bytemuck::cast_slice_mut(y).copy_from_slice(&bytes);
            });
            Ok(memory.into_buffer::<T>(len))
        })
    })
}
