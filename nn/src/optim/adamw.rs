//! AdamW.

use std::collections::{BTreeMap, HashMap};

use tilegrad_engine::{Gradients, Result as EngineResult, Tensor};
use tilegrad_kernels::{AdamWArgs, AdamWParameter};

use super::{Optimizer, OptimizerState, ParamGroup};
use crate::error::Result;
use crate::module::Module;
use crate::schedule::Setting;

/// Options of [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment, where the schedule gives no momentum.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
}

impl Default for AdamWConfig {
    /// The guide's, and PyTorch's.
    fn default() -> Self {
        AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

/// Loshchilov and Hutter 2019, Algorithm 2, at step t = 1, 2, ..:
///
/// p −= lr λ p;   m = β1 m + (1 − β1) g;   v = β2 v + (1 − β2) g²;
/// p −= lr m / (1 − β1^t) / (√(v / (1 − β2^t)) + ε).
pub struct AdamW {
    config: AdamWConfig,
    groups: Vec<ParamGroup>,
    m: BTreeMap<String, Tensor>,
    v: BTreeMap<String, Tensor>,
    step: u64,
}

impl AdamW {
    /// Moments start at 0.
    pub fn new(config: AdamWConfig, groups: Vec<ParamGroup>) -> Self {
        AdamW { config, groups, m: BTreeMap::new(), v: BTreeMap::new(), step: 0 }
    }
}

const FIRST: &str = "m.";
const SECOND: &str = "v.";

impl Optimizer for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
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
        super::ensure_moments(&mut self.m, &updates)?;
        super::ensure_moments(&mut self.v, &updates)?;
        let mut m: HashMap<&str, &mut Tensor> =
            self.m.iter_mut().map(|(name, m)| (name.as_str(), m)).collect();
        let mut v: HashMap<&str, &mut Tensor> =
            self.v.iter_mut().map(|(name, v)| (name.as_str(), v)).collect();
        for (group, updates) in self.groups.iter().zip(&mut updates) {
            let Some(first) = updates.first() else { continue };
            let backend = first.value.backend().clone();
            let mut parameters: Vec<AdamWParameter> = updates
                .iter_mut()
                .filter_map(|u| {
                    Some(AdamWParameter {
                        m: m.remove(u.name.as_str())?.buffer_mut(),
                        v: v.remove(u.name.as_str())?.buffer_mut(),
                        parameter: u.value.buffer_mut(),
                        gradient: u.gradient.buffer(),
                    })
                })
                .collect();
            let setting = group.setting(self.step, setting);
            let args = AdamWArgs {
                lr: setting.lr,
                beta1: setting.momentum.unwrap_or(self.config.beta1),
                beta2: self.config.beta2,
                epsilon: self.config.epsilon,
                weight_decay: group.weight_decay,
                step: self.step + 1,
            };
            backend.adamw_step(&args, gradient_scale.map(Tensor::buffer), &mut parameters)?;
        }
        self.step += 1;
        Ok(())
    }

    fn state(&self) -> OptimizerState {
        let tensors = super::prefixed(FIRST, &self.m).chain(super::prefixed(SECOND, &self.v));
        OptimizerState {
            name: self.name().to_string(),
            step: self.step,
            tensors: tensors.collect(),
        }
    }

    fn load_state(
        &mut self,
        model: &dyn Module,
        mut state: OptimizerState,
        origin: &str,
    ) -> Result<()> {
        super::check_owner(&state, self.name(), origin)?;
        let m = super::take_moments(model, FIRST, &mut state, origin)?;
        let v = super::take_moments(model, SECOND, &mut state, origin)?;
        super::check_used_up(&state, origin)?;
        (self.m, self.v, self.step) = (m, v, state.step);
        Ok(())
    }
}
