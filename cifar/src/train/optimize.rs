//! The optimizer and the schedule that a configuration asks for.

use anyhow::Result;
use tilegrad_engine::profile::{self, Pass};
use tilegrad_engine::{Gradients, Tensor};
use tilegrad_nn::schedule::{
    Constant, CosineAnnealing, OneCycle, PerEpoch, Schedule, StepLr, warmup_cosine,
};
use tilegrad_nn::{AdamW, AdamWConfig, Model, Optimizer, ParamGroup, Sgd, SgdConfig, clip};

use crate::config::{Config, OptimizerKind, ScheduleKind};

/// Turns gradients into changes of a model's parameters, step by step.
pub struct Update {
    optimizer: Box<dyn Optimizer>,
    schedule: Box<dyn Schedule>,
    clip_norm: f64,
    steps_per_epoch: u64,
}

impl Update {
    /// As `config` says, for epochs of so many steps.
    pub fn new(config: &Config, steps_per_epoch: u64) -> Update {
        let groups = match config.decay_all {
            true => ParamGroup::decay_all(config.weight_decay),
            false => ParamGroup::decay_weights_only(config.weight_decay),
        };
        let optimizer: Box<dyn Optimizer> = match config.optimizer {
            OptimizerKind::Sgd => {
                let (momentum, nesterov) = (config.momentum, config.nesterov);
                Box::new(Sgd::new(SgdConfig { momentum, nesterov, dampening: 0.0 }, groups))
            }
            OptimizerKind::AdamW => Box::new(AdamW::new(AdamWConfig::default(), groups)),
        };
        let schedule = schedule(config, steps_per_epoch);
        Update { optimizer, schedule, clip_norm: config.clip_norm, steps_per_epoch }
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// Learning rate of the update after `step` updates.
    pub fn lr(&self, step: u64) -> f64 {
        self.schedule.at(step).lr
    }

    /// The update after `step` updates. `norm` is the gradients' norm, a scalar.
    pub fn step(
        &mut self,
        step: u64,
        model: &Model,
        gradients: &Gradients,
        norm: &Tensor,
    ) -> Result<()> {
        let scale = match self.clip_norm > 0.0 {
            true => Some(clip::clip_scale(norm, self.clip_norm)?),
            false => None,
        };
        let setting = self.schedule.at(step);
        let name = self.optimizer.name();
        profile::time(name, Pass::Update, &**norm.backend(), || {
            self.optimizer.step(model, gradients, setting, scale.as_ref())
        })?;
        Ok(())
    }

    /// What holds state; the schedule has none.
    pub fn optimizer(&self) -> &dyn Optimizer {
        &*self.optimizer
    }

    /// Likewise, to continue from a saved state.
    pub fn optimizer_mut(&mut self) -> &mut dyn Optimizer {
        &mut *self.optimizer
    }
}

fn schedule(config: &Config, steps_per_epoch: u64) -> Box<dyn Schedule> {
    let (lr, eta_min) = (config.lr, config.min_lr);
    let total = u64::from(config.epochs) * steps_per_epoch;
    match config.schedule {
        ScheduleKind::Constant => Box::new(Constant { lr }),
        ScheduleKind::OneCycle => Box::new(OneCycle {
            pct_start: config.warmup,
            momentum: config.cycle_momentum.then_some((0.85, 0.95)),
            ..OneCycle::new(lr, total)
        }),
        ScheduleKind::Cosine => Box::new(CosineAnnealing { lr, t_max: total, eta_min }),
        ScheduleKind::WarmupCosine => {
            // The first step has lr / warmup, not 0: a step of no length would be wasted.
            let warmup = (config.warmup * total as f64).round() as u64;
            let start = 1.0 / warmup.max(1) as f64;
            Box::new(warmup_cosine(lr, start, warmup, total, eta_min))
        }
        ScheduleKind::Step => {
            let (step_size, gamma) = (u64::from(config.step_epochs), config.gamma);
            let schedule = StepLr { lr, step_size, gamma };
            Box::new(PerEpoch { steps_per_epoch, schedule })
        }
    }
}
