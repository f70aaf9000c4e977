//! Cross-entropy.

use super::Rows;
use crate::{Error, Result};

/// Cross-entropy of rows of logits, with the target distribution (1 - s) t + s / classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropyArgs {
    /// Batch and classes.
    pub rows: Rows,
    /// s, the label smoothing (Szegedy et al. 2016, §7), in [0, 1].
    pub smoothing: f64,
}

impl CrossEntropyArgs {
    /// `logits` is `[batch, classes]`; `targets` is `[batch]` (labels) or `[batch, classes]`
    /// (soft).
    pub fn new(logits: &[usize], targets: &[usize], smoothing: f64) -> Result<Self> {
        const OP: &str = "cross_entropy";
        let &[count, len] = logits else {
            return Err(Error::shape(
                OP,
                format!("logits must be [batch, classes], got {logits:?}"),
            ));
        };
        if targets != [count] && targets != [count, len] {
            return Err(Error::shape(
                OP,
                format!(
                    "targets must be labels [{count}] or probabilities [{count}, {len}], got {targets:?}"
                ),
            ));
        }
        if !(0.0..=1.0).contains(&smoothing) {
            return Err(Error::argument(
                OP,
                format!("label smoothing must be in [0, 1], got {smoothing}"),
            ));
        }
        Ok(CrossEntropyArgs { rows: Rows { count, len }, smoothing })
    }
}
