//! Cross-entropy of logits `[count, classes]` with labels `[count]` or probabilities `[count,
//! classes]`.
//!
//! With t the targets (1 at the label) and s the smoothing, the target distribution is t' = (1 -
//! s) t + s / classes, and the loss of a row is -Σ_j t'_j log p_j, p = softmax(logits). A term
//! with t'_j = 0 is left out, so that a class which is ruled out (logit -inf) costs nothing when
//! it is not wanted: 0 · -inf is 0 here.

use super::Reference;
use super::float::{Float, sum};
use super::softmax::max_and_sum_exp;
use crate::{Buffer, CrossEntropyArgs, Dtype, Error, Result, Rows};

/// What the logits are compared with.
#[derive(Clone, Copy)]
pub enum Targets<'a, F> {
    /// `[count]`
    Labels(&'a [i32]),
    /// `[count, classes]`
    Probabilities(&'a [F]),
}

impl<F: Float> Targets<'_, F> {
    /// Every label must be a class.
    pub fn check(&self, rows: Rows) -> Result<()> {
        let Targets::Labels(labels) = self else { return Ok(()) };
        for (position, &label) in labels.iter().enumerate() {
            if !usize::try_from(label).is_ok_and(|label| label < rows.len) {
                let (index, bound) = (label.into(), rows.len);
                return Err(Error::Index { op: "cross_entropy", index, position, bound });
            }
        }
        Ok(())
    }

    /// t' of one class in one row.
    fn smoothed(&self, args: &CrossEntropyArgs, row: usize, class: usize) -> F {
        let target = match self {
            Targets::Labels(labels) if labels[row] as usize == class => F::ONE,
            Targets::Labels(_) => F::ZERO,
            Targets::Probabilities(p) => p[row * args.rows.len + class],
        };
        let floor = F::from_f64(args.smoothing / args.rows.len as f64);
        F::from_f64(1.0 - args.smoothing) * target + floor
    }
}

/// Loss and log Σ exp(logits) of each row, both `[count]`. Labels must have been checked.
pub fn cross_entropy_forward<F: Float>(
    args: &CrossEntropyArgs,
    logits: &[F],
    targets: Targets<'_, F>,
    loss: &mut [F],
    log_sum_exp: &mut [F],
) {
    let Rows { count, len } = args.rows;
    for row in 0..count {
        let x = &logits[row * len..(row + 1) * len];
        let (max, sum_exp) = max_and_sum_exp(x);
        log_sum_exp[row] = max + sum_exp.ln();
        loss[row] = F::ZERO;
        for (class, &x) in x.iter().enumerate() {
            let target = targets.smoothed(args, row, class);
            if target != F::ZERO {
                loss[row] -= target * ((x - max) - sum_exp.ln());
            }
        }
    }
}

/// dlogits = (p Σ t' - t') dloss, `[count, classes]`; Σ t' is 1 for labels, and whatever it is for
/// probabilities.
pub fn cross_entropy_backward<F: Float>(
    args: &CrossEntropyArgs,
    logits: &[F],
    targets: Targets<'_, F>,
    log_sum_exp: &[F],
    dloss: &[F],
    dlogits: &mut [F],
) {
    let Rows { count, len } = args.rows;
    for row in 0..count {
        let total = match targets {
            Targets::Labels(_) => F::ONE,
            Targets::Probabilities(_) => {
                sum((0..len).map(|class| targets.smoothed(args, row, class)))
            }
        };
        for class in 0..len {
            let i = row * len + class;
            let p = (logits[i] - log_sum_exp[row]).exp();
            dlogits[i] = (p * total - targets.smoothed(args, row, class)) * dloss[row];
        }
    }
}

impl Reference {
    /// Labels or probabilities, checked.
    pub(super) fn targets<'a, F: Float>(
        &self,
        rows: Rows,
        targets: &'a Buffer,
    ) -> Result<Targets<'a, F>> {
        const OP: &str = "cross_entropy";
        let targets = match targets.dtype() {
            Dtype::I32 => Targets::Labels(self.read(OP, targets, rows.count)?),
            _ => Targets::Probabilities(self.read(OP, targets, rows.elements())?),
        };
        targets.check(rows)?;
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_is_ruled_out_and_not_wanted_costs_nothing() {
        let args = CrossEntropyArgs::new(&[1, 3], &[1], 0.0).unwrap();
        let x = [0.0, f64::NEG_INFINITY, 0.0];
        let (mut loss, mut lse, mut dx) = ([9.0], [9.0], [9.0; 3]);
        let targets = Targets::Labels(&[2]);
        cross_entropy_forward(&args, &x, targets, &mut loss, &mut lse);
        cross_entropy_backward(&args, &x, targets, &lse, &[1.0], &mut dx);
        assert!((loss[0] - 2f64.ln()).abs() < 1e-15 && (lse[0] - 2f64.ln()).abs() < 1e-15);
        assert!(dx.iter().zip([0.5, 0.0, -0.5]).all(|(a, b): (&f64, f64)| (a - b).abs() < 1e-15));
        assert!(Targets::<f64>::Labels(&[0, 3]).check(Rows { count: 2, len: 3 }).is_err());
        assert!(Targets::<f64>::Labels(&[-1]).check(Rows { count: 1, len: 3 }).is_err());
    }
}
