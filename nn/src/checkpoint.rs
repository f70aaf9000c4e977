//! Checkpoints: a model, what it was trained with, and (to continue) the optimizer's state, in one
//! safetensors file.
//!
//! ```no_run
//! # use tilegrad_nn::{Checkpoint, Model, Sgd};
//! # fn example(model: &Model, sgd: &mut Sgd) -> tilegrad_nn::Result<()> {
//! let mut checkpoint = Checkpoint::of_model(model)?;
//! checkpoint.set("epoch", &12)?;
//! checkpoint.insert_optimizer(&*sgd)?;
//! checkpoint.save("runs/x/weights/last.safetensors")?;
//!
//! let checkpoint = Checkpoint::load("runs/x/weights/last.safetensors")?;
//! let epoch: u64 = checkpoint.get("epoch")?;
//! checkpoint.load_model(model)?;
//! checkpoint.load_optimizer(model, sgd)?;
//! # Ok(()) }
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};
use tilegrad_engine::{Backend, Tensor};

use crate::error::{Error, Result};
use crate::init::Rng;
use crate::models::{Model, ModelConfig};
use crate::module::Module;
use crate::optim::{Optimizer, OptimizerState};
use crate::state;
use crate::tensor_file::{TensorData, TensorFile};

/// Metadata entry that marks a file as a checkpoint, and its value.
const FORMAT: (&str, &str) = ("format", "tilegrad-checkpoint-1");
/// Metadata entry with the [`ModelConfig`].
const MODEL: &str = "model";
/// Metadata entries with the optimizer's name and number of steps.
const OPTIMIZER: &str = "optimizer";
const OPTIMIZER_STEP: &str = "optimizer_step";
/// Prefix of the optimizer's tensors, which separates them from the model's.
const OPTIMIZER_PREFIX: &str = "optimizer.";
/// Prefix of tensors that are neither the model's nor the optimizer's.
const EXTRA_PREFIX: &str = "extra.";

/// A checkpoint in memory. Its file is an ordinary safetensors file with the model's tensors under
/// their names.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    origin: String,
    file: TensorFile,
}

impl Checkpoint {
    /// With the parameters and the configuration of `model`.
    pub fn of_model(model: &Model) -> Result<Self> {
        let mut checkpoint = Checkpoint {
            origin: "checkpoint".to_string(),
            file: TensorFile { metadata: BTreeMap::new(), tensors: state::tensors(model)? },
        };
        checkpoint.file.metadata.insert(FORMAT.0.to_string(), FORMAT.1.to_string());
        checkpoint.set(MODEL, model.config())?;
        Ok(checkpoint)
    }

    /// All metadata: JSON by key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.file.metadata
    }

    /// Adds anything that can be written as JSON: mean and standard deviation, class names, epoch,
    /// random seed.
    pub fn set<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|e| self.metadata_error(key, format!("cannot be written as JSON: {e}")))?;
        self.file.metadata.insert(key.to_string(), text);
        Ok(())
    }

    /// Reads what [`Checkpoint::set`] wrote. A missing entry is an error that names it.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let Some(text) = self.file.metadata.get(key) else {
            return Err(self.metadata_error(key, "is missing".to_string()));
        };
        serde_json::from_str(text)
            .map_err(|e| self.metadata_error(key, format!("is not as expected: {e}")))
    }

    fn metadata_error(&self, key: &str, detail: String) -> Error {
        Error::Metadata { origin: self.origin.clone(), key: key.to_string(), detail }
    }

    /// Adds the optimizer's state.
    pub fn insert_optimizer(&mut self, optimizer: &dyn Optimizer) -> Result<()> {
        let state = optimizer.state();
        for (name, tensor) in &state.tensors {
            let data = TensorData::from_tensor(tensor)?;
            self.file.tensors.insert(format!("{OPTIMIZER_PREFIX}{name}"), data);
        }
        self.set(OPTIMIZER, &state.name)?;
        self.set(OPTIMIZER_STEP, &state.step)
    }

    /// Adds a tensor of the caller's under `extra.NAME`.
    pub fn insert_extra(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let data = TensorData::from_tensor(tensor)?;
        self.file.tensors.insert(format!("{EXTRA_PREFIX}{name}"), data);
        Ok(())
    }

    /// A tensor that [`Checkpoint::insert_extra`] added, on `backend`.
    pub fn extra(&self, name: &str, backend: &Arc<dyn Backend>) -> Result<Option<Tensor>> {
        let data = self.file.tensors.get(&format!("{EXTRA_PREFIX}{name}"));
        Ok(data.and_then(|data| data.to_tensor(backend)).transpose()?)
    }

    /// Writes the file atomically: on any failure the previous one is intact.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.file.save(path.as_ref())
    }

    /// Reads and verifies a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = TensorFile::load(path)?;
        if file.metadata.get(FORMAT.0).map(String::as_str) != Some(FORMAT.1) {
            return Err(Error::Corrupt {
                path: path.to_path_buf(),
                detail: format!(
                    "is a safetensors file, but not a checkpoint of this program: \
                     its metadata has no '{}' of '{}'",
                    FORMAT.0, FORMAT.1
                ),
            });
        }
        Ok(Checkpoint { origin: path.display().to_string(), file })
    }

    /// What the model was made from.
    pub fn model_config(&self) -> Result<ModelConfig> {
        self.get(MODEL)
    }

    /// The model with the saved parameters, on `backend`.
    pub fn build_model(&self, backend: &Arc<dyn Backend>) -> Result<Model> {
        let model = Model::with_rng(backend, self.model_config()?, &mut Rng::zeros())?;
        self.load_model(&model)?;
        Ok(model)
    }

    /// Sets the parameters of `model`, which must be the same kind of model. On an error it is
    /// unchanged.
    pub fn load_model(&self, model: &Model) -> Result<()> {
        let saved = self.model_config()?;
        if saved.kind != model.config().kind {
            let (got, expected) = (saved.kind, model.config().kind);
            return Err(self.metadata_error(
                MODEL,
                format!("is {got}, but the model asked for is {expected}"),
            ));
        }
        let own =
            |name: &String| !name.starts_with(OPTIMIZER_PREFIX) && !name.starts_with(EXTRA_PREFIX);
        let tensors = self.file.tensors.iter().filter(|(name, _)| own(name));
        let tensors = tensors.map(|(name, data)| (name.clone(), data.clone())).collect();
        state::load(model, &tensors, &self.origin)
    }

    /// Whether there is an optimizer's state.
    pub fn has_optimizer(&self) -> bool {
        self.file.metadata.contains_key(OPTIMIZER)
    }

    /// Sets the state of `optimizer`, whose parameters are those of `model`. On an error it is
    /// unchanged.
    pub fn load_optimizer(&self, model: &dyn Module, optimizer: &mut dyn Optimizer) -> Result<()> {
        let mut saved = OptimizerState {
            name: self.get(OPTIMIZER)?,
            step: self.get(OPTIMIZER_STEP)?,
            tensors: BTreeMap::new(),
        };
        let parameters = model.parameters();
        let Some((_, first)) = parameters.first() else { return Ok(()) };
        let backend = first.get().backend().clone();
        for (name, data) in &self.file.tensors {
            let Some(name) = name.strip_prefix(OPTIMIZER_PREFIX) else { continue };
            let tensor = data.to_tensor(&backend).ok_or_else(|| Error::TensorDtype {
                origin: self.origin.clone(),
                name: name.to_string(),
                expected: "f32".to_string(),
                got: data.dtype.to_string(),
            })?;
            saved.tensors.insert(name.to_string(), tensor?);
        }
        optimizer.load_state(model, saved, &self.origin)
    }
}
