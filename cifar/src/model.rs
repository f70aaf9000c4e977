//! Models by name, and the checkpoints that hold them with all that is needed to use them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tilegrad_engine::{Backend, Tensor};
use tilegrad_nn::tensor_file::TensorFile;
use tilegrad_nn::{Checkpoint, Model, ModelConfig, ModelKind, Module, torch};

use crate::augment::Normalisation;
use crate::config::Config;
use crate::data::{Dataset, ImageBuffer};

/// Metadata entry with [`Meta`].
const META: &str = "cifar";

/// What a checkpoint says beside the model's structure and parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Version that wrote it.
    pub version: String,
    /// The model's name.
    pub model: String,
    /// Names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// Height and width of the images.
    pub image_size: usize,
    /// Mean of each channel that images are normalised with, of values in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel, likewise.
    pub std: [f32; 3],
    /// Fingerprints of the training and the test images.
    pub dataset: String,
    /// Finished epochs.
    pub epoch: u32,
    /// Optimizer steps.
    pub step: u64,
    /// Accuracy on the test images after the last finished epoch, 0 to 1.
    pub test_accuracy: Option<f64>,
    /// Loss on the test images after the last finished epoch.
    pub test_loss: Option<f64>,
}

impl Meta {
    /// For a model that shall be trained on `data`.
    pub fn new(model: &str, data: &Dataset, mean: [f32; 3], std: [f32; 3], dataset: &str) -> Meta {
        Meta {
            version: env!("CARGO_PKG_VERSION").to_string(),
            model: model.to_string(),
            classes: data.classes.clone(),
            image_size: data.size,
            mean,
            std,
            dataset: dataset.to_string(),
            epoch: 0,
            step: 0,
            test_accuracy: None,
            test_loss: None,
        }
    }

    /// Refuses images that this checkpoint is not for.
    pub fn check_data(&self, data: &Dataset, checkpoint: &Path, name: &str) -> Result<()> {
        let path = checkpoint.display();
        if data.size != self.image_size {
            let (here, there) = (self.image_size, data.size);
            bail!("{path} is for images of {here} pixels a side, but those of {name} have {there}");
        }
        if data.classes != self.classes {
            let (here, there) = (&self.classes, &data.classes);
            if here.len() != there.len() {
                bail!("{path} knows {} classes, but {name} has {}", here.len(), there.len());
            }
            let i = here.iter().zip(there).position(|(a, b)| a != b).unwrap_or(0);
            bail!(
                "{path} knows other classes than {name}: class {i} is '{}' here and '{}' there",
                here[i],
                there[i]
            );
        }
        Ok(())
    }
}

/// A model from a file.
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// What the file says of it.
    pub meta: Meta,
}

/// The kind of model called `name`.
pub fn kind(name: &str) -> Result<ModelKind> {
    Ok(name.parse::<ModelKind>()?)
}

/// The structure of the model called `name` for the images of `data`.
fn structure(name: &str, data: &Dataset) -> Result<ModelConfig> {
    let config = ModelConfig::new(kind(name)?, data.classes.len());
    Ok(ModelConfig { image_size: data.size, ..config })
}

/// The model that a run trains, with new weights drawn from its seed.
pub fn build(config: &Config, data: &Dataset, backend: &Arc<dyn Backend>) -> Result<Model> {
    let structure = ModelConfig { dropout: config.dropout, ..structure(&config.model, data)? };
    Ok(Model::new(backend, structure, config.seed)?)
}

/// Sets the filters of a model with a whitening layer from the first images of `data`, normalised.
pub fn whiten(model: &Model, data: &Dataset, mean: [f32; 3], std: [f32; 3]) -> Result<()> {
    /// As many as airbench94 takes.
    const IMAGES: usize = 5_000;
    let parameters = model.parameters();
    let (true, Some((_, first))) = (model.has_whitening(), parameters.first()) else {
        return Ok(());
    };
    let n = data.len().min(IMAGES);
    let mut images = vec![0.0; n * data.image_bytes()];
    let normalisation = Normalisation::new(mean, std);
    let mut buffer = ImageBuffer::default();
    for (i, out) in images.chunks_exact_mut(data.image_bytes()).enumerate() {
        normalisation.apply(data.image(i, &mut buffer)?, out);
    }
    let images = Tensor::from_slice(first.get().backend(), &images, &model.input_shape(n))?;
    Ok(model.whiten(&images)?)
}

/// A checkpoint of the model, to add to and to save.
pub fn checkpoint(model: &Model, meta: &Meta) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::of_model(model)?;
    checkpoint.set(META, meta)?;
    Ok(checkpoint)
}

/// What a checkpoint says beside the model. One that contradicts itself is refused here.
pub fn meta(checkpoint: &Checkpoint) -> Result<Meta> {
    let meta: Meta = checkpoint.get(META)?;
    let config = checkpoint.model_config()?;
    if meta.classes.len() != config.classes || meta.image_size != config.image_size {
        bail!(
            "the checkpoint contradicts itself: its model has {} classes and images of {} pixels, \
             its metadata {} and {}",
            config.classes,
            config.image_size,
            meta.classes.len(),
            meta.image_size
        );
    }
    check_normalisation(&meta)?;
    Ok(meta)
}

/// Means must be finite, deviations finite and positive.
fn check_normalisation(meta: &Meta) -> Result<()> {
    let finite = meta.mean.iter().chain(&meta.std).all(|v| v.is_finite());
    if !finite || meta.std.iter().any(|&std| std <= 0.0) {
        let (mean, std) = (meta.mean, meta.std);
        bail!("the checkpoint's mean {mean:?} must be finite and its deviation {std:?} positive");
    }
    Ok(())
}

/// Reads a checkpoint of this program.
pub fn open(path: &Path, backend: &Arc<dyn Backend>) -> Result<Loaded> {
    let checkpoint = Checkpoint::load(path)?;
    let meta = meta(&checkpoint)?;
    Ok(Loaded { model: checkpoint.build_model(backend)?, meta })
}

/// Writes a PyTorch state dict that [`open_torch`] reads back with all that is known about it.
pub fn save_torch(path: &Path, loaded: &Loaded) -> Result<()> {
    let meta = serde_json::to_string(&loaded.meta)?;
    Ok(torch::save(&loaded.model, path, BTreeMap::from([(META.to_string(), meta)]))?)
}

/// Reads a PyTorch state dict of a model trained on `train`. Its normalisation is what this program
/// wrote beside it, or else that of `train`.
pub fn open_torch(
    path: &Path,
    kind: ModelKind,
    train: &Dataset,
    backend: &Arc<dyn Backend>,
) -> Result<Loaded> {
    let model = Model::new(backend, structure(kind.name(), train)?, 0)?;
    torch::load(&model, path)?;
    let (mean, std) = train.mean_std()?;
    let mut meta = Meta::new(kind.name(), train, mean, std, &train.fingerprint()?);
    if let Some(text) = TensorFile::load(path)?.metadata.get(META) {
        let written: Meta = serde_json::from_str(text)
            .with_context(|| format!("{}: metadata '{META}'", path.display()))?;
        check_normalisation(&written)?;
        (meta.mean, meta.std) = (written.mean, written.std);
    }
    Ok(Loaded { model, meta })
}

/// Sets the parameters of `model` from a checkpoint of this program or from a PyTorch state dict.
pub fn load_weights(path: &Path, model: &Model) -> Result<()> {
    let format = TensorFile::load(path)?.metadata.remove("format");
    match format.is_some_and(|f| f.starts_with("tilegrad")) {
        true => Checkpoint::load(path)?.load_model(model)?,
        false => torch::load(model, path)?,
    }
    Ok(())
}
