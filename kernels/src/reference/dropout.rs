//! Dropout (Srivastava et al. 2014), scaled when training.

use super::float::Float;
use crate::DropoutArgs;

/// y[i] = x[i] / (1 - p) where word i of the stream reaches the threshold, else 0. Forward and
/// backward alike.
pub fn dropout<F: Float>(args: &DropoutArgs, x: &[F], y: &mut [F]) {
    let scale = F::from_f64(args.scale());
    for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
        let kept = args.stream.word(i as u64) >= args.threshold();
        *y = if kept { x * scale } else { F::ZERO };
    }
}
