//! Launches the kernels of `cross_entropy.cu`.

use super::modules::CROSS_ENTROPY;
use super::softmax::warps;
use super::{Cuda, Params};
use crate::{Buffer, CrossEntropyArgs, Dtype, Result, Rows};

const OP: &str = "cross_entropy";

/// What both passes begin with: the name of the targets' kind, and rows, constants, logits, targets.
fn common(
    cuda: &Cuda,
    args: &CrossEntropyArgs,
    logits: &Buffer,
    targets: &Buffer,
) -> Result<(&'static str, Dtype, Params)> {
    let Rows { count, len } = args.rows;
    let dtype = cuda.float(OP, logits)?;
    let logits = cuda.input(OP, logits, dtype, args.rows.elements())?;
    let (kind, targets) = match targets.dtype() {
        Dtype::I32 => ("labels", cuda.input(OP, targets, Dtype::I32, count)?),
        _ => ("soft", cuda.input(OP, targets, dtype, args.rows.elements())?),
    };
    let (keep, floor) = (1.0 - args.smoothing, args.smoothing / len as f64);
    let params = Params::new().size(count).size(len).float(keep).float(floor);
    Ok((kind, dtype, params.value(logits).value(targets)))
}

/// Loss and log Σ exp(logits) of each row, f32. A bad label is reported when the host next waits.
pub fn forward(
    cuda: &Cuda,
    args: &CrossEntropyArgs,
    logits: &Buffer,
    targets: &Buffer,
) -> Result<(Buffer, Buffer)> {
    let Rows { count, len } = args.rows;
    let (kind, dtype, params) = common(cuda, args, logits, targets)?;
    let (loss, lse) = (cuda.output(Dtype::F32, count)?, cuda.output(Dtype::F32, count)?);
    let params = params.value(loss.pointer()).value(lse.pointer());
    let watch = cuda.indices.watch(OP, len)?;
    let params = params.value(watch.address);
    let kernel = format!("{OP}_forward_{dtype}_{kind}_warp");
    cuda.launch(OP, &CROSS_ENTROPY, &kernel, warps(count), params)?;
    Ok((loss.done(), lse.done()))
}

/// dlogits from the gradient of each row's loss.
pub fn backward(
    cuda: &Cuda,
    args: &CrossEntropyArgs,
    logits: &Buffer,
    targets: &Buffer,
    log_sum_exp: &Buffer,
    dloss: &Buffer,
) -> Result<Buffer> {
    let Rows { count, len } = args.rows;
    let (kind, dtype, params) = common(cuda, args, logits, targets)?;
    let lse = cuda.input(OP, log_sum_exp, Dtype::F32, count)?;
    let dloss = cuda.input(OP, dloss, Dtype::F32, count)?;
    let dx = cuda.output(dtype, args.rows.elements())?;
    let params = params.value(lse).value(dloss).value(dx.pointer());
    let watch = cuda.indices.watch(OP, len)?;
    let params = params.value(watch.address);
    let kernel = format!("{OP}_backward_{dtype}_{kind}_warp");
    cuda.launch(OP, &CROSS_ENTROPY, &kernel, warps(count), params)?;
    Ok(dx.done())
}
