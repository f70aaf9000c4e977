//! One optimizer step: batches, forward, loss, backward, update.

use anyhow::{Result, bail};
use tilegrad_engine::{Dtype, Gradients};
use tilegrad_nn::{LossScale, clip};

use super::Trainer;
use super::diagnose;
use super::metrics::argmax;
use super::pass::Made;
use crate::loader::{Batch, Epoch};

/// What a step measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepStats {
    /// Images seen.
    pub images: u64,
    /// Of those, classified right (by the heavier label, where two were mixed).
    pub correct: u64,
    /// Sum of their losses.
    pub loss: f64,
    /// Norm of all gradients, before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// The gradients overflowed f16, so that there was no update; the norm is then infinite or NaN.
    pub skipped: bool,
}

impl Trainer {
    /// Takes the next `accumulate` batches and updates the parameters once, with the mean gradient
    /// of their images.
    pub(super) fn step(&mut self, batches: &mut Epoch) -> Result<StepStats> {
        let config = &self.config;
        let accumulate = config.accumulate;
        let done = self.position.sums.steps as usize * accumulate * config.batch;
        let left = self.train.samples() - done;
        let images = left.min(accumulate * config.batch);
        self.update.freeze(self.position.step, &self.model);
        let scale = match self.precision {
            Dtype::F16 => self.position.loss_scale.scale(),
            _ => 1.0,
        };
        let mut stats = StepStats { images: images as u64, ..Default::default() };
        let mut sum: Option<Gradients> = None;
        let mut last: Option<(Made, usize)> = None;
        for part in 0..accumulate {
            let Some(batch) = batches.next() else { break };
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => return Err(self.saved_before(error)),
            };
            if batch.size != self.batch_size {
                // Other sizes of everything: memory kept for the old ones would only be in the way.
                self.compute.backend.trim();
                self.batch_size = batch.size;
            }
            let share = batch.size as f64 / images as f64;
            let labels = self.labels(&batch);
            let mut made = self.pass(batch, part, share * scale)?;
            made.look(&self.graph).0.measure(&labels, &mut stats)?;
            if let (Made::Once(pass, _), true) = (&mut made, accumulate > 1) {
                let new = std::mem::take(&mut pass.gradients);
                match &mut sum {
                    Some(sum) => sum.accumulate(new)?,
                    None => sum = Some(new),
                }
            }
            last = Some((made, part));
        }
        let Some((made, part)) = last else { bail!("an epoch ended before its last step") };
        let (pass, x) = made.look(&self.graph);
        let gradients = sum.as_ref().unwrap_or(&pass.gradients);
        let norm = match &pass.norm {
            Some(norm) => norm.clone(),
            None => clip::gradient_norm(&self.model, gradients)?,
        };
        let (step, lr) = (self.position.step, self.update.lr(self.position.step));
        stats.lr = lr;
        stats.grad_norm = norm.item()? / scale;
        let finite = stats.grad_norm.is_finite();
        let hopeless = !finite && (self.precision != Dtype::F16 || scale <= LossScale::SMALLEST);
        if !stats.loss.is_finite() || hopeless {
            let context = self.context(part);
            let culprit = diagnose::culprit(&self.model, gradients, Some((x.clone(), context)))?;
            bail!(
                "step {}: the loss is {}, the gradient norm {}, at learning rate {lr:e}; \
                 {culprit}; the last good checkpoint is {} (step {})",
                step + 1,
                stats.loss / stats.images as f64,
                stats.grad_norm,
                self.run.state().display(),
                self.saved_step
            );
        }
        if self.precision == Dtype::F16 && !self.position.loss_scale.update(finite) {
            stats.skipped = true;
            return Ok(stats);
        }
        self.update.step(step, &self.model, gradients, &norm, scale)?;
        Ok(stats)
    }

    /// The heavier label of each image.
    fn labels(&self, batch: &Batch) -> Vec<usize> {
        let classes = self.train.dataset().classes.len();
        match &batch.soft_targets {
            Some(soft) => soft.chunks(classes).map(argmax).collect(),
            None => batch.labels.iter().map(|&label| label as usize).collect(),
        }
    }
}
