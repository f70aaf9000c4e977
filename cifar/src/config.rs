//! What a training run is: every setting once, as a flag, as a TOML key and as a resolved value.
//!
//! Precedence: preset < `--config` file < flags. [`Overrides`] is a partial configuration (any of
//! the three), [`Config`] a complete and checked one; `runs/NAME/config.toml` holds a [`Config`]
//! and can be given to `--config`.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tilegrad_nn::{ModelConfig, ModelKind};

use crate::augment::Padding;

/// Which optimizer updates the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// AdamW (Loshchilov and Hutter 2019), betas 0.9 and 0.999.
    #[value(name = "adamw")]
    #[serde(rename = "adamw")]
    AdamW,
    /// Muon (Jordan et al. 2024) on convolution filters; SGD, with the same `nesterov`, on all else.
    Muon,
}

/// How the learning rate moves during a run. `lr` is its highest value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// One cycle (Smith and Topin 2017): from lr/25 up over `warmup`, then down to lr/250,000,
    /// along cosines.
    #[value(name = "onecycle")]
    #[serde(rename = "onecycle")]
    OneCycle,
    /// Half a cosine from `lr` to `min-lr`.
    Cosine,
    /// Times `gamma` every `step-epochs` epochs.
    Step,
    /// Linear over `warmup`, then half a cosine to `min-lr`.
    WarmupCosine,
    /// In a straight line from `lr` to `min-lr`.
    Linear,
    /// Always `lr`.
    Constant,
}

/// Which mean and standard deviation images are normalised with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalisation {
    /// Those of each channel of the training images.
    Dataset,
    /// 0.5 and 0.5: pixel values become -1 to 1.
    Half,
}

/// Declares [`Overrides`] and [`Config`] from one list of settings.
macro_rules! settings {
    ($($(#[$meta:meta])* $name:ident: $type:ty = $default:expr;)*) => {
        /// Settings that were given somewhere: in a preset, in a file or as flags.
        #[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Overrides {
            $(
                $(#[$meta])*
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$type>,
            )*
        }

        /// Every setting of a run.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Config {
            $(
                #[doc = concat!("As the flag so called; `", stringify!($default), "` by default.")]
                pub $name: $type,
            )*
        }

        impl Overrides {
            /// These settings, and those of `base` where these say nothing.
            pub fn over(self, base: Overrides) -> Overrides {
                Overrides { $($name: self.$name.or(base.$name),)* }
            }

            /// All settings, by default where these say nothing, checked.
            pub fn resolve(mut self) -> Result<Config> {
                self.fill_in_dropout();
                let config = Config { $($name: self.$name.unwrap_or_else(|| $default),)* };
                config.check()?;
                Ok(config)
            }
        }
    };
}

settings! {
    /// Images to train on: a directory that `cifar data` can read, or `synthetic`, the embedded set
    #[arg(long, value_name = "DIR")]
    data: String = "synthetic".to_string();
    /// Training images of the embedded set
    #[arg(long, value_name = "N")]
    synthetic_train: usize = 10_000;
    /// Test images of the embedded set
    #[arg(long, value_name = "N")]
    synthetic_test: usize = 2_000;
    /// simple-cnn, simple-cnn-bn, simple-cnn-gap, resnet20, resnet-guide, resnet18 or airbench94
    #[arg(long)]
    model: String = DEFAULT_MODEL.to_string();
    /// Dropout before the model's last layer [default: the model's own, 0.5 or 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    dropout: f64 = 0.0;
    /// Passes over the training images
    #[arg(long, value_name = "N")]
    epochs: u32 = 20;
    /// Images a step
    #[arg(long, value_name = "N")]
    batch: usize = 128;
    /// Batches whose gradients are added up before the optimizer steps
    #[arg(long, value_name = "N")]
    accumulate: usize = 1;
    /// Learning rate, at its highest; with muon that of convolution filters
    #[arg(long, allow_negative_numbers = true)]
    lr: f64 = 0.05;
    /// Seed of all randomness: weights, order, augmentation, dropout
    #[arg(long, value_name = "N")]
    seed: u64 = 0;
    /// Device: cpu, cuda[:N], wgpu[:N], softcuda or reference [default: cuda where a GPU is, else cpu]
    #[arg(long)]
    device: String = crate::device::best().to_string();
    /// Number format of activations: f32, bf16, or f16, whose losses are scaled so that gradients do not
    /// become 0; weights, statistics and gradients of weights stay f32
    #[arg(long)]
    precision: String = "f32".to_string();
    /// Record the forward and backward pass once and replay it, where the device can (CUDA graphs): the same
    /// bits, with less work for the host
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    graph: bool = false;
    /// Optimizer
    #[arg(long, value_name = "NAME")]
    optimizer: OptimizerKind = OptimizerKind::Sgd;
    /// Momentum of SGD, or of muon
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    momentum: f64 = 0.9;
    /// Nesterov's form of momentum
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    nesterov: bool = true;
    /// Weight decay. With muon, where filters need none: the share of a parameter that a step at the
    /// highest learning rate takes off, whatever that rate is
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    weight_decay: f64 = 5e-4;
    /// Decay biases and batch-norm parameters too, as PyTorch does unless told otherwise
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    decay_all: bool = true;
    /// With muon: highest learning rate of linear weights
    #[arg(long, value_name = "LR", allow_negative_numbers = true)]
    head_lr: f64 = 0.05;
    /// With muon: highest learning rate of biases and batch-norm parameters
    #[arg(long, value_name = "LR", allow_negative_numbers = true)]
    bias_lr: f64 = 0.05;
    /// With muon: momentum of the parameters that SGD updates
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    sgd_momentum: f64 = 0.9;
    /// With muon: Newton-Schulz iterations a step
    #[arg(long, value_name = "N")]
    newton_schulz: usize = 5;
    /// With muon: epochs in which the bias of a whitening layer is trained, at a learning rate that
    /// falls to 0 in a straight line; after them it is frozen
    #[arg(long, value_name = "N")]
    whiten_bias_epochs: u32 = 3;
    /// Learning-rate schedule
    #[arg(long, value_name = "NAME")]
    schedule: ScheduleKind = ScheduleKind::OneCycle;
    /// Share of all steps during which the learning rate rises (onecycle, warmup-cosine)
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    warmup: f64 = 0.25;
    /// Epochs between the drops of the step schedule
    #[arg(long, value_name = "N")]
    step_epochs: u32 = 30;
    /// Factor of each drop of the step schedule
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    gamma: f64 = 0.1;
    /// Lowest learning rate of the cosine and linear schedules
    #[arg(long, value_name = "LR", allow_negative_numbers = true)]
    min_lr: f64 = 0.0;
    /// Let onecycle move the momentum between 0.85 and 0.95, against the learning rate
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    cycle_momentum: bool = false;
    /// Share of each target spread evenly over all classes
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    label_smoothing: f64 = 0.1;
    /// Mirror half of the training images
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    flip: bool = true;
    /// Toss the coin of --flip once an image, and turn it over each epoch
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    alternating_flip: bool = false;
    /// Pad training images by so many pixels, and cut a random window out again; 0: off
    #[arg(long, value_name = "PIXELS")]
    crop: usize = 4;
    /// What the padding of --crop is
    #[arg(long, value_name = "NAME")]
    padding: Padding = Padding::Zero;
    /// Turn training images by up to so many degrees; 0: off
    #[arg(long, value_name = "DEGREES", allow_negative_numbers = true)]
    rotation: f64 = 0.0;
    /// Mixup (Zhang et al. 2018) with this alpha; 0: off
    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true)]
    mixup: f64 = 0.0;
    /// CutMix (Yun et al. 2019) with this alpha; 0: off
    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true)]
    cutmix: f64 = 0.0;
    /// Mean and standard deviation of the normalisation
    #[arg(long, value_name = "NAME")]
    normalise: Normalisation = Normalisation::Dataset;
    /// Scale gradients down to this norm where theirs is larger; 0: off
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    clip_norm: f64 = 0.0;
    /// At the end of the run also measure the accuracy of the mean over six views of each test
    /// image: as it is and mirrored, in place and moved by a pixel
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    tta: bool = false;
    /// Stop after so many epochs without a better test accuracy; 0: never
    #[arg(long, value_name = "EPOCHS")]
    patience: u32 = 0;
    /// Save every so many steps, besides the end of each epoch; 0: only then
    #[arg(long, value_name = "STEPS")]
    save_every: u64 = 0;
    /// Threads that prepare batches
    #[arg(long, value_name = "N")]
    workers: usize = 1;
    /// Start from these weights: a checkpoint of this program, the directory of a run (its best
    /// weights), or a PyTorch state dict as safetensors
    #[arg(long, value_name = "FILE")]
    weights: String = String::new();
}

/// The model where none is named.
const DEFAULT_MODEL: &str = "simple-cnn-bn";

/// Settings that change how a run is executed but not its result: a resumed run may change them.
const EXECUTION: [&str; 3] = ["workers", "save-every", "data"];

/// Images the embedded set may have, a split.
pub const SYNTHETIC_LIMIT: usize = 1_000_000;

impl Overrides {
    /// Reads a TOML file.
    pub fn read(path: &Path) -> Result<Overrides> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        Self::parse(&text).map_err(|e| anyhow!("{}: {e}", path.display()))
    }

    /// Parses TOML.
    pub fn parse(text: &str) -> Result<Overrides> {
        toml::from_str(text).map_err(|e| {
            // The parser's message has several lines with a picture of the place; the line number
            // says as much.
            let line = e.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            let message = e.message().replace('\n', "; ");
            match line {
                Some(line) => anyhow!("line {line}: {message}"),
                None => anyhow!("{message}"),
            }
        })
    }

    /// No dropout given is the model's own, which [`ModelConfig`] knows.
    fn fill_in_dropout(&mut self) {
        let kind = self.model.as_deref().unwrap_or(DEFAULT_MODEL).parse::<ModelKind>();
        // An unknown model is refused by the checks.
        let own = || kind.ok().map(|kind| ModelConfig::new(kind, 1).dropout);
        self.dropout = self.dropout.or_else(own);
    }

    /// The first setting given here that would make a run differ from `config`, as (name, here,
    /// there).
    pub fn conflict(&self, config: &Config) -> Result<Option<(String, Value, Value)>> {
        let (given, there) = (as_map(self)?, as_map(config)?);
        Ok(given.into_iter().find_map(|(name, value)| {
            let other = there.get(&name).cloned().unwrap_or(Value::Null);
            (value != other && !EXECUTION.contains(&name.as_str())).then_some((name, value, other))
        }))
    }
}

fn as_map<T: Serialize>(value: &T) -> Result<Map<String, Value>> {
    match serde_json::to_value(value)? {
        Value::Object(map) => Ok(map),
        _ => bail!("a configuration must be a table"),
    }
}

impl Config {
    /// Refuses values that no run can have, naming the flag, the value and what would be right.
    fn check(&self) -> Result<()> {
        let finite = |flag: &str, value: f64, ok: bool, right: &str| {
            ensure!(value.is_finite() && ok, "--{flag} must be {right}, got {value}");
            Ok(())
        };
        ensure!(self.batch >= 1, "--batch must be at least 1, got 0");
        ensure!(self.batch <= 65_536, "--batch must be at most 65536, got {}", self.batch);
        ensure!(self.epochs >= 1, "--epochs must be at least 1, got 0");
        ensure!(self.epochs <= 1_000_000, "--epochs must be at most 1000000, got {}", self.epochs);
        ensure!(
            (1..=65_536).contains(&self.accumulate),
            "--accumulate must be 1 to 65536, got {}",
            self.accumulate
        );
        ensure!(self.step_epochs >= 1, "--step-epochs must be at least 1, got 0");
        ensure!(
            (1..=64).contains(&self.workers),
            "--workers must be 1 to 64, got {}",
            self.workers
        );
        for (flag, n) in
            [("synthetic-train", self.synthetic_train), ("synthetic-test", self.synthetic_test)]
        {
            ensure!(
                (1..=SYNTHETIC_LIMIT).contains(&n),
                "--{flag} must be 1 to {SYNTHETIC_LIMIT}, got {n}"
            );
        }
        finite("lr", self.lr, self.lr >= 0.0, "a number of at least 0")?;
        finite("min-lr", self.min_lr, (0.0..=self.lr).contains(&self.min_lr), "0 to --lr")?;
        finite("momentum", self.momentum, (0.0..1.0).contains(&self.momentum), "0 to below 1")?;
        let sgd_momentum = self.sgd_momentum;
        finite("sgd-momentum", sgd_momentum, (0.0..1.0).contains(&sgd_momentum), "0 to below 1")?;
        finite("weight-decay", self.weight_decay, self.weight_decay >= 0.0, "at least 0")?;
        finite("warmup", self.warmup, (0.0..1.0).contains(&self.warmup), "0 to below 1")?;
        finite("gamma", self.gamma, self.gamma > 0.0, "above 0")?;
        let smoothing = self.label_smoothing;
        finite("label-smoothing", smoothing, (0.0..=1.0).contains(&smoothing), "0 to 1")?;
        finite("rotation", self.rotation, (0.0..=180.0).contains(&self.rotation), "0 to 180")?;
        finite("mixup", self.mixup, self.mixup >= 0.0, "at least 0")?;
        finite("cutmix", self.cutmix, self.cutmix >= 0.0, "at least 0")?;
        finite("clip-norm", self.clip_norm, self.clip_norm >= 0.0, "at least 0")?;
        ensure!(self.crop <= 64, "--crop must be at most 64 pixels, got {}", self.crop);
        ensure!(
            (1..=100).contains(&self.newton_schulz),
            "--newton-schulz must be 1 to 100 iterations, got {}",
            self.newton_schulz
        );
        let muon = self.optimizer == OptimizerKind::Muon;
        for (flag, lr) in [("lr", self.lr), ("head-lr", self.head_lr), ("bias-lr", self.bias_lr)] {
            finite(flag, lr, lr >= 0.0, "a number of at least 0")?;
            finite(flag, lr, lr > 0.0 || !muon, "above 0 with muon")?;
        }
        let momenta = self.momentum > 0.0 && (self.sgd_momentum > 0.0 || !muon);
        ensure!(
            !self.nesterov || momenta || self.optimizer == OptimizerKind::AdamW,
            "--nesterov needs a momentum above 0; give --nesterov=false"
        );
        crate::device::precision("precision", &self.precision)?;
        ensure!(
            self.flip || !self.alternating_flip,
            "--alternating-flip says when images are mirrored, but --flip=false says never"
        );
        finite("dropout", self.dropout, (0.0..1.0).contains(&self.dropout), "0 to below 1")?;
        crate::device::check_name(&self.device)?;
        crate::model::kind(&self.model)?;
        Ok(())
    }

    /// As TOML, for `config.toml`.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(f: impl FnOnce(&mut Overrides)) -> Result<Config> {
        let mut overrides = Overrides::default();
        f(&mut overrides);
        overrides.resolve()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = with(|o| o.lr = Some(0.1 + 0.2)).unwrap();
        let read = Overrides::parse(&config.to_toml().unwrap()).unwrap();
        assert_eq!(read.conflict(&config).unwrap(), None);
        assert_eq!(read.resolve().unwrap(), config);
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_preset() {
        let preset =
            Overrides { lr: Some(1.0), epochs: Some(1), batch: Some(1), ..Default::default() };
        let file = Overrides { lr: Some(2.0), epochs: Some(2), ..Default::default() };
        let flags = Overrides { lr: Some(3.0), ..Default::default() };
        let config = flags.over(file.over(preset)).resolve().unwrap();
        assert_eq!((config.lr, config.epochs, config.batch), (3.0, 2, 1));
    }

    #[test]
    fn impossible_values_are_named() {
        let message = |f: fn(&mut Overrides)| with(f).unwrap_err().to_string();
        assert_eq!(message(|o| o.batch = Some(0)), "--batch must be at least 1, got 0");
        assert_eq!(message(|o| o.lr = Some(-1.0)), "--lr must be a number of at least 0, got -1");
        assert_eq!(
            message(|o| o.lr = Some(f64::NAN)),
            "--lr must be a number of at least 0, got NaN"
        );
        assert!(message(|o| o.momentum = Some(1.0)).starts_with("--momentum must be 0 to below 1"));
        assert!(message(|o| o.label_smoothing = Some(1.5)).starts_with("--label-smoothing"));
        assert!(message(|o| o.model = Some("vgg".into())).contains("vgg"));
        assert!(message(|o| o.device = Some("tpu".into())).contains("tpu"));
        let muon = |o: &mut Overrides| o.optimizer = Some(OptimizerKind::Muon);
        let error = with(|o| (muon(o), o.bias_lr = Some(0.0)).1).unwrap_err().to_string();
        assert_eq!(error, "--bias-lr must be above 0 with muon, got 0");
        assert!(message(|o| o.head_lr = Some(-1.0)).starts_with("--head-lr must be a number of"));
        assert!(message(|o| o.newton_schulz = Some(0)).contains("1 to 100 iterations, got 0"));
        let alternating = |o: &mut Overrides| o.alternating_flip = Some(true);
        let error = with(|o| (alternating(o), o.flip = Some(false)).1).unwrap_err().to_string();
        assert!(error.contains("--flip=false says never"), "{error}");
        assert!(message(|o| o.precision = Some("f64".into())).contains("f64"));
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line() {
        let error = Overrides::parse("epochs = 3\nlearning-rate = 0.1\n").unwrap_err().to_string();
        assert!(error.starts_with("line 2: unknown field `learning-rate`"), "{error}");
    }
}
