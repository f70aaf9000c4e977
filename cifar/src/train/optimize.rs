//! The optimizer and the schedule that a configuration asks for.

use anyhow::Result;
use tilegrad_engine::profile::{self, Pass};
use tilegrad_engine::{Gradients, Tensor, ops};
use tilegrad_nn::schedule::{
    Constant, CosineAnnealing, LinearDecay, OneCycle, PerEpoch, Schedule, StepLr, warmup_cosine,
};
use tilegrad_nn::{
    AdamW, AdamWConfig, Combined, Model, Muon, MuonConfig, Optimizer, ParamGroup, Role, Sgd,
    SgdConfig, clip, optim,
};

use crate::config::{Config, OptimizerKind, ScheduleKind};
use crate::device;

/// Turns gradients into changes of a model's parameters, step by step.
pub struct Update {
    optimizer: Box<dyn Optimizer>,
    schedule: Box<dyn Schedule>,
    clip_norm: f64,
    steps_per_epoch: u64,
}

impl Update {
    /// As `config` says, for `model` and epochs of so many steps.
    pub fn new(config: &Config, model: &Model, steps_per_epoch: u64) -> Result<Update> {
        let groups = || match config.decay_all {
            true => ParamGroup::decay_all(config.weight_decay),
            false => ParamGroup::decay_weights_only(config.weight_decay),
        };
        let optimizer: Box<dyn Optimizer> = match config.optimizer {
            OptimizerKind::Sgd => {
                let (momentum, nesterov) = (config.momentum, config.nesterov);
                Box::new(Sgd::new(SgdConfig { momentum, nesterov, dampening: 0.0 }, groups()))
            }
            OptimizerKind::AdamW => Box::new(AdamW::new(AdamWConfig::default(), groups())),
            OptimizerKind::Muon => Box::new(muon(config, model, steps_per_epoch)?),
        };
        let schedule = schedule(config, steps_per_epoch);
        Ok(Update { optimizer, schedule, clip_norm: config.clip_norm, steps_per_epoch })
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// Learning rate of the update after `step` updates.
    pub fn lr(&self, step: u64) -> f64 {
        self.schedule.at(step).lr
    }

    /// Takes parameters that will not be updated any more after `step` updates off the tape; to be
    /// called before the forward pass.
    pub fn freeze(&self, step: u64, model: &Model) {
        optim::freeze_ended(&*self.optimizer, model, step);
    }

    /// The update after `step` updates. `gradients` are `loss_scale` times too large, and so is `norm`, their
    /// norm, a scalar.
    pub fn step(
        &mut self,
        step: u64,
        model: &Model,
        gradients: &Gradients,
        norm: &Tensor,
        loss_scale: f64,
    ) -> Result<()> {
        let unscale = |x: &Tensor| ops::affine(x, 1.0 / loss_scale, 0.0);
        let scale = match (self.clip_norm > 0.0, loss_scale == 1.0) {
            (true, true) => Some(clip::clip_scale(norm, self.clip_norm)?),
            (true, false) => Some(unscale(&clip::clip_scale(&unscale(norm)?, self.clip_norm)?)?),
            (false, true) => None,
            (false, false) => Some(norm.filled_like(1.0 / loss_scale)?),
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

/// Muon on convolution filters; SGD on linear weights, on biases and norms, and on the bias of a
/// whitening layer, which has a schedule of its own.
fn muon(config: &Config, model: &Model, steps_per_epoch: u64) -> Result<Combined> {
    let is_filter = |p: &tilegrad_nn::Parameter| p.role() == Role::Weight && p.shape().len() == 4;
    let filters = ParamGroup::matching(move |_, p| is_filter(p), 0.0);
    let muon = MuonConfig {
        momentum: config.momentum,
        nesterov: config.nesterov,
        iterations: config.newton_schulz,
        dtype: device::precision("precision", &config.precision)?,
    };
    // SGD multiplies its decay by the learning rate: divided out here, so that groups of unequal
    // rates decay alike.
    let decay = |lr: f64| config.weight_decay / lr;
    let bias_decay = if config.decay_all { decay(config.bias_lr) } else { 0.0 };
    let whiten_bias = LinearDecay {
        lr: config.bias_lr,
        end: 0.0,
        steps: u64::from(config.whiten_bias_epochs) * steps_per_epoch,
    };
    let rest = vec![
        ParamGroup::new(|name, _| name == "whiten.bias", bias_decay).with_schedule(whiten_bias),
        ParamGroup::of_roles(&[Role::Bias, Role::Norm], bias_decay)
            .with_lr_scale(config.bias_lr / config.lr),
        ParamGroup::matching(
            move |_, p| p.role() == Role::Weight && !is_filter(p),
            decay(config.head_lr),
        )
        .with_lr_scale(config.head_lr / config.lr),
    ];
    let sgd =
        SgdConfig { momentum: config.sgd_momentum, nesterov: config.nesterov, dampening: 0.0 };
    let parts: [Box<dyn Optimizer>; 2] =
        [Box::new(Muon::new(muon, vec![filters])), Box::new(Sgd::new(sgd, rest))];
    Ok(Combined::new("muon", model, parts.into())?)
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
        ScheduleKind::Linear => Box::new(LinearDecay { lr, end: eta_min, steps: total }),
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
