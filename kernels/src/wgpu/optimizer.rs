//! Launches the kernels of `optimizer.wgsl`: parameter updates, a dispatch a tensor.

use super::elementwise::vectors;
use super::pipelines::OPTIMIZER;
use super::{Kernel, Params, Read, Wgpu, Write, memory};
use crate::{AdamWArgs, AdamWParameter, Buffer, Dtype, Error, Result, SgdArgs, SgdParameter};

/// The factor of all gradients as one f32 on the device.
fn gradient_scale(wgpu: &Wgpu, op: &'static str, scale: Option<&Buffer>) -> Result<Option<Buffer>> {
    let Some(scale) = scale else { return Ok(None) };
    let dtype = wgpu.float(op, scale)?;
    wgpu.input(op, scale, dtype, 1)?;
    Ok(Some(memory::cast(wgpu, scale, Dtype::F32)?))
}

/// `Params` of the kernels, but for their first field.
struct Options {
    nesterov: bool,
    /// From `lr` to `epsilon`.
    floats: [f64; 12],
}

impl Options {
    fn params(&self, len: usize) -> Params {
        let params = Params::new().size(len.div_ceil(4)).word(u32::from(self.nesterov));
        self.floats.into_iter().fold(params, Params::float)
    }
}

/// One step of SGD on every parameter; velocities have their parameter's dtype.
pub fn sgd_step(
    wgpu: &Wgpu,
    args: &SgdArgs,
    gradient_scale: Option<&Buffer>,
    parameters: &mut [SgdParameter<'_>],
) -> Result<()> {
    const OP: &str = "sgd";
    let scale = self::gradient_scale(wgpu, OP, gradient_scale)?;
    let has_velocity = args.momentum != 0.0;
    // All are checked before any is changed.
    for p in parameters.iter() {
        let (dtype, len) = (wgpu.float(OP, p.parameter)?, p.parameter.len());
        wgpu.input(OP, p.parameter, dtype, len)?;
        wgpu.input(OP, p.gradient, dtype, len)?;
        if has_velocity {
            wgpu.input(OP, p.velocity, dtype, len)?;
        }
    }
    let mut floats = [0.0; 12];
    floats[..4].copy_from_slice(&[args.lr, args.momentum, 1.0 - args.dampening, args.weight_decay]);
    let options = Options { nesterov: args.nesterov, floats };
    let constants = [("SCALED", u32::from(scale.is_some()))];
    let scale = wgpu.input_if(OP, scale.as_ref(), Dtype::F32, 1)?;
    for p in parameters {
        let (dtype, len) = (p.parameter.dtype(), p.parameter.len());
        let gradient = wgpu.input(OP, p.gradient, dtype, len)?;
        let parameter = wgpu.update(OP, p.parameter, dtype, len)?;
        let mut buffers = vec![Read(scale), Read(gradient), Write(parameter)];
        let mut entry = "sgd_plain";
        if has_velocity {
            buffers.push(Write(wgpu.update(OP, p.velocity, dtype, len)?));
            entry = "sgd_momentum";
        }
        let kernel = Kernel::new(&OPTIMIZER, entry, dtype).with(&constants);
        wgpu.launch(OP, kernel, vectors(len), options.params(len), &buffers)?;
    }
    Ok(())
}

/// One step of AdamW on every parameter; moments have their parameter's dtype.
pub fn adamw_step(
    wgpu: &Wgpu,
    args: &AdamWArgs,
    gradient_scale: Option<&Buffer>,
    parameters: &mut [AdamWParameter<'_>],
) -> Result<()> {
    const OP: &str = "adamw";
    if args.step == 0 {
        return Err(Error::argument(OP, "steps are counted from 1 on, got step 0"));
    }
    let scale = self::gradient_scale(wgpu, OP, gradient_scale)?;
    // All are checked before any is changed.
    for p in parameters.iter() {
        let (dtype, len) = (wgpu.float(OP, p.parameter)?, p.parameter.len());
        for buffer in [&*p.parameter, p.gradient, &*p.m, &*p.v] {
            wgpu.input(OP, buffer, dtype, len)?;
        }
    }
    let correction = |beta: f64| 1.0 - beta.powf(args.step as f64);
    let keep = 1.0 - args.lr * args.weight_decay;
    let [beta1, beta2] = [args.beta1, args.beta2];
    let (fresh1, fresh2) = (1.0 - beta1, 1.0 - beta2);
    let (correction1, correction2) = (correction(beta1), correction(beta2));
    let moments = [beta1, beta2, fresh1, fresh2, correction1, correction2, args.epsilon];
    let mut floats = [0.0; 12];
    (floats[0], floats[4]) = (args.lr, keep);
    floats[5..].copy_from_slice(&moments);
    let options = Options { nesterov: false, floats };
    let constants = [("SCALED", u32::from(scale.is_some()))];
    let scale = wgpu.input_if(OP, scale.as_ref(), Dtype::F32, 1)?;
    for p in parameters {
        let (dtype, len) = (p.parameter.dtype(), p.parameter.len());
        let gradient = wgpu.input(OP, p.gradient, dtype, len)?;
        let parameter = wgpu.update(OP, p.parameter, dtype, len)?;
        let m = wgpu.update(OP, p.m, dtype, len)?;
        let v = wgpu.update(OP, p.v, dtype, len)?;
        let buffers = [Read(scale), Read(gradient), Write(parameter), Write(m), Write(v)];
        let kernel = Kernel::new(&OPTIMIZER, "adamw", dtype).with(&constants);
        wgpu.launch(OP, kernel, vectors(len), options.params(len), &buffers)?;
    }
    Ok(())
}
