//! Losses: one number a batch.

use tilegrad_engine::{Dtype, Error, Result, Tensor, ops};

/// Mean over the batch of −Σ_c q_c ln softmax(logits)_c, with q = (1 − s) t + s / C.
///
/// `logits` is `[N, C]`; `targets` are labels `[N]` (i32) or probabilities `[N, C]`; s is
/// `smoothing`, in [0, 1].
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, smoothing: f64) -> Result<Tensor> {
    ops::mean(&ops::cross_entropy(logits, targets, smoothing)?, &[])
}

/// Mean of (prediction − target)² over all elements.
pub fn mse(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    if prediction.shape() != target.shape() {
        let (p, t) = (prediction.shape(), target.shape());
        return Err(Error::shape("mse", format!("shapes must be equal, got {p:?} and {t:?}")));
    }
    let difference = ops::sub(prediction, target)?;
    ops::mean(&ops::mul(&difference, &difference)?, &[])
}

/// The label-smoothing loss of the CIFAR-10 guide, §3.1: KL(q ‖ softmax(logits)), mean over the
/// batch.
///
/// It is [`cross_entropy`] minus the mean entropy of q, H(q) = −Σ_c q_c ln q_c, which does not
/// depend on the logits: gradients are the same, and this loss reaches 0 where cross-entropy
/// reaches H(q).
pub fn label_smoothing_loss(logits: &Tensor, targets: &Tensor, smoothing: f64) -> Result<Tensor> {
    let loss = cross_entropy(logits, targets, smoothing)?;
    let classes = logits.shape().last().copied().unwrap_or(1) as f64;
    if targets.dtype() == Dtype::I32 {
        // Every row has one class of probability 1 - s + s / C and C - 1 of s / C.
        let x_ln_x = |x: f64| if x > 0.0 { x * x.ln() } else { 0.0 };
        let (other, s) = (smoothing / classes, smoothing);
        let entropy = -(x_ln_x(1.0 - s + other) + (classes - 1.0) * x_ln_x(other));
        return ops::affine(&loss, 1.0, -entropy);
    }
    let q = ops::affine(&targets.detach(), 1.0 - smoothing, smoothing / classes)?;
    // Where q is 0, q ln q is 0: the floor keeps the logarithm finite there.
    let floor = Tensor::full(q.backend(), q.dtype(), &[1], f32::MIN_POSITIVE as f64)?;
    let negative_entropy = ops::mul(&q, &ops::log(&ops::max(&q, &floor)?)?)?;
    ops::add(&loss, &ops::mean(&ops::sum(&negative_entropy, &[1])?, &[])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilegrad_engine::reference;

    #[test]
    fn kl_form_is_zero_where_the_prediction_is_the_smoothed_target() {
        let be = reference();
        // softmax(ln q) = q
        let q: Vec<f64> = (0..4).map(|c| if c == 2 { 0.9 + 0.025 } else { 0.025 }).collect();
        let logits: Vec<f64> = q.iter().map(|q| q.ln()).collect();
        let logits = Tensor::from_slice(&be, &logits, &[1, 4]).unwrap();
        let label = Tensor::from_slice(&be, &[2i32], &[1]).unwrap();
        let one_hot = Tensor::from_slice(&be, &[0.0, 0.0, 1.0, 0.0], &[1, 4]).unwrap();
        for targets in [&label, &one_hot] {
            let kl = label_smoothing_loss(&logits, targets, 0.1).unwrap().item().unwrap();
            assert!(kl.abs() < 1e-12, "{kl}");
        }
        let ce = cross_entropy(&logits, &label, 0.1).unwrap().item().unwrap();
        let entropy: f64 = -q.iter().map(|q| q * q.ln()).sum::<f64>();
        assert!((ce - entropy).abs() < 1e-12);
        // Without smoothing a one-hot target has zeros: still finite, and equal to cross-entropy.
        let plain = label_smoothing_loss(&logits, &one_hot, 0.0).unwrap().item().unwrap();
        assert!((plain + 0.925f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn mse_and_its_gradient() {
        let be = reference();
        let p = Tensor::from_slice(&be, &[1.0, 3.0], &[2]).unwrap().tracked();
        let t = Tensor::from_slice(&be, &[0.0, 1.0], &[2]).unwrap();
        let loss = mse(&p, &t).unwrap();
        assert_eq!(loss.item().unwrap(), 2.5);
        let gradients = loss.backward().unwrap();
        assert_eq!(gradients.get(&p).unwrap().to_vec::<f64>().unwrap(), [1.0, 2.0]);
        assert!(mse(&p, &loss).unwrap_err().to_string().starts_with("mse: shapes must be equal"));
    }
}
