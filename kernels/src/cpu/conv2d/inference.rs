//! Convolution for inference: filters stay the same from call to call, so they are packed or
//! transformed once and kept with their memory (see `crate::derived`), and the sum with a residual
//! is taken in the epilogue.

use std::sync::Arc;

use super::choice::ConvPass;
use super::{ConvAlgorithm, Epilogue, OP, choose, packed, winograd};
use crate::cpu::Cpu;
use crate::cpu::scalar::Scalar;
use crate::derived::Key;
use crate::host::{HostMemory, derived};
use crate::*;

/// Above this many bytes of transformed filters, they are not kept: they would not stay in the last
/// level cache, and take four times the memory of the filters.
const LARGE_FILTERS: usize = 12 << 20;

/// How a convolution is computed for inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Kept panels.
    Packed,
    /// Kept transformed filters.
    Winograd,
    /// As in training, and the residual added afterwards.
    Composed,
}

fn plan<T: Scalar>(cpu: &Cpu, args: &Conv2dArgs) -> Plan {
    match choose::<T>(cpu, ConvPass::Inference, args) {
        ConvAlgorithm::Winograd => {
            match 4 * winograd::transformed::words::<T>(cpu, args) <= LARGE_FILTERS {
                true => Plan::Winograd,
                false => Plan::Composed,
            }
        }
        ConvAlgorithm::Direct => match packed::applies(args) {
            true => Plan::Packed,
            false => Plan::Composed,
        },
    }
}

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
    let plan = plan::<T>(cpu, args);
    if plan == Plan::Composed {
        return composed(cpu, args, activation, x, filter, bias, residual);
    }
    let kept = kept::<T>(cpu, args, plan, filter)?;
    let x = cpu.read::<T>(OP, x, args.x_elements())?;
    let bias = bias.map(|b| cpu.read::<T>(OP, b, args.c_out)).transpose()?;
    let residual = residual.map(|r| cpu.read::<T>(OP, r, args.y_elements())).transpose()?;
    let epilogue = Epilogue { bias, residual, relu: activation == Activation::Relu };
    let mut y = cpu.alloc::<T>(args.y_elements())?;
    let out = y.slice_mut(args.y_elements());
    if plan == Plan::Winograd {
        let u = kept.slice::<f32>(winograd::transformed::words::<T>(cpu, args));
        winograd::transformed::forward(cpu, args, x, u, epilogue, out)?;
    } else {
        let panels = kept.slice::<f32>(packed::words::<T>(cpu, args));
        packed::forward(cpu, args, x, panels, epilogue, out)?;
    }
    Ok(y.into_buffer::<T>(args.y_elements()))
}

/// The packed or transformed filters, made if they are not there.
fn kept<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    plan: Plan,
    filter: &Buffer,
) -> Result<Arc<HostMemory>> {
    let elements = cpu.read::<T>(OP, filter, args.filter_elements())?;
    let what = if plan == Plan::Winograd { "winograd filters" } else { "packed filters" };
    let Conv2dArgs { c_in, c_out, kh, kw, .. } = *args;
    let key = Key { what, parameters: [cpu.isa as usize, c_in, c_out, kh, kw, 0, 0, 0] };
    derived(filter).get_or_make(key, || match plan {
        Plan::Winograd => winograd::transformed::transform_filters(cpu, args, elements),
        _ => packed::pack(cpu, args, elements),
    })
}

/// From the parts that training uses.
fn composed(
    cpu: &Cpu,
    args: &Conv2dArgs,
    activation: Activation,
    x: &Buffer,
    filter: &Buffer,
    bias: Option<&Buffer>,
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    let Some(residual) = residual else {
        return cpu.conv2d_forward(args, activation, x, filter, bias);
    };
    let mut y = cpu.conv2d_forward(args, Activation::Identity, x, filter, bias)?;
    cpu.accumulate(&mut y, residual)?;
    match activation {
        Activation::Identity => Ok(y),
        Activation::Relu => cpu.unary_forward(Unary::Relu, &y),
    }
}
