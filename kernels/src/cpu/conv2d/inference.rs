//! Convolution for inference: filters stay the same from call to call, so they are packed or
//! transformed once and kept with their memory (see `crate::derived`), and the sum with a residual
//! is taken in the epilogue.

use std::sync::Arc;

use super::choice::ConvPass;
use super::{ConvAlgorithm, Epilogue, OP, choose, direct, packed, winograd};
use crate::cpu::Cpu;
use crate::cpu::scalar::Scalar;
use crate::derived::Key;
use crate::host::{HostMemory, derived};
use crate::*;

/// Above this many bytes of transformed filters, they are not kept: they would not stay in the last
/// level cache, and take four times the memory of the filters.
const LARGE_FILTERS: usize = 12 << 20;

/// y = activation(x * filter + bias + residual)
pub fn forward<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    activation: Activation,
    x: &Buffer,
    filter: &Buffer,
    bias: Option<&Buffer>,
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    let x = cpu.read::<T>(OP, x, args.x_elements())?;
    let elements = cpu.read::<T>(OP, filter, args.filter_elements())?;
    let bias = bias.map(|b| cpu.read::<T>(OP, b, args.c_out)).transpose()?;
    let residual = residual.map(|r| cpu.read::<T>(OP, r, args.y_elements())).transpose()?;
    let epilogue = Epilogue { bias, residual, relu: activation == Activation::Relu };
    let mut y = cpu.alloc::<T>(args.y_elements())?;
    let out = y.slice_mut(args.y_elements());
    match choose::<T>(cpu, ConvPass::Inference, args) {
        ConvAlgorithm::Winograd => {
            let words = winograd::transformed::words::<T>(cpu, args);
            if 4 * words <= LARGE_FILTERS {
                let make = || winograd::transformed::transform_filters(cpu, args, elements);
                let kept = kept(cpu, args, "winograd filters", filter, make)?;
                let u = kept.slice::<f32>(words);
                winograd::transformed::forward(cpu, args, x, u, epilogue, out)?;
            } else {
                winograd::forward(cpu, args, x, elements, epilogue, out)?;
            }
        }
        ConvAlgorithm::Direct if packed::applies(args) => {
            let make = || packed::pack(cpu, args, elements);
            let kept = kept(cpu, args, "packed filters", filter, make)?;
            let panels = kept.slice::<f32>(packed::words::<T>(cpu, args));
            packed::forward(cpu, args, x, panels, epilogue, out)?;
        }
        ConvAlgorithm::Direct => direct::forward(cpu, args, x, elements, epilogue, out)?,
    }
    Ok(y.into_buffer::<T>(args.y_elements()))
}

/// What was derived from the filters, made if it is not there.
fn kept(
    cpu: &Cpu,
    args: &Conv2dArgs,
    what: &'static str,
    filter: &Buffer,
    make: impl FnOnce() -> Result<HostMemory>,
) -> Result<Arc<HostMemory>> {
    let Conv2dArgs { c_in, c_out, kh, kw, .. } = *args;
    let key = Key { what, parameters: [cpu.isa as usize, c_in, c_out, kh, kw, 0, 0, 0] };
    derived(filter).get_or_make(key, make)
}
