//! What is measured while training: sums over an epoch, and one row an epoch.

use serde::{Deserialize, Serialize};

/// One epoch, as `metrics.csv` and `metrics.jsonl` have it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// From 1.
    pub epoch: u32,
    /// Optimizer steps since the beginning of the run.
    pub step: u64,
    /// Mean over the epoch's training images, as the model was when it saw them.
    pub train_loss: f64,
    /// Share of the epoch's training images that were classified right, as the model was when it
    /// saw them.
    pub train_accuracy: f64,
    /// Mean over the test images, without label smoothing.
    pub test_loss: f64,
    /// Share of the test images that are classified right.
    pub test_accuracy: f64,
    /// Learning rate of the epoch's last step.
    pub lr: f64,
    /// Mean norm of all gradients, before clipping.
    pub grad_norm: f64,
    /// Training images a second, without evaluation.
    pub images_per_second: f64,
    /// Seconds for the whole epoch, with evaluation.
    pub seconds: f64,
    /// As `test_accuracy`, by the mean over six views of each image: of the last epoch of a run with
    /// `tta`. In `metrics.jsonl` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tta_accuracy: Option<f64>,
    /// Steps of the epoch without an update, because f16 gradients overflowed: of runs in f16. In
    /// `metrics.jsonl` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u64>,
}

impl Row {
    /// The columns of `metrics.csv`.
    pub const HEADER: &str = "epoch,step,train_loss,train_accuracy,test_loss,test_accuracy,lr,\
                              grad_norm,images_per_second,seconds";

    /// The row in CSV.
    pub fn to_csv(&self) -> String {
        format!(
            "{},{},{:.6},{:.6},{:.6},{:.6},{:.6e},{:.6},{:.1},{:.2}",
            self.epoch,
            self.step,
            self.train_loss,
            self.train_accuracy,
            self.test_loss,
            self.test_accuracy,
            self.lr,
            self.grad_norm,
            self.images_per_second,
            self.seconds
        )
    }
}

/// Sums over the part of an epoch that is done. A resumed epoch continues them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Training images seen.
    pub images: u64,
    /// Of those, classified right.
    pub correct: u64,
    /// Sum of their losses.
    pub loss: f64,
    /// Sum of the gradient norms of the steps that were updates.
    pub grad_norm: f64,
    /// Optimizer steps done.
    pub steps: u64,
    /// Of those, without an update, because gradients overflowed f16.
    #[serde(default)]
    pub skipped: u64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Seconds spent on steps.
    pub seconds: f64,
}

impl Sums {
    /// Mean loss of an image.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.images.max(1) as f64
    }

    /// Share of images classified right.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images.max(1) as f64
    }

    /// Mean gradient norm of a step that was an update.
    pub fn mean_grad_norm(&self) -> f64 {
        self.grad_norm / (self.steps - self.skipped).max(1) as f64
    }

    /// Training images a second.
    pub fn images_per_second(&self) -> f64 {
        self.images as f64 / self.seconds.max(1e-9)
    }
}

/// Predictions against labels: `counts[label * classes + prediction]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// Number of classes.
    pub classes: usize,
    /// Row-major, a row a label.
    pub counts: Vec<u64>,
}

impl Confusion {
    /// Nothing counted.
    pub fn new(classes: usize) -> Self {
        Confusion { classes, counts: vec![0; classes * classes] }
    }

    /// Counts one image.
    pub fn add(&mut self, label: usize, prediction: usize) {
        self.counts[label * self.classes + prediction] += 1;
    }

    /// Images with this label.
    pub fn total(&self, label: usize) -> u64 {
        self.counts[label * self.classes..(label + 1) * self.classes].iter().sum()
    }

    /// Images with this label that were classified right.
    pub fn correct(&self, label: usize) -> u64 {
        self.counts[label * self.classes + label]
    }

    /// Share of all images classified right.
    pub fn accuracy(&self) -> f64 {
        let correct: u64 = (0..self.classes).map(|c| self.correct(c)).sum();
        correct as f64 / self.counts.iter().sum::<u64>().max(1) as f64
    }
}

/// Position of the largest value; NaN counts as largest, so that it is never taken for a right
/// answer by chance.
pub fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in row.iter().enumerate() {
        if row[best].is_nan() {
            break;
        }
        if v.is_nan() || *v > row[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_columns_of_the_header() {
        let row = Row {
            epoch: 1,
            step: 2,
            train_loss: 0.5,
            train_accuracy: 0.25,
            test_loss: 0.5,
            test_accuracy: 0.125,
            lr: 1e-7,
            grad_norm: 1.0,
            images_per_second: 1000.0,
            seconds: 2.0,
            tta_accuracy: None,
            skipped: None,
        };
        assert_eq!(row.to_csv().split(',').count(), Row::HEADER.split(',').count());
        assert!(row.to_csv().starts_with("1,2,0.500000,0.250000,0.500000,0.125000,1.000000e-7,"));
        let read_back = |row: Row| {
            let json = serde_json::to_string(&row).unwrap();
            assert_eq!(serde_json::from_str::<Row>(&json).unwrap(), row);
            json.contains("tta_accuracy")
        };
        assert!(!read_back(row) && read_back(Row { tta_accuracy: Some(0.5), ..row }));
    }

    #[test]
    fn confusion_counts_by_label() {
        let mut confusion = Confusion::new(3);
        confusion.add(0, 0);
        confusion.add(0, 2);
        confusion.add(2, 2);
        assert_eq!((confusion.total(0), confusion.correct(0), confusion.total(1)), (2, 1, 0));
        assert!((confusion.accuracy() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(argmax(&[0.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[0.0, f32::NAN, 3.0]), 1);
    }
}
