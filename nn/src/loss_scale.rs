//! Dynamic loss scaling, for gradients in f16 (Micikevicius et al. 2018, "Mixed Precision Training", §3.2).
//!
//! The smallest f16 above 0 is 2^-24: many gradients of activations would become 0. So the loss is multiplied
//! by a scale, which multiplies every gradient, as large as it may be: when a gradient overflows, the step is
//! skipped and the scale halved; after many good steps it is doubled. The optimizer divides it out again, in
//! f32. The constants are PyTorch's (`torch.amp.GradScaler`).

use serde::{Deserialize, Serialize};

/// The scale, and what it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    scale: f64,
    good: u32,
    skipped: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        LossScale { scale: Self::INITIAL, good: 0, skipped: 0 }
    }
}

impl LossScale {
    /// Scale of the first step.
    pub const INITIAL: f64 = 65536.0;
    /// Good steps in a row after which the scale is doubled.
    pub const GROWTH_INTERVAL: u32 = 2000;
    /// Below it, scaling is not what a model lacks: 2^-14, with which the largest f16 becomes about 4.
    pub const SMALLEST: f64 = 1.0 / 16384.0;

    /// What to multiply the loss by. A power of two: it changes no gradient's mantissa.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Steps skipped so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// To be told after each step whether all its gradients are finite. Answers whether to make the update.
    pub fn update(&mut self, finite: bool) -> bool {
        if !finite {
            (self.scale, self.good, self.skipped) = (self.scale / 2.0, 0, self.skipped + 1);
            return false;
        }
        self.good += 1;
        if self.good == Self::GROWTH_INTERVAL {
            (self.scale, self.good) = (self.scale * 2.0, 0);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::LossScale;

    #[test]
    fn the_scale_is_halved_at_once_and_doubled_after_many_good_steps() {
        let mut s = LossScale::default();
        assert!(!s.update(false) && !s.update(false));
        assert_eq!((s.scale(), s.skipped()), (16384.0, 2));
        assert!((1..LossScale::GROWTH_INTERVAL).all(|_| s.update(true)));
        assert_eq!(s.scale(), 16384.0);
        assert!(s.update(true));
        assert_eq!((s.scale(), s.skipped()), (32768.0, 2));
        // A bad step begins the count anew.
        assert!((1..LossScale::GROWTH_INTERVAL).all(|_| s.update(true)));
        assert!(!s.update(false) && s.update(true));
        assert_eq!((s.scale(), s.skipped()), (16384.0, 3));
    }
}
