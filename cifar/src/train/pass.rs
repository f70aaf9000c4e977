//! What a batch costs the device: forward, loss, backward; recorded once and replayed where that is asked for.

use anyhow::{Result, ensure};
use tilegrad_engine::{Gradients, Recorded, Result as EngineResult, Tensor, ops};
use tilegrad_nn::{Context, Module, clip};

use super::Trainer;
use super::metrics::argmax;
use super::step::StepStats;
use crate::loader::Batch;

/// What a forward and backward pass leaves on the device.
pub struct Pass {
    /// Loss of each image.
    losses: Tensor,
    /// `[images, classes]`
    logits: Tensor,
    /// Of the mean loss, times a factor.
    pub gradients: Gradients,
    /// Their norm, where no other batch belongs to the step.
    pub norm: Option<Tensor>,
}

/// All that is fixed in a recording but the images.
#[derive(PartialEq)]
struct Fixed {
    images: usize,
    soft_targets: bool,
    factor: f64,
    /// Where each parameter is, and whether it has not been frozen.
    parameters: Vec<(usize, bool)>,
}

/// The recorded pass of a step.
pub struct StepGraph {
    // Before the tensors that it reads.
    recorded: Recorded<Pass>,
    fixed: Fixed,
    /// Number of the pass that was recorded.
    pass: u32,
    x: Tensor,
    targets: Tensor,
}

/// Who holds a pass that was made, and its images.
pub enum Made {
    /// The caller.
    Once(Box<Pass>, Tensor),
    /// The trainer's graph, until the next replay.
    Replayed,
}

impl Made {
    /// The pass and its images. `graph` is the trainer's.
    pub fn look<'a>(&'a self, graph: &'a Option<StepGraph>) -> (&'a Pass, &'a Tensor) {
        match (self, graph) {
            (Made::Once(pass, x), _) => (pass, x),
            (Made::Replayed, Some(graph)) => (graph.recorded.output(), &graph.x),
            (Made::Replayed, None) => unreachable!("a graph was replayed"),
        }
    }
}

impl Trainer {
    /// For the forward pass of the step's batch number `part`: each batch of a run has dropout
    /// masks of its own.
    pub(super) fn context(&self, part: usize) -> Context {
        Context::train(self.config.seed, self.pass_number(part)).with_precision(self.precision)
    }

    fn pass_number(&self, part: usize) -> u32 {
        (self.position.step * self.config.accumulate as u64 + part as u64) as u32
    }

    /// Gradients of `factor` times the mean loss of a batch, and what else its pass gives.
    pub(super) fn pass(&mut self, batch: Batch, part: usize, factor: f64) -> Result<Made> {
        if self.config.graph {
            let parameters = self.model.parameters().into_iter().map(|(_, p)| {
                let value = p.get();
                (value.buffer().identity(), value.is_tracked())
            });
            let fixed = Fixed {
                images: batch.size,
                soft_targets: batch.soft_targets.is_some(),
                factor,
                parameters: parameters.collect(),
            };
            if self.graph.as_ref().is_some_and(|graph| graph.fixed == fixed) {
                return self.replay(batch);
            }
            // A pass of this size has run: all its kernels are loaded. A smaller last batch is not recorded.
            if self.warm == Some(batch.size) {
                self.graph = None; // its memory first
                let (x, targets) = self.upload(&batch)?;
                let recorded = Recorded::new(&self.compute.backend.clone(), || {
                    self.compute_pass(&x, &targets, part, factor)
                })?;
                let pass = self.pass_number(part);
                self.graph = Some(StepGraph { recorded, fixed, pass, x, targets });
                return self.replay(batch);
            }
            self.warm.get_or_insert(batch.size);
        }
        let (x, targets) = self.upload(&batch)?;
        // Its images go back to the loader before the step needs its memory.
        drop(batch);
        let pass = self.compute_pass(&x, &targets, part, factor)?;
        Ok(Made::Once(Box::new(pass), x))
    }

    fn upload(&self, batch: &Batch) -> Result<(Tensor, Tensor)> {
        let (backend, data) = (&self.compute.backend, self.train.dataset());
        let (n, size, classes) = (batch.size, data.size, data.classes.len());
        let x = Tensor::from_slice(backend, &batch.images, &[n, size, size, 3])?;
        let targets = match &batch.soft_targets {
            Some(soft) => Tensor::from_slice(backend, soft, &[n, classes])?,
            None => Tensor::from_slice(backend, &batch.labels, &[n])?,
        };
        Ok((x, targets))
    }

    fn replay(&mut self, batch: Batch) -> Result<Made> {
        let now = self.pass_number(0);
        let graph = self.graph.as_mut().expect("checked by the caller");
        graph.x.write(&batch.images)?;
        match &batch.soft_targets {
            Some(soft) => graph.targets.write(soft)?,
            None => graph.targets.write(&batch.labels)?,
        }
        graph.recorded.replay(now.wrapping_sub(graph.pass))?;
        Ok(Made::Replayed)
    }

    fn compute_pass(
        &self,
        x: &Tensor,
        targets: &Tensor,
        part: usize,
        factor: f64,
    ) -> EngineResult<Pass> {
        let logits = self.model.forward(x, &mut self.context(part))?;
        let losses = ops::cross_entropy(&logits, targets, self.config.label_smoothing)?;
        let logits = logits.detach();
        let loss = ops::affine(&ops::mean(&losses, &[])?, factor, 0.0)?;
        let values = losses.detach();
        drop(losses);
        let gradients = loss.backward()?;
        let norm = match self.config.accumulate {
            1 => Some(clip::gradient_norm(&self.model, &gradients)?),
            _ => None,
        };
        Ok(Pass { losses: values, logits, gradients, norm })
    }
}

impl Pass {
    /// Adds losses and hits to `stats`. Waits for the device.
    pub fn measure(&self, labels: &[usize], stats: &mut StepStats) -> Result<()> {
        stats.loss += self.losses.to_vec::<f32>()?.iter().map(|&v| f64::from(v)).sum::<f64>();
        let logits = self.logits.to_vec::<f32>()?;
        let (n, classes) = (labels.len(), logits.len() / labels.len().max(1));
        ensure!(
            logits.len() == n * classes,
            "the model gave {} logits for {n} images",
            logits.len()
        );
        for (row, &label) in logits.chunks(classes).zip(labels) {
            stats.correct += u64::from(argmax(row) == label);
        }
        Ok(())
    }
}
