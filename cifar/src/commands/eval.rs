//! `cifar eval`: a checkpoint's accuracy on test images.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use tilegrad_engine::Dtype;

use crate::data::{self, Dataset, Split};
use crate::device::{self, Compute};
use crate::loader::{Loader, LoaderOptions};
use crate::model::{self, Loaded};
use crate::train::evaluate::{Evaluation, Views, evaluate};
use crate::train::run_dir;
use crate::{outln, plots};

/// Flags of `cifar eval`.
#[derive(clap::Args)]
pub struct Args {
    /// Weights, or the directory of a run (its best weights)
    checkpoint: PathBuf,
    /// Directory of the data, or `synthetic`, the embedded set
    #[arg(long, value_name = "DIR", default_value = "synthetic")]
    data: String,
    /// Test images of the embedded set
    #[arg(long, value_name = "N", default_value_t = data::synthetic::TEST_IMAGES)]
    synthetic_test: usize,
    /// The checkpoint is a PyTorch state dict (as safetensors) of this model; images are normalised
    /// with the mean and deviation of the training images
    #[arg(long, value_name = "MODEL")]
    torch: Option<String>,
    /// Images a batch
    #[arg(long, value_name = "N", default_value_t = 128)]
    batch: usize,
    /// Classify by the mean over six views of each image: as it is and mirrored, in place and moved
    /// by a pixel
    #[arg(long)]
    tta: bool,
    /// Device: cpu, cuda[:N], wgpu[:N], softcuda or reference [default: cuda where a GPU is, else cpu]
    #[arg(long)]
    device: Option<String>,
    /// Number format of activations: f32, bf16 or f16
    #[arg(long, default_value = "f32")]
    precision: String,
    /// Threads of the CPU device [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// One JSON line with accuracy (0 to 1), loss and number of images
    #[arg(long)]
    json: bool,
    /// Also draw the confusion matrix, as a PNG
    #[arg(long, value_name = "FILE")]
    confusion: Option<PathBuf>,
}

/// Evaluates and prints.
pub fn run(args: Args) -> Result<()> {
    ensure!((1..=65_536).contains(&args.batch), "--batch must be 1 to 65536, got {}", args.batch);
    ensure!(
        (1..=1_000_000).contains(&args.synthetic_test),
        "--synthetic-test must be 1 to 1000000, got {}",
        args.synthetic_test
    );
    let precision = device::precision("precision", &args.precision)?;
    let compute = Compute::open_or_best(&args.device, args.threads)?;
    let path = run_dir::checkpoint_in(&args.checkpoint)?;
    let load = |split| match args.data.as_str() {
        "synthetic" => {
            let (train, test) = match split {
                Split::Train => data::synthetic::generate(data::synthetic::TRAIN_IMAGES, 1, 0),
                Split::Test => data::synthetic::generate(1, args.synthetic_test, 0),
            };
            Ok(if split == Split::Train { train } else { test })
        }
        dir => Dataset::load(Path::new(dir), split),
    };
    let loaded = match &args.torch {
        Some(name) => {
            let train = load(Split::Train)?;
            model::open_torch(&path, model::kind(name)?, &train, &compute.backend)?
        }
        None => model::open(&path, &compute.backend)?,
    };
    let test = load(Split::Test)?;
    loaded.meta.check_data(&test, &path, &args.data)?;
    let (loaded, evaluation) =
        compute.enter(|| measure(&compute, loaded, test, args.batch, precision, args.tta))?;
    if let Some(path) = &args.confusion {
        plots::confusion(path, &loaded.meta.classes, &evaluation.confusion)?;
    }
    if args.json {
        let line = serde_json::json!({
            "accuracy": evaluation.accuracy(),
            "loss": evaluation.loss,
            "images": evaluation.images,
        });
        outln!("{line}")?;
        return Ok(());
    }
    table(&loaded, &evaluation)
}

fn measure(
    compute: &Compute,
    loaded: Loaded,
    test: Dataset,
    batch: usize,
    precision: Dtype,
    tta: bool,
) -> Result<(Loaded, Evaluation)> {
    let options = LoaderOptions::evaluation(batch, loaded.meta.mean, loaded.meta.std, 1);
    let loader = Loader::new(Arc::new(test), options)?;
    let how = Views { precision, tta };
    let evaluation = evaluate(&loaded.model, &compute.backend, &loader, how, || false)?;
    let evaluation = evaluation.ok_or_else(|| anyhow::anyhow!("the evaluation was stopped"))?;
    Ok((loaded, evaluation))
}

fn table(loaded: &Loaded, evaluation: &Evaluation) -> Result<()> {
    let confusion = &evaluation.confusion;
    let names = &loaded.meta.classes;
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(8);
    outln!("{:width$}  {:>8}  {:>8}", "class", "images", "accuracy")?;
    for (class, name) in names.iter().enumerate() {
        let total = confusion.total(class);
        let share = match total {
            0 => "-".to_string(),
            _ => format!("{:.2} %", 100.0 * confusion.correct(class) as f64 / total as f64),
        };
        outln!("{name:width$}  {total:>8}  {share:>8}")?;
    }
    outln!(
        "{:width$}  {:>8}  {:>8}",
        "all",
        evaluation.images,
        format!("{:.2} %", 100.0 * evaluation.accuracy())
    )?;
    outln!("loss {:.4}, model {}", evaluation.loss, loaded.meta.model)?;
    Ok(())
}
