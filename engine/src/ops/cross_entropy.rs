//! Cross-entropy of softmax(logits) with a target distribution, one loss a row.
//!
//! With logits x `[N, C]` and targets t `[N, C]` (of a label l: t_j = 1 where j = l, else 0),
//! label smoothing s mixes the target with the uniform distribution (Szegedy et al. 2016, §7):
//! q_j = (1 − s) t_j + s / C.
//!   y = −Σ_j q_j log p_j = Σ_j q_j (L − x_j),   p = softmax(x),   L = log Σ_j exp(x_j).
//! The log-softmax is part of it, so that a probability that underflows does not become log 0.
//!
//! Derivative. ∂L/∂x_j = p_j, so for the incoming gradient g of a row's loss
//!   dx_j = g (p_j Σ_k q_k − q_j),   p_j = exp(x_j − L).
//! The sum is 1 where the target is a distribution. It needs x, t and L; p is not kept. Targets
//! are constants.

use tilegrad_kernels::CrossEntropyArgs;

use super::expect_constant;
use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct CrossEntropy(CrossEntropyArgs);

/// Loss of each row `[N]`, from `logits` `[N, C]` and untracked `targets`: labels, i32 `[N]`, or
/// probabilities `[N, C]` of the logits' dtype. `smoothing` is in [0, 1].
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, smoothing: f64) -> Result<Tensor> {
    let args = CrossEntropyArgs::new(logits.shape(), targets.shape(), smoothing)?;
    expect_constant("cross_entropy", "targets", targets)?;
    apply(CrossEntropy(args), &[logits, targets])
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let (logits, targets) = (inputs[0], inputs[1]);
        let (loss, log_sum_exp) =
            be.cross_entropy_forward(&self.0, logits.buffer(), targets.buffer())?;
        let count = [self.0.rows.count];
        let log_sum_exp = logits.wrap(log_sum_exp, &count);
        Ok((logits.wrap(loss, &count), Saved::new([logits, targets, &log_sum_exp])))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let [logits, targets, log_sum_exp] = saved.take();
        let dlogits = be.cross_entropy_backward(
            &self.0,
            logits.buffer(),
            targets.buffer(),
            log_sum_exp.buffer(),
            dy.buffer(),
        )?;
        Ok(vec![Some(logits.like(dlogits)), None])
    }
}
