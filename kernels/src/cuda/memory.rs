//! Launches the kernels of `memory.cu`: filling and converting.

use super::elementwise::vectors;
use super::modules::MEMORY;
use super::{Cuda, Params};
use crate::host::cast_bytes;
use crate::{Buffer, Dtype, Result};

/// The bits of `value` in `dtype`, as a parameter of a kernel for elements of that size.
fn constant(params: Params, dtype: Dtype, value: f64) -> Params {
    let bytes = cast_bytes(Dtype::F64, dtype, bytemuck::bytes_of(&value));
    match dtype.size() {
        1 => params.value(bytes[0]),
        2 => params.value(bytemuck::pod_read_unaligned::<u16>(&bytes)),
        4 => params.value(bytemuck::pod_read_unaligned::<u32>(&bytes)),
        _ => params.value(bytemuck::pod_read_unaligned::<u64>(&bytes)),
    }
}

/// `len` elements of `value`.
pub fn fill(cuda: &Cuda, dtype: Dtype, len: usize, value: f64) -> Result<Buffer> {
    let y = cuda.output(dtype, len)?;
    let params = constant(Params::new().size(len).value(y.pointer()), dtype, value);
    let kernel = format!("fill_b{}_vector4", 8 * dtype.size());
    cuda.launch("fill", &MEMORY, &kernel, vectors(len), params)?;
    Ok(y.done())
}

/// x in another dtype, element by element.
pub fn cast(cuda: &Cuda, x: &Buffer, dtype: Dtype) -> Result<Buffer> {
    const OP: &str = "cast";
    let n = x.len();
    let px = cuda.input(OP, x, x.dtype(), n)?;
    if x.dtype() == dtype {
        return Ok(x.clone()); // shares the memory, which is copied before it is changed
    }
    let y = cuda.output(dtype, n)?;
    let params = Params::new().size(n).value(px).value(y.pointer());
    let kernel = format!("cast_{}_to_{dtype}_vector4", x.dtype());
    cuda.launch(OP, &MEMORY, &kernel, vectors(n), params)?;
    Ok(y.done())
}
