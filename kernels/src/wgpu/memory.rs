//! Launches the kernels of `memory.wgsl`: filling and converting.

use super::elementwise::vectors;
use super::pipelines::MEMORY;
use super::{Grid, Kernel, Params, Read, Wgpu, WgpuMemory, Write};
use crate::host::cast_bytes;
use crate::{Buffer, Dtype, Error, Result};

/// Words that a thread of `fill` writes, times the threads of a workgroup.
const FILLED: usize = 4 * 256;

fn fill_words(
    wgpu: &Wgpu,
    op: &'static str,
    y: &WgpuMemory,
    bytes: usize,
    word: u32,
) -> Result<()> {
    let words = bytes.div_ceil(4);
    let params = Params::new().size(words.div_ceil(4)).word(word);
    let kernel = Kernel::new(&MEMORY, "fill", Dtype::F32);
    wgpu.launch(op, kernel, Grid::threads(words, FILLED), params, &[Write(y)])
}

/// Sets every byte of a block.
pub fn fill_bytes(wgpu: &Wgpu, op: &'static str, y: &WgpuMemory, byte: u8) -> Result<()> {
    fill_words(wgpu, op, y, y.block().capacity(), u32::from_ne_bytes([byte; 4]))
}

/// `len` elements of `value`.
pub fn fill(wgpu: &Wgpu, dtype: Dtype, len: usize, value: f64) -> Result<Buffer> {
    const OP: &str = "fill";
    let y = wgpu.output(OP, storable(wgpu, OP, dtype)?, len)?;
    let element = cast_bytes(Dtype::F64, dtype, bytemuck::bytes_of(&value));
    // A word of 1, 2 or 4 elements: what lies behind the last one is nobody's.
    let word: Vec<u8> = element.iter().copied().cycle().take(4).collect();
    let word = bytemuck::pod_read_unaligned(&word);
    fill_words(wgpu, OP, &y.memory, len * dtype.size(), word)?;
    Ok(y.done())
}

/// Number of a dtype in `memory.wgsl`.
fn code(wgpu: &Wgpu, op: &'static str, dtype: Dtype) -> Result<u32> {
    Ok(match dtype {
        Dtype::F32 => 0,
        Dtype::F16 => 1,
        Dtype::BF16 => 2,
        Dtype::I32 => 3,
        Dtype::I8 => 4,
        Dtype::U8 => 5,
        Dtype::F64 => return Err(Error::Unsupported { op, device: wgpu.context.device, dtype }),
    })
}

/// `dtype`, unless it is f64: that is for the reference only.
pub fn storable(wgpu: &Wgpu, op: &'static str, dtype: Dtype) -> Result<Dtype> {
    code(wgpu, op, dtype).map(|_| dtype)
}

/// x in another dtype, element by element.
pub fn cast(wgpu: &Wgpu, x: &Buffer, dtype: Dtype) -> Result<Buffer> {
    const OP: &str = "cast";
    let n = x.len();
    let memory = wgpu.input(OP, x, x.dtype(), n)?;
    let (from, to) = (code(wgpu, OP, x.dtype())?, code(wgpu, OP, dtype)?);
    if from == to {
        return Ok(x.clone()); // shares the memory, which is copied before it is changed
    }
    let y = wgpu.output(OP, dtype, n)?;
    let constants = [("FROM", from), ("TO", to)];
    let kernel = Kernel::new(&MEMORY, "cast_elements", Dtype::F32).with(&constants);
    let params = Params::new().size(n.div_ceil(4));
    wgpu.launch(OP, kernel, vectors(n), params, &[Read(memory), Write(&y.memory)])?;
    Ok(y.done())
}
