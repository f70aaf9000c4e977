//! Buffers of every dtype: to and from the host, filled, converted.

use super::Reference;
use crate::host::{self, HostMemory};
use crate::{Buffer, Device, Dtype, Element, Error, Result};

/// Runs `$body` with `$T` standing for the Rust type of a dtype: any of them.
macro_rules! dtypes {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            Dtype::F64 => {
                type $T = f64;
                $body
            }
            Dtype::F32 => {
                type $T = f32;
                $body
            }
            Dtype::F16 => {
                type $T = half::f16;
                $body
            }
            Dtype::BF16 => {
                type $T = half::bf16;
                $body
            }
            Dtype::I32 => {
                type $T = i32;
                $body
            }
            Dtype::I8 => {
                type $T = i8;
                $body
            }
            Dtype::U8 => {
                type $T = u8;
                $body
            }
        }
    };
}

/// The same for the float type of a buffer; `$op` is not supported on others.
macro_rules! floats {
    ($op:expr, $x:expr, $F:ident => $body:expr) => {
        match $x.dtype() {
            Dtype::F64 => {
                type $F = f64;
                $body
            }
            Dtype::F32 => {
                type $F = f32;
                $body
            }
            dtype => Err(Error::Unsupported { op: $op, device: Device::Reference, dtype }),
        }
    };
}

/// The same for elements that are only moved: floats and i32.
macro_rules! movable {
    ($op:expr, $x:expr, $T:ident => $body:expr) => {
        match $x.dtype() {
            Dtype::I32 => { type $T = i32; $body }
            _ => floats!($op, $x, $T => $body),
        }
    };
}
pub(super) use {floats, movable};

/// `value` as a T, converted as `cast` does.
pub fn element<T: Element>(value: f64) -> T {
    bytemuck::pod_read_unaligned(&host::cast_bytes(
        Dtype::F64,
        T::DTYPE,
        bytemuck::bytes_of(&value),
    ))
}

impl Reference {
    /// Elements of `x`, checked.
    pub(super) fn read<'a, T: Element>(
        &self,
        op: &'static str,
        x: &'a Buffer,
        len: usize,
    ) -> Result<&'a [T]> {
        host::read(op, Device::Reference, x, len)
    }

    /// The same for an input that may be absent.
    pub(super) fn read_if<'a, T: Element>(
        &self,
        op: &'static str,
        x: Option<&'a Buffer>,
        len: usize,
    ) -> Result<Option<&'a [T]>> {
        x.map(|x| self.read(op, x, len)).transpose()
    }

    /// Elements of `x` to update in place.
    pub(super) fn update<'a, T: Element>(
        &self,
        op: &'static str,
        x: &'a mut Buffer,
        len: usize,
    ) -> Result<&'a mut [T]> {
        host::update(op, &self.memory, x, len)
    }

    /// Room for `len` elements, contents undefined.
    pub(super) fn alloc<T: Element>(&self, len: usize) -> Result<HostMemory> {
        self.memory.alloc::<T>(len)
    }

    /// A new buffer of `len` elements, all of which `write` sets.
    pub(super) fn output<T: Element>(
        &self,
        len: usize,
        write: impl FnOnce(&mut [T]),
    ) -> Result<Buffer> {
        let mut memory = self.alloc::<T>(len)?;
        write(memory.slice_mut(len));
        Ok(memory.into_buffer::<T>(len))
    }

    /// Two new buffers, both of which `write` sets.
    pub(super) fn outputs<A: Element, B: Element>(
        &self,
        [len_a, len_b]: [usize; 2],
        write: impl FnOnce(&mut [A], &mut [B]),
    ) -> Result<(Buffer, Buffer)> {
        let (mut a, mut b) = (self.alloc::<A>(len_a)?, self.alloc::<B>(len_b)?);
        write(a.slice_mut(len_a), b.slice_mut(len_b));
        Ok((a.into_buffer::<A>(len_a), b.into_buffer::<B>(len_b)))
    }

    pub(super) fn copy_from_host(&self, dtype: Dtype, bytes: &[u8]) -> Result<Buffer> {
        let size = dtype.size();
        if !bytes.len().is_multiple_of(size) {
            let got = bytes.len();
            let detail =
                format!("{got} bytes are not a whole number of {dtype} ({size} bytes each)");
            return Err(Error::shape("upload", detail));
        }
        dtypes!(dtype, T => self.output::<T>(bytes.len() / size, |y| {
            bytemuck::cast_slice_mut(y).copy_from_slice(bytes);
        }))
    }

    pub(super) fn copy_to_host(&self, op: &'static str, x: &Buffer) -> Result<Vec<u8>> {
        dtypes!(x.dtype(), T => {
            Ok(bytemuck::cast_slice(self.read::<T>(op, x, x.len())?).to_vec())
        })
    }

    pub(super) fn filled(&self, dtype: Dtype, len: usize, value: f64) -> Result<Buffer> {
        dtypes!(dtype, T => self.output::<T>(len, |y| y.fill(element(value))))
    }

    pub(super) fn converted(&self, x: &Buffer, dtype: Dtype) -> Result<Buffer> {
        let bytes = self.copy_to_host("cast", x)?;
        self.copy_from_host(dtype, &host::cast_bytes(x.dtype(), dtype, &bytes))
    }
}
