//! Learning-rate schedules: pure functions of the step, so that a resumed run needs no state.
//!
//! Steps count from 0: `at(0)` is for the first update. Each formula is PyTorch's, which the golden
//! file
//! `tests/golden/schedules.json` (made by `scripts/golden_schedules.py`) checks over whole runs. A
//! schedule knows
//! nothing of epochs; to change once an epoch, wrap it in [`PerEpoch`].

use std::f64::consts::PI;

/// What an optimizer is told for one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Learning rate.
    pub lr: f64,
    /// Momentum of SGD, β1 of AdamW; absent where the schedule leaves it to the optimizer.
    pub momentum: Option<f64>,
}

impl Setting {
    /// Only a learning rate.
    pub fn lr(lr: f64) -> Self {
        Setting { lr, momentum: None }
    }
}

/// A learning rate (and perhaps a momentum) for every step.
pub trait Schedule: Send + Sync {
    /// For the update after `step` updates.
    fn at(&self, step: u64) -> Setting;

    /// Whether the learning rate is 0 from `step` on for good. One that cannot tell says no.
    fn ended(&self, _step: u64) -> bool {
        false
    }
}

impl<S: Schedule + ?Sized> Schedule for Box<S> {
    fn at(&self, step: u64) -> Setting {
        (**self).at(step)
    }

    fn ended(&self, step: u64) -> bool {
        (**self).ended(step)
    }
}

/// Always the same.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    /// Learning rate.
    pub lr: f64,
}

impl Schedule for Constant {
    fn at(&self, _step: u64) -> Setting {
        Setting::lr(self.lr)
    }
}

/// lr γ^⌊step / size⌋
#[derive(Clone, Copy, Debug)]
pub struct StepLr {
    /// Learning rate at the start.
    pub lr: f64,
    /// Steps between decays; 0 counts as 1.
    pub step_size: u64,
    /// Factor of each decay.
    pub gamma: f64,
}

impl Schedule for StepLr {
    fn at(&self, step: u64) -> Setting {
        let decays = step / self.step_size.max(1);
        Setting::lr(self.lr * self.gamma.powf(decays as f64))
    }
}

/// min + (lr − min) (1 + cos(π step / T)) / 2   (Loshchilov and Hutter 2017, without restarts).
///
/// After T it rises again along the same cosine, as in PyTorch.
#[derive(Clone, Copy, Debug)]
pub struct CosineAnnealing {
    /// Learning rate at the start.
    pub lr: f64,
    /// T, the step at which the minimum is reached; 0 counts as 1.
    pub t_max: u64,
    /// Learning rate at T.
    pub eta_min: f64,
}

impl Schedule for CosineAnnealing {
    fn at(&self, step: u64) -> Setting {
        // The cosine has period 2 T: reduced in integers, so that it stays exact after many
        // periods.
        let t_max = self.t_max.max(1);
        let phase = (step % (2 * t_max)) as f64 / t_max as f64;
        Setting::lr(anneal(self.lr, self.eta_min, phase))
    }
}

/// From `start` (fraction 0) to `end` (fraction 1) along half a cosine.
fn anneal(start: f64, end: f64, fraction: f64) -> f64 {
    end + (start - end) / 2.0 * (1.0 + (PI * fraction).cos())
}

/// Smith and Topin 2018: up from `max_lr / div_factor` to `max_lr` in the first `pct_start` of the
/// run, then down to
/// `max_lr / div_factor / final_div_factor`, both along half a cosine; the momentum moves the other
/// way.
#[derive(Clone, Copy, Debug)]
pub struct OneCycle {
    /// Peak learning rate.
    pub max_lr: f64,
    /// Steps of the whole run. Later steps keep the last value.
    pub total_steps: u64,
    /// Fraction of the run that goes up.
    pub pct_start: f64,
    /// Peak over the first learning rate.
    pub div_factor: f64,
    /// First over the last learning rate.
    pub final_div_factor: f64,
    /// Momentum at the peak, and at both ends; `None` leaves it alone.
    pub momentum: Option<(f64, f64)>,
}

impl OneCycle {
    /// PyTorch's defaults: 30 % up, factors 25 and 10⁴, momentum 0.95 at the ends and 0.85 at the
    /// peak.
    pub fn new(max_lr: f64, total_steps: u64) -> Self {
        OneCycle {
            max_lr,
            total_steps,
            pct_start: 0.3,
            div_factor: 25.0,
            final_div_factor: 1e4,
            momentum: Some((0.85, 0.95)),
        }
    }
}

impl Schedule for OneCycle {
    fn at(&self, step: u64) -> Setting {
        let last = self.total_steps.max(1) as f64 - 1.0;
        let peak = self.pct_start * self.total_steps.max(1) as f64 - 1.0;
        let step = (step as f64).min(last);
        let initial = self.max_lr / self.div_factor;
        let fraction =
            |from: f64, to: f64| if to > from { (step - from) / (to - from) } else { 1.0 };
        let (up, fraction) = match step <= peak {
            true => (true, fraction(0.0, peak)),
            false => (false, fraction(peak, last)),
        };
        Setting {
            lr: match up {
                true => anneal(initial, self.max_lr, fraction),
                false => anneal(self.max_lr, initial / self.final_div_factor, fraction),
            },
            momentum: self.momentum.map(|(base, max)| match up {
                true => anneal(max, base, fraction),
                false => anneal(base, max, fraction),
            }),
        }
    }
}

/// From `start_factor * lr` to `lr` in a straight line over `steps` steps, then constant.
#[derive(Clone, Copy, Debug)]
pub struct LinearWarmup {
    /// Learning rate at the end.
    pub lr: f64,
    /// Fraction of it at the start.
    pub start_factor: f64,
    /// Steps until the end is reached.
    pub steps: u64,
}

impl Schedule for LinearWarmup {
    fn at(&self, step: u64) -> Setting {
        let progress = if step < self.steps { step as f64 / self.steps as f64 } else { 1.0 };
        Setting::lr(self.lr * (self.start_factor + (1.0 - self.start_factor) * progress))
    }
}

/// From `lr` to `end` in a straight line over `steps` steps, then constant.
#[derive(Clone, Copy, Debug)]
pub struct LinearDecay {
    /// Learning rate at the start.
    pub lr: f64,
    /// Learning rate at the end.
    pub end: f64,
    /// Steps until the end is reached.
    pub steps: u64,
}

impl Schedule for LinearDecay {
    fn at(&self, step: u64) -> Setting {
        let progress = if step < self.steps { step as f64 / self.steps as f64 } else { 1.0 };
        Setting::lr(self.lr * (1.0 - progress) + self.end * progress)
    }

    fn ended(&self, step: u64) -> bool {
        self.end == 0.0 && step >= self.steps
    }
}

/// One schedule after the other; each counts its steps from where it begins.
pub struct Sequential {
    /// First step of each schedule, the first being 0.
    parts: Vec<(u64, Box<dyn Schedule>)>,
}

impl Sequential {
    /// Begins with `first`.
    pub fn new(first: impl Schedule + 'static) -> Self {
        Sequential { parts: vec![(0, Box::new(first))] }
    }

    /// Goes on with `next` from step `milestone`, which must not lie before the last one.
    pub fn then(mut self, milestone: u64, next: impl Schedule + 'static) -> Self {
        let begin = self.parts.last().map_or(0, |&(begin, _)| begin);
        self.parts.push((milestone.max(begin), Box::new(next)));
        self
    }
}

impl Schedule for Sequential {
    fn at(&self, step: u64) -> Setting {
        let index = self.parts.partition_point(|&(begin, _)| begin <= step).max(1) - 1;
        let (begin, schedule) = &self.parts[index];
        schedule.at(step - begin)
    }
}

/// Linear warm-up over `warmup` steps, then a cosine that ends at `total` steps.
pub fn warmup_cosine(
    lr: f64,
    start_factor: f64,
    warmup: u64,
    total: u64,
    eta_min: f64,
) -> Sequential {
    Sequential::new(LinearWarmup { lr, start_factor, steps: warmup })
        .then(warmup, CosineAnnealing { lr, t_max: total.saturating_sub(warmup), eta_min })
}

/// Schedules with one base learning rate, multiplied: lr Π_i (lr_i(step) / lr). For factors of the
/// base rate, such as a warm-up and a step decay, this is PyTorch's `ChainedScheduler`. The
/// momentum is that of the last that has one.
pub struct Chained {
    lr: f64,
    schedules: Vec<Box<dyn Schedule>>,
}

impl Chained {
    /// No schedule yet: constant `lr`.
    pub fn new(lr: f64) -> Self {
        Chained { lr, schedules: Vec::new() }
    }

    /// Multiplies by `schedule(step) / lr`.
    pub fn with(mut self, schedule: impl Schedule + 'static) -> Self {
        self.schedules.push(Box::new(schedule));
        self
    }
}

impl Schedule for Chained {
    fn at(&self, step: u64) -> Setting {
        let mut product = Setting::lr(self.lr);
        for schedule in &self.schedules {
            let setting = schedule.at(step);
            product.lr *= setting.lr / self.lr;
            product.momentum = setting.momentum.or(product.momentum);
        }
        product
    }
}

/// A schedule whose steps are epochs of `steps_per_epoch` updates.
#[derive(Clone, Copy, Debug)]
pub struct PerEpoch<S> {
    /// Updates in an epoch; 0 counts as 1.
    pub steps_per_epoch: u64,
    /// Counts epochs.
    pub schedule: S,
}

impl<S: Schedule> Schedule for PerEpoch<S> {
    fn at(&self, step: u64) -> Setting {
        self.schedule.at(step / self.steps_per_epoch.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_runs_stay_finite() {
        for total in 0..5 {
            for pct_start in [0.0, 0.3, 1.0] {
                let schedule = OneCycle { pct_start, ..OneCycle::new(0.1, total) };
                for step in 0..=total {
                    let setting = schedule.at(step);
                    assert!(setting.lr > 0.0 && setting.lr <= 0.1, "{total} {step}: {setting:?}");
                    assert!(setting.momentum.is_some_and(|m| (0.85..=0.95).contains(&m)));
                }
            }
        }
        assert!(StepLr { lr: 0.1, step_size: 0, gamma: 0.5 }.at(3).lr.is_finite());
        assert_eq!(LinearWarmup { lr: 0.1, start_factor: 0.01, steps: 0 }.at(0).lr, 0.1);
        assert!(warmup_cosine(0.1, 0.1, 5, 3, 0.0).at(7).lr.is_finite());
    }

    #[test]
    fn an_epoch_keeps_its_learning_rate() {
        let inner = StepLr { lr: 1.0, step_size: 1, gamma: 0.5 };
        let schedule = PerEpoch { steps_per_epoch: 3, schedule: inner };
        let lrs: Vec<f64> = (0..7).map(|s| schedule.at(s).lr).collect();
        assert_eq!(lrs, [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]);
    }
}
