//! Launches the kernels of `optimizer.cu`: parameter updates, many tensors in one launch.

use super::modules::OPTIMIZER;
use super::{Cuda, Grid, Params, memory};
use crate::{AdamWArgs, AdamWParameter, Buffer, Dtype, Error, Result, SgdArgs, SgdParameter};

/// `MAX_TENSORS`, `BLOCK_ELEMENTS` and the threads a block of the kernels.
const MAX_TENSORS: usize = 48;
const BLOCK_ELEMENTS: usize = 1024;
const THREADS: u32 = 256;

/// Addresses of one parameter and what belongs to it.
struct Tensor {
    dtype: Dtype,
    len: usize,
    parameter: u64,
    gradient: u64,
    state: [u64; 2],
}

/// Launches `kernel` on all tensors, `MAX_TENSORS` of one dtype at a time; `options` is its struct of options.
fn launch(
    cuda: &Cuda,
    op: &'static str,
    kernel: &str,
    tensors: &[Tensor],
    options: impl Fn(Params) -> Params,
    scale: u64,
) -> Result<()> {
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
        let of_dtype: Vec<&Tensor> =
            tensors.iter().filter(|t| t.dtype == dtype && t.len > 0).collect();
        for group in of_dtype.chunks(MAX_TENSORS) {
            let mut words = vec![group.len() as u64];
            let mut blocks = 0;
            // first_block has one entry more than there are tensors.
            for i in 0..=MAX_TENSORS {
                words.push(blocks as u64);
                blocks += group.get(i).map_or(0, |t| t.len.div_ceil(BLOCK_ELEMENTS));
            }
            let fields: [fn(&Tensor) -> u64; 5] =
                [|t| t.len as u64, |t| t.parameter, |t| t.gradient, |t| t.state[0], |t| t.state[1]];
            for field in fields {
                words.extend((0..MAX_TENSORS).map(|i| group.get(i).map_or(0, |t| field(t))));
            }
            let params = options(Params::new().words(&words)).value(scale);
            let grid = Grid::blocks([blocks, 1, 1], [THREADS, 1, 1]);
            cuda.launch(op, &OPTIMIZER, &format!("{kernel}_{dtype}_fused"), grid, params)?;
        }
    }
    Ok(())
}

/// The factor of all gradients as one f32 on the device; the buffer lives until the launch was handed over.
fn gradient_scale(cuda: &Cuda, op: &'static str, scale: Option<&Buffer>) -> Result<Option<Buffer>> {
    let Some(scale) = scale else { return Ok(None) };
    let dtype = cuda.float(op, scale)?;
    cuda.input(op, scale, dtype, 1)?;
    Ok(Some(memory::cast(cuda, scale, Dtype::F32)?))
}

fn address(cuda: &Cuda, op: &'static str, scale: Option<&Buffer>) -> Result<u64> {
    cuda.input_if(op, scale, Dtype::F32, 1)
}

/// One step of SGD on every parameter; velocities have their parameter's dtype.
pub fn sgd_step(
    cuda: &Cuda,
    args: &SgdArgs,
    gradient_scale: Option<&Buffer>,
    parameters: &mut [SgdParameter<'_>],
) -> Result<()> {
    const OP: &str = "sgd";
    let scale = self::gradient_scale(cuda, OP, gradient_scale)?;
    let has_velocity = args.momentum != 0.0;
    // All are checked before any is changed.
    for p in parameters.iter() {
        let (dtype, len) = (cuda.float(OP, p.parameter)?, p.parameter.len());
        cuda.input(OP, p.parameter, dtype, len)?;
        cuda.input(OP, p.gradient, dtype, len)?;
        if has_velocity {
            cuda.input(OP, p.velocity, dtype, len)?;
        }
    }
    let mut tensors = Vec::with_capacity(parameters.len());
    for p in parameters {
        let (dtype, len) = (p.parameter.dtype(), p.parameter.len());
        let gradient = cuda.input(OP, p.gradient, dtype, len)?;
        let parameter = cuda.update(OP, p.parameter, dtype, len)?;
        let velocity = match has_velocity {
            true => cuda.update(OP, p.velocity, dtype, len)?,
            false => 0,
        };
        tensors.push(Tensor { dtype, len, parameter, gradient, state: [velocity, 0] });
    }
    let floats = [args.lr, args.momentum, 1.0 - args.dampening, args.weight_decay];
    let [lr, momentum, fresh, weight_decay] = floats.map(|v| (v as f32).to_bits());
    let options = [lr, momentum, fresh, weight_decay, u32::from(args.nesterov)];
    let kernel = if has_velocity { "sgd_momentum" } else { "sgd_plain" };
    let scale_at = address(cuda, OP, scale.as_ref())?;
    launch(cuda, OP, kernel, &tensors, |params| params.value(options), scale_at)
}

/// One step of AdamW on every parameter; moments have their parameter's dtype.
pub fn adamw_step(
    cuda: &Cuda,
    args: &AdamWArgs,
    gradient_scale: Option<&Buffer>,
    parameters: &mut [AdamWParameter<'_>],
) -> Result<()> {
    const OP: &str = "adamw";
    if args.step == 0 {
        return Err(Error::argument(OP, "steps are counted from 1 on, got step 0"));
    }
    let scale = self::gradient_scale(cuda, OP, gradient_scale)?;
    // All are checked before any is changed.
    for p in parameters.iter() {
        let (dtype, len) = (cuda.float(OP, p.parameter)?, p.parameter.len());
        for buffer in [&*p.parameter, p.gradient, &*p.m, &*p.v] {
            cuda.input(OP, buffer, dtype, len)?;
        }
    }
    let mut tensors = Vec::with_capacity(parameters.len());
    for p in parameters {
        let (dtype, len) = (p.parameter.dtype(), p.parameter.len());
        let gradient = cuda.input(OP, p.gradient, dtype, len)?;
        let parameter = cuda.update(OP, p.parameter, dtype, len)?;
        let state = [cuda.update(OP, p.m, dtype, len)?, cuda.update(OP, p.v, dtype, len)?];
        tensors.push(Tensor { dtype, len, parameter, gradient, state });
    }
    let correction = |beta: f64| 1.0 - beta.powf(args.step as f64);
    let keep = 1.0 - args.lr * args.weight_decay;
    let fresh = [1.0 - args.beta1, 1.0 - args.beta2];
    let [beta1, beta2] = [args.beta1, args.beta2];
    let options = [
        args.lr,
        keep,
        beta1,
        beta2,
        fresh[0],
        fresh[1],
        correction(beta1),
        correction(beta2),
        args.epsilon,
    ];
    let options = options.map(|v| v as f32);
    let scale_at = address(cuda, OP, scale.as_ref())?;
    launch(cuda, OP, "adamw", &tensors, |params| params.value(options), scale_at)
}
