//! `state.safetensors`: everything that a resumed run needs, in one file, so that no crash can tear
//! it apart.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use tilegrad_nn::{Checkpoint, LossScale, Model};

use super::metrics::{Row, Sums};
use super::optimize::Update;
use super::run_dir::RunDir;
use super::step::StepStats;
use crate::model::{self, Meta};

/// Metadata entry with [`Position`].
const POSITION: &str = "position";

/// The epoch with the best test accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// From 1.
    pub epoch: u32,
    /// Its test accuracy, 0 to 1.
    pub accuracy: f64,
}

/// Where a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Finished epochs.
    pub epoch: u32,
    /// Optimizer steps of the whole run.
    pub step: u64,
    /// What is done of the current epoch.
    pub sums: Sums,
    /// Best epoch so far.
    pub best: Option<Best>,
    /// Rows of the finished epochs.
    pub rows: Vec<Row>,
    /// Whether the run has ended before its last epoch, for want of progress.
    pub finished: bool,
    /// Of runs in f16.
    #[serde(default)]
    pub loss_scale: LossScale,
}

impl Position {
    /// Counts a step that took `seconds`.
    pub fn add(&mut self, stats: &StepStats, seconds: f64) {
        self.step += 1;
        let sums = &mut self.sums;
        sums.images += stats.images;
        sums.correct += stats.correct;
        sums.loss += stats.loss;
        match stats.skipped {
            true => sums.skipped += 1,
            false => sums.grad_norm += stats.grad_norm,
        }
        sums.steps += 1;
        sums.lr = stats.lr;
        sums.seconds += seconds;
    }

    /// Ends the epoch; with a `patience` above 0, ends the run after so many epochs without a
    /// better accuracy. Returns whether this epoch is the best so far.
    pub fn finish_epoch(&mut self, row: Row, patience: u32) -> bool {
        self.rows.push(row);
        self.sums = Sums::default();
        self.epoch = row.epoch;
        let better = self.best.is_none_or(|best| row.test_accuracy > best.accuracy);
        if better {
            self.best = Some(Best { epoch: row.epoch, accuracy: row.test_accuracy });
        }
        let since = self.best.map_or(0, |best| row.epoch - best.epoch);
        self.finished = patience > 0 && since >= patience;
        better
    }
}

/// Writes the state of a run, atomically.
pub fn save(
    run: &RunDir,
    model: &Model,
    update: &Update,
    meta: &Meta,
    position: &Position,
) -> Result<()> {
    let mut checkpoint = model::checkpoint(model, meta)?;
    checkpoint.insert_optimizer(update.optimizer())?;
    checkpoint.set(POSITION, position)?;
    Ok(checkpoint.save(run.state())?)
}

/// Reads the state of a run into `model`, `update` and `meta`; the data must be the same.
pub fn load(run: &RunDir, model: &Model, update: &mut Update, meta: &mut Meta) -> Result<Position> {
    let path = run.state();
    let checkpoint = Checkpoint::load(&path)?;
    let saved = model::meta(&checkpoint)?;
    ensure!(
        saved.dataset == meta.dataset && saved.classes == meta.classes,
        "{} was trained on other images (fingerprint {}, these have {})",
        path.display(),
        saved.dataset,
        meta.dataset
    );
    let position: Position = checkpoint.get(POSITION)?;
    checkpoint.load_model(model)?;
    checkpoint.load_optimizer(model, update.optimizer_mut())?;
    *meta = saved;
    Ok(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(epoch: u32, accuracy: f64) -> Row {
        Row {
            epoch,
            step: 0,
            train_loss: 0.1 + 0.2,
            train_accuracy: 1.0 / 3.0,
            test_loss: 1e-300,
            test_accuracy: accuracy,
            lr: 0.1,
            grad_norm: 1.0,
            images_per_second: 1.0,
            seconds: 1.0,
            tta_accuracy: None,
            skipped: None,
        }
    }

    #[test]
    fn patience_counts_epochs_since_the_best() {
        let mut position = Position::default();
        let outcomes: Vec<(bool, bool)> = [0.5, 0.6, 0.6, 0.55]
            .into_iter()
            .enumerate()
            .map(|(i, a)| (position.finish_epoch(row(i as u32 + 1, a), 2), position.finished))
            .collect();
        assert_eq!(outcomes, [(true, false), (true, false), (false, false), (false, true)]);
        assert_eq!(position.best, Some(Best { epoch: 2, accuracy: 0.6 }));
    }

    #[test]
    fn a_position_is_read_back_to_the_bit() {
        let mut position = Position::default();
        position.finish_epoch(row(1, 0.7), 0);
        position.sums.loss = 0.1 + 0.7;
        let text = serde_json::to_string(&position).unwrap();
        assert_eq!(serde_json::from_str::<Position>(&text).unwrap(), position);
    }
}
