//! The models: images `[N, H, W, C]` in, logits `[N, classes]` out. Parameter names are those of
//! the PyTorch models that `scripts/golden_names.py` defines.

mod airbench94;
mod resnet;
mod simple_cnn;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tilegrad_engine::{Backend, Error as EngineError, Result as EngineResult, Tensor};

use crate::error::{Error, Result};
use crate::init::Rng;
use crate::module::{Context, LayerRow, Module, Parameter};
use crate::sequential::Sequential;
use crate::whitening;

/// Which model. Written `simple-cnn`, `simple-cnn-bn`, `simple-cnn-gap`, `resnet20`,
/// `resnet-guide`, `resnet18`, `airbench94`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// The guide's two convolutions (32, 64), each with relu and 2x2 max pooling, and two linear
    /// layers.
    SimpleCnn,
    /// The same with batch normalisation after each convolution.
    SimpleCnnBn,
    /// The same features with batch normalisation, then global average pooling and one linear
    /// layer.
    SimpleCnnGap,
    /// He et al. 2016, §4.2, n = 3: widths 16-32-64, three blocks a stage, with 1x1 convolutions as
    /// shortcuts where shapes change.
    Resnet20,
    /// The guide's residual network: widths 32-64-128, three blocks a stage (20 layers).
    ResnetGuide,
    /// ResNet-18 with a 3x3 stem for small images: widths 64-128-256-512, two blocks a stage.
    Resnet18,
    /// Jordan 2024, arXiv 2404.00498: a frozen whitening convolution, six convolutions of widths
    /// 64-256-256, made to be trained in 8 epochs.
    Airbench94,
}

impl ModelKind {
    /// All kinds.
    pub const ALL: [ModelKind; 7] = [
        ModelKind::SimpleCnn,
        ModelKind::SimpleCnnBn,
        ModelKind::SimpleCnnGap,
        ModelKind::Resnet20,
        ModelKind::ResnetGuide,
        ModelKind::Resnet18,
        ModelKind::Airbench94,
    ];

    /// The name on command lines and in checkpoints.
    pub const fn name(self) -> &'static str {
        match self {
            ModelKind::SimpleCnn => "simple-cnn",
            ModelKind::SimpleCnnBn => "simple-cnn-bn",
            ModelKind::SimpleCnnGap => "simple-cnn-gap",
            ModelKind::Resnet20 => "resnet20",
            ModelKind::ResnetGuide => "resnet-guide",
            ModelKind::Resnet18 => "resnet18",
            ModelKind::Airbench94 => "airbench94",
        }
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ModelKind {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == s).ok_or_else(|| Error::UnknownModel {
            name: s.to_string(),
            expected: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// All that decides a model's structure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Which model.
    pub kind: ModelKind,
    /// Number of logits.
    pub classes: usize,
    /// Height and width of the images.
    pub image_size: usize,
    /// Channels of the images.
    pub channels: usize,
    /// Probability of dropout before the last linear layer, in [0, 1).
    pub dropout: f64,
}

impl ModelConfig {
    /// For CIFAR's 32 x 32 colour images; dropout as the guide has it: 0.5 in the two models with
    /// two linear layers, none in the others.
    pub fn new(kind: ModelKind, classes: usize) -> Self {
        let dropout = match kind {
            ModelKind::SimpleCnn | ModelKind::SimpleCnnBn => 0.5,
            _ => 0.0,
        };
        ModelConfig { kind, classes, image_size: 32, channels: 3, dropout }
    }

    /// Checks that a model can be made from it.
    pub fn validate(&self) -> EngineResult<()> {
        let wrong = |detail| Err(EngineError::argument("model", detail));
        let ModelConfig { kind, classes, image_size, channels, dropout } = *self;
        if classes == 0 || channels == 0 {
            return wrong(format!(
                "{kind} needs at least 1 class and 1 channel, got {classes} and {channels}"
            ));
        }
        // Poolings leave nothing of smaller images; residual networks take any size.
        let least = match kind {
            ModelKind::SimpleCnn | ModelKind::SimpleCnnBn | ModelKind::SimpleCnnGap => 4,
            ModelKind::Airbench94 => airbench94::LEAST_SIZE,
            _ => 1,
        };
        if !(least..=4096).contains(&image_size) {
            return wrong(format!(
                "{kind} takes images of {least} to 4096 pixels a side, got {image_size}"
            ));
        }
        if !(0.0..1.0).contains(&dropout) {
            return wrong(format!("dropout must be in [0, 1), got {dropout}"));
        }
        Ok(())
    }
}

/// A model with its configuration.
pub struct Model {
    config: ModelConfig,
    network: Sequential,
    flattened: Vec<(String, [usize; 3])>,
}

impl Model {
    /// f32 weights drawn from `seed`: those of residual convolutions by He et al.'s rule (normal,
    /// fan-out, as torchvision draws them), all others as PyTorch draws them by default.
    pub fn new(backend: &Arc<dyn Backend>, config: ModelConfig, seed: u64) -> EngineResult<Self> {
        Self::with_rng(backend, config, &mut Rng::new(seed))
    }

    /// Weights drawn from `rng`, of its dtype.
    pub fn with_rng(
        backend: &Arc<dyn Backend>,
        config: ModelConfig,
        rng: &mut Rng,
    ) -> EngineResult<Self> {
        config.validate()?;
        let mut flattened = Vec::new();
        let network = match config.kind {
            ModelKind::SimpleCnn | ModelKind::SimpleCnnBn => {
                flattened.push(simple_cnn::flattened(&config));
                simple_cnn::simple_cnn(backend, &config, rng)?
            }
            ModelKind::SimpleCnnGap => simple_cnn::simple_cnn_gap(backend, &config, rng)?,
            ModelKind::Resnet20 => resnet::resnet(backend, &config, &[16, 32, 64], 3, rng)?,
            ModelKind::ResnetGuide => resnet::resnet(backend, &config, &[32, 64, 128], 3, rng)?,
            ModelKind::Resnet18 => resnet::resnet(backend, &config, &[64, 128, 256, 512], 2, rng)?,
            ModelKind::Airbench94 => {
                flattened.push(airbench94::flattened(&config));
                airbench94::airbench94(backend, &config, rng)?
            }
        };
        Ok(Model { config, network, flattened })
    }

    /// Whether its first convolution is to be set by [`Model::whiten`].
    pub fn has_whitening(&self) -> bool {
        self.config.kind == ModelKind::Airbench94
    }

    /// Sets the filters of the model's whitening convolution, if it has one, from normalised
    /// `images` `[N, H, W, C]`: see [`crate::whitening`]; ε is airbench94's.
    pub fn whiten(&self, images: &Tensor) -> EngineResult<()> {
        const EPSILON: f64 = 5e-4;
        self.check_input(images.shape())?;
        if !self.has_whitening() {
            return Ok(());
        }
        let filters = whitening::filters(images, airbench94::WHITENING_KERNEL, EPSILON)?;
        let filters: Vec<f32> = filters.into_iter().map(|v| v as f32).collect();
        for (name, parameter) in self.parameters() {
            if name == "whiten.weight" {
                let old = parameter.get();
                let new = Tensor::from_slice(old.backend(), &filters, old.shape())?;
                parameter.set(new.to_dtype(old.dtype())?);
            }
        }
        Ok(())
    }

    /// What it was made from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Shape of a batch of `n` images.
    pub fn input_shape(&self, n: usize) -> [usize; 4] {
        [n, self.config.image_size, self.config.image_size, self.config.channels]
    }

    /// Number of trained elements.
    pub fn trained_elements(&self) -> usize {
        let trained = |(_, p): &(String, &Parameter)| p.role() != crate::Role::State;
        let sizes = self.parameters().into_iter().filter(trained);
        sizes.map(|(_, p)| tilegrad_kernels::elements(&p.shape())).sum()
    }

    /// See [`crate::fold_batch_norm`].
    pub(crate) fn fold(&self) -> EngineResult<Model> {
        let (config, flattened) = (self.config, self.flattened.clone());
        Ok(Model { config, network: self.network.fold()?, flattened })
    }

    fn check_input(&self, x: &[usize]) -> EngineResult<()> {
        if x.len() != 4 || x[1..] != self.input_shape(0)[1..] {
            let [_, h, w, c] = self.input_shape(0);
            let kind = self.config.kind;
            return Err(EngineError::shape(
                "model",
                format!("{kind} takes images [N, {h}, {w}, {c}] (channels last), got {x:?}"),
            ));
        }
        Ok(())
    }
}

impl Module for Model {
    fn kind(&self) -> &'static str {
        self.config.kind.name()
    }

    fn forward(&self, x: &Tensor, ctx: &mut Context) -> EngineResult<Tensor> {
        self.check_input(x.shape())?;
        let inner = ctx.precision().unwrap_or(x.dtype());
        self.network.forward(&x.to_dtype(inner)?, ctx)?.to_dtype(x.dtype())
    }

    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Parameter)) {
        self.network.visit(prefix, f);
    }

    fn describe(
        &self,
        name: &str,
        x: &[usize],
        rows: &mut Vec<LayerRow>,
    ) -> EngineResult<Vec<usize>> {
        self.check_input(x)?;
        self.network.describe(name, x, rows)
    }

    fn flattened(&self) -> Vec<(String, [usize; 3])> {
        self.flattened.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_in_text_and_in_json() {
        for kind in ModelKind::ALL {
            assert_eq!(kind.to_string().parse::<ModelKind>().unwrap(), kind);
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
        let error = "resnet50".parse::<ModelKind>().unwrap_err().to_string();
        assert!(error.contains("resnet50") && error.contains("resnet-guide"), "{error}");
    }

    #[test]
    fn impossible_configurations_are_refused() {
        let good = ModelConfig::new(ModelKind::SimpleCnn, 10);
        for (config, says) in [
            (ModelConfig { classes: 0, ..good }, "at least 1 class"),
            (ModelConfig { image_size: 3, ..good }, "4 to 4096 pixels a side, got 3"),
            (
                ModelConfig { image_size: 24, ..ModelConfig::new(ModelKind::Airbench94, 10) },
                "airbench94 takes images of 25 to 4096 pixels a side, got 24",
            ),
            (ModelConfig { dropout: 1.0, ..good }, "[0, 1)"),
            (ModelConfig { dropout: f64::NAN, ..good }, "[0, 1)"),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
