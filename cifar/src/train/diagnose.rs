//! Where numbers went bad.

use anyhow::Result;
use tilegrad_engine::{Gradients, Tensor, no_grad};
use tilegrad_nn::{Context, Model, Module, clip};

/// The first parameter that holds a NaN or an infinity, or whose squares add up to one.
pub fn bad_parameter(model: &Model) -> Result<Option<String>> {
    for (name, parameter) in model.parameters() {
        let value = parameter.get();
        let squares = value.backend().sum_squares(value.buffer())?;
        if !value.wrap(squares, &[1]).item()?.is_finite() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Names the place where something that is not finite appeared first: a parameter; else a layer's
/// result, by running the last batch again and looking; else a gradient.
pub fn culprit(
    model: &Model,
    gradients: &Gradients,
    last: Option<(Tensor, Context)>,
) -> Result<String> {
    if let Some(name) = bad_parameter(model)? {
        return Ok(format!("parameter {name} is no longer finite"));
    }
    if let Some((x, context)) = last {
        let mut context = context.watching();
        no_grad(|| model.forward(&x, &mut context))?;
        if let Some(layer) = context.culprit() {
            return Ok(format!("the first layer whose result is not finite is {layer}"));
        }
    }
    // Gradients are made from the loss towards the input: the first bad one is the last in the
    // model's order.
    let norms = clip::gradient_norms(model, gradients)?;
    Ok(match norms.iter().rfind(|(_, norm)| !norm.is_finite()) {
        Some((name, _)) => format!("the first gradient that went bad is that of {name}"),
        None => "each parameter and gradient by itself is finite".to_string(),
    })
}
