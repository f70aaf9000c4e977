//! A fully connected layer.

use std::sync::Arc;

use tilegrad_engine::{Backend, Result, Tensor, ops};

use crate::init::{self, Init, Rng};
use crate::module::{Context, LayerRow, Module, Parameter, Role};

/// y = x Wᵀ + b, with x `[.., inputs]`, W `[outputs, inputs]`, b `[outputs]`.
pub struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// Weights as PyTorch draws them: Kaiming uniform with a = √5, which is U(-1/√inputs,
    /// 1/√inputs), biases likewise.
    pub fn new(
        backend: &Arc<dyn Backend>,
        inputs: usize,
        outputs: usize,
        bias: bool,
        rng: &mut Rng,
    ) -> Result<Self> {
        let bound = 1.0 / (inputs as f64).sqrt();
        let weight = init::uniform(backend, &[outputs, inputs], -bound, bound, rng)?;
        Self::with_weight(weight, inputs, outputs, bias, rng)
    }

    /// Weights drawn by `init`, biases as in [`Linear::new`].
    pub fn with_init(
        backend: &Arc<dyn Backend>,
        inputs: usize,
        outputs: usize,
        bias: bool,
        init: Init,
        rng: &mut Rng,
    ) -> Result<Self> {
        let weight = init.draw(backend, &[outputs, inputs], rng)?;
        Self::with_weight(weight, inputs, outputs, bias, rng)
    }

    fn with_weight(
        weight: Tensor,
        inputs: usize,
        outputs: usize,
        bias: bool,
        rng: &mut Rng,
    ) -> Result<Self> {
        let bound = 1.0 / (inputs as f64).sqrt();
        let bias = match bias {
            true => Some(Parameter::new(
                Role::Bias,
                init::uniform(weight.backend(), &[outputs], -bound, bound, rng)?,
            )),
            false => None,
        };
        Ok(Linear { weight: Parameter::new(Role::Weight, weight), bias, inputs, outputs })
    }
}

impl Module for Linear {
    fn kind(&self) -> &'static str {
        "Linear"
    }

    fn forward(&self, x: &Tensor, _ctx: &mut Context) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| bias.get_as(x.dtype())).transpose()?;
        ops::linear(x, &self.weight.get_as(x.dtype())?, bias.as_ref())
    }

    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Parameter)) {
        f(format!("{prefix}weight"), &self.weight);
        if let Some(bias) = &self.bias {
            f(format!("{prefix}bias"), bias);
        }
    }

    fn folded(&self) -> Result<Option<Arc<dyn Module>>> {
        let constant = |p: &Parameter| Parameter::new(Role::State, p.get());
        Ok(Some(Arc::new(Linear {
            weight: constant(&self.weight),
            bias: self.bias.as_ref().map(constant),
            ..*self
        })))
    }

    fn describe(&self, name: &str, x: &[usize], rows: &mut Vec<LayerRow>) -> Result<Vec<usize>> {
        let mut out_shape = x.to_vec();
        if let Some(last) = out_shape.last_mut() {
            *last = self.outputs;
        }
        let positions: usize = out_shape.iter().rev().skip(1).product();
        rows.push(LayerRow {
            name: name.to_string(),
            kind: format!("Linear({}, {})", self.inputs, self.outputs),
            parameters: self.inputs * self.outputs + self.bias.as_ref().map_or(0, |_| self.outputs),
            multiply_adds: (positions * self.inputs * self.outputs) as u64,
            out_shape: out_shape.clone(),
        });
        Ok(out_shape)
    }
}
