//! Parameter updates, one tensor at a time. All buffers `[len]`.

use super::Reference;
use super::float::Float;
use crate::{AdamWArgs, AdamWParameter, Buffer, Error, Result, SgdArgs, SgdParameter};

/// One step of SGD as PyTorch defines it. With g = scale · gradient + weight_decay p:
///
///   v = momentum v + (1 - dampening) g,   p -= lr (g + momentum v   if nesterov, else v)
///
/// The velocity starts as zeros and this holds from the first step on, so dampening applies to the
/// first step too (PyTorch starts with v = g instead; without dampening the two are the same).
/// Without momentum v is g.
pub fn sgd_step<F: Float>(
    args: &SgdArgs,
    scale: F,
    gradient: &[F],
    velocity: Option<&mut [F]>,
    p: &mut [F],
) {
    let (lr, momentum) = (F::from_f64(args.lr), F::from_f64(args.momentum));
    let (weight_decay, fresh) = (F::from_f64(args.weight_decay), F::from_f64(1.0 - args.dampening));
    let g = |i: usize, p: F| scale * gradient[i] + weight_decay * p;
    match velocity {
        None => {
            for (i, p) in p.iter_mut().enumerate() {
                *p -= lr * g(i, *p);
            }
        }
        Some(v) => {
            for (i, p) in p.iter_mut().enumerate() {
                let g = g(i, *p);
                v[i] = momentum * v[i] + fresh * g;
                *p -= lr * if args.nesterov { g + momentum * v[i] } else { v[i] };
            }
        }
    }
}

/// One step of AdamW (Loshchilov and Hutter 2019, Algorithm 2). With g = scale · gradient and t
/// the step from 1 on:
///
///   m = beta1 m + (1 - beta1) g,   m̂ = m / (1 - beta1^t),
///   v = beta2 v + (1 - beta2) g²,  v̂ = v / (1 - beta2^t),
///   p -= lr weight_decay p + lr m̂ / (sqrt(v̂) + epsilon)
pub fn adamw_step<F: Float>(
    args: &AdamWArgs,
    scale: F,
    gradient: &[F],
    m: &mut [F],
    v: &mut [F],
    p: &mut [F],
) {
    let (beta1, beta2) = (F::from_f64(args.beta1), F::from_f64(args.beta2));
    let (fresh1, fresh2) = (F::from_f64(1.0 - args.beta1), F::from_f64(1.0 - args.beta2));
    let correction = |beta: f64| F::from_f64(1.0 - beta.powf(args.step as f64));
    let (correction1, correction2) = (correction(args.beta1), correction(args.beta2));
    let (lr, epsilon) = (F::from_f64(args.lr), F::from_f64(args.epsilon));
    let keep = F::from_f64(1.0 - args.lr * args.weight_decay);
    for i in 0..p.len() {
        let g = scale * gradient[i];
        m[i] = beta1 * m[i] + fresh1 * g;
        v[i] = beta2 * v[i] + fresh2 * g * g;
        let step = (m[i] / correction1) / ((v[i] / correction2).sqrt() + epsilon);
        p[i] = keep * p[i] - lr * step;
    }
}

impl Reference {
    /// The factor of all gradients; 1 when absent.
    fn gradient_scale<F: Float>(&self, op: &'static str, scale: Option<&Buffer>) -> Result<F> {
        Ok(self.read_if(op, scale, 1)?.map_or(F::ONE, |scale| scale[0]))
    }

    /// [`crate::Backend::sgd_step`]
    pub(super) fn sgd<F: Float>(
        &self,
        args: &SgdArgs,
        gradient_scale: Option<&Buffer>,
        parameters: &mut [SgdParameter<'_>],
    ) -> Result<()> {
        const OP: &str = "sgd";
        let scale = self.gradient_scale::<F>(OP, gradient_scale)?;
        let has_velocity = args.momentum != 0.0;
        // All are checked before any is changed.
        for p in parameters.iter() {
            let len = self.read::<F>(OP, p.parameter, p.parameter.len())?.len();
            self.read::<F>(OP, p.gradient, len)?;
            self.read_if::<F>(OP, has_velocity.then_some(&*p.velocity), len)?;
        }
        for p in parameters {
            let gradient = self.read(OP, p.gradient, p.parameter.len())?;
            let velocity = has_velocity.then_some(&mut *p.velocity);
            let velocity = velocity.map(|v| self.update(OP, v, gradient.len())).transpose()?;
            let parameter = self.update::<F>(OP, p.parameter, gradient.len())?;
            sgd_step(args, scale, gradient, velocity, parameter);
        }
        Ok(())
    }

    /// [`crate::Backend::adamw_step`]
    pub(super) fn adamw<F: Float>(
        &self,
        args: &AdamWArgs,
        gradient_scale: Option<&Buffer>,
        parameters: &mut [AdamWParameter<'_>],
    ) -> Result<()> {
        const OP: &str = "adamw";
        if args.step == 0 {
            return Err(Error::argument(OP, "steps are counted from 1 on, got step 0"));
        }
        let scale = self.gradient_scale::<F>(OP, gradient_scale)?;
        // All are checked before any is changed.
        for p in parameters.iter() {
            let len = self.read::<F>(OP, p.parameter, p.parameter.len())?.len();
            for other in [p.gradient, &*p.m, &*p.v] {
                self.read::<F>(OP, other, len)?;
            }
        }
        for p in parameters {
            let gradient = self.read(OP, p.gradient, p.parameter.len())?;
            let m = self.update(OP, p.m, gradient.len())?;
            let v = self.update(OP, p.v, gradient.len())?;
            let parameter = self.update::<F>(OP, p.parameter, gradient.len())?;
            adamw_step(args, scale, gradient, m, v, parameter);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a constant gradient the moments are exact, so the first steps have a closed form.
    #[test]
    fn the_first_steps_by_hand() {
        let (lr, momentum) = (0.5, 0.5);
        let sgd = SgdArgs { lr, momentum, dampening: 0.0, weight_decay: 0.0, nesterov: true };
        let (mut p, mut v) = ([1.0f64], [0.0]);
        for _ in 0..2 {
            sgd_step(&sgd, 0.5, &[2.0], Some(&mut v), &mut p);
        }
        // g = 1: v = 1 then 1.5; p = 1 - 0.5 · 1.5 - 0.5 · 1.75
        assert_eq!((p, v), ([-0.625], [1.5]));

        let (mut p, mut m, mut v) = ([1.0f64], [0.0], [0.0]);
        for step in 1..=3 {
            let (beta1, beta2) = (0.9, 0.999);
            let adamw = AdamWArgs { lr: 0.1, beta1, beta2, epsilon: 0.0, weight_decay: 0.5, step };
            adamw_step(&adamw, 1.0, &[-3.0], &mut m, &mut v, &mut p);
        }
        // m̂ / sqrt(v̂) is the gradient's sign: p = 0.95 p + 0.1, thrice.
        let expected = (0.95f64.powi(3)) + 0.1 * (1.0 + 0.95 + 0.95 * 0.95);
        assert!((p[0] - expected).abs() < 1e-12, "{p:?} {expected}");
    }
}
