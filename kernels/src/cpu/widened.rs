//! 16-bit floats where there is no kernel of their own: widened to f32, computed, rounded once.
//!
//! That is every op in f16, and in bf16 those that a training step spends no time in. The first rung
//! of each, so to say: right for any op, at the price of a pass over its inputs and outputs.

use super::{Cpu, optimizer};
use crate::*;

/// The dtype of `x` if it has 16 bits.
pub fn half(x: &Buffer) -> Option<Dtype> {
    Some(x.dtype()).filter(|dtype| matches!(dtype, Dtype::F16 | Dtype::BF16))
}

/// The dtype of `x` if it has 16 bits and kernels that know only bf16 cannot take it.
pub fn f16(x: &Buffer) -> Option<Dtype> {
    Some(x.dtype()).filter(|&dtype| dtype == Dtype::F16)
}

impl Cpu {
    /// f32 copy of a buffer, which must be of `dtype`.
    pub(super) fn widen_one(&self, op: &'static str, dtype: Dtype, x: &Buffer) -> Result<Buffer> {
        if x.dtype() != dtype {
            return Err(Error::Dtype { op, expected: dtype.to_string(), got: x.dtype() });
        }
        self.cast(x, Dtype::F32)
    }

    /// f32 copies of buffers, which must have one dtype.
    pub(super) fn widen<const N: usize>(
        &self,
        op: &'static str,
        xs: [&Buffer; N],
    ) -> Result<[Buffer; N]> {
        let mut wide = Vec::with_capacity(N);
        for x in xs {
            wide.push(self.widen_one(op, xs[0].dtype(), x)?);
        }
        Ok(wide.try_into().unwrap_or_else(|_| unreachable!("one copy a buffer")))
    }

    /// f32 copy of a buffer that may be missing.
    pub(super) fn widen_some(
        &self,
        op: &'static str,
        dtype: Dtype,
        x: Option<&Buffer>,
    ) -> Result<Option<Buffer>> {
        x.map(|x| self.widen_one(op, dtype, x)).transpose()
    }

    /// Values a channel as f32, which they may be already.
    pub(super) fn per_channel<const N: usize>(&self, xs: [&Buffer; N]) -> Result<[Buffer; N]> {
        self.narrow(Dtype::F32, xs.map(Buffer::clone))
    }

    /// Rounds results to `dtype`.
    pub(super) fn narrow<const N: usize>(
        &self,
        dtype: Dtype,
        ys: [Buffer; N],
    ) -> Result<[Buffer; N]> {
        let mut narrow = Vec::with_capacity(N);
        for y in ys {
            narrow.push(self.cast(&y, dtype)?);
        }
        Ok(narrow.try_into().unwrap_or_else(|_| unreachable!("one copy a buffer")))
    }

    /// Rounds one result to `dtype`.
    pub(super) fn narrow_one(&self, dtype: Dtype, y: Result<Buffer>) -> Result<Buffer> {
        self.cast(&y?, dtype)
    }

    /// SGD on 16-bit parameters, whose gradients and velocities have their dtype.
    pub(super) fn sgd_step_widened(
        &self,
        args: &SgdArgs,
        gradient_scale: Option<&Buffer>,
        parameters: &mut [SgdParameter<'_>],
    ) -> Result<()> {
        let scale = gradient_scale.map(|scale| self.cast(scale, Dtype::F32)).transpose()?;
        for p in parameters {
            let Some(dtype) = half(p.parameter) else {
                let (parameter, velocity) = (&mut *p.parameter, &mut *p.velocity);
                let one = SgdParameter { parameter, gradient: p.gradient, velocity };
                optimizer::sgd_step(self, args, gradient_scale, &mut [one])?;
                continue;
            };
            let [mut parameter, gradient, mut velocity] =
                self.widen("sgd", [p.parameter, p.gradient, p.velocity])?;
            let mut wide = [SgdParameter {
                parameter: &mut parameter,
                gradient: &gradient,
                velocity: &mut velocity,
            }];
            self.sgd_step(args, scale.as_ref(), &mut wide)?;
            [*p.parameter, *p.velocity] = self.narrow(dtype, [parameter, velocity])?;
        }
        Ok(())
    }

    /// AdamW on 16-bit parameters, whose gradients and moments have their dtype.
    pub(super) fn adamw_step_widened(
        &self,
        args: &AdamWArgs,
        gradient_scale: Option<&Buffer>,
        parameters: &mut [AdamWParameter<'_>],
    ) -> Result<()> {
        let scale = gradient_scale.map(|scale| self.cast(scale, Dtype::F32)).transpose()?;
        for p in parameters {
            let Some(dtype) = half(p.parameter) else {
                let (parameter, m, v) = (&mut *p.parameter, &mut *p.m, &mut *p.v);
                let one = AdamWParameter { parameter, gradient: p.gradient, m, v };
                optimizer::adamw_step(self, args, gradient_scale, &mut [one])?;
                continue;
            };
            let [mut parameter, gradient, mut m, mut v] =
                self.widen("adamw", [p.parameter, p.gradient, p.m, p.v])?;
            let mut wide = [AdamWParameter {
                parameter: &mut parameter,
                gradient: &gradient,
                m: &mut m,
                v: &mut v,
            }];
            self.adamw_step(args, scale.as_ref(), &mut wide)?;
            [*p.parameter, *p.m, *p.v] = self.narrow(dtype, [parameter, m, v])?;
        }
        Ok(())
    }
}
