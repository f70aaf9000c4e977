//! Stochastic gradient descent with momentum.

use std::collections::{BTreeMap, HashMap};

use tilegrad_engine::{Gradients, Result as EngineResult, Tensor};
use tilegrad_kernels::{SgdArgs, SgdParameter};

use super::{Optimizer, OptimizerState, ParamGroup};
use crate::error::Result;
use crate::module::Module;
use crate::schedule::Setting;

/// Options of [`Sgd`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdConfig {
    /// Momentum, where the schedule gives none.
    pub momentum: f64,
    /// Dampening of gradients in the velocity; the first step is never dampened.
    pub dampening: f64,
    /// Nesterov's form.
    pub nesterov: bool,
}

impl Default for SgdConfig {
    /// The guide's: momentum 0.9.
    fn default() -> Self {
        SgdConfig { momentum: 0.9, dampening: 0.0, nesterov: false }
    }
}

/// v = momentum v + (1 − dampening) (g + λ p);   p −= lr (g + λ p + momentum v if Nesterov, else
/// v).
///
/// As PyTorch defines it: the learning rate multiplies the velocity, and is not part of it.
pub struct Sgd {
    config: SgdConfig,
    groups: Vec<ParamGroup>,
    velocity: BTreeMap<String, Tensor>,
    step: u64,
}

impl Sgd {
    /// Velocities start at 0.
    pub fn new(config: SgdConfig, groups: Vec<ParamGroup>) -> Self {
        Sgd { config, groups, velocity: BTreeMap::new(), step: 0 }
    }
}

const VELOCITY: &str = "velocity.";

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn groups(&self) -> Vec<&ParamGroup> {
        self.groups.iter().collect()
    }

    fn step(
        &mut self,
        model: &dyn Module,
        gradients: &Gradients,
        setting: Setting,
        gradient_scale: Option<&Tensor>,
    ) -> EngineResult<()> {
        let mut updates = super::updates(model, &self.groups, gradients)?;
        super::ensure_moments(&mut self.velocity, &updates)?;
        let mut velocity: HashMap<&str, &mut Tensor> =
            self.velocity.iter_mut().map(|(name, v)| (name.as_str(), v)).collect();
        for (group, updates) in self.groups.iter().zip(&mut updates) {
            let Some(first) = updates.first() else { continue };
            let backend = first.value.backend().clone();
            let mut parameters: Vec<SgdParameter> = updates
                .iter_mut()
                .filter_map(|u| {
                    Some(SgdParameter {
                        velocity: velocity.remove(u.name.as_str())?.buffer_mut(),
                        parameter: u.value.buffer_mut(),
                        gradient: u.gradient.buffer(),
                    })
                })
                .collect();
            let setting = group.setting(self.step, setting);
            let args = SgdArgs {
                lr: setting.lr,
                momentum: setting.momentum.unwrap_or(self.config.momentum),
                dampening: if self.step == 0 { 0.0 } else { self.config.dampening },
                weight_decay: group.weight_decay,
                nesterov: self.config.nesterov,
            };
            backend.sgd_step(&args, gradient_scale.map(Tensor::buffer), &mut parameters)?;
        }
        self.step += 1;
        Ok(())
    }

    fn state(&self) -> OptimizerState {
        OptimizerState {
            name: self.name().to_string(),
            step: self.step,
            tensors: super::prefixed(VELOCITY, &self.velocity).collect(),
        }
    }

    fn load_state(
        &mut self,
        model: &dyn Module,
        mut state: OptimizerState,
        origin: &str,
    ) -> Result<()> {
        super::check_owner(&state, self.name(), origin)?;
        let velocity = super::take_moments(model, VELOCITY, &mut state, origin)?;
        super::check_used_up(&state, origin)?;
        (self.velocity, self.step) = (velocity, state.step);
        Ok(())
    }
}
