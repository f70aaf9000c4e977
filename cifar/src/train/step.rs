//! One optimizer step: batches, forward, loss, backward, update.

use anyhow::{Result, ensure};
use tilegrad_engine::{Gradients, Tensor, ops};
use tilegrad_nn::{Context, Module, clip};

use super::Trainer;
use super::diagnose;
use super::metrics::argmax;
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
}

impl Trainer {
    /// Takes the next `accumulate` batches and updates the parameters once, with the mean gradient
    /// of their images.
    pub(super) fn step(&mut self, batches: &mut Epoch) -> Result<StepStats> {
        let config = &self.config;
        let done = self.position.sums.steps as usize * config.accumulate * config.batch;
        let left = self.train.samples() - done;
        let images = left.min(config.accumulate * config.batch);
        self.update.freeze(self.position.step, &self.model);
        let mut stats = StepStats { images: images as u64, ..Default::default() };
        let mut gradients: Option<Gradients> = None;
        let mut last = None;
        for part in 0..config.accumulate {
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
            let (new, x) = self.backward(batch, part, share, &mut stats)?;
            last = Some((x, self.context(part)));
            match &mut gradients {
                Some(sum) => sum.accumulate(new)?,
                None => gradients = Some(new),
            }
        }
        let gradients = gradients.unwrap_or_default();
        let (step, lr) = (self.position.step, self.update.lr(self.position.step));
        stats.lr = lr;
        let norm = clip::gradient_norm(&self.model, &gradients)?;
        stats.grad_norm = norm.item()?;
        if !stats.loss.is_finite() || !stats.grad_norm.is_finite() {
            let culprit = diagnose::culprit(&self.model, &gradients, last)?;
            anyhow::bail!(
                "step {}: the loss is {}, the gradient norm {}, at learning rate {lr:e}; \
                 {culprit}; the last good checkpoint is {} (step {})",
                step + 1,
                stats.loss / stats.images as f64,
                stats.grad_norm,
                self.run.state().display(),
                self.saved_step
            );
        }
        self.update.step(step, &self.model, &gradients, &norm)?;
        Ok(stats)
    }

    /// For the forward pass of the step's batch number `part`: each batch of a run has dropout
    /// masks of its own.
    fn context(&self, part: usize) -> Context {
        let pass = self.position.step * self.config.accumulate as u64 + part as u64;
        Context::train(self.config.seed, pass as u32).with_precision(self.precision)
    }

    /// Gradients of `share` times the mean loss of a batch, and the batch's images.
    fn backward(
        &self,
        batch: Batch,
        part: usize,
        share: f64,
        stats: &mut StepStats,
    ) -> Result<(Gradients, Tensor)> {
        let (backend, data) = (&self.compute.backend, self.train.dataset());
        let (n, size, classes) = (batch.size, data.size, data.classes.len());
        let x = Tensor::from_slice(backend, &batch.images, &[n, size, size, 3])?;
        let targets = match &batch.soft_targets {
            Some(soft) => Tensor::from_slice(backend, soft, &[n, classes])?,
            None => Tensor::from_slice(backend, &batch.labels, &[n])?,
        };
        let labels: Vec<usize> = match &batch.soft_targets {
            Some(soft) => soft.chunks(classes).map(argmax).collect(),
            None => batch.labels.iter().map(|&label| label as usize).collect(),
        };
        // Its images go back to the loader before the step needs its memory.
        drop(batch);
        let logits = self.model.forward(&x, &mut self.context(part))?;
        let losses = ops::cross_entropy(&logits, &targets, self.config.label_smoothing)?;
        let logits = logits.detach();
        let loss = ops::affine(&ops::mean(&losses, &[])?, share, 0.0)?;
        let values = losses.detach();
        drop(losses);
        let gradients = loss.backward()?;
        stats.loss += values.to_vec::<f32>()?.iter().map(|&v| f64::from(v)).sum::<f64>();
        let logits = logits.to_vec::<f32>()?;
        ensure!(
            logits.len() == n * classes,
            "the model gave {} logits for {n} images",
            logits.len()
        );
        for (row, &label) in logits.chunks(classes).zip(&labels) {
            stats.correct += u64::from(argmax(row) == label);
        }
        Ok((gradients, x))
    }
}
