//! Gradient norms and clipping, without waiting for the device.

use tilegrad_engine::{Error, Gradients, Result, Tensor, ops};
use tilegrad_kernels::ConcatArgs;

use crate::module::{Module, Role};

/// Names of the trained parameters that have a gradient, and Σ g² of each, `[count]`.
fn sums_of_squares(model: &dyn Module, gradients: &Gradients) -> Result<(Vec<String>, Tensor)> {
    let (mut names, mut sums, mut backend) = (Vec::new(), Vec::new(), None);
    for (name, parameter) in model.parameters() {
        if parameter.role() == Role::State {
            continue;
        }
        if let Some(gradient) = gradients.get(&parameter.get()) {
            sums.push(gradient.backend().sum_squares(gradient.buffer())?);
            backend.get_or_insert_with(|| gradient.backend().clone());
            names.push(name);
        }
    }
    let backend = backend.ok_or_else(|| {
        Error::argument("gradient_norm", "no parameter of the model has a gradient")
    })?;
    let args = ConcatArgs::new(&vec![[1].as_slice(); sums.len()], 0)?;
    let all = backend.concat(&args, &sums.iter().collect::<Vec<_>>())?;
    let count = names.len();
    Ok((names, Tensor::new(&backend, all, &[count])?))
}

/// √(Σ g²) over all gradients of the model, as a device tensor of shape `[]`.
pub fn gradient_norm(model: &dyn Module, gradients: &Gradients) -> Result<Tensor> {
    ops::sqrt(&ops::sum(&sums_of_squares(model, gradients)?.1, &[])?)
}

/// The norm of each parameter's gradient, by name, in the model's order. Waits for the device.
pub fn gradient_norms(model: &dyn Module, gradients: &Gradients) -> Result<Vec<(String, f64)>> {
    let (names, sums) = sums_of_squares(model, gradients)?;
    Ok(names.into_iter().zip(sums.to_f64_vec()?.into_iter().map(f64::sqrt)).collect())
}

/// min(1, max_norm / (norm + 1e-6)), PyTorch's factor, for [`crate::Optimizer::step`]. It stays on
/// the device.
pub fn clip_scale(norm: &Tensor, max_norm: f64) -> Result<Tensor> {
    let limit = norm.filled_like(max_norm)?;
    let ratio = ops::div(&limit, &ops::affine(norm, 1.0, 1e-6)?)?;
    // min(1, r) = -max(-1, -r)
    ops::neg(&ops::max(&norm.filled_like(-1.0)?, &ops::neg(&ratio)?)?)
}
