//! Launches the kernels of `cross_entropy.wgsl`.

use super::pipelines::CROSS_ENTROPY;
use super::softmax::lanes;
use super::{Kernel, Params, Read, Wgpu, WgpuMemory, Write};
use crate::{Buffer, CrossEntropyArgs, Dtype, Result, Rows};

const OP: &str = "cross_entropy";

/// What both passes begin with: logits, labels and probabilities (one of which is nothing), and the parameters.
struct Common<'a> {
    dtype: Dtype,
    soft: bool,
    logits: &'a WgpuMemory,
    labels: &'a WgpuMemory,
    probabilities: &'a WgpuMemory,
    params: Params,
}

fn common<'a>(
    wgpu: &'a Wgpu,
    args: &CrossEntropyArgs,
    logits: &'a Buffer,
    targets: &'a Buffer,
) -> Result<Common<'a>> {
    let Rows { count, len } = args.rows;
    let dtype = wgpu.float(OP, logits)?;
    let logits = wgpu.input(OP, logits, dtype, args.rows.elements())?;
    let soft = targets.dtype() != Dtype::I32;
    let (labels, probabilities) = match soft {
        false => (wgpu.input(OP, targets, Dtype::I32, count)?, &wgpu.nothing),
        true => (&wgpu.nothing, wgpu.input(OP, targets, dtype, args.rows.elements())?),
    };
    let (keep, floor) = (1.0 - args.smoothing, args.smoothing / len as f64);
    let params = Params::new().sizes(&[count, len]).float(keep).float(floor);
    Ok(Common { dtype, soft, logits, labels, probabilities, params })
}

/// Loss and log Σ exp(logits) of each row, f32. A bad label is reported when the host next waits.
pub fn forward(
    wgpu: &Wgpu,
    args: &CrossEntropyArgs,
    logits: &Buffer,
    targets: &Buffer,
) -> Result<(Buffer, Buffer)> {
    let Rows { count, len } = args.rows;
    let Common { dtype, soft, logits, labels, probabilities, params } =
        common(wgpu, args, logits, targets)?;
    let (loss, lse) = (wgpu.output(OP, Dtype::F32, count)?, wgpu.output(OP, Dtype::F32, count)?);
    let constants = [("SOFT", u32::from(soft))];
    let kernel = Kernel::new(&CROSS_ENTROPY, "cross_entropy_forward", dtype).with(&constants);
    let outputs = [Write(&loss.memory), Write(&lse.memory)];
    let buffers = [Read(logits), Read(labels), Read(probabilities)].into_iter().chain(outputs);
    let buffers: Vec<_> = buffers.collect();
    wgpu.launch(OP, kernel, lanes(count), params, &buffers)?;
    if !soft && count > 0 {
        wgpu.indices.watch(wgpu, OP, labels, count, len)?;
    }
    Ok((loss.done(), lse.done()))
}

/// dlogits from the gradient of each row's loss. Bad labels were reported by the forward pass.
pub fn backward(
    wgpu: &Wgpu,
    args: &CrossEntropyArgs,
    logits: &Buffer,
    targets: &Buffer,
    log_sum_exp: &Buffer,
    dloss: &Buffer,
) -> Result<Buffer> {
    let count = args.rows.count;
    let Common { dtype, soft, logits, labels, probabilities, params } =
        common(wgpu, args, logits, targets)?;
    let lse = wgpu.input(OP, log_sum_exp, Dtype::F32, count)?;
    let dloss = wgpu.input(OP, dloss, Dtype::F32, count)?;
    let dx = wgpu.output(OP, dtype, args.rows.elements())?;
    let constants = [("SOFT", u32::from(soft))];
    let kernel = Kernel::new(&CROSS_ENTROPY, "cross_entropy_backward", dtype).with(&constants);
    let inputs = [logits, labels, probabilities, lse, dloss].map(Read);
    let buffers: Vec<_> = inputs.into_iter().chain([Write(&dx.memory)]).collect();
    wgpu.launch(OP, kernel, lanes(count), params, &buffers)?;
    Ok(dx.done())
}
