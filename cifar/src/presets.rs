//! Presets: recipes by name, as the TOML that a `--config` file would hold.

use anyhow::{Context, Result, bail};

use crate::config::Overrides;

/// A recipe.
pub struct Preset {
    /// What `--preset` calls it.
    pub name: &'static str,
    /// What it is for, in a line.
    pub about: &'static str,
    /// The settings, in TOML.
    pub toml: &'static str,
}

/// SGD with momentum 0.9 (fixed, unlike PyTorch's default for OneCycle), one cycle with a quarter
/// of warm-up.
macro_rules! one_cycle {
    ($model:literal, $epochs:literal, $lr:literal) => {
        concat!(
            "model = \"",
            $model,
            "\"\nepochs = ",
            $epochs,
            "\nlr = ",
            $lr,
            "\nbatch = 128\n",
            "optimizer = \"sgd\"\nmomentum = 0.9\nnesterov = true\nweight-decay = 5e-4\n",
            "schedule = \"onecycle\"\nwarmup = 0.25\ncycle-momentum = false\n",
            "label-smoothing = 0.1\nflip = true\ncrop = 4\nrotation = 0.0\n",
            "normalise = \"dataset\"\n",
        )
    };
}

/// The recipe of the guide: batch 64, flips and turns by up to 15 degrees, values in -1..1, SGD at
/// 0.1, a tenth of it every 30 epochs, label smoothing.
const GUIDE: &str = r#"
model = "simple-cnn"
epochs = 60
batch = 64
lr = 0.1
optimizer = "sgd"
momentum = 0.9
nesterov = false
weight-decay = 5e-4
schedule = "step"
step-epochs = 30
gamma = 0.1
label-smoothing = 0.1
flip = true
crop = 0
rotation = 15.0
normalise = "half"
"#;

/// `airbench94_muon` (Keller Jordan, <https://github.com/KellerJordan/cifar10-airbench>; the paper
/// is arXiv 2404.00498). Its loss is the sum over the batch of 2,000, ours the mean, so gradients
/// are 2,000 times smaller here and SGD's learning rates 2,000 times larger: 0.67 and 0.053 there.
/// Muon does not see the scale of gradients. A step at the highest rate decays the parameters of
/// SGD by 2e-6 for each of its images, there as here.
const SPEEDRUN: &str = r#"
model = "airbench94"
epochs = 8
batch = 2000
precision = "bf16"
optimizer = "muon"
lr = 0.24
momentum = 0.6
nesterov = true
newton-schulz = 3
head-lr = 1340.0
bias-lr = 106.0
sgd-momentum = 0.85
weight-decay = 4e-3
whiten-bias-epochs = 3
schedule = "linear"
label-smoothing = 0.2
flip = true
alternating-flip = true
crop = 2
padding = "reflect"
rotation = 0.0
normalise = "dataset"
tta = true
"#;

/// All presets. Those called like a model are what `--model` alone stands for.
pub const PRESETS: [Preset; 9] = [
    Preset {
        name: "quick",
        about: "a small CNN on the embedded set, in about a minute",
        toml: one_cycle!("simple-cnn-bn", 4, 0.05),
    },
    Preset {
        name: "guide",
        about: "the guide's SimpleCNN, augmentation, normalisation and StepLR",
        toml: GUIDE,
    },
    Preset {
        name: "simple-cnn",
        about: "the guide's SimpleCNN under one cycle, 20 epochs",
        toml: one_cycle!("simple-cnn", 20, 0.05),
    },
    Preset {
        name: "simple-cnn-bn",
        about: "SimpleCNN with batch norm, 20 epochs",
        // The guide offers dropout of 0.5 (§2.1) and of 0.3 (§5.1). In 20 epochs with crops and
        // label smoothing this model underfits: at 0.5 its training accuracy ends 3 points below
        // its test accuracy, and 0.3 gains 1.4 points.
        toml: concat!(one_cycle!("simple-cnn-bn", 20, 0.05), "dropout = 0.3\n"),
    },
    Preset {
        name: "simple-cnn-gap",
        about: "SimpleCNN with batch norm and global average pooling, 20 epochs",
        toml: one_cycle!("simple-cnn-gap", 20, 0.05),
    },
    Preset {
        name: "resnet20",
        about: "He et al.'s ResNet-20, 30 epochs",
        toml: one_cycle!("resnet20", 30, 0.2),
    },
    Preset {
        name: "resnet-guide",
        about: "the guide's ResNet (32-64-128), 30 epochs",
        toml: one_cycle!("resnet-guide", 30, 0.2),
    },
    Preset {
        name: "resnet18",
        about: "ResNet-18 with a 3x3 stem, 30 epochs",
        toml: one_cycle!("resnet18", 30, 0.1),
    },
    Preset {
        name: "speedrun",
        about: "airbench94 with Muon, 8 epochs: the most accuracy in little time",
        toml: SPEEDRUN,
    },
];

/// The settings of the preset called `name`.
pub fn preset(name: &str) -> Result<Overrides> {
    match PRESETS.iter().find(|p| p.name == name) {
        Some(preset) => {
            Overrides::parse(preset.toml).with_context(|| format!("in the preset {name}"))
        }
        None => {
            let names: Vec<&str> = PRESETS.iter().map(|p| p.name).collect();
            bail!("unknown preset '{name}': expected one of {}", names.join(", "))
        }
    }
}

/// What stands for no `--preset`: the preset of the model that was asked for, called like it or the
/// only one to train it; without a model, `quick` on the embedded set and `resnet20` on other data.
pub fn implied(given: &Overrides) -> Result<&'static str> {
    if let Some(model) = &given.model {
        crate::model::kind(model)?;
        if let Some(named) = PRESETS.iter().find(|p| p.name == model) {
            return Ok(named.name);
        }
        for p in &PRESETS {
            if preset(p.name)?.model.as_ref() == Some(model) {
                return Ok(p.name);
            }
        }
        return Ok("quick");
    }
    let synthetic = given.data.as_deref().is_none_or(|data| data == "synthetic");
    Ok(if synthetic { "quick" } else { "resnet20" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_a_valid_run() {
        for p in &PRESETS {
            preset(p.name).unwrap().resolve().unwrap();
        }
    }

    #[test]
    fn a_model_implies_its_preset() {
        let given = Overrides { model: Some("resnet18".into()), ..Default::default() };
        assert_eq!(implied(&given).unwrap(), "resnet18");
        let given = Overrides { model: Some("airbench94".into()), ..Default::default() };
        assert_eq!(implied(&given).unwrap(), "speedrun");
        assert_eq!(implied(&Overrides::default()).unwrap(), "quick");
        let given = Overrides { data: Some("/somewhere".into()), ..Default::default() };
        assert_eq!(implied(&given).unwrap(), "resnet20");
    }
}
