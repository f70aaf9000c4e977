//! A model's parameters as named tensors on the host, and back.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::module::Module;
use crate::tensor_file::{Content, TensorData, to_tensor};

/// Every parameter, trained or not, by name.
pub fn tensors(model: &dyn Module) -> Result<BTreeMap<String, TensorData>> {
    let mut all = BTreeMap::new();
    for (name, parameter) in model.parameters() {
        all.insert(name, TensorData::from_tensor(&parameter.get())?);
    }
    Ok(all)
}

/// Sets every parameter of `model`. Each must be there with the model's shape, and none besides;
/// element types are converted. On an error, which names `origin`, the model is unchanged.
pub(crate) fn load<T: Content>(
    model: &dyn Module,
    tensors: &BTreeMap<String, T>,
    origin: &str,
) -> Result<()> {
    let parameters = model.parameters();
    let mut loaded = Vec::with_capacity(parameters.len());
    for (name, parameter) in &parameters {
        let (old, origin) = (parameter.get(), origin.to_string());
        let Some(data) = tensors.get(name) else {
            let (name, shape) = (name.clone(), old.shape().to_vec());
            return Err(Error::MissingTensor { origin, name, shape });
        };
        if data.shape() != old.shape() {
            return Err(Error::TensorShape {
                origin,
                name: name.clone(),
                expected: old.shape().to_vec(),
                got: data.shape().to_vec(),
            });
        }
        let tensor = match to_tensor(data, old.backend()) {
            Some(tensor) if old.dtype().is_float() => tensor?,
            _ => {
                return Err(Error::TensorDtype {
                    origin,
                    name: name.clone(),
                    expected: old.dtype().to_string(),
                    got: data.dtype().to_string(),
                });
            }
        };
        loaded.push(tensor.to_dtype(old.dtype())?);
    }
    let known: std::collections::HashSet<&str> =
        parameters.iter().map(|(name, _)| name.as_str()).collect();
    if let Some(name) = tensors.keys().find(|name| !known.contains(name.as_str())) {
        return Err(Error::UnexpectedTensor { origin: origin.to_string(), name: name.clone() });
    }
    for ((_, parameter), tensor) in parameters.iter().zip(loaded) {
        parameter.set(tensor);
    }
    Ok(())
}
