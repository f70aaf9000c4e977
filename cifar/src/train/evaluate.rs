//! A model's loss and predictions on labelled images.

use std::sync::Arc;

use anyhow::Result;
use tilegrad_engine::{Backend, Dtype, Tensor, no_grad, ops};
use tilegrad_nn::{Context, Model, Module};

use super::metrics::{Confusion, argmax};
use super::tta;
use crate::loader::Loader;

/// What came out.
pub struct Evaluation {
    /// Mean cross-entropy, without label smoothing.
    pub loss: f64,
    /// Images.
    pub images: usize,
    /// Predictions against labels.
    pub confusion: Confusion,
}

impl Evaluation {
    /// Share of images classified right.
    pub fn accuracy(&self) -> f64 {
        self.confusion.accuracy()
    }
}

/// How images are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Views {
    /// Of activations.
    pub precision: Dtype,
    /// By the mean over six views of each image.
    pub tta: bool,
}

/// Classifies all images of `loader`. `None` if `stop` said so between two batches. Errors are those
/// of the data set and of the model.
pub fn evaluate(
    model: &Model,
    backend: &Arc<dyn Backend>,
    loader: &Loader,
    how: Views,
    stop: impl Fn() -> bool,
) -> Result<Option<Evaluation>> {
    let data = loader.dataset();
    let classes = data.classes.len();
    let mut confusion = Confusion::new(classes);
    let mut loss = 0.0;
    let mut size_before = 0;
    for batch in loader.epoch(0, 0) {
        if stop() {
            return Ok(None);
        }
        let batch = batch?;
        let (n, size) = (batch.size, data.size);
        if n != size_before {
            // As in training: the memory kept for batches of another size is of no use.
            backend.trim();
            size_before = n;
        }
        let x = Tensor::from_slice(backend, &batch.images, &[n, size, size, 3])?;
        let labels = Tensor::from_slice(backend, &batch.labels, &[n])?;
        let (logits, losses) = no_grad(|| -> Result<_> {
            let context = &mut Context::eval().with_precision(how.precision);
            let logits = match how.tta {
                true => tta::logits(model, &x, context)?,
                false => model.forward(&x, context)?,
            };
            let losses = ops::cross_entropy(&logits, &labels, 0.0)?;
            Ok((logits.to_vec::<f32>()?, losses.to_vec::<f32>()?))
        })?;
        loss += losses.iter().map(|&l| f64::from(l)).sum::<f64>();
        for (row, &label) in logits.chunks(classes).zip(&batch.labels) {
            confusion.add(label as usize, argmax(row));
        }
    }
    let images = loader.samples();
    Ok(Some(Evaluation { loss: loss / images.max(1) as f64, images, confusion }))
}
