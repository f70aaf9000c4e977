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

use std::borrow::Cow;
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
use crate::tensor_file::{self, Content, FileDtype, Slice};

/// Metadata entry that marks a file as a checkpoint, and its value.
const FORMAT: (&str, &str) = ("format", "tilegrad-checkpoint-1");
/// Metadata entry with the [`ModelConfig`].
const MODEL: &str = "model";
/// Metadata entries with the optimizer's name and number of steps.
const OPTIMIZER: &str = "optimizer";
const OPTIMIZER_STEP: &str = "optimizer_step";
/// Prefix of the optimizer's tensors, which separates them from the model's.
const OPTIMIZER_PREFIX: &str = "optimizer.";

/// A checkpoint: read from a file, or to be written. Its file is an ordinary safetensors file with
/// the model's tensors under their names.
#[derive(Clone)]
pub struct Checkpoint {
    origin: String,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Stored>,
}

/// A tensor of a checkpoint.
#[derive(Clone)]
enum Stored {
    /// From a file.
    File(Slice),
    /// Of a model or an optimizer: shared with it, and copied only while it is written.
    Device(Tensor),
}

impl Stored {
    fn content(&self) -> &dyn Content {
        match self {
            Stored::File(slice) => slice,
            Stored::Device(tensor) => tensor,
        }
    }
}

impl Content for Stored {
    fn dtype(&self) -> FileDtype {
        self.content().dtype()
    }

    fn shape(&self) -> &[usize] {
        self.content().shape()
    }

    fn bytes(&self) -> tilegrad_engine::Result<Cow<'_, [u8]>> {
        self.content().bytes()
    }
}

impl Checkpoint {
    /// With the parameters and the configuration of `model`.
    pub fn of_model(model: &Model) -> Result<Self> {
        let parameters = model.parameters().into_iter();
        let mut checkpoint = Checkpoint {
            origin: "checkpoint".to_string(),
            metadata: BTreeMap::from([(FORMAT.0.to_string(), FORMAT.1.to_string())]),
            tensors: parameters.map(|(name, p)| (name, Stored::Device(p.get()))).collect(),
        };
        checkpoint.set(MODEL, model.config())?;
        Ok(checkpoint)
    }

    /// All metadata: JSON by key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Adds anything that can be written as JSON: mean and standard deviation, class names, epoch,
    /// random seed.
    pub fn set<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|e| self.metadata_error(key, format!("cannot be written as JSON: {e}")))?;
        self.metadata.insert(key.to_string(), text);
        Ok(())
    }

    /// Reads what [`Checkpoint::set`] wrote. A missing entry is an error that names it.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let Some(text) = self.metadata.get(key) else {
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
        for (name, tensor) in state.tensors {
            self.tensors.insert(format!("{OPTIMIZER_PREFIX}{name}"), Stored::Device(tensor));
        }
        self.set(OPTIMIZER, &state.name)?;
        self.set(OPTIMIZER_STEP, &state.step)
    }

    /// Writes the file atomically: on any failure the previous one is intact.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        tensor_file::save(path.as_ref(), &self.metadata, &self.tensors)
    }

    /// Reads and verifies a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (metadata, tensors) = tensor_file::read(path)?;
        if metadata.get(FORMAT.0).map(String::as_str) != Some(FORMAT.1) {
            return Err(Error::Corrupt {
                path: path.to_path_buf(),
                detail: format!(
                    "is a safetensors file, but not a checkpoint of this program: \
                     its metadata has no '{}' of '{}'",
                    FORMAT.0, FORMAT.1
                ),
            });
        }
        let tensors = tensors.into_iter().map(|(name, slice)| (name, Stored::File(slice)));
        let tensors = tensors.collect();
        Ok(Checkpoint { origin: path.display().to_string(), metadata, tensors })
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
        let own = self.tensors.iter().filter(|(name, _)| !name.starts_with(OPTIMIZER_PREFIX));
        let own = own.map(|(name, stored)| (name.clone(), stored.clone()));
        state::load(model, &own.collect(), &self.origin)
    }

    /// Whether there is an optimizer's state.
    pub fn has_optimizer(&self) -> bool {
        self.metadata.contains_key(OPTIMIZER)
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
        for (name, stored) in &self.tensors {
            let Some(name) = name.strip_prefix(OPTIMIZER_PREFIX) else { continue };
            let tensor =
                tensor_file::to_tensor(stored, &backend).ok_or_else(|| Error::TensorDtype {
                    origin: self.origin.clone(),
                    name: name.to_string(),
                    expected: "f32".to_string(),
                    got: stored.dtype().to_string(),
                })?;
            saved.tensors.insert(name.to_string(), tensor?);
        }
        optimizer.load_state(model, saved, &self.origin)
    }
}
