//! Parameter updates, all parameters in one pass. The formulas are in the reference's file of the
//! same name.
//!
//! A model has a few large parameters and many small ones, so all are cut into parts and the parts
//! handed out in groups.

use super::Cpu;
use super::simd::{Kernel, Vector};
use super::threads::TASK_ELEMENTS;
use crate::*;

/// Part of a parameter with what belongs to it. `STATE` is the number of running averages.
struct Part<'a, const STATE: usize> {
    parameter: &'a mut [f32],
    gradient: &'a [f32],
    state: [&'a mut [f32]; STATE],
}

/// Groups of parts of about [`TASK_ELEMENTS`] each.
struct Groups<'a, const STATE: usize>(Vec<Vec<Part<'a, STATE>>>, usize);

impl<'a, const STATE: usize> Groups<'a, STATE> {
    fn new() -> Self {
        Groups(Vec::new(), TASK_ELEMENTS)
    }

    /// Cuts a whole parameter.
    fn push(&mut self, whole: Part<'a, STATE>) {
        let Part { mut parameter, mut gradient, mut state } = whole;
        while !parameter.is_empty() {
            if self.1 >= TASK_ELEMENTS {
                self.0.push(Vec::new());
                self.1 = 0;
            }
            let len = parameter.len().min(TASK_ELEMENTS - self.1);
            self.1 += len;
            let (now, later) = parameter.split_at_mut(len);
            let (gradient_now, gradient_later) = gradient.split_at(len);
            let mut parts = state.map(|s| Some(s.split_at_mut(len.min(s.len()))));
            let mut cut = |first: bool| {
                std::array::from_fn::<_, STATE, _>(|i| match (&mut parts[i], first) {
                    (Some((now, _)), true) => std::mem::take(now),
                    (Some((_, later)), false) => std::mem::take(later),
                    (None, _) => &mut [],
                })
            };
            let part = Part { parameter: now, gradient: gradient_now, state: cut(true) };
            state = cut(false);
            (parameter, gradient) = (later, gradient_later);
            if let Some(group) = self.0.last_mut() {
                group.push(part);
            }
        }
    }
}

/// The factor of all gradients.
fn read_scale(cpu: &Cpu, op: &'static str, scale: Option<&Buffer>) -> Result<f32> {
    scale.map_or(Ok(1.0), |scale| Ok(cpu.read::<f32>(op, scale, 1)?[0]))
}

/// SGD's constants in f32.
#[derive(Clone, Copy)]
struct Sgd {
    lr: f32,
    momentum: f32,
    fresh: f32,
    weight_decay: f32,
    nesterov: bool,
    scale: f32,
}

/// With a velocity.
struct SgdMomentum<'a, 'b>(Sgd, &'a mut [Part<'b, 1>]);

impl Kernel for SgdMomentum<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Sgd { lr, momentum, fresh, weight_decay, nesterov, scale } = self.0;
        // g + momentum v, or v alone: one loop for both.
        let (from_g, from_v) = if nesterov { (1.0, momentum) } else { (0.0, 1.0) };
        for part in self.1 {
            let [velocity] = &mut part.state;
            let updated = part.parameter.iter_mut().zip(velocity.iter_mut());
            for ((p, v), &gradient) in updated.zip(part.gradient) {
                let g = V::scalar_mul_add(weight_decay, *p, scale * gradient);
                *v = V::scalar_mul_add(momentum, *v, fresh * g);
                let step = if nesterov { V::scalar_mul_add(from_v, *v, from_g * g) } else { *v };
                *p = V::scalar_mul_add(-lr, step, *p);
            }
        }
    }
}

/// Without.
struct SgdPlain<'a, 'b>(Sgd, &'a mut [Part<'b, 0>]);

impl Kernel for SgdPlain<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Sgd { lr, weight_decay, scale, .. } = self.0;
        for part in self.1 {
            for (p, &gradient) in part.parameter.iter_mut().zip(part.gradient) {
                let g = V::scalar_mul_add(weight_decay, *p, scale * gradient);
                *p = V::scalar_mul_add(-lr, g, *p);
            }
        }
    }
}

/// One step of SGD on every parameter.
pub fn sgd_step(
    cpu: &Cpu,
    args: &SgdArgs,
    gradient_scale: Option<&Buffer>,
    parameters: &mut [SgdParameter<'_>],
) -> Result<()> {
    const OP: &str = "sgd";
    let sgd = Sgd {
        lr: args.lr as f32,
        momentum: args.momentum as f32,
        fresh: (1.0 - args.dampening) as f32,
        weight_decay: args.weight_decay as f32,
        nesterov: args.nesterov,
        scale: read_scale(cpu, OP, gradient_scale)?,
    };
    // Everything is checked before anything changes.
    for p in parameters.iter() {
        let len = p.parameter.len();
        cpu.read::<f32>(OP, p.parameter, len)?;
        cpu.read::<f32>(OP, p.gradient, len)?;
        if args.momentum != 0.0 {
            cpu.read::<f32>(OP, p.velocity, len)?;
        }
    }
    if args.momentum == 0.0 {
        let mut groups = Groups::new();
        for p in parameters {
            let len = p.parameter.len();
            let gradient = cpu.read::<f32>(OP, p.gradient, len)?;
            let parameter = cpu.update::<f32>(OP, p.parameter, len)?;
            groups.push(Part { parameter, gradient, state: [] });
        }
        cpu.threads.chunks(&mut groups.0, 1, |_, groups| {
            groups.iter_mut().for_each(|parts| cpu.isa.run(SgdPlain(sgd, parts)))
        });
        return Ok(());
    }
    let mut groups = Groups::new();
    for p in parameters {
        let len = p.parameter.len();
        let gradient = cpu.read::<f32>(OP, p.gradient, len)?;
        let parameter = cpu.update::<f32>(OP, p.parameter, len)?;
        let state = [cpu.update::<f32>(OP, p.velocity, len)?];
        groups.push(Part { parameter, gradient, state });
    }
    cpu.threads.chunks(&mut groups.0, 1, |_, groups| {
        groups.iter_mut().for_each(|parts| cpu.isa.run(SgdMomentum(sgd, parts)))
    });
    Ok(())
}

/// AdamW's constants in f32.
#[derive(Clone, Copy)]
struct AdamW {
    lr: f32,
    keep: f32,
    beta1: f32,
    beta2: f32,
    fresh1: f32,
    fresh2: f32,
    correction1: f32,
    correction2: f32,
    epsilon: f32,
    scale: f32,
}

struct AdamWKernel<'a, 'b>(AdamW, &'a mut [Part<'b, 2>]);

impl Kernel for AdamWKernel<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let a = self.0;
        for part in self.1 {
            let [m, v] = &mut part.state;
            let updated = part.parameter.iter_mut().zip(m.iter_mut().zip(v.iter_mut()));
            for ((p, (m, v)), &gradient) in updated.zip(part.gradient) {
                let g = a.scale * gradient;
                *m = V::scalar_mul_add(a.beta1, *m, a.fresh1 * g);
                *v = V::scalar_mul_add(a.beta2, *v, a.fresh2 * g * g);
                let step = (*m / a.correction1) / ((*v / a.correction2).sqrt() + a.epsilon);
                *p = V::scalar_mul_add(-a.lr, step, a.keep * *p);
            }
        }
    }
}

/// One step of AdamW on every parameter.
pub fn adamw_step(
    cpu: &Cpu,
    args: &AdamWArgs,
    gradient_scale: Option<&Buffer>,
    parameters: &mut [AdamWParameter<'_>],
) -> Result<()> {
    const OP: &str = "adamw";
    if args.step == 0 {
        return Err(Error::argument(OP, "steps are counted from 1 on, got step 0"));
    }
    let correction = |beta: f64| (1.0 - beta.powf(args.step as f64)) as f32;
    let adamw = AdamW {
        lr: args.lr as f32,
        keep: (1.0 - args.lr * args.weight_decay) as f32,
        beta1: args.beta1 as f32,
        beta2: args.beta2 as f32,
        fresh1: (1.0 - args.beta1) as f32,
        fresh2: (1.0 - args.beta2) as f32,
        correction1: correction(args.beta1),
        correction2: correction(args.beta2),
        epsilon: args.epsilon as f32,
        scale: read_scale(cpu, OP, gradient_scale)?,
    };
    // Everything is checked before anything changes.
    for p in parameters.iter() {
        let len = p.parameter.len();
        for buffer in [&*p.parameter, p.gradient, &*p.m, &*p.v] {
            cpu.read::<f32>(OP, buffer, len)?;
        }
    }
    let mut groups = Groups::new();
    for p in parameters {
        let len = p.parameter.len();
        let gradient = cpu.read::<f32>(OP, p.gradient, len)?;
        let parameter = cpu.update::<f32>(OP, p.parameter, len)?;
        let state = [cpu.update::<f32>(OP, p.m, len)?, cpu.update::<f32>(OP, p.v, len)?];
        groups.push(Part { parameter, gradient, state });
    }
    cpu.threads.chunks(&mut groups.0, 1, |_, groups| {
        groups.iter_mut().for_each(|parts| cpu.isa.run(AdamWKernel(adamw, parts)))
    });
    Ok(())
}
