//! Parameter updates.

/// Stochastic gradient descent with momentum, as PyTorch defines it: with g the gradient plus
/// `weight_decay * p`, v = momentum v + (1 - dampening) g, and p -= lr (g + momentum v if nesterov,
/// else v).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdArgs {
    /// Learning rate.
    pub lr: f64,
    /// Momentum; at 0 no velocity is read or written.
    pub momentum: f64,
    /// Dampening of the gradient in the velocity.
    pub dampening: f64,
    /// L2 penalty.
    pub weight_decay: f64,
    /// Nesterov's form.
    pub nesterov: bool,
}

/// AdamW (Loshchilov and Hutter 2019, Algorithm 2): decoupled weight decay, bias-corrected moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWArgs {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay: p -= lr * weight_decay * p.
    pub weight_decay: f64,
    /// This step's number, from 1 on.
    pub step: u64,
}
