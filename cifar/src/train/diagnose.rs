//! Where numbers went bad.

use anyhow::Result;
use tilegrad_engine::Gradients;
use tilegrad_nn::{Model, Module, clip};

/// Names the place where something that is not finite appeared first, as well as that can be told after the fact.
///
/// Gradients are made from the loss towards the input, so the bad one that was made first belongs to the last
/// parameter that has one. If that is the model's last parameter of all, the loss itself was bad already, and all
/// gradients say nothing: then the parameters' values are looked at.
pub fn culprit(model: &Model, gradients: &Gradients) -> Result<String> {
    for (name, parameter) in model.parameters() {
        let value = parameter.get();
        let norm = value.backend().sum_squares(value.buffer())?;
        if !value.wrap(norm, &[1]).item()?.is_finite() {
            return Ok(format!("the first parameter that is not finite is {name}"));
        }
    }
    let norms = clip::gradient_norms(model, gradients)?;
    Ok(match norms.iter().rfind(|(_, norm)| !norm.is_finite()) {
        Some((name, _)) => format!("the first gradient that went bad is that of {name}"),
        None => "all parameters and gradients are finite one by one".to_string(),
    })
}
