//! `cifar summary`: layers, shapes, parameters, multiply-adds, bytes.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use tilegrad_engine::{Dtype, reference};
use tilegrad_nn::{Checkpoint, Model, ModelConfig, Rng, Summary};

use crate::train::run_dir;
use crate::{model, outln};

/// Flags of `cifar summary`.
#[derive(clap::Args)]
pub struct Args {
    /// simple-cnn, simple-cnn-bn, simple-cnn-gap, resnet20, resnet-guide, resnet18 or
    /// airbench94
    #[arg(long, required_unless_present = "model_file", conflicts_with = "model_file")]
    model: Option<String>,
    /// The model in a checkpoint or in a run's directory
    #[arg(long, value_name = "CHECKPOINT")]
    model_file: Option<PathBuf>,
    /// Number of classes
    #[arg(long, value_name = "N", default_value_t = 10)]
    classes: usize,
    /// Height and width of the images
    #[arg(long, value_name = "PIXELS", default_value_t = 32)]
    image_size: usize,
    /// Images a batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
}

/// Prints the table.
pub fn run(args: Args) -> Result<()> {
    ensure!((1..=65_536).contains(&args.batch), "--batch must be 1 to 65536, got {}", args.batch);
    ensure!(args.classes <= 65_536, "--classes must be 1 to 65536, got {}", args.classes);
    let config = match (&args.model, &args.model_file) {
        (_, Some(path)) => Checkpoint::load(run_dir::checkpoint_in(path)?)?.model_config()?,
        (name, None) => ModelConfig {
            image_size: args.image_size,
            ..ModelConfig::new(model::kind(name.as_deref().unwrap_or_default())?, args.classes)
        },
    };
    // Nothing is computed: the plainest backend will do to hold the parameters.
    let model = Model::with_rng(&reference(), config, &mut Rng::zeros())?;
    outln!("{}", config.kind)?;
    outln!("{}", Summary::new(&model, &model.input_shape(args.batch), Dtype::F32)?)?;
    Ok(())
}
